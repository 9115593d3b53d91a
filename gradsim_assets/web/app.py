"""The application: routers put together, and faults told in one sentence."""

import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from gradsim_assets.core.errors import InputError
from gradsim_assets.web import comparison, front_page, report_samples, reports, samples, scripts, tracing
from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import NotThereError, Site
from gradsim_assets.web.trace_queue import TraceQueue

#: Names by which a browser on this machine asks for it.
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

#: Where programs ask, and are answered in JSON.
_PROGRAMS = "/api/"


def create_app(site: Site, names: frozenset[str] | None, queue: TraceQueue | None) -> FastAPI:
    """The application over one home.

    Args:
        site: the home.
        names: hosts that requests may ask for; None for all.
        queue: where texts wait that are to be traced; None where none are taken.
    """
    app = FastAPI(title="gradsim", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    pages = Pages(site.dagster, read_only=queue is None)
    app.include_router(report_samples.router(site))
    for make in (front_page.router, reports.router, comparison.router, samples.router, scripts.router):
        app.include_router(make(site, pages), include_in_schema=False)
    app.include_router(tracing.router(site, pages, queue), include_in_schema=False)
    app.include_router(tracing.refusing() if queue is None else tracing.asking(site, queue))
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))

    def refusal(request: Request, status: int, sentence: str) -> Response:
        if request.url.path.startswith(_PROGRAMS):
            return JSONResponse({"error": sentence}, status)
        return pages.answer("error.html.j2", status, sentence=sentence)

    @app.middleware("http")
    async def known_names(request: Request, call_next: Any) -> Response:
        # A page of another site whose name was made to lead here must not read what is served to this machine alone.
        if names is not None and (request.url.hostname or "") not in names:
            return refusal(request, 400, f"This server is not {request.url.hostname}.")
        if request.url.path.startswith(_PROGRAMS) and (too_large := tracing.too_large(request)):
            async for _ in request.stream():  # a client that is still sending would see no answer
                pass
            return too_large
        response: Response = await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.exception_handler(NotThereError)
    async def not_there(request: Request, error: NotThereError) -> Response:
        return refusal(request, 404, str(error))

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError) -> Response:
        return refusal(request, 409, str(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        sentence = "There is no such page." if error.status_code == 404 else f"{error.detail}."
        return refusal(request, error.status_code, sentence)

    return app


def names_of(host: str, web: str) -> frozenset[str] | None:
    """Hosts that browsers may ask a server for that listens on `host` and is known by the address `web`; None for all: one that
    listens for other machines has names that nobody here knows."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    return _LOOPBACK | {host, urlsplit(web).hostname or host} if is_loopback else None
