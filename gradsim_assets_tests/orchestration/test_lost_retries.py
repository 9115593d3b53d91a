"""Retries that Dagster's daemon forgets, on a real instance with its own event log."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from gradsim_assets.orchestration.dagster_internals import failures_after, read_again_after, read_until
from gradsim_assets.orchestration.lost_retries import ASKED, LOOKED_BACK_SECONDS, ask_again, lost_retries

LATER = 120.0
RETRIES = {"run_retries": {"enabled": True, "max_retries": 3}}


@dg.job
def nothing() -> None:
    """A job of no steps: its runs are marked as failed from outside, as those of dead processes are."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=RETRIES) as instance:
        yield instance


def died(instance: dg.DagsterInstance, **tags: str) -> str:
    """The id of a run whose process has died."""
    run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=tags)
    instance.report_run_failed(run)
    failed = instance.get_run_by_id(run.run_id)
    assert failed is not None and failed.tags["dagster/will_retry"] == "true"
    return run.run_id


def all_read(instance: dg.DagsterInstance) -> int:
    """The daemon has read every failure, and made what it wanted of it."""
    last = max(failures_after(instance, 0))
    read_again_after(instance, last)
    return last


def test_a_failure_that_was_read_too_early_is_read_once_more(instance: dg.DagsterInstance) -> None:
    first, forgotten, last = (died(instance) for _ in range(3))
    for retried in (first, last):
        instance.add_run_tags(retried, {"dagster/auto_retry_run_id": "some run"})
    until, now = all_read(instance), time.time()
    assert lost_retries(instance, now) == [] == ask_again(instance, now), "a retry may still come"
    assert lost_retries(instance, now + LATER) == [forgotten]
    assert ask_again(instance, now + LATER) == [forgotten]
    assert list(failures_after(instance, read_until(instance) or 0).values()) == [forgotten, last]
    run = instance.get_run_by_id(forgotten)
    assert run is not None and ASKED in run.tags
    read_again_after(instance, until)
    assert ask_again(instance, now + LATER) == [] and read_until(instance) == until, "once is enough"


def test_what_the_daemon_has_not_come_to_yet_is_left_to_it(instance: dg.DagsterInstance) -> None:
    died(instance)
    assert ask_again(instance, time.time() + LATER) == [] and read_until(instance) is None
    until = all_read(instance)
    died(instance)
    read_again_after(instance, until)  # no further
    before = read_until(instance)
    assert len(ask_again(instance, time.time() + LATER)) == 1 and (read_until(instance) or 0) < (before or 0)


def test_what_nobody_waits_for_is_not_asked_for(instance: dg.DagsterInstance) -> None:
    died(instance, **{"dagster/backfill": "deleted"})
    all_read(instance)
    assert lost_retries(instance, time.time() + LATER) == []
    died(instance)
    all_read(instance)
    assert lost_retries(instance, time.time() + 2 * LOOKED_BACK_SECONDS) == []
