"""Checks against plain autograd: of all hooks before a pass, of a few pairs of its results after it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.request import PassRequest
from gradsim_assets.core.gradients.engine.values.gradient_hooks import GradientHooks
from gradsim_assets.core.gradients.engine.values.held_gradients import HeldGradients
from gradsim_assets.core.gradients.engine.values.layers import UnbatchableError
from gradsim_assets.core.gradients.engine.values.layout import Layout, Room
from gradsim_assets.core.gradients.engine.values.padded_batch import PaddedBatch
from gradsim_assets.core.gradients.engine.values.precision import default_tolerance
from gradsim_assets.core.gradients.engine.values.reference import plain_gradient
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.seeds import stable_seed

#: Parameters whose plain gradients are held at a time; a whole gradient of a large model need not fit beside it.
GROUP_BYTES = 2**30

#: Tokens of the piece of a sample that hooks are verified on.
VERIFIED_TOKENS = 24

#: Ways of getting a component's gradient, each more general than the one before: closed form, module, whole model.
WAYS = 3

#: How far the self products of hooks may be off, in multiples of what rounding explains.
VERIFICATION_SLACK = 10

#: Errors of a component are relative to the lengths of its two gradients, or to this share of the full gradients'
#: where that is larger: key biases without rotary positions have a gradient of zero but for rounding.
FLOOR = 1e-5


def plain_products(
    model: torch.nn.Module,
    pairs: Sequence[tuple[EncodedSample, EncodedSample]],
    parameters: Sequence[torch.nn.Parameter],
    device: torch.device | str,
) -> np.ndarray:
    """Float64 [pairs, 3, components]: dot, first self and second self products, by batch-1 autograd in groups."""
    out = np.zeros((len(pairs), 3, len(parameters)))
    for group in _groups(parameters):
        chosen = [parameters[number] for number in group]
        for row, (one, other) in enumerate(pairs):
            first = plain_gradient(model, one, chosen, device)[1]
            second = first if other is one else plain_gradient(model, other, chosen, device)[1]
            for number, a, b in zip(group, first, second, strict=True):
                out[row, :, number] = [_dot(a, b), _dot(a, a), _dot(b, b)]
    return out


def _groups(parameters: Sequence[torch.nn.Parameter]) -> list[list[int]]:
    """Numbers of the parameters, in groups of at most GROUP_BYTES or of one."""
    groups: list[list[int]] = []
    left = 0
    for number, parameter in enumerate(parameters):
        size = parameter.numel() * parameter.element_size()
        if not groups or size > left:
            groups.append([])
            left = GROUP_BYTES
        groups[-1].append(number)
        left -= size
    return groups


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    # In float64 chunk by chunk: the reference must not round as the products under test do.
    chunks = zip(one.reshape(-1).split(2**22), other.reshape(-1).split(2**22), strict=True)
    return sum(torch.dot(a.double(), b.double()).item() for a, b in chunks)


def relative_error(found: np.ndarray, exact: np.ndarray, one_self: np.ndarray, other_self: np.ndarray) -> np.ndarray:
    """|found - exact| over the lengths of both gradients (see FLOOR); everything is [pairs, components]."""
    lengths = np.sqrt(one_self * other_self)
    full = np.sqrt(one_self.sum(-1, keepdims=True) * other_self.sum(-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(found - exact) / np.maximum(lengths, FLOOR * full)
    return np.where(found == exact, 0.0, error)


def verify_hooks(hooks: GradientHooks, sample: EncodedSample, note: Callable[[str], None]) -> None:
    """Makes sure that hooks collect right gradients, and finds out whether samples can go through in batches.

    A module may use its weights in a way that its looks do not tell, so nothing is taken on trust. `note` hears what
    turned out otherwise than looks promised.
    """
    sample = shortened(sample, VERIFIED_TOKENS)
    demote_wrong(hooks, sample, note)
    if hooks.batchable:
        probe_batching(hooks, sample, note)


def demote_wrong(hooks: GradientHooks, sample: EncodedSample, note: Callable[[str], None]) -> None:
    """Takes components whose self products are wrong in a more general way, until all are right."""
    exact = plain_products(hooks.model, [(sample, sample)], hooks.parameters, hooks.device)[0, 1]
    for _ in range(WAYS):
        wrong = _wrong_components(hooks, sample, exact)
        if not wrong:
            return
        note(
            f"{len(wrong)} components have no closed form that holds "
            f"({', '.join(hooks.names[n] for n in sorted(wrong)[:3])}, ..); taken by autograd instead"
        )
        hooks.demote(wrong)


def _wrong_components(hooks: GradientHooks, sample: EncodedSample, exact: np.ndarray) -> set[int]:
    """Components whose self products are not the `exact` ones [components], beyond rounding."""
    found = _self_products(hooks, sample)
    tolerance = VERIFICATION_SLACK * default_tolerance(hooks.parameters[0].dtype)
    right = relative_error(found, exact, exact, exact) <= tolerance  # NaN is not right
    return set(np.flatnonzero(~right).tolist())


def probe_batching(hooks: GradientHooks, sample: EncodedSample, note: Callable[[str], None]) -> None:
    """Marks the hooks as unbatchable if the model's modules mix samples that go through together."""
    twin = EncodedSample("twin", sample.input_ids[:-1], sample.labels[:-1])
    try:
        _self_products(hooks, sample, twin if (twin.labels[1:] != IGNORED).any() else sample)
    except UnbatchableError:
        hooks.batchable = False
        note("the model's modules mix the samples of a batch, so samples go through one by one")


