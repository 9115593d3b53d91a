"""What stands around a rewriting goes where it certainly is no part of it, stays where it may be, and is named then."""

import random
import string

import pytest

from gradsim_assets.core.datasets.paraphrasing.answer_checks import judged
from gradsim_assets.core.datasets.paraphrasing.answer_store import Answer
from gradsim_assets.core.datasets.paraphrasing.envelope import opened
from gradsim_assets.core.datasets.paraphrasing.refusals import refuses, refuses_to_rewrite
from gradsim_assets.demo.data import load_originals, load_paraphrases

FENCED = "Run this:\n```\nmake\n```"


@pytest.mark.parametrize(
    ("text", "answer", "rest", "doubt"),
    [
        # The text speaks so itself.
        ("Reword the sentence: I like dogs.", "Rephrase this sentence: I like dogs.", None, None),
        ("Put 'I like dogs' in other words.", "Paraphrase the following: I like dogs.", None, None),
        ("Rewritten version: he left.", "Paraphrased text: he went away.", None, None),
        ('"To be or not to be"', '"To exist or not to exist"', None, None),
        ("«Bonjour», dit-il, «entrez»", "«Salut», fit-il, «venez»", None, None),
        ("Who said 'stay'?", "'Stay' was said by whom, and 'go'", None, None),
        (FENCED, "Execute this:\n```\nmake\n```", None, None),
        ("```\nx = 1\n```", "```\ny = 1\n```", None, None),
        ("What does <think> do in a prompt?", "What is <think> good for in a prompt?", None, None),
        ('{"name": "Ann"}', '{"name": "Anna"}', None, None),
        ("<p>He left.</p>", "<p>He went.</p>", None, None),
        ("Some ideas are these:\n1. Walk.\n2. Run.", "Here are some ideas:\n1. Walk.\n2. Run.", None, None),
        ("End with </s> here", "The end is here: </s>", None, None),
        ("It is done. Let me know!\n\nLet me know if it works.", "Done. Tell me!\n\nFeel free to tell me.", None, None),
        # It may be a part of the rewriting, or not.
        (
            "I have revised your essay.\n\nDear Sir or Madam, hello.",
            "I have rewritten your essay.\n\nTo whom it may concern, hello.",
            None,
            "preamble",
        ),
        ("Name the steps: one, two.", "Here is the paraphrased text: list the steps, one, two.", None, "preamble"),
        ("This is the recipe. Mix eggs and milk.", "Here's what you do: mix eggs with milk.", None, "preamble"),
        ("He said hello.", '"Hello," he said, "my friend"', None, "quotes"),
        ('He said "hello"', '"Hello, he said"', None, "quotes"),
        (FENCED, "```\nRun this: make\n```", None, "code fence"),
        ("Tags like <think> are odd.", "<think>Hm.</think>Tags such as <think> are strange.", None, "reasoning"),
        ("He left.", "He went.\n\nI hope this helps!", None, "closing remark"),
        ("He left.", '{"text": "He went.", "notes": "none"}', None, "JSON"),
        # It certainly is none.
        ("He left at 10:30.", "Rephrased: at 10:30 he went.", "at 10:30 he went.", None),
        ("He left.", "Sure! Here's the text in other words:\n\nHe went.", "He went.", None),
        ("He didn't go.", "'He did n't leave, it's said'", "He did n't leave, it's said", None),
        ("He left.", '```markdown\n"He went."\n```', "He went.", None),
        (FENCED, f"```markdown\n{FENCED.replace('Run', 'Do')}\n```", FENCED.replace("Run", "Do"), None),
        ("He left.\nShe stayed.", '"He went.\\nShe remained."', "He went.\nShe remained.", None),
        ("He left.", "<|start_header_id|>He went.<|eot_id|>\n", "He went.", None),
        ("He left.", "analysisWe need to rewrite.assistantfinalHe went.", "He went.", None),
        ("He left.", "<THINK>a</THINK> b <think>c</think>He went.", "b He went.", None),
        ("Он ушёл.", "Вот перефразированный текст:\n\nОн удалился.", "Он удалился.", None),
    ],
)
def test_envelopes(text: str, answer: str, rest: str | None, doubt: str | None) -> None:
    assert opened(answer, text) == (answer if rest is None else rest, doubt)


def test_nothing_is_taken_off_paraphrases_by_hand() -> None:
    """114 samples in several languages, with code, verse, quotes and lists."""
    for original, paraphrase in zip(load_originals(), load_paraphrases(), strict=True):
        for said, answer in zip(original["messages"], paraphrase["messages"], strict=True):
            assert opened(answer["content"], said["content"]) == (answer["content"], None)


@pytest.mark.parametrize(
    "text", ["I'm sorry, we are closed.", "Sorry to hear that you are ill.", "I can't wait to see you!"]
)
def test_what_only_begins_like_a_refusal_is_none(text: str) -> None:
    assert not refuses(text)


@pytest.mark.parametrize(
    ("text", "rewriting", "certain"),
    [
        ("How do I sleep better?", "I'm sorry, but I can't help with that request.", True),
        ("Why can't I sleep?", "I'm sorry, but I can't help with that request.", True),
        ("I am an AI and have no taste.", "As an AI, I cannot claim a taste, and discuss it neutrally.", False),
        ("Sorry, I cannot help you with that request.", "I apologize, but I am unable to assist with this.", False),
        ("Das geht leider gar nicht.", "Leider kann das nicht gehen.", False),
        ("Wie schläft man gut?", "Leider kann ich dabei nicht helfen.", True),
        ("睡不着怎么办？", "抱歉，我无法改写这个问题。", True),
    ],
)
def test_a_refusal_is_told_from_the_rewriting_of_one(text: str, rewriting: str, certain: bool) -> None:
    assert refuses_to_rewrite(rewriting, text) is certain


@pytest.mark.parametrize(
    "answer",
    [
        "." * 100_000,
        " " * 100_000,
        "\n" * 100_000,
        "<think>" * 10_000,
        "<think></think>" * 10_000,
        "`" * 100_000,
        '"' * 100_000,
        "{" * 100_000,
        "</s> " * 20_000,
        "a: " * 30_000,
        "".join(random.Random(0).choices(string.punctuation + " \n", k=60_000)),
    ],
    ids=lambda answer: repr(answer[:8]),
)
def test_a_degenerate_answer_is_judged_in_no_time(answer: str) -> None:
    import time

    text = "Please say what the river does. " * 1500
    started = time.perf_counter()
    judged(text, Answer(answer, "stop", None, 1, 1, 0.0, "m"), "user")
    judged("He left.", Answer(answer, "stop", None, 1, 1, 0.0, "m"), "assistant")
    # Milliseconds on any machine; a pattern that backtracks without bound takes minutes.
    assert time.perf_counter() - started < 5
