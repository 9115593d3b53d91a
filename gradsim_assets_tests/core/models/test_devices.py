"""Which device a process takes."""

import subprocess
import sys
from pathlib import Path

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


def test_processes_take_devices_of_their_own_and_leave_them_when_killed(tmp_path: Path) -> None:
    def start() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", CLAIM, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    first, second = start(), start()
    assert [first[1], second[1]] == ["0 0", "1 1"]  # the same one when asked again
    assert start()[1] == "0 0"  # all taken: shared rather than refused
    second[0].kill()
    second[0].wait()
    assert start()[1] == "1 1"
    first[0].kill()