def shortened(sample: EncodedSample, tokens: int) -> EncodedSample:
    """A piece of the sample of at most `tokens` tokens around the start of its answer, with labels in it."""
    first = int((sample.labels[1:] != IGNORED).argmax()) + 1
    start = max(0, min(first - tokens // 2, sample.length - tokens))
    piece = slice(start, start + tokens)
    return EncodedSample(sample.id, sample.input_ids[piece], sample.labels[piece])


def _self_products(hooks: GradientHooks, *samples: EncodedSample) -> np.ndarray:
    """Float64 [components]: self products of the first sample, in a batch with the others."""
    batch = PaddedBatch.of([samples], hooks.device)[0]
    layout = Layout.of(hooks)
    # One component's gradient at a time would do, but a row is at most one gradient of a short sample.
    held = HeldGradients(layout, Room.of([batch.shape], layout.profile.row_multiple))
    held.begin(batch.shape)
    with hooks.open():
        hooks.backward(batch, held)
    held.finish()
    return held.self_products([0])[0]


def rows_to_check(request: PassRequest, count: int) -> list[tuple[str, int]]:
    """`count` rows (setting, row) spread over the settings, the same in every run of a request."""
    places = [(s, row) for s in request.settings if s in request.products for row in range(len(request.pairs[s]))]
    chosen = np.random.default_rng(stable_seed("check", len(places))).permutation(len(places))[:count]
    return [places[place] for place in chosen]


def verify_products(
    hooks: GradientHooks,
    pairs: Sequence[tuple[EncodedSample, EncodedSample]],
    found: np.ndarray,
    names: Sequence[str],
    tolerance: float,
) -> float:
    """Compares products of pairs with those of plain autograd; returns the largest error (see `relative_error`).

    `found` is float64 [pairs, 3, components], as `plain_products` gives them; `names` say which pairs these are.

    Raises:
        ArithmeticError: an error is above the tolerance, or no number.
    """
    exact = plain_products(hooks.model, pairs, hooks.parameters, hooks.device)
    one, other = exact[:, 1], exact[:, 2]
    error = np.maximum.reduce(
        [
            relative_error(found[:, 0], exact[:, 0], one, other),
            relative_error(found[:, 1], one, one, one),
            relative_error(found[:, 2], other, other, other),
        ]
    )
    largest = float(error.max())
    if not largest <= tolerance:
        pair, component = map(int, np.unravel_index(np.nanargmax(error), error.shape))
        raise ArithmeticError(
            f"{names[pair]}, {hooks.names[component]}: the product differs from plain autograd by {largest:.1e} of the "
            f"gradients' lengths (tolerance {tolerance:.1e}); nothing of this run is to be trusted."
        )
    return largest
