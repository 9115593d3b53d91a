"""What a model remembers from one forward pass to the next, and how it forgets it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

#: Types of attributes that can be compared and put back.
_PLAIN = (int, float, bool, str, type(None), torch.Tensor)


class ModelState:
    """The buffers and plain attributes of a model's modules as they were when this was made.

    Some models choose frequencies by the longest sequence that they ever saw (dynamic NTK) or by the last one (longrope),
    so that a sample's numbers would depend on what went before. A rotary embedding is set back to the frequencies that
    it was made with, whatever it has seen since.
    """

    def __init__(self, model: nn.Module, before: "ModelState | None" = None) -> None:
        """`before` is the state of the same model that knows what may change."""
        _reset_frequencies(model)
        #: Every buffer's module and name, itself, its version, and a copy of its values.
        self._buffers = [
            (module, name, buffer, buffer.clone())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._versions = [buffer._version for _, _, buffer, _ in self._buffers]
        self._attributes = [(module, _attributes(module)) for module in model.modules()]
        #: Modules (by id) whose attributes may change.
        self._changing: set[int] = before._changing if before else {id(module) for module, *_ in self._buffers}

    def restore(self) -> None:
        """Puts back what forward passes have changed in modules that own buffers or were seen changing (`observe`)."""
        for number, (module, name, buffer, values) in enumerate(self._buffers):
            if module._buffers.get(name) is not buffer:
                module._buffers[name] = buffer
            if buffer._version != self._versions[number]:
                with torch.no_grad():
                    buffer.copy_(values)
                self._versions[number] = buffer._version
        for module, attributes in self._attributes:
            if id(module) in self._changing:
                _put_back(module, attributes)

    def observe(self) -> None:
        """Puts everything back, and minds in which modules that was needed."""
        self._changing |= {id(module) for module, attributes in self._attributes if _put_back(module, attributes)}
        self.restore()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients in `.grad`; modes, gradients and who requires them are as before afterwards."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        for parameter, _, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        for module in training:
            module.training = True


def _reset_frequencies(model: nn.Module) -> None:
    """Sets rotary embeddings back to the frequencies and the length that they were made with."""
    for module in model.modules():
        lengths = [name for name in vars(module) if name.endswith("max_seq_len_cached")]
        if all(bool(getattr(module, name) == module.original_max_seq_len) for name in lengths):
            continue
        for name in lengths:
            setattr(module, name, module.original_max_seq_len)
        for name, buffer in list(module._buffers.items()):
            original = module._buffers.get(name.replace("inv_freq", "original_inv_freq"))
            if buffer is not None and original is not None and "original" not in name:
                module._buffers[name] = original.to(buffer, copy=True)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name != "training" and isinstance(value, _PLAIN)}


def _put_back(module: nn.Module, attributes: dict[str, Any]) -> bool:
    """Whether any attribute had another value, was not there, or is new."""
    held = _attributes(module)
    changed = [name for name, value in attributes.items() if name not in held or not _same(held[name], value)]
    for name in changed:
        vars(module)[name] = attributes[name]
    new = held.keys() - attributes.keys()
    for name in new:
        delattr(module, name)
    return bool(changed or new)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    return type(one) is type(other) and bool(one == other)
