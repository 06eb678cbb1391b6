"""Pack a function and its arguments for the workers, before anything is started.

What pickle can do is pickled as ``multiprocessing`` does it, locks, queues and tensors included: what is
defined in the main module is found by importing that module in the worker. What it cannot (lambdas, closures,
functions of a notebook or of ``python -c``) is left to cloudpickle, if it is installed.
"""

from __future__ import annotations

import os
import sys

from rallypoint.model.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO

    from rallypoint.model.spec import Call

METHODS = ("spawn", "fork", "forkserver")
STARTING = "RALLYPOINT_STARTING"
"""As in ``worker/function.py``: set while a worker imports the main module."""
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where this package lies."""
_START = "import sys; sys.path.insert(0, {root!r}); from rallypoint.worker import {module}; {module}.{what}"
EXTRA = "rallypoint[functions] (cloudpickle)"


class Payload:
    """What a worker is given: a memory file, and the descriptors to which its content refers."""

    def __init__(self, fd: int, fds: tuple[int, ...]) -> None:
        self.fd = fd
        self.fds = fds

    def __repr__(self) -> str:
        return f"<Payload {os.fstat(self.fd).st_size} bytes, with {len(self.fds)} descriptors>"


class Packed:
    """A call, ready for the workers. Make it (``pack``) before the launcher opens anything; ``close`` it at the end.

    ``kept``: the descriptors that were open then, which a forked worker inherits.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.kept: frozenset[int] = frozenset()
        self.preload: Payload | None = None  # for a fork server
        self._payloads: dict[int, Payload] = {}  # by identity of the arguments
        self._closed = False

    def payload(self, local_rank: int) -> Payload:
        """Return the payload of a worker."""
        return self._payloads[id(self.call.args[local_rank])]

    def fill(self) -> None:
        """Pickle everything. Raises UsageError."""
        head = preparation(self.call.start_method)
        for args in self.call.args.values():
            if id(args) not in self._payloads:
                self._payloads[id(args)] = _packed(head, (self.call.function, args))
        if self.call.start_method == "forkserver":
            self.preload = Payload(_memory(lambda file: _plain(file, head | {"preload": _preloaded()}, [])), ())

    def close(self) -> None:
        """Release the memory; safe to call again."""
        for payload in (*self._payloads.values(), *([self.preload] if self.preload else ())):
            os.close(payload.fd)
        self._payloads.clear()
        self.preload = None

    def __enter__(self) -> Packed:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Packed {_name(self.call.function)} to {self.call.start_method}, {len(self._payloads)} payloads>"


def pack(call: Call) -> Packed:
    """Return ``call`` ready for its workers.

    Raises UsageError for an unknown start method and for what cannot be pickled; its ``__cause__`` is the
    pickler's own error. Raises RuntimeError when a worker's import of the main module comes here.
    """
    if call.start_method not in METHODS:
        raise UsageError("start_method", call.start_method, f"one of {', '.join(METHODS)}")
    if not callable(call.function):
        raise UsageError("entrypoint", call.function, "a function")
    if os.environ.get(STARTING) == str(os.getpid()):
        raise RuntimeError(
            "workers are to be started by the main module while a worker imports it: "
            'put what starts them under `if __name__ == "__main__":`'
        )
    # What workers return of the main module's own classes goes by this name.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    packed = Packed(call)
    if call.start_method == "fork":
        packed.kept = frozenset(open_descriptors())
        return packed
    try:
        packed.fill()
    except BaseException:
        packed.close()
        raise
    return packed


def open_descriptors() -> list[int]:
    """Return this process's open descriptors."""
    names = os.listdir("/proc/self/fd")
    return [int(name) for name in names]


def interpreter(module: str, what: str) -> list[str]:
    """Return the command of a fresh interpreter, with this one's options, that calls ``what`` of a worker's module."""
    import subprocess

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable or "", *flags, "-c", _START.format(root=ROOT, module=module, what=what)]


def above_stdio(fd: int) -> int:
    """Return ``fd``, or in its place a duplicate above 2 (a program may run with its standard streams closed)."""
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def preparation(method: str) -> dict[str, Any]:
    """Return what a worker must know before it can find the function."""
    head: dict[str, Any] = {"path": list(sys.path), "argv": list(sys.argv), "main": main_module()}
    if _multiprocessing():
        from multiprocessing import process, resource_tracker

        tracker: Any = resource_tracker._resource_tracker
        head["multiprocessing"] = {
            "authkey": bytes(process.current_process().authkey),
            "method": method,
            "tracker": tracker._fd,
        }
    return head


