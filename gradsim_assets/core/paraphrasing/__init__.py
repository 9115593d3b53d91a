"""Paraphrasing samples through a chat service: nothing paid twice, nothing doubtful kept silently."""

from gradsim_assets.core.errors import ServiceError
from gradsim_assets.core.paraphrasing.batch import BatchStatus
from gradsim_assets.core.paraphrasing.errors import SpendingLimitError
from gradsim_assets.core.paraphrasing.options import PRICES, SYSTEM_PROMPT, ParaphraserOptions
from gradsim_assets.core.paraphrasing.run import Estimate, ParaphraseResult, batch_step, estimate, paraphrase_samples

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
