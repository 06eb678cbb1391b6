"""The only loop, with real pipes, files and a thread."""

import os
import socket
import threading
from time import monotonic

import pytest

from rallypoint.driver.loop import Loop


@pytest.fixture
def loop():
    with Loop() as it:
        yield it


@pytest.fixture
def pipe():
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    open_ends = set(ends)

    class Pipe:
        read, write = ends

        @staticmethod
        def close(fd):
            open_ends.discard(fd)
            os.close(fd)

    yield Pipe
    for fd in open_ends:
        os.close(fd)


def test_a_reader_is_called_as_long_as_there_is_something(loop, pipe):
    got = []
    loop.add_reader(pipe.read, lambda: got.append(os.read(pipe.read, 1)))
    os.write(pipe.write, b"ab")
    loop.turn(1.0)
    assert got == [b"a"]
    loop.turn(1.0)
    assert got == [b"a", b"b"]
    loop.turn(0.0)
    assert len(got) == 2


def test_hanging_up_is_told_to_the_reader(loop, pipe):
    got = []
    loop.add_reader(pipe.read, lambda: got.append(os.read(pipe.read, 1)))
    pipe.close(pipe.write)
    loop.turn(1.0)
    assert got == [b""]


def test_registering_again_replaces_and_removing_twice_does_nothing(loop, pipe):
    got = []
    loop.add_reader(pipe.read, lambda: got.append("old"))
    loop.add_reader(pipe.read, lambda: got.append("new"))
    os.write(pipe.write, b"a")
    loop.turn(1.0)
    assert got == ["new"]
    loop.remove_reader(pipe.read)
    loop.remove_reader(pipe.read)
    loop.remove_writer(pipe.read)
    loop.turn(0.0)
    assert got == ["new"]


def test_reader_and_writer_of_one_socket(loop):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        got = []
        loop.add_reader(ours.fileno(), lambda: got.append(ours.recv(9)))
        loop.add_writer(ours.fileno(), lambda: got.append("room"))
        theirs.send(b"hello")
        loop.turn(1.0)
        assert got == [b"hello", "room"]
        loop.remove_writer(ours.fileno())
        loop.turn(0.0)
        theirs.send(b"again")
        loop.turn(1.0)
        assert got == [b"hello", "room", b"again"]
        loop.remove_reader(ours.fileno())


def test_a_callback_may_remove_what_the_same_batch_still_names(loop):
    pairs = [os.pipe() for _ in range(2)]
    called = []

    def call(which):
        called.append(which)
        for read, _ in pairs:
            loop.remove_reader(read)

    for which, (read, write) in enumerate(pairs):
        loop.add_reader(read, lambda which=which: call(which))
        os.write(write, b"x")
    loop.turn(1.0)
    assert len(called) == 1
    for fd in (fd for pair in pairs for fd in pair):
        os.close(fd)


def test_regular_files_are_always_ready(loop, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"ab")
    with path.open("rb", buffering=0) as file:
        got = []
        loop.add_reader(file.fileno(), lambda: got.append(file.read(1)))
        assert loop.run_until(lambda: len(got) == 3, 1.0)
        assert got == [b"a", b"b", b""]
        loop.remove_reader(file.fileno())
        loop.turn(0.0)
        assert len(got) == 3


def test_timers_in_order_of_time_then_of_asking(loop):
    got = []
    now = loop.now()
    loop.call_at(now + 0.02, lambda: got.append("late"))
    loop.call_at(now, lambda: got.append("first"))
    loop.call_at(now, lambda: got.append("second"))
    assert loop.run_until(lambda: len(got) == 3, 1.0)
    assert got == ["first", "second", "late"]
    assert loop.now() >= now + 0.02, "never early"


def test_a_cancelled_timer_is_not_called_and_does_not_wake(loop):
    got = []
    timer = loop.call_at(loop.now(), lambda: got.append("no"))
    other = loop.call_at(loop.now(), timer.cancel)
    loop.call_at(loop.now() + 0.01, lambda: got.append("yes"))
    timer.cancel()
    timer.cancel()
    assert loop.run_until(lambda: got, 1.0)
    assert got == ["yes"]
    assert "cancelled" in repr(timer) and "cancelled" not in repr(other)


def test_a_timer_cancelled_by_another_of_the_same_time(loop):
    got = []
    now = loop.now()
    timers = []
    loop.call_at(now, lambda: timers[0].cancel())
    timers.append(loop.call_at(now, lambda: got.append("no")))
    loop.turn(0.1)
    loop.turn(0.0)
    assert got == []


def test_soon_runs_in_the_next_turn_and_in_order(loop):
    got = []
    loop.soon(lambda: (got.append(1), loop.soon(lambda: got.append(3))))
    loop.soon(lambda: got.append(2))
    loop.turn(1.0)
    assert got == [1, 2]
    loop.turn(1.0)
    assert got == [1, 2, 3]


def test_soon_from_another_thread_ends_the_wait(loop):
    got = []
    thread = threading.Thread(target=lambda: loop.soon(lambda: got.append(threading.current_thread())))
    loop.call_at(loop.now() + 0.01, thread.start)
    assert loop.run_until(lambda: got, 5.0)
    thread.join()
    assert got == [threading.main_thread()]


def test_more_calls_than_the_wake_up_pipe_holds(loop):
    got = []
    for n in range(70_000):
        loop.soon(lambda n=n: got.append(n))
    loop.turn(1.0)
    assert got == list(range(70_000))


def test_a_byte_on_the_wake_up_descriptor_ends_the_wait(loop):
    os.write(loop.wake_fd, b"\x0f")
    start = monotonic()
    loop.turn(5.0)
    assert monotonic() - start < 4.0
    assert loop.run_until(lambda: False, 0.01) is False


def test_run_until_says_whether_it_came_to_pass(loop):
    assert loop.run_until(lambda: True, 0.0)
    assert not loop.run_until(lambda: False, 0.01)


def test_an_error_in_a_callback_reaches_the_caller_and_loses_nothing_else(loop):
    got = []

    def wrong():
        raise ZeroDivisionError

    loop.call_at(loop.now(), wrong)
    loop.call_at(loop.now(), lambda: got.append("next"))
    with pytest.raises(ZeroDivisionError):
        loop.turn(1.0)
    loop.turn(1.0)
    assert got == ["next"]


def test_close_releases_everything_and_is_safe_twice():
    before = set(os.listdir("/proc/self/fd"))
    loop = Loop()
    assert "readers" in repr(loop)
    loop.close()
    loop.close()
    loop.soon(lambda: None)
    assert repr(loop).startswith("<Loop closed")
    assert set(os.listdir("/proc/self/fd")) == before
