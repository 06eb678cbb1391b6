"""A worker whose program is a Python function: what runs in its process, from start to end.

``main`` is the whole program of a spawned worker, ``forked`` the rest of the life of a forked process.
What they are given and leave behind:

- The payload, a memory file: a pickled dictionary (see ``prepare``), then the pickled (function, arguments).
- The result, a memory file: one byte, "V" or "E", written when the rest is complete, then a pickle: the
  returned value; or what was raised: its type, text, traceback and, if it can be pickled, itself.

Memory files, so that a value of any size waits for nobody and a worker that dies while writing stops nobody.

The exit status is 0 if the function returned; 1, after the traceback on standard error and in
TORCHELASTIC_ERROR_FILE (torch's format), if it raised; what SystemExit says.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO, NoReturn

STARTING = "RALLYPOINT_STARTING"
"""Set to the worker's pid while it imports the main module, which must not start workers then."""
VALUE, ERROR = b"V", b"E"
TEXT_LIMIT = 1 << 18
"""Characters of a message or a traceback that go into an error file; the middle of a longer one is left out."""


def main(payload: int, result: int) -> NoReturn:
    """Run the function in ``payload`` and leave what comes of it in ``result`` (descriptors)."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(run(lambda: unpack(payload), result))


def run(load: Callable[[], tuple[Callable[..., object], tuple[object, ...]]], result: int) -> int:
    """Call what ``load`` returns, hand the outcome over, and return the exit status."""
    try:
        function, args = load()
        try:
            value = function(*args)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
            value = None
        hand_over(result, VALUE, value)
    except SystemExit as end:
        return exit_status(end)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        report(error, result)
        return 1
    return 0


def exit_status(end: SystemExit) -> int:
    """Return the status that the interpreter would end with; say what it would say."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)  # noqa: T201
    return 1


def unpack(payload: int) -> tuple[Callable[..., object], tuple[object, ...]]:
    """Make this process what the payload wants, and return the function and its arguments."""
    import pickle

    # By a file of its own: the descriptor's position is shared with the other workers.
    with open(f"/proc/self/fd/{payload}", "rb") as file:
        wanted = pickle.load(file)
        prepare(wanted)
        with inheriting(wanted.get("multiprocessing")):
            function, args = pickle.load(file)
    os.close(payload)
    return function, args


class inheriting:  # noqa: N801
    """While a payload with objects of ``multiprocessing`` is read, be what they take for a child of theirs."""

    def __init__(self, wanted: Mapping[str, Any] | None) -> None:
        self._wanted = wanted

    def __enter__(self) -> None:
        if self._wanted is None:
            return
        from multiprocessing import process, resource_tracker, set_start_method

        current: Any = process.current_process()
        current.authkey = self._wanted["authkey"]
        current._inheriting = True
        set_start_method(self._wanted["method"], force=True)
        if self._wanted["tracker"] is not None:
            tracker: Any = resource_tracker._resource_tracker
            tracker._fd = self._wanted["tracker"]

    def __exit__(self, *_exc: object) -> None:
        if self._wanted is not None:
            from multiprocessing import process

            del process.current_process()._inheriting  # type: ignore[attr-defined]


def prepare(wanted: Mapping[str, Any]) -> None:
    """Take over the launcher's ``sys.path`` and ``sys.argv``, and import its main module as ``__mp_main__``.

    As ``multiprocessing`` does: the code under ``if __name__ == "__main__"`` does not run again, and what is
    defined in the main module is found under both names.
    """
    sys.path[:] = wanted["path"]
    sys.argv[:] = wanted["argv"]
    name, path = wanted["main"]
    if "__mp_main__" in sys.modules or not (name or path):
        return
    import runpy
    import types

    os.environ[STARTING] = str(os.getpid())
    module = types.ModuleType("__mp_main__")
    try:
        if name:
            content = runpy.run_module(name, run_name="__mp_main__", alter_sys=True)
        else:
            content = runpy.run_path(path, run_name="__mp_main__")
    finally:
        del os.environ[STARTING]
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def hand_over(result: int, tag: bytes, content: object) -> None:
    """Write the outcome; the tag comes last, so that nobody takes a part of it for the whole."""
    import pickle

    try:
        write(result, lambda file: pickle.dump(content, file, pickle.HIGHEST_PROTOCOL))
    except (OSError, MemoryError):
        raise
    except Exception as error:
        try:
            write(result, lambda file: cloudpickle().dump(content, file))
        except ImportError:
            raise TypeError(f"the returned value cannot be pickled: {error}") from error
    os.pwrite(result, tag, 0)


