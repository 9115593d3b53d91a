"""Exporting a dataset or table as a folder that `datasets.load_dataset` and pandas open, with a card that tells its lineage.

Nothing leaves the machine unless `push_folder` is called.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.files import whole_folder

_DATA_FILE = "data/train-00000-of-00001.parquet"
_CARD_FILE = "README.md"
_LINEAGE_FILE = "lineage.json"

_ROWS_AT_A_TIME = 100_000

#: Upper ends of the hub's size categories, in rows.
_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
_LARGEST = [(10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M")]


@dataclass(frozen=True)
class CardInfo:
    """What a dataset card tells besides the columns.

    Attributes:
        name: Title of the dataset.
        description: What it is, in a sentence or a few (Markdown).
        license: The hub's identifier of a licence, such as "cc-by-nc-4.0"; None where it is not settled.
        lineage: What it was made from and by: model revision, code version, configuration, sources. Values may be
            nested; null values are left out.
        counts: Numbers worth telling, such as truncated or flagged samples.
        columns: Meaning of the columns by name; others are listed without one.
        tags, languages: As the hub knows them.
    """

    name: str
    description: str
    license: str | None
    lineage: Mapping[str, Any]
    counts: Mapping[str, int | float] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ("gradsim", "training-data-attribution")
    languages: tuple[str, ...] = ()


def export_dataset(source: pl.DataFrame | pl.LazyFrame | Path, folder: Path, info: CardInfo) -> Path:
    """Writes a table (or a Parquet file) as a dataset folder and returns the folder.

    The folder holds the card (`README.md`), the same lineage for machines (`lineage.json`) and the rows under `data/`.
    It appears whole or not at all, and replaces an earlier export at the same place. A lazy frame is streamed.

    Raises:
        InputError: the folder exists and is no earlier export, or cannot be written.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    try:
        with whole_folder(folder, replace=True) as unfinished:
            (unfinished / _DATA_FILE).parent.mkdir()
            if isinstance(source, Path):
                _rewrite(source, unfinished / _DATA_FILE)
            else:
                source.lazy().sink_parquet(unfinished / "rows.parquet")
                _rewrite(unfinished / "rows.parquet", unfinished / _DATA_FILE)
                (unfinished / "rows.parquet").unlink()
            file = pl.scan_parquet(unfinished / _DATA_FILE)
            rows = int(file.select(pl.len()).collect().item())
            (unfinished / _CARD_FILE).write_text(_card(info, dict(file.collect_schema()), rows), encoding="utf-8")
            (unfinished / _LINEAGE_FILE).write_text(_lineage(info, rows), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the export folder {folder} cannot be written ({error.strerror}); choose another.") from error
    return folder


def push_folder(
    folder: Path, repository: str, token: str | None, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Uploads an exported folder to the Hugging Face hub as a dataset, private unless told otherwise; returns its address.

    Raises:
        InputError: no token, a folder that is no export, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported lazily

    if not token:
        raise InputError(f"there is no token to push {repository} to the hub; set HF_TOKEN to one that may write.")
    if not (folder / _LINEAGE_FILE).is_file():
        raise InputError(f"{folder} is no exported dataset (it holds no {_LINEAGE_FILE}); export it first.")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type="dataset", commit_message="Export from gradsim"
        )
    except HFValidationError as error:
        raise InputError(f"{repository!r} is no name of a hub dataset; write it as owner/name.") from error
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        raise InputError(
            f"the hub refuses the push to {repository} (HTTP {status}); check that HF_TOKEN may write there."
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise InputError(f"the hub cannot be reached to push {repository}; try again later.") from error
    return f"{api.endpoint}/datasets/{repository}"


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and ((folder / _LINEAGE_FILE).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise InputError(f"{folder} exists and is no earlier export, so it is left alone; choose another folder.")


def _rewrite(source: Path, target: Path) -> None:
    """Copies a Parquet file piece by piece, with the common types in place of the large ones that polars writes.

    `datasets` would hand the large ones on to its users' features, where they do not concatenate with other datasets.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        schema = _common_types(file.schema_arrow)
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for batch in file.iter_batches(_ROWS_AT_A_TIME):
                writer.write_batch(batch.cast(schema))


def _common_types(schema: Any) -> Any:
    import pyarrow as pa

    def common(dtype: Any) -> Any:
        if pa.types.is_large_string(dtype):
            return pa.string()
        if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
            return pa.list_(common(dtype.value_type))
        if pa.types.is_struct(dtype):
            return pa.struct([(part.name, common(part.type)) for part in dtype])
        return dtype

    return pa.schema([(part.name, common(part.type)) for part in schema])


def _lineage(info: CardInfo, rows: int) -> str:
    document = {"name": info.name, "license": info.license, "rows": rows, "counts": dict(info.counts)}
    return json.dumps({**document, "lineage": _without_null(info.lineage)}, indent=2, default=str) + "\n"


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _without_null(part) for name, part in value.items() if part is not None}
    return value


def _card(info: CardInfo, schema: Mapping[str, pl.DataType], rows: int) -> str:
    sections = [
        f"---\n{_front_matter(info, rows)}---\n",
        f"# {info.name}\n\n{info.description.strip()}\n",
        f"## Lineage\n\n{_lines(_without_null(info.lineage))}\n",
        f"## Counts\n\n{_lines({'rows': rows, **info.counts})}\n",
        f"## Columns\n\n{_columns(info, schema)}\n",
        "## Reading it\n\n```python\nfrom datasets import load_dataset\n\n"
        'dataset = load_dataset("<this folder, or its name on the hub>", split="train")\n```\n\n'
        '```python\nimport pandas\n\nframe = pandas.read_parquet("<this folder>/data")\n```\n',
        f"## Licence\n\n{info.license or 'Not stated: ask whoever published this dataset.'}\n",
    ]
    return "\n".join(sections)


def _front_matter(info: CardInfo, rows: int) -> str:
    import yaml

    size = next((name for most, name in (*_SIZES, *_LARGEST) if rows < most), "n>100M")
    document: dict[str, Any] = {
        "pretty_name": info.name,
        # "unknown" is the hub's word for it.
        "license": info.license or "unknown",
        "tags": list(info.tags),
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }
    if info.languages:
        document["language"] = list(info.languages)
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def _lines(values: Mapping[str, Any], depth: int = 0) -> str:
    """A nested Markdown list."""
    lines = []
    for name, value in values.items():
        label = f"{'  ' * depth}- **{name.replace('_', ' ')}**"
        if isinstance(value, Mapping):
            lines += [f"{label}:", _lines(value, depth + 1)]
        else:
            # Code marks keep what is in a value from being read as Markdown.
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"`{value}`"
            lines.append(f"{label}: {shown}")
    return "\n".join(lines)


def _columns(info: CardInfo, schema: Mapping[str, pl.DataType]) -> str:
    rows = [
        f"| `{name}` | {_type_name(dtype)} | {info.columns.get(name, '').replace('|', chr(92) + '|')} |"
        for name, dtype in schema.items()
    ]
    return "\n".join(["| column | type | meaning |", "| --- | --- | --- |", *rows])


def _type_name(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.List):
        return f"list of {_type_name(dtype.inner)}"  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return "{" + ", ".join(part.name for part in dtype.fields) + "}"
    return str(dtype).lower()
