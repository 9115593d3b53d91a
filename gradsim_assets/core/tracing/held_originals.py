"""Gradients of all originals in memory, so that one more text costs one gradient, whatever the number of originals."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch

from gradsim_assets.core.curvature.statistics import Statistic
from gradsim_assets.core.curvature.sweep import Progress, Sweep
from gradsim_assets.core.gradients.engine import PassOptions
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients import inner_products
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.precision import matmul_precision, wide
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioner
from gradsim_assets.core.sample_gradients.several_devices import gathered

#: Gradients that a preconditioner is applied to at a time.
_APPLIED_AT_ONCE = 16

#: <v, o>, <v, v> and <o, o> of a text with every original and component: float64 [N, C] each.
Terms = tuple[np.ndarray, np.ndarray, np.ndarray]


def held_bytes(model: torch.nn.Module, originals: int) -> int:
    """Bytes of the held gradients of so many originals."""
    named = trainable_components(model)
    return originals * sum(one.numel() * torch.empty((), dtype=wide(one.dtype)).element_size() for _, one in named)


class _Gradients(Statistic):
    """The gradients themselves: by component [N, *shape], in the order of the sweep."""

    def __init__(self, hooks: GradientHooks, count: int) -> None:
        components = range(len(hooks.names))
        super().__init__(hooks, set(components))
        self.rows = [
            torch.zeros((count, *hooks.shapes[c]), dtype=hooks.dtype, device=hooks.parameters[c].device)
            for c in components
        ]

    def _add(self, component: int, gradients: torch.Tensor) -> None:
        self.rows[component][self.samples : self.samples + len(gradients)] = gradients


class HeldOriginals:
    """The originals of one model with their gradients, formed."""

    def __init__(self, samples: Sequence[EncodedSample], names: Sequence[str], rows: Sequence[torch.Tensor]) -> None:
        #: In the order of the data.
        self.samples = list(samples)
        #: Of the components, in model order.
        self.names = list(names)
        #: By component [N, *shape], in the order of the samples.
        self.rows = list(rows)
        self._places = {sample.id: place for place, sample in enumerate(samples)}
        #: <o, P o> by the digest of a preconditioner; "" for none.
        self._squares: dict[str, np.ndarray] = {}

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        samples: Sequence[EncodedSample],
        options: PassOptions,
        progress: Progress = lambda done, total, what: None,
        log: Callable[[str], None] = lambda said: None,
    ) -> Self:
        """The gradients of these originals, by hooks that were verified on some of them; raises as `Sweep`."""
        ordered = sorted(samples, key=lambda sample: (-sample.length, sample.id))  # as a sweep goes through them
        sweep = Sweep(model, ordered, options, progress, log)
        swept = sweep.over(lambda: _Gradients(sweep.hooks, len(ordered)), "originals")
        places = {sample.id: place for place, sample in enumerate(ordered)}
        order = torch.tensor([places[sample.id] for sample in samples])
        for component, rows in enumerate(swept.rows):  # one at a time: all of them twice would not fit
            swept.rows[component] = rows.index_select(0, order.to(rows.device))
        return cls(samples, sweep.hooks.names, swept.rows)

    def gradient(self, original_id: str) -> list[torch.Tensor]:
        """An original's gradient in every component."""
        return [rows[self._places[original_id]] for rows in self.rows]

    def terms(self, gradient: Sequence[torch.Tensor], preconditioner: Preconditioner | None = None) -> Terms:
        """The products of a text's gradient with all originals' under a preconditioner, and of each with itself."""
        dots, selves = [], []
        with matmul_precision("fp32", self.rows[0].device):
            for name, own, rows in zip(self.names, gradient, self.rows, strict=True):
                direction = own.to(rows.dtype)
                if preconditioner is not None:
                    w = preconditioner.of(name).to(rows.device, rows.dtype)
                    direction = w.unwhiten(w.whiten(direction[None]))[0]
                dots.append(_products(rows.flatten(1), direction.flatten()))
                selves.append(inner_products.dot(direction.flatten(), own.to(rows.dtype).flatten()))
            squares = self._squares_under(preconditioner)
        own_squares = gathered(selves, 0).numpy(force=True)
        return gathered(dots).numpy(force=True), np.tile(own_squares, (len(self.samples), 1)), squares

    def _squares_under(self, preconditioner: Preconditioner | None) -> np.ndarray:
        digest = "" if preconditioner is None else preconditioner.digest
        if digest not in self._squares:
            found = []
            for name, rows in zip(self.names, self.rows, strict=True):
                w = None if preconditioner is None else preconditioner.of(name).to(rows.device, rows.dtype)
                parts = (part if w is None else w.whiten(part) for part in rows.split(_APPLIED_AT_ONCE))
                found.append(torch.cat([inner_products.squares(part.flatten(1)) for part in parts]))
            self._squares[digest] = gathered(found).numpy(force=True)
        return self._squares[digest]


def _products(rows: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """Float64 [N]: products of [N, n] with [n], fp32 within short pieces."""
    piece = inner_products.DOT_PIECE
    parts = zip(rows.split(piece, 1), one.split(piece), strict=True)
    return torch.stack([part @ own for part, own in parts]).sum(0, dtype=torch.float64)
