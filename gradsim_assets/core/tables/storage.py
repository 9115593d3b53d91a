"""Tables on disk or in an object store: where they lie, how they are written whole, how many are read as one."""

import hashlib
import io
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl
from upath import UPath

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_file
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.provenance import PROVENANCE_KEY
from gradsim_assets.core.tables.schemas import CONVERSATION, TABLES

_POLARS_PROTOCOLS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")

#: Tables of samples: columns that one partition has need not be in another.
_OPEN = {name for name, schema in TABLES.items() if CONVERSATION in schema.families}

#: Rows of one row group, and rows hashed at a time.
_CHUNK_ROWS = 1_000_000

#: Bytes of one page before compression. zstd finds what repeats within a page alone, and in exhaustive tables the lengths of
#: the originals come again with every variant; pages of polars' own 1 MiB are too short for that.
_PAGE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Partition:
    """The partition of a table; None for a dimension that the table does not have."""

    model: str | None = None
    shard: str | None = None
    subset: str | None = None
    slice: str | None = None

    def __str__(self) -> str:
        return " ".join(f"{name}={key}" for name, key in self.levels) or "(whole)"

    @property
    def levels(self) -> list[tuple[str, str]]:
        """(dimension, key) of the dimensions that there are, outermost first."""
        keys = (("model", self.model), ("shard", self.shard), ("subset", self.subset), ("slice", self.slice))
        return [(name, key) for name, key in keys if key is not None]


