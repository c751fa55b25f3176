"""Verify: read a run, or all runs of a day, back from the bucket and check its totals.

Every data file is read, and its size, SHA-256 and records are compared with its receipt; the ids of all receipts
together with the run's fingerprint, and each fresh id with the run that has it. Only `repair` writes, and only on
request.
"""

from __future__ import annotations

import hashlib
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from harvester.commands.resources import Resources
from harvester.commands.result import result_json, run_ref, totals_json
from harvester.errors import CorruptLakeError, Exit, SettingsError
from harvester.formats.format import FILE_BYTES
from harvester.formats.registry import decode
from harvester.model.batch import BATCH_SIZE, Batch
from harvester.model.ids import KINDS
from harvester.model.ids_file import FrozenIds, decode_ids
from harvester.model.manifest import Manifest, Totals, decode_summary
from harvester.runs.checkpoint import Checkpoint, empty_checkpoint
from harvester.runs.data_files import DATA_BYTES, Warnings
from harvester.runs.documents import (
    cut_batches,
    read_document,
    read_ids,
    read_manifest,
    read_outcomes,
    read_receipt,
    runs_to_read,
)
from harvester.runs.lease import TIMES, LeaseTimes, hold_lease
from harvester.runs.other_runs import Day, HarvestedByOthers, read_day
from harvester.runs.repair import repair
from harvester.runs.run import FILES_AT_ONCE
from harvester.runtime.clock import utc_now
from harvester.runtime.concurrency import fan_out
from harvester.runtime.current_run import CURRENT_RUN, RunRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harvester.model.layout import Layout
    from harvester.model.receipt import LandedFile, Receipt
    from harvester.settings.settings import Settings
    from harvester.store.store import Listed, Store

    Progress = Callable[[int, int], object]


@dataclass(slots=True)
class VerificationReport:
    """What was read of the runs, and every problem found; each names the object it is in."""

    runs: list[str]
    day: str | None = None  # set where all runs of a day were read
    totals: Totals = field(default_factory=Totals)
    records: int = 0
    problems: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)  # runs of a day; no problem while each title is there once
    foreign: dict[str, Layout] = field(default_factory=dict)  # key to the layout of the run whose quarantine it goes to
    stale: list[str] = field(default_factory=list)  # keys of finished batches that their receipts do not name
    repaired: list[str] = field(default_factory=list)
    past: bool = False  # of an earlier day and reconciled: `harvest` begins a new run instead
    harvested: dict[str, str] = field(default_factory=dict)  # id to the key of the file with its record
    lake: str = ""
    summary_key: str | None = None  # of the one run read, if its summary is of the current generation
    started_at: str = ""  # UTC, as is `ended_at`
    ended_at: str = ""

    @property
    def exit_code(self) -> Exit:
        """What the command line exits with."""
        return Exit.WRONG if self.problems else Exit.CLOSED

    @property
    def left_to_harvest(self) -> bool:
        """Whether the next harvest repairs any of the problems."""
        return not self.past and len(self.problems) > len(self.foreign) + len(self.stale)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        day: dict[str, Any] = {"run": None, "day": self.day, "runs": self.runs} if self.day else {}
        return result_json(
            "wrong" if self.problems else "proved",
            self.exit_code,
            RunRef(self.runs[0], self.lake, self.summary_key),
            started_at=self.started_at,
            ended_at=self.ended_at,
            **day,
            totals=totals_json(self.totals),
            records=self.records,
            problems=self.problems,
            unfinished=self.unfinished,
            repaired=self.repaired,
            left_to_harvest=self.left_to_harvest,
        )


