"""`report`: one HTML page per model, with its headline figures and plots beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets import __version__
from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.plots.of_table import plots_of
from gradsim_assets.core.analysis.plots.panels import Plot
from gradsim_assets.core.analysis.report import SettingResults, render_report, summary
from gradsim_assets.core.analysis.report.warnings import quantised_base
from gradsim_assets.core.candidates.bm25_candidates import model_candidates
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.candidates.chosen_candidates import among_an_index, chosen_candidates
from gradsim_assets.core.datasets.lacking import Lacking, lacking
from gradsim_assets.core.files import write_whole
from gradsim_assets.core.partition_keys import model_id_of
from gradsim_assets.core.tables.provenance import shown_provenance
from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    BM25_CANDIDATES,
    CONTROL_COMPARISON,
    DOT_PRODUCTS,
    FIRST_ORDER,
    GRADIENT_SIMILARITY,
    GREEDY_SELECTION,
    INDEX_CANDIDATES,
    LIMA,
    LINEAR_DATAMODELING_SCORE,
    MODEL_GENERATED,
    PARAMETERS_PER_COMPONENT,
    PARAPHRASED,
    REMOVAL,
    RETRIEVAL,
    RETRIEVAL_BY_GROUP,
    SAMPLE_COLUMNS,
    SELF_SIMILARITY,
    SETTINGS,
    TAIL_PATCH,
    TOKEN_ATTRIBUTION,
)
from gradsim_assets.core.tables.storage import Partition, Tables, fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.index import index_candidates
from gradsim_assets.defs.web_links import front_page_link, report_address
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.failures import fails_in_one_sentence
from gradsim_assets.orchestration.file_sizes import SIZE, size_shown
from gradsim_assets.orchestration.groups import ANALYSIS
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, MODELS, Partitions
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

#: The tables of one setting that the page is made of, by their names in `SettingResults`.
_TABLES = {
    "accuracy": ACCURACY_PER_COMPONENT.name,
    "agreement": AGREEMENT.name,
    "greedy": GREEDY_SELECTION.name,
    "self_similarity": SELF_SIMILARITY.name,
    "retrieval": RETRIEVAL.name,
}

#: With those that are made on request alone, and what sets the model beside its controls, if it has any.
_SHOWN = {
    "similarity": GRADIENT_SIMILARITY.name,
    **_TABLES,
    **{table.name: table.name for table in (FIRST_ORDER, TAIL_PATCH, LINEAR_DATAMODELING_SCORE, REMOVAL)},
    "controls": CONTROL_COMPARISON.name,
    "by_group": RETRIEVAL_BY_GROUP.name,
}


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The report of a model."""

    @dg.asset(
        group_name=ANALYSIS,
        partitions_def=MODELS,
        deps=[
            PARAMETERS_PER_COMPONENT.name,
            *(
                dg.AssetDep(asset_key(table, setting))
                for setting in SETTINGS
                for table in (*_SHOWN.values(), TOKEN_ATTRIBUTION.name)
            ),
            *(
                dg.AssetDep(table.name, partition_mapping=ALL)
                for table in (LIMA, SAMPLE_COLUMNS, PARAPHRASED, BM25_CANDIDATES)
            ),
            dg.AssetDep(MODEL_GENERATED.name, partition_mapping=BY_MODEL),
            *index_candidates.deps(settings, *SETTINGS, mapping=BY_MODEL),
        ],
        kinds={"plotly"},
        metadata=front_page_link(settings.web),
        code_version=code_version(
            "core.analysis.report",
            "defs.analysis.report:Sources",
            "defs.analysis.report:_write",
            *(["defs.analysis.report:LookedUpSources"] if settings.indexed else []),
        ),
        description=(
            "One self-contained HTML page: all plots, what they say in words, and a sample explorer that shows texts side "
            "by side with the similarity of every candidate over depth. Wrong decisions and divergent samples come first."
        ),
    )
    @fails_in_one_sentence
    def report(context: dg.AssetExecutionContext, store: TableStore, compute: Compute) -> dg.MaterializeResult:
        folder = compute.places.report(context.partition_key)
        link = _link(settings.web, context.partition_key)
        sources = sources_of(settings, store, context.partition_key, partitions.shards.get_partition_keys())
        return _write(context, sources, folder, link)

    return [report]


def sources_of(settings: Settings, store: TableStore, slug: str, shards: Sequence[str]) -> "Sources":
    """The tables of the model with a partition key, whose variants are cut into these shards."""
    kind = LookedUpSources if settings.indexed else Sources
    return kind(store, slug, shards)


