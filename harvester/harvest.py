"""The harvest: the one road from CSV to closed books.

`read_ids → cut → harvest → harvest_batch → Tmdb.title (turn, judge) → encode → Bucket.land → receipt → books`

The command line, the container and the Lambda are doors to `harvest`. Killed at any moment, it loses nothing: data
lands first and the receipt last, so a batch without one is done again, under the same names.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harvester.answers import Failed, Found
from harvester.errors import Exit, InputError
from harvester.fan_out import Room, fan_out, in_thread
from harvester.pace import Pace
from harvester.receipts import LandedFile, write_receipt
from harvester.records import encode, record_line
from harvester.run import open_run, utc
from harvester.s3_client import ATTEMPTS, PATIENT, open_bucket
from harvester.settings import is_bucket
from harvester.titles import KINDS, read_ids
from harvester.tmdb import open_tmdb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from harvester.answers import Match, Outcome
    from harvester.batches import Batch
    from harvester.receipts import Books, Receipt
    from harvester.run import Run
    from harvester.s3 import Bucket
    from harvester.settings import Settings
    from harvester.stop import Stop
    from harvester.titles import Collection, Ids
    from harvester.tmdb import Tmdb

BATCHES_AT_ONCE = 32
"""Open batches at most. Usually two or three are open; more only while slow titles, or S3, keep some from landing."""

OPEN_BYTES = 32 * 10**6
"""Bytes of records in open batches, from which on none is begun. With `append_to_response` a record has 20 KB and more:
7,000 of them, while S3 was away, took 658 MB before there was this limit."""


class Watcher(Protocol):
    """Somebody who looks on: progress, logs, tests."""

    def begin(self, run: Run, *, titles: int, pace: Pace) -> None:
        """A run begins or goes on, with `titles` to look up."""

    def title(self, told: Outcome | Match) -> None:
        """One title has its outcome; it has not landed yet."""

    def batch(self, receipt: Receipt) -> None:
        """A batch has landed, with its receipt."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a harvest ended; `batches` and `batches_left` count what was planned, without those of moved titles."""

    status: Literal["closed", "nothing_to_do", "failed", "stopped"]
    run: str
    books: Books
    seconds: float
    requests: int = 0
    holds: int = 0
    batches_left: int = 0
    stopped_by: str | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> Exit:
        """What the command line exits with."""
        return {"failed": Exit.FAILED, "stopped": Exit.STOPPED}.get(self.status, Exit.CLOSED)

    def as_json(self) -> dict[str, Any]:
        """For `--json` and Lambda."""
        return {
            "status": self.status,
            "exit_code": int(self.exit_code),
            "run": self.run,
            "stopped_by": self.stopped_by,
            "seconds": round(self.seconds, 1),
            "requests": self.requests,
            "holds": self.holds,
            "batches_left": self.batches_left,
            "books": self.books.as_json(),
            "failed": self.failed,
        }


async def harvest(
    settings: Settings,
    *,
    watcher: Watcher,
    stop: Stop,
    again: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], str] = utc,
) -> Report:
    """Harvest the CSVs of `settings` into its bucket, or what is left of that.

    Args:
        settings: With a key, a bucket and at least one CSV.
        watcher: Told of each title and batch.
        stop: Looked at before each batch.
        again: Harvest also if these ids were finished today.
        sleep: How to wait before a title is asked for again; tests need not.
        now: What time it is, as `run.utc` has it.

    Raises:
        HarvestError: See `errors`. Whatever was raised, what had landed is safe.
    """
    settings.need_titles()
    settings.need("tmdb_api_key", "s3_bucket")
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        async with stop.at_once():
            inputs = await read_inputs(settings)
            bucket = await stack.enter_async_context(open_bucket_of(settings))
            run = await open_run(bucket, inputs, settings, again=again, now=now)
            if run.nothing_to_do:
                return Report("nothing_to_do", run.plan.run, run.books, time.monotonic() - started)
            tmdb = await stack.enter_async_context(open_tmdb_of(settings, sleep))
            await tmdb.check_key()
            await run.begin()
            # S3 is there, so from now on we wait for it: with titles in hand, not to hear that an address is wrong.
            run.bucket = await stack.enter_async_context(open_bucket_of(settings, attempts=PATIENT))
        moved = run.moved.batches()
        watcher.begin(run, titles=sum(len(batch.ids) for batch in (*moved, *run.todo)), pace=tmdb.pace)
        room = Room(OPEN_BYTES)
        one = partial(harvest_batch, run=run, tmdb=tmdb, settings=settings, watcher=watcher, stop=stop, room=room)
        async with stop.draining():
            await fan_out(one, moved, at_once=BATCHES_AT_ONCE)
            await fan_out(one, run.todo, at_once=BATCHES_AT_ONCE)
            if not stop.cut_short:
                await fan_out(one, run.moved.batches(), at_once=BATCHES_AT_ONCE)  # those that moved on the way
            if not stop.cut_short:
                await run.close()
        return Report(
            "stopped" if stop.cut_short else "failed" if run.books.failed else "closed",
            run.plan.run,
            run.books,
            time.monotonic() - started,
            requests=tmdb.health.good + tmdb.health.bad,
            holds=tmdb.pace.holds,
            batches_left=run.left,
            stopped_by=stop.reason if stop.cut_short else None,
            failed=run.failed,
        )


