"""Checks against plain autograd: of every site before a pass, of a few pairs of its results after it."""

from collections.abc import Sequence

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.request import PassRequest
from gradsim_assets.core.gradients.engine.values.gradient_hooks import Tap
from gradsim_assets.core.gradients.engine.values.held_gradients import Layout, Store
from gradsim_assets.core.gradients.engine.values.layers import UnbatchableError
from gradsim_assets.core.gradients.engine.values.precision import default_tolerance
from gradsim_assets.core.gradients.engine.values.reference import plain_gradient
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.seeds import stable_seed

#: Parameters whose plain gradients are held at a time; a whole gradient of a large model need not fit beside it.
GROUP_BYTES = 2**30

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
    groups: list[list[int]] = []
    room = 0
    for number, parameter in enumerate(parameters):
        size = parameter.numel() * parameter.element_size()
        if not groups or size > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(number)
        room -= size
    return groups


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    # In float64 chunk by chunk: the reference must not round as the products under test do.
    chunks = zip(one.reshape(-1).split(2**22), other.reshape(-1).split(2**22), strict=True)
    return sum(torch.dot(a.double(), b.double()).item() for a, b in chunks)


def relative_error(found: np.ndarray, exact: np.ndarray, one_self: np.ndarray, other_self: np.ndarray) -> np.ndarray:
    """|found - exact| over the lengths of both gradients, elementwise over [pairs, components] (see FLOOR)."""
    lengths = np.sqrt(one_self * other_self)
    full = np.sqrt(one_self.sum(-1, keepdims=True) * other_self.sum(-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(found - exact) / np.maximum(lengths, FLOOR * full)
    return np.where(found == exact, 0.0, error)


def verify_sites(tap: Tap, sample: EncodedSample) -> list[str]:
    """Compares self products of a short sample by the tap and by autograd; demotes the sites that are wrong.

    Returns what was found, for the log. A module may use its weights in a way that its looks do not tell, so nothing
    is taken on trust.
    """
    notes: list[str] = []
    sample = shortened(sample, 24)
    exact = plain_products(tap.model, [(sample, sample)], tap.parameters, tap.device)[0, 1]
    tolerance = 10 * default_tolerance(tap.parameters[0].dtype)
    for _ in range(3):
        found = _tapped_selves(tap, sample)
        wrong = {int(n) for n in np.flatnonzero(~(relative_error(found, exact, exact, exact) <= tolerance))}
        if not wrong:
            break
        names = ", ".join(tap.names[n] for n in sorted(wrong)[:3])
        notes.append(f"{len(wrong)} components have no closed form that holds ({names}, ..); taken by autograd instead")
        tap.demote(wrong)
    if tap.batchable:
        twin = EncodedSample("twin", sample.input_ids[:-1], sample.labels[:-1])
        try:
            _tapped_selves(tap, sample, twin if (twin.labels[1:] != IGNORED).any() else sample)
        except UnbatchableError:
            tap.batchable = False
            notes.append("the model's modules mix the samples of a batch, so samples go through one by one")
    return notes


def shortened(sample: EncodedSample, tokens: int) -> EncodedSample:
    """A piece of the sample of at most `tokens` tokens around the start of its answer, with labels in it."""
    first = int((sample.labels[1:] != IGNORED).argmax()) + 1
    start = max(0, min(first - tokens // 2, sample.length - tokens))
    piece = slice(start, start + tokens)
    return EncodedSample(sample.id, sample.input_ids[piece], sample.labels[piece])


def _tapped_selves(tap: Tap, *samples: EncodedSample) -> np.ndarray:
    # One component's gradient at a time would do, but a row is at most one gradient of a short sample.
    layout = Layout(tap.shapes, tap.factorable, {}, tap.dtype, tap.device)
    store = Store(layout, len(samples))
    store.begin(len(samples))
    with tap.open():
        tap.backward(samples, store)
    store.finish(len(samples))
    return store.selves_of([0])[0]


def pairs_to_check(request: PassRequest, count: int) -> dict[str, list[int]]:
    """`count` rows spread over the settings, the same in every run of a request."""
    places = [(s, row) for s in request.settings if s in request.products for row in range(len(request.pairs[s]))]
    chosen = np.random.default_rng(stable_seed("check", len(places))).permutation(len(places))[:count]
    rows: dict[str, list[int]] = {}
    for place in chosen:
        rows.setdefault(places[place][0], []).append(places[place][1])
    return rows
