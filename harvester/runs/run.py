"""A run: what is left of it, the landing of each batch, and the closing of its books.

A batch's data land first and its receipt last. All that comes of its ids is named after it: movies in one collection's
folder, series in the other's, so that a title that is reclassified lands in the same pass. Nothing that has landed is
taken away by a failure, and nothing is deleted: a file that the batch no longer fills is overwritten by an empty one.
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
from harvester.model.manifest import Digests, Manifest, Summary, decode_manifest, decode_summary
from harvester.model.outcome import Failed, Found, is_tmdb_id
from harvester.model.receipt import LandedFile, Receipt, outcome_json
from harvester.runs.data_files import is_as_landed, list_data, read_document, read_records
from harvester.runs.other_runs import listing_digest, read_receipt
from harvester.runtime.clock import Clock
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
"""How often, and how many seconds apart, a listing is asked again that lacks what has just been written."""

READS_AT_ONCE = 8  # files of up to 10 MB, in memory


@dataclass(slots=True)
class Run:
    """One generation of one run, from its manifest to its closed books; made by `open_run` and `open_part`."""

    bucket: Store
    layout: Layout
    manifest: Manifest
    checkpoint: Checkpoint  # what stands in the lake: as it was opened, and what has been committed since
    batches: list[Batch]  # in order; of a part, those of the part
    todo: list[Batch]  # those that were not done when it was opened
    inputs: Mapping[Collection, InputIds] = field(default_factory=dict)  # empty for a part
    marks: Mapping[str, str] = field(default_factory=dict)  # ids fresh when the generation began: the run that has them
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # ids to do that another run of the day has got since
    etag: str | None = None  # of the manifest that is to be replaced, if there is one
    begun: bool = True  # the manifest in the lake is this one
    closed: bool = False  # its books were closed, with nothing failed
    finished: bool = False  # and everything stands as it did then
    attempt: str | None = None  # of a fan-out; written into the receipts
    lease: Lease | None = None
    clock: Clock = field(default_factory=Clock)

    @property
    def name(self) -> str:
        """`{date}-{fingerprint}`."""
        return self.layout.run

    @property
    def totals(self) -> Totals:
        """The input, and what the current receipts say of it."""
        return self.checkpoint.totals

    async def begin(self) -> bool:
        """Write the ids of a new generation, then its manifest; whether the manifest in the lake is ours.

        Where another harvest has been faster, the run is to be opened again.
        """
        if self.begun:
            return True
        ids = encode_ids(self.inputs, self.marks)
        self.manifest = replace(self.manifest, ids_sha256=hashlib.sha256(ids).hexdigest())
        await self.bucket.land(self.layout.ids_key(self.manifest.generation), ids)
        await self.bucket.put_if(self.layout.manifest_key, encode_document(self.manifest), etag=self.etag)
        self.begun = await self._counts()  # always read back: some servers ignore the condition
        return self.begun

    async def _counts(self) -> bool:
        """Whether the manifest in the lake is of this generation."""
        body = await read_document(self.bucket, self.layout.manifest_key)
        try:
            return decode_manifest(self.layout, body).generation == self.manifest.generation
        except CorruptLakeError:
            return False

    async def check_lease(self) -> None:
        """Called before something is written; a LeaseLostError if another harvest has taken over."""
        if self.lease:
            await self.lease.check()

    async def land(self, key: str, file: File, *, content_type: str) -> LandedFile:
        """Land a data file of this run, if the lease is still ours."""
        etag = await self.bucket.land(key, file.body, content_type=content_type, check=self.check_lease)
        return LandedFile(key, file.records, len(file.body), hashlib.sha256(file.body).hexdigest(), etag)

    async def close(self) -> None:
        """Reconcile the books with what the bucket lists now; write the outcomes, then the summary.

        A CorruptLakeError if they do not balance, or the bucket holds something else than the receipts say.
        """
        receipts, data, problems = await self._reconcile()
        if not self.totals.reconciles:
            problems.append(f"of {self.totals.ids} ids {self.totals.with_outcome} have an outcome")
        if problems:
            shown = "; ".join(sorted(problems)[:PROBLEMS_SHOWN])
            why = f"The books do not balance ({len(problems)} problems): {shown}."
            raise CorruptLakeError(f"{why} Harvest again to do what is missing.")
        ids = {collection: account.ids for collection, account in self.inputs.items()}
        outcomes = encode_outcomes(self.checkpoint.outcomes_in_order(ids, self.marks, self.batches))
        await self.bucket.land(self.layout.outcomes_key, outcomes, check=self.check_lease)
        await abort_uploads(self.bucket, self.layout)  # such as one whose answer was lost
        files = {key: data[key] for key in self.checkpoint.landed}
        digests = Digests(listing_digest(files), listing_digest(receipts), hashlib.sha256(outcomes).hexdigest())
        summary = Summary(self.name, self.manifest.generation, self.clock.now(), self.totals.as_json(), digests)
        with suppress(CorruptLakeError):  # there is none, or none worth keeping a word of
            before = decode_summary(self.layout, await read_document(self.bucket, self.layout.summary_key))
            summary = replace(summary, unknown=before.unknown)
        await self.check_lease()
        if not await self._counts():
            raise StoppedError(f"Another generation of {self.name} has begun meanwhile; run again to go on with that.")
        await self.bucket.put(self.layout.summary_key, encode_document(summary))

    async def _reconcile(self) -> tuple[dict[str, Listed], dict[str, Listed], list[str]]:
        """The current receipts and all data files as they are listed now, and what is not as it should be.

        A listing may be behind what was written just now: it is asked again before it is believed.
        """
        current, landed = self.checkpoint.receipts, self.checkpoint.landed
        for tries in range(LISTING_TRIES):
            if tries:
                await self.clock.sleep(LISTING_SECONDS)
            listed = await self.bucket.objects(self.layout.receipts)
            data = await list_data(self.bucket, self.layout)
            gone = [key for key in current if key not in listed]
            gone += [key for key, file in landed.items() if key not in data or data[key].bytes != file.bytes]
            if not gone:
                break
        problems = [f"{key} is gone or not what landed" for key in gone]
        changed = [key for key, etag in current.items() if key in listed and listed[key].etag != etag]
        own = await fan_out(self._is_own_receipt, changed, at_once=READS_AT_ONCE)
        problems += [f"{key} is not what was written" for key, good in zip(changed, own, strict=True) if not good]
        other = [file for key, file in landed.items() if key not in gone and data[key].etag != file.etag]
        if other:
            _log.warning("etags_differ", extra={"count": len(other), "first": other[0].key})
        check = partial(is_as_landed, bucket=self.bucket, listed=data)
        sound = await fan_out(check, other, at_once=READS_AT_ONCE)
        problems += [f"{file.key} is not what landed" for file, good in zip(other, sound, strict=True) if not good]
        return {key: listed[key] for key in current if key in listed}, data, problems

    async def _is_own_receipt(self, key: str) -> bool:
        """Whether the receipt at `key` is the one that was counted: a late put may have replaced it."""
        with suppress(CorruptLakeError):
            receipt = await read_receipt(self.bucket, self.layout, key)
            return receipt.generation == self.manifest.generation and self.checkpoint.has(receipt)
        return False


async def land_batch(
    run: Run, batch: Batch, outcomes: Sequence[Outcome], lines: dict[str, bytes], *, form: Format
) -> Receipt:
    """Land the records of `batch`, and commit its receipt; a LeaseLostError if another harvest has taken over.

    `outcomes` are in the order of its ids; `lines`, the records of the found titles by id, is emptied on the way.
    """
    by_id = dict(zip(batch.ids, outcomes, strict=True))
    kinds = {id_: result.kind for id_, result in by_id.items() if isinstance(result, Found)}
    failed = {id_ for id_, result in by_id.items() if isinstance(result, Failed)}
    kept = await _earlier_records(run, batch, failed) if failed else {}
    for id_, record in kept.items():
        kinds[id_], lines[id_] = record["harvest"]["kind"], orjson.dumps(record)
    files: list[LandedFile] = []
    for collection in sorted(KINDS, key=lambda name: name != batch.collection):
        of_kind = (lines.pop(id_) for id_ in batch.ids if kinds.get(id_) == KINDS[collection])
        for number, file in enumerate(form.encode(of_kind), 1):
            key = run.layout.data_key(collection, batch.name, number)
            files.append(await run.land(key, file, content_type=form.content_type))
    filled = {file.key for file in files}
    no_longer = [key for key in run.checkpoint.files.get(batch.name, {}) if key not in filled]
    empty = form.empty_file()
    files += [await run.land(key, empty, content_type=form.content_type) for key in no_longer]
    written: Any = {id_: outcome_json(id_, result, _origin(kept.get(id_, {}))) for id_, result in by_id.items()}
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
    """The records of these `ids` that stand in the batch's files, as an earlier pass has landed them."""
    wanted = set(ids)
    records: dict[str, dict[str, Any]] = {}
    for key, listed in run.checkpoint.files.get(batch.name, {}).items():
        file = run.layout.parse(key)
        try:
            for record in await read_records(run.bucket, key, listed):
                origin = _origin(record)
                if record["imdb_id"] in wanted and file and origin and origin["kind"] == KINDS[file.collection]:
                    orjson.dumps(record)  # what is nested too deeply cannot be written again
                    records[record["imdb_id"]] = record
        except (CorruptLakeError, orjson.JSONEncodeError):
            continue  # a damaged file has nothing that could be kept
    return records


def _origin(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Kind and TMDB's number of a record; None if it does not say."""
    result = record.get("harvest")
    if not isinstance(result, dict) or not is_tmdb_id(result.get("tmdb_id")):
        return None
    return {"kind": result.get("kind"), "tmdb_id": result["tmdb_id"]}


async def abort_uploads(bucket: Store, layout: Layout, names: frozenset[str] | None = None) -> None:
    """Abort the open uploads that a killed harvest has left of the run's day; of these batches alone, if given.

    Only the holder of the lease may do so, or a child for its own batches: to any other harvest they are not orphans.
    """
    for folder in (*layout.data_folders, layout.folder):
        for key, upload in await bucket.uploads(folder):
            file = layout.parse(key)
            ours = file or key == layout.outcomes_key or layout.generation_of(key)
            if ours and (names is None or (file and file.batch in names)):
                await bucket.abort(key, upload)
                _log.warning("upload_aborted", extra={"key": key, "why": "a harvest that was killed has left it"})
