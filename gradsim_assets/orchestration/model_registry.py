"""Which models are registered: the keys of the partition `model`, which Dagster's instance keeps and its dialog does not check."""

from collections.abc import Callable, Collection, Mapping

import dagster as dg

from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.partition_keys import checked_slug, is_slug, model_slug
from gradsim_assets.orchestration.backfills import unfinished_backfills, works_on
from gradsim_assets.orchestration.dagster_internals import NOT_FINISHED_STATUSES
from gradsim_assets.orchestration.partitions import MODELS, model_keys


def wrong_keys(instance: dg.DagsterInstance) -> list[str]:
    """What was typed into the dialog and is the key of no model."""
    return [key for key in model_keys(instance) if not is_slug(key)]


def register(instance: dg.DagsterInstance, model_id: str) -> str:
    """Registers a model and returns its partition key; a model that is there already stays.

    Raises:
        InputError: the key would be longer than the name of a folder may be.
    """
    slug = checked_slug(model_id)
    instance.add_dynamic_partitions(str(MODELS.name), [slug])
    return slug


def check_registered(instance: dg.DagsterInstance, configured: Collection[str], model_id: str) -> None:
    """Raises InputError for a model that is neither registered nor among those of the configuration (ids)."""
    slug = model_slug(model_id)
    if slug in map(model_slug, configured) or instance.has_dynamic_partition(str(MODELS.name), slug):
        return
    raise InputError(
        f"{model_id} is not registered; `gradsim models add {model_id}` does it, `gradsim models list` shows what is."
    )


def remove(instance: dg.DagsterInstance, model: str) -> None:
    """Takes a model, by its id or by a wrong key, out of the registry; its tables stay on disk.

    Raises:
        InputError: the model is not registered, or its runs are in flight (their work would be discarded).
    """
    keys = model_keys(instance)
    key = model if model in keys else model_slug(model)
    if key not in keys:
        raise InputError(f"{model} is not registered; `gradsim models list` shows what is.")
    unfinished = dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES))
    if busy := [run.run_id for run in instance.get_runs(unfinished) if key in _model_tags(run.tags)]:
        raise InputError(
            f"{model} has {len(busy)} runs in flight (such as {busy[0][:8]}); wait for them or cancel them first."
        )
    if working := [one.backfill_id for one in instance.get_backfills(unfinished_backfills()) if works_on(one, key)]:
        raise InputError(f"{model} is part of backfill {working[0]}; wait for it or cancel it first.")
    instance.delete_dynamic_partition(str(MODELS.name), key)


def put_right(instance: dg.DagsterInstance, check: Callable[[str], object]) -> list[str]:
    """Puts the right key in the place of every raw id of a model, and returns a sentence for each.

    `check` raises for what is no model. A wrong key that is none, or that work in flight goes on with, is left alone.
    """
    told = []
    for key in wrong_keys(instance):
        try:
            check(key)
            slug = register(instance, key)
            remove(instance, key)
        except (InputError, ServiceError):
            continue
        told.append(f"{key} is the id of a model; its partition key {slug} was put in its place.")
    return told


def _model_tags(tags: Mapping[str, str]) -> set[str]:
    """The model keys that a run's partition tags name."""
    return {tags[name] for name in ("dagster/partition", "dagster/partition/model") if name in tags}
