"""Devices of a machine as files show them; masks as CUDA reads them, against torch's reading."""

import os

import pytest
from machines import Machine, uuid, write

from rallypoint.cli.devices import gpu_count, share_out, worker_count
from rallypoint.cli.parse import parse
from rallypoint.model.errors import UsageError
from rallypoint.proc.accelerators import Gpu, nvidia_gpus, visible_gpus, xpu_count

FOUR = Machine(gpus=(0, 0, 0, 0))


def files(root):
    return str(FOUR.build(root))


def test_gpus_are_found_with_their_names_and_places(tmp_path):
    gpus = nvidia_gpus(files(tmp_path))
    assert [gpu.address for gpu in gpus] == [f"0000:{bus}:00.0" for bus in ("10", "18", "20", "28")]
    assert gpus[2].uuid == uuid(2)


def test_device_files_alone_are_enough(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        write(tmp_path / "dev" / name, "")
    assert nvidia_gpus(str(tmp_path), nvml=False) == (Gpu(), Gpu(), Gpu())
    assert gpu_count({"CUDA_VISIBLE_DEVICES": "GPU-5a,GPU-6b"}, str(tmp_path)) == 2  # names that nobody here knows


@pytest.mark.parametrize(
    ("mask", "indices"),
    [
        (None, [0, 1, 2, 3]), ("0,3", [0, 3]), ("3,0", [3, 0]), ("", []), ("-1", []), ("0,-1,1", [0]), ("1,9,2", [1]),
        ("0,0", []), (" 1 , 2 ", [1, 2]), ("1x,2", [1, 2]), ("02,2", []), ("+1", [1]), ("x", []), ("1,,2", [1]),
        (f"{uuid(1)},GPU-3", [1, 3]), ("GPU-9", []), ("GPU-1,1", [1]), ("GPU-", []), ("1,GPU-1", [1]), ("MIG-1", []),
        ("GPU-1,GPU-1", []), ("GPU-1,GPU-11", []),
    ],
)  # fmt: skip
def test_masks(mask, indices):
    gpus = tuple(Gpu(uuid(i), f"{i}", parts=("MIG-x",)) for i in range(4))
    assert [gpus.index(gpu) for _, gpu in visible_gpus(gpus, mask)] == indices


def test_parts_of_a_gpu_are_devices():
    gpus = (Gpu("GPU-a", "1", ("MIG-aa", "MIG-ab")), Gpu("GPU-b", "2"))
    assert visible_gpus(gpus, "MIG-aa,MIG-ab") == (("MIG-aa", gpus[0]), ("MIG-ab", gpus[0]))
    assert visible_gpus(gpus, "MIG-a") == ()  # may be either


@pytest.mark.torch
@pytest.mark.parametrize("mask", ["0,3", "", "-1", "0,-1,1", "1,9,2", "0,0", " 1 , 2 ", "1x,2", "x", "GPU-1,GPU-1"])
def test_masks_as_torch(mask, monkeypatch):
    cuda = pytest.importorskip("torch.cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    names = [uuid(i) for i in range(4)]
    entries = cuda._parse_visible_devices()
    if entries and isinstance(entries[0], str):
        entries = cuda._transform_uuid_to_ordinals(entries, names)
    expected = []
    for index in entries:  # as torch.cuda._device_count_nvml goes through them
        if index >= 4:
            break
        expected.append(index)
    gpus = tuple(Gpu(name, str(i)) for i, name in enumerate(names))
    assert [gpus.index(gpu) for _, gpu in visible_gpus(gpus, mask)] == expected


def drm(root, name, driver, address, vendor="0x8086"):
    device = root / f"sys/devices/pci/{address}"
    write(device / "vendor", vendor)
    (root / f"sys/drivers/{driver}").mkdir(parents=True, exist_ok=True)
    (device / "driver").symlink_to(root / f"sys/drivers/{driver}")
    folder = root / f"sys/class/drm/{name}"
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(device)


def test_discrete_intel_gpus_are_counted(tmp_path):
    drm(tmp_path, "renderD128", "i915", "0000:00:02.0")  # part of the processor
    drm(tmp_path, "renderD129", "xe", "0000:4d:00.0")
    drm(tmp_path, "renderD130", "i915", "0000:8c:00.0")
    drm(tmp_path, "renderD131", "amdgpu", "0000:9c:00.0", vendor="0x1002")
    drm(tmp_path, "card0", "xe", "0000:5d:00.0")
    root = str(tmp_path)
    masks = {None: 2, "": 0, "0": 1, "1,0": 2, "0.0": 1, "5": 0, "x": 0}
    for mask, count in masks.items():
        environ = {} if mask is None else {"ZE_AFFINITY_MASK": mask}
        assert xpu_count(environ, root) == count
    assert worker_count("-", "xpu", {}, root) == worker_count("-", "auto", {}, root) == 2
    given = parse(["--nproc-per-node", "xpu", "--devices", "1,0", "s.py"], {})
    assert share_out(given, {}, root) == (2, ("xpu:1", "xpu:0"))
    with pytest.raises(UsageError, match="ZE_AFFINITY_MASK=9 leaves none"):
        worker_count("-", "xpu", {"ZE_AFFINITY_MASK": "9"}, root)


def test_no_device_is_an_error_for_gpu_and_cores_for_auto(tmp_path):
    here = str(tmp_path)
    assert worker_count("-", "auto", {}, here) == len(os.sched_getaffinity(0))
    with pytest.raises(UsageError, match=r"no GPU is visible here \(this machine has no NVIDIA GPU\); give a number"):
        worker_count("--nproc-per-node", "gpu", {}, here)
    with pytest.raises(UsageError, match=r"\(CUDA_VISIBLE_DEVICES=-1 leaves none\)"):
        worker_count("--nproc-per-node", "gpu", {"CUDA_VISIBLE_DEVICES": "-1"}, files(tmp_path))


@pytest.mark.parametrize(
    ("line", "environ", "expected"),
    [
        ("--devices 1,3", {}, (2, ("1", "3"))),
        ("--devices 1,3 --nproc-per-node gpu", {}, (2, ("1", "3"))),
        ("--devices 1,3 --nproc-per-node 1", {}, (1, ("1", "3"))),
        ("--devices 1,0", {"CUDA_VISIBLE_DEVICES": "2,3"}, (2, ("3", "2"))),
        ("--devices 0,0", {}, (2, ("0", "0"))),
        ("--devices GPU-1,MIG-2", {}, (2, ("GPU-1", "MIG-2"))),
        ("--nproc-per-node gpu", {"CUDA_VISIBLE_DEVICES": "2,3"}, (2, None)),
    ],
)
def test_devices_are_shared_out(line, environ, expected, tmp_path):
    assert share_out(parse([*line.split(), "s.py"], {}), environ, files(tmp_path)) == expected


def test_a_device_that_is_not_visible_is_refused(tmp_path):
    with pytest.raises(UsageError, match="there is no device 2: 2 are visible here, from 0"):
        share_out(parse(["--devices", "2", "s.py"], {}), {"CUDA_VISIBLE_DEVICES": "1,3"}, files(tmp_path))
    with pytest.raises(UsageError, match="there is no device 4: 4 are visible"):
        share_out(parse(["--devices", "4", "s.py"], {}), {}, files(tmp_path))
