"""A base and an adapter in folders, as users have them."""

from pathlib import Path

import pytest

from gradsim_assets_tests.support.adapters import save_adapter
from gradsim_assets_tests.support.tiny_models import save_tiny_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny LLaMA."""
    return save_tiny_model(tmp_path / "base", "llama")


@pytest.fixture
def adapter(base: Path) -> Path:
    """A LoRA adapter of the base."""
    save_adapter(base, base.with_name("adapter"))
    return base.with_name("adapter")
