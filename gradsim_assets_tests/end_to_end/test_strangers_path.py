"""What a stranger does with a fresh clone, by the README alone: the demo, its report, and a report on twelve samples of their own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gradsim_assets_tests.conftest import environment_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]

#: Their data: what each sample tells, in two wordings.
FACTS = {
    "The harbour office": ("opens at {n} in the morning", "starts its day at {n}"),
    "The old ferry": ("carries {n} cars", "has room for {n} cars"),
    "The north lighthouse": ("is {n} metres high", "rises {n} metres"),
}

#: As the README's first way in, with paraphrases from a file.
CONFIGURATION = """
[data]
originals = "my_training_samples.jsonl"
paraphrases = "my_paraphrases.jsonl"
shards = 1

[[models]]
id = "demo"
"""


class Stranger:
    """Somebody with a clone, who types what the README says; the environment is the one that these tests run in."""

    def __init__(self, clone: Path) -> None:
        self.clone, self.seconds = clone, dict[str, float]()
        self._variables = environment_of(clone / ".gradsim", PYTHONPATH=str(clone))
        del self._variables["GRADSIM_CONFIG"]

    def types(self, command: str) -> str:
        """What the command prints."""
        started = time.monotonic()
        # A shell finds `gradsim` where the README says that it is.
        path = f"{self.clone / '.venv/bin'}{os.pathsep}{self._variables['PATH']}"
        run = subprocess.run(
            command, shell=True, cwd=self.clone, env={**self._variables, "PATH": path}, capture_output=True, text=True
        )
        self.seconds[command] = time.monotonic() - started
        assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
        return run.stdout

    def blocks(self) -> list[str]:
        """The README's shell commands, block by block."""
        return re.findall(r"```shell\n(.*?)```", (self.clone / "README.md").read_text(), re.DOTALL)


def commands(block: str) -> list[str]:
    """Lines of a block without what is said of them."""
    return [line.partition("#")[0].strip() for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    """With what is committed of this checkout, and the environment that `make` would set up."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout that could be cloned")
    clone = tmp_path_factory.mktemp("stranger") / "gradsim"
    subprocess.run(["git", "clone", "--quiet", ROOT.as_uri(), str(clone)], check=True)
    (clone / ".venv").symlink_to(Path(sys.prefix))
    # It is there: `make` need not install it.
    (clone / ".venv/.installed").touch()
    somebody = Stranger(clone)
    yield somebody
    for command, seconds in somebody.seconds.items():
        print(f"{seconds:7.1f} s  {command}")


def write_samples(folder: Path) -> None:
    """Twelve samples and their paraphrases, a line each."""
    for name, wording in (("my_training_samples", 0), ("my_paraphrases", 1)):
        rows = []
        for subject, texts in FACTS.items():
            for n in range(6, 10):
                answer = f"{subject} {texts[wording].format(n=n)}."
                asked = ("What is known of", "Tell me about")[wording]
                rows.append(
                    {
                        "id": f"{subject.split()[-1]}_{n}",
                        "messages": [
                            {"role": "user", "content": f"{asked} {subject.lower()} number {n}?"},
                            {"role": "assistant", "content": answer},
                        ],
                    }
                )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.ui
def test_a_clone_a_demo_and_a_report_of_their_own(stranger: Stranger, browser: "Browser") -> None:
    first, *_, last = [block for block in stranger.blocks() if "report" in block]
    demo, report = commands(first)[:2]
    assert demo == "make demo"
    assert "report" in stranger.types(demo)
    path = stranger.types(report.replace("--open", "--path")).strip()
    page = browser.new_page()
    page.goto(Path(path).as_uri())
    assert "of 114" in page.inner_text("main")

    write_samples(stranger.clone)
    (stranger.clone / "gradsim.toml").write_text(CONFIGURATION)
    for command in commands(last):
        said = stranger.types(command.replace("amd/AMD-OLMo-1B-SFT", "demo").replace("--open", "--path"))
        if " check " in command:
            assert "12" in said
    page.goto(Path(said.strip()).as_uri())
    assert "of 12" in page.inner_text("main")
