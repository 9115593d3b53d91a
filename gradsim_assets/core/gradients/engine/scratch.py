"""Finished blocks on disk, so that a killed pass goes on where it stopped, with the same numbers."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_file, write_whole
from gradsim_assets.core.gradients.engine.planning.plan import Plan
from gradsim_assets.core.gradients.engine.request import CheckReport, Losses, PassOptions, PassRequest
from gradsim_assets.core.room import room_in
from gradsim_assets.core.sample_gradients.several_devices import devices_of

#: Numbers of a weight that are read at a time.
_CHUNK = 2**22


def fingerprint(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions,
    preconditioners: Mapping[str, str] | None = None,
) -> str:
    """A digest of all that the numbers depend on.

    That is weights (frozen ones too), buffers, the configuration, samples, pairs, what is wanted and how it is projected,
    the digests of preconditioners, the code, and the libraries beneath it.
    """
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        digest.update(json.dumps(values, sort_keys=True, default=str).encode())

    add(options.code_version, torch.__version__, transformers.__version__)
    config: Any = getattr(model, "config", None)
    described = config.to_dict() if hasattr(config, "to_dict") else {}
    described.pop("_name_or_path", None)  # where the same model lies
    add(type(model).__name__, described)
    for name, parameter in model.named_parameters():
        add(name, list(parameter.shape), str(parameter.dtype), parameter.requires_grad, _sums(parameter))
    for name, buffer in model.named_buffers():
        add(name, list(buffer.shape), str(buffer.dtype), _sums(buffer))
    if len(devices_of(model)) > 1:  # a plan is one for these devices
        add([str(parameter.device) for parameter in model.parameters()])
    for samples in [request.originals, *(request.variants[s] for s in sorted(request.variants))]:
        for sample in samples:
            add(sample.id)
            digest.update(sample.input_ids.tobytes() + sample.labels.tobytes())
    add({s: list(p) for s, p in request.pairs.items()}, sorted(request.products), dict(request.projections))
    add(dict(request.preconditioned), dict(preconditioners or {}))
    add(options.device, options.precision, options.projection_kind, options.projection_seed, options.weighting)
    return digest.hexdigest()[:24]


def _sums(tensor: torch.Tensor) -> list[float]:
    """Two sums that notice a changed number, and numbers that changed places: a large model is read in a second."""
    total = torch.zeros(2, dtype=torch.float64, device=tensor.device)
    with torch.no_grad():
        for number, chunk in enumerate(tensor.reshape(-1).split(_CHUNK)):
            wide, first = chunk.to(torch.float64), number * _CHUNK + 1
            places = torch.arange(first, first + len(wide), dtype=torch.float64, device=tensor.device)
            total += torch.stack([wide.sum(), torch.dot(wide, places.sqrt())])
    found: list[float] = total.tolist()
    return found


class Scratch:
    """The folder of one pass: its plan, its results as memory-mapped files, and which blocks are finished."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name
        with room_in(root):
            self.folder.mkdir(parents=True, exist_ok=True)

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The plan that this pass began with; free memory may have changed since, and numbers must not."""
        path = self.folder / "plan.json"
        if path.exists():
            stored = json.loads(path.read_text())
            stored["factored"], stored["kept"] = frozenset(stored["factored"]), frozenset(stored["kept"])
            stored["blocks"] = [[(s, v) for s, v in block] for block in stored["blocks"]]
            return Plan(**stored)
        plan = make()
        self.replan(plan)
        return plan

    def replan(self, plan: Plan) -> None:
        """Stores the plan, or the one in its place where memory ran out: a pass that goes on keeps to it."""
        content = json.dumps({**asdict(plan), "factored": sorted(plan.factored), "kept": sorted(plan.kept)})
        write_whole(self.folder / "plan.json", content)

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A float64 array in a file of this folder, as it was left, or zeros.

        Raises:
            InputError: the disk has no room for it.
        """
        path = self.folder / f"{name}.npy"
        if path.exists():
            return np.lib.format.open_memmap(path, mode="r+")
        with whole_file(path) as unfinished:
            made = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float64, shape=shape)
            try:
                if hasattr(os, "posix_fallocate"):  # else a disk that fills up later kills the process (SIGBUS)
                    with unfinished.open("rb+") as file:
                        os.posix_fallocate(file.fileno(), 0, unfinished.stat().st_size)
            except OSError as error:
                raise InputError(
                    f"{self.folder} has no room for {made.nbytes / 2**30:.2f} GiB of results ({error.strerror}); free "
                    "some, or put GRADSIM_HOME on a larger disk."
                ) from error
        return made

    def finished(self, block: int) -> bool:
        """Whether the block's rows are all there."""
        return self._done(block).exists()

    def finish(self, block: int, losses: Losses, checks: CheckReport) -> None:
        """Marks a block as complete and checked; its rows must have reached the disk."""
        write_whole(self._done(block), json.dumps({"losses": losses, "checks": asdict(checks)}))

    def remember_ways(self, ways: dict[str, Any]) -> None:
        """Keeps in what ways gradients are to be taken (see `GradientHooks.ways`), which only some samples show."""
        write_whole(self.folder / "ways.json", json.dumps(ways))

    def ways(self) -> dict[str, Any] | None:
        """The ways that an earlier try has found out to be needed, if any."""
        path = self.folder / "ways.json"
        return json.loads(path.read_text()) if path.exists() else None

    def doubt(self, blocks: Iterable[int]) -> None:
        """Takes blocks for unfinished."""
        for block in blocks:
            self._done(block).unlink(missing_ok=True)

    def restored(self, block: int) -> tuple[Losses, CheckReport]:
        """The losses of a finished block, and what its checks found."""
        found = json.loads(self._done(block).read_text())
        return found["losses"], CheckReport(**found["checks"])

    def _done(self, block: int) -> Path:
        return self.folder / f"block_{block:05d}.json"
