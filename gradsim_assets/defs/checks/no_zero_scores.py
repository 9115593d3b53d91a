"""A check that shows candidates of which BM25 knows nothing."""

import dagster as dg
import polars as pl

from gradsim_assets.core.candidates.bm25_candidates import top_candidates
from gradsim_assets.core.candidates.candidate_count import Candidates, top_k
from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.schemas import BM25_CANDIDATES, LIMA
from gradsim_assets.core.tables.storage import Tables
from gradsim_assets.defs.checks.shard_warning import shard_warning
from gradsim_assets.orchestration.partitions import Partitions

ZERO_SCORES = "no_zero_scores"


def zero_scores(partitions: Partitions, default: Candidates) -> dg.AssetChecksDefinition:
    """Looks at the candidates of models without a number of their own."""

    def findings(frame: pl.DataFrame, tables: Tables) -> soundness.Findings:
        return soundness.zero_score_findings(top_candidates(frame, top_k(default)), tables.read([LIMA.name]).height)

    return shard_warning(
        ZERO_SCORES,
        "candidates_scored",
        BM25_CANDIDATES,
        partitions,
        findings,
        "BM25 gives every candidate a score; one of score 0 shares no token with the variant and is no near rival.",
    )
