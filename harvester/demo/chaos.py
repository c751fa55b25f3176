"""Chaos: the demo with the faults and kills that its user asks for, and an independent audit of the result.

The harvest is started again until its totals are reconciled. Then every record in the bucket is compared with the
stand-in TMDB's, without the harvester's help.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console

from harvester.commands.result import result_json
from harvester.demo.environment import DemoError, check, ending, open_environment, prepare_folder, progress_on, run_of
from harvester.demo.samples import MOVIES, SERIES, sample_titles
from harvester.errors import Exit, SettingsError
from harvester.fakes import faults, s3_proxy
from harvester.fakes.catalog import kind_of, movie_record, tv_record
from harvester.formats.registry import decode
from harvester.reports.text import totals_text
from harvester.runtime.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.commands.result import CommandResult
    from harvester.demo.environment import Environment

RATE = 150.0
"""Requests per second of the harvester. This TMDB has no rate limit, so every fault is one that was asked for."""

STARTS = 12
"""Starts allowed beyond the number of kills; then the totals must be reconciled."""

ENDS = {
    Exit.CLOSED: "totals reconciled",
    Exit.WRONG: "a bug, or totals that do not match the bucket",
    Exit.USAGE: "settings or input are wrong",
    Exit.REFUSED: "TMDB refused the key",
    Exit.STORE: "the bucket refused us or was out of reach",
    Exit.FAILED: "some titles failed",
    Exit.UNAVAILABLE: "TMDB was unavailable",
    Exit.STOPPED: "stopped before the end",
}


@dataclass(frozen=True, slots=True)
class Chaos:
    """What the user asked for: the share of requests of each fault, by name, and the number of kills."""

    tmdb: Mapping[str, float]
    s3: Mapping[str, float]
    kills: int = 0


def parse_chaos(text: str) -> Chaos:
    """The chaos described by a text such as `429=5%,reset=2%,s3-503=1%,kill=3`.

    Raises:
        SettingsError: The text is wrong; the message names the piece.
    """
    pieces: dict[str, list[str]] = {"tmdb": [], "s3": [], "kill": []}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name = piece.partition("=")[0].strip()
        pieces["kill" if name == "kill" else "s3" if name.startswith("s3-") else "tmdb"].append(piece)
    try:
        tmdb = faults.parse_shares(",".join(pieces["tmdb"]), known=faults.TRANSIENT)
        s3 = faults.parse_shares(",".join(pieces["s3"]), known=s3_proxy.NAMED)
    except ValueError as error:
        raise SettingsError(f"--chaos {text!r}: {error}") from error
    kills = [piece.partition("=")[2].strip() for piece in pieces["kill"]] or ["0"]
    if len(kills) > 1 or not kills[0].isdecimal():
        raise SettingsError(f"--chaos {text!r}: kill is a number of kills, such as kill=3")
    return Chaos(tmdb, s3, int(kills[0]))


@dataclass(slots=True)
class Audit:
    """Everything that is wrong in the bucket, by name; all lists are empty if nothing is.

    Attributes:
        expected: Number of titles that the stand-in has.
        lost: Titles without a record.
        doubled: Titles with more than one record.
        altered: Titles whose record differs from the stand-in's, or is in the folder of the other kind.
        invented: Titles with a record that the stand-in does not have.
        orphans: Uploads that were neither completed nor aborted.
        foreign: Data files that no receipt names.
    """

    expected: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every title is there once and unaltered, and nothing else is."""
        return not any((self.lost, self.doubled, self.altered, self.invented, self.orphans, self.foreign))

    def counts(self) -> dict[str, int]:
        """The length of each list, by name."""
        return {name: len(found) for name, found in asdict(self).items() if isinstance(found, list)}


async def run(chaos: Chaos, folder: Path, *, seed: int, as_json: bool) -> CommandResult:
    """Harvest under `chaos` until the totals are reconciled, audit the bucket, and leave the files in `folder`.

    Raises:
        DemoError: The totals were not reconciled, or the audit found something.
    """
    console = Console(highlight=False, emoji=False, stderr=as_json)
    say = partial(console.print, soft_wrap=True)
    started_at, started = utc_now(), time.monotonic()
    dice = random.Random(seed)  # noqa: S311  # not for secrets
    prepare_folder(folder)
    with tempfile.TemporaryDirectory(prefix="harvester-chaos-") as scratch:
        async with open_environment(
            Path(scratch), rate=RATE, latency=(0.005, 0.03), faults=chaos.tmdb, s3_faults=chaos.s3, seed=seed
        ) as env:
            shares = [f"{name}={share * 100:g}%" for name, share in {**chaos.tmdb, **chaos.s3}.items()]
            say(f"[bold]Chaos[/]    {', '.join(shares) or 'no faults'}, {_kills(chaos.kills)}; seed {seed}")
            starts = await _until_closed(env, chaos, dice, console)
            audit = await audit_lake(env)
            verification = await env.ask("verify")
            await env.bring_home(folder)
    seconds = time.monotonic() - started
    _show(console, starts, audit, verification, env)
    say(ending(folder, seconds))
    check(audit.clean, f"the audit found {audit.counts()}; the bucket's files are in {folder}/")
    check(verification["status"] == "proved", f"verify found {verification['problems'][:3]}")
    result = result_json(
        "closed",
        Exit.CLOSED,
        run_of(verification),
        started_at=started_at,
        ended_at=utc_now(),
        seconds=round(seconds, 1),
        seed=seed,
        kills=sum(start["killed"] for start in starts),
        starts=starts,
        requests=env.tmdb.asked.total(),
        audit={"expected": audit.expected} | audit.counts(),
        totals=verification["totals"],
        verify=verification["status"],
        folder=str(folder),
    )
    return Exit.CLOSED, result, lambda: None


