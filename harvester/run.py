"""A run: which one to go on with, what is left of it, and the closing of its books."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import orjson

from harvester.batches import Layout, cut
from harvester.errors import BooksError, InputError
from harvester.lake import list_data, run_names, set_aside, stem, unclaimed
from harvester.receipts import Plan, decode_plan, encode_plan, encode_receipt, fingerprint
from harvester.s3 import Listed
from harvester.survey import Paper, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.batches import Batch
    from harvester.moved import Moved
    from harvester.receipts import Books, Receipt
    from harvester.s3 import Bucket
    from harvester.settings import Settings
    from harvester.survey import Standing
    from harvester.titles import Collection, Ids

_log = logging.getLogger(__name__)

RETRY = timedelta(hours=12)
"""How long a run of an earlier day is gone on with for the sake of failed titles alone."""

PROBLEMS_SHOWN = 5


def utc() -> str:
    """The time now in UTC, ISO 8601, to the millisecond; such texts sort as times do."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Run:
    """One run, from its plan to its closed books; made by `open_run`.

    Attributes:
        now: What time it is, as `utc` has it.
        standing: What stands in the bucket: as the survey found it, and what has been committed since.
        todo: Batches of the input that have no valid receipt, in order.
        finished: Whether its books had been closed when it was opened, and were those of the receipts.
    """

    bucket: Bucket
    plan: Plan
    layout: Layout
    now: Callable[[], str]
    standing: Standing
    todo: list[Batch]
    finished: bool = False

    @property
    def books(self) -> Books:
        """The input, and what the papers in force say of it."""
        return self.standing.books

    @property
    def moved(self) -> Moved:
        """The titles that turned out to be of the other kind, which are harvested in batches of their own."""
        return self.standing.moved

    @property
    def failed(self) -> dict[str, str]:
        """Titles without a usable answer, with the reason."""
        return self.standing.failed

    @property
    def left(self) -> int:
        """How many batches of the input are not done, failed ones not among them."""
        return len(_undone(self.todo, self.layout, self.standing))

    @property
    def nothing_to_do(self) -> bool:
        """Whether the books were closed, and everything still stands as it did then."""
        found = self.standing
        left = (self.todo, self.moved.batches(), found.astray, found.strangers, found.orphans)
        return self.finished and not any(left)

    @property
    def given_up(self) -> bool:
        """Whether this is a run of an earlier day in which nothing but titles failed long ago is left.

        Without this, one title that fails for ever would keep every later day from being collected.
        """
        now, tried_at = self.now(), self.standing.tried_at
        left = {self.layout.failed_key(b.collection, b.name) for b in (*self.todo, *self.moved.batches())}
        if self.plan.run[:10] == now[:10] or not left or left - tried_at.keys():
            return False
        return datetime.fromisoformat(now) - datetime.fromisoformat(max(tried_at.values())) > RETRY

    async def begin(self) -> None:
        """Write the plan, first of all, and clear away what no receipt in force speaks of."""
        await self.bucket.put(self.layout.plan_key, encode_plan(self.plan))
        for key in self.standing.astray:
            _log.warning("removed", extra={"key": key, "why": "no receipt in force speaks of it"})
            await self.bucket.delete(key)
        for key in self.standing.strangers:
            await set_aside(self.bucket, self.layout, key)

    async def abort_orphans(self, batch: Batch) -> None:
        """Abort the uploads that an earlier try of `batch`, killed, has left."""
        for key, upload in [orphan for orphan in self.standing.orphans if f"{batch.name}." in orphan[0]]:
            await self.bucket.abort(key, upload)
            self.standing.orphans.remove((key, upload))

    async def commit(self, receipt: Receipt) -> None:
        """Write the receipt, last of its batch, in the place it belongs, and count it."""
        done = self.layout.receipt_key(receipt.collection, receipt.batch)
        failed = self.layout.failed_key(receipt.collection, receipt.batch)
        here, gone = (failed, done) if receipt.failed else (done, failed)
        await self.bucket.put(here, encode_receipt(receipt))
        leftovers = [gone]
        number = len(receipt.files) + 1
        while (key := self.layout.data_key(receipt.collection, receipt.batch, number)) in self.standing.here:
            leftovers.append(key)  # an earlier try had more records
            number += 1
        for key in leftovers:
            if self.standing.here.pop(key, None):
                await self.bucket.delete(key)
        landed = {file.key: Listed(file.bytes, file.etag) for file in receipt.files}
        self.standing.take(Paper(here, receipt, landed))

    async def close(self) -> None:
        """Prove the books against what the bucket lists now, leave no upload of theirs, and write the summary.

        There is none while titles have failed.

        Raises:
            BooksError: They do not balance, or the bucket holds something else than the receipts say.
        """
        papers = await self.bucket.objects(self.layout.folder)
        data = await list_data(self.bucket, self.layout)
        in_force, landed = self.standing.in_force, self.standing.landed
        names = {stem(key) for key in in_force}
        _, orphans = await unclaimed(self.bucket, self.layout, ours=names, files=set())
        for key, upload in orphans:  # such as one whose answer was lost
            await self.bucket.abort(key, upload)
        problems = [f"{key} is gone" for key in in_force - papers.keys()]
        folders = (self.layout.receipts, self.layout.failed)
        others = [key for key in papers.keys() - in_force if key.startswith(folders)]
        problems += [f"{key} is another harvester's" for key in others]
        problems += [f"{key} is not what landed" for key, file in landed.items() if data.get(key) != file]
        problems += [f"{key} is in no receipt" for key in data.keys() - landed.keys() if stem(key) in names]
        if not self.books.balance:
            problems.append(f"of {self.books.ids} ids {self.books.accounted} have an outcome")
        if problems:
            shown = "; ".join(sorted(problems)[:PROBLEMS_SHOWN])
            raise BooksError(
                f"The books do not balance ({len(problems)} problems): {shown}. Harvest again to mend what is missing."
            )
        if not self.books.failed:
            summary = {"run": self.plan.run, "closed_at": self.now(), "books": self.books.as_json()}
            await self.bucket.put(self.layout.summary_key, orjson.dumps(summary))


