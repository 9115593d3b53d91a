"""The contract with Dagster's internals: what we import, call, override and read is there, as it was in the version that we saw."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import dagster as dg
import pytest

from gradsim_assets_tests.support.source import PACKAGE, imports

MODULE = PACKAGE / "orchestration" / "dagster_internals.py"

#: Parameters of what we call (those that we give) or override (all of them), by module and name below `dagster._core`.
SIGNATURES = {
    "definitions.data_version:CachingStaleStatusResolver": ("instance", "asset_graph", "loading_context"),
    "definitions.data_version:CachingStaleStatusResolver.get_status": ("key", "partition_key"),
    "definitions.data_version:CachingStaleStatusResolver.get_stale_causes": ("key", "partition_key"),
    "definitions.data_version:CachingStaleStatusResolver._get_partition_dependencies": ("key",),
    "definitions.data_version:CachingStaleStatusResolver._get_latest_data_version_record": ("key",),
    "definitions.data_version:CachingStaleStatusResolver._is_dep_updated": ("provenance", "dep_key"),
    "definitions.data_version:CachingStaleStatusResolver._data_versions_differ": (
        "prev_data_version",
        "curr_data_version",
    ),
    "definitions.data_version:extract_data_version_from_entry": ("entry",),
    "definitions.data_version:get_input_data_version_tag": ("input_key",),
    "definitions.data_version:get_input_event_pointer_tag": ("input_key",),
    "definitions.events:AssetKeyPartitionKey": ("asset_key", "partition_key"),
    "definitions.assets.graph.asset_graph_subset:AssetGraphSubset.from_asset_partition_set": (
        "asset_partitions_set",
        "asset_graph",
    ),
    "asset_graph_view.asset_graph_view:AssetGraphView.get_asset_subset_from_asset_partitions": (
        "key",
        "asset_partitions",
    ),
    "definitions.reconstruct:ReconstructableRepository.for_module": ("module", "fn_name", "working_directory"),
    "definitions.reconstruct:ReconstructableRepository.get_definition": (),
    "definitions.reconstruct:ReconstructableRepository.get_reconstructable_job": ("name",),
    "definitions.executor_definition:multiple_process_executor_requirements": (),
    "execution.api:execute_job": ("job", "instance", "run_config", "tags", "asset_selection"),
    "execution.backfill:PartitionBackfill.from_asset_graph_subset": (
        "backfill_id",
        "backfill_timestamp",
        "tags",
        "dynamic_partitions_store",
        "asset_graph_subset",
        "title",
        "description",
        "run_config",
    ),
    "executor.step_delegating:StepHandler.launch_step": ("step_handler_context",),
    "executor.step_delegating:StepHandler.check_step_health": ("step_handler_context",),
    "executor.step_delegating:StepHandler.terminate_step": ("step_handler_context",),
    "launcher.base:CheckRunHealthResult": ("status", "msg"),
    "launcher.default_run_launcher:DefaultRunLauncher.launch_run": ("context",),
    "launcher.default_run_launcher:DefaultRunLauncher.check_run_worker_health": ("run",),
    "utils:make_new_backfill_id": (),
}

#: Members of enumerations and other names that we spell out.
MEMBERS = {
    "definitions.data_version:StaleStatus": ("FRESH", "STALE", "MISSING"),
    "execution.backfill:BulkActionsFilter": ("statuses",),
    "execution.backfill:BulkActionStatus": ("REQUESTED", "CANCELING", "FAILING"),
    "launcher.base:WorkerStatus": ("RUNNING", "NOT_FOUND"),
    "events:DagsterEventType": ("ENGINE_EVENT", "ASSET_OBSERVATION", "ASSET_MATERIALIZATION"),
    "executor.step_delegating:StepHandlerContext": ("dagster_run", "step_tags"),
    "launcher.base:RunLauncher": ("_instance", "supports_check_run_worker_health"),
    "launcher.base:LaunchRunContext": ("dagster_run",),
    "loader:LoadingContext": ("instance", "loaders"),
    "definitions.assets.graph.base_asset_graph:BaseAssetGraph": (
        "toposorted_asset_keys",
        "materializable_asset_keys",
        "get",
        "has",
    ),
}


def seen_in() -> str:
    """The version that the module names, read without importing it."""
    line = next(line for line in MODULE.read_text().splitlines() if line.startswith("SEEN_IN = "))
    return line.split('"')[1]


def found(module: str, name: str) -> Any:
    """What a dotted name in a module stands for.

    Raises:
        AssertionError: it is gone; the sentence names both versions.
    """
    try:
        thing = import_module(module)
        for part in name.split("."):
            thing = inspect.getattr_static(thing, part)
    except (ImportError, AttributeError):
        raise AssertionError(
            f"{module}.{name} is gone: seen in Dagster {seen_in()}, this is {dg.__version__}"
        ) from None
    return thing


def check_signature(module: str, name: str, wanted: tuple[str, ...]) -> None:
    """Fails where something cannot be called with these parameters by name."""
    thing = found(module, name)
    inner = getattr(thing, "__func__", thing)  # behind staticmethod and classmethod
    there = list(inspect.signature(inner).parameters)
    assert set(wanted) <= set(there), (
        f"{module}.{name} takes {there}, and in Dagster {seen_in()} it took {list(wanted)}; this is {dg.__version__}"
    )


def imported() -> Iterator[tuple[str, str]]:
    """Every part that the module imports."""
    for one in imports(MODULE):
        if one.module.startswith("dagster."):
            yield one.module, one.name


@pytest.mark.parametrize(("module", "name"), sorted(imported()))
def test_every_part_that_is_imported_is_there(module: str, name: str) -> None:
    found(module, name)


@pytest.mark.parametrize("part", SIGNATURES)
def test_every_part_is_called_as_it_was(part: str) -> None:
    module, _, name = part.partition(":")
    check_signature(f"dagster._core.{module}", name, SIGNATURES[part])


@pytest.mark.parametrize("part", MEMBERS)
def test_every_member_is_there(part: str) -> None:
    module, _, name = part.partition(":")
    fields = getattr(found(f"dagster._core.{module}", name), "_fields", ())
    for member in MEMBERS[part]:
        if member not in fields:
            found(f"dagster._core.{module}", f"{name}.{member}")


@pytest.mark.parametrize(
    ("module", "name", "attribute"),
    [
        ("dagster._core.definitions.data_version", "CachingStaleStatusResolver", "_instance"),
        ("dagster._core.executor.step_delegating", "StepDelegatingExecutor", "_step_handler"),
    ],
)
def test_what_is_read_of_instances_is_put_there(module: str, name: str, attribute: str) -> None:
    source = inspect.getsource(inspect.unwrap(found(module, name).__init__))
    assert f"self.{attribute} = " in source, (
        f"{module}.{name} has no {attribute}: seen in Dagster {seen_in()}, this is {dg.__version__}"
    )


@pytest.mark.parametrize(
    ("module", "name", "wanted"),
    [
        ("dagster._core.nothing_of_the_kind", "name", None),
        ("dagster._core.utils", "nothing_of_the_kind", None),
        ("dagster._core.definitions.data_version", "CachingStaleStatusResolver.nothing_of_the_kind", None),
        ("dagster._core.utils", "make_new_backfill_id", ("seed",)),
    ],
)
def test_a_part_that_is_gone_or_another_is_named_with_the_versions(
    module: str, name: str, wanted: tuple[str, ...] | None
) -> None:
    with pytest.raises(AssertionError, match=rf"{module}.{name} .*{seen_in()}.*{dg.__version__}"):
        check_signature(module, name, wanted or ())
