"""Real torch workers, unchanged, under the launcher. (FAULTS 33)"""

import re

import pytest

from lab import Launch, free_port, reports, script

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(180)]

GROUP = """
import torch
import torch.distributed as dist
dist.init_process_group('gloo')
def total():
    value = torch.ones(3) * (rank + 1)
    dist.all_reduce(value)
    return int(value[0])
"""


def test_gloo_works_in_every_round(tmp_path):
    """The same store address serves each start, empty; a round's worker that is killed costs one restart."""
    text = """
assert total() == 3
say('sum', count, dist.get_rank(), dist.get_world_size())
if count == 0 and rank == 1:
    os.kill(os.getpid(), 9)
if count == 1 and rank == 0:
    raise ValueError('in the second round')
dist.barrier()
dist.destroy_process_group()
"""
    path = script(tmp_path, GROUP + text)
    with Launch("--nproc-per-node", 2, "--max-restarts", 2, "--log-format", "json", path) as launch:
        assert launch.end(120) == 0
    # A worker that is stopped while its peer has already failed may not come to its line.
    assert {f"sum 2 {rank} 2" for rank in range(2)} <= set(launch.out)
    places = [r["fields"]["headline"] for r in reports(launch) if r["event"] == "restart"]
    assert places[0].startswith("SIGKILL")
    assert places[1].startswith("ValueError: in the second round")


def test_a_peers_broken_connection_is_not_the_cause(tmp_path):
    text = "total()\nif rank == 1:\n    raise ValueError('the cause')\ndist.barrier()\n"
    with Launch("--nproc-per-node", 2, "--log-format", "json", script(tmp_path, GROUP + text)) as launch:
        # Its own status; torch sometimes aborts (134) when it takes the process group of a failed program down.
        assert launch.end(60) in (1, 134)
    (outcome,) = (r["fields"]["outcome"] for r in reports(launch) if r["event"] == "finished")
    assert (outcome["cause"]["rank"], outcome["cause"]["message"]) == (1, "the cause")
    assert all(other["consequence"] for other in outcome["others"])


def test_33_a_store_of_the_scripts_own(tmp_path):
    """On a port of its own, hosted by rank 0, beside the launcher's; and again after a restart."""
    port = free_port()
    text = f"""
import torch.distributed as dist
assert dist.is_torchelastic_launched()
own = dist.TCPStore('127.0.0.1', {port}, world, rank == 0, wait_for_workers=True)
own.set(f'from {{rank}}', str(count))
say('own', count, own.get(f'from {{1 - rank}}').decode())
dist.init_process_group('gloo')
dist.barrier()
if count == 0:
    sys.exit(3)
store = dist.distributed_c10d._get_default_store()
store.set(f'key {{rank}}', b'x' * 10)
say('launcher', len(store.get(f'key {{1 - rank}}')))
dist.barrier()
"""
    with Launch("--nproc-per-node", 2, "--max-restarts", 1, script(tmp_path, text)) as launch:
        assert launch.end(120) == 0
    assert {"own 1 1", "launcher 10"} <= set(launch.out)
    assert launch.out.count("own 0 0") == 2


RECORDED = """
from torch.distributed.elastic.multiprocessing.errors import record
@record
def main():
    raise LookupError('within record')
if __name__ == '__main__':
    main()
"""


def test_torchs_record_keeps_working(tmp_path):
    with Launch("--log-format", "json", script(tmp_path, RECORDED)) as launch:
        assert launch.end(60) == 1
    (cause,) = (r["fields"]["outcome"]["cause"] for r in reports(launch) if r["event"] == "finished")
    assert (cause["type"], cause["message"]) == ("LookupError", "within record")
    assert "raise LookupError('within record')" in cause["traceback"]
    assert "in wrapper" in cause["traceback"]


def test_a_torchrun_script_sees_what_it_expects(tmp_path):
    text = """
import torch.distributed as dist
from torch.distributed.elastic.utils.distributed import get_free_port
say(dist.is_torchelastic_launched(), os.environ['TORCHELASTIC_RUN_ID'], os.environ['TORCHELASTIC_USE_AGENT_STORE'])
dist.init_process_group('gloo', init_method='env://')
say('rank', dist.get_rank(), 'of', dist.get_world_size(), 'local', dist.get_node_local_rank())
objects = [None] * world
dist.all_gather_object(objects, {'rank': rank})
assert [o['rank'] for o in objects] == list(range(world))
sub = dist.new_group([0])
dist.barrier()
dist.destroy_process_group()
"""
    meet = ("--standalone", "--rdzv-id", "job", "--nproc-per-node", 2)
    with Launch(*meet, script(tmp_path, text)) as launch:
        assert launch.end(60) == 0
    assert sorted(line for line in launch.out if line.startswith("rank")) == [
        f"rank {r} of 2 local {r}" for r in (0, 1)
    ]
    assert all(re.match(r"True \S+ True", line) for line in launch.out if "True" in line)


def test_mp_spawn_within_a_worker(tmp_path):
    """A child of multiprocessing raises; torch raises in the worker; both texts are told."""
    text = """
import torch.multiprocessing as mp
def child(index):
    raise ValueError(f'in child {index}')
if __name__ == '__main__':
    mp.spawn(child, nprocs=2)
"""
    with Launch("--log-format", "json", script(tmp_path, text)) as launch:
        assert launch.end(60) == 1
        assert not launch.alive()
    (cause,) = (r["fields"]["outcome"]["cause"] for r in reports(launch) if r["event"] == "finished")
    assert cause["type"].endswith("ProcessRaisedException")
    assert "in child" in cause["message"]
