"""Batch mode against the loopback server's files and batches endpoints."""

import json
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
    batch_step,
    estimate,
    paraphrase_samples,
)
from gradsim_assets.core.errors import InputError
from gradsim_assets_tests.support.chat_server import ChatServer, rewritten
from gradsim_assets_tests.support.paraphrase_cases import samples


def options(server: ChatServer, folder: Path, **more) -> ParaphraserOptions:
    return ParaphraserOptions(
        store=folder / "store",
        **{
            "base_url": server.url,
            "api_key": server.key,
            "provider": "test",
            "mode": "batch",
            "batch_poll_seconds": 0.02,
            **more,
        },
    )


def test_a_batch_gives_what_live_requests_give_for_half_the_price(tmp_path: Path):
    reports = []
    with ChatServer(batch_polls=3) as server:
        result = paraphrase_samples(samples(6), options(server, tmp_path), lambda *args: reports.append(args))
        again = paraphrase_samples(samples(6), options(server, tmp_path, mode="live"))
        elsewhere = paraphrase_samples(samples(6), options(server, tmp_path / "live", mode="live"))
    assert result.variants == again.variants == elsewhere.variants
    assert again.counts["stored"] == 12
    assert len(server.batches) == 1
    assert result.cost_usd == pytest.approx(elsewhere.cost_usd / 2)
    assert reports[1] == (0, 12, "12 of 12 texts wait for batch_0.")
    assert reports[-1][:2] == (12, 12)


def test_doubtful_answers_go_into_the_next_batch(tmp_path: Path):
    bad = {samples(3)[0].user: 1, samples(3)[1].assistant: 9}
    with ChatServer(plan=lambda text, nth: "empty" if nth < bad.get(text, 0) else "ok") as server:
        result = paraphrase_samples(samples(3), options(server, tmp_path))
    assert result.variants[0].user == rewritten(samples(3)[0].user, 43)
    assert result.flags == {"lima_1": "assistant: empty"}
    sizes = [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()]
    assert sizes == [6, 2, 1]


def test_errors_and_leftovers_of_an_expired_batch_are_submitted_again(tmp_path: Path):
    bad = {samples(3)[0].user: "500", samples(3)[1].user: "expired"}
    with ChatServer(plan=lambda text, nth: bad.get(text, "ok") if nth == 0 else "ok") as server:
        result = paraphrase_samples(samples(3), options(server, tmp_path))
    assert result.flags == {}
    assert result.counts["retried"] == 0
    assert set(server.completed().values()) == {1}


def test_steps_do_not_wait(tmp_path: Path):
    with ChatServer(batch_polls=2) as server:
        first = batch_step(samples(2), options(server, tmp_path))
        second = batch_step(samples(2), options(server, tmp_path))
        assert str(first) == str(second) == "4 of 4 texts wait for batch_0."
        third = batch_step(samples(2), options(server, tmp_path))
        assert third.done
        assert str(third) == "All 4 texts are answered."
        assert paraphrase_samples(samples(2), options(server, tmp_path)).counts["stored"] == 4
    assert len(server.batches) == 1


def test_a_batch_that_was_made_unheard_is_found_and_not_paid_again(tmp_path: Path):
    with ChatServer(lost_batches=1) as server:
        with pytest.raises(ServiceError):
            batch_step(samples(2), options(server, tmp_path))
        result = paraphrase_samples(samples(2), options(server, tmp_path))
    assert result.flags == {}
    assert len(server.batches) == 1
    assert set(server.completed().values()) == {1}


def _wait_for_batches(url: str, key: str, folder: Path) -> None:
    paraphrase_samples(
        samples(10),
        ParaphraserOptions(
            store=folder / "store", base_url=url, api_key=key, provider="test", mode="batch", batch_poll_seconds=0.02
        ),
    )


def test_a_killed_run_takes_its_batch_in_later(tmp_path: Path):
    with ChatServer(batch_polls=10**9) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=_wait_for_batches, args=(server.url, server.key, tmp_path)
        )
        process.start()
        while not any(batch["polls"] for batch in server.batches.values()):
            assert process.is_alive()
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        server.batch_polls = 0
        result = paraphrase_samples(samples(10), options(server, tmp_path))
    assert len(server.batches) == 1
    assert result.counts["requests"] == 20


def test_shards_have_batches_of_their_own(tmp_path: Path):
    with ChatServer(batch_polls=2) as server:
        batch_step(samples(4)[:2], options(server, tmp_path))
        batch_step(samples(4)[2:], options(server, tmp_path))
        first = paraphrase_samples(samples(4)[:2], options(server, tmp_path))
        both = paraphrase_samples(samples(4), options(server, tmp_path))
    assert both.variants[:2] == first.variants
    assert len(server.batches) == 2
    assert set(server.completed().values()) == {1}


def test_live_mode_does_not_pay_for_what_waits_in_a_batch(tmp_path: Path):
    with ChatServer() as server:
        batch_step(samples(2), options(server, tmp_path))
        with pytest.raises(InputError, match='wait in a batch that is paid for; set mode = "batch"'):
            paraphrase_samples(samples(2), options(server, tmp_path, mode="live"))
    assert not server.asked


def test_the_spending_limit_holds_before_submission(tmp_path: Path):
    with ChatServer() as server:
        most = estimate(samples(4), options(server, tmp_path)).most_usd
        with pytest.raises(SpendingLimitError):
            batch_step(samples(4), options(server, tmp_path, max_cost_usd=most * 0.99))
        assert not server.files
        batch_step(samples(4), options(server, tmp_path, max_cost_usd=most * 1.01))
        with pytest.raises(SpendingLimitError):  # what waits in the batch counts
            batch_step(samples(8)[4:], options(server, tmp_path, max_cost_usd=most * 1.5))
    assert len(server.batches) == 1


def test_a_server_without_batches_is_told(tmp_path: Path):
    with ChatServer(has_batches=False) as server, pytest.raises(InputError, match="has no batch endpoint"):
        batch_step(samples(1), options(server, tmp_path))


def test_a_batch_of_failures_is_told(tmp_path: Path):
    with ChatServer(plan=lambda text, nth: "500") as server, pytest.raises(InputError, match="brought no answers"):
        paraphrase_samples(samples(1), options(server, tmp_path))


def test_the_input_file_is_in_the_endpoints_format(tmp_path: Path):
    with ChatServer() as server:
        batch_step(samples(1), options(server, tmp_path))
    lines = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    assert len({line["custom_id"] for line in lines}) == 2
    assert all(len(line["custom_id"]) <= 64 for line in lines)
