"""Links from Dagster's UI to the pages that `gradsim ui` serves beside it."""

from typing import Any
from urllib.parse import quote

import dagster as dg


def report_address(web: str, slug: str) -> str:
    """Where the report of a model is served under the address `web`; "" for an address on the same server."""
    return f"{web}/reports/{quote(slug)}/"


def front_page_link(web: str) -> dict[str, Any]:
    """Definition metadata that leads from an asset's page to the front page; none where no address is configured."""
    return {"front page": dg.MetadataValue.url(f"{web}/")} if web else {}
