"""Hooks against plain autograd: every component's gradient of real samples, before any number of a pass is trusted."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine.recovery import fits_in_memory
from gradsim_assets.core.memory import ran_out
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.factors import Factors
from gradsim_assets.core.sample_gradients.gradient_hooks import GradientHooks
from gradsim_assets.core.sample_gradients.layers import ParameterUse, UnbatchableError
from gradsim_assets.core.sample_gradients.padded_batch import PaddedBatch
from gradsim_assets.core.sample_gradients.precision import Arithmetic, matmul_precision
from gradsim_assets.core.sample_gradients.quantised_linear import how_quantised, quantised_layers
from gradsim_assets.core.sample_gradients.reference import Take, length, noise_slack, norm
from gradsim_assets.core.sample_gradients.several_devices import gathered

#: Tokens of the samples that hooks are verified on: this share of all tokens of a pass, or so many where that is less.
VERIFIED_SHARE, VERIFIED_TOKENS = 0.01, 128

#: How far a gradient in strict fp32 may be from that of float64 over the dequantised weights of a quantised base, as share of its
#: length.
DEQUANTISED = 1e-3

#: The share of a float64 gradient's length at which a component is zero but for rounding.
ZERO = 1e-12


class Collected:
    """A sink that keeps the gradients of a batch."""

    def __init__(self, hooks: GradientHooks) -> None:
        self._shapes, self._dtype, self._devices = hooks.shapes, hooks.dtype, hooks.devices
        #: By component; of every sample.
        self._summands: dict[int, list[Factors | torch.Tensor]] = {}

    def factors(self, use: ParameterUse, factors: Factors) -> None:
        """Takes a summand as factors (see `Sink`)."""
        self._summands.setdefault(use.components["weight"], []).append(factors)

    def formed(self, component: int, gradients: torch.Tensor, rows: torch.Tensor | None = None) -> None:
        """Takes a formed summand (see `Sink`)."""
        self._summands.setdefault(component, []).append(gradients)

    @property
    def components(self) -> set[int]:
        """The components that any gradients came of."""
        return set(self._summands)

    def error(self, component: int, sample: int, exact: torch.Tensor) -> torch.Tensor:
        """The length of the difference to the `exact` gradient, on the device; infinite if there can be none of its shape."""
        try:
            return length(self.gradient(component, sample) - exact)
        except RuntimeError as error:
            if ran_out(error):
                raise
            return torch.tensor(math.inf, dtype=torch.float64, device=exact.device)

    def gradient(self, component: int, sample: int) -> torch.Tensor:
        """A component's gradient, formed; zero if there was no summand."""
        out = torch.zeros(1, *self._shapes[component], dtype=self._dtype, device=self._devices[component])
        for summand in self._summands.get(component, []):
            if isinstance(summand, Factors):
                summand.of_sample(sample).add_to(out, fresh=False)
            else:
                out.add_(summand[sample : sample + 1])
        return out[0]


