"""Products split over positions: against derivatives by scales of each position's use of the weights, and against the whole."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3Config

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch
from gradsim_assets.core.sample_gradients.reference import plain_gradient, sample_loss
from gradsim_assets.core.tracing.position_products import position_products
from gradsim_assets.core.tracing.position_rows import PositionRows
from gradsim_assets_tests.support.engine_cases import CONFIGS, SIZES, sample

KINDS = {
    **CONFIGS,
    "qwen3": lambda: Qwen3Config(**SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=8),
    "mixtral": lambda: MixtralConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, num_local_experts=4),
}

#: Models are float64, but many norms compute in fp32.
ROUNDING = 1e-6


def made(kind):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(KINDS[kind]()).double().eval()


def drawn(name, length):
    return sample(np.random.default_rng(length), name, length)


def rows_of(model, samples):
    """The summands of samples that go through in one batch."""
    hooks = GradientHooks(model)
    with hooks.open():
        sink = PositionRows(hooks)
        (batch,) = PaddedBatch.of([samples], torch.device("cpu"))
        sink.begin(batch)
        hooks.backward(batch, sink, proving=True)
        return sink.finish()


def by_scales(model, one, direction):
    """Float64 [T]: the derivative of the loss by how much of `direction` each position's use of the weights is moved along.

    Every module with weights of its own gives f(x; w) + s_t * (df/dw . d) at position t; at s = 0 that is the model.
    """
    scales = torch.zeros(one.length, dtype=torch.float64, requires_grad=True)
    towards = {id(p): d for (_, p), d in zip(trainable_components(model), direction, strict=True)}
    handles = []

    def moved(module, args, kwargs, output):
        own = {n: p.detach() for n, p in module.named_parameters(recurse=False)}
        along = {n: towards[id(p)] for n, p in module.named_parameters(recurse=False)}
        shifted = {n: p + along[n] for n, p in own.items()}
        called = partial(torch.func.functional_call, module)
        with torch.no_grad():  # every module here is linear in its weights
            change = forward(called, shifted, args, kwargs) - output
        shape = [1] * change.dim()
        shape[1] = one.length
        return output + scales.view(shape) * change

    def forward(called, weights, args, kwargs):
        for handle in handles:  # no hooks within
            handle.off = True
        try:
            return called(weights, args, kwargs)
        finally:
            for handle in handles:
                handle.off = False

    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(_Hook(module, moved))
    loss = sample_loss(model, one, "cpu")
    (found,) = torch.autograd.grad(loss, scales)
    for handle in handles:
        handle.remove()
    return found.numpy()


class _Hook:
    """A forward hook that can be switched off."""

    def __init__(self, module, function):
        self.off, self.function = False, function
        self.handle = module.register_forward_hook(self, with_kwargs=True)

    def __call__(self, *called):
        return None if self.off else self.function(*called)

    def remove(self):
        self.handle.remove()


def gradient(model, one):
    return plain_gradient(model, one, [parameter for _, parameter in trainable_components(model)])[1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mixtral"])
def test_every_position_has_what_its_use_of_the_weights_adds_and_all_make_up_the_product(kind):
    model, variant, original = made(kind), drawn("a", 14), drawn("b", 17)
    one, other = rows_of(model, [variant, original])
    own, its = gradient(model, variant), gradient(model, original)
    found = position_products(one, other, (14, 17), own[0])
    product = sum(float((a * b).sum()) for a, b in zip(own, its, strict=True))
    assert float(found.sum()) == pytest.approx(product, rel=ROUNDING)
    off = ROUNDING * float(found.abs().sum())
    assert found.sum(1).numpy() == pytest.approx(by_scales(model, variant, its), abs=off)
    assert found.sum(0).numpy() == pytest.approx(by_scales(model, original, own), abs=off)


def test_products_do_not_depend_on_who_else_is_in_the_batch():
    model, ones = made("llama"), [drawn(str(n), 9 + n) for n in range(4)]
    together, alone = rows_of(model, ones), [rows_of(model, [one])[0] for one in ones]
    like = torch.empty((), dtype=torch.float64)
    for a in range(4):
        for b in range(4):
            lengths = (ones[a].length, ones[b].length)
            both = [position_products(rows[a], rows[b], lengths, like) for rows in (together, alone)]
            assert torch.allclose(*both, rtol=0, atol=ROUNDING * float(both[0].abs().max()))


def test_weights_that_see_some_tokens_only_are_refused_by_their_names():
    with pytest.raises(
        InputError, match=r"the gradient of model\.layers\.1\.mlp\.experts\.down_proj cannot be told by token"
    ):
        rows_of(made("mixtral").float(), [drawn("a", 14)])


def test_as_many_heads_as_tokens_do_not_mix_them_up():
    model = made("qwen3")  # norms over 4 heads see [batch, tokens, heads, width]
    four, long = drawn("four", 4), drawn("long", 11)
    hooks = GradientHooks(model)
    with hooks.open():
        sink = PositionRows(hooks)
        found = []
        for batch in PaddedBatch.of([[long], [four]], torch.device("cpu")):
            sink.begin(batch)
            hooks.backward(batch, sink, proving=True)
            found += sink.finish()
    rows = position_products(found[1], found[0], (4, 11), torch.empty((), dtype=torch.float64)).sum(1)
    wanted = by_scales(model, four, gradient(model, long))
    assert rows.numpy() == pytest.approx(wanted, abs=ROUNDING * float(rows.abs().sum()))
    with pytest.raises(InputError, match="cannot be told by token"):
        rows_of(model, [four])  # nothing tells which axis is that of the tokens
