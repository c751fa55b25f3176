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
from harvester.runtime.observer import BackOffBegun, RunBegun, RunEnded, TitleDone, all_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harvester.commands.doctor import Finding
    from harvester.runtime.observer import Event, Observer


def harvest_observer() -> Observer:
    """What observes a harvest; a new observer is a file, and a line here."""
    console = Console(stderr=True)
    return all_of(
        ProgressBar(console) if console.is_terminal else ProgressLog(),
    )


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
    """An observer that shows a bar on a terminal, and each back-off above it."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.description}"))
        self._progress = rich.Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("reading what has landed before", total=None)
        self._clock = clock
        self._progress.start()

    def __call__(self, event: Event) -> None:
        """Show the event; the rate of the bar is the one that is reached, not the one allowed."""
        match event:
            case RunBegun(run, titles, batches_done):
                self._counts = Counts(titles, clock=self._clock)
                self._progress.print(f"Run {run}: {titles:,} titles to look up, {batches_done:,} batches done before")
                self._progress.update(self._task, total=titles)
            case BackOffBegun(seconds, rate):
                self._progress.print(f"TMDB asks us to wait (429): {seconds:g} s, then at most {rate:.1f}/s")
            case TitleDone(outcome=outcome):
                self._counts.add(outcome)
                self._progress.update(
                    self._task, completed=self._counts.outcomes.total(), description=self._description()
                )
            case RunEnded():
                self._progress.stop()  # leaves the terminal as it was

    def _description(self) -> str:
        counts = self._counts
        outcomes = " · ".join(f"{name} {counts.outcomes[name]:,}" for name in ("found", "missing", "failed"))
        seconds = counts.seconds_left()
        left = "-:--:--" if seconds is None else str(timedelta(seconds=seconds))  # rich writes both alike
        return f"{counts.rate():.1f}/s · {outcomes} · {left} left"
