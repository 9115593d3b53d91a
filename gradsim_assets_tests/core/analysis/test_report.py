"""The report: its figures in words and numbers, its data, and the page in a real browser (mark `ui`)."""

import base64
import csv
import gzip
import io
import json
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.analysis.control_comparison import control_comparison
from gradsim_assets.core.analysis.plots import palette, wording
from gradsim_assets.core.analysis.report import sentences, summary, tokens
from gradsim_assets.core.analysis.report.citation import citation
from gradsim_assets.core.analysis.report.evaluation_table import evaluation_columns, evaluation_rows
from gradsim_assets.core.analysis.report.explorer import MOST_CANDIDATES, SCALE
from gradsim_assets.core.analysis.report.warnings import quantised_base
from gradsim_assets.core.analysis.retrieval import methods, retrieval
from gradsim_assets.core.analysis.retrieval_by_group import grouping, retrieval_by_group
from gradsim_assets.core.samples import sample_frame
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables import schemas
from gradsim_assets_tests.support.analysis_data import counterfactuals, evaluation, realistic
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.conversations import MESSAGES, conversation
from gradsim_assets_tests.support.report_case import EVIL, NAMES, Case


class Page(HTMLParser):
    """Texts outside of scripts and styles, scripts by id, and every address that a browser would fetch."""

    def __init__(self, html):
        super().__init__()
        self.scripts, self.text, self.fetched, self.tags = {}, "", [], []
        self._inside = None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self._inside = (tag, found.get("id", "")) if tag in ("script", "style") else None
        self.fetched += [found[name] for name in ("src", "srcset", "data", "poster") if name in found]
        if tag == "link":
            self.fetched.append(found.get("href"))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        elif self._inside[0] == "script":
            self.scripts[self._inside[1]] = self.scripts.get(self._inside[1], "") + data


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def explorer(html):
    return unpacked(Page(html), "explorer-data")


def unpacked(page, name):
    """Data of a page, as its script reads them."""
    return json.loads(gzip.decompress(base64.b64decode(page.scripts[name])))


def test_summary_is_the_designs(case):
    retrievals = {setting: results.retrieval for setting, results in case.settings.items()}
    found = summary("org/model", "abc123", case.parameters, retrievals, missing=3)
    assert list(found) == [
        "model",
        "revision",
        "parameters",
        "samples",
        "missing",
        "verdict",
        "settings",
        "controls",
        "headline",
    ]
    assert found["parameters"] == sum(case.parameters["parameters"])
    assert found["samples"] == 24 and found["missing"] == 3
    for setting, figures in found["settings"].items():
        rows = {row["method"]: row for row in case.settings[setting].retrieval.rows(named=True)}
        assert list(figures) == ["full_gradient", "bm25", "text_overlap", "chance", "best_component"]
        for method in ("full_gradient", "bm25", "chance"):
            assert figures[method] == {name: rows[method][name] for name in ("accuracy", "mrr")}
        assert figures["best_component"] == {name: rows["best_component"][name] for name in ("component", "accuracy")}
    json.dumps(found, allow_nan=False)


def test_summary_of_imported_results():
    case = Case(sizes=False, texts=False)
    found = summary("org/model", None, case.parameters, {"paraphrased": case.settings["paraphrased"].retrieval})
    assert found["parameters"] is None
    assert found["settings"]["paraphrased"]["bm25"] == {"accuracy": None, "mrr": None}


def test_page_is_self_contained(case):
    page = Page(case.html())
    assert page.fetched == []
    assert page.tags.count("script") == 7  # three of data, three libraries, our own
    assert "img" not in page.tags


def test_words_and_provenance(case):
    page = Page(case.html())
    full = case.settings["paraphrased"].retrieval.row(0, named=True)
    assert f"finds the own original of {24 - full['wrong']:.0f} of 24 variants" in page.text
    assert EVIL in page.text  # shown as text
    assert '"shards": 4' in page.text
    assert "abc123" in page.text
    assert "unknown" not in page.text


def test_copies_are_told_apart_in_words_and_figures(case):
    page = Page(case.html())
    row = case.settings["model_generated"].retrieval.row(0, named=True)
    assert (row["variants_verbatim"], row["variants_not_verbatim"]) == (9, 15)
    said = (
        "9 of the 24 answers are verbatim copies of their originals' (white space aside). On these the full gradient's "
        f"accuracy is {row['accuracy_verbatim']:.3f} (95\u00a0% interval {row['accuracy_verbatim_low']:.3f} to "
        f"{row['accuracy_verbatim_high']:.3f}), on the other 15 it is {row['accuracy_not_verbatim']:.3f}"
    )
    assert said in page.text
    assert "No answer is a verbatim copy of its original's." in page.text  # the paraphrases
    assert "9 verbatim copies" in page.text and "15 other answers" in page.text
    shown = unpacked(page, "explorer-data")["settings"]
    assert shown["model_generated"]["overlap"][8:10] == [
        "answer against the original's: verbatim copy",
        "answer against the original's: chrF 42 of 100",
    ]


def test_without_texts_nothing_is_said_of_copies():
    page = Page(Case(texts=False).html())
    assert "verbatim" not in page.text
    assert set(unpacked(page, "explorer-data")["settings"]["paraphrased"]["overlap"]) == {None}


def test_the_first_screen_says_how_many_were_found_and_then_how_the_control_does(case):
    case = case.copy()
    without = summary_of(case.html())
    full = case.settings["paraphrased"].retrieval.filter(method="full_gradient").row(0, named=True)
    assert without.startswith(f"{24 - full['wrong']:.0f} of 24 paraphrased variants found; BM25 ")
    assert without.split(". ", 2)[2].startswith("Nothing shows yet that these figures come from what")
    assert "beside controls" not in without
    scores, _ = counterfactuals()
    for setting, results in case.settings.items():
        compared = control_comparison(results.similarity, {"org/model+untrained": results.similarity})
        case.settings[setting] = replace(results, controls=compared, linear_datamodeling_score=scores)
    page = Page(case.html())
    text = summary_of(case.html())
    found = f"{24 - full['wrong']:.0f}"
    assert text.startswith(f"{found} of 24 paraphrased variants found; untrained control {found}; BM25 ")
    assert "; LDS 0.40 against 0.10 of BM25. " in text
    assert "With paraphrased variants the full gradient is not shown to find more own originals than" in text
    assert "Full gradient beside controls, model-generated" in page.text and "org/model+untrained" in page.text
    row = case.settings["paraphrased"].controls.filter(component="full_gradient").row(0, named=True)
    assert row["difference_low"] < 0 and f"{row['difference_low']:.3f} to {row['difference_high']:.3f}" in page.text
    drawn = unpacked(page, "figures-data")
    assert any("untrained control" in json.dumps(figure) for figure in drawn.values())
    assert "Beside its controls" in page.text


