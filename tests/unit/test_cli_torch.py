"""The same command line, read by torchrun itself and by us."""

import shlex

import pytest

from rallypoint.cli.parse import parse
from rallypoint.cli.settings import settle
from rallypoint.net import join_endpoint

pytestmark = pytest.mark.torch

LINES = [
    "train.py",
    "train.py -a --flag=x -- y --nnodes 7",
    "train.py --help -m",
    "--nproc-per-node 2 train.py",
    "--nproc_per_node=2 --max_restarts 3 train.py 1",
    "--nproc-per-node cpu train.py",
    "--nproc-per-node auto train.py",
    "-m pkg.mod x",
    "-mr3 pkg.mod",
    "--no-python true a",
    "--standalone train.py",
    "--standalone --nproc-per-node=2 -- train.py -- x",
    "--nnodes 1:1 --node-rank 0 train.py",
    "--nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 1234 train.py",
    "--nnodes 2 --master-addr host1 train.py",
    "--nnodes 2 --rdzv-endpoint host1:7 --rdzv-id j train.py",
    "--master-port 1234 train.py",
    "--nnodes 1:4 --rdzv-backend c10d --rdzv-endpoint h --rdzv-id j --rdzv-conf join_timeout=9 train.py",
    "--nnodes 2 --rdzv_backend=c10d --rdzv_endpoint=h:5 train.py",
    "--nnodes 2 --rdzv-backend c10d --rdzv-endpoint [::1]:5 --rdzv-conf is_host=0,read_timeout=3 train.py",
    "--rdzv-backend c10d --rdzv-endpoint localhost:0 train.py",
    "--rdzv-conf last_call_timeout=1,close_timeout=2,keep_alive_interval=3,keep_alive_max_attempt=4 train.py",
    "--nnodes 2 --rdzv-conf timeout=33 train.py",
    "-r 3 -t 0:1,1:2 --nproc-per-node 3 train.py",
    "-t3 --redirects 1:3 --nproc-per-node 2 --log-dir /tmp/x train.py",
    "--local-ranks-filter 2,0 train.py",
    "--duplicate-stdout-filters a,,b,c --duplicate-stderr-filters x train.py",
    "--role trainer --local-addr 10.0.0.9 train.py",
    "--signals-to-handle SIGTERM,SIGUSR1 --shutdown-timeout 7 train.py",
    "--virtual-local-rank --monitor-interval 3 --start-method spawn train.py",
    "--rdzv-b c10d --rdzv-endpoint h:1 --local-r 1 train.py",
    "--role -1 train.py",
    "--role= train.py",
]
ENVIRONS = [
    {},
    {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "4",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "h",
        "PET_MASTER_PORT": "5",
    },
    {"PET_STANDALONE": "1", "PET_NPROC_PER_NODE": "2", "PET_TEE": "0:3"},
    {"PET_STANDALONE": "0", "PET_MODULE": "1", "PET_REDIRECTS": "1", "PET_MAX_RESTARTS": "2"},
    {"PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": "h:1", "PET_NNODES": "1:2", "PET_RDZV_ID": "k", "PET_ROLE": "r"},
    {"PET_DUPLICATE_STDOUT_FILTERS": "a,b", "PET_SIGNALS_TO_HANDLE": "SIGINT", "PET_SHUTDOWN_TIMEOUT": "0"},
    {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "11", "PYTHON_EXEC": "sh", "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${rank}]"},
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)


def by_torch(argv, monkeypatch, legacy=False):
    """What torchrun would launch, as the facts that both can be asked for."""
    from torch.distributed import launch, run
    from torch.distributed.elastic.multiprocessing.api import to_map
    from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

    caught = []
    monkeypatch.setattr(
        run, "elastic_launch", lambda config, entrypoint: lambda *a: caught.append((config, entrypoint, a))
    )
    monkeypatch.setattr(run.torch.multiprocessing, "_set_thread_name", lambda name: None)
    module = launch if legacy else run
    getattr(module, "launch" if legacy else "run")(module.parse_args(argv))
    [(config, entrypoint, arguments)] = caught
    alone = config.rdzv_backend == "c10d" and config.rdzv_endpoint == "localhost:0"
    port = 29400 if config.rdzv_backend == "c10d" else 29500
    conf = config.rdzv_configs
    join = conf.get("timeout") if config.rdzv_backend == "static" and conf.get("timeout") != 900 else None
    return {
        "argv": (entrypoint, *arguments),
        "nodes": (config.min_nodes, config.max_nodes),
        "nproc": config.nproc_per_node,
        "backend": "memory" if alone else {"c10d": "tcp"}.get(config.rdzv_backend, config.rdzv_backend),
        "endpoint": "" if alone else join_endpoint(*parse_rendezvous_endpoint(config.rdzv_endpoint, port)),
        "run_id": None if alone else config.run_id,
        "node_rank": int(conf["rank"]) if config.rdzv_backend == "static" else -1,
        "is_host": {"0": False, "1": True, None: None}[conf.get("is_host")],
        "join_timeout": float(join or conf.get("join_timeout", 600)),
        "times": tuple(
            float(conf.get(k, d))
            for k, d in (("last_call_timeout", 30), ("close_timeout", 30), ("read_timeout", 60),
                         ("keep_alive_interval", 5), ("keep_alive_max_attempt", 3))
        ),
        "max_restarts": config.max_restarts,
        "role": config.role,
        "local_addr": config.local_addr,
        "shutdown": config.shutdown_timeout,
        "virtual": config.virtual_local_rank,
        "signals": tuple(config.signals_to_handle.split(",")),
        "redirects": {k: int(v) for k, v in to_map(config.logs_specs._redirects, config.nproc_per_node).items()},
        "tee": {k: int(v) for k, v in to_map(config.logs_specs._tee, config.nproc_per_node).items()},
        "shown": config.logs_specs._local_ranks_filter,
        "filters": (config.duplicate_stdout_filters, config.duplicate_stderr_filters),
        "template": config.log_line_prefix_template,
    }  # fmt: skip


