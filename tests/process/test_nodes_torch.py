"""torch itself over several nodes: gloo by the launcher's store, again after a restart, and stores of one's own."""

from __future__ import annotations

import pytest

from job import Job

pytestmark = [pytest.mark.torch, pytest.mark.slow]

GLOO = """\
import datetime
import torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
part = torch.tensor([rank + 1.0])
dist.all_reduce(part)
dist.barrier()
port = torch.tensor([0])
if rank == 0:
    own = dist.TCPStore("127.0.0.1", 0, world, True, wait_for_workers=False)
    port[0] = own.port
dist.broadcast(port, 0)
if rank != 0:
    own = dist.TCPStore("127.0.0.1", int(port), world, False)
tell("start", sum=part.item(), own=own.add("all", 1))
while own.add("all", 0) < world:
    time.sleep(0.01)
dist.barrier()
if count == 0:
    if rank == 3:
        sys.exit(3)
    dist.all_reduce(part)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("backend", ["c10d", "static"])
def test_gloo_over_two_nodes_with_a_restart(tmp_path, backend):
    pytest.importorskip("torch")
    with Job(tmp_path, "--max-restarts=1", "--nproc-per-node=2", nnodes="2", backend=backend, program=GLOO) as job:
        job.start_all("AB")
        assert job.ended("AB", 5) == [0, 0], job.told()
        for count in (0, 1):
            told = job.events(count=count)
            assert [e["sum"] for e in told] == [10.0] * 4
            assert sorted(e["own"] for e in told) == [1, 2, 3, 4]
        for node in job.nodes.values():
            assert any("restart 1 of 1 (rank 3 on" in line and "exit code 3" in line for line in node.lines), node.text
