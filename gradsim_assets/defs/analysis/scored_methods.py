"""What the methods of retrieval score pairs by: which tables that is read from, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dagster as dg
import numpy as np
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.analysis.retrieval import order_as_bm25, text_overlap
from gradsim_assets.core.candidates.candidate_choice import by_index
from gradsim_assets.core.candidates.chosen_candidates import chosen_candidates
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.schemas import (
    BM25_CANDIDATES,
    DOT_PRODUCTS,
    LIMA,
    PARAMETERS_PER_COMPONENT,
    PARAPHRASED,
    PRECONDITIONED_PRODUCTS,
    PROJECTED_SIMILARITY,
    TRACIN,
)
from gradsim_assets.core.tables.storage import Partition
from gradsim_assets.defs.code_version import Root
from gradsim_assets.defs.index import index_candidates
from gradsim_assets.orchestration.asset_keys import asset_key
from gradsim_assets.orchestration.partitions import ALL, BY_MODEL, Partitions
from gradsim_assets.resources.table_store import TableStore


class Scores(NamedTuple):
    """What `core.analysis.retrieval.methods` takes of one model, and the texts of its variants where they are known."""

    pairs: PairProducts
    by_method: dict[str, Any]
    variants: pl.DataFrame | None
    is_imported: bool


@dataclass(frozen=True)
class ScoredMethods:
    """The methods of one setting under one configuration."""

    setting: str
    preconditioners: Sequence[str]
    over_checkpoints: bool
    partitions: Partitions
    #: What is read besides where an index gives candidates.
    looked_up: Sequence[dg.AssetDep] = ()

    #: What decides the scores, for code versions.
    code: tuple[Root, ...] = (order_as_bm25, text_overlap)

    @classmethod
    def configured(cls, setting: str, settings: Settings, partitions: Partitions) -> "ScoredMethods":
        """Those of a configuration."""
        over_checkpoints = bool(settings.trajectories) and setting in TRACIN.parts
        looked_up = index_candidates.deps(settings, setting, mapping=BY_MODEL)
        return cls(setting, settings.preconditioners.methods, over_checkpoints, partitions, looked_up)

    @property
    def config(self) -> str:
        """What of the configuration decides the scores."""
        return " ".join((*self.preconditioners, *(self._summed if self.over_checkpoints else ())))

    @property
    def ins(self) -> dict[str, dg.AssetIn]:
        """The inputs that an asset is handed."""
        return {
            "dot_products": dg.AssetIn(asset_key(DOT_PRODUCTS.name, self.setting), partition_mapping=BY_MODEL),
            "parameters": dg.AssetIn(PARAMETERS_PER_COMPONENT.name),
        }

    @property
    def deps(self) -> list[dg.AssetDep]:
        """What else is read."""
        return [
            dg.AssetDep(asset_key(PROJECTED_SIMILARITY.name, self.setting), partition_mapping=BY_MODEL),
            *(dg.AssetDep(table.name, partition_mapping=ALL) for table in (LIMA, BM25_CANDIDATES)),
            *([dg.AssetDep(asset_key(*self._under), partition_mapping=BY_MODEL)] if self.preconditioners else []),
            *([dg.AssetDep(asset_key(*self._summed))] if self.over_checkpoints else []),
            *self.looked_up,
            dg.AssetDep(self.setting, partition_mapping=ALL if self.setting == PARAPHRASED.name else BY_MODEL),
        ]

    @property
    def _under(self) -> list[str]:
        return [PRECONDITIONED_PRODUCTS.name, self.setting]

    @property
    def _summed(self) -> list[str]:
        return [TRACIN.name, self.setting]

    def read(self, model: str, dot_products: pl.LazyFrame, parameters: pl.DataFrame, store: TableStore) -> Scores:
        """The scores of the model with this partition key."""
        setting, shards = self.setting, self.partitions.shards.get_partition_keys()
        pairs = PairProducts.from_frame(dot_products, parameters["component"].to_list())
        of_model = [Partition(model, shard) for shard in shards]
        # Imported results have no scores of ours, only the order of their candidates.
        source = store.tables.provenance([DOT_PRODUCTS.name, setting], of_model[0])
        imported = source.get("imported")
        bm25 = None if imported else store.optional([BM25_CANDIDATES.name], [Partition(shard=s) for s in shards])
        if bm25 is not None and by_index(source.get("candidates")):
            bm25 = chosen_candidates(store.tables, model, setting, shards, source["candidates"])
        variants = None if imported else store.variants(setting, model, shards)
        scores = {
            "projected": store.optional([PROJECTED_SIMILARITY.name, setting], of_model),
            "bm25": order_as_bm25(pairs) if bm25 is None else bm25,
            "parameters": parameters,
            "overlap": None if variants is None else _overlap(pairs, variants, store),
            "preconditioned": store.optional(self._under, of_model) if self.preconditioners else None,
            "tracin": store.optional(self._summed, [Partition(model)]) if self.over_checkpoints else None,
        }
        return Scores(pairs, scores, variants, bool(imported))


def _overlap(pairs: PairProducts, variants: pl.DataFrame, store: TableStore) -> np.ndarray | None:
    """The overlap of the texts of all pairs; None where a text is not there any more, as under products that are stale."""
    originals = store.optional([LIMA.name], [Partition()])
    found = None if originals is None else text_overlap(pairs.candidates, variants, originals)
    return None if found is None or np.isnan(found).any() else found
