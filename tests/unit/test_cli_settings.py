"""Golden: command line and environment -> Spec and notices."""

import os
import shlex
import signal
import subprocess
import sys

import pytest

from rallypoint.cli.option import FLAG, VALUE
from rallypoint.cli.options import options
from rallypoint.cli.parse import parse
from rallypoint.cli.settings import settle
from rallypoint.model.spec import ExitRule, LogSpec, Membership, RestartPolicy, Spec, Timing

PYTHON = (sys.executable, "-u")
SCRIPT = (*PYTHON, "train.py")
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("print(1)\n")
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)


def settings_of(line, environ=None, legacy=False):
    environ = {"OMP_NUM_THREADS": "1"} | (environ or {})
    return settle(parse(shlex.split(line), environ, legacy), environ, legacy)


def differences(spec):
    """The fields that differ from those of a plain ``rallyrun train.py``."""
    plain = Spec(argv=SCRIPT, environ=spec.environ, run_id=spec.run_id)
    return {f: getattr(spec, f) for f in Spec._fields if getattr(spec, f) != getattr(plain, f)}


def timing(**changes):
    return {"timing": Timing(**changes)}


def logs(**changes):
    return {"logs": LogSpec(**changes)}


TCP = {"backend": "tcp", "endpoint": "h:29400", "max_nodes": 2, "min_nodes": 2}

