"""The watches of one session: a stream for each prefix, and the order in which changes and answers are told."""

from __future__ import annotations

from rallypoint.model.errors import ProtocolError
from rallypoint.store.etcd import wire
from rallypoint.store.etcd.http import Request
from rallypoint.store.messages import Changed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.store.api import Entry
    from rallypoint.store.etcd.http import Http
    from rallypoint.store.messages import Message, Watch


class Watches:
    """Tells changes, each once, none older than what has been answered, and none while a write of ours is unanswered.

    Each prefix has a connection of its own, so an answer may overtake a change that is older; that
    change is then left out. ``again(watch)`` is asked for what is there when etcd has compacted its history
    away; ``failed(reason)`` is told when a stream cannot go on.
    """

    def __init__(
        self,
        connect: Callable[[], Http],
        names: wire.Names,
        ttl: float,
        tell: Callable[[Message], None],
        again: Callable[[Watch], None],
        failed: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._names = names
        self._ttl = ttl
        self._tell = tell
        self._again = again
        self._failed = failed
        self._streams: dict[str, Http] = {}
        self._watches: dict[str, dict[int, Watch]] = {}
        self._least: dict[str, int] = {}  # key -> the smallest revision that may still be told
        self._writing = 0
        self._held: list[Entry] = []
        self._closed = False

    def known(self, key: str, revision: int) -> None:
        """Take note of what is being answered."""
        self._least[key] = max(self._least.get(key, 0), revision)

    def hold(self) -> None:
        """Begin to hold changes back, until each ``hold`` has had its ``release``."""
        self._writing += 1

    def release(self) -> None:
        self._writing -= 1
        self._deliver()

    def follow(self, watch: Watch, revision: int) -> None:
        """Tell the changes below the prefix of ``watch`` that come after ``revision``."""
        if self._closed:
            return
        self._watches.setdefault(watch.prefix, {})[watch.id] = watch
        if watch.prefix not in self._streams:
            stream = self._streams[watch.prefix] = self._connect()
            wanted = wire.below(self._names.of(watch.prefix), start_revision=str(revision + 1), prev_kv=True)
            body = wire.dumps({"create_request": wanted})
            lines = _Lines(lambda line: self._told(watch.prefix, line))
            request = Request("/v3/watch", body, self._over, lines.feed)
            stream.post(request)

    def close(self) -> None:
        self._closed = True
        self._held.clear()
        for stream in self._streams.values():
            stream.close()

    def _told(self, prefix: str, line: bytes) -> None:
        if self._closed:
            return
        try:
            answer = wire.loads(line)
            result = answer.get("result", {})
            if "error" in answer:
                self._failed(wire.error_of(200, line))
            elif int(result.get("compact_revision", 0)):
                self._compacted(prefix)
            elif result.get("canceled"):
                self._failed(f"etcd ended a watch: {result.get('cancel_reason') or 'it does not say why'}")
            else:
                self._held += wire.changes(self._names, result.get("events", []), self._ttl)
                self._deliver()
        except (KeyError, TypeError, ValueError, AttributeError, ProtocolError) as error:
            self._failed(f"what it tells of a watch is not etcd's: {error!r}")

    def _compacted(self, prefix: str) -> None:
        """What happened since is not to be had any more: see what is there, and go on from there."""
        self._streams.pop(prefix).close()
        for watch in self._watches.pop(prefix).values():
            self._again(watch)

    def _over(self, status: int, data: bytes) -> None:
        self._failed("etcd ended a watch" if status == 200 else wire.error_of(status, data))

    def _deliver(self) -> None:
        while self._held and not self._writing and not self._closed:
            entry = self._held.pop(0)
            if entry.revision >= self._least.get(entry.key, 0):
                self._least[entry.key] = entry.revision + 1
                self._tell(Changed(entry))

    def __repr__(self) -> str:
        return f"<Watches of {sorted(self._watches)}, {len(self._held)} changes held>"


class _Lines:
    """Puts the pieces of a stream together to lines."""

    def __init__(self, told: Callable[[bytes], None]) -> None:
        self._told = told
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                self._told(line)
