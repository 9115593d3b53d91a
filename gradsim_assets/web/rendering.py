"""Templates of the pages, as answers to requests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gradsim_assets.core.analysis.plots import wording


class Pages:
    """The templates of all pages; each links to Dagster's UI at the address `dagster`, and to where texts are traced unless the
    server is `read_only`."""

    def __init__(self, dagster: str, read_only: bool = False) -> None:
        folder = Path(__file__).parent / "templates"
        self._environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
        self._environment.globals |= {
            "dagster": dagster,
            "read_only": read_only,
            "setting_name": wording.setting_name,
        }

    def answer(
        self, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> Response:
        """A page as the answer to a request."""
        page = self._environment.get_template(template).render(**values)
        return Response(page, status, {"Cache-Control": "no-cache", **(headers or {})}, media_type="text/html")
