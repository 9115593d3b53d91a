"""The predecessor's files: whole, in parts, both, damaged; and back again without loss."""

import json
import math
from pathlib import Path

import pytest

from gradsim_assets.core.analysis.accuracy_per_component import accuracy_per_component
from gradsim_assets.core.analysis.agreement import agreement
from gradsim_assets.core.analysis.retrieval import order_as_bm25, retrieval
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.exchange.scripts_format import read_scripts, write_scripts
from gradsim_assets.core.exchange.scripts_format.layout import id_ranges
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets_tests.support import brute_force
from gradsim_assets_tests.support.analysis_data import block_names
from gradsim_assets_tests.support.scripts_data import MODEL, ScriptsRun, dump

NAMES = block_names(1)
DOTS = Path("dot_products/paraphrased") / MODEL / "sample_size/full"


@pytest.fixture(scope="module")
def run() -> ScriptsRun:
    return ScriptsRun(33, NAMES)


def texts(imported) -> str:
    return "\n".join(map(str, imported.findings))


@pytest.mark.parametrize("part_size, merged", [(None, True), (10, False), (10, True)])
def test_import_then_export_is_lossless(run, tmp_path, part_size, merged):
    for setting in ("paraphrased", "model_generated"):
        run.write(tmp_path / "data", setting, part_size, merged)
    imported = read_scripts(tmp_path / "data", MODEL, known_ids=run.ids)
    assert imported.findings == []  # differences of 3e-6 between parts are nothing to report
    assert imported.components == NAMES
    assert list(imported.settings) == ["paraphrased", "model_generated"]
    for setting, tables in imported.settings.items():
        assert tables.dot_products.rows() == run.expected_rows()
        write_scripts(
            tmp_path / "again",
            MODEL,
            setting,
            tables.dot_products,
            tables.gradient_similarity,
            tables.projected_similarity,
        )
    # The exported whole files equal those that the run wrote, as texts: numbers, order of keys and names of files.
    run.write(tmp_path / "expected", "paraphrased")
    run.write(tmp_path / "expected", "model_generated")
    expected = sorted(path.relative_to(tmp_path / "expected") for path in (tmp_path / "expected").rglob("*.json"))
    assert expected == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.json"))
    for path in expected:
        assert (tmp_path / "again" / path).read_text() == (tmp_path / "expected" / path).read_text()


def test_parts_are_sorted_as_numbers(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=3, merged=False)  # _part_9_12 comes before _part_12_15
    table = read_scripts(tmp_path, MODEL).settings["paraphrased"].dot_products
    assert table["variant_id"].unique(maintain_order=True).to_list() == run.ids


