"""`gradsim report`: the figures, the file, and the page where it is served."""

import json
import os
from pathlib import Path

from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.web_home import BARE, CONTROL, MODEL, OLD, WebHome


def test_figures_path_and_json(site: WebHome) -> None:
    home, page = site.home.folder, site.home.report("org--model") / "index.html"
    summary = json.loads((page.parent / "summary.json").read_text())
    told = gradsim(home, "report", MODEL)
    assert told.returncode == 0, told.stderr
    assert f"Report: {page}  (`gradsim report {MODEL} --open`)" in told.stdout
    full = summary["headline"]["paraphrased"]["full_gradient"]
    assert f"{full['found']} of 24 paraphrased variants found; untrained control" in told.stdout
    assert gradsim(home, "report", MODEL, "--path").stdout == f"{page}\n"
    assert json.loads(gradsim(home, "report", MODEL, "--json").stdout) == summary
    older = gradsim(home, "report", OLD)
    assert older.returncode == 0 and "variants found" not in older.stdout


def test_which_report_is_meant_is_asked_where_that_is_not_clear(site: WebHome) -> None:
    several = gradsim(site.home.folder, "report")
    assert several.returncode == 2
    assert f"2 models have reports; say which: {MODEL}, {OLD}." in several.stderr and CONTROL not in several.stderr
    none = gradsim(site.home.folder, "report", BARE)
    assert none.returncode == 2 and f"{BARE} has no report yet; `gradsim run {BARE}` makes it." in none.stderr


def test_the_served_page_is_opened_and_the_file_where_nothing_serves_this_home(site: WebHome, tmp_path: Path) -> None:
    opener, opened = tmp_path / "xdg-open", tmp_path / "opened"
    opener.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    opener.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    told = gradsim(site.home.folder, "report", MODEL, "--open", "--path", PATH=path, GRADSIM_WEB=site.address)
    assert told.returncode == 0, told.stderr
    assert opened.read_text() == f"{site.address}/reports/org--model/"
    page = site.home.report("org--model") / "index.html"
    assert told.stdout == f"{page}\n", "what is printed stays what was asked for"
    for address in ("http://127.0.0.1:9", ""):
        gradsim(site.home.folder, "report", MODEL, "--open", PATH=path, GRADSIM_WEB=address)
        assert opened.read_text() == str(page)
    other = tmp_path / "other"
    (other / "reports/org--model").mkdir(parents=True)
    for name in ("index.html", "summary.json"):
        (other / "reports/org--model" / name).write_text((page.parent / name).read_text())
    gradsim(other, "report", "--open", PATH=path, GRADSIM_WEB=site.address)
    assert opened.read_text() == str(other / "reports/org--model/index.html"), "another home is served there"
