"""What a pass costs per token, read off a model: sizes of factors, who shares an input, memory of activations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gradsim_assets.core.gradients.engine.values.gradient_hooks import Tap
from gradsim_assets.core.gradients.engine.values.layers import EmbeddingSite, MatrixSite
from gradsim_assets.core.gradients.engine.values.precision import wide

#: Tokens of the shortest of three passes that activations are measured in; any context has three times as many.
SHORT = 10


@dataclass(frozen=True)
class PartShape:
    """Numbers per token of one factored summand: `left` (0 for one-hot) and `right`; `group` names a shared right."""

    left: int
    right: int
    group: int
    labelled: bool  # exists at labelled positions only: the head


@dataclass(frozen=True)
class ComponentShape:
    """One component: its size and, where it can be factored, the parts of its gradient."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[PartShape, ...]

    @property
    def size(self) -> int:
        """Number of parameters."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class ModelShape:
    """All that a plan needs to know of a model. Activations of S tokens take linear * S + quadratic * S^2 bytes."""

    components: tuple[ComponentShape, ...]
    number_bytes: int  # of the numbers that are held: 4, or 8 for a float64 model
    activation_number_bytes: int
    vocabulary: int
    linear: float
    quadratic: float
    batchable: bool
    model_bytes: int

    def activations(self, tokens: int, longest: int) -> float:
        """Bytes of activations of a batch of `tokens` tokens with samples of up to `longest`."""
        return self.linear * tokens + self.quadratic * tokens * longest

    @property
    def factorable(self) -> frozenset[int]:
        """Components that may be held as factors."""
        return frozenset(number for number, component in enumerate(self.components) if component.parts)

    @property
    def matrix_parameters(self) -> int:
        """Parameters that take part in matrix products (each 2 FLOP per token, forward and backward alike)."""
        return sum(
            c.size for c in self.components if (len(c.shape) > 1 and any(p.left for p in c.parts)) or not c.parts
        )


def measure(tap: Tap) -> ModelShape:
    """The shape of a tapped model, from three short forward passes (which FakeTensorMode can do without memory)."""
    inputs: dict[int, int] = {}
    linear, quadratic = _activations(tap, inputs)
    return ModelShape(
        components=tuple(
            ComponentShape(name, tuple(parameter.shape), tuple(_parts(tap, number, inputs)))
            for number, (name, parameter) in enumerate(zip(tap.names, tap.parameters, strict=True))
        ),
        number_bytes=torch.empty((), dtype=wide(tap.parameters[0].dtype)).element_size(),
        activation_number_bytes=tap.parameters[0].element_size(),
        vocabulary=_vocabulary(tap),
        linear=linear,
        quadratic=quadratic,
        batchable=tap.batchable,
        model_bytes=sum(p.numel() * p.element_size() for p in tap.model.parameters()),
    )


def _activations(tap: Tap, inputs: dict[int, int]) -> tuple[float, float]:
    """Bytes per token and per token squared, measured; fills in who shares an input."""
    try:
        with tap.open(), _inputs_of(tap, inputs):
            first, second, third = (_activation_bytes(tap, times * SHORT) for times in (1, 2, 3))
    except Exception:
        if not any(type(parameter).__name__ == "FakeTensor" for parameter in tap.model.buffers()):
            raise
        # Routing by value and some kernels have no fake form (experts): twice what goes in and out of every matrix.
        inputs.clear()
        shapes = [p.shape for site in tap.sites for p in site.module.parameters(recurse=False) if p.dim() > 1]
        return 2.0 * sum(sum(shape[-2:]) for shape in shapes) * tap.parameters[0].element_size(), 0.0
    quadratic = max(0.0, (third - 2 * second + first) / (2 * SHORT**2))  # constants (copies of weights) cancel
    return max(0.0, (second - first) / SHORT - 3 * SHORT * quadratic), quadratic


def shape_of_config(config: Any, dtype: torch.dtype = torch.float32) -> ModelShape:
    """The shape of a Hugging Face model of this configuration and dtype, without allocating its weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    with FakeTensorMode(allow_non_fake_inputs=True):
        return measure(Tap(AutoModelForCausalLM.from_config(config, dtype=dtype)))


def _vocabulary(tap: Tap) -> int:
    head = tap.head
    return head.out_features if head is not None else int(getattr(tap.model.config, "vocab_size", 0))


def _parts(tap: Tap, component: int, inputs: dict[int, int]) -> Iterator[PartShape]:
    if component not in tap.factorable:
        return
    for number, site in enumerate(tap.sites):
        if site.components.get("weight") != component:
            continue
        rows, columns = tap.parameters[component].shape
        if isinstance(site, EmbeddingSite):
            yield PartShape(0, columns, -number - 1, False)
        elif isinstance(site, MatrixSite):
            yield PartShape(rows, columns, inputs.get(id(site), -number - 1), site.packed)


@contextmanager
def _inputs_of(tap: Tap, inputs: dict[int, int]) -> Iterator[None]:
    """Numbers the inputs of matrix sites, the same for those that are handed one tensor."""
    seen: list[torch.Tensor] = []

    def hook(site: Any) -> Any:
        def remember(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            known = [position for position, tensor in enumerate(seen) if tensor is args[0]]
            inputs.setdefault(id(site), known[0] if known else len(seen))
            if not known:
                seen.append(args[0])

        return remember

    handles = [s.module.register_forward_pre_hook(hook(s)) for s in tap.sites if isinstance(s, MatrixSite)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _activation_bytes(tap: Tap, tokens: int) -> int:
    own = {parameter.untyped_storage()._cdata for parameter in tap.model.parameters()}
    own |= {buffer.untyped_storage()._cdata for buffer in tap.model.buffers()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    def remember(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        for one in args:
            if isinstance(one, torch.Tensor):
                pack(one)

    handles = [site.module.register_forward_pre_hook(remember) for site in tap.sites if not site.packed]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
            output = tap.forward_only(torch.zeros(1, tokens, dtype=torch.int64, device=tap.device))
        del output
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes.values())
