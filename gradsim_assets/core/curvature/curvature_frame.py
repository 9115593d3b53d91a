"""`curvature`: what is known of each component, and in which file its numbers are."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from gradsim_assets.core.components import component_columns
from gradsim_assets.core.curvature.factor_files import load, mean, stated
from gradsim_assets.core.models.revisions import content_hash
from gradsim_assets.core.tables.schemas import CURVATURE

#: How files of curvature end.
SUFFIX = ".safetensors"


def stored_name(path: Path) -> str:
    """The name under which a file stands beside the table: another one for other content."""
    return f"factors-{content_hash(path)}{SUFFIX}"


def curvature_frame(files: Sequence[Path], source: str) -> pl.DataFrame:
    """The table `curvature/<kind>`, components in model order."""
    rows = []
    for path in files:
        for component in stated(path):
            found = load(path, component)
            rows.append(
                {
                    "component": component,
                    "kind": found.kind,
                    "shape": list(found.moments.shape),
                    "parameters": found.moments.numel(),
                    "mean_eigenvalue": mean(found.moments),
                    "epsilon": found.epsilon,
                    "samples": found.samples,
                    "tokens": found.tokens,
                    "source": source,
                    "file": stored_name(path),
                    "file_hash": content_hash(path),
                }
            )
    frame = pl.DataFrame(rows, schema_overrides=_DTYPES)
    named = component_columns(frame["component"], frame.select("component", "parameters"))
    return CURVATURE.enforce(named.join(frame.drop("parameters"), on="component", how="left", maintain_order="left"))


#: Of columns that may be null everywhere.
_DTYPES = {name: CURVATURE.columns[name].dtype for name in ("epsilon", "samples", "tokens", "shape")}


def typical_eigenvalue(frame: pl.DataFrame) -> float:
    """The mean eigenvalue over all numbers of a model."""
    weights = frame["parameters"].to_numpy()
    return float(frame["mean_eigenvalue"].to_numpy() @ weights / weights.sum())
