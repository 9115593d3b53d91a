"""What the engine is compared with: bare passes, and the algorithm of the scripts that came before it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from bench.workload import SETTINGS
from gradsim_assets.core.engine import PassRequest
from gradsim_assets.core.projections import make_projector
from gradsim_assets.core.tokenization import IGNORED, EncodedSample


def plain_passes(model: torch.nn.Module, samples: Sequence[EncodedSample]) -> None:
    """One forward and backward pass per sample at batch size 1; gradients are thrown away."""
    for sample in samples:
        ids, labels = torch.from_numpy(sample.input_ids)[None], torch.from_numpy(sample.labels)[None]
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)


def padded_passes(model: torch.nn.Module, samples: Sequence[EncodedSample], size: int) -> None:
    """The same in padded batches of samples of similar length; the gradients of a batch are summed, so useless here."""
    ordered = sorted(samples, key=lambda sample: sample.length)
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        width = batch[-1].length
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        for row, sample in enumerate(batch):
            ids[row, : sample.length] = torch.from_numpy(sample.input_ids)
            labels[row, : sample.length] = torch.from_numpy(sample.labels)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)).backward()
        model.zero_grad(set_to_none=True)


def _flat_gradients(model: torch.nn.Module, sample: EncodedSample) -> list[torch.Tensor]:
    ids, labels = torch.from_numpy(sample.input_ids)[None], torch.from_numpy(sample.labels)[None]
    model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
    gradients = [p.grad.detach().clone().cpu().flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return gradients


def scripts(model: torch.nn.Module, request: PassRequest, variants: int, proportions: Sequence[float]) -> float:
    """The predecessor's jobs on the first `variants` variants: every job recomputes the originals for every variant.

    Its dense projections (hours per sample on CPU) are replaced by the engine's own, so what is measured is its
    recomputation and copying alone. Returns a number that depends on all results.
    """
    originals = {sample.id: sample for sample in request.originals}
    named = [(name, parameter.numel()) for name, parameter in model.named_parameters()]
    total = 0.0
    for setting in SETTINGS:
        pairs: dict[str, list[str]] = {}
        for variant, original in request.pairs[setting]:
            pairs.setdefault(variant, []).append(original)
        for job in ("products", "similarity", *proportions):
            projectors = [] if isinstance(job, str) else [make_projector(name, size, job) for name, size in named]
            for sample in request.variants[setting][:variants]:
                one = _prepared(model, sample, job, projectors)
                for original in pairs[sample.id]:
                    other = _prepared(model, originals[original], job, projectors)
                    dots = [torch.dot(a, b).item() for a, b in zip(one, other, strict=True)]
                    lengths = [torch.dot(a, a).item() * torch.dot(b, b).item() for a, b in zip(one, other, strict=True)]
                    total += sum(dots) + sum(lengths)
    return total


def _prepared(model: torch.nn.Module, sample: EncodedSample, job: str | float, projectors: list) -> list[torch.Tensor]:
    gradients = _flat_gradients(model, sample)
    if job == "products":
        return gradients
    if job == "similarity":
        return [torch.cat(gradients)]
    return [torch.cat([project(g[None])[0] for project, g in zip(projectors, gradients, strict=True)])]
