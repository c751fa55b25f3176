"""Verify: read a run, or a day over all its runs, back from the bucket and prove its books.

Nothing is believed but the bytes: every data file is read, measured, digested and parsed, and held against its
receipt; the ids of all receipts together are held against the run's fingerprint, and each id that is fresh against the
run that has it. Nothing is written but by `repair`, which is asked for.
"""

from __future__ import annotations

import hashlib
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import orjson

from harvester.batches import BATCH_SIZE, cut
from harvester.books import Books
from harvester.checkpoint import Checkpoint
from harvester.data_files import DATA_BYTES, Notices, by_batch, list_data, read_document, run_names
from harvester.errors import BooksError, SettingsError
from harvester.fan_out import fan_out
from harvester.ids_file import GZIP_BYTES, decode_ids, decode_outcomes
from harvester.layout import RUNS, Layout
from harvester.lease import LeaseTimes, hold_lease
from harvester.manifest import decode_manifest, decode_summary
from harvester.opening import open_bucket_of
from harvester.other_runs import Standing, foreign_keys, read_other_runs, read_receipt, read_standing
from harvester.records import FILE_BYTES, decode
from harvester.repair import repair
from harvester.run import utc
from harvester.titles import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harvester.batches import Batch
    from harvester.manifest import Manifest
    from harvester.other_runs import OtherRun
    from harvester.receipts import LandedFile, Receipt
    from harvester.s3 import Bucket, Listed
    from harvester.settings import Settings
    from harvester.titles import Collection

READS_AT_ONCE = 8
"""Files of up to 10 MB, in memory at once."""


@dataclass(slots=True)
class Proof:
    """What was read of the runs, and every problem found, each naming what it was found in.

    Attributes:
        runs: The runs that were read.
        day: The day that was read over all its runs, if one was.
        unfinished: Those of a day's runs that have not been closed; no harm where every title stands once.
        past: The run is of an earlier day and was closed, so `harvest` collects anew instead of doing it again.
        foreign: Keys of foreign objects, with the run in whose quarantine they belong.
        stale: Keys of files under the name of a batch that is done, which its receipt does not name.
        repaired: What `--repair` has moved away or removed.
        standing: The key that each id has its record in.
    """

    runs: list[str]
    day: str | None = None
    books: Books = field(default_factory=Books)
    records: int = 0
    problems: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    foreign: dict[str, Layout] = field(default_factory=dict)
    stale: dict[str, Layout] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)
    past: bool = False
    standing: dict[str, str] = field(default_factory=dict)

    @property
    def left_to_harvest(self) -> bool:
        """Whether the next harvest does something again of what is wrong."""
        return not self.past and len(self.problems) > len(self.foreign) + len(self.stale)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        what: dict[str, Any] = {"day": self.day, "runs": self.runs} if self.day else {"run": self.runs[0]}
        return what | {
            "status": "wrong" if self.problems else "proved",
            "records": self.records,
            "books": self.books.as_json(),
            "problems": self.problems,
            "unfinished": self.unfinished,
            "repaired": self.repaired,
            "mended_by_harvest": self.left_to_harvest,
        }


async def verify(
    settings: Settings,
    *,
    run: str | None = None,
    day: str | None = None,
    repairing: bool = False,
    times: LeaseTimes | None = None,
    progress: Callable[[int, int], object] = lambda _done, _all: None,
) -> Proof:
    """The proof of `run`, of all runs of a `day`, or of the run that was at work last.

    Args:
        day: Such as 2026-11-29.
        repairing: First move foreign objects to quarantine and remove stale files of ours, with the lease.
        times: Of the lease, which is waited for.
        progress: Called with the receipts read and their total.

    Raises:
        BooksError: There is no such run, or its manifest cannot be read.
        SettingsError: Both a run and a day are given, or something else than either.
    """
    settings.need("s3_bucket")
    if run is not None and day is not None:
        raise SettingsError("--run and --day are both given: a run is of one day, so give one of the two")
    try:
        day = None if day is None else date.fromisoformat(day).isoformat()
    except ValueError:
        raise SettingsError(f"--day {day!r:.100} is no day: give one such as 2026-11-29") from None
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(open_bucket_of(settings))
        if not repairing:
            return await _read(bucket, settings, run, day, progress)
        key = Layout(settings.s3_prefix, settings.s3_key_template, "").lease_key
        lease = await stack.enter_async_context(hold_lease(bucket, key, times=times or LeaseTimes()))
        proof = await _read(bucket, settings, run, day, progress)
        if proof.foreign or proof.stale:
            repaired = await repair(bucket, proof.foreign, proof.stale, check=lease.check)
            proof = await _read(bucket, settings, run, day, progress)
            proof.repaired = repaired
        return proof