async def verify(
    settings: Settings,
    *,
    run: str | None = None,
    day: str | None = None,  # such as 2026-11-29
    repairing: bool = False,  # first take the lease, move foreign objects to quarantine and remove stale files
    times: LeaseTimes = TIMES,
    progress: Progress = lambda _read, _all: None,  # receipts read, and their total
) -> VerificationReport:
    """Verify `run`, all runs of a `day`, or the run that was at work last.

    Raises:
        CorruptLakeError: There is no such run, or its manifest cannot be read.
    """
    CURRENT_RUN.set(None)
    settings.require("s3_bucket")
    if run is not None and day is not None:
        raise SettingsError("--run and --day are both given: a run is of one day, so give one of the two")
    try:
        day = None if day is None else date.fromisoformat(day).isoformat()
    except ValueError:
        raise SettingsError(f"--day {day!r:.100} is no date: give one such as 2026-11-29") from None
    resources = Resources(settings)
    layout = resources.layout()
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(resources.lake())
        read = partial(_read, bucket, layout, run, day, progress, started_at=utc_now())
        if not repairing:
            return await read()
        lease = await stack.enter_async_context(hold_lease(bucket, layout.lease_key, times=times))
        verification = await read()
        if verification.foreign or verification.stale:
            repaired = await repair(bucket, verification.foreign, verification.stale, check=lease.check)
            verification = await read()
            verification.repaired = repaired
        return verification


async def _read(
    bucket: Store, layout: Layout, run: str | None, day: str | None, progress: Progress, *, started_at: str
) -> VerificationReport:
    verification = VerificationReport(await runs_to_read(bucket, layout, run=run, day=day), day, started_at=started_at)
    verification.lake = run_ref(bucket, layout).lake
    for name in verification.runs:
        CURRENT_RUN.set(run_ref(bucket, replace(layout, run=name)))
        await _read_run(bucket, replace(layout, run=name), verification, progress)
    if day:
        CURRENT_RUN.set(None)
    verification.problems.sort()
    verification.ended_at = utc_now()
    return verification


async def _read_run(bucket: Store, layout: Layout, verification: VerificationReport, progress: Progress) -> None:
    try:
        manifest = await read_manifest(bucket, layout)
    except CorruptLakeError as error:
        if verification.day is None:
            raise
        stored = await bucket.objects(layout.folder)
        if layout.manifest_key in stored or any(key.startswith(layout.receipts) for key in stored):
            verification.problems.append(str(error))
        elif stored:  # killed before the manifest; S3 lists empty folders too
            verification.unfinished.append(layout.run)
        return
    if manifest.options.key_template != layout.template:
        raise SettingsError(
            f"{layout.run} was harvested with S3_KEY_TEMPLATE {manifest.options.key_template!r}, which is now "
            f"{layout.template!r}: set it to that of the run"
        )
    day = await read_day(bucket, layout, Warnings())
    key = layout.ids_key(manifest.generation)
    body, sha256 = await read_ids(bucket, key)
    try:
        frozen = decode_ids(body)
    except ValueError as error:
        verification.problems.append(f"{key} is not the ids of this run: {error}")
        return
    if sha256 != manifest.ids_sha256:
        verification.problems.append(f"{key} is not what {layout.manifest_key} says: its SHA-256 differs")
    frozen = replace(frozen, ids={collection: frozen.ids.get(collection, []) for collection in manifest.input})
    by_others = await day.harvested_by_others({id_ for some in frozen.ids.values() for id_ in some})
    checkpoint = empty_checkpoint(day, manifest, by_others, manifest.names)
    batches, fresh = cut_batches(frozen.ids, frozen.fresh), dict(frozen.fresh)
    await _Reading(day, manifest, frozen, batches, by_others, checkpoint, verification, fresh, progress).read()


