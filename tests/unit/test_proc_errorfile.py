import json
import os

import pytest

from rallypoint.model.result import WorkerError
from rallypoint.proc import errorfile
from rallypoint.proc.errorfile import read_error

STACK = 'Traceback (most recent call last):\n  File "t.py", line 1\nValueError: bad: input\n'


def torchs(message="ValueError: bad: input", stack=STACK, timestamp="1700000000"):
    return {"message": {"message": message, "extraInfo": {"py_callstack": stack, "timestamp": timestamp}}}


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "error.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read_error(str(path))

    return read


def test_torchs_format(read):
    assert read(torchs()) == WorkerError("ValueError", "bad: input", STACK, 1700000000.0)


def test_a_plain_message(read):
    assert read({"message": "CudaError: lost", "timestamp": 1}) == WorkerError("CudaError", "lost", "", 1.0)
    assert read({"message": "it broke here: x"}) == WorkerError("Error", "it broke here: x")


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("KeyboardInterrupt: ", "KeyboardInterrupt", ""),
        ("KeyboardInterrupt:", "KeyboardInterrupt", ""),
        ("a.b.Error: x\ny", "a.b.Error", "x\ny"),
        ("no type", "Error", "no type"),
    ],
)
def test_type_and_text_are_told_apart(read, message, kind, text):
    error = read(torchs(message))
    assert (error.type, error.message) == (kind, text)


def test_a_traceback_without_a_message_gives_its_last_line(read):
    assert read(torchs(message=None)) == WorkerError("ValueError", "bad: input", STACK, 1700000000.0)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"3", b'"x"', b"{}", {"message": {}}, {"message": 7}, []])
def test_foreign_content_says_nothing(read, content):
    assert read(content) is None


@pytest.mark.parametrize("timestamp", ["soon", None, [], "nan", "inf", -5, 1e300])
def test_impossible_times_are_left_out(read, timestamp):
    assert read(torchs(timestamp=timestamp)).timestamp == 0.0


def test_deep_nesting_is_no_danger(read):
    assert read(b"[" * 200_000) is None


def test_cut_off_anywhere_it_never_raises_and_keeps_the_message(read):
    whole = json.dumps(torchs("ValueError: caf\u00e9 \u2713 done", STACK)).encode()
    for size in range(len(whole)):
        error = read(whole[:size])
        if size > whole.index(b"done"):
            assert error.type == "ValueError"
            assert error.message.startswith("caf\u00e9 \u2713")
    assert error.traceback == STACK


def test_a_huge_file_is_read_up_to_the_limit(read, monkeypatch):
    monkeypatch.setattr(errorfile, "LIMIT", 100)
    assert read(torchs("ValueError: " + "x" * 1000)).message.strip("x") == ""


def test_no_file_a_folder_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        assert read_error(str(path)) is None
    assert read_error("nul\0byte") is None