def summary_of(html):
    """What stands under the heading of the summary, in single spaces."""
    return " ".join(Page(html).text.split("Summary")[-1].split())


def test_the_title_names_model_data_number_and_day(case):
    text = " ".join(Page(case.html(dataset="my_samples.jsonl", made=date(2026, 11, 27))).text.split())
    assert "org/model Data my_samples.jsonl 24 variants" in text
    assert "Revision abc123 2026-11-27" in text


def test_the_page_says_how_it_is_cited(case):
    page = Page(case.html(dataset="my_samples.jsonl", made=date(2026, 11, 27)))
    for line in (
        "@misc{gradsim-org-model,",
        "title = {Training-data attribution by loss gradients: org/model},",
        "note = {revision abc123, data my\\_samples.jsonl, 24 variants},",
        "year = {2026},",
    ):
        assert line in page.text
    entry = citation("a_b/c&d~e", None, None, "3 variants", None)
    assert "a\\_b/c\\&d-e" in entry and "year" not in entry and "revision" not in entry


def test_settings_of_unequal_size_are_counted_apart(case):
    case = case.copy()
    fewer = Case(variants=20).settings["model_generated"]
    case.settings["model_generated"] = fewer
    assert "24 paraphrased and 20 model-generated variants" in " ".join(Page(case.html()).text.split())


def test_what_limits_the_figures_stands_at_the_top(case):
    case = case.copy()
    text = summary_of(case.html())
    assert "Only 24 paraphrased variants were scored" in text
    assert "9 of 24 model-generated answers are verbatim copies" in text and "of 24 paraphrased answers" not in text
    assert "recomputed by plain autograd" not in text, "nobody knows of tables that do not say it"
    case.settings["paraphrased"] = replace(case.settings["paraphrased"], checked_pairs=0)
    case.settings["model_generated"] = replace(case.settings["model_generated"], checked_pairs=12)
    assert "No product of the paraphrased setting was recomputed by plain autograd" in summary_of(case.html())
    assert "No product of the model-generated" not in summary_of(case.html())
    assert text.index("Before you read on") < text.index("Methods, paraphrased")
    large = summary_of(Case(variants=30, copies=0).html())
    assert "were scored: with fewer" not in large and "Before you read on" not in large


def test_one_table_says_what_every_methods_scores_are_worth(case):
    case = case.copy()
    scores, removed = counterfactuals()
    _, tail = evaluation(24)
    assert "What scores are worth" not in Page(case.html()).text
    results = replace(case.settings["paraphrased"], linear_datamodeling_score=scores, removal=removed, tail_patch=tail)
    columns = evaluation_columns(scores, removed, tail)
    rows = {row["name"]: row["cells"] for row in evaluation_rows(columns)}
    assert columns[0].heading == "LDS" and len(columns) == 3
    assert next(iter(rows)) == "full gradient", "which predicts retraining best"
    assert rows["full gradient"][0] == pytest.approx((0.4, 0.35, 0.44))
    assert rows["full gradient"][1] == pytest.approx((0.08, 0.05, 0.11))
    assert rows["random"][1] is None, "removal compares with it"
    assert not [name for name in rows if name.startswith("model.layers") or name == "component"]
    case.settings["paraphrased"] = results
    text = summary_of(case.html())
    assert "What scores are worth, paraphrased" in text and "0.400 0.350–0.440" in text
    assert len(evaluation_columns(None, None, tail)) == 1 and evaluation_columns(None, None, None) == []


def test_intervals_stand_beside_their_figures(case):
    page = Page(case.html())
    for row in case.settings["paraphrased"].retrieval.rows(named=True):
        for figure in ("accuracy", "mrr"):
            if row[f"{figure}_low"] is not None:
                assert f"{row[f'{figure}_low']:.3f}–{row[f'{figure}_high']:.3f}" in page.text


def test_candidates_without_a_score_are_a_warning_once():
    case = Case()
    assert "a score of 0" not in Page(case.html()).text
    for setting, results in case.settings.items():
        last = (pl.col("rank") == 5) & (pl.int_range(pl.len()) < 50)
        marked = results.bm25.with_columns(zero_score=last, score=pl.when(last).then(0.0).otherwise("score"))
        case.settings[setting] = replace(results, bm25=marked)
    text = Page(case.html()).text
    assert text.count("BM25 gives 10 candidates of 10 of 24 variants a score of 0 (no token in common)") == 1


def test_that_a_base_is_quantised_is_said_once_with_the_largest_error():
    how = "4 bits (nf4) by bitsandbytes 0.50.2"
    shards = [{"quantised": how, "dequantised_error": error} for error in (1e-6, 3e-6, None)]
    (said,) = quantised_base([*shards, {"revision": "a"}])
    assert said.startswith(f"The base of the adapter is in {how}: ")
    assert said.endswith("They are off from float64 by at most 3e-06 of a component's length.")
    assert "off from" not in quantised_base([{"quantised": how}])[0], "nobody has measured it"
    assert quantised_base([{"revision": "a"}]) == []


def test_the_explorer_looks_and_speaks_as_the_plots_do(case):
    style = unpacked(Page(case.html()), "explorer-data")["style"]
    for family, of_family in palette.FAMILY_STYLES.items():
        expected = {"name": wording.FAMILY_NAMES[family], "colour": of_family.colour, "symbol": of_family.symbol}
        assert style["families"][family] == expected
    assert style["cycle"] == list(palette.CYCLE)
    assert (style["depth"], style["similarity"]) == (wording.DEPTH, wording.SIMILARITY)


