"""What tests share: a clock that only moves when told, a real S3 server, a fresh bucket, the recorded answers."""

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

settings.register_profile("ours", deadline=None, database=None, derandomize=True)  # no wall clock, no luck
settings.load_profile("ours")

PAYLOADS = Path(__file__).parents[2] / "shared" / "tmdb_payloads"

LOADER = botocore.loaders.create_loader()  # parsed once

_numbers = itertools.count(1)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers a core: half of the time tests wait, for processes, servers and their deadlines."""
    return 2 * (os.cpu_count() or 1)


class _Heard(logging.Handler):
    """Keeps every record, as the values that a line would have."""

    STANDARD = frozenset(vars(logging.makeLogRecord({})))

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        values = {name: value for name, value in vars(record).items() if name not in self.STANDARD}
        self.lines.append({"event": record.msg, "log_level": record.levelname.lower()} | values)


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """What the harvester logs meanwhile, a dictionary a line."""
    heard, logger = _Heard(), logging.getLogger("harvester")
    level = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.DEBUG)
    try:
        yield heard.lines
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)


class Clock:
    """Virtual seconds: `sleep` returns when the clock has come to its end, and all sleepers wake in order."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wake later by the clock, at once by the wall: the only sleeper moves the time."""
        self.now += max(seconds, 0.0)
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session", autouse=True)
def _little_to_collect() -> None:
    """What has been imported stays: looking through it for garbage again and again takes a fifth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the settings of whoever runs it, nor a .env or TOML file of theirs."""
    names = {name.lower() for name in ALL_NAMES}
    for name in list(os.environ):
        if name.lower() in names or name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def payloads() -> Path:
    """The folder of recorded answers of the real TMDB."""
    if not PAYLOADS.is_dir():
        pytest.skip(f"no recorded answers at {PAYLOADS}")
    return PAYLOADS


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def s3(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """One S3 server for the whole suite; every test has buckets of its own."""
    async with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


def client_of(server: S3Server) -> Any:
    """A plain client of the server, to look at things from outside; an asynchronous context manager."""
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
    """A new, empty bucket, opened as the harvester opens it."""
    name = f"lake-{next(_numbers)}"
    async with client_of(s3) as client:
        await client.create_bucket(Bucket=name)
    credentials = (s3.access_key, s3.secret_key, None)
    async with open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=s3.endpoint) as opened:
        yield opened


@pytest.fixture
def settings_for(s3: S3Server, bucket: Bucket, tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings for a stand-in's URL, the test's bucket and CSVs of just these ids; anything else by name."""

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
    """The folder of the Lambda's packages for both architectures."""
    return built(tmp_path_factory)


class Silent:
    """An observer that only remembers; `layout` is that of the run, where prefix and template are the defaults."""

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
    """The manifest of the run that stands in the bucket."""
    return decode_manifest(layout, await bucket.read(layout.manifest_key))


async def receipts_of(bucket: Bucket, layout: Layout) -> list[Receipt]:
    """The receipts of the run that stand in the bucket, in the order of their keys."""
    keys = await bucket.objects(layout.receipts)
    return [decode_receipt(layout, key, await bucket.read(key)) for key in keys]


@pytest.fixture
def observer() -> Silent:
    return Silent()


def gzip_of(data: bytes, level: int = 9) -> bytes:
    """The data as gzip, the same bytes whenever it is made: workers compare the names of their tests."""
    return gzip.compress(data, level, mtime=0)