async def _until_closed(env: Environment, chaos: Chaos, dice: random.Random, console: Console) -> list[dict[str, Any]]:
    """How each start ended: start the harvest until its totals are reconciled, killing it as often as asked.

    A kill comes after a random number of requests, chosen so that some are left for the starts after it.
    """
    plan = await env.ask("plan")
    batches = sum(collection["batches"] for collection in plan["input"].values())
    starts: list[dict[str, Any]] = []
    landed = kills = 0
    while True:
        before = env.tmdb.asked.total()
        requests_left = plan["requests"] * max(1 - landed / batches, 0.0) / (chaos.kills - kills + 1)
        start = await _start(env, dice.uniform(0.1, 1.9) * requests_left if kills < chaos.kills else None, console)
        kills += start["killed"]
        landed = await env.receipts()
        starts.append(start | {"requests": env.tmdb.asked.total() - before, "receipts": landed})
        console.print(_start_text(len(starts), starts[-1]), soft_wrap=True)
        if start["exit"] == 0:
            return starts
        if len(starts) >= chaos.kills + STARTS:
            raise DemoError(f"After {len(starts)} starts the totals are not reconciled: {start.get('message', start)}")


async def _start(env: Environment, kill_after: float | None, console: Console) -> dict[str, Any]:
    """Run the harvester once: how it ended, or that it was killed."""
    process = await env.run("harvest")
    before = env.tmdb.asked.total()
    with progress_on(console) as progress:
        task = progress.add_task("harvesting", total=None)
        try:
            while process.returncode is None:
                await asyncio.sleep(0.01)
                progress.update(task, completed=env.tmdb.asked.total())
                if kill_after is not None and env.tmdb.asked.total() - before >= kill_after:
                    process.kill()
                    break
        finally:
            if process.returncode is None:
                process.kill()
        out, _ = await process.communicate()
    if kill_after is not None and process.returncode == -9:
        return {"killed": True, "exit": None}
    result = env.read(out)
    return {"killed": False, "exit": process.returncode, "message": result.get("message", "")}


def _start_text(number: int, start: Mapping[str, Any]) -> str:
    end = (
        "[red]SIGKILL[/]"
        if start["killed"]
        else f"exit {start['exit']}: {ENDS.get(start['exit'], 'ended from outside')}"
    )
    return f"start {number:<2}   {start['requests']:,} requests, {start['receipts']} batches landed so far; {end}"


async def audit_lake(env: Environment) -> Audit:
    """The audit of the environment's bucket against the catalog of its TMDB."""
    catalog = env.tmdb.catalog
    records: dict[str, dict[str, Any]] = {}
    for tt in sample_titles(MOVIES) | sample_titles(SERIES):
        kinds = {"Movies": movie_record(catalog, tt), "Series": tv_record(catalog, tt)}
        if kind_of(catalog, tt) in ("movie", "tv", "both"):
            records[tt] = {name: orjson.loads(orjson.dumps(record)) for name, record in kinds.items() if record}
    audit = Audit(len(records))
    keys = list(await env.bucket.objects("Raw/API/"))
    receipts = [orjson.loads(await env.bucket.read(key) or b"") for key in keys if "/receipts/" in key]
    named = {file["key"] for receipt in receipts for file in receipt["files"]}
    seen: Counter[str] = Counter()
    for key in keys:
        if "/_harvest/" in key:
            continue
        if key not in named:
            audit.foreign.append(key)
        for record in decode(await env.bucket.read(key) or b""):
            tt = record["imdb_id"]
            seen[tt] += 1
            if tt not in records:
                audit.invented.append(tt)
            elif not _same(record, records[tt].get(key.split("/")[2]), kind="tv" if "/Series/" in key else "movie"):
                audit.altered.append(tt)
    audit.lost = sorted(records.keys() - seen.keys())
    audit.doubled = sorted(tt for tt, count in seen.items() if count > 1)
    audit.orphans = [key for key, _ in await env.bucket.uploads("")]
    return audit


def _same(record: Mapping[str, Any], true: Mapping[str, Any] | None, *, kind: str) -> bool:
    """Whether a landed record is TMDB's, and the two keys that the harvester adds have the right kind and TMDB id."""
    if true is None:
        return False
    added = record["harvest"]
    return {**record, "harvest": None, "imdb_id": None} == {**true, "harvest": None, "imdb_id": None} and (
        (added["kind"], added["tmdb_id"]) == (kind, true["id"])
    )


def _show(
    console: Console, starts: list[dict[str, Any]], audit: Audit, verification: Mapping[str, Any], env: Environment
) -> None:
    kills = sum(start["killed"] for start in starts)
    console.print("\n[bold]The totals[/]")
    console.print(totals_text(verification["totals"]), soft_wrap=True)
    console.print("\n[bold]The audit[/] compares the bucket with the stand-in TMDB, without the harvester")
    found = " · ".join(f"{name} {count}" for name, count in audit.counts().items())
    console.print(f" {audit.expected} titles at TMDB: {found}", soft_wrap=True)
    console.print(
        f" {_kills(kills)}, {len(starts)} starts, {env.tmdb.asked.total():,} requests; "
        f"verify read {verification['records']} records: {verification['status']}",
        soft_wrap=True,
    )


def _kills(number: int) -> str:
    return "1 kill" if number == 1 else f"{number} kills"
