"""From a Spec to an Outcome: everything is opened here, in order, and closed again in any case."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import nullcontext

from rallypoint.driver.loop import Loop
from rallypoint.driver.node import Node, node_name
from rallypoint.driver.signals import SignalTrap
from rallypoint.driver.stores import raise_descriptor_limit
from rallypoint.logs.logs import Logs
from rallypoint.model.errors import StoreError
from rallypoint.net import join_endpoint
from rallypoint.observe.messages import Messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from contextlib import AbstractContextManager

    from rallypoint.driver.coordinator import Meet
    from rallypoint.driver.node import Observer
    from rallypoint.model.result import Outcome
    from rallypoint.model.spec import Spec
    from rallypoint.proc.pack import Packed


def run(
    spec: Spec,
    notices: tuple[str, ...] = (),
    observers: tuple[Observer, ...] = (),
    meet: Meet | None = None,
    report: bool = True,
) -> Outcome:
    """Run a job on this node until it ends, and return how. ``notices`` are said first.

    ``observers`` are shown every decision; they cannot answer. ``meet`` makes the coordinator, if not we do.
    ``report``: say at the end what went wrong.
    Raises RallypointError for what only shows when it is tried (a log directory that cannot be made,
    a port that is taken, a function that cannot be pickled); then nothing was started.
    """
    started = time.time()
    with _packed(spec) as packed, Loop() as loop:
        name = node_name()

        def warn(text: str) -> None:
            messages.notice(text, "warning")

        logs = Logs(spec.logs, loop, spec.run_id, spec.role, color=spec.color, warn=warn)
        messages = Messages(spec, name, logs.say)
        keep = False
        try:
            for notice in notices:
                messages.notice(notice)
            node = Node(spec, name, loop, logs, messages, observers, meet, packed)
            try:
                outcome = node.run()
                if report:
                    _report(spec, outcome, logs, started)
                keep = _hand_on(spec, outcome)
                node.linger()
            finally:
                node.close()
        finally:
            logs.close(keep)
    return outcome


def _packed(spec: Spec) -> AbstractContextManager[Packed | None]:
    """Make the function ready for the workers, before anything is opened that a forked worker would inherit."""
    if spec.call is None:
        return nullcontext()
    from rallypoint.proc.pack import pack

    return pack(spec.call)


def _report(spec: Spec, outcome: Outcome, logs: Logs, started: float) -> None:
    """Say at length what went wrong, if something did. (For machines it stands in the last message.)"""
    if outcome.exit_code and spec.log_format == "text":
        from rallypoint.observe.report import failure_report

        if text := failure_report(outcome, spec, started, time.time()):
            logs.say(text)


def _hand_on(spec: Spec, outcome: Outcome) -> bool:
    """Copy the culprit's error file to our own, if a launcher above us gave us one (as torch's @record does).

    Returns whether an error file is named in the report and must stay.
    """
    named = [f.error_file for f in outcome.failures if f.error_file]
    above = spec.environ.get("TORCHELASTIC_ERROR_FILE")
    if above and named:
        try:
            with open(named[0], "rb") as source, open(above, "xb") as target:
                target.write(source.read())
        except OSError:
            return True  # a courtesy to the launcher above; our own report has been given
    return any(os.path.exists(path) for path in named)


def serve_store(host: str, port: int, verbosity: int = 0, token: str = "", tls: ssl.SSLContext | None = None) -> int:
    """Serve the coordination stores of any number of runs at ``host``:``port`` until a signal ends it.

    ``token``: what nodes have to know ("": nothing). ``tls``: encrypt. Returns the exit status (0).
    Raises StoreError if it cannot listen there.
    """
    from rallypoint.store.tcp import serve

    def say(text: str) -> None:
        print(f"rallypoint store: {text}", file=sys.stderr, flush=True)  # noqa: T201

    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise StoreError(join_endpoint(host, port), f"{host} is no address of this machine: {error.strerror}") from None
    raise_descriptor_limit()
    with Loop() as loop, SignalTrap((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), loop.wake_fd) as signals:
        store = serve(loop, str(address), port, say, token, tls)
        try:
            if verbosity >= 0:
                say(f"serving at {join_endpoint(store.address, store.port)}")
            loop.run_until(lambda: signals.arrived)
        finally:
            store.close()
    return 0
