"""Resources of a command, made from its settings: the sources, the bucket, TMDB with its key."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from harvester.aws.secrets import fetch_key
from harvester.model.layout import Layout
from harvester.model.s3_url import S3Url
from harvester.runtime.clock import CLOCK, Clock
from harvester.runtime.observer import ignore
from harvester.sources.registry import read_inputs
from harvester.sources.source import SourceOptions
from harvester.store.registry import open_store
from harvester.store.store import RetryPolicy
from harvester.tmdb.client import Tmdb
from harvester.tmdb.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from harvester.model.ids import Collection
    from harvester.model.inputs import InputIds
    from harvester.model.record_options import RecordOptions
    from harvester.runtime.observer import Observer
    from harvester.settings.settings import Settings
    from harvester.sources.source import SourceTexts
    from harvester.store.store import Store

CSV_SETTINGS: dict[Collection, str] = {"Movies": "movies_csv", "Series": "series_csv"}
"""The setting that names the source of each collection, movies first: an id that both have is a movie."""


def source_texts(settings: Settings) -> SourceTexts:
    """The sources of a harvest, by collection."""
    texts = {collection: getattr(settings, name) for collection, name in CSV_SETTINGS.items()}
    return {collection: text for collection, text in texts.items() if text is not None}


def source_options(settings: Settings) -> SourceOptions:
    """What reading a source needs beside its text."""
    return SourceOptions(settings.csv_id_column, partial(open_bucket_of, settings))


def open_bucket_of(
    settings: Settings, name: str | None = None, *, retry_policy: RetryPolicy = RetryPolicy.FAIL_FAST
) -> AbstractAsyncContextManager[Store]:
    """The bucket of the settings, or another one with the same credentials."""
    return open_store(
        str(S3Url(name or str(settings.s3_bucket))),
        region=settings.aws_region,
        profile=settings.aws_profile,
        credentials=settings.credentials,
        endpoint_url=settings.aws_endpoint_url_s3,
        retry_policy=retry_policy,
    )


async def with_key(settings: Settings, known: dict[str, str]) -> Settings:
    """The settings with TMDB's key itself, fetched if they only say where it is kept.

    `known` caches fetched keys by their reference, such as `ssm:/path`; this one is added.

    Raises:
        SettingsError: There is no key, or what is there cannot be one.
        StoreError: AWS cannot be reached or refuses the credentials.
    """
    settings.require("tmdb_api_key")
    secret_ref = settings.api_key_ref
    if secret_ref is None:
        return settings
    if (key := known.get(secret_ref)) is None:
        region, profile = settings.aws_region, settings.aws_profile
        key = await fetch_key(secret_ref, region=region, profile=profile, credentials=settings.credentials)
    with_api_key = settings.with_api_key(key)
    known[secret_ref] = key.strip()
    return with_api_key


@dataclass(frozen=True)
class Resources:
    """What a command works with, made once from the settings: the lake, TMDB, the clock and the observer.

    Packages below `commands/` do not take settings, but what is made here.
    """

    settings: Settings
    clock: Clock = CLOCK
    observer: Observer = ignore

    @property
    def prefix(self) -> str:
        """The folder of the harvest in the lake."""
        return self.settings.s3_prefix

    @cached_property
    def options(self) -> RecordOptions:
        """What shapes the records."""
        return self.settings.record_options

    def layout(self, run: str = "") -> Layout:
        """The keys of `run`; without one, only those that all runs share."""
        return Layout(self.prefix, self.options.key_template, run)

    async def inputs(self) -> dict[Collection, InputIds]:
        """The ids of all sources, movies first."""
        return await read_inputs(source_texts(self.settings), source_options(self.settings))

    def lake(self, *, retry_policy: RetryPolicy = RetryPolicy.FAIL_FAST) -> AbstractAsyncContextManager[Store]:
        """The bucket of the settings."""
        return open_bucket_of(self.settings, retry_policy=retry_policy)

    def tmdb(self, *, rate: float | None = None) -> Tmdb:
        """A TMDB client; `rate` replaces that of the settings. The settings must have the key itself, no reference."""
        settings = self.settings
        settings.require("tmdb_api_key")
        key = settings.tmdb_api_key
        return Tmdb(
            base_url=settings.tmdb_base_url,
            key=key.get_secret_value() if key else "",
            language=self.options.language,
            append=settings.tmdb_append,
            limiter=RateLimiter(rate or settings.tmdb_rate, clock=asyncio.get_running_loop().time),
            concurrency=settings.tmdb_concurrency,
            observer=self.observer,
            sleep=self.clock.sleep,
        )
