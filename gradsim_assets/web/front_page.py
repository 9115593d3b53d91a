"""The front page: every model with its figures, and where to go from there."""

from fastapi import APIRouter, Response

from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.report.headline import BESIDE
from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import Site


def router(site: Site, pages: Pages) -> APIRouter:
    """The page, how models stand (which takes longer to find out than the page), and whether the server is there."""
    routes = APIRouter()

    @routes.get("/")
    def front_page() -> Response:
        return pages.answer(
            "front_page.html.j2",
            models=site.models(),
            home=str(site.home.folder),
            beside=BESIDE,
            number=wording.number,
            dagster_page=site.dagster_page,
        )

    @routes.get("/states")
    def states() -> dict[str, str]:
        return site.states()

    @routes.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)  # browsers ask for it on behalf of reports, which bring none

    @routes.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "home": str(site.home.folder)}

    return routes
