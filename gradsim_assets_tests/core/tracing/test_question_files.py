"""Files of texts that are to be traced."""

import gzip
from pathlib import Path

import pytest

from gradsim_assets.core.errors import InputError
from gradsim_assets.core.tracing.question_files import read_questions


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'\n{"prompt": "Why?", "answer": "So.", "id": 3}\r\n{"prompt": "And \\u00fc?", "answer": null}'),
        ("a.json", b'[{"prompt": "Why?", "answer": "So."}, {"prompt": "And \xc3\xbc?"}]'),
    ],
)
def test_objects_hold_prompts_and_perhaps_answers(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [one[1:] for one in read_questions(tmp_path / name)] == [("Why?", "So."), ("And ü?", None)]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(content))
    assert [one[1:] for one in read_questions(packed)] == [("Why?", "So."), ("And ü?", None)]


def test_a_text_file_holds_a_prompt_on_every_line_and_the_place_names_it(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffWhy?\r\n\n  <b>And {so}?\n".encode())
    assert read_questions(path) == [
        (f"{path}, line 1", "Why?", None),
        (f"{path}, line 3", "<b>And {so}?", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"Prompt": "b"}', r"a\.jsonl, line 2 has no `prompt`; write"),
        ("a.jsonl", b'{"prompt": 3}', r"line 1 has a number for `prompt`"),
        (
            "a.json",
            b'[{"prompt": "a"}, {"prompt": "b", "answer": ["c"]}]',
            r"entry 2 has a list for `answer`; write a text",
        ),
        ("a.jsonl", b'{"prompt": "a"', r"a\.jsonl, line 1 "),
        ("a.txt", b"good\n\xff\xfe", r"a\.txt, line 2 is no text in UTF-8"),
        ("a.txt", b"\n \n", r"a\.txt holds no text to be traced"),
        ("a.jsonl", b"", r"a\.jsonl holds no text to be traced"),
    ],
)
def test_what_is_no_text_is_named_by_its_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_questions(tmp_path / name)
