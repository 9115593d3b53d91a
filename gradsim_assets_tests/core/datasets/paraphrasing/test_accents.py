"""Servers that speak the protocol with an accent, live and in batches: understood, or told in one sentence."""

import json
import re
import time
from pathlib import Path

import pytest

from gradsim_assets.core.datasets.paraphrasing import ParaphraserOptions, ServiceError, estimate, paraphrase_samples
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Missing, Sample
from gradsim_assets_tests.support.chat_server import ACCENTS, REFUSAL, TRANSPORTS, ChatServer, rewritten
from gradsim_assets_tests.support.paraphrase_cases import samples

MODES = pytest.mark.parametrize("mode", ["live", "batch"])


def options(server: ChatServer, folder: Path, mode: str = "live", **more) -> ParaphraserOptions:
    return ParaphraserOptions(
        store=folder / "store",
        **{
            "base_url": server.url,
            "api_key": server.key,
            "provider": "test",
            "mode": mode,
            "deadline_seconds": 10.0,
            "batch_poll_seconds": 0.01,
            **more,
        },
    )


def expected(originals: list[Sample], seed: int | None = 42) -> list[Sample]:
    return [Sample(s.id, rewritten(s.user, seed), rewritten(s.assistant, seed)) for s in originals]


def events(folder: Path, kind: str) -> list[dict]:
    lines = [line for path in (folder / "store").glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return [event for event in map(json.loads, lines) if event["event"] == kind]


WHOLE = ["eos", "STOP", "end_turn", "stop_sequence", "COMPLETE", "FinishReason.STOP", "eos_token", None]
SOUND = [
    *(f"ends {json.dumps(reason)}" for reason in WHOLE),
    *("parts", "two parts", "one part", "thinking part", "reasoning beside", "two choices"),
    *("usage null", "usage none", "usage words"),
]


@MODES
@pytest.mark.parametrize("kind", SOUND)
def test_a_whole_answer_is_taken_at_its_first_attempt_however_it_is_told(kind: str, mode: str, tmp_path: Path):
    originals = samples(3)
    with ChatServer(plan=lambda text, nth: kind) as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode))
    assert result.variants == expected(originals)
    assert result.flags == {}
    assert len(server.asked) == 6
    assert not events(tmp_path, "failed")


@pytest.mark.parametrize("kind", ["usage null", "usage none", "usage words"])
def test_what_a_server_does_not_count_is_counted(kind: str, tmp_path: Path):
    with ChatServer(plan=lambda text, nth: kind) as server:
        uncounted = paraphrase_samples(samples(2), options(server, tmp_path / kind))
        server.plan = lambda text, nth: "ok"
        counted = paraphrase_samples(samples(2), options(server, tmp_path / "ok"))
    # The server counts the system prompt as 100 tokens where it has about 130, and four characters as one like us.
    assert uncounted.cost_usd == pytest.approx(counted.cost_usd, rel=0.3)
    assert all(tokens > 0 for tokens in uncounted.completion_tokens.values())


@pytest.mark.parametrize("kind", [kind for kind in TRANSPORTS if kind not in ("no gzip", "cut stream")])
def test_an_answer_is_read_whatever_way_its_bytes_take(kind: str, tmp_path: Path):
    originals = [
        Sample(
            "a", "Où coule la rivière « Œil » 👁️ aujourd’hui, dis-moi ?", "Dans la vallée où naît l’été – là-bas, 川."
        )
    ]
    with ChatServer(plan=lambda text, nth: kind) as server:
        result = paraphrase_samples(originals, options(server, tmp_path))
    assert result.variants == expected(originals)
    assert len(server.asked) == 2


@pytest.mark.parametrize("kind", ["no gzip", "cut stream"])
def test_bytes_that_break_off_are_asked_for_again(kind: str, tmp_path: Path):
    with ChatServer(plan=lambda text, nth: kind if nth == 0 else "ok") as server:
        result = paraphrase_samples(samples(1), options(server, tmp_path))
    assert result.variants == expected(samples(1))
    assert len(server.asked) == 4


