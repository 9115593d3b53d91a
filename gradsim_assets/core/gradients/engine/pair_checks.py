"""Results against plain autograd: products and projected cosines of a few pairs of every pass, recomputed."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from gradsim_assets.core.gradients.engine.pair_index import PairIndex
from gradsim_assets.core.gradients.engine.planning.pass_graph import VariantKey
from gradsim_assets.core.gradients.engine.recovery import fits_in_memory
from gradsim_assets.core.gradients.engine.request import ORIGINAL, CheckReport, PassOptions, PassRequest
from gradsim_assets.core.gradients.engine.results import Results
from gradsim_assets.core.gradients.engine.verification import ZERO, Verification
from gradsim_assets.core.models.encoded_sample import EncodedSample
from gradsim_assets.core.sample_gradients.precision import Arithmetic
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioner, Preconditioners
from gradsim_assets.core.sample_gradients.projected_gradients import cosines
from gradsim_assets.core.sample_gradients.projections import Projector, projected_by_entry
from gradsim_assets.core.sample_gradients.reference import NOISE_SLACK, PlainAutograd, noise_slack, norm
from gradsim_assets.core.sample_gradients.several_devices import gathered
from gradsim_assets.core.seeds import stable_seed

#: (setting, row of its output)
Row = tuple[str, int]

Pair = tuple[EncodedSample, EncodedSample]

#: From a component's number and its gradient to what a preconditioner makes of it (see `ComponentPreconditioner`).
Whiten = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class WrongPair:
    """A pair whose results differ from plain autograd's."""

    pair: Pair
    #: A sentence.
    what: str


