"""The worker hook: ``site`` imports it when a worker's interpreter starts, before the user's script.

The launcher starts a worker with this folder first in PYTHONPATH. The hook
 0. waits, if the launcher has parked this process (``proc/parking.py``), to be told that it is a worker;
 1. takes itself out of PYTHONPATH, ``sys.path`` and ``sys.modules``, so that the script and its child
    processes find everything as under plain ``python script.py``, the user's own ``sitecustomize`` included;
 2. has faulthandler write all stacks on a fatal signal, and on the signal RALLYPOINT_STACK_SIGNAL;
 3. writes an uncaught exception to TORCHELASTIC_ERROR_FILE, in torch's format.

Laws:
 - It never breaks the worker: what fails in here is left out.
 - It imports built-in modules only. Another one (json, traceback) could be the user's own file of that name.
 - Who wrote the error file first keeps it (torch's ``@record``, say), but the main thread's exception
   replaces one that the hook wrote for another thread: it is the one that ends the process.
 - Only the process that the launcher started writes; a forked child has its own parent to tell.
 - SystemExit and KeyboardInterrupt are a decision, not an error: the exit status tells them.
 - It must run on Python 3.8 (the worker's interpreter may be older than the launcher's), and it
   does without ``from __future__ import annotations``, which would import one more file.
"""

import _thread
import atexit
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], None]

FILE_LIMIT = 1 << 20
"""The most bytes of an error file; the middle of a longer text is left out."""
MESSAGE_LIMIT = FILE_LIMIT // 8
EMFILE = 24
QUIET = (SystemExit, KeyboardInterrupt)


def wait_parked(sock: int) -> None:
    """Wait for environment and standard streams of the worker that this process is to be; its end means: none."""
    import _socket

    here = _socket.socket(fileno=sock)
    try:
        size, rights, _, _ = here.recvmsg(8, _socket.CMSG_SPACE(12))
        content = b""
        while len(size) == 8 and len(content) < int.from_bytes(size, "little"):
            piece = here.recv(1 << 20)
            if not piece:
                os._exit(0)
            content += piece
    except (OSError, KeyboardInterrupt):
        os._exit(0)
    if not content or not rights:
        os._exit(0)
    handed = rights[0][2]
    for target in range(3):
        fd = int.from_bytes(handed[4 * target : 4 * target + 4], sys.byteorder)
        os.dup2(fd, target)
        os.close(fd)
    here.close()
    become(dict(entry.partition(b"=")[::2] for entry in content.split(b"\0") if entry))
    sys.modules.pop("_socket", None)


def become(environment: "dict[bytes, bytes]") -> None:
    """Make ``environment`` that of this process."""
    for name in set(os.environb) - set(environment):
        del os.environb[name]
    for name, value in environment.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


def preload(names: str) -> None:
    """Import modules while there is time; one that cannot be imported is the script's own affair."""
    for name in names.split(","):
        try:
            __import__(name)
        except BaseException:
            pass


