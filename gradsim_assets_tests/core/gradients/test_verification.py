"""No wrong number passes: what is collected is compared with plain autograd, component by component, on real samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, CTRLConfig, GemmaConfig, LlamaConfig, MambaConfig, MixtralConfig

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest, run_pass
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets_tests.support.engine_cases import SETTINGS, SIZES, brute_force, small_request, tiny

IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}

#: Of a component's own length, whatever share of the whole that is.
PROMISED = 1e-5


def llama(**changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**{**SIZES, **IDS, **GROUPED, **changes})).eval()


def worst_errors(build, request, result):
    """{component: largest error of any product, relative to the lengths of the component's own two gradients}.

    Every sample's gradient is that of a model which has seen nothing else.
    """
    originals = {sample.id: brute_force(build(), sample) for sample in request.originals}
    worst = dict.fromkeys(result.components, 0.0)
    for setting in request.settings:
        variants = {sample.id: brute_force(build(), sample) for sample in request.variants[setting]}
        for row, (variant, original) in enumerate(request.pairs[setting]):
            one, other = variants[variant], originals[original]
            assert list(one) == list(other) == result.components
            for number, name in enumerate(result.components):
                for table, a, b in (
                    (result.dot_products, one[name], other[name]),
                    (result.variant_self, one[name], one[name]),
                    (result.original_self, other[name], other[name]),
                ):
                    off = abs(table[setting][row, number] - float((a * b).sum()))
                    worst[name] = max(worst[name], off and off / float(a.norm() * b.norm()))
    return worst


def assert_exact(build, request=None, options=None):
    """Runs a pass and holds it against float64; returns the result."""
    request = request or small_request()
    result = run_pass(build(), request, options)
    errors = worst_errors(build, request, result)
    assert max(errors.values()) < PROMISED, {name: error for name, error in errors.items() if not error < PROMISED}
    return result


# Weights that are used without calling their module.


class ByHand(nn.Module):
    """A matrix whose layer is never called, and whose share of the whole gradient is small."""

    def __init__(self, layer, scale):
        super().__init__()
        self.layer, self.scale = layer, scale

    def forward(self, x):
        return self.scale * (x @ self.layer.weight.T)


def with_weights_by_hand(scale):
    model = llama()
    for block in model.model.layers:
        block.mlp.gate_proj = ByHand(block.mlp.gate_proj, scale)
    return model


@pytest.mark.parametrize("scale", [1, 1e-4])
def test_a_weight_whose_layer_is_never_called_is_no_zero(scale):
    result = assert_exact(lambda: with_weights_by_hand(scale))
    assert any("taken by autograd" in note and "gate_proj" in note for note in result.report.notes)


class BesidesAtTimes(nn.Module):
    """A layer whose weight is used by hand as well, for texts of 22 or 23 tokens."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        out = self.layer(x)
        if x.shape[1] not in (22, 23):
            return out
        weight = self.layer.weight
        return out + 0.5 * (x.flip(-1) @ weight.T if weight.dim() > 1 else x * weight)


def request_of_many_lengths():
    """Samples of 6 to 35 tokens; 22 and 23 are those of no sample that is verified or checked."""
    random = np.random.default_rng(1)

    def sample(name, tokens):
        ids = random.integers(3, 211, tokens)
        return EncodedSample(name, ids, np.where(np.arange(tokens) < tokens // 3, IGNORED, ids))

    originals, variants = ([sample(f"lima_{n}", n) for n in range(6, 36)] for _ in range(2))
    pairs = [(variant.id, original.id) for variant in variants for original in originals[:8]]
    return PassRequest(originals, {SETTINGS[0]: variants}, {SETTINGS[0]: pairs}, frozenset(SETTINGS[:1]))


@pytest.mark.parametrize("name", ["mlp.gate_proj", "input_layernorm", "self_attn.v_proj"])
def test_a_layers_weight_that_few_texts_use_besides_lacks_no_summand(name):
    def build():
        model = llama()
        model.model.layers[1].set_submodule(name, BesidesAtTimes(model.model.layers[1].get_submodule(name)))
        return model

    result = assert_exact(build, request_of_many_lengths(), PassOptions(batch_tokens=0))
    assert any("used outside of their layers" in note for note in result.report.notes)


class TokenDeltas(nn.Module):
    """An embedding with trainable changes of some of its rows, as PEFT has them."""

    def __init__(self, embedding, tokens):
        super().__init__()
        self.embedding = embedding
        self.register_buffer("tokens", torch.tensor(tokens))
        self.deltas = nn.Parameter(torch.full((len(tokens), embedding.embedding_dim), 0.01))

    def forward(self, ids):
        return F.embedding(ids, self.embedding.weight.index_add(0, self.tokens, self.deltas))


def test_changes_of_an_embeddings_rows_are_no_zero():
    def build():
        model = llama()
        model.requires_grad_(False)
        model.model.embed_tokens = TokenDeltas(model.model.embed_tokens, [5, 6, 7, 80, 90, 100])
        return model

    # Samples without any of these tokens have a gradient of zero, so that all of them have some here.
    request = small_request()
    for one in [*request.originals, *(s for of in request.variants.values() for s in of)]:
        one.input_ids[:3] = 5, 90, 7
    assert assert_exact(build, request).components == ["model.embed_tokens.deltas"]


def test_mambas_projection_that_is_multiplied_by_hand_is_no_zero():
    def build():
        torch.manual_seed(0)
        sizes = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, **IDS}
        model = AutoModelForCausalLM.from_config(MambaConfig(**sizes)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "x_proj" in name:
                    parameter.mul_(0.05)  # a small gradient, at which zeros once passed
        return model

    result = assert_exact(build)
    assert result.variant_self[SETTINGS[0]][:, result.components.index("backbone.layers.0.mixer.dt_proj.weight")].all()


# Outputs that depend on each other.


class Gated(nn.Module):
    """A router whose scores, probabilities and choice all go on."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(4, width))

    def forward(self, x):
        scores = x @ self.weight.T
        shares = scores.softmax(-1)
        return scores, shares, shares.amax(-1, keepdim=True)


class Experts(nn.Module):
    """Experts as layers of their own, each of which sees the tokens that chose it."""

    def __init__(self, inner, width, scale):
        super().__init__()
        self.inner, self.router, self.scale = inner, Gated(width), scale
        self.experts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        scores, shares, most = self.router(x)
        chosen = shares.argmax(-1)
        out = self.inner(x) * (1 + self.scale * (scores[..., :1] + most))
        for number, expert in enumerate(self.experts):
            tokens = (chosen == number).nonzero(as_tuple=True)
            out = out.index_put(tokens, self.scale * expert(x[tokens]) * shares[..., number][tokens][:, None], True)
        return out


def with_experts(scale):
    model = llama()
    for block in model.model.layers:
        block.mlp = Experts(block.mlp, 32, scale)
    return model.eval()


@pytest.mark.parametrize("form", ["formed", "factored"])
@pytest.mark.parametrize("scale", [0.3, 1e-5])
def test_a_routers_outputs_count_once_and_experts_see_some_tokens_alone(scale, form):
    assert_exact(lambda: with_experts(scale), options=PassOptions(form=form))


@pytest.mark.parametrize("scale", [1, 0.02])
def test_mixtrals_router_is_not_doubled(scale):
    def build():
        torch.manual_seed(0)
        sizes = {"num_local_experts": 8, "num_experts_per_tok": 2}
        config = MixtralConfig(**{**SIZES, **IDS, **GROUPED}, **sizes)
        model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "experts" in name:
                    parameter.mul_(scale)
        return model

    result = assert_exact(build)
    assert any("mlp.gate.weight" in name for name in result.components)


# Small components, and rounding.


class Doubled(nn.Linear):
    """A layer that is not what it looks like."""

    def forward(self, x):
        return F.linear(x, 2 * self.weight)


def with_doubled(scale, factor=2):
    model = llama()
    layer = model.model.layers[1].mlp.down_proj
    layer.__class__ = type("Odd", (nn.Linear,), {"forward": lambda s, x: scale * F.linear(x, factor * s.weight)})
    return model


@pytest.mark.parametrize("scale", [1, 1e-6])
def test_a_wrong_gradient_is_found_however_small_its_share_is(scale):
    # Seen from outside, its gradient is twice what its input and its output's gradient make; 1e-6 of the whole as well.
    result = assert_exact(lambda: with_doubled(scale))
    assert any("no closed form" in note and "down_proj" in note for note in result.report.notes)


def test_one_percent_is_found_in_bfloat16_too():
    request = small_request()
    result = run_pass(with_doubled(1, 1.01).bfloat16(), request)
    assert any("no closed form" in note and "down_proj" in note for note in result.report.notes)
    assert not any("q_proj" in note for note in result.report.notes)  # 8 bits are no reason


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("layer", ["layers.0.mlp.gate_proj", "layers.1.self_attn.v_proj"])
def test_one_matrix_of_half_precision_costs_all_others_what_is_told(layer, trainable):
    model = llama()
    matrix = model.model.get_submodule(layer).to(torch.bfloat16).requires_grad_(trainable)
    matrix.register_forward_pre_hook(lambda module, given: (given[0].to(module.weight.dtype),))
    matrix.register_forward_hook(lambda module, given, out: out.to(model.lm_head.weight.dtype))
    report = run_pass(model, small_request()).report
    assert not any("autograd itself rounds" in note for note in report.notes)
    assert 1e-4 < report.max_relative_error < 0.1  # of the components in fp32, too
    assert report.checks.cosine_cost > 0


def test_what_is_rounding_in_plain_autograd_itself_is_named_and_does_not_fail():
    # Without positions that tell keys apart, what a key's bias adds is the same for all of them: its gradient is zero.
    def build():
        model = tiny("gpt2")
        for block in model.transformer.h:
            nn.init.normal_(block.attn.c_attn.bias, std=0.02)
            block.attn.key_bias = nn.Parameter(torch.zeros(32))
            block.attn.c_attn.register_forward_hook(
                lambda layer, args, out, block=block: torch.cat(
                    [out[..., :32], out[..., 32:64] + block.attn.key_bias, out[..., 64:]], -1
                )
            )
        return model

    result = run_pass(build(), small_request())
    named = [note for note in result.report.notes if "autograd itself rounds" in note]
    assert len(named) == 1
    assert "key_bias" in named[0]
    assert result.report.max_relative_error < PROMISED  # of what is not


# What a sample's number depends on.


def long_request():
    """Samples on both sides of 32 tokens, shortest last in every batch."""
    random = np.random.default_rng(0)

    def sample(name, tokens):
        ids = random.integers(3, 211, tokens)
        return EncodedSample(name, ids, np.where(np.arange(tokens) < tokens // 3, IGNORED, ids))

    lengths = (60, 33, 31, 12, 7)
    originals, variants = ([sample(f"lima_{i}", n + more) for i, n in enumerate(lengths)] for more in (0, 1))
    pairs = [(variant.id, original.id) for variant in variants for original in originals]
    return PassRequest(originals, {SETTINGS[0]: variants}, {SETTINGS[0]: pairs}, frozenset(SETTINGS[:1]))


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0, 2.0, 4.0, 2.5],
    "original_max_position_embeddings": 32,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("batch_tokens", [None, 0])
@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_frequencies_that_follow_the_longest_seen_are_those_of_a_sample_alone(rope, batch_tokens):
    def build():
        return llama(rope_parameters=rope, max_position_embeddings=128 if rope is LONGROPE else 32)

    assert_exact(build, long_request(), PassOptions(batch_tokens=batch_tokens))


class Remembering(nn.Module):
    """A layer that scales by how many texts it has seen, and by the longest of the batch."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, 0
        self.register_buffer("longest", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        self.longest.clamp_(min=x.shape[1])
        return self.inner(x) * (1 + 0.1 * self.seen + 0.01 * self.longest)


def test_a_layer_that_counts_is_set_back_before_every_sample():
    def build():
        model = llama()
        model.model.layers[0].mlp = Remembering(model.model.layers[0].mlp)
        return model

    assert_exact(build, long_request())
    model = build()
    run_pass(model, long_request())
    layer = model.model.layers[0].mlp
    assert layer.seen == 0
    assert not layer.longest.any()


class KeepingElsewhere(nn.Module):
    """A layer that scales by the longest text that it has seen, which it keeps in one way or another."""

    def __init__(self, inner, how):
        super().__init__()
        self.inner, self.how = inner, how
        self.held = {"dict": {"longest": 0}, "list": [0], "tensor": torch.zeros(1, dtype=torch.int64)}[how]

    def forward(self, x):
        key = "longest" if self.how == "dict" else 0
        self.held[key] = max(int(self.held[key]), x.shape[1])
        return self.inner(x) * (1 + 0.01 * int(self.held[key]))


@pytest.mark.parametrize("how", ["dict", "list", "tensor"])
def test_what_a_model_keeps_where_it_cannot_be_put_back_is_refused(how):
    model = llama()
    model.model.layers[0].mlp = KeepingElsewhere(model.model.layers[0].mlp, how)
    with pytest.raises(InputError, match=r"lima_4 has a loss of [\d.]+ at first and of [\d.]+ after another sample"):
        run_pass(model, long_request())


def test_a_model_that_changes_its_weights_as_it_reads_is_refused():
    model = llama(tie_word_embeddings=True)
    model.model.embed_tokens.max_norm = 0.05  # rows that are looked up are cut to length, also those of the head
    with pytest.raises(InputError, match="keeps something of what it has read"):
        run_pass(model, long_request())


class Mean(nn.Module):
    """Adds a share of the mean over the samples of a batch."""

    def __init__(self, share=0.1):
        super().__init__()
        self.share = share

    def forward(self, x):
        return x + self.share * x.mean(0, keepdim=True)


def test_samples_that_see_their_neighbours_go_one_by_one():
    def build():
        model = llama()
        model.model.layers[1].input_layernorm = nn.Sequential(model.model.layers[1].input_layernorm, Mean())
        return model

    result = assert_exact(build)
    assert any("one by one" in note for note in result.report.notes)


def without_float64(monkeypatch):
    """Takes wider arithmetic away, as a device does on which the weights in float64 do not fit."""
    gradient = PlainAutograd.gradient

    def refused(self, sample, numbers, arithmetic=None, scale=1.0):
        if arithmetic is not None and arithmetic.dtype == torch.float64:
            raise MemoryError("weights in float64 need more than there is")
        return gradient(self, sample, numbers, arithmetic, scale)

    monkeypatch.setattr(PlainAutograd, "gradient", refused)


def deep():
    """A model that blows up what is rounded in its first layers to more than the tolerance."""
    return llama(num_hidden_layers=24, initializer_range=0.5)


def test_what_a_batch_only_rounds_otherwise_goes_in_batches_without_float64_too(monkeypatch):
    without_float64(monkeypatch)
    work = GradientPass(deep(), small_request(), PassOptions(check_pairs=0))
    result = work.run()
    assert "float64 is not possible" in result.report.verified
    assert work.plan.batch_tokens > 0
    assert not any("one by one" in note for note in result.report.notes)


@pytest.mark.parametrize("share", [0.1, 1e-3])
def test_neighbours_are_told_from_rounding_without_float64_too(share, monkeypatch):
    without_float64(monkeypatch)
    model = deep()
    model.model.layers[1].input_layernorm = nn.Sequential(model.model.layers[1].input_layernorm, Mean(share))
    result = run_pass(model, small_request(), PassOptions(check_pairs=0))
    assert any("one by one" in note for note in result.report.notes)


# When and how it is checked.


def several_blocks(build, request, **options):
    """Options under which a pass has several blocks."""
    options = {"tile": 1, "batch_tokens": 0, "checkpoint_beyond": None, **options}
    work = GradientPass(build(), request, PassOptions(check_pairs=0, **options))
    work.run()
    memory = work.plan.working_bytes + 0.3 * work.plan.held_bytes
    return PassOptions(memory_bytes=int(memory), **options)


REQUEST = {"originals": 8, "variants": 7, "projections": {SETTINGS[0]: (0.05,)}}


def test_the_first_block_is_checked_before_the_second_is_computed(monkeypatch):
    from gradsim_assets.core.sample_gradients.held_gradients import HeldGradients

    request = small_request(**REQUEST)
    options = several_blocks(llama, request)
    right = HeldGradients.products
    monkeypatch.setattr(HeldGradients, "products", lambda *a: right(*a) * 1.001)
    work = GradientPass(llama(), request, options)
    with pytest.raises(ArithmeticError, match="of this block are not kept"):
        work.run()
    assert len(work.plan.blocks) > 2
    first = len(work.plan.blocks[0]) + len(work._index.originals_met_by(work.plan.blocks[0]))
    assert work.report.gradients_computed == first


class DoubledBeyond(nn.Linear):
    """A layer that is what it looks like on short texts alone."""

    most = 40

    def forward(self, x):
        return F.linear(x, (2 if x.shape[1] > self.most else 1) * self.weight)


def request_with_one_long_sample():
    """Samples of up to 30 tokens, and one too long to be verified on."""
    random = np.random.default_rng(0)

    def sample(name, tokens):
        ids = random.integers(3, 211, tokens)
        return EncodedSample(name, ids, np.where(np.arange(tokens) < 4, IGNORED, ids))

    originals = [sample(f"lima_{i}", 30 - i) for i in range(6)]
    variants = [*(sample(f"lima_{i}", 29 - i) for i in range(5)), sample("lima_5", 200)]
    pairs = [(variant.id, original.id) for variant in variants for original in originals]
    return PassRequest(originals, {"x": variants}, {"x": pairs}, frozenset({"x"}))


def test_what_the_checks_find_wrong_is_collected_otherwise_and_done_again(tmp_path):
    def build():
        model = llama(max_position_embeddings=256)
        model.model.layers[0].mlp.up_proj.__class__ = DoubledBeyond
        return model

    request = request_with_one_long_sample()
    options = replace(several_blocks(build, request), check_pairs=len(request.pairs["x"]), scratch=tmp_path)
    result = assert_exact(build, request, options)
    assert result.report.blocks > 1
    assert any("the block is done again" in note for note in result.report.notes)
    assert any("no closed form" in note and "up_proj" in note for note in result.report.notes)
    again = run_pass(build(), request, options)
    assert again.report.gradients_computed == 0
    assert np.array_equal(again.dot_products["x"], result.dot_products["x"])


class DoubledFor(nn.Linear):
    """A layer that is not what it looks like where the model reads a certain token."""

    reading = False

    def forward(self, x):
        return F.linear(x, (2 if DoubledFor.reading else 1) * self.weight)


def with_layer_that_minds_token_7():
    model = llama(max_position_embeddings=256)
    model.model.layers[0].mlp.up_proj.__class__ = DoubledFor
    inner = model.forward

    def forward(input_ids, use_cache=False):
        DoubledFor.reading = bool((input_ids == 7).any())
        return inner(input_ids=input_ids, use_cache=use_cache)

    model.forward = forward
    return model


def test_what_was_finished_before_something_was_found_wrong_is_done_again(tmp_path):
    build, random = with_layer_that_minds_token_7, np.random.default_rng(0)

    def sample(name, tokens, token=8):
        ids = random.integers(8, 211, tokens)
        ids[6] = token
        return EncodedSample(name, ids, np.where(np.arange(tokens) < 4, IGNORED, ids))

    # Two variants in different blocks have the token; the checks see the longest, which is in the last block.
    originals = [sample(f"lima_{i}", 20 + i) for i in range(8)]
    variants = [sample(f"lima_{i}", 120 if i == 6 else 40 - i, 7 if i in (1, 6) else 8) for i in range(8)]
    pairs = [(f"lima_{i}", f"lima_{(i + k) % 8}") for i in range(8) for k in range(2)]
    request = PassRequest(originals, {"x": variants}, {"x": pairs}, frozenset({"x"}))
    options = replace(several_blocks(build, request), check_pairs=2, scratch=tmp_path)
    unchecked = GradientPass(build(), request, replace(options, scratch=None, check_pairs=0))
    unchecked.run()
    planned = len(unchecked.plan.blocks)
    assert ("x", "lima_1") in unchecked.plan.blocks[0]
    assert ("x", "lima_6") in unchecked.plan.blocks[-1]
    assert planned > 1
    work = GradientPass(build(), request, options)

    def killed(done, total, what):
        if len(work.plan.blocks) > planned:  # the earlier ones are being done again
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.run(killed)
    resumed = assert_exact(build, request, options)
    assert resumed.report.blocks_restored
    assert resumed.report.blocks > planned
    whole = assert_exact(build, request, replace(options, scratch=None))
    assert any("the block is done again" in note for note in whole.report.notes)
    assert run_pass(build(), request, options).report.gradients_computed == 0


def test_a_component_that_a_late_sample_reaches_first_is_compared_there():
    class Late(nn.Module):
        """A layer that looks right and is not, and that only texts with token 7 reach."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.extra = inner, nn.Linear(32, 32, bias=False)
            self.extra.__class__ = Doubled

        def forward(self, x):
            out = self.inner(x)
            return out + self.extra(x) if Late.reached else out

    def build():
        model = llama()
        model.model.layers[0].mlp = Late(model.model.layers[0].mlp)
        inner = model.forward

        def forward(input_ids, use_cache=False):
            Late.reached = bool((input_ids == 7).any())
            return inner(input_ids=input_ids, use_cache=use_cache)

        model.forward = forward
        return model

    request = request_with_one_long_sample()
    for sample in [*request.originals, *request.variants["x"]]:
        sample.input_ids[sample.input_ids == 7] = 8
    request.originals[2].input_ids[5] = 7  # neither the shortest nor the longest, nor between them
    result = assert_exact(build, request, PassOptions(batch_tokens=0))
    assert any("no closed form" in note and "extra" in note for note in result.report.notes)


def test_nothing_that_the_process_is_set_to_changes_a_number():
    def build():
        return llama(attention_dropout=0.5)

    request = small_request()
    calm = run_pass(build(), request)
    model = build().train()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found = run_pass(model, request)
    finally:
        torch.set_float32_matmul_precision(before)
    assert model.training
    for setting in SETTINGS:
        assert np.array_equal(found.dot_products[setting], calm.dot_products[setting])


def test_convolutions_on_a_gpu_are_strict_as_products_are():
    from gradsim_assets.core.sample_gradients.precision import matmul_precision

    convolution = torch.backends.cudnn.conv
    before = convolution.fp32_precision
    for wanted, precision in (("fp32", "ieee"), ("tf32", "tf32")):
        with matmul_precision(wanted, torch.device("cuda")):
            assert convolution.fp32_precision == torch.backends.cuda.matmul.fp32_precision == precision
        assert convolution.fp32_precision == before


# Projections.


@pytest.mark.parametrize("fault", ["signs", "places", "scale of a component"])
def test_a_wrong_projection_does_not_pass(fault, monkeypatch):
    from gradsim_assets.core.sample_gradients.projections import RolledSketch

    right = RolledSketch.__call__

    def wrong(self, gradients):
        found = right(self, gradients)
        if "down_proj" not in self.name:
            return found
        return {"signs": found.abs(), "places": found.sort(1).values, "scale of a component": 3 * found}[fault]

    monkeypatch.setattr(RolledSketch, "__call__", wrong)
    with pytest.raises(ArithmeticError, match="cosine of projected gradients differs"):
        run_pass(tiny("olmo"), small_request(**REQUEST), PassOptions(check_pairs=20))


# What a killed pass goes on from.


def test_a_pass_goes_on_only_where_all_that_decides_its_numbers_is_the_same(tmp_path):
    def build():
        model = llama()
        model.model.embed_tokens.weight.requires_grad_(False)
        return model

    def frozen(model):
        model.model.embed_tokens.weight[3, 3] += 0.1

    def buffer(model):
        model.model.rotary_emb.inv_freq *= 1.01

    def configuration(model):
        model.config.rms_norm_eps = model.config.rms_norm_eps * 2

    request, options = small_request(), PassOptions(scratch=tmp_path, code_version="v1")
    run_pass(build(), request, options)
    assert run_pass(build(), request, options).report.blocks_restored == 1
    for change in (frozen, buffer, configuration):
        model = build()
        with torch.no_grad():
            change(model)
        assert run_pass(model, request, options).report.blocks_restored == 0, change.__name__
    assert run_pass(build(), request, replace(options, code_version="v2")).report.blocks_restored == 0


# Smaller ones.


def test_identical_texts_tie_whatever_tile_and_batch_they_fall_in():
    request = small_request(originals=9)
    twins = [replace(request.originals[0], id=f"twin_{i}") for i in range(6)]
    originals = [twin for pair in zip(request.originals, [*twins, *[None] * 3], strict=True) for twin in pair if twin]
    names = [sample.id for sample in originals]
    pairs = {s: [(v.id, name) for v in request.variants[s] for name in names] for s in SETTINGS}
    both = replace(request, originals=originals, pairs=pairs, projections=dict.fromkeys(SETTINGS, (0.05,)))
    alike = [names.index(name) for name in (request.originals[0].id, *(twin.id for twin in twins))]
    for options in (PassOptions(form="factored", tile=2, batch_tokens=60), PassOptions(form="formed", tile=3)):
        result = run_pass(llama(), both, options)
        for setting in SETTINGS:
            for values in (
                result.dot_products[setting].reshape(-1, len(names), len(result.components)),
                result.original_self[setting].reshape(-1, len(names), len(result.components)),
                result.projected[setting][0.05].reshape(-1, len(names), 1),
            ):
                assert (values[:, alike] == values[:, alike[:1]]).all()
        assert {result.losses["original"][names[place]] for place in alike} == {result.losses["original"][names[0]]}


def test_embeddings_that_scale_what_they_look_up_go_in_batches():
    def build():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(GemmaConfig(**{**SIZES, **IDS, **GROUPED}, head_dim=8)).eval()

    class Scaled(nn.Embedding):
        def forward(self, ids):
            return 5 * super().forward(ids)

    def scaled():
        model = build()
        model.model.embed_tokens.__class__ = Scaled
        return model

    for made in (build, scaled):
        work = GradientPass(made(), small_request())
        work.run()
        assert work.plan.batch_tokens > 0
        assert_exact(made)


def test_a_model_that_changes_its_embeddings_in_place_is_collected_in_batches():
    def build():
        torch.manual_seed(0)
        sizes = {"vocab_size": 211, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 64}
        model = AutoModelForCausalLM.from_config(CTRLConfig(**sizes)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("Wk.bias"):
                parameter.requires_grad_(False)  # rounding alone
        return model

    work = GradientPass(build(), small_request())
    work.run()
    assert work.plan.batch_tokens > 0
    assert_exact(build)


def test_weights_that_are_no_finite_numbers_are_named():
    model = llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises((ArithmeticError, InputError), match="no finite number"):
        run_pass(model, small_request())
