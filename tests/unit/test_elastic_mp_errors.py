"""record, ErrorHandler, ProcessFailure, ChildFailedError; both ways with torch's own."""

import copy
import json
import os
import pickle
import signal
import time

import pytest

from rallypoint.elastic.multiprocessing import errors as ours
from rallypoint.elastic.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure, record
from rallypoint.elastic.multiprocessing.errors.handlers import get_error_handler


@pytest.fixture
def error_file(tmp_path, monkeypatch):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


def write(path, headline="ValueError: x", timestamp="1700000000", trace="Traceback\n  a\nValueError: x"):
    extra = {"py_callstack": trace, "timestamp": timestamp}
    path.write_text(json.dumps({"message": {"message": headline, "extraInfo": extra}}))
    return str(path)


def fail(text):
    raise ValueError(text)


def test_record_writes_what_was_raised(error_file):
    with pytest.raises(ValueError, match="no luck"):
        record(fail)("no luck")
    message = json.loads(error_file.read_text())["message"]
    assert message["message"] == "ValueError: no luck"
    assert "raise ValueError(text)" in message["extraInfo"]["py_callstack"]
    assert abs(int(message["extraInfo"]["timestamp"]) - time.time()) < 60


def test_record_lets_everything_else_through(error_file):
    assert record(len)([1, 2]) == 2
    assert record(fail).__name__ == "fail"

    @record
    def leave(code):
        raise SystemExit(code)

    assert leave(0) is None
    for code in (3, None, "text"):
        with pytest.raises(SystemExit):
            leave(code)
    assert not error_file.exists()


def test_record_without_an_error_file(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    with pytest.raises(ValueError):
        record(fail)("x")


def test_record_uses_the_handler_it_is_given():
    class Handler(ErrorHandler):
        seen = ()

        def initialize(self):
            self.seen += ("ready",)

        def record_exception(self, e):
            self.seen += (str(e),)

    handler = Handler()
    with pytest.raises(ValueError):
        record(fail, handler)("x")
    assert handler.seen == ("ready", "x")
    assert type(get_error_handler()) is ErrorHandler


def test_record_hands_on_the_file_of_the_cause(tmp_path, error_file):
    path = write(tmp_path / "child.json")
    error_file.write_text("an old one")

    @record
    def nanny():
        raise ChildFailedError("job", {3: ProcessFailure(3, 11, -11, path)})

    with pytest.raises(ChildFailedError):
        nanny()
    message = json.loads(error_file.read_text())["message"]
    assert (message["message"], message["errorCode"]) == ("ValueError: x", -11)


def test_record_of_a_child_without_a_file(error_file):
    with pytest.raises(ChildFailedError):
        record(_raise_child)()
    assert not error_file.exists()


def _raise_child():
    raise ChildFailedError("job", {0: ProcessFailure(0, 11, 1, "")})


def test_a_full_disk_is_only_a_warning(monkeypatch, tmp_path):
    with pytest.warns(UserWarning, match="Unable to write"):
        ErrorHandler()._write_error_file(str(tmp_path / "no" / "file"), "{}")


def test_a_failure_reads_the_error_file(tmp_path):
    failure = ProcessFailure(1, 11, 1, write(tmp_path / "error.json"))
    assert failure.message["message"] == "ValueError: x"
    assert failure.timestamp == 1700000000
    assert failure.signal_name() == "<N/A>"
    assert failure == copy.deepcopy(failure) and pickle.loads(pickle.dumps(failure)) == failure


def test_an_old_format_with_plain_text(tmp_path):
    path = tmp_path / "error.json"
    path.write_text(json.dumps({"message": "it broke", "timestamp": "12"}))
    failure = ProcessFailure(1, 11, 1, str(path))
    assert (failure.message, failure.timestamp) == ("it broke", 12)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"other": 1}', "\x00\xff", '{"message": 5}'])
def test_a_broken_file_says_nothing_and_harms_nobody(tmp_path, content):
    path = tmp_path / "error.json"
    path.write_text(content)
    failure = ProcessFailure(0, 11, 1, str(path))
    assert failure.error_file == "<N/A>" and "enable traceback" in failure.message


