"""`gradsim plan`: what a run would cost, before anything is spent."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradsim_assets.cli.model_id import MODEL_ID
from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError

if TYPE_CHECKING:
    from gradsim_assets.core.datasets.paraphrasing.paraphrase import Estimate
    from gradsim_assets.core.gradients.engine import ModelShape, PassGraph, PassOptions, PassRequest, Plan
    from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths
    from gradsim_assets.core.index.index_plan import IndexPlan
    from gradsim_assets.core.models.revisions import Revision
    from gradsim_assets.core.sample_gradients.calibration import Calibration

GIB = 2**30


@click.command()
@click.argument("model", type=MODEL_ID)
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    help="Memory beside the model (default: this machine's).",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="Rate of matrix products (default: as measured, see `gradsim doctor`).",
)
@click.option(
    "--on", metavar="DEVICE", help="A GPU that runs of this home have measured elsewhere, by (a part of) its name."
)
@click.option(
    "--devices", type=click.IntRange(min=1), help="GPUs that the model is spread over (default: compute.devices)."
)
@click.option(
    "--gpu-gib",
    type=click.FloatRange(min=0, min_open=True),
    help="Memory of each GPU in all, for a machine that is not this one: what weights leave of it is planned with.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on one line: sizes in bytes, times in seconds.")
def plan(model: str, as_json: bool, **asked: Any) -> None:
    """Say what a run for MODEL would cost: time, money, passes, memory, disk, API tokens. Computes no gradient.

    Time goes by what was measured of the device (`gradsim doctor --measure`; long runs measure theirs), by constants otherwise.
    Money is that of compute.price_per_hour, where gradsim.toml names one.
    Answers of the model count as long as the paraphrases, and paraphrases that are to be written as long as the originals.

    \b
    Examples:
      gradsim plan amd/AMD-OLMo-1B-SFT
      gradsim plan amd/AMD-OLMo-1B-SFT --memory-gib 60 --tflops 300     on another machine
      gradsim plan amd/AMD-OLMo-1B-SFT --memory-gib 70 --on H100        that was measured by a run there
      gradsim plan meta-llama/Llama-3.1-70B --devices 8 --gpu-gib 79    over eight GPUs
      gradsim plan demo --json
    """
    settings = load_settings()
    texts, planned = _paraphrasing(settings), _gradients(model, settings, _Asked(**asked))
    if as_json:
        told = {"model": model, **asdict(planned), "usd": planned.usd}
        click.echo(json.dumps({**told, "paraphrases": None if texts is None else asdict(texts)}))
        return
    if texts:
        click.echo(f"paraphrases: {texts}")
    for line in planned.lines():
        click.echo(line)


@dataclass(frozen=True)
class _Asked:
    """The machine that a plan is for, where that is another one than this; see the options of `plan`."""

    memory_gib: float | None = None
    tflops: float | None = None
    on: str | None = None
    devices: int | None = None
    gpu_gib: float | None = None

    def device(self, settings: Settings) -> str:
        """The device that it is for.

        Raises:
            InputError: several GPUs are asked for, of a machine without any, and nobody said what they have.
        """
        from gradsim_assets.core.models.devices import pick_device

        if self.on or self.gpu_gib or (self.devices and self.devices > 1 and self.memory_gib):
            return "cuda"
        device = pick_device(settings.compute.device)
        if self.count(settings) > 1 and device == "cpu":
            raise InputError(
                f"{self.count(settings)} devices are GPUs, and torch finds none here; say what each of them has with --gpu-gib."
            )
        return device

    def count(self, settings: Settings) -> int:
        """How many GPUs the model is spread over."""
        import torch

        return self.devices or settings.compute.devices or max(1, torch.cuda.device_count())


@dataclass(frozen=True)
class _Planned:
    """What the passes of a model cost, and an index where one is configured."""

    seconds: float
    price_per_hour: float
    flop_per_second: float
    predicted_by: str
    device: str
    devices: int
    backward_passes: int
    distinct_samples: int
    pairs: int
    memory_bytes: int
    memory_allowed_bytes: int
    scratch_and_tables_bytes: int
    shards: dict[str, str]  # by key, in words
    index_dimension: int | None
    index: "list[IndexPlan]"
    #: What candidates by the index cost, which the above includes: sketches of all originals, and of the variants of both settings.
    lookups: "list[IndexPlan]"

    @property
    def usd(self) -> float | None:
        """What the time costs; None where no price is configured."""
        return round(self.seconds / 3600 * self.price_per_hour, 4) if self.price_per_hour else None

    def lines(self) -> Iterator[str]:
        """The same in words, what one wants to know first."""
        from gradsim_assets.core.gradients.engine.planning.plan import on_fullest

        money = "" if self.usd is None else f", {self.usd:.2f} USD at {self.price_per_hour:g} USD an hour"
        where = self.device if self.devices == 1 else f"{self.devices} x {self.device}, one at work at a time"
        yield f"about {_duration(self.seconds)} on {where}, {self.predicted_by}{money}"
        yield (
            f"in all {self.backward_passes} backward passes ({self.backward_passes / self.distinct_samples:.2f} x the "
            f"{self.distinct_samples} distinct samples) for {self.pairs} pairs; {self.memory_bytes / GIB:.2f} GiB at once"
            f"{on_fullest(self.devices)} of {self.memory_allowed_bytes / GIB:.2f} allowed; {self.scratch_and_tables_bytes / GIB:.3f} GiB of scratch and tables"
        )
        if self.lookups:
            originals, variants = self.lookups
            yield (
                f"of these {originals.originals:,} passes (about {_duration(originals.seconds)}) for the index of all originals and "
                f"{variants.originals:,} (about {_duration(variants.seconds)}) to look variants up in it; which candidates it finds is "
                "not known yet, and BM25's next best stand in for them"
            )
        if self.index:
            yield (
                f"index of {self.index_dimension} numbers an original, in originals like these; its recall takes as many passes "
                "again:"
            )
        for plan in self.index:
            yield (
                f"  {plan.originals:,} originals: {plan.originals:,} passes, about {_duration(plan.seconds)}, "
                f"{plan.disk_bytes / GIB:.3f} GiB on disk, {plan.memory_bytes / GIB:.3f} GiB while it is searched"
            )
        for key, said in self.shards.items():
            yield f"shard {key}: {said}"


def _paraphrasing(settings: Settings) -> "Estimate | None":
    """What the paraphraser would ask for and spend."""
    from gradsim_assets.core.datasets.paraphrased import OPENAI
    from gradsim_assets.resources.by_name import resources

    if settings.data.paraphrases != OPENAI:
        return None
    from gradsim_assets.core.datasets.paraphrasing import estimate

    found = resources(settings)
    return estimate(found.sources.load_originals(), found.paraphraser.options())


@dataclass(frozen=True)
class _Target:
    """The device that a plan is for, and what is known of its speed."""

    options: "PassOptions"
    calibration: "Calibration | None"
    tflops: float | None

    @classmethod
    def of(cls, settings: Settings, shape: "ModelShape", asked: _Asked) -> "_Target":
        """The device of the configuration, or one `on` which runs of this home have been."""
        import torch

        from gradsim_assets.core.gradients.engine import PassOptions
        from gradsim_assets.core.home import Home
        from gradsim_assets.core.sample_gradients.calibration import Place, kept, kind_of

        folder, precision = Home(settings.home).calibrations, settings.compute.precision
        device, found = asked.device(settings), None
        if asked.on:
            found = _measured_elsewhere(asked.on, kind_of(device, shape.dtype, precision), folder)
        elif device == "cpu" or torch.cuda.is_available():
            found = kept(Place.of(device, shape.dtype, precision), folder)
        options = PassOptions(
            device=device, precision=precision, host_bytes=int(settings.compute.host_memory_gib * GIB)
        )
        return cls(options, found, asked.tflops)

    def seconds(self, plan: "Plan", shape: "ModelShape", graph: "PassGraph") -> float:
        """What a plan takes."""
        from gradsim_assets.core.gradients.engine.planning.predicted_time import predicted_seconds

        if self.tflops:
            return plan.seconds(self.tflops * 1e12)
        if self.calibration:
            return predicted_seconds(plan, shape, graph, self.calibration, self.options.device)
        return plan.expected_seconds

    @property
    def predicted_by(self) -> str:
        """What that goes by, in words."""
        from gradsim_assets.core.gradients.engine.planning.predicted_time import by_figures

        if self.tflops:
            return f"at {self.tflops:.2f} TFLOP/s"
        return self.calibration.source if self.calibration else by_figures(self.options.device.partition(":")[0])


def _measured_elsewhere(name: str, kind: str, folder: Path) -> "Calibration":
    """The latest measurement of a GPU in one arithmetic.

    Raises:
        InputError: no run has measured any of that name.
    """
    from gradsim_assets.core.sample_gradients.calibration import all_kept

    known = [one for one in all_kept(folder) if one.host_bytes_per_second]
    found = [one for one in known if name.lower() in one.device.lower() and one.kind == kind]
    if not found:
        told = ", ".join(sorted({f"{one.device} ({one.kind})" for one in known})) or "none"
        raise InputError(
            f"no GPU named {name} was measured in {kind} in this home (measured: {told}); start a run or "
            "`gradsim doctor --measure` on it, or give its rate with --tflops."
        )
    return max(found, key=lambda one: one.measured_on)


def _memory(model: str, settings: Settings, shape: "ModelShape", asked: _Asked, device: str) -> int:
    """Bytes beside the model, on each of several devices.

    Raises:
        InputError: the device is another machine's, and nobody said what it has; or it has not even room for the weights.
    """
    import torch

    from gradsim_assets.core.memory import allowed_of, free_bytes

    told = int((asked.memory_gib or settings.compute.memory_gib) * GIB)
    if told:
        return told
    if asked.gpu_gib:
        left = int(asked.gpu_gib * GIB) - shape.most_model_bytes
        if left <= 0:
            each = f"each of {shape.device_count} GPUs" if shape.device_count > 1 else "a GPU"
            raise InputError(
                f"the weights of {model} take {shape.most_model_bytes / GIB:.1f} GiB of {each}, which has {asked.gpu_gib:g}; spread it "
                'over more with --devices, or give it fewer bits with dtype = "bfloat16".'
            )
        return allowed_of(left, device, "most")
    if asked.on:
        raise InputError(
            f"the memory of {asked.on} is not known here; give what it has beside the model with --memory-gib, or in all with --gpu-gib."
        )
    numbers = range(shape.device_count) if shape.device_count > 1 else [None]
    here = [torch.device(device if number is None else f"{device}:{number}") for number in numbers]
    return min(free_bytes(one, "most", shape.most_model_bytes) for one in here)


def _spread(model: str, shape: "ModelShape", devices: int) -> "ModelShape":
    """The shape of a model over so many devices.

    Raises:
        InputError: it cannot be spread.
    """
    from gradsim_assets.core.sample_gradients.pieces import UnspreadableError

    why = "its base is in few bits, which is loaded onto one GPU" if devices > 1 and shape.dequantised_bytes else ""
    try:
        spread = shape.spread(devices)
    except UnspreadableError as error:
        spread, why = shape, why or str(error)
    if why:
        raise InputError(f"{model} cannot be spread over {devices} GPUs: {why}; plan it for one.")
    return spread


def _gradients(model: str, settings: Settings, asked: _Asked) -> _Planned:
    from gradsim_assets.core.gradients.engine import PassGraph, describe_turns, plan_turns, shape_of
    from gradsim_assets.resources.by_name import resources

    found = resources(settings)
    revision = found.hub.resolve(model)
    shape = _spread(model, shape_of(lambda: found.hub.blank(model, revision)), asked.count(settings))
    target = _Target.of(settings, shape, asked)
    memory = _memory(model, settings, shape, asked, target.options.device)
    graphs = {key: PassGraph.of(request) for key, request in shard_requests(model, revision, settings)}
    turns = {key: plan_turns(shape, graph, memory, target.options) for key, graph in graphs.items() if graph.minimum}
    if not turns:
        raise InputError(f'no pair of samples fits the context of {model}; set context = "truncate" for it.')
    plans = [turn.plan for of_shard in turns.values() for turn in of_shard]
    seconds = sum(
        target.seconds(turn.plan, shape.only(turn.components), graphs[key])
        for key, of_shard in turns.items()
        for turn in of_shard
    )
    # Of products on a device of which the constants are in proportion to what this one takes.
    rate = plans[0].product_rate * sum(plan.expected_seconds for plan in plans) / seconds
    lookups = _lookups(model, shape, graphs.values(), settings, target.options, rate)
    passes, floor = sum(plan.passes for plan in plans), _distinct_samples(graphs.values())
    return _Planned(
        seconds=seconds + sum(one.seconds for one in lookups),
        price_per_hour=settings.compute.price_per_hour,
        flop_per_second=rate,
        predicted_by=target.predicted_by,
        device=target.calibration.device if asked.on and target.calibration else target.options.device,
        devices=shape.device_count,
        backward_passes=passes + sum(one.originals for one in lookups),
        distinct_samples=floor,
        pairs=sum(of_shard[0].plan.pairs for of_shard in turns.values()),
        memory_bytes=max(plan.memory_bytes for plan in plans),
        memory_allowed_bytes=memory,
        scratch_and_tables_bytes=sum(plan.disk_bytes for plan in plans) + sum(int(one.disk_bytes) for one in lookups),
        shards={key: describe_turns(turns[key]) if key in turns else "no pair fits the context" for key in graphs},
        index_dimension=settings.index.dimension if settings.index else None,
        index=_index(shape, graphs.values(), settings, target.options, rate),
        lookups=lookups,
    )


def _lookups(
    model: str,
    shape: "ModelShape",
    graphs: "Iterable[PassGraph]",
    settings: Settings,
    options: "PassOptions",
    rate: float,
) -> "list[IndexPlan]":
    """What it costs to make the index of all originals and to look up the variants of a model; nothing where it gives no candidates."""
    from gradsim_assets.core.candidates.candidate_choice import by_index
    from gradsim_assets.resources.by_name import resources

    found = resources(settings)
    if settings.index is None or not by_index(found.hub.settings(model).candidates):
        return []
    of_all = list(graphs)
    originals = {name: length for graph in of_all for name, length in graph.originals.items()}
    variants = {
        f"{setting} {name}": length
        for graph in of_all
        for setting, samples in graph.variants.items()
        for name, length in samples.items()
    }
    asked = ((originals, len(found.sources.load_originals())), (variants, len(variants)))
    return [
        _sketched(shape, lengths, settings.index.dimension, settings, options, rate, [count])[0]
        for lengths, count in asked
    ]


def _index(
    shape: "ModelShape", graphs: "Iterable[PassGraph]", settings: Settings, options: "PassOptions", rate: float
) -> "list[IndexPlan]":
    """What an index costs, of so many originals and more; nothing where none is asked for."""
    from gradsim_assets.core.index.index_plan import SIZES

    if settings.index is None:
        return []
    lengths = {name: length for graph in graphs for name, length in graph.originals.items()}
    return _sketched(shape, lengths, settings.index.dimension, settings, options, rate, [len(lengths), *SIZES])


def _sketched(
    shape: "ModelShape",
    lengths: "Mapping[str, Lengths]",
    dimension: int,
    settings: Settings,
    options: "PassOptions",
    rate: float,
    sizes: Sequence[int],
) -> "list[IndexPlan]":
    """What sketches of so many samples like those of these lengths cost."""
    import torch

    from gradsim_assets.core.index.index_plan import index_plans
    from gradsim_assets.core.sample_gradients.device_profile import profile_of

    profile = profile_of(torch.device(options.device), shape.dtype, settings.compute.precision)
    return list(index_plans(shape, lengths, dimension, profile, rate, sizes))


def shard_requests(model: str, revision: "Revision", settings: Settings) -> "Iterator[tuple[str, PassRequest]]":
    """Each shard with the request of a pass over all tables, made as the pass makes it.

    Texts that are not written yet are stood in for by those that they will be made from: the originals for paraphrases of
    a chat model, the paraphrases for answers.
    """
    import polars as pl

    from gradsim_assets.core.candidates.bm25_candidates import candidate_frame
    from gradsim_assets.core.candidates.candidate_choice import by_bm25, by_index
    from gradsim_assets.core.datasets.paraphrased import OPENAI
    from gradsim_assets.core.gradients.pass_inputs import pass_inputs
    from gradsim_assets.core.models.loading import LoadedModel
    from gradsim_assets.core.partition_keys import shard_keys, shard_slice
    from gradsim_assets.core.samples import sample_frame
    from gradsim_assets.core.tables.schemas import SETTINGS
    from gradsim_assets.resources.by_name import resources

    found, shards = resources(settings), settings.data.shards
    hub, sources = found.hub, found.sources
    own = hub.settings(model)
    assert own.candidates is not None  # the hub knows a default
    unloaded = LoadedModel(hub.skeleton(model, revision), hub.tokenizer(model, revision), revision, "meta")
    originals = sources.load_originals()
    variants = originals if settings.data.paraphrases == OPENAI else sources.load_paraphrases()
    lima = sample_frame(originals)
    tokens, _ = hub.retriever_tokens(settings.retriever_model)
    # Nobody knows yet what the index finds: BM25's next best stand in for it, which are as many, unless both find the same.
    best = by_bm25(own.candidates)
    asked = best if best == "all" else best + by_index(own.candidates)
    candidates = candidate_frame(lima, sample_frame(variants), asked, tokens, settings.data.zero_scores)
    for key in shard_keys(shards):
        paraphrased = sample_frame(shard_slice(variants, key, shards))
        inputs = pass_inputs(
            lima,
            dict.fromkeys(SETTINGS, paraphrased),
            candidates.filter(pl.col("variant_id").is_in(paraphrased["id"].to_list())),
            unloaded,
            policy=own.context,
            products=SETTINGS,
            projections=dict.fromkeys(SETTINGS, settings.compute.projections),
            preconditioned=dict.fromkeys(SETTINGS, settings.preconditioners.methods),
        )
        yield key, inputs.request


def _distinct_samples(graphs: "Iterable[PassGraph]") -> int:
    """Originals of any shard, each once, and the variants of all."""
    originals: set[str] = set()
    variants = 0
    for graph in graphs:
        originals |= set(graph.originals)
        variants += sum(map(len, graph.variants.values()))
    return len(originals) + variants


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
