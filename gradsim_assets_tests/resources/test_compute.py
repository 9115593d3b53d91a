"""How a step runs its pass: what is kept for another try, and what is not tried again."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.core.gradients.dot_products import product_frame
from gradsim_assets.core.gradients.engine import PassOptions, run_pass
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients
from gradsim_assets.resources.compute import Compute
from gradsim_assets_tests.support.engine_cases import SETTINGS, small_request, tiny


def loaded() -> LoadedModel:
    return LoadedModel(tiny("olmo"), None, Revision("1", "nowhere"), "cpu")  # type: ignore[arg-type]


def test_results_stay_until_the_tables_are_made(tmp_path: Path) -> None:
    compute, request, said = Compute(home=str(tmp_path), projections=[]), small_request(), []
    arguments = (loaded(), request, compute.places.scratch("gradients", "m", "00"), lambda *_: None, said.append, "v1")
    with pytest.raises(OSError, match="bucket"), compute.run_pass(*arguments):
        raise OSError("the bucket is gone")
    assert any("backward passes" in line for line in said)
    with compute.run_pass(*arguments) as result:
        assert result.report.gradients_computed == 0  # all of it was still there
        pairs = request.pairs[SETTINGS[0]]
        frame = product_frame(result, SETTINGS[0], pairs).collect()
    assert not compute.places.scratch("gradients", "m", "00").exists()
    assert len(frame) == len(pairs) * len(result.components)
    assert frame["component"][: len(result.components)].to_list() == result.components
    assert frame["dot_product"].to_numpy().tolist() == result.dot_products[SETTINGS[0]].ravel().tolist()


def test_results_of_other_code_are_not_gone_on_from(tmp_path: Path) -> None:
    compute, request = Compute(home=str(tmp_path), projections=[]), small_request()
    scratch = compute.places.scratch("gradients", "m", "00")

    def computed(version: str) -> int:
        with (
            pytest.raises(OSError, match="bucket"),
            compute.run_pass(loaded(), request, scratch, lambda *_: None, lambda _: None, version) as result,
        ):
            raise OSError("the bucket is gone")
        return result.report.gradients_computed

    assert computed("v1") > 0
    assert computed("v1") == 0
    assert computed("v2") > 0


def test_wrong_products_are_not_tried_again_and_never_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, request = Compute(home=str(tmp_path), projections=[]), small_request()
    arguments = (
        loaded(),
        request,
        compute.places.scratch("gradients", "m", "00"),
        lambda *_: None,
        lambda _: None,
        "v1",
    )
    right = HeldGradients.products
    monkeypatch.setattr(HeldGradients, "products", lambda *a: right(*a) * 1.001)
    with pytest.raises(dg.Failure, match="plain autograd") as failure, compute.run_pass(*arguments):
        pass
    assert not failure.value.allow_retries
    monkeypatch.undo()
    with compute.run_pass(*arguments) as result:
        assert result.report.blocks_restored == 0
        assert result.report.max_relative_error < 1e-5


def test_what_was_not_checked_is_said_to_be_unchecked() -> None:
    request = small_request(projections={SETTINGS[0]: (0.05,)})
    checked = Compute.metadata(run_pass(tiny("olmo"), request))
    assert checked["max_relative_error"].value < 1e-5
    assert checked["max_projection_error"].value < 1e-5
    assert "compared with plain autograd on samples of" in checked["verified"]
    products_alone = Compute.metadata(run_pass(tiny("olmo"), small_request()))
    assert products_alone["max_projection_error"] == "not checked"
    unchecked = Compute.metadata(run_pass(tiny("olmo"), request, PassOptions(check_pairs=0)))
    assert unchecked["max_relative_error"] == unchecked["max_projection_error"] == "not checked"
    assert unchecked["checked_pairs"] == 0


def test_half_precision_says_what_it_costs() -> None:
    metadata = Compute.metadata(run_pass(tiny("llama").bfloat16(), small_request()))
    assert metadata["max_relative_error"].value > 1e-5  # 8 bits show
    assert 1e-5 < metadata["rounding_of_cosines"].value < 0.05
    assert metadata["rounding_of_component_cosines"].value <= metadata["largest_rounding_of_component_cosines"].value
    assert "rounding_of_cosines" not in Compute.metadata(run_pass(tiny("llama"), small_request()))
