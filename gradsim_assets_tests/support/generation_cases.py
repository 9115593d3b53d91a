"""Prompts, and the answers to them by transformers' own `generate`, for tests of batched generation."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import GenerationConfig

from gradsim_assets.core.datasets.generation.answers import Generated, generate_answers
from gradsim_assets.core.samples import Sample
from gradsim_assets_tests.support.architectures import VOCABULARY
from gradsim_assets_tests.support.character_tokenizer import character_tokenizer, text_of

#: A random model hardly ever hits upon one token; with several end tokens answers end at many lengths.
ENDS = [*range(3, VOCABULARY, 16), VOCABULARY - 1]

#: Lengths of prompts, as shares of the context: one token, beyond a sliding window, next to the end.
LENGTHS = (0.3, 0.0, 0.1, 0.9, 0.15, 0.5)


def prompts(context: int) -> list[list[int]]:
    """Prompts of unlike lengths, the same at every call."""
    generator = np.random.default_rng(0)
    return [generator.integers(4, VOCABULARY - 4, max(1, int(share * context))).tolist() for share in LENGTHS]


def by_generate(build: Callable[[], torch.nn.Module], prompt: list[int], context: int) -> Generated:
    """The answer of a fresh model by transformers' own `generate`."""
    model, ids = build(), torch.tensor([prompt])
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=context - len(prompt), eos_token_id=ENDS, pad_token_id=0
    )
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[
        0, len(prompt) :
    ].tolist()
    ended = tokens[-1] in ENDS
    kept = tokens[:-1] if ended else tokens
    return Generated("", text_of(kept), len(prompt), len(kept), not ended)


def answered(model: torch.nn.Module, batch_size: int, context: int, said: list[str] | None = None) -> list[Generated]:
    """The platform's answers; what it says of them goes to `said`."""
    model.generation_config = GenerationConfig(eos_token_id=ENDS)
    samples = [Sample("", text_of(prompt), "-") for prompt in prompts(context)]
    chat = character_tokenizer(VOCABULARY)
    return generate_answers(
        model,
        chat,
        samples,
        max_positions=context,
        device="cpu",
        batch_size=batch_size,
        log=(said if said is not None else []).append,
    )
