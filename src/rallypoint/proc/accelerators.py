"""The accelerators of this machine, found without a device context: opening one would cost memory on it.

NVIDIA: NVML if its library is there, else the driver's files in /proc and /dev. Intel: render nodes in sysfs.
"""

from __future__ import annotations

import os

from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_INTEL = "0x8086"
_MIG_MAX = 16  # a driver allows 7


class Gpu(Value):
    """One NVIDIA GPU. ``address`` is its place on the PCI bus ("0000:3b:00.0"), "" if unknown; ``parts`` its MIGs."""

    uuid: str = ""
    address: str = ""
    parts: tuple[str, ...] = ()


def nvidia_gpus(root: str = "/", nvml: bool = True) -> tuple[Gpu, ...]:
    """Return the GPUs in the order of the PCI bus."""
    found = _by_nvml() if nvml else None
    return _by_files(root) if found is None else found


def visible_gpus(gpus: Sequence[Gpu], mask: str | None) -> tuple[tuple[str, Gpu], ...]:
    """Return what CUDA_VISIBLE_DEVICES leaves of ``gpus``: (the entry that names it, the GPU).

    As CUDA reads it: up to the first entry that names none; one GPU named twice makes all invisible;
    the first entry decides whether numbers, GPU-... or MIG-... are read. UUIDs may be shortened while unique.
    """
    if mask is None:
        return tuple((str(index), gpu) for index, gpu in enumerate(gpus))
    kind = next((prefix for prefix in ("GPU-", "MIG-") if mask.strip().startswith(prefix)), "")
    found: dict[str, tuple[str, Gpu]] = {}
    for entry in map(str.strip, mask.split(",")):
        named = _named(gpus, entry, kind)
        if named is None:
            break
        name, gpu = named
        if name in found:
            return ()
        found[name] = (entry, gpu)
    return tuple(found.values())


def xpu_count(environ: Mapping[str, str], root: str = "/") -> int:
    """Count Intel's discrete GPUs, as ZE_AFFINITY_MASK limits them."""
    folder = os.path.join(root, "sys/class/drm")
    present = sum(
        name.startswith("renderD") and _is_xpu(os.path.join(folder, name, "device")) for name in _list(folder)
    )
    mask = environ.get("ZE_AFFINITY_MASK")
    if mask is None:
        return present
    entries = {entry.strip() for entry in mask.split(",")}
    return sum(entry.partition(".")[0].isdigit() and int(entry.partition(".")[0]) < present for entry in entries)


def _named(gpus: Sequence[Gpu], entry: str, kind: str) -> tuple[str, Gpu] | None:
    """Return (what is one thing under all its names, the GPU) for an entry, or None."""
    if not kind:
        digits = entry.removeprefix("+")
        number = digits[: len(digits) - len(digits.lstrip("0123456789"))]  # as strtoul: "1x" is 1
        return (number.lstrip("0"), gpus[int(number)]) if number and int(number) < len(gpus) else None
    if not entry.startswith(kind):
        return None
    if not all(gpu.uuid for gpu in gpus) or (kind == "MIG-" and not any(gpu.parts for gpu in gpus)):
        return entry, gpus[0] if gpus else Gpu()  # nobody here knows the names: believe it
    names = [(name, gpu) for gpu in gpus for name in (gpu.parts if kind == "MIG-" else (gpu.uuid,))]
    matches = [(name, gpu) for name, gpu in names if name.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _by_files(root: str) -> tuple[Gpu, ...]:
    folder = os.path.join(root, "proc/driver/nvidia/gpus")
    known = {}
    for address in _list(folder):
        fields = dict(line.partition(":")[::2] for line in _read(f"{folder}/{address}/information").splitlines())
        facts = {name.strip(): value.strip() for name, value in fields.items()}
        known[facts.get("Device Minor", "")] = Gpu(facts.get("GPU UUID", ""), address)
    minors = sorted(int(name[6:]) for name in _list(os.path.join(root, "dev")) if _is_gpu_file(name))
    gpus = [known.get(str(minor), Gpu()) for minor in minors]
    return tuple(sorted(gpus, key=lambda gpu: gpu.address) if all(gpu.address for gpu in gpus) else gpus)


def _is_gpu_file(name: str) -> bool:
    return name.startswith("nvidia") and name[6:].isdigit()


def _is_xpu(device: str) -> bool:
    driver = os.path.basename(os.path.realpath(os.path.join(device, "driver")))
    address = os.path.basename(os.path.realpath(device))
    # On bus 0 sits what is part of the processor.
    return _read(f"{device}/vendor") == _INTEL and driver in {"i915", "xe"} and address.split(":")[1:2] != ["00"]


def _by_nvml() -> tuple[Gpu, ...] | None:
    """Ask NVML; None if it is not there or does not answer."""
    import ctypes

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):
        return None
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return None
        return tuple(sorted((_nvml_gpu(nvml, index) for index in range(count.value)), key=lambda gpu: gpu.address))
    except AttributeError:
        return None
    finally:
        nvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int) -> Gpu:
    import ctypes

    handle = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
        return Gpu()
    # nvmlPciInfo_t: busIdLegacy[16], domain, bus, device, then more that does not matter here.
    info = ctypes.create_string_buffer(256)
    address = ""
    if nvml.nvmlDeviceGetPciInfo_v3(handle, info) == 0:
        domain, bus, device = (int.from_bytes(info.raw[at : at + 4], "little") for at in (16, 20, 24))
        address = f"{domain:04x}:{bus:02x}:{device:02x}.0"
    parts = []
    for part in range(_MIG_MAX):
        mig = ctypes.c_void_p()
        if nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, ctypes.c_uint(part), ctypes.byref(mig)) == 0:
            parts.append(_nvml_uuid(nvml, mig))
    return Gpu(_nvml_uuid(nvml, handle), address, tuple(filter(None, parts)))


def _nvml_uuid(nvml: Any, handle: object) -> str:
    import ctypes

    text = ctypes.create_string_buffer(96)
    return text.value.decode() if nvml.nvmlDeviceGetUUID(handle, text, ctypes.c_uint(96)) == 0 else ""


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""