class PairChecks:
    """Recomputes some rows of a pass by plain autograd."""

    def __init__(
        self,
        verification: Verification,
        index: PairIndex,
        request: PassRequest,
        projectors: Mapping[float, Sequence[Projector]],
        preconditioners: Preconditioners,
        arithmetic: Arithmetic,
        options: PassOptions,
    ) -> None:
        self._plain, self._names, self._note = verification.plain, verification.hooks.names, verification.note
        self._index, self._request, self._projectors = index, request, projectors
        self._preconditioners = preconditioners
        #: What the pass computes in, and what it is held against.
        self._arithmetic, self._strict = arithmetic, arithmetic.strict
        self.tolerance = options.tolerance or arithmetic.strict.tolerance
        self._count = options.check_pairs
        self._rows = self._in_order()

    def rows_of(
        self,
        block: Sequence[VariantKey],
        padding: Mapping[VariantKey, int] | None = None,
        fetched: Set[str] = frozenset(),
    ) -> list[Row]:
        """The rows of a block that are to be checked; `padding` (see `BlockGradients`) makes it the first of a pass.

        The first block brings the row whose samples stood beside the most padding. Then comes the longest pair, and others
        are drawn at random, the same in every run of a request. Of `fetched` originals the longest pair is added.
        """
        if padding is not None and self._count:
            first = self._most_padded(block, padding)
            self._rows = [first, *(row for row in self._rows if row != first)]
        held = set(block)
        rows = [row for row in self._rows[: self._count] if self._variant(row) in held]
        of_fetched = [
            (key[0], numbers[0])
            for key in block
            for other, numbers in self._index.rows[key].items()
            if other in fetched
        ]
        if self._count and of_fetched:
            rows.append(max(of_fetched, key=lambda row: (self._tokens(row), row)))
        return list(dict.fromkeys(rows))

    def _variant(self, row: Row) -> VariantKey:
        return row[0], self._request.pairs[row[0]][row[1]][0]

    def _in_order(self) -> list[Row]:
        """All rows: the longest pair, one of every other setting (what that alone wants is checked, too), the others."""
        rows = _shuffled(self._request)
        longest = max(rows, key=self._tokens, default=None)
        if longest is None:
            return []
        of_setting = {longest[0]: longest}
        for row in rows:
            of_setting.setdefault(row[0], row)
        return list(dict.fromkeys([longest, *of_setting.values(), *rows]))

    def _tokens(self, row: Row) -> int:
        return sum(sample.length for sample in self._index.pair(*row))

    def _most_padded(self, block: Sequence[VariantKey], padding: Mapping[VariantKey, int]) -> Row:
        def beside(key: VariantKey, original: str, row: int) -> tuple[int, int]:
            return padding.get(key, 0) + padding.get((ORIGINAL, original), 0), self._tokens((key[0], row))

        rows = [(key, other, numbers[0]) for key in block for other, numbers in self._index.rows[key].items()]
        key, _, number = max(rows, key=lambda one: beside(*one))
        return key[0], number

    def check(self, rows: Sequence[Row], results: Results) -> tuple[list[WrongPair], CheckReport]:
        """What is wrong in these rows, and what the checks found."""
        report = CheckReport()
        wrong: list[WrongPair] = []
        for row in rows:
            if row[0] in self._request.products:
                wrong += self._with_less_memory(self._check_products, row, results, report)
            for name in self._request.preconditioned.get(row[0], ()):
                wrong += self._with_less_memory(partial(self._check_preconditioned, name), row, results, report)
        for row in [row for row in rows if self._request.projections.get(row[0])][:1]:
            wrong += self._with_less_memory(self._check_projections, row, results, report)
        return wrong, report

    def _with_less_memory(
        self,
        check: Callable[[Row, Results, CheckReport], list[WrongPair]],
        row: Row,
        results: Results,
        report: CheckReport,
    ) -> list[WrongPair]:
        """What a check finds wrong, in the first of several ways that memory suffices for; nothing where it never does."""
        wrong: list[WrongPair] = []

        def look() -> None:
            wrong.extend(check(row, results, report))

        for make_room in (lambda: True, self._compute_activations_again, self._hold_against_own_arithmetic):
            if make_room() and fits_in_memory(look, self._plain.device):
                return wrong
        tokens = ", ".join(str(sample.length) for sample in self._index.pair(*row))
        self._note(
            f"memory does not suffice to recompute {self._named(row)} ({tokens} tokens), so that it is not checked"
        )
        return []

    def _compute_activations_again(self) -> bool:
        """Whether that is another way than before."""
        checkpointing = self._plain.checkpointing
        if not checkpointing.blocks or checkpointing.beyond == 0:
            return False
        checkpointing.beyond = 0
        return True

    def _hold_against_own_arithmetic(self) -> bool:
        """Whether that is another than before: of weights in half precision, copies in fp32 are done without."""
        if self._strict == self._arithmetic:
            return False
        self._strict = self._arithmetic
        self._note(
            f"results are held against {self._arithmetic} alone, which hides small errors: copies of the weights in fp32 "
            "need more memory than there is"
        )
        return True

    def _check_products(self, row: Row, results: Results, report: CheckReport) -> list[WrongPair]:
        pair, found = self._index.pair(*row), results.row(*row)
        exact = plain_products(self._plain, [pair], None, self._strict)[0]
        errors, doubtful, noisy = self._compared(pair, found, exact)
        report.pairs += 1
        if self._arithmetic == self._strict:
            report.noisy = sorted({*report.noisy, *(self._names[number] for number in noisy)})
            report.error = max(report.error, float(np.delete(errors, doubtful).max(initial=0.0)))
        else:  # every number is rounded beyond the tolerance, and that is what it costs
            report.error = max(report.error, float(errors[np.isfinite(errors)].max(initial=0.0)))
            _take_costs(found, exact, report)
        return self._wrong(row, errors, [number for number in doubtful if number not in noisy])

    def _check_preconditioned(self, name: str, row: Row, results: Results, report: CheckReport) -> list[WrongPair]:
        """As for plain products, with gradients that are whitened in float64 by what is stored of the preconditioner."""
        pair, found, whiten = (
            self._index.pair(*row),
            results.row(*row, name),
            self._whitening(self._preconditioners[name]),
        )
        exact = plain_products(self._plain, [pair], None, self._strict, whiten)[0]
        errors, doubtful, noisy = self._compared(pair, found, exact, whiten)
        report.preconditioned_pairs += 1
        report.noisy = sorted({*report.noisy, *(self._names[number] for number in noisy)})
        sound = np.delete(errors, doubtful) if self._arithmetic == self._strict else errors[np.isfinite(errors)]
        report.preconditioned_error = max(report.preconditioned_error, float(sound.max(initial=0.0)))
        return self._wrong(row, errors, [number for number in doubtful if number not in noisy], f"{name} ")

    def _whitening(self, preconditioner: Preconditioner) -> Whiten:
        def whiten(number: int, gradient: torch.Tensor) -> torch.Tensor:
            w = preconditioner.of(self._names[number]).to(gradient.device, torch.float64)
            return w.whiten(gradient[None].double())[0]

        return whiten

    def _compared(
        self, pair: Pair, found: np.ndarray, exact: np.ndarray, whiten: Whiten | None = None
    ) -> tuple[np.ndarray, list[int], set[int]]:
        """Errors [components], the components beyond the tolerance, and those of them that are noise."""
        errors = product_errors(found, exact).max(0)
        doubtful = np.flatnonzero(~(errors <= self.tolerance)).tolist()  # NaN is not right
        return errors, doubtful, self._noisy(pair, found, exact, doubtful, whiten)

    def _wrong(self, row: Row, errors: np.ndarray, wrong: Sequence[int], kind: str = "") -> list[WrongPair]:
        if not wrong:
            return []
        worst = max(wrong, key=lambda number: np.nan_to_num(errors[number], nan=np.inf))
        return [
            WrongPair(
                self._index.pair(*row),
                f"{self._named(row)}, {self._names[worst]}: the {kind}product differs from plain autograd by {errors[worst]:.1e} "
                f"of the gradients' lengths (tolerance {self.tolerance:.1e}), and {len(wrong) - 1} more components differ",
            )
        ]

    def _noisy(
        self,
        pair: Pair,
        found: np.ndarray,
        exact: np.ndarray,
        doubtful: Sequence[int],
        whiten: Whiten | None = None,
    ) -> set[int]:
        """The doubtful components whose products are no further off than rounding of plain autograd explains."""
        if self._arithmetic.dtype == torch.float64:
            full = ZERO**2 * exact[1:].sum(1)
            return {n for n in doubtful if (np.maximum(exact[1:, n], found[1:, n]) <= full).all()}
        noisy: set[int] = set()
        for group in self._plain.groups(doubtful, 2 * self._arithmetic.strict.dtype.itemsize):
            (one, own_one), (other, own_other) = (
                self._plain.rounding(sample, group, self._arithmetic) for sample in pair
            )
            for number, *gradients in zip(group, one, own_one, other, own_other, strict=True):
                if whiten is not None:
                    gradients = [whiten(number, gradient) for gradient in gradients]
                if self._explained(found[:, number], *gradients):
                    noisy.add(number)
        return noisy

    def _explained(
        self,
        found: np.ndarray,
        one: torch.Tensor,
        rounded_one: torch.Tensor,
        other: torch.Tensor,
        rounded_other: torch.Tensor,
    ) -> bool:
        """Whether products [3] of a component are no further off than gradients (1 + e) one and (1 + e') other explain."""
        of_one, of_other = (
            1 + noise_slack(exact) * _share(norm(rounded - exact), norm(exact))
            for exact, rounded in ((one, rounded_one), (other, rounded_other))
        )
        allowed = np.array([of_one * of_other, of_one**2, of_other**2]) - 1
        off = product_errors(found[:, None], _products(one, other).cpu().numpy()[:, None])[:, 0]
        return bool((off <= np.maximum(allowed, self.tolerance)).all())

    def _check_projections(self, row: Row, results: Results, report: CheckReport) -> list[WrongPair]:
        pair = self._index.pair(*row)
        proportions = list(self._request.projections[row[0]])
        found = cosines(np.stack([results.projected[row[0]][proportion][row[1]] for proportion in proportions]))
        chosen = [self._projectors[proportion] for proportion in proportions]
        exact = plain_projected_cosines(self._plain, pair, chosen, self._strict)
        error = float(np.abs(found - exact).max())
        report.projected_pairs += 1
        report.projected_error = max(report.projected_error, error)
        allowed = max(self.tolerance, NOISE_SLACK * sum(self._full_noise(sample) for sample in pair))
        if error <= allowed or (np.isnan(found) & np.isnan(exact)).all():
            return []
        return [
            WrongPair(
                pair,
                f"{self._named(row)}: the cosine of projected gradients differs by {error:.1e} from that of plain "
                f"autograd's gradients, projected number by number (tolerance {allowed:.1e})",
            )
        ]

    def _full_noise(self, sample: EncodedSample) -> float:
        """How far rounding moves a full gradient, as a share of its length; 0 in strict arithmetic."""
        if self._arithmetic == self._strict:
            return 0.0
        off = length = 0.0
        for group in self._plain.groups(range(len(self._names)), self._strict.dtype.itemsize):
            for exact, rounded in zip(*self._plain.rounding(sample, group, self._arithmetic), strict=True):
                off, length = off + norm(rounded - exact) ** 2, length + norm(exact) ** 2
        return (off / length) ** 0.5 if length else 0.0

    def _named(self, row: Row) -> str:
        return f"{row[0]}, pair {self._request.pairs[row[0]][row[1]]}"


