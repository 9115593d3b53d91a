"""What the engine is compared with: bare passes, and the algorithm of the scripts that came before it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from bench.workload import SETTINGS
from gradsim_assets.core.gradients.engine import PassRequest
from gradsim_assets.core.gradients.projections import projected_dimension
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample


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


def scripts(model: torch.nn.Module, request: PassRequest, jobs: Sequence[str | float]) -> float:
    """The predecessor's jobs, one after the other: each recomputes every original for every variant.

    A job is "products", "similarity" or a proportion; of the projections only the gradients are computed and flattened
    here (`dense_projection` says what projecting them adds). Returns a number that depends on all results.
    """
    originals = {sample.id: sample for sample in request.originals}
    total = 0.0
    for setting in SETTINGS:
        pairs: dict[str, list[str]] = {}
        for variant, original in request.pairs[setting]:
            pairs.setdefault(variant, []).append(original)
        for job in jobs:
            for sample in request.variants[setting]:
                one = _prepared(model, sample, job)
                for original in pairs.get(sample.id, ()):
                    other = _prepared(model, originals[original], job)
                    dots = [torch.dot(a, b).item() for a, b in zip(one, other, strict=True)]
                    lengths = [torch.dot(a, a).item() * torch.dot(b, b).item() for a, b in zip(one, other, strict=True)]
                    total += sum(dots) + sum(lengths)
    return total


def _prepared(model: torch.nn.Module, sample: EncodedSample, job: str | float) -> list[torch.Tensor]:
    gradients = _flat_gradients(model, sample)
    return gradients if job == "products" else [torch.cat(gradients)]


def dense_projection(size: int = 2**18, dimension: int = 200) -> Callable[[], object]:
    """traker's projector for machines without its CUDA kernel, ready to project one gradient of `size` numbers.

    It draws the matrix anew for every gradient, so its time is proportional to size x dimension.
    """
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(
        grad_dim=size,
        proj_dim=dimension,
        seed=0,
        proj_type=ProjectionType.rademacher,
        device=torch.device("cpu"),
    )
    gradient = torch.randn(1, size)
    return lambda: projector.project(gradient, model_id=0)


def dense_projection_cells(model: torch.nn.Module, proportion: float) -> int:
    """Entries of all projection matrices of a model: the sum of size x dimension over its components."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    return sum(size * projected_dimension(size, proportion) for size in sizes)