NOTHING = {
    "says " + REFUSAL: "refusal",
    "says I’m sorry, but I can’t assist with rewriting this text.": "refusal",
    "says Here is the paraphrased text:\n\nI apologize, but I am unable to help with this request.": "refusal",
    "says Please provide the text that you would like me to paraphrase.": "refusal",
    "says Es tut mir leid, aber ich kann diesen Text nicht umformulieren.": "refusal",
    "says 抱歉，我无法改写这段文字。": "refusal",
    "refusal field": "refusal",
    "refusal part": "refusal",
    'ends "refusal"': "refusal",
    "null": "empty",
    "says ...": "empty",
    "says Paraphrased text:": "empty",
    "reasoning alone": "reasoning",
    "tool call": "unfinished",
    "identical": "identical",
    'ends "MAX_TOKENS"': "cut",
    'ends "model_length"': "cut",
    'ends "SAFETY"': "filtered",
    "no message": "filtered",
    'ends "content-filter"': "filtered",
    "surrogate": "garbled",
    "nul": "garbled",
    "wrap {} \ufffd": "garbled",
    "wrap Say the same in other words, in the same language, without altering its content. {}": "instructions",
}


@MODES
@pytest.mark.parametrize(("kind", "fault"), NOTHING.items())
def test_what_is_no_rewriting_leaves_the_variant_missing(kind: str, fault: str, mode: str, tmp_path: Path):
    originals = samples(3)
    bad = originals[1].assistant
    with ChatServer(plan=lambda text, nth: kind if text == bad else "ok") as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode))
        again = paraphrase_samples(originals, options(server, tmp_path, mode))
    assert result.variants[1] == Missing("lima_1", f"assistant: {fault}")
    assert result.flags == {"lima_1": f"assistant: {fault}"}
    assert [result.variants[0], result.variants[2]] == expected([originals[0], originals[2]])
    assert result.counts["missing"] == result.counts[f"missing: {fault}"] == 1
    assert again.variants == result.variants
    assert len(server.asked) == 5 + 3  # three attempts, and none of them again


ENVELOPES = [
    "Here is the paraphrased text:\n\n{}",
    "Sure! Here's the rewritten version:\n{}",
    "**Paraphrased text:**\n\n{}",
    "Rephrased: {}",
    "## Rewritten text\n\n{}",
    "Hier ist der umformulierte Text:\n\n{}",
    "改写后的文本：\n{}",
    '"{}"',
    "“{}”",
    "«{}»",
    "```\n{}\n```",
    "```text\n{}\n```",
    "<think>The user wants another text: {} Good.</think>\n\n{}",
    "The user wants another text.\n</think>\n\n{}",
    "[THINK]Hm.[/THINK]{}",
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "{}<|im_end|>",
    "{}</s>",
    "<paraphrase>{}</paraphrase>",
    '{"paraphrase": "{}"}',
    "**{}**",
    "{}\n\nLet me know if you would like me to rephrase it differently!",
    "{}\n\n(Note: I have reworded the sentence and kept its meaning.)",
    'Certainly! Here is a paraphrase of your text:\n\n```\n"{}"\n```\n\nLet me know if you want another rewrite.',
    "<think>Hm.</think>Here is the paraphrased text:\n\n**{}**<|eot_id|>",
]


@MODES
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_an_envelope_is_taken_off_where_that_is_certain(envelope: str, mode: str, tmp_path: Path):
    originals = samples(2)
    with ChatServer(plan=lambda text, nth: f"wrap {envelope}") as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode))
    assert result.variants == expected(originals)
    assert result.flags == {}
    assert len(server.asked) == 4
    # The journal keeps what came.
    assert all(event["answer"]["text"] != rewritten(event["text"], 42) for event in events(tmp_path, "answer"))


