"""What the tables of the analyses must fulfil: each is held against the tables that it was made from."""

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.tables import analysis_soundness, soundness
from gradsim_assets.core.tables.schemas import (
    ACCURACY_PER_COMPONENT,
    AGREEMENT,
    CONTROL_COMPARISON,
    DOT_PRODUCTS,
    FULL_GRADIENT,
    GREEDY_SELECTION,
    PARAMETERS_PER_COMPONENT,
    RETRIEVAL,
    RETRIEVAL_BY_GROUP,
    SELF_SIMILARITY,
    TABLES,
    TRACIN,
)
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.resources.table_store import TableStore

Rules = Callable[[TableStore, Sequence[str], Partition, pl.DataFrame], soundness.Findings]

#: Products are gone through again where there are at most so many rows (a minute on one core); ranges and sums are checked always.
MOST_ROWS = 20_000_000


def analysis_rules(shards: Sequence[str]) -> Rules:
    """What every table of an analysis must fulfil: ranges, intervals, ranks that are possible; and what is known of it by name."""

    def rules(store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame) -> soundness.Findings:
        schema = TABLES[key[0]]
        found = analysis_soundness.range_findings(schema, frame)
        if {"accuracy", "mrr"} <= set(frame.columns):
            found += analysis_soundness.rank_findings(schema, frame)
        own = _OF_TABLE.get(key[0])
        return found + (own(_Sources(store, key, partition, shards), frame) if own else [])

    return rules


class _Sources:
    """What a table was made from."""

    def __init__(self, store: TableStore, key: Sequence[str], partition: Partition, shards: Sequence[str]) -> None:
        self.store, self.key, self.partition = store, key, partition
        self._parts = [Partition(partition.model, shard) for shard in shards]

    @property
    def products(self) -> pl.LazyFrame:
        """The products of the model's pairs; raises InputError where a shard is missing."""
        return self.store.tables.scan([DOT_PRODUCTS.name, self.key[1]], self._parts)

    def decided(self) -> pl.DataFrame | None:
        """What the products say; None where that is not to be told: of imported results, or of too many rows."""
        imported = self.store.tables.provenance([DOT_PRODUCTS.name, self.key[1]], self._parts[0]).get("imported")
        if imported or self.products.select(pl.len()).collect().item() > MOST_ROWS:
            return None
        return analysis_soundness.decisions(self.products)

    def components(self) -> list[str]:
        """The components that there are products of."""
        return list(self.products.select(pl.col("component").unique()).collect()["component"])

    def retrieval(self) -> pl.DataFrame | None:
        """The table `retrieval` of the same products; None where it is not there or was made from others."""
        tables, name = self.store.tables, [RETRIEVAL.name, self.key[1]]
        if not tables.exists(name, self.partition):
            return None
        made, here = (tables.provenance(one, self.partition).get(DOT_PRODUCTS.name) for one in (name, self.key))
        return tables.read(name, self.partition) if made == here else None


def _accuracies(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    found = soundness.component_findings(frame, sources.components()) + analysis_soundness.named_findings(frame)
    decided = sources.decided()
    return found + ([] if decided is None else analysis_soundness.decision_findings(frame, decided))


def _agreements(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    found = soundness.component_findings(frame, sources.components()) + analysis_soundness.named_findings(frame)
    decided = sources.decided()
    return found + ([] if decided is None else analysis_soundness.agreement_of_products(frame, decided))


def _selections(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    return analysis_soundness.selection_findings(frame, sources.components(), sources.decided())


def _own_pairs(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    products = sources.products
    variants, components = products.select(pl.col("variant_id").unique()).collect(), sources.components()
    found = soundness.component_findings(frame, components)
    if frame.height != variants.height * len(components):
        found.append(f"{frame.height} rows are not {variants.height} variants x {len(components)} components")
    return found + analysis_soundness.own_pair_findings(frame, products)


def _retrieval(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    found = analysis_soundness.retrieval_findings(frame)
    decided = sources.decided()
    if decided is None:
        return found
    variants = max(decided["variants"].to_list(), default=0)
    if frame.height and frame["variants"].unique().to_list() != [variants]:
        found.append(f"{frame['variants'][0]} variants were scored, where there are products of {variants}")
    of_components = frame.filter(method="best_component").with_columns(method="component").drop_nulls("method")
    told = pl.concat([frame.filter(method=FULL_GRADIENT), of_components])
    return found + analysis_soundness.decision_findings(told, decided, "method")


def _groups(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    return analysis_soundness.group_findings(frame, sources.retrieval())


def _sizes(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    found = [] if frame.height else ["there is no component"]
    return found + analysis_soundness.size_findings(frame)


def _controls(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    strange = sorted(set(frame["component"]) - {*sources.components(), FULL_GRADIENT})
    found = [f"{len(strange)} components are not the model's, such as {strange[0]}"] if strange else []
    return found + analysis_soundness.paired_findings(frame)


def _sums(sources: _Sources, frame: pl.DataFrame) -> soundness.Findings:
    if frame.is_empty():  # of a model that is no checkpoint, or has none before it
        return []
    pairs = sources.products.select("variant_id", "original_id").unique().collect()
    return soundness.pair_findings(frame.with_columns(component=pl.lit("")), pairs, "component")


_OF_TABLE: Mapping[str, Callable[[_Sources, pl.DataFrame], soundness.Findings]] = {
    PARAMETERS_PER_COMPONENT.name: _sizes,
    ACCURACY_PER_COMPONENT.name: _accuracies,
    AGREEMENT.name: _agreements,
    GREEDY_SELECTION.name: _selections,
    SELF_SIMILARITY.name: _own_pairs,
    RETRIEVAL.name: _retrieval,
    RETRIEVAL_BY_GROUP.name: _groups,
    CONTROL_COMPARISON.name: _controls,
    TRACIN.name: _sums,
}


def comparison_rules(
    store: TableStore, key: Sequence[str], partition: Partition, frame: pl.DataFrame
) -> soundness.Findings:
    """What `model_comparison` must fulfil: every row is one of its model's `retrieval`, as far as that is of the same revision."""
    schema = TABLES[key[0]]
    found = analysis_soundness.range_findings(schema, frame) + analysis_soundness.rank_findings(schema, frame)
    revisions = store.tables.provenance(key).get("revisions") or {}
    for model, setting in frame.select("model", "setting").unique(maintain_order=True).iter_rows():
        name, place = [RETRIEVAL.name, setting], Partition(model_slug(model))
        if not store.tables.exists(name, place):
            continue  # the model was removed meanwhile
        if store.tables.provenance(name, place).get("revision") == revisions.get(model):
            found += analysis_soundness.compared_findings(frame, store.tables.read(name, place), model, setting)
    return found
