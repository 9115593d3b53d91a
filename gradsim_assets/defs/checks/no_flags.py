"""A check that shows missing and doubtful paraphrases."""

import dagster as dg

from gradsim_assets.core.tables import soundness
from gradsim_assets.core.tables.schemas import PARAPHRASED
from gradsim_assets.defs.checks.shard_warning import shard_warning
from gradsim_assets.orchestration.partitions import Partitions

FLAGS = "no_flags"


def flags(partitions: Partitions) -> dg.AssetChecksDefinition:
    """The check of the column `flag`, for one configuration."""
    return shard_warning(
        FLAGS,
        "paraphrases_unflagged",
        PARAPHRASED,
        partitions,
        lambda frame, _: soundness.flag_findings(frame),
        "No paraphrase is missing (refused, cut, identical, ...) or doubtful (in another language, answered in place of "
        "rewritten, ...).",
    )
