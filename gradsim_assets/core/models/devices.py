"""Which device a process computes on, and which of several GPUs."""

import logging
import time
from functools import cache
from pathlib import Path
from typing import IO

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.locks import locked, try_lock

_log = logging.getLogger(__name__)

#: Between two looks at GPUs that are all taken: whoever has one keeps it for minutes or hours.
_LOOK_AGAIN_SECONDS = 0.5

#: Locks of this process; the system takes them back when it ends, however it ends.
_held: list[IO[str]] = []


def pick_device(device: str) -> str:
    """The torch device behind "auto": CUDA, else the CPU.

    Raises:
        InputError: a CUDA device is asked for where there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f'compute.device = "{device}", but torch finds no CUDA device; set it to "auto" or "cpu".')
    return device


def own_device(device: str, locks: Path) -> str:
    """As `pick_device`; where that is any of several GPUs, one that no other process with this folder of locks works on."""
    import torch

    picked = pick_device(device)
    if picked != "cuda" or torch.cuda.device_count() < 2:
        return picked
    return f"cuda:{claim(torch.cuda.device_count(), locks)}"


def own_devices(device: str, count: int, locks: Path) -> list[str]:
    """The devices that this process spreads a model over: `count` GPUs, or all for 0; one as `own_device` where that is enough.

    Raises:
        InputError: there are not as many GPUs.
    """
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 1 or (count == 0 and there < 2):
        return [own_device(device, locks)]
    if count > there:
        raise InputError(
            f"compute.devices = {count}, but torch finds {there} CUDA device{'s' * (there != 1)}; set it to what the machine has, or to "
            "0 for all of them."
        )
    return [f"cuda:{number}" for number in claim_several(there, count or there, locks)]


@cache
def claim_several(count: int, wanted: int, folder: Path) -> tuple[int, ...]:
    """As `claim`, so many of the numbers at once: two processes that each held a part would wait for each other."""
    told = False
    while (numbers := _claim_several_now(count, wanted, folder)) is None:
        if not told:
            _log.warning("fewer than %d of %d GPUs are free of other processes of %s; waiting.", wanted, count, folder)
            told = True
        time.sleep(_LOOK_AGAIN_SECONDS)
    return numbers


def _claim_several_now(count: int, wanted: int, folder: Path) -> tuple[int, ...] | None:
    with locked(folder / "several.lock"):  # so that no other one tries for several at the same time
        files = {number: file for number in range(count) if (file := try_lock(folder / f"{number}.lock"))}
    numbers = tuple(files)[:wanted] if len(files) >= wanted else ()
    for number, file in files.items():
        if number in numbers:
            _held.append(file)
        else:
            file.close()
    return numbers or None


@cache
def claim(count: int, folder: Path) -> int:
    """A number below `count` that no other living process has claimed in `folder`; waits for one while all are taken.

    It stays this process's own until the process ends.
    """
    told = False
    while (number := _claim_now(count, folder)) is None:
        if not told:
            _log.warning("all %d GPUs are taken by other processes of %s; waiting for one.", count, folder)
            told = True
        time.sleep(_LOOK_AGAIN_SECONDS)
    return number


def _claim_now(count: int, folder: Path) -> int | None:
    for number in range(count):
        if file := try_lock(folder / f"{number}.lock"):
            _held.append(file)
            return number
    return None