@pytest.mark.parametrize("accidents", [False, True])
def test_explorer_holds_the_similarities_and_exact_ranks(accidents):
    case = Case(accidents=accidents)
    for setting, raw in explorer(case.html())["settings"].items():
        pairs = case.pairs[setting]
        exact = np.vstack([pairs.similarity, pairs.full_similarity]).T
        stored = np.frombuffer(base64.b64decode(raw["similarity"]), "<i2").reshape(exact.shape)
        assert ((stored == -32768) == np.isnan(exact)).all()
        # Half a step of 1/32767 is the largest error of rounding.
        assert np.nanmax(np.abs(np.where(stored == -32768, np.nan, stored / SCALE) - exact)) <= 0.5 / SCALE + 1e-12
        ranks = np.frombuffer(base64.b64decode(raw["ranks"]), "<u4").reshape(-1, exact.shape[1]).T
        full = pairs.candidates.ranks(pairs.full_similarity)
        expected = np.vstack([pairs.ranks, full])
        assert (ranks == np.where(np.isinf(expected), 0, expected)).all()
        assert (
            raw["components"][raw["best"]]["component"]
            == (case.settings[setting].retrieval.filter(method="best_component")["component"][0])
        )


def test_exhaustive_retrieval_keeps_the_own_original_and_the_most_similar():
    case = Case(variants=30, candidates=30)
    pairs = case.pairs["paraphrased"]
    raw = explorer(case.html())["settings"]["paraphrased"]
    original = np.frombuffer(base64.b64decode(raw["original"]), "<u4")
    for place, variant in enumerate(raw["variants"]):
        shown = [raw["originals"][i] for i in original[raw["starts"][place] : raw["starts"][place + 1]]]
        of_variant = pairs.candidates.variant == place
        order = np.argsort(-pairs.full_similarity[of_variant])
        nearest = [name for name in pairs.candidates.originals[of_variant][order] if name != variant]
        assert set(shown) == {variant, *nearest[: MOST_CANDIDATES - 1]}
        assert raw["counts"][place] == 30


def test_one_setting_without_sizes_and_texts():
    page = Page(Case(sizes=False, texts=False).html(settings=["paraphrased"]))
    assert "parameter counts of the components are unknown" in page.text
    assert "no BM25 scores" in page.text
    assert "Not all texts" in page.text
    assert "model-generated" not in page.text
    assert unpacked(page, "texts-data") == {"originals": None, "variants": {"paraphrased": None}}


def test_doubtful_borders_are_said():
    case = Case()
    case.settings["paraphrased"] = replace(case.settings["paraphrased"], prompt_no_prefix=3)
    said = "the conversation does not begin with its prompt"
    assert (
        f"Of 3 samples behind the paraphrased setting (originals and variants, once for every shard) {said}"
        in Page(case.html()).text
    )
    assert said not in Page(case.html(settings=["model_generated"])).text


# ---- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def open_page(browser, tmp_path):
    errors = []

    def opened(html, width=1280, dark=False, address=""):
        (tmp_path / "index.html").write_text(html)
        # Playwright waits for conditions by evaluating strings, which the page's policy forbids; report/test_texts_in_browser.py
        # holds the page under its policy.
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            offline=True,
            color_scheme="dark" if dark else "light",
            bypass_csp=True,
        )
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto((tmp_path / "index.html").as_uri() + address)
        page.wait_for_selector("body[data-plots]")
        return page

    yield opened
    assert errors == []


@pytest.mark.ui
def test_explorer_by_mouse(case, open_page):
    page = open_page(case.html())
    # Wrong decisions first, then the most divergent.
    pairs = case.pairs["paraphrased"]
    right = pairs.candidates.ranks(pairs.full_similarity) == 1
    divergence = case.settings["paraphrased"].self_similarity.group_by("variant_id", maintain_order=True).first()
    first = sorted(range(24), key=lambda i: (right[i], divergence["divergence_rank"][i]))[0]
    assert page.inner_text("#sample-id") == pairs.candidates.variants[first]
    # Search by id, the exact one first.
    page.fill("#search", "lima_1")
    page.wait_for_function("document.querySelector('#sample-id').textContent === 'lima_1'")
    assert page.inner_text("#original-head") == "Original lima_1"
    assert f"original question lima_1 {EVIL}" in page.inner_text("#original-text")
    assert "paraphrased answer lima_1" in page.inner_text("#variant-text")
    assert page.get_attribute("body", "data-broken") is None
    # Search by text.
    page.fill("#search", "ANSWER lima_17")
    page.wait_for_function("document.querySelectorAll('#samples li').length === 1")
    # Choose a component: the table shows its exact similarities to four digits.
    page.fill("#search", "lima_1")
    page.wait_for_function("document.querySelector('#sample-id').textContent === 'lima_1'")
    name = "model.layers.2.mlp.up_proj.weight"
    page.select_option("#component", label=name)
    assert page.inner_text("#chosen-head") == name
    assert "answer against the original's: chrF 42 of 100" in page.inner_text("#verdict")
    shown = {
        cells[1].split()[0]: float(cells[4].replace("▲", ""))
        for cells in (row.split("\t") for row in page.inner_text("#candidates tbody").splitlines())
    }
    variant = pairs.candidates.variants.index("lima_1")
    rows = np.flatnonzero(pairs.candidates.variant == variant)
    exact = {pairs.candidates.originals[p]: pairs.similarity[NAMES.index(name), p] for p in rows}
    assert shown == pytest.approx(exact, abs=1e-4)
    # Read a rival beside the variant.
    page.click("#candidates tbody tr:nth-child(3) button")
    assert page.inner_text("#original-head").startswith("Candidate ")
    # The other setting, same sample.
    page.select_option("#setting", "model_generated")
    assert page.inner_text("#sample-id") == "lima_1"
    assert "model_generated answer lima_1" in page.inner_text("#variant-text")
    assert page.input_value("#component") == str(NAMES.index(name))


@pytest.mark.ui
def test_points_and_cells_choose_components(case, open_page):
    page = open_page(case.html())
    choose = """(id) => {
        const plot = document.getElementById(id), point = plot.data[1];
        plot.emit("plotly_click", { points: [{ customdata: point.customdata[0] }] });
        return point.customdata[0];
    }"""
    place = page.evaluate(choose, "all-components")
    assert page.input_value("#component") == str(place)
    heatmap = page.locator('[data-figure="model_generated-2"]')
    heatmap.scroll_into_view_if_needed()
    page.wait_for_selector('[data-figure="model_generated-2"][data-drawn]')
    # Block 0 of the first type: the second of four columns, behind the embedding's.
    area = heatmap.locator(".nsewdrag").first
    area.click(position={"x": area.bounding_box()["width"] * 1.5 / 4, "y": 5})
    page.wait_for_function("document.querySelector('#setting').value === 'model_generated'")
    assert page.inner_text("#chosen-head") == "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.ui
