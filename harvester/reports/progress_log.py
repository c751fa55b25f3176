"""Lines: how far a harvest is, logged: each batch, and a line every 10 s."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.model.receipt import Receipt
    from harvester.runs.run import Run
    from harvester.tmdb.rate_limiter import RateLimiter
    from harvester.tmdb.responses import Outcome

LINE_SECONDS = 10.0
SMOOTHING = 0.3  # share of the newest second in the rate shown


class Counts:
    """The outcomes of a run so far, by name, and the recent rate; the clock tells seconds."""

    def __init__(self, titles: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.titles = titles
        self.outcomes: Counter[str] = Counter()
        self._clock = clock
        self._rate = 0.0
        self._then, self._done_then = clock(), 0

    def add(self, outcome: Outcome) -> None:
        """Count a title."""
        self.outcomes[type(outcome).__name__.lower()] += 1

    def rate(self) -> float:
        """Titles per second, smoothed; 0 before the first second is over."""
        seconds = self._clock() - self._then
        if seconds >= 1:
            done = self.outcomes.total()
            newest = (done - self._done_then) / seconds
            self._rate = newest if not self._rate else SMOOTHING * newest + (1 - SMOOTHING) * self._rate
            self._then, self._done_then = self._clock(), done
        return self._rate

    def seconds_left(self) -> int | None:
        """Seconds left at this rate; None before there is a rate."""
        if not (rate := self.rate()):
            return None
        return round(max(self.titles - self.outcomes.total(), 0) / rate)


class ProgressLog:
    """A watcher that logs each batch, and a line every 10 s.

    `landed` batches are counted, and those that are `whole`: without a failed title.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = logging.getLogger(__name__)
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.landed = self.whole = 0

    def begin(self, run: Run, *, titles: int, limiter: RateLimiter) -> None:
        """Log what is to be done."""
        self._counts = Counts(titles, clock=self._clock)
        values = {"run": run.name, "titles": titles, "batches_done": run.totals.batches}
        self._log.info("run", extra={**values, "rate_per_second": limiter.ceiling})
        self._timer = asyncio.get_running_loop().call_later(LINE_SECONDS, self._line)

    def title(self, outcome: Outcome) -> None:
        """Count a title."""
        self._counts.add(outcome)

    def batch(self, receipt: Receipt) -> None:
        """Log and count a batch."""
        outcomes = Counter[str](outcome["outcome"] for outcome in receipt.outcomes.values())
        size = sum(file.bytes for file in receipt.files)
        values = {"batch": receipt.batch, "collection": receipt.collection, **_shown(outcomes), "bytes": size}
        self._log.info("batch_failed" if outcomes["failed"] else "batch_landed", extra=values)
        self.landed += 1
        self.whole += not outcomes["failed"]

    def end(self) -> None:
        """Log no more."""
        if self._timer:
            self._timer.cancel()

    def _line(self) -> None:
        counts = self._counts
        values = {"done": counts.outcomes.total(), "of": counts.titles, "titles_per_second": round(counts.rate(), 1)}
        self._log.info("progress", extra={**values, **_shown(counts.outcomes), "seconds_left": counts.seconds_left()})
        self._timer = asyncio.get_running_loop().call_later(LINE_SECONDS, self._line)


def _shown(outcomes: Counter[str]) -> dict[str, int]:
    """The counts for a log line; of fresh titles only where there are some, as in few runs."""
    names = ("found", "missing", "failed") + (("fresh",) if outcomes["fresh"] else ())
    return {name: outcomes[name] for name in names}
