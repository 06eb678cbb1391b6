"""What a script sees: its arguments, its environment, its place in the world. (FAULTS 28, 36, 38)"""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from lab import FACTOR, RALLYRUN, Launch, free_port, script

SHOW = "say(json.dumps(sys.argv[1:]))\n"
ARGUMENTS = [
    ["--", "a", "--", "b"],
    ["-m", "--help", "-h", "--version", "-v"],
    ["$$", "$HOME", "${HOME}", "${local_rank", "$local_rank", "%s", "{}", "~", "*"],
    ["", " ", "\n", "two words", "'", '"', "\\"],
    ["ünïcode", "日本", "🚀"],
    ["--nproc-per-node", "7", "--nnodes=9", "--n", "-r3", "--max_restarts"],
    ["@file", "-", "--key=", "="],
]


@pytest.mark.parametrize("given", ARGUMENTS, ids=" ".join)
def test_arguments_reach_the_script_untouched(tmp_path, given):
    with Launch(script(tmp_path, SHOW), *given) as launch:
        assert launch.end() == 0
    assert json.loads(launch.text) == given


def test_arguments_that_are_no_text(tmp_path):
    given = [os.fsdecode(b"\xff\xfe"), os.fsdecode(b"a\x80b")]
    with Launch(script(tmp_path, "say([os.fsencode(a) for a in sys.argv[1:]])\n"), *given) as launch:
        assert launch.end() == 0
    assert launch.lines == ["[b'\\xff\\xfe', b'a\\x80b']"]


@pytest.mark.parametrize("how", ["script", "module", "run_path", "command", "python_exec"])
def test_the_local_rank_is_put_into_arguments(tmp_path, how):
    path = script(tmp_path, SHOW, "thing.py")
    words = {
        "script": [path],
        "module": ["-m", "thing"],
        "run_path": ["--run-path", path],
        "command": ["--no-python", sys.executable, path],
        "python_exec": [path],
    }[how]
    env = {"PYTHON_EXEC": sys.executable} if how == "python_exec" else {}
    given = ["${local_rank}", "x${local_rank}y${local_rank}", "$${local_rank}", "${LOCAL_RANK}"]
    with Launch("--nproc-per-node", 2, *words, *given, cwd=tmp_path, env=env) as launch:
        assert launch.end() == 0
    expected = [[str(rank), f"x{rank}y{rank}", f"${rank}", "${LOCAL_RANK}"] for rank in range(2)]
    assert sorted(json.loads(line) for line in launch.lines) == expected


def test_the_local_rank_in_the_name_of_a_command(tmp_path):
    for rank in range(2):
        tool = tmp_path / f"tool{rank}"
        tool.write_text(f"#!/bin/sh\necho tool {rank}\n")
        tool.chmod(0o755)
    with Launch("--nproc-per-node", 2, "--no-python", "./tool${local_rank}", cwd=tmp_path) as launch:
        assert launch.end() == 0
    assert sorted(launch.lines) == ["tool 0", "tool 1"]


def test_a_dash_dash_before_the_script_is_ours(tmp_path):
    with Launch("--nproc-per-node", 1, "--", script(tmp_path, SHOW), "--", "x") as launch:
        assert launch.end() == 0
    assert json.loads(launch.text) == ["--", "x"]


def test_the_legacy_launcher(tmp_path):
    legacy = [sys.executable, "-m", "rallypoint.launch"]
    with Launch("--nproc-per-node", 2, script(tmp_path, SHOW), "a", command=legacy) as launch:
        assert launch.end() == 0
    assert sorted(json.loads(line) for line in launch.lines) == [["--local-rank=0", "a"], ["--local-rank=1", "a"]]
    with Launch("--use-env", script(tmp_path, SHOW), "a", command=legacy) as launch:
        assert launch.end() == 0
    assert json.loads(launch.text) == ["a"]


