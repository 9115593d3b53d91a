"""What the file of a table says of where it came from, and what of that is shown to people."""

from collections.abc import Mapping
from typing import Any

#: Key of the JSON document in the metadata of every Parquet file.
PROVENANCE_KEY = "gradsim"

#: Entries that lead from a number to its sources, in the order in which they are shown.
_SHOWN = (
    *(
        "source",
        "service",
        "paraphrase_model",
        "imported",
        "revision",
        "settings",
        "numerics",
        "candidates",
        "retriever",
        "dataset",
    ),
    *("fingerprint", "code_version", "package_version", "configuration", "run_id"),
)


def shown_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a file's provenance that are shown to people, as far as it has them."""
    return {name: provenance[name] for name in _SHOWN if provenance.get(name)}
