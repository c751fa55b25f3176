"""Data files: the objects in the folders of one day, and which batch each belongs to.

Readers read everything in those folders. A file belongs to a batch only if the layout makes exactly its key from
collection, batch and number. All other objects are foreign: `harvest` warns of them, `verify` reports them, and only
`verify --repair` moves them.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from harvester.errors import CorruptLakeError, StoreError
from harvester.formats.registry import decode, decode_readable
from harvester.model.layout import LEASE, RUN_NAME, RUNS, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harvester.model.receipt import LandedFile
    from harvester.store.store import Listed, Store

_log = logging.getLogger(__name__)

DATA_BYTES = 10**8
"""Bytes at most of a data file to be read. Ours have up to 10 MB, or one record of up to 31 MB, TMDB's largest body."""

SHOWN = 20


async def run_names(bucket: Store, prefix: str) -> list[str]:
    """Names of the runs below `prefix`, oldest first. Folders with other names are not ours."""
    return sorted(name for name in await bucket.folders(f"{prefix}/{RUNS}/") if RUN_NAME.fullmatch(name))


async def list_data(bucket: Store, layout: Layout) -> dict[str, Listed]:
    """Every object in the day's folders that a reader would read, of any run.

    Athena, Spark and Hive skip names that begin with `_` or `.`, such as `_SUCCESS`. A key that ends in a slash marks a
    folder that S3's console has made. A folder with a lease of its own is another harvest's prefix.
    """
    listed: dict[str, Listed] = {}
    for folder in layout.data_folders:
        found = {key.removeprefix(folder): entry for key, entry in (await bucket.objects(folder)).items()}
        nested = {path.removesuffix(LEASE) for path in found if f"/{path}".endswith(f"/{LEASE}")}
        for path, entry in found.items():
            names = path.split("/")
            hidden = not names[-1] or any(name.startswith(("_", ".")) for name in names)
            # Where the folder itself is a prefix, that prefix's data files lie in subfolders.
            if not hidden and not any(path.startswith(root) and (root or names[1:]) for root in nested):
                listed[folder + path] = entry
    return listed


def by_batch(layout: Layout, listed: Mapping[str, Listed], names: frozenset[str]) -> dict[str, dict[str, Listed]]:
    """The listed data files of the batches of these `names`, by batch and key."""
    files: dict[str, dict[str, Listed]] = {}
    for key, entry in listed.items():
        if (file := layout.parse(key)) and file.batch in names:
            files.setdefault(file.batch, {})[key] = entry
    return files


def of_batches(layout: Layout, listed: Mapping[str, Listed], names: frozenset[str]) -> dict[str, Listed]:
    """The listed data files of the batches of these `names`, by key."""
    return {key: entry for key, entry in listed.items() if (file := layout.parse(key)) and file.batch in names}


async def is_as_landed(file: LandedFile, bucket: Store, listed: Mapping[str, Listed]) -> bool:
    """Whether a data file still is what landed: by its size and ETag in the listing, or else by its SHA-256.

    A copy has the same bytes and another ETag, and some servers list other ETags than they return from a put.
    """
    entry = listed.get(file.key)
    if entry is None or entry.bytes != file.bytes:
        return False
    return entry.etag == file.etag or hashlib.sha256(await bucket.read(file.key) or b"").hexdigest() == file.sha256


async def read_records(
    bucket: Store, key: str, listed: Listed, *, warnings: Warnings | None = None
) -> list[dict[str, Any]]:
    """The records of a data file that have an id.

    With `warnings`, a file with other content is a warning, and the records of its valid lines are returned.

    Raises:
        StoreError: The body has another size than is listed.
        CorruptLakeError: The file has other content than records, and there are no `warnings`.
    """
    is_readable = listed.bytes <= DATA_BYTES
    body = await bucket.read(key) or b"" if is_readable else b""
    if is_readable and len(body) != listed.bytes:  # a captive portal's page, or a file that is just being replaced
        raise StoreError(f"read {bucket.url(key)}", "another object than is listed")
    try:
        if not is_readable:
            raise ValueError(f"{listed.bytes:,} bytes")  # noqa: TRY301
        records = decode(body)
    except ValueError as error:
        problem = f"{key} has something else than records in it: {error}"
        if warnings is None:
            raise CorruptLakeError(problem) from error
        warnings.warn("data_file_refused", problem=problem)
        records = decode_readable(body)
    return [record for record in records if isinstance(record.get("imdb_id"), str)]


class Warnings:
    """Warnings about the content of the lake, each logged once."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def warn(self, event: str, **values: object) -> None:
        """Log the event, unless it has been logged with these values."""
        if (line := (event, repr(values))) not in self._logged:
            self._logged.add(line)
            _log.warning(event, extra=values)

    def warn_of(self, event: str, names: Iterable[str]) -> None:
        """Log the number of these names, if any, and the first `SHOWN` of them."""
        if in_order := sorted(names):
            self.warn(event, count=len(in_order), first=in_order[:SHOWN])
