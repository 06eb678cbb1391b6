"""What runs inside the worker: standard library only, nothing else of Rallypoint."""

from __future__ import annotations

import os

from rallypoint.worker.progress import safe_point

__all__ = ["HOOK", "safe_point"]

HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")
"""The folder to put first into a worker's PYTHONPATH; see ``hook/sitecustomize.py``."""
