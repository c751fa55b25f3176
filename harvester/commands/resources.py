"""What a command makes of its settings first: the sources, the bucket, TMDB with its key."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from harvester.aws.client import ATTEMPTS, open_bucket
from harvester.aws.secrets import fetch_key
from harvester.sources.source import SourceOptions
from harvester.tmdb.client import Tmdb
from harvester.tmdb.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from harvester.model.ids import Collection
    from harvester.settings.settings import Settings
    from harvester.sources.source import SourceTexts
    from harvester.store.s3 import Bucket

CSV_SETTINGS: dict[Collection, str] = {"Movies": "movies_csv", "Series": "series_csv"}
"""The setting that names the source of each collection, movies first: an id that both have is a movie."""


def source_texts(settings: Settings) -> SourceTexts:
    """The sources of a harvest, by collection."""
    texts = {collection: getattr(settings, name) for collection, name in CSV_SETTINGS.items()}
    return {collection: text for collection, text in texts.items() if text is not None}


def source_options(settings: Settings) -> SourceOptions:
    """What the sources need beside their text."""
    return SourceOptions(settings.csv_id_column, partial(open_bucket_of, settings))


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
