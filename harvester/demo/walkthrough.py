"""The walkthrough: a whole harvest on this machine, killed half-way and started again; no account, no network."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal as size
from rich.tree import Tree

from harvester.commands.result import result_json
from harvester.demo.environment import (
    BUCKET,
    DemoError,
    check,
    ending,
    making,
    open_environment,
    prepare_folder,
    progress_on,
    run_of,
)
from harvester.errors import Exit
from harvester.fakes.faults import parse_shares
from harvester.model.s3_url import S3Url
from harvester.reports.json_output import print_json
from harvester.reports.text import totals_text
from harvester.runtime.clock import utc_now
from harvester.runtime.concurrency import fan_out

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from harvester.commands.result import CommandResult
    from harvester.demo.environment import Environment
    from harvester.fakes.faults import Route
    from harvester.fakes.tmdb import FakeTmdb

RATE = 60.0
"""Requests per second, both of the harvester and of TMDB's limit: above the real 40 to 50, to keep the demo short."""

FAULTS = "500=2%,html-502=1%,reset=1%,cut=1%,empty=1%,gzip=1%,429=0.2%"

HALF_WAY = 0.5
"""Share of the requests after which the harvester is killed."""


async def run(folder: Path, *, as_json: bool) -> CommandResult:
    """Show plan, harvest, kill, resume and verify, and leave the landed files in `folder`; the result."""
    console = Console(highlight=False, emoji=False, stderr=as_json)
    started_at, started = utc_now(), time.monotonic()
    prepare_folder(folder)
    with tempfile.TemporaryDirectory(prefix="harvester-demo-") as scratch:
        async with open_environment(Path(scratch), rate=RATE, limit=RATE, faults=parse_shares(FAULTS)) as env:
            say = partial(console.print, soft_wrap=True)
            say(f"[bold]Stand-in TMDB[/] at {env.tmdb.url}: {RATE:g} requests per second, responses in 50 to 300 ms.")
            say(f"  Its texts are not TMDB's. Faults, as shares of all requests: {FAULTS.replace(',', ', ')}.")
            say(f"[bold]Local S3 server[/] ({env.s3.kind}) at {env.s3.endpoint}. No account, no network.\n")

            plan = await env.ask("plan")
            sources = plan["input"]
            rows = " and ".join(f"{source['rows']:,} rows of {name.lower()}" for name, source in sources.items())
            ids = sum(source["ids"] for source in sources.values())
            rejected = sum(source["rejected"] for source in sources.values())
            say(
                f"[bold]1. plan[/]     {rows}: {ids} ids, {rejected} rows rejected, {plan['requests']} requests or more"
            )

            killed = await _harvest_and_kill(env, plan["requests"], console)
            say(
                f"[bold]2. harvest[/]  killed with SIGKILL after {killed.asked} requests; "
                f"{killed.receipts} batches had landed with their receipts"
            )
            report = await _harvest_to_the_end(env, plan["requests"], console)
            check(report["status"] == "closed", f"the second harvest ended as {report['status']!r}")
            repeated = killed.repeated(env.tmdb)
            say(
                f"[bold]3. harvest[/]  started again, it did the rest: {report['requests']} requests, "
                f"{repeated} of them repeated for batches that the kill interrupted"
            )
            verification = await env.ask("verify")
            check(verification["status"] == "proved", f"verify found {verification.get('problems')}")
            say(
                f"[bold]4. verify[/]   read all {verification['totals']['files']} files back, "
                f"{verification['records']} records: every byte is right, every id is there once\n"
            )
            files = await env.bring_home(folder)
            console.print(_tree(files))
            _show_record(console, files)
            _show_totals(console, report["totals"], env.tmdb)
    seconds = time.monotonic() - started
    say(f"{ending(folder, seconds)} To try the commands yourself, keep both servers running:")
    say(f"  {_python()} -m harvester demo --serve", markup=False)
    result = result_json(
        "closed",
        Exit.CLOSED,
        run_of(verification),
        started_at=started_at,
        ended_at=utc_now(),
        seconds=round(seconds, 1),
        requests=env.tmdb.asked.total(),
        receipts_at_kill=killed.receipts,
        requests_repeated=repeated,
        refused_by_rate_limit=env.tmdb.refused,
        most_requests_in_a_second=env.tmdb.peak_all,
        totals=report["totals"],
        verify=verification["status"],
        folder=str(folder),
    )
    return Exit.CLOSED, result, lambda: None


