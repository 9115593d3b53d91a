"""Finished blocks on disk, so that a killed pass goes on where it stopped, with the same numbers."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradsim_assets.core.engine.plan import Plan
from gradsim_assets.core.engine.request import PairBlock, PassOptions, PassRequest


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
            add(name, list(parameter.shape), str(parameter.dtype), flat.double().sum().item() if len(flat) else 0.0)
            digest.update(flat[:1024].float().cpu().numpy().tobytes())
    for samples in [request.originals, *(request.variants[s] for s in sorted(request.variants))]:
        for sample in samples:
            add(sample.id)
            digest.update(sample.input_ids.tobytes() + sample.labels.tobytes())
    add({s: list(p) for s, p in request.pairs.items()}, sorted(request.products), dict(request.projections))
    add(options.device, options.projection_kind, options.projection_seed, options.weighting)
    return digest.hexdigest()[:24]


class Scratch:
    """The folder of one pass: its plan, and one folder per finished block."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def plan(self, make: Any) -> Plan:
        """The plan that this pass began with; free memory may have changed since, and numbers must not."""
        path = self.folder / "plan.json"
        if path.exists():
            stored = json.loads(path.read_text())
            stored["factored"] = frozenset(stored["factored"])
            stored["blocks"] = [[(s, v) for s, v in block] for block in stored["blocks"]]
            return Plan(**stored)
        plan: Plan = make()
        _write(path, json.dumps({**asdict(plan), "factored": sorted(plan.factored)}).encode())
        return plan

    def replan(self, plan: Plan, blocks: list[list[tuple[str, str]]]) -> Plan:
        """Stores the plan with other blocks (memory ran out)."""
        changed = replace(plan, blocks=blocks)
        _write(
            self.folder / "plan.json", json.dumps({**asdict(changed), "factored": sorted(changed.factored)}).encode()
        )
        return changed

    def finished(self, block: int) -> bool:
        """Whether the block's rows are all there."""
        return (self.folder / f"block_{block:05d}" / "done.json").exists()

    def save(self, block: int, part: int, rows: PairBlock) -> None:
        """Keeps some rows of a block."""
        folder = self.folder / f"block_{block:05d}"
        folder.mkdir(exist_ok=True)
        arrays: dict[str, Any] = {
            "setting": np.asarray(rows.setting),
            "rows": rows.rows,
            **{f"projected_{p!r}": v for p, v in rows.projected.items()},
        }
        if rows.dot_products is not None:
            assert rows.variant_self is not None and rows.original_self is not None
            arrays |= {"dot": rows.dot_products, "variant": rows.variant_self, "original": rows.original_self}
        with (folder / f"part_{part:05d}.npz").open("wb") as file:
            np.savez(file, **arrays)

    def finish(self, block: int, parts: int, losses: dict[str, dict[str, float]]) -> None:
        """Marks the block as complete."""
        folder = self.folder / f"block_{block:05d}"
        folder.mkdir(exist_ok=True)
        _write(folder / "done.json", json.dumps({"parts": parts, "losses": losses}).encode())

    def load(self, block: int, losses: dict[str, dict[str, float]]) -> Iterator[PairBlock]:
        """The rows of a finished block; its losses are added to `losses`."""
        folder = self.folder / f"block_{block:05d}"
        done = json.loads((folder / "done.json").read_text())
        for group, values in done["losses"].items():
            losses[group].update(values)
        for part in range(done["parts"]):
            with np.load(folder / f"part_{part:05d}.npz") as stored:
                yield PairBlock(
                    str(stored["setting"]),
                    stored["rows"],
                    stored.get("dot", None),
                    stored.get("variant", None),
                    stored.get("original", None),
                    {
                        float(key.removeprefix("projected_")): stored[key]
                        for key in stored.files
                        if key.startswith("projected_")
                    },
                )


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
