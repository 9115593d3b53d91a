"""The demo's adapter twin through the console script, from nothing to its report."""

import json
from pathlib import Path

import pytest

from gradsim_assets.core.components import component_type, depth
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets_tests.conftest import gradsim


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["", "4bit"])
def test_the_adapter_is_computed_and_reported_as_any_model_is(tmp_path: Path, quantize: str) -> None:
    home, entry = tmp_path / "home", f'[[models]]\nid = "demo-lora"\nquantize = "{quantize}"\n'
    run = gradsim(home, "run", "demo-lora", config=f"[data]\nshards = 1\nsamples = 8\n{entry}")
    assert run.returncode == 0, run.stdout + run.stderr
    tables = Tables(str(home / "tables"))
    sizes = tables.read(["parameters_per_component"], Partition("demo-lora"))
    assert sizes.height == 12 and set(sizes["depth"]) == {0, 1}
    assert set(sizes["component_type"]) == {
        f"{layer}.lora_{side}" for layer in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj") for side in "AB"
    }
    for setting in SETTINGS:
        products = tables.read(["dot_products", setting], Partition("demo-lora", "00"))
        assert products["component"].unique(maintain_order=True).to_list() == sizes["component"].to_list()
        assert all((component_type(name), depth(name)) for name in products["component"])
        assert (products["variant_self"] > 0).all(), (
            "the adapter was trained, so that both of its factors have gradients"
        )
        provenance = tables.provenance(["dot_products", setting], Partition("demo-lora", "00"))
        revision = provenance["revision"]
        assert bool(provenance.get("quantised")) == bool(quantize) == bool(provenance.get("settings"))
        assert len(revision.split("+")) == 2
    summary = json.loads((home / "reports/demo-lora/summary.json").read_text())
    assert summary["revision"] == revision and summary["parameters"] == sizes["parameters"].sum() == 23552
    assert set(summary["settings"]) == set(SETTINGS)
    page = (home / "reports/demo-lora/index.html").read_text()
    assert ("The base of the adapter is in 4 bits (nf4" in page) == bool(quantize)
