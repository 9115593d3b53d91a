"""What is found of a text, held against plain gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from gradsim_assets.core.components import component_type, family
from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.gradients.engine import PassOptions, PassRequest, PassResult, run_pass
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.sample_gradients.components import trainable_components
from gradsim_assets.core.sample_gradients.preconditioning import ComponentPreconditioner
from gradsim_assets.core.sample_gradients.reference import plain_gradient
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.tracing.held_originals import HeldOriginals
from gradsim_assets.core.tracing.known_originals import KnownOriginals
from gradsim_assets.core.tracing.query import TextError, checked_query
from gradsim_assets.core.tracing.trace import Method, originals_of
from gradsim_assets_tests.support.tiny_models import load_tiny_model

ORIGINALS = [
    Sample("eggs", "How long does an egg take?", "Seven minutes in boiling water, then rinse it."),
    Sample("tea", "How do I brew tea?", "Pour on hot water and wait for two minutes."),
    Sample("moon", "What is a new moon?", "🌑 The moon stands between the Earth and the sun."),
    Sample("same", "How long does an egg take?", "Seven minutes in boiling water, then rinse it."),
]
QUERY = Sample("traced", "How long does an egg take, please?", "Seven minutes in hot water 🥚, then wait.")

#: fp32: products of a pass and of plain autograd differ by rounding of their lengths.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


class Halving:
    """P = 1/4 in every component of attention, 1 elsewhere."""

    digest = "halving"

    def __init__(self, loaded: LoadedModel) -> None:
        self.shapes = {name: parameter.shape for name, parameter in trainable_components(loaded.model)}

    def of(self, component: str) -> ComponentPreconditioner:
        return ComponentPreconditioner(torch.full(self.shapes[component], 0.5 if "attn" in component else 1.0))


@pytest.fixture(scope="module")
def held(loaded: LoadedModel) -> HeldOriginals:
    return HeldOriginals.of(loaded.model, [loaded.tokenizer.encode(one) for one in ORIGINALS], PassOptions())


def traced(loaded: LoadedModel, method: str, split: int = 2, **more: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    preconditioners = {"ekfac": Halving(loaded)} if method == "ekfac" else {}

    @contextmanager
    def run(request: PassRequest) -> Iterator[PassResult]:
        yield run_pass(loaded.model, request, preconditioners=preconditioners)

    how = Method.of(method, ["ekfac"])
    one = preconditioners.get("ekfac")
    return originals_of(
        QUERY,
        KnownOriginals(sample_frame(ORIGINALS)),
        loaded,
        run,
        how,
        policy="auto",
        preconditioner=one,
        split=split,
        **more,
    )


def gradients(loaded: LoadedModel, sample: Sample) -> dict[str, np.ndarray]:
    named = trainable_components(loaded.model)
    _, found = plain_gradient(loaded.model, loaded.tokenizer.encode(sample), [parameter for _, parameter in named])
    return {name: one.double().numpy().ravel() for (name, _), one in zip(named, found, strict=True)}


def products(loaded: LoadedModel, chosen, weight=lambda name: 1.0) -> dict[str, tuple[float, float, float]]:
    """<v, o>, <v, v> and <o, o> by original, of plain gradients in the chosen components."""
    own, found = gradients(loaded, QUERY), {}
    for original in ORIGINALS:
        other = gradients(loaded, original)
        names = [name for name in own if chosen(name)]
        sides = ((own, other), (own, own), (other, other))
        found[original.id] = tuple(sum(weight(name) * float(a[name] @ b[name]) for name in names) for a, b in sides)
    return found


CASES = {
    "cosine": (lambda name: True, lambda name: 1.0),
    "dot_product": (lambda name: True, lambda name: 1.0),
    "*.mlp.*": (lambda name: ".mlp." in name, lambda name: 1.0),
    "*.mlp.up*, *.q_proj.*": (lambda name: ".mlp.up" in name or ".q_proj." in name, lambda name: 1.0),
    "ekfac": (lambda name: True, lambda name: 0.25 if "attn" in name else 1.0),
}


@pytest.mark.parametrize("at_hand", [False, True], ids=["pass", "held"])
@pytest.mark.parametrize("method", CASES)
def test_originals_are_ranked_by_what_plain_gradients_say_and_tokens_make_up_the_product(method, at_hand, loaded, held):
    chosen, weight = CASES[method]
    found, tokens = traced(loaded, method, held=held if at_hand else None)
    wanted = products(loaded, chosen, weight)
    for row in found.to_dicts():
        dot, own, other = wanted[row["original_id"]]
        length = (own * other) ** 0.5
        assert row["dot_product"] == pytest.approx(dot, abs=ROUNDING * length)
        similarity = dot if method == "dot_product" else dot / length
        assert row["similarity"] == pytest.approx(similarity, abs=ROUNDING * (length if method == "dot_product" else 1))
        of_original = tokens.filter(original_id=row["original_id"])
        if row["rank"] > 2:
            assert of_original.is_empty() and row["answer_share"] is None
            continue
        for side in ("answer", "original"):
            one = of_original.filter(side=side)
            assert one["contribution"].sum() == pytest.approx(dot, abs=ROUNDING * length)
            assert (one.filter(~pl.col("counted"))["contribution"] == 0).all()
    assert found["rank"].to_list() == [1, 2, 3, 4]
    assert found["similarity"].is_sorted(descending=True)
    assert found["original_id"].head(2).to_list() == ["eggs", "same"], "equal ones stay in the order of the data"
    assert found["answer_share"].drop_nulls().sum() <= 1


@pytest.mark.parametrize("at_hand", [False, True], ids=["pass", "held"])
def test_some_originals_are_compared_as_they_are_among_all(at_hand, loaded, held):
    here = held if at_hand else None
    whole, _ = traced(loaded, "cosine", held=here)
    some, _ = traced(loaded, "cosine", held=here, among=["moon", "eggs"])
    assert some["original_id"].to_list() == ["eggs", "moon"]
    kept = whole.filter(pl.col("original_id").is_in(["moon", "eggs"]))
    for column in ("similarity", "dot_product", "bm25_score", "bm25_rank"):
        # fp32: a batch of another shape rounds otherwise.
        assert some[column].to_list() == pytest.approx(kept[column].to_list(), abs=1e-5)


def test_every_family_of_components_has_its_cosine_beside_texts_and_prompts(loaded):
    found, _ = traced(loaded, "cosine")
    for name in ("attention", "mlp", "embedding"):
        wanted = products(loaded, lambda one, name=name: family(component_type(one)) == name)
        for row in found.to_dicts():
            dot, own, other = wanted[row["original_id"]]
            assert row[name] == pytest.approx(dot / (own * other) ** 0.5, abs=ROUNDING)
    assert found["norm"].null_count() == len(found), "OLMo's norms have no weights"
    by_id = {row["original_id"]: row for row in found.to_dicts()}
    for original in ORIGINALS:
        alone = sample_frame([Sample(QUERY.id, original.user, original.assistant)])
        overlap = with_text_overlap(sample_frame([QUERY]), alone, "here")["text_overlap"].item()
        assert by_id[original.id]["text_overlap"] == overlap
    scores = [row["bm25_score"] for row in found.to_dicts()]
    assert len(set(scores)) > 1 and by_id["eggs"]["bm25_rank"] == by_id["same"]["bm25_rank"], (
        "equal scores share a rank"
    )
    for row in found.to_dicts():
        assert row["bm25_rank"] == 1 + sum(score > row["bm25_score"] for score in scores)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("  ", None), "the prompt is empty"),
        (("Why?", " \n"), "the answer is empty, so it has no gradient"),
        (("Why?", "half \ud83d"), "the answer holds half of a character at 6"),
    ],
)
def test_a_text_that_has_no_gradient_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        checked_query(*given)


def test_what_is_no_method_is_refused_with_those_that_there_are(loaded):
    with pytest.raises(InputError, match="no method adam; give one of cosine, dot_product, ekfac, or patterns"):
        Method.of("adam", ["ekfac"])
    with pytest.raises(InputError, match=r"no component is called \*\.experts\.\*; the model has model\.embed_tokens"):
        traced(loaded, "*.experts.*")
    with pytest.raises(InputError, match=r"no component is called \*\.experts\.\*; the model has"):
        traced(loaded, "*.mlp.*,*.experts.*")


@pytest.mark.parametrize("at_hand", [False, True], ids=["pass", "held"])
@pytest.mark.parametrize(
    ("policy", "said"), [("drop", "the text is longer than"), ("auto", r"the text has \d+ tokens")]
)
def test_a_text_beyond_the_context_is_refused(at_hand, policy, said, loaded, held):
    small, how = replace(loaded), Method.of("cosine", [])
    vars(small)["max_positions"] = 8
    with pytest.raises(TextError, match=f"{said}.* the model's context of 8; shorten it"):
        originals_of(
            *(QUERY, sample_frame(ORIGINALS), small, lambda request: None, how),
            policy=policy,
            held=held if at_hand else None,
        )
