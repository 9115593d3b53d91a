"""gradsim.toml and the environment: defaults, and the sentences for what is wrong."""

import re
from pathlib import Path

import pytest

from gradsim_assets.configuration import Settings, load_settings, registered_id
from gradsim_assets.core.errors import InputError
from gradsim_assets.definitions import build_definitions
from gradsim_assets.resources.by_name import resources

ROOT = Path(__file__).parent.parent


def settings_of(text: str, folder: Path) -> Settings:
    path = folder / "gradsim.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings({"GRADSIM_CONFIG": str(path), "GRADSIM_HOME": str(folder)})


def test_without_a_file_the_demo_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({})
    assert settings.data.originals == settings.data.paraphrases == "demo"
    assert [model.id for model in settings.models] == ["demo"]
    assert settings.home == tmp_path / ".gradsim"
    assert settings.tables == str(tmp_path / ".gradsim" / "tables")


def test_the_example_file_shows_the_defaults_and_knows_every_key(tmp_path: Path) -> None:
    example = (ROOT / "gradsim.example.toml").read_text(encoding="utf-8")
    shown = settings_of(example, tmp_path)
    assert shown == settings_of("", tmp_path)
    for section in ("data", "paraphraser", "compute", "evaluation"):
        documented = example.split(f"\n[{section}]")[1].split("\n[")[0]
        for key in getattr(shown, section).model_dump():
            assert f"\n{key} = " in documented, f"[{section}] {key} is not in gradsim.example.toml"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[data]\nshard = 3", "unknown key data.shard; did you mean shards?"),
        ("[dta]\nshards = 3", "unknown key dta; did you mean data?"),
        ("[training]\nepoch = 3", "unknown key training.epoch; did you mean epochs?"),
        (
            '[[models]]\nid = "a/b"\ntraining = { lerning_rate = 1.0 }',
            "unknown key models.0.training.lerning_rate; did you mean learning_rate?",
        ),
        ("[training]\nlabel_smoothing = 1", "training.label_smoothing = 1 is not accepted"),
        ("[evaluation]\nsubsets = 100", "evaluation.subsets = 100 is not accepted"),
        (
            '[[models]]\nid = "a/b"\nflavour = 1',
            "unknown key models.0.flavour; known here: id, dtype, chat_template, context, candidates",
        ),
        ("[data]\nshards = 100", "data.shards = 100 is not accepted"),
        ("[data]\nshards = 0", "data.shards = 0 is not accepted"),
        (
            "[data]\ncandidates = 0",
            'data.candidates = 0 is not accepted (must be a number from 1 up, "all", "bm25:5", "index:50" or "bm25:5+index:20", with',
        ),
        (
            '[data]\ncandidates = "index:50"',
            'data.candidates = "index:50" looks in the index of a model, and none is configured; add the section [index]',
        ),
        (
            '[index]\n[data]\ncandidates = "index:5+index:6"',
            "data.candidates = 'index:5+index:6' is not accepted (must be",
        ),
        (
            '[index]\n[[models]]\nid = "a/b"\ncheckpoints = "step-*"\ncandidates = "bm25:5+index:6"',
            "the checkpoints of a/b are summed up over the same pairs",
        ),
        (
            '[[models]]\nid = "a/b"\ncandidates = "some"',
            "models.0.candidates = 'some' is not accepted (must be a number",
        ),
        ('[slurm]\noptions = { "--mem" = "4G" }', "is not accepted (--mem is no long name of an option of sbatch"),
        (
            '[slurm]\noptions = { array = "0-9" }',
            "is not accepted (array is set by gradsim slurm itself; leave it out)",
        ),
        ("[slurm]\noptions = { exclusive = false }", "exclusive must be true, a number, or a text of one line"),
        ('[slurm]\noptions = { mem = "4G\\nrm" }', "mem must be true, a number, or a text of one line"),
        ('[compute]\nexecutor = "celery"', "compute.executor = 'celery' is not accepted"),
        ('[compute]\ndevice = "gpu"', "compute.device = 'gpu' is not accepted"),
        ("[compute]\ndevices = -1", "compute.devices = -1 is not accepted"),
        (
            '[compute]\ndevices = 2\ndevice = "cuda:1"',
            'compute.devices = 2 spreads a model over GPUs, and compute.device = "cuda:1" names one device',
        ),
        ('folder = "/tmp"', "unknown key folder; relative paths begin at the folder of this file"),
        ('home = "/tmp"', "unknown key home; set GRADSIM_HOME in the environment instead"),
        ('[[models]]\nid = "a/b"\n[[models]]\nid = "a/b"', "model a/b is listed twice"),
        ('[data]\nretriever_tokens = "words"', "data.retriever_tokens = 'words' is not accepted"),
        ('[data]\nzero_scores = "first"', "data.zero_scores = 'first' is not accepted"),
        (
            '[data]\nretriever_tokens = "model"\n[[models]]\nid = "a/b"\n[[models]]\nid = "a/c"',
            "one table of candidates for all models; say by data.retriever_model whose tokenizer cuts the prompts",
        ),
        (
            '[data]\nretriever_model = "a/b"',
            'data.retriever_model = "a/b" is used by data.retriever_tokens = "model" only',
        ),
        ("[compute]\nmemory_gib = inf", "compute.memory_gib = inf is not accepted (Input should be a finite number)"),
        ("[paraphraser]\ntemperature = inf", "paraphraser.temperature = inf is not accepted"),
        ("[paraphraser]\nprices = { m = [nan, 1] }", "paraphraser.prices.m.0 = nan is not accepted"),
        ("[paraphraser]\nprices = { m = [1, -1] }", "paraphraser.prices.m.1 = -1 is not accepted"),
        (
            '[automation]\nrerun_cron = "at night"',
            "automation.rerun_cron = 'at night' is not accepted (must be five fields of cron",
        ),
        ('[automation]\nreconcile_cron = "61 * * * *"', "automation.reconcile_cron = '61 * * * *' is not accepted"),
        ("[data", "is not valid TOML"),
    ],
)
def test_a_fault_in_the_file_is_told_in_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        settings_of(text, tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["./models/mine", "models/mine", "models/../models/mine/", "{folder}/models/mine"])
def test_a_models_folder_is_the_same_one_from_wherever_the_file_is_read(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("", "elsewhere"):
        (tmp_path / place / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    mine = written.format(folder=tmp_path)
    settings = settings_of(f'[data]\nretriever_tokens = "model"\n[[models]]\nid = "{mine}"\n', tmp_path)
    assert [model.id for model in settings.models] == [str(tmp_path / "models" / "mine")] == [settings.retriever_model]


def test_what_is_no_folder_stays_a_hub_id_and_a_folder_named_demo_hides_no_demo(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    settings = settings_of('[[models]]\nid = "org/name@main"\n[[models]]\nid = "demo"\n', tmp_path)
    assert [model.id for model in settings.models] == ["org/name@main", "demo"]


def test_one_folder_written_in_two_ways_is_one_model(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="mine is listed twice"):
        settings_of(f'[[models]]\nid = "./mine"\n[[models]]\nid = "{tmp_path}/mine/"\n', tmp_path)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"GRADSIM_CONFIG names .*, which is no file"):
        load_settings({"GRADSIM_CONFIG": str(tmp_path / "none.toml")})


def test_all_candidates_can_be_asked_for(tmp_path: Path) -> None:
    assert settings_of('[data]\ncandidates = "all"', tmp_path).data.candidates == "all"
    assert settings_of('[data]\ncandidates = "bm25:7"', tmp_path).data.candidates == 7


def test_candidates_by_an_index_are_one_choice_however_they_are_written(tmp_path: Path) -> None:
    written = settings_of('[index]\n[data]\ncandidates = "index:20 + bm25:7"', tmp_path)
    assert (written.data.candidates, written.most_candidates, written.indexed) == ("bm25:7+index:20", 7, True)
    alone = settings_of('[index]\n[data]\ncandidates = "index:20"', tmp_path)
    assert (alone.most_candidates, alone.indexed) == (1, True), "the own original"
    own = settings_of('[index]\n[[models]]\nid = "a/b"\ncandidates = "bm25:9+index:2"', tmp_path)
    assert (own.most_candidates, own.indexed) == (9, True)
    assert not settings_of("[index]", tmp_path).indexed


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("", None),
        ('[data]\nretriever_tokens = "model"', "demo"),
        ('[data]\nretriever_tokens = "model"\n[[models]]\nid = "a/b"', "a/b"),
        ('[data]\nretriever_tokens = "model"\nretriever_model = "c/d@v1"\n[[models]]\nid = "a/b"', "c/d@v1"),
    ],
)
def test_one_tokenizer_cuts_the_prompts_for_all_models(text: str, model: str | None, tmp_path: Path) -> None:
    assert settings_of(text, tmp_path).retriever_model == model


