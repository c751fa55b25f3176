"""What the commands print for people: designed once, here, on standard output."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.doctor import Examination
    from harvester.harvest import Report
    from harvester.settings import Settings
    from harvester.upload import UploadReport
    from harvester.verify import Proof

SHOWN, ROW_SHOWN = 20, 60
"""Rejects, failed titles or problems shown, and characters of a reject's row; `--json` has more."""


def show_report(report: Report, settings: Settings) -> None:
    """How a harvest ended, what its books say, and what to do next."""
    console = Console(highlight=False, emoji=False)
    where = f"s3://{settings.s3_bucket}/{settings.s3_prefix}"
    heading = {
        "closed": "[green]Books closed.[/]",
        "nothing_to_do": "[green]Nothing to do:[/] finished today (--again harvests anew).",
        "failed": "[yellow]Finished, but some titles failed.[/]",
        "stopped": f"[yellow]Stopped[/] by {report.stopped_by} before the end.",
    }[report.status]
    console.print(f"{heading} Run {report.run}", soft_wrap=True)
    console.print(books_text(report.books.as_json()), soft_wrap=True, markup=False)
    rate = report.requests / report.seconds if report.seconds else 0.0
    console.print(
        f"{report.requests:,} requests in {duration(report.seconds)} ({rate:.1f}/s), {report.holds} holds; "
        f"{report.books.files:,} files, {size(report.books.bytes)} in {where}/",
        soft_wrap=True,
        markup=False,
    )
    for id_, reason in list(report.failed.items())[:SHOWN]:
        console.print(f"  {id_} failed: {reason}", soft_wrap=True, markup=False)
    if len(report.failed) > SHOWN:
        more = f"  … and {len(report.failed) - SHOWN:,} more, in {where}/_harvest/{report.run}/outcomes.jsonl.gz"
        console.print(more, soft_wrap=True, markup=False)
    if report.status == "failed":
        console.print("Run again to retry just their batches.")
    if report.status == "stopped":
        console.print(f"{_left(report.batches_left)}; run again to go on.")


def _left(batches: int) -> str:
    """What a harvest that was stopped has left to do."""
    if not batches:
        return "The closing of the books is left"
    return "1 batch is left" if batches == 1 else f"{batches:,} batches are left"


def books_text(books: Mapping[str, Any]) -> str:
    """The books, as JSON has them, as equations, a line each."""
    to_do = books["ids"] - sum(books[outcome] for outcome in ("found", "missing", "failed", "fresh"))
    terms = {
        "rows": {"ids": books["ids"], "duplicates": books["duplicates"], "rejected": books["rejected"]},
        "ids": {outcome: books[outcome] for outcome in ("found", "missing", "failed")}
        | ({"fresh": books["fresh"]} if books["fresh"] else {})
        | ({"to do": to_do} if to_do else {}),
        "missing": books["missing_by_reason"],
        "failed": books["failed_by_reason"],
    }
    lines = (
        f" {name:<8} {books[name]:>9,} = {' + '.join(f'{number:,} {what}' for what, number in parts.items())}"
        for name, parts in terms.items()
        if parts
    )
    return "\n".join(lines)


def show_upload(report: UploadReport, *, harvested: bool = False) -> None:
    """Where the CSVs stand now, and, unless they have been `harvested` too, what to do next."""
    console = Console(highlight=False, emoji=False)
    console.print("[green]Uploaded.[/]" if report.status == "uploaded" else "[green]Nothing to upload.[/]")
    words = {"uploaded": "uploaded", "unchanged": "unchanged", "in_s3": "taken from S3"}
    done = [words[file.status] + (f" since {file.since}" if file.since else "") for file in report.files]
    for file, what in zip(report.files, done, strict=True):
        many = "" if file.bytes is None else size(file.bytes)
        line = f" {file.collection} {many:>10}  {what:<{max(map(len, done))}}  {file.url}"
        console.print(line, soft_wrap=True, markup=False)
    sent = sum(file.bytes or 0 for file in report.files if file.status == "uploaded")
    if sent:
        rate = f"{size(sent)} in {duration(report.seconds)} ({size(round(sent / report.seconds))}/s)"
        console.print(f"{rate}; SHA-256 and size stored with each, and read back")
    if not harvested:
        flags = " ".join(f"--{file.collection.lower()} {shlex.quote(file.url)}" for file in report.files)
        bucket = report.files[0].url.split("/")[2]
        console.print(f"Next: python -m harvester harvest --bucket {bucket} {flags}", soft_wrap=True, markup=False)


