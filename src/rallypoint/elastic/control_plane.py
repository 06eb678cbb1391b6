"""A door into a running worker: HTTP over a Unix socket, to be asked for its stacks from outside.

    curl --unix-socket "$TORCH_WORKER_SERVER_SOCKET" -X POST http://worker/handler/dump_traceback

The paths and answers are those of torch's worker server. Handlers that need torch's internals are not there:
a worker that wants them uses ``torch.distributed.elastic.control_plane``.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["worker_main"]

TORCH_WORKER_SERVER_SOCKET = "TORCH_WORKER_SERVER_SOCKET"


@contextmanager
def worker_main() -> Iterator[None]:
    """Wrap the main function of a worker: ``@worker_main()``, or as a context manager.

    An exception is written to the launcher's error file, as ``@record`` does. If TORCH_WORKER_SERVER_SOCKET
    names a path, requests are answered there meanwhile, in a thread of its own.
    """
    from rallypoint.elastic.multiprocessing.errors import get_error_handler

    handler = get_error_handler()
    handler.initialize()
    path = os.environ.get(TORCH_WORKER_SERVER_SOCKET)
    server = _serve(path) if path else None
    try:
        yield
    except Exception as error:
        handler.record_exception(error)
        raise
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()
            _unlink(str(path))


def _ping() -> tuple[str, str]:
    return "text/plain", "pong"


def _dump_traceback() -> tuple[str, str]:
    import faulthandler
    import tempfile

    with tempfile.TemporaryFile("w+", errors="replace") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return "text/plain", file.read()


HANDLERS: dict[str, Callable[[], tuple[str, str]]] = {"dump_traceback": _dump_traceback, "ping": _ping}
"""Name -> what makes (content type, answer)."""


def _serve(path: str) -> Any:
    """Answer at the Unix socket ``path``, readable by this user alone; what a dead worker left there is replaced."""
    import socketserver
    import threading

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    if stat.S_ISSOCK(_mode(path)):
        _unlink(path)
    server = Server(path, _requests())
    os.chmod(path, 0o600)
    threading.Thread(target=server.serve_forever, name="worker-server", daemon=True).start()
    return server


def _requests() -> Any:
    """Return the class that answers requests; ``http.server`` is imported for nobody else."""
    import json
    from http.server import BaseHTTPRequestHandler

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                page = '<h1>rallypoint.WorkerServer</h1>\n<a href="/handler/">Handler names</a>\n'
                self._reply(200, "text/html", page)
            elif self.path == "/handler/":
                self._reply(200, "application/json", json.dumps(list(HANDLERS)))
            else:
                self._reply(404, "text/plain", "")

        def do_POST(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/handler/")
            if name in HANDLERS:
                self._reply(200, *HANDLERS[name]())
            else:
                self._reply(404, "text/plain", f"Handler {name} not found; there are {', '.join(HANDLERS)}")

        def _reply(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Say nothing: the worker's output is the user's."""

    return Requests


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # gone already
