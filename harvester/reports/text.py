"""Results as text: what the commands print on standard output."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal as size
from rich.table import Column, Table
from rich.text import Text

from harvester.model.s3_url import S3Url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.commands.doctor import DoctorReport
    from harvester.commands.harvest import HarvestReport
    from harvester.commands.missing import MissingReport
    from harvester.commands.upload import UploadReport
    from harvester.commands.verify import VerificationReport

MISSING_COLUMNS, ROW_MIN = ("", "line", "id", "reason"), 10  # columns never cut; least characters of a row
SHOWN, ROW_SHOWN = 20, 60  # lines of a list, and characters of a rejected row; `--json` has more
FINISHED_TODAY = "finished today (--again harvests it again)."


def show_report(report: HarvestReport) -> None:
    """Print how a harvest ended, its totals, and what to do next."""
    console = _console()
    heading = {
        "closed": "[green]Complete.[/]",
        "nothing_to_do": f"[green]Nothing to do:[/] {FINISHED_TODAY}",
        "failed": "[yellow]Finished, but some titles failed.[/]",
        "stopped": f"[yellow]Stopped[/] by {report.stopped_by} before the end.",
    }[report.status]
    console.print(Text.from_markup(heading), f"Run {report.run}")
    console.print(totals_text(report.totals.as_json()))
    rate = report.requests / report.seconds if report.seconds else 0.0
    requests = f"{count(report.requests, 'request')} in {duration(report.seconds)} ({rate:.1f}/s)"
    files = f"{count(report.totals.files, 'file')}, {size(report.totals.bytes)} in {report.ref.lake}/"
    console.print(f"{requests}, {count(report.backoffs, 'back-off')}; {files}")
    failed = [f"{id_} failed: {reason}" for id_, reason in report.failed.items()]
    _print_first(console, failed, rest=f"more, in {report.ref.lake}/_harvest/{report.run}/outcomes.jsonl.gz")
    if report.status == "failed":
        console.print("Run again to retry just their batches.")
    if report.status == "stopped":
        left = f"{count(report.batches_left, 'batch', 'batches')} left"
        console.print(f"{left if report.batches_left else 'Only the totals are left'}; run again to go on.")


def totals_text(totals: Mapping[str, Any]) -> str:
    """The totals of a result as equations, one a line."""
    ids = {outcome: totals[outcome] for outcome in ("found", "missing", "failed", "fresh")}
    ids["to do"] = totals["ids"] - sum(ids.values())
    terms = {
        "rows": {name: totals[name] for name in ("ids", "duplicates", "rejected")},
        "ids": {name: number for name, number in ids.items() if number or name not in ("fresh", "to do")},
        "missing": totals["missing_by_reason"],
        "failed": totals["failed_by_reason"],
    }
    lines = [
        f" {name:<8} {totals[name]:>9,} = {' + '.join(f'{number:,} {part}' for part, number in parts.items())}"
        for name, parts in terms.items()
        if parts
    ]
    if totals["other_ids"]:
        lines.append(f" {totals['other_ids']:,} found under another IMDb id (harvest.tmdb_imdb_id)")
    return "\n".join(lines)


def show_upload(report: UploadReport, *, harvested: bool = False) -> None:
    """Print where the CSVs are now and, unless they were `harvested` too, what to do next."""
    console = _console()
    console.print("Uploaded." if report.status == "uploaded" else "Nothing to upload.", style="green")
    texts = {"uploaded": "uploaded", "unchanged": "unchanged", "in_s3": "in S3 already"}
    statuses = [texts[file.status] + (f" since {file.since}" if file.since else "") for file in report.files]
    for file, status in zip(report.files, statuses, strict=True):
        file_size = "" if file.bytes is None else size(file.bytes)
        console.print(f" {file.collection} {file_size:>10}  {status:<{max(map(len, statuses))}}  {file.url}")
    sent = sum(file.bytes or 0 for file in report.files if file.status == "uploaded")
    if sent:
        rate = f"{size(sent)} in {duration(report.seconds)} ({size(round(sent / report.seconds))}/s)"
        console.print(f"{rate}; SHA-256 and size stored with each, and read back")
    if not harvested:
        flags = " ".join(f"--{file.collection.lower()} {shlex.quote(file.url)}" for file in report.files)
        url = S3Url.parse(report.files[0].url)
        bucket = f"--bucket {url.bucket} " if url else ""
        console.print(f"Next: python -m harvester harvest {bucket}{flags}")


def show_plan(plan: dict[str, Any]) -> None:
    """Print what a harvest would do."""
    console = _console()
    console.print(f"Run {plan['run']}")
    numbers = ("rows", "ids", "duplicates", "rejected", "fresh", "batches", "batches_done", "batches_to_do")
    headings = [number.removeprefix("batches_").replace("_", " ") for number in numbers]
    columns = [Column(heading, justify="right") for heading in headings]
    table = Table("", *columns, box=None, padding=(0, 1, 0, 0))  # no number is cut in 80 columns
    for collection, counts in plan["input"].items():
        table.add_row(collection, *(f"{counts[number]:,}" for number in numbers))
    console.print(table, soft_wrap=False)
    for collection, counts in plan["input"].items():
        for reject in counts["rejects"][:SHOWN]:
            row = _printable(reject["text"])
            shown = row if len(row) <= ROW_SHOWN else f"{row[:ROW_SHOWN]}…"
            console.print(f"  rejected: {collection}, line {reject['line']}: {shown}")
    time = f"{duration(plan['seconds'])} at {plan['rate_per_second']:g}/s"
    to_do = f"At least {count(plan['requests'], 'request')}: {time}"
    console.print(f"Nothing to do: {FINISHED_TODAY}" if plan["status"] == "nothing_to_do" else to_do)


def show_verification(verification: VerificationReport) -> None:
    """Print what `verify` has read, and the problems it found."""
    console = _console()
    heading = "[red]Something is wrong.[/]" if verification.problems else "[green]Proved.[/]"
    runs = ", ".join(verification.runs)
    totals = verification.totals
    console.print(Text.from_markup(heading), f"{verification.day}, runs {runs}" if verification.day else f"Run {runs}")
    console.print(totals_text(totals.as_json()))
    read = f"read {count(totals.files, 'file')}, {count(verification.records, 'record')}, {size(totals.bytes)}"
    console.print(f"{read}; {count(totals.batches, 'receipt')}")
    _print_first(console, verification.repaired, rest="more repaired")
    for name in verification.unfinished:
        console.print(f"  {name} is not finished: run its harvest again to go on with it")
    _print_first(console, verification.problems, rest="more, with --json")
    if verification.problems:
        advice = "This run is of an earlier day: harvest leaves it as it is, and begins a new run."
        advice = advice if verification.past else ""
        if verification.left_to_harvest:
            advice = "Harvest again to repair it."
        if verification.foreign or verification.stale:
            advice = f"{advice} verify --repair moves foreign objects away and removes stale files.".lstrip()
        console.print(f"{count(len(verification.problems), 'problem')}. {advice}")


def show_missing(report: MissingReport, csv: str | None) -> None:
    """Print how many rows and ids have no record, by reason, and the first of them."""
    console = _console()
    rows = len(report.rows)
    heading = f"{rows:,} rejected, missing or failed." if rows else "[green]Nothing is missing.[/]"
    if report.to_do and not rows:
        heading = "Nothing is missing so far."
    console.print(heading, f"Run {report.run}", markup=True)
    for (outcome, reason), number in report.counts.most_common():
        console.print(f" {outcome:<8} {number:>9,} {reason}")
    if report.to_do:
        console.print(f" to do    {report.to_do:>9,} not looked up yet: run its harvest again")
    for run, number in report.fresh.items():
        console.print(
            f" fresh    {number:>9,} are in run {run} of the same day: --run {run} lists what is missing there"
        )
    cells = [
        (row.collection, f"{row.line:,}", row.id or "", f"{row.outcome}: {row.reason}") for row in report.rows[:SHOWN]
    ]
    widths = [max(map(len, column)) for column in zip(MISSING_COLUMNS, *cells, strict=True)]
    row_width = max(ROW_MIN, console.width - sum(widths) - len(widths) - 1)
    columns = [Column(name, no_wrap=True, justify="right" if name == "line" else "left") for name in MISSING_COLUMNS]
    table = Table(*columns, Column("row", no_wrap=True, max_width=row_width), box=None, padding=(0, 1, 0, 0))
    for row, cell in zip(report.rows, cells, strict=False):
        table.add_row(*cell, Text(_printable(row.text or "")))
    if rows:
        console.print(table, soft_wrap=False)
    if csv is not None:
        console.print(f"All {rows:,} are in {csv}")
    elif rows > SHOWN:
        console.print(f"  … and {rows - SHOWN:,} more: --csv FILE writes them all")


def show_doctor_report(doctor_report: DoctorReport) -> None:
    """Print every finding, and what to correct."""
    colours = {"good": "green", "note": "yellow", "bad": "red"}
    console = _console()
    table = Table("", "", Column("", overflow="fold"), show_header=False, box=None, padding=(0, 2, 0, 0))
    unset = [finding.what for finding in doctor_report.findings if finding.state == "not set"]
    for finding in (finding for finding in doctor_report.findings if finding.state != "not set"):
        colour = colours.get(finding.state, "dim")
        seen = Text(finding.seen)
        if finding.fix:
            seen.append(f"\n→ {finding.fix}", style=colour)
        table.add_row(Text(finding.state, style=colour), Text(finding.what), seen)
    console.print(table, soft_wrap=False)
    if unset:
        console.print(f"not set: {', '.join(unset)}", style="dim", soft_wrap=False)
    bad = sum(finding.state == "bad" for finding in doctor_report.findings)
    healthy = "[green]Everything a harvest needs is there.[/] Next: plan"
    console.print(f"[red]{count(bad, 'problem')} to fix[/] before a harvest." if bad else healthy, markup=True)


def _console() -> Console:
    """Standard output: long lines are not wrapped, and text is never read as markup."""
    return Console(highlight=False, emoji=False, markup=False, soft_wrap=True)


def _printable(text: str) -> str:
    """`text` with a space for each unprintable character."""
    return "".join(character if character.isprintable() else " " for character in text)


def _print_first(console: Console, lines: Sequence[str], *, rest: str) -> None:
    """Print the first lines, indented, then how many more there are, and where (`rest`)."""
    for line in lines[:SHOWN]:
        console.print(f"  {line}")
    if len(lines) > SHOWN:
        console.print(f"  … and {len(lines) - SHOWN:,} {rest}")


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 batch`, `1,200 batches`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A duration as text: `14.2 s`, `3 min 20 s`, `6 h 54 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
