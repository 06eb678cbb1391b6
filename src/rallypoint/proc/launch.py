"""Start one process (posix_spawn: 0.5 ms however large the launcher is) and word what goes wrong."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals that Python ignores for itself, and those that a worker must be able to obey.

A shell ignores SIGINT and SIGQUIT for what it starts in the background, but the launcher passes them
on all the same. What else was ignored at start stays ignored (SIGHUP, by nohup).
"""

_WORDS = {
    errno.EAGAIN: "too many processes (EAGAIN): the user's limit (ulimit -u) or the cgroup's (pids.max) is reached",
    errno.ENOMEM: "out of memory (ENOMEM)",
    errno.EMFILE: "too many open files (EMFILE): raise ulimit -n",
    errno.ENFILE: "too many open files on this machine (ENFILE)",
    errno.E2BIG: "arguments and environment are too long (E2BIG)",
}


class StartError(Exception):
    """A process could not be started; the text says why."""


def start(
    path: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    stdio: tuple[int, int, int],
    blocked: Iterable[int] = (),
    fds: Sequence[int] = (),
) -> int:
    """Start ``path`` in a session of its own with only ``stdio`` open, and ``fds`` under their own numbers (above 2).

    Returns its pid. Raises OSError as exec would, ValueError for a NUL byte. ``blocked`` signals stay blocked in it.
    """
    sources = list(stdio)
    moved = []
    try:
        for target, fd in enumerate(stdio):
            if fd <= 2 and fd != target:  # it may be overwritten before its turn
                sources[target] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
                moved.append(sources[target])
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(sources)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds]  # takes close-on-exec off, in the child
        return os.posix_spawn(
            path,
            list(argv),
            env,
            file_actions=[*actions, *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited() if fd not in fds)],
            setsid=True,
            setsigmask=blocked,
            setsigdef=_DEFAULTED,
        )
    finally:
        for fd in moved:
            os.close(fd)


def start_command(
    argv: Sequence[str], env: Mapping[str, str], stdio: tuple[int, int, int], fds: Sequence[int] = ()
) -> int:
    """Like ``start``, looking for the program in the PATH of ``env``. Raises StartError."""
    path = _find(argv[0], env)
    try:
        return start(path, argv, env, stdio, fds=fds)
    except ValueError as error:
        raise StartError(f"{argv[0]!r}: {error}") from None
    except OSError as error:
        raise StartError(words(error, path)) from None


def words(error: OSError, path: str) -> str:
    """Say in one phrase why ``path`` could not be started."""
    if error.errno == errno.ENOENT and os.path.exists(path):
        return f"the interpreter that {path!r} names in its first line is missing"
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return f"no such file: {path!r}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return _not_executable(path)
    if error.errno == errno.ENOEXEC:
        return f"not executable: {path!r} is neither a program nor a script that starts with #!"
    return _WORDS.get(error.errno or 0, f"{path!r}: {error.strerror}")


def watch(pid: int) -> int:
    """Return a pidfd of our own child. If there can be none, end the child and raise OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def reap(pid: int) -> bool:
    """Take a dead child off the process table, if it is dead."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def await_end(pidfd: int, seconds: float) -> bool:
    """Wait up to ``seconds`` for the end of a process that was just killed."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _inherited() -> list[int]:
    """Return the descriptors above 2 that exec would hand on: what our own parent left open for us.

    Everything that Python opens is close-on-exec, so this list is nearly always empty. What lies beyond
    the limit of open files, lowered since, may not be named to posix_spawn: it is marked close-on-exec.
    """
    found = []
    limit = os.sysconf("SC_OPEN_MAX")
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                if 0 <= limit <= fd:
                    os.set_inheritable(fd, False)
                else:
                    found.append(fd)
        except OSError:  # the descriptor of this very listing
            pass
    return found


def _find(name: str, env: Mapping[str, str]) -> str:
    if not name:
        raise StartError("no such file: ''")
    if "/" in name:
        return name
    unusable = ""
    for folder in env.get("PATH", os.defpath).split(":"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
        if not unusable and os.path.exists(path):
            unusable = path
    if unusable:
        raise StartError(_not_executable(unusable))
    raise StartError(f"no such file: {name!r} (looked for in PATH)")


def _not_executable(path: str) -> str:
    return f"not executable: {path!r}" + (" is a directory" if os.path.isdir(path) else "")
