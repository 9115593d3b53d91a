"""Column lineage names real columns of real upstream tables, and leaves out no derived column."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import DataSettings, IndexSettings, ModelSettings, PreconditionerSettings, Settings
from gradsim_assets.core.tables.column_lineage import sources
from gradsim_assets.core.tables.schemas import PRECONDITIONERS, TABLES
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import asset_key, is_table, table_path

SETTINGS = Settings(
    home=Path("/nowhere"),
    tables="/nowhere",
    preconditioners=PreconditionerSettings(methods=PRECONDITIONERS),
    models=(ModelSettings(id="org/run", checkpoints="step-*"), ModelSettings(id="org/model", candidates="index:2")),
    index=IndexSettings(),
)
GRAPH = build_definitions(SETTINGS).get_repository_def().asset_graph
KEYS = sorted(filter(is_table, GRAPH.materializable_asset_keys))

#: What comes from the model alone, from a service, or from the table's own arrangement.
WITHOUT_SOURCES = {
    "control_comparison": {"control", "control_model"},
    "lima": {"id", "messages"},
    "paraphrased": {"provider", "paraphrase_model", "prompt_tokens", "completion_tokens", "flag"},
    "curvature": {
        *("component", "component_type", "depth", "parameters", "kind", "shape", "epsilon", "source"),
    },
    "dot_products": {"component"},
    "preconditioned_products": {"preconditioner", "component"},
    "projected_similarity": {"proportion", "dimension"},
    "parameters_per_component": {"component", "component_type", "depth", "parameters", "share"},
    "greedy_selection": {"criterion", "evaluation", "split"},
    "model_comparison": {"model", "run", "step", "setting"},
    "tail_patch": {"method"},
    "all_pairs": {"component"},
    "all_pairs_projected": {"proportion", "dimension"},
    "all_pairs_preconditioned": {"preconditioner", "component"},
    "subset_losses": {"subset", "setting"},
    "linear_datamodeling_score": {"method"},
    "removal": {"method", "draws"},
    "token_attribution": {"side"},
    "index_recall": {"k", "reranked"},
}


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_every_column_has_its_sources_among_the_parents(key: dg.AssetKey) -> None:
    path = table_path(key)
    schema = TABLES[path[0]]
    found = sources(path, schema.columns, looked_up=True)
    assert set(schema.columns) - set(found) == WITHOUT_SOURCES.get(schema.name, set())
    for upstream in found.values():
        for table, column in upstream:
            assert asset_key(*table) in GRAPH.get(key).parent_keys
            assert TABLES[table[0]].column(column) is not None


def test_where_nothing_is_looked_up_no_column_comes_from_candidates_by_an_index() -> None:
    for key in KEYS:
        path = table_path(key)
        upstream = [table[0] for found in sources(path, TABLES[path[0]].columns).values() for table, _ in found]
        assert "index_candidates" not in upstream


def test_without_preconditioners_no_column_comes_from_their_products() -> None:
    graph = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def().asset_graph
    for key in filter(is_table, graph.materializable_asset_keys):
        path = table_path(key)
        found = sources(path, TABLES[path[0]].columns, preconditioned=False)
        named = {asset_key(*table) for upstream in found.values() for table, _ in upstream}
        assert named <= graph.get(key).parent_keys
    with_them = {table[0] for table, _ in sources(["removal", "paraphrased"], ["loss_increase"])["loss_increase"]}
    assert "all_pairs_preconditioned" in with_them


def test_columns_of_a_family_have_sources_too() -> None:
    assert sources(["accuracy_per_component", "paraphrased"], ["recall_at_3"])["recall_at_3"]


def test_a_materialisation_carries_its_lineage(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, tables=str(tmp_path / "tables"), data=DataSettings(samples=4, shards=1))
    definitions, instance = build_definitions(settings), dg.DagsterInstance.ephemeral()
    assert definitions.resolve_job_def("originals").execute_in_process(instance=instance).success
    job = definitions.resolve_job_def("variants")
    assert job.execute_in_process(instance=instance, partition_key="00").success
    event = instance.get_latest_materialization_event(dg.AssetKey("bm25_candidates"))
    assert event is not None and event.asset_materialization is not None
    lineage = event.asset_materialization.metadata["dagster/column_lineage"].value
    assert lineage.deps_by_column["original_id"] == [dg.TableColumnDep(dg.AssetKey("lima"), "id")]
