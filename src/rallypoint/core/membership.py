"""Membership of this node in the run: which facts are possible in which state.

OUT      not announced: looking for the store, or fenced off
JOINING  announced, waiting for a round
IN       in the roster of the running round (its workers are starting, up, or being stopped)
STANDBY  a round runs without us; we wait to step in
CLOSED   the run is over here; whatever still arrives is ignored

The agent notes a fact by the method named here; ``Agent._advance`` alone changes the state.
"""

from __future__ import annotations

from rallypoint.model.event import (
    DeadlinePassed,
    Event,
    Exited,
    FailureSeen,
    Gathered,
    Joined,
    LeaderSeen,
    PeerLost,
    PeerRefused,
    PeerSeen,
    Prepared,
    Refused,
    Serving,
    SignalReceived,
    Spawned,
    SpawnFailed,
    Started,
    StoreBack,
    StoreLost,
    StoreTried,
    Swept,
    ViewSeen,
)

OUT = "OUT"
JOINING = "JOINING"
IN = "IN"
STANDBY = "STANDBY"
CLOSED = "CLOSED"
STATES = (OUT, JOINING, IN, STANDBY, CLOSED)

IGNORE = "IGNORE"
ILLEGAL = "ILLEGAL"

_LIVE = (OUT, JOINING, IN, STANDBY)

# Facts that mean the same in every state but CLOSED.
_EVERYWHERE: dict[type[Event], str] = {
    StoreBack: "_store_back",
    StoreLost: "_store_lost",
    StoreTried: IGNORE,
    Serving: "_serving_seen",
    Joined: IGNORE,
    Refused: "_refused",
    LeaderSeen: "_leader_seen",
    ViewSeen: "_view_seen",
    PeerSeen: "_peer_seen",
    PeerLost: "_peer_lost",
    FailureSeen: "_failure_seen",
    Gathered: "_gathered",
    PeerRefused: IGNORE,
    Prepared: "_prepared",
    SignalReceived: "_signal_received",
    DeadlinePassed: "_deadline",
}

TABLE: dict[tuple[str, type[Event]], str] = {(s, e): a for s in _LIVE for e, a in _EVERYWHERE.items()}
TABLE |= {
    (OUT, Started): "_started",
    (JOINING, Started): ILLEGAL,
    (IN, Started): ILLEGAL,
    (STANDBY, Started): ILLEGAL,
}
_WORKER_FACTS: tuple[type[Event], ...] = (Spawned, SpawnFailed, Exited, Swept)
# Facts about workers are the group's (it has a table of its own); IGNORE here lets them through to it.
# Without workers only the late end of one that had been given up as stuck is possible.
TABLE |= {(s, e): IGNORE for s in (OUT, JOINING, STANDBY) for e in _WORKER_FACTS[2:]}
TABLE |= {(s, e): ILLEGAL for s in (OUT, JOINING, STANDBY) for e in _WORKER_FACTS[:2]}
TABLE |= {(IN, e): IGNORE for e in _WORKER_FACTS}
_ALL: tuple[type[Event], ...] = (Started, *_EVERYWHERE, *_WORKER_FACTS)
TABLE |= {(CLOSED, e): IGNORE for e in _ALL}
