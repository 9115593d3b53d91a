"""Layers of adapters that scale what passes by, number by number, with a vector that was trained: DoRA's magnitudes, and IA3.

y = v * u with a vector v: d loss / d v = sum_s g_s * u_s, where g is the gradient of y. They are known by their looks, without PEFT.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from gradsim_assets.core.sample_gradients.layers import BatchRows, ParameterUse, Seen, Sink
from gradsim_assets.core.sample_gradients.precision import wide

#: Where PEFT's IA3 layers hold their vectors.
_IA3 = "ia3_l"


class ScalingUse(ParameterUse):
    """A module whose one trainable tensor is a vector v; what it is shown is u."""

    def emit(self, given: torch.Tensor, gradient: torch.Tensor, rows: BatchRows, sink: Sink) -> None:
        """Hands the gradients of v to the sink (see `ParameterUse`)."""
        ((name, component),) = self.components.items()
        dtype = wide(gradient.dtype)
        summands = rows.of(gradient.to(dtype) * given.to(dtype), False)
        shape = _parameters(self.module)[name].shape
        sink.formed(component, summands.sum(1).unflatten(1, shape), summands.unflatten(2, shape))


class DoraUse(ScalingUse):
    """DoRA (Liu et al. 2024): (m / n - 1) W x + m / n s B A x, with the length n of each row of W + s B A, which is a constant there.

    So it is m u - W x with u = (y + W x) / m, all of which pass by.
    """

    def watch(self, seen: Seen) -> Callable[[], None]:
        """Shows `seen` every use; the function that it returns ends that."""

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
        ) -> torch.Tensor:
            base, bias = kwargs["base_result"], kwargs["base_layer"].bias
            base = base.detach() if bias is None else base.detach() - bias.detach()
            return seen((output.detach() + base) / module.get_parameter("weight").detach(), output)

        return self.module.register_forward_hook(hook, with_kwargs=True).remove


class Ia3Use(ScalingUse):
    """IA3 (Liu et al. 2022): W (v * x) in front of a layer, v * (W x) behind it."""

    def watch(self, seen: Seen) -> Callable[[], None]:
        """Shows `seen` every use; the function that it returns ends that."""
        stack = ExitStack()
        base: Any = self.module.base_layer
        passing: list[torch.Tensor] = []

        def given(module: nn.Module, args: tuple[Any, ...]) -> None:
            passing.append(args[0])

        def in_front(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (seen(passing.pop(), args[0]), *args[1:])

        def between(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            passing.append(output)

        def behind(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            return seen(passing.pop(), output)

        if self.module.is_feedforward:
            stack.callback(self.module.register_forward_pre_hook(given).remove)
            stack.callback(base.register_forward_pre_hook(in_front).remove)
        else:
            stack.callback(base.register_forward_hook(between).remove)
            stack.callback(self.module.register_forward_hook(behind).remove)
        return stack.close


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's own parameters by name, those in dictionaries of its own, too (`ia3_l.default`); none of such a dictionary alone."""
    return {} if isinstance(module, nn.ParameterDict) else _parameters(module)


def find_scaling_use(module: nn.Module, components: dict[str, int]) -> ScalingUse | None:
    """The use of a module whose trainable parameters are `components`; None if it is none of these layers."""
    if len(components) != 1:
        return None
    (name,) = components
    if type(module).__name__ == "DoraLinearLayer" and name == "weight":
        return DoraUse(module, components)
    base = getattr(module, "base_layer", None)
    is_linear = isinstance(base, nn.Linear) or hasattr(base, "nf")  # or Conv1D of GPT-2
    return Ia3Use(module, components) if name.startswith(f"{_IA3}.") and is_linear else None


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    found = {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
    for child, held in module._modules.items():
        if isinstance(held, nn.ParameterDict):
            found |= {
                f"{child}.{name}": parameter for name, parameter in held._parameters.items() if parameter is not None
            }
    return found