@MODES
def test_an_unknown_finish_reason_is_flagged_and_not_paid_again(mode: str, tmp_path: Path):
    with ChatServer(plan=lambda text, nth: 'ends "whatever"') as server:
        result = paraphrase_samples(samples(2), options(server, tmp_path, mode))
    assert result.variants == expected(samples(2))
    assert result.flags == dict.fromkeys(["lima_0", "lima_1"], "user: ended (whatever); assistant: ended (whatever)")
    assert result.counts["flagged"] == 2
    assert len(server.asked) == 4


def test_an_unknown_finish_reason_at_the_limit_is_a_cut(tmp_path: Path):
    with ChatServer(plan=lambda text, nth: 'ends "token_budget"') as server:
        # Half a token is allowed of what the answer takes by the server's count.
        result = paraphrase_samples(
            [Sample("a", "What? " * 900, "So. " * 900)], options(server, tmp_path, reasoning_tokens=0)
        )
        assert result.flags["a"].startswith("user: ended")
        answers = events(tmp_path, "answer")
        for event in answers:
            event["answer"]["limit"] = event["answer"]["completion_tokens"]
        (tmp_path / "other" / "store").mkdir(parents=True)
        lines = "".join(json.dumps(event) + "\n" for event in answers)
        (tmp_path / "other" / "store" / "a.jsonl").write_text(lines)
        server.plan = lambda text, nth: "ok"
        healed = paraphrase_samples([Sample("a", "What? " * 900, "So. " * 900)], options(server, tmp_path / "other"))
    assert healed.flags == {}


# Reasoning that fills the limit


@MODES
@pytest.mark.parametrize("kind", ["reasoning", "reasoning inside"])
@pytest.mark.parametrize("count", [1, 20])
def test_a_model_whose_reasoning_fills_the_limit_is_told_in_one_sentence(
    kind: str, count: int, mode: str, tmp_path: Path
):
    originals = samples(count)
    with ChatServer(plan=lambda text, nth: kind) as server:
        with pytest.raises(InputError) as caught:
            paraphrase_samples(originals, options(server, tmp_path, mode, concurrency=2))
        asked = len(server.asked)
        with pytest.raises(InputError, match="with its reasoning"):  # which costs nothing
            paraphrase_samples(originals[:1], options(server, tmp_path, mode, concurrency=2, attempts=1))
        assert len(server.asked) == asked
        if mode == "live":
            assert asked <= 12  # of 120
        server.plan = lambda text, nth: "ok"
        healed = paraphrase_samples(originals, options(server, tmp_path, mode, reasoning_tokens=2000))
        assert {asked.body["max_completion_tokens"] > 2000 for asked in server.asked[asked:]} == {True}
    assert re.fullmatch(
        r"the model gpt-4o-mini-2024-07-18 at 127.0.0.1:\d+/v1 fills max_completion_tokens \(up to \d+\) with its reasoning "
        r"and gives no answer to any of \d+ texts; raise reasoning_tokens in \[paraphraser\], or switch its reasoning off\.",
        str(caught.value),
    )
    assert [variant.id for variant in healed.variants if isinstance(variant, Missing)] == []
    assert healed.flags == {}


@MODES
def test_one_text_whose_reasoning_fills_the_limit_is_missing(mode: str, tmp_path: Path):
    originals = samples(10)
    with ChatServer(plan=lambda text, nth: "reasoning" if text == originals[0].user else "ok") as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode))
        assert result.flags == {"lima_0": "user: reasoning fills max_completion_tokens"}
        asked = len(server.asked)
        server.plan = lambda text, nth: "ok"
        healed = paraphrase_samples(originals, options(server, tmp_path, mode, reasoning_tokens=500))
    assert len(server.asked) == asked + 1  # nothing that is sound is paid again for the sake of the limit
    assert healed.variants[1:] == result.variants[1:]
    assert healed.flags == {}


# What a server says of a request


def told(tmp_path: Path, reply: str, mode: str = "live", count: int = 6, **more) -> tuple[str, ChatServer]:
    with ChatServer(plan=lambda text, nth: reply) as server:
        started = time.monotonic()
        with pytest.raises(InputError) as caught:
            paraphrase_samples(samples(count), options(server, tmp_path, mode, concurrency=1, **more))
        assert time.monotonic() - started < 8
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"127.0.0.1:{server.port}/v1", "HOST"), server


