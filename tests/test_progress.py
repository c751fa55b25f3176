"""Progress: a bar on a terminal, lines elsewhere; both count alike."""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import capture_logs
from loops import Leaping, run_on
from rich.console import Console

from harvester.answers import Failed, Found, Match, Missing
from harvester.lines import LINE_SECONDS, SMOOTHING, Counts, Lines
from harvester.progress import Bar, watching
from harvester.receipts import LandedFile, Receipt

if TYPE_CHECKING:
    from conftest import Clock

FOUND, MISSING, FAILED = Found("movie", 1, {}), Missing("unknown"), Failed("timeout")
MOVED = Match("tv", 7)

RUN: Any = SimpleNamespace(plan=SimpleNamespace(run="2026-11-22-3f9a1c2e"), books=SimpleNamespace(batches=3))
PACE: Any = SimpleNamespace(ceiling=40.0)


def receipt(*outcomes: str, moved: int = 0) -> Receipt:
    """A receipt with these outcomes, and two files if anything was found."""
    told = {f"tt{number:07}": {"outcome": outcome, "reason": "some"} for number, outcome in enumerate(outcomes, 1)}
    found = outcomes.count("found")
    files = (LandedFile("a", found - 1, 1_000, "", ""), LandedFile("b", 1, 500, "", "")) if found else ()
    return Receipt("tt1-tt9-00", "Movies", "run", files, told, "", {f"tt1{number}": {} for number in range(moved)})


# --- counting


def test_every_title_is_counted_under_its_outcome() -> None:
    """Found, missing and failed; one that has moved has no outcome yet, and will come again."""
    counts = Counts(10)
    for told in (FOUND, FOUND, FOUND, MISSING, MISSING, FAILED, MOVED):
        counts.take(told)
    assert (counts.found, counts.missing, counts.failed, counts.done, counts.titles) == (3, 2, 1, 6, 10)


def test_before_a_second_has_passed_there_is_no_rate(clock: Clock) -> None:
    """The first few titles say nothing about the time left."""
    counts = Counts(10, clock=clock.time)
    counts.take(FOUND)
    clock.now += 0.999
    assert (counts.rate(), counts.left()) == (0.0, "-:--")
    clock.now += 0.001
    assert (counts.rate(), counts.left()) == (1.0, "0:09")


def test_the_rate_is_of_late_and_smooth(clock: Clock) -> None:
    """The newest second counts for three tenths: a hold shows, and a hiccup does not make the time left jump."""
    counts = Counts(1_000, clock=clock.time)
    for _ in range(400):
        counts.take(FOUND)
    clock.now += 10
    assert counts.rate() == 40
    assert counts.rate() == 40
    clock.now += 5  # a hold: nothing came
    assert counts.rate() == 40 * (1 - SMOOTHING)


@pytest.mark.parametrize(
    ("titles", "left"),
    [
        (400, "0:00"),
        (401, "0:00"),
        (440, "0:01"),
        (400 + 40 * 59, "0:59"),
        (400 + 40 * 60, "1:00"),
        (400 + 40 * 3_599, "59:59"),
        (400 + 40 * 3_723, "1:02:03"),
        (400 + 40 * 90_000, "25:00:00"),
        (100, "0:00"),
    ],
)
def test_the_time_left_is_what_the_rest_takes_at_this_rate(clock: Clock, titles: int, left: str) -> None:
    """Minutes and seconds, hours where there are any; never less than nothing."""
    counts = Counts(titles, clock=clock.time)
    for _ in range(400):
        counts.take(MISSING)
    clock.now += 10
    assert counts.left() == left


# --- lines


