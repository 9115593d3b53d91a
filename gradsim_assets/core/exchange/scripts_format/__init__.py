"""The predecessor's result files (JSON under its folder `data/`): read into our tables, and written from them."""

from gradsim_assets.core.exchange.scripts_format.layout import Finding
from gradsim_assets.core.exchange.scripts_format.read import Imported, ImportedSetting, read_scripts
from gradsim_assets.core.exchange.scripts_format.write import write_scripts

__all__ = ["Finding", "Imported", "ImportedSetting", "read_scripts", "write_scripts"]
