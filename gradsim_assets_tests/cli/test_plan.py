"""The plan against passes that are really done: the same samples, lengths and pairs, whatever the context policy."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from click.testing import CliRunner

from gradsim_assets.cli import plan as command
from gradsim_assets.configuration import ComputeSettings, DataSettings, IndexSettings, ModelSettings, Settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassGraph, PassOptions, plan_pass, shape_of
from gradsim_assets.core.gradients.engine.planning.predicted_time import predicted_seconds
from gradsim_assets.core.home import Home
from gradsim_assets.core.models.answer_spans import LossOn
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.core.sample_gradients.calibration import Calibration, Place, WidthRates, keep
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.definitions import build_definitions
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.conversations import conversation
from gradsim_assets_tests.support.sample_files import write
from gradsim_assets_tests.support.template_families import TOOLS as TOOL_TEMPLATE
from gradsim_assets_tests.support.tiny_models import save_tiny_model

#: Tokens of the first eight samples of the demo: 137 to 243 under the demo's tokenizer, prompts up to 33.
CONTEXT = 160
SETTING = "paraphrased"


def configured(folder: Path, kind: str, context: str) -> Settings:
    """Eight samples in two shards, and one tiny model with a context that some of them exceed."""
    return Settings(
        home=folder,
        tables=str(folder / "tables"),
        data=DataSettings(samples=8, shards=2, candidates=3),
        compute=ComputeSettings(memory_gib=1, projections=(0.05,), device="cpu"),
        models=(ModelSettings(id=str(save_tiny_model(folder / "model", kind, positions=CONTEXT)), context=context),),  # type: ignore[arg-type]
    )


def planned(settings: Settings) -> dict[str, PassGraph]:
    """By shard, the graph of what the plan asks for, of the setting whose texts are known beforehand."""
    model = settings.models[0].id
    revision = resources(settings).hub.resolve(model)
    graphs = {}
    for shard, request in command.shard_requests(model, revision, settings):
        pairs, wanted = {SETTING: request.pairs[SETTING]}, {SETTING: request.projections[SETTING]}
        graphs[shard] = PassGraph.of(replace(request, pairs=pairs, products=frozenset([SETTING]), projections=wanted))
    return graphs


def done(settings: Settings, shard: str) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """A real pass over one shard of that setting, and the metadata of its dot products."""
    slug, instance = model_slug(settings.models[0].id), dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("model", [slug])
    defs = build_definitions(settings)
    for job, partition in (("originals", None), ("variants", shard)):
        assert defs.resolve_job_def(job).execute_in_process(instance=instance, partition_key=partition).success
    job = defs.resolve_job_def("gradients")
    tables = ("dot_products", "projected_similarity")
    chosen = [key for key in job.asset_layer.asset_graph.get_all_asset_keys() if _is_table(key, tables)]
    result = job.execute_in_process(
        instance=instance, partition_key=f"{slug}|{shard}", asset_selection=chosen, raise_on_error=False
    )
    products = [event for event in result.get_asset_materialization_events() if _is_table(event.asset_key, tables[:1])]
    metadata = products[0].materialization.metadata if products else {}
    return result, {name: getattr(entry, "value", None) for name, entry in metadata.items()}


def _is_table(key: dg.AssetKey | None, tables: tuple[str, ...]) -> bool:
    return key is not None and "_".join(key.path) in {f"{table}_{SETTING}" for table in tables}


@pytest.mark.parametrize(
    ("kind", "context"),
    [("olmo", "auto"), ("olmo", "truncate"), ("olmo", "drop"), ("gpt2", "truncate"), ("gpt2", "drop")],
)
def test_a_pass_does_what_was_planned_for_it(kind: str, context: str, tmp_path: Path) -> None:
    settings = configured(tmp_path, kind, context)
    graphs = planned(settings)
    lengths = [tokens for graph in graphs.values() for tokens, _ in graph.variants[SETTING].values()]
    assert (max(lengths) <= CONTEXT) == (context != "auto")
    assert (len(lengths) < 8) == (context == "drop"), "of eight variants"
    hub = resources(settings).hub
    model = settings.models[0].id
    shape = shape_of(lambda: hub.blank(model, hub.resolve(model)))
    plan = plan_pass(shape, graphs["01"], 2**30, PassOptions(device="cpu"))
    result, metadata = done(settings, "01")
    assert result.success
    # Passes, tokens and pairs; what follows is about memory, which the pass reads off real tensors.
    assert metadata["plan"].removeprefix("```\n").split(" in ")[0] == plan.describe().split(" in ")[0]
    assert metadata["distinct_samples"] == metadata["gradients_computed"] == plan.passes == graphs["01"].minimum
    table = Tables(settings.tables).read(["dot_products", SETTING], Partition(model_slug(settings.models[0].id), "01"))
    pairs = table.select("variant_id", "original_id").unique(maintain_order=True).rows()
    assert pairs == list(graphs["01"].pairs[SETTING])


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_a_pass_over_conversations_with_tools_does_what_was_planned_for_it(loss_on: LossOn, tmp_path: Path) -> None:
    settings = configured(tmp_path, "olmo", "auto")
    originals = [conversation(f"c{n}").with_texts(f"{text} {n}" for _, text in conversation().texts) for n in range(4)]
    paraphrases = [one.with_texts(f"So: {text}" for _, text in one.texts) for one in originals]
    for name, samples in (("o", originals), ("p", paraphrases)):
        write(tmp_path / f"{name}.jsonl", [{"id": s.id, "messages": s.messages, "tools": s.tools} for s in samples])
    data = DataSettings(
        originals="o.jsonl", paraphrases="p.jsonl", shards=2, candidates=3, loss_on=loss_on
    )  # the folder of a configuration is that of its file
    model = settings.models[0].model_copy(update={"chat_template": TOOL_TEMPLATE})
    settings = settings.model_copy(update={"data": data, "models": (model,), "folder": tmp_path})
    graph = planned(settings)["01"]
    lengths = [(tokens, counted) for tokens, counted in graph.variants[SETTING].values()]
    assert all((counted == tokens - 1) == (loss_on == "all") for tokens, counted in lengths)
    result, metadata = done(settings, "01")
    assert result.success
    assert metadata["distinct_samples"] == metadata["gradients_computed"] == graph.minimum
    assert metadata["prompt_no_prefix"] == 0
    table = Tables(settings.tables).read(["dot_products", SETTING], Partition(model_slug(model.id), "01"))
    assert table.select("variant_id", "original_id").unique(maintain_order=True).rows() == list(graph.pairs[SETTING])


def test_what_a_pass_refuses_its_plan_refuses(tmp_path: Path) -> None:
    settings = configured(tmp_path, "gpt2", "auto")
    with pytest.raises(InputError, match=f"the model has positions for {CONTEXT} only") as refused:
        planned(settings)
    result, _ = done(settings, "00")
    failure = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert failure.user_failure_data.description == str(refused.value)


def test_the_command_counts_what_is_left_of_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "drop")
    monkeypatch.setattr(command, "load_settings", lambda: settings)
    said = CliRunner().invoke(command.plan, [settings.models[0].id, "--tflops", "1"], catch_exceptions=False).output
    graphs = planned(settings)
    originals = {original for graph in graphs.values() for original in graph.originals}
    variants = sum(len(graph.variants[SETTING]) for graph in graphs.values())
    pairs = sum(len(graph.pairs[SETTING]) for graph in graphs.values())
    assert f"x the {len(originals) + 2 * variants} distinct samples) for {2 * pairs} pairs" in said
    assert said.count("backward passes") == 3


def test_a_model_whose_context_fits_no_sample_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "drop")
    save_tiny_model(tmp_path / "model", positions=20)
    monkeypatch.setattr(command, "load_settings", lambda: settings)
    with pytest.raises(InputError, match="no pair of samples fits the context"):
        CliRunner().invoke(command.plan, [settings.models[0].id], catch_exceptions=False)


def test_candidates_of_an_index_are_planned_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "auto").model_copy(update={"index": IndexSettings(dimension=256)})

    def told(candidates: int | str) -> tuple[dict[str, Any], str]:
        chosen = settings.model_copy(update={"data": settings.data.model_copy(update={"candidates": candidates})})
        monkeypatch.setattr(command, "load_settings", lambda: chosen)
        arguments = [settings.models[0].id, "--tflops", "0.05"]
        said = CliRunner().invoke(command.plan, arguments, catch_exceptions=False).output
        return json.loads(CliRunner().invoke(command.plan, [*arguments, "--json"], catch_exceptions=False).output), said

    alone, said = told(3)
    assert alone["lookups"] == [] and "look variants up" not in said
    looked_up, said = told("bm25:2+index:1")
    assert "8 passes (about" in said and "16 (about" in said and "look variants up" in said
    assert looked_up["backward_passes"] == alone["backward_passes"] + 8 + 16, "originals, and variants of both settings"
    assert looked_up["pairs"] == alone["pairs"] and looked_up["seconds"] > alone["seconds"]


def calibrated(home: Path, **other: Any) -> Calibration:
    """Rates that are kept in a home as this process's, but for what is `other`."""
    place = replace(
        Place.of("cpu", torch.float32, "fp32"), **{n: v for n, v in other.items() if n in ("device", "threads")}
    )
    found = Calibration(
        **vars(place),
        measured_on="2026-01-31",
        widths=(WidthRates(64, 1e-3, 1e9, 1e-10, 1e9, 1e9),),
        batch_seconds=1e-3,
        logit_seconds=1e-8,
        bytes_per_second=1e9,
        launch_seconds=1e-5,
        host_bytes_per_second=other.get("host_bytes_per_second"),
    )
    keep(found, Home(home).calibrations)
    return found


