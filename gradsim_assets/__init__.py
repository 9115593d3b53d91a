"""gradsim: which training samples does a fine-tuned language model's behaviour go back to?"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

__version__ = "0.1.0"


def scan(table: str, model: str | None = None, setting: str | None = None) -> "pl.LazyFrame":
    """A table of this home as one lazy frame, over what is registered; see `gradsim_assets.runs.reading.scan`."""
    reading = import_module("gradsim_assets.runs.reading")  # on use, since every module imports this package first
    frame: pl.LazyFrame = reading.scan(table, model, setting)
    return frame