async def harvest_batch(
    batch: Batch, *, run: Run, tmdb: Tmdb, settings: Settings, watcher: Watcher, stop: Stop, room: Room
) -> None:
    """Look up every title of `batch`, land what was found, and write the receipt, last.

    Batches are begun in their order, each when the titles before it are on their way. So a slow title keeps its own
    batch from landing and nobody from being asked, while only two or three batches are open.

    Raises:
        StoreError: S3 refused, or could not be reached.
        TmdbRefusedError: The key is no good any more.
        TmdbUnavailableError: TMDB answers nobody.
    """
    kind = KINDS[batch.collection]
    lines: dict[str, bytes] = {}

    async def look_up(id_: str) -> Outcome | Match:
        match = run.moved.matches.get(id_)
        told: Outcome | Match
        if match and match.kind != kind:
            told = match  # known from an earlier try of this batch
        else:
            told = await tmdb.title(id_, kind, tmdb_id=match.tmdb_id if match else None)
        if isinstance(told, Found):
            line = record_line(id_, told, language=settings.tmdb_language, fetched_at=run.now())
            told = replace(told, record={}) if line else Failed("too_deep")  # a line takes a fifth of the memory
            if line:
                lines[id_] = line
                room.take(len(line))
        watcher.title(told)
        return told

    async def in_line() -> AsyncIterator[str]:
        async with tmdb.next_in_line():
            await room.wait()
            if stop.lets_take(len(batch.ids)):
                await run.abort_orphans(batch)
                for id_ in batch.ids:
                    yield id_

    told = await fan_out(look_up, in_line(), at_once=len(batch.ids))
    if not told:
        return
    held = sum(map(len, lines.values()))
    encoded = list(encode([lines.pop(id_) for id_ in batch.ids if id_ in lines], settings.output_format))
    files = []
    for number, file in enumerate(encoded, 1):
        key = run.layout.data_key(batch.collection, batch.name, number)
        etag = await run.bucket.land(key, file.body)
        sha256 = hashlib.sha256(file.body).hexdigest()
        files.append(LandedFile(key, file.records, len(file.body), sha256, etag))
    receipt = write_receipt(batch, told, files=files, run=run.plan.run, landed_at=run.now())
    await run.commit(receipt)
    room.take(-held)
    watcher.batch(receipt)


async def read_inputs(settings: Settings) -> dict[Collection, Ids]:
    """The ids of the CSVs, movies first: an id that both have is a movie, and a duplicate among the series.

    Raises:
        InputError: One of them cannot be read as a list of ids.
        StoreError: It is in S3, which refused or could not be reached.
    """
    sources: dict[Collection, str | None] = {"Movies": settings.movies_csv, "Series": settings.series_csv}
    seen: set[str] = set()
    inputs: dict[Collection, Ids] = {}
    for collection, source in sources.items():
        if source is None:
            continue
        read = partial(read_ids, column=settings.csv_id_column, seen=seen, name=source)
        if not source.startswith("s3://"):
            inputs[collection] = await in_thread(partial(read, source))
            continue
        name, _, key = source.removeprefix("s3://").partition("/")
        if not (is_bucket(name) and key and source.isprintable()):
            raise InputError(source, "is no place in S3: give s3://bucket/key of a CSV file")
        try:
            async with open_bucket_of(settings, name) as bucket:
                with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                    if not await bucket.fetch(key, file):
                        raise InputError(source, "is not there: give s3://bucket/key of a CSV file")
                    file.flush()
                    inputs[collection] = await in_thread(partial(read, file.name))
        except OSError as error:
            problem = f"does not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a larger folder"
            raise InputError(source, problem) from error
    return inputs


def open_bucket_of(
    settings: Settings, name: str | None = None, *, attempts: int = ATTEMPTS
) -> AbstractAsyncContextManager[Bucket]:
    """The bucket of the settings, or another one with the same credentials."""
    return open_bucket(
        name or str(settings.s3_bucket),
        region=settings.aws_region,
        profile=settings.aws_profile,
        credentials=settings.credentials,
        endpoint_url=settings.aws_endpoint_url_s3,
        attempts=attempts,
    )


def open_tmdb_of(
    settings: Settings, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AbstractAsyncContextManager[Tmdb]:
    """TMDB with the key, the pace and the concurrency of the settings."""
    settings.need("tmdb_api_key")
    key = settings.tmdb_api_key
    return open_tmdb(
        base_url=settings.tmdb_base_url,
        key=key.get_secret_value() if key else "",
        language=settings.tmdb_language,
        append=settings.tmdb_append,
        pace=Pace(settings.tmdb_rate, clock=asyncio.get_running_loop().time),
        concurrency=settings.tmdb_concurrency,
        sleep=sleep,
    )
