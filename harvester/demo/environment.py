"""The demo's environment: both servers, and the variables that point a harvester at them only.

The servers are stand-ins; the harvester is the real command, in its own process, so that a kill is a SIGKILL. None of
the user's settings, keys or buckets is read.
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
from harvester.runtime.current_run import RunRef
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
"""Name of the file that marks a folder as made by the demo."""


class DemoError(HarvestError):
    """The demo failed."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The running servers, and how to run a harvester against them.

    Attributes:
        tmdb: The stand-in TMDB, with its counts.
        s3: The S3 server of the bucket.
        bucket: The bucket, without the S3 faults.
        settings: Environment variables that point a harvester at both servers.
        environment: These, and the other variables that a process needs.
        folder: Working folder of the harvesters; their log is `harvester.log` in it.
    """

    tmdb: FakeTmdb
    s3: S3Server
    bucket: Store
    settings: dict[str, str]
    environment: dict[str, str]
    folder: Path

    async def run(self, *words: str, **environment: str) -> asyncio.subprocess.Process:
        """Start `python -m harvester` with the arguments `words` and `--json`; its log goes to `harvester.log`."""
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
        """The result that a command of the harvester prints, after its end; S3 has no faults for it.

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
        """The JSON object that a harvester has printed.

        Raises:
            DemoError: The output is not JSON.
        """
        try:
            document: dict[str, Any] = json.loads(out)
        except ValueError as error:
            raise DemoError(f"The harvester printed no result. The end of its log: {self.log_tail()}") from error
        return document

    def log_tail(self) -> str:
        """The last 2,000 characters of the harvesters' log."""
        return (self.folder / "harvester.log").read_text(encoding="utf-8")[-2_000:]

    async def receipts(self) -> int:
        """How many batches have landed with their receipts."""
        return sum("/receipts/" in key for key in await self.bucket.objects("Raw/API/_harvest/"))

    async def bring_home(self, folder: Path) -> dict[str, bytes]:
        """Every object of the bucket by key, each also written below `folder`."""
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
    """Both servers, running inside the context, with their data in `folder`.

    Harvesters send `rate` requests per second; TMDB allows `limit`, or any number if None.

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
                proxy = await stack.enter_async_context(s3_proxy.s3_proxy(s3.endpoint))
                proxy.rules["*"] = s3_proxy.random_faults(s3_faults, seed=seed)
                settings["AWS_ENDPOINT_URL_S3"] = proxy.url
            ours = {"TMDB_RATE": f"{rate:g}", "PYTHONUTF8": "1"}
            yield Environment(tmdb, s3, bucket, settings, _without_settings() | settings | ours, folder)
    except (ServerMissingError, ServerFailedError) as error:
        raise DemoError(f"The local S3 server does not start: {error}") from error


def _without_settings() -> dict[str, str]:
    """Our own environment variables, without any setting of the harvester or of AWS."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in ALL_NAMES and not name.startswith("AWS_")
    }


def prepare_folder(folder: Path) -> None:
    """Make the folder for the landed files, and remove those of an earlier demo.

    Raises:
        SettingsError: `Raw` exists and was not made by the demo; nothing has been removed.
        DemoError: The folder cannot be made.
    """
    raw = folder / "Raw"
    with making(folder):
        if os.path.lexists(raw):
            if not (raw / OURS).is_file():
                raise SettingsError(
                    f"{raw} already exists and was not made by the demo, which would replace it: remove it, "
                    "or choose another --folder"
                )
            shutil.rmtree(raw)
        raw.mkdir(parents=True)
        (raw / OURS).write_text("The demo made this folder; its next run removes everything in it.\n", encoding="utf-8")


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes to `folder`, into a DemoError.

    Raises:
        DemoError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise DemoError(f"{folder} cannot be made ({error.strerror}): choose another --folder") from error


def progress_on(console: Console) -> Progress:
    """A progress bar of requests; hidden if the console is not a terminal."""
    columns = (TextColumn("           {task.description}"), BarColumn(), TextColumn("{task.completed:.0f} requests"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def ending(folder: Path, seconds: float) -> str:
    """The last line of a demo, in rich's markup."""
    return f"\nThe files are in [bold]{escape(f'{folder}/')}[/]. The demo took {seconds:.0f} s."


def run_of(result: Mapping[str, Any]) -> RunRef:
    """The run of a harvester's result."""
    return RunRef(result["run"], result["lake"], result["summary_key"])


def check(condition: bool, problem: str) -> None:  # noqa: FBT001  # an assertion, also with `python -O`
    """Check that the demo went as expected.

    Raises:
        DemoError: The condition is false; the message names the `problem`.
    """
    if not condition:
        raise DemoError(f"The demo failed: {problem}")
