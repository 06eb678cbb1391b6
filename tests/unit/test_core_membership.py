"""Every state against every kind of fact."""

import pytest
from corekit import Tale, WorkerId, e, ended, failure, info, node, snapshot, view

from rallypoint.core import membership as m
from rallypoint.core.agent import Agent
from rallypoint.model.errors import IllegalTransitionError

KINDS = e.Event.__subclasses__()
SAMPLES = {
    e.Started: e.Started(),
    e.Joined: e.Joined(),
    e.Refused: e.Refused("--nnodes", "1", "2"),
    e.LeaderSeen: e.LeaderSeen("c"),
    e.ViewSeen: e.ViewSeen(view(9, members=("b",)), 99),
    e.PeerSeen: e.PeerSeen(info("c"), 3),
    e.PeerLost: e.PeerLost("c", False, "gone"),
    e.Gathered: e.Gathered(),
    e.FailureSeen: e.FailureSeen(failure()),
    e.StoreTried: e.StoreTried("h:1", "refused", 1),
    e.StoreLost: e.StoreLost("gone"),
    e.StoreBack: e.StoreBack(True, "10.0.0.1"),
    e.Serving: e.Serving(1, 4000),
    e.Spawned: e.Spawned(WorkerId(1, 0), 12),
    e.SpawnFailed: e.SpawnFailed(WorkerId(1, 0), "no"),
    e.Exited: e.Exited(WorkerId(1, 0), ended(0)),
    e.Swept: e.Swept(1),
    e.SignalReceived: e.SignalReceived(15),
    e.DeadlinePassed: e.DeadlinePassed(),
}


def out():
    return Tale().agent


def joining():
    tale = Tale()
    tale.joined()
    return tale.agent


def running():
    tale = Tale()
    tale.running()
    return tale.agent


def standby():
    tale = Tale()
    tale.joined(there=view(1, members=("b",)))
    return tale.agent


def closed():
    tale = Tale()
    tale.joined()
    tale.tell(e.SignalReceived(15))
    return tale.agent


WAYS = {m.OUT: out, m.JOINING: joining, m.IN: running, m.STANDBY: standby, m.CLOSED: closed}


def sample(kind):
    """A fact of that kind; one that is new to the model is made of nothing in particular."""
    return SAMPLES[kind] if kind in SAMPLES else kind(*[""] * len(kind._fields))


def test_table_is_total_and_names_only_what_is_there():
    assert set(m.TABLE) == {(state, kind) for state in m.STATES for kind in KINDS}
    assert all(callable(getattr(Agent, name)) for name in set(m.TABLE.values()) - {m.IGNORE, m.ILLEGAL})


@pytest.mark.parametrize("state", m.STATES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_pair(state, kind):
    agent = WAYS[state]()
    assert agent.state == state
    before = snapshot(agent)
    # Facts about workers are the group's: where no worker ever was, its own table says that they are impossible.
    impossible = m.TABLE[state, kind] is m.ILLEGAL or (kind in (e.Exited, e.Swept) and state not in (m.IN, m.CLOSED))
    impossible = impossible or (state == m.IN and kind in (e.Spawned, e.SpawnFailed, e.Swept))
    if impossible:
        with pytest.raises(IllegalTransitionError):
            agent.handle(sample(kind), 200.0)
        assert snapshot(agent) == before
    else:
        agent.handle(sample(kind), 200.0)
    if state == m.CLOSED:
        assert snapshot(agent) == before
        assert agent.handle(sample(kind), 201.0) == []


def test_a_closed_agent_ignores_what_its_last_workers_still_say():
    tale = Tale()
    tale.running()
    tale.tell(e.SignalReceived(15))
    tale.tell(e.Exited(WorkerId(1, 0), ended(signal=15)))
    assert [type(order).__name__ for order in tale.tell(e.Swept(1))] == ["Leave", "Finish"]
    assert tale.agent.state == m.CLOSED and tale.agent.wake_at() is None
    assert tale.tell(e.Swept(1), e.Spawned(WorkerId(1, 0), 11), e.ViewSeen(view(2, node.RUNNING), 9)) == []
