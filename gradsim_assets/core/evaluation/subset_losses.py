"""`subset_losses`: what a model made of half of the originals thinks of every sample."""

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from gradsim_assets.core.gradients.engine.request import ORIGINAL, Losses
from gradsim_assets.core.tables.schemas import SUBSET_LOSSES


def subset_loss_frame(losses: Losses, members: Collection[str], subset: str) -> pl.DataFrame:
    """The table `subset_losses` of one subset: originals, then the variants of each setting."""
    rows = [
        (subset, setting, sample, loss, sample in members if setting == ORIGINAL else None)
        for setting, found in losses.items()
        for sample, loss in found.items()
    ]
    return SUBSET_LOSSES.enforce(pl.DataFrame(rows, schema=SUBSET_LOSSES.empty().schema, orient="row"))


def members_of(frame: pl.DataFrame, subsets: Sequence[str], originals: Sequence[str]) -> np.ndarray:
    """Which originals each subset holds: bool [S, O]."""
    return _wide(frame.filter(setting=ORIGINAL), "in_subset", subsets, originals).astype(bool)


def losses_of(frame: pl.DataFrame, setting: str, subsets: Sequence[str], variants: Sequence[str]) -> np.ndarray:
    """Losses of a setting's variants under the model of each subset: float64 [V, S]."""
    return _wide(frame.filter(setting=setting), "loss", subsets, variants).T.astype(np.float64)


def _wide(frame: pl.DataFrame, column: str, subsets: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    wide = frame.pivot("id", index="subset", values=column)
    return (
        pl.DataFrame({"subset": list(subsets)})
        .join(wide, on="subset", how="left", maintain_order="left")[list(ids)]
        .to_numpy()
    )