AT_ONCE = {
    'reply 200 {"error": {"message": "You are not allowed to sample from this model", "type": "x"}}': (
        "the chat service at HOST does not take the request (HTTP 200: You are not allowed to sample from this model); correct "
    ),
    'reply 200 {"error": "Unsupported feature"}': "(HTTP 200: Unsupported feature)",
    'reply 200 {"object": "error", "message": "bad grammar", "code": 40001}': "(HTTP 200: bad grammar)",
    'reply 200 {"choices": null, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}': "no credit left",
    'reply 200 {"error": {"code": 402, "message": "Buy more."}}': "the account at HOST has no credit left (HTTP 402: Buy more)",
    'reply 402 {"error": {"message": "Insufficient Balance"}}': (
        "the account at HOST has no credit left (HTTP 402: Insufficient Balance); top it up and run again: "
        "answers that have arrived are not asked for again."
    ),
    "reply 402 Pay.": "the account at HOST has no credit left (HTTP 402: Pay)",
    'reply 429 {"error": {"message": "You exceeded your current quota, please check your plan", "type": "insufficient_quota"}}': (
        "the account at HOST has no quota left (HTTP 429: You exceeded your current quota, please check your plan)"
    ),
    'reply 403 {"error": {"code": "insufficient_user_quota", "message": "用户额度不足"}}': "has no quota left (HTTP 403: 用户额度不足)",
    'reply 400 {"error": {"message": "Your credit balance is too low to access the API."}}': "has no credit left",
    'reply 400 {"error": {"message": "Model Not Exist"}}': "does not know the model gpt-4o-mini-2024-07-18 (HTTP 400",
    'reply 400 {"error": {"message": "API key not valid. Please pass a valid API key."}}': "refuses the key (HTTP 400",
    'reply 403 {"detail": "Forbidden"}': "refuses the key (HTTP 403: Forbidden)",
    'reply 403 {"error": {"message": "Country, region, or territory not supported"}}': (
        "is not offered from here (HTTP 403: Country, region, or territory not supported); ask another service."
    ),
    'reply 400 {"object": "error", "message": "System role not supported"}': (
        "(HTTP 400: System role not supported); choose a model that takes a system message (model in [paraphraser])."
    ),
    'reply 400 {"error": "Conversation roles must alternate user/assistant/user/assistant/..."}': (
        "choose a model that takes a system message"
    ),
    'reply 405 {"detail": "Method Not Allowed"}': "there is no chat service at HOST (HTTP 405)",
    'reply 501 {"error": {"message": "This server only supports /v1/completions"}}': (
        "(HTTP 501: This server only supports /v1/completions)"
    ),
    'reply 422 [{"error": {"message": "nope", "status": "INVALID_ARGUMENT"}}]': "(HTTP 422: nope)",
    'reply 400 {"error": {"message": "Provider returned error", "metadata": {"raw": "temperature must be 1"}}}': (
        '(HTTP 400: Provider returned error (temperature must be 1)); leave the field out by fields = { temperature = "" } in '
        "[paraphraser], or give it the name that the service knows."
    ),
}


@pytest.mark.parametrize(("reply", "said"), AT_ONCE.items())
def test_what_cannot_heal_is_told_at_once_in_the_servers_words(reply: str, said: str, tmp_path: Path):
    message, server = told(tmp_path, reply)
    assert said in message
    assert len(server.asked) <= 4
    assert not [event for event in events(tmp_path, "failed") if event["billed"]]


@pytest.mark.parametrize(("reply", "said"), list(AT_ONCE.items())[1:11:2])
def test_batches_are_told_as_much(reply: str, said: str, tmp_path: Path):
    message, server = told(tmp_path, reply, "batch")
    assert said in message
    assert len(server.batches) == 1


