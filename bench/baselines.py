"""What the engine is compared with: bare passes, and the algorithm of the scripts that came before it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from bench.workload import SETTINGS
from gradsim_assets.core.gradients.engine import PassRequest
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.projections import projected_dimension


def plain_passes(model: torch.nn.Module, batches: Sequence[Sequence[EncodedSample]]) -> None:
    """One forward and backward pass per batch; gradients, which batches sum up, are thrown away.

    Logits are made at labelled positions alone, as the engine does: a bare `model(labels=...)` would make the others as
    well, for nothing.
    """
    for batch in batches:
        _loss(model, batch).backward()
        model.zero_grad(set_to_none=True)


def _loss(model: torch.nn.Module, batch: Sequence[EncodedSample]) -> torch.Tensor:
    """The mean loss of a batch, padded on the right, over its labelled tokens."""
    padded = max(sample.length for sample in batch)
    ids, labels = torch.zeros(len(batch), padded, dtype=torch.int64), torch.full((len(batch), padded), IGNORED)
    for row, sample in enumerate(batch):
        ids[row, : sample.length] = torch.from_numpy(sample.input_ids)
        labels[row, : sample.length] = torch.from_numpy(sample.labels)
    device = next(model.parameters()).device
    positions = (labels[:, 1:] != IGNORED).reshape(-1).nonzero()[:, 0]
    targets = labels[:, 1:].reshape(-1)[positions].to(device)
    hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions.to(device)))
    return F.cross_entropy(logits.float(), targets)


def one_by_one(samples: Sequence[EncodedSample]) -> list[list[EncodedSample]]:
    """Each sample alone."""
    return [[sample] for sample in samples]


def in_batches(samples: Sequence[EncodedSample], size: int) -> list[list[EncodedSample]]:
    """Batches of so many samples of similar length."""
    ordered = sorted(samples, key=lambda sample: sample.length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def packed(samples: Sequence[EncodedSample], tokens: int) -> list[list[EncodedSample]]:
    """Batches of samples of similar length with at most so many padded tokens, or of one sample."""
    batches: list[list[EncodedSample]] = []
    for sample in sorted(samples, key=lambda sample: -sample.length):
        if not batches or batches[-1][0].length * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(sample)
    return batches


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
