"""Numbers that were measured already, in a file, so that a killed step goes on where it stopped."""

import json
import time
from pathlib import Path

from gradsim_assets.core.files import write_whole

#: How much work a killed step may lose.
_SECONDS = 5.0


class Finished:
    """Measured numbers by name. Where there is no file, they are kept in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._values: dict[str, float] = json.loads(path.read_text()) if path and path.exists() else {}
        self._written = time.monotonic()

    def get(self, name: str) -> float | None:
        """A number as it was measured, every bit of it; None for one that was not."""
        return self._values.get(name)

    def add(self, name: str, value: float) -> None:
        """Takes in a number; the file is written now and then."""
        self._values[name] = value
        if time.monotonic() - self._written > _SECONDS:
            self.write()

    def write(self) -> None:
        """Writes the file."""
        if self._path:
            write_whole(self._path, json.dumps(self._values))
        self._written = time.monotonic()
