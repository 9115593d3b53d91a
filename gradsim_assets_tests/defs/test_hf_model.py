"""What the UI shows of the models under study, and how an observation ends in which one of them could not be had."""

import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from gradsim_assets.configuration import DataSettings, ModelSettings, Settings
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.models.hf_model import HF_MODEL
from gradsim_assets.orchestration.observations import observed_versions
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.fresh_process import said_by
from gradsim_assets_tests.support.hub_server import HubServer
from gradsim_assets_tests.support.sample_files import rows, write
from gradsim_assets_tests.support.tiny_models import save_tiny_model


class Home:
    """A home with two models, on an instance of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = [str(save_tiny_model(root / name, kind)) for name, kind in (("a", "olmo"), ("b", "gpt2"))]
        self.slugs = [model_slug(model) for model in self.models]
        self.instance = dg.DagsterInstance.ephemeral()
        self.instance.add_dynamic_partitions("model", self.slugs)
        self.configure()

    def configure(self, **of_the_first: Any) -> None:
        samples = write(self.root / "samples.jsonl", rows("a", "b"))
        self.settings = Settings(
            home=self.root,
            tables=str(self.root / "tables"),
            data=DataSettings(originals=samples, paraphrases=samples, shards=2),
            models=(ModelSettings(id=self.models[0], **of_the_first), ModelSettings(id=self.models[1])),
        )
        self.repository = build_definitions(self.settings).get_repository_def()

    def observe(self, asset: str = "hf_model") -> dg.ExecuteInProcessResult:
        """What "Observe" in the UI runs."""
        job = self.repository.get_job("__ASSET_JOB")
        part = job.get_subset(asset_selection={dg.AssetKey(asset)})
        return part.execute_in_process(instance=self.instance, raise_on_error=False)

    def tick(self) -> list[Any]:
        """The events of one look of the sensor, recorded as the daemon does it."""
        found = resources(self.settings)
        context = dg.build_sensor_context(instance=self.instance, repository_def=self.repository)
        given = {"hub": found.hub, "sources": found.sources, "store": found.store}
        events = self.repository.get_sensor_def("observe_sources")(context, **given).asset_events
        for event in events:
            self.instance.report_runless_asset_event(event)
        return list(events)

    def shown(self, slug: str) -> dict[str, Any]:
        """The metadata of the latest materialisation, which is what the page of a partition shows."""
        wanted = dg.AssetRecordsFilter(HF_MODEL, asset_partitions=[slug])
        (record,) = self.instance.fetch_materializations(wanted, limit=1).records
        assert record.asset_materialization is not None
        return {name: value.value for name, value in record.asset_materialization.metadata.items()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_observation_fills_the_partitions_and_says_what_the_models_are(home: Home) -> None:
    assert home.observe().success
    assert home.instance.get_materialized_partitions(HF_MODEL) == set(home.slugs)
    hub = resources(home.settings).hub
    for model, slug in zip(home.models, home.slugs, strict=True):
        real = hub.load(model, hub.resolve(model)).model
        assert home.shown(slug) == {
            "id": model,
            "revision": hub.resolve(model).name,
            "link": model,
            "parameters": real.num_parameters(),
            "trainable parameters": real.num_parameters(only_trainable=True),
            "dtype of the checkpoint": "float32",
            "context (tokens)": 512,
            "settings/dtype": "float32",
            "settings/chat_template": "tulu",
            "settings/context": "auto",
            "settings/candidates": 5,
            "settings/profile": "gpu",
            "settings/controls": False,
        }
    assert home.observe("paraphrases_source").success
    assert home.instance.get_materialized_partitions(dg.AssetKey("paraphrases_source")) == {"00", "01"}


def test_what_was_observed_before_partitions_were_filled_is_filled_at_the_next_look(home: Home) -> None:
    def places(events: list[Any]) -> set[tuple[str, str, str | None]]:
        return {(type(e).__name__, e.asset_key.to_user_string(), e.partition) for e in events}

    tags = {"dagster/data_version": resources(home.settings).hub.version_now(home.models[0])}
    home.instance.report_runless_asset_event(dg.AssetObservation(HF_MODEL, partition=home.slugs[0], tags=tags))
    found = {place for place in places(home.tick()) if place[1:] == ("hf_model", home.slugs[0])}
    assert found == {("AssetMaterialization", "hf_model", home.slugs[0])}
    assert home.tick() == [], "nothing is recorded twice"


def test_settings_are_shown_as_they_are_now_whether_they_decide_the_version_or_not(home: Home) -> None:
    home.tick()
    before = observed_versions(home.instance, HF_MODEL)
    home.configure(profile="large")
    assert [(type(event), event.partition) for event in home.tick()] == [(dg.AssetMaterialization, home.slugs[0])]
    assert observed_versions(home.instance, HF_MODEL) == before
    assert home.shown(home.slugs[0])["settings/profile"] == "large"
    home.configure(candidates=7)
    assert [type(event) for event in home.tick()] == [dg.AssetObservation, dg.AssetMaterialization]
    assert home.shown(home.slugs[0])["settings/candidates"] == 7


def test_controls_are_registered_and_observed_as_their_models_are(home: Home) -> None:
    control, base = f"{home.models[0]}+untrained", home.models[1]
    home.configure(controls=True, base=base)
    context = dg.build_sensor_context(instance=home.instance, repository_def=home.repository)
    found = resources(home.settings)
    given = {"hub": found.hub, "sources": found.sources, "store": found.store}
    result = home.repository.get_sensor_def("observe_sources")(context, **given)
    (request,) = result.dynamic_partitions_requests
    assert request.partition_keys == [model_slug(control)]
    home.instance.add_dynamic_partitions("model", request.partition_keys)
    assert home.observe().success
    shown = home.shown(model_slug(control))
    assert shown["id"] == control and shown["revision"] == found.hub.resolve(control).name
    assert shown["weights"].startswith("random, drawn by the seed ")
    assert shown["parameters"] == home.shown(home.slugs[0])["parameters"]
    assert "dtype of the checkpoint" not in shown


@pytest.mark.parametrize("gone", [0, 1])
def test_a_model_that_cannot_be_observed_fails_the_run_after_the_others_were(home: Home, gone: int) -> None:
    shutil.rmtree(home.models[gone])
    done = home.observe()
    assert not done.success
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data.description
    assert said == (
        f"1 of 2 models could not be observed, the others are: {home.slugs[gone]}: {home.models[gone]} is no model folder "
        "(it holds no config.json, and no adapter_config.json); give the folder of a saved model."
    )
    last = done.all_events[-1]
    assert last.is_run_failure and said in last.job_failure_data.error.message, "the last line in the UI"
    assert set(observed_versions(home.instance, HF_MODEL)) == {home.slugs[1 - gone]}
    assert home.instance.get_materialized_partitions(HF_MODEL) == {home.slugs[1 - gone]}


def test_all_models_that_cannot_be_observed_are_named(home: Home) -> None:
    for model in home.models:
        shutil.rmtree(model)
    done = home.observe()
    (failure,) = [event for event in done.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data.description
    assert said.startswith("2 of 2 models could not be observed, none is: ")
    assert all(f"{slug}: {model} is no" in said for slug, model in zip(home.slugs, home.models, strict=True))


def test_a_model_without_safetensors_shows_what_its_configuration_says_and_no_more(home: Home) -> None:
    folder = Path(home.models[0])
    (folder / "model.safetensors").rename(folder / "model.bin")
    home.tick()
    shown = home.shown(home.slugs[0])
    assert shown["context (tokens)"] == 512
    assert not {"parameters", "trainable parameters", "dtype of the checkpoint"} & set(shown)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.push("org/model", save_tiny_model(tmp_path_factory.mktemp("hub") / "model", "llama"))
        yield hub


def test_a_model_of_the_hub_is_described_without_its_weights_being_downloaded(hub: HubServer, tmp_path: Path) -> None:
    setup = textwrap.dedent("""
        from gradsim_assets.resources.model_hub import ModelHub
        from gradsim_assets.defs.models.hf_model import metadata_of
        import json, sys
        hub = ModelHub(home="/nowhere", device="cpu", models=[])
        def shown():
            found = metadata_of(hub, "org/model", hub.resolve("org/model"))
            plain = {name: getattr(value, "value", value) for name, value in found.items()}
            return json.dumps([plain, sorted({"torch", "transformers"} & set(sys.modules))])
    """)
    said = said_by(setup, "shown()", HF_HOME=str(tmp_path), **hub.environment)
    shown, heavy = json.loads(said[said.index("[{") : said.rindex("]") + 1])
    assert heavy == []
    assert shown["link"] == f"{hub.url}/org/model/tree/{shown['revision']}"
    assert shown["dtype of the checkpoint"] == "float32" and shown["context (tokens)"] == 512
    assert shown["parameters"] == shown["trainable parameters"] > 10_000
    assert [file.name for file in tmp_path.rglob("*") if file.suffix == ".safetensors"] == []
