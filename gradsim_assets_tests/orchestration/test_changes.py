"""What every kind of change makes stale, what computes it again, and what that costs: a real home, a tiny model, real runs.

Each change is made to a copy of a finished home. The sensor looks; then one `gradsim run` in the one copy and one backfill in
another must each leave nothing stale, and the tables that a home without a past would have.
"""

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gradsim_assets.core.gradients import engine
from gradsim_assets.core.tables.schemas import SETTINGS
from gradsim_assets.core.tables.storage import Partition, Tables, fingerprint
from gradsim_assets.defs import code_version as versions
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.changing_home import ChangingHome, Named, finished_home
from gradsim_assets_tests.support.chat_server import ChatServer
from gradsim_assets_tests.support.edits import Edit, appended, copied_package, forget, inserted, replaced
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.same_tables import differences, tables_of
from gradsim_assets_tests.support.tiny_models import save_tiny_model

SHARDS = ("00", "01")


def each(*tables: str) -> list[str]:
    return [f"{table}_{setting}" for table in tables for setting in SETTINGS]


def by_shard(*tables: str, shards: tuple[str, ...] = SHARDS) -> set[Named]:
    return {(table, shard) for table in tables for shard in shards}


def whole(*tables: str) -> set[Named]:
    return {(table, "") for table in tables}


ORIGINALS = whole("lima", "sample_columns")
VARIANTS = ("paraphrased", "bm25_candidates")
PRODUCTS, PROJECTED = each("dot_products"), each("projected_similarity")
PASS = (*PRODUCTS, *PROJECTED)
SIZES = whole("parameters_per_component")
#: What is made of the gradient tables of a model: with and without what is made of products alone.
OF_PRODUCTS = each("gradient_similarity", "accuracy_per_component", "agreement", "greedy_selection", "self_similarity")
BY_GROUP = whole(*each("retrieval_by_group"))
OF_PROJECTIONS = whole(*each("retrieval"), "report", "model_comparison") | BY_GROUP
OF_SIMILARITIES = each("control_comparison")
ANALYSES = whole(*OF_PRODUCTS, *OF_SIMILARITIES) | OF_PROJECTIONS
#: What follows from other paraphrases, and what depends on a model itself.
FROM_VARIANTS = by_shard(*VARIANTS, "model_generated", *PASS)
OF_MODEL = by_shard("model_generated", *PASS) | SIZES


@dataclass(frozen=True)
class Change:
    """A change of a home, and what it costs."""

    #: Makes it; returns the home where that is another one now.
    make: Callable[[ChangingHome], ChangingHome | None]
    #: What `tables_up_to_date` calls stale or missing as soon as the sensor has looked.
    stale: set[Named]
    #: What one `gradsim run` computes, each once: that, and what really follows from it.
    computed: set[Named]
    #: Whether other tables come out, so that they are those of a home without a past; else they are those of before.
    changes: bool = True
    #: Run by `make test`, too.
    core: bool = False


def nothing(make: Callable[[ChangingHome], ChangingHome | None], core: bool = False) -> Change:
    return Change(make, set(), set(), changes=False, core=core)


def configured(section: str, **values: object) -> Callable[[ChangingHome], None]:
    def change(home: ChangingHome) -> None:
        getattr(home, section).update(values)
        home.configure()

    return change


def sample_edited(name: str, place: int) -> Callable[[ChangingHome], None]:
    def change(home: ChangingHome) -> None:
        rows = home.rows(name)
        rows[place]["messages"][0]["content"] += " Please answer at length."
        home.write(name, rows)

    return change


def columns_added(home: ChangingHome) -> None:
    """Every original gets a topic, which no text of it changes."""
    topics = ("maths", "art")
    home.write("originals", [{**row, "topic": topics[n % 2]} for n, row in enumerate(home.rows("originals"))])


def file_of_others(home: ChangingHome) -> None:
    """Everybody has the paraphrases of somebody else."""
    rows = home.rows("paraphrases")
    ids = [row["id"] for row in rows]
    home.write("paraphrases", [{**row, "id": ids[place - 1]} for place, row in enumerate(rows)])


