"""Runs that died, that Dagster said it would retry, and that it forgot: told apart, and brought to its mind again.

Dagster's daemon reads failures in the order of the event log, once. One that it reads in the moment between the event and the
change of the run's status is no failure yet, and is not looked at again: the run is tagged as one that will be retried, no
retry comes, and a backfill that it belongs to waits for that for ever.
"""

import time
from datetime import UTC, datetime

import dagster as dg

from gradsim_assets.orchestration.dagster_internals import (
    BulkActionStatus,
    failures_after,
    read_again_after,
    read_until,
)

#: What Dagster tags a run with that it will retry, the retry of it, and the backfill that it belongs to.
_WILL_RETRY, _RETRY, _BACKFILL = "dagster/will_retry", "dagster/auto_retry_run_id", "dagster/backfill"

#: What we tag a run with whose retry we have asked for: once is enough, or Dagster has its reasons.
ASKED = "gradsim/retry_asked_for"

#: A retry follows within seconds; a run that was forgotten is noticed long before so many events and seconds have gone by.
PATIENCE_SECONDS, LOOKED_BACK_SECONDS, LOOKED_BACK_EVENTS = 60.0, 86_400.0, 100_000


def lost_retries(instance: dg.DagsterInstance, now: float | None = None) -> list[str]:
    """Ids of the runs of the last day that wait for a retry which nobody has launched for a minute."""
    now = time.time() if now is None else now
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE],
            tags={_WILL_RETRY: "true"},
            updated_after=datetime.fromtimestamp(now - LOOKED_BACK_SECONDS, UTC),
        ),
        limit=1000,
    )
    forgotten = []
    for record in records:
        tags, ended = record.dagster_run.tags, record.end_time or record.update_timestamp.timestamp()
        due = PATIENCE_SECONDS <= now - ended <= LOOKED_BACK_SECONDS
        if due and not {_RETRY, ASKED} & set(tags) and _wanted(instance, tags.get(_BACKFILL)):
            forgotten.append(record.dagster_run.run_id)
    return forgotten


def _wanted(instance: dg.DagsterInstance, backfill_id: str | None) -> bool:
    """Whether Dagster itself would retry a run of such a backfill: one that is still at work, if there is one."""
    if backfill_id is None:
        return True
    backfill = instance.get_backfill(backfill_id)
    return backfill is not None and backfill.status == BulkActionStatus.REQUESTED


def ask_again(instance: dg.DagsterInstance, now: float | None = None) -> list[str]:
    """Has the daemon read the failures of forgotten runs once more; returns their ids. Runs that were retried stay as they are."""
    until, lost = read_until(instance), lost_retries(instance, now)
    if until is None or not lost:
        return []
    failures = failures_after(instance, max(0, until - LOOKED_BACK_EVENTS))
    found = {run_id: event for event, run_id in failures.items() if run_id in lost and event <= until}
    if found:
        read_again_after(instance, min(found.values()) - 1)
    for run_id in found:
        instance.add_run_tags(run_id, {ASKED: "true"})
    return sorted(found)
