"""The asset `paraphrased`: the originals rewritten, from a file or by a chat model."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.configuration import Settings
from gradsim_assets.core.datasets.lacking import lacking
from gradsim_assets.core.datasets.originals_source import content_version
from gradsim_assets.core.datasets.paraphrased import OPENAI, given_paraphrases, written_paraphrases
from gradsim_assets.core.datasets.paraphrasing import SYSTEM_PROMPT, paraphrase_samples
from gradsim_assets.core.partition_keys import shard_slice
from gradsim_assets.core.samples import Sample
from gradsim_assets.core.tables.schemas import LIMA, PARAPHRASED
from gradsim_assets.core.tables.storage import fingerprint
from gradsim_assets.defs.code_version import code_version
from gradsim_assets.defs.datasets.lima import OTHER_COLUMNS
from gradsim_assets.defs.datasets.paraphrases_source import PARAPHRASES_SOURCE
from gradsim_assets.defs.progress import progress
from gradsim_assets.defs.table_results import column_schema, table_result, version_of
from gradsim_assets.demo import DEMO
from gradsim_assets.orchestration.failures import RETRIES, fails_in_one_sentence
from gradsim_assets.orchestration.groups import DATASETS
from gradsim_assets.orchestration.observations import made_from, record, source_sighting
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets.resources.paraphraser import Paraphraser
from gradsim_assets.resources.sample_sources import SampleSources


def build(settings: Settings, partitions: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=DATASETS,
        partitions_def=partitions.shards,
        kinds={"polars", "parquet"},
        metadata=column_schema(PARAPHRASED),
        code_version=code_version(
            "resources.sample_sources",
            "core.datasets.paraphrased",
            "core.datasets.paraphrasing:paraphrase_samples",
            "resources.paraphraser",
            shard_slice,
            "core.tables.schemas:PARAPHRASED",
            config=f"{_provider(settings)} shards={partitions.shard_count}",
            without=OTHER_COLUMNS,
        ),
        deps=[] if settings.data.paraphrases == OPENAI else [PARAPHRASES_SOURCE],
        retry_policy=RETRIES,
        description=(
            "The originals rewritten without altering their content, prompt and answer apart. A variant that could not be had "
            "is missing: its messages are null, `flag` says why, and nothing stands in for it."
        ),
    )
    @fails_in_one_sentence
    def paraphrased(
        context: dg.AssetExecutionContext, lima: pl.DataFrame, sources: SampleSources, paraphraser: Paraphraser
    ) -> dg.MaterializeResult[pl.DataFrame]:
        if sources.paraphrases == OPENAI:
            samples = shard_slice(sources.load_originals(), context.partition_key, partitions.shard_count)
            return _written_by_chat_model(context, lima, samples, paraphraser, partitions.shard_count)
        given = sources.load_paraphrases()
        variants = shard_slice(given, context.partition_key, partitions.shard_count)
        unwritten = len(sources.load_originals()) - len(given)
        frame = given_paraphrases(variants, lima, _provider(settings))
        context.log.info(f"{len(variants)} paraphrases from {sources.paraphrases}")
        metadata = {**_counted(context, frame), "originals_without_row": unwritten}
        version, shard = content_version(variants), context.partition_key
        pointer = record(context.instance, PARAPHRASES_SOURCE, shard, source_sighting(sources.paraphrases, version))
        tags = made_from(PARAPHRASES_SOURCE, version, pointer)
        return _result(frame, lima, metadata, {"source": sources.paraphrases}, partitions.shard_count, tags)

    return paraphrased


def _provider(settings: Settings) -> str:
    """Who writes the paraphrases, with what decides those of a chat model; what is given is watched by its content."""
    if settings.data.paraphrases == OPENAI:
        return f"{OPENAI} {_asked_with(settings)}"
    return DEMO if settings.data.paraphrases == DEMO else "file"


def _counted(context: dg.AssetExecutionContext, frame: pl.DataFrame) -> dict[str, int]:
    """How many variants of a shard are missing and how many are doubtful, also in the log."""
    found = lacking(frame)
    for sentence in found.sentences:
        context.log.warning(sentence)
    return {"missing": found.count, "flagged": found.doubtful}


def _asked_with(settings: Settings) -> str:
    """What decides a chat model's paraphrases; how many are asked for at once, and their price, does not."""
    asked = settings.paraphraser
    return (
        f"{asked.model} {asked.temperature} {asked.seed} {asked.system_prompt or SYSTEM_PROMPT} "
        f"{sorted(asked.fields.items())} {asked.reasoning_tokens}"
    )


def _written_by_chat_model(
    context: dg.AssetExecutionContext,
    lima: pl.DataFrame,
    samples: Sequence[Sample],
    paraphraser: Paraphraser,
    shards: int,
) -> dg.MaterializeResult[pl.DataFrame]:
    """A shard of paraphrases from the chat service, with what it cost."""
    options = paraphraser.options()
    with progress(context, f"paraphrases {context.partition_key}", "texts") as report:
        result = paraphrase_samples(list(samples), options, report)
    frame = written_paraphrases(result, lima, options.service)
    metadata = {
        **_counted(context, frame),
        **{f"texts/{name}": count for name, count in result.counts.items()},
        "prompt_tokens": sum(result.prompt_tokens.values()),
        "completion_tokens": sum(result.completion_tokens.values()),
        "cost_usd": result.cost_usd,
        "paid_usd": result.paid_usd,
    }
    provenance = {"source": OPENAI, "service": options.service, "paraphrase_model": options.model}
    return _result(frame, lima, metadata, provenance, shards)


def _result(
    frame: pl.DataFrame,
    lima: pl.DataFrame,
    metadata: Mapping[str, Any],
    provenance: Mapping[str, Any],
    shards: int,
    tags: Mapping[str, str] | None = None,
) -> dg.MaterializeResult[pl.DataFrame]:
    """A shard; its version tells into how many samples are cut, for what is made of shards of different cuts is refused."""
    return table_result(
        PARAPHRASED,
        frame,
        metadata={**metadata, "verbatim": int(frame["verbatim"].sum())},
        provenance={**provenance, LIMA.name: fingerprint(lima)},
        tags=tags,
        data_version=version_of(fingerprint(frame), shards),
    )
