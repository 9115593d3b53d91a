"""What is made on request alone: whose it is to be computed, and whose it is not."""

from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import EvaluationSettings, PreconditionerSettings, Settings
from gradsim_assets.core.tables.schemas import ALL_PAIRS_PRECONDITIONED, LINEAR_DATAMODELING_SCORE, TAIL_PATCH
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.asset_keys import ON_REQUEST, asset_key
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.orchestration.standings import MISSING, standings

UNDER = asset_key(ALL_PAIRS_PRECONDITIONED.name, "paraphrased")
OF_OTHER_SETTING = asset_key(ALL_PAIRS_PRECONDITIONED.name, "model_generated")


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """Two models; of "a" the scores on paraphrases by retraining and the steps on answers were asked for once."""
    made = dg.DagsterInstance.ephemeral()
    made.add_dynamic_partitions("model", ["a", "b"])
    for key in (
        asset_key(LINEAR_DATAMODELING_SCORE.name, "paraphrased"),
        asset_key(TAIL_PATCH.name, "model_generated"),
    ):
        made.report_runless_asset_event(dg.AssetMaterialization(key, partition="a", tags={"dagster/data_version": "1"}))
    return made


def test_what_a_table_that_was_asked_for_is_made_from_is_asked_for_too(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A configuration that names preconditioners comes with a table that no older evaluation has."""
    settings = Settings(
        home=tmp_path,
        tables=str(tmp_path / "tables"),
        preconditioners=PreconditionerSettings(methods=("adam",)),
        evaluation=EvaluationSettings(subsets=2),
    )
    graph = build_definitions(settings).get_repository_def().asset_graph
    wanted = [one for one in targets(instance, graph) if one.asset_key in ON_REQUEST]
    assert (UNDER, "a") in wanted
    assert [one.partition_key for one in wanted if one.asset_key == asset_key("subset_losses")] == ["a|00", "a|01"]
    assert not [one for one in wanted if one.partition_key in (None, "b", "b|00")]
    # Steps need no products of all pairs, and nobody has asked what follows from these for answers.
    assert OF_OTHER_SETTING not in {one.asset_key for one in wanted}
    told = {(one.table, one.partition) for one in standings(instance, graph) if one.status == MISSING}
    assert (UNDER, "a") in told and (UNDER, "b") not in told
