"""The pass against brute force: whole gradients in float64, pair by pair."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OlmoConfig

from gradsim_assets.core.engine import PassOptions, PassRequest, run_pass
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tokenization import IGNORED, EncodedSample

SETTINGS = ("paraphrased", "model_generated")

SIZES = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "olmo": lambda: OlmoConfig(**SIZES, intermediate_size=48, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, attention_bias=True),
    "gpt2": lambda: GPT2Config(vocab_size=211, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


def tiny(name):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()


def sample(random, sample_id, length):
    ids = random.integers(0, 211, length)
    labels = ids.copy()
    labels[: length // 3] = IGNORED
    return EncodedSample(sample_id, ids, labels)


def small_request(seed=0, originals=5, variants=4, **wanted):
    random = np.random.default_rng(seed)
    pool = [sample(random, f"lima_{i}", int(random.integers(6, 40))) for i in range(originals)]
    own = {s: [sample(random, f"lima_{i}", int(random.integers(6, 40))) for i in range(variants)] for s in SETTINGS}
    pairs = {
        s: [(v.id, pool[int(o)].id) for v in own[s] for o in random.choice(originals, 3, replace=False)]
        for s in SETTINGS
    }
    return PassRequest(pool, own, pairs, **{"products": frozenset(SETTINGS), **wanted})


def brute_force(model, encoded):
    """{name: gradient} in float64, by the loss that Hugging Face defines, spelled out."""
    model = model.double()
    logits = model(torch.from_numpy(encoded.input_ids)[None], use_cache=False).logits[0]
    log_p = logits[:-1].log_softmax(-1)
    picked = [
        -log_p[t, label] for t, label in enumerate(torch.from_numpy(encoded.labels)[1:].tolist()) if label != IGNORED
    ]
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(torch.stack(picked).mean(), list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if g is None else g for name, g in zip(named, grads, strict=True)}


def brute_products(model, request, setting):
    """float64 [3, pairs, components]: dot products, variants' and originals' self products."""
    originals = {s.id: brute_force(model, s) for s in request.originals}
    variants = {s.id: brute_force(model, s) for s in request.variants[setting]}
    names = list(next(iter(originals.values())))
    rows = [
        [[float((a[n] * b[n]).sum()) for n in names] for a, b in ((v, o), (v, v), (o, o))]
        for v, o in ((variants[v], originals[o]) for v, o in request.pairs[setting])
    ]
    return names, np.asarray(rows).transpose(1, 0, 2)


def relative_error(found, exact, variant_self, original_self):
    """Error over the lengths of both gradients in the component, or 1e-5 of the full gradients' where that is larger."""
    lengths = np.sqrt(variant_self * original_self)
    full = np.sqrt(variant_self.sum(1, keepdims=True) * original_self.sum(1, keepdims=True))
    return (np.abs(found - exact) / np.maximum(lengths, 1e-5 * full)).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_products_equal_brute_force(name):
    request = small_request()
    result = run_pass(tiny(name), request)
    for setting in SETTINGS:
        names, (dots, variant_self, original_self) = brute_products(tiny(name), request, setting)
        assert result.components == names
        # fp32 gradients carry about 1e-6 of rounding each; the issue allows 1e-5.
        assert relative_error(result.dot_products[setting], dots, variant_self, original_self) < 1e-5
        assert relative_error(result.variant_self[setting], variant_self, variant_self, variant_self) < 1e-5
        assert relative_error(result.original_self[setting], original_self, original_self, original_self) < 1e-5


def test_every_distinct_sample_is_computed_once():
    request = small_request()
    seen = []
    result = run_pass(tiny("olmo"), request, progress=lambda done, total, what: seen.append((done, total)))
    distinct = len({o for s in SETTINGS for _, o in request.pairs[s]}) + 2 * 4
    assert result.report.gradients_computed == distinct
    assert seen[-1] == (distinct, distinct)


def test_losses_are_those_of_the_model_itself():
    request = small_request()
    model = tiny("llama")
    losses = run_pass(model, request).losses["original"]
    for s in request.originals:
        if s.id in losses:
            ids, labels = torch.from_numpy(s.input_ids)[None], torch.from_numpy(s.labels)[None]
            assert losses[s.id] == pytest.approx(model(ids, labels=labels).loss.item(), rel=1e-6)


def test_projected_similarity_is_near_the_full_cosine():
    request = small_request(projections={SETTINGS[0]: (0.05, 0.5)})
    result = run_pass(tiny("olmo"), request, PassOptions())
    s = SETTINGS[0]
    cosine = result.dot_products[s].sum(1) / np.sqrt(result.variant_self[s].sum(1) * result.original_self[s].sum(1))
    # Standard error of a projected cosine is at most sqrt(2 / d); d is 512 a component, five of them is generous.
    assert np.abs(result.projected[s][0.05] - cosine).max() < 5 * np.sqrt(2 / 512)
    assert set(result.projected) == {s}
    assert result.dimensions[0.5] > result.dimensions[0.05] == 512 * len(result.components)


def test_a_pair_of_an_unknown_sample_is_refused():
    random = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"\(a, b\)"):
        PassRequest([sample(random, "a", 8)], {"x": [sample(random, "a", 8)]}, {"x": [("a", "b")]}, frozenset({"x"}))
