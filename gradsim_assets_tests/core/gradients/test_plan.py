"""The plan: few passes for little memory, and predictions that a real run bears out."""

import os
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, MistralConfig, OlmoConfig, Qwen2Config

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassGraph, PassOptions, plan_pass, shape_of_config
from gradsim_assets.core.gradients.engine.planning.blocks import MemoryBudget, VariantGroup, make_blocks
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.pass_graph import originals_of
from gradsim_assets.core.sample_gradients.device_profile import CUDA

SETTINGS = ("paraphrased", "model_generated")

#: Every twentieth quantile of LIMA's token counts.
QUANTILES = (
    28, 83, 135, 186, 232, 286, 320, 350, 380, 408, 441, 469, 505, 555, 622, 714, 892, 1121, 1585, 2091, 4147
)  # fmt: skip


@pytest.fixture(scope="module")
def billion():
    """The shape of AMD-OLMo-1B."""
    return shape_of_config(
        OlmoConfig(
            vocab_size=50304,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=16,
            tie_word_embeddings=True,
        )
    )


def lima_like(count=988, topics=120, seed=0):
    """Ids in topics: candidates are the own original, others of the topic, and some that are everybody's."""
    random = np.random.default_rng(seed)
    lengths = random.permutation(np.interp((np.arange(count) + 0.5) / count, np.linspace(0, 1, 21), QUANTILES))
    samples = {f"lima_{i}": (int(n), int(n * 0.85)) for i, n in enumerate(lengths)}
    topic = random.integers(0, topics, count)
    pairs = []
    for i in range(count):
        near = np.flatnonzero((topic == topic[i]) & (np.arange(count) != i))
        chosen = random.choice(near, min(3, len(near)), replace=False).tolist()
        others = [o for o in random.permutation(count).tolist() if o != i and o not in chosen][: 4 - len(chosen)]
        pairs += [(f"lima_{i}", f"lima_{o}") for o in [i, *chosen, *others]]
    return samples, pairs


def graph_of(samples, pairs, proportions=()):
    return PassGraph(
        samples,
        dict.fromkeys(SETTINGS, samples),
        dict.fromkeys(SETTINGS, pairs),
        frozenset(SETTINGS),
        dict.fromkeys(SETTINGS, proportions),
    )


def lima_graph():
    """Samples of LIMA's lengths to the longest, each with five candidates."""
    samples = {f"lima_{i}": (n, int(n * 0.85)) for i, n in enumerate(QUANTILES)}
    return graph_of(samples, [(f"lima_{i}", f"lima_{(i + j) % 21}") for i in range(21) for j in range(5)])


def test_factors_of_the_billion_parameter_model_have_the_known_size(billion):
    # Per token and layer: 6 x 2048 around attention (q, k and v share their input), 2048 + 3 x 8192 + 2048 in the MLP.
    graph = graph_of(*lima_like(20))
    layers = frozenset(n for n in billion.factorable if "embed" not in billion.components[n].name)
    assert MemoryModel(billion, graph, layers, CUDA).numbers_per_token == 655_360


def test_a_thousand_ids_in_80_gb_need_at_most_1_6_times_the_minimum(billion):
    plan = plan_pass(billion, graph_of(*lima_like()), 80 * 10**9 - billion.model_bytes, PassOptions(device="cuda"))
    assert plan.minimum_passes == 2964
    assert plan.passes <= 1.6 * plan.minimum_passes
    assert plan.memory_bytes <= 80 * 10**9 - billion.model_bytes


@pytest.mark.skipif("GRADSIM_TEST_LIMA" not in os.environ, reason="set GRADSIM_TEST_LIMA to LIMA's parquet file")
@pytest.mark.parametrize("proportions", [(), (0.01, 0.05)])
def test_the_real_lima_in_80_gb_needs_at_most_1_6_times_the_minimum(billion, proportions):
    import polars as pl
    from rank_bm25 import BM25Okapi

    rows = pl.read_parquet(os.environ["GRADSIM_TEST_LIMA"])
    ids = rows["id"].to_list()
    texts = [[message["content"] for message in messages] for messages in rows["messages"].to_list()]
    samples = {
        i: (round((len(u) + len(a)) / 4.3) + 9, round(len(a) / 4.3) + 1) for i, (u, a) in zip(ids, texts, strict=True)
    }
    corpus = [user.split() for user, _ in texts]
    index = BM25Okapi(corpus)
    pairs = []
    for number, query in enumerate(corpus):
        top = np.argsort(-index.get_scores(query), kind="stable")[:5].tolist()
        top = top if number in top else [*top[:4], number]
        pairs += [(ids[number], ids[original]) for original in top]
    plan = plan_pass(
        billion, graph_of(samples, pairs, proportions), 80 * 10**9 - billion.model_bytes, PassOptions(device="cuda")
    )
    assert plan.minimum_passes == 2964
    assert plan.passes <= 1.6 * plan.minimum_passes


