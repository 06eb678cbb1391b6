"""What runs inside the worker: standard library only, nothing else of Rallypoint."""

from __future__ import annotations

import os

HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")
"""The folder to put first into a worker's PYTHONPATH; see ``hook/sitecustomize.py``."""
