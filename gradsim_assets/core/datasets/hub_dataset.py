"""Datasets of the hub, named as name:split."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradsim_assets.core.datasets.column_files import Choose, Content, not_plain
from gradsim_assets.core.errors import InputError, ServiceError, first_line
from gradsim_assets.core.healing import may_heal

if TYPE_CHECKING:
    from datasets import Dataset

#: A name with or without its owner, and a split; a Windows drive has one letter and a path behind it.
_NAMED = re.compile(r"(?P<name>[\w.-]+/[\w.-]+|[\w.-]{2,}):(?P<split>[A-Za-z][\w.+-]*)")


def hub_dataset(location: str) -> tuple[str, str] | None:
    """Name and split of a dataset of the hub; None for what is none, or a file of that name."""
    found = _NAMED.fullmatch(location)
    return None if found is None or Path(location).exists() else (found["name"], found["split"])


def load_hub(name: str, split: str) -> "Dataset":
    """A split of a dataset of the hub.

    Raises:
        InputError: there is none of that name or split, or it needs a token.
        ServiceError: the hub does not answer.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, split=split)
    except Exception as error:  # the hub client has no common base for its errors
        kind = ServiceError if may_heal(error) else InputError
        raise kind(
            f"{name} could not be loaded from the hub ({first_line(error)}); check the name, the split {split}, the network and "
            "HF_TOKEN, or name a local file as data.originals."
        ) from error


def read_hub(location: str, choose: Choose) -> Content:
    """Those columns that are chosen of a dataset `name:split`; raises as `load_hub`."""
    found = hub_dataset(location)
    assert found is not None, location
    dataset = load_hub(*found)
    columns = list(dataset.column_names)
    schema = dataset.features.arrow_schema
    wanted = choose(columns, not_plain(schema))
    chosen: Any = dataset.select_columns([name for name in wanted if name in columns])
    rows = chosen.with_format(None).to_list()
    return Content(columns, [(f"row {number}", row) for number, row in enumerate(rows, 1)])
