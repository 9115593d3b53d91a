"""From the tables of a shard to the request of one gradient pass, and from its result to tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from gradsim_assets.core.engine import PassRequest, PassResult
from gradsim_assets.core.samples import samples_of
from gradsim_assets.core.tokenization import ChatTokenizer, ContextPolicy, encode_samples
from gradsim_assets.schemas import DOT_PRODUCTS, PROJECTED_SIMILARITY

#: Rows that are made at a time of a table that may be larger than memory.
_ROWS = 500_000


@dataclass(frozen=True)
class PassInputs:
    """The request for one shard, and what the context policy did on the way there."""

    request: PassRequest
    #: By "kept_long", "truncated" and "dropped": number of samples, originals and variants together.
    counts: dict[str, int] = field(default_factory=dict)


def pass_inputs(
    originals: pl.DataFrame,
    variants: Mapping[str, pl.DataFrame],
    candidates: pl.DataFrame,
    tokenizer: ChatTokenizer,
    *,
    max_positions: int | None,
    learned_positions: bool,
    policy: ContextPolicy,
    products: Sequence[str],
    projections: Mapping[str, Sequence[float]],
) -> PassInputs:
    """Encodes what the candidates ask for and lists the pairs of every setting, by variant and rank.

    Pairs whose variant or original the context policy dropped are left out.

    Raises:
        InputError: as `encode_samples`.
    """
    counts: dict[str, int] = {}

    def encode(frame: pl.DataFrame) -> list:
        encoding = encode_samples(samples_of(frame), tokenizer, max_positions, learned_positions, policy)
        for name in ("kept_long", "truncated", "dropped"):
            counts[name] = counts.get(name, 0) + len(getattr(encoding, name))
        return encoding.samples

    wanted = set(candidates["original_id"].to_list())
    encoded_originals = encode(originals.filter(pl.col("id").is_in(wanted)))
    encoded_variants = {setting: encode(frame) for setting, frame in variants.items()}
    present = {sample.id for sample in encoded_originals}
    rows = list(candidates.select("variant_id", "original_id").iter_rows())
    pairs = {}
    for setting, samples in encoded_variants.items():
        ids = {sample.id for sample in samples}
        pairs[setting] = [(variant, original) for variant, original in rows if variant in ids and original in present]
    request = PassRequest(
        originals=encoded_originals,
        variants=encoded_variants,
        pairs=pairs,
        products=frozenset(products),
        projections={setting: tuple(proportions) for setting, proportions in projections.items()},
    )
    return PassInputs(request, counts)


def product_frame(result: PassResult, setting: str, pairs: Sequence[tuple[str, str]]) -> pl.LazyFrame:
    """The table `dot_products/<setting>`: pairs in order, components in model order; made as it is read."""
    components = result.components
    step = max(1, _ROWS // max(1, len(components)))

    def pieces() -> Iterator[pl.DataFrame]:
        for start in range(0, len(pairs), step):
            part = slice(start, start + step)
            yield _pair_columns(pairs[part], len(components)).with_columns(
                component=pl.Series(components * len(pairs[part]), dtype=pl.String()),
                dot_product=result.dot_products[setting][part].ravel(),
                variant_self=result.variant_self[setting][part].ravel(),
                original_self=result.original_self[setting][part].ravel(),
            )

    return DOT_PRODUCTS.streamed(pieces)


def projection_frame(result: PassResult, setting: str, pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """The table `projected_similarity/<setting>`: pairs in order, proportions ascending; undefined cosines are null."""
    proportions = sorted(result.projected[setting])
    similarity = np.stack([result.projected[setting][proportion] for proportion in proportions], axis=1)
    return PROJECTED_SIMILARITY.enforce(
        _pair_columns(pairs, len(proportions)).with_columns(
            proportion=pl.Series(proportions * len(pairs), dtype=pl.Float64()),
            dimension=pl.Series([result.dimensions[p] for p in proportions] * len(pairs), dtype=pl.Int64()),
            similarity=pl.Series(similarity.ravel()).fill_nan(None),
        )
    )


def _pair_columns(pairs: Sequence[tuple[str, str]], repeats: int) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"variant_id": [variant for variant, _ in pairs], "original_id": [original for _, original in pairs]},
        schema={"variant_id": pl.String(), "original_id": pl.String()},
    )
    return frame[np.repeat(np.arange(len(pairs)), repeats)]
