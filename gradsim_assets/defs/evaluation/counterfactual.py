"""What `linear_datamodeling_score` and `removal` have in common: the scores of every method, from the products of all pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.evaluation.methods import Method, Scored, methods
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.revisions import Revision
from gradsim_assets.core.partition_keys import model_id_of, model_slug
from gradsim_assets.core.samples import Sample, samples_of
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import (
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    LIMA,
    MODEL_GENERATED,
    PARAPHRASED,
)
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.defs.code_version import Root
from gradsim_assets.defs.evaluation.retrainings import MADE_BY, RetrainingPlan
from gradsim_assets.defs.gradients.pass_tables import configured
from gradsim_assets.defs.models.hf_model import HF_MODEL, check_version, loaded_model, provenance_of, revision_for_run
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.evaluation.retraining import Retrainings

#: What decides the scores of methods.
SCORED_BY: tuple[Root, ...] = (
    methods,
    parameters_per_component,
    "core.evaluation.representations:representation_vectors",
    *MADE_BY,
)


def products_of_all_pairs(settings: Settings) -> list[TableSchema]:
    """The tables of all pairs that there are in one configuration."""
    return configured(settings, [ALL_PAIRS, ALL_PAIRS_PROJECTED, ALL_PAIRS_PRECONDITIONED])


def inputs_of(setting: str, settings: Settings) -> list[dg.AssetDep]:
    """What scores and retrainings of a setting are made from."""
    return [
        dg.AssetDep(HF_MODEL),
        dg.AssetDep(LIMA.name),
        dg.AssetDep(PARAPHRASED.name, partition_mapping=ALL),
        dg.AssetDep(MODEL_GENERATED.name, partition_mapping=BY_MODEL),
        *(dg.AssetDep(asset_key(table.name, setting)) for table in products_of_all_pairs(settings)),
    ]


def scored_with(settings: Settings) -> str:
    """What of the configuration decides which methods there are, and their scores beside the tables that they read."""
    return " ".join((str(settings.retriever_model), *settings.preconditioners.methods))


@dataclass(frozen=True)
class Counterfactual:
    """One model and setting, with its texts and products as they are now."""

    plan: RetrainingPlan
    setting: str
    model_id: str
    revision: Revision
    loaded: LoadedModel
    hub: ModelHub
    store: TableStore
    retrainings: "Retrainings"

    @classmethod
    def of(
        cls,
        context: dg.AssetExecutionContext,
        settings: Settings,
        setting: str,
        hub: ModelHub,
        store: TableStore,
        compute: Compute,
    ) -> "Counterfactual":
        """That of the partition at work; raises InputError where anything is missing or made from another revision."""
        plan, model_id = RetrainingPlan(settings), model_id_of(context.partition_key)
        plan.recipe(model_id)
        revision = revision_for_run(context, hub, model_id)
        loaded = loaded_model(context, hub, model_id, revision)
        retrainings = plan.retrainings(model_id, revision, loaded, hub, store, compute)
        found = cls(plan, setting, model_id, revision, loaded, hub, store, retrainings)
        for table in products_of_all_pairs(settings):
            found.check([table.name, setting], Partition(context.partition_key))
        return found

    def check(self, key: Sequence[str], place: Partition) -> None:
        """Raises InputError where a table was made from another revision, or other settings, than the model has now."""
        source, now = self.store.tables.provenance(key, place), self.hub.version(self.model_id, self.revision)
        check_version("/".join(key), source, self.model_id, now, "--only evaluation")

    @cached_property
    def place(self) -> Partition:
        """Where the tables of the model lie."""
        return Partition(model_slug(self.model_id))

    @cached_property
    def products(self) -> Mapping[str, pl.LazyFrame]:
        """The tables of all pairs of the setting, by their names."""
        names = [table.name for table in products_of_all_pairs(self.plan.settings)]
        return {name: self.store.tables.scan([name, self.setting], [self.place]) for name in names}

    @cached_property
    def variants(self) -> pl.DataFrame:
        """The texts of the setting's variants."""
        return self.plan.variants(self.store, self.setting, self.model_id)

    @property
    def ids(self) -> tuple[list[str], list[str]]:
        """Ids of the variants and of the originals that are scored, in the order of the scores."""
        return [one.id for one in self.scored.variants], [one.id for one in self.scored.originals]

    @cached_property
    def scored(self) -> Scored:
        """What methods are made of; those samples that the context policy has kept."""
        from gradsim_assets.core.evaluation.representations import representation_vectors
        from gradsim_assets.core.sample_gradients.components import trainable_components

        training = self.retrainings.training
        sizes = {name: parameter.numel() for name, parameter in trainable_components(self.loaded.model)}
        variants = _texts(self.variants)
        originals = _texts(self.store.tables.read([LIMA.name]))
        encoded = training.variants[self.setting], training.originals
        return Scored(
            [variants[sample.id] for sample in encoded[0]],
            [originals[sample.id] for sample in encoded[1]],
            PairProducts.from_frame(self.products[ALL_PAIRS.name], list(sizes)),
            parameters_per_component(sizes),
            self.products[ALL_PAIRS_PROJECTED.name].collect(),
            (representation_vectors(self.loaded, encoded[0]), representation_vectors(self.loaded, encoded[1])),
            self.hub.retriever_tokens(self.plan.settings.retriever_model)[0],
            self.products.get(ALL_PAIRS_PRECONDITIONED.name),
        )

    @cached_property
    def methods(self) -> list[Method]:
        """Every method."""
        return list(methods(self.scored))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What leads from a table back to what it was made from."""
        return {
            **provenance_of(self.hub, self.model_id, self.revision),
            "training": self.retrainings.training.recipe.model_dump(mode="json"),
            "inputs": self.retrainings.folder.name,
            **{name: fingerprint(frame) for name, frame in self.products.items()},
            self.setting: fingerprint(self.variants),
        }


def _texts(frame: pl.DataFrame) -> dict[str, Sample]:
    return {sample.id: sample for sample in samples_of(frame)}
