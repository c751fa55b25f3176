"""Progress on standard error: a bar on a terminal, a line every 10 s elsewhere."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich import progress as rich
from rich.console import Console

from harvester.reports.progress_log import LINE_SECONDS, Counts, ProgressLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harvester.commands.doctor import Finding
    from harvester.model.receipt import Receipt
    from harvester.runs.run import Run
    from harvester.tmdb.rate_limiter import RateLimiter
    from harvester.tmdb.responses import Outcome


@contextmanager
def harvest_observer() -> Iterator[ProgressBar | ProgressLog]:
    """A watcher of a harvest."""
    console = Console(stderr=True)
    observer = ProgressBar(console) if console.is_terminal else ProgressLog()
    try:
        yield observer
    finally:
        observer.end()


@contextmanager
def count_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that shows how much is done, of how much."""
    columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn(what))
    with _advancing(what, columns, rate="per_second") as advance:
        yield lambda done, of: advance(done, max(done, of))


@contextmanager
def upload_progress(*, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows which file is being sent, and how many bytes of how many."""
    far = (rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn(), rich.TextColumn("left"))
    columns = (rich.TextColumn("{task.fields[file]}", markup=False), rich.BarColumn(), *far)
    with _advancing("sending", columns, rate="bytes_per_second", clock=clock) as advance:
        yield lambda name, done, of: advance(done, of, file=name)


@contextmanager
def _advancing(
    event: str, columns: Iterable[rich.ProgressColumn], *, rate: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[..., None]]:
    """A function that is given how much is done, of how much, and values for the bar's `columns` or the line."""
    console = Console(stderr=True)
    if console.is_terminal:
        with rich.Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None, file="")
            yield lambda done, of, **more: progress.update(task, completed=done, total=of, **more)
        return
    then, before = clock(), 0

    def line(done: int, of: int, **more: str) -> None:
        nonlocal then, before
        seconds = clock() - then
        if seconds >= LINE_SECONDS:
            speed = max(done - before, 0) / seconds
            left = round((of - done) / speed) if speed else None
            values = {"done": done, "of": of, rate: round(speed), "seconds_left": left, **more}
            logging.getLogger(__name__).info(event, extra=values)
            then, before = then + seconds, done

    yield line


@contextmanager
def check_progress() -> Iterator[Callable[[Finding], Finding]]:
    """A function that shows what has been looked at last, on a terminal, and hands it back."""
    with Console(stderr=True).status("looking") as status:

        def look(finding: Finding) -> Finding:
            status.update(f"looked at {finding.what}")
            return finding

        yield look


class ProgressBar:
    """A watcher that shows a bar on a terminal."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.description}"))
        self._progress = rich.Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("looking what is done", total=None)
        self._clock = clock
        self._progress.start()

    def begin(self, run: Run, *, titles: int, limiter: RateLimiter) -> None:  # noqa: ARG002  # the bar shows the rate itself
        """Show `titles` as the whole."""
        self._counts = Counts(titles, clock=self._clock)
        self._progress.print(
            f"Run {run.name}: {titles:,} titles to look up, {run.totals.batches:,} batches done before"
        )
        self._progress.update(self._task, total=titles)

    def title(self, outcome: Outcome) -> None:
        """Count a title."""
        counts = self._counts
        counts.add(outcome)
        outcomes = " · ".join(f"{name} {counts.outcomes[name]:,}" for name in ("found", "missing", "failed"))
        seconds = counts.seconds_left()
        left = "-:--:--" if seconds is None else str(timedelta(seconds=seconds))  # rich writes both alike
        text = f"{counts.rate():.1f}/s · {outcomes} · {left} left"
        self._progress.update(self._task, completed=counts.outcomes.total(), description=text)

    def batch(self, receipt: Receipt) -> None:
        """A batch has landed; the bar says enough."""

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
