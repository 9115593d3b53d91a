"""From the tables of a shard to the request of one gradient pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from gradsim_assets.core.gradients.engine import PassRequest
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ContextPolicy, encode_samples
from gradsim_assets.core.samples import samples_of
from gradsim_assets.core.tables.schemas import MODEL_GENERATED


@dataclass(frozen=True)
class PassInputs:
    """The request for one shard, and what the context policy did on the way there."""

    request: PassRequest
    #: Number of samples, originals and variants together, by what `Encoding` lists of them.
    counts: dict[str, int] = field(default_factory=dict)


def pass_inputs(
    originals: pl.DataFrame,
    variants: Mapping[str, pl.DataFrame],
    candidates: pl.DataFrame,
    loaded: LoadedModel,
    *,
    policy: ContextPolicy,
    products: Sequence[str],
    projections: Mapping[str, Sequence[float]],
    preconditioned: Mapping[str, Sequence[str]] | None = None,
) -> PassInputs:
    """Encodes what the candidates ask for and lists the pairs of every setting, by variant and rank.

    Pairs whose variant or original the context policy dropped are left out. Of `loaded` the tokenizer and the context
    are asked: the model may be one without weights.

    Raises:
        InputError: as `encode_samples`.
    """
    counts: dict[str, int] = {}

    def encode(frame: pl.DataFrame, setting: str = "") -> list:
        samples, generated = samples_of(frame), setting == MODEL_GENERATED.name
        counts["missing"] = counts.get("missing", 0) + frame.height - len(samples)
        encoding = encode_samples(samples, loaded.tokenizer, loaded.max_positions, loaded.takes, policy, generated)
        for name in ("kept_long", "truncated", "dropped", "prompt_no_prefix"):
            counts[name] = counts.get(name, 0) + len(getattr(encoding, name))
        return encoding.samples

    wanted = set(candidates["original_id"].to_list())
    encoded_originals = encode(originals.filter(pl.col("id").is_in(wanted)))
    encoded_variants = {setting: encode(frame, setting) for setting, frame in variants.items()}
    asked = set(candidates["variant_id"].to_list())
    # What has no answer (a prompt that fills the context, a text that asks nothing) is left out here, too.
    counts["dropped"] += sum(len(asked.difference(frame["id"].to_list())) for frame in variants.values())
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
        preconditioned={setting: tuple(names) for setting, names in (preconditioned or {}).items() if names},
    )
    return PassInputs(request, counts)
