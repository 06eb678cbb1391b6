"""Wrong values: one sentence that names the option (or variable), the value and what is allowed; exit 2."""

import shlex
import subprocess
import sys

import pytest

from rallypoint.cli.parse import parse
from rallypoint.cli.settings import settle
from rallypoint.model.errors import UsageError

NODES = "it is the number of nodes, 1 or more, or MIN:MAX as in 2:4"
STREAMS = "it is 0 (none), 1 (stdout), 2 (stderr) or 3 (both), or LOCAL_RANK:VALUE,... as 0:3,1:2"
HOST = "it is a host name or an address, IPv6 as [::1]"
PLACE = "it is HOST:PORT, as node1:29400 or [fd00::1]:29400"
PAIR = "of two, neither can take over: is the other dead, or only cut off? Name one, or three and more"
KNOWN = "several nodes need ports that all of them know, not 0"
WHOLE = "it is a whole number, 0 or more"
C10D = "--nnodes 2 --rdzv-backend c10d"
KEYS = (
    "join_timeout, last_call_timeout, close_timeout, read_timeout, keep_alive_interval, regroup_grace, "
    "keep_alive_max_attempt, timeout, is_host, rank, store_type, heartbeat_timeout, "
    "token_file, protocol, ca_cert, ssl_cert, ssl_cert_key, user, password_file, etcd_prefix"
)

