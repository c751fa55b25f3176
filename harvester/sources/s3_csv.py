"""CSV in S3: the ids of an object, or of the newest CSV in a folder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from harvester.errors import InputError, StoreError, StoreErrorKind
from harvester.model.s3_url import S3Url, is_s3_url
from harvester.runtime.concurrency import in_thread
from harvester.sources.csv import read_ids

if TYPE_CHECKING:
    from harvester.model.ids import TitleId
    from harvester.model.inputs import InputIds
    from harvester.sources.source import SourceOptions

CSV_NAMES = (".csv", ".csv.gz")
"""Endings, in lower case, of a folder's objects that count as CSVs."""

_ADVICE = "give s3://bucket/key of a CSV file"


@dataclass(frozen=True, slots=True)
class S3Csv:
    """A source: `s3://bucket/key`, or `s3://bucket/folder/` for the newest CSV below it."""

    url: S3Url
    options: SourceOptions

    @classmethod
    def of(cls, text: str, options: SourceOptions) -> S3Csv | None:
        """The CSV or folder in S3 that `text` names, None if it is not an S3 URL; an InputError if it is invalid."""
        if not is_s3_url(text):
            return None
        if (url := S3Url.parse(text)) is None:
            raise InputError(text, f"is not an S3 URL with a bucket and a key: {_ADVICE}, or a folder/ of them")
        return cls(url, options)

    async def read(self, seen: set[TitleId]) -> InputIds:
        """The ids, as from `read_ids`; for a folder, `InputIds.source` is the CSV in it."""
        url = self.url
        try:
            async with self.options.open_bucket(url.bucket) as bucket:
                if url.is_folder:
                    csvs = [key for key in await bucket.objects(url.key) if key.lower().endswith(CSV_NAMES)]
                    url = S3Url(url.bucket, max(csvs, default=url.key))  # the newest, if folders are dates: YYYY/MM/DD
                with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                    if url.is_folder or not await bucket.fetch(url.key, file):
                        raise InputError(str(url), f"does not exist: {_ADVICE}, or a folder/ of them")
                    file.flush()
                    column = self.options.id_column
                    return await in_thread(partial(read_ids, file.name, column=column, seen=seen, name=str(url)))
        except StoreError as error:
            if error.kind is not StoreErrorKind.NO_BUCKET:
                raise
            raise InputError(str(url), f"is in a bucket that does not exist: {_ADVICE}") from error
        except OSError as error:
            problem = f"does not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a larger folder"
            raise InputError(str(url), problem) from error
