"""Pre-flight: what a node looks at before it may join, on its own and then with the store's help.

On its own: memory, /dev/shm, open files, GPUs, and the user's command. With the store: its clock, and whether a port
that the first node opens can be reached from here, as the workers' store will have to be.
"""

from __future__ import annotations

import os
import subprocess

from rallypoint.model.errors import ProtocolError
from rallypoint.model.node import NodeInfo
from rallypoint.net import Dial, Listener, join_endpoint, listen
from rallypoint.proc.checks import FAILED, OK, WARNING, Check, local_checks
from rallypoint.store.resolve import numeric, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from rallypoint.driver.loop import Loop
    from rallypoint.model.spec import Spec
    from rallypoint.store.api import Entry, Reply, Store
    from rallypoint.store.resolve import Found

PATIENCE = 3.0
"""Seconds that a connection to the first node may take."""
COMMAND_LIMIT = 300.0
"""Seconds that the user's command may take."""
MOST_OFFSET = 5.0
"""Seconds by which clocks may differ. Rallypoint does not need them alike; those who read logs do."""
LAST = 2000
"""Bytes of the command's output of which the last line is told."""


class Preflight:
    """The checks of one node. ``look`` first, then ``meet`` with the store; ``warn`` is told of what is amiss.

    ``port`` is what the other nodes try to reach here.
    """

    def __init__(self, spec: Spec, loop: Loop, warn: Callable[[str], None]) -> None:
        self._spec = spec
        self._loop = loop
        self._warn = warn
        self._failed: Check | None = None
        self._dial: Dial | None = None
        self._listener = Listener(loop, _open(), lambda sock: sock.close())

    @property
    def port(self) -> int:
        return int(self._listener.port)

    def look(self, stopped: Callable[[], object]) -> list[Check]:
        """Look at the machine, and run the command until it ends or ``stopped()``; return what was found."""
        spec = self._spec
        checks = local_checks(spec.nproc, len(spec.devices) if spec.devices else None, spec.environ)
        if spec.preflight:
            checks.append(self._command(spec.preflight, stopped))
        self._judge(checks)
        return checks

    def meet(self, store: Store, node: str, done: Callable[[Check | None], None]) -> None:
        """Look at the store's clock and the way to the first node; then tell ``done`` what failed, None: nothing."""
        if self._failed is None:
            self._judge([clock(store)])
        if self._failed is not None:
            done(self._failed)
        else:
            store.read("nodes/", lambda reply: self._seek(reply, node, done))

    def close(self) -> None:
        self._listener.close()
        if self._dial is not None:
            self._dial.cancel()

    def _judge(self, checks: list[Check]) -> None:
        for check in checks:
            if check.state == WARNING:
                self._warn(f"pre-flight: {check}; {check.mend}")
        self._failed = next((check for check in checks if check.state == FAILED), None)

    # The command

    def _command(self, command: str, stopped: Callable[[], object]) -> Check:
        """Run the user's command; the loop turns meanwhile."""
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(self._spec.environ),
                start_new_session=True,
            )
        except OSError as error:
            return Check("command", FAILED, f"it cannot be started: {error.strerror}", "see that there is a /bin/sh")
        assert process.stdout is not None
        fd, output, ended = process.stdout.fileno(), bytearray(), list[bool]()

        def read() -> None:
            data = os.read(fd, 65536)
            output.extend(data)
            del output[:-LAST]
            if not data:
                self._loop.remove_reader(fd)
                ended.append(True)

        self._loop.add_reader(fd, read)
        in_time = self._loop.run_until(lambda: ended or stopped(), COMMAND_LIMIT)
        self._loop.remove_reader(fd)
        if not ended:
            _kill(process)
        status = process.wait()
        process.stdout.close()
        return _verdict(command, status if ended else None, bytes(output), in_time)

    # The way to the first node

    def _seek(self, reply: Reply, node: str, done: Callable[[Check | None], None]) -> None:
        others = [info for entry in sorted(reply.entries, key=_created) if (info := _info(entry)) and info.id != node]
        first = next((info for info in others if info.probe), None)
        if not reply.ok or first is None:
            done(None)  # we are the first, or the others do not look
        elif (address := numeric(first.address)) is not None:
            self._try(address, first, done)
        else:
            resolve(self._loop, first.address, lambda found: self._found(found, first, done))

    def _found(self, found: Found, first: NodeInfo, done: Callable[[Check | None], None]) -> None:
        if found.addresses:
            self._try(found.addresses[0], first, done)
        else:
            done(unreachable(first, found.reason))

    def _try(self, address: str, first: NodeInfo, done: Callable[[Check | None], None]) -> None:
        def reached(sock: socket.socket | None, reason: str) -> None:
            self._dial = None
            if sock is not None:
                sock.close()
            done(None if sock is not None else unreachable(first, reason))

        self._dial = Dial(
            self._loop, address, first.probe, reached, patience=PATIENCE, local_addr=self._spec.local_addr
        )

    def __repr__(self) -> str:
        return f"<Preflight at port {self.port}, {self._failed or 'nothing failed'}>"


def clock(store: Store) -> Check:
    """Compare this machine's clock with the store's, if that tells it."""
    offset = getattr(store, "clock_offset", None)
    if offset is None:
        return Check("clock", OK, "the store tells no time")
    words = f"{abs(offset):.1f} s {'behind' if offset > 0 else 'ahead of'} the store's"
    if abs(offset) > MOST_OFFSET:
        return Check("clock", FAILED, f"{words}, {MOST_OFFSET:g} s are allowed", "synchronize it: timedatectl, chronyc")
    return Check("clock", OK, words)


def unreachable(first: NodeInfo, reason: str) -> Check:
    """Say that the workers here would not reach the store of rank 0."""
    place = join_endpoint(first.address, first.probe)
    mend = "let nodes reach each other at any port above 1023 (firewall, security group), or see to --local-addr there"
    return Check("reachability", FAILED, f"node {first.id} at {place} cannot be reached from here: {reason}", mend)


def _open() -> socket.socket:
    import socket

    return listen("::" if socket.has_dualstack_ipv6() else "0.0.0.0", 0)


def _info(entry: Entry) -> NodeInfo | None:
    try:
        return NodeInfo.from_json(entry.value)
    except ProtocolError:
        return None


def _created(entry: Entry) -> int:
    return entry.created


def _kill(process: subprocess.Popen[bytes]) -> None:
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _verdict(command: str, status: int | None, output: bytes, in_time: bool) -> Check:
    mend = f"run it by hand on this node: {command}"
    if status == 0:
        return Check("command", OK, "it succeeded")
    if not in_time:
        return Check("command", FAILED, f"it had not ended after {COMMAND_LIMIT:g} s", mend)
    if status is None:
        return Check("command", FAILED, "it was interrupted", mend)
    lines = output.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    how = f"exit status {status}" if status > 0 else f"signal {-status}"
    return Check("command", FAILED, f"{how}: {last[:200]}", mend)
