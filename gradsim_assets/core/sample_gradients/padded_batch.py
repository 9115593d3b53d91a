"""Samples side by side in padded batches, their losses, and the gradient that the backward pass starts from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.precision import wide
from gradsim_assets.core.seeds import stable_seed

#: Distributions that labels are drawn from at a time.
_DRAWN_AT_ONCE = 256

#: Bytes of the widened logits that a loss is made of at a time: a vocabulary is wide, and several such tensors are needed.
LOSS_BYTES = 2**27


@dataclass(frozen=True)
class BatchShape:
    """The rows of B samples that are padded on the right to the T tokens of the longest, and the labelled ones to L."""

    #: Tokens of each sample [B].
    lengths: tuple[int, ...]
    #: Labelled tokens of each sample [B].
    labelled: tuple[int, ...]

    @property
    def samples(self) -> int:
        """B"""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """T"""
        return max(self.lengths)

    @property
    def labelled_tokens(self) -> int:
        """L"""
        return max(self.labelled)


def batch_shape(samples: Sequence[EncodedSample]) -> BatchShape:
    """The shape of a batch of these samples."""
    return BatchShape(
        tuple(sample.length for sample in samples),
        tuple(int((sample.labels[1:] != IGNORED).sum()) for sample in samples),
    )


@dataclass(frozen=True)
class PaddedBatch:
    """B samples of T tokens on the device, of which L each are predicted.

    Causal attention cannot see padding on the right, so it needs no mask: what a sample computes is what it computes
    alone, up to the rounding of matrix products of another shape. Padding is not predicted, so it has no gradient.
    """

    shape: BatchShape
    #: int64 [B, T]
    input_ids: torch.Tensor
    #: int64 [B * L]: positions in the flattened batch whose logits predict a labelled token, sample by sample. A sample
    #: with fewer than L repeats its first position, with a share of zero.
    predicting: torch.Tensor
    #: int64 [B * L]: the labelled tokens that they predict.
    targets: torch.Tensor
    #: Float64 [B * L]: the share of each in its sample's loss, 1 / n where n tokens are labelled.
    shares: torch.Tensor
    #: Float64 [B * L] in [0, 1): by what the model draws other labels (see `drawn_labels`); None where it does not.
    draws: torch.Tensor | None = None

    @classmethod
    def of(cls, batches: Sequence[Sequence[EncodedSample]], device: torch.device, drawn: bool = False) -> list[Self]:
        """Batches of samples in their order, brought to the device in one transfer that nothing waits for.

        With `drawn` the model is to draw other labels.
        """
        shapes = [batch_shape(batch) for batch in batches]
        arrays = [array for batch, shape in zip(batches, shapes, strict=True) for array in _arrays(batch, shape, drawn)]
        flat = torch.from_numpy(np.concatenate(arrays))
        if device.type == "cuda":
            flat = flat.pin_memory()
        parts = iter(flat.to(device, non_blocking=True).split([len(array) for array in arrays]))
        return [
            cls(
                shape,
                next(parts).view(shape.samples, -1),
                next(parts),
                next(parts).clone() if drawn else next(parts),  # which is written to, and autograd keeps the others
                next(parts).view(torch.float64),
                next(parts).view(torch.float64) if drawn else None,
            )
            for shape in shapes
        ]

    def labels_for(self, logits: torch.Tensor) -> torch.Tensor:
        """int64 [B * L]: `targets`; where the model is to draw them, those that it draws by its logits [B * L, V], which stand
        in `targets` from then on. They come on the logits' device."""
        if self.draws is not None:
            self.targets.copy_(drawn_labels(logits, self.draws.to(logits.device)))
        return self.targets.to(logits.device)


def _arrays(samples: Sequence[EncodedSample], shape: BatchShape, drawn: bool) -> list[np.ndarray]:
    """What a batch is made of, flat and as int64; shares and draws by their bits."""
    input_ids = np.zeros((shape.samples, shape.tokens), np.int64)
    places = (shape.samples, shape.labelled_tokens)
    predicting, targets = np.zeros(places, np.int64), np.zeros(places, np.int64)
    shares, draws = np.zeros(places), np.zeros(places)
    for row, sample in enumerate(samples):
        input_ids[row, : sample.length] = sample.input_ids
        positions = np.flatnonzero(sample.labels[1:] != IGNORED)  # position t predicts label t + 1
        predicting[row] = row * shape.tokens
        predicting[row, : len(positions)] += positions
        targets[row, : len(positions)] = sample.labels[1:][positions]
        shares[row, : len(positions)] = 1 / len(positions)
        if drawn:
            draws[row, : len(positions)] = label_draws(sample.id, len(positions))
    floats = [shares.ravel().view(np.int64), *([draws.ravel().view(np.int64)] if drawn else [])]
    return [input_ids.ravel(), predicting.ravel(), targets.ravel(), *floats]


def labelled_as(samples: Sequence[EncodedSample], batch: PaddedBatch) -> list[EncodedSample]:
    """The samples of a batch with its `targets` for labels; waits for the device."""
    found = []
    for sample, targets in zip(samples, batch.targets.view(len(samples), -1).numpy(force=True), strict=True):
        counted = np.flatnonzero(sample.labels[1:] != IGNORED)
        labels = sample.labels.copy()
        labels[1 + counted] = targets[: len(counted)]
        found.append(replace(sample, labels=labels))
    return found


def label_draws(sample_id: str, count: int) -> np.ndarray:
    """Float64 [count] in [0, 1): what the labels of a sample are drawn by, whatever batch it comes in."""
    return np.random.default_rng(stable_seed("labels", sample_id)).random(count)


def drawn_labels(logits: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """int64 [N]: tokens drawn from the distributions of logits [N, V], each by its number in [0, 1).

    They are the inverse of the cumulative distribution, in float64. Logits that are rounded otherwise, as in another batch,
    give another token where the number is within rounding of a step: about one in a million.
    """
    found = []
    for own, numbers in zip(logits.split(_DRAWN_AT_ONCE), draws.split(_DRAWN_AT_ONCE), strict=True):
        steps = own.to(torch.float64).softmax(-1).cumsum(-1)
        found.append(torch.searchsorted(steps, numbers[:, None] * steps[:, -1:], right=True)[:, 0])
    return torch.cat(found).clamp_(max=logits.shape[-1] - 1)


def loss_gradient(
    logits: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor, samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [B] and d loss / d logits [N, V] = share * (softmax - one-hot).

    `logits` [N, V] are those that predict `targets` [N], N / B of each sample, with `shares` [N] in its loss.
    """
    gradient, weights = torch.empty_like(logits), shares.to(wide(logits.dtype))
    token_losses = torch.empty_like(weights)
    rows = max(1, LOSS_BYTES // (max(1, logits.shape[1]) * weights.itemsize))
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        token_losses[part], gradient[part] = _of_tokens(logits[part].to(weights.dtype), targets[part], weights[part])
    return token_losses.view(samples, -1).sum(1), gradient


def _of_tokens(scores: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of some tokens: their parts of the loss [n], and its gradient in their scores [n, V]."""
    gradient = scores.softmax(-1)  # fused; log-sum-exp follows from the largest entry, at a tenth of its own cost
    log_sum_exp = scores.amax(-1, keepdim=True) - gradient.amax(-1, keepdim=True).log()
    losses = (log_sum_exp - scores.gather(1, targets[:, None]))[:, 0] * weights
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    return losses, gradient.mul_(weights[:, None])
