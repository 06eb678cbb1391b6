"""The console never blocks, never loses, never mixes; on pipes, sockets, files, terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import socket
import tty

import pytest

from rallypoint.driver.loop import Loop
from rallypoint.logs.outlet import LIMIT, Console, Outlet


@pytest.fixture
def loop():
    with Loop() as loop:
        yield loop


@pytest.fixture
def troubles():
    return []


@pytest.fixture
def outlet_on(loop, troubles):
    made = []

    def make(fd):
        outlet = Outlet(loop, fd, lambda _outlet, error: troubles.append(error.errno))
        made.append(outlet)
        return outlet

    yield make
    for outlet in made:
        outlet.close()


@pytest.fixture
def pipe():
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def read_all(fd):
    parts = []
    while True:
        try:
            data = os.read(fd, 1 << 20)
        except BlockingIOError:
            break
        if not data:
            break
        parts.append(data)
    return b"".join(parts)


def test_a_blocked_pipe_blocks_nobody_and_loses_nothing(loop, outlet_on, pipe):
    outlet = outlet_on(pipe[1])
    sent = [b"%08d\n" % number * 1000 for number in range(200)]
    for piece in sent:
        outlet.put("me", piece)  # would hang here if it blocked
    assert not outlet.full
    got = b""
    while len(got) < sum(map(len, sent)):
        got += read_all(pipe[0])
        loop.turn(1)
    assert got == b"".join(sent)


def test_the_descriptor_shared_with_others_stays_blocking(outlet_on, pipe):
    outlet_on(pipe[1]).put("me", b"x\n")
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_NONBLOCK


def test_full_and_free_again(loop, outlet_on, pipe):
    outlet = outlet_on(pipe[1])
    freed = []
    outlet.put("me", b"x" * (LIMIT + (1 << 20)))
    assert outlet.full
    outlet.when_free(lambda: freed.append(outlet.full))

    def relieved():
        read_all(pipe[0])
        return freed

    assert loop.run_until(relieved, 10)
    assert freed == [False]


def test_an_idle_console_does_not_wake_the_loop(loop, outlet_on, pipe):
    outlet_on(pipe[1]).put("me", b"x\n")
    assert loop._writers == {}


def test_the_reader_goes_away(loop, outlet_on, pipe, troubles):
    outlet = outlet_on(pipe[1])
    outlet.put("me", b"x" * 200_000)
    os.close(pipe[0])
    assert loop.run_until(lambda: outlet.dead, 5)
    for _ in range(3):
        outlet.put("me", b"x" * LIMIT)
    assert not outlet.full
    assert len(troubles) == 1
    assert outlet.lost >= 200_000 - 65536


def test_a_full_disk_is_told_once_and_tried_again(outlet_on, troubles):
    with open("/dev/full", "wb") as full:
        outlet = outlet_on(full.fileno())
        outlet.put("me", b"123\n")
        outlet.put("me", b"456\n")
        assert (len(troubles), outlet.lost, outlet.dead) == (1, 8, False)


def test_a_socket(loop, outlet_on):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        outlet = outlet_on(ours.fileno())
        sent = b"line\n" * 500_000
        outlet.put("me", sent)
        assert ours.getblocking()
        got = b""
        while len(got) < len(sent):
            try:
                got += theirs.recv(1 << 20)
            except BlockingIOError:
                loop.turn(1)
        assert got == sent


def test_a_file(outlet_on, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        outlet_on(file.fileno()).put("me", b"x" * 3_000_000)
    assert (tmp_path / "out").stat().st_size == 3_000_000


def test_a_blocked_terminal_blocks_nobody(loop, outlet_on):
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    outlet = outlet_on(slave)
    assert outlet.terminal
    sent = b"".join(b"%07d\n" % number for number in range(50_000))
    outlet.put("me", sent)
    got = b""
    while len(got) < len(sent):
        got += read_all(master)
        loop.turn(1)
    assert got == sent
    os.close(slave)
    os.close(master)


def test_a_pipe_that_cannot_be_opened_anew_is_written_in_small_pieces(loop, outlet_on, pipe, monkeypatch):
    real_open = os.open

    def refuse(path, *args):
        if str(path).startswith("/proc/self/fd/"):
            raise PermissionError(13, "")
        return real_open(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    outlet = outlet_on(pipe[1])
    sent = b"line\n" * 100_000
    outlet.put("me", sent)
    got = b""
    while len(got) < len(sent):
        got += read_all(pipe[0])
        loop.turn(1)
    assert got == sent


def test_a_closed_descriptor_is_a_dead_outlet(outlet_on, pipe, troubles):
    os.close(pipe[1])
    outlet = outlet_on(pipe[1])
    outlet.put("me", b"x\n")
    assert outlet.dead
    assert troubles == []


def test_flush_waits_for_a_slow_reader_only_so_long(loop, outlet_on, pipe):
    outlet = outlet_on(pipe[1])
    outlet.put("me", b"x" * 200_000)
    assert not outlet.flush(loop.now() + 0.05)
    pid = os.fork()
    if not pid:
        os.close(pipe[1])
        os.set_blocking(pipe[0], True)
        total = 0
        while total < 200_000:
            total += len(os.read(pipe[0], 65536))
        os._exit(0)
    assert outlet.flush(loop.now() + 10)
    assert os.waitpid(pid, 0)[1] == 0


def test_one_thing_under_two_names_is_one_outlet(loop, pipe, tmp_path):
    with (tmp_path / "f").open("wb") as file:
        for fds in ((pipe[1], os.dup(pipe[1])), (file.fileno(), os.dup(file.fileno()))):
            console = Console(loop, fds, print)
            assert console.out is console.err
            console.close()
            os.close(fds[1])
        console = Console(loop, (pipe[1], file.fileno()), print)
        assert console.out is not console.err
        console.close()


def test_a_line_of_ours_ends_an_unfinished_one(loop, pipe):
    console = Console(loop, (pipe[1], pipe[1]), print)
    console.out.put("worker", b"\r 10%")
    console.say("hello\nthere\n", 2)
    console.out.put("worker", b"\r 20%")
    console.close()
    assert read_all(pipe[0]) == b"\r 10%\nhello\nthere\n\r 20%"


def test_the_loss_of_one_stream_is_said_on_the_other(loop):
    for broken in (1, 2):
        good_read, good = os.pipe()
        bad_read, bad = os.pipe()
        os.close(bad_read)
        told = []
        console = Console(loop, (bad, good) if broken == 1 else (good, bad), told.append)
        console.outlet(broken).put("me", b"x\n")
        console.outlet(broken).put("me", b"x\n")
        if broken == 1:
            assert len(told) == 1
            assert "standard output" in told[0]
            assert "broken pipe" in told[0]
        else:
            assert told == []
            assert b"standard error" in os.read(good_read, 1000)
        console.close()
        for fd in (good_read, good, bad):
            os.close(fd)