def test_every_variant_is_held_once_and_fits(billion):
    graph = graph_of(*lima_like(200))
    memory = 60 * 10**9
    plan = plan_pass(billion, graph, memory, PassOptions(device="cuda"))
    held = [key for block in plan.blocks for key in block]
    assert sorted(held) == sorted(originals_of(graph))
    assert len(plan.blocks) > 1
    streamed = sum(len({o for key in block for o in originals_of(graph)[key]}) for block in plan.blocks)
    assert plan.passes == len(held) + streamed


def test_with_room_for_all_every_sample_passes_once(billion):
    plan = plan_pass(billion, graph_of(*lima_like(50)), 10**13, PassOptions())
    assert plan.passes == plan.minimum_passes
    assert len(plan.blocks) == 1


def test_two_settings_share_the_originals(billion):
    samples, pairs = lima_like(60)
    both = plan_pass(billion, graph_of(samples, pairs), 10**13)
    one = PassGraph(samples, {"paraphrased": samples}, {"paraphrased": pairs}, frozenset({"paraphrased"}))
    assert both.passes == plan_pass(billion, one, 10**13).passes + 60


def test_improving_blocks_beats_file_order_and_never_hurts():
    _, pairs = lima_like(300)
    wanted = {}
    for variant, original in pairs:
        wanted.setdefault(variant, []).append(int(original.removeprefix("lima_")))
    groups = [VariantGroup(1.0, np.asarray(sorted(set(originals))), 1) for originals in wanted.values()]
    budget = MemoryBudget(12.0, lambda longest: 0.0)

    def streamed(blocks):
        return sum(len({o for group in block for o in groups[group].originals.tolist()}) for block in blocks)

    in_order = streamed([list(range(start, min(start + 12, 300))) for start in range(0, 300, 12)])
    greedy, improved = make_blocks(groups, budget, improve=False), make_blocks(groups, budget)
    assert streamed(improved) <= streamed(greedy) < 0.85 * in_order
    assert sorted(group for block in improved for group in block) == list(range(300))
    assert max(map(len, improved)) <= 12
    assert improved == make_blocks(groups, budget)