GOLDEN = [
    ("train.py", {}),
    # what to run
    ("train.py -a '' --nnodes 7", {"argv": (*SCRIPT, "-a", "", "--nnodes", "7")}),
    ("-m pkg.mod -x", {"argv": (*PYTHON, "-m", "pkg.mod", "-x")}),
    ("--no-python true x", {"argv": ("true", "x"), "hook": False}),
    ("--no-python ./tool", {"argv": ("./tool",), "hook": False}),
    ("train.py '${local_rank}' '$$'", {"argv": (*SCRIPT, "${local_rank}", "$$")}),
    ("'train_${local_rank}.py'", {"argv": (*PYTHON, "train_${local_rank}.py")}),
    ("--no-python './run_${local_rank}.sh'", {"argv": ("./run_${local_rank}.sh",), "hook": False}),
    # nodes and workers
    ("--nproc-per-node 8 train.py", {"nproc": 8}),
    ("--nproc-per-node cpu train.py", {"nproc": CORES} if CORES > 1 else {}),
    ("--role trainer train.py", {"role": "trainer"}),
    ("--local-addr 10.0.0.1 train.py", {"local_addr": "10.0.0.1"}),
    ("--local-addr '[fd00::1]' train.py", {"local_addr": "fd00::1"}),
    ("--virtual-local-rank train.py", {"virtual_local_rank": True}),
    ("--numa-binding core-complex train.py", {"numa": "core-complex"}),
    ("--devices 3 train.py", {"devices": ("3",)}),
    ("--devices 1,3 --virtual-local-rank train.py", {"devices": ("1", "3"), "nproc": 2, "virtual_local_rank": True}),
    # joining, leaving, restarting
    ("--admit at-restart --join-interval 0 --spares 2 train.py",
     {"membership": Membership(admit="at-restart", join_interval=0.0, spares=2)}),
    ("--topology rack-7 --leave-signals USR2 --max-node-failures 3 train.py",
     {"membership": Membership(topology="rack-7", leave_signals=(signal.SIGUSR2,), max_node_failures=3)}),
    ("--topology 'cmd:echo a b; echo c' --notice-signal USR1 --notice-grace 4 train.py",
     {"membership": Membership(topology="a b", notice_signal=signal.SIGUSR1, notice_grace=4.0)}),
    ("--restart-window 60 --restart-delay 1:8 --restart-scope job train.py",
     {"restart": RestartPolicy(window=60.0, delay=1.0, max_delay=8.0)}),
    ("--warm-start off train.py", {"warm_start": None}),
    ("--warm-start torch,numpy.linalg train.py", {"warm_start": ("torch", "numpy.linalg")}),
    ("--restart-delay 90 train.py", {"restart": RestartPolicy(delay=90.0, max_delay=90.0)}),
    ("--on-exit 17=fail,kill=restart,torch.OutOfMemoryError=replace-node train.py",
     {"restart": RestartPolicy(rules=(ExitRule("17", "fail"), ExitRule("SIGKILL", "restart"),
                                      ExitRule("torch.OutOfMemoryError", "replace-node")))}),
    # one node alone
    ("--standalone train.py", {}),
    ("--nnodes 1:1 --rdzv-backend static train.py", {}),
    ("--nnodes 1 --node-rank 0 train.py", {}),
    ("--rdzv-backend c10d train.py", {}),
    ("--rdzv-backend c10d --rdzv-endpoint localhost:0 train.py", {}),
    ("--rdzv-backend memory train.py", {}),
    ("--master-port 0 train.py", {}),
    # static
    ("--master-port 1234 train.py", {"backend": "static", "endpoint": "127.0.0.1:1234", "node_rank": 0}),
    (
        "--nnodes 2 --node-rank 1 --master-addr h train.py",
        {"backend": "static", "endpoint": "h:29500", "node_rank": 1, "min_nodes": 2, "max_nodes": 2},
    ),
    (
        "--nnodes 2:2 --master-addr '[::1]' --master-port 7 train.py",
        {"backend": "static", "endpoint": "[::1]:7", "node_rank": 0, "min_nodes": 2, "max_nodes": 2},
    ),
    ("--rdzv-endpoint h train.py", {"backend": "static", "endpoint": "h:29500", "node_rank": 0}),
    (
        "--nnodes 3 --rdzv-endpoint h:7 --rdzv-conf rank=2,timeout=9 train.py",
        {"backend": "static", "endpoint": "h:7", "node_rank": 2, "min_nodes": 3, "max_nodes": 3}
        | timing(join_timeout=9.0),
    ),
    # c10d
    ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h train.py", TCP),
    ("--nnodes 2 --rdzv-backend tcp --rdzv-endpoint h train.py", TCP),
    ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h,i:5,j train.py", TCP | {"endpoint": "h:29400,i:5,j:29400"}),
    ("--nnodes 2 --rdzv-backend=c10d --rdzv-endpoint=h:5 --node-rank=0 train.py", TCP | {"endpoint": "h:5"}),
    ("--nnodes 1:2 --rdzv-backend c10d --rdzv-endpoint '[::1]:5' train.py",
     {"backend": "tcp", "endpoint": "[::1]:5", "max_nodes": 2}),
    ("--rdzv-backend c10d --rdzv-endpoint h train.py", {"backend": "tcp", "endpoint": "h:29400"}),
    ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h --rdzv-conf is_host=TRUE train.py", TCP | {"is_host": True}),
    ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h --rdzv-conf is_host=0,store_type=tcp train.py",
     TCP | {"is_host": False}),
    # times
    (
        "--rdzv-conf join_timeout=1,last_call_timeout=0,close_timeout=2,read_timeout=3,keep_alive_interval=0.5,"
        "keep_alive_max_attempt=4 train.py",
        timing(join_timeout=1.0, last_call_timeout=0.0, close_timeout=2.0, read_timeout=3.0, keep_alive_interval=0.5,
               keep_alive_max_attempt=4),
    ),
    ("--rdzv-conf 'timeout = 5 , join_timeout=6' train.py", timing(join_timeout=6.0)),
    ("--max-restarts 3 train.py", {"max_restarts": 3}),
    ("--success-timeout 2.5 train.py", timing(success_timeout=2.5)),
    ("--shutdown-timeout 0 train.py", timing(shutdown_timeout=0.0)),
    # signals
    ("--signals-to-handle SIGTERM,sigusr1,USR1 train.py", {"signals": (signal.SIGTERM, signal.SIGUSR1)}),
    ("--forward-signals USR1,SIGUSR2 train.py", {"forward_signals": (signal.SIGUSR1, signal.SIGUSR2)}),
    ("--forward-signals HUP train.py",
     {"forward_signals": (signal.SIGHUP,), "signals": (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}),
    # logs and messages
    ("--log-dir logs train.py", logs(directory="logs")),
    ("-r 3 -t 0 train.py", logs(redirects={-1: 3})),
    ("-r 0:1,10:3 -t 1:2 train.py", logs(redirects={0: 1, 10: 3}, tee={1: 2})),
    ("-r 0:0 train.py", logs(redirects={0: 0})),
    ("--local-ranks-filter 3,1,1 train.py", logs(shown=(1, 3))),
    ("--duplicate-stdout-filters a,,b,c train.py", logs(stdout_filters=("a,b", "c"))),
    ("--duplicate-stderr-filters ',,' train.py", logs(stderr_filters=(",",))),
    ("--logs inherit train.py", logs(mode="inherit")),
    ("-vv --log-format json train.py", {"verbosity": 2, "log_format": "json"}),
    # accepted
    ("--monitor-interval 5 --start-method spawn --event-log-handler null train.py", {}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), GOLDEN, ids=[line for line, _ in GOLDEN])