def show_plan(told: dict[str, Any]) -> None:
    """What a harvest would do."""
    console = Console(highlight=False, emoji=False)
    console.print(f"Run {told['run']}", soft_wrap=True)
    table = Table(box=None, padding=(0, 1, 0, 0))  # every number whole in 80 columns
    for heading in ("", "rows", "ids", "duplicates", "rejected", "fresh", "batches", "done", "to do"):
        table.add_column(heading, justify="right" if heading else "left")
    for collection, account in told["input"].items():
        numbers = ("rows", "ids", "duplicates", "rejected", "fresh", "batches", "batches_done", "batches_to_do")
        table.add_row(collection, *(f"{account[number]:,}" for number in numbers))
    console.print(table)
    for collection, account in told["input"].items():
        for reject in account["rejects"][:SHOWN]:
            row = "".join(character if character.isprintable() else " " for character in reject["text"])
            shown = row if len(row) <= ROW_SHOWN else f"{row[:ROW_SHOWN]}…"
            console.print(f"  rejected: {collection}, line {reject['line']}: {shown}", markup=False, soft_wrap=True)
    if told["status"] == "nothing_to_do":
        console.print("Nothing to do: finished today (--again harvests anew).")
    else:
        console.print(
            f"At least {told['requests']:,} requests: {duration(told['seconds'])} at {told['rate_per_second']:g}/s"
        )


def show_proof(proof: Proof) -> None:
    """What `verify` has read, and every harm it found."""
    console = Console(highlight=False, emoji=False)
    heading = "[red]Something is wrong.[/]" if proof.problems else "[green]Proved.[/]"
    what = f"{proof.day}, runs {', '.join(proof.runs)}" if proof.day else f"Run {proof.runs[0]}"
    console.print(f"{heading} {escape(what)}", soft_wrap=True)
    console.print(books_text(proof.books.as_json()), soft_wrap=True, markup=False)
    books = proof.books
    console.print(
        f"read {books.files:,} files, {proof.records:,} records, {size(books.bytes)}; {books.batches:,} receipts"
    )
    for line in proof.repaired[:SHOWN]:
        console.print(f"  {line}", soft_wrap=True, markup=False)
    if len(proof.repaired) > SHOWN:
        console.print(f"  … and {len(proof.repaired) - SHOWN:,} more repaired")
    for name in proof.unfinished:
        console.print(f"  {name} is not finished: the same harvest goes on with it", soft_wrap=True, markup=False)
    for problem in proof.problems[:SHOWN]:
        console.print(f"  {problem}", soft_wrap=True, markup=False)
    if proof.problems:
        more = f" ({len(proof.problems) - SHOWN:,} more with --json)" if len(proof.problems) > SHOWN else ""
        advice = "This run is of an earlier day: harvest leaves it as it is, and collects anew." if proof.past else ""
        if proof.left_to_harvest:
            advice = "Harvest again to do what is missing."
        if proof.foreign or proof.stale:
            advice = f"{advice} verify --repair moves away what is foreign or stale.".lstrip()
        console.print(f"{len(proof.problems):,} problems{more}. {advice}", soft_wrap=True)


def show_examination(examination: Examination) -> None:
    """Everything that was looked at, and what to mend."""
    colours = {"good": "green", "note": "yellow", "bad": "red"}
    console = Console(highlight=False, emoji=False)
    table = Table("", "", Column("", overflow="fold"), show_header=False, box=None, padding=(0, 2, 0, 0))
    unset = [finding.what for finding in examination.findings if finding.state == "not set"]
    for finding in examination.findings:
        if finding.state == "not set":
            continue
        told = Text(finding.seen)
        if finding.mend:
            told.append(f"\n→ {finding.mend}", style=colours.get(finding.state, "dim"))
        table.add_row(Text(finding.state, style=colours.get(finding.state, "dim")), Text(finding.what), told)
    console.print(table)
    if unset:
        console.print(f"[dim]not set: {', '.join(unset)}[/]")
    bad = sum(finding.state == "bad" for finding in examination.findings)
    if bad:
        console.print(f"[red]{bad} to mend[/] before a harvest can end well.")
    else:
        console.print("[green]Nothing keeps a harvest from its end.[/] Next: plan")


def duration(seconds: float) -> str:
    """Seconds for people: `14.2 s`, `3 min 20 s`, `6 h 54 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(number: int) -> str:
    """Bytes for people, in powers of 1,000 as S3 bills them."""
    value = float(number)
    for unit in ("bytes", "KB", "MB"):
        if value < 1_000:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1_000
    return f"{value:,.1f} GB"
