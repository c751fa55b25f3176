"""Progress as log lines: each batch and back-off, and the progress every 10 s."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from harvester.runtime.observer import BackOffBegun, BatchLanded, RunBegun, RunEnded, TitleDone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.runtime.observer import Event


LINE_SECONDS = 10.0
SMOOTHING = 0.3  # weight of the newest measurement in the rate shown


class Counts:
    """Counts the outcomes of a run, by name, and the recent rate."""

    def __init__(self, titles: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.titles = titles
        self.outcomes: Counter[str] = Counter()
        self._clock = clock
        self._rate = 0.0
        self._last, self._done_last = clock(), 0

    def add(self, outcome: str) -> None:
        """Count a title."""
        self.outcomes[outcome] += 1

    def rate(self) -> float:
        """Titles per second, smoothed; 0 during the first second."""
        seconds = self._clock() - self._last
        if seconds >= 1:
            done = self.outcomes.total()
            newest = (done - self._done_last) / seconds
            self._rate = newest if not self._rate else SMOOTHING * newest + (1 - SMOOTHING) * self._rate
            self._last, self._done_last = self._clock(), done
        return self._rate

    def seconds_left(self) -> int | None:
        """Seconds left at this rate; None while the rate is 0."""
        if not (rate := self.rate()):
            return None
        return round(max(self.titles - self.outcomes.total(), 0) / rate)


class ProgressLog:
    """An observer that logs each batch and back-off, and the progress every 10 s."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = logging.getLogger(__name__)
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, event: Event) -> None:
        """Log or count the event."""
        match event:
            case RunBegun(titles=titles):
                self._counts = Counts(titles, clock=self._clock)
                self._log.info("run", extra=event._asdict())
                self._timer = asyncio.get_running_loop().call_later(LINE_SECONDS, self._line)
            case BackOffBegun(seconds, rate):
                self._log.warning("back_off", extra={"seconds": seconds, "new_rate_per_second": round(rate, 1)})
            case TitleDone(outcome=outcome):
                self._counts.add(outcome)
            case BatchLanded(batch, collection, outcomes, size):
                failed = outcomes.get("failed", 0)
                values = {"batch": batch, "collection": collection, **_shown(outcomes), "bytes": size}
                self._log.info("batch_failed" if failed else "batch_landed", extra=values)
            case RunEnded() if self._timer:
                self._timer.cancel()

    def _line(self) -> None:
        counts = self._counts
        values = {"done": counts.outcomes.total(), "of": counts.titles, "titles_per_second": round(counts.rate(), 1)}
        self._log.info("progress", extra={**values, **_shown(counts.outcomes), "seconds_left": counts.seconds_left()})
        self._timer = asyncio.get_running_loop().call_later(LINE_SECONDS, self._line)


def _shown(outcomes: Mapping[str, int]) -> dict[str, int]:
    """The counts for a log line; `fresh` only if it is not 0."""
    names = ("found", "missing", "failed") + (("fresh",) if outcomes.get("fresh") else ())
    return {name: outcomes.get(name, 0) for name in names}
