"""Samples out of files and of datasets on the hub, in whatever layout; their texts are taken as they stand there."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradsim_assets.core.datasets.column_files import Choose, Content, read_columns
from gradsim_assets.core.datasets.csv_files import LISTS, MAY_BE_MESSAGES, read_csv
from gradsim_assets.core.datasets.file_formats import Format, compression_of, format_of
from gradsim_assets.core.datasets.hub_dataset import hub_dataset, read_hub
from gradsim_assets.core.datasets.json_lines import Line, doubled, read_json_array, read_json_lines
from gradsim_assets.core.datasets.layouts import KNOWN, LAYOUTS, PARAPHRASES, Layout, layout_of
from gradsim_assets.core.errors import InputError, first_line
from gradsim_assets.core.samples import without_null

#: How an address begins; a Windows drive has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

#: What a folder of `datasets.save_to_disk` says of its files; and one of several splits.
_STATE, _SPLITS = "state.json", "dataset_dict.json"

#: So many values of a column, of so many characters, stand in a sentence.
_MOST, _SHOWN = 3, 40


@dataclass(frozen=True)
class Source:
    """Where samples come from.

    Attributes:
        location: A file, a folder of `datasets`, or a dataset of the hub as name:split.
        columns: By our name of a column the one that it has there.
        where: Columns with the values of which rows must have one to be samples.
    """

    location: str
    columns: tuple[tuple[str, str], ...] = ()
    where: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    def __str__(self) -> str:
        return self.location

    @property
    def is_hub(self) -> bool:
        """Whether it is a dataset of the hub."""
        return hub_dataset(self.location) is not None

    @property
    def options(self) -> str:
        """What is done with what lies there, as text; "" for nothing."""
        said = [f"{ours}={theirs}" for ours, theirs in self.columns]
        return " ".join([*said, *(f"{column} in {list(values)}" for column, values in self.where)])


@dataclass(frozen=True)
class Rows:
    """Rows {id, messages, tools, others, place}, and sentences on how they were read.

    `others` holds the values of the columns that no sample is made of, by column.
    """

    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    #: Further columns that were not read, since they hold lists or bytes.
    nested: list[str] = field(default_factory=list)


def read_rows(source: Source, paraphrases: bool = False, faults: list[str] | None = None) -> Rows:
    """The rows of a source; `place` is where one stands ("data.jsonl, line 3").

    Of paraphrases, the column paraphrased_messages goes before others, ids must be there, columns that no sample is made of
    are not looked at, and columns may have our names as well as those of the source. Samples without ids get those of their content. `faults` takes in the sentences on single lines that cannot be read, which are errors where there is none.

    Raises:
        InputError: the source is missing, empty, damaged or of another format, or lacks the columns.
        ServiceError: the hub does not answer.
    """
    layouts = (PARAPHRASES, *LAYOUTS) if paraphrases else LAYOUTS

    def choose(columns: Sequence[str], nested: Collection[str]) -> list[str]:
        named = _named(source, columns, paraphrases)
        layout = _layout(columns, named, layouts)
        ours = ("id", *(layout.columns if layout else ()))
        others = [] if paraphrases else [name for name in other_columns(columns, named) if name not in nested]
        wanted = [*(named.get(name, name) for name in ours), *(column for column, _ in source.where), *others]
        return list(dict.fromkeys(wanted))

    what, content = _content(source, choose, faults)
    named = _named(source, content.columns, paraphrases)
    layout = _layout(content.columns, named, layouts)
    has_ids = named.get("id", "id") in content.columns
    if layout is None or (paraphrases and not has_ids):
        raise InputError(_lacking(source, content.columns, layout))
    kept = [(place, row) for place, row in _asked_for(source, content)]
    if not kept:
        raise InputError(_without_samples(source, content))
    others = [] if paraphrases else other_columns(content.columns, named)
    rows = []
    for place, row in kept:
        try:
            rows.append(_row(row, layout, named, others, f"{source}, {place}"))
        except InputError as error:
            if faults is None:
                raise
            faults.append(str(error))
    notes = [f"{source} is {what} with {layout.name} ({', '.join(layout.needs)}): {len(rows)} rows"]
    if len(kept) < len(content.rows):
        notes.append(f"{len(content.rows) - len(kept)} rows are not those of data.filter")
    if layout.name == "preferences" and (
        rejected := sum(row.get(named.get("rejected", "rejected")) is not None for _, row in kept)
    ):
        notes.append(f"{rejected} rejected answers are ignored")
    if not has_ids:
        notes.append("the samples have no ids: each is called by the hash of its content")
        _name_by_content(rows)
    nested = [name for name in others if not any(name in row["others"] for row in rows)]
    return Rows(rows, notes, nested)


def _row(
    row: Mapping[str, Any], layout: Layout, named: Mapping[str, str], others: Sequence[str], place: str
) -> dict[str, Any]:
    """One of `Rows`; raises InputError where a column holds what its layout can make nothing of."""
    ours = {name: row.get(named.get(name, name)) for name in ("id", *layout.columns)}
    try:
        messages = layout.messages(ours)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error
    return {
        "id": ours["id"],
        "messages": messages,
        "tools": ours.get("tools"),
        "others": {name: row[name] for name in others if name in row},
        "place": place,
    }


def _named(source: Source, columns: Sequence[str], paraphrases: bool) -> dict[str, str]:
    """By our name of a column the one that it has in a source of these columns; paraphrases may have it under our name.

    Raises:
        InputError: a column that originals are said to have is not there. Without it they would be read as other samples, without
            their tools, say, or under other ids.
    """
    named = {ours: theirs for ours, theirs in source.columns if theirs in columns}
    lacking = [] if paraphrases else [(ours, theirs) for ours, theirs in source.columns if ours not in named]
    if lacking:
        ours, theirs = lacking[0]
        raise InputError(
            f"data.columns names {theirs} as {ours}, which {source} lacks; it has {', '.join(columns) or 'none'}: correct it."
        )
    return named


def other_columns(columns: Sequence[str], named: Mapping[str, str]) -> list[str]:
    """The columns that no sample is made of, under our names or those of `named`; one that is there twice is nobody's."""
    ours = {*KNOWN, *named.values()}
    return [name for name in columns if name and name not in ours and columns.count(name) == 1]


