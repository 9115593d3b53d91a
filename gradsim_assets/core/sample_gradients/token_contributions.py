"""What every response token of a sample adds to the product of the sample's gradient with a direction.

The loss of a sample is the mean of its tokens' losses, so that its gradient g is a sum over tokens, and <g, d> the sum of the
tokens' directional derivatives. One forward pass that carries derivatives along d (forward-mode differentiation) gives all
of them at once, whatever the model's layers are. With another sample's gradient as d, they say which tokens
the two have in common: <g_v, g_o> token by token, exactly.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.model_state import ModelState, undisturbed
from gradsim_assets.core.sample_gradients.precision import matmul_precision, wide


def token_contributions(
    model: torch.nn.Module,
    sample: EncodedSample,
    direction: Sequence[torch.Tensor],
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Float64 [T]: for every token what its loss adds to <g, direction>, 0 where the loss leaves it out.

    `direction` has a tensor for each component (`trainable_components`) in model order. The sum is <g, direction> up to the
    rounding of the model's own arithmetic. The model is as it was before afterwards.
    """
    device, state = torch.device(device), ModelState(model)
    state.restore()
    try:
        with undisturbed(model), matmul_precision("fp32", device), sdpa_kernel(SDPBackend.MATH):
            try:
                found = _forward(model, sample, direction, device)
            except (NotImplementedError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                state.restore()  # an operation of the model has no forward derivative
                found = _token_by_token(model, sample, direction, device)
    finally:
        state.restore()
    counted = sample.labels[1:] != IGNORED
    contributions = np.zeros(sample.length)
    contributions[1:][counted] = found / counted.sum()
    return contributions


def _forward(
    model: torch.nn.Module, sample: EncodedSample, direction: Sequence[torch.Tensor], device: torch.device
) -> np.ndarray:
    places = {
        parameter: name for name, parameter in model.named_parameters()
    }  # components of adapters have other names
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            places[parameter]: forward_ad.make_dual(parameter.detach(), tangent.to(parameter.dtype))
            for (_, parameter), tangent in zip(trainable_components(model), direction, strict=True)
        }
        derivatives = forward_ad.unpack_dual(_losses(model, sample, device, duals)).tangent
        if derivatives is None:
            return np.zeros(int((sample.labels[1:] != IGNORED).sum()))
        return np.asarray(derivatives.double().cpu().numpy())


def _token_by_token(
    model: torch.nn.Module, sample: EncodedSample, direction: Sequence[torch.Tensor], device: torch.device
) -> np.ndarray:
    """The same by one backward pass for every token."""
    named = trainable_components(model)
    with torch.enable_grad():
        losses = _losses(model, sample, device)
        found = np.zeros(len(losses))
        for number, loss in enumerate(losses):
            gradients = torch.autograd.grad(
                loss, [parameter for _, parameter in named], retain_graph=True, allow_unused=True
            )
            pairs = zip(gradients, direction, strict=True)
            found[number] = sum(float((one.double() * other.double()).sum()) for one, other in pairs if one is not None)
    return found


def _losses(
    model: torch.nn.Module,
    sample: EncodedSample,
    device: torch.device,
    parameters: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Nats of every token that the loss counts, in order."""
    inputs = {"input_ids": torch.from_numpy(sample.input_ids).to(device)[None], "use_cache": False}
    output = functional_call(model, parameters, (), inputs) if parameters else model(**inputs)
    labels = torch.from_numpy(sample.labels[1:]).to(device)
    counted = labels != IGNORED
    logits = output.logits[0, :-1][counted]
    return F.cross_entropy(logits.to(wide(logits.dtype)), labels[counted], reduction="none")
