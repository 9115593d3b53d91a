"""Which assets an edit of the code makes stale: the real definitions, on a copy of the package with one edit each."""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gradsim_assets.configuration import IndexSettings, ModelSettings, PreconditionerSettings, Settings
from gradsim_assets.core.gradients.numerics_version import NUMERICS
from gradsim_assets.core.tables.schemas import PRECONDITIONERS, SETTINGS, TABLES
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs import code_version as versions
from gradsim_assets_tests.support.edits import Edit, appended, copied_package, forget, inserted, replaced
from gradsim_assets_tests.support.source import imports, modules


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_package(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def before() -> Mapping[str, str]:
    """The code versions of the package as it is; a copy has the same, for paths do not count."""
    return code_versions()


@pytest.fixture
def package(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The copy in place of the package; what a test changes in it is taken back."""
    monkeypatch.setattr(versions, "PACKAGE", copy)
    forget()
    yield copy
    copied_package(copy.parent)
    forget()


def code_versions(*more: ModelSettings, index: IndexSettings | None = None) -> Mapping[str, str]:
    """Of every asset that has one, by its name, in a configuration with the demo, whatever more models, and an index if given."""
    forget()
    settings = Settings(
        home=Path("/nowhere"),
        tables="/nowhere",
        models=(ModelSettings(id="demo"), *more),
        preconditioners=PreconditionerSettings(methods=PRECONDITIONERS),
        index=index,
    )
    graph = build_definitions(settings).get_repository_def().asset_graph
    return {key.to_user_string(): str(graph.get(key).code_version) for key in graph.materializable_asset_keys}


def of_each_setting(*tables: str) -> set[str]:
    return {f"{table}_{setting}" for table in tables for setting in SETTINGS}


def moved_tie_order(package: Path) -> None:
    """`tie_order` out of `scoring.py` into a module of its own."""
    scoring, users = package / "core/analysis/scoring.py", package / "core/analysis/greedy_selection.py"
    text = scoring.read_text(encoding="utf-8")
    (found,) = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == "tie_order")
    source = ast.get_source_segment(text, found)
    assert source
    header = "\n".join(line for line in text.splitlines() if line.startswith(("import ", "from ")))
    (package / "core/ordering.py").write_text(f'"""Ties."""\n\n{header}\n\n\n{source}\n', encoding="utf-8")
    here = "from gradsim_assets.core.ordering import tie_order\n"
    scoring.write_text(text.replace(source, "").replace("import numpy", f"{here}import numpy", 1), encoding="utf-8")
    old = "from gradsim_assets.core.analysis.scoring import tie_order\n"
    used = users.read_text(encoding="utf-8")
    assert old in used
    users.write_text(used.replace(old, here), encoding="utf-8")


PRODUCTS = of_each_setting("dot_products")
PROJECTED, PRECONDITIONED = of_each_setting("projected_similarity"), of_each_setting("preconditioned_products")
CURVATURES = {f"curvature_{kind}" for kind in PRECONDITIONERS}
#: What any gradients are taken for.
GRADIENTS = PRODUCTS | PROJECTED | PRECONDITIONED
FIRST_ORDER, TAIL_PATCH = of_each_setting("first_order"), of_each_setting("tail_patch")
ALL_PAIRS, PAIRS_PROJECTED = of_each_setting("all_pairs"), of_each_setting("all_pairs_projected")
PAIRS_PRECONDITIONED = of_each_setting("all_pairs_preconditioned")
LDS, REMOVAL = of_each_setting("linear_datamodeling_score"), of_each_setting("removal")
RETRAINED = LDS | REMOVAL | {"subset_losses"}
EVALUATION = FIRST_ORDER | TAIL_PATCH
TOKENS = of_each_setting("token_attribution")
#: What is measured of the meaning of scores, and the products of its own that it is measured with.
EVALUATED = EVALUATION | TOKENS | ALL_PAIRS | PAIRS_PROJECTED | PAIRS_PRECONDITIONED | RETRAINED
CONTROL_COMPARISON = of_each_setting("control_comparison")
ENGINE, DECLARED = "core/gradients/engine", "core/gradients/numerics_version.py"

#: (edit, what becomes stale), by what is edited.
EDITS: Mapping[str, tuple[Edit, set[str]]] = {
    "the candidates": (inserted("core/candidates/bm25_candidates.py", "candidate_frame"), {"bm25_candidates"}),
    "the index of the candidates": (
        replaced("core/candidates/bm25.py", "0.75", "0.8"),
        {"bm25_candidates"} | LDS | REMOVAL,
    ),
    "which candidates a model uses": (
        inserted("core/candidates/bm25_candidates.py", "top_candidates"),
        GRADIENTS | {"report"},
    ),
    "a template": (appended("core/analysis/report/page.html.j2", "<!-- more -->\n"), {"report"}),
    "a script": (appended("core/analysis/report/explorer.js", "// more\n"), {"report"}),
    "a style": (appended("core/analysis/report/style.css", "a {}\n"), {"report"}),
    "a sentence of the report": (inserted("core/analysis/report/sentences.py", "sentences"), {"report"}),
    "what the report reads": (inserted("defs/analysis/report.py", "checked_pairs"), {"report"}),
    "a static plot": (inserted("core/analysis/plots/static.py", "agreement"), {"report"}),
    "an interactive plot": (inserted("core/analysis/plots/interactive.py", "heatmap"), {"report"}),
    "what makes a paraphrase doubtful": (
        inserted("core/datasets/paraphrasing/answer_checks.py", "judged"),
        {"paraphrased"},
    ),
    "what is taken off an answer": (inserted("core/datasets/paraphrasing/envelope.py", "opened"), {"paraphrased"}),
    "what a refusal is": (inserted("core/datasets/paraphrasing/refusals.py", "refuses"), {"paraphrased"}),
    "what is told of missing variants": (inserted("core/datasets/lacking.py", "lacking"), {"report"}),
    "what a paraphraser is asked": (
        replaced("core/datasets/paraphrasing/options.py", "You rewrite", "You write"),
        {"paraphrased"},
    ),
    "how often a service is asked again": (inserted("core/datasets/paraphrasing/live.py", "answer_event"), set()),
    "how files of samples are read": (
        inserted("core/datasets/sample_files.py", "read_rows"),
        {"lima", "paraphrased", "sample_columns"},
    ),
    "a sample of the demo": (
        replaced("demo/samples.jsonl", "content", "content "),
        {"lima", "paraphrased", "sample_columns"},
    ),
    "what else is kept of samples": (inserted("core/datasets/sample_columns.py", "_flat"), {"sample_columns"}),
    "what analyses group by": (
        inserted("core/analysis/retrieval_by_group.py", "grouping"),
        of_each_setting("retrieval_by_group") | {"sample_columns", "report"},
    ),
    "the figures of groups": (
        inserted("core/analysis/retrieval_by_group.py", "_of_group"),
        of_each_setting("retrieval_by_group"),
    ),
    "how samples are cut into shards": (inserted("core/partition_keys.py", "shard_slice"), {"paraphrased"}),
    "how answers are decoded": (
        inserted("core/datasets/generation/answers.py", "generate_answers"),
        {"model_generated"},
    ),
    "the columns of components": (
        inserted("core/components.py", "component_columns"),
        {"parameters_per_component", "report"}
        | of_each_setting(
            "accuracy_per_component",
            "agreement",
            "greedy_selection",
            "self_similarity",
            "retrieval",
            "retrieval_by_group",
        )
        | CONTROL_COMPARISON
        | (TAIL_PATCH | LDS | REMOVAL),
    ),
    "the order of ties": (
        inserted("core/analysis/scoring.py", "tie_order"),
        of_each_setting("greedy_selection", "self_similarity", "retrieval", "retrieval_by_group")
        | TAIL_PATCH
        | LDS
        | REMOVAL,
    ),
    "the bootstrap": (
        replaced("core/analysis/scoring.py", "RESAMPLES = 2000", "RESAMPLES = 1000"),
        of_each_setting("accuracy_per_component", "agreement", "retrieval", "retrieval_by_group")
        | CONTROL_COMPARISON
        | (TAIL_PATCH | REMOVAL)
        | {"report"},
    ),
    "the interval of a share": (
        inserted("core/analysis/scoring.py", "wilson_interval"),
        of_each_setting("accuracy_per_component", "control_comparison", "retrieval", "retrieval_by_group"),
    ),
    "the interval of a paired difference": (
        inserted("core/analysis/scoring.py", "paired_interval"),
        of_each_setting("control_comparison", "retrieval"),
    ),
    "the comparison with controls": (
        inserted("core/analysis/control_comparison.py", "_comparable"),
        CONTROL_COMPARISON,
    ),
    "what counts as a copy": (
        inserted("core/datasets/text_overlap.py", "is_verbatim"),
        {"paraphrased", "model_generated"},
    ),
    "the products of pairs": (
        inserted("core/similarity/pair_products.py", "from_frame"),
        of_each_setting(
            *(
                "accuracy_per_component",
                "agreement",
                "greedy_selection",
                "self_similarity",
                "retrieval",
                "retrieval_by_group",
            ),
            *("gradient_similarity", "tail_patch", "linear_datamodeling_score", "removal"),
        ),
    ),
    "the sums of preconditioned products": (
        inserted("core/similarity/pair_products.py", "preconditioned_terms"),
        of_each_setting("retrieval", "retrieval_by_group", "tail_patch", "linear_datamodeling_score", "removal"),
    ),
    "the comparison": (inserted("core/analysis/model_comparison.py", "model_comparison"), {"model_comparison"}),
    # The engine's code does not count: what its numbers are is declared, and held by the test of the golden numbers.
    "a constant of inner products": (replaced("core/sample_gradients/inner_products.py", r"2\*\*11", "2**12"), set()),
    "the code of the pass": (inserted(f"{ENGINE}/turns.py", "run_pass"), set()),
    "the code of the projections": (inserted("core/sample_gradients/projections.py", "total_dimension"), set()),
    "how seeds are made": (
        inserted("core/seeds.py", "stable_seed"),
        {"bm25_candidates", "report"}
        | of_each_setting("accuracy_per_component", "agreement", "retrieval", "retrieval_by_group")
        | CONTROL_COMPARISON
        | (EVALUATION | RETRAINED),
    ),
    "the declared numerics": (
        replaced(DECLARED, r"^NUMERICS_VERSION = \d+", "NUMERICS_VERSION = 999"),
        GRADIENTS | CURVATURES | EVALUATED,
    ),
    "the declared projections": (
        replaced(DECLARED, r"^PROJECTIONS_VERSION = \d+", "PROJECTIONS_VERSION = 999"),
        PROJECTED | PAIRS_PROJECTED,
    ),
    "the declared preconditioners": (
        replaced(DECLARED, r"^PRECONDITIONERS_VERSION = \d+", "PRECONDITIONERS_VERSION = 999"),
        PRECONDITIONED | PAIRS_PRECONDITIONED | CURVATURES,
    ),
    "the code of the curvature": (inserted("core/curvature/curvature.py", "compute_curvature"), set()),
    "the table of preconditioned products": (
        inserted("core/gradients/preconditioned_products.py", "preconditioned_frame"),
        PRECONDITIONED | PAIRS_PRECONDITIONED,
    ),
    "what the declaration says": (replaced(DECLARED, "Raise it when", "Increase it when"), set()),
    "the table of the projections": (
        inserted("core/gradients/projected_similarity.py", "projection_frame"),
        PROJECTED | PAIRS_PROJECTED,
    ),
    "the table of the products": (inserted("core/gradients/dot_products.py", "product_frame"), PRODUCTS | ALL_PAIRS),
    "the labels of a sample": (
        inserted("core/models/tokenization.py", "encode_samples"),
        GRADIENTS | CURVATURES | EVALUATED,
    ),
    "the day that chat templates print": (
        replaced("core/models/chat_templates.py", '"%d": "26"', '"%d": "27"'),
        GRADIENTS | CURVATURES | EVALUATED | {"model_generated"},
    ),
    "what of a checkpoint is refused": (inserted("core/models/checkpoints.py", "check_weights"), set()),
    "how many prompts are answered at a time": (
        inserted("core/datasets/generation/batch_size.py", "fitting_batch_size"),
        set(),
    ),
    "how models are loaded": (
        inserted("core/models/loading.py", "load_model"),
        GRADIENTS | CURVATURES | EVALUATED | {"model_generated"},
    ),
    "the wording of the plan": (inserted(f"{ENGINE}/planning/plan.py", "describe"), set()),
    "a constant of the plan": (appended(f"{ENGINE}/planning/plan.py", "\nMORE = 2\n"), set()),
    "how much memory is free": (inserted("core/memory.py", "free_bytes"), set()),
    "a log line of the engine": (inserted(f"{ENGINE}/turns.py", "run_pass", 'log("at work")'), set()),
    "a log line of an asset": (
        inserted("defs/candidates/bm25_candidates.py", "bm25_candidates", "context.log.info('!')"),
        set(),
    ),
    "how one step is measured": (inserted("core/evaluation/one_step.py", "after_step"), EVALUATION),
    "which pairs are predicted": (inserted("core/evaluation/first_order.py", "choose_pairs"), FIRST_ORDER),
    "how well predictions fit": (inserted("core/evaluation/first_order.py", "fit"), FIRST_ORDER | {"report"}),
    "what a method puts on top": (inserted("core/evaluation/tail_patch.py", "tops"), TAIL_PATCH),
    "what a killed evaluation goes on from": (inserted("core/evaluation/finished.py", "add"), set()),
    "which pairs are told by token": (inserted("core/tracing/attributed_pairs.py", "attributed_pairs"), TOKENS),
    "what a position adds": (inserted("core/tracing/position_products.py", "_add"), TOKENS),
    "the texts of tokens": (inserted("core/models/token_texts.py", "token_texts"), TOKENS),
    "how a model is trained": (inserted("core/training/loop.py", "train"), RETRAINED),
    "which originals a half holds": (inserted("core/evaluation/subsets.py", "half"), {"subset_losses"}),
    "what a method scores": (inserted("core/evaluation/methods.py", "random_scores"), LDS | REMOVAL),
    "what a resample holds": (inserted("core/evaluation/linear_datamodeling_score.py", "_resamples"), LDS),
    "which originals are removed": (inserted("core/evaluation/removal.py", "removals"), REMOVAL),
    "how retrainings are shared": (inserted("core/evaluation/retraining.py", "_take"), set()),
    "a docstring": (replaced("core/seeds.py", r'"""', '"""Once more: '), set()),
    "a docstring of a function": (replaced("core/analysis/agreement.py", r'    """', '    """Once more: '), set()),
    "a comment": (appended("core/analysis/agreement.py", "# more\n"), set()),
    "a definition's place": (moved_tie_order, set()),
    "the description of a column": (replaced("core/tables/schemas.py", "id of the variant", "the variant's id"), set()),
    "a new column": (
        replaced(
            "core/tables/schemas.py",
            r'^(GREEDY_SELECTION = TableSchema\(\n    "greedy_selection",\n    \{\n)',
            r'\1        "seed": Column(pl.Int64(), "seed of the split"),\n',
        ),
        of_each_setting("greedy_selection"),
    ),
    "the dtype of a column": (
        replaced("core/tables/schemas.py", r'"rank": Column\(pl.Int32', '"rank": Column(pl.Int64'),
        {"bm25_candidates"}
        | of_each_setting("retrieval", "retrieval_by_group"),  # stands in for the scores of imported results
    ),
    "the wording of an error": (replaced("core/samples.py", "has no assistant message", "lacks an answer"), set()),
    "the condition of an error": (
        replaced("core/samples.py", r'"assistant" not in roles', '"user" not in roles'),
        {"lima", "paraphrased", "sample_columns"},
    ),
}


@pytest.mark.parametrize(("edit", "stale"), EDITS.values(), ids=EDITS)
def test_an_edit_makes_exactly_those_assets_stale_whose_values_it_may_change(
    edit: Edit, stale: set[str], before: Mapping[str, str], package: Path
) -> None:
    edit(package)
    after = code_versions()
    assert {name for name in before if after[name] != before[name]} == stale


def test_candidates_by_an_index_leave_all_other_code_versions_as_they_are() -> None:
    plain = code_versions(ModelSettings(id="org/model", candidates=2), index=IndexSettings())
    looked_up = code_versions(ModelSettings(id="org/model", candidates="bm25:2+index:3"), index=IndexSettings())
    assert looked_up.keys() - plain.keys() == of_each_setting("index_candidates")
    changed = {name for name in plain if looked_up[name] != plain[name]}
    assert changed == {"report"}, "which tells of them"


@pytest.mark.parametrize(
    "edit",
    [
        inserted("core/candidates/chosen_candidates.py", "union"),
        inserted("core/gradients/pass_inputs_by_setting.py", "pass_inputs_by_setting"),
        inserted("core/index/index_candidates.py", "index_candidates"),
    ],
    ids=["both sources", "the pairs of a pass", "what the index finds"],
)
def test_code_of_candidates_by_an_index_is_part_of_their_version_alone(edit: Edit, package: Path) -> None:
    chosen = ModelSettings(id="org/model", candidates="bm25:2+index:3")
    earlier = code_versions(chosen, index=IndexSettings())
    edit(package)
    later = code_versions(chosen, index=IndexSettings())
    changed = {name for name in earlier if later[name] != earlier[name]}
    assert changed - {"report"} == of_each_setting("index_candidates")


#: What modules of assets import from `core/` though it decides nothing of their values, and why.
DECIDES_NOTHING_THERE = {
    "core.sample_gradients.components:trainable_components": "the declared numerics stand for it",
    "core.errors": "sentences for people",
    "core.index.index_recall:recall_by_reranked": "shown beside the table in the UI",
    "core.files": "how bytes reach the disk",
    "core.tables": "where tables lie; the schema of an asset's own table is looked for by itself",
    "core.partition_keys:model_id_of": "another id is another partition",
    "core.partition_keys:model_slug": "another id is another partition",
    "core.partition_keys:keys_pattern": "which keys are meant is part of the configuration that is followed",
    "core.analysis.headline_figures:headline_figures": "shown beside a table in the UI",
    "core.analysis.plots.of_table:plots_of": "shown beside a table in the UI; the report's are its own",
    "core.datasets.lima:hub_repo": "for the version of the source; whether it is asked again",
    "core.candidates.bm25_candidates:top_candidates": "for the data version",
    "core.candidates.bm25_candidates:zero_score_places": "counted beside the table",
    "core.candidates.candidate_count:top_k": "for the data version",
    "core.candidates.candidate_choice": "which candidates are asked for is part of the configuration, or of a model's version",
    "core.candidates.chosen_candidates": "the version of the candidates by an index says how others read them",
    "core.gradients.pass_inputs_by_setting": "as that",
    "core.gradients.inputs_version:inputs_version": "for the data version",
    "core.gradients.inputs_version:samples_version": "for the data version",
    "core.curvature": "the declared version of preconditioners stands for it",
    "core.gradients.numerics_version:NUMERICS": "what is not followed",
    "core.datasets.originals_source:version_read": "for the data version",
    "core.analysis.retrieval_by_group:small_groups": "counted beside the table in the UI",
    "core.datasets.originals_source:content_version": "says what was read of a source; what is read is the table",
    "core.datasets.lacking:lacking": "counted beside a table in the UI; what the report tells is followed",
}


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """What code versions follow, by the modules in `defs/` that took part in asking for them."""
    found: dict[str, set[str]] = {}
    follow = versions.followed

    def recorded(*roots: versions.Root, without: tuple[str, ...] = ()) -> list[versions.Followed]:
        answer = follow(*roots, without=without)
        frame = sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            found.setdefault(str(frame.f_globals["__name__"]), set()).update(one.name for one in answer)
        return answer

    monkeypatch.setattr(versions, "followed", recorded)
    looks_up = ModelSettings(id="org/model", candidates="index:2")
    code_versions(ModelSettings(id="org/run", checkpoints="step-*"), looks_up, index=IndexSettings())
    return {name.removeprefix("gradsim_assets."): names for name, names in found.items() if ".defs." in name}


def test_all_that_an_asset_takes_from_core_is_followed(followed: dict[str, set[str]]) -> None:
    lacking = []
    for name, path in modules().items():
        if name not in followed or name == "defs.code_version":
            continue
        for one in imports(path):
            module = one.module.removeprefix("gradsim_assets.")
            place = f"{module}:{one.name}"
            excused = place in DECIDES_NOTHING_THERE or any(
                module == part or module.startswith(f"{part}.") for part in DECIDES_NOTHING_THERE
            )
            known = {label.rpartition(":")[2] for label in followed[name] if label.startswith(module)}
            if module.startswith("core.") and not (one.for_types or excused or one.name in known):
                lacking.append(f"{name} takes {place}")
    assert len(followed) > 10
    assert not lacking, lacking


def test_all_that_a_pass_computes_with_is_followed_or_declared(followed: dict[str, set[str]]) -> None:
    """What the engine comes to use elsewhere counts for no gradient table until somebody says to which of both it belongs."""
    by_engine = {one.name for one in versions.followed("core.gradients.engine:run_pass")}
    declared = {name for name in by_engine if name.startswith(NUMERICS)}
    assert len(declared) > 100
    assert by_engine - declared <= followed["defs.gradients.gradient_pass"]


def test_every_table_follows_its_own_schema(followed: dict[str, set[str]]) -> None:
    labels = {label for names in followed.values() for label in names}
    assert {f"core.tables.schemas:{table.upper()}" for table in TABLES} <= labels
