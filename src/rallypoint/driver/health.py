"""Says over HTTP that this launcher lives: on TORCHELASTIC_HEALTH_CHECK_PORT, from before rendezvous to the end.

It answers from the one loop. So an answer means that the loop turns; a launcher that hangs does not answer.
"""

from __future__ import annotations

import json
import socket

from rallypoint.driver.services import HEALTH_PORT
from rallypoint.model import event as events
from rallypoint.net import Listener, Stream, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rallypoint.model.order import Decision
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.spec import Spec

PATHS = (b"/", b"/health", b"/healthz")
LIMIT = 8192
"""Bytes of a request; a prober sends some hundred."""
PATIENCE = 10.0
"""Seconds for a request to arrive whole."""
CLIENTS = 64
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


def open_health(spec: Spec, reactor: Reactor, warn: Callable[[str], None]) -> Health | None:
    """Serve where the environment says; None if it says nothing, or nothing that works (told to ``warn``)."""
    text = spec.environ.get(HEALTH_PORT, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        warn(f"{HEALTH_PORT}={text} is no port: there is no health check")
        return None
    try:
        sock = listen("::" if socket.has_dualstack_ipv6() else "0.0.0.0", int(text))
    except OSError as error:
        warn(f"{HEALTH_PORT}={text}: there is no health check ({error.strerror})")
        return None
    return Health(reactor, sock, spec.run_id)


class Health:
    """Answers GET and HEAD of /, /health and /healthz. An observer: call it with every decision."""

    def __init__(self, reactor: Reactor, sock: socket.socket, run_id: str) -> None:
        self._reactor = reactor
        self._facts: dict[str, object] = {"status": "alive", "run_id": run_id, "round": 0, "phase": "joining"}
        self._workers = 0
        self._clients: set[_Client] = set()
        self._listener = Listener(reactor, sock, self._accept)
        self.port = self._listener.port

    def __call__(self, decision: Decision) -> None:
        event = decision.event
        if isinstance(event, events.ViewSeen) and event.view is not None:
            self._facts |= {"round": event.view.round, "phase": event.view.phase, "restarts": event.view.restarts}
        elif isinstance(event, events.Spawned):
            self._workers += 1
        elif isinstance(event, events.Exited):
            self._workers -= 1

    def close(self) -> None:
        self._listener.close()
        for client in tuple(self._clients):
            client.close()

    def _accept(self, sock: socket.socket) -> None:
        if len(self._clients) >= CLIENTS:
            sock.close()
            return
        self._clients.add(_Client(self._reactor, sock, self._answer, self._clients.discard))

    def _answer(self, method: bytes, path: bytes) -> tuple[int, bytes]:
        if path.partition(b"?")[0] not in PATHS:
            return 404, b"{}\n"
        if method not in (b"GET", b"HEAD"):
            return 405, b"{}\n"
        return 200, json.dumps(self._facts | {"workers": self._workers}).encode() + b"\n"

    def __repr__(self) -> str:
        return f"<Health at {self._listener!r}, {len(self._clients)} clients>"


class _Client:
    """One connection: one request, one answer."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        answer: Callable[[bytes, bytes], tuple[int, bytes]],
        gone: Callable[[_Client], None],
    ) -> None:
        self._answer = answer
        self._gone = gone
        self._request = b""
        self._stream = Stream(reactor, sock, self._received, lambda _reason: self.close())
        self._timer = reactor.call_at(reactor.now() + PATIENCE, self.close)

    def close(self) -> None:
        self._timer.cancel()
        self._stream.close(flush=True)
        self._gone(self)

    def _received(self, data: bytes) -> None:
        self._request += data
        if b"\r\n\r\n" not in self._request and b"\n\n" not in self._request:
            if len(self._request) > LIMIT:
                self._reply(b"", 400, b"{}\n")
            return
        words = self._request.split(b"\n", 1)[0].split()
        if len(words) != 3 or not words[2].startswith(b"HTTP/"):
            self._reply(b"", 400, b"{}\n")
        else:
            self._reply(words[0], *self._answer(words[0], words[1]))

    def _reply(self, method: bytes, status: int, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._stream.send(head.encode() + (b"" if method == b"HEAD" else body))
        self.close()

    def __repr__(self) -> str:
        return f"<_Client {self._stream!r}>"