def test_blocks_take_memory_for_what_they_meet_and_not_for_what_there_is():
    random = np.random.default_rng(0)
    groups = [VariantGroup(1.0, np.sort(random.choice(200_000, 5, replace=False)), 1) for _ in range(600)]
    tracemalloc.start()
    try:
        blocks = make_blocks(groups, MemoryBudget(1.0, lambda longest: 0.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(blocks) == 600
    assert peak < 50 * 2**20  # a table of blocks and originals takes 458 MiB


def test_too_little_memory_names_what_is_needed(billion):
    with pytest.raises(InputError, match=r"at least \d+\.\d\d GiB"):
        plan_pass(billion, graph_of(*lima_like(10)), 10**9)


def test_a_plan_with_less_halves_batches_then_tiles_then_the_block_until_nothing_is_left(billion):
    plan = plan_pass(billion, graph_of(*lima_like(4)), 10**13, PassOptions(batch_tokens=512, tile=4))
    assert [len(block) for block in plan.blocks] == [8]
    steps, said = [], []
    with pytest.raises(InputError, match="one sample at a time"):
        while True:
            plan = plan.with_less(0, said.append)
            steps.append((plan.batch_tokens, plan.tile, [len(block) for block in plan.blocks]))
    assert steps == [
        (256, 4, [8]),
        (128, 4, [8]),
        (64, 4, [8]),
        (0, 4, [8]),
        (0, 2, [8]),
        (0, 1, [8]),
        (0, 1, [4, 4]),
        (0, 1, [2, 2, 4]),
        (0, 1, [1, 1, 2, 4]),
    ]
    assert len(said) == len(steps)
    assert said[3] == "out of memory: batches halved to one sample"


def test_a_description_tells_passes_memory_and_disk(billion):
    text = plan_pass(billion, graph_of(*lima_like(50)), 10**13).describe()
    for words in ("backward passes", "x the minimum", "GiB beside the model", "MiB of results"):
        assert words in text


def test_shapes_of_a_mixture_of_experts_are_read_too():
    from transformers import MixtralConfig

    shape = shape_of_config(
        MixtralConfig(
            vocab_size=211,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=4,
        )
    )
    experts = [component for component in shape.components if "experts" in component.name]
    assert experts
    assert all(not component.factors for component in experts)
    assert shape.activations.linear > 0


def test_reading_a_shape_allocates_no_weights():
    config = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=2, num_attention_heads=64)
    assert shape_of_config(config).model_bytes > 8 * 10**9


MEASURE = textwrap.dedent(
    """
    import re
    import numpy as np, torch
    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM, LlamaConfig
    from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest
    from gradsim_assets.core.models.encoded_sample import EncodedSample

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=2000, hidden_size=192, intermediate_size=768,
        num_hidden_layers=4, num_attention_heads=4, bos_token_id=None, eos_token_id=None)).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(TURN is None or any(f".{layer}." in name for layer in TURN))
    random = np.random.default_rng(0)

    def samples(count, tokens=TOKENS):
        return [EncodedSample(f"s{i}", ids, ids) for i in range(count) for ids in [random.integers(0, 2000, tokens)]]

    originals, variants = samples(COUNT), samples(COUNT)
    pairs = [(f"s{i}", f"s{(i // 3 * 2 + j) % COUNT}") for i in range(COUNT) for j in range(4)]
    request = PassRequest(originals, {"x": variants}, {"x": pairs}, frozenset({"x"}))
    warm = PassRequest(samples(2, 60), {"x": samples(1, 60)}, {"x": [("s0", "s0"), ("s0", "s1")]}, frozenset({"x"}))
    GradientPass(model, warm, PassOptions(form="formed", check_pairs=0, **OPTIONS)).run()
    before = 0

    def resident(most):
        (kilobytes,) = re.findall(rf"{'VmHWM' if most else 'VmRSS'}:\\s+(\\d+) kB", open("/proc/self/status").read())
        return int(kilobytes) * 1024

    def begin(said):
        global before
        if "backward passes" in said:  # what comes before is verification
            open("/proc/self/clear_refs", "w").write("5")  # the kernel begins the peak anew: nothing of it is missed
            before = resident(most=False)

    work = GradientPass(model, request, PassOptions(form="formed", check_pairs=0, memory_bytes=MEMORY * 2**20, **OPTIONS))
    work.run(log=begin)
    peak = resident(most=True)
    print(work.plan.passes, work.report.gradients_computed, work.plan.memory_bytes, peak - before, len(work.plan.blocks))
    """
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "given",
    [
        "TOKENS, COUNT, MEMORY, TURN, OPTIONS = 60, 40, 400, None, {}",
        # So long that activations are most of it: kept, and computed again.
        "TOKENS, COUNT, MEMORY, TURN, OPTIONS = 1500, 5, 200, None, {'checkpoint_beyond': None}",
        "TOKENS, COUNT, MEMORY, TURN, OPTIONS = 1500, 5, 120, None, {'checkpoint_beyond': 0}",
        # Some of the layers, as where components are done in turn.
        "TOKENS, COUNT, MEMORY, TURN, OPTIONS = 60, 40, 160, (0, 1), {}",
        "TOKENS, COUNT, MEMORY, TURN, OPTIONS = 1500, 5, 150, (2, 3), {'checkpoint_beyond': None}",
    ],
)
def test_predictions_agree_with_a_run_under_a_memory_limit(given):
    # A process of its own, which gives back what it frees: memory that was left behind would hide the peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    code = [sys.executable, "-c", given + MEASURE]
    output = subprocess.run(code, env=environment, capture_output=True, text=True, check=True).stdout
    planned_passes, passes, planned_memory, memory, blocks = map(int, output.split())
    assert blocks > 1
    assert passes == planned_passes
    assert memory == pytest.approx(planned_memory, rel=0.15)


#: What people fine-tune, in bf16: an H100 has no room for LIMA's longest sample if all activations are kept.
LARGE = {
    "llama3-8b": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
    "mistral-7b": MistralConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8),
}


@pytest.mark.parametrize("name", LARGE)
def test_seven_to_eight_billion_parameters_fit_an_h100_with_the_longest_sample(name):
    shape = shape_of_config(LARGE[name], torch.bfloat16)
    graph = lima_graph()
    free = int(0.85 * (79.1 * 2**30 - shape.model_bytes))  # of what an H100 has, what a run takes
    plan = plan_pass(shape, graph, free, PassOptions(device="cuda"))
    assert plan.memory_bytes <= free
    with pytest.raises(InputError, match="at least"):
        plan_pass(shape, graph, free, PassOptions(device="cuda", checkpoint_beyond=None))
