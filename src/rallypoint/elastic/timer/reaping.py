"""End a process that has overstayed, its stacks written down first."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

from rallypoint.model.spec import STACK_SIGNAL
from rallypoint.proc import procfs
from rallypoint.proc.deadlines import STACK_TIME
from rallypoint.proc.launch import await_end


def offer_stacks() -> None:
    """Have this process write its stacks when it is asked to; the launcher's worker hook may have done so already."""
    if procfs.catches(os.getpid(), STACK_SIGNAL):
        return
    try:
        faulthandler.register(STACK_SIGNAL, file=sys.stderr, all_threads=True)
    except (OSError, ValueError, AttributeError, RuntimeError):  # no standard error with a descriptor
        faulthandler.register(STACK_SIGNAL, file=2, all_threads=True)


def reap(pid: int, number: int = signal.SIGKILL) -> bool:
    """Ask ``pid`` for its stacks, then send it signal ``number``. False: it may not be signalled.

    Waits for the stacks, a quarter of a second. A process that is gone already is a success.
    """
    process = procfs.read(pid)
    if process is None:
        return True
    try:
        fd = procfs.open_pidfd(process)
    except OSError:
        return procfs.read(pid) is None
    try:
        if procfs.catches(pid, STACK_SIGNAL):
            procfs.send(fd, STACK_SIGNAL)
            await_end(fd, STACK_TIME)
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    finally:
        os.close(fd)
    return True
