"""Parameter counts that safetensors headers tell, of every causal language model of transformers: right, or left out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gradsim_assets.core.models.description import describe
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets_tests.support.architectures import tiny_causal_models

pytestmark = pytest.mark.architectures

#: Architectures whose checkpoints hold what may be a parameter or not, by its name: they go without a number.
LEFT_OUT = 60


def counted(build: Callable[[], torch.nn.Module], folder: Path) -> tuple[int | None, int]:
    """The parameters by the headers of a saved model, and those that it has."""
    model = build()
    model.save_pretrained(folder)  # type: ignore[operator]
    return describe(Revision(str(folder), str(folder))).parameters, sum(p.numel() for p in model.parameters())


def test_numbers_are_right_or_left_out(tmp_path: Path) -> None:
    wrong, without = [], []
    for number, (name, build) in enumerate(tiny_causal_models()):
        found, real = counted(build, tmp_path / str(number))
        if found is None:
            without.append(name)
        elif found != real:
            wrong.append(f"{name}: {found} in place of {real}")
    assert wrong == []
    assert len(without) <= LEFT_OUT, without
