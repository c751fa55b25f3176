"""What a harvest opens first, by its settings: the ids of its CSVs, its bucket, TMDB with its key."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from harvester.aws.client import ATTEMPTS, open_bucket
from harvester.aws.secrets import fetch_key
from harvester.errors import InputError, StoreError
from harvester.model.s3_url import S3Url
from harvester.runtime.concurrency import in_thread
from harvester.sources.csv import read_ids
from harvester.tmdb.client import Tmdb
from harvester.tmdb.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from harvester.model.ids import Collection
    from harvester.model.inputs import InputIds
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

CSV_NAMES = (".csv", ".csv.gz")  # endings of the objects that are looked for in a folder of S3


async def read_inputs(settings: Settings) -> dict[Collection, InputIds]:
    """The ids of the CSVs, movies first: an id that both have is a movie, and a duplicate among the series.

    `InputIds.source` is the CSV itself where a folder in S3 was given. `InputError` blames a CSV, `StoreError` S3.
    """
    sources: dict[Collection, str | None] = {"Movies": settings.movies_csv, "Series": settings.series_csv}
    read = partial(read_ids, column=settings.csv_id_column, seen=set())
    inputs: dict[Collection, InputIds] = {}
    for collection, source in sources.items():
        if source is not None and source.startswith("s3://"):
            inputs[collection] = await _read_from_s3(source, settings, read)
        elif source is not None:
            inputs[collection] = await in_thread(partial(read, source))
    return inputs


async def _read_from_s3(source: str, settings: Settings, read: Callable[..., InputIds]) -> InputIds:
    name, _, key = source.removeprefix("s3://").partition("/")
    give = "give s3://bucket/key of a CSV file"
    if S3Url.parse(source) is None:
        raise InputError(source, f"is no place in S3: {give}, or a folder/ of them")
    try:
        async with open_bucket_of(settings, name) as bucket:
            if key.endswith("/"):
                csvs = [each for each in await bucket.objects(key) if each.lower().endswith(CSV_NAMES)]
                key = max(csvs, default=key)  # the latest, where folders are dates written as YYYY/MM/DD
            source = f"s3://{name}/{key}"
            with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                if key.endswith("/") or not await bucket.fetch(key, file):
                    raise InputError(source, f"is not there: {give}, or a folder/ of them")
                file.flush()
                return await in_thread(partial(read, file.name, name=source))
    except StoreError as error:
        if error.code != "NoSuchBucket":
            raise
        raise InputError(source, f"is in a bucket that is not there: {give}") from error
    except OSError as error:
        problem = f"does not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a larger folder"
        raise InputError(source, problem) from error


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


async def with_key(settings: Settings, known: dict[str, str]) -> Settings:
    """The settings with TMDB's key itself, fetched if they only say where it is kept.

    `known` has the keys fetched before, by where they are kept; this one is added. `SettingsError` means that there is
    no key or none that can be one, `StoreError` that AWS cannot be reached or refuses the credentials.
    """
    settings.require("tmdb_api_key")
    kept = settings.api_key_ref
    if kept is None:
        return settings
    if (key := known.get(kept)) is None:
        region, profile = settings.aws_region, settings.aws_profile
        key = await fetch_key(kept, region=region, profile=profile, credentials=settings.credentials)
    holding = settings.with_api_key(key)
    known[kept] = key.strip()
    return holding


def open_tmdb_of(settings: Settings, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> Tmdb:
    """TMDB as the settings say, which hold the key itself; to be entered, and left, by `async with`."""
    settings.require("tmdb_api_key")
    key = settings.tmdb_api_key
    return Tmdb(
        base_url=settings.tmdb_base_url,
        key=key.get_secret_value() if key else "",
        language=settings.tmdb_language,
        append=settings.tmdb_append,
        limiter=RateLimiter(settings.tmdb_rate, clock=asyncio.get_running_loop().time),
        concurrency=settings.tmdb_concurrency,
        sleep=sleep,
    )