def test_a_conversation_is_read_turn_by_turn(open_page):
    case = Case()
    others = case.originals.filter(pl.col("id") != "lima_1").select("id", "messages")
    case.originals = pl.concat([others, sample_frame([conversation("lima_1")])], how="diagonal")
    page = open_page(case.html())
    page.fill("#search", "glaciers and lakes")
    page.wait_for_function("document.querySelector('#sample-id').textContent === 'lima_1'")
    said = [message["content"] or '{"name": "depth", "arguments": {"river": "Rhine"}}' for message in MESSAGES]
    roles = [message["role"] for message in MESSAGES]
    page.select_option("#reading", "raw")
    shown = page.locator("#original-text .message")
    assert shown.all_inner_texts() == [f"{role}\ncopy\n{text}" for role, text in zip(roles, said, strict=True)]
    assert page.locator("#variant-text .message").count() == 2


@pytest.mark.ui
def test_explorer_by_keyboard(case, open_page):
    page = open_page(case.html())
    page.keyboard.press("/")
    page.keyboard.type("question")
    page.keyboard.press("ArrowDown")  # to the list, at once: the search need not have run yet
    assert page.inner_text("#found").startswith("24 of 24")
    listed = page.locator("#samples li").all_inner_texts()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#sample-id") in listed[2]
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#sample-id") in listed[1]
    page.keyboard.press("End")
    assert page.inner_text("#sample-id") in listed[-1]
    before = int(page.input_value("#component"))
    page.keyboard.press("[")
    assert int(page.input_value("#component")) == before - 1
    page.keyboard.press("]")
    assert int(page.input_value("#component")) == before


@pytest.mark.ui
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(case, open_page, width):
    page = open_page(case.html(), width)
    for figure in page.query_selector_all("[data-figure]"):
        figure.scroll_into_view_if_needed()
        page.wait_for_selector(f'[data-figure="{figure.get_attribute("data-figure")}"][data-drawn]')
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wider = (
        "all => all.filter((one) => one.offsetWidth > one.closest('.scroll').clientWidth).map((one) => one.textContent)"
    )
    assert page.locator(".scroll caption").evaluate_all(wider) == [], "what tables say is read without scrolling"


@pytest.mark.ui
def test_imported_results_without_sizes_and_texts(open_page):
    page = open_page(Case(sizes=False, texts=False).html(settings=["paraphrased"]))
    assert "This report holds no text for it." in page.inner_text("#variant-text")
    assert page.locator("#candidates tbody tr").count() == 5


@pytest.mark.ui
def test_accidents_do_not_break_the_page(open_page):
    page = open_page(Case(accidents=True).html())
    for _ in range(24):
        page.press("#samples", "ArrowDown")
    page.fill("#search", "no such thing anywhere")
    page.wait_for_function("document.querySelector('#found').textContent.startsWith('0 of')")


@pytest.mark.ui
def test_what_is_open_stands_in_the_address_and_an_address_opens_it(case, open_page):
    page = open_page(case.html(), address="#model_generated/lima_1/layers.2.mlp.up_proj")
    assert (page.inner_text("#sample-id"), page.input_value("#setting")) == ("lima_1", "model_generated")
    assert page.inner_text("#chosen-head") == "model.layers.2.mlp.up_proj.weight"
    page.wait_for_function("document.querySelector('#explorer').getBoundingClientRect().top < 200")
    page.press("#samples", "ArrowDown")
    page.select_option("#component", label="full_gradient")
    opened = page.inner_text("#sample-id")
    assert page.evaluate("location.hash") == f"#model_generated/{opened}/full_gradient"
    page.evaluate("location.hash = '#paraphrased/lima_17/model.layers.0.mlp.gate_proj.weight'")
    page.wait_for_function("document.querySelector('#sample-id').textContent === 'lima_17'")
    assert page.inner_text("#chosen-head") == "model.layers.0.mlp.gate_proj.weight"
    page.evaluate("location.hash = '#paraphrased/nobody'")
    page.wait_for_function("document.querySelector('#found').textContent.startsWith('There is no sample nobody')")
    page.evaluate("location.hash = '#provenance'")
    assert page.inner_text("#sample-id") == "lima_17", "a section is no sample"


@pytest.mark.ui
def test_samples_are_shown_by_what_is_wrong_with_them(open_page):
    case = Case(accidents=True)
    page = open_page(case.html(), address="#model_generated/lima_1/layers.2.mlp.up_proj")
    candidates = case.pairs["model_generated"].candidates
    right = candidates.ranks(case.pairs["model_generated"].full_similarity) == 1
    component = case.pairs["model_generated"].ranks[NAMES.index("model.layers.2.mlp.up_proj.weight")] == 1
    page.select_option("#setting", "model_generated")

    def shown(name):
        page.select_option("#filter", name)
        return {
            text.split()[-1]
            for text in page.locator("#samples li").evaluate_all("all => all.map((n) => n.childNodes[1].textContent)")
        }

    def named(mask):
        return {name for name, chosen in zip(candidates.variants, mask, strict=True) if chosen}

    assert shown("all") == set(candidates.variants)
    assert shown("wrong") == named(~right) and shown("component") == named(component & ~right)
    verbatim = case.settings["model_generated"].variants.filter("verbatim")["id"].to_list()
    assert shown("verbatim") == set(verbatim)
    assert len(shown("close")) == 3, "a tenth of 24 samples"