def test_the_script_sees_what_it_sees_without_a_launcher(tmp_path):
    """Its path, its folder, its environment but for the contract's names, signals, descriptors."""
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a shell ignores it in what it starts in the background
    text = """
import glob
say(json.dumps({
    'argv': sys.argv, 'path': sys.path, 'name': __name__, 'file': __file__, 'cwd': os.getcwd(),
    'hooks': [sys.excepthook is sys.__excepthook__, 'sitecustomize' in sys.modules, 'rallypoint' in sys.modules],
    'environ': {k: v for k, v in os.environ.items() if k not in ('_', 'SHLVL')},
    'signals': {str(n): str(signal.getsignal(n)) for n in range(1, 32)},
    'descriptors': sorted(os.listdir('/proc/self/fd'))[:3],
    'umask': os.umask(0), 'nice': os.nice(0), 'cpus': sorted(os.sched_getaffinity(0)),
}))
"""
    path = script(tmp_path, text)
    seen = []
    contract = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1"}
    with Launch(path, "a") as launch:
        assert launch.end() == 0
        seen.append(json.loads(launch.text))
    with Launch("a", command=[sys.executable, "-u", path], env=contract) as launch:
        assert launch.end() == 0
        seen.append(json.loads(launch.text))
    launched, plain = seen
    added = launched["environ"].keys() - plain["environ"].keys()
    assert {name for name in added if not name.startswith("TORCHELASTIC_")} == {
        *("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK"),
        *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "RALLYPOINT_MARK"),
        "RALLYPOINT_SAFE_POINT",
    }
    differing = {name for name, value in plain["environ"].items() if launched["environ"].get(name) != value}
    assert differing == {"RALLYPOINT_TEST_MARK"}
    for name in plain.keys() - {"environ"}:
        assert launched[name] == plain[name], name


# 36 and 38: the environment


@pytest.mark.parametrize(("nproc", "given", "seen"), [(1, None, "none"), (2, None, "1"), (2, "5", "5"), (1, "3", "3")])
def test_36_omp_threads(tmp_path, nproc, given, seen):
    unset = {"OMP_NUM_THREADS": given} if given else {}
    command = ["env", *([] if given else ["-u", "OMP_NUM_THREADS"]), *RALLYRUN]
    path = script(tmp_path, "say(os.environ.get('OMP_NUM_THREADS', 'none'))\n")
    with Launch("--nproc-per-node", nproc, path, command=command, env=unset) as launch:
        assert launch.end() == 0
    assert launch.out == [seen] * nproc
    assert ("OMP_NUM_THREADS is not set" in launch.text) == (nproc > 1 and not given)


