"""Conversations of ten turns with a system message and tools, as a user has them: paraphrased by a chat service over HTTP, answered
by the demo's model, compared, and read in the report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from gradsim_assets.core.samples import Sample, samples_of
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets_tests.conftest import gradsim
from gradsim_assets_tests.support.browser import violations
from gradsim_assets_tests.support.chat_server import ChatServer
from gradsim_assets_tests.support.conversations import CALL, TOOLS, conversation

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: What the demo's tokenizer has no template for: tools and their calls, with the answers marked.
TEMPLATE = (
    "{% if tools %}<|tools|>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] or '' }}"
    "{% for call in m['tool_calls'] or [] %}<call>{{ call['function'] | tojson }}</call>{% endfor %}{{ eos_token }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
RIVERS = ("Rhine", "Danube", "Elbe", "Loire")
CONFIGURATION = """
[data]
originals = "FOLDER/originals.jsonl"
paraphrases = "openai"
shards = 1
candidates = 3
[[models]]
id = "demo"
chat_template = TEMPLATE
"""


def configured(folder: Path) -> str:
    """What stands in `gradsim.toml`."""
    return CONFIGURATION.replace("FOLDER", str(folder)).replace("TEMPLATE", json.dumps(TEMPLATE))


def originals() -> list[Sample]:
    """The conversation about four rivers, in few words: the demo's model has a context of 384 tokens."""
    short = [" ".join(text.split()[:5]) for _, text in conversation().texts]
    return [conversation(river).with_texts(f"{river}: {text}" for text in short) for river in RIVERS]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which all of it was computed."""
    folder = tmp_path_factory.mktemp("conversation")
    rows = [
        {"id": one.id, "messages": one.messages, "tools": one.tools, "length": "long" if n % 2 else "short"}
        for n, one in enumerate(originals())
    ]
    (folder / "originals.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    with ChatServer() as server:
        service = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": server.key}
        run = gradsim(folder / "home", "run", "demo", config=configured(folder), **service)
    assert run.returncode == 0, run.stdout + run.stderr
    spoken = {text for one in originals() for _, text in one.texts}
    asked = " ".join(one.text for one in server.asked)
    assert all(text in asked for text in spoken), "every turn of user and assistant was sent"
    assert "9 metres" not in asked and "You know the rivers" not in asked, "nothing of system and tool"
    return folder / "home"


def table(home: Path, *key: str, model: str | None = None, shard: str | None = None) -> pl.DataFrame:
    return Tables(str(home / "tables")).read(key, Partition(model, shard))


def test_every_turn_is_paraphrased_and_the_last_one_answered(home: Path) -> None:
    known = {one.id: one for one in samples_of(table(home, "lima"))}
    assert list(known.values()) == originals()
    paraphrased = samples_of(table(home, "paraphrased", shard="00"))
    assert [one.id for one in paraphrased] == list(RIVERS)
    for one in paraphrased:
        own = known[one.id]
        assert [m["role"] for m in one.messages] == [m["role"] for m in own.messages] and one.tools == TOOLS
        for before, after in zip(own.messages, one.messages, strict=True):
            is_rewritten = before["role"] in ("user", "assistant") and bool(before["content"])
            assert (before["content"] != after["content"]) is is_rewritten
            assert before.get("tool_calls") == after.get("tool_calls")
    answered = {one.id: one for one in samples_of(table(home, "model_generated", model="demo", shard="00"))}
    for one in paraphrased:
        assert answered[one.id].messages[:-1] == one.messages[:-1]
        assert answered[one.id].messages[-1]["role"] == "assistant" and answered[one.id].tools == TOOLS


def test_the_loss_is_on_the_answers_and_gradients_are_those_of_the_samples(home: Path) -> None:
    shown = gradsim(home, "check", "--show", "1", config=configured(home.parent))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    marked = shown.stdout.split("»")[:-1]
    counted = [part.split("«")[1].removesuffix("<|endoftext|>") for part in marked]
    river = originals()[0]
    wanted = [
        (m["content"] or "") + "".join(f"<call>{json.dumps(c['function'])}</call>" for c in m.get("tool_calls", ()))
        for m in river.messages
        if m["role"] == "assistant"
    ]
    assert counted == wanted
    products = table(home, "dot_products", "paraphrased", model="demo", shard="00")
    assert products.select("variant_id", "original_id").n_unique() == len(RIVERS) * 3
    similarity = table(home, "gradient_similarity", "paraphrased", model="demo")
    own = similarity.filter(pl.col("variant_id") == pl.col("original_id"), component="full_gradient")["similarity"]
    assert np.isfinite(own.to_numpy()).all() and (own > 0).all()


def open_report(home: Path, browser: "Browser", width: int = 1200) -> "tuple[Page, list[str]]":
    """The report with the first conversation open, and the errors that its scripts end in."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{home}/reports/demo/index.html#paraphrased/{RIVERS[0]}")
    page.wait_for_selector("body[data-plots]", timeout=60_000)
    return page, errors


@pytest.mark.ui
def test_the_report_reads_the_conversation_turn_by_turn(home: Path, browser: "Browser") -> None:
    page, errors = open_report(home, browser)
    own = originals()[0]
    roles = [message["role"] for message in own.messages]
    for side in ("original", "variant"):
        shown = page.locator(f"#{side}-text .message .role b").all_text_contents()
        assert shown == roles
    call = json.dumps(CALL["function"], ensure_ascii=False)
    assert call in page.locator("#original-text .message").nth(2).text_content()
    assert "9 metres" in page.locator("#variant-text .message").nth(3).text_content()
    # What was not rewritten bears no mark, every turn that was bears some.
    marks = [one.locator("ins").count() for one in page.locator("#variant-text .message").all()]
    assert [bool(count) for count in marks] == [
        m["role"] in ("user", "assistant") and bool(m["content"]) for m in own.messages
    ]
    assert "length: short" in page.locator("#columns").text_content()
    assert violations(page) == [] and errors == []
    on_a_phone, errors = open_report(home, browser, width=390)
    assert on_a_phone.evaluate("document.documentElement.scrollWidth") <= 390 and errors == []