def _shuffled(request: PassRequest) -> list[Row]:
    places = [(setting, row) for setting in request.settings for row in range(len(request.pairs[setting]))]
    order = np.random.default_rng(stable_seed("check", len(places))).permutation(len(places))
    return [places[place] for place in order]


def plain_products(
    plain: PlainAutograd,
    pairs: Sequence[Pair],
    numbers: Sequence[int] | None = None,
    arithmetic: Arithmetic | None = None,
    whiten: Whiten | None = None,
) -> np.ndarray:
    """Float64 [pairs, 3, components]: dot, first self and second self products, by batch-1 autograd in groups.

    `numbers` are the components, all by default. Products are those of what `whiten` makes of a component's gradient.
    """
    chosen = list(range(len(plain.parameters)) if numbers is None else numbers)
    places = {number: place for place, number in enumerate(chosen)}
    out = np.zeros((len(pairs), 3, len(chosen)))
    how = arithmetic or plain.arithmetic
    for group in plain.groups(chosen, how.dtype.itemsize):
        columns = [places[number] for number in group]
        for row, (one, other) in enumerate(pairs):
            first = plain.gradient(one, group, how)
            second = first if other is one else plain.gradient(other, group, how)
            if whiten is not None:
                first, second = ([whiten(n, g) for n, g in zip(group, own, strict=True)] for own in (first, second))
            products = [_products(a, b) for a, b in zip(first, second, strict=True)]
            out[row][:, columns] = gathered(products).cpu().numpy()  # one wait for the device
    return out


