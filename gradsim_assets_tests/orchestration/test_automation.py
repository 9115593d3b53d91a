"""What is asked of the hub, when, and what a change of a model leaves to be computed."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from gradsim_assets.configuration import DataSettings, Settings
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.defs.observe_sources import LONGEST_PAUSE_SECONDS, Observations, models, observations
from gradsim_assets.orchestration.asset_keys import READS_OTHER_MODELS, waits_only
from gradsim_assets.orchestration.automation import automated
from gradsim_assets.orchestration.backfills import launch_backfill
from gradsim_assets.orchestration.dagster_internals import AssetKeyPartitionKey, CachingStaleStatusResolver, StaleStatus
from gradsim_assets.orchestration.observations import Sighting, filling, observation, observed_versions
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.orchestration.planner import targets
from gradsim_assets.orchestration.stale_status import LoaderContext, StatusResolver
from gradsim_assets.resources.by_name import resources
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.sample_files import rows, write


def folder(root: Path, name: str, content: str = "{}") -> Path:
    """What counts as a model folder as far as revisions go."""
    path = root / name
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(content)
    return path


@pytest.fixture
def hub(tmp_path: Path) -> ModelHub:
    return ModelHub(home=str(tmp_path), device="cpu", models=[])


def look(
    hub: ModelHub, slugs: list[str], observed: dict[str, str], cursor: str | None, now: float
) -> tuple[Observations, dict[str | None, str]]:
    """What is found of models, and the versions that changed by their partition keys."""
    found = observations(models(hub, slugs), {(HF_MODEL, s): v for s, v in observed.items()}, cursor, now)
    return found, {slug: version for (_, slug), version in found.changed.items()}


def test_only_changes_are_reported(hub: ModelHub, tmp_path: Path) -> None:
    slugs = [model_slug(str(folder(tmp_path, name))) for name in ("a", "b")]
    first = look(hub, slugs, {}, None, 0.0)[1]
    assert set(first) == set(slugs)
    assert look(hub, slugs, first, None, 1.0)[1] == {}
    folder(tmp_path, "b", '{"changed": true}')
    second = look(hub, slugs, first, None, 2.0)[1]
    assert list(second) == [slugs[1]]
    assert second[slugs[1]] != first[slugs[1]]


def test_two_changes_within_one_tick_end_with_the_last(hub: ModelHub, tmp_path: Path) -> None:
    slug = model_slug(str(folder(tmp_path, "a")))
    observed = look(hub, [slug], {}, None, 0.0)[1]
    folder(tmp_path, "a", "1")
    folder(tmp_path, "a", "2")
    _, changed = look(hub, [slug], observed, None, 1.0)
    assert changed == {slug: hub.resolve(str(tmp_path / "a")).name}


def test_a_model_that_cannot_be_resolved_disturbs_no_other_and_is_left_alone_longer_and_longer(
    hub: ModelHub, tmp_path: Path
) -> None:
    good, bad = model_slug(str(folder(tmp_path, "a"))), model_slug(str(tmp_path / "gone"))
    now, cursor, pauses = 0.0, None, []
    for _ in range(12):
        found, changed = look(hub, [bad, good], {}, cursor, now)
        assert list(changed) == [good]
        assert len(found.problems) == (1 if cursor is None else 0), "said once, quiet afterwards"
        until = json.loads(found.cursor)["failures"][bad][1]
        early, _ = look(hub, [bad], {}, found.cursor, until - 1)
        assert json.loads(early.cursor)["failures"][bad][1] == until
        pauses.append(until - now)
        now, cursor = until, found.cursor
    assert pauses[:3] == [60, 120, 240]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    folder(tmp_path, "gone")
    healed, changed = look(hub, [bad], {}, cursor, now)
    assert list(changed) == [bad]
    assert json.loads(healed.cursor)["failures"] == {}


def test_a_raw_key_is_a_problem_in_one_sentence(hub: ModelHub) -> None:
    found, _ = look(hub, ["org/name"], {}, None, 0.0)
    assert "the right key is 'org--name'" in found.problems[0]


def test_removed_models_are_forgotten(hub: ModelHub, tmp_path: Path) -> None:
    slug = model_slug(str(tmp_path / "gone"))
    cursor = look(hub, [slug], {}, None, 0.0)[0].cursor
    assert slug in json.loads(cursor)["failures"]
    assert json.loads(look(hub, [], {}, cursor, 1.0)[0].cursor)["failures"] == {}


def test_a_version_is_compared_with_the_one_that_was_observed_last_by_anybody() -> None:
    instance = dg.DagsterInstance.ephemeral()
    for slug, version in (("a", "1"), ("b", "1"), ("a", "2 candidates=9")):
        instance.report_runless_asset_event(observation(HF_MODEL, version, slug))
    assert observed_versions(instance, HF_MODEL) == {"a": "2 candidates=9", "b": "1"}


def test_datasets_and_what_is_made_on_request_are_not_automated_and_what_follows_models_is() -> None:
    repository = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def()
    graph = repository.asset_graph
    with_condition = {
        key.to_user_string() for key in graph.materializable_asset_keys if graph.get(key).automation_condition
    }
    without = {
        key.to_user_string() for key in graph.materializable_asset_keys if not graph.get(key).automation_condition
    }
    of_settings = (
        *("first_order", "tail_patch", "token_attribution", "all_pairs", "all_pairs_projected"),
        *("linear_datamodeling_score", "removal"),
    )
    on_request = {f"{table}_{setting}" for table in of_settings for setting in SETTINGS} | {"subset_losses"}
    assert without == {"lima", "sample_columns", "paraphrased", "bm25_candidates"} | on_request
    assert {"model_generated", "dot_products_paraphrased", "report", "model_comparison"} <= with_condition


def test_everything_that_costs_money_is_off_until_switched_on() -> None:
    repository = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def()
    # What runs from the start launches nothing by itself.
    assert [one.name for one in repository.sensor_defs if one.default_status.value != "STOPPED"] == ["lost_retries"]
    assert [plan.name for plan in repository.schedule_defs if plan.default_status.value != "STOPPED"] == []
    for watcher in (*repository.sensor_defs, *repository.schedule_defs):
        if watcher.name != "observe_sources":
            assert "COST:" in (watcher.description or "")


#: Called by every step of `gradients`; one that raises makes it fail.
FAILURES: list[Callable[[dg.DagsterInstance, str], None]] = []


# A platform in miniature: the same partitions and the same condition, with assets that take no time.
SHARDS = dg.StaticPartitionsDefinition(["00", "01"])
BOTH = dg.MultiPartitionsDefinition({"model": MODELS, "shard": SHARDS})
BY_MODEL = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="model")


@dg.observable_source_asset(name="hf_model", partitions_def=MODELS)
def hf_model() -> dg.DataVersionsByPartition:
    return dg.DataVersionsByPartition({})


@dg.asset(partitions_def=BOTH, deps=[dg.AssetDep("hf_model", partition_mapping=BY_MODEL)], group_name="gradients")
def answers(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Answers change whenever the model does."""
    return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))


