"""Read /proc: who is alive, and which processes belong to our workers.

Shared with ``guard.py``, which runs as a script: so this module imports nothing but the standard
library, nothing of Rallypoint.

A process belongs to a run if one of these holds:

1. it is in the session of a worker (each worker starts as the leader of its own session), or in one
   led by a process that was found to belong before;
2. its environment, as it was at its last exec, holds the run's mark in ``RALLYPOINT_MARK``;
3. one of its living ancestors belongs to the run.

So a descendant escapes only when it has left the session (setsid), and lost the mark (``env -i``,
or a program that writes over its environment), and its parent has ended (double fork): all three.
A process of another user escapes the mark, and the signal too, unless we are root.

``RALLYPOINT_MARK`` is a path of marks, outermost launcher first, joined by ":". A launcher within
a worker of another launcher gives its workers "outer:inner": the outer run finds them as its own
(it must, if the inner launcher is killed), the inner run finds only what it started.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping

MARK = "RALLYPOINT_MARK"


class Process:
    """One line of /proc/PID/stat. ``start`` is in clock ticks since boot: (pid, start) is unique."""

    __slots__ = ("pgid", "pid", "ppid", "sid", "start", "state", "threads")

    def __init__(self, stat: bytes) -> None:
        # The command's name, in parentheses, may hold anything: the fields start after the last one.
        state, ppid, pgid, sid, *rest = stat[stat.rindex(b") ") + 2 :].split(None, 20)
        self.pid = int(stat[: stat.index(b" ")])
        self.state = state.decode()
        self.ppid = int(ppid)
        self.pgid = int(pgid)
        self.sid = int(sid)
        self.threads = int(rest[13])
        self.start = int(rest[15])

    @property
    def alive(self) -> bool:
        """False for a zombie; but one whose main thread alone has ended still runs."""
        return self.state not in "ZX" or self.threads > 1

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.state} parent {self.ppid} session {self.sid} since tick {self.start}>"


def read(pid: int | str) -> Process | None:
    """Return the process, or None if there is no such process (any more)."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return Process(os.read(fd, 1024))
    except (OSError, ValueError):  # it went between the two calls: ESRCH, or nothing to read
        return None
    finally:
        os.close(fd)


def table(lowest: int = 0) -> dict[int, Process]:
    """Return all processes by pid, from pid ``lowest`` on. About 15 microseconds for each."""
    processes = (read(name) for name in os.listdir("/proc") if name.isdigit() and int(name) >= lowest)
    return {process.pid: process for process in processes if process is not None}


class PidClock:
    """Knows which pids can have been given out since it was made, so that a look need not read all of /proc.

    Pids rise, and start again from the bottom when the largest was given out.
    """

    def __init__(self) -> None:
        self._forks = _number("/proc/stat", b"\nprocesses ")
        self._largest = _number("/proc/sys/kernel/pid_max")

    def lowest(self, pid: int) -> int:
        """Return the lowest pid of what started after ``pid`` (which started as this clock was made)."""
        forks = _number("/proc/stat", b"\nprocesses ") - self._forks
        last = _number("/proc/loadavg", b"/", skip=1)
        return pid if 0 <= forks < self._largest // 2 and last >= pid else 0

    def __repr__(self) -> str:
        return f"<PidClock since fork {self._forks}>"