@dataclass(slots=True)
class _Reading:
    """The state of reading one run."""

    day: Day
    manifest: Manifest
    frozen: FrozenIds
    batches: list[Batch]
    by_others: HarvestedByOthers
    checkpoint: Checkpoint
    verification: VerificationReport
    fresh: dict[str, str]  # each fresh id, and the run that should have it
    progress: Progress
    complete: bool = True  # nothing left to do was found so far
    fits: bool = True  # manifest and ids agree; otherwise nothing is repaired

    async def read(self) -> None:
        self._check_ids()
        stored = await self.day.bucket.objects(self.day.layout.receipts)
        await fan_out(self._read_receipt, stored.items(), at_once=FILES_AT_ONCE)
        self._check_outcomes()
        await self._check_files()
        await self._check_summary()
        self.verification.totals.add(self.checkpoint.totals)

    def _check_ids(self) -> None:
        """Check the ids against the run's fingerprint, and their number and batches against the manifest."""
        layout, manifest, frozen = self.day.layout, self.manifest, self.frozen
        fingerprint = manifest.options.fingerprint(frozen.ids)
        if not layout.run.endswith(fingerprint):
            self._wrong(f"the ids and options of {layout.run} make the fingerprint {fingerprint}")
        counts = {name: (len(ids), frozen.rejected.get(name, 0)) for name, ids in frozen.ids.items()}
        expected = {name: (account.ids, account.rejected) for name, account in manifest.input.items()}
        names = frozenset(batch.name for batch in self.batches)
        self.fits = (counts, len(frozen.fresh), names) == (expected, manifest.fresh, manifest.names)
        if not self.fits:
            key = layout.ids_key(manifest.generation)
            self._wrong(f"{layout.manifest_key} has other counts or batches than follow from {key}")

    async def _read_receipt(self, stored: tuple[str, Listed]) -> None:
        key, listed = stored
        try:
            receipt = await read_receipt(self.day.bucket, self.day.layout, key)
        except CorruptLakeError as error:
            self._wrong(str(error))
            return
        if receipt.batch not in self.manifest.names:
            self._wrong(f"{key} is a receipt of no batch of this run")
            return
        taken_over = any(file.key in self.by_others.files for file in receipt.files)  # by a run with the same batch
        if receipt.generation == self.manifest.generation and not taken_over:
            self.checkpoint.add(key, receipt, listed.etag)
            self.progress(len(self.checkpoint.receipts), len(self.manifest.names))
            self.fresh |= {
                id_: outcome["run"] for id_, outcome in receipt.outcomes.items() if outcome["outcome"] == "fresh"
            }
            await self._check_receipt(receipt)

    async def _check_receipt(self, receipt: Receipt) -> None:
        """Check that the files of a receipt have the records that it names, in the order of the batch."""
        recorded = receipt.recorded
        for collection, kind in KINDS.items():
            expected = [id_ for id_ in receipt.ids if recorded.get(id_) == kind]
            ids: list[str] = []
            for file in receipt.files:
                if (ours := self.day.layout.parse(file.key)) and ours.collection == collection:
                    ids += await self._ids_in(file.key, file)
            if ids != expected:
                unexpected = sorted(set(ids) ^ set(expected))[:3] or "in another order or twice"
                self._wrong(f"{receipt.collection}/{receipt.batch}: files and receipt differ in {unexpected}")

    async def _ids_in(self, key: str, landed: LandedFile | None = None) -> list[str]:
        """The ids of the records in a data file; checks the file against `landed`, and that no other file has them."""
        if (listed := self.day.listed.get(key)) is None:
            self._wrong(f"{key} is gone")
            return []
        too_large = listed.bytes > DATA_BYTES  # to be one of ours
        body = b"" if too_large else await self.day.bucket.read(key) or b""
        if landed and len(body) != landed.bytes:
            self._wrong(f"{key} is not what landed: it has {len(body)} bytes, not {landed.bytes}")
        elif landed and hashlib.sha256(body).hexdigest() != landed.sha256:
            self._wrong(f"{key} is not what landed: its SHA-256 differs")
        try:
            records = decode(body)
            ids = [str(record["imdb_id"]) for record in records]
            kinds = {str(record["harvest"]["kind"]) for record in records}
        except (ValueError, KeyError, TypeError) as error:
            problem = f"a record without {error}" if isinstance(error, KeyError) else error
            self._wrong(f"{key} has something other than records in it: {problem}")
            return []
        if len(records) > BATCH_SIZE or (len(body) > FILE_BYTES and len(records) > 1):
            self._wrong(f"{key} is too large: {len(records)} records, {len(body)} bytes")
        if (ours := self.day.layout.parse(key)) and kinds - {KINDS[ours.collection]}:
            self._wrong(f"{key} has records of {', '.join(sorted(kinds))} among {ours.collection}")
        self.verification.records += len(records)
        for id_ in ids:
            if before := self.verification.harvested.get(id_):
                self._wrong(f"{id_} is in {before} and in {key}" if before != key else f"{id_} is in {key} twice")
            self.verification.harvested[id_] = key
        return ids

    def _check_outcomes(self) -> None:
        """Check that every batch has a receipt, every id an outcome, and another run of the day has each fresh id."""
        for batch in self.batches:
            if batch.name not in self.checkpoint.outcomes:
                self._unfinished(f"{batch.collection}/{batch.name} has no receipt: harvest goes on with it")
        totals = self.checkpoint.totals
        if self.complete and not totals.reconciles:
            self._wrong(f"of {totals.ids} ids {totals.with_outcome} have an outcome")
        if ids := self.fresh.keys() - self.by_others.owners(self.fresh):
            runs = sorted({self.fresh[id_] for id_ in ids})
            self._wrong(f"{len(ids)} ids are fresh by {', '.join(runs)}, which does not have them: {sorted(ids)[:3]}")

    async def _check_files(self) -> None:
        """Check that the data folders have only files of this run's receipts and of other runs of the day."""
        for key in self.day.foreign(self.manifest.names):
            if key not in self.verification.foreign:  # of a day, another run may have reported it
                self._wrong(f"{key} is foreign: no run of the day has such a file; --repair moves it away")
                if self.fits:
                    self.verification.foreign[key] = self.day.layout
        for name, files in self.checkpoint.files.items():
            if any(name in other.names for other in self.day.others):
                continue  # the file may be of the same batch in another run, which is not done with it
            for key in files.keys() - self.checkpoint.landed.keys():
                if self.checkpoint.tried.get(name) is False:
                    self._wrong(f"{key} is in no receipt: --repair removes it")
                    if self.fits:
                        self.verification.stale.append(key)
                elif self.verification.day:
                    await self._ids_in(key)

    async def _check_summary(self) -> None:
        """Check that summary and outcomes are of this generation and agree with the receipts."""
        bucket, layout = self.day.bucket, self.day.layout
        key = layout.summary_key
        try:
            summary = decode_summary(layout, await read_document(bucket, key))
            problem = f"{key} is of an earlier generation"
        except CorruptLakeError as error:
            summary, problem = None, str(error)
        if summary is None or summary.generation != self.manifest.generation:
            if self.complete:
                self._unfinished(f"{problem}: harvest reconciles the totals")
            return
        if self.verification.day is None:
            self.verification.summary_key = key
        self.verification.past = self.verification.past or layout.date < utc_now()[:10]
        if summary.totals != self.checkpoint.totals.as_json():
            self._wrong(f"{key} has other totals than the receipts")
        outcomes = await read_outcomes(bucket, layout, summary.digests.outcomes)
        if outcomes is None:
            self._wrong(f"{layout.outcomes_key} is gone or not what the summary says")
        elif self.complete and not self._are_expected(outcomes):
            self._wrong(f"{layout.outcomes_key} has other outcomes than the receipts")

    def _are_expected(self, outcomes: Iterable[tuple[str, dict[str, Any]]]) -> bool:
        expected = self.checkpoint.outcomes_in_order(self.frozen.ids, self.frozen.fresh, self.batches)
        try:
            written = ({"id": id_} | outcome for id_, outcome in outcomes)
            return all(one == other for one, other in itertools.zip_longest(written, expected))
        except ValueError:
            return False

    def _unfinished(self, problem: str) -> None:
        """Note that something is left to do: a problem if one run is verified, none if a day is."""
        if self.verification.day is None:
            self._wrong(problem)
        elif self.day.layout.run not in self.verification.unfinished:
            self.verification.unfinished.append(self.day.layout.run)
        self.complete = False

    def _wrong(self, problem: str) -> None:
        self.verification.problems.append(problem)
