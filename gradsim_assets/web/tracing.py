"""Traces over HTTP: a page to ask on, a call for programs, and the pages of what was found; where nothing may be asked, these alone."""

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tracing.stored_traces import DOCUMENT, PAGE, traces_in
from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import Model, NotThereError, Site
from gradsim_assets.web.trace_queue import DONE, ENDED, FAILED, FullError, Job, Progress, Question, TraceQueue

if TYPE_CHECKING:
    from gradsim_assets.defs.tracing.tracing import Tracing

#: Bytes of a request; more is no text that a model has a context for.
MOST_BYTES = 2**20

#: Traces that the page lists, and originals that an answer to a program holds.
_LISTED, _TOLD = 20, 20

#: How often a call that waits looks whether its trace is there.
_LOOK_SECONDS = 0.05


class Asked(BaseModel):
    """What is to be traced."""

    model: str = Field(description="id of a registered model")
    prompt: str = Field(description="what the model is asked")
    answer: str | None = Field(None, description="what it says; none for its own answer (greedy)")
    method: str = Field("cosine", description="cosine, dot_product, a preconditioner, or a pattern of components")
    against: str = Field("all", description="originals to compare with: all, bm25:K, index:K, or bm25:K+index:K")
    wait: float = Field(30, ge=0, le=300, description="seconds that the call waits for the result")


def router(site: Site, pages: Pages, queue: TraceQueue | None) -> APIRouter:
    """`/trace` and `/traces/<partition key>/<id>/`; without a queue nothing is taken to be traced."""
    routes = APIRouter()

    @routes.get("/trace")
    def trace_page(model: str | None = None) -> Response:
        if queue:
            queue.wake()  # torch is imported while the text is written
        return pages.answer(
            "trace.html.j2",
            models=site.models(),
            chosen=model,
            methods=["cosine", "dot_product", *load_settings().preconditioners.methods],
            recent=_recent(site),
        )

    @routes.get("/traces/{slug}/{trace_id}/")
    def found(slug: str, trace_id: str) -> FileResponse:
        return FileResponse(_folder(site, slug, trace_id) / PAGE, headers={"Cache-Control": "no-cache"})

    return routes


def refusing() -> APIRouter:
    """What programs are told by a server that takes no texts."""
    routes = APIRouter()

    @routes.post("/api/trace", include_in_schema=False)
    def ask() -> JSONResponse:
        return JSONResponse({"error": "this server shows what there is and takes no texts; ask the trace server."}, 403)

    return routes


def queue_of(site: Site) -> TraceQueue:
    """The texts that are to be traced in a home."""
    tracer = _Tracer(site)
    return TraceQueue(tracer, tracer.prepare)


def asking(site: Site, queue: TraceQueue) -> APIRouter:
    """`/api/trace` for programs, and for the page."""
    routes = APIRouter()

    @routes.post("/api/trace")
    async def ask(asked: Asked, request: Request) -> JSONResponse:
        """Traces a text: 200 with what was found, 202 where that takes longer, and 503 where too many are waiting."""
        question = Question(asked.model, asked.prompt, asked.answer, asked.method, asked.against)
        try:
            queue.check_room(question)  # first, for a thousand who ask at once
            if not await run_in_threadpool(site.is_registered, asked.model):
                return JSONResponse({"error": f"{asked.model} is not registered here."}, 404)
            job = queue.ask(question)
        except FullError as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": str(error.seconds)})
        await _until_ended(job, request, asked.wait)
        return _told(job, queue)

    @routes.get("/api/trace/{job_id}")
    def look(job_id: str) -> JSONResponse:
        """How a trace stands that was asked for."""
        return _told(_job(queue, job_id), queue)

    @routes.delete("/api/trace/{job_id}")
    def cancel(job_id: str) -> JSONResponse:
        """Gives up a trace that waits or runs."""
        job = _job(queue, job_id)
        queue.cancel(job)
        return _told(job, queue)

    return routes


