"""What the tables that come out of gradient passes have in common, whatever pairs they are of."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.gradients.numerics_version import (
    NUMERICS_VERSION,
    PRECONDITIONERS_VERSION,
    PROJECTIONS_VERSION,
)
from gradsim_assets.core.tables.schemas import (
    ALL_PAIRS,
    ALL_PAIRS_PRECONDITIONED,
    ALL_PAIRS_PROJECTED,
    CURVATURE,
    DOT_PRODUCTS,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
)
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.core.tables.table_schema import TableSchema
from gradsim_assets.defs.models.hf_model import revision_tags
from gradsim_assets.defs.table_results import saved_table_result
from gradsim_assets.orchestration.asset_keys import asset_key, table_path
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.table_store import TableStore

if TYPE_CHECKING:
    from gradsim_assets.core.gradients.engine import PassResult
    from gradsim_assets.core.gradients.pass_inputs import PassInputs

#: Where it is declared what the numbers are; projections are made of the gradients that products are made of.
_DECLARED = "core.gradients.numerics_version"

_DECLARED_VERSIONS = {
    "NUMERICS_VERSION": NUMERICS_VERSION,
    "PROJECTIONS_VERSION": PROJECTIONS_VERSION,
    "PRECONDITIONERS_VERSION": PRECONDITIONERS_VERSION,
}

_PLAIN = {DOT_PRODUCTS.name, ALL_PAIRS.name}
_PROJECTED = {PROJECTED_SIMILARITY.name, ALL_PAIRS_PROJECTED.name}
_PRECONDITIONED = {PRECONDITIONED_PRODUCTS.name, ALL_PAIRS_PRECONDITIONED.name}


@dataclass(frozen=True)
class FinishedPass:
    """A pass over one partition, out of which tables are kept; `made_from` and `curvature` say what it was given."""

    context: dg.AssetExecutionContext
    store: TableStore
    compute: Compute
    partition: Partition
    inputs: "PassInputs"
    result: "PassResult"
    device: str
    made_from: tuple[str, ...]
    curvature: Mapping[str, str]

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the UI shows of the pass, whichever the table."""
        return {**self.inputs.counts, **self.compute.metadata(self.result)}

    def saved(
        self, key: dg.AssetKey, frame: pl.DataFrame | pl.LazyFrame, provenance: Mapping[str, Any]
    ) -> dg.MaterializeResult:
        """One of its tables, written; `provenance` says of which texts it is."""
        from gradsim_assets.core.gradients.inputs_version import inputs_version

        table, setting = table_path(key)
        used, code = made_of(table, self.curvature), self.context.assets_def.specs_by_key[key].code_version
        sizes = {"proportions": list(self.inputs.request.projections[setting])} if is_projected(table) else {}
        made_from = (*self.made_from, self.compute.libraries(is_projected(table), self.device), *used.values())
        return saved_table_result(
            self.context,
            self.store,
            key,
            frame,
            self.partition,
            metadata=self.metadata,
            provenance={
                **provenance,
                **sizes,
                "numerics": numerics(table),
                **{f"curvature/{kind}": made for kind, made in used.items()},
            },
            tags=revision_tags(self.context),
            data_version=inputs_version(self.inputs.request, setting, code, *made_from),
        )


class Asked(NamedTuple):
    """What a pass is to make: settings of plain products, and by setting sizes of projections and preconditioners."""

    products: list[str]
    projections: Mapping[str, tuple[float, ...]]
    preconditioned: Mapping[str, tuple[str, ...]]


def asked(selected: Iterable[tuple[str, ...]], settings: Settings, compute: Compute) -> Asked:
    """What a pass is to make for tables, given by their paths."""
    paths = list(selected)

    def of(tables: Collection[str]) -> list[str]:
        return [setting for table, setting in paths if table in tables]

    sizes, methods = tuple(compute.projections), tuple(settings.preconditioners.methods)
    return Asked(of(_PLAIN), dict.fromkeys(of(_PROJECTED), sizes), dict.fromkeys(of(_PRECONDITIONED), methods))


def configured(settings: Settings, tables: Iterable[TableSchema]) -> list[TableSchema]:
    """Those of the tables that there are in one configuration: without methods none is of preconditioners."""
    return [table for table in tables if settings.preconditioners.methods or table.name not in _PRECONDITIONED]


def curvature_deps(settings: Settings, mapping: dg.PartitionMapping | None = None) -> list[dg.AssetDep]:
    """The curvature of every method, which all tables of a pass depend on: nothing but those of preconditioners read it (see
    `waits_only`)."""
    keys = [asset_key(CURVATURE.name, kind) for kind in settings.preconditioners.methods]
    return [dg.AssetDep(key, partition_mapping=mapping) if mapping else dg.AssetDep(key) for key in keys]


def quantised(result: "PassResult") -> dict[str, Any]:
    """What the provenance says of a base that is quantised."""
    report = result.report
    return {"quantised": report.quantised, "dequantised_error": report.dequantised_error} if report.quantised else {}


def is_projected(table: str) -> bool:
    """Whether a table is of projections."""
    return table in _PROJECTED


def holds_nothing(table: str, result: "PassResult", setting: str) -> bool:
    """Whether a pass has made nothing of a table: one of projections, where no size of them is configured."""
    return is_projected(table) and setting not in result.projected


def made_of(table: str, curvature: Mapping[str, str]) -> Mapping[str, str]:
    """By kind the data versions of the curvature that a table was made from, out of those that its pass was given."""
    return curvature if table in _PRECONDITIONED else {}


def declared(table: str) -> list[str]:
    """The declared versions that decide a table, as roots of its code version."""
    return [f"{_DECLARED}:{name}" for name in _versions(table)]


def numerics(table: str) -> str:
    """The declared versions that a table was computed under."""
    return " ".join(str(_DECLARED_VERSIONS[name]) for name in _versions(table))


def decides(settings: Settings, table: str) -> str:
    """What of the configuration the values of a table depend on."""
    chosen: Collection[str] = ("projections", "projection", "projection_weighting") if is_projected(table) else ()
    # How curvature is computed decides the curvature, which preconditioned products are made from.
    tuning = settings.preconditioners.model_dump_json(include={"methods", "damping", "epsilon"})
    precision = settings.compute.model_dump_json(include={"precision", *chosen})
    return precision + (tuning if table in _PRECONDITIONED else "")


def _versions(table: str) -> tuple[str, ...]:
    more = {"PROJECTIONS_VERSION": _PROJECTED, "PRECONDITIONERS_VERSION": _PRECONDITIONED}
    return ("NUMERICS_VERSION", *(name for name, tables in more.items() if table in tables))
