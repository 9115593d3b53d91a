"""What one optimizer step on an original does to the losses of variants: the weights are as before afterwards, bit for bit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.evaluation.finished import Finished
from gradsim_assets.core.evaluation.step import Pair, Step
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest
from gradsim_assets.core.gradients.engine.scratch import fingerprint
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.model_state import undisturbed
from gradsim_assets.core.sample_gradients.precision import Arithmetic, matmul_precision
from gradsim_assets.core.sample_gradients.reference import PlainAutograd

#: Models of so many parameters are measured in float64, others in float32 with their losses summed in float64.
SMALL = 10**8

#: That of torch.optim.Adam.
_EPSILON = 1e-8

#: Called with (originals done, originals in all).
Progress = Callable[[int, int], None]


class LossChanges:
    """Measures pairs one by one, so that a number depends on its pair, the step and the weights alone.

    The call takes pairs and a step and returns by pair how the variant's loss changes, in nats per response token. The
    gradient of an original is taken once for all of its variants. A pair whose sample is not there (the context policy has
    dropped it) is left out.
    """

    def __init__(
        self,
        plain: PlainAutograd,
        originals: Mapping[str, EncodedSample],
        variants: Mapping[str, EncodedSample],
        finished: Finished | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self.plain, self.originals, self.variants = plain, originals, variants
        self.finished, self.progress = finished or Finished(), progress
        self._before: dict[str, float] = {}

    @property
    def arithmetic(self) -> str:
        """What losses are computed in."""
        return str(self.plain.arithmetic)

    def __call__(self, pairs: Sequence[Pair], step: Step) -> dict[Pair, float]:
        """As the class says.

        Raises:
            ArithmeticError: the weights are not what they were; or a loss is no number.
        """
        before = weight_bits(self.plain.parameters)
        by_original: dict[str, list[str]] = {}
        there = [(v, o) for v, o in pairs if v in self.variants and o in self.originals]
        for variant, original in there:
            by_original.setdefault(original, []).append(variant)
        for number, (original, variants) in enumerate(by_original.items(), start=1):
            left = [variant for variant in variants if self.finished.get(_name(variant, original, step)) is None]
            if left:
                self._measure(original, left, step)
            self.progress(number, len(by_original))
        self.finished.write()
        if weight_bits(self.plain.parameters) != before:
            raise ArithmeticError("the weights are not what they were before the steps; nothing measured counts")
        return {(v, o): self.finished.get(_name(v, o, step)) for v, o in there}  # type: ignore[misc]  # all are done

    def _measure(self, original: str, variants: Sequence[str], step: Step) -> None:
        for variant in variants:
            if variant not in self._before:
                self._before[variant] = self._loss(variant)
        with self._stepped(self.originals[original], step):
            for variant in variants:
                change = self._loss(variant) - self._before[variant]
                self.finished.add(_name(variant, original, step), change)

    def _loss(self, variant: str) -> float:
        loss = precise_loss(self.plain, self.variants[variant])
        if loss != loss or loss == float("inf"):
            raise ArithmeticError(f"the loss of {variant} is {loss}; take a smaller learning rate")
        return loss

    @contextmanager
    def _stepped(self, original: EncodedSample, step: Step) -> Iterator[None]:
        """Other tensors stand in the place of the weights, which nothing is written into."""
        parameters = self.plain.parameters
        weights = [parameter.data for parameter in parameters]
        moved = list(weights)

        def take(number: int, gradient: torch.Tensor) -> None:
            moved[number] = after_step(weights[number], gradient, step)

        self.plain.each(original, take)
        try:
            for parameter, weight in zip(parameters, moved, strict=True):
                parameter.data = weight
            yield
        finally:
            for parameter, weight in zip(parameters, weights, strict=True):
                parameter.data = weight


def _name(variant: str, original: str, step: Step) -> str:
    return "\x1f".join((variant, original, step.optimizer, repr(step.learning_rate)))


def after_step(weight: torch.Tensor, gradient: torch.Tensor, step: Step) -> torch.Tensor:
    """A weight after one step, in a tensor of its own: plain SGD, or Adam (Kingma and Ba 2015) from a fresh state.

    The first step of Adam divides a gradient by its own size: after the correction of their bias, its moments are the
    gradient and the gradient's square.
    """
    if step.optimizer == "sgd":
        return torch.sub(weight, gradient, alpha=step.learning_rate)
    return torch.addcdiv(weight, gradient, gradient.abs() + _EPSILON, value=-step.learning_rate)


def precise_loss(plain: PlainAutograd, sample: EncodedSample) -> float:
    """The sample's loss as the gradients have it, its logarithms and their mean in float64 whatever the model computes in."""
    plain.state.restore()
    labels = torch.from_numpy(sample.labels).to(plain.device)[1:]
    counted = labels != IGNORED
    with undisturbed(plain.model), matmul_precision("fp32", plain.device), torch.no_grad():
        input_ids = torch.from_numpy(sample.input_ids).to(plain.device)[None]
        logits = plain.model(input_ids=input_ids, use_cache=False).logits[0, :-1][counted]
        loss = F.cross_entropy(logits.double(), labels[counted])
    plain.state.restore()
    return loss.item()


def weight_bits(parameters: Sequence[torch.Tensor]) -> list[int]:
    """A sum over the bits of each tensor, which any number that changed changes."""
    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
    return [int(one.detach().contiguous().view(kinds[one.element_size()]).sum(dtype=torch.int64)) for one in parameters]


@contextmanager
def measuring(
    loaded: LoadedModel,
    request: PassRequest,
    setting: str,
    folder: Path | None = None,
    code_version: str = "",
    progress: Progress = lambda done, total: None,
) -> Iterator[LossChanges]:
    """Measures the pairs of a request in float64, or in float32 where the model is not small.

    `folder` keeps what was measured for another try by code of the same version on the same weights and samples.

    Raises:
        InputError: the weights in that arithmetic do not fit into memory.
    """
    parameters = [parameter for _, parameter in trainable_components(loaded.model)]
    small = sum(parameter.numel() for parameter in parameters) <= SMALL
    dtype = torch.float64 if small else Arithmetic(torch.float32).strict.dtype
    options = PassOptions(device=loaded.device, code_version=code_version)
    path = folder / f"{fingerprint(loaded.model, request, options)}.json" if folder else None
    plain = PlainAutograd(loaded.model, parameters, loaded.device)
    try:
        with plain.widened(dtype):
            originals = {sample.id: sample for sample in request.originals}
            variants = {sample.id: sample for sample in request.variants[setting]}
            yield LossChanges(plain, originals, variants, Finished(path), progress)
    except MemoryError as error:
        raise InputError(f"one step cannot be measured here: {error}; take a device with more memory.") from error
