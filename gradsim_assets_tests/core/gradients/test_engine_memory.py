"""The promise for large models: exact products on a laptop's memory."""

import subprocess
import sys
import textwrap

import pytest

RUN = textwrap.dedent(
    """
    import resource, time
    import numpy as np, torch
    torch.set_num_threads(2)
    from transformers import AutoModelForCausalLM, OlmoConfig
    from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, run_pass
    from gradsim_assets.core.models.encoded_sample import EncodedSample

    config = OlmoConfig(vocab_size=50304, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=16, tie_word_embeddings=True, bos_token_id=None, eos_token_id=2, pad_token_id=1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    random = np.random.default_rng(0)

    def samples(count):
        made = []
        for i in range(count):
            ids = random.integers(3, 50304, int(random.integers(200, 401)))
            labels = ids.copy()
            labels[: len(ids) // 5] = -100
            made.append(EncodedSample(f"s{i}", ids, labels))
        return made

    originals, variants = samples(8), samples(8)
    pairs = [(v.id, o.id) for v in variants for o in originals]
    request = PassRequest(originals, {"x": variants}, {"x": pairs}, frozenset({"x"}))
    started = time.time()
    result = run_pass(model, request, PassOptions(memory_bytes=7 * 10**9, check_pairs=1))
    print(result.report.plan)
    print(f"{time.time() - started:.0f} s, error {result.report.max_relative_error:.1e}")
    assert np.isfinite(result.dot_products["x"]).all()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
)


@pytest.mark.slow
def test_products_of_a_billion_parameter_model_in_less_than_14_gb():
    output = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True).stdout
    print(output)
    assert int(output.split()[-1]) < 14 * 10**9
