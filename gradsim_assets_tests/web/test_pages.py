"""The pages over HTTP, from the real server of a real home."""

import html
import json
import os
import re
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.configuration import Settings, load_settings
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.models.controls import UNTRAINED
from gradsim_assets.core.partition_keys import model_slug
from gradsim_assets.definitions import build_definitions
from gradsim_assets.defs.web_links import report_address
from gradsim_assets.web.app import names_of
from gradsim_assets_tests.support.web_home import BARE, CONTROL, DAGSTER, MODEL, OLD, WebHome


def text(page: str) -> str:
    """What a page says, without its tags, in single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def card(page: str, model: str) -> str:
    """What the front page has on one model."""
    found = re.search(rf'<article class="model" id="{re.escape(model_slug(model))}">(.*?)</article>', page, re.DOTALL)
    assert found is not None, f"nothing on {model}"
    return found[1]


def test_the_front_page_has_every_model_with_its_figures_and_where_to_go(site: WebHome) -> None:
    status, page = site.get("/")
    assert status == 200
    of_model = card(page, MODEL)
    for setting, results in site.case.settings.items():
        row = results.retrieval.filter(method="full_gradient").row(0, named=True)
        assert f"{row['accuracy']:.3f} {row['accuracy_low']:.3f}–{row['accuracy_high']:.3f}" in text(of_model), setting
        control = results.controls.filter(component="full_gradient").row(0, named=True)
        assert f"untrained control {round(control['control_accuracy'] * 24)} of 24" in text(of_model)
    assert 'href="/reports/org--model/"' in of_model and 'href="/compare?model=org--model"' in of_model
    assert f'href="{DAGSTER}/assets/report?view=partitions&amp;partition=org--model"' in of_model
    assert "revision abc123" in text(of_model)
    assert f"control of {MODEL}" in text(card(page, CONTROL))
    assert f"No report yet; gradsim run {BARE} makes it." in text(card(page, BARE))
    assert "/reports/" not in card(page, BARE)
    assert "is of an older gradsim" in text(card(page, OLD)) and "/reports/org--old%40v1/" in card(page, OLD)
    assert page.index('id="org--model"') < page.index(f'id="org--model+{UNTRAINED}"')


def test_how_models_stand_is_told_apart_from_the_page(site: WebHome) -> None:
    status, answer = site.get("/states")
    states = json.loads(answer)
    assert status == 200 and set(states) == {model_slug(model) for model in (MODEL, CONTROL, BARE, OLD, "demo")} - {
        "demo"
    }
    assert all("missing" in state for state in states.values()), "nothing was materialised by Dagster here"


def test_reports_are_served_with_the_files_beside_them(site: WebHome) -> None:
    folder = site.home.report("org--model")
    assert site.get("/reports/org--model/") == (200, (folder / "index.html").read_text())
    assert site.get("/reports/org--model/summary.json") == (200, (folder / "summary.json").read_text())
    assert site.get("/reports/org--model/plots/accuracy.svg")[0] == 200
    assert site.get(f"/reports/org--model%2B{UNTRAINED}/")[0] == 200
    assert site.get("/reports/org--model") == (200, (folder / "index.html").read_text()), "sent on to the folder"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/reports/org--nobody/", "There is no model org--nobody here; `gradsim models list` shows which there are."),
        ("/reports/org--bare/", "org/bare has no report yet; `gradsim run org/bare` makes it."),
        ("/reports/org--model/nothing.png", "The report of org--model has no file nothing.png."),
        ("/compare?model=org--nobody", "There is no model org--nobody here; `gradsim models list` shows which"),
        ("/nowhere", "There is no such page."),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(site: WebHome, path: str, sentence: str) -> None:
    status, page = site.get(path)
    assert status == 404 and sentence in text(page)


def test_names_in_addresses_are_shown_as_text(site: WebHome) -> None:
    status, page = site.get("/reports/%3Cscript%3Ealert(1)%3C%2Fscript%3E/")
    assert status == 404 and "<script>alert" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/reports/../gradsim.toml",
        "/reports/../tables/",
        "/reports/org--model/../../gradsim.toml",
        "/reports/org--model/..%2F..%2Fgradsim.toml",
        "/reports/%2e%2e/gradsim.toml",
        "/reports/..%2f..%2f..%2f..%2fetc/passwd",
        "/reports/org--model//etc/passwd",
        "/reports/org--model/%2fetc%2fpasswd",
        "/reports/org--model/..\\..\\gradsim.toml",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
    ],
)
def test_nothing_outside_of_reports_is_served(site: WebHome, path: str) -> None:
    (site.home.folder / "gradsim.toml").write_text("# SECRET\n")
    status, page = site.raw(path)
    assert status in (400, 404, 405)
    assert "SECRET" not in page and "root:" not in page and "create_app" not in page


def test_a_link_out_of_a_report_is_not_followed(site: WebHome) -> None:
    (site.home.folder / "secret.txt").write_text("SECRET")
    link = site.home.report("org--model") / "plots/link.svg"
    link.symlink_to(site.home.folder / "secret.txt")
    try:
        status, page = site.get("/reports/org--model/plots/link.svg")
    finally:
        link.unlink()
    assert status == 404 and "SECRET" not in page


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_pages_only_read(site: WebHome, method: str) -> None:
    assert site.raw("/reports/org--model/", method)[0] == 405
    before = {name: content for name, content in site.files().items() if "/dagster/" not in name}
    for path in ("/", "/states", "/compare", "/reports/org--model/"):
        assert site.get(path)[0] == 200
    assert {name: content for name, content in site.files().items() if "/dagster/" not in name} == before


def test_a_look_ends_no_run_though_its_process_is_gone(site: WebHome) -> None:
    assert site.get("/states")[0] == 200
    with dg.DagsterInstance.from_config(str(site.home.dagster)) as instance:
        run = instance.get_run_by_id(site.orphan)
        assert run is not None and run.status == dg.DagsterRunStatus.STARTED


def test_pages_of_other_sites_cannot_read_what_is_served_to_this_machine(site: WebHome) -> None:
    assert site.get("/", {"Host": "evil.example"})[0] == 400
    assert site.get("/reports/org--model/", {"Host": f"evil.example:{site.port}"})[0] == 400
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert site.get("/", {"Host": f"{name}:{site.port}"})[0] == 200


def test_a_server_for_other_machines_answers_to_any_name() -> None:
    assert names_of("0.0.0.0", "") is None
    assert names_of("server.example", "") is None
    assert names_of("127.0.0.1", "https://gradsim.example/") == {"127.0.0.1", "localhost", "::1", "gradsim.example"}


def test_models_stand_side_by_side_with_their_paired_differences(site: WebHome) -> None:
    status, page = site.get("/compare?model=org--model")
    assert status == 200
    said = text(page)
    for results in site.case.settings.values():
        row = results.controls.filter(component="full_gradient").row(0, named=True)
        assert row["difference_low"] < 0
        shown = f"{CONTROL} 24 {row['difference']:+.3f} {row['difference_low']:.3f} to {row['difference_high']:.3f}"
        assert shown in said, "what control_comparison has"
    assert "Each model has given its own answers." in said
    both = text(site.get("/compare?model=org--model&model=org--bare")[1])
    assert "org/bare" not in both, "which has no figures"
    assert "None of these models has a report" in text(site.get("/compare?model=org--bare&model=org--bare")[1])


def test_a_broken_configuration_is_said_and_the_server_goes_on(site: WebHome) -> None:
    file = site.home.folder / "gradsim.toml"
    file.write_text("[data]\nshard = 3\n")
    try:
        status, page = site.get("/")
        assert status == 409 and "unknown key data.shard; did you mean shards?" in text(page)
    finally:
        file.write_text("")
    assert site.get("/")[0] == 200


def test_dagsters_pages_lead_to_what_is_served(site: WebHome) -> None:
    for model in (MODEL, CONTROL, OLD):
        assert site.get(report_address("", model_slug(model)))[0] == 200
    served = Settings(home=site.home.folder, tables=str(site.home.tables), web="https://host/gradsim")
    for settings, link in ((served, "https://host/gradsim/"), (served.model_copy(update={"web": ""}), None)):
        graph = build_definitions(settings).get_repository_def().asset_graph
        for name in ("report", "hf_model", "model_comparison"):
            found = graph.get(dg.AssetKey(name)).metadata.get("front page")
            assert (found and found.url) == link


def test_an_address_that_is_none_is_refused() -> None:
    for wrong in ("localhost:3001", "ftp://a/", "http://", "http://a/?b"):
        with pytest.raises(InputError, match="GRADSIM_WEB is .* no address of a web server"):
            load_settings({"GRADSIM_WEB": wrong, "GRADSIM_HOME": str(Path(os.devnull))})
    assert load_settings({"GRADSIM_WEB": "https://host/gradsim/"}).web == "https://host/gradsim"
    assert load_settings({"GRADSIM_WEB": ""}).web == ""