@pytest.mark.parametrize(
    "reply", ['reply 200 {"status": "ok"}', 'reply 200 {"choices": []}', "reply 200 ", "reply 200 []"]
)
def test_an_address_that_answers_with_something_else_is_told_after_some_tries(reply: str, tmp_path: Path):
    message, server = told(tmp_path, reply, count=1)
    shown = reply.removeprefix("reply 200 ") or "an empty body"
    assert message == (
        f"HOST answers with what is no chat completion (HTTP 200: {shown}); correct OPENAI_BASE_URL, or ask a server that speaks "
        "the chat-completions protocol."
    )
    assert len(server.asked) == 4


PASSES = [
    'reply 200 {"error": {"message": "Upstream is overloaded, try again", "code": "x"}}',
    'reply 200 {"error": {"message": "slow down", "code": 429}}',
    'reply 200 {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "upstream"}, "message": {"content": "h"}}]}',
    'reply 200 {"choices": [{"finish_reason": "insufficient_system_resource", "message": {"content": "Half of"}}]}',
    'reply 429 {"error": {"message": "Quota exceeded for requests per minute. Please retry in 0.1s."}}',
    "reply 529 Overloaded",
    "reply 502 <html><title>Bad gateway</title></html>",
    "reply 200 nothing of the kind",
    'reply 200 {"choices": [{"message": {"content": 42}}]}',
]


@pytest.mark.parametrize("reply", PASSES)
def test_what_may_pass_is_tried_again(reply: str, tmp_path: Path):
    with ChatServer(plan=lambda text, nth: reply if nth == 0 else "ok") as server:
        result = paraphrase_samples(samples(2), options(server, tmp_path))
    assert result.variants == expected(samples(2))
    assert len(server.asked) == 8


@pytest.mark.parametrize("wait", ["86400", "inf", "nan", "-5", "Fri, 31 Dec 9999 23:59:59 GMT", "soon"])
def test_a_wait_beyond_the_deadline_is_not_waited_for(wait: str, tmp_path: Path):
    with ChatServer(plan=lambda text, nth: "429" if nth == 0 else "ok", retry_after=wait) as server:
        started = time.monotonic()
        if wait in ("nan", "-5", "soon"):
            paraphrase_samples(samples(1), options(server, tmp_path))
        else:
            with pytest.raises(
                ServiceError, match=r"asks to wait .* s, longer than the deadline of 10 s \(last HTTP 429"
            ):
                paraphrase_samples(samples(4), options(server, tmp_path))
        assert time.monotonic() - started < 8


# Fields


@MODES
@pytest.mark.parametrize("field", ["seed", "temperature", "max_completion_tokens"])
def test_a_field_that_a_server_forbids_is_named_and_can_be_left_out(field: str, mode: str, tmp_path: Path):
    with ChatServer(forbidden=(field,)) as server:
        with pytest.raises(InputError) as caught:
            paraphrase_samples(samples(6), options(server, tmp_path, mode))
        assert f"(HTTP 422: body.{field}: Extra inputs are not permitted)" in str(caught.value)
        assert f'leave the field out by fields = {{ {field} = "" }} in [paraphraser]' in str(caught.value)
        result = paraphrase_samples(samples(6), options(server, tmp_path, mode, fields={field: ""}))
    assert not any(field in asked.body for asked in server.asked)
    assert result.variants == expected(samples(6), None if field == "seed" else 42)


@MODES
def test_fields_can_be_renamed(mode: str, tmp_path: Path):
    names = {"seed": "random_seed", "max_completion_tokens": "max_tokens"}
    with ChatServer(forbidden=tuple(names)) as server:
        result = paraphrase_samples(samples(1), options(server, tmp_path, mode, fields=names, temperature=0.5))
    assert {(asked.body["random_seed"], asked.body["temperature"]) for asked in server.asked} == {(42, 0.5)}
    assert all(asked.body["max_tokens"] > 256 for asked in server.asked)
    assert result.flags == {}


def test_a_renamed_field_that_is_refused_is_named(tmp_path: Path):
    with (
        ChatServer(forbidden=("random_seed",)) as server,
        pytest.raises(InputError, match=r"fields = \{ seed = \"\" \}"),
    ):
        paraphrase_samples(samples(1), options(server, tmp_path, fields={"seed": "random_seed"}))


