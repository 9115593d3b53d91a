"""How much memory a computation may take, by policy, and what counts as running out of it."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from gradsim_assets.core import memory
from gradsim_assets.core.memory import free_bytes, peak_bytes, ran_out

GIB = 2**30
CPU = torch.device("cpu")


def container(folder: Path, limit: str, used: int, *statistics: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("\n".join(["anon 12", *statistics]) + "\n")
    return folder


def test_a_container_leaves_what_its_limit_does_and_the_pages_of_files_that_were_read(tmp_path: Path) -> None:
    folder = container(tmp_path, str(8 * GIB), 7 * GIB, f"inactive_file {3 * GIB}", f"active_file {GIB}")
    assert memory._free_bytes_of_container(folder) == 4 * GIB
    (folder / "memory.stat").unlink()
    assert memory._free_bytes_of_container(folder) == GIB
    (folder / "memory.current").write_text(str(9 * GIB))
    assert memory._free_bytes_of_container(folder) == 0


def test_a_container_without_a_limit_leaves_what_the_machine_has(tmp_path: Path) -> None:
    assert memory._free_bytes_of_container(tmp_path) > 2**60
    assert memory._free_bytes_of_container(container(tmp_path, "max", GIB)) > 2**60


def test_a_system_that_does_not_tell_is_taken_to_have_half_of_its_memory(tmp_path: Path) -> None:
    physical = psutil.virtual_memory().total
    assert memory._free_bytes_of_machine(tmp_path / "meminfo") == pytest.approx(physical / 2, rel=0.01)
    (tmp_path / "meminfo").write_text("MemTotal: 1024 kB\nMemAvailable: 512 kB\n")
    assert memory._free_bytes_of_machine(tmp_path / "meminfo") == 512 * 1024


@pytest.mark.parametrize("policy", ["most", "half"])
def test_half_of_the_main_memory_is_taken_less_half_of_what_is_reserved(
    policy: memory.MemoryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_free_bytes_of_machine", lambda: 8 * GIB)
    monkeypatch.setattr(memory, "_free_bytes_of_container", lambda: 6 * GIB)
    assert free_bytes(CPU, policy) == 3 * GIB
    assert free_bytes(CPU, policy, reserved=2 * GIB) == 2 * GIB
    assert free_bytes(CPU, policy, reserved=7 * GIB) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_most_of_a_gpu_is_taken_and_what_the_allocator_keeps_counts_as_free() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    kept = torch.empty(2 * GIB, dtype=torch.uint8, device=device)
    held = free_bytes(device, "most")
    assert held == pytest.approx(0.85 * (free - 2 * GIB), rel=0.01)  # other processes may come and go
    del kept  # the allocator keeps it, and mem_get_info goes on calling it used
    assert free_bytes(device, "most") == pytest.approx(0.85 * free, rel=0.01)
    assert free_bytes(device, "half") == pytest.approx(0.5 * free, rel=0.01)


def test_the_peak_grows_with_what_was_held_at_once() -> None:
    before = peak_bytes(CPU)
    held = np.ones((before + 64 * 2**20 - psutil.Process().memory_info().rss) // 8 + 2**20)
    assert peak_bytes(CPU) >= before + 32 * 2**20
    del held


def test_running_out_is_told_from_other_errors() -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert ran_out(caught.value)
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("shapes do not fit"))
    assert not ran_out(ValueError("can't allocate memory"))
