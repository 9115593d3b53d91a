"""One small pass over an architecture, in every way of holding gradients, against float64 by a fresh model per sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import GradientPass, PassOptions, PassRequest, PassResult
from gradsim_assets.core.models.checkpoints import check_forward
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.projections import make_projector, projected_by_entry
from gradsim_assets_tests.support.architectures import VOCABULARY

Build = Callable[[], torch.nn.Module]

#: Tokens of each original, and how many of the last are labelled: within a window and beyond it, and on both sides of the
#: length at which rotary embeddings of a stretched context change.
LENGTHS = ((9, 4), (14, 6), (21, 5), (30, 9), (36, 12), (50, 20))
SETTING, PROPORTION = "paraphrased", 0.05

#: What is promised, and by how many times plain fp32's own rounding another way of summing may be off. Of components with
#: few numbers it is more, for either may come out right by chance.
PROMISED, SLACK, FEW = 1e-5, 10, 16

#: Of a float64 gradient's length: what is zero but for rounding. Of a full gradient's: what rounding of fp32 makes of zero.
ZERO, FP32 = 1e-12, 1e-6

#: Of the loss, at which all sums are rounded otherwise: that shows rounding where there is no float64.
OTHER_SCALE = 1.1

#: How gradients are held: the options and whether projections are wanted, which are made of every gradient as it is formed.
WAYS = {"formed": ("formed", False), "factored": ("factored", False), "projected": ("auto", True)}

BATCHED, ALONE, REFUSED = "closed form, in batches", "exact, one by one", "refused"


@dataclass(frozen=True)
class Outcome:
    """What the engine makes of an architecture."""

    #: BATCHED, ALONE or REFUSED.
    what: str
    #: The sentence of a refusal.
    sentence: str = ""


def outcome(name: str, build: Build) -> Outcome:
    """What the engine makes of an architecture; asserts that no number of it is wrong."""
    request = sweep_request()
    try:
        model = build()
        check_forward(name, model)
        passes = {way: _passed(build, request, *options) for way, options in WAYS.items()}
    except InputError as error:
        return Outcome(REFUSED, str(error).replace(f"{name} ", "", 1))
    exact = Exact(build, request)
    for way, (_, result) in passes.items():
        for row in range(len(request.pairs[SETTING])):
            exact.check_products(f"{name}, {way}", result, row)
    for row in range(len(request.pairs[SETTING])):
        exact.check_projection(name, passes["projected"][1], row)
    in_batches = {work.plan is not None and work.plan.batch_tokens > 0 for work, _ in passes.values()}
    assert len(in_batches) == 1
    return Outcome(BATCHED if in_batches.pop() else ALONE)


def sweep_request() -> PassRequest:
    """Every variant with every original."""
    random = np.random.default_rng(0)
    originals = [_sample(random, f"lima_{i}", n, k) for i, (n, k) in enumerate(LENGTHS)]
    variants = [_sample(random, f"lima_{i}", n + i % 3 - 1, k) for i, (n, k) in enumerate(LENGTHS)]
    pairs = [(variant.id, original.id) for variant in variants for original in originals]
    return PassRequest(originals, {SETTING: variants}, {SETTING: pairs}, frozenset({SETTING}))


def _sample(random: np.random.Generator, name: str, tokens: int, labelled: int) -> EncodedSample:
    ids = random.integers(4, VOCABULARY - 4, tokens)
    return EncodedSample(name, ids, np.where(np.arange(tokens) < tokens - labelled, IGNORED, ids))


def _passed(build: Build, request: PassRequest, form: str, projected: bool) -> tuple[GradientPass, PassResult]:
    wanted = replace(request, projections={SETTING: (PROPORTION,)} if projected else {})
    work = GradientPass(build(), wanted, PassOptions(form=form))  # type: ignore[arg-type]
    return work, work.run()


class Exact:
    """The gradients of a request by plain autograd, every sample by a model that has seen nothing else."""

    def __init__(self, build: Build, request: PassRequest) -> None:
        self._request, (named, self._dtype) = request, _components(build)
        self.names, self._sizes = list(named), np.array([p.numel() for p in named.values()])
        samples = [("variant", s) for s in request.variants[SETTING]] + [("original", s) for s in request.originals]
        #: By side and id: the gradients, their lengths, and how far rounding may move another way of taking them.
        self._gradients: dict[tuple[str, str], list[torch.Tensor]] = {}
        self._lengths: dict[tuple[str, str], np.ndarray] = {}
        self._rounding: dict[tuple[str, str], np.ndarray] = {}
        slack = SLACK * np.maximum(1, FEW / self._sizes)
        for side, sample in samples:
            exact = gradients(build, sample, self._dtype)
            rounded = gradients(build, sample, torch.float32, OTHER_SCALE if self._dtype == torch.float32 else 1.0)
            lengths = _lengths(exact)
            off = slack * _lengths([a - b for a, b in zip(exact, rounded, strict=True)])
            full = float(np.linalg.norm(lengths))
            self._gradients[side, sample.id], self._lengths[side, sample.id] = exact, lengths
            # What is zero by the model's own algebra is rounding alone, of numbers about as large as the others.
            self._rounding[side, sample.id] = np.where(lengths > ZERO * full, off, np.maximum(off, FP32 * full))

    def check_products(self, what: str, result: PassResult, row: int) -> None:
        """Asserts that a pair's products are right to what is promised, or to what rounding of plain fp32 explains."""
        assert result.components == self.names
        variant, original = self._request.pairs[SETTING][row]
        one, other = ("variant", variant), ("original", original)
        for term, of_result, a, b in (
            ("dot product", result.dot_products, one, other),
            ("variant's self product", result.variant_self, one, one),
            ("original's self product", result.original_self, other, other),
        ):
            found = of_result[SETTING][row]
            exact = np.array([float(x @ y) for x, y in zip(self._gradients[a], self._gradients[b], strict=True)])
            length = self._lengths[a] * self._lengths[b]
            rounded = (self._lengths[a] + self._rounding[a]) * (self._lengths[b] + self._rounding[b]) - length
            wrong = np.flatnonzero(~(np.abs(found - exact) <= np.maximum(PROMISED * length, rounded)))
            assert not len(wrong), (
                f"{what}, {variant} and {original}: the {term} of {[self.names[n] for n in wrong[:5]]} is "
                f"{found[wrong[:5]]} and should be {exact[wrong[:5]]}"
            )

    def check_projection(self, what: str, result: PassResult, row: int) -> None:
        """Asserts that a pair's cosine of projected gradients is right."""
        variant, original = self._request.pairs[SETTING][row]
        pair = self._gradients["variant", variant], self._gradients["original", original]
        terms = np.zeros(3)
        for name, size, *both in zip(self.names, self._sizes.tolist(), *pair, strict=True):
            projector = make_projector(name, size, PROPORTION, 0, "fast", "unbiased", "cpu")
            one, other = (projected_by_entry(projector, gradient) for gradient in both)
            terms += [float(one @ other), float(one @ one), float(other @ other)]
        exact = terms[0] / np.sqrt(terms[1] * terms[2])
        found = result.projected[SETTING][PROPORTION][row]
        assert abs(found - exact) <= PROMISED, f"{what}, {variant} and {original}: {found} instead of {exact}"