class Sources:
    """The tables of one model, as far as there are any."""

    def __init__(self, store: TableStore, slug: str, shards: Sequence[str]) -> None:
        self.store, self.slug, self.shards = store, slug, shards
        self.model_id = model_id_of(slug)

    @property
    def tables(self) -> Tables:
        """All tables."""
        return self.store.tables

    def read(self, name: str, *rest: str) -> pl.DataFrame:
        """A table of the model; raises InputError where it is missing."""
        return self.tables.read([name, *rest], Partition(self.slug))

    def settings(self) -> dict[str, SettingResults]:
        """Results of the settings that this model has; imported ones may have one alone."""
        return {setting: self.setting(setting) for setting in SETTINGS if self.has(setting)}

    def has(self, setting: str) -> bool:
        """Whether there are results of a setting."""
        return self.tables.exists([RETRIEVAL.name, setting], Partition(self.slug))

    def setting(self, setting: str) -> SettingResults:
        """Results of a setting; raises InputError where there are none."""
        return SettingResults(
            similarity=self.tables.scan([GRADIENT_SIMILARITY.name, setting], [Partition(self.slug)]),
            **{name: self.read(table, setting) for name, table in _TABLES.items()},
            first_order=self.of_same_products(FIRST_ORDER.name, setting),
            tail_patch=self.of_same_products(TAIL_PATCH.name, setting),
            linear_datamodeling_score=self.retrained(LINEAR_DATAMODELING_SCORE.name, setting),
            removal=self.retrained(REMOVAL.name, setting),
            controls=self.of_same_products(CONTROL_COMPARISON.name, setting),
            by_group=self.of_same_products(RETRIEVAL_BY_GROUP.name, setting),
            token_attribution=self.of_same_products(TOKEN_ATTRIBUTION.name, setting),
            bm25=self.candidates(setting),
            variants=self.variants(setting),
            prompt_no_prefix=self.prompt_no_prefix(setting),
            checked_pairs=self.checked_pairs(setting),
            products=self.tables.provenance([RETRIEVAL.name, setting], Partition(self.slug)).get(DOT_PRODUCTS.name),
        )

    def of_same_products(self, table: str, setting: str) -> pl.DataFrame | None:
        """A table that may be missing, if it is there and was made from the very products that the page is about."""
        if not self.tables.exists([table, setting], Partition(self.slug)):
            return None
        made, shown = (
            self.tables.provenance([name, setting], Partition(self.slug)) for name in (table, RETRIEVAL.name)
        )
        same = made.get(DOT_PRODUCTS.name) == shown.get(DOT_PRODUCTS.name)
        return self.read(table, setting) if same else None

    def retrained(self, table: str, setting: str) -> pl.DataFrame | None:
        """What was evaluated by retraining, if it is there and of the revision, settings and texts that the page is about."""
        if not self.tables.exists([table, setting], Partition(self.slug)):
            return None
        made, shown = (
            self.tables.provenance([name, setting], Partition(self.slug)) for name in (table, RETRIEVAL.name)
        )
        same = all(made.get(entry) == shown.get(entry) for entry in ("revision", "settings", "dataset"))
        variants = self.variants(setting)
        of_texts = variants is not None and made.get(setting) == fingerprint(variants)
        return self.read(table, setting) if same and of_texts else None

    def candidates(self, setting: str) -> pl.DataFrame | None:
        """The candidates that the setting's gradients were computed for, if they are there."""
        if not all(self.tables.exists([BM25_CANDIDATES.name], Partition(shard=shard)) for shard in self.shards):
            return None
        source = self.tables.provenance([DOT_PRODUCTS.name, setting], Partition(self.slug, self.shards[0]))
        return model_candidates(self.tables, self.shards, source.get("candidates"))

    def variants(self, setting: str) -> pl.DataFrame | None:
        """The variants' texts, if they are there."""
        return self.store.variants(setting, self.slug, self.shards)

    def prompt_no_prefix(self, setting: str) -> int:
        """How many samples were encoded for the setting's gradients whose prompt is not what the whole begins with."""
        return sum(int(entry.get("prompt_no_prefix") or 0) for entry in self.of_products(setting))

    def checked_pairs(self, setting: str) -> int | None:
        """How many pairs of the setting were recomputed by plain autograd; None where a shard does not say."""
        counts = [entry.get("checked_pairs") for entry in self.of_products(setting)]
        return None if None in counts else sum(map(int, counts))  # type: ignore[arg-type]  # none is None

    def of_products(self, setting: str) -> list[dict[str, Any]]:
        """The provenance of every shard of the setting's products that is there."""
        parts = [Partition(self.slug, shard) for shard in self.shards]
        here = [part for part in parts if self.tables.exists([DOT_PRODUCTS.name, setting], part)]
        return [self.tables.provenance([DOT_PRODUCTS.name, setting], part) for part in here]

    def all_products(self) -> list[dict[str, Any]]:
        """As `of_products`, of every setting."""
        return [entry for setting in SETTINGS for entry in self.of_products(setting)]

    def dataset(self) -> str | None:
        """Where the originals came from, as their table says it; of a whole path the name. None where nobody knows."""
        if not self.tables.exists([LIMA.name]):
            return None
        source = self.tables.provenance([LIMA.name]).get("source")
        return PurePath(source).name if source and PurePath(source).is_absolute() else source

    def originals(self) -> pl.DataFrame | None:
        """The originals' texts, if they are there."""
        return self.store.optional([LIMA.name], [Partition()])

    def lacking(self) -> Lacking | None:
        """What the variants lack; None where nobody knows (imported results)."""
        paraphrased = self.variants(PARAPHRASED.name)
        return None if paraphrased is None else lacking(paraphrased, self.originals())

    def provenance(self) -> dict[str, Any]:
        """What led to the page's figures, from the files of the tables themselves."""
        products = {
            setting: [shown_provenance(entry) for entry in entries]
            for setting in SETTINGS
            if (entries := self.of_products(setting))
        }
        return {"gradsim": __version__, "tables": str(self.store.root), DOT_PRODUCTS.name: products}


