"""`removal`: what a variant loses when the model is made again without the originals that a method puts on top."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.scoring import bootstrap_interval
from gradsim_assets.core.evaluation.methods import COMPONENT, COMPONENT_TYPE, Method
from gradsim_assets.core.evaluation.tail_patch import RANDOM
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.tables.schemas import REMOVAL

if TYPE_CHECKING:  # what definitions load imports no torch
    from gradsim_assets.core.gradients.engine.request import Losses

#: The share of the originals that is removed (at least one).
SHARE = 0.01

LeftOut = frozenset[str]


@dataclass(frozen=True)
class Removals:
    """The sets that models are made without: by method and variant, and random ones that serve all variants."""

    tops: Mapping[str, Mapping[str, LeftOut]]
    random: Sequence[LeftOut]

    @property
    def sets(self) -> list[LeftOut]:
        """Every set once, the empty one first."""
        found = [LeftOut(), *self.random, *(one for by_variant in self.tops.values() for one in by_variant.values())]
        return list(dict.fromkeys(found))


def removed_variants(variants: Sequence[str], count: int) -> list[str]:
    """So many variants (all, where there are no more), whoever the others are and in whatever order they come."""
    return sorted(variants, key=lambda variant: (stable_seed("removal", variant), variant))[:count]


def removed_count(originals: int) -> int:
    """How many originals are removed of so many."""
    return max(1, round(SHARE * originals))


def removals(
    methods: Iterable[Method], variants: Sequence[str], originals: Sequence[str], chosen: Sequence[str], draws: int
) -> Removals:
    """The top originals of every method that scores by more than one component, for the chosen variants, and random ones.

    Ties, and scores that are undefined (they come last), are broken by the originals' ids.
    """
    count = removed_count(len(originals))
    rows = {variant: place for place, variant in enumerate(variants)}
    tops = {
        one.name: {variant: _top(scores[rows[variant]], originals, count) for variant in chosen}
        for one in methods
        if one.name not in (COMPONENT, COMPONENT_TYPE, RANDOM) and (scores := one.scores()) is not None
    }
    return Removals(tops, [_drawn(originals, count, draw) for draw in range(draws)])


def _top(scores: np.ndarray, originals: Sequence[str], count: int) -> LeftOut:
    found = np.where(np.isnan(scores), -np.inf, scores)
    order = sorted(range(len(originals)), key=lambda place: (-found[place], originals[place]))
    return frozenset(originals[place] for place in order[:count])


def _drawn(originals: Sequence[str], count: int, draw: int) -> LeftOut:
    return frozenset(sorted(originals, key=lambda one: (stable_seed("removal", draw, one), one))[:count])


def removal(planned: Removals, losses: "Mapping[LeftOut, Losses]", setting: str) -> pl.DataFrame:
    """The table `removal` of one setting, from the losses after leaving out each of the planned sets."""
    by_random = [losses[one][setting] for one in planned.random]
    whole = losses[LeftOut()][setting]
    rows = []
    for method, tops in planned.tops.items():
        random = np.array([[found[variant] for found in by_random] for variant in tops]).mean(axis=1)
        without = np.array([losses[left_out][setting][variant] for variant, left_out in tops.items()])
        increase = without - random
        (low,), (high,) = bootstrap_interval(increase[None])
        rows.append(
            {
                "method": method,
                "removed": len(next(iter(tops.values()))),
                "loss_increase": float(increase.mean()),
                "loss_increase_low": None if np.isnan(low) else float(low),
                "loss_increase_high": None if np.isnan(high) else float(high),
                "random_increase": float((random - np.array([whole[variant] for variant in tops])).mean()),
                "variants": len(tops),
                "draws": len(planned.random),
            }
        )
    return REMOVAL.enforce(pl.DataFrame(rows, schema=REMOVAL.empty().schema))
