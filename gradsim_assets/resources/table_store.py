"""The IO manager: asset values as Parquet tables, many partitions read as one lazy frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets import __version__
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.partition_keys import shard_keys
from gradsim_assets.core.tables.column_lineage import sources
from gradsim_assets.core.tables.schemas import LIMA, PARAPHRASED, TABLES
from gradsim_assets.core.tables.storage import Partition, Tables, computing
from gradsim_assets.orchestration.asset_keys import asset_key, table_path
from gradsim_assets.orchestration.file_sizes import SIZE, size_shown
from gradsim_assets.orchestration.partitions import dimension_of, partition_of

#: Metadata entries of a materialisation that also go into the file, so that a table explains itself away from Dagster.
PROVENANCE_PREFIX = "gradsim/"


class TableStore(dg.ConfigurableResource):
    """Root of the tables, shared by the IO manager and by assets that choose themselves what they read and write."""

    root: str
    configuration: str = ""
    #: Into how many shards samples are cut; 0 where nobody says.
    shards: int = 0
    #: On how many halves of the originals models are retrained.
    subsets: int = 1
    #: Into how many slices the originals are cut for the index; 0 where there is none.
    slices: int = 0
    #: Whether there are products under preconditioners.
    preconditioned: bool = False

    @property
    def tables(self) -> Tables:
        """The tables under the root."""
        return Tables(self.root)

    @property
    def partition_keys(self) -> dict[str, list[str]]:
        """The keys that there are now, by each dimension of which it is known."""
        counts = {"shard": self.shards, "subset": self.subsets, "slice": self.slices}
        return {name: shard_keys(count) for name, count in counts.items() if count}

    def optional(self, key: Sequence[str], partitions: Sequence[Partition]) -> pl.DataFrame | None:
        """Many partitions of a table in memory; None unless all are there."""
        if not all(self.tables.exists(key, partition) for partition in partitions):
            return None
        return self.tables.scan(key, partitions).collect()

    def variants(self, setting: str, slug: str, shards: Sequence[str]) -> pl.DataFrame | None:
        """The variants of a setting over all shards, those of the model with this partition key; None unless all are there."""
        model = None if setting == PARAPHRASED.name else slug
        return self.optional([setting], [Partition(model, shard) for shard in shards])

    def dataset(self, key: Sequence[str]) -> str | None:
        """Fingerprint of the originals that are in force when a table is written; None before there are any."""
        originals = [LIMA.name]
        there = list(key) != originals and self.tables.exists(originals)
        return self.tables.provenance(originals).get("fingerprint") if there else None

    def check_one_version(self, key: Sequence[str], partitions: Sequence[Partition]) -> None:
        """Sees to it that all given partitions of a table were computed from one revision of their model, with one group of
        settings and one declared numerics, for candidates that were found in one way, of samples that were cut into as many
        shards as they are now.

        Raises:
            InputError: they were not, so that no figure over them means anything.
        """
        by_version: dict[str, Partition] = {}
        for partition in partitions:
            source = self.tables.provenance(key, partition)
            for name, now in (("shards", self.shards), ("slices", self.slices)):
                if (cut := source.get(name)) and now and cut != now:
                    raise InputError(
                        f"table {'/'.join(key)} {partition} is one of {cut} {name}, and there are {now} now; "
                        f"{computing(partition)} computes it again."
                    )
            parts = [source.get(name) for name in ("revision", "settings", "retriever")]
            if numerics := source.get("numerics"):
                parts.append(f"numerics={numerics}")
            by_version.setdefault(" ".join(str(part) for part in parts if part), partition)
        if len(by_version) > 1:
            named = ", ".join(f"{partition} from {version}" for version, partition in by_version.items())
            raise InputError(
                f"table {'/'.join(key)} mixes revisions or settings ({named}); materialise the stale shards "
                "again first."
            )

    def save(
        self,
        key: Sequence[str],
        frame: pl.DataFrame | pl.LazyFrame,
        partition: Partition,
        run_id: str,
        metadata: Mapping[str, Any],
        code_version: str | None = None,
    ) -> dict[str, Any]:
        """Writes a partition, checked against its schema, and returns what the UI shows of it.

        Entries of `metadata` under "gradsim/" go into the file, so that a table explains itself away from Dagster.
        `code_version` is that of the table's asset; None for what was computed elsewhere. A lazy frame must hold blocks
        that were checked as they were made.

        Raises:
            InputError: the frame does not fit its table's schema.
        """
        if isinstance(frame, pl.DataFrame):
            frame = TABLES[key[0]].enforce(frame)
        entries = {
            name.removeprefix(PROVENANCE_PREFIX): getattr(value, "value", value)
            for name, value in metadata.items()
            if name.startswith(PROVENANCE_PREFIX)
        }
        provenance = {
            "table": "/".join(key),
            "partition": str(partition),
            "package_version": __version__,
            "run_id": run_id,
            "configuration": self.configuration,
            **({"shards": self.shards} if partition.shard and self.shards else {}),
            **({"slices": self.slices} if partition.slice and self.slices else {}),
            **({"code_version": code_version} if code_version else {}),
            **({"dataset": dataset} if (dataset := self.dataset(key)) else {}),
            **entries,
        }
        path = self.tables.write(key, frame, partition, provenance)
        columns = frame.lazy().collect_schema().names()
        rows = self.tables.scan(key, [partition]).select(pl.len()).collect().item()
        return {
            "dagster/partition_row_count" if partition.levels else "dagster/row_count": rows,
            "path": dg.MetadataValue.path(str(path)),
            SIZE: size_shown(path.stat().st_size),
            **(
                {} if "imported" in entries else self._column_lineage(key, columns, by_index(entries.get("candidates")))
            ),
        }

    def _column_lineage(self, key: Sequence[str], columns: Sequence[str], looked_up: int) -> dict[str, Any]:
        """Metadata that shows in the UI which upstream columns a table's columns are made from."""
        found = {
            column: [dg.TableColumnDep(asset_key(*upstream), name) for upstream, name in upstream_columns]
            for column, upstream_columns in sources(key, columns, self.preconditioned, bool(looked_up)).items()
        }
        return {"dagster/column_lineage": dg.TableColumnLineage(found)} if found else {}


class ParquetIOManager(dg.ConfigurableIOManager):
    """Writes polars frames as Parquet under the store's root and reads one or many partitions back."""

    store: TableStore

    def handle_output(self, context: dg.OutputContext, obj: pl.DataFrame | pl.LazyFrame) -> None:
        try:
            metadata = self.store.save(
                table_path(context.asset_key),
                obj,
                _output_partition(context),
                context.run_id,
                context.output_metadata or {},
                context.asset_spec.code_version,
            )
        except InputError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> pl.DataFrame | pl.LazyFrame:
        partitions = _input_partitions(context)
        frame = self._scan(table_path(context.asset_key), partitions)
        return frame if context.dagster_type.typing_type is pl.LazyFrame else frame.collect()

    def _scan(self, key: Sequence[str], partitions: list[Partition]) -> pl.LazyFrame:
        try:
            frame = self.store.tables.scan(key, partitions)
            if len({partition.model for partition in partitions} - {None}) == 1:
                self.store.check_one_version(key, partitions)
            return frame
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
    # Dagster gives the keys as a set, in an order that changes from process to process.
    return sorted((partition_of(key, dimension) for key in context.asset_partition_keys), key=str)
