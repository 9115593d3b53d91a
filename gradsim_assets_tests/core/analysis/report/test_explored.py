"""Of very many samples a page holds some, and they are told as on a page of all."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest

from gradsim_assets.core.analysis.report.explored import Explored, explored, listed, matching
from gradsim_assets.core.analysis.report.explorer import MOST_CANDIDATES
from gradsim_assets_tests.support.report_case import NAMES, Case

SETTING = "paraphrased"
#: Similarities of a variant with its five candidates: of every component, and of the full gradient.
ONE = 5 * (len(NAMES) + 1)


def of(case: Case, names: Sequence[str]) -> Explored:
    return explored({SETTING: case.settings[SETTING]}, {SETTING: names}, case.parameters, case.originals, None)


def test_a_page_that_can_hold_all_holds_all_in_the_order_of_the_table(case: Case) -> None:
    results = case.settings[SETTING]
    everything = list(case.pairs[SETTING].candidates.variants)
    assert listed(results) == everything and listed(results, 24 * ONE) == everything
    assert len(listed(results, 24 * ONE - 1)) == 23 and listed(results, 0) == []
    assert not of(case, everything).is_part and of(case, everything[1:]).is_part


def test_wrong_decisions_come_first_and_behind_them_the_most_divergent() -> None:
    case = Case(accidents=True)  # with ties, and with similarities that are undefined
    results, pairs = case.settings[SETTING], case.pairs[SETTING]
    ranks = dict(zip(pairs.candidates.variants, pairs.candidates.ranks(pairs.full_similarity), strict=True))
    wrong = {name for name, rank in ranks.items() if rank != 1}
    assert 1 < len(wrong) < 22, "or there is nothing to see"
    far = dict(results.self_similarity.select("variant_id", "divergence_rank").unique().iter_rows())
    nearest = sorted(wrong, key=far.__getitem__)
    assert set(listed(results, (len(wrong) - 1) * ONE)) == set(nearest[:-1])
    right = sorted(set(ranks) - wrong, key=far.__getitem__)
    assert set(listed(results, (len(wrong) + 2) * ONE)) == wrong | set(right[:2])
    mixed = listed(results, (len(wrong) + 2) * ONE)
    assert mixed == [name for name in pairs.candidates.variants if name in mixed]


def test_candidates_that_no_page_shows_do_not_count() -> None:
    many = Case(variants=24, candidates=2 * MOST_CANDIDATES)
    assert len(listed(many.settings[SETTING], 12 * MOST_CANDIDATES * (len(NAMES) + 1))) == 12


def test_some_samples_are_told_as_among_all(case: Case) -> None:
    names = list(case.pairs[SETTING].candidates.variants)
    whole, some = of(case, names), of(case, names[3:5])
    one, all_ = some.data["settings"][SETTING], whole.data["settings"][SETTING]
    assert one["variants"] == names[3:5] and one["of"] == all_["of"] == 24
    for name in ("divergence", "divergence_rank", "overlap", "verbatim", "counts"):
        assert one[name] == all_[name][3:5], name
    assert one["components"] == all_["components"] and one["best"] == all_["best"]
    assert {i: some.texts["originals"][i] for i in one["originals"]} == {
        i: whole.texts["originals"][i] for i in one["originals"]
    }
    assert some.texts["variants"][SETTING].keys() == set(names[3:5])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("lima_1", ["lima_1", "lima_10", "lima_11"]),
        ("LIMA_7", ["lima_7"]),
        ("paraphrased answer lima_3", ["lima_3"]),
        ("original answer lima_5", ["lima_5"]),
        (".*", []),
        ("there is no such text", []),
    ],
)
def test_samples_are_found_by_id_by_text_and_by_that_of_their_original(
    case: Case, wanted: str, found: list[str]
) -> None:
    assert matching(wanted, case.settings[SETTING], case.originals, most=3) == found


def test_without_texts_ids_are_found() -> None:
    bare = Case(texts=False)
    assert matching("lima_9", bare.settings[SETTING], None, most=3) == ["lima_9"]


@pytest.mark.ui
def test_a_page_of_a_part_says_so_and_a_whole_one_asks_nobody(case: Case, open_page: Callable[..., Any]) -> None:
    page = open_page(case.html(most_similarities=6 * ONE))
    said = page.inner_text("#part")
    assert re.match(r"This page holds 6 of 24 samples: those that the full gradient decides wrongly", said)
    assert "gradsim ui" in said and page.locator("#samples li").count() == 6
    page.fill("#search", "lima_1")
    page.wait_for_timeout(500)
    assert page.inner_text("#part") == said, "a page that is a file asks nobody"
    whole = open_page(case.html())
    assert not whole.is_visible("#part") and "connect-src" not in case.html()
    assert all(address.startswith(("file:", "blob:")) for address in [*page.asked, *whole.asked])


def test_an_empty_table_makes_no_trouble(case: Case) -> None:
    results = case.settings[SETTING]
    none = results.of([])
    assert isinstance(none.similarity, pl.DataFrame) and none.similarity.is_empty() and listed(none) == []
