"""What the commands print for people: the words that matter, whatever the numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from rich.filesize import decimal as size

from harvester.commands.doctor import DoctorReport, Finding
from harvester.commands.harvest import HarvestReport
from harvester.commands.missing import MissingReport, MissingRow
from harvester.commands.verify import VerificationReport
from harvester.model.manifest import Totals
from harvester.reports.text import (
    SHOWN,
    duration,
    show_doctor_report,
    show_missing,
    show_plan,
    show_report,
    show_verification,
)
from harvester.runtime.current_run import RunRef

RUN = "2026-11-22-3f9a1c2e"
REF = RunRef(RUN, "s3://lake/Raw/API")
TIMES = {"started_at": "2026-11-22T12:00:00.000Z", "ended_at": "2026-11-22T13:43:10.000Z"}


def totals(**more: Any) -> Totals:
    """The totals of the whole real input; they reconcile."""
    fields: dict[str, Any] = {
        "rows": 1_045_161,
        "ids": 244_500,
        "duplicates": 800_654,
        "rejected": 7,
        "found": 240_000,
        "missing": Counter(unknown=4_400, episode=100),
        "batches": 2_445,
        "files": 2_450,
        "bytes": 361_234_567,
    }
    return Totals(**(fields | more))


def report(status: Any, **more: Any) -> HarvestReport:
    values: dict[str, Any] = {"ref": REF, "totals": totals(), "seconds": 6_190.0, "requests": 247_600, "backoffs": 3}
    return HarvestReport(status, **(TIMES | values | more))


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines printed, with single blanks; nothing goes to standard error, where progress and logs are."""
    out, err = capsys.readouterr()
    assert err == ""
    return [" ".join(line.split()) for line in out.splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (14.24, "14.2 s"),
        (59.9, "59.9 s"),
        (60, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3_599.4, "59 min 59 s"),
        (3_599.6, "1 h 0 min"),
        (24_840, "6 h 54 min"),
        (3_600 * 1_500, "1,500 h 0 min"),
    ],
)
def test_seconds_are_written_for_people(seconds: float, text: str) -> None:
    """Two units at most, the larger one first."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (9_999_999, "10.0 MB"),
        (361_234_567, "361.2 MB"),
        (1_234_567_890, "1.2 GB"),
        (5_000_000_000_000, "5.0 TB"),
    ],
)
def test_bytes_are_written_for_people(number: int, text: str) -> None:
    """In powers of 1,000, as they are billed."""
    assert size(number) == text


def test_a_closed_harvest_shows_its_totals(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows and ids are accounted for in sums one can follow; then what it cost, and where it lies."""
    show_report(report("closed"))
    assert shown(capsys) == [
        f"Complete. Run {RUN}",
        "rows 1,045,161 = 244,500 ids + 800,654 duplicates + 7 rejected",
        "ids 244,500 = 240,000 found + 4,500 missing + 0 failed",
        "missing 4,500 = 100 episode + 4,400 unknown",
        "247,600 requests in 1 h 43 min (40.0/s), 3 back-offs; 2,450 files, 361.2 MB in s3://lake/Raw/API/",
    ]