def file_written_again(home: ChangingHome) -> None:
    home.write("paraphrases", home.rows("paraphrases"))


def files_elsewhere(home: ChangingHome) -> None:
    for name in ("originals", "paraphrases"):
        (home.root / f"{name}.jsonl").rename(home.root / f"moved_{name}.jsonl")
        home.data[name] = f"moved_{name}.jsonl"
    home.configure()


def at(
    harm: Callable[[Path], object], *key: str, shard: str | None = None, of_model: bool = True
) -> Callable[[ChangingHome], None]:
    """Something is done to a table's file."""

    def change(home: ChangingHome) -> None:
        place = Partition(home.slug if of_model else None, shard)
        harm(Path(str(Tables(str(home.home / "tables")).path(key, place))))

    return change


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def write_foreign(file: Path) -> None:
    pl.read_parquet(file, hive_partitioning=False).write_parquet(file)


def without_report(home: ChangingHome) -> None:
    (home.home / "reports" / home.slug / "index.html").unlink()


def code(edit: Edit) -> Callable[[ChangingHome], None]:
    """The code is another one, as far as versions are made of it."""

    def change(home: ChangingHome) -> None:
        package = copied_package(home.root / "edited")
        edit(package)
        home.monkeypatch.setattr(versions, "PACKAGE", package)
        forget()

    return change


def released(home: ChangingHome) -> None:
    home.monkeypatch.setattr("gradsim_assets.resources.table_store.__version__", "99.0")


def revised(home: ChangingHome) -> None:
    save_tiny_model(home.folder, seed=1, positions=POSITIONS)


def with_optimizer(home: ChangingHome) -> None:
    (home.folder / "optimizer.pt").write_bytes(b"moments")
    (home.folder / "trainer_state.json").write_text("{}")


def clock_back(home: ChangingHome) -> None:
    """The clock goes a day back, and then a paraphrase is edited."""
    real = time.time
    home.monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    sample_edited("paraphrases", -1)(home)


def moved(home: ChangingHome) -> ChangingHome:
    target = home.copy(home.root.with_name(f"{home.root.name}_moved"))
    shutil.rmtree(home.root)
    return target


def copied(home: ChangingHome) -> ChangingHome:
    return home.copy(home.root.with_name(f"{home.root.name}_copied"))


def on_another_machine(home: ChangingHome) -> None:
    """The pass is made in another way from now on, as less memory has it done: sums are rounded otherwise."""
    home.monkeypatch.setattr(engine, "PassOptions", partial(engine.PassOptions, batch_tokens=0, form="factored"))


def on_a_second_machine(home: ChangingHome) -> None:
    on_another_machine(home)
    at(Path.unlink, "dot_products", "paraphrased", shard="01")(home)


NUMERICS = "core/gradients/numerics_version.py"
ENGINE = "core/gradients/engine/turns.py"
LAST = by_shard("paraphrased", shards=("01",))
FROM_LAST = by_shard(*VARIANTS, "model_generated", *PASS, shards=("01",)) | ANALYSES

