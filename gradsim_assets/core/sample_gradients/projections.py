"""Random projections of gradients, component by component, that keep inner products unbiased."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.seeds import stable_seed

#: Dimensions come in multiples of this: what traker's CUDA kernel works in.
BLOCK = 512

ProjectionKind = Literal["fast", "trak"]
Weighting = Literal["unbiased", "script"]


def projected_dimension(size: int, proportion: float) -> int:
    """d_c = max(512, 512 * round(p * n_c / 512)) for a component of `size` parameters."""
    return max(BLOCK, BLOCK * round(proportion * size / BLOCK))


def total_dimension(sizes: Sequence[int], proportion: float) -> int:
    """Dimension of the projected full gradient: the sum over the components."""
    return sum(projected_dimension(size, proportion) for size in sizes)


class Projector(Protocol):
    """Projects gradients of one component: [samples, n] to [samples, d], with E<Px, Py> = <x, y>."""

    @property
    def dimension(self) -> int:
        """Number of dimensions d of the projection."""
        ...

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        """fp32 (or wider) [samples, n] on any device -> [samples, d] of the same dtype and device."""
        ...


class RolledSketch:
    """Sparse Johnson-Lindenstrauss with one non-zero a column, arranged so that it costs one pass over memory.

    The gradient, padded to R rows of d numbers, becomes sum_r u_r * roll(v * g_r, k_r) with random signs u [R] and
    v [d] and random shifts k [R]. It is a count sketch (Charikar, Chen and Farach-Colton 2002; as a random projection:
    Weinberger et al. 2009) whose buckets are (c + k_r) mod d and whose signs are u_r * v_c. Numbers of one row never
    collide, numbers of two rows collide with probability 1/d, and the signs of any two colliding pairs are
    uncorrelated, so the inner product is unbiased with variance at most (|x|^2 |y|^2 + <x,y>^2) / d, that of a dense
    Gaussian projection. The 1/sqrt(d) of dense +-1 matrices is the 1 of a matrix with one non-zero a column.
    """

    def __init__(self, name: str, size: int, dimension: int, seed: int) -> None:
        self.name, self.size, self.dimension, self.seed = name, size, dimension, seed
        rows = -(-size // dimension)
        random = np.random.Generator(np.random.PCG64(stable_seed(seed, name)))
        self._row_signs = random.integers(0, 2, rows) * 2 - 1
        self._shifts = random.integers(0, dimension, rows)
        self._signs = torch.from_numpy((random.integers(0, 2, dimension) * 2 - 1).astype(np.float32))
        #: u [R] and k [R] on the device, once a kernel has asked for them.
        self._on_device: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        self._signs = self._signs.to(gradients)
        if not gradients.is_cuda:
            return self.row_by_row(gradients)
        if not _has_kernel(gradients.device):
            return self.all_rows(gradients)
        with torch.cuda.device(gradients.device):  # Triton starts kernels on the current one
            return self.by_kernel(gradients)

    def places(self, entries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where single numbers of a vector go: their places (int64) and signs (of the dtype that was projected last), by int64
        entries of any shape."""
        self._signs = self._signs.to(entries.device)
        row, column = entries // self.dimension, entries % self.dimension
        shifts, row_signs = (torch.from_numpy(each).to(entries.device) for each in (self._shifts, self._row_signs))
        return (column + shifts[row]) % self.dimension, row_signs[row] * self._signs[column]

    def by_kernel(self, gradients: torch.Tensor) -> torch.Tensor:
        """Reads every number once, in one operation."""
        from gradsim_assets.core.sample_gradients.sketch_kernel import rolled_sum

        if self._on_device is None:
            row_signs, shifts = torch.from_numpy(self._row_signs), torch.from_numpy(self._shifts)
            self._on_device = row_signs.to(gradients), shifts.to(gradients.device)
        return rolled_sum(gradients, *self._on_device, self._signs)

    def row_by_row(self, gradients: torch.Tensor) -> torch.Tensor:
        """Reads every number once, in two operations a row."""
        signs = self._signs
        out = gradients.new_zeros(len(gradients), self.dimension)
        for row, (sign, shift) in enumerate(zip(self._row_signs.tolist(), self._shifts.tolist(), strict=True)):
            part = gradients[:, row * self.dimension : (row + 1) * self.dimension]
            head = min(part.shape[1], self.dimension - shift)  # what stays in front of the wrap
            out[:, shift : shift + head].addcmul_(part[:, :head], signs[:head], value=sign)
            if head < part.shape[1]:
                tail = part.shape[1] - head
                out[:, :tail].addcmul_(part[:, head:], signs[head : head + tail], value=sign)
        return out

    def all_rows(self, gradients: torch.Tensor) -> torch.Tensor:
        """Rolls all rows in one copy, in a handful of operations whatever their number: for devices slow to call."""
        rows, count = len(self._shifts), len(gradients)
        missing = rows * self.dimension - gradients.shape[1]
        filled = torch.nn.functional.pad(gradients, (0, missing)) if missing else gradients
        signed = (filled.unflatten(1, (rows, self.dimension)) * self._signs).flatten(1)
        # A row rolled by k is its last k numbers, then its first d - k.
        parts = signed.split([size for k in self._shifts.tolist() for size in (self.dimension - k, k)], 1)
        positive, negative = (np.flatnonzero(self._row_signs == sign).tolist() for sign in (1, -1))
        rolled = torch.cat([part for row in [*positive, *negative] for part in (parts[2 * row + 1], parts[2 * row])], 1)
        added, subtracted = rolled.view(count, rows, self.dimension).split([len(positive), len(negative)], 1)
        return added.sum(1) - subtracted.sum(1)


