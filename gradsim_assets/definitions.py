"""Composition root: settings in, Dagster definitions out."""

import gc
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import dagster as dg

from gradsim_assets.configuration import HEAVY, Settings, load_settings
from gradsim_assets.core.tables.schemas import MODEL_GENERATED
from gradsim_assets.defs import stages
from gradsim_assets.defs.analysis import (
    accuracy_per_component,
    agreement,
    control_comparison,
    greedy_selection,
    model_comparison,
    parameters_per_component,
    report,
    retrieval,
    retrieval_by_group,
    self_similarity,
    tracin,
)
from gradsim_assets.defs.candidates import bm25_candidates
from gradsim_assets.defs.checks import build_status, build_tables
from gradsim_assets.defs.code_version import remember
from gradsim_assets.defs.curvature import curvature, optimizer_states
from gradsim_assets.defs.datasets import (
    lima,
    model_generated,
    originals_source,
    paraphrased,
    paraphrases_source,
    sample_columns,
)
from gradsim_assets.defs.evaluation import (
    all_pairs,
    first_order,
    linear_datamodeling_score,
    removal,
    subset_losses,
    tail_patch,
)
from gradsim_assets.defs.exchange import import_scripts
from gradsim_assets.defs.gradients import gradient_pass
from gradsim_assets.defs.index import gradient_index, index_candidates, index_recall
from gradsim_assets.defs.models import hf_model
from gradsim_assets.defs.observe_sources import build as watching
from gradsim_assets.defs.observe_sources import watches_optimizers
from gradsim_assets.defs.similarity import gradient_similarity
from gradsim_assets.defs.tracing import token_attribution, traces
from gradsim_assets.orchestration.automation import automated, automation_sensor
from gradsim_assets.orchestration.groups import ON_GPU
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.by_name import resources
from gradsim_assets.runs.compute_profiles import Profile, load_profiles, tags_for

#: The compute profile of what needs torch but no GPU.
LIGHT = "cpu"


def build_definitions(settings: Settings, profiles: Mapping[str, Profile] | None = None) -> dg.Definitions:
    """The whole platform for one configuration; `profiles` shape the pods of heavy steps on Kubernetes."""
    with warnings.catch_warnings(), _no_garbage_collection():
        # Multi-partition mappings and partitioned checks are beta or preview; we pin the version that they work on.
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        definitions = _build(settings, partitions_of(settings), profiles or {})
    remember()
    return definitions


def partitions_of(settings: Settings) -> Partitions:
    """The partitions of one configuration."""
    slices = settings.index.slices if settings.index else 1
    return Partitions(settings.data.shards, settings.evaluation.subsets, slices)


def _build(settings: Settings, partitions: Partitions, profiles: Mapping[str, Profile]) -> dg.Definitions:
    heavy, light = tags_for(profiles, HEAVY), tags_for(profiles, LIGHT)
    tables = [
        lima.build(settings),
        sample_columns.build(settings),
        paraphrased.build(settings, partitions),
        model_generated.build(settings, partitions, heavy),
        *bm25_candidates.build(settings, partitions),
        *curvature.build(settings, heavy),
        *gradient_pass.build(settings, partitions, heavy),
        *gradient_index.build(settings, partitions, heavy),
        *index_recall.build(settings, heavy),
        *index_candidates.build(settings, partitions, heavy),
        *gradient_similarity.build(),
        *first_order.build(settings, partitions, heavy),
        *tail_patch.build(settings, partitions, heavy),
        subset_losses.build(settings, partitions, heavy),
        all_pairs.build(settings, heavy),
        *linear_datamodeling_score.build(settings, heavy),
        *removal.build(settings, heavy),
        *token_attribution.build(settings, partitions, heavy),
        parameters_per_component.build(light),
        *accuracy_per_component.build(),
        *agreement.build(),
        *greedy_selection.build(),
        *self_similarity.build(),
        *tracin.build(settings, partitions),
        *retrieval.build(settings, partitions),
        *retrieval_by_group.build(settings, partitions),
        *control_comparison.build(settings),
        model_comparison.build(settings),
        *report.build(settings, partitions),
    ]
    sensors, rerun_jobs, schedules = watching(settings, partitions)
    return dg.Definitions(
        assets=[
            *hf_model.build(settings),
            originals_source.build(),
            *([optimizer_states.build()] if watches_optimizers(settings) else []),
            *paraphrases_source.build(settings, partitions),
            *dg.map_asset_specs(partial(tagged, settings.project.owners), dg.map_asset_specs(automated, tables)),
            *map(partial(tagged, settings.project.owners), traces.build()),
        ],
        asset_checks=[*build_tables(settings, partitions), *build_status()],
        jobs=[
            *stages.build(light, _without(settings)),
            import_scripts.build(partitions),
            traces.build_job(settings, heavy),
            *rerun_jobs,
        ],
        sensors=[automation_sensor(), *sensors],
        schedules=schedules,
        resources=resources(settings)._asdict(),
        executor=executor(settings, profiles),
    )


def _without(settings: Settings) -> list[stages.Stage]:
    """The stages of which a configuration has no table."""
    index = [] if settings.index else [stages.INDEX, stages.INDEX_RECALL]
    return [*index, *([] if settings.preconditioners.methods else [stages.CURVATURE])]


def tagged(owners: Sequence[str], spec: dg.AssetSpec) -> dg.AssetSpec:
    """Owners, and tags that one can search the catalogue by: what it is about, and whether it wants a GPU."""
    on_gpu = spec.group_name in ON_GPU or spec.key == dg.AssetKey(MODEL_GENERATED.name)
    return spec.merge_attributes(
        tags={"domain": "data-attribution", "cost": "gpu" if on_gpu else "cpu"}, owners=list(owners)
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """The collector takes a third of the time here and finds nothing: what is built is kept."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def executor(settings: Settings, profiles: Mapping[str, Profile]) -> dg.ExecutorDefinition:
    """How the steps of a run are executed; steps that take seconds should not each pay a process and an import of torch.

    Raises:
        InputError: a model chose a compute profile that there is not.
    """
    # A checkpoint with an entry of its own would else have the profile of its run.
    chosen = [model for model in settings.models if model.profile != HEAVY or settings.checkpoint_of(model.id)]
    by_model = {key: tags_for(profiles, model.profile, model.id) for model in chosen for key in settings.keys_of(model)}
    if settings.compute.executor == "k8s":
        from gradsim_assets.runs.k8s_executor import k8s_executor

        return k8s_executor(HEAVY, by_model)
    return dg.in_process_executor if settings.compute.executor == "in_process" else dg.multiprocess_executor


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads; reads gradsim.toml and the environment now, not when this module is imported."""
    return build_definitions(load_settings(), load_profiles(os.environ.get("GRADSIM_PROFILES")))
