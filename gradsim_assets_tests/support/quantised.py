"""Quantised bases for tests, and what an adapter over one must be: PEFT's own over the base that transformers itself dequantises."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

#: Ways of quantising by what a model's entry calls them.
WAYS: dict[str, dict[str, Any]] = {
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "8bit": {"load_in_8bit": True},
}


def loaded_by_transformers(folder: Path, way: str, dtype: torch.dtype = torch.float32) -> Any:
    """A base as transformers and bitsandbytes quantise it, in layers of bitsandbytes."""
    config = BitsAndBytesConfig(**WAYS[way])
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=dtype)


def save_quantised(folder: Path, into: Path, way: str) -> Path:
    """A base that is quantised on disk, as many lie on the hub; with its tokenizer."""
    loaded_by_transformers(folder, way).save_pretrained(into)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (into / name).write_bytes((folder / name).read_bytes())
    return into


def dequantised_twin(base: Path, adapter: Path, way: str) -> Any:
    """The model of an adapter over the base whose weights transformers has dequantised, in float64."""
    plain = loaded_by_transformers(base, way).dequantize()
    return PeftModel.from_pretrained(plain, adapter, is_trainable=True).eval().double().get_base_model()
