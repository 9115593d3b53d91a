"""Bases in few bits: loaded by transformers and bitsandbytes, drawn, or laid out alone, always in layers with exact gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gradsim_assets.core.models.quantisation import Quantisation
from gradsim_assets.core.sample_gradients.quantised_linear import (
    EightBitLinear,
    FourBitLinear,
    QuantisedLinear,
    quantised_layers,
)

#: What transformers leaves at a model that it has quantised; it would then refuse to move it, and PEFT take other layers for it.
_MARKS = ("is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer", "quantization_method", "is_quantized")

#: Numbers of a weight that share a scale, and scales that share one, as bitsandbytes has them unless it is told otherwise.
_BLOCK, _OUTER_BLOCK = 64, 256


def options(quantisation: Quantisation, device: str) -> dict[str, Any]:
    """What `from_pretrained` of transformers is told."""
    from transformers import BitsAndBytesConfig

    where = {"device_map": {"": device}}
    if not quantisation.as_loaded:  # it finds the way in the configuration itself
        return where
    return {**where, "quantization_config": BitsAndBytesConfig.from_dict(dict(quantisation.document))}


def with_exact_layers(model: Any) -> Any:
    """The model with our layers in the place of those of bitsandbytes; it is changed."""
    import bitsandbytes as bnb

    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            model.set_submodule(name, _of_four_bits(module.weight.data, module.weight.quant_state, module.bias))
        elif isinstance(module, bnb.nn.Linear8bitLt):
            weight = module.weight
            codes = weight.data if weight.CB is None else weight.CB
            model.set_submodule(name, EightBitLinear(codes, weight.SCB, _data(module.bias)))
    for mark in _MARKS:
        vars(model).pop(mark, None)
    return model


def quantised(model: Any, quantisation: Quantisation) -> Any:
    """The model, whose weights are drawn or on the meta device, with those layers quantised that transformers would quantise; it is
    changed."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(_quantisable(model, quantisation)):
        own = module.get_parameter("weight").data
        weight = own.T.contiguous() if isinstance(module, Conv1D) else own
        made = _laid_out if weight.is_meta else _quantised
        model.set_submodule(name, made(weight, module.bias, quantisation))
    return model


def dequantised(model: Any) -> Any:
    """The model with plain layers, whose weights are what the quantised ones stand for; it is changed."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedLinear):
            weight = module.weight.to(model.dtype)
            with torch.device("meta"):
                plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight = nn.Parameter(weight)
            plain.register_parameter("bias", module.bias)
            model.set_submodule(name, plain)
    return model


def weights_in_bits(model: nn.Module) -> set[int]:
    """Identities of the parameters of a model that hold bits, not numbers."""
    return {id(layer.codes) for layer in quantised_layers(model)}


def _quantisable(model: Any, quantisation: Quantisation) -> Iterator[tuple[str, nn.Module]]:
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = HfQuantizer.get_modules_to_not_convert(
        model, quantisation.document.get("llm_int8_skip_modules"), model._keep_in_fp32_modules
    )
    for name, module in model.named_modules():
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, skipped):
            yield name, module


def _quantised(weight: torch.Tensor, bias: Any, quantisation: Quantisation) -> QuantisedLinear:
    """A layer of a weight [O, I]."""
    from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit

    if quantisation.bits == 8:
        codes, absmax, _ = int8_vectorwise_quant(weight.to(torch.float16))
        return EightBitLinear(codes, absmax, _data(bias))
    bits, state = quantize_4bit(
        weight, blocksize=_BLOCK, quant_type=quantisation.kind, compress_statistics=quantisation.is_nested
    )
    return _of_four_bits(bits, state, bias)


def _laid_out(weight: torch.Tensor, bias: Any, quantisation: Quantisation) -> QuantisedLinear:
    """A layer of a weight [O, I] on the meta device, where it stays: kernels there would leave their tables as they are there."""
    from bitsandbytes.functional import QuantState

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=weight.device)

    if quantisation.bits == 8:
        return EightBitLinear(empty(*weight.shape, dtype=torch.int8), empty(len(weight)), _data(bias))
    blocks, nested = -(-weight.numel() // _BLOCK), None
    if quantisation.is_nested:
        nested = QuantState(
            absmax=empty(-(-blocks // _OUTER_BLOCK)), code=empty(256), blocksize=_OUTER_BLOCK, dtype=torch.float32
        )
    state = QuantState(
        absmax=empty(blocks, dtype=torch.uint8 if nested else torch.float32),
        shape=weight.shape,
        code=empty(16),
        blocksize=_BLOCK,
        quant_type=quantisation.kind,
        dtype=weight.dtype,
        offset=empty() if nested else None,
        state2=nested,
    )
    return _of_four_bits(empty(-(-weight.numel() // 2), 1, dtype=torch.uint8), state, bias)


def _of_four_bits(codes: torch.Tensor, state: Any, bias: Any) -> FourBitLinear:
    outputs, inputs = state.shape
    return FourBitLinear(outputs, inputs, codes.contiguous().view(torch.uint8), _data(bias), state)


def _data(bias: Any) -> torch.Tensor | None:
    return None if bias is None else bias.data
