"""Which originals a text goes back to: every one of them ranked by its gradient's similarity to the text's, down to the token."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
import polars as pl
import torch

from gradsim_assets.core.components import FAMILIES, component_type, family
from gradsim_assets.core.datasets.generation.answers import generate_answers
from gradsim_assets.core.datasets.text_overlap import overlaps
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassRequest, PassResult
from gradsim_assets.core.gradients.pass_inputs import pass_inputs
from gradsim_assets.core.models.encoded_sample import IGNORED, EncodedSample
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.token_texts import token_texts
from gradsim_assets.core.models.tokenization import ContextPolicy, encode_samples
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.precision import wide
from gradsim_assets.core.sample_gradients.preconditioning import Preconditioner
from gradsim_assets.core.sample_gradients.reference import PlainAutograd
from gradsim_assets.core.sample_gradients.several_devices import gathered
from gradsim_assets.core.sample_gradients.token_contributions import token_contributions
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.similarity.pair_products import cosine
from gradsim_assets.core.tables.schemas import TRACE_TOKENS, TRACES
from gradsim_assets.core.tracing.held_originals import HeldOriginals, Terms
from gradsim_assets.core.tracing.known_originals import KnownOriginals
from gradsim_assets.core.tracing.query import TRACED, TextError

#: Methods that need no preconditioner; anything else is the name of one, or a pattern of components.
COSINE, DOT_PRODUCT = "cosine", "dot_product"

#: How far the sum over tokens may be from the product, in lengths of both gradients: what is beyond it is no rounding.
_TOLERANCE = 1e-5

#: Runs a request; the results are there inside the context.
Run = Callable[[PassRequest], AbstractContextManager[PassResult]]


@dataclass(frozen=True)
class Method:
    """What originals are ranked by: the cosine or the product of gradients, under a preconditioner, or of some components."""

    name: str
    preconditioner: str | None = None
    #: Patterns of the names of components, as shells match them; none: all.
    components: tuple[str, ...] = ()

    def takes(self, component: str) -> bool:
        """Whether the gradients of a component count."""
        return not self.components or any(fnmatchcase(component, pattern) for pattern in self.components)

    @classmethod
    def of(cls, name: str, preconditioners: Sequence[str]) -> "Method":
        """The method of that name: "cosine", "dot_product", a preconditioner that is configured, or patterns of components with
        commas between them.

        Raises:
            InputError: it is none of these.
        """
        if name in (COSINE, DOT_PRODUCT):
            return cls(name)
        if name in preconditioners:
            return cls(name, preconditioner=name)
        if any(character in name for character in "*?[."):
            return cls(name, components=tuple(filter(None, map(str.strip, name.split(",")))))
        known = ", ".join((COSINE, DOT_PRODUCT, *preconditioners))
        raise InputError(
            f"there is no method {name}; give one of {known}, or patterns of components such as '*.mlp.*' or "
            "'*.q_proj.*,*.k_proj.*' (a preconditioner must be in [preconditioners] methods of gradsim.toml)."
        )


def digest(query: Sample, *what: object) -> str:
    """The same for the same text and all else that a trace is made from: 16 hex digits."""
    document = json.dumps([query.user, query.assistant, *map(str, what)], ensure_ascii=False)
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def answered(query: Sample, loaded: LoadedModel) -> Sample:
    """The query with the model's own greedy answer.

    Raises:
        TextError: the prompt leaves no room for an answer, or the model ends its answer at once.
    """
    try:
        (own,) = generate_answers(
            loaded.model,
            loaded.tokenizer,
            [query],
            max_positions=loaded.generation_positions,
            device=loaded.device,
            batch_size=1,
        )
    except InputError as error:
        raise TextError(str(error)) from error
    if not own.answer.strip():
        raise TextError("the model ends its answer to this prompt at once; give an answer to be traced.")
    return Sample(query.id, query.user, own.answer)


def originals_of(
    query: Sample,
    originals: KnownOriginals,
    loaded: LoadedModel,
    run: Run,
    method: Method,
    *,
    policy: ContextPolicy,
    preconditioner: Preconditioner | None = None,
    split: int = 5,
    held: HeldOriginals | None = None,
    among: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables `traces` and `trace_tokens` of a text, against the originals with the ids `among` them, or all; tokens of
    the best `split`.

    `preconditioner` is the method's, where it has one. Ranks of BM25 are among all originals. Where the originals' gradients are
    `held` nothing is run but the text.

    Raises:
        TextError: the text is longer than the model's context.
        InputError: no component is of one of the method's patterns, or as `pass_inputs`.
    """
    traced = _encoded(query, loaded, policy)
    if held is None:
        compared = _passed(query, originals.frame, loaded, run, method, policy, among)
    else:
        compared = _held(traced, loaded, held, preconditioner, among)
    similarities = _similarities(compared.components, compared.terms, _chosen(compared.components, method), method)
    ranked = _ranked(query, originals, [one.id for one in compared.originals], similarities)
    best = ranked["original_id"].head(split).to_list()
    by_id = {sample.id: sample for sample in compared.originals}
    splitting = _Splitting(loaded, method, preconditioner, held)
    tokens, shares = _split(traced, [by_id[name] for name in best], splitting)
    return TRACES.enforce(ranked.join(shares, on="original_id", how="left", maintain_order="left")), tokens