def main_module() -> tuple[str | None, str | None]:
    """Return name and path by which a worker can import the main module; one of them, or none (a notebook)."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return (None if name == "__main__" or name.endswith(".__main__") else name), None
    path = getattr(main, "__file__", None)
    if not path or os.path.basename(path) in {"ipython", "ipython3"} or not os.path.isfile(path):
        return None, None
    return None, os.path.abspath(path)


def _packed(head: Mapping[str, Any], content: tuple[Callable[..., object], tuple[object, ...]]) -> Payload:
    fds: list[int] = []

    def write(file: BinaryIO) -> None:
        _plain(file, head, fds)
        _plain(file, content, fds)

    try:
        fd = _memory(write)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        fd = _by_cloudpickle(head, content, fds, error)
    tracker = head.get("multiprocessing", {}).get("tracker")
    return Payload(fd, tuple(dict.fromkeys([*fds, *([tracker] if tracker is not None else [])])))


def _by_cloudpickle(head: Mapping[str, Any], content: tuple[Any, ...], fds: list[int], first: Exception) -> int:
    what = _name(content[0])
    fds.clear()
    try:
        cloudpickle: Any = __import__("cloudpickle")
    except ImportError:
        raise UsageError(
            "function", what, f"it and its arguments must be picklable ({first}); {EXTRA} can do more"
        ) from first

    # By value: the main module is not needed, so that this also works in a program without a guard.
    def write(file: BinaryIO) -> None:
        _plain(file, {**head, "main": (None, None)}, fds)
        _plain(file, content, fds, cloudpickle)

    try:
        return _memory(write)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        told = f"it and its arguments must be picklable, which cloudpickle cannot do either: {error}"
        raise UsageError("function", what, told) from first


def _memory(write: Callable[[BinaryIO], object]) -> int:
    fd = os.memfd_create("rallypoint", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            write(file)
    except BaseException:
        os.close(fd)
        raise
    return above_stdio(fd)


def _plain(file: BinaryIO, content: object, fds: list[int], cloudpickle: Any = None) -> None:
    """Pickle; ``fds`` gets the descriptors of what ``multiprocessing`` or torch hand on."""
    import pickle

    if not _multiprocessing():
        (_pickler(pickle.Pickler) if cloudpickle is None else cloudpickle.Pickler)(file, 5).dump(content)
        return
    from multiprocessing import context, popen_spawn_posix
    from multiprocessing.reduction import ForkingPickler

    class Starting:
        """Stands in for the process that ``multiprocessing`` believes to be starting."""

        DupFd = popen_spawn_posix._DupFd

        @staticmethod
        def duplicate_for_child(fd: int) -> int:
            fds.append(fd)
            return fd

    pickler: Any = (_pickler(ForkingPickler) if cloudpickle is None else cloudpickle.Pickler)(file, 5)
    if cloudpickle is not None:
        from collections import ChainMap

        reducers: Any = ForkingPickler
        pickler.dispatch_table = ChainMap(reducers._extra_reducers, pickler.dispatch_table)
    starting: Any = Starting
    context.set_spawning_popen(starting)
    try:
        pickler.dump(content)
    finally:
        context.set_spawning_popen(None)


def _pickler(base: Any) -> Any:
    """Return a pickler that refuses what a worker could not find again in a main module without a file."""
    if any(main_module()):
        return base
    import pickle

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (type, type(pack))) and getattr(obj, "__module__", "") in {"__main__", "__mp_main__"}:
                raise pickle.PicklingError(f"{_name(obj)} is defined in a main module that cannot be imported")
            return NotImplemented

    return Pickler


def _multiprocessing() -> bool:
    """Say whether the program uses ``multiprocessing``: only then its objects can be among the arguments."""
    return "multiprocessing.reduction" in sys.modules


def _preloaded() -> list[str]:
    """Return what the program has asked ``multiprocessing`` to import in fork servers."""
    module: Any = sys.modules.get("multiprocessing.forkserver")
    return list(module._forkserver._preload_modules) if module else []


def _name(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
