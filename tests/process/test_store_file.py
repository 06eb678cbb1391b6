"""The file store on a real folder: the contract, and what goes wrong with files and processes."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from lab import wait_until
from rallypoint.driver.loop import Loop
from rallypoint.store.client import Member
from rallypoint.store.file import store as module
from rallypoint.store.file.journal import Journal
from rallypoint.store.file.store import FileStore
from rallypoint.testing import check_store
from rallypoint.testing.check_store import Node

TTL = 3.0


class FileLab:
    def __init__(self, folder, ttl=TTL, run="a run/é"):
        self.folder, self.ttl, self.run = str(folder), ttl, run
        self.stores = []

    def __enter__(self):
        self.loop = Loop()
        return self

    def __exit__(self, *_exc):
        for store in self.stores:
            store.close()
        self.loop.close()

    def open(self, watcher):
        member = Member(self.run, f"n{len(self.stores)}", self.ttl, self.ttl / 3)
        self.stores.append(FileStore(self.loop, watcher, self.folder, member))
        return self.stores[-1]

    def lose(self, store):
        store.lose()

    def run_until(self, done, limit):
        return self.loop.run_until(done, limit)


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
def test_contract(tmp_path, law):
    with FileLab(tmp_path) as lab:
        law(lab)


CHILD = """
import sys
from rallypoint.driver.loop import Loop
from rallypoint.store.client import Member
from rallypoint.store.file.store import FileStore
from rallypoint.testing.check_store import Notes
loop = Loop()
notes = Notes()
store = FileStore(loop, notes, sys.argv[1], Member("run", sys.argv[2], 3.0, 1.0))
store.lease("nodes/" + sys.argv[2], 3.0, 1, lambda reply: print("leased", reply.ok, flush=True))
loop.run_until(lambda: notes.count("lost") and notes.told[-1][0] == "up")
print("fresh", notes.told[-1][2], flush=True)
"""


@contextlib.contextmanager
def child(folder, name="child"):
    """A node of the run in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), name], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "leased True\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(tmp_path):
    with FileLab(tmp_path, run="run") as lab:
        yield lab


def test_a_process_that_is_killed_is_missed_at_once(tmp_path, run):
    node = Node(run).up()
    with child(tmp_path) as process:
        seen = node.watch("nodes/")
        node.until(lambda: seen, "the node")
        begin = run.loop.now()
        process.kill()
        node.until(lambda: len(seen) == 2, "its loss")
        assert (seen[1].value, seen[1].left, seen[1].reason) == (None, False, "its launcher is gone")
        assert run.loop.now() - begin < TTL / 3, "told by the kernel, not by a time-out"


def test_a_process_that_is_stopped_is_given_up_and_comes_back_as_another(tmp_path, run):
    node = Node(run).up()
    with child(tmp_path) as process:
        seen = node.watch("nodes/")
        process.send_signal(signal.SIGSTOP)
        node.until(lambda: len(seen) == 2, "its loss")
        assert seen[1].reason.startswith("unheard of for")
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "fresh True\n"


def test_many_processes_write_and_nothing_is_lost(tmp_path, run):
    text = """
import sys
from rallypoint.driver.loop import Loop
from rallypoint.store.client import Member
from rallypoint.store.file.store import FileStore
from rallypoint.testing.check_store import Notes
loop = Loop()
store = FileStore(loop, Notes(), sys.argv[1], Member("run", "n", 10.0, 3.0))
done = []
def step(reply):
    if reply.ok and reply.entry and reply.entry.key == "sum" and asked:
        done.append(1)
    if len(done) < 50:
        asked.append(1)
        store.read("sum", lambda r: store.swap("sum", r.entries[0].revision, r.entries[0].value + 1, step))
asked = []
store.swap("sum", 0, 0, step)
loop.run_until(lambda: len(done) >= 50)
store.close()
"""
    node = Node(run).up()
    processes = [subprocess.Popen([sys.executable, "-c", text, str(tmp_path)]) for _ in range(4)]
    assert [p.wait(60) for p in processes] == [0] * 4
    assert [e.value for e in node.read("sum")] == [200]


