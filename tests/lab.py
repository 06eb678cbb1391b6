"""For tests with real launchers: start them as processes, watch what they print, count what they leave behind."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import uuid
from pathlib import Path

RALLYRUN = [sys.executable, "-m", "rallypoint", "run"]
MARK = "RALLYPOINT_TEST_MARK"


def _slowness() -> float:
    """How much slower than an idle machine this one is now: the times that tests allow are scaled by it."""
    begin = time.monotonic()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    return max(1.0, (time.monotonic() - begin) / 3 / 0.03)


FACTOR = _slowness()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Launch:
    """One ``rallyrun`` as a process of its own session. Lines of both streams arrive in ``lines``.

    Every process that it starts carries a mark in its environment, by which ``alive`` finds it.
    Use as a context manager: whatever is still there at the end is killed.
    """

    def __init__(
        self, *args: str, env: dict[str, str] | None = None, command: list[str] | None = None, **popen: object
    ):
        self.mark = uuid.uuid4().hex
        base = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "TORCHELASTIC_", "SLURM_"))}
        self.lines: list[str] = []
        self.out: list[str] = []
        self._news = threading.Condition()
        environ = base | {"OMP_NUM_THREADS": "1", MARK: self.mark} | (env or {})
        streams = self._start([*(command or RALLYRUN), *map(str, args)], {"env": environ, **popen})
        self.pid = self.process.pid
        self._readers = [
            threading.Thread(target=self._read, args=(stream, own), daemon=True) for stream, own in streams
        ]
        for reader in self._readers:
            reader.start()

    def _start(self, argv: list[str], popen: dict) -> list[tuple]:
        """Start the process; return the streams to read, and whether each is standard output."""
        fixed = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
        options = {"stdin": subprocess.DEVNULL, "start_new_session": True} | fixed | popen
        self.process = subprocess.Popen(argv, **options)
        streams = ((self.process.stdout, True), (self.process.stderr, False))
        return [(stream, own) for stream, own in streams if stream]

    def _read(self, stream, own: bool) -> None:
        for line in stream:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                if own:
                    self.out.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, pattern: str, limit: float = 20.0, count: int = 1) -> list[str]:
        """Wait until ``count`` lines match; return them. Fails with all that was printed."""
        end = time.monotonic() + limit * FACTOR
        with self._news:
            while len(found := [line for line in self.lines if re.search(pattern, line)]) < count:
                left = end - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not any(r.is_alive() for r in self._readers)):
                    raise AssertionError(f"{count} x {pattern!r} did not come within {limit} s:\n{self.text}")
                self._news.wait(min(left, 0.2))
        return found

    def end(self, limit: float = 30.0) -> int:
        """Wait for the end and return the exit status."""
        try:
            code = self.process.wait(limit * FACTOR)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit} s:\n{self.text}") from None
        for reader in self._readers:
            reader.join(5)
        return code

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def alive(self) -> dict[int, str]:
        """Every live process (no zombie) below this launcher: pid -> command line. The launcher itself too."""
        return carriers(self.mark)

    def workers(self) -> dict[int, str]:
        """Live processes apart from the launcher, its guard, and interpreters that wait for a restart."""
        found = {p: c for p, c in self.alive().items() if p != self.pid and "proc/guard.py" not in c}
        return {p: c for p, c in found.items() if not is_parked(p)}

    def parked(self) -> list[int]:
        """The interpreters that wait for a restart."""
        return sorted(p for p in self.alive() if is_parked(p))

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_exc: object) -> None:
        # Again until nothing is found: a launcher may have been starting a worker at the first look.
        # (A frozen process stays until whoever froze it lets it go.)
        end = time.monotonic() + 5
        while (found := self.alive()) and time.monotonic() < end:
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()


class Terminal(Launch):
    """A launcher at a terminal of its own: ``type`` is its keyboard, ``lines`` its screen, the last one unfinished."""

    def _start(self, argv: list[str], popen: dict) -> list[tuple]:
        self._keyboard, line = os.openpty()
        options = {"stdin": line, "stdout": line, "stderr": line, "start_new_session": True} | popen
        take_terminal = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # noqa: E731
        self.process = subprocess.Popen(argv, preexec_fn=take_terminal, **options)
        os.close(line)
        return [(self._keyboard, True)]

    def _read(self, stream: int, _own: bool) -> None:
        screen = ""
        try:
            while piece := os.read(stream, 4096):
                screen += piece.decode(errors="replace").replace("\r\n", "\n")
                with self._news:
                    self.lines = self.out = screen.split("\n")
                    self._news.notify_all()
        except OSError:
            pass  # EIO: nobody has the other end any more

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())


def carriers(mark: str) -> dict[int, str]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if mark.encode() in (folder / "environ").read_bytes() and not is_zombie(int(folder.name)):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found[int(folder.name)] = command
            except OSError:
                continue
    return found


def is_parked(pid: int) -> bool:
    """Whether a process is an interpreter that still holds the socket on which it waits for a restart."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        found = re.search(rb"(?:^|\0)RALLYPOINT_PARKED=(\d+)", environ)
        return found is not None and os.readlink(f"/proc/{pid}/fd/{int(found[1])}").startswith("socket:")
    except OSError:
        return False


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(condition, limit: float = 10.0, what: str = "it"):
    """Return the first true value of ``condition()``; fails after ``limit`` seconds (scaled)."""
    end = time.monotonic() + limit * FACTOR
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {limit} s"
        time.sleep(0.01)
    return value


def script(folder: Path, text: str, name: str = "worker.py") -> str:
    """Write a worker program and return its path.

    It has ``json, os, signal, sys, time``; ``rank, world, count``; ``say``; and ``meet``, which waits for all.
    """
    path = folder / name
    head = (
        "import json, os, signal, sys, time\n"
        "rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "count = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "def say(*words): sys.stdout.write(' '.join(map(str, words)) + '\\n'); sys.stdout.flush()\n"
        "def meet():\n"
        "    here = os.path.dirname(os.path.abspath(__file__))\n"
        "    open(f'{here}/met.{count}.{rank}', 'w').close()\n"
        "    while not all(os.path.exists(f'{here}/met.{count}.{r}') for r in range(world)): time.sleep(0.005)\n"
    )
    path.write_text(head + text)
    return str(path)


def reports(launch: Launch) -> list[dict]:
    """The JSON messages of a launcher that was started with --log-format json."""
    found = []
    for line in launch.lines:
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found
