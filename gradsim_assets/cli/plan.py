"""`gradsim plan`: what a run would cost, before anything is spent."""

import time
from typing import TYPE_CHECKING

import click

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.candidates.candidate_count import top_k

if TYPE_CHECKING:
    from gradsim_assets.core.gradients.engine import PassGraph
    from gradsim_assets.core.models.revisions import Revision
    from gradsim_assets.core.samples import Sample
    from gradsim_assets.resources.model_hub import ModelHub

GIB = 2**30


@click.command()
@click.argument("model")
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    help="Memory beside the model (default: this machine's).",
)
@click.option(
    "--tflops", type=click.FloatRange(min=0, min_open=True), help="Rate of matrix products (default: measured here)."
)
def plan(model: str, memory_gib: float | None, tflops: float | None) -> None:
    """Say what a run for MODEL would cost: passes, memory, disk, time, API tokens. Computes no gradient.

    Answers of the model are not known yet: they count as long as the paraphrases.
    """
    settings = load_settings()
    texts = _paraphrasing(settings)
    if texts:
        click.echo(texts)
    for line in _gradients(model, settings, memory_gib, tflops):
        click.echo(line)


def _paraphrasing(settings: Settings) -> str | None:
    """What the paraphraser would ask for and spend."""
    from gradsim_assets.resources.by_name import resources
    from gradsim_assets.resources.sample_sources import OPENAI

    if settings.data.paraphrases != OPENAI:
        return None
    from gradsim_assets.core.datasets.paraphrasing import estimate

    found = resources(settings)
    return f"paraphrases: {estimate(found.sources.load_originals(), found.paraphraser.options())}"


def _gradients(model: str, settings: Settings, memory_gib: float | None, tflops: float | None) -> list[str]:
    import torch

    from gradsim_assets.core.gradients.engine import PassOptions, plan_pass, shape_of_config
    from gradsim_assets.core.memory import free_bytes
    from gradsim_assets.core.models.devices import pick_device
    from gradsim_assets.core.partition_keys import shard_keys, shard_slice
    from gradsim_assets.resources.by_name import resources
    from gradsim_assets.resources.sample_sources import OPENAI

    found = resources(settings)
    hub, sources = found.hub, found.sources
    revision = hub.resolve(model)
    dtype = getattr(torch, hub.settings(model).dtype)
    shape = shape_of_config(hub.config(model, revision), dtype)
    originals = sources.load_originals()
    unwritten = settings.data.paraphrases == OPENAI
    variants = originals if unwritten else sources.load_paraphrases()
    device = torch.device(pick_device(settings.compute.device))
    memory = int((memory_gib or settings.compute.memory_gib) * GIB) or free_bytes(device, shape.model_bytes)
    rate = tflops * 1e12 if tflops else _measured_rate(device)
    graph = _Graphs(hub, model, revision, originals, settings)
    shards = [shard_slice(variants, key, settings.data.shards) for key in shard_keys(settings.data.shards)]
    plans = [plan_pass(shape, graph.of(list(shard)), memory, PassOptions(device=str(device))) for shard in shards]
    passes, floor = sum(p.passes for p in plans), len({o.id for o in originals} & graph.used) + 2 * len(variants)
    pairs = sum(p.pairs for p in plans)
    lines = [f"shard {key}: {p.describe()}" for key, p in zip(shard_keys(settings.data.shards), plans, strict=True)]
    return [
        *lines,
        f"in all {passes} backward passes ({passes / floor:.2f} x the {floor} distinct samples) for {pairs} pairs; "
        f"{max(p.memory_bytes for p in plans) / GIB:.2f} GiB at once of {memory / GIB:.2f} allowed; "
        f"{sum(p.disk_bytes for p in plans) / GIB:.3f} GiB of scratch and tables",
        f"about {_duration(sum(p.seconds(rate) for p in plans))} at {rate / 1e12:.2f} TFLOP/s on {device}",
    ]


class _Graphs:
    """The graph of lengths and pairs of a shard, from the tokenizer and BM25 alone."""

    def __init__(
        self, hub: "ModelHub", model: str, revision: "Revision", originals: "list[Sample]", settings: Settings
    ) -> None:
        from gradsim_assets.core.candidates.bm25 import Index

        self.chat = hub.tokenizer(model, revision)
        self.originals = originals
        self.index = Index([sample.user for sample in originals])
        self.place = {sample.id: number for number, sample in enumerate(originals)}
        self.settings = settings
        self.k = top_k(hub.settings(model).candidates)
        self.used: set[str] = set()

    def of(self, variants: "list[Sample]") -> "PassGraph":
        """Both settings of one shard, with all tables."""
        from gradsim_assets.core.gradients.engine import PassGraph
        from gradsim_assets.core.tables.schemas import SETTINGS

        pairs = [
            (variant.id, self.originals[candidate.index].id)
            for variant in variants
            for candidate in self.index.candidates(variant.user, self.place[variant.id], self.k)
        ]
        needed = {original for _, original in pairs}
        self.used |= needed
        lengths = {variant.id: self._lengths(variant) for variant in variants}
        return PassGraph(
            originals={i: self._lengths(self.originals[self.place[i]]) for i in sorted(needed)},
            variants=dict.fromkeys(SETTINGS, lengths),
            pairs=dict.fromkeys(SETTINGS, pairs),
            products=frozenset(SETTINGS),
            projections=dict.fromkeys(SETTINGS, self.settings.compute.projections),
        )

    def _lengths(self, sample: "Sample") -> tuple[int, int]:
        from gradsim_assets.core.models.tokenization import IGNORED

        encoded = self.chat.encode(sample)
        return encoded.length, int((encoded.labels != IGNORED).sum())


def _measured_rate(device: object) -> float:
    """FLOP per second of a matrix product on the device, from a calibration of well under a second."""
    import torch

    size = 1024 if str(device) == "cpu" else 4096
    left, right = (torch.rand(size, size, device=str(device)) for _ in range(2))
    torch.mm(left, right)
    started = time.perf_counter()
    for _ in range(5):
        out = torch.mm(left, right)
    float(out[0, 0])  # waits for the device
    return 5 * 2 * size**3 / (time.perf_counter() - started)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
