"""Interpreters that wait: a worker's own command, started ahead of time, that stops before the script is opened.

While a round runs, one more process is started for each local rank with the same command and the worker hook
(``worker/hook``). The hook, told by RALLYPOINT_PARKED, waits on a socket. For the next round it is sent the worker's
environment and its three standard descriptors, and goes on as the worker. So a restart costs no interpreter's start,
and the worker is what ``python script.py`` is: the script is opened, and everything else done, after that.

Laws:
1. Nobody is parked before a worker with the same command has shown that it runs the hook: without the hook the
   parked process would be a second worker.
2. Whoever is parked ends when its socket does: with the launcher, or by ``close``.
3. Parking is a courtesy. Whatever goes wrong with it, the worker is started as always.

What is sent: the length of the environment (8 bytes, little-endian) with the three descriptors (SCM_RIGHTS), then the
environment: NAME=VALUE, NUL, and so on.
"""

from __future__ import annotations

import os
import signal
import socket
from array import array

from rallypoint.model.spec import STACK_SIGNAL
from rallypoint.proc import launch, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from rallypoint.model.reactor import Reactor, Timer

SOCKET = "RALLYPOINT_PARKED"
PRELOAD = "RALLYPOINT_PRELOAD"
PAUSE = 0.1
"""Seconds from a start to the first look whether the worker runs the hook; doubled for each further look."""
LOOKS = 7


class _Parked:
    """One that waits: its process, and our end of its socket."""

    __slots__ = ("argv", "clock", "pid", "sock")

    def __init__(self, pid: int, argv: Sequence[str], sock: socket.socket, clock: procfs.PidClock) -> None:
        self.pid = pid
        self.argv = tuple(argv)
        self.sock = sock
        self.clock = clock


class Parking:
    """The parked processes of one node, by local rank.

    ``place``: the context in which the worker of a local rank is to be started. ``preload``: modules that a parked
    process imports while it waits. ``pids`` is kept up to date, for who must spare (or guard) them.
    """

    def __init__(
        self,
        reactor: Reactor,
        place: Callable[[int], AbstractContextManager[None]],
        preload: Sequence[str],
        guard: Callable[[int, bool], None],
    ) -> None:
        self.pids: set[int] = set()
        self._reactor = reactor
        self._place = place
        self._preload = ",".join(preload)
        self._guard = guard
        self._parked: dict[int, _Parked] = {}
        self._seen: dict[int, tuple[int, tuple[str, ...], dict[str, str]]] = {}  # the last start of each local rank
        self._timer: Timer | None = None
        self._looks = 0

    def take(
        self, local_rank: int, argv: Sequence[str], env: Mapping[str, str], stdio: tuple[int, int, int]
    ) -> tuple[int, procfs.PidClock] | None:
        """Let the parked process of ``local_rank`` be the worker; return its pid and the clock of its start.

        None: there is none that will do, start the worker as always.
        """
        parked = self._parked.pop(local_rank, None)
        if parked is None:
            return None
        if parked.argv == tuple(argv) and _release(parked.sock, env, stdio):
            parked.sock.close()
            self.pids.discard(parked.pid)
            return parked.pid, parked.clock
        self._end(parked)
        return None

    def started(self, local_rank: int, pid: int, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """A worker runs; soon park one for its next start."""
        self._seen[local_rank] = (pid, tuple(argv), dict(env))
        self._looks = 0
        self._later()

    def close(self) -> None:
        """End all that wait."""
        if self._timer is not None:
            self._timer.cancel()
        for parked in self._parked.values():
            self._end(parked)
        self._parked.clear()

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.call_at(self._reactor.now() + PAUSE * 2**self._looks, self._park)

    def _park(self) -> None:
        """Park one for each worker that has shown the hook; look again for the others, a few times."""
        self._timer = None
        missing = False
        for local_rank, (pid, argv, env) in self._seen.items():
            if local_rank in self._parked:
                continue
            if procfs.catches(pid, STACK_SIGNAL):
                self._start(local_rank, argv, env)
            else:
                missing = True
        self._looks += 1
        if missing and self._looks < LOOKS:
            self._later()

    def _start(self, local_rank: int, argv: tuple[str, ...], env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        fd = theirs.fileno()
        told = env | {SOCKET: str(fd)} | ({PRELOAD: self._preload} if self._preload else {})
        clock = procfs.PidClock()
        try:
            with self._place(local_rank):
                pid = launch.start_command(argv, told, (null, null, null), (fd,))
        except launch.StartError:
            ours.close()
            return
        finally:
            theirs.close()
            os.close(null)
        self._guard(pid, True)
        self.pids.add(pid)
        self._parked[local_rank] = _Parked(pid, argv, ours, clock)

    def _end(self, parked: _Parked) -> None:
        """Kill and reap one that waits (it may have died before)."""
        parked.sock.close()
        try:
            os.kill(parked.pid, signal.SIGKILL)
            os.waitpid(parked.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # somebody else in this process has reaped it
        self.pids.discard(parked.pid)
        self._guard(parked.pid, False)

    def __repr__(self) -> str:
        return f"<Parking of {len(self._parked)}, {'to look again' if self._timer else 'at rest'}>"


def _release(sock: socket.socket, env: Mapping[str, str], stdio: tuple[int, int, int]) -> bool:
    """Send what the worker is to be; False if nobody waits at the other end."""
    content = b"".join(os.fsencode(f"{name}={value}\0") for name, value in env.items())
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", stdio))]
    try:
        sock.sendmsg([len(content).to_bytes(8, "little")], rights, socket.MSG_NOSIGNAL)
        # A parked interpreter reads at once; what does not fit into the socket's buffer waits for it a moment.
        sock.settimeout(1.0)
        sock.sendall(content)
    except OSError:
        return False
    return True