async def test_the_beginning_is_a_line() -> None:
    """Which run, how much of it is to do, how much was done before, and at which rate."""
    lines = Lines()
    with capture_logs() as logs:
        lines.begin(RUN, titles=250, pace=PACE)
    lines.end()
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
        (receipt("found", "found", "missing"), "batch_landed", (2, 1, 0, 1_500)),
        (receipt("found", "failed", "missing", "failed"), "batch_failed", (1, 1, 2, 1_500)),
        (receipt("missing"), "batch_landed", (0, 1, 0, 0)),
        (receipt("found", moved=2), "batch_landed", (1, 0, 0, 1_500)),
    ],
)
def test_every_batch_is_a_line(landed: Receipt, event: str, counted: tuple[int, ...]) -> None:
    """Its name, its outcomes and its bytes; one with failed titles is called by another name, to be found by."""
    lines = Lines()
    with capture_logs() as logs:
        lines.batch(landed)
    [line] = logs
    assert (line["event"], line["batch"], line["collection"]) == (event, "tt1-tt9-00", "Movies")
    assert (line["found"], line["missing"], line["failed"], line["bytes"]) == counted


def test_there_is_a_line_every_ten_seconds_until_the_end() -> None:
    """Who reads the logs of a container sees that it lives, how far it is, and how long it will take."""

    async def story() -> list[Any]:
        loop = asyncio.get_running_loop()
        lines = Lines(clock=loop.time)
        with capture_logs() as logs:
            began = loop.time()
            lines.begin(RUN, titles=10, pace=PACE)
            for told in (FOUND, FOUND, MISSING, FAILED, MOVED):
                lines.title(told)
            while len(logs) < 3:  # the beginning, and two more
                await asyncio.sleep(0.1)
            assert 2 * LINE_SECONDS <= round(loop.time() - began, 3) < 3 * LINE_SECONDS
            lines.end()
            await asyncio.sleep(2 * LINE_SECONDS)
        return logs

    _, *ticks = run_on(Leaping(), story())
    counted = {"done": 4, "of": 10, "found": 2, "missing": 1, "failed": 1}
    line = {"event": "progress", "log_level": "info"} | counted
    assert ticks == [  # nothing came in the second ten seconds
        line | {"titles_per_second": 0.4, "left": "0:15"},
        line | {"titles_per_second": 0.3, "left": "0:21"},
    ]


def test_lines_that_never_began_can_end() -> None:
    """A run that fails before it begins ends its watcher too."""
    Lines().end()


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
    bar = Bar(terminal, clock=clock.time)
    bar.begin(RUN, titles=1_250, pace=PACE)
    for told in [FOUND] * 1_000 + [MISSING] * 30 + [FAILED, FAILED]:
        bar.title(told)
    clock.now += 25.8
    bar.title(MOVED)
    bar.batch(receipt("found"))
    bar.end()
    text = written(terminal)
    assert "Run 2026-11-22-3f9a1c2e: 1,250 titles to look up, 3 batches done before" in text
    assert "1032/1250" in text
    assert "40.0/s · found 1,000 · missing 30 · failed 2 · 0:05 left" in text


def test_the_bar_leaves_the_terminal_as_it_was(terminal: Console) -> None:
    """The cursor is shown again, and the bar is wiped: what follows is the result."""
    bar = Bar(terminal)
    bar.begin(RUN, titles=2, pace=PACE)
    bar.title(FOUND)
    bar.end()
    text = written(terminal)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.endswith("\x1b[2K")


def test_a_bar_that_never_began_can_end(terminal: Console) -> None:
    """A run that fails while it looks what is done has shown just that."""
    bar = Bar(terminal)
    bar.end()
    assert "looking what is done" in written(terminal)


# --- which of them


def test_where_no_terminal_is_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error that goes to a file or to CloudWatch gets no bar."""
    with watching() as watcher:
        assert type(watcher) is Lines


def test_the_watcher_ends_whatever_happens(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails leaves no bar behind that draws over what is said of it."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(ZeroDivisionError), watching() as watcher:
        print(type(watcher) is Bar, 1 / 0)
    text = capsys.readouterr().err
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
