"""Keys of partitions: models as slugs, and shards of the sample ids."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.controls import UNTRAINED_SUFFIX, trained_id, untrained_id
from gradsim_assets.core.models.revisions import checkpoint_id

#: Dagster's stale status ignores a dependency on 100 or more upstream partitions.
MAX_SHARDS = 99

#: Names of files have at most 255 bytes; a folder that is being written has 39 more than its own.
MAX_SLUG = 200

_PLAIN = re.compile(r"[A-Za-z0-9._@-]")
_SLUG = re.compile(rf"(?:[A-Za-z0-9._@-]|~[0-9A-F]{{2}})+(?:{re.escape(UNTRAINED_SUFFIX)})?")

T = TypeVar("T")


def model_slug(model_id: str) -> str:
    """The partition key of a hub id, `id@revision` or folder: `/` becomes `--`, anything unusual `~XX` (UTF-8 bytes).

    Reversible by `model_id_of`; a hyphen that would be read as part of `--` is escaped too. That of a control with random
    weights is its model's, with the same ending as the id.
    """
    if trained := trained_id(model_id):
        return untrained_id(model_slug(trained))
    parts = []
    for part in model_id.split("/"):
        # A hyphen next to another or at an end would make `--` ambiguous.
        part = re.sub(r"(?<=-)-|^-|-$", "\0", part)
        parts.append("".join(c if _PLAIN.fullmatch(c) else _escape("-" if c == "\0" else c) for c in part))
    return "--".join(parts)


def keys_pattern(model_id: str, checkpoints: str) -> str:
    """What the partition keys of an entry under [[models]] look like: that of the model, or those of all checkpoints of a run."""
    return checkpoint_id(model_slug(model_id), checkpoints) if checkpoints else model_slug(model_id)


def checked_slug(model_id: str) -> str:
    """The partition key of a model that is to be registered.

    Raises:
        InputError: tables and reports could not be kept in a folder of that name.
    """
    slug = model_slug(model_id)
    if len(slug) > MAX_SLUG:
        raise InputError(
            f"{_short(model_id)} makes a partition key of {len(slug)} characters (each byte that is no ASCII letter or digit "
            f"takes three), and folders are named by it: {MAX_SLUG} are the most. Give the model a shorter path, such as a "
            "symbolic link."
        )
    trained = trained_id(model_id)
    if not slug or trained == "":
        raise InputError("a model without an id cannot be registered; give a hub id or the folder of a saved model.")
    if trained and trained_id(trained) is not None:
        raise InputError(
            f"{trained} has random weights already and needs no control; add that of {trained_id(trained)}."
        )
    return slug


@lru_cache(maxsize=4096)  # asked again for every partition of every table
def is_slug(key: str) -> bool:
    """Whether a partition key is that of a model, as `model_slug` makes it."""
    return bool(_SLUG.fullmatch(key)) and (model_id := _unslug(key)) is not None and model_slug(model_id) == key


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]}...{text[-37:]}"


def _escape(character: str) -> str:
    return "".join(f"~{byte:02X}" for byte in character.encode())


def model_id_of(slug: str) -> str:
    """The model id behind a partition key.

    Raises:
        InputError: the key is no slug (somebody typed a raw id into the UI's dialog); the sentence gives the right key.
    """
    if not is_slug(slug):
        raise InputError(
            f"{slug!r} is not the partition key of a model; the right key is {model_slug(slug)!r}. Remove the wrong one "
            f"with `gradsim models remove '{slug}'` and add the model with `gradsim models add '{slug}'`."
        )
    return str(_unslug(slug))


def _unslug(slug: str) -> str | None:
    if trained := trained_id(slug):
        model_id = _unslug(trained)
        return None if model_id is None else untrained_id(model_id)
    path = slug.replace("--", "/")
    try:
        return re.sub(r"(?:~[0-9A-F]{2})+", lambda m: bytes.fromhex(m[0].replace("~", "")).decode(), path)
    except UnicodeDecodeError:
        return None


def shard_keys(count: int) -> list[str]:
    """Keys of the shards, `00`, `01`, ...

    Raises:
        InputError: fewer than 1 or more than 99 shards.
    """
    if not 1 <= count <= MAX_SHARDS:
        raise InputError(f"data.shards = {count} is out of range; choose 1 to {MAX_SHARDS} shards.")
    return [f"{index:02d}" for index in range(count)]


def shard_slice(items: Sequence[T], key: str, count: int, setting: str = "data.shards") -> Sequence[T]:
    """The contiguous slice of `items` that belongs to a shard; sizes differ by at most one. `setting` names what says their number.

    Raises:
        InputError: more shards than items, so that one would be empty.
    """
    if count > len(items):
        raise InputError(
            f"{count} {setting.partition('.')[2]} are more than the {len(items)} samples; set {setting} to {len(items)} or less."
        )
    index, size = int(key), len(items)
    return items[index * size // count : (index + 1) * size // count]
