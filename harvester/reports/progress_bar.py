"""Progress of a harvest as a bar on a terminal."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from rich import progress as rich

from harvester.reports.progress_log import Counts
from harvester.runtime.observer import BackOffBegun, RunBegun, RunEnded, TitleDone

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from harvester.runtime.observer import Event


class ProgressBar:
    """An observer that shows a bar on a terminal, and each back-off above it."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.description}"))
        self._progress = rich.Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("reading what has landed already", total=None)
        self._clock = clock
        self._progress.start()

    def __call__(self, event: Event) -> None:
        """Show the event; the rate shown is the one reached, not the limit."""
        match event:
            case RunBegun(run, titles, batches_done):
                self._counts = Counts(titles, clock=self._clock)
                self._progress.print(f"Run {run}: {titles:,} titles to look up, {batches_done:,} batches done already")
                self._progress.update(self._task, total=titles)
            case BackOffBegun(seconds, rate):
                self._progress.print(f"TMDB asks us to wait (429): {seconds:g} s, then at most {rate:.1f}/s")
            case TitleDone(outcome=outcome):
                self._counts.add(outcome)
                self._progress.update(
                    self._task, completed=self._counts.outcomes.total(), description=self._description()
                )
            case RunEnded():
                self._progress.stop()  # restores the terminal

    def _description(self) -> str:
        counts = self._counts
        outcomes = " · ".join(f"{name} {counts.outcomes[name]:,}" for name in ("found", "missing", "failed"))
        seconds = counts.seconds_left()
        left = "-:--:--" if seconds is None else str(timedelta(seconds=seconds))  # as rich writes them
        return f"{counts.rate():.1f}/s · {outcomes} · {left} left"