def tidy() -> None:
    """Take every trace of the hook out of what the script and its child processes can see."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry.rstrip("/") != here]
    sys.path_importer_cache.pop(here, None)
    sys.modules.pop("sitecustomize", None)
    old = os.environ.pop("RALLYPOINT_PYTHONPATH", None)
    if old is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = old


def watch_faults(stack_signal: "str | None") -> None:
    """Have the stacks of all threads written to stderr on a fatal signal and on ``stack_signal``."""
    import faulthandler

    if sys.stderr is None:  # descriptor 2 may become anything: a checkpoint, for example
        return
    if not faulthandler.is_enabled():
        faulthandler.enable(all_threads=True)
    if stack_signal:
        faulthandler.register(int(stack_signal), all_threads=True, chain=False)


class Capture:
    """Stands in for ``sys.stderr`` and keeps what this thread writes; all else goes to the real one."""

    def __init__(self, real: "Any") -> None:
        self.real = real
        self._thread = _thread.get_ident()
        self.parts = []  # type: list[str] | None

    def write(self, text: str) -> int:
        if self.parts is not None and _thread.get_ident() == self._thread:
            self.parts.append(text)
        elif self.real is not None:
            self.real.write(text)
        return len(text)

    def flush(self) -> None:
        if self.real is not None and self.parts is None:
            self.real.flush()

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.real, name)

    def end(self) -> str:
        """Return what was kept; from now on everything goes to the real stream."""
        text = "".join(self.parts or ())
        self.parts = None
        return text


class Recorder:
    """Writes the error file at ``path``; ``display`` is the interpreter's own ``sys.excepthook``."""

    def __init__(self, path: str, display: "ExceptHook") -> None:
        self._path = os.path.abspath(path)
        self._display = display
        self._pid = os.getpid()
        self._thread_file = None  # type: tuple[int, ...] | None
        self._main_done = False

    def __repr__(self) -> str:
        return f"<Recorder of {self._path}, pid {self._pid}>"

    def main_failed(self, value: "BaseException") -> None:
        """Record the exception that ends the main thread, and so the process."""
        if not self._main_done:
            self._main_done = True
            self._record(type(value), value, value.__traceback__, None)

    def thread_failed(self, args: "Any") -> None:
        """Record an exception that ended another thread; ``args`` is what ``threading.excepthook`` gets."""
        name = getattr(args.thread, "name", "?")
        self._record(args.exc_type, args.exc_value, args.exc_traceback, name)

    def at_exit(self, ours: "ExceptHook") -> None:
        """Record what ended the main thread if the user's own ``sys.excepthook`` did not call ours."""
        value = getattr(sys, "last_value", None)
        if isinstance(value, BaseException) and getattr(sys, "excepthook", None) is not ours:
            self.main_failed(value)

    def _record(self, kind: "type[BaseException]", value: "Any", trace: "Any", thread: "str | None") -> None:
        try:
            if os.getpid() != self._pid or issubclass(kind, QUIET):
                return
            headline = f"{kind.__name__}: {text_of(value)}"
            stack = self._stack(kind, value, trace) or headline
            if thread is not None:
                stack = f"Exception in thread {thread}:\n{stack}"
            self._write(error_json(headline, stack, int(time.time())), main=thread is None)
        except BaseException:  # no disk, no memory, a signal: the worker's own end goes on
            pass

    def _stack(self, kind: "type[BaseException]", value: "Any", trace: "Any") -> str:
        """Return the traceback as Python prints it.

        Up to 3.12 the interpreter prints it without importing anything, so it is asked to print for
        us; from 3.13 on it imports ``traceback`` itself at this moment, and so do we (it may add colours).
        """
        if sys.version_info >= (3, 13):
            try:
                import traceback

                return "".join(traceback.format_exception(kind, value, trace))
            except Exception:  # the user's own traceback.py; no descriptor left
                pass
        capture = Capture(getattr(sys, "stderr", None))
        sys.stderr = capture
        try:
            self._display(kind, value, trace)
        finally:
            if getattr(sys, "stderr", None) is capture:
                sys.stderr = capture.real
        return capture.end()

    def _write(self, content: bytes, main: bool) -> None:
        """Put the file in place at once, whole; keep one that is there, unless it is our thread's."""
        scratch = f"{self._path}.{self._pid}.{_thread.get_ident()}"
        try:
            write_file(scratch, content, borrow_stdin=main)
            mine = signature(scratch)
            if main and self._thread_file is not None and signature(self._path) == self._thread_file:
                os.rename(scratch, self._path)
                return
            try:
                os.link(scratch, self._path)
            except FileExistsError:
                return
            except OSError:  # a file system without hard links
                if os.path.lexists(self._path):
                    return
                os.rename(scratch, self._path)
            if not main:
                self._thread_file = mine
        finally:
            try:
                os.unlink(scratch)
            except OSError:
                pass


def signature(path: str) -> "tuple[int, ...] | None":
    """Return what changes when somebody else writes the file; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def write_file(path: str, content: bytes, borrow_stdin: bool) -> None:
    """Create ``path`` for the user alone.

    "Too many open files" is a common last exception. With ``borrow_stdin`` (the process ends in any
    case) descriptor 0 makes room for the file then, and is /dev/null afterwards.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    borrowed = False
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno != EMFILE or not borrow_stdin or sys.__stdin__ is None:
            raise
        os.close(0)
        borrowed = True
        fd = os.open(path, flags, 0o600)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)
        if borrowed:
            os.open(os.devnull, os.O_RDONLY)


def text_of(value: "Any") -> str:
    """Return ``str(value)``, whatever the user's exception makes of it."""
    try:
        return str(value)
    except Exception as error:
        return f"<its text cannot be made: {type(error).__name__}>"


