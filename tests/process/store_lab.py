"""What the tests of the store over TCP share: a host with clients on one loop, and nodes as processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

from rallypoint.driver.loop import Loop
from rallypoint.net import listen
from rallypoint.store.client import Member, TcpStore
from rallypoint.store.front import Front
from rallypoint.store.memory import MemoryStore
from rallypoint.store.tcp import Host, open_tcp

HERE = "127.0.0.1"


class TcpLab:
    """A host at a free port, and clients of it, all on one loop."""

    def __init__(self, host=HERE, only_run="run", ttl=5.0, interval=0.5):
        self.at, self.only_run, self.ttl, self.interval = host, only_run, ttl, interval
        self.warnings = []
        self.stores = []

    def __enter__(self):
        self.loop = Loop()
        self.host = self.new_host(0)
        return self

    def __exit__(self, *_exc):
        for store in self.stores:
            store.close()
        self.shut()
        left = [*self.loop._readers, *self.loop._writers]
        timers = [t for t in self.loop._timers if t.call]
        self.loop.close()
        assert left == [self.loop._wake_read], "a descriptor was left registered"
        assert not timers, "a timer was left behind"

    def shut(self):
        self.host.close()

    def new_host(self, port):
        return Host(self.loop, listen(self.at, port), self.only_run, self.warnings.append)

    def client(self, watcher, port=None, node="n", run="run", **more):
        member = Member(run, node, self.ttl, self.interval, **more)
        store = TcpStore(self.loop, watcher, self.at, self.host.port if port is None else port, member)
        self.stores.append(store)
        return store

    def open(self, watcher):
        return self.client(watcher, node=f"n{len(self.stores)}")

    def lose(self, store):
        store._link._ended = True
        store._link._release()
        Front.close(store)

    def run_until(self, done, limit):
        return self.loop.run_until(done, limit)

    def until(self, done, limit=10.0):
        assert self.loop.run_until(done, limit), f"not within {limit} s; warnings: {self.warnings}"

    def sockets(self, count):
        return [socket.create_connection((self.at, self.host.port)) for _ in range(count)]


class MixedLab(TcpLab):
    """As the hosting agent sees it: every other node sits in the host's own process."""

    def open(self, watcher):
        if len(self.stores) % 2:
            return super().open(watcher)
        store = MemoryStore(self.loop, watcher, self.host.hub, run_id="run", node=f"n{len(self.stores)}")
        self.stores.append(store)
        return store

    def lose(self, store):
        if isinstance(store, MemoryStore):
            store.lose()
        else:
            super().lose(store)


NODE = """
import json, sys
from rallypoint.driver.loop import Loop
from rallypoint.store.client import Member, TcpStore
from rallypoint.testing.check_store import Notes

port, name, ttl, interval = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4])

class Told(list):
    def append(self, note):
        print(json.dumps(note), flush=True)
        if note[0] == "up":
            store.lease("nodes/" + name, ttl, name, lambda reply: print(json.dumps(["leased", reply.ok]), flush=True))

notes = Notes()
notes.told = Told()
loop = Loop()
store = TcpStore(loop, notes, "127.0.0.1", port, Member("run", name, ttl, interval))
loop.add_reader(0, lambda: sys.exit(0))
while True:
    loop.turn()
"""

SERVER = """
import sys
from rallypoint.driver.loop import Loop
from rallypoint.store.tcp import serve

loop = Loop()
host = serve(loop, "127.0.0.1", int(sys.argv[1]), lambda text: print(text, flush=True))
print(host.port, flush=True)
loop.add_reader(0, lambda: sys.exit(0))
while True:
    loop.turn()
"""


class Process:
    """A child whose lines are facts on the loop; it ends with its standard input, and is killed at the end."""

    def __init__(self, lab_loop, code, *args):
        self.loop = lab_loop
        self.lines = []
        self._rest = b""
        command = [sys.executable, "-c", code, *map(str, args)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.fd = self.child.stdout.fileno()
        self.loop.add_reader(self.fd, self._read)

    def _read(self):
        data = os.read(self.fd, 65536)
        if not data:
            self.loop.remove_reader(self.fd)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.lines += [line.decode() for line in lines]

    def told(self, kind):
        return [note for line in self.lines if (note := json.loads(line))[0] == kind]

    def signal(self, number):
        os.kill(self.child.pid, number)

    def end(self):
        self.loop.remove_reader(self.fd)
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()


@contextmanager
def process(loop, code, *args):
    child = Process(loop, code, *args)
    try:
        yield child
    finally:
        child.end()


def open_one(lab, notes, port=0, run="run", is_host=None, elastic=True, **more):
    store = open_tcp(
        lab.loop, notes, lab.at, port, run, "n", ttl=lab.ttl, keep_alive_interval=lab.interval,
        is_host=is_host, warn=lab.warnings.append, elastic=elastic, **more,
    )  # fmt: skip
    lab.stores.append(store)
    return store


def hung_up(sock):
    try:
        return sock.recv(65536, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