def _has_kernel(device: torch.device) -> bool:
    if importlib.util.find_spec("triton") is None:
        return False
    from gradsim_assets.core.sample_gradients.sketch_kernel import works_on

    return works_on(device)


class TrakProjector:
    """traker's dense +-1 projection (Park et al. 2023): its CUDA kernel where fast_jl is there, else its CPU projector.

    Raises:
        InputError: traker is not installed.
    """

    def __init__(self, name: str, size: int, dimension: int, seed: int, device: torch.device) -> None:
        try:
            from trak.projectors import BasicProjector, CudaProjector, ProjectionType
        except ImportError as error:
            raise InputError('the projection "trak" needs the package traker; install it, or choose "fast".') from error
        self.dimension = dimension
        cls, extra = BasicProjector, {"block_size": min(dimension, BLOCK)}
        if device.type == "cuda" and importlib.util.find_spec("fast_jl"):
            cls, extra = CudaProjector, {"max_batch_size": 32}
        self._projector = cls(
            grad_dim=size,
            proj_dim=dimension,
            seed=stable_seed(seed, name) % 2**31,  # its generators take 32 bits
            proj_type=ProjectionType.rademacher,
            device=device,
            **extra,
        )

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        # traker leaves the scale to its callers; without it a component weighs in with its dimension.
        return self._projector.project(gradients, model_id=0).to(gradients.dtype) / self.dimension**0.5


@dataclass(frozen=True)
class Scaled:
    """A projector's projections, times a scale."""

    projector: Projector
    scale: float

    @property
    def dimension(self) -> int:
        """Number of dimensions d of the projection."""
        return self.projector.dimension

    def __call__(self, gradients: torch.Tensor) -> torch.Tensor:
        return self.projector(gradients) * self.scale


def make_projector(
    name: str,
    size: int,
    proportion: float,
    seed: int = 0,
    kind: ProjectionKind = "fast",
    weighting: Weighting = "unbiased",
    device: torch.device | str = "cpu",
) -> Projector:
    """The projector of one component, a function of (seed, name, size, proportion) alone.

    `weighting="script"` leaves out the scale 1/sqrt(d_c) as the predecessor did, so that components weigh in with
    their dimension; it is there for comparison only.

    Raises:
        InputError: unknown kind or weighting, a proportion outside (0, 1], or "trak" where traker is not installed.
    """
    if not 0 < proportion <= 1:
        raise InputError(f"projection proportion {proportion} is not in (0, 1]; give a share of the parameters.")
    if weighting not in ("unbiased", "script"):
        raise InputError(f'unknown projection weighting {weighting!r}; choose "unbiased" or "script".')
    dimension = projected_dimension(size, proportion)
    projector: Projector
    if kind == "fast":
        projector = RolledSketch(f"{name}:{dimension}", size, dimension, seed)
    elif kind == "trak":
        projector = TrakProjector(f"{name}:{dimension}", size, dimension, seed, torch.device(device))
    else:
        raise InputError(f'unknown projection kind {kind!r}; choose "fast" or "trak".')
    return Scaled(projector, dimension**0.5) if weighting == "script" else projector


#: Numbers of a gradient that are projected at a time where each goes by itself.
_ENTRIES = 2**22


def projected_by_entry(projector: Projector, gradient: torch.Tensor) -> torch.Tensor:
    """Float64 [d]: a gradient [n], projected number by number from the definition of the matrix alone, to check a projector.

    Entry j = (r, c) of the gradient, read in rows of d, goes to place (c + k_r) mod d with sign u_r v_c (see
    `RolledSketch`). traker's matrix is known to traker alone, so that its projector projects by itself.
    """
    if isinstance(projector, Scaled):
        return projected_by_entry(projector.projector, gradient) * projector.scale
    if not isinstance(projector, RolledSketch):
        return projector(gradient[None])[0].double()
    width, device = projector.dimension, gradient.device
    random = np.random.Generator(np.random.PCG64(stable_seed(projector.seed, projector.name)))
    rows = -(-projector.size // width)
    row_signs, shifts, signs = (
        torch.from_numpy(random.integers(0, high, length)).to(device)
        for high, length in ((2, rows), (width, rows), (2, width))
    )
    out = torch.zeros(width, dtype=torch.float64, device=device)
    for start in range(0, projector.size, _ENTRIES):
        entries = torch.arange(start, min(start + _ENTRIES, projector.size), device=device)
        row, column = entries // width, entries % width
        negative = (row_signs[row] + signs[column]) % 2  # u v = -1 where one of them is
        out.index_add_(0, (column + shifts[row]) % width, gradient[entries].double() * (1 - 2 * negative))
    return out
