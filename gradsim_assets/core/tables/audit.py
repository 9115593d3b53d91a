"""Whether the file behind a partition is what it says: whole, ours, and of the table and partition that it lies under."""

from collections.abc import Sequence

import polars as pl

from gradsim_assets.core.tables.storage import Partition, Tables, check_parquet, fingerprint


def read_audited(tables: Tables, key: Sequence[str], partition: Partition) -> tuple[pl.DataFrame | None, list[str]]:
    """The content of a partition and findings that name its file; None where it cannot be read."""
    path = tables.path(key, partition)
    if not path.exists():
        return None, [f"{path} does not exist although its partition was materialised; materialise it again."]
    try:
        check_parquet(path)
        provenance = tables.provenance(key, partition)
        frame = tables.read(key, partition)  # every page is decoded: a footer may survive what its pages did not
    except Exception as error:  # polars raises many kinds for damaged files, some of them panics turned into errors
        said = str(error).splitlines()[0]
        why = "" if "not a whole Parquet file" in said else f"{path} is corrupted: "
        mend = "" if why == "" else "; delete it and materialise its partition again."
        return None, [f"{why}{said}{mend}"]
    found = []
    if not provenance:
        found.append(f"{path} is foreign: gradsim did not write it; delete it and materialise its partition again.")
    else:
        table, place = provenance.get("table"), provenance.get("partition")
        if (table, place) != ("/".join(key), str(partition)):
            found.append(
                f"{path} belongs elsewhere: it was written as {table} {place}; materialise its partition again."
            )
        elif "fingerprint" in provenance and provenance["fingerprint"] != fingerprint(frame):
            found.append(f"{path} is corrupted: its content is not what was written; materialise its partition again.")
    return frame, found