@dg.asset(
    partitions_def=BOTH, deps=[dg.AssetDep("hf_model", partition_mapping=BY_MODEL), answers], group_name="gradients"
)
def gradients(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    for failure in FAILURES:
        failure(context.instance, context.partition_key)
    return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))


@dg.asset(partitions_def=MODELS, deps=[dg.AssetDep(gradients, partition_mapping=BY_MODEL)], group_name="analysis")
def retrieval(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))


@dg.asset(deps=[dg.AssetDep(retrieval, partition_mapping=dg.AllPartitionMapping())], group_name="analysis")
def model_comparison(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))


ASSETS = [hf_model, *dg.map_asset_specs(automated, [answers, gradients, retrieval, model_comparison])]


class Miniature:
    """Ticks of the real evaluation; what they request is computed in real runs."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.defs = dg.Definitions(assets=ASSETS)
        self.cursor = None

    def observe(self, model: str, revision: str) -> None:
        """As the sensor does: the version, and the event that fills the partition in the UI."""
        self.instance.report_runless_asset_event(observation(HF_MODEL, revision, model))
        self.instance.report_runless_asset_event(filling(HF_MODEL, model, Sighting(revision), {}))

    def compute(self, wanted: set[tuple[str, str | None]]) -> None:
        may_fail = bool(FAILURES)
        for partition in sorted({p for _, p in wanted}, key=lambda key: (key is None, "|" not in str(key), str(key))):
            chosen = [name for name, where in wanted if where == partition]
            selection = dg.AssetSelection.assets(*chosen)
            done = dg.materialize(
                ASSETS, selection=selection, partition_key=partition, instance=self.instance, raise_on_error=False
            )
            assert done.success or may_fail

    def tick(self) -> set[tuple[str, str | None]]:
        result = dg.evaluate_automation_conditions(self.defs, self.instance, cursor=self.cursor)
        self.cursor = result.cursor  # type: ignore[assignment]
        return {
            (found.key.to_user_string(), partition)
            for found in result.results
            for partition in (
                found.true_subset.expensively_compute_partition_keys()
                if found.true_subset.is_partitioned
                else ([None] if found.true_subset.size else [])
            )
        }

    def settle(self) -> list[tuple[str, str | None]]:
        """Ticks and computes until nothing is requested twice in a row; everything that was computed, in order."""
        done: list[tuple[str, str | None]] = []
        quiet = 0
        for _ in range(20):
            wanted = self.tick()
            self.compute(wanted)
            done += sorted(wanted, key=str)
            quiet = 0 if wanted else quiet + 1
            if quiet == 2:
                return done
        raise AssertionError(f"reruns never end: {done}")


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> Miniature:
    monkeypatch.setitem(globals(), "FAILURES", [])
    miniature = Miniature()
    miniature.instance.add_dynamic_partitions("model", ["a", "b"])
    for model in ("a", "b"):
        miniature.observe(model, "1")
    for model in ("a", "b"):
        miniature.compute({(t, f"{model}|{s}") for t in ("answers", "gradients") for s in ("00", "01")})
    miniature.compute({("retrieval", "a"), ("retrieval", "b"), ("model_comparison", None)})
    assert miniature.settle() == []
    return miniature


OF_B = sorted(
    [(t, f"b|{s}") for t in ("answers", "gradients") for s in ("00", "01")]
    + [("retrieval", "b"), ("model_comparison", None)],
    key=str,
)


def test_a_new_revision_reruns_what_is_of_that_model_once_although_its_answers_change_too(miniature: Miniature) -> None:
    miniature.observe("b", "2")
    assert sorted(miniature.settle(), key=str) == OF_B


def test_two_revisions_between_ticks_cost_one_rerun(miniature: Miniature) -> None:
    miniature.observe("b", "2")
    miniature.observe("b", "3")
    assert sorted(miniature.settle(), key=str) == OF_B


def test_a_revision_right_after_a_request_is_not_lost(miniature: Miniature) -> None:
    miniature.observe("b", "2")
    wanted = miniature.tick()
    miniature.compute(wanted)
    miniature.observe("b", "3")
    assert {key for key in miniature.settle() if key[1]} == {key for key in OF_B if key[1]}


def failed(instance: dg.DagsterInstance, partition: str) -> None:
    raise ValueError(f"{partition} cannot be computed")


def test_what_failed_waits_for_a_change(miniature: Miniature) -> None:
    FAILURES.append(failed)
    miniature.observe("b", "2")
    once = [(t, f"b|{s}") for t in ("answers", "gradients") for s in ("00", "01")]
    assert sorted(miniature.settle()) == sorted(once)
    assert miniature.settle() == []
    FAILURES.clear()
    assert miniature.settle() == [], "nobody asked for another try, and nothing has changed"
    miniature.observe("b", "3")
    assert sorted(miniature.settle(), key=str) == OF_B


def test_a_change_during_a_run_that_fails_because_of_it_is_computed(miniature: Miniature) -> None:
    def changed(instance: dg.DagsterInstance, partition: str) -> None:
        FAILURES.remove(changed)  # the other shard's run begins after the change
        miniature.observe("b", "3")
        raise ValueError("b changed while this run worked on it")

    FAILURES.append(changed)
    miniature.observe("b", "2")
    wanted = miniature.tick()
    miniature.compute(wanted)
    done = miniature.tick()  # sees the change and the failure at once
    miniature.compute(done)
    assert {*done, *miniature.settle()} >= {("gradients", "b|00"), ("retrieval", "b")}
    graph = miniature.defs.get_repository_def().asset_graph
    assert targets(miniature.instance, graph) == []


def test_the_same_revision_observed_again_reruns_nothing(miniature: Miniature) -> None:
    miniature.observe("b", "1")
    assert miniature.settle() == []


def test_a_new_model_is_computed_and_no_other(miniature: Miniature) -> None:
    miniature.instance.add_dynamic_partitions("model", ["c"])
    miniature.observe("c", "1")
    done = miniature.settle()
    assert {partition for _, partition in done if partition} == {"c|00", "c|01", "c"}
    assert len(done) == len(set(done)) == 6


def test_what_follows_from_an_edited_text_is_computed_once_in_the_run_of_what_it_follows_from_or_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page reads the texts, and figures that are fresh still when the gradients of the texts are asked for."""

    def of(name: str, partitions: dg.PartitionsDefinition, **deps: dg.PartitionMapping | None) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            partitions_def=partitions,
            deps=[dg.AssetDep(dep, partition_mapping=mapping) for dep, mapping in deps.items()],
            group_name="datasets" if name == "texts" else "analysis",
        )
        def computed() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))

        return computed

    by_shard, every = (
        dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="shard"),
        dg.AllPartitionMapping(),
    )
    assets = [
        of("texts", SHARDS),
        of("replies", BOTH, texts=by_shard),
        of("products", BOTH, replies=None),
        of("figures", MODELS, products=BY_MODEL),
        of("summary", MODELS, figures=None, texts=every),
        of("page", MODELS, summary=None, figures=None, texts=every),
    ]
    monkeypatch.setitem(globals(), "ASSETS", dg.map_asset_specs(automated, assets))
    platform = Miniature()
    platform.instance.add_dynamic_partitions("model", ["a"])
    platform.compute({("texts", shard) for shard in ("00", "01")})
    platform.compute({(name, f"a|{shard}") for name in ("replies", "products") for shard in ("00", "01")})
    platform.compute({(name, "a") for name in ("figures", "summary", "page")})
    assert platform.settle() == []
    platform.compute({("texts", "01")})
    first = platform.tick()
    assert first == {("replies", "a|01"), ("products", "a|01")}, "in one run, although the replies are not there yet"
    platform.compute(first)
    assert platform.settle() == [("figures", "a"), ("page", "a"), ("summary", "a")]


