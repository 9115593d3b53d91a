"""The house: where code stands, and which way it imports. CONTRIBUTING.md says the same in words."""

import ast
import importlib
import inspect
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from gradsim_assets.configuration import IndexSettings, ModelSettings, PreconditionerSettings, Settings
from gradsim_assets.core.tables.schemas import PRECONDITIONERS, TABLES
from gradsim_assets.core.tables.table_names import PATHS
from gradsim_assets.definitions import build_definitions
from gradsim_assets.orchestration.partitions import Partitions
from gradsim_assets_tests.support.source import PACKAGE, imports, modules

#: The layers, top to bottom: a module imports from its own layer and from those below it. The demo's data and model stand
#: beside the core, which reads samples and is what makes a model of them. What users put into their own scripts needs the core alone.
LAYERS = (
    {"cli"},
    {"web"},
    {"definitions"},
    {"runs"},
    {"defs"},
    {"resources"},
    {"orchestration"},
    {"configuration"},
    {"integrations"},
    {"core", "demo"},
)

#: Tables that one asset function makes together, and the module that defines it.
TOGETHER = {
    **dict.fromkeys(("dot_products", "projected_similarity", "preconditioned_products"), "gradient_pass"),
    **dict.fromkeys(("all_pairs_projected", "all_pairs_preconditioned"), "all_pairs"),
}

#: Assets whose computation has another name than they have, and why.
NAMED_OTHERWISE = {
    "hf_model": ("core/models/revisions.py", "the asset is the model; what is computed is its revision"),
    "traces": ("core/tracing/trace.py", "the asset holds many of what is computed one at a time"),
}

#: Assets that are no tables: what is observed, pages, and texts that were traced, a folder each.
NO_TABLES = {"hf_model", "originals_source", "paraphrases_source", "optimizer_states", "report", "traces"}

#: With all that can be switched on.
SETTINGS = Settings(
    home=Path("/nowhere"),
    tables="/nowhere",
    preconditioners=PreconditionerSettings(methods=PRECONDITIONERS),
    models=(ModelSettings(id="org/run", checkpoints="step-*"), ModelSettings(id="org/model", candidates="index:2")),
    index=IndexSettings(),
)
GRAPH = build_definitions(SETTINGS).get_repository_def().asset_graph

#: Every asset with the table that it is (or a part of), and its group.
ASSETS = sorted(
    (key.to_user_string(), PATHS.get(key.to_user_string(), key.path)[0], str(GRAPH.get(key).group_name))
    for key in GRAPH.get_all_asset_keys()
)


def built_by(module: Any) -> set[str]:
    """Names of the assets that a module's `build` makes."""
    given = {"settings": SETTINGS, "partitions": Partitions(SETTINGS.data.shards), "op_tags": None}
    made = module.build(**{name: given[name] for name in inspect.signature(module.build).parameters})
    definitions = made if isinstance(made, list) else [made]
    return {
        key.to_user_string()
        for definition in definitions
        for key in (definition.keys if isinstance(definition, dg.AssetsDefinition) else [definition.key])
    }


@pytest.mark.parametrize(("asset", "table", "group"), ASSETS, ids=[asset for asset, _, _ in ASSETS])
def test_an_asset_is_defined_where_its_name_says(asset: str, table: str, group: str) -> None:
    name = f"gradsim_assets.defs.{group}.{TOGETHER.get(table, table)}"
    assert asset in built_by(importlib.import_module(name))


@pytest.mark.parametrize(("asset", "table", "group"), ASSETS, ids=[asset for asset, _, _ in ASSETS])
def test_what_an_asset_is_made_by_stands_where_its_name_says(asset: str, table: str, group: str) -> None:
    places = [f"core/{group}/{table}.py", f"core/{group}/{table}"]
    there = [place for place in places if (PACKAGE / place).exists()]
    if table in NAMED_OTHERWISE:
        place, why = NAMED_OTHERWISE[table]
        assert (PACKAGE / place).exists() and why
        assert there == [], f"{there} is there now: {table} is no exception any more"
    else:
        assert len(there) == 1, f"{asset} should be made by one of {places}"


def test_every_table_is_an_asset() -> None:
    assert {table for _, table, _ in ASSETS} - NO_TABLES == set(TABLES)
    assert {asset for asset, _, _ in ASSETS} - NO_TABLES == set(PATHS)


def test_nothing_is_loose_at_the_top() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "definitions", "configuration"}
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set.union(*LAYERS) - {"definitions", "configuration"}


def layer(module: str) -> int:
    """The number of a module's layer; the package itself (its version) lies below all."""
    top = module.partition(".")[0]
    return next((number for number, rooms in enumerate(LAYERS) if top in rooms), len(LAYERS))


def ours(module: str, name: str, known: dict[str, Path]) -> str | None:
    """The module of the package that an import reads, as a dotted name in it; None for another package's."""
    package, _, inside = module.partition(".")
    if package != PACKAGE.name:
        return None
    deeper = f"{inside}.{name}".lstrip(".")
    return deeper if deeper in known else inside


