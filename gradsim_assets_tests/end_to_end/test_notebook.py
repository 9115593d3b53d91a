"""The notebook of the documentation, run on the demo's home."""

from pathlib import Path

import polars as pl
import pytest

from gradsim_assets_tests.support.documented import ROOT
from gradsim_assets_tests.support.notebook import NOTEBOOK, PICTURES, run_notebook


def test_the_notebook_runs_on_a_demo_and_shows_what_the_tables_say(
    demo: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = demo
    monkeypatch.setenv("GRADSIM_CONFIG", str(home / "gradsim.toml"))
    monkeypatch.setenv("GRADSIM_HOME", str(home))
    names, figures = run_notebook(home)
    tables = home / "tables"
    retrieval = pl.read_parquet(tables / "retrieval/paraphrased/model=demo/data.parquet", hive_partitioning=False)
    full = retrieval.filter(method="full_gradient").row(0, named=True)
    assert names["methods"].filter(method="full_gradient")["accuracy"].item() == full["accuracy"]
    assert names["wrong"].height == round((1 - full["accuracy"]) * names["own"].height), "ties would be wrong, too"
    assert names["compared"].height > 10
    pictures = NOTEBOOK.read_text().count("plt.subplots")
    assert len(figures) == pictures == len(list(PICTURES.glob("notebook_*.png")))
    page = (ROOT / "docs/notebook.md").read_text()
    assert NOTEBOOK.relative_to(ROOT / "docs").as_posix() in page