CHANGES = {
    # Data.
    "a paraphrase edited": Change(sample_edited("paraphrases", -1), LAST, FROM_LAST),
    "an original edited": Change(sample_edited("originals", 0), ORIGINALS, ORIGINALS | FROM_VARIANTS | ANALYSES),
    # Read again, and found to say the same: no gradient is made anew.
    "a column added": Change(columns_added, ORIGINALS, ORIGINALS | BY_GROUP | whole("report"), core=True),
    "what is grouped by": Change(
        configured("analysis", group_by=[]),
        whole("sample_columns") | BY_GROUP,
        whole("sample_columns") | BY_GROUP,
        changes=False,
    ),
    "a file replaced": Change(file_of_others, by_shard("paraphrased"), FROM_VARIANTS | ANALYSES),
    "a file written again": nothing(file_written_again),
    "files moved": nothing(files_elsewhere),
    "fewer samples": Change(
        configured("data", samples=3), ORIGINALS | by_shard("paraphrased"), ORIGINALS | FROM_VARIANTS | ANALYSES
    ),
    "more shards": Change(
        configured("data", shards=3),
        by_shard("paraphrased") | by_shard(*VARIANTS, "model_generated", *PASS, shards=("02",)),
        FROM_VARIANTS | by_shard(*VARIANTS, "model_generated", *PASS, shards=("02",)) | ANALYSES,
    ),
    "fewer shards": Change(
        configured("data", shards=1),
        by_shard("paraphrased", shards=("00",)),
        by_shard(*VARIANTS, "model_generated", *PASS, shards=("00",)) | ANALYSES,
    ),
    "candidates of all models": Change(
        configured("data", candidates=2), by_shard("bm25_candidates"), by_shard("bm25_candidates", *PASS) | ANALYSES
    ),
    "candidates of one model": Change(
        configured("model", candidates=4),
        by_shard("bm25_candidates") | OF_MODEL,
        by_shard("bm25_candidates") | OF_MODEL | ANALYSES,
    ),
    "places that only a score of 0 takes": Change(
        configured("data", zero_scores="corpus_order"),
        by_shard("bm25_candidates"),
        by_shard("bm25_candidates", *PASS) | ANALYSES,
    ),
    # Files of the tables.
    "a table's file deleted": Change(
        at(Path.unlink, "dot_products", "model_generated", shard="00"),
        by_shard("dot_products_model_generated", shards=("00",)),
        by_shard("dot_products_model_generated", shards=("00",)),
        changes=False,
    ),
    "a table's file truncated": Change(
        at(truncate, "model_generated", shard="00"),
        by_shard("model_generated", shards=("00",)),
        by_shard("model_generated", shards=("00",)),
        changes=False,
    ),
    "a table's file by somebody else": Change(
        at(write_foreign, "lima", of_model=False), whole("lima"), whole("lima"), changes=False
    ),
    "a report deleted": Change(without_report, whole("report"), whole("report"), changes=False),
    # Settings.
    "other projections": Change(
        configured("compute", projections=[0.02]), by_shard(*PROJECTED), by_shard(*PROJECTED) | OF_PROJECTIONS
    ),
    "another precision": Change(configured("compute", precision="tf32"), by_shard(*PASS), by_shard(*PASS) | ANALYSES),
    "more memory": nothing(configured("compute", memory_gib=4.0)),
    "another chat template": Change(
        configured(
            "model",
            chat_template=(
                "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}"
                "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
                "{% if add_generation_prompt %}[assistant] {% endif %}"
            ),
        ),
        OF_MODEL,
        OF_MODEL | ANALYSES,
    ),
    # No sample is longer than the context: answers and tokens stay as they are, and so do similarities. What reads the sizes of
    # the components is planned together with them, before it shows that they are the same.
    "another context policy": Change(
        configured("model", context="truncate"),
        OF_MODEL,
        OF_MODEL | ANALYSES - whole(*each("gradient_similarity"), *OF_SIMILARITIES),
        changes=False,
    ),
    "another dtype": Change(configured("model", dtype="bfloat16"), OF_MODEL, OF_MODEL | ANALYSES),
    # Nobody has asked for the evaluation here; where somebody has, see `test_run`.
    "how models are made again": nothing(configured("training", steps=2)),
    "how many subsets there are": nothing(configured("evaluation", subsets=5)),
    "a prompt of a paraphraser that is not asked": nothing(configured("paraphraser", system_prompt="Rewrite.")),
    # The model.
    "a revision of the model": Change(revised, OF_MODEL, OF_MODEL | ANALYSES),
    "optimizer state beside the model": nothing(with_optimizer, core=True),
    # Code. What runs stays as it is, so that the same comes out again.
    "code of an analysis": Change(
        code(inserted("core/analysis/agreement.py", "agreement")),
        whole(*each("agreement")),
        whole(*each("agreement"), "report"),
        changes=False,
        core=True,
    ),
    "code of a plot": Change(
        code(inserted("core/analysis/plots/static.py", "agreement")), whole("report"), whole("report"), changes=False
    ),
    "the engine's log": nothing(code(inserted(ENGINE, "run_pass", 'log("at work")'))),
    "the engine's code": nothing(code(inserted(ENGINE, "run_pass")), core=True),
    "a comment": nothing(code(appended("core/analysis/agreement.py", "# more\n"))),
    "the engine's numerics": Change(
        code(replaced(NUMERICS, r"^NUMERICS_VERSION = \d+", "NUMERICS_VERSION = 999")),
        by_shard(*PASS),
        by_shard(*PASS) | ANALYSES,
        changes=False,
    ),
    "the numerics of projections": Change(
        code(replaced(NUMERICS, r"^PROJECTIONS_VERSION = \d+", "PROJECTIONS_VERSION = 999")),
        by_shard(*PROJECTED),
        by_shard(*PROJECTED) | OF_PROJECTIONS,
        changes=False,
    ),
    "a release of the package": nothing(released),
    # Time and place.
    "a step of the clock": Change(clock_back, LAST, FROM_LAST),
    "the home moved": nothing(moved),
    "the home copied": nothing(copied),
    "a second machine": Change(
        on_a_second_machine,
        by_shard("dot_products_paraphrased", shards=("01",)),
        by_shard("dot_products_paraphrased", shards=("01",)),
        changes=False,
        core=True,
    ),
}

