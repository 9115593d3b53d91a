"""One sample under two models, side by side: what each ranks highest, with texts, figures and checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import polars as pl
from fastapi import APIRouter, Response

from gradsim_assets.configuration import load_settings
from gradsim_assets.core.analysis.model_comparison import paired_differences
from gradsim_assets.core.analysis.plots import wording
from gradsim_assets.core.analysis.report.explorer import texts
from gradsim_assets.core.analysis.sample_comparison import DECIDED, SampleUnderModel, decisions, under_model
from gradsim_assets.core.partition_keys import shard_keys
from gradsim_assets.core.tables.schemas import FULL_GRADIENT, GRADIENT_SIMILARITY, LIMA, SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.resources.table_store import TableStore
from gradsim_assets.web.over_depth import OverDepth, common_scale, over_depth
from gradsim_assets.web.over_steps import Panel, panel
from gradsim_assets.web.rendering import Pages
from gradsim_assets.web.site import Model, NotThereError, Site

#: Originals listed of each model.
MOST = 10

#: Scripts of this page come from this server, and nothing else does: texts are other people's.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Side:
    """One model's half of the page."""

    model: Model
    sample: SampleUnderModel
    read: str  # the original whose text is shown
    original: Sequence[Sequence[str]] | None  # [role, text] of every message
    variant: Sequence[Sequence[str]] | None
    figure: OverDepth
    report: str  # the same sample in the model's report; empty where there is none


def router(site: Site, pages: Pages) -> APIRouter:
    """`/compare/sample?first=A&second=B&setting=S&sample=ID&component=C`; what is left out is chosen, `original` is the one that is read."""
    routes = APIRouter()

    @routes.get("/compare/sample")
    def sample(
        first: str,
        second: str,
        setting: str = SETTINGS[0],
        sample: str = "",
        component: str = FULL_GRADIENT,
        original: str = "",
    ) -> Response:
        if setting not in SETTINGS:
            raise NotThereError(f"There is no setting {setting}; it is one of {', '.join(SETTINGS)}.")
        comparison = _Comparison(site, (site.model(first), site.model(second)), setting)
        values = comparison.page(sample, component, original)
        return pages.answer("sample.html.j2", headers={"Content-Security-Policy": _POLICY}, **values)

    return routes


