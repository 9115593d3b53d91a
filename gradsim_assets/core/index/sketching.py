"""Sketches of the gradients of samples, block by block and resumable."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from gradsim_assets.core.curvature.statistics import Statistic
from gradsim_assets.core.curvature.sweep import Progress, Sweep
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.gradients.engine.request import PassOptions, PassRequest
from gradsim_assets.core.gradients.engine.scratch import fingerprint
from gradsim_assets.core.gradients.numerics_version import SKETCHES_VERSION
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.gradient_sketches import SIDE, ComponentSketch
from gradsim_assets.core.sample_gradients.layers import ParameterUse
from gradsim_assets.core.sample_gradients.padded_batch import BatchShape
from gradsim_assets.core.sample_gradients.precision import Arithmetic, wide
from gradsim_assets.core.sample_gradients.reference import NOISE_SLACK

#: Samples of a block: what a killed pass has to do again at most.
BLOCK = 256


@dataclass(frozen=True)
class SketchReport:
    """The sketches of some samples, and how they came about: for the table's metadata and the log."""

    #: Ids of the samples in the order in which they were given, and fp32 [samples, d].
    ids: list[str]
    sketches: np.ndarray
    gradients_computed: int
    blocks: int
    #: Blocks that an earlier try had finished.
    blocks_restored: int
    #: On what hooks were verified; "" where nothing was left to do.
    verified: str
    #: The difference of one sample's sketch from that of its plain gradient, relative to its length; None where none was left.
    error: float | None
    #: What turned out otherwise than planned, a sentence each.
    notes: list[str] = field(default_factory=list)


class Sketches(Statistic):
    """Sketches of the samples that go through, in their order; `done` samples have gone through before."""

    def __init__(self, hooks: GradientHooks, maps: Sequence[ComponentSketch], done: int = 0) -> None:
        super().__init__(hooks, frozenset(range(len(hooks.shapes))))
        self.samples = done
        #: [B, d] of every batch that is through.
        self.found: list[torch.Tensor] = []
        self._maps = maps
        self._sums = torch.zeros(0)

    def begin(self, batch: BatchShape) -> None:
        """As the base class has it."""
        super().begin(batch)
        self._sums = torch.zeros(batch.samples, self._maps[0].dimension, dtype=self.dtype, device=self._hooks.device)

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors: maps are linear, so that those of one gradient need not meet."""
        self._sums += self._maps[use.components["weight"]].of_factors(factors, self.dtype).to(self._sums)

    def formed(self, component: int, gradients: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Takes a formed summand (see `Sink`)."""
        self._sums += self._maps[component].of_formed(gradients.to(self.dtype)).to(self._sums)

    def finish(self) -> None:
        """As the base class has it."""
        super().finish()
        self.found.append(self._sums.float().cpu())


def maps_of(hooks: GradientHooks, dimension: int, seed: int = 0, side: int = SIDE) -> list[ComponentSketch]:
    """The map of every component, in model order."""
    return [
        ComponentSketch(name, tuple(shape), dimension, seed, side)
        for name, shape in zip(hooks.names, hooks.shapes, strict=True)
    ]


def sketch(
    model: torch.nn.Module,
    samples: Sequence[EncodedSample],
    dimension: int,
    folder: Path | None,
    options: PassOptions,
    progress: Progress,
    log: Callable[[str], None],
    block: int = BLOCK,
) -> SketchReport:
    """The sketches of samples, in files under `folder` as long as they are not all there; a killed pass goes on behind its last
    finished block. Without a folder they are kept in memory alone.

    A sketch depends on the model and its sample, whatever others there are, in whatever blocks and batches.

    Raises:
        InputError: there are no samples, nothing is trainable, or the device runs out of memory with one sample at a time.
        ArithmeticError: gradients, or sketches made of them, are wrong in any way that they are taken.
    """
    ordered = sorted(samples, key=lambda sample: (-sample.length, sample.id))
    blocks = [ordered[start : start + block] for start in range(0, len(ordered), block)]
    work = _Blocks.of(model, samples, dimension, folder, options, block)
    left = [number for number in range(len(blocks)) if not work.has(number)]
    notes: list[str] = []

    def note(said: str) -> None:
        notes.append(said)
        log(said)

    verified, error = "", None
    if left or not samples:
        sweep = Sweep(model, samples, options, progress, note)
        verified = sweep.verified
        log(verified)
        maps = maps_of(sweep.hooks, dimension, options.projection_seed)
        done = sum(len(blocks[number]) for number in range(len(blocks)) if number not in left)
        for number in left:
            found = _of_block(sweep, maps, blocks[number], done)
            error = _checked(sweep.hooks, maps, blocks[number][-1], found[-1], options) if error is None else error
            work.put(number, found)
            done += len(found)
    rows = np.concatenate([work.get(number) for number in range(len(blocks))])
    place = {sample.id: row for row, sample in enumerate(ordered)}
    ids = [sample.id for sample in samples]
    computed = sum(len(blocks[number]) for number in left)
    restored = len(blocks) - len(left)
    return SketchReport(
        ids, rows[[place[name] for name in ids]], computed, len(blocks), restored, verified, error, notes
    )


