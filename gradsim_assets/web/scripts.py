"""What pages share with reports: how texts are read, and the libraries that this needs."""

from pathlib import Path

from fastapi import APIRouter, Response

from gradsim_assets.core.analysis import report
from gradsim_assets.core.analysis.report.libraries import LIBRARIES, library_source
from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import NotThereError, Site

_FOLDER = Path(report.__file__).parent

#: Files of reports by the kind that browsers know them by.
_FILES = {"texts.js": "text/javascript", "rendered.js": "text/javascript", "texts.css": "text/css"}


def router(_: Site, __: Pages) -> APIRouter:
    """`/scripts/<file>` and `/scripts/library-<name>.js`."""
    routes = APIRouter(prefix="/scripts")
    libraries = {f"library-{name}.js": name for name in LIBRARIES}

    @routes.get("/{name}")
    def file(name: str) -> Response:
        if name in _FILES:
            content, kind = (_FOLDER / name).read_text(encoding="utf-8"), _FILES[name]
        elif name in libraries:
            content, kind = library_source(libraries[name]), "text/javascript"
        else:
            raise NotThereError(f"There is no script {name}.")
        return Response(content, 200, {"Cache-Control": "no-cache"}, media_type=kind)

    return routes
