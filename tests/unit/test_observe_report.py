"""The failure report: what people read last, and that machines are told the same."""

import json

import pytest

from rallypoint.model.result import Failure, Outcome, WorkerError
from rallypoint.model.spec import Spec
from rallypoint.observe.report import HEAD, TAIL, failure_report, report_json

SPEC = Spec(("python", "train.py"), {}, run_id="digits", max_restarts=3)
STARTED, ENDED = 1_700_000_000.0, 1_700_000_012.4

TRACEBACK = """\
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
  File "train.py", line 5, in main
    raise ValueError("bad input")
ValueError: bad input"""

CAUSE = Failure(
    "worker",
    2,
    "host1:40:ab",
    "host1",
    "exit code 1",
    1,
    rank=2,
    local_rank=0,
    pid=4711,
    error=WorkerError("ValueError", "bad input", TRACEBACK),
    last_lines=("epoch 3", "epoch 4"),
    error_file="/tmp/run/error.json",
)
PEER = Failure(
    "worker",
    2,
    "host2:41:cd",
    "host2",
    "exit code 1",
    1,
    rank=3,
    local_rank=1,
    pid=99,
    error=WorkerError("RuntimeError", "Connection closed by peer"),
    order=1,
    consequence=True,
)


def report(*failures, status="failed", code=1, **more):
    outcome = Outcome(status, code, failures=failures, rounds=2, restarts=1, **more)
    return failure_report(outcome, SPEC, STARTED, ENDED)


def test_the_cause_first_the_rest_in_a_line_each_the_traceback_last():
    assert report(CAUSE, PEER) == (
        "rallyrun: the run failed: rank 2 (local 0) on host1, pid 4711: ValueError: bad input (exit code 1)\n"
        "rallyrun: failed as well:\n"
        "  rank 3 (local 1) on host2, pid 99: RuntimeError: Connection closed by peer (exit code 1) [consequence]\n"
        "rallyrun: run digits, round 2, 1 of 3 restarts used, 12.4 s after the start\n"
        "rallyrun: error file: /tmp/run/error.json\n"
        "rallyrun: traceback of rank 2 (local 0) on host1, pid 4711:\n"
        f"{TRACEBACK}\n"
        "rallyrun: exit code 1, from rank 2 on host1\n"
    )


@pytest.mark.parametrize("others", [0, 1, 7, 8, 100, 1000])
def test_the_last_30_lines_show_traceback_host_and_rank(others):
    long = "\n".join(f'  File "a.py", line {n}' for n in range(24)) + "\nValueError: bad input"
    cause = CAUSE.replace(error=WorkerError("ValueError", "bad input", long))
    lines = report(cause, *(PEER.replace(rank=10 + n) for n in range(others))).splitlines()
    last = "\n".join(lines[-30:])
    assert long in last
    assert "rank 2 (local 0) on host1, pid 4711" in last
    assert len(lines) <= 1 + 10 + 3 + 25 + 1
    assert ("and 92 more" in "\n".join(lines)) == (others == 100)


def test_other_causes_come_before_consequences():
    lines = report(CAUSE, PEER, PEER.replace(rank=7, consequence=False)).splitlines()
    assert lines[2].startswith("  rank 7")
    assert lines[3].startswith("  rank 3")


def test_a_long_traceback_is_cut_in_the_middle_and_says_where_the_rest_is():
    lines = [f"line {n}" for n in range(200)]
    text = report(CAUSE.replace(error=WorkerError("E", "m", "\n".join(lines)))).splitlines()
    start = text.index("line 0")
    assert text[start : start + HEAD] == lines[:HEAD]
    assert text[start + HEAD] == "... 150 lines left out (all of it: /tmp/run/error.json) ..."
    assert text[start + HEAD + 1 : -1] == lines[-TAIL:]


def test_a_traceback_just_above_the_limit_stays_whole():
    whole = "\n".join(f"line {n}" for n in range(HEAD + TAIL + 2))
    assert whole in report(CAUSE.replace(error=WorkerError("E", "m", whole)))


