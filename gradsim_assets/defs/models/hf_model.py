"""`hf_model`: which revision every model under study stands at."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from gradsim_assets.configuration import Settings
from gradsim_assets.core.errors import InputError, ServiceError
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.defs.web_links import front_page_link
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.dagster_internals import get_input_event_pointer_tag
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.model_registry import put_right
from gradsim_assets.orchestration.observations import Sighting, filling, observation, record
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.orchestration.spent import CPU, DEVICE_TAG, MODEL_TAG
from gradsim_assets.resources.model_hub import ModelHub

if TYPE_CHECKING:
    from gradsim_assets.core.models.loading import LoadedModel

HF_MODEL = dg.AssetKey("hf_model")

#: Run tag under which the revision of a model is kept, so that all steps of a run load the same one.
REVISION_TAG = "gradsim/revision"

#: Run tags that say which observation of the model that was, and which shard a run belongs to.
POINTER_TAG, SHARD_TAG = "gradsim/observation", "gradsim/shard"

#: Longest value of a run tag.
MAX_TAG = 250


def build(settings: Settings) -> list[dg.SourceAsset]:
    """The models under study as an observable asset."""

    @dg.observable_source_asset(
        name=HF_MODEL.path[0],
        partitions_def=MODELS,
        group_name=groups.MODELS,
        metadata=front_page_link(settings.web),
        description=(
            "The models under study. Its data version is the revision in force (the commit on the hub, or the content "
            "hash of a local folder), with those settings of the model that are not the defaults. Observing it costs no "
            "GPU; tables of another revision, or made with other settings, then show as stale."
        ),
    )
    @fails_in_one_sentence
    def hf_model(context: dg.OpExecutionContext, hub: ModelHub) -> dg.DataVersionsByPartition:
        problems = []
        for sentence in put_right(context.instance, hub.check):
            context.log.warning(sentence)
        slugs = context.instance.get_dynamic_partitions(str(MODELS.name))
        for slug in slugs:
            try:
                model_id = model_id_of(slug)
                revision = hub.resolve(model_id, fallback=False)
            except (InputError, ServiceError) as error:  # one model's trouble is not that of the others
                problems.append(f"{slug}: {error}")
                context.log.error(problems[-1])
                continue
            seen = sighting(hub, model_id, revision)
            shown = seen.metadata()
            context.log_event(observation(HF_MODEL, seen.version, slug, shown))
            context.log_event(filling(HF_MODEL, slug, seen, shown))
            context.log.info(f"{slug} stands at {seen.version}")
        if problems:
            raise dg.Failure(_of_all(problems, len(slugs)), allow_retries=False)
        return dg.DataVersionsByPartition({})  # all of it is told already, with metadata

    return [hf_model]


def _of_all(problems: Sequence[str], count: int) -> str:
    """One sentence for the models that could not be observed; the others were."""
    if count == 1:
        return problems[0]
    others = "the others are" if len(problems) < count else "none is"
    return f"{len(problems)} of {count} models could not be observed, {others}: {' '.join(problems)}"


def metadata_of(hub: ModelHub, model_id: str, revision: Revision) -> dict[str, Any]:
    """What the UI shows of a model; what its files do not say for certain is left out."""
    found = hub.describe(revision)
    known = {
        "parameters": found.parameters,
        "trainable parameters": found.trainable,
        "dtype of the checkpoint": found.dtype,
        "context (tokens)": found.context,
    }
    link = hub.link(revision)
    settings = hub.settings(model_id).model_dump(exclude={"id"}, mode="json")
    return {
        "id": model_id,
        "revision": revision.name,
        "link": dg.MetadataValue.url(link) if link else dg.MetadataValue.path(revision.source),
        **({} if revision.seed is None else {"weights": f"random, drawn by the seed {revision.seed}"}),
        **{name: value for name, value in known.items() if value is not None},
        **{f"settings/{name}": value for name, value in settings.items() if value not in (None, "", [])},
    }


def sighting(hub: ModelHub, model_id: str, revision: Revision) -> Sighting:
    """A model as it stands; the hub is asked once for what is shown of it."""

    @cache
    def metadata() -> dict[str, Any]:
        return metadata_of(hub, model_id, revision)

    return Sighting(hub.version(model_id, revision), metadata, hub.settings(model_id).model_dump_json())


def revision_for_run(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, hub: ModelHub, model_id: str
) -> Revision:
    """The revision that this run works on: resolved by its first step, kept as a tag, used by all later ones."""
    recorded = context.instance.get_run_by_id(context.run.run_id)
    tags = {**(recorded.tags if recorded else {}), **context.run.tags}
    if tagged := tags.get(REVISION_TAG):
        return hub.revision_named(model_id, tagged)
    revision = hub.resolve(model_id)
    pointer = record(context.instance, HF_MODEL, model_slug(model_id), sighting(hub, model_id, revision))
    key = tags.get("dagster/partition/shard")
    shard = {SHARD_TAG: key} if key else {}
    context.instance.add_run_tags(
        context.run.run_id,
        {REVISION_TAG: revision.name, POINTER_TAG: str(pointer), MODEL_TAG: model_id[-MAX_TAG:], **shard},
    )
    return revision


def loaded_model(context: dg.AssetExecutionContext, hub: ModelHub, model_id: str, revision: Revision) -> "LoadedModel":
    """As `ModelHub.load`, with a word in the log, and a tag of the run that says which device this step has it on."""
    loaded = hub.load(model_id, revision, context.log.info)
    tag_device(context, context.op_execution_context.op.name, loaded)
    return loaded


def tag_device(context: dg.AssetExecutionContext | dg.OpExecutionContext, step: str, loaded: "LoadedModel") -> None:
    """Tags the run with the device on which this step has a model."""
    import torch

    from gradsim_assets.core.sample_gradients.several_devices import devices_of

    name = torch.cuda.get_device_name(loaded.device) if loaded.device.startswith("cuda") else CPU
    if (count := len(devices_of(loaded.model))) > 1:
        name = f"{count} x {name}"
    context.instance.add_run_tags(context.run.run_id, {f"{DEVICE_TAG}{step}": name})


def provenance_of(hub: ModelHub, model_id: str, revision: Revision) -> dict[str, Any]:
    """What every table of a model says about it: its id, its revision, and the settings that are not the defaults."""
    return {"model": model_id, "revision": revision.name, "settings": hub.differing(model_id) or None}


def revision_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
    """Tags of a materialisation that say which observation of `hf_model` it was computed from.

    Dagster takes the latest observation when a step starts. A revision that is observed between the first step of a run
    and a later one would then pass for the one that was loaded, and the table of the old one would show as fresh.
    """
    pointer = context.instance.get_run_by_id(context.run.run_id).tags.get(POINTER_TAG)
    return {get_input_event_pointer_tag(HF_MODEL): pointer} if pointer else {}


def check_version(what: str, provenance: Mapping[str, Any], model_id: str, now: str, options: str = "") -> None:
    """Sees to it that a table was made from a model as it is now (see `ModelHub.version`), which its provenance tells.

    Raises:
        InputError: it was made from another revision, or under other settings.
    """
    made = " ".join(str(provenance[name]) for name in ("revision", "settings") if provenance.get(name))
    if made != now:
        command = " ".join(filter(None, ("gradsim run", model_id, options)))
        raise InputError(
            f"{what} of {model_id} was made from {made or 'an unknown revision'}, and the model is at {now} now; `{command}` "
            "computes it again."
        )
