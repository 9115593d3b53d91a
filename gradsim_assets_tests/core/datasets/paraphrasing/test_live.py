"""Paraphrasing against a real HTTP server that fails in all the ways that servers fail."""

import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from gradsim_assets.core.datasets.paraphrasing import (
    ParaphraserOptions,
    ServiceError,
    SpendingLimitError,
    estimate,
    paraphrase_samples,
)
from gradsim_assets.core.errors import InputError
from gradsim_assets.core.samples import Missing, Sample
from gradsim_assets_tests.support.chat_server import FAULTS, ChatServer, faulty, rewritten
from gradsim_assets_tests.support.paraphrase_cases import samples


def options(server: ChatServer, folder: Path, **more) -> ParaphraserOptions:
    return ParaphraserOptions(
        store=folder / "store",
        **{"base_url": server.url, "api_key": server.key, "provider": "test", "deadline_seconds": 20.0, **more},
    )


def texts(sample: Sample) -> tuple[str, str]:
    return sample.user, sample.assistant


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for path in (folder / "store").glob("*.jsonl") for line in path.read_bytes().splitlines()]


def test_both_texts_are_rewritten_and_nothing_is_asked_twice(tmp_path: Path):
    originals = samples(20)
    with ChatServer() as server:
        result = paraphrase_samples(originals, options(server, tmp_path))
        again = paraphrase_samples(originals, options(server, tmp_path))
    expected = [Sample(s.id, rewritten(s.user, 42), rewritten(s.assistant, 42)) for s in originals]
    assert result.variants == again.variants == expected
    assert result.flags == {}
    assert result.counts == {"texts": 40, "stored": 0, "requests": 40, "retried": 0, "flagged": 0, "missing": 0}
    assert again.counts == {"texts": 40, "stored": 40, "requests": 0, "retried": 0, "flagged": 0, "missing": 0}
    assert set(server.completed().values()) == {1}
    assert len(server.asked) == 40
    # 0.15 and 0.60 USD per million tokens, as the server counted them
    prompt, completion = sum(result.prompt_tokens.values()), sum(result.completion_tokens.values())
    assert prompt == sum(100 + len(a.text) // 4 for a in server.asked)
    assert result.cost_usd == pytest.approx((prompt * 0.15 + completion * 0.60) / 1e6)
    assert result.paid_usd == pytest.approx(result.cost_usd)
    assert again.cost_usd == pytest.approx(result.cost_usd)
    assert again.paid_usd == 0


def test_a_request_is_what_was_configured(tmp_path: Path):
    with ChatServer(models=("tiny",)) as server:
        paraphrase_samples(
            samples(1),
            options(
                server, tmp_path, model="tiny", temperature=0.5, seed=7, system_prompt="Rewrite.", max_cost_usd=None
            ),
        )
    bodies = sorted((asked.body for asked in server.asked), key=lambda body: body["messages"][1]["content"])
    assert [body["messages"] for body in bodies] == [
        [{"role": "system", "content": "Rewrite."}, {"role": "user", "content": text}]
        for text in sorted(texts(samples(1)[0]))
    ]
    assert {(body["model"], body["temperature"], body["seed"]) for body in bodies} == {("tiny", 0.5, 7)}


def test_equal_texts_are_asked_once(tmp_path: Path):
    twice = [
        Sample("a", "Where does the river rise?", "In the hills."),
        Sample("b", "Where does the river rise?", "Afar."),
    ]
    with ChatServer() as server:
        result = paraphrase_samples(twice, options(server, tmp_path))
    assert len(server.asked) == 3
    assert result.variants[0].user == result.variants[1].user


def test_whatever_determines_an_answer_asks_anew(tmp_path: Path):
    with ChatServer(models=("gpt-4o-mini-2024-07-18", "gpt-4o")) as server:
        for changed in (
            {},
            {"seed": 1},
            {"temperature": 0.0},
            {"model": "gpt-4o"},
            {"system_prompt": "x"},
            {"provider": "y"},
        ):
            before = len(server.asked)
            paraphrase_samples(samples(1), options(server, tmp_path, **changed))
            assert len(server.asked) - before == 2, changed
        # ... and what does not determine it does not.
        paraphrase_samples(samples(1), options(server, tmp_path, concurrency=1, timeout_seconds=3, max_cost_usd=9))
        assert len(server.asked) == 12


@pytest.mark.parametrize("kind", ["429", "500", "503", "408", "drop", "cut", "malformed", "html", "slow"])
def test_transient_faults_are_tried_again(tmp_path: Path, kind: str):
    with ChatServer(plan=lambda text, nth: kind if nth == 0 else "ok") as server:
        result = paraphrase_samples(samples(3), options(server, tmp_path, timeout_seconds=0.3))
    assert result.flags == {}
    assert len(server.asked) == 12
    assert result.counts["requests"] == 6


def test_retry_after_is_kept(tmp_path: Path):
    with ChatServer(plan=lambda text, nth: "429" if nth == 0 else "ok", retry_after="2") as server:
        started = time.monotonic()
        paraphrase_samples(samples(1), options(server, tmp_path))
        # A lower bound can be asserted: a server's word is kept however slow the machine.
        assert time.monotonic() - started >= 2


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        ("refusal", "refusal"),
        ("refusal field", "refusal"),
        ("empty", "empty"),
        ("length", "cut"),
        ("content_filter", "filtered"),
        ("identical", "identical"),
        ("says Le pays a des rivières et les villes sont sur le bord de ces rivières, dans la vallée.", "language"),
        ("says Rivers.", "length"),
    ],
)
def test_doubtful_answers_are_retried_with_another_seed_and_then_flagged_or_missing(
    tmp_path: Path, kind: str, flag: str
):
    healing, hopeless = samples(2)
    bad = {healing.assistant: 1, hopeless.assistant: 9}
    with ChatServer(plan=lambda text, nth: kind if nth < bad.get(text, 0) else "ok") as server:
        result = paraphrase_samples([healing, hopeless], options(server, tmp_path))
        asked = len(server.asked)
        again = paraphrase_samples([healing, hopeless], options(server, tmp_path))
        assert len(server.asked) == asked  # the attempts are spent: they are not paid again
        more = paraphrase_samples([healing, hopeless], options(server, tmp_path, attempts=4))
        assert len(server.asked) == asked + 1
    assert again.variants == result.variants
    assert more.flags == result.flags
    assert result.variants[0].assistant == rewritten(healing.assistant, 43)
    assert result.flags == {hopeless.id: f"assistant: {flag}"}
    if flag in ("language", "length"):  # it may be a rewriting
        assert result.variants[1].assistant == kind.removeprefix("says ")
        assert result.counts["flagged"] == result.counts[f"flagged: {flag}"] == 1
    else:  # never empty, never half, never the original
        assert result.variants[1] == Missing(hopeless.id, f"assistant: {flag}")
        assert result.counts["missing"] == result.counts[f"missing: {flag}"] == 1
        assert result.counts["flagged"] == 0
    assert result.counts["retried"] == 2
    assert [a.seed for a in server.asked[:asked] if a.text == hopeless.assistant] == [42, 43, 44]


