"""Curvature and preconditioned products by brute force in float64, with explicit blocks, for tests."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, OlmoConfig

from gradsim_assets.core.gradients.engine import PassRequest
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets_tests.support.engine_cases import SETTINGS, brute_force

#: Blocks of F are whole matrices of up to 384 x 384 numbers here.
VOCABULARY = 48
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIGS = {
    "tied": lambda: OlmoConfig(**SIZES, intermediate_size=12, tie_word_embeddings=True),
    "untied with biases": lambda: LlamaConfig(
        **SIZES, intermediate_size=12, num_key_value_heads=1, attention_bias=True, mlp_bias=True
    ),
    "Conv1D": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=2, n_positions=32),
    "experts": lambda: MixtralConfig(
        **SIZES, intermediate_size=8, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2
    ),
}


def model_of(name, dtype=torch.float32):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), experts_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():  # norms are 1 and biases 0 otherwise, which hides mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def sample(random, sample_id, length):
    ids = random.integers(1, VOCABULARY, length)
    labels = ids.copy()
    labels[: length // 3] = IGNORED
    return EncodedSample(sample_id, ids, labels)


def request(seed=0, originals=10, variants=2, **wanted):
    random = np.random.default_rng(seed)
    pool = [sample(random, f"lima_{i}", int(random.integers(6, 24))) for i in range(originals)]
    own = {s: [sample(random, f"lima_{i}", int(random.integers(6, 24))) for i in range(variants)] for s in SETTINGS}
    pairs = {
        s: [(v.id, pool[int(o)].id) for v in own[s] for o in random.choice(originals, 4, replace=False)]
        for s in SETTINGS
    }
    return PassRequest(pool, own, pairs, **wanted)


def with_drawn_labels(model, encoded):
    """The sample with the labels that the model draws, by the distributions of a model in float64 at batch size 1."""
    from gradsim_assets.core.sample_gradients.padded_batch import label_draws

    with torch.no_grad():
        logits = model.double()(torch.from_numpy(encoded.input_ids)[None], use_cache=False).logits[0]
    places = np.flatnonzero(encoded.labels[1:] != IGNORED)
    labels = encoded.labels.copy()
    for place, draw in zip(places, label_draws(encoded.id, len(places)), strict=True):
        labels[place + 1] = int((logits[place].softmax(-1).cumsum(-1) <= draw).sum())
    return replace(encoded, labels=labels)


class Tokens:
    """Inputs of every linear layer and gradients of its outputs, and of embeddings' outputs, by plain hooks."""

    def __init__(self, model):
        self.seen = {}
        self._handles = [
            module.register_forward_hook(self._hook(f"{name}.weight"))
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, nn.Embedding)) or type(module).__name__ == "Conv1D"
        ]

    def _hook(self, name):
        def hook(module, args, output):
            output.retain_grad()
            self.seen.setdefault(name, []).append((args[0], output))

        return hook

    def close(self):
        for handle in self._handles:
            handle.remove()


def tokens_of(model, encoded):
    """{weight's name: (inputs [tokens, I], output gradients [tokens, O])} of one sample's loss, in float64."""
    watch = Tokens(model)
    logits = model(torch.from_numpy(encoded.input_ids)[None], use_cache=False).logits[0]
    labels = torch.from_numpy(encoded.labels)[1:]
    loss = nn.functional.cross_entropy(logits[:-1], labels, ignore_index=IGNORED)
    loss.backward()
    watch.close()
    model.zero_grad()
    found = {}
    for name, calls in watch.seen.items():
        x = torch.cat(
            [one.reshape(-1, one.shape[-1]) if one.is_floating_point() else one.reshape(-1) for one, _ in calls]
        )
        s = torch.cat([output.grad.reshape(-1, output.shape[-1]) for _, output in calls])
        if name == "lm_head.weight":  # nothing is predicted elsewhere
            kept = torch.cat([labels != IGNORED, torch.tensor([False])])
            x, s = x[kept], s[kept]
        found[name] = x.detach(), s
    return found


def tied_name(model):
    """The name under which a matrix stands that is embedding and output layer, or None."""
    same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return next(n for n, p in model.named_parameters() if p is model.get_input_embeddings().weight) if same else None


