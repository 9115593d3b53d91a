"""What all assets share: code versions, table results with their metadata, failures, progress."""

import ast
import base64
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import dagster as dg
import polars as pl
from tqdm import tqdm

from gradsim_assets import core
from gradsim_assets.core.errors import InputError
from gradsim_assets.io.parquet import PROVENANCE_PREFIX, TableStore, partition_of
from gradsim_assets.io.tables import Partition, fingerprint
from gradsim_assets.lineage import VARIANTS, sources
from gradsim_assets.schemas import TABLES, TableSchema

if TYPE_CHECKING:
    from gradsim_assets.core.plots.static import Plot

PACKAGE = Path(core.__file__).parent.parent

#: For steps that may fail for what heals: a service that does not answer, memory that others hold, a machine that vanishes
#: under them (an evicted pod, a reclaimed spot node). What `input_errors` tells apart is not retried.
RETRIES = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL)

#: A mistake of the program is there again at the next try, which may take hours to come to it.
_MISTAKES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError)

_PREVIEW_ROWS = 8
_PREVIEW_CHARACTERS = 120
_LOG_EVERY_SECONDS = 15.0


@contextmanager
def input_errors() -> Iterator[None]:
    """Turns what trying again would not heal into a Dagster failure that is not retried: bad input, with its own sentence."""
    try:
        yield
    except InputError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except _MISTAKES as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error


@cache
def code_version(*modules: str, config: str = "") -> str:
    """A hash of the code that decides an asset's values, and of the configuration that does.

    `modules` are paths in the package ("core/bm25.py", or a folder). Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256(config.encode())
    for module in modules:
        path = PACKAGE / module
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(PACKAGE).as_posix().encode())
            digest.update(_meaning(file.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)


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
    """A table as the result of an asset, for the IO manager to write: with a preview and a data version from its content.

    `provenance` also goes into the Parquet file. A lazy frame must hold blocks that were enforced as they were made.
    """
    content, entries = _described(schema, frame, metadata, provenance)
    version = dg.DataVersion(data_version or content)
    return dg.MaterializeResult(value=frame, data_version=version, metadata=entries, tags=tags)


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
) -> dg.MaterializeResult:
    """As `table_result`, written here: Dagster passes no values of an asset out of several to an IO manager."""
    data_version, entries = _described(TABLES[key.path[0]], frame, metadata, provenance)
    with input_errors():
        saved = store.save(key.path, frame, partition, context.run.run_id, entries)
    return dg.MaterializeResult(
        asset_key=key, data_version=dg.DataVersion(data_version), metadata={**entries, **saved}, tags=tags
    )


def _described(
    schema: TableSchema,
    frame: pl.DataFrame | pl.LazyFrame,
    metadata: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
) -> tuple[str, dict[str, Any]]:
    with input_errors():
        checked = schema.enforce(frame) if isinstance(frame, pl.DataFrame) else frame
    data_version = fingerprint(checked)
    return data_version, {
        **{PROVENANCE_PREFIX + name: value for name, value in (provenance or {}).items() if value is not None},
        PROVENANCE_PREFIX + "fingerprint": data_version,
        "preview": preview(checked),
        **(metadata or {}),
    }


def plot_metadata(plots: Sequence["Plot"]) -> dict[str, Any]:
    """Plots as pictures that the UI shows behind [Show Markdown], with their reading help."""
    return {
        f"plot/{plot.name}": dg.MetadataValue.md(
            f"![{plot.title}](data:image/png;base64,{base64.b64encode(plot.png).decode()})\n\n{plot.help}"
        )
        for plot in plots
    }


def carried(context: dg.AssetExecutionContext, store: TableStore, table: Sequence[str], name: str) -> dict[str, Any]:
    """What the provenance of a model's table takes over from the shards it was made from: revision, settings and dataset.

    `name` is the asset's input that holds the shards of `table`.
    """
    first = partition_of(next(iter(context.asset_partition_keys_for_input(name))))
    source = store.tables.provenance(table, first)
    return {entry: source[entry] for entry in ("revision", "settings", "dataset") if source.get(entry)}


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
        value = " | ".join(f"{message['role']}: {message['content']}" for message in value)
    if isinstance(value, str) and len(value) > _PREVIEW_CHARACTERS:
        return value[:_PREVIEW_CHARACTERS] + "…"
    return value


#: Where progress bars are drawn; None in processes without a terminal.
_terminal: TextIO | None = None


def draw_progress_on_terminal() -> None:
    """Draws progress bars on this process's terminal, if it has one.

    To be called before a run: while a step works, Dagster sends stderr to the step's log, where a bar would be noise.
    """
    global _terminal
    if _terminal is None and sys.stderr.isatty():
        _terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)


@contextmanager
def progress(context: dg.AssetExecutionContext, what: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress callback `(done, total, note="")`: a bar in the terminal, a line in the UI's log now and then."""
    started = last = time.monotonic()
    with tqdm(desc=what, unit=unit, file=_terminal, disable=_terminal is None, leave=False) as bar:

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            bar.total, bar.n = total, done
            bar.set_postfix_str(note, refresh=True)
            now = time.monotonic()
            if now - last >= _LOG_EVERY_SECONDS or done >= total:
                last = now
                rate = done / max(now - started, 1e-9)
                left = f", about {(total - done) / rate:.0f} s left" if 0 < done < total else ""
                context.log.info(f"{what}: {done} of {total} {unit} ({rate:.1f}/s{left}) {note}".rstrip())

        yield report
