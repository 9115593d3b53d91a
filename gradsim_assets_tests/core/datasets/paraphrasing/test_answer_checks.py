"""The cheap checks of an answer, on texts of every kind."""

import pytest

from gradsim_assets.core.datasets.paraphrasing.answer_checks import judged
from gradsim_assets.core.datasets.paraphrasing.answer_store import Answer
from gradsim_assets.demo.data import load_originals, load_paraphrases


def found(text: str, answer: str, role: str = "user", finish: str = "stop", refusal: str | None = None) -> str | None:
    return judged(text, Answer(answer, finish, refusal, 1, 1, 0.0, "m"), role).fault


QUESTION = "What is the capital of France?"
LONG = "The river rises in the hills of the north and flows through three towns before it meets the sea."


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (QUESTION, "Which city is France's capital?", None),
        (QUESTION, "Name the capital city of France.", None),
        (QUESTION, "Paris is the capital of France.", "answered"),
        (
            QUESTION,
            "Quelle est la capitale de la France, et dans quelle région se trouve la ville ?",
            None,
        ),  # too short to tell
        (QUESTION, "Paris.", "length"),
        (QUESTION, " what is  the capital of FRANCE? ", "identical"),
        (QUESTION, "", "empty"),
        (QUESTION, "I'm sorry, but I can't assist with that.", "refusal"),
        ("Write a haiku about autumn.", "Compose a three-line poem on the fall.", None),
        ("Write a haiku about autumn.", "Cold rain on the roof,\none red leaf holds to its branch.", "answered"),
        ("Hello.", "Good day to you, my friend, I greet you most warmly.", None),  # short texts may grow
        (LONG, "From northern hills the river runs past three towns down to the sea.", None),
        (
            LONG,
            "Der Fluss entspringt in den Hügeln und fließt durch drei Städte, bis er auf das Meer trifft.",
            "language",
        ),
        (LONG, "Река берёт начало на холмах севера и течёт через три города, прежде чем впадает в море.", "language"),
        (
            LONG,
            "这条河发源于北方的山丘,流经三座城镇,最后汇入大海。这条河很长,两岸有许多人家,风景也十分秀丽。",
            "language",
        ),
        (LONG, LONG * 4, "length"),
        ("西红柿炒鸡蛋怎么做?请一步一步地告诉我。", "我想学做番茄炒蛋,请详细说明每个步骤。", None),
        ("トマトと卵の炒め物の作り方を教えてください。", "卵とトマトの炒め物はどう作るのか説明してください。", None),
        ("Explain `x = 1`.", "Say what `x = 1` does.", None),
    ],
)
def test_faults_of_answers_to_user_texts(text: str, answer: str, expected: str | None):
    assert found(text, answer) == expected


def test_an_answer_of_the_assistant_need_not_ask():
    assert found("How about a walk? It does you good.", "A walk would do you good.", role="assistant") is None


def test_a_text_that_refuses_may_be_rewritten_as_a_refusal():
    refusal = "I'm sorry, but I cannot help with that request, since it could hurt somebody."
    assert (
        found(refusal, "I apologize, but I am unable to assist with this, as someone might get hurt.", "assistant")
        is None
    )


@pytest.mark.parametrize(
    ("finish", "refusal", "expected"),
    [
        ("length", None, "cut"),
        ("content_filter", None, "filtered"),
        ("tool_calls", None, "unfinished"),
        ("stop", "I can't.", "refusal"),
        ("rejected", "invalid_prompt", "rejected (invalid_prompt)"),
    ],
)
def test_unfinished_answers(finish: str, refusal: str | None, expected: str):
    assert found(QUESTION, "Which city is France's capital?", finish=finish, refusal=refusal) == expected


def test_the_demo_paraphrases_pass_and_answers_in_place_of_paraphrases_do_not():
    """114 samples by hand, in several languages, with code and verse."""
    originals, paraphrases = load_originals(), load_paraphrases()
    texts = [
        (original["messages"][i]["content"], paraphrase["messages"][i]["content"], role)
        for original, paraphrase in zip(originals, paraphrases, strict=True)
        for i, role in enumerate(("user", "assistant"))
    ]
    assert [(text, answer) for text, answer, role in texts if found(text, answer, role)] == []
    answered = [found(*(message["content"] for message in original["messages"])) for original in originals]
    # The checks are cheap: they know instructions in English only, and short answers may pass for rewrites, above all those
    # that tell the reader what to do (how to train a dog) or speak for somebody (e-mails).
    assert sum(fault is not None for fault in answered) >= 0.75 * len(answered)
