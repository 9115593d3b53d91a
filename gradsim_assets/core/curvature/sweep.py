"""One way of originals through the model, for a statistic of their gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from gradsim_assets.core.curvature.statistics import Statistic
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.collecting import HooksChangedError, collect_batches
from gradsim_assets.core.gradients.engine.planning.batches import padded_batches
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.model_shape import measure
from gradsim_assets.core.gradients.engine.planning.pass_graph import PassGraph
from gradsim_assets.core.gradients.engine.planning.plan import LEAST_BATCH_TOKENS, batch_tokens_within
from gradsim_assets.core.gradients.engine.recovery import fits_in_memory
from gradsim_assets.core.gradients.engine.request import PassOptions
from gradsim_assets.core.gradients.engine.verification import Verification
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.device_profile import profile_of
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch, batch_shape, labelled_as
from gradsim_assets.core.sample_gradients.precision import matmul_precision
from gradsim_assets.core.sample_gradients.several_devices import devices_of, least_free_bytes

S = TypeVar("S", bound=Statistic)

#: Called with (gradients done, gradients in all, what is being done).
Progress = Callable[[int, int, str], None]


class Sweep:
    """The originals and the model, under hooks that were verified on some of them.

    Raises:
        InputError: there are no originals, or nothing is trainable.
        ArithmeticError: hooks collect other gradients than plain autograd gives, in any way.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        originals: Sequence[EncodedSample],
        options: PassOptions,
        progress: Progress,
        log: Callable[[str], None],
    ) -> None:
        if not originals:
            raise InputError("the gradients of the originals are wanted, and there are none; give some.")
        #: In the order in which they go through.
        self.originals = sorted(originals, key=lambda sample: (-sample.length, sample.id))
        self._options, self._progress, self.log = options, progress, log
        device = torch.device(options.device)
        self.hooks = GradientHooks(model, device)
        self._verification = Verification(self.hooks, log)
        dtype = self.hooks.parameters[0].dtype
        self.profile = options.profile or profile_of(device, dtype, options.precision)
        free = least_free_bytes(devices_of(model), "most")
        self.memory_bytes = free if options.memory_bytes is None else options.memory_bytes
        most = max(self.profile.batch_tokens) if options.batch_tokens is None else options.batch_tokens
        self._verification.verify(self.originals, most)
        #: By id, the originals with labels that the model drew; empty until it has.
        self._drawn: dict[str, EncodedSample] = {}
        #: On what the hooks were verified.
        self.verified = self._verification.describe()
        self._batch_tokens = self._tokens_that_fit()

    def _tokens_that_fit(self) -> int:
        lengths = {sample.id: (sample.length, sum(batch_shape([sample]).labelled)) for sample in self.originals}
        memory = MemoryModel.of(measure(self.hooks), PassGraph(lengths, {}, {}), frozenset(), self.profile)
        return batch_tokens_within(memory, self.memory_bytes, self._options)

    def over(
        self, make: Callable[[], S], what: str, sampled: bool = False, among: Sequence[EncodedSample] | None = None
    ) -> S:
        """A statistic of the gradients of all originals, or of those `among` them; with `sampled`, of losses of labels that the
        model itself draws, once for all statistics.

        Raises:
            InputError: the device runs out of memory with one sample at a time.
        """
        while True:
            made: list[S] = []
            try:
                passing = self.originals if among is None else among
                done = fits_in_memory(partial(self._once, passing, make, what, sampled, made), self.hooks.device)
            except HooksChangedError:
                continue
            if done:
                return made[0]
            if not self._batch_tokens:
                raise InputError(
                    "the device ran out of memory with one sample at a time; use a device with more memory, or shorten the "
                    "longest samples."
                )
            tokens = self._batch_tokens // 2
            self._batch_tokens = tokens if tokens > LEAST_BATCH_TOKENS else 0
            self.log(f"out of memory: batches halved to {self._batch_tokens or 'one sample'}")

    def _once(
        self, passing: Sequence[EncodedSample], make: Callable[[], S], what: str, sampled: bool, made: list[S]
    ) -> None:
        """Adds a statistic to `made`, of samples whose lengths fall."""
        statistic = make()
        lengths = [sample.length for sample in passing]
        tokens = self._batch_tokens if self.hooks.batchable else 0
        parts = padded_batches(lengths, tokens, self.profile.batch_overhead_tokens)
        labelled = [self._drawn[one.id] for one in passing] if sampled and self._drawn else passing
        batches, drawing = [labelled[part] for part in parts], sampled and not self._drawn
        prepared = PaddedBatch.of(batches, self.hooks.device, drawing)

        def collect(number: int) -> torch.Tensor:
            statistic.begin(prepared[number].shape)
            losses = self.hooks.backward(prepared[number], statistic)
            statistic.finish()
            self._progress(statistic.samples, len(self.originals), what)
            return losses

        with matmul_precision(self._options.precision, self.hooks.device):
            collect_batches(self._verification, batches, collect)
        if drawing:
            drawn = (one for own, batch in zip(batches, prepared, strict=True) for one in labelled_as(own, batch))
            self._drawn = {one.id: one for one in drawn}
        made.append(statistic)