def invoked(settings: Settings, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    monkeypatch.setattr(command, "load_settings", lambda: settings)
    return CliRunner().invoke(command.plan, [settings.models[0].id, *options], catch_exceptions=False).output


def test_a_plan_says_by_what_it_tells_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "auto")
    assert "on cpu, by the figures of two server cores; `gradsim doctor --measure` measures" in invoked(
        settings, monkeypatch
    )
    calibrated(tmp_path, threads=99)
    assert "by the figures of two server cores" in invoked(settings, monkeypatch), "measured with other threads"
    rates = calibrated(tmp_path)
    assert f"on cpu, measured on {rates.device} on 2026-01-31" in invoked(settings, monkeypatch)
    told = json.loads(invoked(settings, monkeypatch, "--json"))
    hub, model = resources(settings).hub, settings.models[0].id
    shape = shape_of(lambda: hub.blank(model, hub.resolve(model)))
    seconds = 0.0
    for _, request in command.shard_requests(model, hub.resolve(model), settings):
        graph = PassGraph.of(request)
        seconds += predicted_seconds(
            plan_pass(shape, graph, 2**30, PassOptions(device="cpu")), shape, graph, rates, "cpu"
        )
    assert told["seconds"] == pytest.approx(seconds) and told["predicted_by"] == rates.source
    assert "at 0.50 TFLOP/s" in invoked(settings, monkeypatch, "--tflops", "0.5"), "what is asked for comes first"
    Place.of("cpu", torch.float32, "fp32").file(Home(tmp_path).calibrations).write_text("{")
    assert "by the figures of two server cores" in invoked(settings, monkeypatch)


