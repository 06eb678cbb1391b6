"""The two kinds of events and their JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TypeAlias

__all__ = ["Event", "EventMetadataValue", "EventSource", "NodeState", "RdzvEvent"]

EventMetadataValue: TypeAlias = str | int | float | bool | None
"""What may stand in the metadata of an event."""


class EventSource(str, Enum):  # noqa: UP042  its str() is torch's
    """Who tells."""

    AGENT = "AGENT"
    WORKER = "WORKER"


@dataclass
class Event:
    """Something that happened in a run. ``timestamp`` is in milliseconds since the epoch."""

    name: str
    source: EventSource
    timestamp: int = 0
    metadata: dict[str, EventMetadataValue] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: str | Event) -> Event:
        """Read what ``serialize`` wrote. Raises TypeError, KeyError or ValueError for anything else."""
        if isinstance(data, Event):
            return data
        content = json.loads(data)
        return Event(**content | {"source": EventSource[content["source"]]})

    def serialize(self) -> str:
        """Return the event as JSON."""
        return json.dumps(asdict(self))


class NodeState(str, Enum):  # noqa: UP042  its str() is torch's
    """How far a node is in a rendezvous."""

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass
class RdzvEvent:
    """Something that happened in a rendezvous, on node ``hostname`` in process ``pid``.

    ``rank`` and ``local_id`` are the node's, ``master_endpoint`` that of the store, as far as they are
    known. ``error_trace`` is the traceback, if it is an error.
    """

    name: str
    run_id: str
    message: str
    hostname: str
    pid: int
    node_state: NodeState
    master_endpoint: str = ""
    rank: int | None = None
    local_id: int | None = None
    error_trace: str = ""

    def __str__(self) -> str:
        return self.serialize()

    @staticmethod
    def deserialize(data: str | RdzvEvent) -> RdzvEvent:
        """Read what ``serialize`` wrote. Raises TypeError, KeyError or ValueError for anything else."""
        if isinstance(data, RdzvEvent):
            return data
        content = json.loads(data)
        return RdzvEvent(**content | {"node_state": NodeState[content["node_state"]]})

    def serialize(self) -> str:
        """Return the event as JSON."""
        return json.dumps(asdict(self))