def error_json(headline: str, stack: str, timestamp: int) -> bytes:
    """Return torch's error file, in ASCII (its readers open it in the locale's encoding)."""
    message = quoted(headline, MESSAGE_LIMIT)
    stack = quoted(stack, FILE_LIMIT - MESSAGE_LIMIT - 1024)
    extra = f'{{"py_callstack": {stack}, "timestamp": "{timestamp}"}}'
    return f'{{"message": {{"message": {message}, "extraInfo": {extra}}}}}'.encode("ascii")


def quoted(text: str, limit: int) -> str:
    """Return ``text`` as a JSON string of about ``limit`` bytes at most, cut in the middle if need be."""
    if len(text) <= limit:
        pieces = escaped(text)
        if sum(map(len, pieces)) <= limit:
            return '"' + "".join(pieces) + '"'
    half = limit // 2
    first = fitting(escaped(text[:half]), half)
    last = fitting(escaped(text[-half:])[::-1], half)[::-1]
    left_out = f"\\n[... {len(text) - len(first) - len(last)} characters left out by rallypoint ...]\\n"
    return '"' + "".join(first) + left_out + "".join(last) + '"'


def escaped(text: str) -> "list[str]":
    """Return each character as JSON spells it in ASCII."""
    return [char if " " <= char <= "~" and char not in '"\\' else escape(char) for char in text]


def escape(char: str) -> str:
    """Return the JSON escape of one character: two units of UTF-16 if it needs them."""
    code = ord(char)
    if char in '"\\':
        return "\\" + char
    if code < 0x10000:
        return "\\n" if char == "\n" else f"\\u{code:04x}"
    return f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def fitting(pieces: "list[str]", room: int) -> "list[str]":
    """Return as many of the first ``pieces`` as have room."""
    for count, piece in enumerate(pieces):
        room -= len(piece)
        if room < 0:
            return pieces[:count]
    return pieces


def watch_main(recorder: Recorder) -> None:
    """Record before ``sys.excepthook`` prints; ``sys.excepthook is sys.__excepthook__`` stays as it was."""

    def watching(original: "ExceptHook") -> "ExceptHook":
        def excepthook(kind: "type[BaseException]", value: BaseException, trace: "Any", /) -> None:
            # The interpreter sets last_value before it ends; others may call the hook just to print.
            if getattr(sys, "last_value", recorder) is value:
                recorder.main_failed(value)
            original(kind, value, trace)

        named(excepthook, "sys", "excepthook")
        return excepthook

    plain = watching(sys.__excepthook__)
    ours = plain if sys.excepthook is sys.__excepthook__ else watching(sys.excepthook)
    sys.excepthook, sys.__excepthook__ = ours, plain
    # First registered, so last to run: the user may set sys.excepthook at any time.
    atexit.register(recorder.at_exit, ours)


def watch_threads(recorder: Recorder) -> None:
    """Record before the thread hook prints. ``threading`` takes its hook from ``_thread`` when first imported."""
    original = _thread._excepthook

    def excepthook(args: "Any", /) -> None:
        recorder.thread_failed(args)
        original(args)

    named(excepthook, "_thread", "_excepthook")
    _thread._excepthook = excepthook
    threading = sys.modules.get("threading")
    for name in ("excepthook", "__excepthook__"):
        if getattr(threading, name, None) is original:
            setattr(threading, name, excepthook)


def named(function: "Any", module: str, name: str) -> None:
    """Let ``function`` go by the name of what it replaces (pickle looks for it there)."""
    function.__module__ = module
    function.__name__ = function.__qualname__ = name


def install() -> None:
    """Put everything in place; what cannot be had is left out."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    stack_signal = os.environ.pop("RALLYPOINT_STACK_SIGNAL", None)
    try:
        watch_faults(stack_signal)
    except Exception:
        pass
    try:
        if path:
            recorder = Recorder(path, sys.__excepthook__)
            watch_main(recorder)
            watch_threads(recorder)
    except Exception:
        pass


parked = os.environ.pop("RALLYPOINT_PARKED", None)
if parked:
    early = os.environ.pop("RALLYPOINT_PRELOAD", None)
    if early:
        preload(early)
    wait_parked(int(parked))
tidy()
install()
# The user's or the distribution's own, or the same ModuleNotFoundError that site expects without one.
__import__("sitecustomize")
