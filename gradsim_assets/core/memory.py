"""How much memory there is, how much was used, and what running out of it looks like."""

import os
import resource
import sys
from pathlib import Path

import torch


def free_bytes(device: torch.device, reserved: int = 0) -> int:
    """Memory that a pass may take on the device: most of what is free on a GPU, half of it on a shared CPU.

    `reserved` bytes are spoken for: a model that is yet to be loaded.
    """
    if device.type == "cuda":
        return int(max(0, torch.cuda.mem_get_info(device)[0] - reserved) * 0.85)
    return max(0, _available() - reserved) // 2


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _cgroup_room())
    return 4 * 2**30  # other systems: what any machine has


def _cgroup_room() -> int:
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        return max(0, int(limit.read_text()) - int(used.read_text()))
    return sys.maxsize


def peak_bytes(device: torch.device) -> int:
    """Highest memory use so far: of the device's allocator, or of this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def ran_out(error: BaseException) -> bool:
    """Whether an exception means that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:  # in a container the machine's memory is not ours
        limit, used = (Path("/sys/fs/cgroup", name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free
