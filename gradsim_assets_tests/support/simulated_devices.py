"""Devices that are told apart on a machine that has one: real numbers on the CPU, under names of devices that must not mix.

Every tensor has the device that it was made on or brought to. An operation on tensors of two devices raises, as it would on
GPUs, on the way forward and on the way back alike; copies alone may cross. Whatever asks a tensor for its device is told so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = torch.device("cpu")

_COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default}

#: What takes indices from the host.
_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class MixedDevicesError(RuntimeError):
    """An operation was to be done on tensors of several devices."""


class _Devices:
    """The device of every storage."""

    def __init__(self) -> None:
        #: None where an operation made it for itself of nothing: the first one that uses it tells.
        self._known: dict[int, torch.device | None] = {}
        #: Operations on tensors of each device.
        self.operations: dict[torch.device, int] = {}

    def of(self, tensor: torch.Tensor) -> torch.device:
        return self._known.get(tensor.untyped_storage()._cdata, HOST) or HOST

    def is_open(self, tensor: torch.Tensor) -> bool:
        return self._known.get(tensor.untyped_storage()._cdata, HOST) is None

    def put(self, tensor: torch.Tensor, device: torch.device | None) -> None:
        self._known[tensor.untyped_storage()._cdata] = device


class _Dispatch(TorchDispatchMode):
    """Refuses operations on tensors of several devices, and gives results that of their inputs."""

    def __init__(self, devices: _Devices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        every = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        given = [one for one in every if not self.devices.is_open(one)]
        seen = {self.devices.of(one) for one in given if one.dim() or self.devices.of(one) != HOST}
        if func in _INDEXING:
            seen -= {HOST} if self.devices.of(given[0]) != HOST else set()
        if len(seen) > 1 and func not in _COPIES:
            raise MixedDevicesError(f"{func}: {', '.join(sorted(map(str, seen)))}")
        held = {one.untyped_storage()._cdata: self.devices.of(one) for one in given}
        result = func(*args, **kwargs)
        device = next(iter(seen), HOST) if given else None
        if given and func in _COPIES:
            device = self.devices.of(every[0])
        if device is not None:
            self.devices.operations[device] = self.devices.operations.get(device, 0) + 1
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor):
                self.devices.put(one, held.get(one.untyped_storage()._cdata, device))
        return result


class _Moved(torch.autograd.Function):
    """A copy on another device, whose gradient goes back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, device: torch.device, devices: _Devices) -> torch.Tensor:
        ctx.source, ctx.devices = devices.of(tensor), devices
        moved = tensor.detach().clone()
        devices.put(moved, device)
        return moved

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        moved = gradients[0].clone()
        ctx.devices.put(moved, ctx.source)
        return moved, None, None


class _Function(TorchFunctionMode):
    """Tells tensors' devices, and makes and moves tensors where it is asked to."""

    def __init__(self, devices: _Devices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__self__", None) is torch.Tensor.device:  # its getter
            return self.devices.of(args[0])
        if func in (torch.Tensor.backward, torch.autograd.backward):
            return self._backward(args[0], kwargs)
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self._to(func, args, kwargs)
        if func is torch.Tensor.numpy and self.devices.of(args[0]) != HOST and not kwargs.get("force"):
            raise MixedDevicesError(f"numpy of a tensor on {self.devices.of(args[0])}")
        if (wanted := kwargs.get("device")) is not None:
            kwargs["device"] = HOST
        made = func(*args, **kwargs)
        if isinstance(made, torch.Tensor) and (wanted is not None or self.devices.is_open(made)):
            self.devices.put(made, torch.device(wanted or HOST))
        return made

    def _backward(self, tensors: Any, given: dict[str, Any]) -> None:
        """What both functions do beneath, with hooks that are told devices, too: within a function no mode is on."""
        (root,) = (tensors,) if isinstance(tensors, torch.Tensor) else tensors
        gradient = given.get("gradient", given.get("grad_tensors"))
        (gradient,) = gradient if isinstance(gradient, (list, tuple)) else (gradient,)
        gradient = torch.ones_like(root) if gradient is None else gradient
        with self:
            _engine_run_backward((root,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)

    def _to(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *others = args
        device, dtype = HOST if func is torch.Tensor.cpu else kwargs.get("device"), kwargs.get("dtype")
        for one in others:
            if isinstance(one, torch.Tensor):
                device, dtype = self.devices.of(one), one.dtype
            elif isinstance(one, torch.dtype):
                dtype = one
            elif isinstance(one, (str, torch.device)):
                device = one
        moves = device is not None and torch.device(device) != self.devices.of(tensor)
        if (dtype is not None and dtype != tensor.dtype) or (kwargs.get("copy") and not moves):
            tensor = tensor.to(dtype or tensor.dtype, copy=bool(kwargs.get("copy")))
        return _Moved.apply(tensor, torch.device(device), self.devices) if moves else tensor


@contextmanager
def simulated_devices() -> Iterator[_Devices]:
    """Devices `cpu:0`, `cpu:1` and so on in the meantime; tensors of before are the host's.

    Named so, they are computed on as the CPU is: by the same kernels, to the same bits.
    """
    devices = _Devices()
    # What autograd saves is looked at within operations, where no tensor tells its device.
    recomputed = patch.dict(checkpoint._allowed_determinism_checks_to_fns, default=lambda one: (one.shape, one.dtype))
    with recomputed, _Function(devices), _Dispatch(devices):
        yield devices
