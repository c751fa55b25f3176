"""The harvest: the one road from CSV to closed books.

`read_ids → cut → harvest → harvest_batch → Tmdb.title (turn, judge) → encode → Bucket.land → receipt → books`

The command line, the container and the Lambda are doors to `harvest`. Killed at any moment, it loses nothing: data
lands first and the receipt last, so a batch without one is done again, under the same names.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harvester.answers import Failed, Found
from harvester.aws_client import PATIENT
from harvester.errors import Exit
from harvester.fan_out import Room, fan_out
from harvester.opening import open_bucket_of, open_tmdb_of, read_inputs
from harvester.receipts import LandedFile, write_receipt
from harvester.records import encode, record_line
from harvester.run import open_run, utc
from harvester.titles import KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from harvester.answers import Match, Outcome
    from harvester.batches import Batch
    from harvester.pace import Pace
    from harvester.receipts import Books, Receipt
    from harvester.run import Run
    from harvester.settings import Settings
    from harvester.stop import Stop
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


Status = Literal["closed", "nothing_to_do", "failed", "stopped", "landed"]
"""How a harvest can end; `landed` is what the child of a fan-out has done, which leaves the books to be closed."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a harvest ended; `batches` and `batches_left` count what was planned, without those of moved titles."""

    status: Status
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
    only: str | None = None,
    since: str | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], str] = utc,
) -> Report:
    """Harvest the CSVs of `settings` into its bucket, or what is left of that.

    Args:
        settings: With a key, a bucket and at least one CSV.
        watcher: Told of each title and batch.
        stop: Looked at before each batch.
        again: Harvest also if these ids were finished today.
        only: The run that is meant; without it, whichever `open_run` finds.
        since: Batches with titles that failed since then are left; without it they are tried again.
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
            run = await open_run(bucket, inputs, settings, again=again, only=only, since=since, now=now)
            if run.nothing_to_do:
                return Report("nothing_to_do", run.plan.run, run.books, time.monotonic() - started)
            tmdb = await stack.enter_async_context(open_tmdb_of(settings, sleep))
            await tmdb.check_key()
            await run.begin()
            # S3 is there, so from now on we wait for it: with titles in hand, not to hear that an address is wrong.
            run.bucket = await stack.enter_async_context(open_bucket_of(settings, attempts=PATIENT))
        moved = run.moved.batches()
        watcher.begin(run, titles=sum(len(batch.ids) for batch in (*moved, *run.todo)), pace=tmdb.pace)
        harvest_all = partial(harvest_batches, run=run, tmdb=tmdb, settings=settings, watcher=watcher, stop=stop)
        async with stop.draining():
            await harvest_all(moved)
            await harvest_all(run.todo)
            if not stop.cut_short:
                await harvest_all(run.moved.batches())  # those that moved on the way
            if not stop.cut_short:
                await run.close()
        done: Status = "failed" if run.books.failed else "closed"
        return report_of(run, tmdb, stop, done=done, seconds=time.monotonic() - started)


def report_of(run: Run, tmdb: Tmdb, stop: Stop, *, done: Status, seconds: float) -> Report:
    """How a harvest ended that came to where it is `done`, unless it was stopped before."""
    return Report(
        "stopped" if stop.cut_short else done,
        run.plan.run,
        run.books,
        seconds,
        requests=tmdb.health.good + tmdb.health.bad,
        holds=tmdb.pace.holds,
        batches_left=run.left,
        stopped_by=stop.reason if stop.cut_short else None,
        failed=run.failed,
    )


async def harvest_batches(
    batches: Iterable[Batch], *, run: Run, tmdb: Tmdb, settings: Settings, watcher: Watcher, stop: Stop
) -> None:
    """Harvest `batches` one after another, as many open at a time as it takes to keep everybody busy.

    Raises:
        HarvestError: See `harvest_batch`.
    """
    room = Room(OPEN_BYTES)
    one = partial(harvest_batch, run=run, tmdb=tmdb, settings=settings, watcher=watcher, stop=stop, room=room)
    gc.freeze()  # what has been made until now stays: looking through it for cycles again and again is 5 % of the work
    try:
        await fan_out(one, batches, at_once=BATCHES_AT_ONCE)
    finally:
        gc.unfreeze()


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
            if line:
                lines[id_] = line
                room.take(len(line))
            told = replace(told, record={}) if line else Failed("too_deep")  # a line takes a fifth of the memory
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
    found = [id_ for id_ in batch.ids if id_ in lines]
    files = []
    for number, file in enumerate(encode(map(lines.pop, found), settings.output_format), 1):
        key = run.layout.data_key(batch.collection, batch.name, number)
        etag = await run.bucket.land(key, file.body)
        sha256 = hashlib.sha256(file.body).hexdigest()
        files.append(LandedFile(key, file.records, len(file.body), sha256, etag))
    receipt = write_receipt(batch, told, files=files, run=run.plan.run, landed_at=run.now())
    await run.commit(receipt)
    room.take(-held)
    watcher.batch(receipt)
