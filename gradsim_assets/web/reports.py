"""Reports over HTTP: the page of a model, its headline figures and its plots."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import NotThereError, Site


def router(site: Site, _: Pages) -> APIRouter:
    """`/reports/<partition key>/`, and the files beside the page."""
    routes = APIRouter(prefix="/reports")

    @routes.get("/{slug}/")
    def report(slug: str) -> FileResponse:
        return FileResponse(site.report(slug) / "index.html", headers={"Cache-Control": "no-cache"})

    @routes.get("/{slug}/{name:path}")
    def file(slug: str, name: str) -> FileResponse:
        folder = site.report(slug)
        # Only what lies there is served, found by looking: no text of a request becomes a part of a path.
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        if name not in there or not there[name].resolve().is_relative_to(folder.resolve()):
            raise NotThereError(f"The report of {slug} has no file {name}.")
        return FileResponse(there[name], headers={"Cache-Control": "no-cache"})

    return routes
