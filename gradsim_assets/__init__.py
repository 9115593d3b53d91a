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


def trace(
    model: str, prompt: str, answer: str | None = None, method: str = "cosine", against: str = "all"
) -> "pl.DataFrame":
    """The table `traces` of a text: originals, ranked by what they have to do with what a registered model answers.

    As `gradsim trace`: exact, kept in the home, and taken from there when the same text is traced again.

    Args:
        model: the model's id.
        prompt: what the model is asked.
        answer: what it says; None for its own answer (greedy).
        method: "cosine", "dot_product", a preconditioner that is configured, or a pattern of components ("*.mlp.*").
        against: the originals that it is compared with: "all", or the best by BM25 or by the gradient index ("bm25:50",
            "index:200", "bm25:50+index:200").

    Raises:
        InputError: the model is not registered, a text is empty or too long, or the originals or the index are not there.
    """
    tracing = import_module("gradsim_assets.runs.tracing")
    found, _ = tracing.trace(model, prompt, answer, method, against)
    originals: pl.DataFrame = found.originals
    return originals
