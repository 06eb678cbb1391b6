"""What every test gets. Its place makes ``lab`` importable, too."""

import os

import pytest


@pytest.fixture(autouse=True)
def environment():
    """Put the environment back: torch's API, and ours after it, leave variables in it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