class Verification:
    """Compares what hooks collect with plain autograd, and takes in a more general way what does not stand it.

    A module may use its weights in a way that its looks do not tell, so nothing is taken on trust. Errors are relative
    to the component's own length in the sample. Half precision is verified on fp32 copies of the weights. `note` hears
    what turned out otherwise than looks promised.
    """

    def __init__(self, hooks: GradientHooks, note: Callable[[str], None]) -> None:
        self.hooks, self.plain, self.note = hooks, hooks.plain, note
        #: Components that are noise in plain autograd itself, beyond the tolerance.
        self.noisy: set[int] = set()
        #: Lengths of the samples that gradients were compared on.
        self.lengths: list[int] = []
        #: The largest error of what is not noise.
        self.largest = 0.0
        #: Components that a gradient other than zero was seen of.
        self._reached: set[int] = set()
        #: Whether the last batch had other losses than plain autograd gives, or went through with an error.
        self._loss_differs = False
        #: Whether gradients were seen to be right with activations that were computed again.
        self._stands_checkpointing = False
        #: Of a quantised base: the largest error of a component against float64 over its dequantised weights, as share of its
        #: length; None where the base is not, or where memory does not suffice for it.
        self.dequantised_error: float | None = None
        #: What errors are held against.
        self.tolerance = self.plain.arithmetic.strict.tolerance

    def verify(self, samples: Sequence[EncodedSample], batch_tokens: int) -> None:
        """Makes sure that hooks collect right gradients, and whether samples can go through in batches of so many tokens.

        Raises:
            ArithmeticError: gradients differ even where autograd forms them.
            InputError: what the model has read before decides a sample's numbers.
        """
        with self._exactly():
            self._refuse_memories(samples)
            while wrong := self._wrong_among(samples_to_verify(samples)):
                self._generalise(wrong)
            # What no sample reaches, a part that sees images say, may be left to autograd and samples go in batches.
            self.hooks.batchable = not self.hooks.batches_forbidden and not self.hooks.by_autograd & self._reached
            tokens = batch_tokens
            while self.hooks.batchable and (ragged := ragged_batch(samples, tokens)):
                if fits_in_memory(partial(self._try_batch, ragged), self.plain.device):
                    break
                tokens //= 2
        if quantised_layers(self.hooks.model):
            self._hold_against_dequantised(min(samples, key=lambda sample: sample.length))

    def _hold_against_dequantised(self, sample: EncodedSample) -> None:
        """Measures what a sample's gradients, as they are taken in the pass, are off from those of float64 throughout.

        Widened weights are those that the bits stand for, so that it is the dequantised base in float64, at the memory of what is
        not quantised.
        """
        collected, double = Collected(self.hooks), Arithmetic(torch.float64)
        with self.hooks.open(), matmul_precision("fp32", self.plain.device):
            self.hooks.backward(PaddedBatch.of([[sample]], self.hooks.device)[0], collected, proving=True)
        sizes: list[torch.Tensor] = []

        def take(number: int, exact: torch.Tensor) -> None:
            sizes.append(torch.stack([length(exact), collected.error(number, 0, exact)]))

        try:
            self.plain.each(sample, take, arithmetic=double)
        except MemoryError as error:
            self.note(f"gradients are not held against float64 over the dequantised base: {error}")
            return
        lengths, off = gathered(sizes)
        seen = lengths > ZERO * torch.linalg.vector_norm(lengths)
        self.dequantised_error = float((off[seen] / lengths[seen]).max()) if bool(seen.any()) else 0.0
        if self.plain.arithmetic == self.plain.arithmetic.strict and not self.dequantised_error <= DEQUANTISED:
            raise ArithmeticError(
                f"{sample.id}: gradients over the quantised base are off from those of float64 over its dequantised weights by "
                f"{self.dequantised_error:.0e} of their length, and {DEQUANTISED:.0e} are allowed"
            )

    def _refuse_memories(self, samples: Sequence[EncodedSample]) -> None:
        """Raises InputError where the shortest sample's loss is another one when the longest has been read before."""
        ordered = sorted(samples, key=lambda sample: sample.length)

        losses: list[float] = []

        def read(sample: EncodedSample) -> None:
            losses.append(self._differentiated(sample, lambda number, gradient: None, ()))
            self.plain.state.observe()

        read(ordered[0])
        if not fits_in_memory(partial(read, ordered[-1]), self.plain.device):
            return
        read(ordered[0])
        before, after = losses[0], losses[-1]
        if math.isfinite(before) and not math.isclose(before, after, rel_tol=self.tolerance, abs_tol=self.tolerance):
            raise InputError(
                f"{ordered[0].id} has a loss of {before:.6g} at first and of {after:.6g} after another sample: the model keeps "
                "something of what it has read where it cannot be put back; keep it in buffers or plain attributes of modules, "
                "or choose another model."
            )

    def forbid_batches(self) -> None:
        """Has samples go through one by one."""
        self.hooks.forbid_batches()
        self.note("samples in a batch give other numbers than alone, so they go through one by one")

    def leave_to_autograd(self, components: set[int]) -> None:
        """Takes by autograd what is used outside of its layers."""
        self.hooks.demote(components)
        named = ", ".join(self.hooks.names[number] for number in sorted(components)[:3])
        more = ", .." if len(components) > 3 else ""
        self.note(
            f"{len(components)} weights are used outside of their layers, too ({named}{more}); taken by autograd instead"
        )

    def cover(self, samples: Sequence[EncodedSample], components: set[int]) -> bool:
        """Verifies components that these samples are the first to reach; False where that changed how they are taken."""
        with self._exactly():
            wrong: set[int] = set()
            self._loss_differs = False
            for sample in sorted(samples, key=lambda one: one.length):
                if components & self.hooks.unproven:
                    wrong |= self._wrong([sample])
            wrong |= components & self.hooks.unproven
            if wrong:
                self._generalise(wrong)
        return not wrong

    def stands_checkpointing(self, samples: Sequence[EncodedSample]) -> bool:
        """Whether gradients are right where activations are computed again; where not, they are kept from now on."""
        checkpointing = self.plain.checkpointing
        if checkpointing.blocks and not self._stands_checkpointing:
            with self._exactly():
                self._stands_checkpointing = self._try_checkpointing(samples_to_verify(samples)[::-1])
            if not self._stands_checkpointing:
                checkpointing.forbid()
                self.note("no block was seen to give the same gradients once more, so that all activations are kept")
        return bool(checkpointing.blocks)

    def _try_checkpointing(self, samples: Sequence[EncodedSample]) -> bool:
        """Whether the first of these samples that memory suffices for has right gradients that way."""
        wrong: list[bool] = []

        def look(sample: EncodedSample) -> None:
            try:
                wrong.append(bool(self._wrong([sample], self.plain.checkpointing.always)))
            except Exception as error:  # modules that do not stand it fail in ways of their own
                if ran_out(error):
                    raise
                wrong.append(True)

        return any(fits_in_memory(partial(look, sample), self.plain.device) for sample in samples) and not wrong[0]

    def compare(self, sample: EncodedSample) -> bool:
        """Whether a sample's gradients are right; what is wrong is taken in a more general way."""
        with self._exactly():
            self._loss_differs = False
            wrong = self._wrong([sample])
            if wrong:
                self._generalise(wrong)
        return not wrong

    def _wrong_among(self, samples: Sequence[EncodedSample]) -> set[int]:
        wrong: set[int] = set()
        self.lengths, self._loss_differs = [], False

        def compare(sample: EncodedSample) -> None:
            wrong.update(self._wrong([sample]))
            self.lengths.append(sample.length)

        for sample in samples:
            if not fits_in_memory(partial(compare, sample), self.plain.device):
                self.note(f"memory does not suffice to verify a sample of {sample.length} tokens")
        return wrong

    def _generalise(self, wrong: set[int]) -> None:
        """The next more general way of getting the gradients of some components."""
        named = ", ".join(self.hooks.names[number] for number in sorted(wrong)[:3]) + (", .." if len(wrong) > 3 else "")
        closed = wrong - self.hooks.by_autograd
        if self.hooks.head is not None and (self._loss_differs or not closed):
            self.hooks.forget_head()
            self.note("the head is more than a layer over each token's hidden state; logits are made of all tokens")
        elif closed:
            self.hooks.demote(closed)
            self.note(f"{len(closed)} components have no closed form that holds ({named}); taken by autograd instead")
        else:
            raise ArithmeticError(
                f"{len(wrong)} components ({named}) have other gradients than plain autograd gives, beyond "
                f"{self.tolerance:.0e} of their lengths, however they are taken; is the model deterministic?"
            )

    def describe(self) -> str:
        """One sentence for the log and the metadata."""
        hooks = self.hooks
        lengths = ", ".join(map(str, sorted(self.lengths)))
        unknown = f"; {self.plain.without_wider}" if self.plain.without_wider else ""
        if self.dequantised_error is not None:
            unknown += (
                f"; base in {how_quantised(hooks.model)}: largest error {self.dequantised_error:.0e} against float64 over its dequantised "
                "weights"
            )
        return (
            f"gradients of {len(hooks.names)} components compared with plain autograd on samples of {lengths} tokens: "
            f"largest error {self.largest:.0e} of a component's own length; {len(hooks.by_autograd)} taken by autograd, "
            f"{len(hooks.unproven)} not reached yet; samples go through {'in batches' if hooks.batchable else 'one by one'}"
            f"{unknown}"
        )

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """At least fp32 for weights of fewer bits, where memory allows."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self.plain.widened(self.plain.arithmetic.strict.dtype))
            except MemoryError as error:
                self.note(
                    f"hooks are verified in {self.plain.arithmetic} alone, which hides their small errors: {error}"
                )
            yield

    def _try_batch(self, ragged: Sequence[EncodedSample]) -> None:
        try:
            holds = not self._wrong(ragged)
        except UnbatchableError:
            holds = False
        except Exception as error:  # modules that know no batches fail in ways of their own
            if ran_out(error):
                raise
            holds = False
        if not holds:
            self.forbid_batches()

    def _wrong(
        self, batch: Sequence[EncodedSample], how: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> set[int]:
        """Components that hooks get wrong for some sample of a batch; all others that it reaches are proven.

        `how` is around what hooks collect, not around what that is compared with.
        """
        collected = Collected(self.hooks)
        try:
            with self.hooks.open(), matmul_precision("fp32", self.plain.device), how():
                padded = PaddedBatch.of([batch], self.hooks.device)[0]
                losses = self.hooks.backward(padded, collected, proving=True).tolist()
        except Exception as error:
            if len(batch) > 1 or ran_out(error) or not self._may_generalise():
                raise
            self._loss_differs = True
            return set(range(len(self.hooks.names)))
        wrong: set[int] = set()
        longest = max(self.lengths, default=math.inf)
        for position, (sample, loss) in enumerate(zip(batch, losses, strict=True)):
            if len(batch) == 1 or sample.length <= longest:
                wrong |= self._wrong_in(sample, loss, collected, position)
        self.plain.state.observe()
        return wrong

    def _may_generalise(self) -> bool:
        return self.hooks.head is not None or len(self.hooks.by_autograd) < len(self.hooks.names)

    def _wrong_in(self, sample: EncodedSample, loss: float, collected: Collected, position: int) -> set[int]:
        numbers: list[int] = []
        on_device: list[torch.Tensor] = []

        def take(number: int, exact: torch.Tensor) -> None:
            numbers.append(number)
            on_device.append(torch.stack([length(exact), collected.error(number, position, exact)]))

        exact_loss = self._differentiated(sample, take)
        for number in collected.components - set(numbers):
            take(number, torch.zeros_like(self.hooks.parameters[number]))
        lengths, off = self._fetched(sample, numbers, on_device)
        errors = {n: off[n] / lengths[n] if lengths[n] else (math.inf if off[n] else 0.0) for n in numbers}
        reached = {number for number in numbers if lengths[number]}
        self._reached |= reached
        doubtful = {number for number, error in errors.items() if not error <= self.tolerance}  # NaN is not right
        if self.plain.arithmetic.dtype == torch.float64:
            zero = ZERO * math.hypot(*lengths.values())
            noisy = {n for n in doubtful if max(lengths[n], errors[n] * lengths[n]) <= zero}
        else:
            noisy = self._noisy(sample, doubtful, collected, position)
        wrong = doubtful - noisy
        if not math.isclose(loss, exact_loss, rel_tol=10 * self.tolerance, abs_tol=10 * self.tolerance):
            self._loss_differs = True
            wrong |= reached
        self.noisy |= noisy
        self.largest = max([self.largest, *(e for number, e in errors.items() if number not in doubtful)])
        self.hooks.unproven -= reached - wrong
        return wrong

    def _fetched(
        self, sample: EncodedSample, numbers: Sequence[int], on_device: Sequence[torch.Tensor]
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Lengths of exact gradients, and of what they differ by, of the components `numbers`: one wait for the device."""
        lengths, off = gathered(on_device).tolist() if numbers else ([], [])
        for number, one in zip(numbers, lengths, strict=True):
            if not math.isfinite(one):
                raise ArithmeticError(
                    f"{sample.id}, {self.hooks.names[number]}: the gradient is no finite number; are the model's weights?"
                )
        return dict(zip(numbers, lengths, strict=True)), dict(zip(numbers, off, strict=True))

    def _differentiated(self, sample: EncodedSample, take: Take, numbers: Sequence[int] | None = None) -> float:
        try:
            return self.plain.each(sample, take, numbers)
        except Exception as error:
            if ran_out(error) or isinstance(error, ArithmeticError):
                raise
            raise InputError(
                f"{sample.id}: the model cannot be differentiated from token ids alone, in evaluation mode "
                f"({str(error).partition(chr(10))[0]}); choose a causal language model that can."
            ) from error

    def _noisy(self, sample: EncodedSample, doubtful: set[int], collected: Collected, position: int) -> set[int]:
        """The doubtful components that plain autograd itself rounds about as far off."""
        noisy: set[int] = set()
        own = self.plain.arithmetic
        for group in self.plain.groups(sorted(doubtful), 2 * own.strict.dtype.itemsize):
            for number, exact, rounded in zip(group, *self.plain.rounding(sample, group, own), strict=True):
                off = float(collected.error(number, position, exact))
                if off <= max(noise_slack(exact) * norm(rounded - exact), self.tolerance * norm(exact)):
                    noisy.add(number)
        return noisy


