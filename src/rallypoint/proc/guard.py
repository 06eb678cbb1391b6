"""The orphan guard: kills a run's workers and their descendants when the launcher is gone.

Run as a script, ``python -I -S guard.py FD MARK PARENT``, with the standard library alone, in a session of
its own, with all signals blocked. FD is the read end of a pipe that only the launcher writes
to: "+PID" for a worker started, "-PID" for one that is gone with all it left behind. The pipe's
end, or the end of PARENT, the launcher's pid, means that the launcher is gone, whatever ended it: SIGKILL,
a crash, a signal from the terminal. A launcher that ends in order kills its guard.

The guard then stops and kills all that belongs to the run, again and again, until two looks in a
row find nothing; usually within 50 ms. It gives up after 10 s: what is left then is in
uninterruptible sleep and has SIGKILL pending.

How far this reaches (see ``procfs.py``): any command, whatever signals it ignores; descendants in
other process groups; descendants in other sessions, as long as they kept the environment variable
or an ancestor that belongs to the run. What escapes: a process that did setsid and lost the variable
and whose parent has ended (``env -i setsid daemon &``); a setuid program that another user owns.
If launcher and guard are killed at the same moment, nobody is left to act; nor is anybody there in
the first 20 ms or so after the first worker's start.
"""

from __future__ import annotations

import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rallypoint.proc import procfs
else:
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    import procfs

PATIENCE = 10.0
"""Seconds after which the guard gives up."""
PAUSE = 0.005
"""Seconds between two looks: time for what was signalled to stop or end."""


def watch(fd: int, launcher: int) -> set[int]:
    """Return the pids of the workers that were there when the launcher went."""
    workers: set[int] = set()
    rest = b""
    parent = _open(launcher)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if parent >= 0:
        poll.register(parent, select.POLLIN)
    while True:
        ready = dict(poll.poll(None if parent >= 0 else 0))
        if fd not in ready:
            return workers
        piece = os.read(fd, 65536)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            (workers.add if line[:1] == b"+" else workers.discard)(int(line[1:]))
        if not piece:
            return workers


def _open(launcher: int) -> int:
    """Return a pidfd of the launcher, -1 if it is gone already.

    The pipe alone would not do: a forked child of the launcher may hold it open.
    """
    try:
        fd = os.pidfd_open(launcher)
    except OSError:
        return -1
    return fd if os.getppid() == launcher else -1


def end(workers: set[int], mark: str) -> None:
    """Kill all that belongs to the run until two looks in a row find nothing."""
    give_up = time.monotonic() + PATIENCE
    seen: dict[int, int] = {}
    hunt = procfs.Hunt(seen)
    clean = 0
    while clean < 2 and time.monotonic() < give_up:
        found = procfs.members(procfs.table(), workers, mark, spared=(os.getpid(),), seen=seen)
        clean = 0 if found else clean + 1
        hunt.step(found)
        if clean < 2:
            time.sleep(PAUSE)


def main() -> None:
    """Watch, then end what is left."""
    os.chdir("/")  # an idle guard must not keep a file system busy
    fd, mark, launcher = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    end(watch(fd, launcher), mark)


if __name__ == "__main__":
    main()
