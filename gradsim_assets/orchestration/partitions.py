"""Partitions: models (dynamic), shards of the variants' ids, subsets and slices of the originals (static), models with any."""

import warnings
from dataclasses import dataclass

import dagster as dg

from gradsim_assets.core.partition_keys import is_slug, shard_keys
from gradsim_assets.core.tables.storage import Partition

#: One key per model under study. Keys are slugs, because Dagster gives `|`, `,` and `/` meanings of their own.
MODELS = dg.DynamicPartitionsDefinition(name="model")


@dataclass(frozen=True)
class Partitions:
    """The partition definitions of one configuration."""

    shard_count: int
    subset_count: int = 1
    slice_count: int = 1

    @property
    def shards(self) -> dg.StaticPartitionsDefinition:
        """Slices of the variants' ids."""
        return dg.StaticPartitionsDefinition(shard_keys(self.shard_count))

    @property
    def model_shards(self) -> dg.MultiPartitionsDefinition:
        """Every model with every shard."""
        return dg.MultiPartitionsDefinition({"model": MODELS, "shard": self.shards})

    @property
    def subsets(self) -> dg.StaticPartitionsDefinition:
        """Halves of the originals that models are retrained on."""
        return dg.StaticPartitionsDefinition(shard_keys(self.subset_count))

    @property
    def model_subsets(self) -> dg.MultiPartitionsDefinition:
        """Every model with every subset."""
        return dg.MultiPartitionsDefinition({"model": MODELS, "subset": self.subsets})

    @property
    def slices(self) -> dg.StaticPartitionsDefinition:
        """Slices of the originals' ids that are indexed."""
        return dg.StaticPartitionsDefinition(shard_keys(self.slice_count))

    @property
    def model_slices(self) -> dg.MultiPartitionsDefinition:
        """Every model with every slice."""
        return dg.MultiPartitionsDefinition({"model": MODELS, "slice": self.slices})


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # the pinned version is the one that these work on
    #: Dependencies of model x shard on one dimension, and back. Dagster would infer them; said here, so that nobody guesses.
    BY_SHARD = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="shard")
    BY_MODEL = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="model")
    #: Model x subset on model x shard: of the same model, whatever the rest.
    SAME_MODEL = dg.MultiPartitionMapping(
        {"model": dg.DimensionPartitionMapping("model", dg.IdentityPartitionMapping())}
    )
ALL = dg.AllPartitionMapping()


def model_keys(instance: dg.DagsterInstance) -> list[str]:
    """All keys of the partition `model`, those among them that somebody typed into the dialog and that are of no model."""
    return list(instance.get_dynamic_partitions(str(MODELS.name)))


def registered(instance: dg.DagsterInstance) -> list[str]:
    """Keys of the registered models."""
    return [key for key in model_keys(instance) if is_slug(key)]


def partition_of(partition_key: str | dg.MultiPartitionKey | None, dimension: str | None = None) -> Partition:
    """The partition behind a Dagster key; `dimension` says what a one-dimensional key is a key of."""
    if partition_key is None:
        return Partition()
    if isinstance(partition_key, dg.MultiPartitionKey):
        return Partition(**partition_key.keys_by_dimension)
    return Partition(**{dimension or "model": str(partition_key)})


def dimension_of(partitions_def: dg.PartitionsDefinition | None) -> str | None:
    """Dimension of a one-dimensional definition: models are dynamic, shards are static."""
    if partitions_def is None:
        return None
    return "model" if isinstance(partitions_def, dg.DynamicPartitionsDefinition) else "shard"


def place_of(partition_key: str | None, partitions_def: dg.PartitionsDefinition | None) -> Partition:
    """The partition behind a key of a definition, given as text or as Dagster's own."""
    if isinstance(partitions_def, dg.MultiPartitionsDefinition) and partition_key is not None:
        # Dagster's own reading of the text checks every part of it: seconds, where all partitions of all tables are asked for.
        return Partition(**dict(zip(dimensions_of(partitions_def), partition_key.split("|"), strict=True)))
    return partition_of(partition_key, dimension_of(partitions_def))


def key_of(partition: Partition) -> str | None:
    """The Dagster key of a partition as text; None for the only one of an asset without partitions."""
    return "|".join(key for _, key in partition.levels) or None


def dimensions_of(partitions_def: dg.PartitionsDefinition | None) -> tuple[str, ...]:
    """The dimensions of a definition: none, "model", "shard", or both."""
    if isinstance(partitions_def, dg.MultiPartitionsDefinition):
        return tuple(partitions_def.partition_dimension_names)
    dimension = dimension_of(partitions_def)
    return (dimension,) if dimension else ()
