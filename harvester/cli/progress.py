"""Progress of all commands but `harvest`, on standard error: a bar on a terminal, a line every 10 s elsewhere."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import progress as rich
from rich.console import Console

from harvester.reports.progress_log import LINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harvester.commands.doctor import Finding


@contextmanager
def count_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A function that shows how much is done, and the total."""
    columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn(text))
    with _advancing(text, columns, rate="per_second") as advance:
        yield lambda done, total: advance(done, max(done, total))


@contextmanager
def upload_progress(*, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows the file being sent, the bytes sent, and their total."""
    numbers = (rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn(), rich.TextColumn("left"))
    columns = (rich.TextColumn("{task.fields[file]}", markup=False), rich.BarColumn(), *numbers)
    with _advancing("sending", columns, rate="bytes_per_second", clock=clock) as advance:
        yield lambda name, done, total: advance(done, total, file=name)


@contextmanager
def _advancing(
    event: str, columns: Iterable[rich.ProgressColumn], *, rate: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[..., None]]:
    """A function that takes how much is done, the total, and values for the bar's `columns` or the log line."""
    console = Console(stderr=True)
    if console.is_terminal:
        with rich.Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=None, file="")
            yield lambda done, total, **values: progress.update(task, completed=done, total=total, **values)
        return
    last, done_last = clock(), 0

    def log_line(done: int, total: int, **more: str) -> None:
        nonlocal last, done_last
        seconds = clock() - last
        if seconds >= LINE_SECONDS:
            speed = max(done - done_last, 0) / seconds
            left = round((total - done) / speed) if speed else None
            values = {"done": done, "of": total, rate: round(speed), "seconds_left": left, **more}
            logging.getLogger(__name__).info(event, extra=values)
            last, done_last = last + seconds, done

    yield log_line


@contextmanager
def check_progress() -> Iterator[Callable[[Finding], Finding]]:
    """A function that shows, on a terminal, what was checked last, and returns the finding."""
    with Console(stderr=True).status("checking") as status:

        def show(finding: Finding) -> Finding:
            status.update(f"checked {finding.what}")
            return finding

        yield show
