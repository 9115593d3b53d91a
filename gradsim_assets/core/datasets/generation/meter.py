"""How far the answers of a shard are."""

import time
from collections.abc import Callable

#: Called with (samples done, samples in all, a note with the tokens per second).
Progress = Callable[[int, int, str], None]

_REPORT_EVERY_SECONDS = 1.0


class Meter:
    """Counts samples and tokens and reports them with the rate, about once a second."""

    def __init__(self, progress: Progress | None, total: int, done: int) -> None:
        self.progress, self.total, self.done, self.count = progress, total, done, 0
        self.started = self.last = time.monotonic()

    def tokens(self, count: int) -> None:
        self.count += count
        if time.monotonic() - self.last >= _REPORT_EVERY_SECONDS:
            self._report()

    def finished(self) -> None:
        self.done += 1
        self._report()

    def _report(self) -> None:
        self.last = time.monotonic()
        if self.progress is not None:
            rate = self.count / max(self.last - self.started, 1e-9)
            self.progress(self.done, self.total, f"{rate:.0f} tokens/s")