def test_a_plan_for_a_gpu_that_runs_have_measured_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "auto")
    with pytest.raises(InputError, match=r"no GPU named H100 was measured in fp32 in this home \(measured: none\)"):
        invoked(settings, monkeypatch, "--on", "H100")
    calibrated(tmp_path)  # a processor is no GPU
    calibrated(tmp_path, device="NVIDIA H100 80GB HBM3", threads=1, host_bytes_per_second=5e10)
    assert "on NVIDIA H100 80GB HBM3, measured on NVIDIA H100 80GB HBM3 on 2026-01-31" in invoked(
        settings, monkeypatch, "--on", "h100"
    )
    with pytest.raises(InputError, match="measured: NVIDIA H100 80GB HBM3 [(]fp32[)]"):
        invoked(settings, monkeypatch, "--on", "A100")
    unknown = settings.model_copy(update={"compute": settings.compute.model_copy(update={"memory_gib": 0})})
    with pytest.raises(InputError, match="the memory of h100 is not known here"):
        invoked(unknown, monkeypatch, "--on", "h100")


def test_a_model_over_several_gpus_is_planned_by_the_fullest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "truncate")
    settings = settings.model_copy(update={"compute": ComputeSettings(projections=(0.05,))})
    monkeypatch.setattr(command, "load_settings", lambda: settings)
    model = settings.models[0].id

    def asked(*options: str) -> Any:
        return CliRunner().invoke(command.plan, [model, *options])

    told = json.loads(asked("--devices", "2", "--gpu-gib", "79", "--json").output)
    hub = resources(settings).hub
    shape = shape_of(lambda: hub.blank(model, hub.resolve(model))).spread(2)
    assert told["devices"] == shape.device_count == 2
    assert shape.most_model_bytes < shape.model_bytes
    assert told["memory_allowed_bytes"] == int(0.85 * (79 * 2**30 - shape.most_model_bytes))
    said = asked("--devices", "2", "--gpu-gib", "79").output
    assert (
        "on 2 x cuda, one at work at a time" in said
        and "GiB at once on the fullest of 2 devices of 67.15 allowed" in said
    )
    refused = asked("--devices", "2", "--gpu-gib", "0.000001")
    assert isinstance(refused.exception, InputError)
    assert re.search(r"the weights of .* take 0.0 GiB of each of 2 GPUs, which has 1e-06", str(refused.exception))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="2 devices are GPUs, and torch finds none here"):
            raise asked("--devices", "2").exception or AssertionError


def test_a_run_tells_what_was_predicted_beside_what_it_took(tmp_path: Path) -> None:
    settings = configured(tmp_path, "olmo", "auto")
    rates = calibrated(tmp_path)
    result, metadata = done(settings, "01")
    assert result.success
    assert metadata["predicted_by"] == rates.source and metadata["predicted_seconds"] > 0
    assert 0 < metadata["computing_seconds"] < metadata["pass_seconds"]


def test_an_index_is_planned_for_the_originals_and_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, "olmo", "auto").model_copy(update={"index": IndexSettings(dimension=256)})
    monkeypatch.setattr(command, "load_settings", lambda: settings)
    said = CliRunner().invoke(command.plan, [settings.models[0].id, "--tflops", "0.05"], catch_exceptions=False).output
    assert "index of 256 numbers an original" in said
    rows = [line.strip().split(" ")[0] for line in said.splitlines() if line.startswith("  ")]
    assert rows == ["8", "1,000", "10,000", "100,000", "1,000,000"]
    monkeypatch.setattr(command, "load_settings", lambda: settings.model_copy(update={"index": None}))
    said = CliRunner().invoke(command.plan, [settings.models[0].id, "--tflops", "0.05"], catch_exceptions=False).output
    assert "index" not in said
