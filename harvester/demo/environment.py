"""The stage of the demo: both servers, and the environment that points a harvester at them and at nothing else.

The servers are stand-ins, the harvester is the real one: the very command, in processes of its own, so that a kill is
a SIGKILL. Nothing of the user's settings, keys or buckets is read.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from harvester.demo.samples import MOVIES, REALLY, SERIES, sample_titles
from harvester.errors import HarvestError, SettingsError
from harvester.fakes import s3_proxy
from harvester.fakes.catalog import catalog_of
from harvester.fakes.faults import healthy, random_faults
from harvester.fakes.s3_server import ServerFailedError, ServerMissingError, s3_server
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.settings.settings import ALL_NAMES
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.store.store import Store

BUCKET = "demo-lake"

OURS = ".harvester-demo"
"""The file by which the demo knows that a folder is one of its own."""


class DemoError(HarvestError):
    """The demo did not go as told."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the demo plays on.

    Attributes:
        tmdb: The stand-in, with its counts.
        s3: The server behind the bucket.
        bucket: Read and written without faults.
        settings: Environment variables that point a harvester at both servers.
        environment: Those, and what else a process needs.
        folder: Where harvesters run; their log is `harvester.log` there.
    """

    tmdb: FakeTmdb
    s3: S3Server
    bucket: Store
    settings: dict[str, str]
    environment: dict[str, str]
    folder: Path

    async def run(self, *words: str, **environment: str) -> asyncio.subprocess.Process:
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
                env=self.environment | environment,
                cwd=self.folder,
            )

    async def ask(self, *words: str) -> dict[str, Any]:
        """What a command of the harvester prints, once it has ended; S3 has no faults for it.

        Raises:
            DemoError: It ended with an error.
        """
        process = await self.run(*words, AWS_ENDPOINT_URL_S3=self.s3.endpoint)
        out, _ = await process.communicate()
        result = self.read(out)
        if result.get("status") == "error":
            raise DemoError(f"The harvester ended with {result['error']}: {result['message']}")
        return result

    def read(self, out: bytes) -> dict[str, Any]:
        """The one JSON object that a harvester has printed.

        Raises:
            DemoError: It is none.
        """
        try:
            document: dict[str, Any] = json.loads(out)
        except ValueError as error:
            raise DemoError(f"The harvester printed no result; its log ends: {self.log_tail()}") from error
        return document

    def log_tail(self) -> str:
        """What the harvesters logged last."""
        return (self.folder / "harvester.log").read_text(encoding="utf-8")[-2_000:]

    async def receipts(self) -> int:
        """How many batches have landed, with receipts."""
        return sum("/receipts/" in key for key in await self.bucket.objects("Raw/API/_harvest/"))

    async def bring_home(self, folder: Path) -> dict[str, bytes]:
        """Every object of the bucket, written below `folder` too."""
        files: dict[str, bytes] = {}
        for key in await self.bucket.objects(""):
            body = await self.bucket.read(key)
            files[key] = body or b""
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[key])
        return files


@asynccontextmanager
async def open_environment(
    folder: Path,
    *,
    rate: float,
    limit: float | None = None,
    latency: tuple[float, float] = (0.05, 0.3),
    faults: Mapping[str, float] | None = None,
    s3_faults: Mapping[str, float] | None = None,
    seed: int = 1,
) -> AsyncIterator[Environment]:
    """The stage, set up in `folder` and cleared away at the end; harvesters ask at `rate`, TMDB allows `limit`.

    Raises:
        DemoError: The S3 server does not start.
    """
    catalog = catalog_of(sample_titles(MOVIES), sample_titles(SERIES), kinds=REALLY)
    rule = random_faults(faults, seed=seed) if faults else healthy
    try:
        async with AsyncExitStack() as stack:
            tmdb = await stack.enter_async_context(
                fake_tmdb(catalog=catalog, per_second=limit, faults=rule, latency=latency)
            )
            s3 = await stack.enter_async_context(s3_server(folder / "s3", buckets=[BUCKET]))
            settings = s3.environment() | {
                "TMDB_API_KEY": KEY,
                "TMDB_BASE_URL": tmdb.url,
                "S3_BUCKET": BUCKET,
                "MOVIES_CSV": str(MOVIES),
                "SERIES_CSV": str(SERIES),
            }
            bucket = await stack.enter_async_context(
                open_bucket(
                    BUCKET,
                    region=settings["AWS_REGION"],
                    credentials=(s3.access_key, s3.secret_key, None),
                    endpoint_url=s3.endpoint,
                )
            )
            if s3_faults:
                link = await stack.enter_async_context(s3_proxy.s3_proxy(s3.endpoint))
                link.rules["*"] = s3_proxy.random_faults(s3_faults, seed=seed)
                settings["AWS_ENDPOINT_URL_S3"] = link.url
            ours = {"TMDB_RATE": f"{rate:g}", "PYTHONUTF8": "1"}
            yield Environment(tmdb, s3, bucket, settings, _without_settings() | settings | ours, folder)
    except (ServerMissingError, ServerFailedError) as error:
        raise DemoError(f"The local S3 server does not start: {error}") from error


def _without_settings() -> dict[str, str]:
    """Our own environment without any setting of the user's."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ALL_NAMES and not name.startswith("AWS_")
    }


def prepare_folder(folder: Path) -> None:
    """Make the folder for what lands, without what an earlier demo has left there.

    Raises:
        SettingsError: What is there is not known to be the demo's; nothing has been removed.
        DemoError: It cannot be made.
    """
    raw = folder / "Raw"
    with making(folder):
        if os.path.lexists(raw):
            if not (raw / OURS).is_file():
                raise SettingsError(
                    f"{raw} is there, and not known to be the demo's, which would replace it: remove it, "
                    "or choose another --folder"
                )
            shutil.rmtree(raw)
        raw.mkdir(parents=True)
        (raw / OURS).write_text(
            "The demo has made this folder, and its next run removes all of it.\n", encoding="utf-8"
        )


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Something is being made in `folder`.

    Raises:
        DemoError: It cannot be.
    """
    try:
        yield
    except OSError as error:
        raise DemoError(f"{folder} cannot be made ({error.strerror}): give another --folder") from error


def progress_on(console: Console) -> Progress:
    """A bar of requests, where the console is a terminal."""
    columns = (TextColumn("           {task.description}"), BarColumn(), TextColumn("{task.completed:.0f} requests"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def ending(folder: Path, seconds: float) -> str:
    """The last words of a demo, in rich's markup."""
    return f"\nThe files are in [bold]{escape(f'{folder}/')}[/]. All this took {seconds:.0f} s."


def check(backoffs: bool, otherwise: str) -> None:  # noqa: FBT001  # an assertion that stays
    """Go on if it `holds`.

    Raises:
        DemoError: It does not.
    """
    if not backoffs:
        raise DemoError(f"The demo did not go as told: {otherwise}")