def test_a_text_that_is_not_taken_is_missing_and_the_others_go_on(tmp_path: Path):
    originals = samples(3)
    plan = {originals[1].assistant: "400 context_length_exceeded"}
    with ChatServer(plan=lambda text, nth: plan.get(text, "ok")) as server:
        result = paraphrase_samples(originals, options(server, tmp_path))
        paraphrase_samples(originals, options(server, tmp_path))
    assert result.flags == {"lima_1": "assistant: rejected (context_length_exceeded)"}
    assert result.variants[1] == Missing("lima_1", "assistant: rejected (context_length_exceeded)")
    assert len(server.asked) == 6


def fails_with(server: ChatServer, folder: Path, count: int = 4, **more) -> str:
    with pytest.raises(InputError) as caught:
        paraphrase_samples(samples(count), options(server, folder, **more))
    return str(caught.value)


def test_a_wrong_key_fails_at_once_and_is_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    key = "sk-proj-SECRETsecret1234"
    with ChatServer() as server:
        message = fails_with(server, tmp_path, api_key=key)
    assert message == (
        f"the chat service at 127.0.0.1:{server.port}/v1 refuses the key "
        "(HTTP 401: Incorrect API key provided: [key]); correct OPENAI_API_KEY."
    )
    shown = caplog.text + json.dumps(events(tmp_path)) + repr(options(server, tmp_path, api_key=key))
    assert "SECRET" not in shown
    assert "sk-p" not in shown


