"""Candidates by the index against plain Python: the same originals in the same order, however the sketches come."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.candidates.bm25_candidates import candidate_frame
from gradsim_assets.core.candidates.chosen_candidates import among_an_index, union
from gradsim_assets.core.index.index_candidates import choice_of, index_candidates
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.core.tables.soundness import nearest_findings
from gradsim_assets_tests.support.analysis_data import documents, sparse_documents

COUNT, DIMENSION = 60, 16
NAMES = [f"s{number}" for number in range(COUNT)]

Sketches = tuple[np.ndarray, np.ndarray]


def table(seed: int) -> pl.DataFrame:
    return sample_frame(
        [Sample(name, text, "answer") for name, text in zip(NAMES, documents(COUNT, seed), strict=True)]
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """As an index holds them: of length 1, in float16."""
    found: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def sketches() -> Sketches:
    """Of the originals and of the variants; many originals are the same, so that there are ties everywhere."""
    random = np.random.default_rng(7)
    kinds = unit(random.normal(size=(9, DIMENSION)))
    originals = kinds[random.integers(0, 9, COUNT)]
    return originals, unit(originals + 0.8 * random.normal(size=originals.shape))


def parts(originals: np.ndarray, size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    for start in range(0, COUNT, size):
        yield NAMES[start : start + size], originals[start : start + size]


def found(
    sketches: Sketches, k: int, size: int = COUNT, variants: Sequence[str] = NAMES, held: int = COUNT
) -> pl.DataFrame:
    originals, queries = sketches
    rows = [NAMES.index(name) for name in variants]
    index = [(names[:held], part[:held]) for names, part in parts(originals, size)]
    return index_candidates(variants, queries[rows], index, k, table(4), table(3))


def expected(sketches: Sketches, k: int, variant: str) -> list[tuple[str, bool]]:
    """The k best by product, ties by the order of the originals, the own one instead of the last where it is missing."""
    originals, queries = ([[float(x) for x in row] for row in rows] for rows in sketches)
    query = queries[NAMES.index(variant)]
    product = {name: float(np.sum(np.array(row) * np.array(query))) for name, row in zip(NAMES, originals, strict=True)}
    best = sorted(NAMES, key=lambda name: (-product[name], NAMES.index(name)))[:k]
    if variant not in best:
        return [*((name, False) for name in best[:-1]), (variant, True)]
    return [(name, False) for name in best]


@pytest.mark.parametrize("k", [1, 4, 25, COUNT, 100])
def test_the_index_gives_what_plain_python_finds(k: int, sketches: Sketches) -> None:
    frame = found(sketches, k)
    for (variant,), rows in frame.partition_by("variant_id", as_dict=True, maintain_order=True).items():
        assert rows.select("original_id", "forced").rows() == expected(sketches, k, variant)
        assert rows["rank"].to_list() == list(range(1, min(k, COUNT) + 1))
    assert frame["variant_id"].unique(maintain_order=True).to_list() == NAMES
    assert (frame["forced"].sum() > 0) == (k < COUNT)
    assert nearest_findings(frame, pl.Series(NAMES), k) == []


@pytest.mark.parametrize("size", [1, 7, 59])
def test_neither_parts_nor_other_variants_change_what_is_found(size: int, sketches: Sketches) -> None:
    whole = found(sketches, 6)
    assert found(sketches, 6, size).equals(whole)
    some = NAMES[11:17]
    assert found(sketches, 6, size, some).equals(whole.filter(pl.col("variant_id").is_in(some)))


def test_an_original_that_the_index_does_not_hold_is_no_candidate(sketches: Sketches) -> None:
    frame = found(sketches, 6, held=40)
    assert set(frame["original_id"]) <= set(NAMES[:40])
    own = frame.filter(pl.col("variant_id") == pl.col("original_id"))["variant_id"]
    assert set(own) == set(NAMES[:40])
    assert nearest_findings(frame, pl.Series(NAMES[:40]), 6) == []
    (said,) = nearest_findings(frame, pl.Series(NAMES), 6)
    assert said == "20 variants do not have their own original among their candidates, such as s40"


def test_scores_of_bm25_are_those_of_all_originals(sketches: Sketches) -> None:
    frame = found(sketches, 6)
    every = candidate_frame(table(3), table(4), "all", zero_scores="corpus_order")
    both = frame.join(every, on=["variant_id", "original_id"], how="left", suffix="_of_all")
    assert both["bm25_score"].equals(both["score_of_all"], check_names=False)
    assert both["bm25_rank"].equals(both["rank_of_all"], check_names=False)


def test_a_sketch_of_nothing_has_the_first_originals(sketches: Sketches) -> None:
    originals, queries = sketches
    frame = found((originals, np.zeros_like(queries)), 3, variants=NAMES[5:6])
    assert frame["original_id"].to_list() == [NAMES[0], NAMES[1], NAMES[5]] and set(frame["score"]) == {0.0}


@pytest.mark.parametrize("texts", [documents, sparse_documents])
def test_the_union_is_that_of_both_sources(texts: object, sketches: Sketches) -> None:
    originals, variants = (
        sample_frame([Sample(n, t, "answer") for n, t in zip(NAMES, texts(COUNT, seed), strict=True)])  # type: ignore[operator]
        for seed in (3, 4)
    )
    bm25, index = candidate_frame(originals, variants, 5), found(sketches, 4)
    joined = union(bm25, index)
    rows = {name: joined.filter(variant_id=name)["original_id"].to_list() for name in NAMES}
    for name in NAMES:
        first = bm25.filter(variant_id=name)["original_id"].to_list()
        more = [one for one in index.filter(variant_id=name)["original_id"].to_list() if one not in first]
        assert rows[name] == [*first, *more] and name in rows[name]
    assert joined["variant_id"].to_list() == [name for name in NAMES for _ in rows[name]], (
        "variants stay in their order"
    )
    assert joined.columns == bm25.columns and joined.schema == bm25.schema
    both = joined.join(index, on=["variant_id", "original_id"], how="semi")
    assert both.height > 0 and not both["zero_score"].any(), "the index has chosen it, whatever BM25 knows of it"
    only = joined.join(index, on=["variant_id", "original_id"], how="anti")
    assert only.equals(bm25.join(index, on=["variant_id", "original_id"], how="anti"))
    assert union(bm25, index.clear()).equals(bm25)
    alone = union(bm25.clear(), index)
    assert alone.select("variant_id", "original_id").equals(index.select("variant_id", "original_id"))


def test_last_digits_of_sketches_decide_nothing_that_follows(sketches: Sketches) -> None:
    frame = found(sketches, 6)
    assert choice_of(frame.with_columns(score=pl.col("score") * (1 + 1e-9))).equals(choice_of(frame))


def test_it_is_said_that_an_index_has_chosen() -> None:
    assert among_an_index([5, None, "all"]) == ""
    said = among_an_index(["bm25:5+index:20", "bm25:5+index:20"])
    assert said.startswith(
        "The candidates are bm25:5+index:20: the model's own index of gradients has chosen rivals beside"
    )
    assert "beside BM25's" not in among_an_index(["index:20"]).partition(",")[0]


def test_wrong_candidates_are_found(sketches: Sketches) -> None:
    frame, known = found(sketches, 6), pl.Series(NAMES)
    for spoilt, said in (
        (frame[1:], "1 variants do not have 6 candidates with ranks from 1, such as s0"),
        (
            frame.with_columns(score=pl.col("rank") / 10),
            "60 variants have candidates that are not in the order of their scores",
        ),
        (frame.with_columns(forced=pl.lit(True)), "60 variants have a forced candidate that is not the last"),
        (frame.with_columns(original_id=pl.lit("nobody")), "360 candidates are not in the index"),
        (frame.with_columns(score=pl.lit(1.5)), "score is beyond [-1, 1] in 360 rows"),
    ):
        assert any(one.startswith(said) for one in nearest_findings(spoilt, known, 6)), said