def _of_block(sweep: Sweep, maps: Sequence[ComponentSketch], block: Sequence[EncodedSample], done: int) -> np.ndarray:
    made = sweep.over(lambda: Sketches(sweep.hooks, maps, done), "sketches", among=block)
    return torch.cat(made.found).numpy()


def _checked(
    hooks: GradientHooks,
    maps: Sequence[ComponentSketch],
    sample: EncodedSample,
    found: np.ndarray,
    options: PassOptions,
) -> float:
    """The error of a sketch, relative to its length, against that of the gradient of plain autograd, formed as a whole.

    Raises:
        ArithmeticError: rounding does not explain it.
    """
    plain = hooks.plain
    arithmetic = Arithmetic(plain.arithmetic.dtype, options.precision)
    dtype, device = hooks.dtype, hooks.device
    exact, rounded = (torch.zeros(maps[0].dimension, dtype=dtype, device=device) for _ in range(2))
    for numbers in plain.groups(range(len(maps)), 2 * torch.float64.itemsize):
        sides = plain.rounding(sample, numbers, arithmetic)
        for total, gradients in zip((exact, rounded), sides, strict=True):
            for number, gradient in zip(numbers, gradients, strict=True):
                total += maps[number].of_formed(gradient[None].to(wide(gradient.dtype)))[0].to(total)
    size = float(exact.norm())
    error = float((torch.from_numpy(found).to(exact) - exact).norm()) / size if size else 0.0
    allowed = max(arithmetic.tolerance, NOISE_SLACK * float((exact - rounded).norm()) / size) if size else 0.0
    if error > allowed:
        raise ArithmeticError(
            f"the sketch of {sample.id} is off by {error:.1e} of its length from that of its gradient by plain autograd, and "
            f"rounding explains {allowed:.1e}; nothing of it is kept."
        )
    return error


@dataclass(frozen=True)
class _Blocks:
    """Finished blocks: in files of a folder, or in memory."""

    folder: Path | None
    held: dict[int, np.ndarray]

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        samples: Sequence[EncodedSample],
        dimension: int,
        folder: Path | None,
        options: PassOptions,
        block: int,
    ) -> "_Blocks":
        """The blocks of these samples and this model, whatever was finished of them."""
        if folder is None:
            return cls(None, {})
        made_as = {"sketches": f"{SKETCHES_VERSION} {dimension} {SIDE} {block}"}
        work = folder / fingerprint(model, PassRequest(list(samples), {}, {}), options, made_as)
        work.mkdir(parents=True, exist_ok=True)
        return cls(work, {})

    def _path(self, number: int) -> Path | None:
        return self.folder / f"block_{number:06d}.npy" if self.folder else None

    def has(self, number: int) -> bool:
        """Whether a block is finished."""
        path = self._path(number)
        return path.exists() if path else number in self.held

    def put(self, number: int, sketches: np.ndarray) -> None:
        """Keeps a finished block."""
        path = self._path(number)
        if path is None:
            self.held[number] = sketches
            return
        with whole_file(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, sketches)

    def get(self, number: int) -> np.ndarray:
        """A finished block, fp32 [samples, d]."""
        path = self._path(number)
        found: np.ndarray = np.load(path) if path else self.held[number]
        return found
