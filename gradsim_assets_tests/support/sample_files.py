"""Files of samples for tests of the datasets."""

import json
from pathlib import Path
from typing import Any

import polars as pl


def rows(*ids: str) -> list[dict[str, Any]]:
    """A sound sample for every id."""
    return [
        {"id": i, "messages": [{"role": "user", "content": f"Q {i}"}, {"role": "assistant", "content": f"A {i}"}]}
        for i in ids
    ]


def write(path: Path, content: list[dict[str, Any]]) -> str:
    """Writes rows in the format that the file's ending names, and returns its path as text."""
    if path.suffix == ".parquet":
        pl.DataFrame(content).write_parquet(path)
    elif path.suffix == ".arrow":
        pl.DataFrame(content).write_ipc(path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)