def test_analyses_of_imported_results_against_brute_force(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    tables = read_scripts(tmp_path, MODEL).settings["paraphrased"]
    pairs = PairProducts.from_frame(tables.dot_products)
    rows = run.expected_rows()
    found = accuracy_per_component(pairs)
    assert found["accuracy"].to_list() == [brute_force.accuracy(brute_force.ranks(rows, [c])) for c in NAMES]
    assert found["parameters"].to_list() == [None] * len(NAMES)
    expected = [brute_force.rho(rows, [c]) for c in NAMES]
    assert agreement(pairs)["agreement"].to_list() == pytest.approx(expected, rel=1e-12)
    methods = retrieval(pairs, tables.projected_similarity, order_as_bm25(pairs))["method"].to_list()
    assert methods == ["full_gradient", "projection_0.01", "projection_0.05", "bm25", "best_component", "chance"]


def test_sizes_give_proportions_and_the_nominal_dimension_back(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    sizes = dict.fromkeys(NAMES, 0) | {NAMES[0]: 1_176_764_416}  # AMD-OLMo-1B
    table = read_scripts(tmp_path, MODEL, sizes).settings["paraphrased"].projected_similarity
    assert table.select("proportion", "dimension").unique().sort("dimension").rows() == [
        (0.01, 11767808),
        (0.05, 58838016),
    ]
    (path,) = write_scripts(tmp_path / "again", MODEL, "paraphrased", None, None, table, sum(sizes.values()))
    assert json.loads(path.read_text()) == run.projected


def test_one_projection_without_sizes_is_named_by_its_dimension(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    path = tmp_path / "gradient_similarity/random_projection/paraphrased" / MODEL / "sample_size_full.json"
    dump(path, {"11767808": run.projected["11767808"]})
    imported = read_scripts(tmp_path, MODEL)
    assert "proportions of the projections are unknown" in texts(imported)
    assert imported.settings["paraphrased"].projected_similarity["proportion"].null_count() == 165


# ---- damage -----------------------------------------------------------------------------------------------------------


def test_missing_part(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    (tmp_path / DOTS / "dot_products_part_10_20.json").unlink()
    imported = read_scripts(tmp_path, MODEL)
    table = imported.settings["paraphrased"].dot_products
    assert table["variant_id"].unique(maintain_order=True).to_list() == run.ids[:10] + run.ids[20:]
    assert "rows 10 to 20 are missing" in texts(imported)
    assert "self products but no pairs of the variants lima_11 to lima_13, lima_15 to lima_20, lima_22" not in texts(
        imported
    )
    assert "dot_products has no part of the rows 10 to 20, other kinds do" in texts(imported)
    kept = [row for row in run.expected_rows() if row[0] in set(run.ids[:10] + run.ids[20:])]
    assert table.rows() == kept
    write_scripts(tmp_path / "again", MODEL, "paraphrased", table)
    again = json.loads((tmp_path / "again" / DOTS / "dot_products.json").read_text())
    assert again == {v: c for v, c in run.products.items() if v not in run.ids[10:20]}


def test_missing_last_part(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    (tmp_path / DOTS / "dot_products_part_30_33.json").unlink()
    assert "dot_products has no part of the rows 30 to 33, other kinds do" in texts(read_scripts(tmp_path, MODEL))


def test_missing_self_products(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    (tmp_path / DOTS / "paraphrased_dot_products_part_0_10.json").unlink()
    imported = read_scripts(tmp_path, MODEL)
    table = imported.settings["paraphrased"].dot_products
    assert f"no self products of the variants {id_ranges(run.ids[:10])}" in texts(imported)
    # Their similarities are undefined, which never wins; all the others stand.
    ranks = PairProducts.from_frame(table).ranks
    assert all(math.isinf(rank) for rank in ranks[:, :10].ravel())
    assert not any(math.isinf(rank) for rank in ranks[:, 10:].ravel())
    write_scripts(tmp_path / "again", MODEL, "paraphrased", table)
    again = json.loads((tmp_path / "again" / DOTS / "paraphrased_dot_products.json").read_text())
    assert again == {v: run.selfs["variant"][v] for v in run.ids[10:]}


def test_truncated_part(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    path = tmp_path / DOTS / "dot_products_part_20_30.json"
    path.write_text(path.read_text()[:1000])
    imported = read_scripts(tmp_path, MODEL)
    assert "dot_products_part_20_30.json cannot be read" in texts(imported)
    assert "rows 20 to 30 are missing" in texts(imported)
    table = imported.settings["paraphrased"].dot_products
    assert table["variant_id"].unique(maintain_order=True).to_list() == run.ids[:20] + run.ids[30:]


def test_truncated_whole_file_is_mended_from_its_parts(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=True)
    path = tmp_path / DOTS / "dot_products.json"
    path.write_text(path.read_text()[:-1])
    imported = read_scripts(tmp_path, MODEL)
    assert "dot_products.json cannot be read" in texts(imported)
    assert imported.settings["paraphrased"].dot_products.rows() == run.expected_rows()


def test_truncated_only_file(run, tmp_path):
    dump(tmp_path / DOTS / "dot_products.json", {})
    (tmp_path / DOTS / "dot_products.json").write_text('{"lima_0": {')
    with pytest.raises(InputError, match=r"nothing of amd/AMD-OLMo-1B-SFT .* cannot be read"):
        read_scripts(tmp_path, MODEL)


def test_file_of_another_shape(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    dump(tmp_path / DOTS / "dot_products_part_20_30.json", {"lima_23": [1, 2]})
    imported = read_scripts(tmp_path, MODEL)
    assert "dot_products_part_20_30.json is no JSON object nested 3 deep" in texts(imported)
    assert "rows 20 to 30 are missing" in texts(imported)


def test_doubled_part(run, tmp_path):
    run.write(tmp_path, "paraphrased", part_size=10, merged=False)
    first = tmp_path / DOTS / "dot_products_part_0_10.json"
    # The same samples once more under another range, with one value that differs for real.
    content = json.loads(first.read_text())
    content["lima_0"]["lima_0"][NAMES[0]] += 1
    dump(tmp_path / DOTS / "dot_products_part_0_5.json", dict(list(content.items())[:5]))
    imported = read_scripts(tmp_path, MODEL)
    assert "rows 0 to 5 are in dot_products_part_0_5.json too" in texts(imported)
    assert "files differ by more than 1e-05 for lima_0" in texts(imported)
    assert imported.settings["paraphrased"].dot_products.rows() == run.expected_rows()  # the higher range won


def test_not_a_number(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    content = json.loads((tmp_path / DOTS / "dot_products.json").read_text())
    content["lima_1"]["lima_1"][NAMES[2]] = math.nan
    dump(tmp_path / DOTS / "dot_products.json", content)
    imported = read_scripts(tmp_path, MODEL)
    assert f"dot_product is not a number in 1 rows (first: variant lima_1, original lima_1, {NAMES[2]})" in texts(
        imported
    )
    table = imported.settings["paraphrased"].dot_products
    pairs = PairProducts.from_frame(table)
    assert math.isinf(pairs.ranks[2, 1])
    assert math.isnan(pairs.full_similarity[pairs.candidates.slots[0, 1]])
    write_scripts(tmp_path / "again", MODEL, "paraphrased", table)
    written = (tmp_path / "again" / DOTS / "dot_products.json").read_text()
    assert written == (tmp_path / DOTS / "dot_products.json").read_text()


def test_unknown_component(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    content = json.loads((tmp_path / DOTS / "dot_products.json").read_text())
    content["lima_1"]["lima_1"]["model.layers.99.nonsense.weight"] = 1.0
    dump(tmp_path / DOTS / "dot_products.json", content)
    imported = read_scripts(tmp_path, MODEL)
    assert "component model.layers.99.nonsense.weight, which most pairs do not have" in texts(imported)
    assert imported.settings["paraphrased"].dot_products.rows() == run.expected_rows()
    with_sizes = read_scripts(tmp_path, MODEL, dict.fromkeys([*NAMES, "lm_head.weight"], 5))
    assert "which the config's model does not have" in texts(with_sizes)
    assert "the results have no component lm_head.weight" in texts(with_sizes)


def test_component_missing_in_a_pair(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    content = json.loads((tmp_path / DOTS / "dot_products.json").read_text())
    del content["lima_1"]["lima_1"][NAMES[2]]
    dump(tmp_path / DOTS / "dot_products.json", content)
    imported = read_scripts(tmp_path, MODEL)
    assert f"component {NAMES[2]} is missing in some pairs (1 of 165" in texts(imported)
    assert imported.components == NAMES


def test_config_of_another_model(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    with pytest.raises(InputError, match=r"pass the config\.json of the model"):
        read_scripts(tmp_path, MODEL, {"transformer.wte.weight": 5})


def test_foreign_ids(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    imported = read_scripts(tmp_path, MODEL, known_ids=run.ids[5:])
    assert "variants that the dataset does not have: lima_0 to lima_4." in texts(imported)
    assert "originals that the dataset does not have: lima_0 to lima_4." in texts(imported)


def test_own_original_missing(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    content = json.loads((tmp_path / DOTS / "dot_products.json").read_text())
    del content["lima_1"]["lima_1"]
    dump(tmp_path / DOTS / "dot_products.json", content)
    assert "own original not among the candidates of lima_1." in texts(read_scripts(tmp_path, MODEL))


def test_other_models_and_sizes_are_named(run, tmp_path):
    run.write(tmp_path, "paraphrased", size="100")
    with pytest.raises(InputError, match="holds no results of a/b; it has amd/AMD-OLMo-1B-SFT"):
        read_scripts(tmp_path, "a/b")
    with pytest.raises(InputError, match="for sample size 'full'; choose 100"):
        read_scripts(tmp_path, MODEL)
    assert read_scripts(tmp_path, MODEL, sample_size="100").settings["paraphrased"].dot_products.rows()
    with pytest.raises(InputError, match="is no folder"):
        read_scripts(tmp_path / "nowhere", MODEL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="scripts call data/"):
        read_scripts(tmp_path / "empty", MODEL)


def test_export_of_our_own_tables_is_read_back(run, tmp_path):
    run.write(tmp_path, "paraphrased")
    tables = read_scripts(tmp_path, MODEL).settings["paraphrased"]
    write_scripts(tmp_path / "x", MODEL, "model_generated", tables.dot_products)
    assert read_scripts(tmp_path / "x", MODEL).settings["model_generated"].dot_products.equals(tables.dot_products)


@pytest.mark.parametrize("model", ["{}/my-model", "./my-model", "../my-model"])
def test_results_of_a_model_in_a_folder_are_written_below_the_target_and_not_into_the_model(
    run, tmp_path, monkeypatch, model
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model, target = model.format(tmp_path), tmp_path / "exported"
    run.write(tmp_path / "data", "paraphrased")
    tables = read_scripts(tmp_path / "data", MODEL).settings["paraphrased"]
    for setting in ("paraphrased", "model_generated"):
        for path in write_scripts(target, model, setting, tables.dot_products, tables.gradient_similarity):
            assert ".." not in path.parts and path.is_relative_to(target)
    for found in read_scripts(target, model).settings.values():
        assert found.dot_products.equals(tables.dot_products)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["lima_3", "lima_5", "lima_4", "lima_12"], "lima_3 to lima_5, lima_12"),
        (["b", "a"], "a, b"),
        ([f"x{2 * i}" for i in range(12)], "x0, x2, x4, x6, x8, x10, x12, x14 and 4 more"),
    ],
)
def test_id_ranges(ids, said):
    assert id_ranges(ids) == said
