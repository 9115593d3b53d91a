"""gradsim: which training samples does a fine-tuned language model's behaviour go back to?"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

__version__ = "0.1.0"


def scan(table: str, model: str | None = None, setting: str | None = None) -> "pl.LazyFrame":
    """A table of this home as one lazy frame, over the registered models and the shards that there are now.

    A table that models have begins with the column `model`, the model's id.

    Args:
        table: as commands take it: "retrieval_paraphrased", "retrieval/paraphrased", or "retrieval" with a setting.
        model: one model by its id; None for all that are registered and have the table.
        setting: "paraphrased" or "model_generated", for a table that exists for both.

    Raises:
        InputError: there is no such table, the model is not registered, partitions are missing or damaged, or the shards of
            a model were computed from different revisions or settings.
    """
    reading = import_module("gradsim_assets.runs.reading")  # on use, since every module imports this package first
    frame: pl.LazyFrame = reading.scan(table, model, setting)
    return frame


def load(table: str, model: str | None = None, setting: str | None = None) -> "pl.DataFrame":
    """As `scan`, read into memory. A large table (`dot_products`) is better scanned and filtered first."""
    return scan(table, model, setting).collect()


def compare(model: str, *others: str, setting: str = "paraphrased") -> "pl.DataFrame":
    """How a model differs from others, component by component, on the variants that have the same candidates under both.

    A row for every other model and component, the full gradient (`full_gradient`) among them: accuracies and mean reciprocal
    ranks with the intervals of their paired differences, and an exact McNemar test.

    Args:
        model: the model's id.
        others: ids of other models, such as checkpoints or controls.
        setting: "paraphrased" or "model_generated", where every model has given its own answers.

    Raises:
        InputError: no other model is named, one is not registered, or lacks its similarities.
    """
    reading = import_module("gradsim_assets.runs.reading")
    found: pl.DataFrame = reading.compare(model, *others, setting=setting)
    return found


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