@pytest.mark.ui
def test_words_that_differ_are_marked_and_texts_are_copied_whole(case, open_page):
    page = open_page(case.html(), address="#paraphrased/lima_1")
    assert page.locator("#original-text del").all_inner_texts() == ["original", "original"]
    assert page.locator("#variant-text ins").all_inner_texts() == ["paraphrased", "paraphrased"]
    page.click("#variant-text .message.assistant button")
    page.wait_for_function("document.querySelector('#variant-text .message.assistant button').textContent === 'copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "paraphrased answer lima_1"
    page.uncheck("#differences")
    assert page.locator("#original-text del").count() == 0
    assert page.locator("#candidates tr[aria-current]").count() == 1
    pairs = [
        ("", "a b"),
        ("the cat sat", "the dog sat"),
        ("a  b\nc", "a b c"),
        ("你好世界", "你们好世界"),
        ("x = 1;", "x = 2;"),
        ("same", "same"),
    ]
    for first, second in pairs:
        left, right = page.evaluate("([a, b]) => Texts.differences(a, b)", [first, second])
        assert "".join(part for part, _ in left) == first and "".join(part for part, _ in right) == second
        kept = [" ".join("".join(part for part, differs in side if not differs).split()) for side in (left, right)]
        assert kept[0].replace(" ", "") == kept[1].replace(" ", ""), "what is not marked is the same"
    found = page.evaluate("Texts.differences('你好世界', '你们好世界')")
    assert [part for part, differs in found[1] if differs] == ["们"]
    assert page.evaluate("Texts.differences('a '.repeat(3000), 'b '.repeat(3000))") is None, "too long to compare"


@pytest.mark.ui
def test_tables_are_copied_and_plots_saved_as_a_paper_takes_them(case, open_page, tmp_path):
    page = open_page(case.html())
    row = case.settings["paraphrased"].retrieval.filter(method="full_gradient").row(0, named=True)
    cell = f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f}–{row['accuracy_high']:.3f})"
    copies = page.locator("#summary .copies").first

    def copied(label):
        copies.get_by_text(label, exact=True).click()
        page.wait_for_selector("#summary .copies >> text=copied")
        page.wait_for_selector("#summary .copies >> text=copied", state="detached")
        return page.evaluate("navigator.clipboard.readText()")

    assert f"| full gradient | {cell} |" in copied("Markdown")
    assert copied("CSV").splitlines()[1].startswith(f"full gradient,{cell},")
    latex = copied("LaTeX")
    assert f"full gradient & {cell.replace('–', '--')} &" in latex and "\\toprule" in latex
    figure = page.locator('[data-name="paraphrased-retrieval"]')
    figure.scroll_into_view_if_needed()
    page.wait_for_selector('[data-name="paraphrased-retrieval"][data-drawn]')
    saved = {}
    for label in ("CSV", "PNG", "SVG"):
        with page.expect_download() as download:
            figure.locator("xpath=following-sibling::p").get_by_text(label).click()
        download.value.save_as(tmp_path / label)
        saved[label] = (tmp_path / label).read_bytes()
    lines = list(csv.DictReader(io.StringIO(saved["CSV"].decode())))
    named = {line["y"]: line for line in lines}
    for row in case.settings["paraphrased"].retrieval.rows(named=True):
        line = named[wording.method_name(row["method"])]
        assert float(line["value"]) == pytest.approx(row["accuracy"], abs=1e-9)
        if row["accuracy_low"] is not None:
            ends = float(line["low"]), float(line["high"])
            assert ends == pytest.approx((row["accuracy_low"], row["accuracy_high"]), abs=1e-9)
    # 3.3 inches at 300 points; a browser's pixels are whole.
    assert saved["PNG"][:8] == b"\x89PNG\r\n\x1a\n" and abs(int.from_bytes(saved["PNG"][16:20]) - 990) <= 2
    assert saved["SVG"].startswith(b"<svg")


