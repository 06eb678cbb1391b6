"""The tcp store over TLS: both sides show who they are, and who does not encrypt is refused."""

import pytest

from certs import OPENSSL, Certificates
from job import Job
from lab import Launch, free_port, script
from rallypoint.driver.loop import Loop
from rallypoint.model.errors import UsageError
from rallypoint.store.client import Member, TcpStore
from rallypoint.store.tcp import serve
from rallypoint.store.tls import identity
from rallypoint.testing import check_store
from rallypoint.testing.check_store import Node

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs openssl to make certificates")


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certs"))


class TlsLab:
    def __init__(self, certs):
        self.server, self.client = (identity("x", certs.conf(role), True) for role in ("server", "client"))
        self.stores, self.warned = [], []

    def __enter__(self):
        self.loop = Loop()
        self.host = serve(self.loop, "127.0.0.1", 0, self.warned.append, tls=self.server.server)
        return self

    def __exit__(self, *_exc):
        for store in self.stores:
            store.close()
        self.host.close()
        self.loop.close()

    def open(self, watcher, tls="client"):
        member = Member("run", f"n{len(self.stores)}", 5.0, 1.0, tls=self.client if tls == "client" else tls)
        self.stores.append(TcpStore(self.loop, watcher, "127.0.0.1", self.host.port, member))
        return self.stores[-1]

    def lose(self, store):
        store._link._release()

    def run_until(self, done, limit):
        return self.loop.run_until(done, limit)


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
def test_contract(certs, law):
    with TlsLab(certs) as lab:
        law(lab)


def test_large_values_go_through(certs):
    with TlsLab(certs) as lab:
        node, other = Node(lab).up(), Node(lab).up()
        seen = other.watch("k")
        assert node.swap("k", 0, "x" * 3_000_000).ok
        other.until(lambda: seen, "three megabytes")
        assert seen[0].value == "x" * 3_000_000


def meets(lab, tls):
    """What a node with ``tls`` is told first."""
    notes = check_store.Notes()
    lab.open(notes, tls)
    assert lab.loop.run_until(lambda: notes.told, 10)
    return notes.told[0]


def test_who_does_not_encrypt_is_refused_and_told(certs):
    with TlsLab(certs) as lab:
        assert meets(lab, None) == ("refused", "TLS", "off", "on")
        assert any("TLS is 'off' there, 'on' here" in text for text in lab.warned)


def test_who_shows_no_certificate_gets_nothing(certs):
    with TlsLab(certs) as lab:
        kind, _, reason, _ = meets(lab, identity("x", {"ca_cert": certs.of("ca.pem")}, False))
        assert kind == "tried" and "certificate" in reason


def test_a_store_signed_by_another_is_not_trusted(certs):
    with TlsLab(certs) as lab:
        stranger = identity("x", certs.conf() | {"ca_cert": certs.of("other.pem")}, True)
        kind, _, reason, _ = meets(lab, stranger)
        assert kind == "tried" and "its certificate is not accepted" in reason


def test_a_store_without_tls_is_not_spoken_to(certs):
    with TlsLab(certs) as lab:
        plain = serve(lab.loop, "127.0.0.1", 0, lab.warned.append)
        notes = check_store.Notes()
        store = TcpStore(lab.loop, notes, "127.0.0.1", plain.port, Member("run", "n", 5.0, 1.0, tls=lab.client))
        assert lab.loop.run_until(lambda: notes.told, 10)
        assert notes.told[0][0] == "tried" and "does it speak TLS" in notes.told[0][2]
        store.close()
        plain.close()


@pytest.mark.parametrize(
    ("conf", "wrong"),
    [
        ({"ssl_cert": "server.pem"}, "ssl_cert: .* it needs ssl_cert_key beside it"),
        ({"ssl_cert_key": "server.key"}, "ssl_cert_key: .* it needs ssl_cert beside it"),
        ({"ca_cert": "ca.pem"}, "ca_cert: .* a node that may host the store needs ssl_cert and ssl_cert_key too"),
        ({"ssl_cert": "server.pem", "ssl_cert_key": "client.key"}, "ssl_cert: .* key values mismatch"),
    ],
)
def test_what_cannot_work_is_told_before(certs, conf, wrong):
    with pytest.raises(UsageError, match=wrong):
        identity("--rdzv-conf", {key: certs.of(file) for key, file in conf.items()}, True)


def test_a_run_over_tls(certs, tmp_path):
    with Job(tmp_path, nnodes="2", **certs.conf("server")) as job:
        job.start_all("AB")
        job.until(2)
        job.finish("AB")
        assert job.ended("AB", 3) == [0, 0]


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_a_node_without_tls_is_told_what_is_missing(certs, tmp_path, backend):
    with Job(tmp_path, nnodes="2", backend=backend, **certs.conf("server")) as job:
        job.start("A").until("waiting|trying|1 of 2", limit=30)
        path = script(tmp_path, "say('no')")
        where = [f"--rdzv-backend={backend}", f"--rdzv-endpoint={job.endpoint}", "--nnodes=2"]
        with Launch(*where, *(["--node-rank=1"] if backend == "static" else []), path) as plain:
            assert plain.end() != 0
        assert "TLS is 'off'" in plain.text and "Traceback" not in plain.text


def test_a_store_of_its_own_over_tls(certs, tmp_path):
    port = free_port()
    conf = certs.conf("server")
    options = [f"--{key.replace('_', '-')}={value}" for key, value in conf.items()]
    command = ["store", f"--listen=127.0.0.1:{port}", *options]
    import sys

    with Launch(*command, command=[sys.executable, "-m", "rallypoint"]) as store:
        store.until("serving at")
        pairs = ",".join(f"{key}={value}" for key, value in conf.items())
        where = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--nnodes=1", f"--rdzv-conf={pairs}"]
        with Launch(*where, script(tmp_path, "say('here')")) as run:
            assert run.end() == 0, run.text
        assert "here" in run.out
