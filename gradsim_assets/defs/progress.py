"""Progress of long steps: a bar in the terminal, a line in the UI's log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import dagster as dg
from tqdm import tqdm

_LOG_EVERY_SECONDS = 15.0

#: Where progress bars are drawn; None in processes without a terminal.
_terminal: TextIO | None = None


def draw_progress_on_terminal() -> None:
    """Draws progress bars on this process's terminal, if it has one.

    To be called before a run: while a step works, Dagster sends stderr to the step's log, where a bar would be noise.
    """
    global _terminal
    if _terminal is None and sys.stderr.isatty():
        _terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)


@contextmanager
def progress(
    context: dg.AssetExecutionContext | dg.OpExecutionContext, what: str, unit: str
) -> Iterator[Callable[..., None]]:
    """A progress callback `(done, total, note="")`: a bar in the terminal, a line in the UI's log now and then."""
    started = last = time.monotonic()
    with tqdm(desc=what, unit=unit, file=_terminal, disable=_terminal is None, leave=False) as bar:

        def report(done: int, total: int, note: str = "") -> None:
            nonlocal last
            bar.total, bar.n = total, done
            bar.set_postfix_str(note, refresh=True)
            now = time.monotonic()
            if now - last >= _LOG_EVERY_SECONDS or done >= total:
                last = now
                rate = done / max(now - started, 1e-9)
                left = f", about {(total - done) / rate:.0f} s left" if 0 < done < total else ""
                context.log.info(f"{what}: {done} of {total} {unit} ({rate:.1f}/s{left}) {note}".rstrip())

        yield report
