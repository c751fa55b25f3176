"""Upload: the CSV files themselves, byte for byte, into the raw zone, where any harvest can read them.

Each file is read twice: for its SHA-256, and to send it. The bytes sent are hashed too: a file that changes in between
is not stored. The SHA-256 is stored with the object, so that an unchanged file is recognized later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harvester.commands.resources import Resources, source_texts
from harvester.commands.result import result_json
from harvester.errors import Exit, StoreError
from harvester.model.key_template import DATE_FIELDS, KeyTemplate, date_values
from harvester.model.s3_url import is_s3_url
from harvester.runtime.clock import utc_now
from harvester.runtime.concurrency import in_thread
from harvester.runtime.current_run import CURRENT_RUN
from harvester.runtime.shutdown import Shutdown
from harvester.store.file_body import open_csv
from harvester.store.multipart import Body
from harvester.store.store import RetryPolicy

if TYPE_CHECKING:
    from harvester.model.ids import Collection
    from harvester.settings.settings import Settings
    from harvester.store.file_body import CsvFile
    from harvester.store.store import Store

SHA256 = "sha256"
"""Metadata of our uploads (`x-amz-meta-sha256`), in hexadecimal digits."""

Progress: TypeAlias = Callable[[str, int, int], object]
"""Called with the name of the file being sent, the bytes sent of all files, and their total."""


@dataclass(frozen=True, slots=True)
class CsvKeys:
    """The keys of one CSV in the raw zone, one a day."""

    template: KeyTemplate
    collection: Collection
    name: str

    def key(self, day: str) -> str:
        """The key of a day such as 2026-11-22."""
        return self.template.fill(collection=self.collection, name=self.name, **date_values(day))

    @property
    def folder(self) -> str:
        """What the keys of all days begin with."""
        return self.template.start(collection=self.collection, name=self.name)

    def date_in(self, key: str) -> tuple[str, ...] | None:
        """Year, month and day in `key`, as far as the template has them; None if it is no key of this CSV."""
        date = self.template.parse(key, collection=self.collection, name=self.name)
        return None if date is None else tuple(date[name] for name in DATE_FIELDS if name in date)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of one CSV. `url` is today's object, or the unchanged one of the day `since`, if its key has a date.

    Status `in_s3`: the source is in S3 already; it has not been read.
    """

    source: str
    collection: Collection
    status: Literal["uploaded", "unchanged", "in_s3"]
    url: str
    bytes: int | None = None
    sha256: str | None = None
    since: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        values = {"source": self.source, "collection": self.collection, "status": self.status, "url": self.url}
        if self.status == "in_s3":
            return values
        return values | {"bytes": self.bytes, "sha256": self.sha256, "read_back": True}


@dataclass(frozen=True, slots=True)
class UploadReport:
    """What became of the CSVs."""

    files: tuple[Uploaded, ...]
    seconds: float

    @property
    def status(self) -> Literal["uploaded", "unchanged"]:
        """Whether anything was sent."""
        return "uploaded" if any(file.status == "uploaded" for file in self.files) else "unchanged"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        files = [file.as_json() for file in self.files]
        return result_json(self.status, Exit.CLOSED, files=files, seconds=round(self.seconds, 1))


async def upload(
    settings: Settings,
    *,
    shutdown: Shutdown | None = None,  # None: nothing asks it to stop
    progress: Progress = lambda _name, _done, _all: None,
    pass_s3: bool = False,
    now: Callable[[], str] = utc_now,
) -> UploadReport:
    """Upload the CSVs of `settings` to its bucket, except those that are there unchanged.

    All are checked before anything is sent. An unfinished upload of the same CSV, left by a kill, is aborted. A
    request to shut down aborts the upload in progress. `pass_s3`: skip a CSV that is in S3 already instead of refusing
    it. The keys are of the day of `now`.

    Raises:
        InputError: A CSV cannot be uploaded, or changed during the upload; it has not been stored.
    """
    CURRENT_RUN.set(None)
    settings.require_input()
    settings.require("s3_bucket")
    started, day = time.monotonic(), now()[:10]
    template = KeyTemplate.of_csvs(settings.s3_csv_template, prefix=settings.s3_prefix)
    files: list[Uploaded] = []
    local: dict[CsvKeys, CsvFile] = {}
    with ExitStack() as opened:
        async with (shutdown or Shutdown()).immediately():
            for collection, source in source_texts(settings).items():
                if pass_s3 and is_s3_url(source):
                    files.append(Uploaded(source, collection, "in_s3", source))
                else:
                    csv = await in_thread(partial(open_csv, source, opened))
                    name = f"{collection.lower()}.csv{'.gz' if csv.zipped else ''}"
                    local[CsvKeys(template, collection, name)] = csv
            if local:
                files += await _upload_all(settings, local, day, progress)
    files.sort(key=lambda file: file.collection)  # movies first
    return UploadReport(tuple(files), time.monotonic() - started)


