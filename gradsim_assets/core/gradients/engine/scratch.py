"""Finished blocks on disk, so that a killed pass goes on where it stopped, with the same numbers."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_file, write_whole
from gradsim_assets.core.gradients.engine.planning.plan import Plan
from gradsim_assets.core.gradients.engine.request import Losses, PassOptions, PassRequest


def fingerprint(
    names: list[str], parameters: list[torch.nn.Parameter], request: PassRequest, options: PassOptions
) -> str:
    """A digest of all that the numbers depend on: weights, samples, pairs, what is wanted, and how it is projected."""
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        digest.update(json.dumps(values, sort_keys=True, default=str).encode())

    with torch.no_grad():
        for name, parameter in zip(names, parameters, strict=True):
            flat = parameter.detach().reshape(-1)
            # Sums notice a changed weight anywhere and read a large model in a second; bytes of a part settle order.
            add(name, list(parameter.shape), str(parameter.dtype), torch.sum(flat, dtype=torch.float64).item())
            digest.update(flat[:1024].float().cpu().numpy().tobytes())
    for samples in [request.originals, *(request.variants[s] for s in sorted(request.variants))]:
        for sample in samples:
            add(sample.id)
            digest.update(sample.input_ids.tobytes() + sample.labels.tobytes())
    add({s: list(p) for s, p in request.pairs.items()}, sorted(request.products), dict(request.projections))
    add(options.device, options.precision, options.projection_kind, options.projection_seed, options.weighting)
    return digest.hexdigest()[:24]


class Scratch:
    """The folder of one pass: its plan, its results as memory-mapped files, and which blocks are finished."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The plan that this pass began with; free memory may have changed since, and numbers must not."""
        path = self.folder / "plan.json"
        if path.exists():
            stored = json.loads(path.read_text())
            stored["factored"] = frozenset(stored["factored"])
            stored["blocks"] = [[(s, v) for s, v in block] for block in stored["blocks"]]
            return Plan(**stored)
        plan = make()
        self.replan(plan)
        return plan

    def replan(self, plan: Plan) -> None:
        """Stores the plan, or the one in its place where memory ran out: a pass that goes on keeps to it."""
        content = json.dumps({**asdict(plan), "factored": sorted(plan.factored)})
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

    def finish(self, block: int, losses: Losses) -> None:
        """Marks a block as complete; its rows must have reached the disk."""
        write_whole(self._done(block), json.dumps(losses))

    def losses(self, block: int) -> Losses:
        """The losses of a finished block."""
        found: Losses = json.loads(self._done(block).read_text())
        return found

    def _done(self, block: int) -> Path:
        return self.folder / f"block_{block:05d}.json"
