"""Models side by side: their headline figures, and how they differ variant by variant."""

from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Query, Response

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.analysis.model_comparison import paired_differences
from gradsim_assets.core.analysis.report.headline import BESIDE
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, GRADIENT_SIMILARITY, MODEL_COMPARISON, SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.web.over_steps import Trajectory, trajectories
from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import Model, Site


def router(site: Site, pages: Pages) -> APIRouter:
    """`/compare?model=A&model=B`: the first beside the others; one alone stands beside its controls, none means all."""
    routes = APIRouter()

    @routes.get("/compare")
    def compare(model: Annotated[list[str] | None, Query()] = None) -> Response:
        chosen = _chosen(site, model or [])
        return pages.answer(
            "comparison.html.j2",
            models=chosen,
            differences={setting: _differences(chosen, setting) for setting in SETTINGS},
            trajectories=_trajectories(chosen),
            settings=SETTINGS,
            beside=BESIDE,
            slug=model_slug,
            table=site.dagster_page("model_comparison"),
        )

    return routes


def _chosen(site: Site, slugs: list[str]) -> list[Model]:
    if not slugs:
        return site.models()
    chosen = [site.model(slug) for slug in dict.fromkeys(slugs)]
    if len(chosen) == 1:
        chosen += [one for one in site.models() if one.control_of == chosen[0].id]
    return chosen


def _trajectories(models: list[Model]) -> list[Trajectory]:
    tables = Tables(load_settings().tables)
    if not any(one.checkpoint for one in models) or not tables.exists([MODEL_COMPARISON.name]):
        return []
    return trajectories(tables.read([MODEL_COMPARISON.name]), [one.id for one in models])


def _differences(models: list[Model], setting: str) -> list[dict[str, Any]]:
    tables = Tables(load_settings().tables)
    key = [GRADIENT_SIMILARITY.name, setting]
    having = [one for one in models if tables.exists(key, Partition(one.slug))]
    if len(having) < 2 or having[0] != models[0]:
        return []
    full = {one.id: tables.scan(key, [Partition(one.slug)]).filter(_OF_FULL_GRADIENT) for one in having}
    first = full.pop(having[0].id)
    return paired_differences(first, full)


_OF_FULL_GRADIENT = pl.col("component") == FULL_GRADIENT
