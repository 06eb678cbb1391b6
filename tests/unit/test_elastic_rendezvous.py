"""Parameters, registry, endpoints and the translation of what is said about meeting. Nothing is opened."""

import pytest

from rallypoint.elastic import rendezvous as rdzv
from rallypoint.elastic.rendezvous import registry, utils
from rallypoint.elastic.rendezvous.own import OwnRendezvousHandler
from rallypoint.elastic.rendezvous.terms import meeting


def params(backend="c10d", endpoint="", nodes=(1, 1), **config):
    return rdzv.RendezvousParameters(backend, endpoint, "run", *nodes, **config)


@pytest.mark.parametrize(
    ("nodes", "backend", "words"),
    [((0, 1), "c10d", "min_nodes is 0"), ((3, 2), "c10d", "max_nodes is 2"), ((1, 1), "", "backend is empty")],
)
def test_impossible_parameters_are_refused(nodes, backend, words):
    with pytest.raises(ValueError, match=words):
        params(backend, nodes=nodes)


def test_settings_are_read_as_truth_and_number():
    told = params(yes="Yes", no="f", one=1, text="x", number="12", two=2)
    assert (told.get("text"), told.get("nothing", 7)) == ("x", 7)
    assert [told.get_as_bool(k) for k in ("yes", "no", "one", "nothing")] == [True, False, True, None]
    assert told.get_as_bool("nothing", True) is True
    assert (told.get_as_int("number"), told.get_as_int("nothing"), told.get_as_int("nothing", 3)) == (12, None, 3)
    for key in ("text", "two"):
        with pytest.raises(ValueError, match=key):
            told.get_as_bool(key)
    with pytest.raises(ValueError, match="text"):
        told.get_as_int("text")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, ("localhost", 7)),
        ("  ", ("localhost", 7)),
        ("node1", ("node1", 7)),
        ("node1:12", ("node1", 12)),
        ("[::1]", ("::1", 7)),
        ("[fd00::1]:65535", ("fd00::1", 65535)),
        ("10.0.0.1:0", ("10.0.0.1", 0)),
    ],
)
def test_endpoints_are_split(text, found):
    assert utils.parse_rendezvous_endpoint(text, 7) == found


@pytest.mark.parametrize("text", ["node1:", "node1:x", "node1:65536", "node1:123456", "no de:1", ":1", "a/b:1"])
def test_wrong_endpoints_are_refused(text):
    with pytest.raises(ValueError, match="rendezvous endpoint"):
        utils.parse_rendezvous_endpoint(text, 7)


@pytest.mark.torch
@pytest.mark.parametrize(
    "text", [None, "", " a ", "a:1", "a:", "a:70000", "[::1]", "[::1]:5", "::1", "a b", "[::1]x:1", "x:y:3", "é:1"]
)
def test_endpoints_are_split_as_torch_does(text):
    from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint as theirs

    def answer(call):
        try:
            return call(text, 9)
        except ValueError:
            return "ValueError"

    assert answer(utils.parse_rendezvous_endpoint) == answer(theirs)


def test_own_backends_make_handlers_that_open_nothing():
    for backend, endpoint, config in (
        ("c10d", "", {}),
        ("c10d", "localhost:0", {}),
        ("tcp", "localhost:29400", {}),
        ("static", "localhost:29500", {"rank": 0}),
        ("memory", "", {}),
    ):
        handler = registry.get_rendezvous_handler(params(backend, endpoint, **config))
        assert isinstance(handler, OwnRendezvousHandler)
        assert (handler.get_backend(), handler.get_run_id(), handler.use_agent_store) == (backend, "run", True)
        assert (handler.num_nodes_waiting(), handler.is_closed()) == (0, False)
        assert handler.shutdown() is True
        assert handler.is_closed()


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'nope' is unknown; known are c10d, .*static.*torchrun.handlers"):
        registry.get_rendezvous_handler(params("nope"))


def test_a_registry_takes_a_name_once_and_checks_its_handlers():
    own = rdzv.RendezvousHandlerRegistry()
    make = lambda told: OwnRendezvousHandler(params("c10d"))  # noqa: E731
    own.register("mine", make)
    own.register("mine", make)
    with pytest.raises(ValueError, match="registered already"):
        own.register("mine", lambda told: None)
    with pytest.raises(ValueError, match="empty"):
        own.register("", make)
    with pytest.raises(RuntimeError, match="'mine', the handler is for 'c10d'"):
        own.create_handler(params("mine"))
    assert "mine" in repr(own)


