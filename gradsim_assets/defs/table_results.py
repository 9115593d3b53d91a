"""Tables as the results of assets, with what the UI shows of them and where they came from."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core.analysis.plots.panels import Plot
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.column_lineage import VARIANTS, sources
from gradsim_assets.core.tables.schemas import DOT_PRODUCTS, TABLES
from gradsim_assets.core.tables.storage import Partition, fingerprint
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.orchestration.asset_keys import table_path
from gradsim_assets.orchestration.partitions import partition_of
from gradsim_assets.resources.table_store import PROVENANCE_PREFIX, TableStore

_PREVIEW_ROWS = 8
_PREVIEW_CHARACTERS = 120


def column_schema(schema: TableSchema) -> dict[str, Any]:
    """Definition metadata that shows a table's columns in the UI, with what they mean and what they are made from."""
    columns = [
        dg.TableColumn(
            name,
            str(column.dtype),
            description=column.description + (f" [{column.unit}]" if column.unit else "") + _made_from(schema, name),
            constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=schema.key == (name,)),
        )
        for name, column in schema.columns.items()
    ]
    return {"dagster/column_schema": dg.TableSchema(columns)}


def _made_from(schema: TableSchema, column: str) -> str:
    by_table: dict[str, dict[str, None]] = {}  # without the setting, which is that of the table
    for table, name in sources([schema.name, VARIANTS], [column]).get(column, []):
        by_table.setdefault(table[0], {})[name] = None
    named = "; ".join(f"{table}: {', '.join(names)}" for table, names in by_table.items())
    return f" ← {named}" if named else ""


def table_result(
    schema: TableSchema,
    frame: pl.DataFrame | pl.LazyFrame,
    *,
    metadata: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    data_version: str | None = None,
) -> dg.MaterializeResult:
    """A table as the result of an asset, for the IO manager to write: with a preview, and with the fingerprint of its content
    as data version unless another one is given.

    `provenance` also goes into the Parquet file. A lazy frame must hold blocks that were enforced as they were made.
    """
    content, entries = _described(schema, frame, metadata, provenance)
    version = dg.DataVersion(data_version or content)
    return dg.MaterializeResult(value=frame, data_version=version, metadata=entries, tags=tags)


def version_of(*parts: object) -> str:
    """A data version (16 hex digits) of a table whose content alone does not tell apart what must not be mixed."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def saved_table_result(
    context: dg.AssetExecutionContext,
    store: TableStore,
    key: dg.AssetKey,
    frame: pl.DataFrame | pl.LazyFrame,
    partition: Partition,
    *,
    metadata: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    data_version: str | None = None,
) -> dg.MaterializeResult:
    """As `table_result`, written here: Dagster passes no values of an asset out of several to an IO manager."""
    path = table_path(key)
    content, entries = _described(TABLES[path[0]], frame, metadata, provenance)
    code_version = context.assets_def.specs_by_key[key].code_version
    saved = store.save(path, frame, partition, context.run.run_id, entries, code_version)
    version = dg.DataVersion(data_version or content)
    return dg.MaterializeResult(asset_key=key, data_version=version, metadata={**entries, **saved}, tags=tags)


def _described(
    schema: TableSchema,
    frame: pl.DataFrame | pl.LazyFrame,
    metadata: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
) -> tuple[str, dict[str, Any]]:
    checked = schema.enforce(frame) if isinstance(frame, pl.DataFrame) else frame
    content = fingerprint(checked)
    return content, {
        **(metadata or {}),
        "preview": preview(checked),
        **{PROVENANCE_PREFIX + name: value for name, value in (provenance or {}).items() if value is not None},
        PROVENANCE_PREFIX + "fingerprint": content,
    }


def figure_metadata(figures: Mapping[str, float | str | None]) -> dict[str, Any]:
    """Headline figures, rounded, in their order; the UI plots those that are numbers over materialisations."""
    return {
        name: dg.MetadataValue.float(round(value, 4)) if isinstance(value, float) else value
        for name, value in figures.items()
        if value is not None
    }


def plot_metadata(plots: Sequence[Plot]) -> dict[str, Any]:
    """Plots as pictures that the UI shows behind [Show Markdown], with their reading help."""
    return {
        f"plot/{plot.name}": dg.MetadataValue.md(
            f"![{plot.title}](data:image/png;base64,{base64.b64encode(plot.png).decode()})\n\n{plot.help}"
        )
        for plot in plots
    }


def preview(frame: pl.DataFrame | pl.LazyFrame) -> dg.MetadataValue:
    """The first rows of a table for the UI, long texts cut."""
    head = frame.lazy().head(_PREVIEW_ROWS).collect()
    records = [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in head.to_dicts()]
    if not records:
        return dg.MetadataValue.text("(no rows)")
    columns = [dg.TableColumn(name, str(dtype)) for name, dtype in head.schema.items()]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _cell(value: Any) -> str | int | float | bool | None:
    if isinstance(value, list):
        value = " | ".join(f"{one['role']}: {one['content']}" if isinstance(one, dict) else str(one) for one in value)
    if isinstance(value, str) and len(value) > _PREVIEW_CHARACTERS:
        return value[:_PREVIEW_CHARACTERS] + "…"
    return value


def model_provenance(
    context: dg.AssetExecutionContext, store: TableStore, setting: str, dot_products: pl.LazyFrame
) -> dict[str, Any]:
    """The provenance of a model's table that is made from the dot products of one setting."""
    return {
        "model": model_id_of(context.partition_key),
        **shard_provenance(context, store, [DOT_PRODUCTS.name, setting], "dot_products"),
        DOT_PRODUCTS.name: fingerprint(dot_products),
    }


def shard_provenance(
    context: dg.AssetExecutionContext, store: TableStore, table: Sequence[str], name: str
) -> dict[str, Any]:
    """What the provenance of a model's table takes over from the shards it was made from: revision, settings, numerics,
    retriever and dataset.

    `name` is the asset's input that holds the shards of `table`.
    """
    first = partition_of(next(iter(context.asset_partition_keys_for_input(name))))
    source = store.tables.provenance(table, first)
    taken = ("revision", "settings", "numerics", "retriever", "dataset")
    # Figures among what an index has chosen are other ones than among BM25's.
    chosen = {"candidates": source["candidates"]} if by_index(source.get("candidates")) else {}
    return {entry: source[entry] for entry in taken if source.get(entry)} | chosen
