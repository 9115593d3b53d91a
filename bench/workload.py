"""Made-up samples with the lengths of LIMA and a candidate graph like BM25's, and a model of demo size."""

import numpy as np
import torch

from gradsim_assets.core.gradients.engine import PassRequest
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample

SETTINGS = ("paraphrased", "model_generated")

#: Every twentieth quantile of LIMA's token counts (characters over 4.3, single-turn, 988 samples): median 441, mean 649.
LIMA_QUANTILES = (
    28, 83, 135, 186, 232, 286, 320, 350, 380, 408, 441, 469, 505, 555, 622, 714, 892, 1121, 1585, 2091, 4147
)  # fmt: skip


def demo_model(hidden: int = 256, layers: int = 4, vocabulary: int = 8192, tied: bool = True) -> torch.nn.Module:
    """An OLMo with random weights, tied by default and of 6.3 M parameters then."""
    from transformers import AutoModelForCausalLM, OlmoConfig

    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(4, hidden // 64),
        max_position_embeddings=4608,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=1,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def lima_lengths(count: int, seed: int) -> np.ndarray:
    """Token counts [count] in shuffled order: evenly spread quantiles, so that small workloads have LIMA's lengths too."""
    places = (np.arange(count) + 0.5) / count
    lengths = np.interp(places, np.linspace(0, 1, len(LIMA_QUANTILES)), LIMA_QUANTILES).astype(int)
    return np.random.default_rng(seed).permutation(lengths)


def make_samples(lengths: np.ndarray, vocabulary: int, seed: int) -> list[EncodedSample]:
    """Samples of random tokens, the first fifth of each a prompt."""
    random = np.random.default_rng(seed)
    samples = []
    for number, length in enumerate(lengths):
        ids = random.integers(3, vocabulary, length)
        labels = ids.copy()
        labels[: max(1, length // 5)] = IGNORED
        samples.append(EncodedSample(f"lima_{number}", ids, labels))
    return samples


def make_pairs(count: int, candidates: int, seed: int) -> list[tuple[str, str]]:
    """Each variant's own original and others, some of which are everybody's candidates, as with BM25."""
    random = np.random.default_rng(seed)
    popularity = 1 / (np.arange(count) + 10)
    pairs = []
    for number in range(count):
        weights = np.where(np.arange(count) == number, 0, popularity)
        others = random.choice(count, min(candidates, count) - 1, replace=False, p=weights / weights.sum())
        pairs += [(f"lima_{number}", f"lima_{other}") for other in [number, *others]]
    return pairs


def make_request(
    lengths: np.ndarray, vocabulary: int = 8192, candidates: int = 5, projections: tuple[float, ...] = ()
) -> PassRequest:
    """Originals of these lengths, a variant of each in both settings, and pairs for top-k retrieval."""
    count = len(lengths)
    random = np.random.default_rng(7)
    variants = {
        setting: make_samples(random.permutation(lengths), vocabulary, seed) for seed, setting in enumerate(SETTINGS, 1)
    }
    pairs = make_pairs(count, candidates, 3)
    return PassRequest(
        make_samples(lengths, vocabulary, 0),
        variants,
        dict.fromkeys(SETTINGS, pairs),
        frozenset(SETTINGS),
        dict.fromkeys(SETTINGS, projections),
    )


def distinct_samples(request: PassRequest) -> list[EncodedSample]:
    """Every sample of which the request needs a gradient."""
    needed = {original for pairs in request.pairs.values() for _, original in pairs}
    originals = [sample for sample in request.originals if sample.id in needed]
    return originals + [sample for variants in request.variants.values() for sample in variants]
