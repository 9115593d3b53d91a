"""`gradient_index`: sketches of the originals' gradients as a table."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from gradsim_assets.core.tables.schemas import GRADIENT_INDEX


def index_frame(ids: Sequence[str], sketches: np.ndarray) -> pl.DataFrame:
    """The table `gradient_index` of some originals with their sketches, fp32 [originals, d].

    Numbers of a sketch of length 1 are near 1/sqrt(d), and 2^-11 of that is what float16 rounds: far less than a sketch is off.
    """
    wide = sketches.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    unit = np.divide(wide, lengths[:, None], out=np.zeros_like(wide), where=lengths[:, None] > 0)
    frame = {"id": list(ids), "sketch": pl.Series(unit.astype(np.float16)), "length": lengths}
    return GRADIENT_INDEX.enforce(pl.DataFrame(frame))


def sketches_of(frame: pl.DataFrame) -> np.ndarray:
    """The sketches of a table `gradient_index`, of length 1: fp32 [originals, d]."""
    found: np.ndarray = frame["sketch"].to_numpy()
    return found.astype(np.float32)
