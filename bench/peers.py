"""The engine beside kronfluence and dattri: the same model, samples and pairs; time, coverage and error.

`make bench-peers` installs both into an environment of their own. All variants are compared with all originals, since
neither can be given a list of pairs. Prints a table and writes build/bench/peers.json.
"""

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.engine import interleaved, ratio
from bench.workload import demo_model, lima_lengths, make_samples
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass
from gradsim_assets.core.gradients.engine.pair_checks import plain_products, relative_error
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.reference import PlainAutograd

#: [variants, originals] by component, or by "full_gradient".
Scores = dict[str, np.ndarray]


#: Products that are off by less than this are right; what rounding does is a hundred times smaller.
EXACT = 1e-5


class Workload:
    """One model and a grid of samples."""

    def __init__(self, count: int) -> None:
        self.originals = make_samples(lima_lengths(count, 0), 8192, 0)
        self.variants = make_samples(lima_lengths(count, 1), 8192, 1)
        self.pairs = [(v.id, o.id) for v in self.variants for o in self.originals]
        self.model = demo_model()

    def ours(self) -> Scores:
        """The engine, as a user gets it but for the run-time check, which is no part of the others."""
        request = PassRequest(self.originals, {"x": self.variants}, {"x": self.pairs}, frozenset({"x"}))
        result = run_pass(self.model, request, PassOptions(check_pairs=0))
        grid = result.dot_products["x"].reshape(len(self.variants), len(self.originals), -1)
        return {name: grid[..., number] for number, name in enumerate(result.components)}


def collate(samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
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


def kronfluence_analyzer(model: torch.nn.Module) -> Callable[[str], Any]:
    """Makes kronfluence's analyzer of a model, which writes into a folder."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    class Loss(Task):
        def compute_train_loss(self, batch: Any, model: torch.nn.Module, sample: bool = False) -> torch.Tensor:
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
            return summed_loss(output.logits, batch["labels"])

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


def kronfluence(work: Workload, batch: int) -> Callable[[], Scores]:
    """Pairwise products per module without any curvature; linear layers are all that it knows of a transformer."""
    from kronfluence.arguments import FactorArguments, ScoreArguments

    make = kronfluence_analyzer(demo_model())

    def scores() -> Scores:
        with tempfile.TemporaryDirectory() as folder:
            analyzer = make(folder)
            analyzer.fit_all_factors("factors", work.originals, 1, factor_args=FactorArguments(strategy="identity"))
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                query_dataset=work.variants,
                train_dataset=work.originals,
                per_device_query_batch_size=batch,
                per_device_train_batch_size=batch,
                score_args=ScoreArguments(compute_per_module_scores=True),
            )
            found = analyzer.load_pairwise_scores("scores")
        return {f"{name}.weight": values.numpy() for name, values in found.items()}

    return scores


def dattri(work: Workload) -> Callable[[], Scores]:
    """Products of full gradients, through `torch.func`; one sample at a time, since lengths differ."""
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    model = demo_model()
    # `vmap` knows no fused attention with a causal mask made inside.
    model.config._attn_implementation = "eager"

    def loss(params: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, labels = data
        output = torch.func.functional_call(
            model, params, (ids.unsqueeze(0),), {"use_cache": False, "attention_mask": None}
        )
        return summed_loss(output.logits, labels.unsqueeze(0))

    def loader(samples: Sequence[EncodedSample]) -> torch.utils.data.DataLoader:
        data = [(torch.from_numpy(s.input_ids), torch.from_numpy(s.labels)) for s in samples]
        return torch.utils.data.DataLoader(data, batch_size=1, shuffle=False)  # type: ignore[arg-type]

    task = AttributionTask(loss, model, model.state_dict())
    attributor = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False)
    attributor.projector_kwargs = None  # type: ignore[assignment]  # its default is a projection to 512 numbers

    def scores() -> Scores:
        return {"full_gradient": attributor.attribute(loader(work.originals), loader(work.variants)).T.numpy()}

    return scores


def error(work: Workload, scores: Scores, rows: Sequence[int]) -> dict[str, float]:
    """Errors of some pairs against float64 autograd, and how many components have exact products of their own."""
    model = demo_model().double()
    named = dict(model.named_parameters())
    one, other = {s.id: s for s in work.variants}, {s.id: s for s in work.originals}
    plain = PlainAutograd(model, list(named.values()), "cpu")
    exact = plain_products(plain, [(one[work.pairs[r][0]], other[work.pairs[r][1]]) for r in rows])
    if "full_gradient" in scores:
        exact, names = exact.sum(-1, keepdims=True), ["full_gradient"]
    else:
        names = list(named)
    # A tied matrix goes by its first name; what stands under its second one is its other use alone.
    aliases = {"model.embed_tokens.weight": "lm_head.weight"}
    covered = [n for n in names if n in scores or aliases.get(n) in scores]
    found = np.stack([scores.get(n, scores.get(aliases.get(n, ""))).ravel()[list(rows)] for n in covered], axis=1)
    taken = exact[..., [names.index(n) for n in covered]]
    off = relative_error(found, taken[:, 0], taken[:, 1], taken[:, 2]).max(0)
    right = [name for name, one in zip(covered, off, strict=True) if one < EXACT]
    whole = "full_gradient" in scores
    sizes = {name: parameter.numel() for name, parameter in named.items()}
    return {
        "components": 0 if whole else len(right),
        "of": len(named),
        "share_of_parameters": 1.0 if whole else sum(sizes[name] for name in right) / sum(sizes.values()),
        "median_error": float(np.median(off)),
        "largest_error": float(off.max()),
    }


def main() -> None:
    """Runs all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10, help="originals, and as many variants")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("build/bench/peers.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work = Workload(arguments.samples)
    jobs = {
        "gradsim": work.ours,
        "kronfluence, batch 1": kronfluence(work, 1),
        "kronfluence, batch 4": kronfluence(work, 4),
        f"kronfluence, batch {arguments.samples}": kronfluence(work, arguments.samples),
        "dattri": dattri(work),
    }
    last: dict[str, Scores] = {}
    times = interleaved(arguments.runs, {n: lambda n=n, j=j: last.__setitem__(n, j()) for n, j in jobs.items()})
    rows = range(0, len(work.pairs), max(1, len(work.pairs) // 8))
    table = {
        name: {
            "seconds": statistics.median(times[name]),
            "times_gradsim": ratio(times, name, "gradsim"),
            **error(work, last[name], rows),
        }
        for name in jobs
    }
    for name, row in table.items():
        print(f"{name:24}" + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"pairs": len(work.pairs), "tools": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
