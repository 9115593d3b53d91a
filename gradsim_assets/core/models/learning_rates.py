"""Learning rates of a training, as they are written beside its checkpoints."""

import json
import pickle
from collections.abc import Mapping
from typing import Any

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import TRAINER_STATE, TRAINING_RECORD, Revision, file_of

#: What the Trainer keeps of its scheduler, and under which names that holds a rate for each group of parameters.
_SCHEDULER, _RATES_OF_GROUPS = "scheduler.pt", ("base_lrs", "_last_lr")


def learning_rates(checkpoint: Revision) -> dict[int, float]:
    """The learning rate by step (from 1) as far as a checkpoint knows it; empty where nothing is written beside it.

    A record of `gradsim_assets.integrations.RecordCheckpoints` has that of every step, the state of transformers' Trainer those of
    the steps that were logged (versions before 4.47 wrote that of the step behind it), of the first group of parameters.

    Raises:
        InputError: what is written cannot be read, or groups of parameters have different rates, of which none is that of all.
        ServiceError: the hub does not hand it out now.
    """
    record = _document(checkpoint, TRAINING_RECORD)
    if record:
        rates = _numbers(checkpoint, TRAINING_RECORD, dict(record.get("learning_rates") or {}))
        differ = None in rates.values()
    else:
        logged = _document(checkpoint, TRAINER_STATE).get("log_history") or ()
        found = {one["step"]: one["learning_rate"] for one in logged if {"step", "learning_rate"} <= set(one)}
        rates = _numbers(checkpoint, TRAINER_STATE, found)
        differ = bool(rates) and _differ(checkpoint)
    if differ:
        raise InputError(
            f"groups of parameters had different learning rates in the training of {checkpoint.source}, and a sum over its checkpoints "
            "has one of each step for all of them."
        )
    return {step: rate for step, rate in rates.items() if rate is not None}


def mean_rate(rates: Mapping[int, float], after: int, step: int) -> float | None:
    """The mean of the known learning rates of the steps behind one and up to another; None where none is known."""
    found = [rate for place, rate in rates.items() if after < place <= step]
    return sum(found) / len(found) if found else None


def _numbers(checkpoint: Revision, name: str, rates: Mapping[Any, Any]) -> dict[int, float | None]:
    try:
        return {int(step): None if rate is None else float(rate) for step, rate in rates.items()}
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} of {checkpoint.source} holds a learning rate that is no number ({error}); save the checkpoint again."
        ) from error


def _differ(checkpoint: Revision) -> bool:
    """Whether the Trainer's scheduler has different rates for groups of parameters; not where none is saved that can be read."""
    import torch

    file = file_of(checkpoint, _SCHEDULER)
    if file is None:
        return False
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError):
        return False  # of a kind of its own
    held = [state.get(name) for name in _RATES_OF_GROUPS] if isinstance(state, dict) else []
    return any(isinstance(rates, list) and len(set(map(float, rates))) > 1 for rates in held)


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
