"""The IO manager: asset values as Parquet tables, many partitions read as one lazy frame."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets import __version__
from gradsim_assets.core.errors import InputError
from gradsim_assets.io.tables import Partition, Tables
from gradsim_assets.schemas import TABLES

#: Metadata entries of a materialisation that also go into the file, so that a table explains itself away from Dagster.
PROVENANCE_PREFIX = "gradsim/"


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


class TableStore(dg.ConfigurableResource):
    """Root of the tables, shared by the IO manager and by assets that choose what they read."""

    root: str

    @property
    def tables(self) -> Tables:
        """The tables under the root."""
        return Tables(self.root)

    def optional(self, key: Sequence[str], partitions: Sequence[Partition]) -> pl.DataFrame | None:
        """Many partitions of a table in memory; None unless all are there."""
        if not all(self.tables.exists(key, partition) for partition in partitions):
            return None
        return self.tables.scan(key, partitions).collect()


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes polars frames as Parquet under the store's root and reads one or many partitions back."""

    store: TableStore

    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame | pl.LazyFrame) -> None:
        key = context.asset_key.path
        frame = _enforced(key, obj)
        path = self.store.tables.write(key, frame, _output_partition(context), _provenance(context))
        rows = frame.lazy().select(pl.len()).collect().item()
        row_count = "dagster/partition_row_count" if context.has_asset_partitions else "dagster/row_count"
        context.add_output_metadata(
            {row_count: rows, "path": dg.MetadataValue.path(str(path)), "size_bytes": path.stat().st_size}
        )

    def load_input(self, context: dg.InputContext) -> pl.DataFrame | pl.LazyFrame:
        partitions = _input_partitions(context)
        frame = self._scan(context.asset_key.path, partitions)
        return frame if context.dagster_type.typing_type is pl.LazyFrame else frame.collect()

    def _scan(self, key: Sequence[str], partitions: list[Partition]) -> pl.LazyFrame:
        try:
            return self.store.tables.scan(key, partitions)
        except InputError as error:
            raise dg.Failure(str(error), allow_retries=False) from error


def _enforced(key: Sequence[str], obj: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame | pl.LazyFrame:
    if isinstance(obj, pl.LazyFrame):  # written block by block from frames that were enforced as they came
        return obj
    try:
        return TABLES[key[0]].enforce(obj)
    except InputError as error:
        raise dg.Failure(str(error), allow_retries=False) from error


def _output_partition(context: dg.OutputContext) -> Partition:
    if not context.has_asset_partitions:
        return Partition()
    return partition_of(context.asset_partition_key, dimension_of(context.asset_partitions_def))


def _input_partitions(context: dg.InputContext) -> list[Partition]:
    if not context.has_asset_partitions:
        return [Partition()]
    dimension = dimension_of(context.asset_partitions_def)
    return [partition_of(key, dimension) for key in context.asset_partition_keys]


def _provenance(context: dg.OutputContext) -> dict[str, Any]:
    entries = {
        name.removeprefix(PROVENANCE_PREFIX): value
        for name, value in (context.output_metadata or {}).items()
        if name.startswith(PROVENANCE_PREFIX)
    }
    values = {name: getattr(value, "value", value) for name, value in entries.items()}
    return {
        "table": "/".join(context.asset_key.path),
        "partition": str(_output_partition(context)),
        "package_version": __version__,
        "run_id": context.run_id,
        **values,
    }
