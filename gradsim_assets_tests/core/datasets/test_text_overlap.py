"""chrF against sacrebleu and against its definition, and what counts as a copy."""

import random
from collections import Counter

import numpy as np
import polars as pl
import pytest
import sacrebleu

from gradsim_assets.core.datasets.text_overlap import is_verbatim, overlaps, with_text_overlap
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Sample, sample_frame
from gradsim_assets.demo import data


def pairs(texts: list[tuple[str, str]]) -> pl.DataFrame:
    """(answer, original's answer) of each pair, as the function gives them."""
    variants, originals = (
        sample_frame([Sample(f"s{number}", "question", pair[side]) for number, pair in enumerate(texts)])
        for side in (0, 1)
    )
    return with_text_overlap(variants, originals, "test")


def chrf(answer: str, original: str) -> float:
    """Popović's definition: precision and recall averaged over n-grams of 1 to 6 characters, then F with beta = 2.

    As sacrebleu has it: without white space, and over the orders that both texts are long enough for.
    """
    first, second = ("".join(text.split()) for text in (answer, original))
    precisions, recalls = [], []
    for order in range(1, 7):
        mine, theirs = (Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (first, second))
        if mine and theirs:
            common = (mine & theirs).total()
            precisions.append(common / mine.total())
            recalls.append(common / theirs.total())
    if not precisions or not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * 5 * precision * recall / (4 * precision + recall)


def some_texts() -> list[tuple[str, str]]:
    rows = data.load_originals()
    paraphrases = {row["id"]: row["messages"][1]["content"] for row in data.load_paraphrases()}
    texts = [(paraphrases[row["id"]], row["messages"][1]["content"]) for row in rows]
    draw = random.Random(0)
    texts += [("".join(draw.choices("ab \n富士", k=draw.randint(0, 9))), "ab 富 士ba") for _ in range(200)]
    return [*texts, ("", "abc"), ("a", "a"), ("日本", "日本語"), ("x", "y"), ("a b\nc", "abc")]


def test_the_overlap_is_sacrebleus_chrf() -> None:
    texts = some_texts()
    found = pairs(texts)["text_overlap"].to_list()
    assert found == [sacrebleu.sentence_chrf(answer, [original]).score for answer, original in texts]


def test_the_overlap_is_chrf_by_its_definition() -> None:
    texts = some_texts()
    # Means of ratios, taken in another order.
    assert pairs(texts)["text_overlap"].to_list() == pytest.approx([chrf(*pair) for pair in texts], rel=1e-9)


def test_the_overlaps_of_many_pairs_are_sacrebleus_to_the_last_bit() -> None:
    answers, originals = (list(side) for side in zip(*some_texts(), strict=True))
    draw = np.random.default_rng(0)
    # Every text with its own, and with many others: alphabets, empty texts and texts shorter than an n-gram among them.
    answer = np.append(np.arange(len(answers)), draw.integers(len(answers), size=3000))
    original = np.append(np.arange(len(answers)), draw.integers(len(originals), size=3000))
    found = overlaps(answers, originals, answer, original)
    wanted = [
        sacrebleu.sentence_chrf(answers[one], [originals[other]]).score
        for one, other in zip(answer, original, strict=True)
    ]
    assert found.tolist() == wanted
    assert 100.0 in wanted and 0.0 in wanted
    nothing = np.array([], dtype=np.int64)
    assert overlaps([], [], nothing, nothing).tolist() == overlaps(["a"], ["b"], nothing, nothing).tolist() == []
    assert overlaps(["", " "], ["", "a"], np.array([0, 1]), np.array([0, 1])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "original", "verbatim"),
    [
        ("One two.", "One two.", True),
        ("  One\ttwo.\r\n", "One two.", True),
        ("One\n\n* two.", "One * two.", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("One\u3000two.", "One two.", True),  # an ideographic space is white space too
        ("Onetwo.", "One two.", False),
        ("one two.", "One two.", False),
        ("One two", "One two.", False),
        ("One two. And", "One two.", False),
        ("", "One two.", False),
    ],
)
def test_a_copy_is_one_but_for_white_space_and_composition(answer: str, original: str, verbatim: bool) -> None:
    assert is_verbatim(answer, original) is verbatim
    assert pairs([(answer, original)])["verbatim"].to_list() == [verbatim]


def test_a_copy_overlaps_whole_and_an_empty_answer_not_at_all() -> None:
    frame = pairs([("  One\ttwo.", "One two."), ("", "One two.")])
    assert frame["text_overlap"].to_list() == [100.0, 0.0]


def test_each_variant_is_compared_with_its_own_original_whatever_their_order() -> None:
    originals = sample_frame([Sample(name, "q", f"answer of {name}") for name in "cab"])
    variants = sample_frame([Sample(name, "q", f"answer of {name}") for name in "bc"])
    assert with_text_overlap(variants, originals, "test")["verbatim"].to_list() == [True, True]


def test_a_variant_without_an_original_is_named() -> None:
    one, other = (sample_frame([Sample(name, "q", "a")]) for name in ("a", "b"))
    with pytest.raises(
        InputError, match="paraphrased: variant a has no original of the same id; materialise lima again"
    ):
        with_text_overlap(one, other, "paraphrased")
