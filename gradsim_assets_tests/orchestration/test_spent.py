"""What was computed so far, counted from the runs of a real instance."""

from collections.abc import Iterator

import dagster as dg
import pytest

from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.orchestration.spent import DEVICE_TAG, Spent, spent

DIMENSIONS = Partitions(2)


@dg.asset
def originals() -> None: ...


@dg.asset(partitions_def=DIMENSIONS.shards)
def variants() -> None: ...


@dg.asset(partitions_def=DIMENSIONS.model_shards)
def gradients(context: dg.AssetExecutionContext) -> None:
    if context.run.tags.get("fails"):
        raise ValueError("no")


GRAPH = dg.Definitions(assets=[originals, variants, gradients]).get_repository_def().asset_graph


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        found.add_dynamic_partitions("model", ["demo", "org--name"])
        yield found


def make(
    instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None, fails: bool = False
) -> tuple[str, float]:
    """A run of one asset; its id and the seconds of its step."""
    tags = {"fails": "1"} if fails else {}
    done = dg.materialize([asset], instance=instance, partition_key=partition, tags=tags, raise_on_error=False)
    assert done.success is not fails
    step = instance.get_run_step_stats(done.run_id)[0]
    assert step.start_time and step.end_time
    return done.run_id, step.end_time - step.start_time


def of(found: list[Spent], model: str | None, step: str) -> Spent:
    return next(one for one in found if (one.model, one.step) == (model, step))


def test_every_run_counts_repeated_and_failed_ones_too(instance: dg.DagsterInstance) -> None:
    seconds = [make(instance, gradients, "demo|00")[1], make(instance, gradients, "demo|00")[1]]
    failed = make(instance, gradients, "demo|01", fails=True)[1]
    one = of(spent(instance, GRAPH), "demo", "gradients")
    assert (one.times, one.failures, one.unknown) == (3, 1, 0)
    assert one.seconds == pytest.approx(sum(seconds) + failed)
    assert one.failed_seconds == pytest.approx(failed)
    assert one.assets == {"gradients"} and one.gpu_hours == 0


def test_runs_are_told_apart_by_model_and_what_serves_all_models_stands_first(instance: dg.DagsterInstance) -> None:
    make(instance, gradients, "org--name|00")
    make(instance, variants, "00")
    make(instance, originals)
    make(instance, gradients, "demo|00")
    found = spent(instance, GRAPH)
    assert [(one.model, one.step) for one in found] == [
        (None, "variants"),
        (None, "originals"),
        ("demo", "gradients"),
        ("org/name", "gradients"),
    ]


def test_steps_count_on_the_gpu_that_they_had(instance: dg.DagsterInstance) -> None:
    runs = [
        make(instance, gradients, "demo|00"),
        make(instance, gradients, "demo|01"),
        make(instance, gradients, "demo|00"),
    ]
    for (run_id, _), device in zip(runs, ("NVIDIA H100 80GB HBM3", "cpu", "NVIDIA H200"), strict=True):
        instance.add_run_tags(run_id, {f"{DEVICE_TAG}gradients": device})
    one = of(spent(instance, GRAPH), "demo", "gradients")
    assert one.gpus == pytest.approx({"NVIDIA H100 80GB HBM3": runs[0][1], "NVIDIA H200": runs[2][1]})
    assert one.gpu_hours == pytest.approx((runs[0][1] + runs[2][1]) / 3600)


def test_a_step_without_an_end_is_said_to_be_unknown(instance: dg.DagsterInstance) -> None:
    run_id, _ = make(instance, gradients, "demo|00")
    killed = instance.create_run_for_job(
        dg.define_asset_job("killed", [gradients]).resolve(asset_graph=GRAPH), tags={"dagster/partition": "demo|00"}
    )
    for entry in instance.all_logs(run_id):
        if entry.dagster_event_type in (
            dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
            dg.DagsterEventType.STEP_START,
        ):
            instance.store_event(entry._replace(run_id=killed.run_id))
    one = next(one for one in spent(instance, GRAPH) if one.stage == "killed")
    assert (one.model, one.times, one.unknown, one.seconds) == ("demo", 1, 1, 0.0)
