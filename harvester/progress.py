"""Progress: what somebody who waits wants to see, as a bar on a terminal, as a line every 10 s elsewhere."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from harvester.lines import LINE_SECONDS, Counts, Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harvester.answers import Outcome
    from harvester.doctor import Finding
    from harvester.pace import Pace
    from harvester.receipts import Receipt
    from harvester.run import Run


@contextmanager
def watching() -> Iterator[Bar | Lines]:
    """A watcher that fits standard error."""
    console = Console(stderr=True)
    watcher = Bar(console) if console.is_terminal else Lines()
    try:
        yield watcher
    finally:
        watcher.end()


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that is told how much is done, of how much, and shows it on standard error as fits it."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(BarColumn(), MofNCompleteColumn(), TextColumn(what), console=console, transient=True) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, of: progress.update(task, completed=done, total=max(done, of))
        return
    then = time.monotonic()

    def line(done: int, of: int) -> None:
        nonlocal then
        if time.monotonic() - then >= LINE_SECONDS:
            then = time.monotonic()
            logging.getLogger(__name__).info(what, extra={"done": done, "of": max(done, of)})

    yield line


@contextmanager
def sending(*, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, int, int], None]]:
    """A function that is told what is being sent, and how many bytes of how many, and shows it as fits."""
    console = Console(stderr=True)
    if console.is_terminal:
        far = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), TextColumn("left"))
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *far)
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None, visible=False)
            yield lambda name, done, of: progress.update(task, description=name, completed=done, total=of, visible=True)
        return
    then, before = clock(), 0

    def line(name: str, done: int, of: int) -> None:
        nonlocal then, before
        seconds = clock() - then
        if seconds >= LINE_SECONDS:
            rate = max(done - before, 0) / seconds
            left = round((of - done) / rate) if rate else None
            told = {"file": name, "done": done, "of": of, "bytes_per_second": round(rate), "seconds_left": left}
            logging.getLogger(__name__).info("sending", extra=told)
            then, before = then + seconds, done

    yield line


@contextmanager
def looking() -> Iterator[Callable[[Finding], Finding]]:
    """A function that shows what has been looked at last, on a terminal, and hands it back."""
    with Console(stderr=True).status("looking") as status:

        def look(finding: Finding) -> Finding:
            status.update(f"looked at {finding.what}")
            return finding

        yield look


class Bar:
    """A watcher that shows a bar on a terminal."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("looking what is done", total=None)
        self._clock = clock
        self._counts = Counts(0, clock=clock)
        self._progress.start()

    def begin(self, run: Run, *, titles: int, pace: Pace) -> None:
        """Show `titles` as the whole."""
        self._counts = Counts(titles, clock=self._clock)
        self._pace = pace
        done = run.books.batches
        self._progress.print(f"Run {run.name}: {titles:,} titles to look up, {done:,} batches done before")
        self._progress.update(self._task, total=titles)

    def title(self, told: Outcome) -> None:
        """Count a title."""
        counts = self._counts
        counts.take(told)
        text = (
            f"{counts.rate():.1f}/s · found {counts.found:,} · missing {counts.missing:,} · failed {counts.failed:,}"
            f" · {counts.left()} left"
        )
        self._progress.update(self._task, completed=counts.done, description=text)

    def batch(self, receipt: Receipt) -> None:
        """A batch has landed; the bar says enough."""

    def end(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()