async def _read(
    bucket: Bucket, settings: Settings, run: str | None, day: str | None, progress: Callable[[int, int], object]
) -> Proof:
    """The proof of what stands now."""
    names = await run_names(bucket, settings.s3_prefix)
    where = f"s3://{bucket.name}/{settings.s3_prefix}/{RUNS}/"
    if day is None:
        run = run or await _last_at_work(bucket, settings, names)
        if run not in names:
            raise BooksError(f"There is no run to verify below {where}{run or ''}: harvest first")
        names = [run]
    elif not (names := [name for name in names if name[:10] == day]):
        raise BooksError(f"There is no run of {day} to verify below {where}: harvest first")
    proof = Proof(names, day)
    for name in names:
        await _read_run(bucket, Layout(settings.s3_prefix, settings.s3_key_template, name), proof, progress)
    proof.problems.sort()
    return proof


async def _last_at_work(bucket: Bucket, settings: Settings, names: Sequence[str]) -> str | None:
    """The run that the lease names; else the last by name."""
    body = await read_document(bucket, Layout(settings.s3_prefix, settings.s3_key_template, "").lease_key)
    try:
        named = orjson.loads(body or b"{}").get("run")
    except (ValueError, AttributeError):
        named = None
    return named if named in names else names[-1] if names else None


async def _read_run(bucket: Bucket, layout: Layout, proof: Proof, progress: Callable[[int, int], object]) -> None:
    body = await read_document(bucket, layout.manifest_key)
    if body is None and proof.day and not await bucket.objects(layout.receipts):
        if await bucket.objects(layout.folder):  # killed before the manifest; S3 lists empty folders too
            proof.unfinished.append(layout.run)
        return
    try:
        manifest = decode_manifest(layout, body)
    except BooksError as error:
        if proof.day is None:
            raise
        proof.problems.append(str(error))
        return
    if manifest.options.key_template != layout.template:
        raise SettingsError(
            f"{layout.run} was harvested with S3_KEY_TEMPLATE {manifest.options.key_template!r}, which is now "
            f"{layout.template!r}: set it to that of the run"
        )
    await _Reading(bucket, manifest, layout, proof, progress).read()


