"""The parts that messages are made of: words, one message, the wait, the workers, the story."""

import json

import pytest

from rallypoint.model.event import Exited, Spawned, Started, Swept
from rallypoint.model.node import NodeInfo, Roster, View
from rallypoint.model.result import Exit, Failure, Outcome, WorkerId
from rallypoint.model.spec import Spec
from rallypoint.observe.message import Message, as_json, as_text
from rallypoint.observe.summary import Story
from rallypoint.observe.waiting import Waiting, advice
from rallypoint.observe.wording import count, listed, moment, one_line, ranks, safe, span
from rallypoint.observe.workers import Workers


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (0.04, "0 s"),
        (5, "5 s"),
        (12.44, "12.4 s"),
        (99.94, "99.9 s"),
        (99.96, "1 min 40 s"),
        (120, "2 min"),
        (600, "10 min"),
        (7199.6, "120 min"),
        (7200, "2 h"),
        (7560, "2 h 6 min"),
    ],
)
def test_span(seconds, words):
    assert span(seconds) == words


def test_counts_lists_and_ranks():
    assert (count(1, "node"), count(0, "node"), count(3, "node")) == ("1 node", "0 nodes", "3 nodes")
    assert listed("abcde", 3) == "a, b, c and 2 more"
    assert listed("abc", 3) == "a, b, c"
    assert (ranks([3]), ranks([1, 0]), ranks([5, 0, 1])) == ("rank 3", "ranks 0-1", "ranks 0-1, 5")


def test_text_made_safe():
    assert safe("a\tb") == "a\tb"
    assert safe("\x1b[1;31mred\x1b[0m") == "red"
    assert safe("\x07\udc80\r") == "\\x07\\udc80\\r"
    assert one_line("\n\n first \nsecond") == " first ..."
    assert one_line("only\n") == "only"
    assert one_line("") == one_line("\n \n") == ""
    assert len(one_line("x" * 500)) == 200


def test_moment_carries_its_milliseconds():
    assert moment(0.9996) == "1970-01-01T00:00:01.000Z"
    assert moment(1.25) == "1970-01-01T00:00:01.250Z"


def test_a_message_in_both_forms():
    message = Message("formed", "one\ntwo", "info", 1, 0, {"n": 1})
    assert as_text(message) == "rallyrun: one\nrallyrun: two\n"
    line = as_json(message, 1.5, 0.0, "run", "h1")
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000Z",
        "monotonic": 1.5,
        "level": "info",
        "event": "formed",
        "run_id": "run",
        "node": "h1",
        "message": "one\ntwo",
        "fields": {"n": 1},
    }
    assert [message.wanted(v, machine) for v, machine in ((0, False), (1, False), (0, True))] == [False, True, True]
    assert not message.replace(machine_detail=-1).wanted(0, True)


def spec(**changes):
    base = Spec(("x",), {}, min_nodes=2, max_nodes=2, backend="tcp", endpoint="h1:29400")
    return base.replace(**changes)


def test_a_wait_without_contact_knows_nobody():
    wait = Waiting(spec(), "me")
    assert wait.here == ()
    assert wait.words() == "trying the store at h1:29400"
    assert wait.guess().startswith("nothing has answered at h1:29400: ")
    assert repr(wait) == "<Waiting idle>"
    wait.start(1.0)
    assert "since 1.0" in repr(wait)


def test_a_wait_prefers_what_the_nodes_say_themselves():
    wait = Waiting(spec(), "me")
    wait.connected = True
    assert (wait.here, wait.missing) == (("me",), 1)
    wait.named = ("me", "b")
    assert (wait.here, wait.missing) == (("me", "b"), 0)
    wait.peers["c"] = NodeInfo("c", "c", "", 1)
    assert wait.here == ("c",)


def test_static_ranks_are_named_only_if_they_are_certain():
    wait = Waiting(spec(backend="static", min_nodes=3, max_nodes=3, node_rank=1), "me")
    wait.connected = True
    assert wait.missing_ranks == (0, 2)
    wait.named = ("me", "other")  # one of 0 and 2 is here, and we cannot know which
    assert wait.missing_ranks == ()
    assert "2 of 3 nodes here (me, other), 1 missing" in wait.words()


