"""`tail_patch`: what one optimizer step on a method's top originals does to the log-probability of a variant.

Chang et al. 2024, "Scalable Influence and Fact Tracing for Large Language Model Pretraining", section 4.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from gradsim_assets.core.analysis.greedy_selection import halve
from gradsim_assets.core.analysis.retrieval import text_overlap
from gradsim_assets.core.analysis.scoring import best_component, bootstrap_interval
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.step import Measure, Pair, Step
from gradsim_assets.core.seeds import stable_seed
from gradsim_assets.core.similarity.pair_products import Candidates, PairProducts, cosine, preconditioned_terms
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, TAIL_PATCH, TEXT_OVERLAP

RANDOM = "random"
_AS_DOT_PRODUCT = "_dot_product"
DOT_PRODUCT = f"{FULL_GRADIENT}{_AS_DOT_PRODUCT}"


@dataclass(frozen=True)
class Scores:
    """A method's scores of the P pairs; `components` says by variant which component they are of, for one that chooses."""

    method: str
    values: np.ndarray
    components: Mapping[str, str | None]


@dataclass(frozen=True)
class Top:
    """The originals of one row of the table."""

    method: str
    variant: str
    originals: tuple[str, ...]
    component: str | None = None

    @property
    def pairs(self) -> list[Pair]:
        """Each original with the variant."""
        return [(self.variant, original) for original in self.originals]


def chosen_variants(variants: Sequence[str], count: int) -> list[str]:
    """So many variants (all, where there are no more), whoever the others are and in whatever order they come."""
    return sorted(variants, key=lambda variant: stable_seed("tail_patch", variant))[:count]


def method_scores(
    pairs: PairProducts,
    bm25: pl.DataFrame,
    variants: pl.DataFrame,
    originals: pl.DataFrame,
    parameters: pl.DataFrame | None = None,
    preconditioned: pl.DataFrame | None = None,
) -> list[Scores]:
    """The scores of every method but `random` for the pairs of the dot products.

    `bm25` is the table `bm25_candidates`; `variants` and `originals` are dataset tables. Text overlap is chrF2 of the
    variant's answer against the original's. `preconditioned` is the table `preconditioned_products`, None where there is none.
    """
    candidates = pairs.candidates
    components, best = held_out_component(pairs, parameters)
    return [
        Scores("bm25", candidates.align(bm25, "score"), {}),
        Scores(TEXT_OVERLAP, _overlaps(pairs, variants, originals), {}),
        Scores(FULL_GRADIENT, pairs.full_similarity, {}),
        Scores(DOT_PRODUCT, pairs.dot_product.sum(axis=0), {}),
        *(Scores(name, values, {}) for name, values in preconditioned_scores(candidates, preconditioned).items()),
        Scores("best_component", best, components),
    ]


def preconditioned_scores(
    candidates: Candidates, preconditioned: pl.DataFrame | pl.LazyFrame | None
) -> dict[str, np.ndarray]:
    """By method the scores of the P pairs under each preconditioner: cosine of the full gradients, and their dot product."""
    found: dict[str, np.ndarray] = {}
    for name, (dot, variant_self, original_self) in preconditioned_terms(candidates, preconditioned).items():
        found |= {name: cosine(dot, variant_self, original_self), f"{name}{_AS_DOT_PRODUCT}": dot}
    return found


def _overlaps(pairs: PairProducts, variants: pl.DataFrame, originals: pl.DataFrame) -> np.ndarray:
    found = text_overlap(pairs.candidates, variants, originals)
    if np.isnan(found).any():
        variant, original = pairs.candidates.frame.row(int(np.isnan(found).argmax()))
        raise InputError(
            f"dot_products names {variant} and {original}, of which there is no text of both; materialise dot_products again."
        )
    return found


def held_out_component(
    pairs: PairProducts, parameters: pl.DataFrame | None = None
) -> tuple[dict[str, str | None], np.ndarray]:
    """By variant the component that is best on the other half of the variants, and the P similarities under it.

    The halves are those of the first held-out split of `greedy_selection`. NaN where there is no other half.
    """
    names = pairs.candidates.variants
    chosen: dict[str, str | None] = dict.fromkeys(names)
    values = np.full(len(pairs.candidates.variant), np.nan)
    first, second = halve(names, 1)
    for selecting, scoring in ((first, second), (second, first)):
        best = best_component(pairs, parameters, selecting) if len(selecting) else None
        if best is None:
            continue
        chosen |= {names[variant]: pairs.components[best] for variant in scoring}
        here = np.isin(pairs.candidates.variant, scoring)
        values[here] = pairs.similarity[best][here]
    return chosen, values


