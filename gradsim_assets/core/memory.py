"""How much memory there is, how much was used, and what running out of it looks like."""

import os
import resource
import sys
from pathlib import Path
from typing import Literal

import torch

#: What a computation takes of the memory that is free: "most" for one whose need is planned, "half" for one that may need
#: more than is foreseen.
MemoryPolicy = Literal["most", "half"]

#: The share of a GPU that "most" stands for. Main memory has other users, so half of it is all that any computation takes.
_MOST_OF_A_GPU = 0.85


def free_bytes(device: torch.device, policy: MemoryPolicy, reserved: int = 0) -> int:
    """Memory that a computation may take on the device, in bytes.

    `reserved` bytes are spoken for: a model that is yet to be loaded.
    """
    return allowed_of(max(0, _free_bytes(device) - reserved), device.type, policy)


def allowed_of(free: int, device_type: str, policy: MemoryPolicy) -> int:
    """What a computation may take of memory that is free on a device of some type, in bytes."""
    return int(free * (_MOST_OF_A_GPU if device_type == "cuda" and policy == "most" else 0.5))


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


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch's allocator keeps for later is free to whoever asks it.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_free_bytes_of_machine(), _free_bytes_of_container())


def _free_bytes_of_machine(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that the system could hand out without swapping; half of what is built in where it does not tell."""
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_bytes_of_container(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """What the limit of this process's container (cgroup v2) leaves; without a limit as much as can be said."""
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if not (limit.exists() and used.exists()) or limit.read_text().strip() == "max":
        return sys.maxsize
    statistics = (cgroup / "memory.stat").read_text().splitlines() if (cgroup / "memory.stat").exists() else []
    # Pages of files that were read count as used, and give way to whoever needs memory: a model's weights after loading.
    cached = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
    return max(0, int(limit.read_text()) - int(used.read_text()) + cached)
