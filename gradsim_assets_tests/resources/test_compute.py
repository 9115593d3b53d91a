"""How a step runs its pass: what is kept for another try, and what is not tried again."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.core.gradients.dot_products import product_frame
from gradsim_assets.core.gradients.engine.values.held_gradients import HeldGradients
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.resources.compute import Compute
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny


def loaded() -> LoadedModel:
    return LoadedModel(tiny("olmo"), None, Revision("1", "nowhere"), "cpu")  # type: ignore[arg-type]


def test_results_stay_until_the_tables_are_made(tmp_path: Path) -> None:
    compute, request, said = Compute(home=str(tmp_path), projections=[]), small_request(), []
    arguments = (loaded(), request, compute.places.scratch("gradients", "m", "00"), lambda *_: None, said.append)
    with pytest.raises(OSError, match="bucket"), compute.run_pass(*arguments):
        raise OSError("the bucket is gone")
    assert "backward passes" in said[0]
    with compute.run_pass(*arguments) as result:
        assert result.report.gradients_computed == 0  # all of it was still there
        pairs = request.pairs[SETTINGS[0]]
        frame = product_frame(result, SETTINGS[0], pairs).collect()
    assert not compute.places.scratch("gradients", "m", "00").exists()
    assert len(frame) == len(pairs) * len(result.components)
    assert frame["component"][: len(result.components)].to_list() == result.components
    assert frame["dot_product"].to_numpy().tolist() == result.dot_products[SETTINGS[0]].ravel().tolist()


def test_wrong_products_are_not_kept_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = HeldGradients.products
    monkeypatch.setattr(HeldGradients, "products", lambda *a: right(*a) * 1.001)
    compute = Compute(home=str(tmp_path), projections=[])
    scratch = compute.places.scratch("gradients", "m", "00")
    with (
        pytest.raises(dg.Failure, match="plain autograd") as failure,
        compute.run_pass(loaded(), small_request(), scratch, lambda *_: None, lambda _: None),
    ):
        pass
    assert not failure.value.allow_retries
    assert not scratch.exists()
