"""`gradsim check` says all that is wrong and shows what the loss is on; `gradsim init` writes a configuration that holds."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gradsim_assets.cli.main import main
from gradsim_assets.configuration import load_settings
from gradsim_assets.resources.by_name import resources
from gradsim_assets_tests.support.conversations import plain
from gradsim_assets_tests.support.sample_files import rows, write
from gradsim_assets_tests.support.template_families import FAMILIES


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADSIM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GRADSIM_CONFIG", raising=False)
    return tmp_path


def invoke(*arguments: str, answers: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=answers)


def row(sample_id: str, *texts: str) -> dict[str, Any]:
    return {"id": sample_id, "messages": plain(sample_id, *texts).messages}


def test_everything_that_is_wrong_is_said_with_its_line(here: Path) -> None:
    lines = [
        json.dumps(row("a", "Is it?", "It is.", "Sure?", "Sure.")),
        "{",
        json.dumps(row("b", "Q", " ")),
        json.dumps(row("c", "Q")),
        "[1]",
        json.dumps(row("a", "Again?", "Again.")),
        json.dumps({**row("d", "Q", "A", "R", "B"), "tools": [{"type": "function", "function": {"name": "f"}}]}),
        json.dumps(row("e", "Fine?", "Fine.")),
    ]
    (here / "data.jsonl").write_text("\n".join(lines))
    result = invoke("check", "data.jsonl")
    assert result.exit_code == 2
    said = [line for line in result.stderr.splitlines() if line.startswith("! ")]
    expected = [
        *(
            "line 2 is no whole JSON object",
            "line 5 holds a list and no object",
            "line 3: sample b has an empty answer",
        ),
        *("line 4: sample c has no assistant message", "line 6: the id a occurs more than once"),
        "sample d: its chat template leaves out its tools",
    ]
    assert len(said) == len(expected)
    for sentence, part in zip(said, expected, strict=True):
        assert part in sentence and sentence.endswith(".")
    assert "3 sound samples, 2 with a loss that can be told of" in result.stdout and ": 6 faults." in result.stdout
    assert "--- a\n<|user|>\nIs it?\n<|assistant|>\n«It is.<|endoftext|>»\n<|user|>\nSure?" in result.stdout
    assert "--- d" not in result.stdout and "«Fine.<|endoftext|>»" in result.stdout


@pytest.mark.parametrize(
    ("loss_on", "shown"),
    [
        ("assistant", "A: «4<|end|>\n»<|user|>\nB<|end|>\n<|assistant|>\n«5<|end|>\n<|endoftext|>»"),
        ("last", "A: 4<|end|>\n<|user|>\nB<|end|>\n<|assistant|>\n«5<|end|>\n<|endoftext|>»"),
        (
            "all",
            "«<|user|>\nA<|end|>\n<|assistant|>\nA: 4<|end|>\n<|user|>\nB<|end|>\n<|assistant|>\n5<|end|>\n<|endoftext|>»",
        ),
    ],
)
def test_the_configuration_decides_what_the_loss_is_on(loss_on: str, shown: str, here: Path) -> None:
    template = FAMILIES["phi"][0]
    data = f'[data]\noriginals = "o.json"\nloss_on = "{loss_on}"\ncolumns = {{ messages = "chat" }}\n'
    model = f'[[models]]\nid = "demo"\nchat_template = {json.dumps(template)}\n'
    (here / "gradsim.toml").write_text(data + model)
    (here / "o.json").write_text(json.dumps([{"id": 1, "chat": row("", "A", "A: 4", "B", "5")["messages"]}]))
    result = invoke("check")
    assert result.exit_code == 0, result.output
    assert shown.replace("A: «4", "«A: 4") in result.stdout
    assert "o.json is a JSON array with messages (messages): 1 rows." in result.stdout
    assert result.stdout.endswith(": nothing is wrong.\n")


@pytest.mark.parametrize(("chosen", "kept"), [('"x"', 2), ('["y", "z"]', 1), ('["x", "y"]', 3), ("1", 0)])
def test_rows_are_chosen_by_the_filter_of_the_configuration(chosen: str, kept: int, here: Path) -> None:
    (here / "gradsim.toml").write_text(f'[data]\noriginals = "o.jsonl"\nfilter = {{ topic = {chosen} }}\n')
    write(here / "o.jsonl", [{**row(str(n), "Q", "A"), "topic": topic} for n, topic in enumerate("xyx")])
    result = invoke("check")
    assert result.exit_code == (0 if kept else 2)
    assert (f"{kept} sound samples" in result.stdout) if kept else ("holds no samples of data.filter" in result.stderr)


def test_a_mixture_with_system_prompts_and_up_to_ten_turns_has_no_refusal(here: Path) -> None:
    """As Tulu v2 has them: sources beside conversations, a third with a system prompt, of one to ten exchanges."""
    sources = ("flan_v2", "sharegpt", "oasst1", "open_orca")
    rows = []
    for number in range(60):
        turns = 1 + number % 10
        texts = [f"Text {n} of {number}: 1 < 2 & 'three'\n\n- ünï {n}" for n in range(2 * turns)]
        said = plain(f"s{number}", *texts).messages
        system = [{"role": "system", "content": f"Be brief, number {number}."}] if number % 3 == 0 else []
        rows.append({"id": f"s{number}", "dataset": sources[number % 4], "messages": [*system, *said]})
    (here / "mixture.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    result = invoke("check", "mixture.jsonl")
    assert result.exit_code == 0, result.stderr
    assert "60 sound samples, 60 with a loss that can be told" in result.stdout and "nothing is wrong" in result.stdout
    assert "kept beside the samples: dataset (4 values)." in result.stdout
    assert "grouped by dataset (analysis.group_by chooses others)." in result.stdout
    shown = result.stdout.split("\n--- ")[1:]
    assert [one.split("\n")[0] for one in shown] == ["s0", "s1", "s2"], "three samples"
    for number, one in enumerate(shown):
        marked = [part.split("»")[0] for part in one.split("«")[1:]]
        assert len(marked) == 1 + number, "the loss is on every answer, and on nothing else"
        for turn, text in enumerate(marked):
            assert text.startswith(f"Text {2 * turn + 1} of {number}:")
    (here / "gradsim.toml").write_text('[analysis]\ngroup_by = ["topic"]\n')
    wrong = invoke("check", "mixture.jsonl")
    assert wrong.exit_code == 2 and "analysis.group_by names topic, which the originals do not have" in wrong.stderr


def test_a_sample_that_a_template_refuses_is_named(here: Path) -> None:
    (here / "gradsim.toml").write_text(
        f'[[models]]\nid = "demo"\nchat_template = {json.dumps(FAMILIES["mistral"][0])}\n'
    )
    result = invoke("check", write(here / "o.jsonl", [row("a", "Q", "A"), {**row("b", "Q", "A", "R", "B")}, odd()]))
    assert "! sample odd: the chat template fails (TemplateError: roles must alternate)" in result.stderr
    assert "3 sound samples, 2 with a loss" in result.stdout


def odd() -> dict[str, Any]:
    system = {"role": "system", "content": "Be brief."}
    return {"id": "odd", "messages": [system, *row("", "Q", "A")["messages"]]}


def test_what_is_no_file_of_samples_at_all_is_one_sentence(here: Path) -> None:
    result = invoke("check", "none.jsonl")
    assert result.exit_code == 2 and "none.jsonl does not exist" in result.stderr


def test_a_first_configuration_is_written_out_of_answers(here: Path) -> None:
    share = [{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}]
    write(here / "my data.jsonl", share)
    write(here / "p.jsonl", rows("a"))
    result = invoke("init", answers='my data.jsonl\np.jsonl\norg/na"me\n\n')
    assert result.exit_code == 0, result.output
    assert "is JSON lines with the layout of ShareGPT (conversations): 1 rows" in result.output
    settings = load_settings()
    assert (settings.data.originals, settings.data.paraphrases) == ("my data.jsonl", "p.jsonl")
    assert [(one.id, one.chat_template) for one in settings.models] == [('org/na"me', "model")]
    assert len(resources(settings).sources.load_originals()) == 1
    text = (here / "gradsim.toml").read_text()
    assert (
        "# The samples that the model was fine-tuned on: my data.jsonl is JSON lines with the layout of ShareGPT"
        in text
    )
    again = invoke("init")
    assert again.exit_code == 2 and "gradsim.toml is there already" in again.stderr
    assert (here / "gradsim.toml").read_text() == text


def test_options_stand_in_for_answers_and_bad_data_is_refused(here: Path) -> None:
    result = invoke("init", "--data", "none.jsonl", "--model", "demo", "--paraphrases", "demo", "--template", "tulu")
    assert result.exit_code == 2 and not (here / "gradsim.toml").exists()
    result = invoke("init", "--data", "demo", "--model", "demo", "--paraphrases", "demo", "--template", "tulu")
    assert result.exit_code == 0, result.output
    assert load_settings().data.originals == "demo"
