"""One sample's gradient by plain autograd: the definition that everything faster is checked against."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from gradsim_assets.core.memory import free_bytes
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.activation_checkpointing import ActivationCheckpointing
from gradsim_assets.core.sample_gradients.model_state import ModelState, undisturbed
from gradsim_assets.core.sample_gradients.precision import (
    Arithmetic,
    matmul_precision,
    narrowest,
    wide,
    widened,
    widening_bytes,
)
from gradsim_assets.core.sample_gradients.several_devices import (
    devices_of,
    least_free_bytes,
    logits_left_in_place,
)
from gradsim_assets.core.sample_gradients.summing_order import OtherSummingOrder

#: Bytes of plain gradients that are held at a time: this share of what is free, or so many where that is less.
GROUP_SHARE, GROUP_BYTES = 1 / 8, 2**30

#: No power of two, which would round as before.
_OTHER_SCALE = 1.1

#: Two ways of summing the same numbers may differ by so many times what rounding does to either. Of components with few
#: numbers it is more, for either may come out right by chance.
NOISE_SLACK, FEW = 10, 16

#: Called with a component's number and its gradient, as soon as that is complete.
Take = Callable[[int, torch.Tensor], None]


def sample_loss(model: torch.nn.Module, sample: EncodedSample, device: torch.device | str) -> torch.Tensor:
    """Mean negative log-likelihood (nats) over the response tokens: what a causal LM returns at batch size 1."""
    input_ids = torch.from_numpy(sample.input_ids).to(device)[None]
    labels = torch.from_numpy(sample.labels).to(device)
    logits = model(input_ids=input_ids, use_cache=False).logits[0, :-1]
    return F.cross_entropy(logits.to(wide(logits.dtype)), labels[1:].to(logits.device), ignore_index=IGNORED)


def plain_gradient(
    model: torch.nn.Module,
    sample: EncodedSample,
    parameters: Sequence[torch.nn.Parameter],
    device: torch.device | str = "cpu",
) -> tuple[float, list[torch.Tensor]]:
    """Loss and d loss / d parameter for each parameter; a parameter that took no part has a gradient of zero."""
    plain, found = PlainAutograd(model, parameters, device), list(map(torch.zeros_like, parameters))
    return plain.each(sample, found.__setitem__), found


class PlainAutograd:
    """A model's gradients with respect to some parameters, sample by sample.

    Every sample meets the model in the state that it had when this was made, in evaluation mode and in strict precision
    (unless asked otherwise), whatever the process is set to. Everything is as it was afterwards.
    """

    def __init__(
        self, model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter], device: torch.device | str
    ) -> None:
        self.model, self.parameters, self.device = model, list(parameters), torch.device(device)
        self.state = ModelState(model)
        #: For which samples activations are computed again.
        self.checkpointing = ActivationCheckpointing(model)
        #: Why no wider arithmetic shows what is rounding, if that was found out.
        self.without_wider: str | None = None

    @property
    def arithmetic(self) -> Arithmetic:
        """What gradients are computed in at present."""
        return Arithmetic(narrowest(self.model))

    @contextmanager
    def widened(self, dtype: torch.dtype) -> Iterator[None]:
        """Computes in a wider dtype (see `precision.widened`), for whoever uses the model in the meantime.

        Raises:
            MemoryError: the wider weights do not fit beside the model.
        """
        if dtype == self.arithmetic.dtype:
            yield
            return
        needed = widening_bytes(self.model, dtype)
        missing = max(size - free_bytes(device, "most") for device, size in needed.items())
        if missing > 0:
            raise MemoryError(f"weights in {Arithmetic(dtype)} need {missing / 2**30:.1f} GiB more than there are")
        self.state.restore()
        before = self.state
        try:
            with widened(self.model, dtype):
                self.state = ModelState(self.model, before)
                yield
        finally:
            self.state = before

    def each(
        self,
        sample: EncodedSample,
        take: Take,
        numbers: Sequence[int] | None = None,
        arithmetic: Arithmetic | None = None,
        scale: float = 1.0,
    ) -> float:
        """The loss; `take` gets the gradients of the parameters (or of `numbers` alone) that took part, one at a time.

        They are those of `scale` times the loss, which rounds otherwise.

        Raises:
            MemoryError: wider weights than the model has were asked for, and do not fit.
        """
        how = arithmetic or self.arithmetic
        chosen = range(len(self.parameters)) if numbers is None else numbers
        with self.widened(how.dtype), self._only(chosen), matmul_precision(how.precision, self.device):
            handles = [
                self.parameters[number].register_post_accumulate_grad_hook(_taking(take, number)) for number in chosen
            ]
            try:
                with torch.enable_grad(), self.checkpointing.of_plain(sample.length):
                    loss = sample_loss(self.model, sample, self.device)
                    if loss.requires_grad:
                        (scale * loss).backward()
            finally:
                for handle in handles:
                    handle.remove()
        return loss.item()

    def gradient(
        self,
        sample: EncodedSample,
        numbers: Sequence[int],
        arithmetic: Arithmetic | None = None,
        scale: float = 1.0,
    ) -> list[torch.Tensor]:
        """The gradients of the parameters `numbers` all at a time, zero where one took no part; see `each`."""
        found: dict[int, torch.Tensor] = {}
        self.each(sample, found.__setitem__, numbers, arithmetic, scale)
        return [found[number] if number in found else torch.zeros_like(self.parameters[number]) for number in numbers]

    def rounding(
        self, sample: EncodedSample, numbers: Sequence[int], arithmetic: Arithmetic
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The gradients of some parameters as exactly as can be, and how they come out in `arithmetic`.

        Exactly is in wider arithmetic. Where there is no memory or no kernel for it, it is in `arithmetic` itself, and how
        they come out is seen by another scale of the loss and another order of summing, which round everything otherwise.
        """
        wider = arithmetic.wider
        if wider is not None and self.without_wider is None:
            try:
                return self.gradient(sample, numbers, wider), self.gradient(sample, numbers, arithmetic)
            except (RuntimeError, MemoryError) as error:
                self.without_wider = f"{wider} is not possible ({str(error).partition(chr(10))[0]})"
        with OtherSummingOrder():
            scaled = self.gradient(sample, numbers, arithmetic, _OTHER_SCALE)
        return self.gradient(sample, numbers, arithmetic), [one / _OTHER_SCALE for one in scaled]

    def groups(self, numbers: Sequence[int], bytes_per_number: int) -> Iterator[list[int]]:
        """The parameters `numbers` in groups that fit (or of one): a whole gradient need not fit in memory."""
        group: list[int] = []
        # Each group takes a pass of its own through the model.
        left = most = max(GROUP_BYTES, int(GROUP_SHARE * least_free_bytes(devices_of(self.model), "most")))
        for number in numbers:
            size = self.parameters[number].numel() * bytes_per_number
            if group and size > left:
                yield group
                group, left = [], most
            group.append(number)
            left -= size
        if group:
            yield group

    @contextmanager
    def _only(self, numbers: Sequence[int]) -> Iterator[None]:
        """The model in evaluation mode and in a fresh state, with a graph for these parameters alone."""
        self.state.restore()
        chosen = {id(self.parameters[number]) for number in numbers}
        with undisturbed(self.model), logits_left_in_place(self.model):
            for parameter in self.model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(id(parameter) in chosen)
            try:
                yield
            finally:
                self.state.restore()


def _taking(take: Take, number: int) -> Callable[[torch.nn.Parameter], None]:
    def taking(parameter: torch.nn.Parameter) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        take(number, gradient)

    return taking


def noise_slack(parameter: torch.Tensor) -> float:
    """By how many times the rounding of plain autograd another way of taking a gradient may be off."""
    return NOISE_SLACK * max(1.0, FEW / parameter.numel())


def length(tensor: torch.Tensor) -> torch.Tensor:
    """Length of a tensor, as a float64 scalar on its device."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float64)


def norm(tensor: torch.Tensor) -> float:
    """Length of a tensor; waits for its device."""
    return float(length(tensor))
