"""Progress: a bar on a terminal, lines elsewhere; both count alike."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import capture_logs
from loops import Leaping, run_on
from rich.console import Console

from harvester.commands.harvest import end_observed
from harvester.reports.observers import harvest_observer
from harvester.reports.progress_bar import ProgressBar
from harvester.reports.progress_log import LINE_SECONDS, SMOOTHING, Counts, ProgressLog
from harvester.runtime.observer import BackOffBegun, BatchLanded, RunBegun, RunEnded, TitleDone

if TYPE_CHECKING:
    from conftest import Clock

FOUND, MISSING, FAILED, FRESH = "found", "missing", "failed", "fresh"
RUN = "2026-11-22-3f9a1c2e"


def begun(titles: int) -> RunBegun:
    return RunBegun(RUN, titles, batches_done=3, rate_per_second=40.0)


def title(outcome: str) -> TitleDone:
    return TitleDone("tt0000001", outcome, None)


def batch(*outcomes: str) -> BatchLanded:
    """A batch with these outcomes, and files of 1,500 bytes if anything was found."""
    return BatchLanded("tt1-tt9-00", "Movies", Counter(outcomes), 1_500 if "found" in outcomes else 0)


# --- counting


def test_every_title_is_counted_under_its_outcome() -> None:
    """Found, missing, failed and fresh: every outcome counts once, and all of them are done."""
    counts = Counts(20)
    for outcome in (FOUND, FOUND, FOUND, FOUND, MISSING, MISSING, MISSING, FAILED, FAILED, FRESH):
        counts.add(outcome)
    assert counts.outcomes == {"found": 4, "missing": 3, "failed": 2, "fresh": 1}
    assert (counts.outcomes.total(), counts.titles) == (10, 20)


def test_before_a_second_has_passed_there_is_no_rate(clock: Clock) -> None:
    """The first few titles say nothing about the time left."""
    counts = Counts(10, clock=clock.time)
    counts.add(FOUND)
    clock.now += 0.999
    assert (counts.rate(), counts.seconds_left()) == (0.0, None)
    clock.now += 0.001
    assert (counts.rate(), counts.seconds_left()) == (1.0, 9)


def test_the_rate_is_of_late_and_smooth(clock: Clock) -> None:
    """The newest second counts for three tenths: a back-off shows, and a hiccup does not make the time left jump."""
    counts = Counts(1_000, clock=clock.time)
    for _ in range(400):
        counts.add(FOUND)
    clock.now += 10
    assert counts.rate() == 40
    assert counts.rate() == 40
    clock.now += 5  # a back-off: nothing came
    assert counts.rate() == 40 * (1 - SMOOTHING)


@pytest.mark.parametrize(
    ("titles", "seconds"),
    [
        (400, 0),
        (401, 0),
        (440, 1),
        (400 + 40 * 59, 59),
        (400 + 40 * 3_723, 3_723),
        (400 + 40 * 90_000, 90_000),
        (100, 0),
    ],
)
def test_the_time_left_is_what_the_rest_takes_at_this_rate(clock: Clock, titles: int, seconds: int) -> None:
    """A number of seconds, never less than nothing."""
    counts = Counts(titles, clock=clock.time)
    for _ in range(400):
        counts.add(MISSING)
    clock.now += 10
    assert counts.seconds_left() == seconds


# --- lines


async def test_the_beginning_is_a_line() -> None:
    """Which run, how much of it is to do, how much was done before, and at which rate."""
    lines = ProgressLog()
    with capture_logs() as logs:
        lines(begun(250))
    lines(RunEnded("closed"))
    assert logs == [
        {
            "event": "run",
            "log_level": "info",
            "run": "2026-11-22-3f9a1c2e",
            "titles": 250,
            "batches_done": 3,
            "rate_per_second": 40.0,
        }
    ]


@pytest.mark.parametrize(
    ("landed", "event", "counted"),
    [
        (batch("found", "found", "missing"), "batch_landed", (2, 1, 0, 1_500)),
        (batch("found", "failed", "missing", "failed"), "batch_failed", (1, 1, 2, 1_500)),
        (batch("missing"), "batch_landed", (0, 1, 0, 0)),
    ],
)
def test_every_batch_is_a_line(landed: Any, event: str, counted: tuple[int, ...]) -> None:
    """Its name, its outcomes and its bytes; one with failed titles is called by another name, to be found by."""
    lines = ProgressLog()
    with capture_logs() as logs:
        lines(landed)
    names = ("found", "missing", "failed", "bytes")
    batch = {"event": event, "log_level": "info", "batch": "tt1-tt9-00", "collection": "Movies"}
    assert logs == [batch | dict(zip(names, counted, strict=True))]


@pytest.mark.parametrize(
    ("landed", "event", "counted"),
    [
        (batch("found", "fresh", "fresh", "missing"), "batch_landed", (1, 1, 0, 2)),
        (batch("failed", "fresh"), "batch_failed", (0, 0, 1, 1)),
        (batch("fresh", "fresh", "fresh"), "batch_landed", (0, 0, 0, 3)),
    ],
)
def test_a_batch_with_fresh_titles_says_how_many(landed: Any, event: str, counted: tuple[int, ...]) -> None:
    """Titles that another run of the day has are neither found nor missing: they are counted by themselves."""
    lines = ProgressLog()
    with capture_logs() as logs:
        lines(landed)
    [line] = logs
    assert line["event"] == event
    assert tuple(line[name] for name in ("found", "missing", "failed", "fresh")) == counted


def test_there_is_a_line_every_ten_seconds_until_the_end() -> None:
    """Who reads the logs of a container sees that it lives, how far it is, and how long it will take."""

    async def story() -> list[Any]:
        loop = asyncio.get_running_loop()
        lines = ProgressLog(clock=loop.time)
        with capture_logs() as logs:
            began = loop.time()
            lines(begun(10))
            for outcome in (FOUND, FOUND, MISSING, FAILED):
                lines(title(outcome))
            while len(logs) < 3:  # the beginning, and two more
                await asyncio.sleep(0.1)
            assert 2 * LINE_SECONDS <= round(loop.time() - began, 3) < 3 * LINE_SECONDS
            lines(RunEnded("closed"))
            await asyncio.sleep(2 * LINE_SECONDS)
        return logs

    _, *ticks = run_on(Leaping(), story())
    counted = {"done": 4, "of": 10, "found": 2, "missing": 1, "failed": 1}
    line = {"event": "progress", "log_level": "info"} | counted
    assert ticks == [  # nothing came in the second ten seconds
        line | {"titles_per_second": 0.4, "seconds_left": 15},
        line | {"titles_per_second": 0.3, "seconds_left": 21},
    ]


def test_the_line_every_ten_seconds_counts_fresh_titles_where_there_are_some() -> None:
    """What is done is the sum of the counts on the line."""

    async def story() -> list[Any]:
        lines = ProgressLog(clock=asyncio.get_running_loop().time)
        with capture_logs() as logs:
            lines(begun(10))
            for outcome in (FOUND, FRESH, FRESH):
                lines(title(outcome))
            await asyncio.sleep(LINE_SECONDS + 1)
        lines(RunEnded("closed"))
        return logs

    _, line = run_on(Leaping(), story())
    assert (line["done"], line["found"], line["missing"], line["failed"], line["fresh"]) == (3, 1, 0, 0, 2)


def test_a_back_off_is_a_line() -> None:
    """How long nobody asks, and at which rate it goes on."""
    with capture_logs() as logs:
        ProgressLog()(BackOffBegun(2.0, 36.84))
    fields = {"seconds": 2.0, "new_rate_per_second": 36.8}
    assert logs == [{"event": "back_off", "log_level": "warning"} | fields]


def test_lines_that_never_began_can_end() -> None:
    """A run that fails before it begins ends its observer too."""
    ProgressLog()(RunEnded(None))


# --- the bar


@pytest.fixture
def terminal() -> Console:
    """A terminal of 120 columns that remembers what was written to it."""
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None, legacy_windows=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_bar_says_all_that_somebody_who_waits_wants_to_know(terminal: Console, clock: Clock) -> None:
    """How far, how fast, what became of the titles, and how long it will take."""
    bar = ProgressBar(terminal, clock=clock.time)
    bar(begun(1_250))
    for outcome in [FOUND] * 1_000 + [MISSING] * 30 + [FAILED]:
        bar(title(outcome))
    clock.now += 25.8
    bar(title(FAILED))
    bar(batch("found"))
    bar(RunEnded("closed"))
    text = written(terminal)
    assert "Run 2026-11-22-3f9a1c2e: 1,250 titles to look up, 3 batches done already" in text
    assert "1032/1250" in text
    assert "40.0/s · found 1,000 · missing 30 · failed 2 · 0:00:05 left" in text


def test_the_bar_leaves_the_terminal_as_it_was(terminal: Console) -> None:
    """The cursor is shown again, and the bar is wiped: what follows is the result."""
    bar = ProgressBar(terminal)
    bar(begun(2))
    bar(title(FOUND))
    bar(RunEnded("closed"))
    text = written(terminal)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.endswith("\x1b[2K")


def test_a_back_off_stands_above_the_bar(terminal: Console) -> None:
    """Who sees nothing move reads why."""
    bar = ProgressBar(terminal)
    bar(BackOffBegun(2.0, 36.84))
    bar(RunEnded(None))
    assert "TMDB asks us to wait (429): 2 s, then at most 36.8/s" in written(terminal)


def test_a_bar_that_never_began_can_end(terminal: Console) -> None:
    """A run that fails while it looks what is done has shown just that."""
    bar = ProgressBar(terminal)
    bar(RunEnded("closed"))
    assert "reading what has landed already" in written(terminal)


# --- which of them


def test_where_no_terminal_is_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error that goes to a file or to CloudWatch gets no bar."""
    assert type(harvest_observer()) is ProgressLog


def test_a_new_observer_is_a_line_in_the_registry() -> None:
    """Each event goes to every observer that is listed, and to those of the caller."""
    seen: list[Any] = []
    added: list[Any] = []
    factories = (lambda _: seen.append, lambda _: None)
    observe = harvest_observer(added.append, is_terminal=False, factories=factories)
    observe(batch("found"))
    assert seen == added == [batch("found")]


@pytest.mark.parametrize("wrong", [None, RuntimeError("bug")], ids=["report", "error"])
async def test_the_last_event_says_how_the_harvest_ended(wrong: Exception | None) -> None:
    """The status of the report, or None where an error ended it."""
    events: list[Any] = []

    async def work() -> Any:
        if wrong:
            raise wrong
        return SimpleNamespace(status="stopped")

    with suppress(RuntimeError):
        await end_observed(work(), events.append)
    assert events == [RunEnded(None if wrong else "stopped")]
