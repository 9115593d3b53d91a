"""How long a plan takes on a device that was measured; plans are chosen by constants, and this tells what came of the choice."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from gradsim_assets.core.gradients.engine.planning.cost_model import (
    FLOP_PER_MULTIPLY_ADD,
    READS_PER_PAIR,
    preconditioning,
)
from gradsim_assets.core.gradients.engine.planning.memory_model import MemoryModel
from gradsim_assets.core.gradients.engine.planning.model_shape import ComponentShape, ModelShape
from gradsim_assets.core.gradients.engine.planning.pass_graph import Lengths, PassGraph, VariantKey, originals_of
from gradsim_assets.core.gradients.engine.planning.plan import Plan
from gradsim_assets.core.sample_gradients.calibration import FLOP_PER_PARAMETER, Calibration
from gradsim_assets.core.sample_gradients.device_profile import DeviceProfile, profile_of
from gradsim_assets.core.sample_gradients.held_gradients import PROJECTED_ROWS
from gradsim_assets.core.sample_gradients.projections import projected_dimension

#: FLOP of a matrix's parameter and token more where it is computed again on the way back.
AGAIN_FLOP = 2

#: How often a number is touched while it is projected: it and its place are read, and that is written.
TOUCHED = 3

#: Calls for a row of a component while it is projected.
CALLS_PER_ROW = 2

#: What is said of a prediction by the constants of `device_profile`.
BY_FIGURES = {"cpu": "by the figures of two server cores", "cuda": "by the figures of an H100"}


def by_figures(device_type: str) -> str:
    """What a prediction goes by where the device was not measured."""
    return f"{BY_FIGURES[device_type if device_type in BY_FIGURES else 'cpu']}; `gradsim doctor --measure` measures this device"


def predicted_seconds(plan: Plan, shape: ModelShape, graph: PassGraph, calibration: Calibration, device: str) -> float:
    """Seconds of all blocks of a plan: gradients, projections and products, without verifying, checking and planning."""
    profile = profile_of(device, shape.dtype, "tf32" if calibration.kind == "tf32" else "fp32")
    return _Prediction(plan, shape, graph, calibration, profile).seconds()


@dataclass(frozen=True)
class _Matrix:
    """A use of a matrix: the products of its parameters with the vectors of tokens."""

    size: int
    labelled: bool

    @property
    def width(self) -> float:
        """That of a square matrix of as many numbers."""
        return self.size**0.5


class _Prediction:
    """The parts that a plan's time is made of."""

    def __init__(
        self, plan: Plan, shape: ModelShape, graph: PassGraph, calibration: Calibration, profile: DeviceProfile
    ) -> None:
        self._plan, self._shape, self._graph, self._rates = plan, shape, graph, calibration
        self._memory = MemoryModel(shape, graph, plan.factored, profile, plan.preconditioners_kept)
        self._at = cache(calibration.at)
        self._matrices = list(_matrices(shape.components))
        #: Seconds of every batch, however small: a norm belongs to the matrices around it.
        typical = max(1.0, float(np.median([one.width for one in self._matrices] or [1.0])))
        self._calling = calibration.batch_seconds + self._at(typical).call_seconds * sum(
            max(1, len(one.factors)) for one in shape.components
        )
        components = enumerate(shape.components)
        projecting = self._memory.projected_numbers > 0
        self._formed = [one for number, one in components if projecting or number not in plan.factored]

    def seconds(self) -> float:
        """Of all blocks."""
        partners, on_host, total = originals_of(self._graph), set[str](), 0.0
        passed: Counter[VariantKey] = Counter()
        samples: list[Lengths] = []
        for block in self._plan.blocks:
            names = sorted({original for key in block for original in partners[key]})
            new = [name for name in names if name not in on_host]
            on_host |= self._plan.kept.intersection(names)
            variants = [self._graph.variants[setting][name] for setting, name in block]
            for lengths in (variants, [self._graph.originals[name] for name in new]):
                total += self._of_samples(sorted(lengths, reverse=True))
                samples += lengths
            passed.update(block)
        beside = self._of_preconditioning(samples) + self._of_transfers()
        return total + self._of_pairs(passed) + self._of_self_products() + beside

    def _of_samples(self, lengths: Sequence[Lengths]) -> float:
        """Of the gradients of samples, longest first, and of projecting them."""
        batches = [lengths[part] for part in self._plan.batches([tokens for tokens, _ in lengths])]
        each = sum(self._of_forming(own) for own in lengths)
        return sum(map(self._of_batch, batches)) + each + self._of_projecting(len(lengths))

    def _of_batch(self, batch: Sequence[Lengths]) -> float:
        """Of a padded batch's way through the model and back."""
        longest, labelled = batch[0][0], len(batch) * max(n for _, n in batch)
        tokens, beyond = len(batch) * longest, self._plan.checkpoint_beyond
        again = AGAIN_FLOP if beyond is not None and tokens > beyond else 0
        total = self._rates.logit_seconds * labelled * self._shape.vocabulary
        total += self._calling
        for matrix in self._matrices:
            rates, rows = self._at(matrix.width), labelled if matrix.labelled else tokens
            total += (FLOP_PER_PARAMETER + again) * matrix.size * rows / rates.pass_rate
            if not matrix.labelled:
                total += rates.attention_seconds * matrix.width * tokens * longest
        if frozen := self._shape.other_products:  # each counts forward and backward on its own
            total += FLOP_PER_MULTIPLY_ADD * frozen * tokens / self._at((frozen / 2) ** 0.5).pass_rate
        return total

    def _of_forming(self, lengths: Lengths) -> float:
        """Of forming those of a sample's gradients that are formed, and of reading them once for their lengths."""
        total = 0.0
        for component in self._formed:
            rate = self._at(component.size**0.5).forming_rate
            rows = [lengths[1] if one.labelled else lengths[0] for one in component.factors if one.left]
            total += sum(FLOP_PER_MULTIPLY_ADD * component.size * n / rate for n in rows)
            total += component.size * self._shape.number_bytes / self._rates.bytes_per_second
        return total

    def _of_projecting(self, samples: int) -> float:
        """Of projecting the gradients of so many samples."""
        seconds = calls = 0.0
        for proportion in self._graph.proportions:
            for component in self._shape.components:
                rows = -(-component.size // projected_dimension(component.size, proportion))
                calls += CALLS_PER_ROW * (rows if self._rates.host_bytes_per_second is None else 1)
                seconds += TOUCHED * component.size * self._shape.number_bytes / self._rates.bytes_per_second
        return samples * seconds + -(-samples // PROJECTED_ROWS) * calls * self._rates.launch_seconds

    def _of_preconditioning(self, lengths: Sequence[Lengths]) -> float:
        """Of preconditioning the gradients of samples."""
        flop, read = preconditioning(self._memory, sum(tokens for tokens, _ in lengths), len(lengths))
        largest = max(component.size for component in self._shape.components)
        return flop / self._at(largest**0.5).forming_rate + read / self._rates.bytes_per_second

    def _of_pairs(self, blocks: "Counter[VariantKey]") -> float:
        """Of the products of all pairs of the variants in the plan's blocks."""
        pairs = [
            (self._graph.variants[setting][variant], self._graph.originals[original])
            for setting, of_setting in self._graph.pairs.items()
            for variant, original in of_setting
            for _ in range(blocks[setting, variant])
        ]
        numbers = self._memory.formed_numbers + self._memory.projected_numbers
        reading = READS_PER_PAIR * len(pairs) * numbers * self._shape.number_bytes / self._rates.bytes_per_second
        return reading + self._of_factors(pairs)

    def _of_self_products(self) -> float:
        """Of products of every distinct sample's factors with themselves; formed gradients have theirs as they are made."""
        if self._memory.projected_numbers:
            return 0.0
        distinct = {("", name): own for name, own in self._graph.originals.items()}
        distinct |= {
            (s, name): own for s, of_setting in self._graph.variants.items() for name, own in of_setting.items()
        }
        return self._of_factors([(own, own) for own in distinct.values()])

    def _of_factors(self, pairs: Sequence[tuple[Lengths, Lengths]]) -> float:
        """Of products of pairs of samples, given by their lengths, in the components that are held as factors."""
        token_pairs = [float(sum(one[kind] * other[kind] for one, other in pairs)) for kind in (0, 1)]
        shared, total = set[int](), 0.0
        for number in sorted(self._plan.factored):
            for factors in self._shape.components[number].factors:
                width = factors.left + (0 if factors.group in shared else factors.right)
                shared.add(factors.group)
                rate = self._at(max(factors.left, factors.right)).product_rate
                total += FLOP_PER_MULTIPLY_ADD * width * token_pairs[factors.labelled] / rate
        return total

    def _of_transfers(self) -> float:
        """Of gradients that go to the host's memory or come from there."""
        rate = self._rates.host_bytes_per_second
        return self._plan.host_traffic / rate if rate else 0.0


def _matrices(components: Iterable[ComponentShape]) -> "list[_Matrix]":
    """Every use of a matrix of the model in a product."""
    found = []
    for one in components:
        if len(one.shape) < 2:
            continue
        uses = [_Matrix(one.size, factors.labelled) for factors in one.factors if factors.left]
        found += uses if one.factors else [_Matrix(one.size, labelled=False)]
    return found
