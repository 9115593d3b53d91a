"""Paraphrasing samples through a chat service: nothing paid twice, nothing doubtful kept silently."""

from gradsim_assets.core.datasets.paraphrasing.batch import BatchStatus
from gradsim_assets.core.datasets.paraphrasing.errors import SpendingLimitError
from gradsim_assets.core.datasets.paraphrasing.options import PRICES, SYSTEM_PROMPT, ParaphraserOptions
from gradsim_assets.core.datasets.paraphrasing.paraphrase import (
    Estimate,
    ParaphraseResult,
    batch_step,
    estimate,
    paraphrase_samples,
)
from gradsim_assets.core.errors import ServiceError

__all__ = [
    "PRICES",
    "SYSTEM_PROMPT",
    "BatchStatus",
    "Estimate",
    "ParaphraseResult",
    "ParaphraserOptions",
    "ServiceError",
    "SpendingLimitError",
    "batch_step",
    "estimate",
    "paraphrase_samples",
]