def test_an_unknown_field_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="top_p is no field of a request that can be renamed or left out"):
        ParaphraserOptions(store=tmp_path, fields={"top_p": ""})


def test_what_is_left_out_asks_anew_and_what_is_renamed_does_not(tmp_path: Path):
    with ChatServer() as server:
        paraphrase_samples(samples(1), options(server, tmp_path))
        paraphrase_samples(samples(1), options(server, tmp_path, fields={"max_completion_tokens": "max_tokens"}))
        paraphrase_samples(samples(1), options(server, tmp_path, fields={"max_completion_tokens": ""}))
        assert len(server.asked) == 2
        paraphrase_samples(samples(1), options(server, tmp_path, fields={"temperature": ""}))
        assert len(server.asked) == 4


def test_without_a_limit_an_answer_counts_as_the_longest(tmp_path: Path):
    with ChatServer() as server:
        bounded = estimate(samples(1), options(server, tmp_path)).most_usd
        unbounded = estimate(samples(1), options(server, tmp_path, fields={"max_completion_tokens": ""})).most_usd
        reasoned = estimate(samples(1), options(server, tmp_path, reasoning_tokens=10_000)).most_usd
    assert unbounded == pytest.approx(2 * 16_384 * 0.6e-6, rel=0.02)
    assert reasoned == pytest.approx(bounded + 2 * 10_000 * 0.6e-6)


# One text alone


@MODES
def test_one_text_too_long_for_the_server_is_missing(mode: str, tmp_path: Path):
    originals = [*samples(5), Sample("long", "What is in this text? " * 30, "Rivers.")]
    with ChatServer(longest=300) as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode))
        again = paraphrase_samples(originals, options(server, tmp_path, mode))
    (gone,) = [variant for variant in result.variants if isinstance(variant, Missing)]
    assert gone.id == "long"
    assert gone.why.startswith(
        "user: rejected (too long: HTTP 422: Input validation error: `inputs` must have less than"
    )
    assert result.counts["missing: rejected"] == 1
    assert again.variants == result.variants


ONE_TEXT = {
    'reply 413 {"error": "Payload Too Large"}': "rejected (too long: HTTP 413: Payload Too Large)",
    'reply 500 {"error": {"message": "the request exceeds the available context size"}}': "rejected (too long: HTTP 500",
    'reply 400 {"error": {"message": "This model\'s maximum context length is 4096 tokens. Please reduce the length."}}': (
        "rejected (too long: HTTP 400: This model's maximum context length is 4096 tokens"
    ),
    'reply 429 {"error": {"message": "Request too large for gpt-4o on tokens per min (TPM)", "code": "rate_limit_exceeded"}}': (
        "rejected (too long: HTTP 429"
    ),
    'reply 400 {"error": {"message": "filtered", "code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}': (
        "rejected (content_filter)"
    ),
    'reply 400 {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}}': (
        "rejected (filtered: HTTP 400: Input data may contain inappropriate content)"
    ),
    'reply 403 {"error": {"message": "Your input was flagged by moderation", "code": 403}}': "rejected (filtered: HTTP 403",
    'reply 400 {"error": {"message": "could not parse the prompt"}}': "rejected (HTTP 400: could not parse the prompt)",
}


@MODES
@pytest.mark.parametrize(("reply", "why"), ONE_TEXT.items())
@pytest.mark.parametrize("place", [0, 4])
def test_a_text_that_is_not_taken_does_not_keep_others_from_theirs(
    reply: str, why: str, place: int, mode: str, tmp_path: Path
):
    originals = samples(5)
    bad = originals[place].user
    with ChatServer(plan=lambda text, nth: reply if text == bad else "ok") as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode, concurrency=1))
        again = paraphrase_samples(originals, options(server, tmp_path, mode, concurrency=1))
    (gone,) = [variant for variant in result.variants if isinstance(variant, Missing)]
    assert gone.id == f"lima_{place}"
    assert gone.why.startswith(f"user: {why}")
    assert again.variants == result.variants
    assert again.counts["requests"] == 0


