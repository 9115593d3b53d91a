"""Every table has a check that finds a wrong one: its file is whole and ours in all that follows, only what it says is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from gradsim_assets.configuration import (
    DataSettings,
    IndexSettings,
    ModelSettings,
    PreconditionerSettings,
    Settings,
)
from gradsim_assets.core.analysis.parameters_per_component import parameters_per_component
from gradsim_assets.core.analysis.tracin import tracin
from gradsim_assets.core.components import component_columns
from gradsim_assets.core.similarity.pair_products import PairProducts
from gradsim_assets.core.tables.analysis_soundness import range_findings
from gradsim_assets.core.tables.schemas import MESSAGES, PRECONDITIONERS, SETTINGS, TABLES
from gradsim_assets.core.tables.storage import Partition, Tables, fingerprint
from gradsim_assets.core.tables.table_schema import Column, TableSchema
from gradsim_assets.definitions import build_definitions, partitions_of
from gradsim_assets.defs.checks.sound import SOUND, findings_of
from gradsim_assets.orchestration.asset_keys import is_table, table_path
from gradsim_assets.resources.by_name import resources

#: Everything that can be configured, so that every table is there.
WHOLE = Settings(
    home=Path("/nowhere"),
    tables="/nowhere",
    preconditioners=PreconditionerSettings(methods=PRECONDITIONERS),
    index=IndexSettings(),
    models=(ModelSettings(id="org/run", checkpoints="step-*"), ModelSettings(id="org/model", candidates="index:2")),
)
GRAPH = build_definitions(WHOLE).get_repository_def().asset_graph


@pytest.mark.parametrize(
    "key", sorted(filter(is_table, GRAPH.materializable_asset_keys)), ids=dg.AssetKey.to_user_string
)
def test_every_table_has_a_blocking_check_that_knows_its_partitions(key: dg.AssetKey) -> None:
    check = dg.AssetCheckKey(key, SOUND)
    assert check in GRAPH.get(key).check_keys
    assert GRAPH.get(check).blocking
    assert GRAPH.get(check).partitions_def == GRAPH.get(key).partitions_def


def test_every_schema_is_that_of_a_table_here() -> None:
    assert {table_path(key)[0] for key in filter(is_table, GRAPH.materializable_asset_keys)} == set(TABLES)


def added(column: str, value: float) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The first number of a column is another one."""

    def spoil(frame: pl.DataFrame) -> pl.DataFrame:
        place = int(frame[column].is_not_null().arg_max())  # type: ignore[arg-type]  # there is one
        changed = pl.when(pl.int_range(pl.len()) == place).then(pl.col(column) + value).otherwise(pl.col(column))
        return frame.with_columns(changed.cast(frame.schema[column]).alias(column))

    return spoil