def explicit_blocks(model, originals, damping):
    """{component: F + lambda, [n, n]} in float64; what has three dimensions is a list of such blocks, of n numbers each."""
    model = model.double()
    gradients = [brute_force(model, one) for one in originals]
    tokens = [tokens_of(model, one) for one in originals]
    tied = tied_name(model)
    blocks = {}
    for name in gradients[0]:
        stack = torch.stack([one[name] for one in gradients])  # [N, *shape]
        damped = damping * stack.square().mean()
        if stack.dim() == 4:  # experts: each has a block of its own, but one lambda
            blocks[name] = [_block(own, None, None) + damped * _eye(own) for own in stack.unbind(1)]
            continue
        if stack.dim() != 3:
            blocks[name] = torch.diag(stack.square().mean(0).flatten()) + damped * _eye(stack)
            continue
        left = right = None
        if name != tied and name in tokens[0]:
            x, s = (torch.cat([one[name][side] for one in tokens]) for side in (0, 1))
            if not x.is_floating_point():
                left, right = torch.eye(stack.shape[1], dtype=torch.float64), s.T @ s
            else:
                conv = stack.shape[1:] != (s.shape[1], x.shape[1]) or "c_" in name
                left, right = (x.T @ x, s.T @ s) if conv else (s.T @ s, x.T @ x)
        elif name == tied:
            left = torch.eye(stack.shape[1], dtype=torch.float64)
        blocks[name] = _block(stack, left, right) + damped * _eye(stack)
    return blocks


def _eye(stack):
    return torch.eye(stack[0].numel(), dtype=torch.float64)


def _block(stack, left, right):
    """(L x R) diag(mean square in the basis) (L x R)^T of gradients [N, O, I], with bases of these matrices or of gradients."""
    left = torch.einsum("nij,nkj->ik", stack, stack) if left is None else left
    right = torch.einsum("nji,njk->ik", stack, stack) if right is None else right
    vectors = torch.kron(torch.linalg.eigh(left)[1], torch.linalg.eigh(right)[1])
    eigenvalues = (stack.flatten(1) @ vectors).square().mean(0)
    return vectors @ torch.diag(eigenvalues) @ vectors.T


def brute_ekfac(model, wanted, setting, originals, damping=0.1):
    """Float64 [3, pairs, components]: <v, (F + lambda)^-1 o>, and the same of each with itself, by solving."""
    blocks = explicit_blocks(model, originals, damping)

    def applied(name, gradients):
        if isinstance(blocks[name], list):
            parts = zip(blocks[name], gradients.unbind(1), strict=True)
            return torch.stack([_solved(block, own) for block, own in parts], 1)
        return _solved(blocks[name], gradients)

    return _products(model, wanted, setting, applied)


def _solved(block, gradients):
    return torch.linalg.solve(block, gradients.flatten(1).T).T.reshape(gradients.shape)


def brute_adam(model, wanted, setting, moments, epsilon):
    """Float64 [3, pairs, components]: products of gradients that are divided by sqrt(v) + epsilon."""
    return _products(
        model, wanted, setting, lambda name, gradients: gradients / (moments[name].double().sqrt() + epsilon) ** 2
    )


def _products(model, wanted, setting, applied):
    """`applied` makes P g of all gradients [N, *shape] of a component."""
    samples = [*wanted.originals, *wanted.variants[setting]]
    gradients = [brute_force(model, one) for one in samples]
    places = {one.id: place for place, one in enumerate(wanted.originals)}
    own = {one.id: len(places) + place for place, one in enumerate(wanted.variants[setting])}
    rows, columns = (
        np.array(side) for side in zip(*((own[v], places[o]) for v, o in wanted.pairs[setting]), strict=True)
    )
    found = []
    for name in gradients[0]:
        stack = torch.stack([one[name] for one in gradients])
        grid = (stack.flatten(1) @ applied(name, stack).flatten(1).T).numpy()
        found.append([grid[rows, columns], grid[rows, rows], grid[columns, columns]])
    return np.asarray(found).transpose(1, 2, 0)