@pytest.mark.parametrize("kind", ["500", "malformed", 'reply 200 {"choices": []}', "slow"])
def test_a_text_that_the_service_fails_on_is_given_up_after_the_deadline(kind: str, tmp_path: Path):
    originals = samples(3)
    bad = originals[0].assistant
    with ChatServer(plan=lambda text, nth: kind if text == bad else "ok", slow=9) as server:
        result = paraphrase_samples(originals, options(server, tmp_path, deadline_seconds=1.5, timeout_seconds=0.4))
        again = paraphrase_samples(originals, options(server, tmp_path))
    assert isinstance(result.variants[0], Missing)
    assert result.variants[0].why.startswith("assistant: rejected (no answer: ")
    assert result.variants[1:] == expected(originals)[1:]
    assert again.variants == result.variants


# Batches


@pytest.mark.parametrize("kind", ["500", "lost", "torn", 'reply 503 {"error": {"message": "later"}}'])
def test_a_text_that_no_batch_answers_is_given_up(kind: str, tmp_path: Path):
    originals = samples(3)
    bad = originals[0].user
    with ChatServer(plan=lambda text, nth: kind if text == bad else "ok") as server:
        result = paraphrase_samples(originals, options(server, tmp_path, "batch"))
    assert len(server.batches) == 3
    assert isinstance(result.variants[0], Missing)
    assert result.variants[0].why.startswith("user: rejected (no answer: ")
    assert result.variants[1:] == expected(originals)[1:]


@pytest.mark.parametrize("kind", ["lost", "torn", "500", "expired"])
def test_what_one_batch_does_not_answer_the_next_one_does(kind: str, tmp_path: Path):
    bad = {samples(4)[0].user, samples(4)[2].assistant}
    with ChatServer(plan=lambda text, nth: kind if nth == 0 and text in bad else "ok") as server:
        result = paraphrase_samples(samples(4), options(server, tmp_path, "batch"))
    assert result.variants == expected(samples(4))
    assert len(server.batches) == 2
    assert set(server.completed().values()) <= {1, 2}


@pytest.mark.parametrize("kind", ["twice", "among others"])
def test_second_and_foreign_lines_say_and_cost_nothing(kind: str, tmp_path: Path):
    with ChatServer(plan=lambda text, nth: kind) as server:
        result = paraphrase_samples(samples(3), options(server, tmp_path, "batch"))
    assert result.variants == expected(samples(3))
    answers = events(tmp_path, "answer")
    assert len(answers) == 6
    assert result.paid_usd == pytest.approx(sum(event["answer"]["cost_usd"] for event in answers))


def test_a_batch_that_holds_texts_of_two_shards_is_taken_in_for_both(tmp_path: Path):
    """Whoever takes a batch in keeps all of its answers: the others would have to be paid again."""
    shared = Sample("shared", samples(1)[0].user, "Something else that only the second shard holds, as it happens.")
    with ChatServer(batch_polls=2) as server:
        from gradsim_assets.core.datasets.paraphrasing import batch_step

        batch_step(samples(3), options(server, tmp_path, "batch"))
        other = paraphrase_samples([shared], options(server, tmp_path, "batch"))
        first = paraphrase_samples(samples(3), options(server, tmp_path, "batch"))
    assert first.variants == expected(samples(3))
    assert other.variants == expected([shared])
    assert set(server.completed().values()) == {1}


@pytest.mark.parametrize(
    "body", ['{"error": {"message": "Batches are off today"}}', "<html><title>Login</title></html>", "[]"]
)
def test_a_batch_endpoint_that_answers_with_something_else_is_told(body: str, tmp_path: Path, monkeypatch):
    async def batch(self, method, path, headers, content, writer):
        return await self._send(writer, 200, body.encode(), kind="text/html" if body[0] == "<" else "application/json")

    monkeypatch.setattr(ChatServer, "_batch", batch)
    with ChatServer() as server, pytest.raises((InputError, ServiceError)) as caught:
        paraphrase_samples(samples(1), options(server, tmp_path, "batch"))
    assert re.search('Batches are off today|a web page titled "Login"|what is no batch', str(caught.value))


