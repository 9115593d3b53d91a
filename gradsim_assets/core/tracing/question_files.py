"""Files of texts that are to be traced: JSON with `prompt` and perhaps `answer`, or plain text with a prompt on every line."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gradsim_assets.core.datasets.file_formats import opened
from gradsim_assets.core.datasets.json_lines import Line, read_json_array, read_json_lines
from gradsim_assets.core.errors import InputError, kind_of

_JSON_LINES, _JSON = (".jsonl", ".ndjson"), ".json"


class FiledQuestion(NamedTuple):
    """One text of a file; without an answer the model gives its own."""

    #: Where it stands, for sentences: `texts.jsonl, line 3`.
    place: str
    prompt: str
    answer: str | None


def read_questions(path: Path) -> list[FiledQuestion]:
    """The texts of a file in their order: .jsonl and .json with one object each, anything else with a prompt on every line.

    Blank lines are passed over, as are other fields of an object.

    Raises:
        InputError: the file cannot be read, holds no text, or a line holds something else; the sentence names it by its number.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(_JSON_LINES):
        found = [_question(f"{path}, line {line.number}", line) for line in read_json_lines(path)]
    elif name.endswith(_JSON):
        found = [_question(f"{path}, entry {line.number}", line) for line in read_json_array(path)]
    else:
        found = list(_lines(path))
    if not found:
        raise InputError(
            f"{path} holds no text to be traced; write a prompt on every line, or JSON lines with `prompt`."
        )
    return found


def _question(place: str, line: Line) -> FiledQuestion:
    prompt, answer = line.row.get("prompt"), line.row.get("answer")
    if not isinstance(prompt, str):
        what = "has no `prompt`" if "prompt" not in line.row else f"has {kind_of(prompt)} for `prompt`"
        raise InputError(
            f'{place} {what}; write {{"prompt": "...", "answer": "..."}}, the answer only where it is given.'
        )
    if answer is not None and not isinstance(answer, str):
        raise InputError(
            f"{place} has {kind_of(answer)} for `answer`; write a text, or leave it out for the model's own."
        )
    return FiledQuestion(place, prompt, answer)


def _lines(path: Path) -> Iterator[FiledQuestion]:
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                prompt = raw.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise InputError(f"{path}, line {number} is no text in UTF-8; save the file as UTF-8.") from error
            if prompt:
                yield FiledQuestion(f"{path}, line {number}", prompt, None)
