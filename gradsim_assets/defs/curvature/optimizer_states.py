"""`optimizer_states`: what the optimizer states that models were configured with hold now."""

import dagster as dg

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.groups import CURVATURE
from gradsim_assets.orchestration.observations import Sighting, filling, observation, source_sighting
from gradsim_assets.orchestration.partitions import MODELS
from gradsim_assets.resources.model_hub import ModelHub

OPTIMIZER_STATES = dg.AssetKey("optimizer_states")


def build() -> dg.SourceAsset:
    """The optimizer states as an observable asset."""

    @dg.observable_source_asset(
        name=OPTIMIZER_STATES.path[0],
        partitions_def=MODELS,
        group_name=CURVATURE,
        description=(
            "The optimizer state of every model that names one (`optimizer_state` under [[models]]), whose second moments the "
            "preconditioner adam takes. Its data version is the content of the file: another one leaves curvature_adam stale."
        ),
    )
    @fails_in_one_sentence
    def optimizer_states(context: dg.OpExecutionContext, hub: ModelHub) -> dg.DataVersionsByPartition:
        for slug in context.instance.get_dynamic_partitions(str(MODELS.name)):
            try:
                seen = state_sighting(hub, slug)
            except InputError as error:  # one model's trouble is not that of the others
                context.log.error(f"{slug}: {error}")
                continue
            context.log_event(observation(OPTIMIZER_STATES, seen.version, slug, seen.metadata()))
            context.log_event(filling(OPTIMIZER_STATES, slug, seen, seen.metadata()))
        return dg.DataVersionsByPartition({})  # all of it is told already

    return optimizer_states


def state_sighting(hub: ModelHub, slug: str) -> Sighting:
    """The optimizer state of a model, by its partition key, as it stands; raises InputError where the file is missing."""
    model_id = model_id_of(slug)
    return source_sighting(hub.settings(model_id).optimizer_state, hub.optimizer_version(model_id))