@dataclass(frozen=True)
class Tables:
    """All tables under one root: `<root>/<table>[/<setting>][/model=M][/shard=S][/subset=S][/slice=S]/data.parquet`.

    The root is a local folder or any location that fsspec knows (`s3://bucket/prefix`, `gs://...`).
    """

    root: str

    @property
    def _location(self) -> UPath:
        root = self.root.removeprefix("file://")
        # Other processes write there too: fsspec must not remember what it found in a bucket.
        return UPath(root, use_listings_cache=False) if "://" in root else UPath(root)

    def path(self, key: Sequence[str], partition: Partition | None = None) -> UPath:
        """Location of one partition of a table."""
        levels = [f"{name}={value}" for name, value in (partition or Partition()).levels]
        return self._location.joinpath(*key, *levels, "data.parquet")

    def exists(self, key: Sequence[str], partition: Partition | None = None) -> bool:
        """Whether the partition has been written."""
        with _reaching(self.root):
            return self.path(key, partition).exists()

    def write(
        self,
        key: Sequence[str],
        frame: pl.DataFrame | pl.LazyFrame,
        partition: Partition | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> UPath:
        """Writes a partition so that it becomes visible whole or not at all, and returns its location.

        A lazy frame is streamed to disk, so that it may be larger than memory.

        Raises:
            InputError: the root refuses access or does not exist; the sentence names it.
        """
        target = self.path(key, partition)
        document = {PROVENANCE_KEY: json.dumps(dict(provenance or {}), sort_keys=True, default=str)}
        with _reaching(self.root), whole_file(target) as unfinished:
            frame.lazy().sink_parquet(
                unfinished,
                compression="zstd",
                metadata=document,
                row_group_size=_CHUNK_ROWS,
                data_page_size=_PAGE_BYTES,
            )
        return target

    def scan(self, key: Sequence[str], partitions: Iterable[Partition] | None = None) -> pl.LazyFrame:
        """One lazy frame over the given partitions, in the given order; only the table's own columns.

        Raises:
            InputError: partitions are missing or a file is not readable Parquet; the sentence names them.
        """
        wanted = list(partitions) if partitions is not None else [Partition()]
        self._check_there(key, wanted)
        paths = [self.path(key, partition) for partition in wanted]
        for path, partition in zip(paths, wanted, strict=True):
            check_parquet(path, partition)
        sources = [_source(path) for path in paths]
        if key[0] not in _OPEN or len(sources) == 1:
            return pl.scan_parquet(sources, hive_partitioning=False, glob=False)
        frames = [pl.scan_parquet(source, hive_partitioning=False, glob=False) for source in sources]
        return pl.concat(frames, how="diagonal")

    def sizes(self, key: Sequence[str]) -> dict[Partition, int]:
        """Bytes of every file of a table, by the partition whose place it lies in, from one listing."""
        root = self._location.joinpath(*key)
        if isinstance(root, Path):
            return {_place(path.parts): path.stat().st_size for path in root.glob("**/data.parquet")}
        with _reaching(self.root):
            listed = root.fs.find(root.path, detail=True) if root.exists() else {}
        return {
            _place(path.split("/")): int(entry["size"])
            for path, entry in listed.items()
            if path.endswith("/data.parquet")
        }

    def found(self, key: Sequence[str], slug: str | None = None) -> list[Partition]:
        """The partitions that are there, those of one model (by its partition key) where one is named, in order.

        Raises:
            InputError: there are none.
        """
        root = self._location.joinpath(*key)
        partitions = []
        for path in root.glob("**/data.parquet") if root.exists() else ():
            partition = _place(path.parts)
            if slug is None or partition.model in (None, slug):
                partitions.append(partition)
        if not partitions:
            raise InputError(
                f"table {'/'.join(key)} holds nothing{f' of {slug}' if slug else ''}; {computing(Partition(slug))} computes it."
            )
        return sorted(partitions, key=str)

    def sweep(
        self, key: Sequence[str], kept: Mapping[str, Collection[str]], slug: str | None = None
    ) -> list[Partition]:
        """Removes the files of partitions that there are no more, and returns these; `kept` has the keys of each dimension.

        What is left of them is read by every tool that reads folders, and its samples then count twice. Of a table that
        models have, those of the model with this partition key alone are removed.
        """
        orphans = [
            place
            for place in self.sizes(key)
            if place.model in (None, slug) and any(name in kept and key not in kept[name] for name, key in place.levels)
        ]
        with _reaching(self.root):
            for place in orphans:
                path = self.path(key, place)
                path.unlink(missing_ok=True)
                if isinstance(path, Path):
                    shutil.rmtree(path.parent, ignore_errors=True)
        return sorted(orphans, key=str)

    def read(self, key: Sequence[str], partition: Partition | None = None) -> pl.DataFrame:
        """One partition in memory; raises as `scan`."""
        return self.scan(key, [partition or Partition()]).collect()

    def provenance(self, key: Sequence[str], partition: Partition | None = None) -> dict[str, Any]:
        """Where a partition came from: the document that was written into its file; {} for a foreign file. Raises as `scan`."""
        place = partition or Partition()
        self._check_there(key, [place])
        return check_parquet(self.path(key, place), place)

    def _check_there(self, key: Sequence[str], wanted: Sequence[Partition]) -> None:
        missing = [partition for partition in wanted if not self.exists(key, partition)]
        if missing:
            named = ", ".join(str(partition) for partition in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise InputError(
                f"table {'/'.join(key)} lacks {named}{more}; {computing(missing[0])} computes what is missing."
            )


@contextmanager
def _reaching(root: str) -> Iterator[None]:
    """Says what is wrong with a place that cannot be had at all; a server that is down may come back, and a step try again."""
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"tables in {root} need a package that is missing ({error}); install gradsim[s3] or gradsim[gcs], in images by EXTRAS."
        ) from error
    except (PermissionError, FileNotFoundError) as error:
        raise InputError(
            f"tables in {root} cannot be had ({error}); check that the bucket or folder exists and that the keys may use it."
        ) from error


def parquet_metadata(path: UPath) -> dict[str, str]:
    """The key-value metadata of a Parquet file."""
    if isinstance(path, Path):
        return pl.read_parquet_metadata(str(path))
    with path.open("rb") as file:
        return pl.read_parquet_metadata(cast(io.BytesIO, file))


def computing(partition: Partition) -> str:
    """The command that computes a partition, for sentences to people."""
    return f"`gradsim run {model_id_of(partition.model) if partition.model else 'MODEL'}`"


def _place(parts: Iterable[str]) -> Partition:
    """The partition whose place a path leads to."""
    levels = ("model=", "shard=", "subset=", "slice=")
    return Partition(**dict(part.split("=", 1) for part in parts if part.startswith(levels)))


def check_parquet(path: UPath, partition: Partition | None = None) -> dict[str, Any]:
    """The provenance in a file ({} in a foreign one), from its footer.

    Raises:
        InputError: the file is not whole Parquet (truncated, foreign, corrupted footer).
    """
    try:
        return _provenance_in(parquet_metadata(path))
    except Exception as error:
        raise InputError(
            f"{path} is not a whole Parquet file ({str(error).splitlines()[0]}); {computing(partition or Partition())} "
            "computes it again."
        ) from error


def _provenance_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(metadata.get(PROVENANCE_KEY, "{}"))
    return found


def fingerprint(frame: pl.DataFrame | pl.LazyFrame) -> str:
    """A hash of a frame's content (names, dtypes, values, order), equal wherever the content is equal; 16 hex digits.

    Rows are hashed by polars with a fixed seed: nulls count as nulls, whatever lies in their slots in memory.
    """
    lazy = frame.lazy()
    digest = hashlib.sha256(str(lazy.collect_schema()).encode())
    for batch in lazy.collect_batches(chunk_size=_CHUNK_ROWS, maintain_order=True):
        digest.update(batch.hash_rows(seed=0).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _source(path: UPath) -> Any:
    """What polars reads: the address where it speaks the protocol itself, else the bytes that fsspec brings."""
    return str(path) if isinstance(path, Path) or path.protocol in _POLARS_PROTOCOLS else io.BytesIO(path.read_bytes())
