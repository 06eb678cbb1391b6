"""The program of a fork server: it imports what the workers need, and forks them on request."""

from __future__ import annotations

import os

from rallypoint.worker.function import forked, prepare, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn


def serve(control: int, payload: int) -> NoReturn:
    """Fork a worker for each message on ``control``; end when the launcher hangs up.

    A message carries the descriptors for 0, 1, 2, the payload, the result, the environment, and those
    that the payload refers to, whose numbers are in its text. Answered by the worker's pid. It is forked twice,
    so that it becomes the launcher's own child (the launcher is a "subreaper" meanwhile).
    """
    import pickle
    import socket

    sock = socket.socket(fileno=control)
    sock.set_inheritable(False)
    with open(f"/proc/self/fd/{payload}", "rb") as file:
        wanted = pickle.load(file)
    os.close(payload)
    preload(wanted)
    while True:
        text, fds, _, _ = socket.recv_fds(sock, 4096, 253)
        if not text:
            os._exit(0)
        pid = fork_twice(sock, fds, [int(number) for number in text.split()[1:]])
        for fd in fds:
            os.close(fd)
        sock.send(str(pid).encode())


def preload(wanted: Mapping[str, Any]) -> None:
    """Import what all workers need; whatever fails will fail again in the worker, and be told there."""
    try:
        prepare(wanted)
        for name in wanted["preload"]:
            if name != "__main__":
                __import__(name)
    except Exception:
        pass


def fork_twice(sock: socket.socket, fds: list[int], numbers: Sequence[int]) -> int:
    """Return the pid of the worker, 0 if there could be none."""
    reading, writing = os.pipe()
    try:
        middle = os.fork()
        if middle == 0:
            os.close(reading)
            _in_the_middle(sock, fds, numbers, writing)
    except OSError:
        os.close(writing)
        os.close(reading)
        return 0
    os.close(writing)
    os.waitpid(middle, 0)
    try:
        return int(os.read(reading, 32) or 0)
    finally:
        os.close(reading)


def _in_the_middle(sock: socket.socket, fds: list[int], numbers: Sequence[int], writing: int) -> NoReturn:
    try:
        if os.fork() == 0:
            os.setsid()
            os.write(writing, str(os.getpid()).encode())
            os.close(writing)
            sock.close()
            payload, result, env = place(fds, (0, 1, 2), numbers)
            content = environment(env)
            os.sched_setaffinity(0, content["cpus"])
            forked(lambda: unpack(payload), result, content["env"])
    finally:
        os._exit(0)


def place(fds: list[int], stdio: Sequence[int], numbers: Sequence[int]) -> list[int]:
    """Put descriptors where they belong: ``fds`` are those for ``stdio``, three to return, those for ``numbers``."""
    import fcntl

    free = max((*fds, *numbers)) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in fds]
    for fd in fds:
        os.close(fd)
    targets = (*stdio, *numbers)
    for source, target in zip((*moved[:3], *moved[6:]), targets, strict=True):
        os.dup2(source, target, inheritable=target in stdio)
        os.close(source)
    return moved[3:6]


def environment(fd: int) -> dict[str, Any]:
    """Read the worker's environment and the CPUs that the launcher has chosen for it."""
    import pickle

    with open(f"/proc/self/fd/{fd}", "rb") as file:
        content: dict[str, Any] = pickle.load(file)
    os.close(fd)
    return content
