"""The demo: the whole harvest on this machine, killed half-way and started again, with no account and no network.

The servers are stand-ins, the harvester is the real one: the very command, in processes of its own, so that the kill
is a SIGKILL. Nothing of the user's settings, keys or buckets is read.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.tree import Tree

from harvester.demo.catalog import catalog_of
from harvester.demo.faults import healthy, parse_shares, sprinkled
from harvester.demo.s3_server import ServerFailedError, ServerMissingError, s3_server
from harvester.demo.samples import MOVIES, REALLY, SERIES, sample_titles
from harvester.demo.tmdb_stand_in import KEY, stand_in
from harvester.errors import Exit, HarvestError
from harvester.fan_out import fan_out
from harvester.s3 import open_bucket
from harvester.settings import ALL_NAMES
from harvester.show import books_text, size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from harvester.demo.faults import Route
    from harvester.demo.s3_server import S3Server
    from harvester.demo.tmdb_stand_in import StandIn
    from harvester.s3 import Bucket

    Result = tuple[Exit, dict[str, Any], Callable[[], object]]

BUCKET = "demo-lake"

RATE = 60.0
"""Requests per second of the story, allowed and used: above TMDB's 40 to 50, to keep the story short."""

FAULTS = "500=2%,html-502=1%,reset=1%,cut=1%,empty=1%,gzip=1%,429=0.2%"

HALF_WAY = 0.5
"""Share of the requests after which the harvester is killed."""


class DemoError(HarvestError):
    """The demo did not go as told."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Both servers, and the environment that points a harvester at them and at nothing else."""

    tmdb: StandIn
    s3: S3Server
    bucket: Bucket
    environment: dict[str, str]
    folder: Path

    async def run(self, *words: str) -> asyncio.subprocess.Process:
        """Start `python -m harvester` with `words`, in an empty folder, its log going to a file."""
        with (self.folder / "harvester.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "harvester",
                *words,
                "--json",
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
            )

    async def ask(self, *words: str) -> dict[str, Any]:
        """What a command of the harvester prints, once it has ended."""
        process = await self.run(*words)
        out, _ = await process.communicate()
        return _read_result(out, self.folder)


@asynccontextmanager
async def _stage(folder: Path, *, faults: str, rate: float) -> AsyncIterator[Stage]:
    """The stage, set up in `folder` and cleared away at the end."""
    movies, series = sample_titles(MOVIES), sample_titles(SERIES)
    catalog = catalog_of(movies, series, kinds=REALLY)
    rule = sprinkled(parse_shares(faults), seed=1) if faults else healthy
    try:
        async with (
            stand_in(catalog=catalog, per_second=rate, faults=rule, latency=(0.05, 0.3)) as tmdb,
            s3_server(folder / "s3", buckets=[BUCKET]) as s3,
            open_bucket(
                BUCKET,
                region=s3.environment()["AWS_REGION"],
                credentials=(s3.access_key, s3.secret_key, None),
                endpoint_url=s3.endpoint,
            ) as bucket,
        ):
            yield Stage(tmdb, s3, bucket, _environment(tmdb, s3, rate), folder)
    except (ServerMissingError, ServerFailedError) as error:
        raise DemoError(f"The local S3 server does not start: {error}") from error


