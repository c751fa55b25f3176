"""A run in the bucket: which one to go on with, what of it is done, what is left, and the closing of its books.

The bucket is the checkpoint. What counts as done is what stands there: a receipt, no older than its plan, that agrees
with itself, and whose files are listed with the size and mark it says. Everything else is done again, under the same
names, so whatever was killed, deleted or damaged mends by itself.

Titles that turn out to be of the other kind have *moved*: they are harvested in batches of their own, when everything
else is done, or first of all when a run goes on. Nothing else is under way then, so that these batches are cut alike
however often the run is killed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from harvester.answers import Match
from harvester.batches import Batch, Layout, cut
from harvester.errors import BooksError
from harvester.fan_out import fan_out
from harvester.lake import list_data, orphans_of, run_names, set_aside, stem, strangers_of
from harvester.receipts import Books, Plan, decode_plan, decode_receipt, encode_plan, encode_receipt, fingerprint
from harvester.s3 import Listed
from harvester.titles import COLLECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harvester.receipts import LandedFile, Receipt
    from harvester.s3 import Bucket
    from harvester.settings import Settings
    from harvester.titles import Collection, Ids

_log = structlog.get_logger("run")

READS_AT_ONCE = 32

RETRY = timedelta(hours=12)
"""How long a run of an earlier day is gone on with for the sake of failed titles alone."""

PROBLEMS_SHOWN = 5


def utc() -> str:
    """The time now in UTC, ISO 8601, to the millisecond; such texts sort as times do."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Run:
    """One run: its plan, and what the bucket says of it; made by `open_run`.

    Attributes:
        finished: Whether its books had been closed when it was opened, and were those of the receipts.
        todo: Batches of the input that have no valid receipt, in order.
        now: What time it is, as `utc` has it.
        books: The input, and what the valid receipts say of it.
        failed: Titles without a usable answer, with the reason.
        matches: Moved ids, with what `/find` said of them.
        settled: Those of them that have an outcome, in a batch of their own.
    """

    bucket: Bucket
    plan: Plan
    layout: Layout
    now: Callable[[], str]
    finished: bool = False
    todo: list[Batch] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    failed: dict[str, str] = field(default_factory=dict)
    matches: dict[str, Match] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    _receipts: set[str] = field(default_factory=set)
    _landed: dict[str, Listed] = field(default_factory=dict)
    _moved: dict[str, list[str]] = field(default_factory=dict)
    _moved_failed: dict[str, Batch] = field(default_factory=dict)
    _unplanned: list[tuple[str, Receipt, dict[str, Listed] | None]] = field(default_factory=list)
    _failed_at: list[str] = field(default_factory=list)
    _here: dict[str, Listed] = field(default_factory=dict)
    _astray: list[str] = field(default_factory=list)
    _strangers: list[str] = field(default_factory=list)
    _planned: frozenset[tuple[str, str]] = frozenset()
    _orphans: list[tuple[str, str]] = field(default_factory=list)

    def moved(self) -> list[Batch]:
        """Batches of the moved titles that have no outcome yet, after those of them that had failed."""
        failed = list(self._moved_failed.values())
        taken = self.settled.union(*(batch.ids for batch in failed))
        names = [name for names in self.plan.batches.values() for name in names]
        waiting = [id_ for name in names for id_ in self._moved.get(name, ()) if id_ not in taken]
        fresh = [
            batch
            for kind, collection in COLLECTIONS.items()
            for batch in cut(collection, (id_ for id_ in waiting if self.matches[id_].kind == kind))
        ]
        return failed + fresh

    @property
    def left(self) -> int:
        """How many batches of the input are not done, failed ones not among them."""
        return sum(
            self.layout.receipt_key(batch.collection, batch.name) not in self._receipts
            and self.layout.failed_key(batch.collection, batch.name) not in self._receipts
            for batch in self.todo
        )

    @property
    def nothing_to_do(self) -> bool:
        """Whether the books were closed, and everything still stands as it did then."""
        left = (self.todo, self._astray, self._strangers, self._orphans, self.moved())
        return self.finished and not any(left)

    @property
    def given_up(self) -> bool:
        """Whether this is a run of an earlier day in which nothing but titles failed long ago is left.

        Without this, one title that fails for ever would keep every later day from being collected.
        """
        now = self.now()
        if self.plan.run[:10] == now[:10]:
            return False
        left = {(batch.collection, batch.name) for batch in (*self.todo, *self.moved())}
        if not left or len(self._failed_at) < len(left):
            return False
        since = datetime.fromisoformat(now) - datetime.fromisoformat(max(self._failed_at))
        return all(self.layout.failed_key(*batch) in self._here for batch in left) and since > RETRY

    async def begin(self) -> None:
        """Write the plan, first of all, and clear away what no receipt in force speaks of."""
        await self.bucket.put(self.layout.plan_key, encode_plan(self.plan))
        for key in self._astray:
            _log.warning("removed", key=key, why="no receipt in force speaks of it")
            await self.bucket.delete(key)
        for key in self._strangers:
            await set_aside(self.bucket, self.layout, key)

    async def abort_orphans(self, batch: Batch) -> None:
        """Abort the uploads that an earlier try of `batch`, killed, has left."""
        for key, upload in [orphan for orphan in self._orphans if f"{batch.name}." in orphan[0]]:
            await self.bucket.abort(key, upload)
            self._orphans.remove((key, upload))

    async def commit(self, receipt: Receipt) -> None:
        """Write the receipt, last of its batch, in the place it belongs, and count it."""
        done = self.layout.receipt_key(receipt.collection, receipt.batch)
        failed = self.layout.failed_key(receipt.collection, receipt.batch)
        here, gone = (failed, done) if receipt.failed else (done, failed)
        await self.bucket.put(here, encode_receipt(receipt))
        leftovers = [gone]
        number = len(receipt.files) + 1
        while (key := self.layout.data_key(receipt.collection, receipt.batch, number)) in self._here:
            leftovers.append(key)  # an earlier try had more records
            number += 1
        for key in leftovers:
            if self._here.pop(key, None):
                await self.bucket.delete(key)
        self._take(here, receipt, {file.key: Listed(file.bytes, file.etag) for file in receipt.files})

    async def close(self) -> None:
        """Prove the books against what the bucket lists now, leave no upload of theirs, and write the summary.

        There is none while titles have failed.

        Raises:
            BooksError: They do not balance, or the bucket holds something else than the receipts say.
        """
        papers = await self.bucket.objects(self.layout.folder)
        data = await list_data(self.bucket, self.layout)
        names = {stem(key) for key in self._receipts}
        for key, upload in await orphans_of(self.bucket, self.layout, names):  # such as one whose answer was lost
            await self.bucket.abort(key, upload)
        problems = [f"{key} is gone" for key in self._receipts - papers.keys()]
        folders = (self.layout.receipts, self.layout.failed)
        others = [key for key in papers.keys() - self._receipts if key.startswith(folders)]
        problems += [f"{key} is another harvester's" for key in others]
        problems += [f"{key} is not what landed" for key, file in self._landed.items() if data.get(key) != file]
        problems += [f"{key} is in no receipt" for key in data.keys() - self._landed.keys() if stem(key) in names]
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

    async def survey(self, batches: Iterable[Batch]) -> None:
        """Learn from the bucket what of `batches` is done.

        Raises:
            StoreError: S3 refused, or could not be reached.
        """
        papers = await self.bucket.objects(self.layout.folder)
        data = await list_data(self.bucket, self.layout)
        self._here = papers | data
        for folder in (self.layout.receipts, self.layout.failed):
            kept = [key for key in papers if key.startswith(folder)]
            await fan_out(self._take_old, kept, at_once=READS_AT_ONCE)
        self._believe_unplanned()
        self.todo = [b for b in batches if self.layout.receipt_key(b.collection, b.name) not in self._receipts]
        done = {stem(key) for key in self._receipts}
        unspoken = data.keys() - self._landed.keys() - set(self._astray)
        self._astray += [key for key in unspoken if stem(key) in done]
        ours = done.union(name for _, name in self._planned).union(batch.name for batch in self.moved())
        self._orphans = await orphans_of(self.bucket, self.layout, ours)
        strange = {key for key in unspoken if stem(key) not in ours}
        self._strangers = await strangers_of(self.bucket, self.layout, strange)

    async def _take_old(self, key: str) -> None:
        """Take a paper of an earlier process for what it is worth."""
        body = await self.bucket.read(key)
        try:
            receipt = decode_receipt(key, body or b"")
        except BooksError as error:
            _log.warning("receipt_refused", problem=str(error))
            if not any(key.endswith(f"/{collection}/{name}.json") for collection, name in self._planned):
                self._astray += [other for other in self._here if stem(other) == stem(key)]
            return
        planned = (receipt.collection, receipt.batch) in self._planned
        if receipt.landed_at < self.plan.created_at:
            if not planned:  # batches of moved titles are cut anew by `--again`
                self._astray += [key, *(file.key for file in receipt.files)]
            return
        if self.layout.receipt_key(receipt.collection, receipt.batch) in self._receipts:
            self._astray.append(key)  # of a failed try, before the one that did not fail
            return
        listed = {file.key: await self._as_landed(file) for file in receipt.files}
        whole = None not in listed.values() and not receipt.failed
        landed = {name: file for name, file in listed.items() if file} if whole else None
        if planned:
            self._believe(key, receipt, landed)
        else:
            self._unplanned.append((key, receipt, landed))

    def _believe(self, key: str, receipt: Receipt, landed: dict[str, Listed] | None) -> None:
        """Take a paper of an earlier process; where not all of its files have `landed`, only for what has moved."""
        if landed is not None:
            self._take(key, receipt, landed)
            return
        _log.warning("batch_again", batch=receipt.batch, collection=receipt.collection)
        self._failed_at.append(receipt.landed_at)
        self._note_moved(receipt)
        if (receipt.collection, receipt.batch) not in self._planned:
            self._moved_failed[receipt.batch] = Batch(receipt.collection, receipt.ids)

    def _believe_unplanned(self) -> None:
        """Take the papers of moved titles, each title once: two harvesters at once may have cut them otherwise."""
        for key, receipt, landed in sorted(
            self._unplanned, key=lambda told: (told[2] is None, -len(told[1].ids), told[0])
        ):
            if self.settled.isdisjoint(receipt.ids):
                self._believe(key, receipt, landed)
            else:
                self._astray += [key, *(file.key for file in receipt.files if file.key not in self._landed)]

    async def _as_landed(self, file: LandedFile) -> Listed | None:
        """What is listed of a data file, if it is still what landed; a copy has the same bytes and another mark."""
        listed = self._here.get(file.key)
        if listed is None or listed.bytes != file.bytes:
            return None
        if listed.etag == file.etag:
            return listed
        body = await self.bucket.read(file.key)
        return listed if hashlib.sha256(body or b"").hexdigest() == file.sha256 else None

    def _take(self, key: str, receipt: Receipt, landed: dict[str, Listed]) -> None:
        """Count a paper that is in force."""
        self._receipts.add(key)
        self._moved_failed.pop(receipt.batch, None)
        self._landed |= landed
        self.books.take(receipt)
        self.failed |= {i: told["reason"] for i, told in receipt.outcomes.items() if told["outcome"] == "failed"}
        self._note_moved(receipt)

    def _note_moved(self, receipt: Receipt) -> None:
        if (receipt.collection, receipt.batch) not in self._planned:
            self.settled.update(receipt.ids)
        self._moved[receipt.batch] = list(receipt.moved)
        for id_, told in receipt.moved.items():
            self.matches[id_] = Match(told["kind"], told["tmdb_id"])


