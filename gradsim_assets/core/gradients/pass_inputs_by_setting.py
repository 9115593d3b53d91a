"""From the tables of a shard to the request of one gradient pass, where each setting has candidates of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from gradsim_assets.core.gradients.pass_inputs import PassInputs, pass_inputs

_PAIR = ["variant_id", "original_id"]


def pass_inputs_by_setting(
    originals: pl.DataFrame,
    variants: Mapping[str, pl.DataFrame],
    candidates: Mapping[str, pl.DataFrame],
    *rest: Any,
    **more: Any,
) -> PassInputs:
    """As `pass_inputs`, where each setting has candidates of its own."""
    every = pl.concat([frame.select(_PAIR) for frame in candidates.values()]).unique(maintain_order=True)
    inputs = pass_inputs(originals, variants, every, *rest, **more)
    pairs = {}
    for setting, frame in candidates.items():
        known = set(inputs.request.pairs[setting])
        pairs[setting] = [pair for pair in frame.select(_PAIR).iter_rows() if pair in known]
    return replace(inputs, request=replace(inputs.request, pairs=pairs))
