"""The worker environment beside that of the real torchrun: same names, same values."""

import json
import os
import subprocess
import sys

import pytest

from rallypoint.model.node import Assignment
from rallypoint.model.spec import Spec
from rallypoint.proc.environment import worker_argv, worker_environment

SCRIPT = """
import json, os, sys
with open(f"{sys.argv[1]}/{os.environ['RANK']}.json", "w") as file:
    json.dump([dict(os.environ), sys.argv[2:]], file)
"""
# torchrun's own way of passing its option to itself; no part of what a worker is promised.
INTERNAL = {"TORCHELASTIC_SIGNALS_TO_HANDLE"}


@pytest.mark.torch
def test_names_and_values_are_torchruns(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "script.py").write_text(SCRIPT)
    environ = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"RANK": "9", "TORCHELASTIC_X": "y"}
    options = ["--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=job"]
    options += ["--max-restarts=2", "--role=trainer", "--local-addr=127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(tmp_path / "script.py"), str(tmp_path)]
    subprocess.run([*command, "a${local_rank}"], env=environ, check=True, capture_output=True, timeout=100)

    spec = Spec(
        argv=("python", "-u", "a${local_rank}"),
        environ=environ,
        hook=False,
        run_id="job",
        nproc=2,
        max_restarts=2,
        role="trainer",
    )
    for rank in range(2):
        theirs, arguments = json.loads((tmp_path / f"{rank}.json").read_text())
        ours = worker_environment(spec, assigned(rank, theirs), theirs["TORCHELASTIC_ERROR_FILE"], "m", "/hook")
        assert theirs.keys() - ours.keys() <= INTERNAL
        assert ours.keys() - theirs.keys() == {"RALLYPOINT_MARK"}
        assert {k: ours[k] for k in ours.keys() - {"RALLYPOINT_MARK"}} == {
            k: theirs[k] for k in theirs.keys() - INTERNAL
        }
        assert worker_argv(spec, rank)[2:] == arguments


def assigned(rank, theirs):
    return Assignment(
        rank=rank,
        local_rank=rank,
        world_size=2,
        local_world_size=2,
        group_rank=0,
        group_world_size=1,
        role="trainer",
        role_rank=rank,
        role_world_size=2,
        master_addr=theirs["MASTER_ADDR"],
        master_port=int(theirs["MASTER_PORT"]),
        restart_count=0,
    )
