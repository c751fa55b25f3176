"""Data files: what stands in the folders of one day, and whose it is.

Readers read everything in those folders. A file is of a batch only if the layout makes its very key of collection,
batch and number. All else is foreign: `harvest` warns of it, `verify` names it, only `verify --repair` moves it away.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harvester.aws.errors import store_error
from harvester.errors import CorruptLakeError
from harvester.formats.registry import decode
from harvester.model.documents import DOCUMENT_BYTES
from harvester.model.layout import LEASE, RUN_NAME, RUNS, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harvester.model.receipt import LandedFile
    from harvester.store.store import Listed, Store

_log = logging.getLogger(__name__)

DATA_BYTES = 10**8
"""Bytes of a data file at most that are read: files of ours have 10 MB, or one record of what TMDB may answer (31)."""

SHOWN = 20


async def run_names(bucket: Store, prefix: str) -> list[str]:
    """The runs below `prefix`, oldest first; other folders beside them are not ours."""
    return sorted(name for name in await bucket.folders(f"{prefix}/{RUNS}/") if RUN_NAME.fullmatch(name))


async def list_data(bucket: Store, layout: Layout) -> dict[str, Listed]:
    """Every object in the day's folders that a reader would read, whichever run it is of.

    Athena, Spark and Hive pass over names that begin with `_` or `.`, such as `_SUCCESS`; a key that ends in a slash is
    the mark of a folder that S3's console has made. A folder with a lease of its own is another harvest's prefix.
    """
    listed: dict[str, Listed] = {}
    for folder in layout.data_folders:
        found = {key.removeprefix(folder): seen for key, seen in (await bucket.objects(folder)).items()}
        nested = {path.removesuffix(LEASE) for path in found if f"/{path}".endswith(f"/{LEASE}")}
        for path, seen in found.items():
            names = path.split("/")
            hidden = not names[-1] or any(name.startswith(("_", ".")) for name in names)
            # Files of a prefix that is this very folder stand in folders of their own.
            if not hidden and not any(path.startswith(root) and (root or names[1:]) for root in nested):
                listed[folder + path] = seen
    return listed


def by_batch(layout: Layout, listed: Mapping[str, Listed], names: frozenset[str]) -> dict[str, dict[str, Listed]]:
    """The data files of the batches of these `names` among those listed, by batch and key."""
    files: dict[str, dict[str, Listed]] = {}
    for key, seen in listed.items():
        if (file := layout.parse(key)) and file.batch in names:
            files.setdefault(file.batch, {})[key] = seen
    return files


def of_batches(layout: Layout, listed: Mapping[str, Listed], names: frozenset[str]) -> dict[str, Listed]:
    """The same, by key alone."""
    return {key: seen for key, seen in listed.items() if (file := layout.parse(key)) and file.batch in names}


async def read_document(bucket: Store, key: str, *, limit: int = DOCUMENT_BYTES) -> bytes | None:
    """The bytes of a document of ours; None if there is none, and b"" if it has more than `limit`."""
    stored = await bucket.read_stored(key, limit=limit)
    return stored.body if stored else None


async def is_as_landed(file: LandedFile, bucket: Store, listed: Mapping[str, Listed]) -> bool:
    """Whether a data file still is what landed: by size and ETag as listed, or else by its bytes.

    A copy has the same bytes and another ETag, and some servers list other ETags than they answer with.
    """
    seen = listed.get(file.key)
    if seen is None or seen.bytes != file.bytes:
        return False
    return seen.etag == file.etag or hashlib.sha256(await bucket.read(file.key) or b"").hexdigest() == file.sha256


async def read_records(
    bucket: Store, key: str, listed: Listed, *, notices: Warnings | None = None
) -> list[dict[str, Any]]:
    """The records of a data file that have an id; a StoreError if what was read is not what is listed.

    A CorruptLakeError if it has something else in it; with `notices` a warning, and the records of its whole lines.
    """
    ours = listed.bytes <= DATA_BYTES
    body = await bucket.read(key) or b"" if ours else b""
    if ours and len(body) != listed.bytes:  # a portal's page, or a file that is just being replaced
        raise store_error(f"read {bucket.url(key)}", "another object than is listed")
    try:
        if not ours:
            raise ValueError(f"{listed.bytes:,} bytes")  # noqa: TRY301
        records = decode(body)
    except ValueError as error:
        problem = f"{key} has something else than records in it: {error}"
        if notices is None:
            raise CorruptLakeError(problem) from error
        notices.warn("data_file_refused", problem=problem)
        records = []
        for line in body.split(b"\n"):
            with suppress(ValueError):
                records += decode(line)
    return [record for record in records if isinstance(record.get("imdb_id"), str)]


class Warnings:
    """Warnings about what stands in the lake, each logged once however often it is read."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def warn(self, event: str, **values: object) -> None:
        """Log the event, unless it has been logged with these values."""
        if (line := (event, repr(values))) not in self._seen:
            self._seen.add(line)
            _log.warning(event, extra=values)

    def warn_of(self, event: str, names: Iterable[str]) -> None:
        """Log how many of something there are, if any, with the first of them by name."""
        if some := sorted(names):
            self.warn(event, count=len(some), first=some[:SHOWN])
