"""What was measured of a device, kept for predictions of time.

No choice and no number of a pass goes by it: these follow from the constants of `device_profile`, so that they are the same
whatever a process has found its machine to be fast at.
"""

import json
import logging
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from gradsim_assets.core.files import write_whole
from gradsim_assets.core.sample_gradients.precision import Precision
from gradsim_assets.core.seeds import stable_seed

_log = logging.getLogger(__name__)

#: What matrix products are computed in. A CPU has no TF32.
Kind = Literal["fp32", "tf32", "bf16"]

#: What a place is told by, under names that its field `torch` does not hide.
Device = torch.device | str
DType = torch.dtype

#: FLOP of a parameter and token on the way forward and back, that `pass_rate` counts: a multiplication and an addition each way.
FLOP_PER_PARAMETER = 4

#: The command that measures, for what is said to people.
COMMAND = "gradsim doctor --measure"


@dataclass(frozen=True)
class WidthRates:
    """What a device does with matrices of `width` x `width` numbers, in a model of such."""

    width: int
    #: Seconds for every component that a batch meets, forward and backward, whatever the batch's size.
    call_seconds: float
    #: FLOP per second of forward and backward passes, with all that a transformer does between its matrices.
    pass_rate: float
    #: Seconds of attention for every token, key before it and unit of a matrix's width.
    attention_seconds: float
    #: FLOP per second of products of two samples' factors with their sums, and of forming a gradient of its factors.
    product_rate: float
    forming_rate: float


@dataclass(frozen=True)
class Calibration:
    """Rates of one device, as they were measured."""

    #: Name of the GPU or of the processor, version of torch, threads that compute (1 for a GPU), and arithmetic.
    device: str
    torch: str
    threads: int
    kind: Kind
    #: The day in UTC, as 2026-01-31.
    measured_on: str
    #: By rising width.
    widths: tuple[WidthRates, ...]
    #: Seconds of every batch beside those of its components: masks, positions, the loss, the beginning of a graph.
    batch_seconds: float
    #: Seconds of one logit's part in the loss and in its gradient.
    logit_seconds: float
    #: Bytes of device memory that are read in a second.
    bytes_per_second: float
    #: Seconds from the call of one operation to that of the next.
    launch_seconds: float
    #: Bytes that come from the host's memory in a second; None where the host's memory is the device's.
    host_bytes_per_second: float | None

    def at(self, width: float) -> WidthRates:
        """The rates of matrices of some width: between those of the measured ones, or of the nearest."""
        places = np.log([one.width for one in self.widths])

        def between(values: Sequence[float]) -> float:
            return float(np.interp(math.log(max(1.0, width)), places, values))

        return WidthRates(
            width=round(width),
            call_seconds=between([one.call_seconds for one in self.widths]),
            # Of seconds, which add up, rather than of rates.
            pass_rate=1 / between([1 / one.pass_rate for one in self.widths]),
            attention_seconds=between([one.attention_seconds for one in self.widths]),
            product_rate=1 / between([1 / one.product_rate for one in self.widths]),
            forming_rate=1 / between([1 / one.forming_rate for one in self.widths]),
        )

    @property
    def place(self) -> "Place":
        """That by which it is found again."""
        return Place(self.device, self.torch, self.threads, self.kind)

    @property
    def source(self) -> str:
        """What a prediction by these rates is said to go by."""
        return f"measured on {self.device} on {self.measured_on}"

    @property
    def is_sound(self) -> bool:
        """Whether all rates are numbers that time can be predicted by."""
        rates = [self.bytes_per_second, *(rate for one in self.widths for rate in asdict(one).values())]
        rates += [
            self.batch_seconds,
            self.logit_seconds,
            self.launch_seconds,
            *filter(None, [self.host_bytes_per_second]),
        ]
        whole = [rate for one in self.widths for rate in (one.pass_rate, one.product_rate, one.forming_rate)]
        rising = [one.width for one in self.widths]
        return (
            bool(rising)
            and rising == sorted(set(rising))
            and all(math.isfinite(rate) and rate >= 0 for rate in rates)
            and all(rate > 0 for rate in (*whole, *rising, self.bytes_per_second))
        )


@dataclass(frozen=True)
class Place:
    """That by which a calibration is found again."""

    device: str
    torch: str
    threads: int
    kind: Kind

    @classmethod
    def of(cls, device: Device, dtype: DType, precision: Precision) -> "Place":
        """The place of a computation in this process."""
        device = torch.device(device)
        threads = 1 if device.type == "cuda" else torch.get_num_threads()
        return cls(name_of(device), torch.__version__, threads, kind_of(device, dtype, precision))

    def file(self, folder: Path) -> Path:
        """Where its calibration is kept."""
        return folder / f"{self.kind}-{stable_seed(self.device, self.torch, self.threads):016x}.json"


def kind_of(device: torch.device | str, dtype: torch.dtype, precision: Precision) -> Kind:
    """What a computation's matrix products are computed in."""
    if dtype in (torch.bfloat16, torch.float16):
        return "bf16"
    return "tf32" if precision == "tf32" and torch.device(device).type == "cuda" else "fp32"


def kinds_of(device: torch.device) -> tuple[Kind, ...]:
    """What a device computes in at a rate of its own; bf16 where it has instructions for it."""
    if device.type == "cuda":
        ampere = torch.cuda.get_device_capability(device) >= (8, 0)
        return ("fp32", "tf32", "bf16") if ampere else ("fp32",)
    return ("fp32",)


def name_of(device: torch.device | str) -> str:
    """The name of a GPU, or of this machine's processor."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def keep(calibration: Calibration, folder: Path) -> Path:
    """Keeps a calibration in a file of the folder, in the place of an older one; returns the file."""
    file = calibration.place.file(folder)
    write_whole(file, json.dumps(asdict(calibration), indent=1) + "\n")
    return file


def kept(place: Place, folder: Path) -> Calibration | None:
    """The calibration of a place; None where none is kept, or the file is broken, which is told as a warning."""
    found = _read(place.file(folder))
    return found if found and found.place == place else None


def all_kept(folder: Path) -> list[Calibration]:
    """Every calibration of a folder, by device; broken ones are told and left out."""
    found = [one for file in sorted(folder.glob("*.json")) if (one := _read(file))]
    return sorted(found, key=lambda one: (one.device, one.kind, one.threads, one.measured_on))


def _read(file: Path) -> Calibration | None:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        found = Calibration(**{**told, "widths": tuple(WidthRates(**one) for one in told["widths"])})
        if found.is_sound:
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    _log.warning("%s holds no rates of a device and is left aside; `%s` writes it anew.", file, COMMAND)
    return None
