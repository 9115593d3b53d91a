"""Asset checks: the rules of `core.tables.soundness` and `core.tables.audit`, one op per step whose tables it looks at."""

from gradsim_assets.defs.checks.sound import build_tables
from gradsim_assets.defs.checks.tables_up_to_date import build_status

__all__ = ["build_status", "build_tables"]