@dataclass(frozen=True, slots=True)
class _Killed:
    """The state when the harvester was killed: requests made, receipts landed, requests by route and id."""

    asked: int
    receipts: int
    answered: Counter[tuple[Route, str]]

    def repeated(self, tmdb: FakeTmdb) -> int:
        """How many requests from before the kill were made again after it."""
        return sum(
            min(count, tmdb.asked[route] - count)
            for route, count in self.answered.items()
            if route[0] != "authentication"
        )


async def _harvest_and_kill(env: Environment, requests: int, console: Console) -> _Killed:
    """Harvest, under faults, until half of the requests are made and a batch has landed; then SIGKILL."""
    process = await env.run("harvest")
    try:
        with progress_on(console) as progress:
            task = progress.add_task("harvesting", total=requests)
            while process.returncode is None:
                await asyncio.sleep(0.1)
                progress.update(task, completed=env.tmdb.asked.total())
                if env.tmdb.asked.total() >= requests * HALF_WAY and await env.receipts():
                    break
        if process.returncode is not None:
            raise DemoError(f"The harvest ended before it could be killed: {env.log_tail()}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _Killed(env.tmdb.asked.total(), await env.receipts(), Counter(env.tmdb.asked))


async def _harvest_to_the_end(env: Environment, requests: int, console: Console) -> dict[str, Any]:
    process = await env.run("harvest")
    with progress_on(console) as progress:
        task = progress.add_task("harvesting again", total=requests)
        before = env.tmdb.asked.total()

        async def show_progress() -> None:
            while process.returncode is None:
                progress.update(task, completed=min(before // 2 + env.tmdb.asked.total() - before, requests))
                await asyncio.sleep(0.1)

        async def read_output() -> bytes:
            return (await process.communicate())[0]

        out, _ = await fan_out(_call, [read_output, show_progress], at_once=2)
    return env.read(out)


async def _call(act: Callable[[], Awaitable[Any]]) -> Any:
    return await act()


def _tree(files: Mapping[str, bytes]) -> Tree:
    """The bucket as a tree, with the first three files of each folder."""
    root = Tree(f"[bold]{S3Url(BUCKET)}[/]")
    branches: dict[str, Tree] = {"": root}
    counts: dict[str, int] = {}
    for key, body in sorted(files.items()):
        parts = key.split("/")
        for depth in range(1, len(parts)):
            path, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
            if path not in branches:
                branches[path] = branches[parent].add(f"{parts[depth - 1]}/")
        folder = "/".join(parts[:-1])
        counts[folder] = counts.get(folder, 0) + 1
        if counts[folder] <= 3:
            branches[folder].add(f"{parts[-1]}  [dim]{size(len(body))}[/]")
    for folder, count in counts.items():
        if count > 3:
            branches[folder].add(f"[dim]… and {count - 3} more[/]")
    return root


def _show_record(console: Console, files: Mapping[str, bytes]) -> None:
    key = min(key for key in files if "/Movies/" in key and "_harvest" not in key)
    line = files[key].split(b"\n")[0].decode()
    head, title = line.index(',"backdrop_path"'), line.index('"title"')
    console.print(f"\n[bold]One record[/], a line of {key.rpartition('/')[2]}:", soft_wrap=True)
    console.print(f"{line[:head]}, … ,{line[title:]}", markup=False, soft_wrap=True)


def _show_totals(console: Console, totals: Mapping[str, Any], tmdb: FakeTmdb) -> None:
    console.print("\n[bold]The totals[/]")
    console.print(totals_text(totals), soft_wrap=True)
    console.print(
        f"The stand-in TMDB counted {tmdb.asked.total():,} requests, at most {tmdb.peak_all} in any second; "
        f"its rate limit refused {tmdb.refused}.",
        soft_wrap=True,
    )


async def serve(folder: Path, *, as_json: bool) -> CommandResult:
    """Keep both servers up until Ctrl-C; first print the settings for a shell, or with `as_json` for a script."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with making(folder):
        (folder / "servers").mkdir(parents=True, exist_ok=True)
    async with open_environment(folder / "servers", rate=40, limit=40) as env:
        if as_json:
            print_json(result_json("serving", Exit.CLOSED, settings=env.settings))
        else:
            _show_settings(env.settings)
        await stop.wait()
    return Exit.CLOSED, {}, lambda: None


def _show_settings(settings: Mapping[str, str]) -> None:
    say = partial(Console(highlight=False, emoji=False).print, soft_wrap=True, markup=False)
    say("# Both servers run until you press Ctrl-C. Paste this into another shell:")
    for name, value in sorted(settings.items()):
        say(f"export {name}={shlex.quote(value)}")
    say("# Then try, for example:")
    for words in ("plan", "upload", "harvest --limit 200", "harvest", "verify"):
        say(f"{_python()} -m harvester {words}")


def _python() -> str:
    """The path of this Python, relative to the current folder if it is below it."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
