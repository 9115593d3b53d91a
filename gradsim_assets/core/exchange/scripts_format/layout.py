"""Where the scripts keep their files, and how parts of a file make up the whole."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.revisions import is_folder
from gradsim_assets.core.partition_keys import model_slug

DOT_PRODUCTS = "dot_products"
VARIANT_SELF = "paraphrased_dot_products"  # bears this name in the model-generated setting too
ORIGINAL_SELF = "original_dot_products"


@dataclass(frozen=True)
class Finding:
    """Something that the reader of a folder should know: an error lost data, a warning may have, a note did not."""

    severity: Literal["error", "warning", "note"]
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


@dataclass(frozen=True)
class Part:
    """One file: the whole (`rows` is None) or the rows [start, end) of the samples, counted as row indices."""

    path: Path
    rows: tuple[int, int] | None

    @property
    def label(self) -> str:
        """How findings call it."""
        return self.path.name


@dataclass
class Loaded:
    """The readable files of one kind, as (part, content), in the order in which later ones win."""

    found: list[Part]
    contents: list[tuple[Part, dict[str, Any]]] = field(default_factory=list)


def dot_product_folder(folder: Path, setting: str, model: str, size: str) -> Path:
    """Folder of the three kinds of dot product files."""
    return folder / "dot_products" / setting / _below(model) / "sample_size" / size


def similarity_folder(folder: Path, setting: str, model: str, projected: bool) -> Path:
    """Folder of the files of similarities under the full gradient, or under its random projections."""
    root = folder / "gradient_similarity"
    return (root / "random_projection" if projected else root) / setting / _below(model)


def _below(model: str) -> str:
    """The folder of a model inside another one: its hub id; of a model in a folder, whose path would lead out, its slug."""
    return model_slug(model) if is_folder(model) else model


def find_parts(folder: Path, stem: str) -> list[Part]:
    """The files `<stem>.json` and `<stem>_part_<start>_<end>.json`: parts by number ascending, the whole last.

    The name must match from its beginning: `*dot_products_part_*` would catch the files of self products as well.
    """
    pattern = re.compile(re.escape(stem) + r"(?:_part_(\d+)_(\d+))?\.json")
    parts = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := pattern.fullmatch(path.name):
            start, end = match.groups()
            parts.append(Part(path, None if start is None else (int(start), int(end))))
    return sorted(parts, key=lambda part: (part.rows is None, part.rows or (0, 0)))


def load(folder: Path, stem: str, findings: list[Finding], depth: int) -> Loaded:
    """Reads the files of one kind, objects nested to `depth`; unreadable ones become findings."""
    loaded = Loaded(find_parts(folder, stem))
    for part in loaded.found:
        try:
            content = json.loads(part.path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            findings.append(
                Finding("error", f"{part.path} cannot be read ({error}); it was left out, fetch it again if you can.")
            )
            continue
        if not _is_nested(content, depth):
            findings.append(
                Finding(
                    "error", f"{part.path} is no JSON object nested {depth} deep, as such files are; it was left out."
                )
            )
            continue
        loaded.contents.append((part, content))
    check_ranges(loaded, findings)
    return loaded


def _is_nested(content: Any, depth: int) -> bool:
    if depth == 0:
        return not isinstance(content, dict | list)
    return isinstance(content, dict) and all(_is_nested(value, depth - 1) for value in content.values())


def check_ranges(loaded: Loaded, findings: list[Finding]) -> None:
    """Reports rows that no part covers, rows that two parts cover, and parts shorter than their range."""
    parts = [part for part, _ in loaded.contents if part.rows is not None]
    if any(part.rows is None for part, _ in loaded.contents):
        return  # the whole file speaks for itself
    if parts and parts[0].rows and parts[0].rows[0] > 0:
        findings.append(Finding("warning", f"{_place(parts[0])}: rows 0 to {parts[0].rows[0]} are missing."))
    for before, after in pairwise(parts):
        (_, end), (start, _) = before.rows or (0, 0), after.rows or (0, 0)
        if start > end:
            findings.append(Finding("warning", f"{_place(after)}: rows {end} to {start} are missing (no such part)."))
        if start < end:
            findings.append(
                Finding(
                    "note", f"{_place(after)}: rows {start} to {end} are in {before.label} too; the later part wins."
                )
            )


def check_lengths(loaded: Loaded, findings: list[Finding]) -> None:
    """Reports parts that hold fewer samples than their range, the last one aside."""
    parts = [(part, content) for part, content in loaded.contents if part.rows is not None]
    for part, content in parts[:-1]:
        start, end = part.rows or (0, 0)
        if len(content) < end - start:
            findings.append(
                Finding("warning", f"{_place(part)} holds {len(content)} samples, its name says {end - start}.")
            )


def _place(part: Part) -> str:
    return "/".join(part.path.parts[-6:])


def sizes_at_hand(folder: Path, model: str) -> dict[str, list[str]]:
    """The sample sizes that there are results for, by setting."""
    result: dict[str, list[str]] = {}
    for setting in ("paraphrased", "model_generated"):
        sizes = {path.name for path in _folders(dot_product_folder(folder, setting, model, "x").parent)}
        for projected in (False, True):
            for path in _files(similarity_folder(folder, setting, model, projected)):
                if match := re.fullmatch(r"sample_size_([^_]+)(?:_part_\d+_\d+)?\.json", path.name):
                    sizes.add(match[1])
        if sizes:
            result[setting] = sorted(sizes)
    return result


def models_at_hand(folder: Path) -> list[str]:
    """The models that a folder holds results of."""
    roots = [folder / "dot_products", folder / "gradient_similarity", folder / "gradient_similarity/random_projection"]
    settings = [root / setting for root in roots for setting in ("paraphrased", "model_generated")]
    return sorted({f"{org.name}/{model.name}" for s in settings for org in _folders(s) for model in _folders(org)})


def _folders(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if child.is_dir()] if path.is_dir() else []


def _files(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if child.is_file()] if path.is_dir() else []


def check_model(folder: Path, model: str, size: str) -> None:
    """Raises InputError when the folder holds nothing of the model or of the sample size, and names what it holds."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the folder that the scripts call data/.")
    sizes = sizes_at_hand(folder, model)
    if not sizes:
        models = models_at_hand(folder)
        raise InputError(
            f"{folder} holds no results of {model}; "
            + (f"it has {', '.join(models)}." if models else "give the folder that the scripts call data/.")
        )
    if not any(size in found for found in sizes.values()):
        found = sorted({name for names in sizes.values() for name in names})
        raise InputError(f"{folder} holds no results of {model} for sample size {size!r}; choose {' or '.join(found)}.")


def id_ranges(ids: Iterable[str], most: int = 8) -> str:
    """Ids in short: `lima_3 to lima_7, lima_12`; runs of numbers become ranges, and what is beyond `most` a count."""
    numbered = sorted(set(ids), key=_number)
    runs: list[list[str]] = []
    for name in numbered:
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    texts = [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    rest = sum(len(run) for run in runs[most:])
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest else "")


def _number(name: str) -> tuple[str, float, str]:
    match = re.fullmatch(r"(.*?)(\d+)", name)
    return (match[1], int(match[2]), name) if match else (name, -math.inf, name)


def _follows(before: str, after: str) -> bool:
    (first, low, _), (second, high, _) = _number(before), _number(after)
    return first == second and high == low + 1


def listed(names: Sequence[str], most: int = 3) -> str:
    """A few names and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