def said(column: str, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The first row says something else."""

    def spoil(frame: pl.DataFrame) -> pl.DataFrame:
        first = pl.int_range(pl.len()) == 0
        return frame.with_columns(pl.when(first).then(pl.lit(value)).otherwise(pl.col(column)).alias(column))

    return spoil


def shifted(column: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Every row has the value of the row before: all of them are values of the table, and none is its own."""

    def spoil(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column]
        return frame.with_columns(pl.concat([values.tail(1), values.head(len(values) - 1)]).alias(column))

    return spoil


def without_first(frame: pl.DataFrame) -> pl.DataFrame:
    return frame[1:]


def unanswered(frame: pl.DataFrame) -> pl.DataFrame:
    """The first original has nothing but a question."""
    asked = frame["messages"].to_list()
    asked[0] = [one for one in asked[0] if one["role"] == "user"]
    return frame.with_columns(pl.Series("messages", asked, frame.schema["messages"]))


#: How tables of a demo run are spoilt, and what their check then says.
SPOILT: dict[str, list[tuple[Callable[[pl.DataFrame], pl.DataFrame], str]]] = {
    "lima": [(unanswered, "1 originals have no answer, such as demo_0")],
    "sample_columns": [
        (without_first, "1 samples of the originals are missing, such as demo_0"),
        (lambda frame: frame.reverse(), "the rows are not in the order of the originals"),
    ],
    "paraphrased": [(said("id", "nobody"), "1 paraphrases have no original, such as nobody")],
    "model_generated": [(without_first, "1 samples of the paraphrases are missing")],
    "bm25_candidates": [(said("original_id", "nobody"), "do not have their own original among their candidates")],
    "dot_products": [
        (added("dot_product", 1e9), "|dot_product| exceeds the product of the two norms"),
        (without_first, "rows are not"),
    ],
    "projected_similarity": [(added("similarity", 3), "similarity is beyond [-1, 1]")],
    "gradient_similarity": [(without_first, "rows are not")],
    "parameters_per_component": [
        (added("parameters", 1000), "shares are not those of their parameters"),
        (added("share", 0.1), "1 shares are not those of their parameters"),
        (added("depth", 1), "have another type or depth than their component"),
    ],
    "accuracy_per_component": [
        (shifted("accuracy"), "accuracies are not those of dot_products"),
        (without_first, "1 components of the model are missing"),
        (added("mrr", -0.7), "accuracy and mrr do not fit in 1 rows"),
        (added("recall_at_2", -1), "recall_at_2 is below accuracy"),
    ],
    "agreement": [(added("agreement", -0.01), "1 agreements are not those of dot_products")],
    "greedy_selection": [
        (without_first, "does not take every component once"),
        (added("value", -0.02), "begins at"),
        (shifted("parameter_share"), "shares of parameters that do not grow to 1"),
    ],
    "self_similarity": [
        (added("similarity", -0.01), "1 similarities are not those of dot_products"),
        (shifted("variant_id"), "similarities are not those of dot_products"),
        (added("divergence_rank", 1), "the ranks of the divergences are not their order"),
    ],
    "retrieval": [
        (added("wrong", 1), "wrong and accuracy do not fit in 1 rows"),
        (added("only_this_right", 2), "decisions and accuracies do not fit in 1 rows"),
        (without_first, "the method full_gradient is missing"),
        (
            lambda frame: frame.with_columns(
                pl.col("accuracy", "accuracy_low", "accuracy_high", "mrr", "mrr_low", "mrr_high") * 0.5,
                wrong=(1 - 0.5 * pl.col("accuracy")) * pl.col("variants"),
            ),
            "accuracies are not those of dot_products, such as that of full_gradient",
        ),
        (
            lambda frame: frame.with_columns(variants=pl.col("variants") - 1),
            "variants were scored, where there are products",
        ),
    ],
    "retrieval_by_group": [
        (lambda frame: frame.filter(pl.col("group") != frame["group"][0]), "do not make up retrieval's figures"),
        (lambda frame: frame.with_columns(accuracy=pl.col("accuracy") * 0.9), "do not make up retrieval's figures"),
    ],
    "control_comparison": [
        (added("difference", 0.05), "difference is no difference in 1 rows"),
        (added("only_model_right", 1), "decisions and differences do not fit in 1 rows"),
        (said("component", "of.another.model.weight"), "1 components are not the model's"),
    ],
    "model_comparison": [(shifted("mrr"), "are not those of its retrieval")],
    "first_order": [
        (said("variant_id", "nobody"), "1 rows are not of dot_products"),
        (shifted("predicted"), "predictions are not those of the products"),
    ],
    "tail_patch": [(said("variant_id", "nobody"), "1 rows are not of dot_products")],
}
CASES = [
    pytest.param(table, place, id=f"{table}-{place}") for table, cases in SPOILT.items() for place in range(len(cases))
]


def of_demo(table: str, key: tuple[str, ...]) -> Partition:
    """A place of the table in the demo's home."""
    definition = GRAPH.get(dg.AssetKey("_".join(key))).partitions_def
    names = getattr(definition, "partition_dimension_names", None) or ([] if definition is None else ["model"])
    if table in ("paraphrased", "bm25_candidates"):
        names = ["shard"]
    return Partition(**{"model": "demo"} if "model" in names else {}, **{"shard": "00"} if "shard" in names else {})


@pytest.fixture(scope="module")
def home(demo: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the demo's tables, to be spoilt."""
    root = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(demo[0] / "tables", root / "tables")
    return Settings(home=root, tables=str(root / "tables"), data=DataSettings(shards=4))


def findings(settings: Settings, key: tuple[str, ...], place: Partition) -> list[str]:
    return findings_of(settings, partitions_of(settings), resources(settings).store, key, place)


@pytest.mark.parametrize(("table", "number"), CASES)
def test_a_wrong_table_is_found(table: str, number: int, home: Settings) -> None:
    spoil, wanted = SPOILT[table][number]
    key = (table, SETTINGS[0]) if TABLES[table].parts else (table,)
    tables, place = Tables(home.tables), of_demo(table, key)
    assert findings(home, key, place) == []
    path = Path(str(tables.path(key, place)))
    whole, provenance = path.read_bytes(), tables.provenance(key, place)
    try:
        wrong = spoil(tables.read(key, place))
        # As a program of ours would have written it that computes something else.
        tables.write(key, wrong, place, {**provenance, "fingerprint": fingerprint(wrong)})
        found = findings(home, key, place)
    finally:
        path.write_bytes(whole)
    assert any(wanted in one for one in found), found


#: Tables that a demo run does not make: sound ones are written here, of four originals and their variants.
IDS, COMPONENTS, SLUG, DIMENSION = (
    ("a", "b", "c", "d"),
    ("model.layers.0.mlp.up_proj.weight", "lm_head.weight"),
    "m",
    64,
)


def _texts() -> pl.DataFrame:
    exchange = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    return pl.DataFrame({"id": IDS, "messages": [exchange] * len(IDS)}, schema={"id": pl.String, "messages": MESSAGES})


def _products(names: dict[str, object] | None = None) -> pl.DataFrame:
    """Products of random gradients of every pair in every component."""
    rng = np.random.default_rng(0)
    variants, originals = rng.normal(size=(2, len(IDS), len(COMPONENTS), 5))
    rows = [
        {
            "variant_id": one,
            "original_id": other,
            **(names or {}),
            "component": component,
            "dot_product": float(variants[v, c] @ originals[o, c]),
            "variant_self": float(variants[v, c] @ variants[v, c]),
            "original_self": float(originals[o, c] @ originals[o, c]),
        }
        for v, one in enumerate(IDS)
        for o, other in enumerate(IDS)
        for c, component in enumerate(COMPONENTS)
    ]
    return pl.DataFrame(rows)


def _pairs() -> pl.DataFrame:
    return (
        _products().group_by("variant_id", "original_id", maintain_order=True).agg(product=pl.col("dot_product").sum())
    )


def _sketches() -> pl.DataFrame:
    one = [1.0] + [0.0] * (DIMENSION - 1)
    frame = pl.DataFrame({"id": IDS, "sketch": [one] * len(IDS), "length": [2.0] * len(IDS)})
    return frame.cast({"sketch": pl.Array(pl.Float16, DIMENSION)})


def _losses() -> pl.DataFrame:
    halves = {"a": True, "b": True, "c": False, "d": False}
    rows = [
        {
            "subset": "00",
            "setting": setting,
            "id": i,
            "loss": 1.0,
            "in_subset": halves[i] if setting == "original" else None,
        }
        for setting in ("original", *SETTINGS)
        for i in IDS
    ]
    return pl.DataFrame(rows, schema_overrides={"in_subset": pl.Boolean})


def _curvature() -> pl.DataFrame:
    named = component_columns(COMPONENTS).with_columns(parameters=pl.lit(6))
    return named.with_columns(
        kind=pl.lit("diagonal"),
        shape=pl.lit([2, 3]),
        mean_eigenvalue=pl.lit(0.5),
        epsilon=pl.lit(None, pl.Float64),
        samples=pl.lit(4),
        tokens=pl.lit(None, pl.Int64),
        source=pl.lit("empirical"),
        file=pl.lit("numbers.safetensors"),
        file_hash=pl.lit("0" * 16),
    )


def _tokens() -> pl.DataFrame:
    """Two tokens a side, which make up the product."""
    shares = pl.DataFrame({"position": [0, 1], "share": [0.25, 0.75], "token": ["x", "y"]})
    sides = pl.DataFrame({"side": ["variant", "original"]})
    frame = _pairs().join(sides, how="cross").join(shares, how="cross")
    return frame.with_columns(contribution=pl.col("product") * pl.col("share"), linked=pl.lit(0)).drop(
        "product", "share"
    )


def _scores(**figures: object) -> pl.DataFrame:
    return pl.DataFrame([{"method": "bm25", "variants": 4, **figures}])


IN_SHARD, OF_MODEL = Partition(SLUG, "00"), Partition(SLUG)
ON_REQUEST = {
    "curvature": (("curvature", "adam"), OF_MODEL, _curvature, {}),
    "preconditioned_products": (
        ("preconditioned_products", "paraphrased"),
        IN_SHARD,
        lambda: _products({"preconditioner": "adam"}),
        {"curvature/adam": "x"},
    ),
    "all_pairs": (("all_pairs", "paraphrased"), OF_MODEL, _products, {}),
    "all_pairs_projected": (
        ("all_pairs_projected", "paraphrased"),
        OF_MODEL,
        lambda: _pairs().select("variant_id", "original_id", proportion=0.01, dimension=512, similarity=0.5),
        {"proportions": [0.01]},
    ),
    "all_pairs_preconditioned": (
        ("all_pairs_preconditioned", "paraphrased"),
        OF_MODEL,
        lambda: _products({"preconditioner": "ekfac"}),
        {"curvature/ekfac": "x"},
    ),
    "token_attribution": (("token_attribution", "paraphrased"), OF_MODEL, _tokens, {}),
    "tracin": (
        ("tracin", "paraphrased"),
        OF_MODEL,
        lambda: tracin([PairProducts.from_frame(_products())], [1e-3]),
        {},
    ),
    "subset_losses": (("subset_losses",), Partition(SLUG, subset="00"), _losses, {}),
    "linear_datamodeling_score": (
        ("linear_datamodeling_score", "paraphrased"),
        OF_MODEL,
        lambda: _scores(component=None, lds=0.5, lds_low=0.4, lds_high=0.6, subsets=2),
        {},
    ),
    "removal": (
        ("removal", "paraphrased"),
        OF_MODEL,
        lambda: _scores(
            removed=1, loss_increase=0.5, loss_increase_low=0.4, loss_increase_high=0.6, random_increase=0.1, draws=2
        ),
        {},
    ),
    # Before the index is spoilt, in which it is looked up.
    "index_candidates": (
        ("index_candidates", "paraphrased"),
        IN_SHARD,
        lambda: _pairs().select(
            "variant_id",
            "original_id",
            rank=pl.int_range(1, pl.len() + 1).over("variant_id"),
            score=0.5,
            forced=False,
            bm25_score=1.0,
            bm25_rank=1,
        ),
        {"candidates": "index:5"},
    ),
    "gradient_index": (("gradient_index",), Partition(SLUG, slice="00"), _sketches, {"dimension": DIMENSION}),
    "index_recall": (
        ("index_recall",),
        OF_MODEL,
        lambda: pl.DataFrame([{"variant_id": "a", "k": 2, "reranked": 3, "found": 2}]),
        {},
    ),
}

#: How these are spoilt, and what their check then says.
SPOILT_ON_REQUEST: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "curvature": (added("mean_eigenvalue", -1), "1 components have negative mean eigenvalues"),
    "preconditioned_products": (
        lambda f: f.with_columns(preconditioner=pl.lit("ekfac")),
        "all products under adam are missing",
    ),
    "all_pairs": (without_first, "31 rows are not 16 pairs x 2"),
    "all_pairs_projected": (without_first, "1 of 16 pairs are missing"),
    "all_pairs_preconditioned": (added("dot_product", 1e3), "|dot_product| exceeds the product of the two norms"),
    "token_attribution": (added("contribution", 1), "the tokens of 1 texts do not make up the product"),
    "tracin": (without_first, "1 of 16 pairs are missing"),
    "subset_losses": (said("in_subset", False), "1 of 4 originals are in the subset, not half"),
    "linear_datamodeling_score": (added("lds", 1), "1 rows hold no correlations"),
    "removal": (added("removed", 3), "4 of 4 originals were removed"),
    "gradient_index": (without_first, "1 samples of the slice are missing, such as a"),
    "index_candidates": (without_first, "1 variants do not have 4 candidates with ranks from 1, such as a"),
    "index_recall": (added("found", 1), "1 rows find more than there is"),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with tables that are made on request, and with what they are made from."""
    root = tmp_path_factory.mktemp("everything")
    settings = WHOLE.model_copy(
        update={
            "home": root,
            "tables": str(root / "tables"),
            "data": DataSettings(shards=1, candidates="all"),
            "index": IndexSettings(dimension=DIMENSION),
        }
    )
    upstream = {
        ("lima",): (_texts(), Partition()),
        ("paraphrased",): (_texts().with_columns(flag=pl.lit(None, pl.String)), Partition(shard="00")),
        ("model_generated",): (_texts(), IN_SHARD),
        ("bm25_candidates",): (
            _pairs().select("variant_id", "original_id", rank=1, score=1.0, forced=False, zero_score=False),
            Partition(shard="00"),
        ),
        ("dot_products", "paraphrased"): (_products(), IN_SHARD),
        ("parameters_per_component",): (parameters_per_component(dict.fromkeys(COMPONENTS, 6)), OF_MODEL),
    }
    tables = Tables(settings.tables)
    for key, (frame, place) in upstream.items():
        tables.write(key, frame, place, {"candidates": "all"})
    for key, place, make, _ in ON_REQUEST.values():
        tables.write(key, make(), place)
    (Path(str(tables.path(["curvature", "adam"], OF_MODEL))).parent / "numbers.safetensors").touch()
    return settings


@pytest.mark.parametrize("table", ON_REQUEST)
def test_a_wrong_table_that_is_made_on_request_is_found(table: str, everything: Settings) -> None:
    key, place, make, more = ON_REQUEST[table]
    spoil, wanted = SPOILT_ON_REQUEST[table]
    tables = Tables(everything.tables)
    named = {"table": "/".join(key), "partition": str(place), "candidates": "all", **more}
    for frame, is_sound in ((TABLES[table].enforce(make()), True), (spoil(TABLES[table].enforce(make())), False)):
        tables.write(key, frame, place, {**named, "fingerprint": fingerprint(frame)})
        found = findings(everything, key, place)
        assert found == [] if is_sound else any(wanted in one for one in found), found


def test_every_table_is_spoilt_here() -> None:
    assert {*SPOILT, *SPOILT_ON_REQUEST} == set(TABLES)


def test_what_lies_beyond_its_range_is_found_in_any_table() -> None:
    schema = TableSchema(
        "t",
        {
            "id": Column(pl.String(), ""),
            "accuracy": Column(pl.Float64(), "", "share", True),
            "accuracy_low": Column(pl.Float64(), "", "share", True),
            "accuracy_high": Column(pl.Float64(), "", "share", True),
            "similarity": Column(pl.Float64(), "", "cosine", True),
            "n": Column(pl.Int64(), ""),
        },
        key=("id",),
    )
    sound = {"id": "a", "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "similarity": -1.0, "n": 0}
    assert range_findings(schema, pl.DataFrame([sound])) == []
    for change, wanted in (
        ({"accuracy": 1.5, "accuracy_high": 1.5}, "column accuracy is beyond [0, 1] in 1 rows, such as (a)"),
        ({"similarity": -1.1}, "column similarity is beyond [-1, 1]"),
        ({"n": -1}, "column n is beyond [0, inf]"),
        ({"accuracy_low": 0.7}, "the interval of accuracy is none in 1 rows"),
        ({"accuracy": 0.9}, "the interval of accuracy is none in 1 rows"),
        ({"accuracy_low": None}, "the interval of accuracy is none in 1 rows"),
    ):
        assert any(wanted in one for one in range_findings(schema, pl.DataFrame([{**sound, **change}]))), change
