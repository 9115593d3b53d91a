"""Asset checks: the rules of `core.checks` and `io.audit`, one op per step whose tables it looks at."""

from gradsim_assets.defs.checks.status import build_status
from gradsim_assets.defs.checks.tables import build_tables

__all__ = ["build_status", "build_tables"]
