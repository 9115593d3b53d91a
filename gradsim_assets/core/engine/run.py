"""The pass: every distinct sample's gradient once, all products and projections out of it."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from gradsim_assets.core.engine.components import trainable_components
from gradsim_assets.core.engine.plain import plain_gradient, wide
from gradsim_assets.core.engine.request import PairBlock, PassOptions, PassReport, PassRequest, PassResult
from gradsim_assets.core.projections import make_projector, total_dimension
from gradsim_assets.core.tokenization import EncodedSample

#: Called with (gradients done, gradients in all, what is being done).
Progress = Callable[[int, int, str], None]

ORIGINAL = "original"


class GradientPass:
    """One pass over a request; iterate over `blocks()`, then read `report` and `losses`."""

    def __init__(self, model: torch.nn.Module, request: PassRequest, options: PassOptions | None = None) -> None:
        self.model, self.request = model, request
        self.options = options or PassOptions()
        named = trainable_components(model)
        self.components = [name for name, _ in named]
        self.parameters = [parameter.numel() for _, parameter in named]
        self._tensors = [parameter for _, parameter in named]
        proportions = sorted({p for setting in request.settings for p in request.projections.get(setting, ())})
        self.dimensions = {p: total_dimension(self.parameters, p) for p in proportions}
        self.losses: dict[str, dict[str, float]] = {ORIGINAL: {}, **{s: {} for s in request.settings}}
        self.report = PassReport()
        options_ = self.options
        self._projectors = {
            p: [
                make_projector(
                    name,
                    size,
                    p,
                    options_.projection_seed,
                    options_.projection_kind,
                    options_.weighting,
                    options_.device,
                )
                for name, size in zip(self.components, self.parameters, strict=True)
            ]
            for p in proportions
        }

    def _gradient(self, group: str, sample: EncodedSample) -> list[torch.Tensor]:
        loss, gradients = plain_gradient(self.model, sample, self._tensors, self.options.device)
        self.losses[group][sample.id] = loss
        self.report.gradients_computed += 1
        return [gradient.flatten().to(wide(gradient.dtype)) for gradient in gradients]

    def _project(self, gradients: list[torch.Tensor]) -> dict[float, torch.Tensor]:
        return {
            p: torch.cat([project(g[None])[0] for project, g in zip(projectors, gradients, strict=True)])
            for p, projectors in self._projectors.items()
        }

    def blocks(self, progress: Progress | None = None) -> Iterator[PairBlock]:
        """Finished rows, block by block; every row of every wanted setting comes exactly once.

        Raises:
            InputError: the memory does not suffice for a single sample.
        """
        started = time.perf_counter()
        request = self.request
        wanted = {s: {variant for variant, _ in request.pairs[s]} for s in request.settings}
        needed = {original for s in request.settings for _, original in request.pairs[s]}
        originals = [sample for sample in request.originals if sample.id in needed]
        variants = {s: [v for v in request.variants[s] if v.id in wanted[s]] for s in request.settings}
        total = len(originals) + sum(map(len, variants.values()))
        held: dict[tuple[str, str], list[torch.Tensor]] = {}
        sketched: dict[tuple[str, str], dict[float, torch.Tensor]] = {}
        for setting, samples in variants.items():
            for sample in samples:
                held[setting, sample.id] = self._gradient(setting, sample)
                sketched[setting, sample.id] = self._project(held[setting, sample.id])
                if progress:
                    progress(self.report.gradients_computed, total, setting)
        by_original: dict[str, dict[str, list[int]]] = {}
        for setting in request.settings:
            for row, (_, original) in enumerate(request.pairs[setting]):
                by_original.setdefault(original, {}).setdefault(setting, []).append(row)
        selves = {key: _products(gradients, gradients) for key, gradients in held.items()}
        for sample in originals:
            gradients = self._gradient(ORIGINAL, sample)
            sketches = self._project(gradients)
            own = _products(gradients, gradients)
            for setting, rows in by_original[sample.id].items():
                keys = [(setting, request.pairs[setting][row][0]) for row in rows]
                yield PairBlock(
                    setting,
                    np.asarray(rows),
                    np.stack([_products(held[key], gradients) for key in keys]),
                    np.stack([selves[key] for key in keys]),
                    np.stack([own for _ in keys]),
                    {
                        p: np.asarray([_cosine(sketched[key][p], sketches[p]) for key in keys])
                        for p in request.projections.get(setting, ())
                    },
                )
                self.report.pairs += len(rows)
            if progress:
                progress(self.report.gradients_computed, total, ORIGINAL)
        self.report.samples = total
        self.report.blocks = 1
        self.report.seconds = time.perf_counter() - started


def _products(left: list[torch.Tensor], right: list[torch.Tensor]) -> np.ndarray:
    return torch.stack([a @ b for a, b in zip(left, right, strict=True)]).double().cpu().numpy()


def _cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    left, right = left.double(), right.double()
    length = (left @ left).sqrt() * (right @ right).sqrt()
    return ((left @ right) / length).item() if length > 0 else float("nan")


def run_pass(
    model: torch.nn.Module,
    request: PassRequest,
    options: PassOptions | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """The whole pass at once; rows in the order of `request.pairs`. For large requests use `GradientPass.blocks`.

    Raises:
        InputError: nothing is trainable, a setting or proportion is unknown, or the memory does not suffice.
    """
    work = GradientPass(model, request, options)
    count = len(work.components)
    dots = {s: np.full((len(request.pairs[s]), count), np.nan) for s in request.settings if s in request.products}
    variant_self = {s: np.full_like(values, np.nan) for s, values in dots.items()}
    original_self = {s: np.full_like(values, np.nan) for s, values in dots.items()}
    projected = {
        s: {p: np.full(len(request.pairs[s]), np.nan) for p in request.projections[s]}
        for s in request.settings
        if request.projections.get(s)
    }
    for block in work.blocks(progress):
        if block.setting in dots:
            dots[block.setting][block.rows] = block.dot_products
            variant_self[block.setting][block.rows] = block.variant_self
            original_self[block.setting][block.rows] = block.original_self
        for proportion, values in block.projected.items():
            projected[block.setting][proportion][block.rows] = values
    return PassResult(
        work.components,
        work.parameters,
        dots,
        variant_self,
        original_self,
        projected,
        work.dimensions,
        work.losses,
        work.report,
    )
