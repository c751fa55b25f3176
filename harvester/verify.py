"""Verify: read a run back from the bucket and prove its books.

Nothing is believed but the bytes: every data file is read, measured, digested and parsed, and held against its
receipt; the ids of all receipts together are held against the plan's fingerprint. Nothing is written; what is wrong is
named, and the next `harvest` mends it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import orjson

from harvester.batches import BATCH_SIZE, RUNS, Layout
from harvester.errors import BooksError
from harvester.fan_out import fan_out
from harvester.lake import list_data, others_of, run_names, stem
from harvester.opening import open_bucket_of
from harvester.receipts import Books, Plan, decode_plan, decode_receipt, fingerprint
from harvester.records import FILE_BYTES, decode
from harvester.run import utc
from harvester.titles import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.receipts import LandedFile
    from harvester.s3 import Bucket, Listed
    from harvester.settings import Settings
    from harvester.titles import Collection

READS_AT_ONCE = 8
"""Files of up to 10 MB, in memory at once."""


@dataclass(slots=True)
class Proof:
    """What was read of a run, and every harm found, each naming what it was found in.

    `past`: the run is of an earlier day and its books were closed, so `harvest` collects anew instead of mending it.
    """

    run: str
    books: Books = field(default_factory=Books)
    records: int = 0
    problems: list[str] = field(default_factory=list)
    past: bool = False

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "status": "wrong" if self.problems else "proved",
            "run": self.run,
            "records": self.records,
            "books": self.books.as_json(),
            "problems": self.problems,
            "mended_by_harvest": bool(self.problems) and not self.past,
        }


async def verify(
    settings: Settings, *, run: str | None = None, progress: Callable[[int, int], object] = lambda _done, _all: None
) -> Proof:
    """The proof of `run`, or of the latest one in the bucket; `progress` is told receipts read, of how many.

    Raises:
        BooksError: There is no such run, or its plan cannot be read.
        StoreError: S3 refused, or could not be reached.
    """
    settings.need("s3_bucket")
    async with open_bucket_of(settings) as bucket:
        plan = await _find_plan(bucket, settings, run)
        layout = Layout(settings.s3_prefix, str(plan.settings["s3_key_template"]), plan.run)
        return await _Reading(bucket, plan, layout, Proof(plan.run), progress).prove()


async def _find_plan(bucket: Bucket, settings: Settings, run: str | None) -> Plan:
    """The plan of `run`; else of the run planned last."""
    names = await run_names(bucket, settings.s3_prefix)
    latest = [name for name in names if name[:10] == names[-1][:10]] if run is None else [run]
    if not latest or latest[0] not in names:
        where = f"s3://{bucket.name}/{settings.s3_prefix}/{RUNS}/{run or ''}"
        raise BooksError(f"There is no run to verify below {where}: harvest first")
    plans = []
    for name in latest:
        key = Layout(settings.s3_prefix, settings.s3_key_template, name).plan_key
        plans.append(decode_plan(key, await bucket.read(key) or b""))
    return max(plans, key=lambda plan: plan.created_at)


@dataclass(slots=True)
class _Reading:
    """One reading of a run: what of it has been seen so far.

    Attributes:
        batches: Ids by collection and batch, of every paper in force.
        seen: Ids that have an outcome, with the batch in whose paper it stands.
        moved: Ids that have moved, with the batch they moved from.
        files: Keys of the data files that the papers speak of.
        others: Batches of the other runs that land in the same folders, with the run.
    """

    bucket: Bucket
    plan: Plan
    layout: Layout
    proof: Proof
    progress: Callable[[int, int], object]
    listed: dict[str, Listed] = field(default_factory=dict)
    batches: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)

    async def prove(self) -> Proof:
        papers = await self.bucket.objects(self.layout.folder)
        self.listed = await list_data(self.bucket, self.layout)
        self.others = (await others_of(self.bucket, self.layout)).batches
        for told in self.plan.input.values():
            self.proof.books.rows += told["rows"]
            self.proof.books.ids += told["ids"]
            self.proof.books.duplicates += told["duplicates"]
            self.proof.books.rejected += told["rejected"]
        for folder in (self.layout.receipts, self.layout.failed):
            kept = [key for key in papers if key.startswith(folder)]
            await fan_out(self._read_receipt, kept, at_once=READS_AT_ONCE)
        self._check_batches()
        self._check_strangers()
        await self._check_summary()
        self.proof.problems.sort()
        return self.proof

    async def _read_receipt(self, key: str) -> None:
        body = await self.bucket.read(key)
        try:
            receipt = decode_receipt(key, body or b"")
        except BooksError as error:
            self._wrong(str(error))
            return
        if receipt.landed_at < self.plan.created_at:
            return  # of an earlier harvest of the same day, which `--again` does anew
        self.progress(len(self.batches) + 1, sum(len(names) for names in self.plan.batches.values()))
        if (receipt.collection, receipt.batch) in self.batches:
            return  # of a failed try, before the one that did not fail
        self.batches[receipt.collection, receipt.batch] = receipt.ids
        self.moved |= dict.fromkeys(receipt.moved, f"{receipt.collection}/{receipt.batch}")
        self.proof.books.take(receipt)
        for id_ in receipt.outcomes:
            if id_ in self.seen:
                self._wrong(f"{id_} has an outcome in {self.seen[id_]} and in {receipt.batch}")
            self.seen[id_] = receipt.batch
        found = [id_ for id_, told in receipt.outcomes.items() if told["outcome"] == "found"]
        ids = [id_ for file in receipt.files for id_ in await self._read_file(file, receipt.collection)]
        if ids != found:
            strange = sorted(set(ids) ^ set(found))[:3] or "in another order or twice"
            self._wrong(f"{receipt.collection}/{receipt.batch}: files and receipt differ in {strange}")

    async def _read_file(self, file: LandedFile, collection: Collection) -> list[str]:
        """The ids of the records in a data file."""
        self.files.add(file.key)
        body = await self.bucket.read(file.key)
        if body is None:
            self._wrong(f"{file.key} is gone")
            return []
        if len(body) != file.bytes or hashlib.sha256(body).hexdigest() != file.sha256:
            anew = self.others.get(stem(file.key))
            why = f"run {anew} has landed it anew" if anew else f"{len(body)} bytes of {file.bytes}, or others"
            self._wrong(f"{file.key} is not what landed: {why}")
        try:
            records = decode(body)
            ids = [str(record["imdb_id"]) for record in records]
            kinds = {str(record["harvest"]["kind"]) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            self._wrong(f"{file.key} has something else than records in it: {error!r}")
            return []
        if len(records) > BATCH_SIZE or (len(body) > FILE_BYTES and len(records) > 1):
            self._wrong(f"{file.key} is too large: {len(records)} records, {len(body)} bytes")
        if kinds - {KINDS[collection]}:
            self._wrong(f"{file.key} has records of {', '.join(sorted(kinds))} among {collection}")
        self.proof.records += len(records)
        return ids

    def _check_batches(self) -> None:
        """Every planned batch has a paper, and their ids are those the run's name speaks of."""
        ids: dict[Collection, list[str]] = {}
        complete = True
        for collection, names in cast("dict[Collection, list[str]]", self.plan.batches).items():
            ids[collection] = []
            for name in names:
                if (collection, name) not in self.batches:
                    self._wrong(f"{collection}/{name} has no receipt: harvest goes on with it")
                    complete = False
                ids[collection] += self.batches.get((collection, name), ())
        for id_, batch in self.moved.items():
            if id_ not in self.seen:
                self._wrong(f"{id_} has moved from {batch} and has no outcome")
        told = self.plan.settings
        mark = fingerprint(ids, language=told["tmdb_language"], append=told["tmdb_append"], form=told["output_format"])
        if complete and mark != self.plan.fingerprint:
            self._wrong(f"the ids of all receipts make the fingerprint {mark}, not {self.plan.fingerprint}")
        if complete and not self.proof.books.balance:
            self._wrong(f"of {self.proof.books.ids} ids {self.proof.books.accounted} have an outcome")

    def _check_strangers(self) -> None:
        """No data file stands where this run's do, but those of its papers and of other runs of the day."""
        ours = {name for _, name in self.batches}
        for key in self.listed.keys() - self.files:
            if stem(key) in ours or stem(key) not in self.others:
                self._wrong(f"{key} is in no receipt")

    async def _check_summary(self) -> None:
        body = await self.bucket.read(self.layout.summary_key)
        if body is None:
            if not self.proof.books.failed and not self.proof.problems:
                self._wrong(f"{self.layout.summary_key} is missing: harvest closes the books")
            return
        try:
            summary = orjson.loads(body)
            if summary["closed_at"] < self.plan.created_at:
                return
            self.proof.past = self.plan.run[:10] < utc()[:10]
            if summary["books"] != self.proof.books.as_json():
                self._wrong(f"{self.layout.summary_key} has other books than the receipts")
        except (ValueError, KeyError, TypeError) as error:
            self._wrong(f"{self.layout.summary_key} is not a summary: {error!r}")

    def _wrong(self, problem: str) -> None:
        self.proof.problems.append(problem)
