"""What the commands print for people, on standard output."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal as size
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harvester.commands.doctor import DoctorReport
    from harvester.commands.harvest import Report
    from harvester.commands.missing import MissingReport
    from harvester.commands.upload import UploadReport
    from harvester.commands.verify import VerificationReport

MISSING_COLUMNS, ROW_LEAST = ("", "line", "id", "reason"), 10  # that are never cut; characters of a row at least
SHOWN, ROW_SHOWN = 20, 60  # lines of a kind, and characters of a rejected row; `--json` has more
ANEW = "finished today (--again harvests anew)."


def show_report(report: Report) -> None:
    """How a harvest ended, what its books say, and what to do next."""
    console = _console()
    heading = {
        "closed": "[green]Books closed.[/]",
        "nothing_to_do": f"[green]Nothing to do:[/] {ANEW}",
        "failed": "[yellow]Finished, but some titles failed.[/]",
        "stopped": f"[yellow]Stopped[/] by {report.stopped_by} before the end.",
    }[report.status]
    console.print(Text.from_markup(heading), f"Run {report.run}")
    console.print(totals_text(report.totals.as_json()))
    rate = report.requests / report.seconds if report.seconds else 0.0
    requests = f"{report.requests:,} requests in {duration(report.seconds)} ({rate:.1f}/s), {report.backoffs} holds"
    console.print(f"{requests}; {report.totals.files:,} files, {size(report.totals.bytes)} in {report.ref.lake}/")
    failed = [f"{id_} failed: {reason}" for id_, reason in report.failed.items()]
    _print_first(console, failed, rest=f"more, in {report.ref.lake}/_harvest/{report.run}/outcomes.jsonl.gz")
    if report.status == "failed":
        console.print("Run again to retry just their batches.")
    if report.status == "stopped":
        batches = f"{report.batches_left:,} batches are"
        left = {0: "The closing of the books is", 1: "1 batch is"}.get(report.batches_left, batches)
        console.print(f"{left} left; run again to go on.")


def totals_text(totals: Mapping[str, Any]) -> str:
    """The books, as JSON has them, as equations, a line each."""
    ids = {outcome: totals[outcome] for outcome in ("found", "missing", "failed", "fresh")}
    ids["to do"] = totals["ids"] - sum(ids.values())
    terms = {
        "rows": {name: totals[name] for name in ("ids", "duplicates", "rejected")},
        "ids": {name: number for name, number in ids.items() if number or name not in ("fresh", "to do")},
        "missing": totals["missing_by_reason"],
        "failed": totals["failed_by_reason"],
    }
    lines = [
        f" {name:<8} {totals[name]:>9,} = {' + '.join(f'{number:,} {what}' for what, number in parts.items())}"
        for name, parts in terms.items()
        if parts
    ]
    if totals["other_ids"]:
        lines.append(f" {totals['other_ids']:,} found under another IMDb id (harvest.tmdb_imdb_id)")
    return "\n".join(lines)


def show_upload(report: UploadReport, *, harvested: bool = False) -> None:
    """Where the CSVs stand now, and, unless they have been `harvested` too, what to do next."""
    console = _console()
    console.print("Uploaded." if report.status == "uploaded" else "Nothing to upload.", style="green")
    words = {"uploaded": "uploaded", "unchanged": "unchanged", "in_s3": "taken from S3"}
    done = [words[file.status] + (f" since {file.since}" if file.since else "") for file in report.files]
    for file, what in zip(report.files, done, strict=True):
        many = "" if file.bytes is None else size(file.bytes)
        console.print(f" {file.collection} {many:>10}  {what:<{max(map(len, done))}}  {file.url}")
    sent = sum(file.bytes or 0 for file in report.files if file.status == "uploaded")
    if sent:
        rate = f"{size(sent)} in {duration(report.seconds)} ({size(round(sent / report.seconds))}/s)"
        console.print(f"{rate}; SHA-256 and size stored with each, and read back")
    if not harvested:
        flags = " ".join(f"--{file.collection.lower()} {shlex.quote(file.url)}" for file in report.files)
        bucket = report.files[0].url.split("/")[2]
        console.print(f"Next: python -m harvester harvest --bucket {bucket} {flags}")


def show_plan(plan: dict[str, Any]) -> None:
    """What a harvest would do."""
    console = _console()
    console.print(f"Run {plan['run']}")
    numbers = ("rows", "ids", "duplicates", "rejected", "fresh", "batches", "batches_done", "batches_to_do")
    headings = [number.removeprefix("batches_").replace("_", " ") for number in numbers]
    columns = [Column(heading, justify="right") for heading in headings]
    table = Table("", *columns, box=None, padding=(0, 1, 0, 0))  # every number whole in 80 columns
    for collection, account in plan["input"].items():
        table.add_row(collection, *(f"{account[number]:,}" for number in numbers))
    console.print(table, soft_wrap=False)
    for collection, account in plan["input"].items():
        for reject in account["rejects"][:SHOWN]:
            row = "".join(character if character.isprintable() else " " for character in reject["text"])
            shown = row if len(row) <= ROW_SHOWN else f"{row[:ROW_SHOWN]}…"
            console.print(f"  rejected: {collection}, line {reject['line']}: {shown}")
    time = f"{duration(plan['seconds'])} at {plan['rate_per_second']:g}/s"
    to_do = f"At least {plan['requests']:,} requests: {time}"
    console.print(f"Nothing to do: {ANEW}" if plan["status"] == "nothing_to_do" else to_do)


def show_verification(verification: VerificationReport) -> None:
    """What `verify` has read, and every harm it found."""
    console = _console()
    heading = "[red]Something is wrong.[/]" if verification.problems else "[green]Proved.[/]"
    what = (
        f"{verification.day}, runs {', '.join(verification.runs)}"
        if verification.day
        else f"Run {verification.runs[0]}"
    )
    totals = verification.totals
    console.print(Text.from_markup(heading), what)
    console.print(totals_text(totals.as_json()))
    read = f"read {totals.files:,} files, {verification.records:,} records, {size(totals.bytes)}"
    console.print(f"{read}; {totals.batches:,} receipts")
    _print_first(console, verification.repaired, rest="more repaired")
    for name in verification.unfinished:
        console.print(f"  {name} is not finished: the same harvest goes on with it")
    _print_first(console, verification.problems, rest="more, with --json")
    if verification.problems:
        advice = (
            "This run is of an earlier day: harvest leaves it as it is, and collects anew." if verification.past else ""
        )
        if verification.left_to_harvest:
            advice = "Harvest again to do what is missing."
        if verification.foreign or verification.stale:
            advice = f"{advice} verify --repair moves away what is foreign or stale.".lstrip()
        console.print(f"{len(verification.problems):,} problems. {advice}")


def show_missing(report: MissingReport, csv: str | None) -> None:
    """How many rows and ids have no record, by reason, and the first of them."""
    console = _console()
    rows = len(report.rows)
    first = f"{rows:,} rejected, missing or failed." if rows else "[green]Nothing is missing.[/]"
    if report.to_do and not rows:
        first = "Nothing is missing so far."
    console.print(first, f"Run {report.run}", markup=True)
    for (outcome, reason), number in report.counts.most_common():
        console.print(f" {outcome:<8} {number:>9,} {reason}")
    if report.to_do:
        console.print(f" to do    {report.to_do:>9,} the same harvest goes on with them")
    for run, number in report.fresh.items():
        console.print(f" fresh    {number:>9,} asked for in the same day's run {run}: --run {run} lists what it lacks")
    cells = [
        (row.collection, f"{row.line:,}", row.id or "", f"{row.outcome}: {row.reason}") for row in report.rows[:SHOWN]
    ]
    wide = [max(map(len, column)) for column in zip(MISSING_COLUMNS, *cells, strict=True)]
    room = max(ROW_LEAST, console.width - sum(wide) - len(wide) - 1)
    columns = [Column(name, no_wrap=True, justify="right" if name == "line" else "left") for name in MISSING_COLUMNS]
    table = Table(*columns, Column("row", no_wrap=True, max_width=room), box=None, padding=(0, 1, 0, 0))
    for row, cell in zip(report.rows, cells, strict=False):
        text = "".join(character if character.isprintable() else " " for character in row.text or "")
        table.add_row(*cell, Text(text))
    if rows:
        console.print(table, soft_wrap=False)
    if csv is not None:
        console.print(f"All {rows:,} are in {csv}")
    elif rows > SHOWN:
        console.print(f"  … and {rows - SHOWN:,} more: --csv FILE writes them all")


def show_doctor_report(doctor_report: DoctorReport) -> None:
    """Everything that was looked at, and what to correct."""
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
    healthy = "[green]Nothing keeps a harvest from its end.[/] Next: plan"
    console.print(f"[red]{bad} to mend[/] before a harvest can end well." if bad else healthy, markup=True)


def _console() -> Console:
    """Standard output: long lines stay whole, and what comes from outside is no markup."""
    return Console(highlight=False, emoji=False, markup=False, soft_wrap=True)


def _print_first(console: Console, lines: Sequence[str], *, rest: str) -> None:
    """The first lines, indented; how many there are besides, and where."""
    for line in lines[:SHOWN]:
        console.print(f"  {line}")
    if len(lines) > SHOWN:
        console.print(f"  … and {len(lines) - SHOWN:,} {rest}")


def duration(seconds: float) -> str:
    """Seconds for people: `14.2 s`, `3 min 20 s`, `6 h 54 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
