"""The datasets: originals, their paraphrases, and the model's own answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl

from gradsim_assets.core.samples import Sample, parse_samples, sample_frame
from gradsim_assets.defs.common import RETRIES, code_version, column_schema, input_errors, progress, table_result
from gradsim_assets.defs.models.assets import HF_MODEL, provenance_of, revision_for_run, revision_tags
from gradsim_assets.io.tables import fingerprint
from gradsim_assets.partitions import BY_MODEL, BY_SHARD, Partitions, model_id_of, shard_slice
from gradsim_assets.resources.compute import Compute
from gradsim_assets.resources.hub import LoadedModel, ModelHub
from gradsim_assets.resources.paraphraser import Paraphraser
from gradsim_assets.resources.sources import OPENAI, SampleSources
from gradsim_assets.schemas import LIMA, MODEL_GENERATED, PARAPHRASED
from gradsim_assets.settings import DEMO, ModelSettings, Settings

GROUP = "datasets"


def build(
    settings: Settings, partitions: Partitions, op_tags: Mapping[str, Any] | None = None
) -> list[dg.AssetsDefinition]:
    """The dataset assets for one configuration; `op_tags` give generation a pod of its own kind."""
    return [_lima(settings), _paraphrased(settings, partitions), _model_generated(partitions, op_tags)]


def _lima(settings: Settings) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=GROUP,
        kinds={"polars", "parquet"},
        metadata=column_schema(LIMA),
        code_version=code_version(
            "core/samples.py", "resources/sources.py", config=f"{settings.data.originals} {settings.data.samples}"
        ),
        description="The originals: single-turn training samples that the model was fine-tuned on. The first `data.samples` of them.",
    )
    def lima(context: dg.AssetExecutionContext, sources: SampleSources) -> dg.MaterializeResult[pl.DataFrame]:
        with input_errors():
            samples = sources.load_originals()
        context.log.info(f"{len(samples)} originals from {sources.originals}")
        return table_result(LIMA, sample_frame(samples), provenance={"source": sources.originals})

    return lima


def _paraphrased(settings: Settings, partitions: Partitions) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=GROUP,
        partitions_def=partitions.shards,
        deps=["lima"],
        kinds={"polars", "parquet"},
        metadata=column_schema(PARAPHRASED),
        code_version=code_version(
            "core/samples.py",
            "core/paraphrasing/options.py",
            "resources/sources.py",
            config=f"{settings.data.paraphrases} {settings.data.samples} {_asked_with(settings)}",
        ),
        retry_policy=RETRIES,
        description="The originals rewritten without altering their content, prompt and answer apart.",
    )
    def paraphrased(
        context: dg.AssetExecutionContext, sources: SampleSources, paraphraser: Paraphraser
    ) -> dg.MaterializeResult[pl.DataFrame]:
        with input_errors():
            if sources.paraphrases == OPENAI:
                samples = shard_slice(sources.load_originals(), context.partition_key, partitions.shard_count)
                return _written_by_chat_model(context, samples, paraphraser)
            samples = shard_slice(sources.load_paraphrases(), context.partition_key, partitions.shard_count)
        context.log.info(f"{len(samples)} paraphrases from {sources.paraphrases}")
        frame = sample_frame(samples).with_columns(
            provider=pl.lit(DEMO if sources.paraphrases == DEMO else "file"),
            paraphrase_model=pl.lit(None, pl.String()),
            prompt_tokens=pl.lit(None, pl.Int64()),
            completion_tokens=pl.lit(None, pl.Int64()),
            flag=pl.lit(None, pl.String()),
        )
        return table_result(PARAPHRASED, frame, provenance={"source": sources.paraphrases})

    return paraphrased


def _asked_with(settings: Settings) -> str:
    """What decides a chat model's paraphrases; how many are asked for at once, and their price, does not."""
    asked = settings.paraphraser
    return f"{asked.model} {asked.temperature} {asked.seed} {asked.system_prompt}"


