"""Stores by URL scheme: a new store is a module with an `Opener`, and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Unpack

from harvester.errors import SettingsError
from harvester.store.s3 import open_bucket
from harvester.store.store import RetryPolicy

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
    """The store at `url`, such as `s3://bucket`; entering it may raise a `StoreError`.

    Raises:
        SettingsError: No store has the scheme of the URL.
    """
    scheme, _, name = url.partition("://")
    if (opener := STORES.get(scheme)) is None:
        known = ", ".join(f"{scheme}://" for scheme in STORES)
        raise SettingsError(f"No store has a URL like {url!r}: the known schemes are {known}")
    return opener(name, retry_policy=retry_policy, **access)