def tops(pairs: PairProducts, scores: Sequence[Scores], variants: Sequence[str], count: int) -> list[Top]:
    """The `count` originals of highest score for each method and variant; ties by the order of the candidates.

    An undefined score comes last, and a variant none of whose candidates has one is left out for the method.

    Raises:
        InputError: no variant has more candidates than that, so that all methods would have the same originals.
    """
    candidates = pairs.candidates
    most = int(candidates.counts.max(initial=0))
    if count >= most:
        raise InputError(
            f"evaluation.top = {count}, but variants have at most {most} candidates, so that the top {count} of every method are "
            "the same; set a smaller number, or more data.candidates."
        )
    place = {name: number for number, name in enumerate(candidates.variants)}
    found = []
    for method in scores:
        for variant in variants:
            rows = np.flatnonzero(candidates.variant == place[variant])
            values = method.values[rows]
            if np.isnan(values).all():
                continue
            order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")[:count]
            originals = tuple(candidates.originals[rows[order]].tolist())
            found.append(Top(method.method, variant, originals, method.components.get(variant)))
    return found


def random_tops(variants: Sequence[str], originals: Sequence[str], count: int, draws: int) -> list[Top]:
    """For each variant `draws` times `count` different originals out of all, by a seed; the same whatever their order."""
    ids = sorted(originals)
    found = []
    for variant in variants:
        drawn: list[str] = []
        for draw in range(draws):
            rng = np.random.default_rng(stable_seed("tail_patch", RANDOM, variant, draw))
            drawn += [ids[number] for number in rng.choice(len(ids), min(count, len(ids)), replace=False)]
        found.append(Top(RANDOM, variant, tuple(drawn)))
    return found


def pairs_of(chosen: Sequence[Top]) -> pl.DataFrame:
    """The distinct pairs that are measured for so many rows: variant_id, original_id."""
    pairs = dict.fromkeys(pair for top in chosen for pair in top.pairs)
    return pl.DataFrame(list(pairs), schema={"variant_id": pl.String, "original_id": pl.String}, orient="row")


def tail_patch(chosen: Sequence[Top], measure: Measure, step: Step) -> pl.DataFrame:
    """The table `tail_patch`: a row for every method and variant.

    A variant's log-probability is the mean over its response tokens, so its change is that of the loss with the sign
    turned. Of several draws the mean is told. An original that was drawn and is not there (the context policy has dropped
    it) does not count.
    """
    changes = measure(list(pairs_of(chosen).iter_rows()), step)
    chosen = [replace(top, originals=tuple(o for v, o in top.pairs if (v, o) in changes)) for top in chosen]
    chosen = [top for top in chosen if top.originals]
    return TAIL_PATCH.enforce(
        pl.DataFrame(
            {
                "method": [top.method for top in chosen],
                "variant_id": [top.variant for top in chosen],
                "originals": [list(top.originals) for top in chosen],
                "log_probability_change": [-float(np.mean([changes[pair] for pair in top.pairs])) for top in chosen],
                "component": [top.component for top in chosen],
            },
            schema={name: column.dtype for name, column in TAIL_PATCH.columns.items()},
        )
    )


def changes_by_method(frame: pl.DataFrame) -> tuple[list[str], np.ndarray]:
    """The M methods of a table `tail_patch`, and their changes (float64 [M, V]) for the V variants that all have a row of."""
    methods = frame["method"].unique(maintain_order=True).to_list()
    wide = frame.pivot("method", index="variant_id", values="log_probability_change", maintain_order=True).drop_nulls()
    return methods, wide.select(methods).to_numpy().T.reshape(len(methods), wide.height)


def tail_patch_summary(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per method of a table `tail_patch`, over the variants that every method has a row of.

    Columns: method, variants, change (mean) with low and high, and over_random, the paired difference to `random`, with
    over_random_low and over_random_high: 95 % bootstrap intervals over variants. Ends are null where all values are equal.
    """
    methods, values = changes_by_method(frame)
    columns: dict[str, np.ndarray] = {}
    paired = values - values[methods.index(RANDOM)] if RANDOM in methods else np.full_like(values, np.nan)
    if RANDOM in methods:
        paired[methods.index(RANDOM)] = np.nan  # which is compared with nothing
    for name, rows in (("change", values), ("over_random", paired)):
        with np.errstate(invalid="ignore"):
            columns[name] = rows.sum(axis=1) / np.float64(rows.shape[1])
        columns[f"{name}_low"], columns[f"{name}_high"] = bootstrap_interval(rows)
    return pl.DataFrame(
        {
            "method": pl.Series(methods, dtype=pl.String),
            "variants": pl.Series([values.shape[1]] * len(methods), dtype=pl.Int64),
            **{name: pl.Series(column, dtype=pl.Float64, nan_to_null=True) for name, column in columns.items()},
        }
    )
