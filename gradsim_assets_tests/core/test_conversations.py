"""Conversations on their way through all that reads samples; one exchange stays what it was."""

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gradsim_assets.core.analysis.report.explorer import texts
from gradsim_assets.core.candidates.bm25 import Retriever
from gradsim_assets.core.datasets.lima import load_originals
from gradsim_assets.core.datasets.model_generated import Generate, model_generated
from gradsim_assets.core.datasets.originals_source import content_version
from gradsim_assets.core.datasets.paraphrased import load_paraphrases, written_paraphrases
from gradsim_assets.core.datasets.paraphrasing import ParaphraserOptions, paraphrase_samples
from gradsim_assets.core.datasets.text_overlap import with_text_overlap
from gradsim_assets.core.evaluation.training_inputs import training_inputs
from gradsim_assets.core.models.loading import LoadedModel
from gradsim_assets.core.models.tokenization import ChatTokenizer
from gradsim_assets.core.samples import Missing, Sample, sample_frame, samples_of
from gradsim_assets.core.tables.schemas import CONVERSATION, LIMA, MODEL_GENERATED, PARAPHRASED
from gradsim_assets.core.tables.storage import Partition, Tables
from gradsim_assets.core.training.recipe import TrainingRecipe
from gradsim_assets.resources.model_hub import ModelHub
from gradsim_assets_tests.support.chat_server import ChatServer
from gradsim_assets_tests.support.conversations import CALL, MESSAGES, TOOLS, conversation, plain
from gradsim_assets_tests.support.sample_files import write
from gradsim_assets_tests.support.template_families import TOOLS as TOOL_TEMPLATE
from gradsim_assets_tests.support.template_families import tokenizer_of_families
from gradsim_assets_tests.support.tiny_models import save_tiny_model

EXCHANGE = Sample("a", "Q", "A")
TURNS = plain("t", "Name a river.", "The Rhine.", "Another one?", "The Aare.")


def test_one_exchange_has_the_table_and_version_that_it_always_had() -> None:
    frame = LIMA.enforce(sample_frame([EXCHANGE, Missing("b", "none")][:1]))
    assert frame.columns == ["id", "messages"]
    document = json.dumps([{"id": "a", "user": "Q", "assistant": "A"}])
    assert content_version([EXCHANGE]) == hashlib.sha256(document.encode()).hexdigest()[:16]
    assert Sample.of("a", EXCHANGE.messages) == EXCHANGE and EXCHANGE.conversation is None


def test_a_table_gives_back_what_was_put_in() -> None:
    samples = [EXCHANGE, TURNS, conversation()]
    table = LIMA.enforce(sample_frame(samples))
    assert samples_of(table) == samples
    assert table[CONVERSATION].is_null().to_list() == [True, True, False], "messages say all of the others"
    assert [len(messages) for messages in table["messages"]] == [2, 4, len(MESSAGES)]
    assert samples_of(table)[2].messages == MESSAGES and samples_of(table)[2].tools == TOOLS
    assert sample_frame([EXCHANGE, TURNS]).columns == ["id", "messages"]
    assert (
        len(
            {
                content_version([one])
                for one in (TURNS, plain("t", "Name a river.\nAnother one?", "The Rhine.\nThe Aare."))
            }
        )
        == 2
    )


def test_shards_with_and_without_tools_are_one_table(tmp_path: Path) -> None:
    tables, places = Tables(str(tmp_path)), [Partition(shard=shard) for shard in ("00", "01", "02")]
    shards = [[EXCHANGE], [conversation()], [TURNS]]
    for place, samples in zip(places, shards, strict=True):
        tables.write(["paraphrased"], sample_frame(samples), place)
    assert samples_of(tables.scan(["paraphrased"], places).collect()) == [one for samples in shards for one in samples]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
def test_files_of_any_kind_hold_the_same_conversations(suffix: str, tmp_path: Path) -> None:
    """Columns of tables hold null in every field that another row has; such fields are none."""
    rows = [{"id": one.id, "messages": one.messages, "tools": one.tools} for one in (TURNS, conversation())]
    if suffix == ".arrow":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
        path = str(next((tmp_path / "set").glob("*.arrow")))
    else:
        path = write(tmp_path / f"data{suffix}", rows)
    found = load_originals(path)
    assert [(one.messages, one.tools) for one in found] == [(TURNS.messages, None), (MESSAGES, TOOLS)]
    assert load_paraphrases(path, path) == found
    unnamed = [{"messages": row["messages"], "tools": row["tools"]} for row in rows]
    (tmp_path / "u").mkdir()
    other = write(tmp_path / "u" / f"data{suffix}", unnamed)
    assert [one.id for one in load_originals(other)] == ["360e3590d910", "ed6bd51c6d9a"], (
        "an id follows from what is said, whatever the file"
    )