async def open_run(
    bucket: Bucket,
    inputs: Mapping[Collection, Ids],
    settings: Settings,
    *,
    again: bool = False,
    only: str | None = None,
    since: str | None = None,
    now: Callable[[], str] = utc,
) -> Run:
    """The run to go on with: the latest of these ids and settings, if it is unfinished or of today; else a new one.

    Nothing is written. `again` asks for a new one where today's is finished; an unfinished one is gone on with. `only`
    is the one run that is meant, finished or not, of whichever day. Batches with titles that failed `since` then are
    taken as done.

    Raises:
        InputError: The run that is meant is of other ids or settings.
        StoreError: S3 refused, or could not be reached.
    """
    ids = {collection: account.ids for collection, account in inputs.items()}
    mark = fingerprint(ids, language=settings.tmdb_language, append=settings.tmdb_append, form=settings.output_format)
    batches = [batch for collection, some in ids.items() for batch in cut(collection, some)]
    if only and not only.endswith(f"-{mark}"):
        sources = " and ".join(account.source for account in inputs.values())
        raise InputError(sources, f"has other ids, or is asked for otherwise, than {only} was planned of: plan anew")
    started = now()
    new = Plan(
        run=f"{started[:10]}-{mark}",
        fingerprint=mark,
        created_at=started,
        input={collection: account.as_json() for collection, account in inputs.items()},
        settings=settings.of_records(),
        batches={collection: [b.name for b in batches if b.collection == collection] for collection in ids},
    )
    names = await run_names(bucket, settings.s3_prefix)
    latest = only or max((name for name in names if name.endswith(f"-{mark}")), default=None)
    plan, closed, sound = new, None, False
    if latest:
        layout = Layout(settings.s3_prefix, settings.s3_key_template, latest)
        plan, closed, sound = await _read_plan(bucket, layout, new)
        if closed and not only and (again or latest != new.run):
            plan, closed = new, None
    run = await _open(plan, bucket, batches, now, since=since)
    if run.given_up and not only:
        run, sound = await _open(new, bucket, batches, now), False
    for account in inputs.values():
        run.books.take_input(account)
    run.finished = sound and closed == run.books.as_json()
    return run


async def open_part(
    bucket: Bucket, name: str, batches: list[Batch], *, prefix: str, since: str, now: Callable[[], str] = utc
) -> Run:
    """The part of the run `name` that consists of `batches`; the rest of it is not looked at, and nothing is written.

    Batches with titles that failed `since` then are not of it any more.

    Raises:
        BooksError: There is no plan of that run, or it does not have these batches.
        StoreError: S3 refused, or could not be reached.
    """
    key = Layout(prefix, "", name).plan_key
    plan = decode_plan(key, await bucket.read(key) or b"")
    strange = [batch.name for batch in batches if batch.name not in plan.batches.get(batch.collection, ())]
    if strange:
        raise BooksError(f"{key} has no batch {strange[0]}: plan anew")
    layout = Layout(prefix, str(plan.settings["s3_key_template"]), plan.run)
    standing = await survey(bucket, plan, layout, only=frozenset(batch.name for batch in batches), since=since)
    return Run(bucket, plan, layout, now, standing, _undone(batches, layout, standing))


async def _open(
    plan: Plan, bucket: Bucket, batches: list[Batch], now: Callable[[], str], *, since: str | None = None
) -> Run:
    """The run of `plan`, with what the bucket says of its `batches`."""
    layout = Layout(str(plan.settings["s3_prefix"]), str(plan.settings["s3_key_template"]), plan.run)
    standing = await survey(bucket, plan, layout, since=since)
    return Run(bucket, plan, layout, now, standing, _undone(batches, layout, standing))


def _undone(batches: list[Batch], layout: Layout, standing: Standing) -> list[Batch]:
    """Those of the batches that have no paper in force."""
    return [
        batch
        for batch in batches
        if layout.receipt_key(batch.collection, batch.name) not in standing.in_force
        and layout.failed_key(batch.collection, batch.name) not in standing.in_force
    ]


async def _read_plan(bucket: Bucket, layout: Layout, new: Plan) -> tuple[Plan, dict[str, Any] | None, bool]:
    """The plan of the run in `layout`; its books, if they were closed after it; whether it stands as it should.

    The plan is `new`, under the name, date and keys of the old: one that cannot be read or has been altered is written
    anew, and the receipts stay in force.
    """
    body = await bucket.read(layout.plan_key)
    try:
        old = decode_plan(layout.plan_key, body or b"")
    except BooksError as error:
        _log.warning("plan_refused", extra={"problem": str(error)})
        return replace(new, run=layout.run, created_at=f"{layout.run[:10]}T00:00:00.000Z"), None, False
    keys = {"s3_key_template": old.settings["s3_key_template"]}
    plan = replace(new, run=layout.run, created_at=old.created_at, settings=new.settings | keys)
    summary = await bucket.read(layout.summary_key)
    try:
        told = orjson.loads(summary or b"{}")
        closed = told["books"] if told["closed_at"] >= plan.created_at else None
    except (ValueError, KeyError, TypeError):
        closed = None
    return plan, closed, old.says == plan.says
