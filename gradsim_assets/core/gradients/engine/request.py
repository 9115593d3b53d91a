"""What a pass is asked for, how it is to be done, and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile
from gradsim_assets.core.sample_gradients.precision import Precision
from gradsim_assets.core.sample_gradients.projected_gradients import cosines
from gradsim_assets.core.sample_gradients.projections import ProjectionKind, Weighting

#: What the originals' losses stand under, where those of variants stand under their setting.
ORIGINAL = "original"

#: By ORIGINAL or a setting, then by sample: nats per response token.
Losses = dict[str, dict[str, float]]


@dataclass(frozen=True)
class PassRequest:
    """The samples and pairs of one pass.

    Raises:
        InputError: an id occurs twice, a setting lacks variants or pairs, or a pair names a sample that was not given.
    """

    originals: list[EncodedSample]
    #: By setting.
    variants: Mapping[str, list[EncodedSample]]
    #: (variant id, original id) by setting, in the order of the output's rows.
    pairs: Mapping[str, list[tuple[str, str]]]
    #: Settings whose per-component products are wanted.
    products: frozenset[str] = frozenset()
    #: Proportions of the random projections that are wanted, by setting.
    projections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    #: Names of the preconditioners whose products are wanted, by setting.
    preconditioned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_unique([sample.id for sample in self.originals], "the originals")
        known = {sample.id for sample in self.originals}
        for setting, samples in self.variants.items():
            _check_unique([sample.id for sample in samples], f"the variants of {setting}")
        for setting in [*self.products, *self.projections, *self.preconditioned, *self.pairs]:
            if setting not in self.variants or setting not in self.pairs:
                raise InputError(f"setting {setting} has no variants or no pairs; give both, or do not ask for it.")
        for setting, pairs in self.pairs.items():
            variants = {sample.id for sample in self.variants[setting]}
            for variant_id, original_id in pairs:
                if variant_id not in variants or original_id not in known:
                    raise InputError(
                        f"{setting}: the pair ({variant_id}, {original_id}) names a sample that was not given; "
                        "pass the samples of every pair."
                    )

    @property
    def settings(self) -> list[str]:
        """Settings for which anything is wanted, in the order of `pairs`."""
        wanted = (self.projections, self.preconditioned)
        return [s for s in self.pairs if s in self.products or any(asked.get(s) for asked in wanted)]

    @property
    def preconditioners(self) -> tuple[str, ...]:
        """All preconditioners that any setting wants."""
        return tuple(sorted({name for wanted in self.preconditioned.values() for name in wanted}))


def _check_unique(ids: list[str], what: str) -> None:
    if len(set(ids)) != len(ids):
        twice = next(one for position, one in enumerate(ids) if one in ids[:position])
        raise InputError(f"{twice} occurs more than once among {what}; ids must be unique.")


@dataclass(frozen=True)
class PassOptions:
    """How a pass is done; none of it changes a result beyond rounding, but for the kind of projection."""

    device: str = "cpu"
    #: Of matrix products.
    precision: Precision = "fp32"
    #: These three decide what a projection is (see `make_projector`).
    projection_kind: ProjectionKind = "fast"
    projection_seed: int = 0
    weighting: Weighting = "unbiased"
    #: What the pass may hold on the device beside the model; None: a share of what is free.
    memory_bytes: int | None = None
    #: What may be kept of originals' gradients in the host's memory, where the device has its own and fetching one is faster than
    #: computing it again.
    host_bytes: int = 0
    #: How gradients are held; "auto" leaves it to the plan.
    form: Literal["auto", "formed", "factored"] = "auto"
    #: Originals that meet the held variants at a time; None leaves it to the plan.
    tile: int | None = None
    #: Padded tokens of a batch, 0 for one sample at a time; None leaves it to the plan.
    batch_tokens: int | None = None
    #: Padded tokens of a batch beyond which activations are computed again on the way back; "auto" leaves it to the plan, None
    #: keeps them all.
    checkpoint_beyond: int | Literal["auto"] | None = "auto"
    #: Pairs that are recomputed by plain autograd as soon as their block is done, one of them in the first block.
    check_pairs: int = 3
    #: The error of such a pair, relative to the lengths of both gradients in a component, that rounding must explain; None:
    #: what it always may be (see `Arithmetic.tolerance`).
    tolerance: float | None = None
    #: What the device is fast and slow at; None: what was measured on it, or what devices of its kind are.
    profile: DeviceProfile | None = None
    #: What stands for the code that computes: a pass goes on with results of the same code alone.
    code_version: str = ""
    #: A folder that keeps the results in files, finished block by block: a killed pass goes on, and results may be
    #: larger than memory. None keeps them in memory.
    scratch: Path | None = None


@dataclass(frozen=True)
class PairBlock:
    """Finished rows of one setting: n pairs, C components, all arrays float64."""

    setting: str
    #: int64 [n]: their places in `request.pairs`.
    rows: np.ndarray
    #: [n, C]; None where the setting's products are not wanted.
    dot_products: np.ndarray | None
    #: [n, C]: products of the variants, and of the originals, with themselves.
    variant_self: np.ndarray | None
    original_self: np.ndarray | None
    #: [n, 3] by proportion: product of the projected full gradients, and those of both with themselves.
    projected: Mapping[float, np.ndarray]
    #: [n, 3, C] by preconditioner: product, and those of the variants and of the originals with themselves.
    preconditioned: Mapping[str, np.ndarray]


@dataclass
class CheckReport:
    """What a pass's checks found."""

    #: Pairs whose products were recomputed, and the largest error of a component that is not noise (of any, where all are
    #: computed in less than strict fp32).
    pairs: int = 0
    error: float = 0.0
    #: Components that are noise in plain autograd itself.
    noisy: list[str] = field(default_factory=list)
    #: Pairs whose projected cosines were recomputed, and the largest difference.
    projected_pairs: int = 0
    projected_error: float = 0.0
    #: Pairs whose preconditioned products were recomputed, and the largest error of a component that is not noise.
    preconditioned_pairs: int = 0
    preconditioned_error: float = 0.0
    #: What arithmetic of less than strict fp32 costs: differences of cosines from those in fp32, the full gradient's and the
    #: components' (their median, and the largest), the largest among the pairs.
    cosine_cost: float = 0.0
    component_cost: float = 0.0
    largest_component_cost: float = 0.0

    def add(self, other: "CheckReport") -> None:
        """Takes in the checks of another block, or of other components."""
        self.pairs += other.pairs
        self.projected_pairs += other.projected_pairs
        self.preconditioned_pairs += other.preconditioned_pairs
        self.noisy = sorted({*self.noisy, *other.noisy})
        errors = ("error", "projected_error", "preconditioned_error")
        for name in (*errors, "cosine_cost", "component_cost", "largest_component_cost"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


@dataclass
class PassReport:
    """What a pass did: for the table's metadata and the log."""

    #: Distinct samples: the least number of gradients.
    samples: int = 0
    pairs: int = 0
    gradients_computed: int = 0
    #: Gradients that came from the host's memory instead of being computed once more.
    gradients_fetched: int = 0
    blocks: int = 0
    #: Blocks that an earlier try had finished.
    blocks_restored: int = 0
    seconds: float = 0.0
    #: Of these, what the blocks that were computed took, without their checks; what was predicted of that, and by what.
    computing_seconds: float = 0.0
    predicted_seconds: float = 0.0
    predicted_by: str = ""
    #: Of the device where it was highest, of so many that the model is spread over.
    peak_memory_bytes: int = 0
    devices: int = 1
    #: What was recomputed by plain autograd, and the error that was allowed.
    checks: CheckReport = field(default_factory=CheckReport)
    tolerance: float = 0.0
    #: On what the hooks were verified, and how long that took.
    verified: str = ""
    verification_seconds: float = 0.0
    #: How the base is quantised, "" where it is not, and how far gradients were off from float64 over its dequantised weights, as
    #: share of a component's length; None where that was not measured.
    quantised: str = ""
    dequantised_error: float | None = None
    plan: str = ""
    #: What turned out otherwise than planned, a sentence each.
    notes: list[str] = field(default_factory=list)

    @property
    def checked_pairs(self) -> int:
        """Pairs whose products were recomputed by plain autograd."""
        return self.checks.pairs

    @property
    def max_relative_error(self) -> float | None:
        """The largest error of those products, relative to the lengths of both gradients; None if there are none."""
        return self.checks.error if self.checks.pairs else None


@dataclass(frozen=True)
class PassResult:
    """Everything of a pass; arrays are memory-mapped files where the pass had a scratch folder.

    By setting: float64 [pairs, components], with rows as in `request.pairs` and components in model order.
    """

    components: list[str]
    #: Number of parameters of each component.
    parameters: list[int]
    dot_products: dict[str, np.ndarray]
    #: Products of the variants, and of the originals, with themselves.
    variant_self: dict[str, np.ndarray]
    original_self: dict[str, np.ndarray]
    #: By setting, then proportion: products of the projected full gradients, and those of both with themselves, float64
    #: [pairs, 3].
    projected_products: dict[str, dict[float, np.ndarray]]
    #: By setting, then preconditioner: the three products by their names (see `results.TERMS`).
    preconditioned: dict[str, dict[str, dict[str, np.ndarray]]]
    #: By proportion: dimension of the projected full gradient.
    dimensions: dict[float, int]
    losses: Losses
    report: PassReport

    @cached_property
    def projected(self) -> dict[str, dict[float, np.ndarray]]:
        """By setting, then proportion: cosines of the projected full gradients, float64 [pairs]."""
        return {
            setting: {p: cosines(products) for p, products in of_setting.items()}
            for setting, of_setting in self.projected_products.items()
        }