def test_golden(line, expected):
    settings = settings_of(line)
    assert differences(settings.spec) == expected
    assert settings.notices == ()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PYTHON_EXEC": "sh"}, {"argv": ("sh", "-u", "train.py")}),
        ({"PYTHON_EXEC": "./tool"}, {"argv": ("./tool", "-u", "train.py")}),
        ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"}, timing(shutdown_timeout=7.0)),
        ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7", "PET_SHUTDOWN_TIMEOUT": "8"}, timing(shutdown_timeout=8.0)),
        ({"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${rank}]:"}, logs(template="[${rank}]:")),
        ({"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": ""}, {}),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"color": False}),
        ({"FORCE_COLOR": "1"}, {"color": True}),
        ({"NO_COLOR": ""}, {}),
    ],
)
def test_variables_that_are_no_option(environ, expected):
    environ = {"PATH": os.environ["PATH"]} | environ
    settings = settings_of("train.py", environ)
    assert differences(settings.spec) == expected
    assert settings.spec.environ == environ | {"OMP_NUM_THREADS": "1"}


KUBEFLOW = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-0.job",
    "PET_MASTER_PORT": "29400",
}


def test_a_platform_may_say_everything_in_variables():
    expected = {"backend": "static", "endpoint": "job-0.job:29400", "node_rank": 1, "min_nodes": 2, "max_nodes": 2}
    assert differences(settings_of("train.py", KUBEFLOW).spec) == expected | {"nproc": 4}


SAMPLES = {
    "nnodes": "2", "nproc_per_node": "3", "node_rank": "0", "role": "r", "local_addr": "10.1.1.1",
    "rdzv_backend": "c10d", "rdzv_endpoint": "h:1", "rdzv_id": "x", "rdzv_conf": "join_timeout=5",
    "master_addr": "h", "master_port": "5", "max_restarts": "3", "success_timeout": "4", "shutdown_timeout": "6",
    "signals_to_handle": "SIGTERM", "forward_signals": "USR1", "log_dir": "d", "redirects": "1", "tee": "0:3",
    "local_ranks_filter": "0", "duplicate_stdout_filters": "a,,b", "duplicate_stderr_filters": "c",
    "logs": "inherit", "log_format": "json", "numa_binding": "node", "monitor_interval": "1", "start_method": "fork",
    "event_log_handler": "console", "logs_specs": "s", "devices": "1,3", "omp": "auto",
    "admit": "when-ready", "join_interval": "3", "spares": "1", "max_node_failures": "2", "topology": "rack7",
    "leave_signals": "USR2", "notice_signal": "USR1", "notice_grace": "5", "restart_window": "60",
    "restart_delay": "1:8", "restart_scope": "node", "on_exit": "17=fail,SIGKILL=restart",
    "warm_start": "torch",
    "module": "", "no_python": "", "run_path": "", "use_env": "", "standalone": "", "virtual_local_rank": "",
}  # fmt: skip
OPTIONS = [o for o in options(legacy=True) if o.kind in (VALUE, FLAG)]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_option_and_variable_mean_the_same(option):
    def told(*argv, environ):
        try:
            spec = settle(parse([*argv, "true"], environ, True), base, True).spec
        except Exception as error:
            return str(error).replace(option.variable, option.name)
        return spec.replace(run_id="") if spec.backend == "memory" and option.dest != "rdzv_id" else spec

    base = {"PATH": os.environ["PATH"]}
    others = {"--use-env", "--no-python"} - {option.name} if option.dest not in ("module", "run_path") else ()
    sample = SAMPLES[option.dest]
    by_option = told(*others, option.name + (f"={sample}" if sample else ""), environ={})
    by_variable = told(*others, environ={option.variable: sample or "1"})
    assert by_option == by_variable


def test_every_option_has_a_sample():
    assert set(SAMPLES) == {o.dest for o in OPTIONS}


def test_one_node_alone_makes_up_a_run_id_unless_told():
    first, second = settings_of("train.py").spec, settings_of("--standalone train.py").spec
    assert len(first.run_id) == 16 and first.run_id != second.run_id
    assert settings_of("--standalone --rdzv-id mine train.py").spec.run_id == "mine"
    assert settings_of("--master-port 1 train.py").spec.run_id == "none"
    assert settings_of("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h train.py").spec.run_id == "none"