#: Tokens that the model takes: more than any sample has, and few for answers that do not end.
POSITIONS = 256


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChangingHome]:
    """A home in which everything was computed."""
    data, compute = {"shards": 2, "candidates": 3}, {"projections": [0.01]}
    with finished_home(tmp_path_factory, data, compute, positions=POSITIONS) as home:
        yield home


@pytest.fixture
def copies(
    finished: ChangingHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ChangingHome]]:
    """Makes copies of the finished home by name; what a change does outside of its home is taken back."""
    kept = tmp_path / "model"
    shutil.copytree(finished.folder, kept)

    def copy(name: str) -> ChangingHome:
        monkeypatch.undo()
        _restore(kept, finished.folder)
        forget()
        return finished.copy(tmp_path / name, monkeypatch)

    yield copy
    monkeypatch.undo()
    _restore(kept, finished.folder)
    forget()


def _restore(kept: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def changed(copies: Callable[[str], ChangingHome], place: str, change: Change) -> ChangingHome:
    """A copy that was changed, and looked at."""
    home = copies(place)
    home = change.make(home) or home
    home.look()
    assert set(home.out_of_date()) == change.stale
    return home


@pytest.fixture(scope="module")
def wanted(finished: ChangingHome) -> Callable[[str, ChangingHome, Path], Mapping[str, pl.DataFrame]]:
    """The tables that a changed home must end with: those of a home without a past, or of before where nothing else comes out."""
    known: dict[str, Mapping[str, pl.DataFrame]] = {}

    def tables(name: str, home: ChangingHome, root: Path) -> Mapping[str, pl.DataFrame]:
        if not CHANGES[name].changes:
            return finished.tables()
        if name not in known:
            fresh = home.fresh(root)
            fresh.run()
            known[name] = fresh.tables()
        return known[name]

    return tables


def retrieval(home: ChangingHome) -> dict[str, str]:
    """The fingerprints of what the comparison of models is made of."""
    return {place: fingerprint(table) for place, table in tables_of(home.home / "tables" / "retrieval").items()}


def passes_of(named: Collection[Named]) -> int:
    return len({shard for table, shard in named if table in PASS})


#: All rows, those of `make test` unmarked.
ROWS = [pytest.param(name, marks=[] if CHANGES[name].core else pytest.mark.slow) for name in CHANGES]
Wanted = Callable[[str, ChangingHome, Path], Mapping[str, pl.DataFrame]]


@pytest.mark.parametrize("name", ROWS)
def test_a_run_computes_what_a_change_has_made_stale_and_nothing_else(
    name: str, copies: Callable[[str], ChangingHome], wanted: Wanted, tmp_path: Path
) -> None:
    change = CHANGES[name]
    home = changed(copies, "changed", change)
    before, figures = home.now(), retrieval(home)
    home.run()
    computed = home.computed_since(before)
    # The comparison of models has a stage of its own, which sees whether other figures came out, to the last digit.
    same = set() if retrieval(home) != figures else whole("model_comparison")
    assert set(computed) == change.computed - same and set(computed.values()) <= {1}
    passes, gradients = home.cost_since(before)
    assert passes == passes_of(change.computed)
    assert home.out_of_date() == {}
    assert differences(home.tables(), wanted(name, home, tmp_path / "fresh")) == []
    print(f"{name}: {len(change.stale)} stale, {len(computed)} computed, {passes} passes, {gradients} gradients")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_backfill_of_it_ends_with_the_same_tables(
    name: str, copies: Callable[[str], ChangingHome], wanted: Wanted, tmp_path: Path
) -> None:
    change = CHANGES[name]
    home = changed(copies, "changed", change)
    before, planned = home.now(), home.planned()
    home.backfill()
    computed = home.computed_since(before)
    # It is told at its beginning what may follow, and computes that, too, where the same comes out as before.
    assert change.computed <= planned == set(computed) and set(computed.values()) <= {1}
    passes, gradients = home.cost_since(before)
    assert passes == passes_of(planned)
    assert home.out_of_date() == {}
    found, expected = home.tables(), wanted(name, home, tmp_path / "fresh")
    # What shards there are no more have left is swept by `gradsim run`.
    assert differences({place: found[place] for place in found if place in expected}, expected) == []
    print(f"{name}: {len(computed)} computed, {passes} passes, {gradients} gradients")


def data_versions(home: ChangingHome) -> dict[tuple[str, str], tuple[str, str]]:
    """Data version and fingerprint of the content of every partition of a gradient table."""
    found = {}
    instance = home.launcher.instance
    for key in map(dg.AssetKey, PASS):
        for record in reversed(instance.fetch_materializations(key, limit=100).records):
            event = record.asset_materialization
            assert event and event.tags and event.partition
            found[key.path[0], event.partition] = (
                event.tags["dagster/data_version"],
                str(event.metadata["gradsim/fingerprint"].value),
            )
    return found


@pytest.mark.slow
def test_gradients_computed_again_on_another_machine_leave_nothing_stale(copies: Callable[[str], ChangingHome]) -> None:
    home = copies("elsewhere")
    before, then, tables = home.now(), data_versions(home), home.tables()
    on_another_machine(home)
    home.backfill(
        "--force", "--only", "gradients", "--shard", "01"
    )  # one shard alone: both kinds of rounding side by side
    assert set(home.computed_since(before)) == by_shard("model_generated", *PASS, shards=("01",))
    now = data_versions(home)
    of_shard = {key for key in now if key[1].endswith("01")}
    assert all(now[key][0] == then[key][0] for key in now)
    assert any(now[key][1] != then[key][1] for key in of_shard), "it rounds otherwise, or this shows nothing"
    assert home.out_of_date() == {} and home.planned() == set()
    assert "Everything is there and up to date." in home.run().output
    assert differences(home.tables(), tables) == []
    home.run("--only", "analyses", "--force")
    assert differences(home.tables(), tables) == [] and home.out_of_date() == {}


@pytest.mark.slow
def test_shards_of_the_same_samples_among_more_of_them_are_not_mixed(copies: Callable[[str], ChangingHome]) -> None:
    home = copies("shards")
    for shards in (3, 4):  # the first shard of both holds the first sample alone
        home.data["shards"] = shards
        home.configure()
        home.run()
        assert home.out_of_date() == {}


@pytest.mark.slow
def test_candidates_found_in_another_way_are_not_mixed(copies: Callable[[str], ChangingHome]) -> None:
    """In the first shard every candidate has a score above 0, so that both ways find the same ones there."""
    home = copies("candidates")
    texts = {
        "originals": ["alpha beta gamma", "alpha beta delta", "alpha beta epsilon", "omega"],
        "paraphrases": ["alpha beta gamma", "alpha beta delta", "psi", "omega"],
    }
    for name in texts:
        rows = home.rows(name)
        for row, text in zip(rows, texts[name], strict=True):
            row["messages"][0]["content"] = text
        home.write(name, rows)
    home.run()
    before = home.tables()
    home.data["zero_scores"] = "corpus_order"
    home.configure()
    home.run()
    assert home.out_of_date() == {}
    now = home.tables()
    same = [now[place].equals(before[place]) for place in sorted(now) if place.startswith("bm25_candidates")]
    assert same == [True, False]


@pytest.mark.slow
def test_another_prompt_of_the_paraphraser_costs_the_paraphrases_and_what_follows(
    copies: Callable[[str], ChangingHome], tmp_path: Path
) -> None:
    with ChatServer() as server:
        home = copies("chat")
        home.monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        home.monkeypatch.setenv("OPENAI_API_KEY", server.key)
        home.data["paraphrases"] = "openai"
        home.configure()
        home.run()
        home.paraphraser["system_prompt"] = "Rewrite the text in other words."
        home.configure()
        home.look()
        assert set(home.out_of_date()) == by_shard("paraphrased")
        before, asked = home.now(), len(server.asked)
        home.run()
        computed = set(home.computed_since(before))
        assert by_shard("paraphrased") <= computed <= FROM_VARIANTS | ANALYSES and len(server.asked) >= asked + 8
        assert home.out_of_date() == {}
        fresh = home.fresh(tmp_path / "fresh")
        fresh.run()
        assert differences(home.tables(), fresh.tables()) == []


@pytest.mark.slow
def test_a_hub_that_is_down_is_no_news(tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.push("org/name", save_tiny_model(tmp_path / "model", positions=POSITIONS))
        environment = {**hub.environment, "HF_HOME": str(tmp_path / "cache")}
        config = "[data]\nsamples = 2\nshards = 1\ncandidates = 2\n[compute]\nprojections = [0.01]\n"
        first = gradsim(tmp_path / "home", "run", "org/name", config=config, **environment)
        assert first.returncode == 0, first.stdout + first.stderr
    again = gradsim(tmp_path / "home", "run", "org/name", config=config, **environment)
    assert again.returncode == 0 and "Everything is there and up to date." in again.stdout, again.stdout + again.stderr


#: Changes that automation is shown: of the data, of the model, of the code.
AUTOMATED = ("a paraphrase edited", "an original edited", "a revision of the model", "code of an analysis")


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTOMATED)
def test_automation_ends_with_the_same_tables(
    name: str, copies: Callable[[str], ChangingHome], wanted: Wanted, tmp_path: Path
) -> None:
    """Datasets cost money and are nobody's but the user's to compute: until they are, nothing is asked for."""
    change = CHANGES[name]
    home = copies("changed")
    before = home.now()
    cursor = home.settle()
    assert home.computed_since(before) == {}, "nothing has changed yet"
    change.make(home)
    home.look()
    assert set(home.out_of_date()) == change.stale
    of_datasets = {named for named in change.computed if named[0] in ("lima", *VARIANTS)}
    if of_datasets:
        cursor = home.settle(cursor)
        assert home.computed_since(before) == {}, "it would be made of what is stale"
        home.run("--only", "datasets")
        assert set(home.computed_since(before)) == of_datasets
    home.settle(cursor)
    computed = home.computed_since(before)
    assert set(computed) == change.computed and set(computed.values()) <= {1}
    passes, gradients = home.cost_since(before)
    assert passes == passes_of(change.computed)
    assert home.out_of_date() == {} and home.planned() == set()
    assert differences(home.tables(), wanted(name, home, tmp_path / "fresh")) == []
    print(f"{name}: {len(computed)} computed, {passes} passes, {gradients} gradients")
