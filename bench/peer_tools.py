"""Other tools' products of per-sample gradients, each through its own public interface and in its best settings.

Each function takes a maker of the model and returns what is done once for the originals (`build`), and what computes from it
all products of the variants with the originals (`query`): arrays [variants, originals] by the names of the parameters that
one number of the tool stands for, joined by " + " (some tools treat a layer's weight and bias as one), or by `WHOLE`.
"""

import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample

#: [variants, originals] by what the products are of.
Scores = dict[str, np.ndarray]

#: The name of products of the full gradient alone.
WHOLE = "full_gradient"

#: Makes the model anew: tools change what they are given.
MakeModel = Callable[[], torch.nn.Module]

#: Variants and originals.
Samples = Sequence[EncodedSample]


@dataclass(frozen=True)
class Prepared:
    """A tool with its model and samples: `query(build())` are the scores."""

    build: Callable[[], Any]
    query: Callable[[Any], Scores]

    def __call__(self) -> Scores:
        """Both, one after the other."""
        return self.query(self.build())


def _nothing() -> None:
    """What tools do once that keep nothing."""


Tool = Callable[[MakeModel, Samples, Samples, int], Prepared]


def collate(samples: Samples) -> dict[str, torch.Tensor]:
    """A batch padded on the right, with its mask."""
    width = max(sample.length for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.int64)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for row, sample in enumerate(samples):
        ids[row, : sample.length] = torch.from_numpy(sample.input_ids)
        labels[row, : sample.length] = torch.from_numpy(sample.labels)
        mask[row, : sample.length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over the samples of the mean over their own response tokens."""
    wanted = labels[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
    return (losses.sum(-1) / (wanted != IGNORED).sum(-1)).sum()


def _batch_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return summed_loss(output.logits, batch["labels"])


def _joined(model: torch.nn.Module, module: str) -> str:
    """The parameters that a module's own product is of, tied ones by their first name; experts are parts of one tensor."""
    if (expert := re.fullmatch(r"(.*)\.expert_\d+(\.\w+)", module)) is not None:
        return expert[1] + expert[2]
    names = {parameter: name for name, parameter in model.named_parameters()}
    return " + ".join(names[one] for one in model.get_submodule(module).parameters(recurse=False))


def _by_parameter(model: torch.nn.Module, grids: Mapping[str, np.ndarray]) -> Scores:
    """Products by parameters instead of modules: those of modules that share one are added up."""
    found: Scores = {}
    for module, values in grids.items():
        name = _joined(model, module)
        found[name] = found[name] + values if name in found else values
    return found


def gradsim(make: MakeModel, variants: Samples, originals: Samples, batch: int) -> Prepared:
    """The engine, as a user gets it but for the run-time check, which is no part of the others. It packs batches itself."""
    model = make()
    pairs = [(variant.id, original.id) for variant in variants for original in originals]
    request = PassRequest(list(originals), {"x": list(variants)}, {"x": pairs}, frozenset({"x"}))

    def scores(_: None) -> Scores:
        result = run_pass(model, request, PassOptions(check_pairs=0))
        grid = result.dot_products["x"].reshape(len(variants), len(originals), -1)
        return {name: grid[..., number] for number, name in enumerate(result.components)}

    return Prepared(_nothing, scores)


def kronfluence_analyzer(model: torch.nn.Module) -> Callable[[str], Any]:
    """Makes kronfluence's analyzer of a model, which writes into a folder."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    class Loss(Task):
        def compute_train_loss(self, batch: Any, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            return _batch_loss(model, batch)

        def compute_measurement(self, batch: Any, model: torch.nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

        def get_attention_mask(self, batch: Any) -> torch.Tensor:
            return batch["attention_mask"]

    logging.disable(logging.WARNING)
    task = Loss()
    prepared = prepare_model(model, task)

    def make(folder: str) -> Any:
        analyzer = Analyzer("bench", prepared, task, cpu=True, output_dir=folder, disable_tqdm=True)
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collate, num_workers=0))
        return analyzer

    return make


def kronfluence(make: MakeModel, variants: Samples, originals: Samples, batch: int) -> Prepared:
    """Pairwise products per module without any curvature; linear layers are all that it knows of a transformer."""
    from kronfluence.arguments import FactorArguments, ScoreArguments

    plain, make_analyzer = make(), kronfluence_analyzer(make())

    def scores(_: None) -> Scores:
        with tempfile.TemporaryDirectory() as folder:
            analyzer = make_analyzer(folder)
            analyzer.fit_all_factors("factors", originals, 1, factor_args=FactorArguments(strategy="identity"))
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                query_dataset=variants,
                train_dataset=originals,
                per_device_query_batch_size=batch,
                per_device_train_batch_size=batch,
                score_args=ScoreArguments(compute_per_module_scores=True),
            )
            found = analyzer.load_pairwise_scores("scores")
        return _by_parameter(plain, {name: values.numpy() for name, values in found.items()})

    return Prepared(_nothing, scores)


def dattri(make: MakeModel, variants: Samples, originals: Samples, batch: int) -> Prepared:
    """Products of full gradients, through `torch.func`; one sample at a time, since lengths differ."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    model = make()
    # `vmap` knows no fused attention with a causal mask made inside.
    model.config._attn_implementation = "eager"

    def loss(params: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, labels = data
        output = torch.func.functional_call(
            model, params, (ids.unsqueeze(0),), {"use_cache": False, "attention_mask": None}
        )
        return summed_loss(output.logits, labels.unsqueeze(0))

    def loader(samples: Samples) -> torch.utils.data.DataLoader:
        data = [(torch.from_numpy(s.input_ids), torch.from_numpy(s.labels)) for s in samples]
        return torch.utils.data.DataLoader(data, batch_size=1, shuffle=False)  # type: ignore[arg-type]

    task = AttributionTask(loss, model, model.state_dict())
    attributor = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False)
    attributor.projector_kwargs = None  # type: ignore[assignment]  # its default is a projection to 512 numbers

    def scores(_: None) -> Scores:
        return {WHOLE: attributor.attribute(loader(originals), loader(variants)).T.numpy()}

    return Prepared(_nothing, scores)


def dattri_llm(make: MakeModel, variants: Samples, originals: Samples, batch: int) -> Prepared:
    """Factors of every layer that it knows, streamed; products layer by layer, formed or not as its cost rule says.

    A tied embedding is two layers to it, whose products are added up here; those of one layer with the other are not there.
    """
    from dattri_llm import REGISTER_ALL, AttributionArguments, GradientStreamer, HookManagerConfig
    from dattri_llm.gradient.ops import layerwise_cross_dot
    from dattri_llm.utils.module import rms_norm_module_kwargs

    model, plain = make(), make()
    # Norms of transformers are classes of their own: declared as its documentation says.
    norms = {name: one for name, one in model.named_modules() if type(one).__name__.endswith("RMSNorm")}
    config = HookManagerConfig(
        hook_types=dict.fromkeys(norms, "linear_io"),
        linear_io=REGISTER_ALL,
        capture_style="auto",
        layer_types=dict.fromkeys(norms, "nn.RMSNorm"),
        module_kwargs={
            name: rms_norm_module_kwargs(normalized_shape=one.weight.shape[0], eps=one.variance_epsilon)
            for name, one in norms.items()
        },
    )
    folder = tempfile.mkdtemp()
    arguments = AttributionArguments(output_dir=folder, use_cpu=True)

    def blocks(samples: Samples) -> list[Any]:
        with GradientStreamer(
            model, list(samples), arguments, batch_size=batch, loss_fn=_batch_loss, config=config, collate_fn=collate
        ) as source:
            return [gradient for _, gradient, _ in source]

    def scores(theirs: list[Any]) -> Scores:
        rows = [
            [layerwise_cross_dot(original, variant, reduce="none") for original in theirs]
            for variant in blocks(variants)
        ]
        grids = {
            layer: np.concatenate([np.concatenate([one[layer].T.numpy() for one in row], axis=1) for row in rows])
            for layer in rows[0][0]
        }
        return _by_parameter(plain, grids)

    return Prepared(lambda: blocks(originals), scores)


def bergson(make: MakeModel, variants: Samples, originals: Samples, batch: int) -> Prepared:
    """Unprojected gradients of every module that it knows, held in memory, and their products module by module.

    Its own command line leaves the head out; it is in here. `batch` counts samples; 0 packs its default of 2,048 tokens.
    """
    from bergson import GradientProcessor, InMemoryCollector, expand_moe
    from bergson.collector.collector import CollectorComputer
    from bergson.config import IndexConfig
    from bergson.data import allocate_batches
    from datasets import Dataset

    logging.disable(logging.WARNING)
    model, plain = make(), make()
    if experts := [name for name, one in model.named_modules() if name.endswith(".experts")]:
        expand_moe(model, ",".join(experts))

    def gradients(samples: Samples) -> dict[str, torch.Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            config = IndexConfig(run_path=str(Path(folder, "run")), loss_reduction="mean", include_bias=True)
            config.partial_run_path.mkdir()
            data = Dataset.from_dict(
                {"input_ids": [s.input_ids.tolist() for s in samples], "labels": [s.labels.tolist() for s in samples]}
            )
            lengths = [sample.length for sample in samples]
            budget = max(config.token_batch_size if not batch else batch * max(lengths), *lengths)
            collector = InMemoryCollector(
                model=model, data=data, cfg=config, processor=GradientProcessor(include_bias=True)
            )
            batches = allocate_batches(lengths, budget, max_batch_size=batch or None)
            computer = CollectorComputer(model, data, collector=collector, batches=batches, cfg=config)  # type: ignore[arg-type]
            computer.run_with_collector_hooks()
            return collector.gradients

    def scores(others: dict[str, torch.Tensor]) -> Scores:
        ones = gradients(variants)
        return _by_parameter(plain, {name: (ones[name] @ others[name].T).numpy() for name in ones})

    return Prepared(lambda: gradients(originals), scores)