def test_nothing_to_do_says_how_to_do_it_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was finished today is left alone, and `--again` is named; no time is no division by nothing."""
    show_report(report("nothing_to_do", seconds=0.0, requests=0, backoffs=0))
    heading, *_, last = shown(capsys)
    assert heading == f"Nothing to do: finished today (--again harvests it again). Run {RUN}"
    assert last.startswith("0 requests in 0.0 s (0.0/s), 0 back-offs; ")


def test_failed_titles_are_named_with_their_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    """The first twenty; where the others stand is said, and that running again is all there is to do."""
    failed = {f"tt{number:07}": "http_500" for number in range(1, SHOWN + 1_101)}
    show_report(report("failed", totals=totals(found=238_880, failed=Counter(http_500=1_120)), failed=failed))
    lines = shown(capsys)
    assert lines[0] == f"Finished, but some titles failed. Run {RUN}"
    assert "ids 244,500 = 238,880 found + 4,500 missing + 1,120 failed" in lines
    assert [line for line in lines if " failed: " in line] == [
        f"tt{number:07} failed: http_500" for number in range(1, SHOWN + 1)
    ]
    assert "… and 1,100 more, in s3://lake/Raw/API/_harvest/2026-11-22-3f9a1c2e/outcomes.jsonl.gz" in " ".join(lines)
    assert lines[-1] == "Run again to retry just their batches."


def test_a_stopped_harvest_says_who_stopped_it_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """What has no outcome yet is a term of the sum, so that it is one."""
    stopped = report("stopped", totals=totals(found=100_000), stopped_by="SIGTERM", batches_left=1_400)
    show_report(stopped)
    lines = shown(capsys)
    assert lines[0] == f"Stopped by SIGTERM before the end. Run {RUN}"
    assert "ids 244,500 = 100,000 found + 4,500 missing + 0 failed + 140,000 to do" in lines
    assert lines[-1] == "1,400 batches left; run again to go on."


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        (1, "1 batch left; run again to go on."),
        (0, "Only the totals are left; run again to go on."),
    ],
)
def test_a_harvest_that_is_stopped_near_the_end_says_what_is_left(
    capsys: pytest.CaptureFixture[str], batches: int, text: str
) -> None:
    """Never both: nothing is left, and run it again."""
    show_report(report("stopped", stopped_by="SIGTERM", batches_left=batches))
    assert shown(capsys)[-1] == text


@pytest.mark.parametrize("prefix", ["Raw[/x]", "Raw/[bold]API", "Raw/:smile:", "Raw\\"])
def test_a_prefix_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    """Whatever a bucket's folders are called is text: no style, no emoji, and no error of ours."""
    failed = {f"tt{number:07}": "[/]" for number in range(1, SHOWN + 2)}
    show_report(report("failed", failed=failed, ref=RunRef(RUN, f"s3://lake/{prefix}")))
    lines = shown(capsys)
    assert [line for line in lines if line.endswith(f"s3://lake/{prefix}/")]
    assert f"… and 1 more, in s3://lake/{prefix}/_harvest/{RUN}/outcomes.jsonl.gz" in lines
    assert "tt0000001 failed: [/]" in lines


@pytest.mark.parametrize("prefix", ["Raw[/x]", "Raw/[bold]API"])
def test_what_was_examined_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], prefix: str) -> None:
    """A setting with brackets in it is no style either."""
    show_doctor_report(DoctorReport((Finding(prefix, "bad", prefix, prefix),)))
    assert shown(capsys)[:2] == [f"bad {prefix} {prefix}", f"→ {prefix}"]


def plan_shown(**more: Any) -> dict[str, Any]:
    movies = {
        "source": "movies.csv",
        "rows": 1_045_161,
        "ids": 244_500,
        "duplicates": 800_654,
        "rejected": 2,
        "rejects": [{"line": 17, "text": "nm0000001|somebody"}, {"line": 18, "text": ""}],
        "fresh": 104_500,
        "other_ids": 0,
        "batches": 2_445,
        "batches_done": 1_045,
        "batches_to_do": 1_400,
    }
    fields: dict[str, Any] = {
        "status": "to_do",
        "run": RUN,
        "input": {"Movies": movies, "Series": movies | {"rejected": 0, "rejects": []}},
        "requests": 420_000,
        "rate_per_second": 40.0,
        "seconds": 10_631.2,
    }
    return fields | more


def test_a_plan_shows_every_number_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where standard output is 80 columns wide, as a file or a pipe is taken to be."""
    show_plan(plan_shown())
    lines = shown(capsys)
    rows = [line.replace("│", " ").split() for line in lines if "Movies" in line or "Series" in line]
    assert rows[:2] == [
        ["Movies", "1,045,161", "244,500", "800,654", "2", "104,500", "2,445", "1,045", "1,400"],
        ["Series", "1,045,161", "244,500", "800,654", "0", "104,500", "2,445", "1,045", "1,400"],
    ]
    assert lines[0] == f"Run {RUN}"


def test_a_plan_shows_rejects_and_the_time_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """A reject can be found in the file by its line; requests and time are the least."""
    show_plan(plan_shown())
    assert shown(capsys)[-3:] == [
        "rejected: Movies, line 17: nm0000001|somebody",
        "rejected: Movies, line 18:",
        "At least 420,000 requests: 2 h 57 min at 40/s",
    ]


def test_a_plan_with_nothing_to_do_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """No time is promised for what is done."""
    show_plan(plan_shown(status="nothing_to_do", requests=0, seconds=0.0))
    assert shown(capsys)[-1] == "Nothing to do: finished today (--again harvests it again)."


@pytest.mark.parametrize("text", ["[red]Alert", "a [/] b", "[/b]", "[link=x]y", ":smile:"])
def test_a_reject_is_shown_as_it_stands_in_the_file(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Whatever is in a CSV is text: no style, no emoji, and no error of ours."""
    plan = plan_shown()
    plan["input"]["Movies"]["rejects"] = [{"line": 2, "text": text}]
    show_plan(plan)
    assert f"rejected: Movies, line 2: {text}" in shown(capsys)


