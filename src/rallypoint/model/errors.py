"""The error tree. Every error says whose fault it is, carries its facts, and words itself.

RallypointError
  UsageError        the user's: a wrong option, value or environment variable
  RefusedError      the run's: this node does not fit the run that it wants to join
  StoreError        the store's: it cannot be reached, or answers what it should not
  ProtocolError     a peer's: bytes that are no message of ours (the connection is dropped)
  IllegalTransitionError  Rallypoint's own: an event that cannot happen in this state
"""

from __future__ import annotations

from rallypoint.model import exits


class RallypointError(Exception):
    """Base of all errors of Rallypoint. ``exit_code`` is what ``rallyrun`` ends with."""

    exit_code = exits.LAUNCHER_ERROR


class UsageError(RallypointError):
    """One sentence: the option (or variable) named as the user wrote it, its value, what is allowed."""

    exit_code = exits.USAGE

    def __init__(self, where: str, value: object, allowed: str) -> None:
        super().__init__(where, value, allowed)
        self.where = where
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.where}: {self.value!r} is not usable: {self.allowed}"


class RefusedError(RallypointError):
    """``field`` differs: it is ``mine`` on this node and ``theirs`` in the run at ``where``."""

    exit_code = exits.REFUSED

    def __init__(self, where: str, field: str, mine: object, theirs: object) -> None:
        super().__init__(where, field, mine, theirs)
        self.where = where
        self.field = field
        self.mine = mine
        self.theirs = theirs

    def __str__(self) -> str:
        if not self.theirs:
            return f"kept out of the run at {self.where}: {self.field}: {self.mine}"
        return f"refused by the run at {self.where}: {self.field} is {self.mine!r} here, {self.theirs!r} there"


class StoreError(RallypointError):
    """The store at ``where`` failed: ``reason``."""

    exit_code = exits.RENDEZVOUS_TIMEOUT

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return f"store at {self.where}: {self.reason}"


class ProtocolError(RallypointError):
    """A peer sent what is no message of ours; ``reason`` says what was wrong with it."""


class IllegalTransitionError(RallypointError):
    """``event`` is not possible in ``state``; the machine that raises this has not changed."""

    def __init__(self, machine: str, state: object, event: object) -> None:
        super().__init__(machine, state, event)
        self.machine = machine
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"{self.machine} in state {self.state}: {self.event!r} is not possible here"