async def open_run(
    bucket: Bucket,
    inputs: Mapping[Collection, Ids],
    settings: Settings,
    *,
    again: bool = False,
    now: Callable[[], str] = utc,
) -> Run:
    """The run to go on with: the latest of these ids and settings, if it is unfinished or of today; else a new one.

    Nothing is written. `again` asks for a new one where today's is finished; an unfinished one is gone on with.

    Raises:
        StoreError: S3 refused, or could not be reached.
    """
    ids = {collection: account.ids for collection, account in inputs.items()}
    mark = fingerprint(ids, language=settings.tmdb_language, append=settings.tmdb_append, form=settings.output_format)
    batches = [batch for collection, some in ids.items() for batch in cut(collection, some)]
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
    latest = max((name for name in names if name.endswith(f"-{mark}")), default=None)
    plan, closed, sound = new, None, False
    if latest:
        layout = Layout(settings.s3_prefix, settings.s3_key_template, latest)
        plan, closed, sound = await _read_plan(bucket, layout, new)
        if closed and (again or latest != new.run):
            plan, closed = new, None
    run = await _survey(plan, bucket, inputs, batches, now)
    run.finished = sound and closed == run.books.as_json()
    return await _survey(new, bucket, inputs, batches, now) if run.given_up else run


async def _survey(
    plan: Plan, bucket: Bucket, inputs: Mapping[Collection, Ids], batches: list[Batch], now: Callable[[], str]
) -> Run:
    """The run of `plan`, with what the bucket says of its `batches`."""
    layout = Layout(str(plan.settings["s3_prefix"]), str(plan.settings["s3_key_template"]), plan.run)
    planned = frozenset((batch.collection, batch.name) for batch in batches)
    run = Run(bucket, plan, layout, now, _planned=planned)
    for account in inputs.values():
        run.books.take_input(account)
    await run.survey(batches)
    return run


async def _read_plan(bucket: Bucket, layout: Layout, new: Plan) -> tuple[Plan, dict[str, Any] | None, bool]:
    """The plan of the run in `layout`; its books, if they were closed after it; whether it stands as it should.

    The plan is `new`, under the name, date and keys of the old: one that cannot be read or has been altered is written
    anew, and the receipts stay in force.
    """
    body = await bucket.read(layout.plan_key)
    try:
        old = decode_plan(layout.plan_key, body or b"")
    except BooksError as error:
        _log.warning("plan_refused", problem=str(error))
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