@dataclass(frozen=True)
class _Told(Lacking):
    """What variants lack, with what else a reader must know of how the figures came about."""

    more: str = ""

    @property
    def sentences(self) -> list[str]:
        """As the base class has it."""
        return [*super().sentences, self.more]


class LookedUpSources(Sources):
    """The tables of a model in a configuration where an index gives candidates of some models."""

    def candidates(self, setting: str) -> pl.DataFrame | None:
        """As the base class has it."""
        asked = self._asked(setting)
        if not by_index(asked):
            return super().candidates(setting)
        shards = [Partition(shard=shard) for shard in self.shards]
        looked_up = [Partition(self.slug, shard) for shard in self.shards]
        if not (
            all(self.tables.exists([BM25_CANDIDATES.name], shard) for shard in shards)
            and all(self.tables.exists([INDEX_CANDIDATES.name, setting], shard) for shard in looked_up)
        ):
            return None
        return chosen_candidates(self.tables, self.slug, setting, self.shards, asked)

    def lacking(self) -> Lacking | None:
        """As the base class has it, with what it means that an index has chosen candidates."""
        found = super().lacking()
        said = among_an_index([self._asked(setting) for setting in SETTINGS])
        return _Told(**vars(found), more=said) if found and said else found

    def _asked(self, setting: str) -> int | str | None:
        return next((entry.get("candidates") for entry in self.of_products(setting)), None)


def _write(
    context: dg.AssetExecutionContext, sources: Sources, folder: Path, link: Mapping[str, Any]
) -> dg.MaterializeResult:
    settings = sources.settings()
    parameters = sources.read(PARAMETERS_PER_COMPONENT.name)
    revision = sources.tables.provenance([PARAMETERS_PER_COMPONENT.name], Partition(sources.slug)).get("revision")
    lacks = sources.lacking()
    page = render_report(
        sources.model_id,
        revision,
        parameters,
        settings,
        sources.originals(),
        {**sources.provenance(), "report run": context.run.run_id},
        (*(lacks.sentences if lacks else ()), *quantised_base(sources.all_products())),
        sources.dataset(),
        datetime.now(UTC).date(),
        sources.store.optional([SAMPLE_COLUMNS.name], [Partition()]),
    )
    retrievals = {setting: results.retrieval for setting, results in settings.items()}
    comparisons = {setting: results.controls for setting, results in settings.items()}
    scores = {setting: results.linear_datamodeling_score for setting, results in settings.items()}
    missing = lacks.count if lacks else None
    headline = summary(sources.model_id, revision, parameters, retrievals, missing, comparisons, scores)
    plots = _plots(settings, parameters)
    for setting, drawn in plots.items():
        for plot in drawn:
            write_whole(folder / "plots" / setting / f"{plot.name}.png", plot.png)
            write_whole(folder / "plots" / setting / f"{plot.name}.svg", plot.svg)
    write_whole(folder / "summary.json", json.dumps(headline, indent=2) + "\n")
    write_whole(folder / "index.html", page)
    context.log.info(f"Report: {folder / 'index.html'}")
    return dg.MaterializeResult(
        metadata={
            **link,
            "summary": dg.MetadataValue.json(headline),
            "path": dg.MetadataValue.path(str(folder / "index.html")),
            SIZE: size_shown(len(page.encode())),
        }
    )


def _link(web: str, slug: str) -> dict[str, Any]:
    """The page where it is served: browsers follow no link from a page of a server to a file."""
    return {"report": dg.MetadataValue.url(report_address(web, slug))} if web else {}


def _plots(settings: Mapping[str, SettingResults], parameters: pl.DataFrame) -> dict[str, list[Plot]]:
    """All plots by setting; those of the model itself under an empty name."""
    plots = {"": plots_of(PARAMETERS_PER_COMPONENT.name, parameters)}
    for setting, results in settings.items():
        plots[setting] = [
            plot
            for name, table in _SHOWN.items()
            if getattr(results, name) is not None
            for plot in plots_of(table, getattr(results, name), setting, results.retrieval)
        ]
    return plots