@dataclass(slots=True)
class _Reading:
    """One reading of a run: what of it has been seen so far.

    Attributes:
        checkpoint: What the receipts of the manifest's generation say.
        ids: The ids of the generation, by collection.
        marks: Those of them that were fresh when it began, with the run that has them.
        batches: What the others make.
        fresh: All ids that are fresh, with the run that is said to have them.
        complete: Whether nothing is left to do, as far as has been seen.
        fits: Whether manifest and ids say the same; otherwise nothing is repaired by what they say.
    """

    bucket: Bucket
    manifest: Manifest
    layout: Layout
    proof: Proof
    progress: Callable[[int, int], object]
    checkpoint: Checkpoint = field(init=False)
    listed: dict[str, Listed] = field(default_factory=dict)
    others: list[OtherRun] = field(default_factory=list)
    standing: Standing = field(default_factory=Standing)
    ids: dict[Collection, list[str]] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    fresh: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    fits: bool = True

    async def read(self) -> None:
        self.listed = await list_data(self.bucket, self.layout)
        self.others = await read_other_runs(self.bucket, self.layout, Notices())
        if not await self._read_ids():
            return
        wanted = {id_ for some in self.ids.values() for id_ in some}
        self.standing = await read_standing(self.bucket, self.others, self.listed, Notices(), wanted=wanted)
        ours = {key: file for key, file in self.listed.items() if key not in self.standing.files}
        self.checkpoint = Checkpoint(by_batch(self.layout, ours, self.manifest.names), self.manifest.books())
        keys = await self.bucket.objects(self.layout.receipts)
        await fan_out(self._read_receipt, keys, at_once=READS_AT_ONCE)
        self._check_batches()
        self._check_fresh()
        await self._check_files()
        await self._check_closing()
        self.proof.books.add(self.checkpoint.books)

    async def _read_ids(self) -> bool:
        key = self.layout.ids_key(self.manifest.generation)
        try:
            frozen = decode_ids(await read_document(self.bucket, key, limit=GZIP_BYTES) or b"")
        except ValueError as error:
            self._wrong(f"{key} is not the ids of this run: {error}")
            return False
        self.ids = {collection: frozen.ids.get(collection, []) for collection in self.manifest.input}
        self.marks = frozen.fresh
        self.fresh |= frozen.fresh
        for collection, ids in self.ids.items():
            self.batches += cut(collection, (id_ for id_ in ids if id_ not in frozen.fresh))
        mark = self.manifest.options.fingerprint(self.ids)
        if not self.layout.run.endswith(mark):
            self._wrong(f"the ids and options of {self.layout.run} make the fingerprint {mark}")
        same = len(frozen.fresh) == self.manifest.fresh and all(
            (account.ids, account.rejected) == (len(self.ids[collection]), frozen.rejected.get(collection, 0))
            for collection, account in self.manifest.input.items()
        )
        if not same or {batch.name for batch in self.batches} != self.manifest.names:
            self._wrong(f"{self.layout.manifest_key} has other counts or batches than {key} makes")
            self.fits = False
        return True

    async def _read_receipt(self, key: str) -> None:
        try:
            receipt = await read_receipt(self.bucket, self.layout, key)
        except BooksError as error:
            self._wrong(str(error))
            return
        if receipt.batch not in self.manifest.names:
            self._wrong(f"{key} is a receipt of no batch of this run")
            return
        taken_over = any(file.key in self.standing.files for file in receipt.files)  # by a run with the same batch
        if receipt.generation == self.manifest.generation and not taken_over:
            self.checkpoint.take(key, receipt)
            self.progress(len(self.checkpoint.receipts), len(self.manifest.names))
            self.fresh |= {id_: told["run"] for id_, told in receipt.outcomes.items() if told["outcome"] == "fresh"}
            await self._check_receipt(receipt)

    async def _check_receipt(self, receipt: Receipt) -> None:
        """The records in the files of a receipt are those that it says, in the order of the batch."""
        recorded = receipt.recorded
        for collection, kind in KINDS.items():
            expected = [id_ for id_ in receipt.ids if recorded.get(id_) == kind]
            files = [file for file in receipt.files if self._collection(file.key) == collection]
            ids = [id_ for file in files for id_ in await self._read_file(file, collection)]
            if ids != expected:
                strange = sorted(set(ids) ^ set(expected))[:3] or "in another order or twice"
                self._wrong(f"{receipt.collection}/{receipt.batch}: files and receipt differ in {strange}")

    def _collection(self, key: str) -> Collection | None:
        file = self.layout.parse(key)
        return file.collection if file else None

    async def _read_file(self, file: LandedFile, collection: Collection) -> list[str]:
        """The ids of the records in a data file that a receipt names."""
        if file.key not in self.listed:
            self._wrong(f"{file.key} is gone")
            return []
        body = await self._body(file.key)
        if len(body) != file.bytes or hashlib.sha256(body).hexdigest() != file.sha256:
            why = f"{len(body)} bytes of {file.bytes}" if len(body) != file.bytes else "another SHA-256"
            self._wrong(f"{file.key} is not what landed: {why}")
        return self._ids_in(file.key, body, collection)

    async def _body(self, key: str) -> bytes:
        """A data file's bytes; none of one that is larger than any of ours."""
        return (await self.bucket.read(key) or b"") if self.listed[key].bytes <= DATA_BYTES else b""

    def _ids_in(self, key: str, body: bytes, collection: Collection) -> list[str]:
        """The ids of the records in `body`; each stands in one file of the day, whichever run it is of."""
        try:
            records = decode(body)
            ids = [str(record["imdb_id"]) for record in records]
            kinds = {str(record["harvest"]["kind"]) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            self._wrong(f"{key} has something else than records in it: {error!r}")
            return []
        if len(records) > BATCH_SIZE or (len(body) > FILE_BYTES and len(records) > 1):
            self._wrong(f"{key} is too large: {len(records)} records, {len(body)} bytes")
        if kinds - {KINDS[collection]}:
            self._wrong(f"{key} has records of {', '.join(sorted(kinds))} among {collection}")
        self.proof.records += len(records)
        for id_ in ids:
            if before := self.proof.standing.get(id_):
                self._wrong(f"{id_} is in {before} and in {key}" if before != key else f"{id_} is in {key} twice")
            self.proof.standing[id_] = key
        return ids

    def _check_batches(self) -> None:
        """Every batch has a receipt, and every id an outcome."""
        for batch in self.batches:
            if batch.name not in self.checkpoint.outcomes:
                self._unfinished(f"{batch.collection}/{batch.name} has no receipt: harvest goes on with it")
        if self.complete and not self.checkpoint.books.balance:
            books = self.checkpoint.books
            self._wrong(f"of {books.ids} ids {books.accounted} have an outcome")

    def _check_fresh(self) -> None:
        """Each fresh id stands under the run that is said to have it, or that has done the same batch since."""
        if ids := self.fresh.keys() - self.standing.of(self.fresh):
            runs = sorted({self.fresh[id_] for id_ in ids})
            self._wrong(f"{len(ids)} ids are fresh by {', '.join(runs)}, which does not have them: {sorted(ids)[:3]}")

    async def _check_files(self) -> None:
        """No data file stands where this run's do, but those of its receipts and of other runs of the day."""
        for key in foreign_keys(self.layout, self.listed, self.manifest.names, self.others):
            if key not in self.proof.foreign:  # of a day, the first of its runs has named it
                self._wrong(f"{key} is foreign: no run of the day has such a file; --repair moves it away")
                self.proof.foreign |= {key: self.layout} if self.fits else {}
        for name, files in self.checkpoint.files.items():
            for key in files.keys() - self.checkpoint.landed.keys():
                if any(name in other.names for other in self.others):
                    continue  # of a batch of that name that another run has still to do
                if self.checkpoint.tried.get(name) is False:
                    self._wrong(f"{key} is in no receipt: --repair removes it")
                    self.proof.stale |= {key: self.layout} if self.fits else {}
                elif self.proof.day and (collection := self._collection(key)):
                    self._ids_in(key, await self._body(key), collection)

    async def _check_closing(self) -> None:
        """The summary and the outcomes are of this generation, and say what the receipts say."""
        key = self.layout.summary_key
        try:
            summary = decode_summary(self.layout, await read_document(self.bucket, key))
            problem = f"{key} is of an earlier generation"
        except BooksError as error:
            summary, problem = None, str(error)
        if summary is None or summary.generation != self.manifest.generation:
            if self.complete:
                self._unfinished(f"{problem}: harvest closes the books")
            return
        self.proof.past = self.proof.past or self.layout.date < utc()[:10]
        if summary.books != self.checkpoint.books.as_json():
            self._wrong(f"{key} has other books than the receipts")
        outcomes = await read_document(self.bucket, self.layout.outcomes_key, limit=GZIP_BYTES) or b""
        if hashlib.sha256(outcomes).hexdigest() != summary.digests.outcomes:
            self._wrong(f"{self.layout.outcomes_key} is gone or not what the summary says")
        elif self.complete and not self._are_outcomes(outcomes):
            self._wrong(f"{self.layout.outcomes_key} has other outcomes than the receipts")

    def _are_outcomes(self, body: bytes) -> bool:
        expected = self.checkpoint.outcomes_in_order(self.ids, self.marks, self.batches)
        try:
            written = ({"id": id_} | outcome for id_, outcome in decode_outcomes(body))
            return all(one == other for one, other in itertools.zip_longest(written, expected))
        except ValueError:
            return False

    def _unfinished(self, problem: str) -> None:
        """Something is left to do: a harm of the run, if it is asked for by name, and none of its day."""
        if self.proof.day is None:
            self._wrong(problem)
        elif self.layout.run not in self.proof.unfinished:
            self.proof.unfinished.append(self.layout.run)
        self.complete = False

    def _wrong(self, problem: str) -> None:
        self.proof.problems.append(problem)