def test_half_a_line_of_one_who_died_is_written_over(tmp_path, run):
    node, other = Node(run).up(), Node(run).up()
    assert node.swap("k", 0, 1).ok
    seen = other.watch("k")
    with open(tmp_path / "run" / "journal", "ab") as journal:
        journal.write(b'[["put","k",')
    (entry,) = node.read("k")
    assert node.swap("k", entry.revision, 2).ok
    other.until(lambda: len(seen) == 2, "the next change")


def test_a_long_journal_is_written_anew_under_the_readers_eyes(tmp_path, run, monkeypatch):
    monkeypatch.setattr("rallypoint.store.file.journal.SMALLEST", 20_000)
    node, other = Node(run).up(), Node(run).up()
    seen = other.watch("k/")
    last = node.swap("k/a", 0, 0).revision
    assert node.swap("k/b", 0, "stays").ok
    for number in range(1, 300):
        last = node.swap("k/a", last, [number] * 50).revision
    other.until(lambda: seen[-1].revision == last, "the last change")
    assert os.path.getsize(tmp_path / "run" / "journal") < 100_000
    assert [e.value for e in seen if e.key == "k/b"] == ["stays"]
    assert all(e.value is not None for e in seen), "nothing was told as gone"
    assert [e.key for e in Node(run).up().read("k/")] == ["k/a", "k/b"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is needed, and so root")
def test_a_full_disk_costs_the_write_alone(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        with FileLab(tmp_path, run="run") as lab:
            node, other = Node(lab).up(), Node(lab).up()
            assert node.lease("nodes/a", TTL, 1).ok
            reply = node.swap("big", 0, "x" * 200_000)
            assert not reply.ok and "No space left on device" in reply.error
            node.until(lambda: node.notes.told[-1][0] == "up", "it is back")
            assert node.notes.told[-1][2] is False, "and its lease went on"
            assert [e.key for e in other.read("")] == ["nodes/a"]
            assert other.swap("small", 0, 1).ok
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_what_a_run_left_long_ago_is_no_part_of_the_next(tmp_path, monkeypatch):
    with FileLab(tmp_path) as lab:
        node = Node(lab).up()
        assert node.swap("job", 0, "old").ok and node.lease("nodes/a", TTL, 1).ok
        node.store.lose()
        again = Node(lab).up()
        assert [e.key for e in again.read("")] == ["job"], "who comes back soon finds what was agreed on"
        again.store.lose()
        monkeypatch.setattr(module, "KEEP", -1.0)
        assert Node(lab).up().read("") == []


def test_the_last_one_out_leaves_nothing(tmp_path, run):
    node = Node(run).up()
    assert node.swap("job", 0, 1).ok
    node.store.close()
    journal = Journal(str(tmp_path / "run"))
    journal.catch_up()
    assert (journal.replica.entries, journal.replica.sessions) == ({}, {})
    assert os.listdir(tmp_path / "run" / "alive") == []
    journal.close()


def test_another_version_is_refused(run, monkeypatch):
    Node(run).up()
    monkeypatch.setattr(module, "__version__", "0.0.1")
    other = Node(run)
    other.until(lambda: other.notes.count("refused"), "the refusal")
    assert other.notes.told[-1][:3] == ("refused", "the version of Rallypoint", "0.0.1")


def test_what_is_no_journal_is_named(tmp_path, run):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal").write_text("Dear diary,\n")
    node = Node(run)
    node.until(lambda: node.notes.count("tried") >= 2, "the reason")
    assert "is no journal: it holds b'Dear diary,'" in node.notes.told[0][2]


def test_files_are_the_users_alone(tmp_path, run):
    Node(run).up()
    for folder, _, files in os.walk(tmp_path / "run"):
        assert all(os.stat(os.path.join(folder, name)).st_mode & 0o077 == 0 for name in files)


def test_nothing_stays_open(run):
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        node = Node(run).up()
        node.watch("")
        node.store.close()
    wait_until(lambda: set(os.listdir("/proc/self/fd")) == before, 5, "all files closed")