def test_a_file_that_was_cut_off_says_what_it_can(tmp_path):
    path = tmp_path / "error.json"
    write(path)
    whole = path.read_text()
    path.write_text(whole[:-60])
    assert ProcessFailure(0, 11, 1, str(path)).message["message"] == "ValueError: x"


def test_a_file_with_a_strange_time(tmp_path):
    assert ProcessFailure(0, 11, 1, write(tmp_path / "e", timestamp="noon")).timestamp == 0


def test_failures_without_a_file():
    killed = ProcessFailure(0, 11, -signal.SIGKILL, "/nowhere")
    assert killed.message == "Signal 9 (SIGKILL) received by PID 11"
    assert ProcessFailure(0, 11, -200, "").signal_name() == "<N/A>"
    left = ProcessFailure(0, 11, 3, "")
    assert left.error_file_data["errorTraits"]["category"] == "system_terminated_error"
    assert "errorTraits" not in ProcessFailure(0, 11, -9, "").error_file_data, "failures share nothing"


def test_the_cause_comes_first(tmp_path):
    told = ProcessFailure(0, 10, -signal.SIGTERM, "")
    told.timestamp = 5
    later = ProcessFailure(1, 11, 1, write(tmp_path / "a", timestamp="20"))
    cause = ProcessFailure(2, 12, 1, write(tmp_path / "b", timestamp="10"))
    error = ChildFailedError("job", {0: told, 1: later, 2: cause})
    assert error.get_first_failure() == (2, cause)
    places = [str(error).index(f"rank      : {rank} ") for rank in (1, 0, 2)]
    assert places == sorted(places), "the others in their order, the root cause at the end, as torch has it"
    told.order, later.order, cause.order = 2, 0, 1  # the launcher knows better than clocks
    assert ChildFailedError("job", {0: told, 1: later, 2: cause}).get_first_failure()[0] == 1


def test_a_child_failed_error_needs_failures_and_survives_pickling():
    with pytest.raises(AssertionError):
        ChildFailedError("job", {})
    error = ChildFailedError("job", {0: ProcessFailure(0, 11, 1, "")})
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.failures) == (str(error), error.failures)


def test_the_host_is_the_one_where_it_happened():
    failure = ProcessFailure(0, 11, 1, "")
    failure.host = "far-away"
    assert "host      : far-away" in str(ChildFailedError("job", {0: failure}))


# -- with torch


@pytest.fixture
def theirs():
    from torch.distributed.elastic.multiprocessing import errors

    return errors


@pytest.mark.torch
def test_torch_reads_our_files_and_we_read_torchs(theirs, error_file):
    for writer, reader in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ValueError):
            writer.record(fail)("no luck")
        failure = reader.ProcessFailure(0, 11, 1, str(error_file))
        same = writer.ProcessFailure(0, 11, 1, str(error_file))
        assert (failure.message, failure.timestamp) == (same.message, same.timestamp)
        assert failure.message["message"] == "ValueError: no luck"


@pytest.mark.torch
def test_torch_hands_on_our_files_and_we_hand_on_torchs(theirs, tmp_path, error_file):
    for writer, nanny in ((ours, theirs), (theirs, ours)):
        error_file.unlink(missing_ok=True)
        with pytest.raises(ValueError):
            writer.record(fail)("no luck")
        child = tmp_path / "child.json"
        os.rename(error_file, child)

        @nanny.record
        def main(nanny=nanny, child=child):
            raise nanny.ChildFailedError("job", {0: nanny.ProcessFailure(0, 11, 5, str(child))})

        with pytest.raises(nanny.ChildFailedError):
            main()
        assert json.loads(error_file.read_text())["message"]["errorCode"] == 5


@pytest.mark.torch
def test_the_report_is_torchs_to_the_letter(theirs, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.getfqdn", lambda: "here")
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    monkeypatch.setattr("time.time", lambda: 1800000000.0)
    file = write(tmp_path / "error.json")
    cases = [
        {0: (0, 11, 1, file)},
        {0: (0, 11, 1, file), 5: (1, 12, -9, "/nope"), 9: (2, 13, 3, "")},
        {3: (0, 11, -11, "")},
    ]
    for case in cases:
        texts = [
            str(module.ChildFailedError("train.py", {rank: module.ProcessFailure(*f) for rank, f in case.items()}))
            for module in (ours, theirs)
        ]
        assert texts[0] == texts[1]
