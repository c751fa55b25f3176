"""Stores by URL: a line in the registry is all that opens a new one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from harvester.errors import Exit, SettingsError
from harvester.runs.data_files import run_names
from harvester.runs.documents import read_document
from harvester.store.registry import STORES, open_store
from harvester.store.store import RetryPolicy, Stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OBJECTS = {"Raw/API/_harvest/2026-11-22-3f9a1c2e/manifest.json": b"{}"}


class Memory:
    """A store in memory, as far as this test needs one."""

    def __init__(self, name: str, retry_policy: RetryPolicy) -> None:
        self.name, self.retry_policy = name, retry_policy

    async def folders(self, prefix: str) -> list[str]:
        return sorted({key[len(prefix) :].split("/")[0] for key in OBJECTS if key.startswith(prefix)})

    async def read_stored(self, key: str, *, limit: int) -> Stored | None:
        body = OBJECTS.get(key)
        return None if body is None else Stored(body[:limit], str(hash(body)), None)


@asynccontextmanager
async def open_memory(
    name: str, *, retry_policy: RetryPolicy = RetryPolicy.FAIL_FAST, **_access: Any
) -> AsyncIterator[Memory]:
    yield Memory(name, retry_policy)


async def test_a_line_in_the_registry_opens_a_new_store_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else knows its scheme, and what reads a lake reads from it."""
    monkeypatch.setitem(STORES, "memory", open_memory)
    async with open_store("memory://shelf", retry_policy=RetryPolicy.WAIT_OUT, region="eu-west-1") as store:
        assert isinstance(store, Memory)
        assert (store.name, store.retry_policy) == ("shelf", RetryPolicy.WAIT_OUT)
        assert await run_names(store, "Raw/API") == ["2026-11-22-3f9a1c2e"]
        assert await read_document(store, next(iter(OBJECTS))) == b"{}"
        assert await read_document(store, "Raw/API/none.json") is None


@pytest.mark.parametrize("url", ["gs://lake", "lake", "S3://lake", ""])
def test_a_url_of_no_known_store_is_refused_with_the_schemes_there_are(url: str) -> None:
    """As a wrong setting, with exit code 2."""
    with pytest.raises(SettingsError, match=r"the known schemes are s3://$") as caught:
        open_store(url)
    assert (caught.value.exit_code, repr(url) in str(caught.value)) == (Exit.USAGE, True)