def too_large(request: Request) -> JSONResponse | None:
    """The refusal of a request whose body is too large or of unknown length; None where it may be read."""
    if request.method in ("GET", "HEAD", "DELETE"):
        return None
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return JSONResponse({"error": "say how long the request is (Content-Length)."}, 411)
    if int(length) > MOST_BYTES:
        return JSONResponse({"error": f"the request has {length} bytes, and {MOST_BYTES} are the most."}, 413)
    return None


async def _until_ended(job: Job, request: Request, seconds: float) -> None:
    """Waits for a job, so long as it is waited for; no thread does, for there are fewer of them than may wait."""
    deadline = time.monotonic() + seconds
    while not job.ended.is_set() and time.monotonic() < deadline and not await request.is_disconnected():
        await asyncio.sleep(_LOOK_SECONDS)


class _Tracer:
    """Traces with the models and originals of the home that is served, by the thread of one queue."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._tracing: Tracing | None = None

    def prepare(self) -> None:
        """Does what the first trace would wait for before it knows its model."""
        from gradsim_assets.runs.tracing import prepare

        prepare()
        self._current().prepare()

    def _current(self) -> "Tracing":
        from gradsim_assets.runs.tracing import traces_of

        settings = load_settings()
        if self._tracing is None or self._tracing.settings != settings:  # building the graph takes most of a second
            self._tracing = traces_of(settings, self._site.launcher)
        return self._tracing

    def __call__(self, question: Question, progress: Progress) -> Any:
        asked = (question.model, question.prompt, question.answer, question.method)
        return self._current().trace(*asked, against=question.against, progress=progress)


def _job(queue: TraceQueue, job_id: str) -> Job:
    job = queue.job(job_id)
    if job is None:
        raise NotThereError("There is no such trace on its way; what was found is listed under /trace.")
    return job


def _told(job: Job, queue: TraceQueue) -> JSONResponse:
    """A job as programs read it."""
    done, total, what = job.progress
    told: dict[str, Any] = {
        "job": job.id,
        "state": job.state,
        "ahead": queue.ahead_of(job),
        "progress": {"done": done, "total": total, "what": what},
    }
    if job.state == FAILED:
        return JSONResponse({**told, "error": job.error}, 409)
    if job.state == DONE and job.found:
        trace, folder = job.found
        told["trace"] = {
            "id": trace.id,
            "page": f"/traces/{folder.parent.name}/{trace.id}/",
            "answer": trace.answer,
            "generated": trace.generated,
            "method": trace.method,
            "provenance": dict(trace.provenance),
            "originals": trace.originals.head(_TOLD).to_dicts(),
        }
    return JSONResponse(told, 200 if job.state in ENDED else 202)


def _folder(site: Site, slug: str, trace_id: str) -> Path:
    """The folder of a trace, found by looking: no text of a request becomes a part of a path."""
    root = next((site.home.traces(one.slug) for one in site.models() if one.slug == slug), None)
    folder = next((one for one in traces_in(root) if one.name == trace_id), None) if root else None
    if folder is None:
        raise NotThereError(f"There is no trace {trace_id} of {slug} here.")
    return folder


def _recent(site: Site) -> list[dict[str, str]]:
    """The newest traces of all models: model, prompt, answer, when, and the address of the page."""
    found = [(one, folder) for one in site.models() for folder in traces_in(site.home.traces(one.slug))[:_LISTED]]
    found.sort(key=lambda pair: (pair[1] / DOCUMENT).stat().st_mtime_ns, reverse=True)
    return [_listed(model, folder) for model, folder in found[:_LISTED]]


def _listed(model: Model, folder: Path) -> dict[str, str]:
    document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    return {
        "model": model.id,
        "prompt": document["prompt"],
        "answer": document["answer"],
        "method": document["method"],
        "traced": document["provenance"].get("traced", ""),
        "page": f"/traces/{model_slug(model.id)}/{folder.name}/",
    }
