"""Candidates as Dagster makes them: tokens by white space or by a model, and places that nobody scores for."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.configuration import DataSettings, ModelSettings, Settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.analysis_data import JAPANESE
from gradsim_assets_tests.support.tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def files(folder: Path) -> dict[str, str]:
    """Japanese originals and paraphrases, as a user's files."""
    paths = {}
    for side, name in enumerate(("originals", "paraphrases")):
        rows = [
            {
                "id": f"ja_{number}",
                "messages": [
                    {"role": "user", "content": pair[side]},
                    {"role": "assistant", "content": f"答え {number}" if number else f"答え {side}"},
                ],
            }
            for number, pair in enumerate(JAPANESE)
        ]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths[name] = str(path)
    return paths


def configured(folder: Path, model: Path, **data: Any) -> Settings:
    given = DataSettings(shards=2, candidates=3, **files(folder), **data)
    return Settings(home=folder, tables=str(folder / "tables"), data=given, models=(ModelSettings(id=str(model)),))


def run(settings: Settings, instance: dg.DagsterInstance, shard: str) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(settings)
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    result = definitions.resolve_job_def("variants").execute_in_process(instance=instance, partition_key=shard)
    assert result.success
    return result


def metadata(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (event,) = (e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(name))
    return {key: value.value for key, value in event.materialization.metadata.items()}


def warning(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = (check for check in result.get_asset_check_evaluations() if check.check_name == "no_zero_scores")
    assert found.severity == dg.AssetCheckSeverity.WARN
    return found


def test_words_leave_japanese_without_scores_which_is_counted_and_warned_of(tmp_path: Path, model: Path) -> None:
    result = run(configured(tmp_path, model), dg.DagsterInstance.ephemeral(), "00")
    frame = Tables(str(tmp_path / "tables")).read(["bm25_candidates"], Partition(shard="00"))
    assert frame["score"].to_list() == [0.0] * 12
    places = int(frame["zero_score"].sum())
    assert places == 12 - frame["forced"].sum()
    shown = metadata(result, "bm25_candidates")
    assert (shown["zero_scores/variants"], shown["zero_scores/candidates"]) == (4, places)
    assert shown["gradsim/retriever"] == "zero_scores=random tokens=whitespace"
    check = warning(result)
    assert not check.passed
    assert f"4 of 4 variants have candidates with a BM25 score of 0 ({places} in all)" in (check.description or "")


def test_the_tokens_of_a_model_give_scores_and_its_revision_is_recorded(tmp_path: Path, model: Path) -> None:
    settings = configured(tmp_path, model, retriever_tokens="model")
    result = run(settings, dg.DagsterInstance.ephemeral(), "01")
    frame = Tables(str(tmp_path / "tables")).read(["bm25_candidates"], Partition(shard="01"))
    own = frame.filter(pl.col("variant_id") == pl.col("original_id"))
    assert own["score"].min() > 0 and not frame["forced"].any()  # type: ignore[operator]
    assert warning(result).passed
    revision = resources(settings).hub.resolve(str(model)).name
    provenance = Tables(str(tmp_path / "tables")).provenance(["bm25_candidates"], Partition(shard="01"))
    assert provenance["retriever"] == f"zero_scores=random tokens={model} {revision}"


def test_another_way_of_finding_candidates_leaves_them_stale(tmp_path: Path, model: Path) -> None:
    settings = [{}, {"retriever_tokens": "model"}, {"zero_scores": "corpus_order"}]
    graphs = [
        build_definitions(configured(tmp_path, model, **one)).get_repository_def().asset_graph for one in settings
    ]
    assert len({graph.get(dg.AssetKey("bm25_candidates")).code_version for graph in graphs}) == 3


def test_shards_whose_candidates_were_found_in_different_ways_are_not_mixed(tmp_path: Path, model: Path) -> None:
    settings = configured(tmp_path, model)
    instance = dg.DagsterInstance.ephemeral()
    slug = str(model).replace("/", "--")
    instance.add_dynamic_partitions("model", [slug])
    products, store = ["dot_products", "paraphrased"], resources(settings).store
    for shard, data in (("00", {}), ("01", {"zero_scores": "corpus_order"})):
        one = configured(tmp_path, model, **data)
        run(one, instance, shard)
        gradients = build_definitions(one).resolve_job_def("gradients")
        selected = [asset_key(*products)]
        partition = f"{slug}|{shard}"
        assert gradients.execute_in_process(
            instance=instance, partition_key=partition, asset_selection=selected
        ).success
    with pytest.raises(
        InputError, match=r"mixes revisions or settings \(.*zero_scores=random.*zero_scores=corpus_order"
    ):
        store.check_one_version(products, [Partition(slug, shard) for shard in ("00", "01")])


def test_variants_say_what_their_answers_repeat(tmp_path: Path, model: Path) -> None:
    result = run(configured(tmp_path, model), dg.DagsterInstance.ephemeral(), "00")
    frame = Tables(str(tmp_path / "tables")).read(["paraphrased"], Partition(shard="00"))
    assert frame["verbatim"].to_list() == [False, True, True, True]
    assert frame["text_overlap"].to_list()[1:] == [100.0] * 3 and frame["text_overlap"][0] < 100
    assert metadata(result, "paraphrased")["verbatim"] == 3