@pytest.mark.ui
def test_on_paper_everything_is_drawn_and_nothing_is_to_be_pressed(case, open_page):
    page = open_page(case.html(), dark=True)
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("[...document.querySelectorAll('[data-figure]')].every((figure) => figure.dataset.drawn)")
    for hidden in ("nav", ".controls", "#samples", ".copies >> nth=0"):
        assert not page.locator(hidden).first.is_visible()
    assert page.locator("#original-text").is_visible() and page.locator("#cite-text").is_visible()
    inks = page.locator(".xtitle").evaluate_all("all => all.map((node) => getComputedStyle(node).fill)")
    assert set(inks) == {"rgb(34, 34, 34)"}, "paper is white, whatever the screen is"
    drawn = (
        "[...document.querySelectorAll('[data-figure] .main-svg')].map((node) => node.getBoundingClientRect().width)"
    )
    assert max(page.evaluate(drawn)) <= 660, "as wide as a sheet, however wide the screen is"
    page.emulate_media(media="screen", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    page.wait_for_function("document.documentElement.scrollWidth <= 1280")


@pytest.mark.ui
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_everybody_can_read_it(case, open_page, width, dark):
    page = open_page(case.html(dataset="data.jsonl", made=date(2026, 11, 27)), width, dark)
    for figure in page.query_selector_all("[data-figure]"):
        figure.scroll_into_view_if_needed()
        page.wait_for_selector(f'[data-figure="{figure.get_attribute("data-figure")}"][data-drawn]')
    assert violations(page) == []
    if dark:
        inks = page.locator(".xtitle").evaluate_all("all => all.map((node) => getComputedStyle(node).fill)")
        assert set(inks) == {"rgb(232, 234, 238)"}, "ink is light on a dark page"


def attributed(case, setting, wrong=True):
    """The table `token_attribution`: every text cut at spaces, with numbers of its own, in each variant's own pair and another."""
    rows = []
    ids = case.settings[setting].variants["id"].to_list()
    texts = {
        side: {i: "".join(m["content"] for m in messages) for i, messages in frame.select("id", "messages").iter_rows()}
        for side, frame in (("variant", case.settings[setting].variants), ("original", case.originals))
    }
    candidates = dict(case.settings[setting].similarity.select("variant_id", "original_id").unique().iter_rows())
    for variant in ids:
        for original in dict.fromkeys((variant, candidates[variant]) if wrong else (variant,)):
            for side, name in (("variant", variant), ("original", original)):
                pieces = ["<|user|>", *re.findall(r"\S+|\s", texts[side][name])]
                for place, piece in enumerate(pieces):
                    value = (-1) ** place * (place + 1) / 8
                    rows.append((variant, original, side, place, piece, value, 0))
    return schemas.TOKEN_ATTRIBUTION.enforce(
        pl.DataFrame(rows, schema=list(schemas.TOKEN_ATTRIBUTION.columns), orient="row")
    )


def test_tokens_cut_messages_up_and_keep_their_sum():
    case = Case(variants=6)
    table = attributed(case, "paraphrased")
    texts = {
        i: [[m["role"], m["content"]] for m in messages]
        for i, messages in case.originals.select("id", "messages").iter_rows()
    }
    name = next(iter(texts))
    found = tokens.tokens(table, None, texts)
    (user, assistant) = found["texts"]["original"][name]
    assert [user[0], assistant[0]] == ["user", "assistant"] and user[1] is None
    assert user[2] == 1, "the template's token stands before it"
    assert sum(user[3]) == len(texts[name][0][1]) and sum(assistant[3]) == len(texts[name][1][1])
    ((role, whole, first, lengths),) = found["texts"]["variant"][name]
    assert (role, first) == ("text", 0) and sum(lengths) == len(whole), (
        "what the page has no text of is shown as it was read"
    )
    told = found["pairs"][name][name]["original"]
    own = table.filter(variant_id=name, original_id=name, side="original")["contribution"]
    parts = np.frombuffer(base64.b64decode(told["parts"]), "<i2") * told["largest"] / 32767
    assert told["total"] == own.sum()
    # 16 bits: half a step for each.
    assert parts == pytest.approx(own.to_numpy(), abs=told["largest"] / 65534 * 1.01)


def test_parts_of_a_character_count_where_it_ends_and_lengths_are_those_of_browsers():
    frame = schemas.TOKEN_ATTRIBUTION.enforce(
        pl.DataFrame(
            {
                "variant_id": "a",
                "original_id": "a",
                "side": ["variant"] * 3 + ["original"],
                "position": [0, 1, 2, 0],
                "token": ["", "🥚", "!", "x"],
                "contribution": [1.0, 2.0, -4.0, -1.0],
                "linked": [0, 0, 0, 2],
            }
        )
    )
    found = tokens.tokens(frame, {"a": [["user", "🥚!"]]}, {"a": [["user", "another text"]]})
    assert found["texts"] == {"variant": {"a": [["user", None, 1, [2, 1]]]}, "original": {"a": [["text", "x", 0, [1]]]}}
    told = found["pairs"]["a"]["a"]["variant"]
    assert np.frombuffer(base64.b64decode(told["parts"]), "<i2").tolist() == [0, round(3 / 4 * 32767), -32767]


def test_a_page_holds_no_more_tokens_than_open_in_a_moment(monkeypatch):
    case = Case(variants=6)
    table = attributed(case, "paraphrased")
    first = table.filter(
        pl.struct("variant_id", "original_id") == table.select(pl.struct("variant_id", "original_id")).row(0)[0]
    )
    monkeypatch.setattr(tokens, "MOST_TOKENS", first.height)
    assert sum(map(len, tokens.tokens(table, None, None)["pairs"].values())) == 1


@pytest.mark.ui
@pytest.mark.parametrize("dark", [False, True])
def test_texts_are_coloured_by_token_where_that_was_asked_for(open_page, dark):
    case = Case(variants=6)
    assert 'id="differences"' in case.html() and 'id="marked"' not in case.html(), "without the table all is as it was"
    case.settings["paraphrased"] = replace(
        case.settings["paraphrased"], token_attribution=attributed(case, "paraphrased", wrong=False)
    )
    page = open_page(case.html(), dark=dark)
    said, tokens_of = page.locator("#token-said"), page.locator("#variant-text .message").first.locator(".token")
    assert page.locator("#token-help").is_visible()
    shown = page.locator("#variant-text .message").first.inner_text()
    assert "<img src=x onerror=" in shown and page.evaluate("document.body.dataset.broken") is None
    assert tokens_of.count() > 5 and "%" in tokens_of.first.get_attribute("title")
    weak, strong = (tokens_of.nth(n).evaluate("node => getComputedStyle(node).backgroundColor") for n in (0, 6))
    assert weak != strong
    page.locator("#variant-text .message").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "of the variant:" in said.inner_text() and "% of the product" in said.inner_text()
    assert "Tokens of the template:" in page.locator("#original-text").inner_text()
    assert violations(page) == []
    page.locator("#candidates tbody tr:not(.own)").first.click()
    assert page.locator("#token-lacking").is_visible() and page.locator("#variant-text ins").count()
    page.locator("#candidates tbody tr.own").click()
    page.select_option("#marked", "nothing")
    assert not page.locator("#variant-text ins, #variant-text .token").count()
    page.select_option("#setting", "model_generated")
    page.select_option("#marked", "tokens")
    assert page.locator("#token-lacking").is_visible(), "of this setting nobody has asked for tokens"


def test_the_page_says_what_the_scores_mean_where_it_was_evaluated():
    case = Case()
    assert "What the scores mean" not in Page(case.html()).text
    first, tail = evaluation(24)
    case.settings["paraphrased"] = replace(case.settings["paraphrased"], first_order=first, tail_patch=tail)
    page = Page(case.html())
    assert "What the scores mean" in page.text
    said = sentences.meaning(first, tail)
    assert all(sentence in page.text for sentence in said) and len(said) == 4
    assert "say under [training] how it was made from the originals" in said[3]
    assert "over 48 pairs r is 1.0000" in said[0] or "over 48 pairs r is 0.9999" in said[0]
    best = tail.filter(method=f"{schemas.FULL_GRADIENT}_dot_product")["log_probability_change"].mean()
    over = best - tail.filter(method="random")["log_probability_change"].mean()
    assert f"full gradient, dot product raises the log-probability of a variant most, by {over:.5f} nats" in said[1]
    assert "over 24 variants; 4 of 4 methods lie above random originals" in said[1]
    second = tail.filter(method=schemas.FULL_GRADIENT)["log_probability_change"].mean()
    less = f"The runner-up is full gradient, on the same variants {best - second:.5f} less (95\u00a0% interval 0.000"
    assert said[2].startswith(less) and "cannot be told" not in said[2]
    figures = unpacked(page, "figures-data")
    assert {"paraphrased-proof0", "paraphrased-proof1"} <= set(figures)
    assert not [name for name in figures if name.startswith("model_generated-proof")]
    points = [trace for trace in figures["paraphrased-proof0"]["data"] if trace["mode"] == "markers"]
    assert [trace["name"] for trace in points] == [wording.OTHER, wording.OWN]


def test_the_page_says_what_retraining_showed():
    scores, removed = counterfactuals()
    case = Case()
    case.settings["model_generated"] = replace(
        case.settings["model_generated"], linear_datamodeling_score=scores, removal=removed
    )
    page = Page(case.html())
    said = sentences.meaning(None, None, scores, removed)
    assert all(sentence in page.text for sentence in said) and len(said) == 5
    assert said[0].startswith("Of 40 models made again from halves of the originals, full gradient predicts best")
    assert (
        "score is 0.400 (95\u00a0% interval 0.350 to 0.440) over 30 variants; representation similarity 0.300"
        in said[0]
    )
    assert "random scores 0.000 (95\u00a0% interval -0.050 to 0.040)" in said[0]
    single = scores.filter(method="component")
    ends = "95\u00a0% interval 0.250 to 0.340"
    assert said[1] == f"The runner-up is representation similarity with 0.300 ({ends}): the intervals do not overlap."
    assert said[2].startswith(
        f"{single.filter(pl.col('lds') > 0.05).height} of {single.height} components alone predict"
    )
    assert f"{single.sort('lds')['component'][-1]}, reaches {single['lds'].max():.3f}" in said[2]
    assert "without the top original of full gradient" in said[3]
    assert (
        "rises by 0.0800 nats per token more than without random ones (95\u00a0% interval 0.0500 to 0.1100)" in said[3]
    )
    assert "3 of 4 methods lie above random removal" in said[3]
    assert said[4] == (
        "The runner-up is representation similarity with 0.0600 (95\u00a0% interval 0.0300 to 0.0900): the intervals overlap, so "
        "this does not tell which is better."
    )
    figures = unpacked(page, "figures-data")
    assert {"model_generated-proof0", "model_generated-proof1", "model_generated-proof2"} <= set(figures)
    bars = figures["model_generated-proof0"]["data"][0]["y"]
    assert any(bar.startswith("all self_attn.q_proj") for bar in bars) and not any("layers" in bar for bar in bars)


def test_what_was_not_evaluated_is_not_told_of():
    first, tail = evaluation(3)
    assert sentences.meaning(None, None) == [] and len(sentences.meaning(first, None)) == 2
    same = first.with_columns(predicted=pl.lit(1e-4))
    assert "do not differ" in sentences.meaning(same, None)[0]
    assert sentences.meaning(None, tail.filter(method="random"))[0] == (
        "No variant could be compared with steps on random originals."
    )


def lds_rows(**scores):
    """A table `linear_datamodeling_score` of methods, each with (score, half of its interval)."""
    rows = [(name, None, value, value - half, value + half, 40, 30) for name, (value, half) in scores.items()]
    return schemas.LINEAR_DATAMODELING_SCORE.enforce(
        pl.DataFrame(rows, schema=schemas.LINEAR_DATAMODELING_SCORE.empty().schema, orient="row")
    )


def test_the_page_says_what_preconditioning_and_selecting_do_under_retraining():
    scores = {"full_gradient": (0.48, 0.05), "ekfac": (0.6, 0.04), "adam": (0.5, 0.05), "best_component": (0.49, 0.04)}
    frame = lds_rows(**scores, **{"projection_0.01": (0.3, 0.05), "projection_0.05": (0.44, 0.05)}, random=(0, 0.05))
    said = sentences.meaning(None, None, frame)
    assert said[0].count("full gradient, EK-FAC predicts best") == 1 and "Adam's moments with 0.500" in said[1]
    assert said[1].endswith("the intervals do not overlap.")
    assert said[2] == (
        "Beside the plain full gradient's 0.480 (95\u00a0% interval 0.430 to 0.530), preconditioned ones predict with: Adam's "
        "moments 0.500 (95\u00a0% interval 0.450 to 0.550), the intervals overlap, so this does not tell which is better; EK-FAC "
        "0.600 (95\u00a0% interval 0.560 to 0.640), the intervals do not overlap."
    )
    assert said[3].startswith("The one component that other variants chose predicts with 0.490")
    assert "projection, 1 % 0.300 (95\u00a0% interval 0.250 to 0.350): the intervals do not overlap" in said[3]
    assert "projection, 5 % 0.440 (95\u00a0% interval 0.390 to 0.490): the intervals overlap" in said[3]
    alone = sentences.meaning(None, None, lds_rows(full_gradient=(0.4, 0.1)))
    assert len(alone) == 1, "there is no other method, none preconditioned and none projected"


def test_methods_that_come_out_the_same_are_no_runners_up():
    _, removed = counterfactuals()
    same = removed.with_columns(
        *(pl.lit(value).alias(name) for name, value in (("loss_increase", 0.7), ("loss_increase_low", None)))
    )
    said = sentences.meaning(None, None, None, same)
    assert said[1] == "text overlap, representation similarity and full gradient come out exactly the same."
    first = pl.col("method") == "bm25"
    unknown = same.with_columns(loss_increase=pl.when(first).then(0.9).otherwise("loss_increase"))
    said = sentences.meaning(None, None, None, unknown)
    assert said[1] == "The runner-up is text overlap with 0.7000; how far others might lie is not known."


def test_steps_that_do_as_much_are_not_told_apart():
    _, tail = evaluation(24)
    best, other = (pl.col("method") == f"{schemas.FULL_GRADIENT}{end}" for end in ("_dot_product", ""))
    change = pl.col("log_probability_change")
    like_best = tail.filter(best)["log_probability_change"].to_numpy() - np.tile([1e-4, -0.9e-4], 12)
    noisy = tail.with_columns(change.sort_by(pl.lit(0)).alias("log_probability_change"))
    near = pl.concat(
        [noisy.filter(~other), noisy.filter(other).with_columns(log_probability_change=pl.Series(like_best))]
    )
    said = sentences.meaning(None, near)
    assert "full gradient, on the same variants 0.00001 less" in said[1] and "which cannot be told from 0" in said[1]


@pytest.mark.parametrize(
    ("right", "says"),
    [(range(24), "which is more"), (range(2), "which is less"), (range(11, 23), "which may be chance")],
    ids=["all", "few", "as many"],
)
def test_what_preconditioning_changes_is_said_with_its_paired_interval(right, says):
    table = realistic(24, 5, NAMES)
    pairs = PairProducts.from_frame(table, NAMES)
    chosen = {pairs.candidates.variants[number] for number in right}
    own = pl.col("variant_id") == pl.col("original_id")
    is_right = pl.col("variant_id").is_in(chosen)
    cosine = pl.when(own).then(pl.when(is_right).then(0.9).otherwise(-0.9)).otherwise(0.1)

    def rows(score):
        return table.with_columns(dot_product=score, variant_self=pl.lit(1.0), original_self=pl.lit(1.0))

    half = pl.col("variant_id").is_in(pairs.candidates.variants[:12])
    plain = PairProducts.from_frame(rows(pl.when(own).then(pl.when(half).then(0.9).otherwise(-0.9)).otherwise(0.1)))
    found = retrieval(plain, preconditioned=rows(cosine).with_columns(preconditioner=pl.lit("ekfac")))
    (said,) = (s for s in sentences.sentences(found, None, None) if s.startswith("Preconditioned"))
    row = found.row(by_predicate=pl.col("method") == "ekfac", named=True)
    low, high = -row["difference_high"], -row["difference_low"]
    assert said == (
        f"Preconditioned (EK-FAC), the full gradient reaches {len(right) / 24:.3f}, {len(right) / 24 - 0.5:+.3f} beside the plain "
        f"one ({wording.interval(low, high)}, {wording.p_value(row['p_value'])}), {says}."
    )


@pytest.mark.parametrize(
    ("values", "projected", "verdict"),
    [
        ((0.9, 0.95), (0.5, 0.4, 0.6), "selecting is better"),
        ((0.2, 0.3), (0.5, 0.4, 0.6), "projecting is better"),
        ((0.45, 0.95), (0.5, 0.4, 0.6), "they cannot be told apart"),
        ((0.55, 0.58), (0.5, 0.4, 0.6), "they cannot be told apart"),
    ],
    ids=["better", "worse", "splits differ", "within the interval"],
)
def test_selecting_is_compared_with_projecting_at_equal_cost_on_held_out_samples(values, projected, verdict):
    case = Case()
    retrieved, greedy = (getattr(case.settings["paraphrased"], name) for name in ("retrieval", "greedy"))
    one = retrieved.filter(method="full_gradient").with_columns(
        method=pl.lit("projection_0.05"),
        **dict(zip(("accuracy", "accuracy_low", "accuracy_high"), map(pl.lit, projected), strict=True)),
    )
    retrieved = retrieved.filter(~pl.col("method").str.starts_with("projection"))
    rounds = greedy.filter(criterion="accuracy", evaluation="held_out").group_by("split", maintain_order=True).head(2)
    share = pl.when(pl.col("round") == 1).then(0.03).otherwise(0.06)
    by_split = dict(zip(rounds["split"].unique(maintain_order=True), values, strict=True))
    value = pl.when(pl.col("round") == 1).then(pl.col("split").replace_strict(by_split)).otherwise(0.01)
    chosen = rounds.with_columns(parameter_share=share, value=value)
    said = [s for s in sentences.sentences(pl.concat([retrieved, one]), chosen, None) if "other samples find" in s]
    assert said == [
        f"With 5\u00a0% of the parameters, components that were chosen on other samples find {sum(values) / 2:.3f} of the originals "
        f"(mean over 2 splits, {values[0]:.3f} to {values[1]:.3f}), a random projection of that size 0.500 "
        f"(95\u00a0% interval 0.400 to 0.600): {verdict}."
    ]
    assert not any("other samples find" in s for s in sentences.sentences(retrieved.head(1), chosen, None))


def grouped(case):
    """The case with topics, languages and a note of every original, the first of which has no topic."""
    ids = case.pairs["paraphrased"].candidates.variants
    topics = [None, *(("maths", "art", EVIL)[n % 3] for n in range(1, len(ids)))]
    columns = pl.DataFrame({"id": ids, "topic": topics, "note": [f"note {n}" for n in range(len(ids))]})
    groups = grouping(columns, ["topic"]).groups
    for setting, pairs in case.pairs.items():
        table = retrieval_by_group(pairs.candidates, methods(pairs), groups)
        case.settings[setting] = replace(case.settings[setting], by_group=table)
    return case, dict(zip(ids, topics, strict=True)), columns


def test_figures_stand_by_group_with_their_numbers_and_small_ones_are_said():
    case, topics, columns = grouped(Case())
    page = Page(case.html(columns=columns))
    assert "Accuracy by topic, paraphrased" in page.text and "Accuracy by topic, model-generated" in page.text
    assert "4 of 4 groups by topic have fewer than 10 variants" in page.text
    row = case.settings["paraphrased"].by_group.filter(group="maths", method="full_gradient").row(0, named=True)
    assert row["variants"] == list(topics.values()).count("maths")
    shown = " ".join(page.text.split())
    low = "" if row["mrr_low"] is None else f" {row['mrr_low']:.3f}–{row['mrr_high']:.3f}"
    figures = f"maths{row['variants']} few {row['mrr']:.3f}{low} {row['accuracy']:.3f}"
    assert figures in shown and "(none)1 few" in shown
    data = unpacked(page, "explorer-data")
    assert data["groups"] == ["topic"] and set(data["columns"]) == {"topic", "note"}
    assert data["columns"]["topic"] == {name: topic for name, topic in topics.items() if topic is not None}


@pytest.mark.ui
def test_samples_are_chosen_by_group_and_show_their_columns(open_page):
    case, topics, columns = grouped(Case())
    page = open_page(case.html(columns=columns))

    def shown():
        return set(page.locator("#samples li").evaluate_all("all => all.map((n) => n.childNodes[1].textContent)"))

    for wanted in ("maths", EVIL, None):
        value = json.dumps(["topic", "(none)" if wanted is None else wanted], separators=(",", ":"))
        page.select_option("#group", value)
        assert shown() == {name for name, topic in topics.items() if topic == wanted}
    first = next(name for name, topic in topics.items() if topic is None)
    assert page.locator("#sample-id").text_content() == first
    assert page.locator("#columns").text_content() == f"note: {columns['note'][0]}"
    page.select_option("#setting", "model_generated")
    assert shown() == {first}, "the group stays chosen"
    page.select_option("#group", "")
    assert len(shown()) == len(topics)
    assert page.evaluate("document.body.dataset.broken") is None