def dagsters_own(instance: dg.DagsterInstance, graph: object) -> CachingStaleStatusResolver:
    return CachingStaleStatusResolver(instance, graph, LoaderContext(instance))  # type: ignore[arg-type]


@pytest.mark.parametrize("partitions", [None, 1])
def test_partitions_have_the_status_that_dagster_gives_each(miniature: Miniature, partitions: int | None) -> None:
    graph = miniature.defs.get_repository_def().asset_graph

    def differences() -> set[object]:
        mine = StatusResolver(miniature.instance, graph, partitions)
        theirs = dagsters_own(miniature.instance, graph)
        found = set()
        for key in graph.materializable_asset_keys:
            definition = graph.get(key).partitions_def
            keys = definition.get_partition_keys(dynamic_partitions_store=miniature.instance) if definition else [None]
            for partition in keys:
                statuses.add(mine.get_status(key, partition))
                if mine.get_stale_causes(key, partition) != theirs.get_stale_causes(key, partition):
                    found.add((key, partition))
                if mine.get_status(key, partition) != theirs.get_status(key, partition):
                    found.add((key, partition))
        return found

    statuses: set[StaleStatus] = set()
    assert differences() == set() and statuses == {StaleStatus.FRESH}
    miniature.observe("b", "2")
    miniature.instance.add_dynamic_partitions("model", ["c"])
    assert differences() == set() and statuses == set(StaleStatus)
    miniature.compute({("answers", "b|00"), ("gradients", "b|00"), ("answers", "a|01")})
    miniature.observe("b", "3")
    miniature.observe("b", "2")  # back to what b|00 was computed from
    assert differences() == set()
    miniature.instance.wipe_assets([dg.AssetKey("answers")])
    assert differences() == set()