@dataclass(frozen=True)
class _Compared:
    """A text beside originals: the products of every pair."""

    originals: Sequence[EncodedSample]
    components: Sequence[str]
    #: <v, o>, <v, v> and <o, o> of every original and component: float64 [N, C] each, under the method's preconditioner.
    terms: Terms


def _passed(
    query: Sample,
    originals: pl.DataFrame,
    loaded: LoadedModel,
    run: Run,
    method: Method,
    policy: ContextPolicy,
    among: Sequence[str] | None,
) -> _Compared:
    """The text compared with originals in a pass of its own."""
    compared = originals["id"] if among is None else pl.Series(among, dtype=pl.String)
    names = pl.DataFrame({"original_id": compared}).with_columns(variant_id=pl.lit(query.id))
    request = pass_inputs(
        originals,
        {TRACED: sample_frame([query])},
        names,
        loaded,
        policy=policy,
        products=[TRACED],
        projections={},
        preconditioned={TRACED: [method.preconditioner]} if method.preconditioner else {},
    ).request
    by_id = {sample.id: sample for sample in request.originals}
    with run(request) as result:  # its arrays lie in files, which are gone behind it
        terms = tuple(np.array(term) for term in _terms(result, method))
        met = [by_id[original] for _, original in request.pairs[TRACED]]
        return _Compared(met, result.components, terms)  # type: ignore[arg-type]  # three they are


def _held(
    traced: EncodedSample,
    loaded: LoadedModel,
    held: HeldOriginals,
    preconditioner: Preconditioner | None,
    among: Sequence[str] | None,
) -> _Compared:
    """The text compared with originals whose gradients are at hand."""
    gradient = _Splitting(loaded, Method.of(COSINE, ()), None).gradient(traced)
    terms = held.terms(gradient, preconditioner)
    if among is None:
        return _Compared(held.samples, held.names, terms)
    places = {sample.id: place for place, sample in enumerate(held.samples)}
    rows = [places[name] for name in among if name in places]
    dots, own, others = (term[rows] for term in terms)
    return _Compared([held.samples[row] for row in rows], held.names, (dots, own, others))


def _encoded(query: Sample, loaded: LoadedModel, policy: ContextPolicy) -> EncodedSample:
    """The text as tokens. It is held to the context, in which the model was made, unless `policy` is to keep what is longer."""
    try:
        encoding = encode_samples([query], loaded.tokenizer, loaded.max_positions, loaded.takes, policy)
    except InputError as error:
        raise TextError(str(error).replace(f"sample {query.id}", "the text")) from error
    found, most = encoding.samples, loaded.max_positions
    if not found or (policy == "auto" and most is not None and found[0].length > most):
        size = f"the text has {found[0].length} tokens, which is more than" if found else "the text is longer than"
        raise TextError(f"{size} the model's context{f' of {most}' if most else ''}; shorten it.")
    return found[0]


def _terms(result: PassResult, method: Method) -> Terms:
    """The products of every pair and component, under the method's preconditioner."""
    if method.preconditioner:
        of = result.preconditioned[TRACED][method.preconditioner]
        return of["dot_product"], of["variant_self"], of["original_self"]
    return result.dot_products[TRACED], result.variant_self[TRACED], result.original_self[TRACED]


def _chosen(components: Sequence[str], method: Method) -> np.ndarray:
    """The components that count: bool [C]."""
    chosen = np.array([method.takes(name) for name in components])
    for pattern in method.components:
        if any(fnmatchcase(name, pattern) for name in components):
            continue
        raise InputError(
            f"no component is called {pattern}; the model has {components[0]}, {components[-1]} and "
            f"{len(components) - 2} more."
        )
    return chosen


def _similarities(
    components: Sequence[str], terms: Terms, chosen: np.ndarray, method: Method
) -> Mapping[str, np.ndarray]:
    """What each pair is told by: the method's own similarity, the product, and the cosine in every family of components."""

    def of(mask: np.ndarray) -> np.ndarray:
        return cosine(*(term[:, mask].sum(axis=1) for term in terms))

    families = np.array([family(component_type(name)) for name in components])
    products = terms[0][:, chosen].sum(axis=1)
    return {
        "similarity": products if method.name == DOT_PRODUCT else of(chosen),
        "dot_product": products,
        **{name: of(families == name) for name in FAMILIES},
    }


def _ranked(
    query: Sample,
    originals: KnownOriginals,
    ids: Sequence[str],
    similarities: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """Every original with its figures, best first; equal ones in the order of the data, undefined ones last."""
    scores = originals.scores(query.user)
    scored = dict(zip(originals.by_id, scores.tolist(), strict=True))
    answers = [originals.by_id[name].assistant for name in ids]
    overlap = overlaps([query.assistant], answers, np.zeros(len(ids), dtype=np.int64), np.arange(len(ids)))
    frame = pl.DataFrame({"original_id": ids, **similarities, "text_overlap": overlap}).with_columns(
        bm25_score=pl.Series([scored[name] for name in ids], dtype=pl.Float64),
        bm25_rank=pl.Series([1 + int((scores > scored[name]).sum()) for name in ids], dtype=pl.Int64),
    )
    defined = frame.with_columns(pl.col(pl.Float64).fill_nan(None))
    ordered = defined.sort("similarity", descending=True, nulls_last=True, maintain_order=True)
    return ordered.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))


