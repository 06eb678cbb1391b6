"""One life of the connection to one member of etcd: from the handshake to the loss, requests to answers."""

from __future__ import annotations

import math

from rallypoint import __version__
from rallypoint.model.errors import ProtocolError
from rallypoint.model.value import Value
from rallypoint.store.etcd import wire
from rallypoint.store.etcd.http import Http, Request
from rallypoint.store.etcd.watches import Watches
from rallypoint.store.messages import Answer, Lease, Listing, Read, Swap, Watch, Welcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from rallypoint.model.reactor import Reactor, Timer
    from rallypoint.store.etcd.http import Place
    from rallypoint.store.messages import Message

else:
    Protocol = object

BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, ProtocolError)
"""What reading an answer may raise if it is not what etcd sends."""
TOO_LARGE = ("request is too large", "larger than max")


class Terms(Value):
    """What a node brings: ``ttl`` and ``interval`` (of renewing) in seconds, ``name`` a secret one of its session."""

    names: wire.Names
    name: str
    ttl: float
    interval: float
    user: str = ""
    password: str = ""


class Leases(Value):
    """The session's own lease and the run's, both made by etcd."""

    mine: int
    run: int


class SessionUser(Protocol):
    """Whom a session tells. After ``session_refused`` or ``session_ended`` nothing follows."""

    def session_up(self, welcome: Welcome, address: str) -> None: ...

    def session_told(self, message: Message) -> None: ...

    def session_refused(self, field: str, mine: str, theirs: str) -> None: ...

    def session_ended(self, reason: str) -> None: ...