def _written_by_chat_model(
    context: dg.AssetExecutionContext, samples: Sequence[Sample], paraphraser: Paraphraser
) -> dg.MaterializeResult[pl.DataFrame]:
    """A shard of paraphrases from the chat service, with what it cost."""
    from gradsim_assets.core.paraphrasing import paraphrase_samples

    options = paraphraser.options()
    with progress(context, f"paraphrases {context.partition_key}", "texts") as report:
        result = paraphrase_samples(list(samples), options, report)
    ids = [sample.id for sample in samples]
    frame = sample_frame(result.samples).with_columns(
        provider=pl.lit(options.service),
        paraphrase_model=pl.Series([result.models.get(i) for i in ids], dtype=pl.String()),
        prompt_tokens=pl.Series([result.prompt_tokens.get(i) for i in ids], dtype=pl.Int64()),
        completion_tokens=pl.Series([result.completion_tokens.get(i) for i in ids], dtype=pl.Int64()),
        flag=pl.Series([result.flags.get(i) for i in ids], dtype=pl.String()),
    )
    metadata = {
        **{f"texts/{name}": count for name, count in result.counts.items()},
        "prompt_tokens": sum(result.prompt_tokens.values()),
        "completion_tokens": sum(result.completion_tokens.values()),
        "cost_usd": result.cost_usd,
        "paid_usd": result.paid_usd,
    }
    provenance = {"source": OPENAI, "service": options.service, "paraphrase_model": options.model}
    return table_result(PARAPHRASED, frame, metadata=metadata, provenance=provenance)


def _model_generated(partitions: Partitions, op_tags: Mapping[str, Any] | None) -> dg.AssetsDefinition:
    @dg.asset(
        group_name=GROUP,
        partitions_def=partitions.model_shards,
        ins={"paraphrased": dg.AssetIn(partition_mapping=BY_SHARD)},
        deps=[dg.AssetDep(HF_MODEL, partition_mapping=BY_MODEL)],
        kinds={"pytorch", "huggingface"},
        pool="gpu",
        op_tags=op_tags,
        retry_policy=RETRIES,
        metadata=column_schema(MODEL_GENERATED),
        code_version=code_version("core/generation.py", "core/tokenization.py"),
        description="The paraphrased prompts answered by the model under study (greedy decoding).",
    )
    def model_generated(
        context: dg.AssetExecutionContext, paraphrased: pl.DataFrame, hub: ModelHub, compute: Compute
    ) -> dg.MaterializeResult[pl.DataFrame]:
        from gradsim_assets.core.generation import generate_answers

        keys = context.partition_key.keys_by_dimension
        with input_errors(), progress(context, f"answers {context.partition_key}", "samples") as report:
            model_id = model_id_of(keys["model"])
            revision = revision_for_run(context, hub, model_id)
            loaded = hub.load(model_id, revision, context.log.info)
            samples, dropped = _answerable(paraphrased, loaded, hub.settings(model_id))
            answers = generate_answers(
                loaded.model,
                loaded.tokenizer,
                samples,
                max_positions=loaded.generation_positions,
                device=loaded.device,
                progress=report,
                store=compute.scratch("answers", keys["model"], f"{keys['shard']}.jsonl"),
                identity=f"{revision.name} {hub.settings(model_id).dtype}",
                log=context.log.info,
            )
        frame = sample_frame(
            [Sample(s.id, s.user, a.answer) for s, a in zip(samples, answers, strict=True)]
        ).with_columns(
            prompt_tokens=pl.Series([answer.prompt_tokens for answer in answers], dtype=pl.Int64()),
            completion_tokens=pl.Series([answer.completion_tokens for answer in answers], dtype=pl.Int64()),
            truncated=pl.Series([answer.truncated for answer in answers], dtype=pl.Boolean()),
        )
        return table_result(
            MODEL_GENERATED,
            frame,
            metadata={"truncated": int(frame["truncated"].sum()), "dropped": dropped},
            provenance={
                **provenance_of(hub, model_id, revision),
                "paraphrased": fingerprint(paraphrased),
                "dropped": dropped,
            },
            tags=revision_tags(context),
        )

    return model_generated


def _answerable(paraphrased: pl.DataFrame, loaded: LoadedModel, settings: ModelSettings) -> tuple[list[Sample], int]:
    """The samples whose prompt leaves room for an answer, and how many were left out (context = "drop" alone does so)."""
    samples = parse_samples(paraphrased.to_dicts(), "paraphrased")
    if settings.context != "drop":
        return samples, 0
    room = loaded.generation_positions
    kept = [sample for sample in samples if len(loaded.tokenizer.prompt_ids(sample)) < room]
    return kept, len(samples) - len(kept)
