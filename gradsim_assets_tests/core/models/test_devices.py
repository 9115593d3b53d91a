"""Which device a process takes."""

import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.devices import claim, own_device, own_devices, pick_device

SEVERAL = """
import sys
from pathlib import Path
from gradsim_assets.core.models.devices import claim_several
print(*claim_several(3, 2, Path(sys.argv[1])), flush=True)
sys.stdin.readline()
"""

CLAIM = """
import sys
from pathlib import Path
from gradsim_assets.core.models.devices import claim
print(claim(2, Path(sys.argv[1])), claim(2, Path(sys.argv[1])), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_cuda_device_must_be_there(tmp_path: Path) -> None:
    assert pick_device("auto") == own_device("auto", tmp_path) == "cpu"
    with pytest.raises(InputError, match='compute.device = "cuda:1", but torch finds no CUDA device'):
        pick_device("cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_model_is_spread_over_as_many_gpus_as_there_are(tmp_path: Path) -> None:
    assert own_devices("auto", 1, tmp_path) == own_devices("auto", 0, tmp_path) == ["cpu"]
    with pytest.raises(
        InputError, match="compute.devices = 2, but torch finds 0 CUDA devices; set it to what the machine"
    ):
        own_devices("auto", 2, tmp_path)


def test_several_devices_are_one_processs_own_or_none_is(tmp_path: Path) -> None:
    one = _started(SEVERAL, tmp_path)
    other = None
    try:
        assert _said(one.stdout) == "0 1"
        other = _started(SEVERAL, tmp_path)
        assert "fewer than 2 of 3 GPUs are free" in _said(other.stderr)
        assert claim(3, tmp_path) == 2  # which the waiting one does not hold in the meantime
        one.kill()
        assert _said(other.stdout) == "0 1"
    finally:
        for process in (one, *([other] if other else [])):
            process.kill()
            process.communicate()


def _started(code: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _said(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def test_processes_take_devices_of_their_own_and_wait_while_all_are_taken(tmp_path: Path) -> None:
    processes = [_started(CLAIM, tmp_path)]
    try:
        assert _said(processes[0].stdout) == "0 0"  # the same one when asked again
        processes.append(_started(CLAIM, tmp_path))
        assert _said(processes[1].stdout) == "1 1"
        processes.append(_started(CLAIM, tmp_path))
        assert "all 2 GPUs are taken" in _said(processes[2].stderr)
        processes[1].kill()
        assert _said(processes[2].stdout) == "1 1"  # not GPU 0, on which the first computes
    finally:
        for process in processes:
            process.kill()
            process.communicate()