def samples_to_verify(samples: Sequence[EncodedSample]) -> list[EncodedSample]:
    """The shortest sample, one of about the middle length, and the longest that a small share of all tokens allows."""
    ordered = sorted(samples, key=lambda sample: sample.length)
    left = max(VERIFIED_TOKENS, int(VERIFIED_SHARE * sum(sample.length for sample in ordered)))
    chosen = [ordered[0]]
    for last, share in ((len(ordered) // 2, 0.25), (len(ordered) - 1, 1.0)):
        fitting = [sample for sample in ordered[1 : last + 1] if sample.length <= share * left]
        if fitting and not any(fitting[-1] is sample for sample in chosen):
            chosen.append(fitting[-1])
            left -= fitting[-1].length
    return chosen


def ragged_batch(samples: Sequence[EncodedSample], batch_tokens: int) -> list[EncodedSample]:
    """The batch of the pass that is padded most: the shortest sample beside the longest that does not go alone."""
    ordered = sorted(samples, key=lambda sample: sample.length)
    fitting = [sample for sample in ordered[1:] if 2 * sample.length <= batch_tokens]
    if not fitting:
        return []
    # Not as many samples as tokens: a layout with the two turned around must not look the same.
    return [fitting[-1], ordered[0]] if fitting[-1].length != 2 else [fitting[-1], ordered[0], ordered[0]]