# (options, the sentence: where, value, what is allowed)
WRONG = [
    ("--nnodes x", "--nnodes", "x", NODES),
    ("--nnodes 0", "--nnodes", "0", NODES),
    ("--nnodes 1:2:3", "--nnodes", "1:2:3", NODES),
    ("--nnodes 1:", "--nnodes", "1:", NODES),
    ("--nnodes -1", "--nnodes", "-1", NODES),
    ("--nnodes 3:2", "--nnodes", "3:2", "it is MIN:MAX with MIN no larger than MAX"),
    ("--nnodes 1:2", "--nnodes", "1:2", "it is one number with --rdzv-backend static; c10d takes MIN:MAX"),
    ("--nnodes 2 --standalone", "--nnodes", "2", "it is 1 with --standalone, which is for one node"),
    ("--nnodes 2 --rdzv-backend memory", "--nnodes", "2", "it is 1 with --rdzv-backend memory, which is for one node"),
    ("--nproc_per_node 0", "--nproc_per_node", "0", "it is a number, 1 or more, or one of auto, cpu, gpu, xpu"),
    ("--nproc-per-node tpu", "--nproc-per-node", "tpu", "it is a number, 1 or more, or one of auto, cpu, gpu, xpu"),
    ("--nproc-per-node 2_0", "--nproc-per-node", "2_0", "it is a number, 1 or more, or one of auto, cpu, gpu, xpu"),
    ("--nproc-per-node xpu", "--nproc-per-node", "xpu",
     "no XPU is visible here (this machine has no discrete Intel GPU); give a number"),
    ("--devices 1,x", "--devices", "1,x", "it is a list of devices, as 1,3,5 or GPU-5ad1e2c3-...,MIG-..."),
    ("--devices 1,", "--devices", "1,", "it is a list of devices, as 1,3,5 or GPU-5ad1e2c3-...,MIG-..."),
    ("--devices 1,3 --nproc-per-node 3", "--devices", "1,3",
     "--nproc-per-node 3 needs 3 devices, one for each worker"),
    ("--omp 0", "--omp", "0", "it is a number, 1 or more, or auto"),
    ("--omp all", "--omp", "all", "it is a number, 1 or more, or auto"),
    ("--nnodes 2 --node-rank 2", "--node-rank", "2", "it is 0 to 1 (--nnodes is 2)"),
    ("--node-rank 1", "--node-rank", "1", "it is 0 (--nnodes is 1)"),
    ("--node-rank x", "--node-rank", "x", WHOLE),
    (C10D + " --rdzv-endpoint h --node-rank -1", "--node-rank", "-1", WHOLE),
    ("--nnodes 2 --rdzv-conf rank=2", "--rdzv-conf rank", "2", "it is 0 to 1 (--nnodes is 2)"),
    ("--nnodes 2 --node-rank 0 --rdzv-conf rank=1", "--node-rank", "0", "--rdzv-conf says rank=1"),
    ("--local-addr a/b", "--local-addr", "a/b", HOST),
    ("--local-addr 1:2", "--local-addr", "1:2", HOST),
    ("--rdzv-backend etcd", "--rdzv-endpoint", "", "HOST:PORT,... of etcd's members is needed"),
    ("--rdzv-backend etcd --rdzv-endpoint a:1,a:1", "--rdzv-endpoint", "a:1,a:1", "it names one place twice"),
    ("--rdzv-backend etcd --rdzv-endpoint a --rdzv-conf user=u", "--rdzv-conf user", "u",
     "it needs password_file beside it"),
    ("--rdzv-backend file", "--rdzv-endpoint", "", "a folder that all nodes share is needed"),
    ("--rdzv-backend file --rdzv-endpoint /no/such/folder", "--rdzv-endpoint", "/no/such/folder",
     "there is no folder /no/such in which to make it"),
    ("--rdzv-backend file --rdzv-endpoint /etc/passwd", "--rdzv-endpoint", "/etc/passwd",
     "it is a file; a folder that all nodes share is needed"),
    ("--rdzv-backend zeus", "--rdzv-backend", "zeus",
     "it is c10d, static, etcd or file"),
    (C10D, "--rdzv-endpoint", "", "HOST:PORT of one node is needed with --rdzv-backend c10d"),
    (C10D + " --rdzv-endpoint h:0", "--rdzv-endpoint", "h:0", "2 nodes need one port that all of them know, not 0"),
    ("--nnodes 2 --master-port 0", "--master-port", "0", "2 nodes need one port that all of them know, not 0"),
    (C10D + " --rdzv-endpoint h:70000", "--rdzv-endpoint", "h:70000", "the port is a number from 0 to 65535"),
    (C10D + " --rdzv-endpoint http://h:1", "--rdzv-endpoint", "http://h:1", PLACE),
    (C10D + " --rdzv-endpoint a:1,b:2", "--rdzv-endpoint", "a:1,b:2", PAIR),
    (C10D + " --rdzv-endpoint a:1,b:2,a:1", "--rdzv-endpoint", "a:1,b:2,a:1", "it names one place twice"),
    (C10D + " --rdzv-endpoint a:1,b:0,c:1", "--rdzv-endpoint", "a:1,b:0,c:1", KNOWN),
    (C10D + " --rdzv-endpoint a:1,,c:1", "--rdzv-endpoint", "", "host:port is needed"),
    (C10D + " --rdzv-endpoint h --rdzv-conf ssl_cert=x", "--rdzv-conf ssl_cert", "x",
     "it needs ssl_cert_key beside it"),
    ("--nnodes 2 --rdzv-endpoint a:1,b:2", "--rdzv-endpoint", "a:1,b:2", PLACE),
    (C10D + " --rdzv-endpoint 'a b:1'", "--rdzv-endpoint", "a b:1", PLACE),
    (C10D + " --rdzv-endpoint :1", "--rdzv-endpoint", ":1", "host:port is needed"),
    (C10D + " --rdzv-endpoint h --rdzv-id=", "--rdzv-id", "", "it is a name for the run, the same on every node"),
    ("--nnodes 2 --master-addr a/b", "--master-addr", "a/b", HOST),
    ("--master-port x", "--master-port", "x", "0 to 65535"),
    ("--master-port 70000 --standalone", "--master-port", "70000", "0 to 65535"),
    ("--rdzv-conf a", "--rdzv-conf", "a", "it is KEY=VALUE,KEY=VALUE and 'a' is not"),
    ("--rdzv-conf join_timeout=1,", "--rdzv-conf", "join_timeout=1,", "it is KEY=VALUE,KEY=VALUE and '' is not"),
    ("--rdzv-conf join_timeout=", "--rdzv-conf", "join_timeout=",
     "it is KEY=VALUE,KEY=VALUE and 'join_timeout=' is not"),
    ("--rdzv-conf jointimeout=1", "--rdzv-conf jointimeout", "1", "there is no such key; there are " + KEYS),
    ("--rdzv-conf store_type=disk", "--rdzv-conf store_type", "disk", "it is tcp or file"),
    ("--rdzv-conf join_timeout=0", "--rdzv-conf join_timeout", "0", "it is a time in seconds, above 0"),
    ("--rdzv-conf join_timeout=nan", "--rdzv-conf join_timeout", "nan", "it is a time in seconds, above 0"),
    ("--rdzv-conf last_call_timeout=-1", "--rdzv-conf last_call_timeout", "-1", "it is a time in seconds, 0 or more"),
    ("--rdzv-conf keep_alive_max_attempt=0", "--rdzv-conf keep_alive_max_attempt", "0",
     "it is a whole number, 1 or more"),
    ("--rdzv-conf timeout=1h", "--rdzv-conf timeout", "1h", "it is a time in seconds, above 0"),
    ("--rdzv-conf is_host=maybe", "--rdzv-conf is_host", "maybe", "it is true or false"),
    ("--max-restarts -1", "--max-restarts", "-1", WHOLE),
    ("--max-restarts 1.5", "--max-restarts", "1.5", WHOLE),
    ("--success-timeout 0", "--success-timeout", "0", "it is a time in seconds, above 0"),
    ("--success-timeout soon", "--success-timeout", "soon", "it is a time in seconds, above 0"),
    ("--shutdown-timeout -1", "--shutdown-timeout", "-1", "it is a time in seconds, 0 or more"),
    ("--shutdown-timeout inf", "--shutdown-timeout", "inf", "it is a time in seconds, 0 or more"),
    ("--signals-to-handle SIGTERM,FOO", "--signals-to-handle", "SIGTERM,FOO",
     "it is a list of signal names, as USR1,USR2, and 'FOO' is none"),
    ("--signals-to-handle=", "--signals-to-handle", "", "it is a list of signal names, as USR1,USR2, and '' is none"),
    ("--signals-to-handle KILL", "--signals-to-handle", "KILL", "no program can catch SIGKILL"),
    ("--forward-signals SIGSTOP", "--forward-signals", "SIGSTOP", "no program can catch SIGSTOP"),
    ("--forward-signals CHLD", "--forward-signals", "CHLD",
     "SIGCHLD comes whenever a worker ends; it cannot be passed on"),
    ("--forward-signals USR1 --signals-to-handle SIGUSR1", "--forward-signals", "USR1",
     "--signals-to-handle names some of these too, and a signal cannot do both"),
    ("-r 4", "-r", "4", STREAMS),
    ("--redirects=0:5", "--redirects", "0:5", STREAMS),
    ("-t 0:3,", "-t", "0:3,", STREAMS),
    ("-t -1:3", None, "-t needs a value after it, not the option -1:3 (a value with - is written -t=-...)", None),
    ("--local-ranks-filter 0,x", "--local-ranks-filter", "0,x", "it is a list of local ranks, as 0,2,3"),
    ("--local-ranks-filter -1", "--local-ranks-filter", "-1", "it is a list of local ranks, as 0,2,3"),
    ("--logs file", "--logs", "file", "it is one of pipe, inherit"),
    ("--logs inherit --tee 3", None, "--tee needs --logs pipe: with inherit the launcher sees no output", None),
    ("--numa-binding x", "--numa-binding", "x", "it is one of node, socket, exclusive, core-complex"),
    ("--logs-specs mine", "--logs-specs", "mine",
     "it is an entry point of the group torchrun.logs_specs; there are: default"),
    ("--event-log-handler mine", "--event-log-handler", "mine",
     "there is no event handler 'mine'; there are console, dynamic_rendezvous, null"),
    ("--admit later", "--admit", "later", "it is one of now, at-restart, when-ready"),
    ("--join-interval -1", "--join-interval", "-1", "it is a time in seconds, 0 or more"),
    ("--spares x", "--spares", "x", WHOLE),
    ("--max-node-failures 0", "--max-node-failures", "0", "it is a whole number, 1 or more"),
    ("--topology env:NONE", "--topology", "env:NONE", "the variable NONE is not set on this node"),
    ("--topology file:/none", "--topology", "file:/none", "the file cannot be read: No such file or directory"),
    ("--topology 'cmd:exit 3'", "--topology", "cmd:exit 3", "the command failed with status 3"),
    ("--leave-signals KILL", "--leave-signals", "KILL", "no program can catch SIGKILL"),
    ("--notice-signal USR1,USR2", "--notice-signal", "USR1,USR2", "it is one signal, as USR1"),
    ("--restart-window 0", "--restart-window", "0", "it is a time in seconds, above 0"),
    ("--restart-delay 1:x", "--restart-delay", "1:x", "it is FIRST or FIRST:MAX, times in seconds, as 1:60"),
    ("--restart-delay 9:1", "--restart-delay", "9:1", "it is FIRST:MAX with FIRST no larger than MAX"),
    ("--restart-scope all", "--restart-scope", "all", "it is one of job, node, worker"),
    ("--on-exit 17", "--on-exit", "17",
     "it is WHAT=ACTION,... and '17' is not; actions are restart, fail, replace-node, ignore"),
    ("--on-exit 0=fail", "--on-exit", "0=fail", "0 is no exit status of a failure; they are 1 to 255"),
    ("--on-exit a-b=fail", "--on-exit", "a-b=fail", "'a-b' is no exit status, signal or exception type"),
    ("--warm-start a-b", "--warm-start", "a-b", "it is on, off, or names of modules, as torch,numpy"),
    ("--monitor-interval x", "--monitor-interval", "x", "it is a time in seconds, 0 or more"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("open('started', 'w')\n")
    monkeypatch.chdir(tmp_path)


def sentence_of(line, environ=None, legacy=False):
    environ = {"PATH": "/none"} | (environ or {})
    with pytest.raises(UsageError) as caught:
        settle(parse(shlex.split(line), environ, legacy), environ, legacy)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("line", "where", "value", "allowed"), WRONG, ids=[w[0] for w in WRONG])
def test_wrong_values(line, where, value, allowed):
    expected = f"{where}: {value!r} is not usable: {allowed}" if where else value
    assert sentence_of(line + " train.py") == expected


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"PET_NNODES": "x"}, f"PET_NNODES: 'x' is not usable: {NODES}"),
        ({"PET_RDZV_CONF": "x=1"}, f"PET_RDZV_CONF x: '1' is not usable: there is no such key; there are {KEYS}"),
        ({"PET_NODE_RANK": "3", "PET_NNODES": "2"}, "PET_NODE_RANK: '3' is not usable: it is 0 to 1 (PET_NNODES is 2)"),
        ({"PET_TEE": "9"}, f"PET_TEE: '9' is not usable: {STREAMS}"),
        ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "x"},
         "TORCH_ELASTIC_SHUTDOWN_TIMEOUT: 'x' is not usable: it is a time in seconds, 0 or more"),
        ({"PYTHON_EXEC": "/no/python"}, "PYTHON_EXEC: '/no/python' is not usable: there is no such file"),
        ({"PYTHON_EXEC": "python9"}, "PYTHON_EXEC: 'python9' is not usable: it is not in any directory of PATH"),
        ({"PET_NUMA_BINDING": "nodes"},
         "PET_NUMA_BINDING: 'nodes' is not usable: it is one of node, socket, exclusive, core-complex"),
    ],
)  # fmt: skip
def test_a_variable_is_named(environ, sentence):
    assert sentence_of("train.py", environ) == sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("none.py", "the script: 'none.py' is not usable: there is no such file (looked from {here})"),
        ("''", "the script: '' is not usable: there is no such file (looked from {here})"),
        ("sub", "the script: 'sub' is not usable: it is a directory without a __main__.py"),
        ("--run-path none.py",
         "the script: 'none.py' is not usable: there is no such file (looked from {here})"),
        ("--no-python nothing", "the command: 'nothing' is not usable: it is not in any directory of PATH"),
        ("--no-python ./nothing", "the command: './nothing' is not usable: there is no such file"),
        ("--no-python ./train.py",
         "the command: './train.py' is not usable: ./train.py is not executable (chmod +x it)"),
        ("--no-python ''", "the command: '' is not usable: it is not in any directory of PATH"),
        ("-m ''", "the module: '' is not usable: it is a module's name, as package.train"),
        ("-m --no-python mod", "-m and --no-python exclude each other: a module needs python -m"),
        ("-m --run-path mod", "-m and --run-path exclude each other: a module needs python -m"),
    ],
)  # fmt: skip
def test_what_cannot_be_started_is_told_before_anything_starts(tmp_path, line, sentence):
    (tmp_path / "sub").mkdir()
    assert sentence_of(line) == sentence.format(here=tmp_path)


def test_the_legacy_form_refuses_a_command_with_a_local_rank():
    assert sentence_of("--no-python true", legacy=True) == (
        "--no-python needs --use-env too: a command takes no --local-rank"
    )


@pytest.mark.parametrize(
    ("command", "name", "sentence"),
    [
        (["rallypoint", "run", "--nnodes", "3:2"], "rallypoint run",
         "--nnodes: '3:2' is not usable: it is MIN:MAX with MIN no larger than MAX"),
        (["rallypoint", "run", "--bogus"], "rallypoint run", "there is no option --bogus"),
        (["rallypoint.launch", "--max-restarts=x"], "python -m rallypoint.launch",
         f"--max-restarts: 'x' is not usable: {WHOLE}"),
    ],
)  # fmt: skip
def test_a_wrong_command_ends_with_2_and_two_lines_and_starts_nothing(tmp_path, command, name, sentence):
    done = subprocess.run([sys.executable, "-m", *command, "train.py"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{name}: error: {sentence}\nsee {name} --help\n"
    assert not (tmp_path / "started").exists()