def test_a_page_in_place_of_a_batchs_output_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The answers are paid: they are taken in when the proxy has been logged in to."""
    real = ChatServer._batch

    async def batch(self, method, path, headers, content, writer):
        if path.endswith("/content"):
            return await self._send(writer, 200, b"<html><title>Login</title></html>", kind="text/html")
        return await real(self, method, path, headers, content, writer)

    with ChatServer() as server:
        with monkeypatch.context() as patched:
            patched.setattr(ChatServer, "_batch", batch)
            with pytest.raises(ServiceError, match='a web page titled "Login"'):
                paraphrase_samples(samples(2), options(server, tmp_path, "batch"))
        result = paraphrase_samples(samples(2), options(server, tmp_path, "batch"))
    assert result.variants == expected(samples(2))
    assert len(server.batches) == 1


# No original in place of its paraphrase


@MODES
def test_no_variant_is_ever_its_own_original(mode: str, tmp_path: Path):
    kinds = [*ACCENTS, *NOTHING, *ONE_TEXT, "ok", "length", "content_filter"]
    originals = samples(len(kinds))
    kind_of = {text: kind for s, kind in zip(originals, kinds, strict=True) for text in (s.user, s.assistant)}
    with ChatServer(plan=lambda text, nth: kind_of[text]) as server:
        result = paraphrase_samples(originals, options(server, tmp_path, mode))
    found = [variant for variant in result.variants if isinstance(variant, Sample)]
    assert 5 < len(found) < len(kinds)
    own = {original.id: original for original in originals}
    assert all(v.user != own[v.id].user and v.assistant != own[v.id].assistant for v in found)
    assert [v.id for v in result.variants] == [s.id for s in originals]
    assert all(v.id in result.flags for v in result.variants if isinstance(v, Missing))


# Keys and addresses


@pytest.mark.parametrize(
    ("key", "said", "shown"),
    [
        ("k", "to[k]ens of key k", "to[k]ens of key [key]".replace("[k]", "[[key]]")),
        ("k", "tokens, kinds and k-nearest", "tokens, kinds and k-nearest"),
        ("model", "no model of models", "no [key] of models"),
        ("none", "nonexistent none", "nonexistent [key]"),
        ("sk-abc", "sk-abcd sk-abc.", "sk-abcd [key]"),
        ("x", "use key-value pairs and key_words", "use key-value pairs and key_words"),
        ("x", "key sk-proj-****1234 is wrong", "key [key] is wrong"),
    ],
)
def test_whole_keys_alone_are_blotted_out(key: str, said: str, shown: str, tmp_path: Path):
    reply = "reply 400 " + json.dumps({"error": {"message": said}})
    with ChatServer(plan=lambda text, nth: reply, key=key) as server, pytest.raises(InputError) as caught:
        paraphrase_samples(samples(6), options(server, tmp_path))
    assert f"(HTTP 400: {shown})" in str(caught.value)


@pytest.mark.parametrize("key", ["sk-abc\n", "sk-ä", "sk\x00abc"])
def test_a_key_that_cannot_be_one_is_told_before_anything_is_sent(key: str, tmp_path: Path):
    with ChatServer() as server, pytest.raises(InputError, match="OPENAI_API_KEY holds a character that no key has"):
        paraphrase_samples(samples(1), options(server, tmp_path, api_key=key))
    assert not server.asked


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://[::1/v1", "ftp://host/v1", "http://user:pw@/v1", "http://h:0/v1"]
)
def test_an_address_that_is_none_is_told(url: str, tmp_path: Path):
    with pytest.raises(InputError, match="OPENAI_BASE_URL = .* is no address of a server") as caught:
        ParaphraserOptions(store=tmp_path, base_url=url)
    assert "pw" not in str(caught.value)