def test_installed_packages_bring_backends(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "some_handlers-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: some-handlers\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[torchrun.handlers]\nsome = some_handlers:get\nbroken = some_handlers:no\n"
    )
    (tmp_path / "some_handlers.py").write_text(
        "from rallypoint.elastic.rendezvous.own import OwnRendezvousHandler\n"
        "class Some(OwnRendezvousHandler):\n"
        "    def get_backend(self): return 'some'\n"
        "def make(params):\n"
        "    params.backend = 'c10d'\n"
        "    try: return Some(params)\n"
        "    finally: params.backend = 'some'\n"
        "def get(): return make\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_read", [])
    monkeypatch.setattr(rdzv.rendezvous_handler_registry, "_registry", dict(rdzv.rendezvous_handler_registry._registry))
    assert type(registry.get_rendezvous_handler(params("some"))).__name__ == "Some"
    assert "broken" in caplog.text


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (params(), {"backend": "memory", "endpoint": ""}),
        (params(endpoint="localhost:0"), {"backend": "memory"}),
        (params(endpoint="h:5"), {"backend": "tcp", "endpoint": "h:5", "is_host": None}),
        (params(nodes=(1, 2)), {"backend": "tcp", "endpoint": "localhost:29400", "min_nodes": 1, "max_nodes": 2}),
        (params(endpoint="[::1]", nodes=(2, 2), is_host="1"), {"endpoint": "[::1]:29400", "is_host": True}),
        (params("static", "h:5", (1, 2), rank="1"), {"backend": "static", "node_rank": 1, "min_nodes": 2}),
        (params("static", "h:0", rank=0), {"backend": "memory"}),
    ],
)
def test_parameters_become_fields_of_the_spec(told, expected):
    assert meeting(told).items() >= expected.items()


def test_times_are_read_from_the_configuration():
    times = meeting(params(timeout=900, last_call_timeout=0, keep_alive_interval=1))["timing"]
    assert (times.join_timeout, times.last_call_timeout, times.lease) == (900.0, 0.0, 3.0)
    assert meeting(params(timeout=900, join_timeout=5))["timing"].join_timeout == 5.0


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (("static", "h:5", (2, 2), {}), "rank is missing"),
        (("static", "h:5", (2, 2), {"rank": 2}), "rank is 2; with max_nodes 2 it is 0 to 1"),
        (("static", "", (2, 2), {"rank": 1}), "rdzv_endpoint is empty"),
        (("static", "h", (2, 2), {"rank": 1}), "has no port"),
        (("c10d", "h:0", (1, 2), {}), "need one port"),
        (("memory", "", (1, 2), {}), "is for one node"),
        (("c10d", "h:1", (1, 2), {"store_type": "disk"}), "store_type is 'disk'; it is tcp or file"),
        (("etcd", "", (1, 2), {}), "HOST:PORT,... of its members"),
        (("etcd", "h", (1, 2), {"user": "u"}), "it needs password_file"),
        (("file", "/no/such/folder", (1, 2), {}), "it is a folder that all nodes share"),
        (("c10d", "h:1", (1, 2), {"ssl_cert": "x"}), "it needs ssl_cert_key"),
        (("c10d", "h:1", (1, 1), {"join_timeout": -1}), "join_timeout.*above 0"),
        (("c10d", "h:1", (1, 1), {"keep_alive_max_attempt": "many"}), "whole number"),
    ],
)
def test_what_cannot_work_is_refused(told, words):
    backend, endpoint, nodes, config = told
    with pytest.raises(ValueError, match=words):
        meeting(params(backend, endpoint, nodes, **config))


def test_stores_that_nobody_hosts(tmp_path):
    fields = meeting(params("etcd-v2", "a,[fd00::1]:1", (1, 2), etcd_prefix="/x"))
    assert (fields["backend"], fields["endpoint"]) == ("etcd", "a:2379,[fd00::1]:1")
    assert fields["store"] == {"etcd_prefix": "/x"}
    for told in (("file", {}), ("c10d", {"store_type": "file"})):
        fields = meeting(params(told[0], str(tmp_path / "new"), (1, 2), **told[1]))
        assert (fields["backend"], fields["endpoint"]) == ("file", str(tmp_path / "new"))


def test_a_setting_that_nobody_reads_is_said(caplog):
    meeting(params(colour="blue"))
    assert "colour has no effect" in caplog.text


class Book(dict):
    """The least of a store."""

    set = dict.__setitem__
    get = dict.__getitem__


def test_rank_0_tells_where_the_workers_meet():
    store = Book()
    told = rdzv.RendezvousStoreInfo.build(0, store, "10.0.0.7", 4711)
    assert (told.master_addr, told.master_port) == ("10.0.0.7", 4711)
    assert rdzv.RendezvousStoreInfo.build(1, store, None) == told
    assert store == {"MASTER_ADDR": b"10.0.0.7", "MASTER_PORT": b"4711"}
    chosen = rdzv.RendezvousStoreInfo.build(0, Book(), None)
    assert chosen.master_addr
    assert chosen.master_port > 0


def test_info_holds_what_it_was_given():
    info = rdzv.RendezvousInfo("store", 1, 2, rdzv.RendezvousStoreInfo("h", 1))
    assert (info.store, info.rank, info.world_size, info.bootstrap_store_info.master_port) == ("store", 1, 2, 1)


@pytest.mark.parametrize("name", ["Closed", "Timeout", "Connection", "State", "GracefulExit"])
def test_errors_have_one_base(name):
    assert issubclass(getattr(rdzv, f"Rendezvous{name}Error"), rdzv.RendezvousError)
