"""A run: its pending batches, how a batch lands, and how the totals are reconciled at the end.

A batch's data files land first, its receipt last. All files of a batch have its name, movies in one collection's folder
and series in the other's, so a reclassified title lands in the same pass. A failure removes nothing that has landed.
Nothing is deleted: a file that the batch no longer fills is overwritten by an empty one.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from harvester.errors import CorruptLakeError, StoppedError
from harvester.model.documents import encode_document
from harvester.model.ids import KINDS
from harvester.model.ids_file import encode_ids, encode_outcomes
from harvester.model.manifest import Digests, Manifest, Summary, decode_summary
from harvester.model.outcome import Failed, Found, is_tmdb_id
from harvester.model.receipt import LandedFile, Receipt, outcome_json
from harvester.runs.data_files import is_as_landed, list_data, read_records
from harvester.runs.documents import listing_digest, read_document, read_manifest, read_receipt
from harvester.runtime.clock import CLOCK, Clock
from harvester.runtime.concurrency import fan_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.formats.format import File, Format
    from harvester.model.batch import Batch
    from harvester.model.ids import Collection
    from harvester.model.inputs import InputIds
    from harvester.model.layout import Layout
    from harvester.model.manifest import Totals
    from harvester.model.outcome import Outcome
    from harvester.runs.checkpoint import Checkpoint
    from harvester.runs.lease import Lease
    from harvester.store.store import Listed, Store

_log = logging.getLogger(__name__)

PROBLEMS_SHOWN = 5

LISTING_TRIES, LISTING_SECONDS = 10, 1.0
"""Requests, and seconds between them, for a listing that lacks what has just been written."""

FILES_AT_ONCE = 8  # files of up to 10 MB, in memory


@dataclass(slots=True)
class Run:
    """One generation of one run, from its manifest to its summary; made by `open_run` and `open_part`."""

    bucket: Store
    layout: Layout
    manifest: Manifest
    checkpoint: Checkpoint  # what the lake has: when the run was opened, and committed since
    batches: list[Batch]  # in order; of a part, those of the part
    pending: list[Batch]  # the batches that were not done when it was opened
    inputs: Mapping[Collection, InputIds] = field(default_factory=dict)  # empty for a part
    fresh: Mapping[str, str] = field(default_factory=dict)  # ids fresh when the generation began, with their run
    fresh_since: Mapping[str, str] = field(default_factory=dict)  # pending ids that another run has harvested since
    etag: str | None = None  # of the manifest to replace, if there is one
    begun: bool = True  # the manifest in the lake is this one
    closed: bool = False  # it has a summary, with nothing failed
    finished: bool = False  # closed, and nothing has changed in the lake since
    attempt: str | None = None  # of a fan-out; written into the receipts
    lease: Lease | None = None
    clock: Clock = CLOCK

    @property
    def name(self) -> str:
        """`{date}-{fingerprint}`."""
        return self.layout.run

    @property
    def totals(self) -> Totals:
        """Totals of the input and of the current receipts."""
        return self.checkpoint.totals

    async def begin(self) -> bool:
        """Write the ids of a new generation, then its manifest; whether the manifest in the lake is ours.

        If another harvest was faster, the run is to be opened again.
        """
        if self.begun:
            return True
        ids = encode_ids(self.inputs, self.fresh)
        self.manifest = replace(self.manifest, ids_sha256=hashlib.sha256(ids).hexdigest())
        await self.bucket.land(self.layout.ids_key(self.manifest.generation), ids)
        await self.bucket.put_if(self.layout.manifest_key, encode_document(self.manifest), etag=self.etag)
        self.begun = await self._is_current()  # always read back: some servers ignore the condition
        return self.begun

    async def _is_current(self) -> bool:
        """Whether the manifest in the lake is of this generation."""
        try:
            manifest = await read_manifest(self.bucket, self.layout)
        except CorruptLakeError:
            return False
        return manifest.generation == self.manifest.generation

    async def check_lease(self) -> None:
        """Renew the lease if needed, before each write; a LeaseLostError if another harvest has taken over."""
        if self.lease:
            await self.lease.check()

    async def land(self, key: str, file: File, *, content_type: str) -> LandedFile:
        """Write a data file of this run; a LeaseLostError if another harvest has taken over."""
        etag = await self.bucket.land(key, file.body, content_type=content_type, check=self.check_lease)
        return LandedFile(key, file.records, len(file.body), hashlib.sha256(file.body).hexdigest(), etag)

    async def close(self) -> None:
        """Reconcile the totals with what the bucket lists now; write the outcomes, then the summary.

        A CorruptLakeError if the totals do not reconcile, or the bucket differs from the receipts.
        """
        receipts, data_files, problems = await self._reconcile()
        if not self.totals.reconciles:
            problems.append(f"of {self.totals.ids} ids {self.totals.with_outcome} have an outcome")
        if problems:
            shown = "; ".join(sorted(problems)[:PROBLEMS_SHOWN])
            why = f"The totals do not reconcile ({len(problems)} problems): {shown}."
            raise CorruptLakeError(f"{why} Harvest again to do what is missing.")
        ids = {collection: input_ids.ids for collection, input_ids in self.inputs.items()}
        outcomes = encode_outcomes(self.checkpoint.outcomes_in_order(ids, self.fresh, self.batches))
        await self.bucket.land(self.layout.outcomes_key, outcomes, check=self.check_lease)
        await abort_uploads(self.bucket, self.layout)  # such as one whose response was lost
        files = {key: data_files[key] for key in self.checkpoint.landed}
        digests = Digests(listing_digest(files), listing_digest(receipts), hashlib.sha256(outcomes).hexdigest())
        summary = Summary(self.name, self.manifest.generation, self.clock.now(), self.totals.as_json(), digests)
        with suppress(CorruptLakeError):  # there is none, or it is invalid
            before = decode_summary(self.layout, await read_document(self.bucket, self.layout.summary_key))
            summary = replace(summary, unknown=before.unknown)
        await self.check_lease()
        if not await self._is_current():
            raise StoppedError(f"Another generation of {self.name} has begun meanwhile: run again to resume that one.")
        await self.bucket.put(self.layout.summary_key, encode_document(summary))

    async def _reconcile(self) -> tuple[dict[str, Listed], dict[str, Listed], list[str]]:
        """The current receipts and all data files, as listed now, and the problems with them.

        A listing may lag behind what was just written, so it is requested again before anything counts as gone.
        """
        current, landed = self.checkpoint.receipts, self.checkpoint.landed
        for tries in range(LISTING_TRIES):
            if tries:
                await self.clock.sleep(LISTING_SECONDS)
            listed = await self.bucket.objects(self.layout.receipts)
            data_files = await list_data(self.bucket, self.layout)
            gone = [key for key in current if key not in listed]
            gone += [
                key for key, file in landed.items() if key not in data_files or data_files[key].bytes != file.bytes
            ]
            if not gone:
                break
        problems = [f"{key} is gone or not what landed" for key in gone]
        changed = [key for key, etag in current.items() if key in listed and listed[key].etag != etag]
        own = await fan_out(self._is_own_receipt, changed, at_once=FILES_AT_ONCE)
        problems += [f"{key} is not what was written" for key, is_own in zip(changed, own, strict=True) if not is_own]
        differing = [file for key, file in landed.items() if key not in gone and data_files[key].etag != file.etag]
        if differing:
            _log.warning("etags_differ", extra={"count": len(differing), "first": differing[0].key})
        check = partial(is_as_landed, bucket=self.bucket, listed=data_files)
        valid = await fan_out(check, differing, at_once=FILES_AT_ONCE)
        altered = [file for file, is_valid in zip(differing, valid, strict=True) if not is_valid]
        problems += [f"{file.key} is not what landed" for file in altered]
        return {key: listed[key] for key in current if key in listed}, data_files, problems

    async def _is_own_receipt(self, key: str) -> bool:
        """Whether the receipt at `key` is the one that was counted; a late put may have replaced it."""
        with suppress(CorruptLakeError):
            receipt = await read_receipt(self.bucket, self.layout, key)
            return receipt.generation == self.manifest.generation and self.checkpoint.has(receipt)
        return False


async def land_batch(
    run: Run, batch: Batch, outcomes: Sequence[Outcome], lines: dict[str, bytes], *, form: Format
) -> Receipt:
    """Write the records of `batch`, then its receipt; a LeaseLostError if another harvest has taken over.

    `outcomes` are in the order of its ids. `lines` has the record of each found title by id, and is emptied meanwhile.
    """
    by_id = dict(zip(batch.ids, outcomes, strict=True))
    kinds = {id_: outcome.kind for id_, outcome in by_id.items() if isinstance(outcome, Found)}
    failed = {id_ for id_, outcome in by_id.items() if isinstance(outcome, Failed)}
    earlier = await _earlier_records(run, batch, failed) if failed else {}
    for id_, record in earlier.items():
        kinds[id_], lines[id_] = record["harvest"]["kind"], orjson.dumps(record)
    files: list[LandedFile] = []
    for collection in sorted(KINDS, key=lambda name: name != batch.collection):
        of_kind = (lines.pop(id_) for id_ in batch.ids if kinds.get(id_) == KINDS[collection])
        for number, file in enumerate(form.encode(of_kind), 1):
            key = run.layout.data_key(collection, batch.name, number)
            files.append(await run.land(key, file, content_type=form.content_type))
    filled = {file.key for file in files}
    unfilled = [key for key in run.checkpoint.files.get(batch.name, {}) if key not in filled]
    empty = form.empty_file()
    files += [await run.land(key, empty, content_type=form.content_type) for key in unfilled]
    written: Any = {id_: outcome_json(id_, outcome, _origin(earlier.get(id_, {}))) for id_, outcome in by_id.items()}
    receipt = Receipt(
        batch=batch.name,
        collection=batch.collection,
        run=run.name,
        generation=run.manifest.generation,
        attempt=run.attempt,
        files=tuple(files),
        outcomes=written,
        landed_at=run.clock.now(),
    )
    key = run.layout.receipt_key(batch.collection, batch.name)
    await run.check_lease()
    etag = await run.bucket.put(key, encode_document(receipt))
    run.checkpoint.add(key, receipt, etag)
    return receipt


async def _earlier_records(run: Run, batch: Batch, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The records of these `ids` in the batch's files, as an earlier pass has landed them."""
    wanted = set(ids)
    records: dict[str, dict[str, Any]] = {}
    for key, listed in run.checkpoint.files.get(batch.name, {}).items():
        file = run.layout.parse(key)
        try:
            for record in await read_records(run.bucket, key, listed):
                origin = _origin(record)
                if record["imdb_id"] in wanted and file and origin and origin["kind"] == KINDS[file.collection]:
                    orjson.dumps(record)  # a record nested too deep cannot be written again
                    records[record["imdb_id"]] = record
        except (CorruptLakeError, orjson.JSONEncodeError):
            continue  # nothing of a damaged file is kept
    return records


def _origin(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Kind and TMDB id of a record; None if it has none."""
    harvest = record.get("harvest")
    if not isinstance(harvest, dict) or not is_tmdb_id(harvest.get("tmdb_id")):
        return None
    return {"kind": harvest.get("kind"), "tmdb_id": harvest["tmdb_id"]}


async def abort_uploads(bucket: Store, layout: Layout, names: frozenset[str] | None = None) -> None:
    """Abort the uploads that a killed harvest left open on the run's day; only those of the batches `names`, if given.

    Only the holder of the lease may call this, or a child for its own batches: other uploads may still be in progress.
    """
    for folder in (*layout.data_folders, layout.folder):
        for key, upload in await bucket.uploads(folder):
            file = layout.parse(key)
            ours = file or key == layout.outcomes_key or layout.generation_of(key)
            if ours and (names is None or (file and file.batch in names)):
                await bucket.abort(key, upload)
                _log.warning("upload_aborted", extra={"key": key, "why": "a killed harvest left it open"})
