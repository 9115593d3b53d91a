"""Small requests and their products by brute force, for tests of the engine."""

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OlmoConfig

from gradsim_assets.core.gradients.engine import GradientPass, PassRequest, plan_pass
from gradsim_assets.core.gradients.engine.planning.plan import TooLittleMemoryError
from gradsim_assets.core.gradients.engine.planning.turns import plan_several_turns
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample

SIZES = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "olmo": lambda: OlmoConfig(**SIZES, intermediate_size=48, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, attention_bias=True),
    "gpt2": lambda: GPT2Config(vocab_size=211, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}


def llama3_70b() -> LlamaConfig:
    """The shape of Llama3-70B, which no GPU holds alone."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )


def brute_force(model, encoded):
    """{name: gradient} in float64, by the loss that Hugging Face defines, spelled out."""
    model = model.double()
    logits = model(torch.from_numpy(encoded.input_ids)[None], use_cache=False).logits[0]
    log_p = logits[:-1].log_softmax(-1)
    picked = [
        -log_p[t, label] for t, label in enumerate(torch.from_numpy(encoded.labels)[1:].tolist()) if label != IGNORED
    ]
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    grads = torch.autograd.grad(torch.stack(picked).mean(), list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if g is None else g for name, g in zip(named, grads, strict=True)}


SETTINGS = ("paraphrased", "model_generated")


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


def too_little(model, request, options=None, preconditioners=None):
    """Bytes that do not suffice for all components at a time, but for some."""
    work = GradientPass(model, request, options, preconditioners)
    shape, graph = work.shape, work.graph
    memory = 2**30
    while True:
        memory = int(memory * 0.97)
        try:
            plan_pass(shape, graph, memory, options)
        except TooLittleMemoryError:
            plan_several_turns(shape, graph, memory, options)
            return memory