def test_the_guess_names_the_options_of_the_backend():
    wait = Waiting(spec(), "me")
    wait.connected = True
    assert "--rdzv-endpoint, --rdzv-id and --nnodes" in wait.guess()
    static = Waiting(spec(backend="static", node_rank=0), "me")
    static.connected = True
    assert "--master-addr, --master-port and --nnodes" in static.guess()


def test_a_reason_nobody_knows_gets_no_guess():
    wait = Waiting(spec(), "me")
    wait.tried("h1:1", "the moon is full", 3)
    assert wait.guess() == ""


def test_advice_on_refusals():
    assert "--nnodes" in advice("--nnodes")
    assert "same version" in advice("version")
    assert "--node-rank" in advice("node rank")
    assert "port of its own" in advice("run id")
    assert advice("colour") == ""


def test_workers_are_counted_and_forgotten():
    workers, worker = Workers(), WorkerId(1, 0)
    assert workers.tell(Started()) is None
    assert workers.tell(Swept(1)) is None
    workers.tell(Spawned(worker, 7))
    assert len(workers) == 1
    assert workers.tell(Exited(worker, Exit(7, 0))).text == "worker 0 of round 1 ended, pid 7: exit code 0"
    assert repr(workers) == "<Workers 0 running, 0 ordered>"


def view(number, *members, **more):
    return View(number, "running", Roster(members, (1,) * len(members), ("default",) * len(members)), **more)


def failed(number, rank):
    return Failure("worker", number, "a", "h1", "exit code 1", 1, rank=rank, local_rank=rank)


def test_the_story_of_an_eventful_run():
    story = Story()
    story.begin(10.0)
    story.formed(view(1, "a", "b"), 11.0)
    first, second = failed(1, 0), failed(2, 1)
    assert story.failed(first, 14.0)
    assert not story.failed(first.replace(order=4, consequence=True), 15.0)
    assert story.restarted(view(2, restarts=1), first, 16.0).number == 1
    assert story.restarted(view(2, restarts=1), first, 17.0) is None
    change = story.formed(view(2, "a", "c"), 18.0)
    assert (change.joined, change.left) == (("c",), ("b",))
    assert story.failed(second, 19.0)
    story.restarted(view(3, restarts=2), second, 20.0)
    story.formed(view(3, "a", "c"), 21.0)
    assert story.words(Outcome("succeeded", 0), 30.0) == (
        "finished after 2 restarts (rank 0 on h1: exit code 1 at 4 s, rank 1 on h1: exit code 1 at 9 s) "
        "and 1 membership change (joined: c; left: b at 8 s); 3 rounds, 2 nodes, 2 workers, 20 s"
    )
    facts = json.loads(json.dumps(story.facts(30.0)))
    assert [r["seconds"] for r in facts["restarts"]] == [4.0, 9.0]
    assert facts["changes"] == [{"round": 2, "seconds": 8.0, "joined": ["c"], "left": ["b"]}]
    assert (facts["rounds"], facts["nodes"], facts["world_size"], facts["seconds"]) == (3, ["a", "c"], 2, 20.0)


def test_the_story_of_a_hundred_restarts_stays_one_line():
    story = Story()
    story.formed(view(1, "a"), 0.0)
    for number in range(1, 101):
        story.restarted(view(number + 1, restarts=number), failed(number, 0), float(number))
    words = story.words(Outcome("failed", 1), 200.0)
    assert words.startswith("failed after 100 restarts (")
    assert " and 95 more); " in words
    assert len(words) < 300


def test_a_story_without_a_round():
    story = Story()
    assert story.words(Outcome("failed", 1), 3.0) == "failed: 0 s"
    assert not story.eventful
    assert repr(story) == "<Story 0 rounds, 0 restarts, 0 changes>"
