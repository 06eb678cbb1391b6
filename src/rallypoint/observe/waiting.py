"""What a node knows while no round runs: who is here, who is missing, what it tried, and why it may fail."""

from __future__ import annotations

from rallypoint.model.node import NodeInfo
from rallypoint.model.spec import Spec
from rallypoint.observe.wording import count, listed, one_line, ranks, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rallypoint.model.event import PeerRefused

GAPS = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Seconds from the start of the wait to the first line, then from line to line; the last one repeats."""

# (words that a reason may contain, what is probably wrong). The first match counts.
_GUESSES = (
    (
        ("resolve", "resolution", "not known", "no address associated"),
        "the name in {where} means nothing on this node: check its spelling, or give an IP address",
    ),
    (("run id", "nnodes", "version"), "another run is at {where}: every node needs the same {options} and version"),
    (
        ("connection refused",),
        "nobody hosts the store at {where}: is the first node up, and is this its address and port?",
    ),
    (
        ("timed out", "timeout", "unreachable", "no route", "no answer", "in progress"),
        "no answer from {where}: a firewall is in between, or the address is wrong",
    ),
    (
        ("listens there", "closed", "reset", "protocol", "magic", "garbage", "not a ", "no store", "broken pipe"),
        "something else than a store of this version listens at {where}: choose another port",
    ),
)
_SILENT = "nothing has answered at {where}: a firewall is in between, or something else than a store listens there"
_FEW = (
    "the missing nodes never came to this store: start each of them with the same {options}; "
    "each says itself what it tries"
)

# (words that the field of a refusal may contain, what to do about it).
_ADVICE = (
    ("run", "another run uses this endpoint: give each run a port of its own, and all nodes of one run the same id"),
    ("nnodes", "give every node the same --nnodes"),
    ("restarts", "give every node the same --max-restarts"),
    ("version", "install the same version of rallypoint on every node"),
    ("rank", "give every node a --node-rank of its own"),
)


def advice(field: str) -> str:
    """Say what to do about a refusal for ``field``; "" if there is nothing to add."""
    return next((mend for sign, mend in _ADVICE if sign in field.lower()), "")


class Waiting:
    """One wait for a round. The owner tells it what it sees; ``due`` says when the next line is to come.

    A node that leads knows its peers by their own words; any other knows those whom the view names.
    """

    def __init__(self, spec: Spec, node: str) -> None:
        self._spec = spec
        self._node = node
        self.since: float | None = None
        self.due: float | None = None
        self.lines = 0
        self.connected = False
        self.where = spec.endpoint
        self.reason = ""
        self.attempt = 0
        self.named: tuple[str, ...] = ()
        self.peers: dict[str, NodeInfo] = {}

    def start(self, at: float) -> None:
        self.since = at
        self.due = at + GAPS[0]
        self.lines = 0
        self.reason, self.attempt = "", 0

    def stop(self) -> None:
        self.since = self.due = None

    def line_said(self, now: float) -> None:
        """A line was written: plan the next one, never in the past."""
        self.lines += 1
        gap = GAPS[min(self.lines, len(GAPS) - 1)]
        self.due = max((self.due if self.due is not None else now) + gap, now)

    def tried(self, where: str, reason: str, attempt: int) -> None:
        self.connected = False
        self.where, self.reason, self.attempt = where or self.where, reason, attempt

    def lost(self, reason: str) -> None:
        self.connected = False
        self.reason, self.attempt = reason, 0

    @property
    def here(self) -> tuple[str, ...]:
        """The nodes known to be present, this one first in doubt."""
        if not self.connected:
            return ()
        return tuple(self.peers) or self.named or (self._node,)

    @property
    def missing(self) -> int:
        """How many nodes it takes to begin."""
        return max(0, self._spec.min_nodes - len(self.here))

    @property
    def missing_ranks(self) -> tuple[int, ...]:
        """With ``static``: the node ranks that nobody holds; () where this node cannot know them all."""
        if self._spec.backend != "static" or not self.connected:
            return ()
        held = {info.node_rank for info in self.peers.values()} | {self._spec.node_rank}
        absent = tuple(rank for rank in range(self._spec.max_nodes) if rank not in held)
        return absent if len(absent) == self.missing else ()

    def facts(self, now: float) -> dict[str, Any]:
        """Return the same as ``words``, for machines."""
        return {
            "seconds": round(now - (self.since if self.since is not None else now), 3),
            "connected": self.connected,
            "store": self.where,
            "reason": self.reason,
            "attempt": self.attempt,
            "here": list(self.here),
            "missing": self.missing,
            "missing_node_ranks": list(self.missing_ranks),
            "min_nodes": self._spec.min_nodes,
            "max_nodes": self._spec.max_nodes,
        }

    def words(self) -> str:
        """Say who is here and who is missing, or what is tried: one line without the time."""
        if not self.connected:
            tries = f" ({count(self.attempt, 'attempt')})" if self.attempt else ""
            guest = self._spec.backend == "static" and self._spec.node_rank > 0
            host = " of node rank 0" if guest else ""
            trying = f"trying the store{host} at {self.where or 'an unknown place'}"
            return trying + (f": {one_line(self.reason)}{tries}" if self.reason else "")
        here, wanted = self.here, self._spec.min_nodes
        at = f"; store at {self.where}" if self.where else ""
        if len(here) >= wanted:
            room = self._spec.max_nodes - len(here)
            more = f"; last call for {room} more" if room > 0 else ""
            return f"{count(len(here), 'node')} here ({listed(here)}), enough to begin{more}{at}"
        absent = f"node {ranks(self.missing_ranks)}" if self.missing_ranks else str(self.missing)
        gone = [node for node in self.named if node not in here]
        left = f" ({listed(gone)} had come and left)" if gone else ""
        return f"{len(here)} of {count(wanted, 'node')} here ({listed(here)}), {absent} missing{left}{at}"

    def guess(self) -> str:
        """Say why the wait is probably in vain; "" if nothing is known."""
        static = self._spec.backend == "static"
        options = "--master-addr, --master-port and --nnodes" if static else "--rdzv-endpoint, --rdzv-id and --nnodes"
        if self.connected:
            return _FEW.format(options=options) if self.missing else ""
        if not self.reason:
            return _SILENT.format(where=self.where)
        reason = self.reason.lower()
        for signs, meaning in _GUESSES:
            if any(sign in reason for sign in signs):
                return meaning.format(where=self.where, options=options)
        return ""

    def __repr__(self) -> str:
        state = "idle" if self.since is None else f"since {self.since:.1f}: {self.words()}"
        return f"<Waiting {state}>"


def waited(seconds: float, limit: float) -> str:
    """Return "15 s of 10 min"; only the first part once the limit is behind."""
    return f"{span(seconds)} of {span(limit)}" if seconds < limit else span(seconds)


def peer_refused(refused: PeerRefused) -> str:
    """Return the run's side of a refusal."""
    field, theirs, mine = refused.field, refused.mine, refused.theirs
    if not mine:
        return one_line(f"node {refused.node} is kept out: {field}: {theirs}", 400)
    return one_line(f"node {refused.node} was refused: {field} is {theirs!r} on it, {mine!r} in this run", 400)
