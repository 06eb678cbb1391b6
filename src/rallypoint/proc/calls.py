"""Workers whose program is a Python function: start them, and take what they return or raise.

What happens in the worker's process: ``worker/function.py``. What it is given: ``pack.py``.
"""

from __future__ import annotations

import os
import sys

from rallypoint.model.event import SpawnFailed
from rallypoint.model.result import Exit, WorkerError
from rallypoint.model.value import Value
from rallypoint.proc import launch
from rallypoint.proc.forkserver import ForkServer
from rallypoint.proc.pack import above_stdio, interpreter, open_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from rallypoint.model.event import Event
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.result import WorkerId
    from rallypoint.proc.pack import Packed
    from rallypoint.proc.processes import Processes


class Result(Value):
    """What came of one worker: its ``exit``, and what its function returned (``value``) or raised (``error``).

    ``error`` is the exception itself, if it could be brought over; its ``__cause__`` is the worker's
    traceback. ``exit.error`` says it in words. A value that cannot be read makes the exit a failure.
    """

    exit: Exit
    value: object = None
    error: BaseException | None = None


class WorkerTraceback(Exception):  # noqa: N818
    """The traceback of an exception as the worker printed it: the cause of the exception that is raised here."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Calls:
    """Starts the workers of one packed call through ``processes``, and gives their results.

    ``emit`` is told when a worker cannot be started. Use: ``spawn``, wait for Exited, ``result``; ``close``.

    A forked worker has all memory of this process as it is at that moment, and none of its other threads: a
    lock that one of them held stays locked. Of the descriptors it has those that were open at ``pack``. Use
    "fork" only for what no other way can do.
    """

    def __init__(self, reactor: Reactor, processes: Processes, packed: Packed, emit: Callable[[Event], None]) -> None:
        self._processes = processes
        self._packed = packed
        self._emit = emit
        self._results: dict[WorkerId, int] = {}
        self._server = ForkServer(reactor, processes, emit) if packed.call.start_method == "forkserver" else None

    def spawn(self, worker: WorkerId, env: Mapping[str, str], stdio: tuple[int, int, int]) -> None:
        """Start a worker in a session of its own. The caller keeps its descriptors. Ends as Spawned or SpawnFailed."""
        try:
            result = above_stdio(os.memfd_create("rallypoint", os.MFD_CLOEXEC))
        except OSError as error:
            self._emit(SpawnFailed(worker, launch.words(error, "memory for its result")))
            return
        self._results[worker] = result
        method = self._packed.call.start_method
        if method == "fork":
            self._fork(worker, env, stdio, result)
            return
        payload = self._packed.payload(worker.local_rank)
        if self._server is not None:
            fds = (*stdio, payload.fd, result)
            self._server.spawn(worker, env, fds, payload.fds, self._packed)
            return
        argv = interpreter("function", f"main({payload.fd}, {result})")
        self._processes.spawn(worker, argv, env, stdio, (payload.fd, result, *payload.fds))

    def result(self, worker: WorkerId, exit: Exit) -> Result:
        """Return what came of a worker that has ended, once; its memory is released."""
        fd = self._results.pop(worker, -1)
        if fd < 0:
            return Result(exit)
        try:
            return _read(fd, exit)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Release everything but the workers themselves."""
        while self._results:
            os.close(self._results.popitem()[1])
        if self._server is not None:
            self._server.close()

    def _fork(self, worker: WorkerId, env: Mapping[str, str], stdio: tuple[int, int, int], result: int) -> None:
        import importlib

        # The child leaves the launcher behind: from here on it is in the worker's rooms.
        function = importlib.import_module("rallypoint.worker.function")
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(writing)
            os.close(reading)
            self._emit(SpawnFailed(worker, launch.words(error, "fork")))
            return
        if pid == 0:
            _child(function, self._packed, worker, env, stdio, result, writing)
        os.close(writing)
        os.read(reading, 1)  # its session must exist before anybody signals it
        os.close(reading)
        self._processes.adopt(worker, pid)

    def __repr__(self) -> str:
        return f"<Calls of {self._packed!r}, {len(self._results)} results open>"


def _child(
    function: Any,
    packed: Packed,
    worker: WorkerId,
    env: Mapping[str, str],
    stdio: tuple[int, int, int],
    result: int,
    writing: int,
) -> None:
    """Be the worker; never returns, whatever happens."""
    try:
        os.setsid()
        sources = [above_stdio(os.dup(fd)) for fd in stdio]
        for target, source in enumerate(sources):
            os.dup2(source, target)
        os.write(writing, b"\0")
        kept = {0, 1, 2, result, *packed.kept}
        for fd in open_descriptors():
            if fd not in kept:
                try:
                    os.close(fd)
                except OSError:
                    pass  # the descriptor of the listing itself
        call = packed.call
        function.forked(lambda: (call.function, call.args[worker.local_rank]), result, env)
    finally:
        os._exit(1)


def _read(fd: int, exit: Exit) -> Result:
    import pickle

    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        tag = file.read(1)
        try:
            content: Any = pickle.load(file) if tag in {b"V", b"E"} else None
        except Exception as error:
            said = WorkerError(type(error).__name__, f"what the function returned cannot be read here: {error}")
            return Result(exit.replace(code=exit.code or 1, error=said), error=error)
    if tag == b"V":
        return Result(exit, content if exit.succeeded else None)
    if tag == b"E":
        return _raised(exit, content)
    return Result(exit)


def _raised(exit: Exit, content: Mapping[str, Any]) -> Result:
    import pickle

    said = WorkerError(content["type"], content["text"], content["traceback"])
    error = None
    if content["error"] is not None:
        try:
            error = pickle.loads(content["error"])
            error.__cause__ = WorkerTraceback(content["traceback"])
        except Exception:
            error = None  # its class is not here: the words are left
    return Result(exit.replace(error=exit.error or said), error=error)
