"""The spending limit: what may still be asked."""

from gradsim_assets.core.datasets.paraphrasing.answer_store import AnswerStore
from gradsim_assets.core.datasets.paraphrasing.errors import SpendingLimitError
from gradsim_assets.core.datasets.paraphrasing.options import ParaphraserOptions


def affordable(most_usd: float, options: ParaphraserOptions, store: AnswerStore) -> bool:
    """Whether spending `most_usd` more could not cross the limit; to be asked with the store held exclusively."""
    limit = options.max_cost_usd
    return limit is None or store.committed_usd(options.campaign) + most_usd <= limit


def limit_reached(most_usd: float, options: ParaphraserOptions, store: AnswerStore) -> SpendingLimitError:
    """The error that tells so."""
    return SpendingLimitError(
        f"the spending limit of {options.max_cost_usd:g} USD would be crossed: "
        f"{store.committed_usd(options.campaign):.4f} USD are spent or under way and what comes next can cost up to "
        f"{most_usd:.4f}; raise max_cost_usd in [paraphraser] and run again: what has arrived is not paid again."
    )