def test_no_key_fails_before_anything_is_sent(tmp_path: Path):
    with pytest.raises(InputError, match="set OPENAI_API_KEY, or OPENAI_BASE_URL"):
        paraphrase_samples(samples(1), ParaphraserOptions(store=tmp_path))


def test_an_unknown_model_fails_at_once(tmp_path: Path):
    with ChatServer() as server:
        message = fails_with(server, tmp_path, model="gpt-5-nope", prices={"gpt-5-nope": (1, 1)})
    assert message == (
        f"the chat service at 127.0.0.1:{server.port}/v1 does not know the model gpt-5-nope (HTTP 404: The model "
        "`gpt-5-nope` does not exist or you do not have access to it); correct model in [paraphraser]."
    )
    assert not server.asked


def test_a_wrong_path_is_told_from_an_unknown_model(tmp_path: Path):
    with ChatServer() as server:
        message = fails_with(server, tmp_path, base_url=server.url.removesuffix("/v1"))
    assert "there is no chat service at 127.0.0.1" in message
    assert "usually ends in /v1" in message


def test_an_unreachable_server_is_told(tmp_path: Path):
    with ChatServer() as server:
        pass
    message = fails_with(server, tmp_path)
    assert message.startswith(f"the chat service at 127.0.0.1:{server.port}/v1 cannot be reached (")
    assert message.endswith("start it, or correct OPENAI_BASE_URL or the proxy settings.")


def test_a_proxy_that_sends_its_page_is_told(tmp_path: Path):
    with ChatServer(plan=lambda text, nth: "html") as server:
        message = fails_with(server, tmp_path)
    assert message == (
        f'127.0.0.1:{server.port}/v1 answers with a web page titled "Proxy login" instead of a chat completion '
        "(HTTP 200), as proxies do; correct OPENAI_BASE_URL or the proxy settings."
    )


def test_an_exhausted_account_is_not_asked_on(tmp_path: Path):
    with ChatServer(plan=lambda text, nth: "quota") as server:
        assert "has no quota left" in fails_with(server, tmp_path, concurrency=1)
    assert len(server.asked) == 1


def test_a_service_that_fails_beyond_the_deadline_ends_the_run_and_keeps_what_arrived(tmp_path: Path):
    originals = samples(5)
    down = {originals[4].assistant}
    with ChatServer(plan=lambda text, nth: "503" if text in down else "ok") as server:
        with pytest.raises(ServiceError, match=r"has failed for 1 s \(last HTTP 503: Try again\); run again later"):
            paraphrase_samples(originals, options(server, tmp_path, deadline_seconds=1.0))
        assert not isinstance(ServiceError(), InputError)  # trying again later is worth while
        down.clear()
        result = paraphrase_samples(originals, options(server, tmp_path))
    assert set(server.completed().values()) == {1}
    assert result.counts["stored"] == 9


def test_a_fault_that_concerns_all_waits_for_what_is_in_flight(tmp_path: Path):
    bad = {samples(1)[0].user}
    with ChatServer(plan=lambda text, nth: "quota" if text in bad else "slow", slow=0.5) as server:
        assert "quota" in fails_with(server, tmp_path, count=4, concurrency=4)
    stored = [event for event in events(tmp_path) if event["event"] == "answer"]
    assert len(stored) == 3 == sum(server.completed().values())


def test_concurrency_is_bounded(tmp_path: Path):
    with ChatServer(latency=0.02) as server:
        paraphrase_samples(samples(30), options(server, tmp_path, concurrency=5))
    assert server.most_at_once == 5


