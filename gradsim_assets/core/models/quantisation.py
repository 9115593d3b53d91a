"""How the weights of a base are quantised: what an entry asks for, what a checkpoint says of itself, and in words. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from gradsim_assets.core.errors import InputError

#: What the base of an adapter is quantised to as it is loaded: 4 bits as QLoRA has them (NF4 numbers, whose scales are quantised, too),
#: the same with whole scales, 4-bit floats (FP4), or 8 bits (the weights of LLM.int8); "" leaves it as it is.
Quantize = Literal["", "4bit", "nf4", "fp4", "8bit"]

#: The way of quantising that is supported, as configurations name it, and what it takes.
_SUPPORTED, _PACKAGES = "bitsandbytes", ("bitsandbytes", "accelerate")

#: What transformers calls these.
_ASKED: dict[str, dict[str, Any]] = {
    "4bit": {
        "quant_method": _SUPPORTED,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "nf4": {"quant_method": _SUPPORTED, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"quant_method": _SUPPORTED, "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "8bit": {"quant_method": _SUPPORTED, "load_in_8bit": True},
}

#: Packages that hold the layers of other ways.
_OF_OTHERS = {"gptq": "gptqmodel", "awq": "gptqmodel", "hqq": "hqq", "torchao": "torchao", "quanto": "optimum-quanto"}


@dataclass(frozen=True)
class Quantisation:
    """How the weights of a base are quantised: what its configuration says, or what is asked of it as it is loaded."""

    document: Mapping[str, Any]
    as_loaded: bool = False

    @property
    def method(self) -> str:
        """Whose way it is, such as `bitsandbytes` or `gptq`."""
        found = self.document.get("quant_method")
        return str(getattr(found, "value", found) or "quantization_config")

    @property
    def bits(self) -> int:
        """Bits of a weight, of bitsandbytes."""
        return 8 if self.document.get("load_in_8bit") else 4

    @property
    def kind(self) -> str:
        """What 4 bits stand for: `nf4` or `fp4`."""
        return self.document.get("bnb_4bit_quant_type") or "fp4"

    @property
    def is_nested(self) -> bool:
        """Whether the scales of 4-bit weights are quantised, too."""
        return self.bits == 4 and bool(self.document.get("bnb_4bit_use_double_quant"))

    def __str__(self) -> str:
        if self.method != _SUPPORTED:
            return self.method
        kinds = [] if self.bits == 8 else [self.kind, *(["scales quantised, too"] if self.is_nested else [])]
        return f"{self.bits} bits ({', '.join([*kinds, self.method])})"


def stored(config: Any) -> Quantisation | None:
    """What a configuration (of transformers, or the content of its file) says of quantised weights; None where it has none."""
    name = "quantization_config"
    found = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    if not found:
        return None
    return Quantisation(dict(found) if isinstance(found, Mapping) else found.to_dict())


def quantisation_of(model_id: str, config: Any, is_base: bool, quantize: Quantize) -> Quantisation | None:
    """How the weights of a model are quantised, or are to be; None where they are not. `is_base`: an adapter stands over it.

    Raises:
        InputError: it has no adapter, it would be quantised twice, it is quantised in a way that is not supported, or a package
            is missing.
    """
    inside = stored(config)
    if inside and not is_base:
        raise InputError(
            f"{model_id} holds quantised weights ({inside}), which have no gradients, and no adapter whose tensors were trained over "
            "them; give the adapter, or the model that it was quantised from."
        )
    if quantize and not is_base:
        raise InputError(
            f'{model_id} is no adapter, and quantize = "{quantize}" is for the base under one, since quantised weights have no gradients; '
            "leave quantize out of its entry under [[models]]."
        )
    if inside and quantize:
        raise InputError(
            f"the base of {model_id} is quantised already ({inside}); leave quantize out of its entry under [[models]]."
        )
    found = Quantisation(_ASKED[quantize], as_loaded=True) if quantize else inside
    if found is not None:
        _check(model_id, found)
    return found


def _check(model_id: str, quantisation: Quantisation) -> None:
    if quantisation.method != _SUPPORTED:
        raise InputError(_of_another_way(model_id, quantisation.method))
    if quantisation.document.get("llm_int8_has_fp16_weight"):
        raise InputError(
            f"the base of {model_id} sets llm_int8_has_fp16_weight, by which weights are quantised anew at every use; save it without."
        )
    if missing := [package for package in _PACKAGES if find_spec(package) is None]:
        raise InputError(
            f"the base of {model_id} is in {quantisation}, which needs the package {missing[0]}; install it with pip install "
            "'gradsim[quantized]', or bitsandbytes and accelerate by themselves."
        )


def _of_another_way(model_id: str, method: str) -> str:
    package = _OF_OTHERS.get(method)
    layers = f"layers of the package {package}" if package else "layers"
    return (
        f"the base of {model_id} holds weights quantised by {method}, in {layers} whose gradients were never held against float64 here; "
        "bitsandbytes is supported: name the model that it was quantised from as `base` of this entry under [[models]], with quantize = "
        '"4bit".'
    )
