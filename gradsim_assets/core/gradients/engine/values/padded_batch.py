"""Samples side by side in one batch, their losses, and the gradient that the backward pass starts from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradsim_assets.core.gradients.engine.values.precision import wide
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample


@dataclass(frozen=True)
class PaddedBatch:
    """B samples, padded on the right to T tokens, with N labelled tokens in all.

    Causal attention cannot see padding on the right, so it needs no mask: what a sample computes is what it computes
    alone, up to the rounding of matrix products of another shape.
    """

    #: int64 [B, T]
    input_ids: torch.Tensor
    #: Tokens of each sample [B].
    lengths: list[int]
    #: int64 [N]: positions in the flattened batch whose logits predict a labelled token, sample by sample.
    predicting: torch.Tensor
    #: int64 [N]: the labelled tokens that they predict.
    targets: torch.Tensor
    #: Labelled tokens of each sample [B].
    labelled: list[int]

    @classmethod
    def of(cls, samples: Sequence[EncodedSample], device: torch.device) -> "PaddedBatch":
        """The batch of some samples, in their order, on the device."""
        lengths = [sample.length for sample in samples]
        padded = max(lengths)
        input_ids = torch.zeros(len(samples), padded, dtype=torch.int64)
        targets, predicting = [], []
        for row, sample in enumerate(samples):
            input_ids[row, : sample.length] = torch.from_numpy(sample.input_ids)
            labels = torch.from_numpy(sample.labels)[1:]  # position t predicts label t + 1
            positions = (labels != IGNORED).nonzero()[:, 0]
            predicting.append(positions + row * padded)
            targets.append(labels[positions])
        return cls(
            input_ids=input_ids.to(device),
            lengths=lengths,
            predicting=torch.cat(predicting).to(device),
            targets=torch.cat(targets).to(device),
            labelled=[len(one) for one in targets],
        )


def loss_gradient(
    logits: torch.Tensor, targets: torch.Tensor, labelled: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [B] and d loss / d logits [N, V] = (softmax - one-hot) / n, with n the sample's labelled tokens.

    `logits` [N, V] are those that predict `targets` [N]; `labelled` [B] holds each sample's n.
    """
    scores = logits.to(wide(logits.dtype))
    shares = scores.new_tensor([1 / count for count in labelled]).repeat_interleave(
        torch.tensor(labelled, device=scores.device), output_size=len(targets)
    )
    gradient = scores.softmax(-1)  # fused; log-sum-exp follows from the largest entry, at a tenth of its own cost
    log_sum_exp = scores.amax(-1, keepdim=True) - gradient.amax(-1, keepdim=True).log()
    token_losses = (log_sum_exp - scores.gather(1, targets[:, None]))[:, 0] * shares
    losses = torch.stack([own.sum() for own in token_losses.split(labelled)])
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    return losses, gradient.mul_(shares[:, None]).to(logits.dtype)
