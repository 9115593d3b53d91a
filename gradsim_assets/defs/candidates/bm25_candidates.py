"""`bm25_candidates`: the originals that each variant is compared with."""

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.candidates.bm25_candidates import candidate_frame, top_candidates, zero_score_places
from gradsim_assets.core.candidates.candidate_choice import by_index, held_by_bm25
from gradsim_assets.core.candidates.candidate_count import top_k
from gradsim_assets.core.datasets.lacking import lacking
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, LIMA, PARAPHRASED
from gradsim_assets.core.tables.storage import fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.table_results import column_schema, table_result, version_of
from gradsim_assets.orchestration import groups
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.model_hub import ModelHub


def build(settings: Settings, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """The candidates for one configuration."""
    default, most = held_by_bm25(settings.data.candidates), settings.most_candidates
    zero_scores, beside = settings.data.zero_scores, ["index"] if by_index(settings.data.candidates) else []
    model = settings.retriever_model

    @dg.asset(
        group_name=groups.CANDIDATES,
        partitions_def=partitions.shards,
        kinds={"polars", "parquet"},
        metadata=column_schema(BM25_CANDIDATES),
        code_version=code_version(
            candidate_frame, config=" ".join((f"{default} {most} {model} {zero_scores}", *beside))
        ),
        retry_policy=RETRIES if model else None,  # the hub may be asked for its tokenizer
        description=(
            "The originals that each variant is compared with: BM25 over user prompts, the own original always among them "
            "(`forced` where BM25 alone would have missed it). Holds the most candidates that any model asks for; one that "
            "asks for fewer takes the best of them, its own original in place of the last one where it is not among those. "
            "Places that only originals of score 0 could take say nothing of nearness: see `zero_score`."
        ),
    )
    @fails_in_one_sentence
    def bm25_candidates(
        context: dg.AssetExecutionContext, lima: pl.DataFrame, paraphrased: pl.DataFrame, hub: ModelHub
    ) -> dg.MaterializeResult[pl.DataFrame]:
        tokens, cut_by = hub.retriever_tokens(model)
        frame = candidate_frame(lima, paraphrased, most, tokens, zero_scores)
        # What models without a number of their own use: for them nothing changes when another model asks for more.
        used = top_candidates(frame, top_k(default))
        forced, zero = int(frame["forced"].sum()), zero_score_places(used, lima.height)
        variants, missing = zero["variant_id"].n_unique(), lacking(paraphrased).count
        context.log.info(
            f"{frame.height} pairs of {paraphrased.height - missing} variants, {forced} own originals forced in; {zero.height} "
            f"candidates of {variants} variants have a score of 0"
        )
        retriever = f"zero_scores={zero_scores} tokens={cut_by}"
        provenance = {
            "candidates": most,
            "retriever": retriever,
            LIMA.name: fingerprint(lima),
            PARAPHRASED.name: fingerprint(paraphrased),
        }
        metadata = {
            "forced": forced,
            "missing": missing,
            "zero_scores/variants": variants,
            "zero_scores/candidates": zero.height,
        }
        return table_result(
            BM25_CANDIDATES,
            frame,
            metadata=metadata,
            provenance=provenance,
            # What is made of shards whose candidates were found in different ways is refused, so that the way counts, too.
            # So does it that the index of a model gives others beside them.
            data_version=version_of(fingerprint(used), retriever, *beside),
        )

    return [bm25_candidates]