class _Comparison:
    """Two models in one setting."""

    def __init__(self, site: Site, models: tuple[Model, Model], setting: str) -> None:
        settings = load_settings()
        self.site, self.models, self.setting = site, models, setting
        self.tables = Tables(settings.tables)
        self.store = TableStore(root=settings.tables)
        self.shards = shard_keys(settings.data.shards)
        lacking = next((model for model in models if not self._has(model)), None)
        if lacking is not None:
            name = wording.setting_name(setting)
            raise NotThereError(f"{lacking.id} has no {name} similarities yet; `gradsim run {lacking.id}` makes them.")

    def page(self, sample: str, component: str, original: str) -> dict[str, Any]:
        """What the template needs."""
        rows = [self._similarity(model) for model in self.models]
        names = self._components(rows)
        if component not in names:
            raise NotThereError(f"Not both of these models have a component {component}.")
        chosen = [frame.filter(pl.col("component") == component) for frame in rows]
        decided = decisions(*chosen)
        variants = decided["variant_id"].to_list()
        if not variants:
            raise NotThereError(
                f"{self.models[0].id} and {self.models[1].id} have no {wording.setting_name(self.setting)} variant with the same "
                "candidates in common, so that there is nothing to compare."
            )
        shown = sample if sample in variants else variants[0]
        samples = [under_model(frame, shown, component) for frame in rows]
        scale = common_scale(samples)
        sides = [
            self._side(model, under, over_depth(under, component, scale), f"{shown}/{component}", original)
            for model, under in zip(self.models, samples, strict=True)
        ]
        return {
            "sides": sides,
            "models": self.site.models(),
            "settings": SETTINGS,
            "setting": self.setting,
            "sample": shown,
            "wanted": sample if sample != shown else "",
            "component": component,
            "components": names,
            "decided": {one: decided.filter(decided=one)["variant_id"].to_list() for one in DECIDED},
            "difference": self._difference(chosen),
            "runs": self._runs(shown, component),
            "most": MOST,
            "reading": lambda name: f"?{urlencode({**self._address(shown, component), 'original': name})}",
            "swapped": f"?{urlencode(self._address(shown, component, swapped=True))}",
        }

    def _address(self, sample: str, component: str, swapped: bool = False) -> dict[str, str]:
        first, second = reversed(self.models) if swapped else self.models
        chosen = {"setting": self.setting, "sample": sample, "component": component}
        return {"first": first.slug, "second": second.slug, **chosen}

    def _has(self, model: Model) -> bool:
        return self.tables.exists([GRADIENT_SIMILARITY.name, self.setting], Partition(model.slug))

    def _similarity(self, model: Model) -> pl.LazyFrame:
        return self.tables.scan([GRADIENT_SIMILARITY.name, self.setting], [Partition(model.slug)])

    def _components(self, rows: Sequence[pl.LazyFrame]) -> list[str]:
        """The full gradient, and the components that both models have, in the order of the first."""
        first, second = (
            frame.select(pl.col("component").unique(maintain_order=True)).collect()["component"].to_list()
            for frame in rows
        )
        shared = [name for name in first if name in set(second) and name != FULL_GRADIENT]
        return [FULL_GRADIENT, *shared]

    def _side(self, model: Model, under: SampleUnderModel, figure: OverDepth, place: str, original: str) -> Side:
        sample, listed = under.variant, under.ranked["original_id"].to_list()
        read = original if original in listed else (listed[0] if listed else sample)
        variants = self.store.variants(self.setting, model.slug, self.shards)
        originals = self.store.optional([LIMA.name], [Partition()])
        return Side(
            model,
            under,
            read,
            (texts(originals, {read}) or {}).get(read),
            (texts(variants, {sample}) or {}).get(sample),
            figure,
            f"/reports/{model.slug}/#{self.setting}/{place}" if model.summary else "",
        )

    def _difference(self, chosen: Sequence[pl.LazyFrame]) -> dict[str, Any] | None:
        found = paired_differences(chosen[0], {self.models[1].id: chosen[1]})
        return found[0] if found else None

    def _runs(self, sample: str, component: str) -> dict[str, Panel]:
        """By run how the sample came to be known over its checkpoints, where either model is one of several."""
        runs = dict.fromkeys(model.checkpoint.run for model in self.models if model.checkpoint)
        found = {run: self._over_steps(run, sample, component) for run in runs}
        return {run: drawn for run, drawn in found.items() if drawn is not None}

    def _over_steps(self, run: str, sample: str, component: str) -> Panel | None:
        steps = [
            (model.checkpoint.step, under_model(self._similarity(model), sample, component))
            for model in self.site.models()
            if model.checkpoint and model.checkpoint.run == run and self._has(model)
        ]
        rows = [
            {"step": step, "method": name, "similarity": value}
            for step, under in steps
            for name, value in (("own original", _own(under)), ("best of the others", _rival(under)))
            if value is not None
        ]
        if len({row["step"] for row in rows}) < 2:
            return None
        none = pl.lit(None, pl.Float64)
        frame = pl.DataFrame(rows).with_columns(similarity_low=none, similarity_high=none)
        return panel(frame.sort("method", "step", descending=[True, False]), "similarity", wording.SIMILARITY)


def _own(under: SampleUnderModel) -> float | None:
    found = under.ranked.filter(original_id=under.variant)["similarity"]
    return None if found.is_empty() else found[0]


def _rival(under: SampleUnderModel) -> float | None:
    highest = under.ranked.filter(pl.col("original_id") != under.variant)["similarity"].max()
    return None if highest is None else float(highest)  # type: ignore[arg-type]  # a number
