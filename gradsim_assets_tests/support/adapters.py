"""Adapters of PEFT for tests: in tiny models, as they are drawn or as if they were trained, and in folders."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM

_Q = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}

#: Enough of them that no sample is without.
TOKENS = list(range(3, 120, 2))

#: Of models like LLaMA's: every kind that is supported, and what else a LoRA may hold.
KINDS: dict[str, PeftConfig] = {
    "lora": LoraConfig(r=4, lora_alpha=8, **_Q),
    "rslora": LoraConfig(r=4, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM"),
    "dora": LoraConfig(r=4, use_dora=True, **_Q),
    "modules_to_save": LoraConfig(r=4, modules_to_save=["lm_head", "embed_tokens", "norm"], **_Q),
    "token_deltas": LoraConfig(r=4, trainable_token_indices=TOKENS, **_Q),
    "embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "loha": LoHaConfig(r=4, **_Q),
    "lokr": LoKrConfig(r=4, **_Q),
    "norms": LNTuningConfig(target_modules=["input_layernorm", "norm"], task_type="CAUSAL_LM"),
    "tokens": TrainableTokensConfig(token_indices=TOKENS, target_modules=["embed_tokens"], task_type="CAUSAL_LM"),
}


def adapted(model: torch.nn.Module, config: PeftConfig, trained: bool = True, seed: int = 1) -> Any:
    """PEFT's own model; an adapter that is `trained` is moved away from where it was drawn."""
    torch.manual_seed(seed)
    made = get_peft_model(model, copy.deepcopy(config))  # PEFT writes the base into it
    if trained:
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def save_adapter(base: Path, folder: Path, kind: str = "lora", trained: bool = True, seed: int = 1) -> Any:
    """Saves an adapter over the model in a folder as PEFT does; returns PEFT's own model of both."""
    made = adapted(AutoModelForCausalLM.from_pretrained(base), KINDS[kind], trained, seed)
    made.save_pretrained(folder)
    return made
