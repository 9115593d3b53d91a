"""The console script `gradsim`: thin over Dagster, so that lineage is the same as from the UI."""

from gradsim_assets.cli.main import main

__all__ = ["main"]
