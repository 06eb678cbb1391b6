"""The file timer's protocol and table; its processes: tests/process/test_elastic_timer.py."""

import json
import os
import time

import pytest

from rallypoint.driver.loop import Loop
from rallypoint.model.errors import UsageError
from rallypoint.proc.deadlines import Deadlines, Request, TimerFile, parse


def line(**changes):
    return json.dumps({"version": 1, "pid": 7, "scope_id": "s", "expiration_time": 2.5, "signal": 9} | changes).encode()


def test_a_line_of_torchs_client_is_read():
    assert parse(line()) == Request(7, "s", 2.5, 9)
    assert parse(line(expiration_time=-1, signal=0)) == Request(7, "s", -1.0, 0)


@pytest.mark.parametrize("wrong", [b"", b"x", b"[]", b"{}", b"\xff", line(pid=0), line(pid="x"), line(signal=4711)])
def test_nonsense_is_no_request(wrong):
    assert parse(wrong) is None


def test_the_first_that_kills_decides_and_its_process_is_forgotten():
    table = Deadlines()
    for request in (Request(1, "a", 5, 9), Request(1, "b", 3, 0), Request(1, "c", 4, 15), Request(2, "a", 4, 9)):
        table.note(request)
    assert table.next() == 3
    assert table.take(2.9) == []
    assert table.take(4) == [Request(1, "c", 4, 15), Request(2, "a", 4, 9)]
    assert len(table) == 0 and table.next() is None


def test_a_release_takes_its_own_timer_back():
    table = Deadlines()
    table.note(Request(1, "a", 3, 9))
    table.note(Request(1, "a", 9, 9))
    table.note(Request(1, "b", 4, 9))
    table.note(Request(1, "b", -1))
    table.note(Request(1, "z", -1))
    assert table.next() == 9


@pytest.fixture
def served(tmp_path):
    said = []
    with Loop() as loop:
        file = TimerFile(loop, str(tmp_path / "timer"), lambda pid: pid != os.getpid(), said.append)
        yield loop, file, str(tmp_path / "timer"), said
        file.close()
    assert not (tmp_path / "timer").exists()


def send(path, *lines):
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"".join(text + b"\n" for text in lines))
    os.close(fd)


def test_nobody_who_is_no_worker_is_killed(served):
    loop, _file, path, said = served
    send(path, b"nonsense", line(pid=os.getpid(), expiration_time=time.time(), scope_id="here"))
    assert loop.run_until(lambda: said, 20)
    assert said == [
        f"process {os.getpid()} has overstayed its time within here; it is none of this run's workers and is left alone"
    ]


def test_who_asks_not_to_be_killed_is_only_named(served):
    loop, _file, path, said = served
    send(path, line(pid=os.getppid(), expiration_time=time.time(), signal=0))
    assert loop.run_until(lambda: said, 20)
    assert said[0].endswith("it asked not to be killed")


def test_a_place_that_is_taken(tmp_path, served):
    loop, _file, path, _said = served
    with pytest.raises(UsageError, match="another launcher is using it"):
        TimerFile(loop, path, bool, print)
    (tmp_path / "plain").write_text("mine")
    with pytest.raises(UsageError, match="something else than a named pipe is there"):
        TimerFile(loop, str(tmp_path / "plain"), bool, print)
    assert (tmp_path / "plain").read_text() == "mine"
    os.mkfifo(tmp_path / "left")
    TimerFile(loop, str(tmp_path / "left"), bool, print).close()
