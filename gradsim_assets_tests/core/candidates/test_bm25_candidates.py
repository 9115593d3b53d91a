"""The table of candidates: fewer out of more, none out of nothing, and places that nobody scores for."""

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.candidates.bm25 import Index, Tokens, ZeroScores
from gradsim_assets.core.candidates.bm25_candidates import candidate_frame, top_candidates, zero_score_places
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.tables.soundness import zero_score_findings
from gradsim_assets_tests.support.analysis_data import JAPANESE, documents, sparse_documents


def table(texts: list[str]) -> pl.DataFrame:
    return sample_frame([Sample(f"s{number}", text, "answer") for number, text in enumerate(texts)])


def names(frame: pl.DataFrame) -> dict[str, list[str]]:
    """The originals of each variant by rank."""
    return {
        str(v): rows["original_id"].to_list() for (v,), rows in frame.partition_by("variant_id", as_dict=True).items()
    }


@pytest.mark.parametrize("zero_scores", ["random", "corpus_order"])
@pytest.mark.parametrize("texts", [documents, sparse_documents])
@pytest.mark.parametrize("held", [4, 9, "all"])
def test_fewer_candidates_out_of_a_table_of_more_are_those_that_would_have_been_found(
    held: int | str, texts: object, zero_scores: ZeroScores
) -> None:
    originals, variants = (table(texts(40, seed)) for seed in (3, 4))  # type: ignore[operator]
    more = candidate_frame(originals, variants, held, zero_scores=zero_scores)  # type: ignore[arg-type]
    for k in (1, 2, 4):
        expected = candidate_frame(originals, variants, k, zero_scores=zero_scores)
        assert 0 < expected["forced"].sum() <= expected.height
        assert (expected["zero_score"].sum() > 0) == (texts is sparse_documents and k > 1)
        assert top_candidates(more, k).equals(expected)
    assert top_candidates(more, 50).equals(more)
    assert top_candidates(more, None).equals(more)


def test_no_candidates_out_of_an_empty_table() -> None:
    one = candidate_frame(sample_frame([Sample("a", "a", "b")]), sample_frame([Sample("a", "a", "b")]), 1)
    assert top_candidates(one.clear(), 3).equals(pl.DataFrame(schema=one.schema))


def test_places_without_scores_are_drawn_by_the_set_of_originals_whatever_its_order_or_the_shards() -> None:
    originals, variants = table(sparse_documents(40, 5)), table(sparse_documents(40, 6))
    whole = candidate_frame(originals, variants, 6)
    for seed in range(3):
        shuffled = candidate_frame(originals.sample(fraction=1, shuffle=True, seed=seed), variants, 6)
        for variant, rows in shuffled.partition_by("variant_id", as_dict=True).items():
            same = whole.filter(variant_id=variant[0])
            # Ties of other scores go by corpus order, as they always did; what is drawn does not.
            assert rows.filter("zero_score").equals(same.filter("zero_score"))
    for shards in (2, 7):
        parts = [variants[n * 40 // shards : (n + 1) * 40 // shards] for n in range(shards)]
        assert pl.concat(candidate_frame(originals, part, 6) for part in parts).equals(whole)
    assert (
        candidate_frame(originals, variants.reverse(), 6)
        .sort("variant_id", "rank")
        .equals(whole.sort("variant_id", "rank"))
    )


def test_corpus_order_takes_the_first_ones_as_the_scripts_do() -> None:
    originals, variants = table(sparse_documents(40, 7)), table(sparse_documents(40, 8))
    found = names(candidate_frame(originals, variants, 5, zero_scores="corpus_order"))
    index = Index([text[0]["content"] for text in originals["messages"]])
    for number, messages in enumerate(variants["messages"]):
        order = np.argsort(-index.scores(messages[0]["content"]), kind="stable")[:5].tolist()
        if number not in order:
            order[-1] = number
        assert found[f"s{number}"] == [f"s{place}" for place in order]


@pytest.mark.parametrize(
    ("tokens", "scored"), [(str.split, False), (list, True), (lambda text: [ord(c) % 97 for c in text], True)]
)
def test_texts_without_spaces_get_scores_from_other_tokens_than_words(tokens: Tokens, scored: bool) -> None:
    originals, variants = (table([pair[side] for pair in JAPANESE]) for side in (0, 1))
    frame = candidate_frame(originals, variants, 3, tokens)
    zero = zero_score_places(frame, len(JAPANESE))
    counted, places = zero["variant_id"].n_unique(), zero.height
    own = frame.filter(pl.col("variant_id") == pl.col("original_id"))
    if scored:
        assert (counted, places) == (0, 0) and own["score"].min() > 0  # type: ignore[operator]
        assert (own["rank"] == 1).sum() >= 6
        assert zero_score_findings(frame, len(JAPANESE)) == []
    else:
        assert frame["score"].to_list() == [0.0] * 24
        assert counted == 8 and places == 24 - own["forced"].sum()
        assert zero_score_findings(frame, len(JAPANESE))[0].startswith(
            f"8 of 8 variants have candidates with a BM25 score of 0 ({places}"
        )
        assert len(set(map(tuple, names(frame).values()))) > 1, "not the first ones of the file for all"


def test_nobody_was_chosen_where_all_originals_are_candidates() -> None:
    originals, variants = (table([pair[side] for pair in JAPANESE]) for side in (0, 1))
    whole = candidate_frame(originals, variants, "all")
    assert whole["zero_score"].all()
    assert zero_score_findings(whole, len(JAPANESE)) == []
    assert zero_score_findings(top_candidates(whole, 3), len(JAPANESE)) != []