def test_progress_counts_texts(tmp_path: Path):
    reports = []
    with ChatServer() as server:
        paraphrase_samples(samples(5), options(server, tmp_path), lambda *args: reports.append(args))
    assert [reports[0][0], reports[-1][0]] == [0, 10]
    assert {total for _, total, _ in reports} == {10}
    assert reports[-1][2].startswith("10 answers, 0.0")


# Money


def test_a_dry_run_tells_what_would_be_spent_and_spends_nothing(tmp_path: Path):
    with ChatServer() as server:
        paraphrase_samples(samples(10), options(server, tmp_path))
        asked = len(server.asked)
        plan = estimate(samples(50), options(server, tmp_path))
        assert len(server.asked) == asked
        paid = paraphrase_samples(samples(50), options(server, tmp_path)).paid_usd
    assert (plan.texts, plan.stored) == (100, 20)
    assert str(plan).startswith("80 of 100 texts would be asked for (20 are in the store): about ")
    assert str(plan).endswith("; the limit is 5 USD.")
    # The estimate is of the right size, and the bound is one.
    assert 0.5 * paid < plan.cost_usd < 2 * paid
    assert paid < plan.most_usd
    assert str(estimate(samples(50), options(server, tmp_path))) == (
        "All 100 texts are answered in the store: nothing would be asked for and nothing spent."
    )


def test_the_spending_limit_is_never_crossed_and_a_higher_one_goes_on(tmp_path: Path):
    originals, limit = samples(60), 0.003
    with ChatServer(latency=0.01) as server:
        with pytest.raises(SpendingLimitError) as caught:
            paraphrase_samples(originals, options(server, tmp_path, max_cost_usd=limit))
        message = str(caught.value)
        spent = sum(event["answer"]["cost_usd"] for event in events(tmp_path) if event["event"] == "answer")
        assert 0.8 * limit < spent <= limit
        with pytest.raises(SpendingLimitError):  # the limit holds for all runs together
            paraphrase_samples(originals, options(server, tmp_path, max_cost_usd=limit))
        assert sum(server.completed().values()) == sum(event["event"] == "answer" for event in events(tmp_path))
        result = paraphrase_samples(originals, options(server, tmp_path, max_cost_usd=1.0))
    assert message.startswith("the spending limit of 0.003 USD would be crossed: 0.00")
    assert message.endswith("what has arrived is not paid again.")
    assert set(server.completed().values()) == {1}
    assert len(result.variants) == 60


def test_a_limit_without_a_price_is_refused(tmp_path: Path):
    with ChatServer(models=("tiny",)) as server:
        assert "no price is known for the model tiny" in fails_with(server, tmp_path, model="tiny")
        result = paraphrase_samples(samples(1), options(server, tmp_path, model="tiny", prices={"tiny": (0, 0)}))
        assert result.cost_usd == 0


# Kills and company


def _paraphrase(
    url: str, key: str, folder: Path, count: int, concurrency: int, limit: float | None, timeout: float
) -> None:
    paraphrase_samples(
        samples(count),
        ParaphraserOptions(
            store=folder / "store",
            base_url=url,
            api_key=key,
            provider="test",
            concurrency=concurrency,
            max_cost_usd=limit,
            timeout_seconds=timeout,
            deadline_seconds=60,
        ),
    )


def _start(server: ChatServer, folder: Path, count: int, concurrency: int, limit: float | None = None, timeout=30.0):
    process = multiprocessing.get_context("spawn").Process(
        target=_paraphrase, args=(server.url, server.key, folder, count, concurrency, limit, timeout)
    )
    process.start()
    return process


