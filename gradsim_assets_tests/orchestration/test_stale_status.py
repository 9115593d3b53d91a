import gc

import dagster as dg
import pytest

from gradsim_assets.orchestration.dagster_internals import (
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from gradsim_assets.orchestration.stale_status import StatusResolver, without_collecting

PARTS = dg.StaticPartitionsDefinition(["00", "01"])
OLD, NEW, MADE = (dg.AssetSpec(name, partitions_def=PARTS, code_version="1") for name in ("old", "new", "made"))
MADE = MADE.replace_attributes(deps=[OLD, NEW])


@pytest.mark.parametrize("partitions", [None, 2], ids=["many", "few"])
def test_an_input_that_a_partition_does_not_know_of_is_a_reason_however_old_it_is(partitions: int | None) -> None:
    def nothing() -> None: ...

    graph = (
        dg.Definitions(
            assets=[dg.multi_asset(name=f"make_{spec.key.path[0]}", specs=[spec])(nothing) for spec in (OLD, NEW, MADE)]
        )
        .get_repository_def()
        .asset_graph
    )
    instance = dg.DagsterInstance.ephemeral()

    def store(spec: dg.AssetSpec, partition: str, *inputs: dg.AssetSpec) -> None:
        tags = {"dagster/code_version": "1", "dagster/data_version": f"{partition} {newest()}"}
        for one in inputs:
            tags[get_input_data_version_tag(one.key)] = "1"
            tags[get_input_event_pointer_tag(one.key)] = str(newest())
        instance.report_runless_asset_event(dg.AssetMaterialization(spec.key, partition=partition, tags=tags))

    def newest() -> int:
        found = [instance.fetch_materializations(spec.key, limit=1).records for spec in (OLD, NEW, MADE)]
        return max((records[0].storage_id for records in found if records), default=0)

    def standing() -> list[StaleStatus]:
        resolver = StatusResolver(instance, graph, partitions)
        return [resolver.get_status(MADE.key, part) for part in ("00", "01")]

    for part in ("00", "01"):
        store(OLD, part)
        store(NEW, part)
    store(MADE, "00", OLD)
    store(MADE, "01", OLD, NEW)
    assert standing() == [StaleStatus.STALE, StaleStatus.FRESH]
    (cause,) = StatusResolver(instance, graph, partitions).get_stale_causes(MADE.key, "00")
    assert cause.reason == "has a new dependency on new"
    store(MADE, "00", OLD, NEW)
    assert standing() == [StaleStatus.FRESH] * 2
    store(OLD, "01")
    assert standing() == [StaleStatus.FRESH, StaleStatus.STALE]


def test_garbage_is_collected_again_after_a_question_that_failed():
    with pytest.raises(KeyError), without_collecting():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_who_has_switched_collecting_off_finds_it_off():
    gc.disable()
    try:
        with without_collecting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
