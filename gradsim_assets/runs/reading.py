"""Tables as users read them: partitions that are registered now, and never two revisions as one."""

from pathlib import Path

import polars as pl

from gradsim_assets.configuration import Settings, load_settings, registered_id
from gradsim_assets.core.analysis.control_comparison import control_comparison
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.home import Home
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.core.tables.schemas import GRADIENT_SIMILARITY, KEPT_TRACES
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.core.tables.table_names import path_of_table
from gradsim_assets.orchestration.model_registry import check_registered
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.resources.by_name import resources
from gradsim_assets.runs.environment import open_instance


def scan(table: str, model: str | None = None, setting: str | None = None) -> pl.LazyFrame:
    """One lazy frame over a table of this home, as the environment and gradsim.toml have it.

    What another number of shards or a model that was removed has left in the folders is not read. A table that models have
    begins with the column `model`, the model's id. `traces` are all texts that were traced, a row for each original.

    Args:
        table: as commands take it: `retrieval_paraphrased`, `retrieval/paraphrased`, or `retrieval` with a setting.
        model: one model by its id; None for all that are registered and have the table.
        setting: `paraphrased` or `model_generated`, for a table that exists for both.

    Raises:
        InputError: there is no such table, the model is not registered, partitions are missing or damaged, or the shards of
            a model were computed from different revisions or settings.
    """
    settings = load_settings()
    if table == KEPT_TRACES.name and setting is None:
        return _traces(settings, model)
    path = path_of_table(f"{table}/{setting}" if setting else table)
    store = resources(settings).store
    there = store.tables.found(path)
    cut = next((name for name, _ in there[0].levels if name != "model"), None)
    inner = [{cut: key} for key in store.partition_keys.get(cut, ())] if cut else [{}]
    if there[0].model is None:
        parts = [Partition(**one) for one in inner]
        store.check_one_version(path, parts)
        return store.tables.scan(path, parts)
    slugs = _registered(settings, registered_id(model, Path()) if model else None)
    having = {place.model for place in there}
    frames = []
    for slug in slugs if model else [slug for slug in slugs if slug in having]:
        parts = [Partition(slug, **one) for one in inner]
        frame = store.tables.scan(path, parts)  # names what is missing before anything is read of it
        store.check_one_version(path, parts)
        frames.append(frame.select(pl.lit(model_id_of(slug)).alias("model"), pl.all()))
    if not frames:
        raise InputError(f"no registered model has the table {'/'.join(path)}; `gradsim run MODEL` computes it.")
    return pl.concat(frames, how="diagonal")


def _traces(settings: Settings, model: str | None) -> pl.LazyFrame:
    """Texts that were traced, newest first by model; of a model of which none was, nothing."""
    from gradsim_assets.core.tracing.stored_traces import traces_frame, traces_in

    frames = [
        traces_frame(traces_in(Home(settings.home).traces(slug))).select(
            pl.lit(model_id_of(slug)).alias("model"), pl.all()
        )
        for slug in _registered(settings, registered_id(model, Path()) if model else None)
    ]
    return pl.concat(frames).lazy() if frames else KEPT_TRACES.empty().lazy()


def compare(model: str, *others: str, setting: str = "paraphrased") -> pl.DataFrame:
    """As `gradsim_assets.compare`: the columns of `control_comparison`, with the other model as `other`, its figures as `other_...`."""
    if not others:
        raise InputError(f"{model} is compared with no other model; name one or more.")
    similarities = {
        one: scan(GRADIENT_SIMILARITY.name, one, setting).drop("model") for one in dict.fromkeys((model, *others))
    }
    own = similarities.pop(model)
    found = control_comparison(own, similarities).drop("control")
    names = {name: name.replace("control", "other") for name in found.columns}
    return found.rename({**names, "control_model": "other"})


def _registered(settings: Settings, model: str | None) -> list[str]:
    """The partition keys of the registered models, or of the one that is asked for."""
    with open_instance(writes=False) as instance:
        if model is not None:
            check_registered(instance, settings.configured, model)
            return [model_slug(model)]
        return sorted({*instance.get_dynamic_partitions(str(MODELS.name)), *map(model_slug, settings.configured)})
