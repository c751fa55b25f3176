"""Shared fixtures: a virtual clock, a real S3 server, a fresh bucket, the recorded responses of TMDB."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.loaders
import pytest
import pytest_asyncio
from aiobotocore.session import AioSession
from hypothesis import settings
from packages import built

from harvester.fakes.s3_server import S3Server, s3_server
from harvester.fakes.tmdb import KEY
from harvester.model.layout import Layout
from harvester.model.manifest import Manifest, decode_manifest
from harvester.model.receipt import Receipt, decode_receipt
from harvester.runtime.observer import BatchLanded, Event, RunBegun, TitleDone
from harvester.settings.settings import ALL_NAMES, Settings, load_settings
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from harvester.store.s3 import Bucket

settings.register_profile("ours", deadline=None, database=None, derandomize=True)  # no wall clock, no random seeds
settings.load_profile("ours")

PAYLOADS = Path(__file__).parents[2] / "shared" / "tmdb_payloads"

LOADER = botocore.loaders.create_loader()  # parsed once

_numbers = itertools.count(1)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers per core: half of the time tests wait for processes, servers and deadlines."""
    return 2 * (os.cpu_count() or 1)


class _Recorder(logging.Handler):
    """Keeps the values of every log record."""

    STANDARD = frozenset(vars(logging.makeLogRecord({})))

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        values = {name: value for name, value in vars(record).items() if name not in self.STANDARD}
        self.lines.append({"event": record.msg, "log_level": record.levelname.lower()} | values)


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """The log lines of the harvester inside the context, one dictionary each."""
    recorder, logger = _Recorder(), logging.getLogger("harvester")
    level = logger.level
    logger.addHandler(recorder)
    logger.setLevel(logging.DEBUG)
    try:
        yield recorder.lines
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)


class Clock:
    """Virtual time: it advances only by `sleep`, which returns at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Advance the clock by `seconds` without waiting."""
        self.now += max(seconds, 0.0)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session", autouse=True)
def _little_to_collect() -> None:
    """Imported modules stay: scanning them for garbage again and again takes a fifth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the settings, .env or TOML file of the person who runs it."""
    names = {name.lower() for name in ALL_NAMES}
    for name in list(os.environ):
        if name.lower() in names or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def payloads() -> Path:
    """The folder of recorded responses of the real TMDB."""
    if not PAYLOADS.is_dir():
        pytest.skip(f"no recorded answers at {PAYLOADS}")
    return PAYLOADS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """One S3 server for the whole suite; every test has its own buckets."""
    async with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def client_of(server: S3Server) -> Any:
    """A plain S3 client, independent of the harvester; an asynchronous context manager."""
    session = AioSession()
    session.register_component("data_loader", LOADER)
    return session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


@pytest.fixture
async def bucket(s3: S3Server) -> AsyncIterator[Bucket]:
    """A new, empty bucket, opened the way the harvester does."""
    name = f"lake-{next(_numbers)}"
    async with client_of(s3) as client:
        await client.create_bucket(Bucket=name)
    credentials = (s3.access_key, s3.secret_key, None)
    async with open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=s3.endpoint) as opened:
        yield opened


@pytest.fixture
def settings_for(s3: S3Server, bucket: Bucket, tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings for a TMDB at `url`, the test's bucket and CSVs of these ids; other settings by name."""

    def make(url: str, *, movies: Any = (), series: Any = (), **more: Any) -> Settings:
        for name, ids in (("movies", movies), ("series", series)):
            if ids:
                rows = "".join(f"{id_}|a title\n{id_}|a title\n" for id_ in ids)
                (tmp_path / f"{name}.csv").write_text(f"id|tituloPincipal\n{rows}", encoding="utf-8")
                more.setdefault(f"{name}_csv", str(tmp_path / f"{name}.csv"))
        values: dict[str, Any] = {
            "tmdb_api_key": KEY,
            "tmdb_base_url": url,
            "tmdb_rate": 10_000,
            "s3_bucket": bucket.name,
            "aws_region": "us-east-1",
            "aws_access_key_id": s3.access_key,
            "aws_secret_access_key": s3.secret_key,
            "aws_endpoint_url_s3": s3.endpoint,
        }
        return load_settings(**(values | more))

    return make


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the Lambda's packages for both architectures."""
    return built(tmp_path_factory)


class Silent:
    """An observer that stores events; `layout` is the run's, with the default prefix and key template."""

    def __init__(self) -> None:
        self.titles: list[TitleDone] = []
        self.batches: list[BatchLanded] = []
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case RunBegun():
                self.begin(event)
            case TitleDone():
                self.title(event)
            case BatchLanded():
                self.batch(event)

    def begin(self, event: RunBegun) -> None:
        self.run, self.to_do = event.run, event.titles

    def title(self, event: TitleDone) -> None:
        self.titles.append(event)

    def batch(self, event: BatchLanded) -> None:
        self.batches.append(event)

    @property
    def layout(self) -> Layout:
        return Layout("Raw/API", "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json", self.run)


async def manifest_of(bucket: Bucket, layout: Layout) -> Manifest:
    """The run's manifest in the bucket."""
    return decode_manifest(layout, await bucket.read(layout.manifest_key))


async def receipts_of(bucket: Bucket, layout: Layout) -> list[Receipt]:
    """The run's receipts in the bucket, in the order of their keys."""
    keys = await bucket.objects(layout.receipts)
    return [decode_receipt(layout, key, await bucket.read(key)) for key in keys]


@pytest.fixture
def observer() -> Silent:
    return Silent()


def gzip_of(data: bytes, level: int = 9) -> bytes:
    """The data as gzip, always the same bytes: test names contain it, and workers compare test names."""
    return gzip.compress(data, level, mtime=0)
