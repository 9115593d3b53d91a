"""Curvature in files: safetensors, one for each group of components, which says itself what it holds."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gradsim_assets.core.curvature.component_curvature import ComponentCurvature, Curvature
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.models.revisions import content_hash
from gradsim_assets.core.sample_gradients.preconditioning import ADAM, ComponentPreconditioner

#: Parts of a component's curvature that are tensors.
_PARTS = ("moments", "left", "right")

#: What else is said of it.
_STATED = ("kind", "samples", "tokens", "epsilon")

#: Key of the JSON document in the metadata of a file.
_KEY = "gradsim"


def save(path: Path, components: Curvature) -> None:
    """Writes some components; bases that several of them share are there once."""
    tensors: dict[str, torch.Tensor] = {}
    document: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}
    for component, curvature in components.items():
        entry = document[component] = {name: getattr(curvature, name) for name in _STATED}
        for part in _PARTS:
            tensor = getattr(curvature, part)
            if tensor is None:
                continue
            name = names.setdefault(id(tensor), f"{component}/{part}")
            tensors[name] = tensor.detach().cpu().contiguous()
            entry[part] = name
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, {_KEY: json.dumps(document)})


def stated(path: Path) -> dict[str, dict[str, Any]]:
    """What a file says of its components: `kind`, `samples`, `tokens`, `epsilon`, and the names of their tensors."""
    with safe_open(path, framework="pt") as file:
        found: dict[str, dict[str, Any]] = json.loads(file.metadata()[_KEY])
    return found


def load(path: Path, component: str) -> ComponentCurvature:
    """One component of a file."""
    with safe_open(path, framework="pt") as file:
        entry = json.loads(file.metadata()[_KEY])[component]
        tensors = {part: file.get_tensor(entry[part]) for part in _PARTS if part in entry}
    return ComponentCurvature(**tensors, **{name: entry[name] for name in _STATED})


@dataclass(frozen=True)
class Tuning:
    """What is added to curvature before gradients are divided by it.

    Attributes:
        damping: of EK-FAC, as a share of the mean eigenvalue of each component.
        epsilon: of Adam, to the square root of second moments; None: what the optimizer says, or 1e-8.
    """

    damping: float = 0.1
    epsilon: float | None = None

    def scale(self, kind: str, curvature: ComponentCurvature, typical: float) -> torch.Tensor:
        """What W multiplies gradients by, where they are in the curvature's bases (see `ComponentPreconditioner`).

        Adam divides by sqrt(v) + epsilon. EK-FAC divides by sqrt(F + lambda), lambda = damping x mean eigenvalue of the
        component. One that no original reaches, or of which nothing but rounding is left (the bias of keys, say), has next to
        none, and its noise would count as much as the gradients of others; then `typical` takes its place, that of the model.
        """
        moments = curvature.moments
        if kind == ADAM:
            epsilon = self.epsilon if self.epsilon is not None else curvature.epsilon or DEFAULT_EPSILON
            return 1 / (moments.sqrt() + epsilon)
        own = mean(moments)
        return (moments + self.damping * (own if own > NOISE * typical else typical)).rsqrt()


#: The share of the model's mean eigenvalue that a component's must exceed to be more than rounding: in fp32 that leaves 1e-7 of
#: a gradient's length, and 1e-14 of its square.
NOISE = 1e-11

#: What Adam adds by default.
DEFAULT_EPSILON = 1e-8


def mean(moments: torch.Tensor) -> float:
    """The mean of moments, in float64."""
    return float(moments.mean(dtype=torch.float64))


class StoredCurvature:
    """Curvature of a model in files, as a preconditioner (see `Preconditioner`)."""

    def __init__(self, kind: str, files: Sequence[Path], tuning: Tuning, typical: float) -> None:
        """`typical` is the mean eigenvalue over all numbers of the model."""
        self._kind, self._tuning, self._typical = kind, tuning, typical
        self._file: Mapping[str, Path] = {component: path for path in files for component in stated(path)}
        self._digest = hashlib.sha256(repr([kind, tuning, *map(content_hash, files)]).encode()).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """The same for the same numbers."""
        return self._digest

    def of(self, component: str) -> ComponentPreconditioner:
        """W of a component."""
        curvature = load(self._file[component], component)
        scale = self._tuning.scale(self._kind, curvature, self._typical)
        return ComponentPreconditioner(scale, curvature.left, curvature.right)
