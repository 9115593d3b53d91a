"""`hf_model`: which revision every model under study stands at."""

import dagster as dg

from gradsim_assets.defs.common import input_errors
from gradsim_assets.partitions import MODELS, model_id_of
from gradsim_assets.resources.hub import ModelHub, Revision

HF_MODEL = dg.AssetKey("hf_model")

#: Run tag under which the revision of a model is kept, so that all steps of a run load the same one.
REVISION_TAG = "gradsim/revision"


def build() -> list[dg.SourceAsset]:
    """The models under study as an observable asset."""

    @dg.observable_source_asset(
        name=HF_MODEL.path[0],
        partitions_def=MODELS,
        group_name="models",
        description=(
            "The models under study. Its data version is the revision in force: the commit on the hub, or the content "
            "hash of a local folder. Observing it costs no GPU; tables of another revision then show as stale."
        ),
    )
    def hf_model(context: dg.OpExecutionContext, hub: ModelHub) -> dg.DataVersionsByPartition:
        versions = {}
        for slug in context.instance.get_dynamic_partitions(str(MODELS.name)):
            with input_errors():
                revision = hub.resolve(model_id_of(slug))
            context.log.info(f"{slug} stands at {revision.name}")
            versions[slug] = revision.name
        return dg.DataVersionsByPartition(versions)

    return [hf_model]


def revision_for_run(context: dg.AssetExecutionContext, hub: ModelHub, model_id: str) -> Revision:
    """The revision that this run works on: resolved by its first step, kept as a tag, used by all later ones."""
    tagged = context.run_tags.get(REVISION_TAG) or context.instance.get_run_by_id(context.run_id).tags.get(REVISION_TAG)
    if tagged:
        return hub.at(model_id, tagged)
    revision = hub.resolve(model_id)
    context.instance.add_run_tags(context.run_id, {REVISION_TAG: revision.name})
    return revision
