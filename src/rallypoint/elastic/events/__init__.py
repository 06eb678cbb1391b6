"""Events: what happens in a run, as records for the ``logging`` module.

    event = Event("epoch", EventSource.WORKER, metadata={"epoch": 3})
    record(event, "console")

Destinations are ``console``, ``null``, ``dynamic_rendezvous`` (nowhere, unless somebody sets it), and the
entry points of the group ``torchrun.event_handlers``.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback

from rallypoint.elastic.events.api import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent
from rallypoint.elastic.events.handlers import get_logging_handler
from rallypoint.observe.handlers import events_logger

__all__ = [
    "Event",
    "EventMetadataValue",
    "EventSource",
    "NodeState",
    "RdzvEvent",
    "construct_and_record_rdzv_event",
    "get_logging_handler",
    "record",
    "record_rdzv_event",
]


def record(event: Event, destination: str = "null") -> None:
    """Hand ``event`` to the handler called ``destination``. Raises KeyError if there is none."""
    events_logger(destination).info(event.serialize())


def record_rdzv_event(event: RdzvEvent) -> None:
    """Hand ``event`` to the handler called ``dynamic_rendezvous``."""
    events_logger("dynamic_rendezvous").info(event.serialize())


def construct_and_record_rdzv_event(
    run_id: str,
    message: str,
    node_state: NodeState,
    name: str = "",
    hostname: str = "",
    pid: int | None = None,
    master_endpoint: str = "",
    local_id: int | None = None,
    rank: int | None = None,
) -> None:
    """Record an event of the caller's: its file and function name it unless ``name`` does.

    A FAILED one carries the exception that is being handled. Costs nothing while nobody listens.
    """
    if isinstance(get_logging_handler("dynamic_rendezvous"), logging.NullHandler):
        return
    caller = sys._getframe(1)
    event = RdzvEvent(
        name=f"{os.path.basename(caller.f_code.co_filename)}:{name or caller.f_code.co_name}",
        run_id=run_id,
        message=message,
        hostname=hostname or socket.getfqdn(),
        pid=pid or os.getpid(),
        node_state=node_state,
        master_endpoint=master_endpoint,
        rank=rank,
        local_id=local_id,
        error_trace=traceback.format_exc() if node_state == NodeState.FAILED else "",
    )
    record_rdzv_event(event)