def test_no_import_runs_up() -> None:
    known = modules()
    up = []
    for name, path in known.items():
        for one in imports(path):
            target = ours(one.module, one.name, known)
            if target is not None and layer(target) < layer(name):
                up.append(f"{path.relative_to(PACKAGE)}:{one.line} imports {target}")
    assert up == []


def test_core_knows_neither_dagster_nor_the_configuration() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{one.line} imports {one.module}"
        for name, path in modules().items()
        if name.partition(".")[0] == "core"
        for one in imports(path)
        if one.module.partition(".")[0].startswith("dagster") or "configuration" in one.module.split(".")
    ]
    assert found == []


#: The one module that knows Dagster's private parts.
INTERNALS = "orchestration/dagster_internals.py"

#: Tests and benchmarks that build or evaluate what only Dagster's own processes do, and why each needs more than INTERNALS has.
KNOW_INTERNALS = {
    "bench/orchestration.py": "writes an event log of thousands of partitions and times one tick of the daemon",
    "gradsim_assets_tests/end_to_end/test_chart.py": "checks the chart's dagster.yaml as Dagster's processes do",
    "gradsim_assets_tests/orchestration/test_automation.py": "compares with Dagster's own resolver, in its context",
    "gradsim_assets_tests/orchestration/test_dagster_internals.py": "is the contract with them",
    "gradsim_assets_tests/orchestration/test_model_registry.py": "observes as the button in the UI does",
    "gradsim_assets_tests/orchestration/test_whole_passes.py": "writes the events of runs that are half done",
    "gradsim_assets_tests/runs/test_profiles.py": "plans a run on Kubernetes without a cluster",
    "gradsim_assets_tests/support/changing_home.py": "executes what a backfill's run would, in the test's process",
    "gradsim_assets_tests/support/backfill_looks.py": "looks at a backfill as the daemon does",
}


def private_imports(path: Path) -> list[str]:
    """What a module imports of Dagster that is not its public interface."""
    return [
        f"{path.name}:{one.line} imports {one.module}"
        for one in imports(path)
        if one.module.partition(".")[0] in ("dagster", "dagster_shared", "dagster_graphql", "dagster_k8s")
        and (one.module.startswith("dagster_shared") or "._" in f"{one.module}.{one.name}")
    ]


def private_attributes(path: Path) -> list[str]:
    """Attributes with an underscore that a module takes of other things than its own classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    own |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    own |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    public = {"_asdict", "_replace", "_fields"}  # of named tuples
    return [
        f"{path.name}:{node.lineno} takes {ast.unparse(node)}"
        for node in attributes
        if node.attr not in own | public and not node.attr.startswith("__")
    ]


def test_one_module_knows_dagsters_private_parts() -> None:
    found = []
    for path in modules().values():
        if path.relative_to(PACKAGE).as_posix() == INTERNALS:
            continue
        found += private_imports(path)
        if any(
            one.module.startswith("dagster") or INTERNALS[:-3].replace("/", ".") in one.module for one in imports(path)
        ):
            found += private_attributes(path)
    assert found == []


def test_few_tests_know_dagsters_private_parts() -> None:
    root = PACKAGE.parent
    files = [*(root / "gradsim_assets_tests").rglob("*.py"), *(root / "bench").rglob("*.py")]
    knowing = {path.relative_to(root).as_posix() for path in files if private_imports(path)}
    assert knowing | {"gradsim_assets_tests/orchestration/test_dagster_internals.py"} == set(KNOW_INTERNALS)


def test_private_parts_are_seen_wherever_they_are_taken(tmp_path: Path) -> None:
    taking = tmp_path / "taking.py"
    taking.write_text(
        "import dagster as dg\ndef f(run: dg.DagsterRun):\n    from dagster._core import utils\n    run._status\n"
    )
    assert private_imports(taking) == ["taking.py:3 imports dagster._core"]
    assert private_attributes(taking) == ["taking.py:4 takes run._status"]


def test_no_imports_run_in_a_circle() -> None:
    """At run time; what is imported for type hints alone may point back."""
    known = modules()
    graph = {
        name: {target for one in imports(path) if not one.for_types and (target := ours(one.module, one.name, known))}
        for name, path in known.items()
    }
    graph = {name: targets - {name} for name, targets in graph.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_folder_holds_more_than_a_fifth_of_the_package() -> None:
    """In lines of everything that we wrote. `core/` is the package's main part, so its groups count as folders."""
    lines: Counter[str] = Counter()
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".j2", ".js", ".css"):
            folders = path.relative_to(PACKAGE).parts[:-1]
            lines["/".join(folders[: 2 if folders[:1] == ("core",) else 1])] += len(path.read_text().splitlines())
    total = sum(lines.values())
    assert {folder: count for folder, count in lines.items() if count > total / 5} == {}


def test_tests_stand_where_what_they_test_stands() -> None:
    tests = Path(__file__).parent
    rooms = {"architectures", "end_to_end", "support"}
    strays = [
        str(folder.relative_to(tests))
        for folder in tests.rglob("*")
        if folder.is_dir() and any(folder.glob("test_*.py")) and folder.relative_to(tests).parts[0] not in rooms
        if not (PACKAGE / folder.relative_to(tests)).is_dir()
    ]
    assert strays == []