class Session:
    """Signs on at ``place`` with the ``leases`` of before, if there are any and they still live.

    ``leases`` are those to go on with, ``renewed`` when ours was asked for last (reactor time; 0: never here).
    """

    def __init__(self, reactor: Reactor, user: SessionUser, place: Place, terms: Terms, leases: Leases | None) -> None:
        self.leases = leases
        self.renewed = 0.0
        self._reactor = reactor
        self._user = user
        self._terms = terms
        self._ended = False
        self._resumed = False
        self._timer: Timer | None = None
        self._run_due = 0.0
        self._patience = max(1.0, terms.ttl / 3)
        self._http = Http(reactor, place, self._patience, self._end)
        self._watches = Watches(
            lambda: self._another(place), terms.names, terms.ttl, user.session_told, self._list, self._end
        )
        if terms.user:
            login = {"name": terms.user, "password": terms.password}
            self._ask("/v3/auth/authenticate", login, self._logged_in)
        else:
            self._begin()

    # The handshake

    def _logged_in(self, answer: wire.Part) -> None:
        self._http.headers = [("Authorization", str(answer["token"]))]
        self._begin()

    def _begin(self) -> None:
        if self.leases is None:
            ttl = math.ceil(self._terms.ttl)
            self._ask("/v3/lease/grant", {"TTL": str(ttl)}, self._granted)
        else:
            self._renew()

    def _granted(self, answer: wire.Part) -> None:
        self.leases = Leases(int(answer["ID"]), 0)
        self.renewed = self._http.sent
        self._enter()

    def _enter(self) -> None:
        """Write that we are here, if the run has a lease; see who was first, and what the run's lease is.

        With the leases of before only the last of these is wanted. That is no transaction: an etcd that is full
        (3.5) refuses even those that only read.
        """
        assert self.leases is not None
        names = self._terms.names
        if self._resumed:
            self._ask("/v3/kv/range", wire.get(names.keep)["request_range"], self._back)
            return
        oldest = wire.below(names.sessions, limit="1", sort_target="CREATE", sort_order="ASCEND")
        here = wire.put(names.sessions + self._terms.name.encode(), __version__, self.leases.mine)
        there = wire.is_absent(names.keep) | {"result": "GREATER"}
        inside = [here, {"request_range": oldest}, wire.get(names.keep)]
        self._ask("/v3/kv/txn", wire.either([there], inside, []), self._entered)

    def _back(self, answer: wire.Part) -> None:
        if answer.get("kvs"):
            self._up(answer["kvs"][0], answer)
        else:
            self._start_anew("the run's keys are gone")

    def _entered(self, answer: wire.Part) -> None:
        assert self.leases is not None
        if not answer.get("succeeded"):
            self._ask("/v3/lease/grant", {"TTL": str(wire.KEEP)}, self._keep)
            return
        *_, oldest, keep = answer["responses"]
        first = wire.value(oldest["response_range"]["kvs"][0])
        if first != __version__:
            self._refuse("the version of Rallypoint", __version__, str(first))
            return
        self._up(keep["response_range"]["kvs"][0], answer)

    def _up(self, keep: wire.Part, answer: wire.Part) -> None:
        """``keep`` is the key that has the run's lease; ``answer`` the last one, which tells where etcd stands."""
        assert self.leases is not None
        self.leases = self.leases.replace(run=int(keep["lease"]))
        self._schedule()
        cluster = int(answer["header"]["cluster_id"])
        welcome = Welcome(wire.revision_of(answer), cluster, self._resumed, wire.time_of(self._http.date))
        self._user.session_up(welcome, self._http.local_address)

    def _keep(self, answer: wire.Part) -> None:
        """Nobody was here: found the run, unless somebody else has in the meantime."""
        keep = self._terms.names.keep
        found = wire.either([wire.is_absent(keep)], [wire.put(keep, 1, int(answer["ID"]))], [])
        self._ask("/v3/kv/txn", found, lambda _answer: self._enter())

    def _refuse(self, field: str, mine: str, theirs: str) -> None:
        assert self.leases is not None
        self._ended = True
        self._ask("/v3/lease/revoke", {"ID": str(self.leases.mine)}, lambda _answer: self._release())
        self._user.session_refused(field, mine, theirs)

    # Staying alive

    def _schedule(self) -> None:
        self._timer = self._reactor.call_at(self._reactor.now() + self._terms.interval, self._tick)

    def _tick(self) -> None:
        assert self.leases is not None
        now = self._reactor.now()
        if now >= self._run_due:
            self._run_due = now + wire.KEEP / 4
            self._ask("/v3/lease/keepalive", {"ID": str(self.leases.run)}, self._run_renewed, first=True)
        self._renew()
        self._schedule()

    def _renew(self) -> None:
        assert self.leases is not None
        self._ask("/v3/lease/keepalive", {"ID": str(self.leases.mine)}, self._renewed, first=True)

    def _renewed(self, answer: wire.Part) -> None:
        assert self.leases is not None
        alive = int(answer.get("result", {}).get("TTL", 0)) > 0
        if not alive:
            self._start_anew("etcd let our lease end")
            return
        # It counts from the request: etcd may have been slow to answer.
        self.renewed = self._http.sent
        if self._timer is None:
            self._resumed = True
            self._enter()

    def _run_renewed(self, answer: wire.Part) -> None:
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            self._start_anew("etcd let the run's lease end")

    def _start_anew(self, reason: str) -> None:
        self.leases = None
        self._end(reason)

    # Requests

    def carry(self, message: Message) -> None:
        """Send a request of ``store.messages``; its answer comes by ``session_told``, in the order of the requests."""
        assert self.leases is not None
        names, mine, run = self._terms.names, self.leases.mine, self.leases.run
        if isinstance(message, Watch):
            self._list(message)
        elif isinstance(message, Read):
            request = wire.below(names.of(message.prefix))
            self._ask("/v3/kv/range", request, lambda answer: self._read(message, answer))
        elif isinstance(message, Swap):
            part = wire.swap(names, message.key, message.expected, message.value, mine, run)
            self._write(message, part, writes=message.value is not None)
        elif isinstance(message, Lease) and message.ttl > 0:
            self._write(message, wire.lease(names, message.key, message.value, mine, run), writes=True)
        elif isinstance(message, Lease):
            reason = message.value if isinstance(message.value, str) else ""
            self._write(message, wire.give_back(names, message.key, reason, mine, run), writes=False)

    def _list(self, watch: Watch) -> None:
        request = wire.below(self._terms.names.of(watch.prefix))
        self._ask("/v3/kv/range", request, lambda answer: self._listed(watch, answer))

    def _listed(self, watch: Watch, answer: wire.Part) -> None:
        found = wire.entries(self._terms.names, answer.get("kvs", []))
        revision = wire.revision_of(answer)
        for entry in found:
            self._watches.known(entry.key, entry.revision)
        self._watches.follow(watch, revision)
        self._user.session_told(Listing(watch.id, revision, found))

    def _read(self, read: Read, answer: wire.Part) -> None:
        found = wire.entries(self._terms.names, answer.get("kvs", []))
        for entry in found:
            self._watches.known(entry.key, entry.revision)
        self._user.session_told(Answer(read.id, True, wire.revision_of(answer), entries=found))

    def _write(self, message: Swap | Lease, part: wire.Part, *, writes: bool) -> None:
        self._watches.hold()
        self._ask(
            "/v3/kv/txn",
            part,
            lambda answer: self._written(message, wire.Done(self._terms.names, answer, writes=writes)),
            refused=lambda error: self._denied(message, error),
        )

    def _written(self, message: Swap | Lease, done: wire.Done) -> None:
        if done.there is not None:
            self._watches.known(done.there.key, done.there.revision)
        elif done.ok:
            self._watches.known(message.key, done.revision)
        self._user.session_told(Answer(message.id, done.ok, done.revision, done.there, created=done.created))
        self._watches.release()

    def _denied(self, message: Swap | Lease, error: str) -> None:
        if any(words in error for words in TOO_LARGE):
            self._user.session_told(Answer(message.id, False, 0, error=f"the value is too large: {error}"))
            self._watches.release()
        else:
            self._end(error)

    def _ask(
        self,
        path: str,
        body: wire.Part,
        done: Callable[[wire.Part], None],
        *,
        first: bool = False,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        def answered(status: int, data: bytes) -> None:
            try:
                if status == 200:
                    done(wire.loads(data))
                else:
                    (refused or self._end)(wire.error_of(status, data))
            except BROKEN as error:
                self._end(f"its answer to {path} is not etcd's: {error!r}")

        self._http.post(Request(path, wire.dumps(body), answered), first)

    def _another(self, place: Place) -> Http:
        """Return one more connection to the same member."""
        http = Http(self._reactor, place, self._patience, self._end)
        http.headers = self._http.headers
        return http

    # The end

    def close(self, limit: float) -> None:
        """Send what waits, give everything back and wait for it, at most ``limit`` seconds. Nobody is told of it."""
        if self._ended:
            return
        self._ended = True
        self._watches.close()
        if self._timer is not None and self.leases is not None:
            mine = {"ID": str(self.leases.mine)}
            self._ask("/v3/lease/timetolive", mine | {"keys": True}, self._give_back, refused=_unheeded)
            end = self._reactor.now() + limit
            while self._http.busy and (left := end - self._reactor.now()) > 0:
                self._http.wait(left)
        self._release()

    def _give_back(self, answer: wire.Part) -> None:
        """Say of each key of ours that we leave; end the session; the last one out takes the run's keys away."""
        assert self.leases is not None
        names, mine, run = self._terms.names, self.leases.mine, self.leases.run
        for key in names.leased(answer):
            part = wire.give_back(names, key, "closed", mine, run)
            self._ask("/v3/kv/txn", part, _ignored, refused=_unheeded)
        self._ask("/v3/lease/revoke", {"ID": str(mine)}, _ignored, refused=_unheeded)
        everything = wire.delete(names.base, wire.end_of(names.base))
        nobody = wire.either([wire.none_below(names.sessions)], [everything], [])
        self._ask("/v3/kv/txn", nobody, _ignored, refused=_unheeded)

    def drop(self) -> None:
        """Vanish without a goodbye, as a node that dies (for tests)."""
        self._ended = True
        self._release()

    def _end(self, reason: str) -> None:
        if not self._ended:
            self._ended = True
            self._release()
            self._user.session_ended(reason)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._watches.close()
        self._http.close()

    def __repr__(self) -> str:
        state = "ended" if self._ended else "up" if self._timer is not None else "signing on"
        return f"<Session {state}, {self._http!r}>"


def _ignored(_answer: wire.Part) -> None:
    """Leaving heeds no answer."""


def _unheeded(_error: str) -> None:
    """Nor a refusal."""
