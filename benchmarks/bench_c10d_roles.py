"""The processes of ``bench_c10d``: servers and clients, told what to do in lines over pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Role:
    """A process that runs one function of this module and speaks lines."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, os.path.abspath(__file__), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )

    def say(self, *words: object) -> None:
        print(*words, file=self.process.stdin, flush=True)

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        return line.strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Server(Role):
    """``kind`` "ours" or "torch"; listens at ``port``."""

    def __init__(self, kind: str) -> None:
        super().__init__("serve", kind)
        self.port = int(self.hear())

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        tasks = f"/proc/{self.process.pid}/task"
        used = 0
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat") as file:
                used += int(file.read().split()[0])
        return used / 1e9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()


class Clients:
    """``count`` processes, each with one of torch's clients for each server that it is asked about."""

    def __init__(self, count: int) -> None:
        self.roles = [Role("client", number) for number in range(count)]
        for role in self.roles:
            assert role.hear() == "ready"

    def __len__(self) -> int:
        return len(self.roles)

    def start(self, operation: str, port: int, seconds: float) -> None:
        """Let all begin together, a moment from now."""
        begin = time.monotonic() + 0.05
        for role in self.roles:
            role.say(operation, port, begin, seconds)

    def finish(self) -> float:
        """Operations per second of all clients together."""
        return sum(float(role.hear()) for role in self.roles)

    def rate(self, operation: str, port: int, seconds: float) -> float:
        self.start(operation, port, seconds)
        return self.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for role in self.roles:
            role.end()


def latencies(
    clients: Clients, port: int, operation: str, servers: tuple[Server, Server], count: int
) -> tuple[list[float], list[float]]:
    """Seconds from a child's exit to its server's callback, for each, while the clients are at work at ``port``."""
    clients.start(operation, port, 0.3 + count * 0.2)
    time.sleep(0.2)
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for server, times in zip(servers, found, strict=True):
            server.say("child")
            times.append(float(server.hear()))
    clients.finish()
    return found


def serve_torch() -> None:
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    print(store.port, flush=True)
    signal.pause()


def serve_ours() -> None:
    """Serve; for each line, start a child that ends soon, and print how long its exit waited for us."""
    from rallypoint.c10d.server import WorkerStore
    from rallypoint.driver.loop import Loop
    from rallypoint.net import Listener, listen

    loop = Loop()
    store = WorkerStore(loop, print)
    listener = Listener(loop, listen("127.0.0.1", 0), store.adopt)

    def exited(pidfd: int, pipe: int) -> None:
        noticed = time.monotonic()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        # The child's last act was to write down the time.
        print(noticed - float(os.read(pipe, 64)), flush=True)
        os.close(pipe)

    def start() -> None:
        os.read(0, 64)
        code = "import os,time; time.sleep(0.02); os.write(1, str(time.monotonic()).encode()); os._exit(0)"
        read, write = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
        pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", code], os.environ, file_actions=actions)
        os.close(write)
        pidfd = os.pidfd_open(pid)
        loop.add_reader(pidfd, lambda: (exited(pidfd, read), os.waitpid(pid, 0)))

    loop.add_reader(0, start)
    print(listener.port, flush=True)
    while True:
        loop.turn()


def client(number: int) -> None:
    """For each line "operation port begin seconds": work, and print operations per second."""
    from torch.distributed import TCPStore

    stores: dict[int, TCPStore] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        operation, port, begin, seconds = line.split()
        if int(port) not in stores:
            stores[int(port)] = TCPStore("127.0.0.1", int(port), None, False, wait_for_workers=False)
        store = stores[int(port)]
        key = f"some/key/{number}"
        store.delete_key(key)
        call = {
            "set": lambda store=store, key=key: store.set(key, "some value"),
            "get": lambda store=store, key=key: store.get(key),
            "add": lambda store=store, key=key: store.add(key, 1),
        }[operation]
        if operation == "get":
            store.set(key, "some value")
        time.sleep(max(0.0, float(begin) - time.monotonic()))
        print(work(call, store.num_keys, float(seconds)), flush=True)


def work(call: object, settle: object, seconds: float) -> float:
    """Call again and again for some seconds; ``settle`` returns when the server has done it all."""
    start = time.monotonic()
    end = start + seconds
    done = 0
    while time.monotonic() < end:
        for _ in range(20):
            call()
        done += 20
    settle()
    return done / (time.monotonic() - start)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        client(int(sys.argv[2]))
    elif sys.argv[2] == "ours":
        serve_ours()
    else:
        serve_torch()
