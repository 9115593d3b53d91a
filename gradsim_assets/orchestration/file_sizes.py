"""Sizes of files in the metadata of materialisations: as text, for the UI plots every number over time."""

import re

import dagster as dg

#: The entry of a materialisation that tells the size of its file.
SIZE = "size_bytes"


def size_shown(size: int) -> dg.MetadataValue:
    """A size for people."""
    return dg.MetadataValue.text(f"{size:,} bytes")


def size_recorded(value: object) -> int | None:
    """The bytes that an entry tells; those of before were numbers. None where it tells none."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"([\d,]+) bytes", value) if isinstance(value, str) else None
    return int(found[1].replace(",", "")) if found else None
