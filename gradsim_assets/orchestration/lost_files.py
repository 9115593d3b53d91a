"""Materialised partitions whose files are gone, cut or replaced: they count as missing, whatever Dagster's log says."""

from collections.abc import Mapping
from functools import cache

import dagster as dg

from gradsim_assets.core.home import Home
from gradsim_assets.core.tables.audit import why_lost
from gradsim_assets.core.tables.schemas import CURVATURE
from gradsim_assets.core.tables.storage import Partition, Tables, computing
from gradsim_assets.orchestration.asset_keys import is_table, table_path
from gradsim_assets.orchestration.file_sizes import SIZE, size_recorded

#: The asset that is no table but a folder of files.
_REPORT = dg.AssetKey("report")


class LostFiles:
    """Says of a materialised partition why its file cannot be used; one object answers one question, since it remembers."""

    def __init__(self, tables: Tables, home: Home) -> None:
        self._tables, self._home = tables, home
        self._sizes = cache(tables.sizes)

    def why(self, key: dg.AssetKey, partition: Partition, recorded: dg.EventLogEntry) -> str | None:
        """One sentence that names the file and the command that computes it again; None where the file is as `recorded`."""
        event = recorded.asset_materialization
        metadata = event.metadata if event else {}
        bytes_then = size_recorded(_value(metadata, SIZE))
        if key == _REPORT:
            return self._why_report(partition, bytes_then)
        if not is_table(key):
            return None
        content = _value(metadata, "gradsim/fingerprint")
        path = table_path(key)
        found = self._sizes(path).get(partition)
        recorded_then = bytes_then, content if isinstance(content, str) else None
        why = why_lost(self._tables, path, partition, found, recorded_then)
        return self._why_beside(path, partition) if why is None and path[0] == CURVATURE.name else why

    def _why_beside(self, path: tuple[str, ...], partition: Partition) -> str | None:
        folder = self._tables.path(path, partition).parent
        names = self._tables.scan(path, [partition]).select("file").unique().collect()["file"].sort().to_list()
        missing = next((name for name in names if not (folder / name).exists()), None)
        return f"{folder / missing} is missing; {computing(partition)} computes it again." if missing else None

    def _why_report(self, partition: Partition, bytes_then: int | None) -> str | None:
        folder = self._home.report(str(partition.model))
        page = folder / "index.html"
        for file in (page, folder / "summary.json"):
            if not file.is_file():
                return f"{file} is missing; {computing(partition)} computes it again."
        if bytes_then is not None and page.stat().st_size != bytes_then:
            return f"{page} is not the page that was written; {computing(partition)} computes it again."
        return None


def _value(metadata: Mapping[str, dg.MetadataValue], name: str) -> object:
    return getattr(metadata.get(name), "value", None)
