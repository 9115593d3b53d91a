"""The README and the pages of docs/: what they show can be typed, read and found. `make lint` builds the site itself."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import gradsim_assets
from gradsim_assets.configuration import load_settings
from gradsim_assets_tests.support.documented import PAGES, ROOT, command_lines, shown, wrong_command, wrong_path

PIECES = [piece for page in PAGES for piece in shown(page)]


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files and folders of the reader's that commands name."""
    for name in ("my_training_samples.jsonl", "questions.jsonl", "config.json"):
        (tmp_path / name).touch()
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_that_is_shown_can_be_typed(own_files: Path) -> None:
    lines = [(piece, line) for piece in PIECES for line in command_lines(piece)]
    wrong = [
        f"{piece.page}: {line}: {found}"
        for piece, line in lines
        if (found := wrong_command(line, whole=piece.language is not None))
    ]
    assert wrong == []
    assert len(lines) > 100


@pytest.mark.parametrize(
    "line",
    [
        "gradsim walk demo",
        "gradsim models fetch demo",
        "gradsim run demo --fast",
        "gradsim explain TABLE",
        "kubectl -n gradsim exec deploy/gradsim-code -- gradsim backfill --modell demo",
        "GRADSIM_HOME=/data .venv/bin/gradsim report --close",
        "make coffee",
        "python -m bench.coffee",
        "python -m bench.analyses --cups 2",
        "pytest -m slow gradsim_assets_tests/test_coffee.py",
        "helm install gradsim deploy/helm/coffee",
    ],
)
def test_a_command_that_cannot_be_typed_is_seen(own_files: Path, line: str) -> None:
    assert wrong_command(line, whole=True)


def test_every_configuration_that_is_shown_is_read(tmp_path: Path) -> None:
    blocks = [piece for piece in PIECES if piece.language == "toml" and "--8<--" not in piece.text]
    for piece in blocks:
        path = tmp_path / "gradsim.toml"
        path.write_text(piece.text, encoding="utf-8")
        settings = load_settings({"GRADSIM_CONFIG": str(path), "GRADSIM_HOME": str(tmp_path)})
        assert settings.model_dump() and tomllib.loads(piece.text), piece
    assert len(blocks) > 5


def test_code_that_is_shown_takes_what_the_package_has() -> None:
    blocks = [piece for piece in PIECES if piece.language == "python"]
    taken = {
        node.attr
        for piece in blocks
        for node in ast.walk(ast.parse(piece.text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "gs"
    }
    assert taken and all(hasattr(gradsim_assets, name) for name in taken)


def test_every_file_that_a_sentence_names_is_there() -> None:
    assert [f"{piece.page}: {found}" for piece in PIECES if (found := wrong_path(piece.text))] == []
    assert wrong_path("core/analysis/coffee.py") and wrong_path("docs/coffee.md")


def test_the_readme_is_short_and_leads_on() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert len(pages & {Path(link).name for link in links}) > len(pages) / 2


def test_the_tree_of_the_architecture_page_is_the_trees() -> None:
    block = next(p for p in PIECES if p.page == "docs/architecture.md" and p.language == "text")
    place: list[str] = []
    for line in block.text.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        place = [*place[:depth], name.replace("<group>/", "").strip("/")]
        assert ROOT.joinpath(*place).exists(), line
