"""Tiny randomly initialised models saved as folders, for tests that load one as a user would."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OlmoConfig

from gradsim_assets.core.models.loading import LoadedModel, load_model
from gradsim_assets.core.models.revisions import resolve
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.demo.model import train_tokenizer


def tiny_config(kind: str, vocab_size: int, positions: int = 512) -> Any:
    """The smallest configuration of an architecture that has all its parts."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "olmo":
        return OlmoConfig(
            vocab_size=vocab_size, max_position_embeddings=positions, tie_word_embeddings=True, eos_token_id=0, **sizes
        )
    if kind == "llama":
        return LlamaConfig(vocab_size=vocab_size, max_position_embeddings=positions, num_key_value_heads=1, **sizes)
    return GPT2Config(vocab_size=vocab_size, n_positions=positions, n_embd=16, n_layer=2, n_head=2)


def save_tiny_model(folder: Path, kind: str = "olmo", seed: int = 0, positions: int = 512) -> Path:
    """A folder that AutoModelForCausalLM and AutoTokenizer load; another seed gives other weights."""
    tokenizer = train_tokenizer()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer), positions))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_tiny_model(folder: Path) -> LoadedModel:
    """An OLMo that is saved in a folder first, and loaded as users' models are."""
    revision = resolve(str(save_tiny_model(folder)))
    model, tokenizer = load_model(str(folder), revision, "float32", "cpu")
    return LoadedModel(model, ChatTokenizer(tokenizer), revision, "cpu")


def save_optimizer_state(folder: Path, path: Path, seed: int = 0) -> Path:
    """The state of an AdamW that has taken a step on the model in a folder, on tokens drawn by the seed."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, model.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(seed))
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), path)
    return path
