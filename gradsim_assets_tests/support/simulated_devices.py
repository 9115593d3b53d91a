"""Devices that are told apart on a machine that has one: real numbers on the CPU, under names of devices that must not mix.

Every tensor has the device that it was made on or brought to. An operation on tensors of two devices raises, as it would on
GPUs, on the way forward and on the way back alike; copies alone may cross. Whatever asks a tensor for its device is told so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

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
        self._known: dict[int, torch.device] = {}
        #: Operations on tensors of each device.
        self.operations: dict[torch.device, int] = {}

    def of(self, tensor: torch.Tensor) -> torch.device:
        return self._known.get(tensor.untyped_storage()._cdata, HOST)

    def put(self, tensor: torch.Tensor, device: torch.device) -> None:
        self._known[tensor.untyped_storage()._cdata] = device


class _Dispatch(TorchDispatchMode):
    """Refuses operations on tensors of several devices, and gives results that of their inputs."""

    def __init__(self, devices: _Devices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        seen = {self.devices.of(one) for one in given if one.dim() or self.devices.of(one) != HOST}
        if func in _INDEXING:
            seen -= {HOST} if self.devices.of(given[0]) != HOST else set()
        if len(seen) > 1 and func not in _COPIES:
            raise MixedDevicesError(f"{func}: {', '.join(sorted(map(str, seen)))}")
        held = {one.untyped_storage()._cdata: self.devices.of(one) for one in given}
        result = func(*args, **kwargs)
        device = self.devices.of(given[0]) if func in _COPIES else next(iter(seen), HOST)
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
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self._to(func, args, kwargs)
        if func is torch.Tensor.numpy and self.devices.of(args[0]) != HOST and not kwargs.get("force"):
            raise MixedDevicesError(f"numpy of a tensor on {self.devices.of(args[0])}")
        wanted = kwargs.get("device")
        if wanted is None:
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": HOST})
        self.devices.put(made, torch.device(wanted))
        return made

    def _to(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        tensor, *rest = args
        device = HOST if func is torch.Tensor.cpu else None
        others: list[Any] = []
        for one in rest:
            if isinstance(one, torch.Tensor):
                device, others = self.devices.of(one), [*others, one.dtype]
            elif isinstance(one, (str, torch.device)):
                device = torch.device(one)
            else:
                others.append(one)
        if "device" in kwargs:
            device = torch.device(kwargs.pop("device"))
        if func is torch.Tensor.to and (others or kwargs):
            tensor = tensor.to(*others, **kwargs) if others or "dtype" in kwargs or kwargs.get("copy") else tensor
        if device is None or device == self.devices.of(tensor):
            return tensor
        return _Moved.apply(tensor, device, self.devices)


@contextmanager
def simulated_devices() -> Iterator[_Devices]:
    """Devices `cpu:0`, `cpu:1` and so on in the meantime; tensors of before are the host's.

    Named so, they are computed on as the CPU is: by the same kernels, to the same bits.
    """
    devices = _Devices()
    with _Function(devices), _Dispatch(devices):
        yield devices
