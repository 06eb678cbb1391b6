"""Log files, filtered copies, directories and last words."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from rallypoint.logs import files
from rallypoint.logs.directory import RunDirectory
from rallypoint.logs.files import LogFile, Matching
from rallypoint.logs.recent import KEPT, WIDTH, Recent, readable
from rallypoint.model.errors import UsageError


@pytest.fixture
def told():
    return []


def test_log_file_gets_the_bytes_and_is_private(tmp_path, told):
    file = LogFile(str(tmp_path / "a.log"), told.append)
    file.feed(b"\xff\x00")
    file.feed(b"\r\n")
    file.end()
    assert (tmp_path / "a.log").read_bytes() == b"\xff\x00\r\n"
    assert stat.S_IMODE((tmp_path / "a.log").stat().st_mode) == 0o600
    assert told == []


def test_an_earlier_log_is_never_touched(tmp_path, told):
    path = tmp_path / "a.log"
    path.write_bytes(b"earlier")
    file = LogFile(str(path), told.append)
    file.feed(b"new")
    file.end()
    assert path.read_bytes() == b"earlier"
    assert "file exists" in told[0]
    assert "3 bytes" in told[1]


def test_full_disk_is_said_once_and_writing_resumes(tmp_path, told, monkeypatch):
    room = [2, 0, 0, 5, 5]  # bytes that each write finds room for

    def write(fd, data):
        if not (size := room.pop(0)):
            raise OSError(errno.ENOSPC, "")
        return real_write(fd, data[:size])

    real_write = os.write
    file = LogFile(str(tmp_path / "a.log"), told.append)
    monkeypatch.setattr(files.os, "write", write)
    file.feed(b"12345")
    file.feed(b"67890")
    file.feed(b"abcde")
    monkeypatch.undo()
    assert len(told) == 1
    assert "no space left" in told[0]
    file.end()
    file.end()
    assert (tmp_path / "a.log").read_bytes() == b"12abcde"
    assert told[1:] == [f"log file {tmp_path}/a.log: 8 bytes of output are missing"]


def test_matching_copies_lines_with_any_needle(tmp_path, told):
    file = LogFile(str(tmp_path / "f.log"), told.append)
    matching = Matching(file, b"[default0]:", ("apple", "orange"))
    matching.feed(b"an app")
    matching.feed(b"le\npear\nor")
    matching.feed(b"ange\npear\nlast apple")
    matching.end()
    file.end()
    assert (tmp_path / "f.log").read_text() == "[default0]:an apple\n[default0]:orange\n[default0]:last apple\n"


def test_directory_layout(tmp_path):
    directory = RunDirectory(str(tmp_path / "new" / "base"), "job")
    assert directory.path is None
    path = directory.rank(2, 5)
    assert os.path.isdir(path)
    assert path == f"{directory.path}/attempt_2/5"
    assert os.path.basename(directory.path).startswith("job_")
    assert directory.rank(3, 5) == f"{directory.path}/attempt_3/5"
    directory.remove()
    assert os.path.isdir(path), "a directory that the user named is never removed"


def test_two_runs_of_one_id_do_not_meet(tmp_path):
    paths = {RunDirectory(str(tmp_path), "job").attempt(0) for _ in range(20)}
    assert len(paths) == 20


@pytest.mark.parametrize("run_id", ["../../etc", "/", "..", "a b\n", "ü" * 300, ".hidden", "x" * 500])
def test_any_run_id_is_safe(tmp_path, run_id):
    path = RunDirectory(str(tmp_path), run_id).attempt(0)
    assert os.path.dirname(os.path.dirname(path)) == str(tmp_path)
    assert not os.path.basename(os.path.dirname(path)).startswith(".")


def test_private_directory_comes_and_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    directory = RunDirectory(None, "job")
    assert os.listdir(tmp_path) == []
    path = directory.rank(0, 0)
    assert path.startswith(str(tmp_path))
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    (tmp_path / os.path.relpath(path, tmp_path) / "error.json").write_text("{}")
    directory.remove()
    assert os.listdir(tmp_path) == []


def test_an_unusable_log_dir_is_the_users_fault(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--log-dir"):
        RunDirectory(str(tmp_path / "file"), "job")


def test_last_lines_of_two_streams_in_order_of_arrival():
    recent = Recent()
    recent.add("out", b"step 1\nst")
    recent.add("err", b"warning\n")
    recent.add("out", b"ep 2\n")
    recent.add("err", b"Trace\xff")
    assert readable(recent.lines(10)) == ("step 1", "warning", "step 2", "Trace\ufffd")
    assert readable(recent.lines(2)) == ("step 2", "Trace\ufffd")


def test_last_lines_are_bounded():
    recent = Recent()
    for number in range(10_000):
        recent.add("out", b"line %d\n" % number)
    recent.add("out", b"y" * 10 * KEPT + b"\nend\n")
    lines = readable(recent.lines(20))
    assert lines[-1] == "end"
    assert len(lines[-2]) == WIDTH
    assert lines[-2].endswith("...")
    assert sum(recent._sizes.values()) < 2 * KEPT


def test_a_busy_stream_leaves_half_of_the_lines_to_a_quiet_one():
    recent = Recent()
    recent.add("err", b"".join(b"error %d\n" % number for number in range(12)))
    for number in range(10_000):
        recent.add("out", b"line %d\n" % number)
    lines = readable(recent.lines(10))
    assert lines == (*(f"error {n}" for n in range(7, 12)), *(f"line {n}" for n in range(9995, 10_000)))
    recent.add("err", b"the end")
    assert readable(recent.lines(4)) == ("error 11", "line 9998", "line 9999", "the end")


def test_progress_bars_are_reduced_to_their_last_state():
    assert readable([b"\r 1%\r 2%\r 99%", b"dos\r"]) == (" 99%", "dos")
