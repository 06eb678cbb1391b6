"""What every test gets. Its place makes ``lab`` importable, too."""

import os
import signal

import pytest

# A shell ignores Ctrl-C for what it starts in the background, nohup ignores hang-ups: the programs under test do not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def environment():
    """Put the environment back: torch's API, and ours after it, leave variables in it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