def _components(build: Build) -> tuple[dict[str, torch.nn.Parameter], torch.dtype]:
    """The trainable parameters of an architecture, and the widest dtype that it can compute in."""
    model = build()
    named = dict(trainable_components(model))
    ids = torch.arange(4, 12)[None]
    try:
        model.double()(input_ids=ids, use_cache=False).logits.sum().backward()
    except RuntimeError:  # some make tensors of fp32 on the way, or constants that float64 cannot hold
        return named, torch.float32
    return named, torch.float64


def gradients(build: Build, sample: EncodedSample, dtype: torch.dtype, scale: float = 1.0) -> list[torch.Tensor]:
    """Float64 gradients, flat, of the loss as it is defined, by a model that has seen nothing else.

    They are taken of `scale` times the loss, and divided by it.
    """
    model = build().to(dtype).eval()
    logits = model(input_ids=torch.from_numpy(sample.input_ids)[None], use_cache=False).logits[0]
    labels = torch.from_numpy(sample.labels)
    loss = F.cross_entropy(logits[:-1].to(dtype), labels[1:], ignore_index=IGNORED)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(scale * loss, parameters, allow_unused=True)
    return [
        torch.zeros(parameter.numel(), dtype=torch.float64)
        if gradient is None
        else gradient.double().reshape(-1) / scale
        for gradient, parameter in zip(found, parameters, strict=True)
    ]


def _lengths(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.array([float(tensor.norm()) for tensor in tensors])