def test_partitions_depend_on_those_that_dagster_says(miniature: Miniature) -> None:
    real = build_definitions(Settings(home=Path("/nowhere"), tables="/nowhere")).get_repository_def().asset_graph
    compared = 0
    for graph in (real, miniature.defs.get_repository_def().asset_graph):
        mine, theirs = StatusResolver(miniature.instance, graph), dagsters_own(miniature.instance, graph)
        with partition_loading_context(dynamic_partitions_store=miniature.instance):
            for key in graph.materializable_asset_keys:
                definition = graph.get(key).partitions_def
                for partition in map(str, definition.get_partition_keys()) if definition else [None]:
                    target = AssetKeyPartitionKey(key, partition)
                    found = mine.dependencies(target)
                    theirs_found = theirs._get_partition_dependencies(key=target)
                    # None of the models here is a control of another one.
                    of_others = {d for d in theirs_found if key in READS_OTHER_MODELS and d.partition_key != partition}
                    wanted = {d for d in theirs_found if not waits_only(key, d.asset_key)} - of_others
                    assert sorted(found) == sorted(wanted)
                    compared += len(found)
    assert compared > 300


def test_targets_are_what_is_stale_and_what_follows(miniature: Miniature) -> None:
    graph = miniature.defs.get_repository_def().asset_graph
    assert targets(miniature.instance, graph) == []
    miniature.observe("b", "2")
    found = [(t.asset_key.to_user_string(), t.partition_key) for t in targets(miniature.instance, graph)]
    assert sorted(found, key=str) == OF_B
    assert targets(miniature.instance, graph, models=["a"]) == [] or {
        t.asset_key.to_user_string() for t in targets(miniature.instance, graph, models=["a"])
    } == {"model_comparison"}
    of_shard = targets(miniature.instance, graph, models=["b"], shards=["01"], keys=[dg.AssetKey("gradients")])
    assert [t.partition_key for t in of_shard] == ["b|01"]