def write(result: int, dump: Callable[[BinaryIO], None]) -> None:
    """Write behind the place of the tag."""
    os.ftruncate(result, 0)
    with open(result, "wb", closefd=False) as file:
        file.seek(1)
        dump(file)


def report(error: BaseException, result: int) -> None:
    """Tell the launcher, the error file and standard error what the function raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:  # our own frames
        trace = trace.tb_next
    error.__traceback__ = trace
    text = traceback_of(error)
    try:
        hand_over(result, ERROR, described(error, text))
    except Exception:  # no memory: the error file and standard error are left
        pass
    try:
        write_error_file(error, text)
    except Exception:  # no disk
        pass
    sys.excepthook(type(error), error, trace)


def described(error: BaseException, text: str) -> dict[str, Any]:
    """Return what was raised in words, with the object itself as far as it can be brought over."""
    return {"type": type(error).__name__, "text": text_of(error), "traceback": text, "error": pickled(error)}


def pickled(error: BaseException) -> bytes | None:
    """Return the exception as a pickle that has been read back once; many cannot be."""
    import pickle

    try:
        data = pickle.dumps(error)
        pickle.loads(data)
        return data
    except Exception:
        pass
    try:
        whole: bytes = cloudpickle().dumps(error)
        pickle.loads(whole)
        return whole
    except Exception:
        return None


def cloudpickle() -> Any:
    """Return the module, if it is installed where the worker runs. Raises ImportError."""
    import importlib

    return importlib.import_module("cloudpickle")


def traceback_of(error: BaseException) -> str:
    """Return the traceback as Python prints it."""
    import traceback

    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return f"{type(error).__name__}: {text_of(error)}\n"


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, whatever the user's exception makes of it."""
    try:
        return str(error)
    except Exception as problem:
        return f"<its text cannot be made: {type(problem).__name__}>"


def write_error_file(error: BaseException, text: str) -> None:
    """Write torch's error file, unless somebody (torch's ``@record``, say) has written one already."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path or os.path.exists(path):
        return
    import json
    import time

    extra = {"py_callstack": shortened(text), "timestamp": str(int(time.time()))}
    message = {"message": shortened(f"{type(error).__name__}: {text_of(error)}"), "extraInfo": extra}
    scratch = f"{path}.{os.getpid()}"
    with open(scratch, "x") as file:
        json.dump({"message": message}, file)
    os.rename(scratch, path)


def shortened(text: str) -> str:
    """Leave out the middle of a text that is too long."""
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out by rallypoint ...]\n{text[-half:]}"


# -- forked workers


def forked(
    load: Callable[[], tuple[Callable[..., object], tuple[object, ...]]],
    result: int,
    env: Mapping[str, str],
) -> NoReturn:
    """Be a worker until the end. Called in a fresh fork, in its own session, with descriptors 0, 1, 2 in place.

    Nothing of the process that forked it runs after this: neither ``finally`` nor ``atexit``.
    """
    import signal

    status = 1
    try:
        settle(env)
        status = run(load, result)
        finish()
    except KeyboardInterrupt as error:
        sys.excepthook(type(error), error, error.__traceback__)
        flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # as the interpreter does
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        flush()
        os._exit(status & 0xFF)


def settle(env: Mapping[str, str]) -> None:
    """Give a fork what a new process would have: environment, signals, streams, no exit handlers."""
    import atexit
    import faulthandler
    import gc
    import signal

    gc.freeze()  # what the parent left in memory must never be finalised here
    atexit._clear()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.environ.clear()
    os.environ.update(env)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stream(2)  # type: ignore[misc]
    sys.excepthook = sys.__excepthook__
    without_hook()
    faulthandler.enable(all_threads=True)
    if number_text := os.environ.pop("RALLYPOINT_STACK_SIGNAL", ""):
        faulthandler.register(int(number_text), all_threads=True, chain=False)


def stream(fd: int) -> Any:
    """Return a text stream that writes each line at once: the last words of a worker that is killed count."""
    return open(fd, "w", 1, errors="backslashreplace", closefd=False)


def without_hook() -> None:
    """Take the worker hook, which only a new interpreter would run, out of the environment again."""
    hook = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")
    if os.environ.get("PYTHONPATH", "").split(":")[0] != hook:
        return
    old = os.environ.pop("RALLYPOINT_PYTHONPATH", None)
    if old is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = old


def finish() -> None:
    """Do what the interpreter does at its end: wait for threads, run the exit handlers of the function."""
    import atexit

    threading: Any = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    atexit._run_exitfuncs()


def flush() -> None:
    """Write out what is left in the standard streams."""
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except Exception:
            pass
