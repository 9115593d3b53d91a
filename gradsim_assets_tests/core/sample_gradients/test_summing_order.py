"""Another order of summing rounds otherwise, and changes nothing else."""

import pytest
import torch
from torch import nn

from gradsim_assets.core.sample_gradients.summing_order import OtherSummingOrder
from gradsim_assets_tests.support.engine_cases import small_request, tiny


@pytest.mark.parametrize("bias", [True, False])
def test_backward_passes_are_summed_otherwise_as_forward_passes_are(bias):
    torch.manual_seed(0)
    layer, given = nn.Linear(257, 64, bias=bias), torch.randn(33, 257)

    def run():
        layer.zero_grad()
        out = layer(given)
        out.square().sum().backward()
        return out.detach(), layer.weight.grad.clone()

    plain = run()
    with OtherSummingOrder():
        other = run()
    layer.double()
    given = given.double()
    for one, another, exact in zip(plain, other, run(), strict=True):
        assert not torch.equal(one, another)
        # Sums of some hundred numbers in fp32.
        assert (another - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("name", ["gpt2", "olmo"])
def test_a_model_loses_nothing(name):
    model, sample = tiny(name).double(), small_request().originals[0]
    ids = torch.from_numpy(sample.input_ids)[None]
    exact = model(input_ids=ids).logits
    with OtherSummingOrder():
        assert torch.allclose(model(input_ids=ids).logits, exact, rtol=1e-12, atol=1e-12)