def test_a_backfill_goes_through_the_instance(miniature: Miniature) -> None:
    miniature.observe("b", "2")
    graph = miniature.defs.get_repository_def().asset_graph
    wanted = targets(miniature.instance, graph)
    backfill = miniature.instance.get_backfill(launch_backfill(miniature.instance, graph, wanted, "test", 3))
    assert backfill is not None
    assert backfill.tags["dagster/priority"] == "3"
    assert backfill.status.value == "REQUESTED"


def test_texts_that_imported_results_lack_do_not_hold_up_what_can_do_without_them() -> None:
    @dg.asset(name="model_generated", partitions_def=BOTH)
    def texts() -> dg.MaterializeResult:
        raise AssertionError("nobody writes them")

    @dg.asset(partitions_def=BOTH)
    def products() -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))

    deps = [dg.AssetDep(asset, partition_mapping=BY_MODEL) for asset in (products, texts)]

    def analysis(name: str) -> dg.AssetsDefinition:
        @dg.asset(name=name, partitions_def=MODELS, deps=deps, group_name="analysis")
        def computed() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion(str(time.time_ns())))

        return computed

    assets = [
        texts,
        products,
        *dg.map_asset_specs(automated, [analysis("retrieval_paraphrased"), analysis("agreement_paraphrased")]),
    ]
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("model", ["a"])
    for shard in ("00", "01"):
        assert dg.materialize(assets, selection=[products], partition_key=f"a|{shard}", instance=instance).success
    result = dg.evaluate_automation_conditions(dg.Definitions(assets=assets), instance)
    assert {found.key.path[0] for found in result.results if found.true_subset.size} == {"retrieval_paraphrased"}


def test_the_sensor_sees_an_edited_file_at_its_next_look_and_only_what_was_edited(tmp_path: Path) -> None:
    def write_paraphrases(last: str) -> None:
        content = rows("a", "b", "c", "d")
        content[-1]["messages"][0]["content"] = last
        write(tmp_path / "p.jsonl", content)

    write_paraphrases("before")
    data = DataSettings(
        originals=write(tmp_path / "o.jsonl", rows("a", "b", "c", "d")),
        paraphrases=str(tmp_path / "p.jsonl"),
        shards=2,
    )
    settings = Settings(home=tmp_path, tables=str(tmp_path / "tables"), data=data, models=())
    repository = build_definitions(settings).get_repository_def()
    found, instance = resources(settings), dg.DagsterInstance.ephemeral()

    def look_again() -> set[tuple[str, str | None]]:
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        given = {"hub": found.hub, "sources": found.sources, "store": found.store}
        result = repository.get_sensor_def("observe_sources")(context, **given)
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        return {(event.asset_key.to_user_string(), event.partition) for event in result.asset_events}

    everything = {("originals_source", None), ("paraphrases_source", "00"), ("paraphrases_source", "01")}
    assert look_again() == everything and look_again() == set()
    write_paraphrases("after")
    assert look_again() == {("paraphrases_source", "01")}
    (tmp_path / "p.jsonl").unlink()
    assert look_again() == set(), "what cannot be read is no news"