def _number(path: str, after: bytes = b"", skip: int = 0) -> int:
    """Return the word after ``after`` (and ``skip`` more words) as a number; 0 if there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        words = content[content.index(after) + len(after) :].split(None, skip + 1)
        return int(words[skip])
    except (OSError, ValueError, IndexError):
        return 0


def carries(pid: int, mark: str) -> bool:
    """Say whether the environment of ``pid`` holds ``mark``; False if we may not read it."""
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        content = b""
        while piece := os.read(fd, 1 << 17):
            content += piece
    except OSError:
        return False
    finally:
        os.close(fd)
    name = f"\0{MARK}=".encode()
    _, found, rest = (b"\0" + content).partition(name)
    return bool(found) and os.fsencode(mark) in rest.partition(b"\0")[0].split(b":")


def ancestors(processes: dict[int, Process], pid: int) -> set[int]:
    """Return ``pid`` and all its ancestors."""
    found: set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].ppid
    return found


def members(
    processes: dict[int, Process],
    sessions: Container[int],
    mark: str,
    *,
    spared: Container[int] = (),
    seen: Mapping[int, int] = {},
    since: int = 0,
) -> list[Process]:
    """Return the living processes that belong to the run (see the rules above).

    ``sessions`` are the workers' pids, ``seen`` (pid -> start) what was found before. ``spared``
    are never returned, nor reached through. Environments of processes older than ``since``
    (ticks) are not read: the mark cannot be there.
    """
    children: dict[int, list[int]] = {}
    found: set[int] = set()
    for pid, process in processes.items():
        children.setdefault(process.ppid, []).append(pid)
        if pid in spared:
            continue
        known = process.sid in sessions or seen.get(pid) == process.start or _led_by(seen, process.sid, processes)
        if known or (process.start >= since and process.alive and carries(pid, mark)):
            found.add(pid)
    unvisited = list(found)
    while unvisited:
        for child in children.get(unvisited.pop(), ()):
            if child not in found and child not in spared:
                found.add(child)
                unvisited.append(child)
    return [processes[pid] for pid in found if processes[pid].alive]


def _led_by(seen: Mapping[int, int], sid: int, processes: dict[int, Process]) -> bool:
    """Say whether a session is that of a process seen before; not if its number is somebody else's by now."""
    return sid in seen and (sid not in processes or processes[sid].start == seen[sid])


def open_pidfd(process: Process) -> int:
    """Return a pidfd of exactly this process. Raises ProcessLookupError if it is gone, OSError."""
    fd = os.pidfd_open(process.pid)
    now = read(process.pid)
    if now is None or now.start != process.start:  # the number belongs to somebody else by now
        os.close(fd)
        raise ProcessLookupError(process.pid)
    return fd


def send(fd: int, number: int) -> None:
    """Send a signal by pidfd; what is gone, or not ours to signal, is left alone."""
    try:
        signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        pass


class Hunt:
    """Kills processes so that no fork slips away: stop them all, look until all stand still, then kill.

    Killed one by one, a parent could die just after a fork that the last look did not show, and
    nothing would lead to its child any more.
    """

    TRIES = 20
    """Looks to wait for standstill: what cannot be stopped must not save the others."""

    def __init__(self, seen: dict[int, int]) -> None:
        self._seen = seen
        self._stopped: set[tuple[int, int]] = set()
        self._tries = 0

    def step(self, found: list[Process]) -> bool:
        """Take the result of one look. True: all were killed; False: look again in a few milliseconds."""
        moving = False
        for process in found:
            self._seen[process.pid] = process.start
            if (process.pid, process.start) not in self._stopped:
                self._stopped.add((process.pid, process.start))
                send_to(process, signal.SIGSTOP)
                moving = True
            moving = moving or process.state in "RS"
        self._tries += 1
        if moving and self._tries < self.TRIES:
            return False
        self._tries = 0
        for process in found:
            send_to(process, signal.SIGKILL)
        return True


def send_to(process: Process, number: int) -> None:
    """Send a signal to exactly this process, if it is still there and ours to signal."""
    try:
        fd = open_pidfd(process)
    except OSError:
        return
    send(fd, number)
    os.close(fd)


def catches(pid: int, number: int) -> bool:
    """Say whether ``pid`` has a handler for signal ``number``."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            _, found, rest = file.read().partition(b"SigCgt:")
    except OSError:
        return False
    return bool(found) and bool(int(rest.split(None, 1)[0], 16) >> (number - 1) & 1)
