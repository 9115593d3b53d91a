"""One sample's gradient by plain autograd: the definition that everything faster is checked against."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from gradsim_assets.core.gradients.engine.values.precision import wide
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample


def sample_loss(model: torch.nn.Module, sample: EncodedSample, device: torch.device | str) -> torch.Tensor:
    """Mean negative log-likelihood (nats) over the response tokens: what a causal LM returns at batch size 1."""
    input_ids = torch.from_numpy(sample.input_ids).to(device)[None]
    labels = torch.from_numpy(sample.labels).to(device)
    logits = model(input_ids=input_ids, use_cache=False).logits[0, :-1]
    return F.cross_entropy(logits.to(wide(logits.dtype)), labels[1:], ignore_index=IGNORED)


def plain_gradient(
    model: torch.nn.Module,
    sample: EncodedSample,
    parameters: Sequence[torch.nn.Parameter],
    device: torch.device | str = "cpu",
) -> tuple[float, list[torch.Tensor]]:
    """Loss and d loss / d parameter for each parameter; a parameter that took no part has a gradient of zero."""
    with torch.enable_grad():
        loss = sample_loss(model, sample, device)
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return loss.item(), filled
