"""What the assets made by retraining have in common: how a model was made, and where finished retrainings lie."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.numerics_version import NUMERICS
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.core.partition_keys import model_slug, shard_keys
from gradsim_assets.core.tables.schemas import LIMA, SETTINGS
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.defs.code_version import Root, code_version
from gradsim_assets.demo import EMBEDDED
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.evaluation.retraining import Retrainings

#: What decides a retraining, beside the recipe; declared versions stand for the engine's code.
MADE_BY: tuple[Root, ...] = (
    "core.models.loading:load_model",
    "core.evaluation.training_inputs:training_inputs",
    "core.gradients.numerics_version:NUMERICS_VERSION",
)
STOOD_FOR = tuple(set(NUMERICS) - {"core.seeds"})


def recipes(settings: Settings) -> str:
    """All recipes of a configuration, as text: that part of it which decides retrainings."""
    models = {model.id: settings.training_of(model.id) for model in settings.models}
    known = {**models, **{one: settings.training_of(one) for one in EMBEDDED}, "": settings.training}
    return " ".join(f"{name}={one.model_dump_json()}" for name, one in sorted(known.items()) if one)


@dataclass(frozen=True)
class RetrainingPlan:
    """How the models of one configuration are made again."""

    settings: Settings

    def recipe(self, model_id: str) -> TrainingRecipe:
        """How a model was made from the originals.

        Raises:
            InputError: nobody says.
        """
        recipe = self.settings.training_of(model_id)
        if recipe is None and model_id in EMBEDDED:
            raise InputError(
                f"{model_id} was made from all of the demo's data, and the originals or paraphrases are others now; retrain it "
                'with data.originals = "demo", data.paraphrases = "demo" and data.samples = 0.'
            )
        if recipe is None:
            raise InputError(
                f"nobody says how {model_id} was made from the originals, so it cannot be made again without some of them; describe "
                "it under [training], or as `training` of its entry under [[models]]."
            )
        return recipe

    def retrainings(
        self, model_id: str, revision: Revision, loaded: LoadedModel, hub: ModelHub, store: TableStore, compute: Compute
    ) -> "Retrainings":
        """Makes the model again, with the originals and variants of now.

        Raises:
            InputError: nobody says how it was made, or not all texts are at hand.
        """
        from gradsim_assets.core.evaluation.retraining import Retrainings, Start
        from gradsim_assets.core.evaluation.training_inputs import training_inputs

        recipe, own = self.recipe(model_id), hub.settings(model_id)
        base = hub.resolve(recipe.base) if recipe.base and revision.base is None else None
        training = training_inputs(
            recipe,
            Start(model_id, revision, recipe.base, base, own.quantize, own.part),
            store.tables.read([LIMA.name]),
            {setting: self.variants(store, setting, model_id) for setting in SETTINGS},
            loaded,
            own.context,
        )
        folder = compute.places.retrainings(model_slug(model_id))
        version = code_version(*MADE_BY, without=STOOD_FOR)
        return Retrainings(training, folder, version, self.at_once(loaded))

    def variants(self, store: TableStore, setting: str, model_id: str) -> pl.DataFrame:
        """The variants of a setting; InputError where not all are there."""
        found = store.variants(setting, model_slug(model_id), shard_keys(self.settings.data.shards))
        if found is None:
            raise InputError(f"not all texts of {setting} are at hand; `gradsim run {model_id}` makes them.")
        return found

    def at_once(self, loaded: LoadedModel) -> int:
        """How many retrainings are worked on at a time: small models on a CPU as many as there are cores, others one by one.

        On a cluster each has a pod of its own.
        """
        from gradsim_assets.core.evaluation.retraining import SMALL

        if self.settings.evaluation.at_once:
            return self.settings.evaluation.at_once
        parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
        alone = self.settings.compute.executor == "k8s" or loaded.device != "cpu" or parameters > SMALL
        return 1 if alone else len(os.sched_getaffinity(0))

    def subsets(self) -> Sequence[str]:
        """Keys of the subsets."""
        return shard_keys(self.settings.evaluation.subsets)
