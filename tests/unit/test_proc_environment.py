import pytest

from rallypoint.model.errors import UsageError
from rallypoint.model.node import Assignment
from rallypoint.model.spec import STACK_SIGNAL, Spec
from rallypoint.proc.environment import worker_argv, worker_environment

ASSIGNMENT = Assignment(
    rank=3,
    local_rank=1,
    world_size=4,
    local_world_size=2,
    group_rank=1,
    group_world_size=2,
    role="trainer",
    role_rank=3,
    role_world_size=4,
    master_addr="10.0.0.7",
    master_port=41234,
    restart_count=2,
)
CONTRACT = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "ROLE_NAME": "trainer",
    "ROLE_RANK": "3",
    "ROLE_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "41234",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_MAX_RESTARTS": "5",
    "TORCHELASTIC_RUN_ID": "job-1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_ERROR_FILE": "/logs/error.json",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "OMP_NUM_THREADS": "1",
    "RALLYPOINT_MARK": "m1",
}


def make(environ=None, assignment=ASSIGNMENT, cores=0, **changes):
    options = {"hook": False, "run_id": "job-1", "max_restarts": 5, "nproc": 2} | changes
    spec = Spec(argv=("python", "-u", "train.py"), environ=environ or {}, **options)
    return worker_environment(spec, assignment, "/logs/error.json", "m1", "/hook", cores)


def test_the_contract_to_the_letter():
    assert make() == CONTRACT


def test_what_the_platform_says_is_replaced_and_the_rest_inherited():
    platform = {"RANK": "0", "WORLD_SIZE": "9", "LOCAL_RANK": "7", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    platform |= {"TORCHELASTIC_RUN_ID": "outer", "TORCHELASTIC_ERROR_FILE": "/outer.json", "GROUP_RANK": "5"}
    assert make(platform | {"HOME": "/root", "SLURM_PROCID": "1"}) == CONTRACT | {"HOME": "/root", "SLURM_PROCID": "1"}


def test_the_launchers_own_environment_is_not_changed():
    environ = {"A": "b"}
    make(environ)
    assert environ == {"A": "b"}


def test_omp_threads_only_for_several_workers_and_only_if_unset():
    assert make({"OMP_NUM_THREADS": "8"})["OMP_NUM_THREADS"] == "8"
    assert "OMP_NUM_THREADS" not in make(nproc=1)


def test_nccl_error_handling_is_kept_if_set():
    assert make({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"})["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"


def test_ipv6_address_goes_without_brackets():
    assert make(assignment=ASSIGNMENT.replace(master_addr="[fd00::1]"))["MASTER_ADDR"] == "fd00::1"


def test_devices_are_inherited():
    assert make({"CUDA_VISIBLE_DEVICES": "4,5"})["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert "CUDA_VISIBLE_DEVICES" not in make()


@pytest.mark.parametrize(("visible", "device"), [(None, "1"), ("4, 5", "5"), ("GPU-aa,GPU-bb", "GPU-bb")])
def test_virtual_local_rank_sees_one_device(visible, device):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    env = make(environ, virtual_local_rank=True)
    assert (env["LOCAL_RANK"], env["CUDA_VISIBLE_DEVICES"]) == ("0", device)


def test_virtual_local_rank_without_enough_devices_says_so():
    with pytest.raises(UsageError, match=r"CUDA_VISIBLE_DEVICES: '4' .*--virtual-local-rank.* 2 workers"):
        make({"CUDA_VISIBLE_DEVICES": "4"}, virtual_local_rank=True)


def test_omp_auto_is_the_workers_share_of_the_cores():
    assert make(omp="auto", cores=6)["OMP_NUM_THREADS"] == "6"
    assert make(omp="auto", cores=6, nproc=1)["OMP_NUM_THREADS"] == "6"
    assert make({"OMP_NUM_THREADS": "2"}, omp="auto", cores=6)["OMP_NUM_THREADS"] == "2"
    assert make(omp="3")["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("virtual", [False, True])
def test_each_worker_sees_its_own_of_the_devices(virtual):
    env = make({"CUDA_VISIBLE_DEVICES": "7"}, devices=("1", "GPU-5a"), virtual_local_rank=virtual)
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-5a"
    assert env["LOCAL_RANK"] == ("0" if virtual else "1")
    xpu = make(devices=("xpu:1", "xpu:3"))
    assert xpu["ZE_AFFINITY_MASK"] == "3" and "CUDA_VISIBLE_DEVICES" not in xpu


def test_fewer_devices_than_workers_says_so():
    with pytest.raises(UsageError, match=r"--devices: '4' .*--devices needs a device for each of the 2 workers"):
        make(devices=("4",))


@pytest.mark.parametrize(
    ("old", "path", "kept"), [(None, "/hook", None), ("", "/hook", ""), ("/a:/b", "/hook:/a:/b", "/a:/b")]
)
def test_the_hook_comes_first_and_the_old_path_is_kept(old, path, kept):
    env = make({} if old is None else {"PYTHONPATH": old}, hook=True)
    assert (env["PYTHONPATH"], env.get("RALLYPOINT_PYTHONPATH")) == (path, kept)
    assert env["RALLYPOINT_STACK_SIGNAL"] == str(int(STACK_SIGNAL))


def test_within_a_worker_of_another_launcher_the_marks_form_a_path():
    outer = {"RALLYPOINT_MARK": "m0", "RALLYPOINT_PYTHONPATH": "/old", "RALLYPOINT_STACK_SIGNAL": "61"}
    assert make(outer) == CONTRACT | {"RALLYPOINT_MARK": "m0:m1"}


def test_exactly_the_macro_is_replaced_in_arguments():
    spec = Spec(argv=("${local_rank}", "x${local_rank}y${local_rank}", "$$", "$local_rank", "${other}"), environ={})
    assert worker_argv(spec, 3) == ["3", "x3y3", "$$", "$local_rank", "${other}"]