def test_controls_are_the_untrained_model_and_the_base_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    settings = settings_of(
        '[[models]]\nid = "./tuned"\nbase = "./before"\ncontrols = true\n[[models]]\nid = "org/other"\nbase = "org/base"\n',
        tmp_path,
    )
    tuned, before = str(tmp_path / "tuned"), str(tmp_path / "before")
    assert settings.controls_of(tuned) == [f"{tuned}+untrained", before]
    assert settings.controls_of("org/other") == ["org/other+untrained", "org/base"]
    assert settings.controls_of("org/third") == ["org/third+untrained"] and settings.controls_of("demo+untrained") == []
    assert settings.configured == [tuned, f"{tuned}+untrained", before, "org/other"]
    assert settings.studied(["org/other", "org/base", "x+untrained", "org/other+untrained"]) == {
        "org/base": "org/other",
        "org/other+untrained": "org/other",
    }
    assert registered_id("tuned+untrained", tmp_path) == f"{tuned}+untrained"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[[models]]\nid = "a/b"\nbase = "a/b"', 'base = "a/b" of a/b is no model that came before it'),
        (
            '[[models]]\nid = "a/b"\nbase = "c/d+untrained"',
            'base = "c/d+untrained" of a/b is no model that came before',
        ),
        (
            '[[models]]\nid = "a/b"\nbase = "c/d"\n[[models]]\nid = "e/f"\nbase = "c/d"\ndtype = "bfloat16"',
            "c/d is the base of a/b and of e/f, whose settings differ",
        ),
    ],
)
def test_a_base_that_is_none_or_has_no_settings_of_its_own_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        settings_of(text, tmp_path)


