"""Documents of a run in the lake: which runs there are to read, and the content of each document.

What is invalid is an error, or with `Warnings` a warning.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from harvester.errors import CorruptLakeError
from harvester.model.batch import Batch, cut
from harvester.model.documents import DOCUMENT_BYTES
from harvester.model.ids_file import GZIP_BYTES, decode_outcomes
from harvester.model.layout import RUNS
from harvester.model.manifest import decode_manifest, decode_summary
from harvester.model.receipt import RECEIPT_BYTES, decode_receipt
from harvester.runs.data_files import run_names
from harvester.runs.lease import decode_lease

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from harvester.model.ids import Collection
    from harvester.model.layout import Layout
    from harvester.model.manifest import Manifest, Summary
    from harvester.model.receipt import Receipt
    from harvester.runs.data_files import Warnings
    from harvester.store.store import Listed, Store

DOCUMENTS_AT_ONCE = 32


async def runs_to_read(bucket: Store, layout: Layout, *, run: str | None = None, day: str | None = None) -> list[str]:
    """This `run`, all of a `day`, or else the one that worked last; a CorruptLakeError if there is none."""
    existing = await run_names(bucket, layout.prefix)
    if run is None and day is None and existing:
        stored = decode_lease(await read_document(bucket, layout.lease_key) or b"")
        run = stored.run if stored and stored.run in existing else existing[-1]  # or else the last by name
    names = [name for name in existing if name == run or name[:10] == day]
    if not names:
        where = bucket.url(f"{layout.prefix}/{RUNS}/{run or ''}")
        raise CorruptLakeError(f"There is no run {f'of {day} ' if day else ''}below {where}: harvest first")
    return names


async def read_document(bucket: Store, key: str, *, limit: int = DOCUMENT_BYTES) -> bytes | None:
    """The bytes of a document; None if there is none, and b"" if it has more than `limit` bytes."""
    stored = await bucket.read_stored(key, limit=limit)
    return stored.body if stored else None


async def read_manifest(bucket: Store, layout: Layout) -> Manifest:
    """The manifest of the run; a CorruptLakeError if there is none or it is invalid."""
    return decode_manifest(layout, await read_document(bucket, layout.manifest_key))


async def read_ids(bucket: Store, key: str) -> tuple[bytes, str]:
    """The ids file at `key`, for `decode_ids` or `decode_rows`, and its SHA-256.

    If there is none it has no bytes, which is a ValueError when it is decoded.
    """
    body = await read_document(bucket, key, limit=GZIP_BYTES) or b""
    return body, hashlib.sha256(body).hexdigest()


async def read_outcomes(bucket: Store, layout: Layout, sha256: str) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """Each id of the run and its outcome; None if the outcomes file has another SHA-256, or there is none.

    It is decoded as it is iterated; a ValueError if it was damaged before its SHA-256 was taken.
    """
    body = await read_document(bucket, layout.outcomes_key, limit=GZIP_BYTES) or b""
    return decode_outcomes(body) if hashlib.sha256(body).hexdigest() == sha256 else None


async def read_receipt(bucket: Store, layout: Layout, key: str) -> Receipt:
    """The receipt at `key`; a CorruptLakeError if it is not a receipt of this run and key."""
    return decode_receipt(layout, key, await read_document(bucket, key, limit=RECEIPT_BYTES))


async def receipt_or_none(bucket: Store, layout: Layout, key: str, warnings: Warnings) -> Receipt | None:
    """The receipt at `key`; None, with a warning, if it is not a receipt of this run and key."""
    try:
        return await read_receipt(bucket, layout, key)
    except CorruptLakeError as error:
        warnings.warn("receipt_refused", problem=str(error))
        return None


async def read_summary(bucket: Store, layout: Layout, generation: str, warnings: Warnings) -> Summary | None:
    """The summary of this generation of the run; None if there is none or it cannot be read."""
    if (body := await read_document(bucket, layout.summary_key)) is None:
        return None
    try:
        summary = decode_summary(layout, body)
    except CorruptLakeError as error:
        warnings.warn("summary_refused", problem=str(error))
        return None
    return summary if summary.generation == generation else None


def listing_digest(files: Mapping[str, Listed]) -> str:
    """SHA-256 over a line for each object: key, size and ETag, in the order of keys."""
    lines = (f"{key}\t{files[key].bytes}\t{files[key].etag}\n" for key in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def cut_batches(ids: Mapping[Collection, Sequence[str]], fresh: Container[str]) -> list[Batch]:
    """The batches of the ids that are not fresh, in order."""
    return [
        batch
        for collection, of_collection in ids.items()
        for batch in cut(collection, (id_ for id_ in of_collection if id_ not in fresh))
    ]