def _layout(columns: Sequence[str], named: Mapping[str, str], layouts: Sequence[Layout]) -> Layout | None:
    """The layout of a file by its columns, those of them that are named otherwise called by our names."""
    return layout_of({*named, *(set(columns) - {*named, *named.values()})}, layouts)


def _asked_for(source: Source, content: Content) -> list[tuple[str, Mapping[str, Any]]]:
    if lacking := [column for column, _ in source.where if column not in content.columns]:
        raise InputError(
            f"data.filter names {lacking[0]}, which {source} lacks; it has {', '.join(content.columns)}: correct it."
        )
    return [(at, row) for at, row in content.rows if all(row.get(name) in values for name, values in source.where)]


def _without_samples(source: Source, content: Content) -> str:
    """The sentence for a source without rows, or without those that are asked for."""
    if not content.rows or not source.where:
        return f"{source} holds no samples; name another file."
    held = {name: list(dict.fromkeys(repr(row.get(name)) for _, row in content.rows)) for name, _ in source.where}
    said = "; ".join(f"{name} is {_listed(values)}" for name, values in held.items())
    return f"{source} holds no samples of data.filter ({said}): correct its values (in CSV all are texts), or name another file."


def _listed(values: Sequence[str]) -> str:
    shown = [value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..." for value in values[:_MOST]]
    return " or ".join([*shown, "others"] if len(values) > _MOST else shown)


def _name_by_content(rows: Sequence[dict[str, Any]]) -> None:
    """Gives every row an id: the hash of what it says (12 hex digits), with a number behind it where others say the same."""
    seen: Counter[str] = Counter()
    for row in rows:
        text = json.dumps(
            without_null([row["messages"], row["tools"]]), ensure_ascii=False, sort_keys=True, default=str
        )
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        seen[name] += 1
        row["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"


def _content(source: Source, choose: Choose, faults: list[str] | None) -> tuple[str, Content]:
    """What a source is, and what it holds."""
    if source.is_hub:
        return "a dataset of the hub", read_hub(source.location, choose)
    path = _path(source.location)
    if path.is_dir():
        return "a folder of datasets", _folder(path, choose)
    found = format_of(path)
    what = f"{found.value} within {compression[1:]}" if (compression := compression_of(path)) else found.value
    if found is Format.CSV:
        lists, may_be = (_called(names, source) for names in (LISTS, MAY_BE_MESSAGES))
        return what, read_csv(path, lists, may_be, choose)
    if not found.is_text:
        return what, read_columns(path, found, choose)
    read, place = (read_json_lines, "line") if found is Format.JSON_LINES else (read_json_array, "entry")
    lines = list(read(path, faults))
    if not lines:
        raise InputError(faults[0] if faults else f"{path} holds nothing but an empty array; write it anew.")
    return what, _chosen(path, lines, place, choose)


def _called(names: Sequence[str], source: Source) -> list[str]:
    """Columns by our names and by those that a source has for them."""
    named = dict(source.columns)
    return [*(name for name in names if name not in named.values()), *(named[name] for name in names if name in named)]


def _chosen(path: Path, lines: Sequence[Line], place: str, choose: Choose) -> Content:
    """What lines hold of the columns that are chosen of all that any of them has."""
    columns = list(dict.fromkeys(name for line in lines for name in line.row))
    wanted = choose(columns, ())
    rows = []
    for line in lines:
        if twice := doubled(line.row, wanted):
            raise InputError(f"{path}, {place} {line.number} names {twice} twice in one object; keep one of the two.")
        rows.append((f"{place} {line.number}", {name: line.row[name] for name in wanted if name in line.row}))
    return Content(columns, rows)


def _path(location: str) -> Path:
    """The path of a file or folder that is there; raises InputError otherwise."""
    if _ADDRESS.match(location):
        raise InputError(f"{location} is an address and no path; download the file and name where it lies.")
    try:
        path = Path(location).expanduser()
        if not path.exists():
            raise InputError(
                f'{path} does not exist; data.originals and data.paraphrases take "demo", a file (.parquet, .jsonl, .json, .csv, '
                ".arrow), a folder of `datasets`, or a dataset of the hub as name:split. Relative paths begin at the folder of "
                "the configuration file."
            )
        if path.is_dir():
            return path
        if not path.is_file():
            raise InputError(f"{path} is no regular file; name one.")
        if not path.stat().st_size:
            raise InputError(f"{path} is empty; write it anew or name another file.")
    except (OSError, RuntimeError) as error:  # a name that is too long; a home that nobody has
        raise InputError(f"{location} cannot be looked at ({error}); correct the path.") from error
    return path


def _folder(path: Path, choose: Choose) -> Content:
    """What the Arrow streams of a folder of `datasets.save_to_disk` hold, one after the other."""
    if (path / _SPLITS).is_file():
        splits = ", ".join(sorted(one.name for one in path.iterdir() if (one / _STATE).is_file()))
        raise InputError(f"{path} is a folder of several splits ({splits}); name the folder of one of them.")
    try:
        names = [one["filename"] for one in json.loads((path / _STATE).read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is a folder, and none that `datasets` has saved ({first_line(error)}); name one file of samples, or a folder "
            "of save_to_disk."
        ) from error
    contents = [read_columns(path / name, format_of(path / name), choose) for name in names]
    columns = contents[0].columns if contents else []
    rows = [row for content in contents for _, row in content.rows]
    return Content(columns, [(f"row {number}", row) for number, row in enumerate(rows, 1)])


def _lacking(source: Source, columns: Sequence[str], layout: Layout | None) -> str:
    """The sentence for a file without the columns of samples."""
    has = f"it has {', '.join(columns) or 'none'}"
    if layout is not None:
        return f"{source} needs the column id: {has}. Give every row the id of its original."
    known = "; ".join(" and ".join(one.needs) for one in LAYOUTS)
    return (
        f"{source} needs columns that samples are made of ({known}); {has}. Say by [data.columns] in which columns they are, "
        "or rename them."
    )