def test_a_base_that_is_listed_has_settings_of_its_own_whoever_names_it(tmp_path: Path) -> None:
    both = '[[models]]\nid = "a/b"\nbase = "c/d"\n[[models]]\nid = "e/f"\nbase = "c/d"\ndtype = "bfloat16"\n'
    assert settings_of(f'{both}[[models]]\nid = "c/d"\n', tmp_path).bases == {"a/b": "c/d", "e/f": "c/d"}


def test_a_control_is_never_retrained_as_if_it_had_seen_the_originals(tmp_path: Path) -> None:
    text = '[training]\nsteps = 3\n[[models]]\nid = "org/a"\nbase = "org/base"\noptimizer_state = "state.pt"\n'
    settings = settings_of(text, tmp_path)
    assert settings.training_of("org/a") is not None
    assert [settings.training_of(one) for one in ("org/a+untrained", "org/base", "demo+untrained")] == [None] * 3
    control = settings_of(f"{text}training = {{ seed = 1 }}\n", tmp_path).controls_of("org/a")
    assert control == ["org/a+untrained", "org/base"]
    # What says how a model was trained is not shared with what was not.
    assert {"training", "optimizer_state", "base"}.isdisjoint(settings.models[0].shared)
    own = f'{text}[[models]]\nid = "org/base"\ntraining = {{ steps = 5 }}\n'  # a base that says itself how it was made
    assert getattr(settings_of(own, tmp_path).training_of("org/base"), "steps", None) == 5


def test_every_optional_list_may_be_empty(tmp_path: Path) -> None:
    text = "models = []\n[compute]\nprojections = []\n[preconditioners]\nmethods = []\n[paraphraser]\nprices = {}\nfields = {}\n"
    settings = settings_of(f"{text}[data]\ncolumns = {{}}\nfilter = {{}}\n", tmp_path)
    assert settings.configured == [] and settings.trajectories == {} and settings.bases == {}
    graph = build_definitions(settings).get_repository_def().asset_graph
    assert "tracin_paraphrased" not in {key.to_user_string() for key in graph.get_all_asset_keys()}
    (tmp_path / "data.jsonl").write_text('{"prompt": "Say a.", "completion": "a", "source": "x"}\n')
    none = settings_of('[data]\noriginals = "data.jsonl"\nfilter = { source = [] }\n', tmp_path)
    with pytest.raises(InputError, match=r"data\.jsonl holds no samples of data\.filter"):
        resources(none).sources.load_originals()


def test_owners_are_those_of_every_table(tmp_path: Path) -> None:
    path = tmp_path / "gradsim.toml"
    path.write_text('[project]\nowners = ["ada@example.org", "team:nlp"]\n')
    settings = load_settings({"GRADSIM_CONFIG": str(path), "GRADSIM_HOME": str(tmp_path)})
    graph = build_definitions(settings).get_repository_def().asset_graph
    for key in graph.materializable_asset_keys:
        assert list(graph.get(key).owners) == ["ada@example.org", "team:nlp"], key
    path.write_text('[project]\nowners = ["ada"]\n')
    with pytest.raises(InputError, match=r"project\.owners.* is neither an address .* nor a team"):
        load_settings({"GRADSIM_CONFIG": str(path), "GRADSIM_HOME": str(tmp_path)})