def test_38_a_launch_without_flags(tmp_path):
    """All that torchrun takes from PET_ variables, and what a platform sets for its own ends."""
    port = free_port()
    platform = {"RANK": "77", "WORLD_SIZE": "99", "LOCAL_RANK": "5", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    platform |= {"GROUP_RANK": "8", "TORCHELASTIC_RUN_ID": "other", "TORCHELASTIC_RESTART_COUNT": "6"}
    pet = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "3", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ID": "job7"}
    pet |= {"PET_RDZV_ENDPOINT": f"127.0.0.1:{port}", "PET_MAX_RESTARTS": "2", "PET_ROLE": "actor", "PET_VERBOSE": "1"}
    text = """
names = 'RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_NAME ROLE_RANK ROLE_WORLD_SIZE'
names += ' MASTER_ADDR TORCHELASTIC_RESTART_COUNT TORCHELASTIC_MAX_RESTARTS TORCHELASTIC_RUN_ID'
say(*(os.environ[name] for name in names.split()))
"""
    with Launch(script(tmp_path, text), env=platform | pet) as launch:
        assert launch.end() == 0
    assert sorted(launch.out) == [f"{n} {n} 3 3 0 1 actor {n} 3 127.0.0.1 0 2 job7" for n in range(3)]
    assert f"127.0.0.1:{port}" in launch.text


def test_38_a_flag_goes_before_its_variable(tmp_path):
    with Launch("--nproc-per-node", 1, script(tmp_path, SHOW), env={"PET_NPROC_PER_NODE": "3"}) as launch:
        assert launch.end() == 0
    assert len(launch.lines) == 1


def test_38_a_wrong_variable_is_named(tmp_path):
    with Launch(script(tmp_path, SHOW), env={"PET_NPROC_PER_NODE": "three"}) as launch:
        assert launch.end() == 2
    assert "PET_NPROC_PER_NODE: 'three'" in launch.lines[0]


# 28: no names are looked up where none were given


def can_unshare():
    try:
        command = ["unshare", "-m", "-u", "-n", "true"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


# A host of its own: a name that nobody can resolve, no network but loopback, a name server that is not there.
NOWHERE = """
hostname nobody-knows.invalid
mount --bind "$1" /etc/resolv.conf
mount --bind "$2" /etc/hosts
ip link set lo up
shift 2
exec "$@"
"""


@pytest.mark.netns
@pytest.mark.skipif(not can_unshare(), reason="needs root and namespaces")
@pytest.mark.parametrize(
    "meet",
    [
        (),
        ("--standalone",),
        ("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:29999"),
        ("--node-rank", "0", "--master-addr", "127.0.0.1", "--nnodes", "1"),
    ],
    ids=" ".join,
)
def test_28_no_name_is_looked_up(tmp_path, meet):
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "hosts").write_text("")
    trace = tmp_path / "trace"
    host = ["unshare", "-m", "-u", "-n", "sh", "-ec", NOWHERE, "sh", tmp_path / "resolv.conf", tmp_path / "hosts"]
    watched = ["strace", "-f", "-qq", "-e", "trace=openat,connect", "-o", trace]
    path = script(tmp_path, "say('hello', rank, os.environ['MASTER_ADDR'])\n")
    for number, wrapper in enumerate(([], watched)):
        command = [str(word) for word in (*host, *wrapper, *RALLYRUN)]
        with Launch("--nproc-per-node", 2, *meet, path, command=command) as launch:
            assert launch.end(2 if number == 0 else 20) == 0
        assert {line.split()[2] for line in launch.out} == {"127.0.0.1"}
    seen = trace.read_text()
    assert "sitecustomize" in seen or "worker.py" in seen
    assert "resolv.conf" not in seen
    assert "/etc/hosts" not in seen
    assert "nsswitch" not in seen
    assert ":53" not in seen
    assert "sin_port=htons(53)" not in seen


def test_the_addresses_are_this_machines(tmp_path):
    """Nothing that a worker is told has to be looked up."""
    with Launch("--nproc-per-node", 2, script(tmp_path, "say(os.environ['MASTER_ADDR'])\n")) as launch:
        assert launch.end() == 0
    for address in launch.lines:
        socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def test_39_quick_enough(tmp_path):
    """The benchmarks measure it; this only shows that nothing waits."""
    path = script(tmp_path, "say('hello')\n")
    with Launch(path) as launch:
        assert launch.end(1.0 * FACTOR) == 0


def test_descriptors_beyond_the_limit_of_open_files(tmp_path):
    """A shell may have opened them before it lowered the limit."""
    limited = ["bash", "-c", 'exec 200</dev/null; ulimit -n 40; exec "$@"', "bash", *RALLYRUN]
    path = script(tmp_path, "say(os.path.exists('/proc/self/fd/200'))\n")
    with Launch("--nproc-per-node", 2, path, command=limited) as launch:
        assert launch.end() == 0
    assert launch.lines == ["False", "False"]


def test_a_directory_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    command = ["sh", "-c", 'rmdir ../gone; exec "$@"', "sh", *RALLYRUN]
    path = script(tmp_path, "say(os.environ['TORCHELASTIC_ERROR_FILE'][:1])\n")
    with Launch("--nproc-per-node", 2, path, command=command, cwd=tmp_path / "gone") as launch:
        assert launch.end() == 0
    assert launch.lines == ["/", "/"]


def test_paths_hold_when_a_worker_changes_its_directory(tmp_path):
    path = script(
        tmp_path, "os.chdir('/')\nsay(os.path.isdir(os.path.dirname(os.environ['TORCHELASTIC_ERROR_FILE'])))\n"
    )
    with Launch("--log-dir", "logs", "-t", 3, path, cwd=tmp_path) as launch:
        assert launch.end() == 0
    assert launch.lines == ["[default0]:True"]


def test_next_to_no_environment(tmp_path):
    """No PATH, no HOME, no locale; and text in the failure that ASCII cannot write."""
    bare = ["env", "-i", "LC_ALL=C", *RALLYRUN]
    with Launch(script(tmp_path, "raise ValueError('\\u65e5\\u672c')\n"), command=bare) as launch:
        assert launch.end() == 1
    assert "ValueError: 日本" in launch.text