def _killed_again_and_again(folder: Path, count: int, kills: list[int], concurrency: int) -> None:
    """Kills a run when the server has answered so many requests, for each of `kills`, and then lets it finish."""
    with ChatServer(plan=faulty(0.2), latency=0.01, slow=1.0) as server:
        for answered in kills:
            process = _start(server, folder, count, concurrency, timeout=0.5)
            while sum(server.completed().values()) < answered:
                assert process.is_alive()
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        arrived = {(e["text"], e["seed"]) for e in _whole_events(folder) if e["event"] == "answer"}
        before = server.completed()
        result = paraphrase_samples(
            samples(count),
            options(server, folder, timeout_seconds=0.5, concurrency=concurrency, attempts=5, deadline_seconds=60),
        )
        after = server.completed()
    assert {s.id for s in result.variants} == {s.id for s in samples(count)}
    assert result.flags == {}
    assert {kind for asked in server.asked if (kind := asked.kind) != "ok"} == set(FAULTS)
    # What had arrived is not asked for again; what was in flight at a kill may be, so at most `concurrency` a kill,
    # and a slow answer that the client no longer waited for.
    assert all(after[request] == before[request] for request in arrived)
    slow = sum(asked.kind == "slow" for asked in server.asked)
    repeated = sum(times - 1 for times in after.values())
    assert repeated <= concurrency * len(kills) + slow


def _whole_events(folder: Path) -> list[dict]:
    lines = [line for path in (folder / "store").glob("*.jsonl") for line in path.read_bytes().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def test_nothing_is_lost_or_paid_twice_when_the_run_is_killed(tmp_path: Path):
    _killed_again_and_again(tmp_path, count=120, kills=[60], concurrency=8)


@pytest.mark.slow
def test_a_whole_dataset_with_three_kills(tmp_path: Path):
    _killed_again_and_again(tmp_path, count=988, kills=[311, 822, 1501], concurrency=16)


def test_processes_that_share_the_store_do_not_ask_the_same(tmp_path: Path):
    with ChatServer(latency=0.02) as server:
        processes = [_start(server, tmp_path, 40, 4) for _ in range(2)]
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.completed()) == 80
    assert set(server.completed().values()) == {1}


def test_processes_that_share_the_store_keep_one_limit(tmp_path: Path):
    limit = 0.003
    with ChatServer(latency=0.01) as server:
        processes = [_start(server, tmp_path, count, 4, limit) for count in (60, 80)]
        for process in processes:
            process.join(60)
    assert all(process.exitcode for process in processes)
    spent = sum(event["answer"]["cost_usd"] for event in events(tmp_path) if event["event"] == "answer")
    assert 0.8 * limit < spent <= limit


def test_a_store_can_be_put_together_from_those_of_two_machines(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    with ChatServer() as server:
        paraphrase_samples(samples(10)[:5], options(server, here))
        paraphrase_samples(samples(10)[5:], options(server, there))
        for journal in (there / "store").glob("*.jsonl"):
            journal.rename(here / "store" / journal.name)
        result = paraphrase_samples(samples(10), options(server, here))
    assert result.counts["stored"] == 20
    assert len(server.asked) == 20


def test_a_torn_or_foreign_line_costs_only_itself(tmp_path: Path):
    with ChatServer() as server:
        paraphrase_samples(samples(3), options(server, tmp_path))
        (journal,) = (tmp_path / "store").glob("*.jsonl")
        lines = journal.read_bytes().splitlines(True)
        answers = [number for number, line in enumerate(lines) if b'"answer"' in line]
        lines[answers[0]] = b"\xff garbage\n"
        lines[-1] = lines[-1][:-9]
        journal.write_bytes(b"".join(lines))
        result = paraphrase_samples(samples(3), options(server, tmp_path))
    assert result.counts["stored"] == 4
    assert result.flags == {}


def test_the_store_tells_what_was_asked_and_answered(tmp_path: Path):
    with ChatServer() as server:
        paraphrase_samples(samples(1), options(server, tmp_path))
    answers = [event for event in events(tmp_path) if event["event"] == "answer"]
    assert {event["text"] for event in answers} == set(texts(samples(1)[0]))
    assert {(e["service"], e["answer"]["model"], e["seed"], e["temperature"]) for e in answers} == {
        ("test", "gpt-4o-mini-2024-07-18", 42, 1.0)
    }


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "store").write_text("a file")
    with ChatServer() as server:
        assert "the paraphrase store" in fails_with(server, tmp_path)
