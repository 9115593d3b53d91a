"""Frozen linear layers whose weights lie in 4 or 8 bits, and whose activations and gradients are those of the dequantised weights.

A weight is made float by bitsandbytes' own kernels each time that it is used, on the way forth and on the way back, so that memory
holds its bits and one layer's weight at a time. What is multiplied with it is never quantised: LLM.int8 rounds activations to 8
bits, too, and its gradients are those of no function (Dettmers et al. 2022).
"""

from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class QuantisedLinear(nn.Linear):
    """y = x W^T + b with a frozen W [O, I] that lies in few bits, in the dtype of x. To adapters it is a linear layer like others.

    Subclasses hold the bits as a parameter `codes`, which is no floating one, and what their scales are as buffers.
    """

    def __init__(
        self, outputs: int, inputs: int, codes: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would make a weight
        self.in_features, self.out_features = inputs, outputs
        #: That weights are rounded to as they are made float.
        self.weight_dtype = dtype
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """W [O, I] made float, in a tensor of its own: what is written into it is lost."""
        raise NotImplementedError

    @property
    def way(self) -> str:
        """How W is quantised, such as "4 bits (nf4)"."""
        raise NotImplementedError

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Output [.., O] of [.., I]."""
        product: torch.Tensor = _Product.apply(given, self)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    @property
    def held_bytes(self) -> int:
        """Bytes of W in memory, scales included."""
        tensors = (self.codes, *(buffer for buffer in self.buffers() if buffer is not None))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def used_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of W while it is used for activations of a dtype."""
        sizes = {one.itemsize for one in {self.weight_dtype, dtype}}
        return self.in_features * self.out_features * sum(sizes)

    def extra_repr(self) -> str:
        """As torch prints a layer."""
        return f"{super().extra_repr()}, {self.way}"


class FourBitLinear(QuantisedLinear):
    """W in blocks of NF4 or FP4 numbers, each with its largest absolute value, which may be quantised itself (QLoRA).

    Args:
        codes: uint8 [ceil(O I / 2), 1], two numbers a byte.
        state: bitsandbytes' `QuantState` of W.
    """

    def __init__(self, outputs: int, inputs: int, codes: torch.Tensor, bias: torch.Tensor | None, state: Any) -> None:
        super().__init__(outputs, inputs, codes, bias, state.dtype)
        self.kind, self.block = state.quant_type, state.blocksize
        self.register_buffer("absmax", state.absmax)
        self.register_buffer("code", state.code)
        nested = state.state2 if state.nested else None
        self.nested_block = nested.blocksize if nested else 0
        self.register_buffer("nested_absmax", nested.absmax if nested else None)
        self.register_buffer("nested_code", nested.code if nested else None)
        self.register_buffer("offset", torch.as_tensor(state.offset) if nested else None)

    @property
    def way(self) -> str:
        """How W is quantised."""
        return f"4 bits ({self.kind}{', scales quantised, too' if self.nested_block else ''})"

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """W [O, I] made float, in a tensor of its own: what is written into it is lost."""
        from bitsandbytes.functional import dequantize_4bit

        found: torch.Tensor = dequantize_4bit(self.codes.data, self._state())
        return found

    def _state(self) -> Any:
        from bitsandbytes.functional import QuantState

        def scales(name: str) -> torch.Tensor:
            held: torch.Tensor = self.get_buffer(name)
            # Whoever widens a model widens its buffers, which kernels take in float32 alone; that gives the same bits.
            return held.float() if held.is_floating_point() else held

        nested = None
        if self.nested_block:
            absmax, code = scales("nested_absmax"), scales("nested_code")
            nested = QuantState(absmax=absmax, code=code, blocksize=self.nested_block, dtype=torch.float32)
        return QuantState(
            absmax=scales("absmax"),
            shape=torch.Size((self.out_features, self.in_features)),
            code=scales("code"),
            blocksize=self.block,
            quant_type=self.kind,
            dtype=self.weight_dtype,
            offset=scales("offset") if nested else None,
            state2=nested,
        )


class EightBitLinear(QuantisedLinear):
    """W in 8-bit integers, each row with its largest absolute value: W = codes * absmax / 127 (the weights of LLM.int8).

    Args:
        codes: int8 [O, I].
        absmax: float32 [O].
    """

    def __init__(self, codes: torch.Tensor, absmax: torch.Tensor, bias: torch.Tensor | None) -> None:
        outputs, inputs = codes.shape
        super().__init__(outputs, inputs, codes, bias, torch.float32)
        self.register_buffer("absmax", absmax)

    @property
    def way(self) -> str:
        """How W is quantised."""
        return "8 bits"

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """W [O, I] made float, in a tensor of its own: what is written into it is lost."""
        from bitsandbytes.functional import int8_vectorwise_dequant

        found: torch.Tensor = int8_vectorwise_dequant(self.codes.data, self.get_buffer("absmax").float())
        return found


class _Product(torch.autograd.Function):
    """x W^T without the float W being kept for the way back."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, layer: QuantisedLinear) -> torch.Tensor:
        ctx.layer = layer
        return F.linear(given, layer.weight.to(given.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight.to(gradient.dtype), None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        tangent, _ = tangents
        return F.linear(tangent, ctx.layer.weight.to(tangent.dtype))


def how_quantised(model: nn.Module) -> str:
    """How weights of a model are quantised, such as "4 bits (nf4) by bitsandbytes 0.50"; "" where they are not."""
    layers = quantised_layers(model)
    if not layers:
        return ""
    ways = ", ".join(dict.fromkeys(layer.way for layer in layers))
    return f"{ways} by bitsandbytes {version('bitsandbytes')}"


def quantised_layers(model: nn.Module) -> list[QuantisedLinear]:
    """The layers of a model whose weights lie in few bits."""
    return [module for module in model.modules() if isinstance(module, QuantisedLinear)]
