"""What a schema is: columns with their dtypes, meaning and unit, enforced on write."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl
from polars.io.plugins import register_io_source

from gradsim_assets.core.errors import InputError


@dataclass(frozen=True)
class Column:
    """One column: dtype, meaning, unit where it has one, and whether null is a value."""

    dtype: pl.DataType
    description: str
    unit: str | None = None
    nullable: bool = False
    #: For lists: all are of one length, which the configuration decides, so that the dtype of a table is `Array` of that length.
    fixed: bool = False

    def dtype_of(self, found: pl.DataType) -> pl.DataType:
        """The dtype that a column which comes as `found` is to have."""
        if self.fixed and isinstance(found, pl.Array) and isinstance(self.dtype, pl.List):
            return pl.Array(self.dtype.inner, found.shape[0])
        return self.dtype


@dataclass(frozen=True)
class TableSchema:
    """What a table holds.

    >>> score = Column(pl.Float64(), "how similar the two are")
    >>> similar = TableSchema("similar", {"id": Column(pl.String(), "id of the variant"), "score": score}, key=("id",))
    >>> similar.enforce(pl.DataFrame({"score": [1], "id": ["lima_0"]})).schema
    Schema([('id', String), ('score', Float64)])
    >>> similar.enforce(pl.DataFrame({"id": ["lima_0"]}))
    Traceback (most recent call last):
    gradsim_assets.core.errors.InputError: table similar: column 'score' is missing (it has id)
    """

    name: str
    #: By name, in the order in which they stand in the table.
    columns: Mapping[str, Column]
    #: The columns that identify a row.
    key: tuple[str, ...]
    #: Columns whose number depends on the data, by a pattern of their names: `recall_at_2`, `recall_at_3`, ...
    families: Mapping[str, Column] = field(default_factory=dict)
    #: Whether further columns are kept as they are (users' own columns of a dataset).
    open: bool = False
    #: The table exists once for each of these, in a folder and under an asset key of its own; empty: it exists once.
    parts: tuple[str, ...] = ()

    def column(self, name: str) -> Column | None:
        """The description of a column, or None for one that the schema does not know."""
        if name in self.columns:
            return self.columns[name]
        return next((column for pattern, column in self.families.items() if re.fullmatch(pattern, name)), None)

    def empty(self) -> pl.DataFrame:
        """A table without rows."""
        return pl.DataFrame(schema={name: column.dtype for name, column in self.columns.items()})

    def streamed(self, pieces: Callable[[], Iterable[pl.DataFrame]]) -> pl.LazyFrame:
        """A table that may be larger than memory: `pieces` makes its rows in order, anew each time that it is read.

        Every piece is enforced when it is made; raises as `enforce` then.
        """

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            for piece in pieces():
                frame = self.enforce(piece) if rows is None else self.enforce(piece).head(rows)
                rows = None if rows is None else rows - len(frame)
                frame = frame if predicate is None else frame.filter(predicate)
                yield frame if columns is None else frame.select(columns)
                if rows == 0:
                    return

        return register_io_source(source, schema=self.empty().schema)

    def enforce(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with its columns in order and cast to their dtypes.

        Raises:
            InputError: a column is missing, unknown, cannot be cast, or holds null where null is no value.
        """
        missing = [name for name in self.columns if name not in frame.columns]
        if missing:
            raise InputError(f"table {self.name}: column {missing[0]!r} is missing (it has {', '.join(frame.columns)})")
        extra = [name for name in frame.columns if name not in self.columns]
        unknown = [name for name in extra if self.column(name) is None]
        if unknown and not self.open:
            raise InputError(f"table {self.name}: column {unknown[0]!r} is not part of its schema")
        known = {name: column for name in (*self.columns, *extra) if (column := self.column(name))}
        try:
            dtypes = {name: column.dtype_of(frame.schema[name]) for name, column in known.items()}
            frame = frame.select(*self.columns, *extra).cast(dtypes)  # type: ignore[arg-type]  # classes of dtypes serve, too
        except pl.exceptions.PolarsError as error:
            raise InputError(f"table {self.name}: a column does not have its dtype: {error}") from error
        for name, column in known.items():
            if not column.nullable and frame[name].null_count():
                raise InputError(f"table {self.name}: column {name!r} holds {frame[name].null_count()} null values")
        return frame