def test_without_a_traceback_the_last_lines_of_output():
    failure = CAUSE.replace(error=None, words="exit code 3", error_file="", last_lines=("one", "\x1b[31mtwo\x1b[0m"))
    assert report(failure, code=3) == (
        "rallyrun: the run failed: rank 2 (local 0) on host1, pid 4711: exit code 3\n"
        "rallyrun: run digits, round 2, 1 of 3 restarts used, 12.4 s after the start\n"
        "rallyrun: last lines of rank 2 (local 0) on host1, pid 4711:\n"
        "  one\n"
        "  two\n"
        "rallyrun: exit code 3, from rank 2 on host1\n"
    )


def test_a_message_of_several_lines_is_whole_even_without_a_traceback():
    text = report(CAUSE.replace(error=WorkerError("Error", "first\nsecond"), last_lines=()))
    assert "Error: first ... (exit code 1)" in text
    assert "\nfirst\nsecond\n" in text


def test_sigkill_without_evidence_blames_nobody():
    killed = CAUSE.replace(error=None, words="SIGKILL", signal=9, status=137, last_lines=())
    text = report(killed, code=137)
    assert "pid 4711: SIGKILL\n" in text
    assert "OOM" not in text
    assert "who sent SIGKILL" in text
    assert text.endswith("exit code 137, from rank 2 on host1\n")


def test_sigkill_with_evidence_needs_no_guess():
    words = "SIGKILL (cgroup memory.max of 2.0 GiB reached)"
    text = report(CAUSE.replace(error=None, words=words, signal=9, status=137), code=137)
    assert words in text
    assert "who sent" not in text


def test_a_lost_node_has_no_rank():
    lost = Failure("node", 1, "h2:1:aa", "h2", "unheard of for 15.0 s", 70)
    assert report(lost, code=70).startswith("rallyrun: the run failed: node h2:1:aa: unheard of for 15.0 s\n")


@pytest.mark.parametrize("status", ["succeeded", "stopped", "timeout", "refused", "error"])
def test_no_failure_no_report(status):
    assert failure_report(Outcome(status, 1), SPEC, STARTED, ENDED) == ""


def test_failed_without_a_failure_tells_the_reason():
    text = failure_report(Outcome("failed", 70, "the view was closed"), SPEC, STARTED, ENDED)
    assert text == "rallyrun: the run failed: the view was closed\nrallyrun: exit code 70\n"


def test_a_failure_before_a_time_out_is_still_reported():
    assert report(CAUSE, status="timeout", code=75).startswith("rallyrun: the run gave up after a failure: rank 2")


def test_json_has_the_whole_of_it():
    facts = report_json(Outcome("failed", 1, failures=(CAUSE, PEER), rounds=2, restarts=1), SPEC, STARTED, ENDED)
    assert json.loads(json.dumps(facts)) == facts
    assert (facts["run_id"], facts["status"], facts["exit_code"], facts["seconds"]) == ("digits", "failed", 1, 12.4)
    assert (facts["started"], facts["ended"]) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:32.400Z")
    cause = facts["cause"]
    assert (cause["rank"], cause["local_rank"], cause["host"], cause["pid"]) == (2, 0, "host1", 4711)
    assert (cause["type"], cause["message"], cause["traceback"]) == ("ValueError", "bad input", TRACEBACK)
    assert cause["last_lines"] == ["epoch 3", "epoch 4"]
    assert [other["consequence"] for other in facts["others"]] == [True]


def test_what_the_text_says_the_json_says_too():
    outcome = Outcome("failed", 1, failures=(CAUSE, PEER), rounds=2, restarts=1)
    text, facts = failure_report(outcome, SPEC, STARTED, ENDED), report_json(outcome, SPEC, STARTED, ENDED)
    for failure in (facts["cause"], *facts["others"]):
        assert failure["summary"] in text
        assert failure["summary"] == f"{failure['place']}: {failure['headline']}"
        assert failure["headline"] == f"{failure['type']}: {failure['message']} ({failure['words']})"
    for value in (facts["cause"]["traceback"], facts["cause"]["error_file"], f"exit code {facts['exit_code']}"):
        assert value in text


def test_without_failures_json_has_no_cause():
    facts = report_json(Outcome("stopped", 143, signal=15), SPEC, STARTED, ENDED)
    assert (facts["cause"], facts["others"], facts["signal"]) == (None, [], "SIGTERM")
