"""A process that forks workers on request, from a clean interpreter that has imported what they need."""

from __future__ import annotations

import _thread
import os
import signal
from collections import deque

from rallypoint.model.event import SpawnFailed
from rallypoint.proc import launch
from rallypoint.proc.pack import interpreter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from rallypoint.model.event import Event
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.result import WorkerId
    from rallypoint.proc.pack import Packed
    from rallypoint.proc.processes import Processes

_SET, _GET = 36, 37  # PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER


class Subreaper:
    """Makes this process the parent of orphans among its descendants while anybody needs it."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()  # contexts may live on several threads
        self._users = 0
        self._before = 0

    def enter(self) -> None:
        """Begin. Raises OSError if the kernel does not allow it."""
        import ctypes

        with self._lock:
            if self._users == 0:
                libc = ctypes.CDLL(None, use_errno=True)
                before = ctypes.c_int()
                libc.prctl(_GET, ctypes.byref(before), 0, 0, 0)
                if libc.prctl(_SET, 1, 0, 0, 0):
                    raise OSError(ctypes.get_errno(), "this process cannot be made a subreaper")
                self._before = before.value
            self._users += 1

    def leave(self) -> None:
        """End, if nobody else needs it."""
        import ctypes

        with self._lock:
            self._users -= 1
            if self._users == 0:
                ctypes.CDLL(None).prctl(_SET, self._before, 0, 0, 0)

    def __repr__(self) -> str:
        return f"<Subreaper for {self._users}>"


SUBREAPER = Subreaper()


class ForkServer:
    """A process that forks the workers, so that they start from a clean and warm interpreter.

    It ends when the launcher hangs up, or is gone. Workers are forked twice and thereby become our own
    children: while answers are awaited, this process adopts orphans among its descendants ("subreaper").
    A worker gets the CPUs to which this thread is bound when it asks for it. (No memory policy: by default
    the kernel takes memory from the node of the CPU that first writes to it.)
    """

    def __init__(self, reactor: Reactor, processes: Processes, emit: Callable[[Event], None]) -> None:
        self._reactor = reactor
        self._processes = processes
        self._emit = emit
        self._sock: socket.socket | None = None
        self._pid = 0
        self._waiting: deque[WorkerId] = deque()

    def spawn(
        self, worker: WorkerId, env: Mapping[str, str], fds: tuple[int, ...], numbers: tuple[int, ...], packed: Packed
    ) -> None:
        """Have a worker forked; ``fds`` become 0, 1, 2, the payload and the result, ``numbers`` keep their places."""
        import pickle
        import socket

        setting = -1
        try:
            sock = self._sock or self._start(packed)
            setting = os.memfd_create("rallypoint", os.MFD_CLOEXEC)
            with open(setting, "wb", closefd=False) as file:
                pickle.dump({"env": dict(env), "cpus": os.sched_getaffinity(0)}, file)
            if not self._waiting:
                SUBREAPER.enter()
            self._waiting.append(worker)
            text = " ".join(map(str, ("fork", *numbers)))
            socket.send_fds(sock, [text.encode()], [*fds, setting, *numbers])
        except (OSError, launch.StartError) as error:
            self._failed(f"the fork server cannot be reached: {error}", worker)
        finally:
            if setting >= 0:
                os.close(setting)

    def close(self) -> None:
        """End the server; workers go on."""
        if self._sock is not None:
            self._reactor.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None
            os.kill(self._pid, signal.SIGKILL)  # our unreaped child: the number is its own
            os.waitpid(self._pid, 0)
        if self._waiting:
            self._waiting.clear()
            SUBREAPER.leave()

    def _start(self, packed: Packed) -> socket.socket:
        import socket

        assert packed.preload is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            argv = interpreter("forkserver", f"serve({theirs.fileno()}, {packed.preload.fd})")
            fds = (theirs.fileno(), packed.preload.fd)
            self._pid = launch.start_command(argv, os.environ, (null, 1, 2), fds)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(null)
        self._sock = ours
        self._reactor.add_reader(ours.fileno(), self._answered)
        return ours

    def _answered(self) -> None:
        assert self._sock is not None
        try:
            answer = self._sock.recv(64)
        except OSError:
            answer = b""
        if not answer:
            self._lost()
            return
        worker = self._waiting.popleft()
        if not self._waiting:
            SUBREAPER.leave()
        if pid := int(answer):
            self._processes.adopt(worker, pid)
        else:
            self._emit(SpawnFailed(worker, "the fork server could not fork it"))

    def _lost(self) -> None:
        waiting = list(self._waiting)
        self.close()
        for worker in waiting:
            self._emit(SpawnFailed(worker, "the fork server has ended (see what it wrote on standard error)"))

    def _failed(self, words: str, worker: WorkerId) -> None:
        if worker in self._waiting:
            self._waiting.remove(worker)
            if not self._waiting:
                SUBREAPER.leave()
        self._emit(SpawnFailed(worker, words))

    def __repr__(self) -> str:
        return f"<ForkServer {f'pid {self._pid}' if self._sock else 'not running'}, {len(self._waiting)} awaited>"
