"""`bm25_candidates`: the originals that each variant is compared with."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.candidates.bm25_candidates import candidate_frame, top_candidates
from gradsim_assets.core.candidates.candidate_count import top_k
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, LIMA, PARAPHRASED
from gradsim_assets.core.tables.storage import fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, table_result
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.partitions import Partitions


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The candidates for one configuration."""
    default, most = settings.data.candidates, settings.most_candidates

    @dg.asset(
        group_name=groups.CANDIDATES,
        partitions_def=partitions.shards,
        kinds={"polars", "parquet"},
        metadata=column_schema(BM25_CANDIDATES),
        code_version=code_version(candidate_frame, config=f"{default} {most}"),
        description=(
            "The originals that each variant is compared with: BM25 over user prompts, the own original always among them "
            "(`forced` where BM25 alone would have missed it). Holds the most candidates that any model asks for; one that "
            "asks for fewer takes the best of them, its own original in place of the last one where it is not among those."
        ),
    )
    def bm25_candidates(
        context: dg.AssetExecutionContext, lima: pl.DataFrame, paraphrased: pl.DataFrame
    ) -> dg.MaterializeResult[pl.DataFrame]:
        frame = candidate_frame(lima, paraphrased, most)
        forced = int(frame["forced"].sum())
        context.log.info(f"{frame.height} pairs of {paraphrased.height} variants, {forced} own originals forced in")
        # What models without a number of their own use: for them nothing changes when another model asks for more.
        version = fingerprint(top_candidates(frame, top_k(default)))
        provenance = {
            "candidates": most,
            LIMA.name: fingerprint(lima),
            PARAPHRASED.name: fingerprint(paraphrased),
        }
        return table_result(
            BM25_CANDIDATES, frame, metadata={"forced": forced}, provenance=provenance, data_version=version
        )

    return [bm25_candidates]