def test_a_verification_says_what_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Proved is a word one may rely on: files, records, bytes and receipts are counted."""
    show_verification(VerificationReport([RUN], totals=totals(), records=240_000))
    assert shown(capsys) == [
        f"Proved. Run {RUN}",
        "rows 1,045,161 = 244,500 ids + 800,654 duplicates + 7 rejected",
        "ids 244,500 = 240,000 found + 4,500 missing + 0 failed",
        "missing 4,500 = 100 episode + 4,400 unknown",
        "read 2,450 files, 240,000 records, 361.2 MB; 2,445 receipts",
    ]


def test_a_verification_that_fails_names_its_problems(capsys: pytest.CaptureFixture[str]) -> None:
    """The first twenty as they are, brackets too; how many more there are, and what to do."""
    problems = [f"Raw/API/[b]{number}.json is gone" for number in range(SHOWN + 5)]
    show_verification(VerificationReport([RUN], totals=totals(), records=1, problems=problems))
    lines = shown(capsys)
    assert lines[0] == f"Something is wrong. Run {RUN}"
    assert lines[-SHOWN - 2 : -2] == problems[:SHOWN]
    assert lines[-2:] == ["… and 5 more, with --json", "25 problems. Harvest again to repair it."]


def test_a_verification_that_fails_sends_nobody_to_harvest_an_earlier_day(capsys: pytest.CaptureFixture[str]) -> None:
    """Harvested again, the ids would be a new collection of today."""
    show_verification(VerificationReport([RUN], totals=totals(), problems=["a.json is gone"], past=True))
    assert shown(capsys)[-1] == (
        "1 problem. This run is of an earlier day: harvest leaves it as it is, and begins a new run."
    )


def test_the_verification_of_a_day_names_its_runs_and_those_that_are_not_finished(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unfinished run is no problem where every title stands once; fresh ids are a term of the sum."""
    runs = [RUN, "2026-11-22-91ab03cc"]
    of_day = totals(found=140_000, fresh=100_000)
    show_verification(VerificationReport(runs, "2026-11-22", totals=of_day, records=140_000, unfinished=runs[1:]))
    assert shown(capsys) == [
        f"Proved. 2026-11-22, runs {RUN}, 2026-11-22-91ab03cc",
        "rows 1,045,161 = 244,500 ids + 800,654 duplicates + 7 rejected",
        "ids 244,500 = 140,000 found + 4,500 missing + 0 failed + 100,000 fresh",
        "missing 4,500 = 100 episode + 4,400 unknown",
        "read 2,450 files, 140,000 records, 361.2 MB; 2,445 receipts",
        "2026-11-22-91ab03cc is not finished: run its harvest again to go on with it",
    ]


def test_a_verification_says_what_was_repaired(capsys: pytest.CaptureFixture[str]) -> None:
    """The first twenty objects as they are called, brackets too, and how many more there are."""
    lines = [f"Raw/API/[b]{number}.json was stale, and is removed" for number in range(SHOWN + 5)]
    show_verification(VerificationReport([RUN], totals=totals(), repaired=lines))
    assert shown(capsys)[-SHOWN - 1 :] == [*lines[:SHOWN], "… and 5 more repaired"]


def test_ids_and_reasons_of_what_is_missing_are_whole_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut is the rejected row, and control characters are blanks; further runs of the day are named."""
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        MissingRow("failed", "Movies", 1_045_161, "tt1234567890", "connection_refused"),
        MissingRow("rejected", "Series", 7, None, "no_id", text=f"[b]\x1b[31m{'é' * 100}"),
    ]
    show_missing(MissingReport(REF, rows, 0, Counter({"2026-11-22-91ab03cc": 160}), **TIMES), None)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 or lines[3].startswith(" fresh")
    assert "tt1234567890 failed: connection_refused" in "\n".join(lines)
    assert any("1,045,161" in line for line in lines)
    assert any("rejected: no_id" in line and "[b] [31mé" in line and line.rstrip().endswith("…") for line in lines)
    assert "are in run 2026-11-22-91ab03cc of the same day" in " ".join(lines)


def test_a_run_in_the_midst_of_which_nothing_is_missing_says_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    """Ids that are still to do may yet be missing."""
    show_missing(MissingReport(REF, [], 100, Counter(), **TIMES), None)
    assert shown(capsys)[:2] == [
        f"Nothing is missing so far. Run {RUN}",
        "to do 100 not looked up yet: run its harvest again",
    ]