def test_run_path_uses_the_launchers_own_python(tmp_path):
    spec = settings_of(f"--run-path --no-python {tmp_path}/train.py -x", {"PYTHON_EXEC": "/none"}).spec
    assert spec.argv[:3] == (sys.executable, "-u", "-c")
    assert spec.argv[4:] == (f"{tmp_path}/train.py", "-x")
    assert spec.hook
    (tmp_path / "train.py").write_text("import sys; print(sys.argv, __name__)")
    done = subprocess.run(spec.argv, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{[f'{tmp_path}/train.py', '-x']} __main__\n", "")


def test_the_legacy_form_passes_the_local_rank():
    assert settings_of("train.py a", legacy=True).spec.argv == (*SCRIPT, "--local-rank=${local_rank}", "a")
    assert settings_of("-m mod a", legacy=True).spec.argv == (*PYTHON, "-m", "mod", "--local-rank=${local_rank}", "a")
    assert settings_of("--use-env train.py a", legacy=True).spec.argv == (*SCRIPT, "a")


@pytest.mark.parametrize(
    ("line", "environ", "notices"),
    [
        ("--nproc-per-node 2 train.py", {"OMP_NUM_THREADS": None},
         ["OMP_NUM_THREADS is not set: each of the 2 workers here gets OMP_NUM_THREADS=1 "
          "(--omp auto: its share of the cores)"]),
        ("--nproc-per-node 2 --omp auto train.py", {"OMP_NUM_THREADS": None}, []),
        ("--nproc-per-node 2 --omp auto train.py", {"OMP_NUM_THREADS": "4"},
         ["--omp has no effect: OMP_NUM_THREADS=4 is set"]),
        ("--nproc-per-node 1 --devices 1,GPU-5a train.py", {},
         ["--devices names 2 devices; only the first 1 of them are used"]),
        ("--devices 1,3 train.py", {},
         ["--devices: each worker sees one device, its number 0; with --virtual-local-rank so is LOCAL_RANK"]),
        ("train.py", {"OMP_NUM_THREADS": None}, []),
        ("--nproc-per-node 2 train.py", {"OMP_NUM_THREADS": "4"}, []),
        ("--start-method fork train.py", {},
         ["--start-method has no effect: it concerns Python functions, not programs"]),
        ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h --node-rank 1 --master-addr h train.py", {},
         ["--master-addr has no effect with --rdzv-backend c10d",
          "--node-rank has no effect with --rdzv-backend c10d"]),
        ("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h --rdzv-conf rank=0 train.py", {},
         ["--rdzv-conf rank has no effect with --rdzv-backend c10d"]),
        ("--standalone --rdzv-endpoint h:1 --rdzv-backend c10d train.py", {"PET_MASTER_PORT": "5"},
         ["--rdzv-backend has no effect with --standalone", "--rdzv-endpoint has no effect with --standalone",
          "PET_MASTER_PORT has no effect with --standalone"]),
        ("--master-addr h train.py", {}, ["--master-addr has no effect on one node alone that names no port"]),
        ("--rdzv-endpoint h:5 --master-port 6 train.py", {}, ["--master-port has no effect with --rdzv-endpoint"]),
        ("--rdzv-backend memory --rdzv-endpoint h:5 train.py", {},
         ["--rdzv-endpoint has no effect with --rdzv-backend memory"]),
        ("--master-port 6 --rdzv-conf is_host=1 train.py", {},
         ["--rdzv-conf is_host has no effect with --rdzv-backend static"]),
        ("--rdzv-conf heartbeat_timeout=1 train.py", {},
         ["--rdzv-conf heartbeat_timeout has no effect: "
          "a node is lost after keep_alive_interval times keep_alive_max_attempt"]),
    ],
)  # fmt: skip
def test_what_is_said_in_vain_is_told(line, environ, notices):
    environ = {k: v for k, v in ({"OMP_NUM_THREADS": "1"} | environ).items() if v is not None}
    assert list(settle(parse(shlex.split(line), environ), environ).notices) == notices


@pytest.mark.parametrize(
    ("line", "environ", "omp", "variable"),
    [
        ("train.py", {}, "1", None),
        ("--omp auto train.py", {}, "auto", None),
        ("--omp 1 train.py", {}, "1", "1"),  # said: for a single worker too
        ("--omp 4 train.py", {}, "4", "4"),
        ("--omp 4 train.py", {"OMP_NUM_THREADS": "2"}, "4", "2"),
        ("train.py", {"PET_OMP": "3"}, "3", "3"),
    ],
)
def test_threads(line, environ, omp, variable):
    spec = settle(parse(shlex.split(line), environ), environ).spec
    assert (spec.omp, spec.environ.get("OMP_NUM_THREADS")) == (omp, variable)


def test_the_event_handler_is_handed_on():
    assert settings_of("train.py").event_log == "null"
    assert settings_of("--event-log-handler console train.py").event_log == "console"
