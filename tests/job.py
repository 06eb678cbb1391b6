"""Several launchers of one run, as processes, whose workers write what happens to them into one journal."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from lab import FACTOR, Launch, free_port, reports, wait_until

HB = 3.0
"""Keep-alive time-out of every job here: one sign of life a second, the third that is missed counts."""
CONF = {"keep_alive_interval": 1, "keep_alive_max_attempt": 3}
NODES = "ABCDEFGH"

HEAD = """\
import json, os, signal, sys, time

rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
count, node = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), os.environ["NODE"]
master = os.environ["MASTER_ADDR"] + " " + os.environ["MASTER_PORT"]
code = int(os.environ.get("CODE", "1"))

def tell(event, **more):
    known = dict(event=event, node=node, rank=rank, world=world, local=local, count=count, master=master)
    line = json.dumps(known | dict(pid=os.getpid(), at=time.monotonic()) | more) + "\\n"
    journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(journal, line.encode())
    os.close(journal)

signal.signal(signal.SIGUSR1, lambda *_: sys.exit(code))
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))
"""
HOLD = """\
tell("start")
while True:
    signal.pause()
"""
"""A worker that runs until it is told to fail (SIGUSR1) or to succeed (SIGUSR2)."""


class Job:
    """The launchers of one run, by the names of their nodes: ``start("A")``. Whatever is left at the end is killed.

    ``program`` is the workers' (after HEAD), ``options`` are all nodes'. With ``static`` node A has rank 0.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        nnodes: str,
        program: str = HOLD,
        backend: str = "c10d",
        endpoint: str = "",
        **conf: object,
    ) -> None:
        self.endpoint = endpoint or f"127.0.0.1:{free_port()}"
        self.nodes: dict[str, Launch] = {}
        self.all: list[Launch] = []
        self._static = backend == "static"
        self._journal = folder / "journal"
        self._program = folder / "worker.py"
        self._program.write_text(HEAD + program)
        pairs = ",".join(f"{key}={value}" for key, value in (CONF | conf).items())
        self._options = [
            f"--nnodes={nnodes}",
            f"--rdzv-backend={backend}",
            f"--rdzv-endpoint={self.endpoint}",
            f"--rdzv-conf={pairs}",
            *options,
        ]

    def start(
        self, name: str, *options: str, env: dict[str, str] | None = None, after: tuple = (), **launch: object
    ) -> Launch:
        """Start the launcher of node ``name``; ``options`` come after those of all, ``after`` after the program."""
        place = [f"--node-rank={NODES.index(name)}"] if self._static else []
        env = {"NODE": name, "JOURNAL": str(self._journal)} | (env or {})
        args = [*self._options, *place, *options, str(self._program), *after]
        self.nodes[name] = Launch(*args, env=env, **launch)
        self.all.append(self.nodes[name])
        return self.nodes[name]

    def start_all(self, names: str, **launch: object) -> list[Launch]:
        return [self.start(name, **launch) for name in names]

    def events(self, event: str = "start", **fields: object) -> list[dict]:
        """What the workers told, oldest first: those events whose fields are as given."""
        text = self._journal.read_text() if self._journal.exists() else ""
        told = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [e for e in told if e["event"] == event and all(e[f] == v for f, v in fields.items())]

    def until(self, number: int, limit: float = 15.0, event: str = "start", **fields: object) -> list[dict]:
        """Wait for ``number`` such events, and return all there are."""

        def enough() -> list[dict]:
            found = self.events(event, **fields)
            alive = any(node.process.poll() is None for node in self.nodes.values())
            assert alive or len(found) >= number, "every launcher has ended"
            return found if len(found) >= number else []

        try:
            return wait_until(enough, limit, f"{number} x {event} {fields}")
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {self.events()}\n{self.told()}") from None

    def told(self) -> str:
        """What every launcher printed."""
        return "\n".join(f"--- {name} (ended: {n.process.poll()})\n{n.text}" for name, n in self.nodes.items())

    def poke(self, name: str, number: int = signal.SIGUSR1, local: int = 0) -> float:
        """Send a signal to the youngest worker of a node; return when."""
        pid = self.events(node=name, local=local)[-1]["pid"]
        at = time.monotonic()
        os.kill(pid, number)
        return at

    def finish(self, names: str) -> None:
        """Let all workers of these nodes succeed."""
        for name in names:
            for pid in {e["local"]: e["pid"] for e in self.events(node=name)}.values():
                os.kill(pid, signal.SIGUSR2)

    def host(self) -> str:
        """The node whose launcher listens at the endpoint."""
        return next(name for name, node in self.nodes.items() if self.endpoint in listening(node.pid))

    def ended(self, names: str, limit: float) -> list[int]:
        """Wait for the end of these launchers, at most ``limit`` seconds apart; return their exit statuses."""
        nodes = [self.nodes[name] for name in names]
        wait_until(lambda: any(n.process.poll() is not None for n in nodes), 30, f"the end of one of {names}")
        first = time.monotonic()
        wait_until(lambda: all(n.process.poll() is not None for n in nodes), 20, f"the end of all of {names}")
        within(time.monotonic() - first, limit, "ends apart")
        return [n.end() for n in nodes]

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_exc: object) -> None:
        for launch in self.all:
            launch.__exit__()


def outcome(launch: Launch) -> dict:
    """What a launcher with --log-format json says of the run's end."""
    return next(r["fields"]["outcome"] for r in reports(launch) if r["event"] == "finished")


def within(took: float, limit: float, what: str) -> None:
    """The time that ``what`` took is at most ``limit`` seconds (of an idle machine)."""
    print(f"{what}: {took:.2f} s of {limit:g}")
    assert took <= limit * FACTOR, f"{what}: {took:.2f} s, and {limit} s are allowed"


def listening(pid: int) -> set[str]:
    """The addresses at which a process listens, as "127.0.0.1:29400"; an IPv6 one as the kernel writes it."""
    held = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(os.readlink(fd))
        except OSError:
            continue
    tables = "".join(Path(f"/proc/{pid}/net/{kind}").read_text() for kind in ("tcp", "tcp6"))
    found = set()
    for fields in map(str.split, tables.splitlines()):
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
            address, port = fields[1].split(":")
            if len(address) == 8:
                address = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
            found.add(f"{address}:{int(port, 16)}")
    return found


def memory(pid: int) -> int:
    """Resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