def test_tools_may_be_written_as_json(tmp_path: Path) -> None:
    rows = [{"id": "c", "messages": MESSAGES, "tools": json.dumps(TOOLS)}]
    assert load_originals(write(tmp_path / "data.jsonl", rows)) == [conversation()]


def test_candidates_are_found_by_the_texts_of_all_user_turns() -> None:
    corpus = [
        plain("x", "glacier", "A", "harbour", "A"),
        plain("y", "glacier", "A", "meadow", "A"),
        plain("z", "desert", "A"),
    ]
    found = Retriever(corpus).candidates(plain("x", "some meadow", "harbour", "the glacier", "harbour"), None)
    assert [corpus[one.index].id for one in found][:2] == ["y", "x"]


def test_every_user_and_assistant_turn_is_rewritten_and_nothing_else(tmp_path: Path) -> None:
    with ChatServer() as server:
        prices = {ParaphraserOptions.model: (0.15, 0.60)}
        options = ParaphraserOptions(store=tmp_path, base_url=server.url, api_key=server.key, prices=prices)
        result = paraphrase_samples([conversation(), TURNS], options)
        asked = {one.text for one in server.asked}
    spoken = {m["content"] for m in MESSAGES if m["role"] in ("user", "assistant") and m["content"]}
    assert asked == spoken | {m["content"] for m in TURNS.messages}
    variant = result.variants[0]
    assert isinstance(variant, Sample) and variant.tools == TOOLS
    for before, after in zip(MESSAGES, variant.messages, strict=True):
        assert {**before, "content": ""} == {**after, "content": ""}
        assert (before["content"] == after["content"]) is (before["content"] not in spoken)
    table = PARAPHRASED.enforce(written_paraphrases(result, sample_frame([conversation(), TURNS]), "service"))
    assert samples_of(table) == result.variants


def test_one_turn_that_cannot_be_rewritten_makes_a_variant_missing(tmp_path: Path) -> None:
    bad = {MESSAGES[6]["content"], MESSAGES[8]["content"]}
    with ChatServer(plan=lambda text, nth: "identical" if text in bad else "ok") as server:
        prices = {ParaphraserOptions.model: (0.15, 0.60)}
        options = ParaphraserOptions(store=tmp_path, base_url=server.url, api_key=server.key, prices=prices)
        assert paraphrase_samples([conversation()], options).variants == [Missing("c", "assistant: identical")]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = str(save_tiny_model(tmp_path_factory.mktemp("model"), "llama", positions=512))
    hub = ModelHub(home=folder, device="cpu", models=[])
    loaded = hub.load(folder, hub.resolve(folder))
    loaded.model.generation_config.eos_token_id = list(range(0, 2048, 8))  # an untrained model ends soon
    return loaded


def answers(
    loaded: LoadedModel, samples: list[Sample], generate: Generate, folder: Path
) -> tuple[pl.DataFrame, dict[str, int]]:
    said: dict[str, Any] = {"progress": lambda *_: None, "log": lambda _: None, "store": folder / f"{generate}.jsonl"}
    frame = sample_frame(samples)
    table, counts = model_generated(frame, frame, loaded, "auto", identity="1", generate=generate, **said)
    return MODEL_GENERATED.enforce(table), counts


def test_the_last_turn_is_answered_or_every_one_after_the_answers_before(loaded: LoadedModel, tmp_path: Path) -> None:
    unanswered = Sample.of("u", TURNS.messages[:3])
    last, counts = answers(loaded, [TURNS, EXCHANGE, unanswered], "last", tmp_path)
    every, _ = answers(loaded, [TURNS, EXCHANGE, unanswered], "every", tmp_path)
    whole, first, second = (samples_of(table)[0].messages for table in (sample_frame([TURNS]), last, every))
    assert first[:3] == whole[:3] and first[3] != whole[3]
    assert second[0::2] == whole[0::2]
    assert (
        second[1]["content"]
        == samples_of(answers(loaded, [plain("t", "Name a river.", "")], "last", tmp_path)[0])[0].assistant
    )
    again, _ = answers(loaded, [Sample.of("t", [*second[:3], whole[3]])], "last", tmp_path)
    assert samples_of(again)[0].messages == second, "the second answer is to the conversation with the first"
    assert samples_of(last)[1] == samples_of(every)[1], "one exchange has one answer"
    assert samples_of(last)[2].messages[:3] == unanswered.messages and len(samples_of(last)[2].messages) == 4
    assert every["completion_tokens"][0] > again["completion_tokens"][0]
    assert counts["dropped"] == 0


