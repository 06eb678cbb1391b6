import os
import signal

import pytest

from rallypoint.proc import procfs
from rallypoint.proc.stuck import stuck_words

STAT = b"%d (a) b (c) %s %d %d %d 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 %d 0 %d 2 3 4"


def process(pid, ppid=1, sid=1, state=b"S", threads=1, start=100):
    return procfs.Process(STAT % (pid, state, ppid, pid, sid, threads, start))


def found(*processes, marked=(), monkeypatch=None, **options):
    monkeypatch.setattr(procfs, "carries", lambda pid, mark: pid in marked)
    table = {p.pid: p for p in processes}
    return sorted(p.pid for p in procfs.members(table, {10}, "m", **options))


def test_a_name_with_parentheses_and_spaces():
    p = process(7, ppid=3, sid=5, state=b"D", threads=4, start=99)
    assert (p.pid, p.ppid, p.pgid, p.sid, p.state, p.threads, p.start) == (7, 3, 7, 5, "D", 4, 99)


def test_a_zombie_whose_threads_run_is_alive():
    assert not process(7, state=b"Z").alive
    assert process(7, state=b"Z", threads=2).alive


def test_session_mark_and_descent(monkeypatch):
    tree = (
        process(10, sid=10, state=b"Z"),  # the worker, ended
        process(11, sid=10),  # in its session
        process(12, ppid=11, sid=12),  # left it, but its parent belongs
        process(13, ppid=12, sid=13),
        process(20),  # carries the mark
        process(30),  # a stranger
        process(31, ppid=30),
    )
    assert found(*tree, marked={20}, monkeypatch=monkeypatch) == [11, 12, 13, 20]


def test_the_spared_are_neither_found_nor_reached_through(monkeypatch):
    tree = (process(11, sid=10), process(12, ppid=11), process(13, ppid=12))
    assert found(*tree, marked={12}, spared={12}, monkeypatch=monkeypatch) == [11]


def test_what_was_seen_belongs_with_its_children_and_its_session(monkeypatch):
    tree = (process(40), process(41, ppid=40), process(42, sid=39), process(43, sid=38), process(38, start=900))
    assert found(*tree, seen={40: 100, 39: 100, 38: 100}, monkeypatch=monkeypatch) == [40, 41, 42]


def test_a_number_seen_before_may_be_somebody_elses_now(monkeypatch):
    assert found(process(40), process(41, ppid=40), seen={40: 99}, monkeypatch=monkeypatch) == []


def test_the_hunt_stops_all_and_kills_when_all_stand_still(monkeypatch):
    sent = []
    monkeypatch.setattr(procfs, "send_to", lambda p, number: sent.append((p.pid, signal.Signals(number).name)))
    hunt = procfs.Hunt(seen := {})
    assert not hunt.step([process(1, state=b"R")])
    assert not hunt.step([process(1, state=b"T"), process(2, state=b"S")])  # forked between two looks
    assert not hunt.step([process(1, state=b"T"), process(2, state=b"S")])
    assert hunt.step([process(1, state=b"T"), process(2, state=b"T")])
    assert sent == [(1, "SIGSTOP"), (2, "SIGSTOP"), (1, "SIGKILL"), (2, "SIGKILL")]
    assert seen == {1: 100, 2: 100}


def test_the_hunt_does_not_wait_for_ever_for_what_cannot_be_stopped(monkeypatch):
    sent = []
    monkeypatch.setattr(procfs, "send_to", lambda p, number: sent.append(number))
    hunt = procfs.Hunt({})
    assert [hunt.step([process(1)]) for _ in range(hunt.TRIES)].index(True) == hunt.TRIES - 1
    assert sent == [signal.SIGSTOP, signal.SIGKILL]


def test_older_processes_are_not_asked(monkeypatch):
    assert found(process(20, start=99), process(21), marked={20, 21}, since=100, monkeypatch=monkeypatch) == [21]


def test_ancestors_end_even_in_a_circle():
    tree = {p.pid: p for p in (process(1, ppid=0), process(2, ppid=1), process(3, ppid=2), process(8, ppid=8))}
    assert procfs.ancestors(tree, 3) == {1, 2, 3}
    assert procfs.ancestors(tree, 8) == {8}


def test_a_number_that_was_reused_is_not_opened():
    own = procfs.read(os.getpid())
    os.close(procfs.open_pidfd(own))
    own.start -= 1
    with pytest.raises(ProcessLookupError):
        procfs.open_pidfd(own)


def test_caught_signals():
    old = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert procfs.catches(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert not procfs.catches(os.getpid(), signal.SIGUSR2)
    assert not procfs.catches(2**22, signal.SIGUSR2)


def test_stuck_words(monkeypatch):
    assert stuck_words(2**22) == f"pid {2**22} is gone"
    assert "does not end" in stuck_words(os.getpid())
    monkeypatch.setattr(procfs, "read", lambda pid: process(pid, state=b"D"))
    assert stuck_words(os.getpid()).startswith(f"pid {os.getpid()} is in uninterruptible sleep (state D")


class Kernel:
    """Answers for /proc/stat, /proc/loadavg and pid_max."""

    def __init__(self, monkeypatch):
        self.forks, self.last, self.largest = 1000, 500, 32768
        monkeypatch.setattr(procfs, "_number", self.number)

    def number(self, path, after=b"", skip=0):
        return {"/proc/stat": self.forks, "/proc/loadavg": self.last}.get(path, self.largest)


@pytest.mark.parametrize(
    ("forks", "last", "lowest"),
    [
        (1010, 510, 500),
        (1010, 300, 0),  # started again from the bottom
        (20000, 600, 0),  # may have gone all the way round
        (0, 600, 0),  # not to be trusted
    ],
)
def test_pids_rise_until_they_start_again(monkeypatch, forks, last, lowest):
    kernel = Kernel(monkeypatch)
    clock = procfs.PidClock()
    kernel.forks, kernel.last = forks, last
    assert clock.lowest(500) == lowest


def test_the_real_kernels_numbers():
    clock = procfs.PidClock()
    child = os.posix_spawn("/bin/true", ["true"], {})
    assert clock.lowest(child) in {child, 0}
    assert procfs._number("/proc/stat", b"\nprocesses ") > 0
    assert procfs._number("/proc/sys/kernel/pid_max") >= child
    assert procfs._number("/proc/loadavg", b"/", skip=1) >= child or clock.lowest(child) == 0
    assert procfs._number("/proc/none") == 0
    assert child in procfs.table(child)
    assert os.getpid() not in procfs.table(max(child, os.getpid() + 1))
    os.waitpid(child, 0)
