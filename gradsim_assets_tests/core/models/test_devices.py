"""Which device a process takes."""

import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.devices import own_device, pick_device

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


def test_processes_take_devices_of_their_own_and_wait_while_all_are_taken(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLAIM, str(tmp_path)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def said(stream: IO[str] | None) -> str:
        assert stream is not None
        return stream.readline().strip()

    processes = [start()]
    try:
        assert said(processes[0].stdout) == "0 0"  # the same one when asked again
        processes.append(start())
        assert said(processes[1].stdout) == "1 1"
        processes.append(start())
        assert "all 2 GPUs are taken" in said(processes[2].stderr)
        processes[1].kill()
        assert said(processes[2].stdout) == "1 1"  # not GPU 0, on which the first computes
    finally:
        for process in processes:
            process.kill()
            process.communicate()