def _environment(tmdb: StandIn, s3: S3Server, rate: float) -> dict[str, str]:
    """Our own environment without any setting of the user's, and with the demo's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ALL_NAMES and not name.startswith("AWS_")
    }
    return kept | _settings(tmdb, s3) | {"TMDB_RATE": f"{rate:g}", "PYTHONUTF8": "1"}


def _settings(tmdb: StandIn, s3: S3Server) -> dict[str, str]:
    return s3.environment() | {
        "TMDB_API_KEY": KEY,
        "TMDB_BASE_URL": tmdb.url,
        "S3_BUCKET": BUCKET,
        "MOVIES_CSV": str(MOVIES),
        "SERIES_CSV": str(SERIES),
    }


async def tell(folder: Path, *, as_json: bool) -> Result:
    """Tell the story, leave the landed files in `folder`, and say how it ended."""
    console = Console(highlight=False, stderr=as_json)
    started = time.monotonic()
    _make_room(folder)
    with tempfile.TemporaryDirectory(prefix="harvester-demo-") as scratch:
        async with _stage(Path(scratch), faults=FAULTS, rate=RATE) as stage:
            say = partial(console.print, soft_wrap=True)
            say(f"[bold]A stand-in TMDB[/] at {stage.tmdb.url}: {RATE:g} requests a second, answers in 50 to 300 ms,")
            say(f"  and of all requests {FAULTS.replace(',', ', ')}. None of its texts are TMDB's.")
            say(f"[bold]A local S3 server[/] ({stage.s3.kind}) at {stage.s3.endpoint}. No account, no network.\n")

            plan = await stage.ask("plan")
            read = ", ".join(f"{told['rows']:,} rows of {name.lower()}" for name, told in plan["input"].items())
            ids = sum(told["ids"] for told in plan["input"].values())
            rejected = sum(told["rejected"] for told in plan["input"].values())
            say(
                f"[bold]1. plan[/]     {read}: {ids} ids, {rejected} rows rejected, at least {plan['requests']} requests"  # noqa: E501
            )

            killed = await _harvest_and_kill(stage, plan["requests"], console)
            say(
                f"[bold]2. harvest[/]  killed with SIGKILL after {killed.asked} requests: "
                f"{killed.receipts} batches had landed, with receipts"
            )
            report = await _harvest_to_the_end(stage, plan["requests"], console)
            _check(report["status"] == "closed", f"the second harvest ended as {report['status']!r}")
            repeated = killed.repeated(stage.tmdb)
            say(
                f"[bold]3. harvest[/]  started again, it asked for the rest: {report['requests']} requests, "
                f"{repeated} of them repeated, for batches in flight"
            )
            proof = await stage.ask("verify")
            _check(proof["status"] == "proved", f"verify found {proof.get('problems')}")
            say(
                f"[bold]4. verify[/]   read back {proof['books']['files']} files, {proof['records']} records: "
                "every byte, every id once\n"
            )
            files = await _bring_home(stage.bucket, folder)
            console.print(_tree(files))
            _show_record(console, files)
            _show_books(console, report["books"], stage.tmdb)
    seconds = time.monotonic() - started
    say(f"\nThe files are in [bold]{folder}/[/]. All this took {seconds:.0f} s. Next, with the servers kept up:")
    say(f"  {_python()} -m harvester demo --serve")
    told = {
        "status": "closed",
        "seconds": round(seconds, 1),
        "requests": stage.tmdb.asked.total(),
        "receipts_at_kill": killed.receipts,
        "requests_repeated": repeated,
        "refused_by_rate_limit": stage.tmdb.refused,
        "most_requests_in_a_second": stage.tmdb.peak_all,
        "books": report["books"],
        "verify": proof["status"],
        "folder": str(folder),
    }
    return Exit.CLOSED, told, lambda: None


def _make_room(folder: Path) -> None:
    """Make the folder for what lands, without what an earlier demo has left there."""
    try:
        shutil.rmtree(folder / "Raw", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{folder} cannot be made ({error.strerror}): give another --folder") from error


@dataclass(frozen=True, slots=True)
class _Killed:
    """What there was when the harvester was killed."""

    asked: int
    receipts: int
    answered: Counter[tuple[Route, str]]

    def repeated(self, tmdb: StandIn) -> int:
        """Requests made again after the kill that had been made before it."""
        return sum(
            min(count, tmdb.asked[route] - count)
            for route, count in self.answered.items()
            if route[0] != "authentication"
        )


async def _harvest_and_kill(stage: Stage, requests: int, console: Console) -> _Killed:
    """Harvest, under faults, until half of the requests are made and something has landed; then SIGKILL."""
    process = await stage.run("harvest")
    try:
        with _progress(console) as progress:
            task = progress.add_task("harvesting", total=requests)
            while process.returncode is None:
                await asyncio.sleep(0.1)
                progress.update(task, completed=stage.tmdb.asked.total())
                if stage.tmdb.asked.total() >= requests * HALF_WAY and await _receipts(stage.bucket):
                    break
        if process.returncode is not None:
            raise DemoError(f"The harvest ended before it could be killed: {_log_tail(stage.folder)}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _Killed(stage.tmdb.asked.total(), await _receipts(stage.bucket), Counter(stage.tmdb.asked))


async def _harvest_to_the_end(stage: Stage, requests: int, console: Console) -> dict[str, Any]:
    process = await stage.run("harvest")
    with _progress(console) as progress:
        task = progress.add_task("harvesting again", total=requests)
        before = stage.tmdb.asked.total()

        async def look() -> None:
            while process.returncode is None:
                progress.update(task, completed=min(before // 2 + stage.tmdb.asked.total() - before, requests))
                await asyncio.sleep(0.1)

        async def end() -> bytes:
            return (await process.communicate())[0]

        out, _ = await fan_out(_call, [end, look], at_once=2)
    return _read_result(out, stage.folder)


async def _call(act: Callable[[], Awaitable[Any]]) -> Any:
    return await act()


def _progress(console: Console) -> Progress:
    columns = (TextColumn("           {task.description}"), BarColumn(), TextColumn("{task.completed:.0f} requests"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


async def _receipts(bucket: Bucket) -> int:
    return sum("/receipts/" in key for key in await bucket.objects("Raw/API/_harvest/"))


async def _bring_home(bucket: Bucket, folder: Path) -> dict[str, bytes]:
    """Every object of the bucket, written below `folder` too."""
    files: dict[str, bytes] = {}
    for key in await bucket.objects(""):
        body = await bucket.read(key)
        files[key] = body or b""
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[key])
    return files


def _tree(files: Mapping[str, bytes]) -> Tree:
    """The bucket as a tree; of many alike files in a folder, the first three."""
    root = Tree(f"[bold]s3://{BUCKET}[/]")
    branches: dict[str, Tree] = {"": root}
    seen: dict[str, int] = {}
    for key, body in sorted(files.items()):
        parts = key.split("/")
        for depth in range(1, len(parts)):
            path, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
            if path not in branches:
                branches[path] = branches[parent].add(f"{parts[depth - 1]}/")
        folder = "/".join(parts[:-1])
        seen[folder] = seen.get(folder, 0) + 1
        if seen[folder] <= 3:
            branches[folder].add(f"{parts[-1]}  [dim]{size(len(body))}[/]")
    for folder, count in seen.items():
        if count > 3:
            branches[folder].add(f"[dim]… and {count - 3} more[/]")
    return root


def _show_record(console: Console, files: Mapping[str, bytes]) -> None:
    key = min(key for key in files if "/Movies/" in key and "_harvest" not in key)
    line = files[key].split(b"\n")[0].decode()
    head, title = line.index(',"backdrop_path"'), line.index('"title"')
    console.print(f"\n[bold]One record[/] of {key.rpartition('/')[2]}, a line of JSON each:", soft_wrap=True)
    console.print(f"{line[:head]}, … ,{line[title:]}", markup=False, soft_wrap=True)


def _show_books(console: Console, books: Mapping[str, Any], tmdb: StandIn) -> None:
    console.print("\n[bold]The books[/]")
    console.print(books_text(books), soft_wrap=True)
    console.print(
        f"The server counted {tmdb.asked.total()} requests, at most {tmdb.peak_all} in any second; "
        f"its limit refused {tmdb.refused}.",
        soft_wrap=True,
    )


async def serve_by_hand(folder: Path) -> Result:
    """Keep both servers up until Ctrl-C, and print what points a shell at them."""
    console = Console(highlight=False)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with _stage(folder / "servers", faults="", rate=40) as stage:
        console.print("# Both servers are up, until Ctrl-C. In another shell, paste:", soft_wrap=True)
        for name, value in sorted(_settings(stage.tmdb, stage.s3).items()):
            console.print(f"export {name}='{value}'", soft_wrap=True, markup=False)
        console.print("# and then, for example:", soft_wrap=True)
        for words in ("plan", "harvest --limit 200", "harvest", "verify"):
            console.print(f"{_python()} -m harvester {words}", soft_wrap=True, markup=False)
        await stop.wait()
    return Exit.CLOSED, {"status": "ended"}, lambda: None


def _python() -> str:
    """This interpreter, as one would type it here."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _read_result(out: bytes, folder: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(out)
    except ValueError as error:
        raise DemoError(f"The harvester printed no result; its log ends: {_log_tail(folder)}") from error
    if told.get("status") == "error":
        raise DemoError(f"The harvester ended with {told['error']}: {told['message']}")
    return told


def _log_tail(folder: Path) -> str:
    return (folder / "harvester.log").read_text(encoding="utf-8")[-2_000:]


def _check(holds: bool, otherwise: str) -> None:  # noqa: FBT001  # an assertion that stays
    if not holds:
        raise DemoError(f"The demo did not go as told: {otherwise}")