@dataclass(frozen=True)
class _Splitting:
    """Gradients of single samples as a method takes them, and their products split over tokens."""

    loaded: LoadedModel
    method: Method
    preconditioner: Preconditioner | None
    #: Where gradients of originals are at hand, if anywhere.
    held: HeldOriginals | None = None

    @cached_property
    def _named(self) -> list[tuple[str, torch.nn.Parameter]]:
        return trainable_components(self.loaded.model)

    def gradient(self, sample: EncodedSample) -> list[torch.Tensor]:
        """The gradient in every component, zero in those that the method leaves out."""
        plain = PlainAutograd(self.loaded.model, [parameter for _, parameter in self._named], self.loaded.device)
        return self._taken(plain.gradient(sample, range(len(self._named))))

    def of_original(self, original: EncodedSample) -> list[torch.Tensor]:
        """The same of an original."""
        return self.gradient(original) if self.held is None else self._taken(self.held.gradient(original.id))

    def _taken(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [
            one if self.method.takes(name) else torch.zeros_like(one)
            for (name, _), one in zip(self._named, gradients, strict=True)
        ]

    def direction(self, gradient: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the other gradient is multiplied with: P times the gradient."""
        if self.preconditioner is None:
            return list(gradient)
        found = []
        for (name, _), one in zip(self._named, gradient, strict=True):
            of = self.preconditioner.of(name).to(one.device, wide(one.dtype))
            found.append(of.unwhiten(of.whiten(one.to(wide(one.dtype))[None]))[0])
        return found

    def contributions(self, sample: EncodedSample, direction: Sequence[torch.Tensor]) -> np.ndarray:
        """As `token_contributions`."""
        return token_contributions(self.loaded.model, sample, direction, self.loaded.device)


def _split(
    traced: EncodedSample, best: Sequence[EncodedSample], splitting: _Splitting
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table `trace_tokens` of the best originals, and by original the share of the answer's tokens that it explains best."""
    own = splitting.gradient(traced)
    along_own = splitting.direction(own)
    rows, of_answer = [], []
    for original in best:
        other = splitting.of_original(original)
        direction = splitting.direction(other)
        sides = {
            "answer": (traced, splitting.contributions(traced, direction), (own, direction)),
            "original": (original, splitting.contributions(original, along_own), (other, along_own)),
        }
        for side, (sample, contributions, sum_of) in sides.items():
            _check_sum(contributions, *sum_of, original.id)
            rows.append(_token_rows(original.id, side, sample, contributions, splitting.loaded))
        of_answer.append(sides["answer"][1][traced.labels != IGNORED])
    tokens = TRACE_TOKENS.enforce(pl.concat(rows)) if rows else TRACE_TOKENS.empty()
    return tokens, _shares([one.id for one in best], of_answer)


def _check_sum(
    contributions: np.ndarray, one: Sequence[torch.Tensor], other: Sequence[torch.Tensor], name: str
) -> None:
    """Raises ArithmeticError where the tokens do not make up the product of the gradients."""
    pairs = [(a.flatten().double(), b.flatten().double()) for a, b in zip(one, other, strict=True)]
    product = float(gathered([a @ b for a, b in pairs], 0).sum())
    squares = ([side.square().sum() for side in sides] for sides in zip(*pairs, strict=True))
    lengths = [float(gathered(own, 0).sum()) ** 0.5 for own in squares]
    if abs(contributions.sum() - product) > _TOLERANCE * lengths[0] * lengths[1]:
        raise ArithmeticError(
            f"the product with {name} is {product:.6g}, and its tokens make up {contributions.sum():.6g}: the model does not "
            "compute the same twice, so its tokens cannot be told."
        )


def _token_rows(
    original_id: str, side: str, sample: EncodedSample, contributions: np.ndarray, loaded: LoadedModel
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "original_id": original_id,
            "side": side,
            "position": np.arange(sample.length),
            "text": token_texts(loaded.tokenizer, sample.input_ids.tolist()),
            "counted": sample.labels != IGNORED,
            "contribution": contributions,
        }
    )


def _shares(ids: Sequence[str], contributions: Sequence[np.ndarray]) -> pl.DataFrame:
    """By original the share of the answer's tokens of which it explains more than the others do, and anything at all."""
    if not ids:
        return pl.DataFrame(schema={"original_id": pl.String(), "answer_share": pl.Float64()})
    values = np.array(contributions)
    winner = np.where(values.max(axis=0) > 0, values.argmax(axis=0), -1)
    return pl.DataFrame({"original_id": ids, "answer_share": [float((winner == i).mean()) for i in range(len(ids))]})