def by_us(argv, environ, legacy=False):
    from signal import Signals

    spec = settle(parse(argv, environ, legacy), environ, legacy).spec
    alone = spec.backend == "memory"
    times = spec.timing

    def streams(said):
        return {rank: said.get(rank, said.get(-1, 0)) for rank in range(spec.nproc)}

    return {
        "argv": spec.argv,
        "nodes": (spec.min_nodes, spec.max_nodes),
        "nproc": spec.nproc,
        "backend": spec.backend,
        "endpoint": spec.endpoint,
        "run_id": None if alone else spec.run_id,
        "node_rank": spec.node_rank,
        "is_host": spec.is_host,
        "join_timeout": times.join_timeout,
        "times": (times.last_call_timeout, times.close_timeout, times.read_timeout, times.keep_alive_interval,
                  times.keep_alive_max_attempt),
        "max_restarts": spec.max_restarts,
        "role": spec.role,
        "local_addr": spec.local_addr,
        "shutdown": times.shutdown_timeout,
        "virtual": spec.virtual_local_rank,
        "signals": tuple(Signals(s).name for s in spec.signals),
        "redirects": streams(spec.logs.redirects),
        "tee": streams(spec.logs.tee),
        "shown": None if spec.logs.shown is None else set(spec.logs.shown),
        "filters": (list(spec.logs.stdout_filters), list(spec.logs.stderr_filters)),
        "template": spec.logs.template,
    }  # fmt: skip


def compare(argv, environ, monkeypatch, legacy=False):
    import os

    for name, value in ({"OMP_NUM_THREADS": "1"} | environ).items():
        monkeypatch.setenv(name, value)
    assert by_us(argv, os.environ, legacy) == by_torch(argv, monkeypatch, legacy)


@pytest.mark.parametrize("line", LINES)
def test_command_lines_mean_what_torchrun_makes_of_them(line, monkeypatch):
    compare(shlex.split(line), {}, monkeypatch)


@pytest.mark.parametrize("environ", ENVIRONS, ids=lambda e: " ".join(e) or "nothing")
def test_variables_mean_what_torchrun_makes_of_them(environ, monkeypatch):
    compare(["train.py", "x"], environ, monkeypatch)


@pytest.mark.parametrize("line", ["train.py a", "--use-env train.py a", "-m mod -x", "--use_env --no-python true a"])
def test_the_legacy_form_means_what_torch_makes_of_it(line, monkeypatch):
    compare(shlex.split(line), {}, monkeypatch, legacy=True)


def test_every_option_of_torchrun_is_ours_too():
    from torch.distributed.run import get_args_parser

    from rallypoint.cli.option import COUNT, FLAG, TORCHRUN
    from rallypoint.cli.options import options

    ours = {o.name: o for o in options(legacy=False) if o.origin == TORCHRUN}
    theirs = {}
    for action in get_args_parser()._actions:
        longs = [s for s in action.option_strings if s.startswith("--") and "_" not in s]
        shorts = [s for s in action.option_strings if not s.startswith("--")]
        for name in longs:
            theirs[name] = (shorts[0] if shorts else "", action.nargs == 0, action.choices)
    assert set(ours) == set(theirs)
    for name, (short, is_flag, choices) in theirs.items():
        option = ours[name]
        assert option.short == short
        assert (option.kind in (FLAG, COUNT, "action")) == is_flag
        assert list(option.choices) == list(choices or ())


def test_plain_torchrun_defaults_are_ours():
    from torch.distributed.run import get_args_parser

    from rallypoint.cli.option import TORCHRUN, VALUE
    from rallypoint.cli.options import options

    parser = get_args_parser()
    for option in options(legacy=False):
        if option.origin == TORCHRUN and option.kind == VALUE:
            default = parser.get_default(option.dest)
            if option.dest == "master_port":
                default = 29500
            elif option.dest == "shutdown_timeout":
                default = 30
            assert option.default == ("" if default in (None, []) else str(default)), option.name
