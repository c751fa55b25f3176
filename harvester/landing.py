"""Landing: one batch's titles become data files and a receipt; data first, the receipt last.

All that comes of a batch's ids is named after it: movies in one collection's folder, series in the other's, so that a
title that is reclassified lands in the same pass. Nothing that has landed is taken away by a failure, and nothing is
deleted: a file that the batch no longer fills is overwritten by an empty one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson

from harvester.answers import Failed, Found, is_tmdb_id
from harvester.data_files import read_records
from harvester.errors import BooksError
from harvester.receipts import LandedFile, Receipt, outcome_json
from harvester.records import empty_file, encode
from harvester.titles import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harvester.answers import Outcome
    from harvester.batches import Batch
    from harvester.records import File, Format
    from harvester.run import Run


async def land_batch(
    run: Run, batch: Batch, outcomes: Sequence[Outcome], lines: dict[str, bytes], *, form: Format
) -> Receipt:
    """Land the records of `batch`, and commit its receipt.

    Args:
        outcomes: What became of each of them, in their order.
        lines: The records of the found titles, by id; emptied on the way.

    Raises:
        LeaseLostError: Another harvest has taken over; nothing more was written.
    """
    by_id = dict(zip(batch.ids, outcomes, strict=True))
    kinds = {id_: told.kind for id_, told in by_id.items() if isinstance(told, Found)}
    failed = {id_ for id_, told in by_id.items() if isinstance(told, Failed)}
    kept = await _earlier_records(run, batch, failed) if failed else {}
    for id_, record in kept.items():
        kinds[id_], lines[id_] = record["harvest"]["kind"], orjson.dumps(record)
    files: list[LandedFile] = []
    for collection in sorted(KINDS, key=lambda name: name != batch.collection):
        of_kind = (lines.pop(id_) for id_ in batch.ids if kinds.get(id_) == KINDS[collection])
        for number, file in enumerate(encode(of_kind, form), 1):
            files.append(await _land(run, run.layout.data_key(collection, batch.name, number), file))
    filled = {file.key for file in files}
    no_longer = [key for key in run.checkpoint.files.get(batch.name, {}) if key not in filled]
    files += [await _land(run, key, empty_file(form)) for key in no_longer]
    written: Any = {id_: outcome_json(told, _origin(kept.get(id_, {}))) for id_, told in by_id.items()}
    receipt = Receipt(
        batch=batch.name,
        collection=batch.collection,
        run=run.name,
        generation=run.manifest.generation,
        attempt=run.attempt,
        files=tuple(files),
        outcomes=written,
        landed_at=run.now(),
    )
    await run.commit(receipt)
    return receipt


async def _land(run: Run, key: str, file: File) -> LandedFile:
    etag = await run.land(key, file.body)
    return LandedFile(key, file.records, len(file.body), hashlib.sha256(file.body).hexdigest(), etag)


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
        except (BooksError, orjson.JSONEncodeError):
            continue  # a damaged file has nothing that could be kept
    return records


def _origin(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Kind and TMDB's number of a record; None if it does not say."""
    told = record.get("harvest")
    if not isinstance(told, dict) or not is_tmdb_id(told.get("tmdb_id")):
        return None
    return {"kind": told.get("kind"), "tmdb_id": told["tmdb_id"]}
