"""Learning rates of a training, as they are written beside its checkpoints."""

import json
from collections.abc import Mapping
from typing import Any

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import TRAINER_STATE, TRAINING_RECORD, Revision, file_of


def learning_rates(checkpoint: Revision) -> dict[int, float]:
    """The learning rate by step (from 1) as far as a checkpoint knows it; empty where nothing is written beside it.

    A record of `gradsim_assets.integrations.RecordCheckpoints` has that of every step, the state of transformers' Trainer those of
    the steps that were logged (versions before 4.47 wrote that of the step behind it).

    Raises:
        InputError: what is written cannot be read.
        ServiceError: the hub does not hand it out now.
    """
    record = _document(checkpoint, TRAINING_RECORD)
    if record:
        return {int(step): float(rate) for step, rate in record["learning_rates"].items()}
    logged = _document(checkpoint, TRAINER_STATE).get("log_history", ())
    return {int(one["step"]): float(one["learning_rate"]) for one in logged if {"step", "learning_rate"} <= set(one)}


def mean_rate(rates: Mapping[int, float], after: int, step: int) -> float | None:
    """The mean of the known learning rates of the steps behind one and up to another; None where none is known."""
    found = [rate for place, rate in rates.items() if after < place <= step]
    return sum(found) / len(found) if found else None


def _document(checkpoint: Revision, name: str) -> dict[str, Any]:
    file = file_of(checkpoint, name)
    if file is None:
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} of {checkpoint.source} is no JSON object ({error}); save the checkpoint again."
        ) from error
