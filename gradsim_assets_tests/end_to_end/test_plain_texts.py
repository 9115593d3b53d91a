"""Plain texts (pretraining) through the console script with `--only evaluation`: they have no answers, and so no such variants."""

import json
from pathlib import Path

import pytest

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.demo.data import load_originals, load_paraphrases
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: All that is made on request, and no projections.
CONFIGURATION = """
[data]
originals = "{folder}/originals.jsonl"
paraphrases = "{folder}/paraphrases.jsonl"
shards = 2
candidates = 3
[compute]
projections = []
[training]
steps = 3
batch_size = 2
[evaluation]
subsets = 3
pairs = 4
variants = 3
removal_variants = 2
removal_draws = 1
[[models]]
id = "{folder}/tiny"
"""

EVALUATED = ("first_order", "tail_patch", "linear_datamodeling_score", "removal")


@pytest.mark.slow
def test_plain_texts_are_evaluated_by_their_paraphrases_alone(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "tiny"))
    for name, rows in (("originals", load_originals()), ("paraphrases", load_paraphrases())):
        texts = [
            {"id": row["id"], "text": "\n".join(message["content"] for message in row["messages"])} for row in rows[:6]
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in texts))
    config, home = CONFIGURATION.format(folder=tmp_path), tmp_path / "home"
    run = gradsim(home, "run", model, "--only", "evaluation", config=config)
    assert run.returncode == 0, run.stdout + run.stderr
    tables, place = Tables(str(home / "tables")), Partition(model_slug(model))
    for name in EVALUATED:
        assert len(tables.read([name, "paraphrased"], place)) > 0
        assert tables.read([name, "model_generated"], place).is_empty()
    losses = tables.read(["subset_losses"], Partition(model_slug(model), subset="00"))
    assert losses["setting"].value_counts().sort("setting").rows() == [("original", 6), ("paraphrased", 6)]
    methods = set(tables.read(["linear_datamodeling_score", "paraphrased"], place)["method"])
    assert {"full_gradient", "bm25", "representation", "component"} <= methods
    assert not any(method.startswith("projection") for method in methods)
    again = gradsim(home, "run", model, "--only", "evaluation", config=config)
    assert again.returncode == 0 and "Everything is there and up to date." in again.stdout
    assert "no pair" not in gradsim(home, "plan", model, "--tflops", "1", config=config).stderr
