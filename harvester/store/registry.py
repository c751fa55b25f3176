"""Stores by URL scheme: a new store is a module with an `Opener`, and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Unpack

from harvester.aws.client import RetryPolicy
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from harvester.aws.client import Access
    from harvester.store.store import Store


class Opener(Protocol):
    """Opens the store with a name, which is the part of its URL after the scheme."""

    def __call__(
        self, name: str, /, *, retry_policy: RetryPolicy = ..., **access: Unpack[Access]
    ) -> AbstractAsyncContextManager[Store]:
        """The store, for `async with`."""


STORES: Mapping[str, Opener] = {"s3": open_bucket}


def open_store(
    url: str, *, retry_policy: RetryPolicy = RetryPolicy.FAIL_FAST, **access: Unpack[Access]
) -> AbstractAsyncContextManager[Store]:
    """The store at `url`, such as `s3://bucket`; a KeyError if no store has its scheme, a `StoreError` on entering."""
    scheme, _, name = url.partition("://")
    return STORES[scheme](name, retry_policy=retry_policy, **access)