async def _upload_all(
    settings: Settings, local: dict[CsvKeys, CsvFile], day: str, progress: Progress
) -> list[Uploaded]:
    """What became of the files; new or changed ones are sent one after another."""
    async with Resources(settings).lake() as bucket:
        found = {keys: await _find(bucket, keys, csv, day) for keys, csv in local.items()}
    files = [file for file in found.values() if file]
    to_send = {keys: csv for keys, csv in local.items() if not found[keys]}
    done, total = 0, sum(csv.bytes for csv in to_send.values())
    # S3 has answered, so its address is right: from now on an outage is waited out.
    async with Resources(settings).lake(retry_policy=RetryPolicy.WAIT_OUT) as bucket:
        for keys, csv in to_send.items():

            def report_sent(file_bytes: int, name: str = keys.name, before: int = done) -> None:
                progress(name, before + file_bytes, total)

            files.append(await _send(bucket, keys, csv, day, report_sent))
            done += csv.bytes
    return files


async def _find(bucket: Store, keys: CsvKeys, csv: CsvFile, day: str) -> Uploaded | None:
    """The newest object of this CSV, if it is this very file; None if it is another, or has no SHA-256 of ours."""
    today = keys.date_in(keys.key(day)) or ()
    dates = {key: date for key in await bucket.objects(keys.folder) if (date := keys.date_in(key)) is not None}
    newest = max((key for key, date in dates.items() if date <= today), key=lambda key: (dates[key], key), default=None)
    head = await bucket.head(newest) if newest else None
    if newest is None or head is None or (head.bytes, head.metadata.get(SHA256)) != (csv.bytes, csv.sha256):
        return None
    url, date = bucket.url(newest), dates[newest]
    since = "-".join(date) if len(date) == len(DATE_FIELDS) else None
    return Uploaded(csv.source, keys.collection, "unchanged", url, csv.bytes, csv.sha256, since)


async def _send(bucket: Store, keys: CsvKeys, csv: CsvFile, day: str, progress: Callable[[int], object]) -> Uploaded:
    """Upload the file under the key of the day, and read back its size and SHA-256.

    Unfinished uploads of this CSV are aborted, of any day; if another process is in the middle of one, that process
    begins again (`Store.land_parts`).
    """
    key = keys.key(day)
    for unfinished, upload_id in await bucket.uploads(keys.folder):
        if keys.date_in(unfinished) is not None:
            await bucket.abort(unfinished, upload_id)
            values = {"key": unfinished, "why": "an earlier upload has left it unfinished"}
            logging.getLogger(__name__).warning("upload_aborted", extra=values)
    content_type = "application/gzip" if csv.zipped else "text/csv"
    await bucket.land_parts(key, Body(csv.parts, content_type, {SHA256: csv.sha256}, progress))
    url = bucket.url(key)
    head = await bucket.head(key)
    if head is None or (head.bytes, head.metadata.get(SHA256)) != (csv.bytes, csv.sha256):
        stored = f"{head.bytes:,} bytes with sha256 {head.metadata.get(SHA256)}" if head else "nothing there"
        advice = f"It was {csv.bytes:,} bytes with {csv.sha256}. Does another program write there? Upload it again."
        raise StoreError(f"read back {url}", stored, advice)
    return Uploaded(csv.source, keys.collection, "uploaded", url, csv.bytes, csv.sha256)