def plain_projected_cosines(
    plain: PlainAutograd, pair: Pair, projectors: Sequence[Sequence[Projector]], arithmetic: Arithmetic
) -> np.ndarray:
    """Float64 [proportions]: cosines of a pair's projected full gradients, whose numbers are projected one by one.

    `projectors` holds every component's, by proportion. One that cannot tell its matrix projects by itself.
    """
    terms = torch.zeros(3, len(projectors), dtype=torch.float64, device=plain.device)
    for group in plain.groups(range(len(plain.parameters)), arithmetic.dtype.itemsize):
        both = [plain.gradient(sample, group, arithmetic) for sample in pair]
        for number, one, other in zip(group, *both, strict=True):
            for place, of_components in enumerate(projectors):
                projector = of_components[number]
                products = _products(*(projected_by_entry(projector, x.reshape(-1)) for x in (one, other)))
                terms[:, place] += products.to(terms.device)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _cosine(terms.cpu().numpy())


def product_errors(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Float64 [3, components]: |found - exact| over the lengths of both gradients, for the three products of a pair."""
    one, other = exact[1], exact[2]
    return np.stack(
        [
            relative_error(f, e, *of)
            for f, e, of in zip(found, exact, ((one, other), (one, one), (other, other)), strict=True)
        ]
    )


def relative_error(found: np.ndarray, exact: np.ndarray, one_self: np.ndarray, other_self: np.ndarray) -> np.ndarray:
    """|found - exact| over the lengths of both gradients in the component; 0 where both are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(found - exact) / np.sqrt(one_self * other_self)
    return np.where(found == exact, 0.0, error)


def _products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Float64 [3] on the device: the dot product of two tensors, and those of each with itself."""
    return torch.stack([_dot(one, other), _dot(one, one), _dot(other, other)])


def _dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    # In float64 chunk by chunk: the reference must not round as the products under test do.
    chunks = zip(one.reshape(-1).split(2**22), other.reshape(-1).split(2**22), strict=True)
    return torch.stack([torch.dot(a.double(), b.double()) for a, b in chunks]).sum()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else (np.inf if part else 0.0)


def _take_costs(found: np.ndarray, exact: np.ndarray, report: CheckReport) -> None:
    """Differences of a pair's cosines [3, components] from those in fp32."""
    with np.errstate(invalid="ignore", divide="ignore"):
        components = np.abs(_cosine(found) - _cosine(exact))
    defined = components[np.isfinite(components)]
    report.cosine_cost = max(report.cosine_cost, float(abs(_cosine(found.sum(1)) - _cosine(exact.sum(1)))))
    if len(defined):
        report.component_cost = max(report.component_cost, float(np.median(defined)))
        report.largest_component_cost = max(report.largest_component_cost, float(defined.max()))


def _cosine(terms: np.ndarray) -> np.ndarray:
    cosine: np.ndarray = terms[0] / np.sqrt(terms[1] * terms[2])
    return cosine