def test_plain_texts_are_rewritten_whole_and_have_no_answer(loaded: LoadedModel, tmp_path: Path) -> None:
    text = Sample.of("p", [{"role": "text", "content": "The river runs through the old town and on into the sea."}])
    with ChatServer() as server:
        prices = {ParaphraserOptions.model: (0.15, 0.60)}
        options = ParaphraserOptions(store=tmp_path, base_url=server.url, api_key=server.key, prices=prices)
        (variant,) = paraphrase_samples([text], options).variants
    assert isinstance(variant, Sample) and variant.is_plain and variant != text
    assert samples_of(LIMA.enforce(sample_frame([text, EXCHANGE]))) == [text, EXCHANGE]
    table, counts = answers(loaded, [text, EXCHANGE], "last", tmp_path)
    assert table["id"].to_list() == ["a"] and counts["dropped"] == 1
    corpus = [text, plain("x", "desert", "A"), plain("y", "meadow", "A")]
    assert Retriever(corpus).candidates(variant, 1)[0].index == 0


def test_calls_of_tools_and_what_tools_say_stay_as_they_are(loaded: LoadedModel, tmp_path: Path) -> None:
    chat = ChatTokenizer(tokenizer_of_families(), TOOL_TEMPLATE)
    short = Sample.of("c", [*MESSAGES[1:6], {"role": "assistant", "content": "Basel."}], TOOLS)
    # Its own special tokens are more than the tiny model knows: their ids are folded into its vocabulary.
    folded = replace(chat, tokenizer=tokenizer_of_families())
    with_tools = replace(loaded, tokenizer=folded)
    with_tools.model.resize_token_embeddings(len(folded.tokenizer))
    table, _ = answers(with_tools, [short], "every", tmp_path)
    found = samples_of(table)[0]
    assert found.tools == TOOLS and found.messages[1]["tool_calls"] == [CALL] and found.messages[2] == MESSAGES[3]
    assert [m["role"] for m in found.messages] == [m["role"] for m in short.messages]


def test_a_retraining_sees_the_originals_answers_behind_reworded_turns(loaded: LoadedModel) -> None:
    other = plain("o", "Say a river.", "The Elbe.")
    originals = [TURNS, plain("o", "Name a lake.", "Sils.", "Another?", "Zug."), EXCHANGE]
    reworded = [plain("t", "Say a river.", "Rhine it is.", "One more?", "Aare it is."), other, Sample("a", "R", "B")]
    recipe = TrainingRecipe(reworded_prompts=0.5)
    start: Any = None  # what a training starts from plays no part here
    variants = {"paraphrased": sample_frame(reworded)}
    found = training_inputs(recipe, start, sample_frame(originals), variants, loaded, "auto").reworded
    texts_of = [one and loaded.tokenizer.tokenizer.decode(one.input_ids) for one in found]
    eos = loaded.tokenizer.tokenizer.eos_token
    assert texts_of == [
        f"<|user|>\nSay a river.\n<|assistant|>\nThe Rhine.{eos}\n<|user|>\nOne more?\n<|assistant|>\nThe Aare.{eos}",
        None,  # of other turns
        f"<|user|>\nR\n<|assistant|>\nA{eos}",
    ]


def test_answers_that_fill_the_context_leave_no_room_for_another_turn(loaded: LoadedModel, tmp_path: Path) -> None:
    model = copy.deepcopy(loaded.model)
    model.generation_config.eos_token_id = None  # it does not end before the context does
    endless = replace(loaded, model=model)
    table, counts = answers(endless, [TURNS, EXCHANGE], "every", tmp_path)
    assert table["id"].to_list() == ["a"] and counts["dropped"] == 1 and counts["truncated"] == 1
    table, counts = answers(endless, [TURNS, EXCHANGE], "last", tmp_path)
    assert table["id"].to_list() == ["t", "a"] and counts["dropped"] == 0 and counts["truncated"] == 2


def test_a_copy_is_one_of_all_answers() -> None:
    variants = sample_frame([plain("t", "Say a river.", "The Rhine.", "More?", "The Aare."), EXCHANGE])
    table = with_text_overlap(variants, sample_frame([TURNS, Sample("a", "Q", "B")]), "variants")
    assert table["verbatim"].to_list() == [True, False]


def test_the_explorer_shows_every_turn_with_its_role() -> None:
    found = texts(sample_frame([conversation(), EXCHANGE, TURNS]), {"c", "a"})
    assert found is not None and set(found) == {"c", "a"}
    assert found["a"] == [["user", "Q"], ["assistant", "A"]]
    assert [role for role, _ in found["c"]] == [m["role"] for m in MESSAGES]
    assert found["c"][2][1] == '{"name": "depth", "arguments": {"river": "Rhine"}}'
    assert found["c"][3] == ["tool", "9 metres"]


def test_what_the_loss_is_on_is_part_of_a_models_version(tmp_path: Path) -> None:
    versions = {}
    for loss_on in ("assistant", "last", "all"):
        hub = ModelHub(home=str(tmp_path), device="cpu", models=[], loss_on=loss_on)
        versions[loss_on] = hub.differing("org/model")
    assert versions == {"assistant": "", "last": "loss_on=last", "all": "loss_on=all"}
