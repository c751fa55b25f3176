"""What a harvest opens first, by its settings: the ids of its CSVs, its bucket, TMDB with its key."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from harvester.aws_client import ATTEMPTS
from harvester.errors import InputError, StoreError
from harvester.fan_out import in_thread
from harvester.forms import is_bucket
from harvester.pace import Pace
from harvester.s3_client import open_bucket
from harvester.titles import read_ids
from harvester.tmdb import Tmdb
from harvester.vault import fetch_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from harvester.s3 import Bucket
    from harvester.settings import Settings
    from harvester.titles import Collection, Ids

CSV_NAMES = (".csv", ".csv.gz")
"""How the names of those objects end that are looked for in a folder of S3."""


async def read_inputs(settings: Settings) -> dict[Collection, Ids]:
    """The ids of the CSVs, movies first: an id that both have is a movie, and a duplicate among the series.

    Each is named as it was found: of a folder in S3, the CSV in it.

    Raises:
        InputError: One of them cannot be read as a list of ids.
        StoreError: It is in S3, which refused or could not be reached.
    """
    sources: dict[Collection, str | None] = {"Movies": settings.movies_csv, "Series": settings.series_csv}
    seen: set[str] = set()
    inputs: dict[Collection, Ids] = {}
    for collection, source in sources.items():
        if source is None:
            continue
        if source.startswith("s3://"):
            inputs[collection] = await _read_from_s3(source, settings, seen)
        else:
            inputs[collection] = await in_thread(
                partial(read_ids, source, column=settings.csv_id_column, seen=seen, name=source)
            )
    return inputs


async def _read_from_s3(source: str, settings: Settings, seen: set[str]) -> Ids:
    name, _, key = source.removeprefix("s3://").partition("/")
    if not (is_bucket(name) and key and source.isprintable()):
        raise InputError(source, "is no place in S3: give s3://bucket/key of a CSV file, or a folder/ of them")
    try:
        async with open_bucket_of(settings, name) as bucket:
            if key.endswith("/"):
                key = await _latest_csv(bucket, key) or key
            source = f"s3://{name}/{key}"
            with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                if key.endswith("/") or not await bucket.fetch(key, file):
                    raise InputError(source, "is not there: give s3://bucket/key of a CSV file, or a folder/ of them")
                file.flush()
                read = partial(read_ids, file.name, column=settings.csv_id_column, seen=seen, name=source)
                return await in_thread(read)
    except StoreError as error:
        if error.code != "NoSuchBucket":
            raise
        raise InputError(source, "is in a bucket that is not there: give s3://bucket/key of a CSV file") from error
    except OSError as error:
        problem = f"does not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a larger folder"
        raise InputError(source, problem) from error


async def _latest_csv(bucket: Bucket, folder: str) -> str | None:
    """The last key of a CSV below `folder`, in the order of keys, which is that of dates written as YYYY/MM/DD."""
    return max((key for key in await bucket.objects(folder) if key.lower().endswith(CSV_NAMES)), default=None)


def open_bucket_of(
    settings: Settings, name: str | None = None, *, attempts: int = ATTEMPTS
) -> AbstractAsyncContextManager[Bucket]:
    """The bucket of the settings, or another one with the same credentials."""
    return open_bucket(
        name or str(settings.s3_bucket),
        region=settings.aws_region,
        profile=settings.aws_profile,
        credentials=settings.credentials,
        endpoint_url=settings.aws_endpoint_url_s3,
        attempts=attempts,
    )


async def with_key(settings: Settings, known: dict[str, str] | None = None) -> Settings:
    """The settings with TMDB's key itself, fetched if they only say where it is kept.

    `known` keys, by where they are kept, are not fetched again; it grows by this one.

    Raises:
        SettingsError: There is no key, AWS does not give it, or what it gives is none.
        StoreError: AWS cannot be reached, or the credentials are no good.
    """
    settings.need("tmdb_api_key")
    kept = settings.key_is_kept_in
    if kept is None:
        return settings
    known = {} if known is None else known
    if kept not in known:
        key = await fetch_key(
            kept, region=settings.aws_region, profile=settings.aws_profile, credentials=settings.credentials
        )
        settings.holding(key)
        known[kept] = key.strip()
    return settings.holding(known[kept])


def open_tmdb_of(settings: Settings, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> Tmdb:
    """TMDB as the settings say, which hold the key itself; to be entered, and left, by `async with`."""
    settings.need("tmdb_api_key")
    key = settings.tmdb_api_key
    return Tmdb(
        base_url=settings.tmdb_base_url,
        key=key.get_secret_value() if key else "",
        language=settings.tmdb_language,
        append=settings.tmdb_append,
        pace=Pace(settings.tmdb_rate, clock=asyncio.get_running_loop().time),
        concurrency=settings.tmdb_concurrency,
        sleep=sleep,
    )
