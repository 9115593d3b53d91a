"""Sizes are no figures that the UI plots, and are read back whoever wrote them."""

import dagster as dg
import pytest

from gradsim_assets.orchestration.file_sizes import size_recorded, size_shown


@pytest.mark.parametrize("size", [0, 999, 1_234_567])
def test_a_size_is_read_back(size):
    shown = size_shown(size)
    assert isinstance(shown, dg.TextMetadataValue)
    assert size_recorded(shown.value) == size
    assert size_recorded(size) == size  # as it was recorded before


@pytest.mark.parametrize("value", [None, "", "many bytes", "12 MB"])
def test_what_is_no_size_tells_none(value):
    assert size_recorded(value) is None
