"""Presets of the hub, read by `datasets` itself from a hub on loopback, in a process that takes it for the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradsim_assets.core.datasets.presets import PREDECESSOR
from gradsim_assets.core.errors import InputError
from gradsim_assets.resources.sample_sources import SampleSources
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.sample_files import rows, write

READ = """
import json, sys
from gradsim_assets.resources.sample_sources import SampleSources

sources = SampleSources(**json.loads(sys.argv[1]))
found = sources.read_originals()
told = {
    "originals": [[one.id, one.user, one.assistant] for one in found.samples],
    "columns": found.columns.to_dict(as_series=False),
    "version": sources.originals_version(),
}
if sources.paraphrases != "openai":
    told["paraphrases"] = [[one.id, one.user, one.assistant] for one in sources.load_paraphrases()]
print(json.dumps(told))
"""


def read(hub: HubServer, folder: Path, **sources: Any) -> dict[str, Any]:
    """What a process reads that knows no other hub."""
    environment = {**os.environ, **hub.environment, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    arguments = json.dumps({"samples": 0, "folder": str(folder), **sources})
    ran = subprocess.run([sys.executable, "-c", READ, arguments], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def pushed(hub: HubServer, repo: str, folder: Path, content: list[dict[str, Any]]) -> str:
    """The head of a dataset of the hub, of one file of its training split."""
    folder.mkdir()
    write(folder / "train-00000-of-00001.parquet", content)
    return hub.push(repo, folder)


def test_lima_is_what_has_one_exchange_out_of_the_mixture(tmp_path: Path) -> None:
    one, two, other = rows("lima_0", "lima_1", "flan_0")
    longer = [*two["messages"], *two["messages"]]
    mixture = [{"dataset": "lima", **one}, {"dataset": "lima", **two, "messages": longer}, {"dataset": "flan", **other}]
    with HubServer() as hub:
        commit = pushed(hub, "allenai/tulu-v2-sft-mixture", tmp_path / "mixture", mixture)
        told = read(hub, tmp_path, originals="lima", paraphrases="openai")
    assert told["originals"] == [["lima_0", "Q lima_0", "A lima_0"]]
    assert told["version"] == f"{commit} all"


def test_the_predecessors_originals_and_paraphrases(tmp_path: Path) -> None:
    originals = rows("lima_0", "lima_1")
    rewritten = [
        {**row, "paraphrased_messages": [{**m, "content": f"{m['content']}, that is"} for m in row["messages"]]}
        for row in originals
    ]
    with HubServer() as hub:
        pushed(
            hub, "lukashinterleitner/LIMA-original", tmp_path / "o", [{"dataset": "lima", **one} for one in originals]
        )
        pushed(hub, "lukashinterleitner/LIMA-paraphrased-GPT-4o-mini", tmp_path / "p", rewritten)
        told = read(hub, tmp_path, originals=PREDECESSOR, paraphrases=PREDECESSOR)
    assert told["originals"] == [[i, f"Q {i}", f"A {i}"] for i in ("lima_0", "lima_1")]
    assert told["paraphrases"] == [[i, f"Q {i}, that is", f"A {i}, that is"] for i in ("lima_0", "lima_1")]
    assert told["columns"] == {"id": ["lima_0", "lima_1"], "dataset": ["lima", "lima"]}


def test_a_part_of_a_dataset_is_read_with_its_other_columns(tmp_path: Path) -> None:
    content = [
        {**row, "topic": topic, "tags": ["x"]} for row, topic in zip(rows("a", "b"), ("art", "maths"), strict=True)
    ]
    with HubServer() as hub:
        pushed(hub, "org/name", tmp_path / "data", content)
        told = read(hub, tmp_path, originals="org/name:train", paraphrases="openai", where={"topic": "maths"})
    assert [one[0] for one in told["originals"]] == ["b"]
    assert told["columns"] == {"id": ["b"], "topic": ["maths"]}


@pytest.mark.parametrize("given", [{"columns": {"id": "uid"}}, {"where": {"dataset": "lima"}}])
def test_a_preset_takes_no_columns(given: dict[str, Any]) -> None:
    sources = SampleSources(originals=PREDECESSOR, paraphrases="openai", samples=0, **given)
    with pytest.raises(InputError, match='leave them out with "predecessor"'):
        sources.load_originals()
