"""What a pass is asked for, how it is to be done, and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.values.precision import Precision
from gradsim_assets.core.gradients.projections import ProjectionKind, Weighting
from gradsim_assets.core.models.encoded_sample import EncodedSample


@dataclass(frozen=True)
class PassRequest:
    """The samples and pairs of one pass.

    `pairs` holds (variant id, original id) by setting in the order of the output's rows; `products` names the settings
    whose per-component products are wanted, `projections` the proportions wanted by setting.
    """

    originals: list[EncodedSample]
    variants: Mapping[str, list[EncodedSample]]
    pairs: Mapping[str, list[tuple[str, str]]]
    products: frozenset[str] = frozenset()
    projections: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_unique([sample.id for sample in self.originals], "the originals")
        known = {sample.id for sample in self.originals}
        for setting, samples in self.variants.items():
            _check_unique([sample.id for sample in samples], f"the variants of {setting}")
        for setting in [*self.products, *self.projections, *self.pairs]:
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
        return [setting for setting in self.pairs if setting in self.products or self.projections.get(setting)]


def _check_unique(ids: list[str], what: str) -> None:
    if len(set(ids)) != len(ids):
        twice = next(one for position, one in enumerate(ids) if one in ids[:position])
        raise InputError(f"{twice} occurs more than once among {what}; ids must be unique.")


@dataclass(frozen=True)
class PassOptions:
    """How a pass is done; none of it changes a result beyond rounding (`projection_*` and `weighting` excepted).

    `memory_bytes` limits what the pass may hold on the device beside the model (None: a share of what is free); `form`
    (how gradients are held), `tile` (originals at a time) and `batch_tokens` (padded tokens of a batch; 0 for one
    sample at a time) override the plan's choice;
    `check_pairs` pairs of the run are recomputed by plain autograd and the run fails above `tolerance` (relative to
    the lengths of the two gradients); `scratch` keeps the results in files, finished block by block, so that a killed
    run goes on and results may be larger than memory.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    projection_kind: ProjectionKind = "fast"
    projection_seed: int = 0
    weighting: Weighting = "unbiased"
    memory_bytes: int | None = None
    form: Literal["auto", "formed", "factored"] = "auto"
    tile: int | None = None
    batch_tokens: int | None = None
    check_pairs: int = 3
    tolerance: float | None = None
    scratch: Path | None = None


@dataclass(frozen=True)
class PairBlock:
    """Finished rows of one setting: `rows` [n] are positions in `request.pairs[setting]`.

    The products are float64 [n, components], or None where only projections are wanted; `projected` holds float64
    cosines [n] of the projected full gradients by proportion (NaN where a gradient has no length).
    """

    setting: str
    rows: np.ndarray
    dot_products: np.ndarray | None
    variant_self: np.ndarray | None
    original_self: np.ndarray | None
    projected: Mapping[float, np.ndarray]


@dataclass
class PassReport:
    """What a pass did: for the table's metadata and the log."""

    samples: int = 0
    pairs: int = 0
    gradients_computed: int = 0
    blocks: int = 0
    blocks_restored: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    checked_pairs: int = 0
    max_relative_error: float = 0.0
    tolerance: float = 0.0
    plan: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PassResult:
    """Everything of a pass; arrays are memory-mapped files where the pass had a scratch folder.

    `components` in model order with their `parameters`; by setting `dot_products`, `variant_self` and `original_self`
    float64 [pairs, components] and `projected[setting][proportion]` float64 [pairs], rows as in `request.pairs`;
    `dimensions[proportion]` is the real total dimension; `losses` maps "original" or a setting, then a sample's id, to
    its loss in nats per response token.
    """

    components: list[str]
    parameters: list[int]
    dot_products: dict[str, np.ndarray]
    variant_self: dict[str, np.ndarray]
    original_self: dict[str, np.ndarray]
    projected: dict[str, dict[float, np.ndarray]]
    dimensions: dict[float, int]
    losses: dict[str, dict[str, float]]
    report: PassReport
