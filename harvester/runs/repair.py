"""Repair: foreign objects are moved to quarantine, and stale files of ours removed; the only place that deletes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from harvester.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from harvester.model.layout import Layout
    from harvester.store.store import Store

_log = logging.getLogger(__name__)


async def repair(
    bucket: Store, foreign: Mapping[str, Layout], stale: Sequence[str], *, check: Callable[[], Awaitable[object]]
) -> list[str]:
    """Move `foreign` objects to the quarantine of a run, and remove `stale` files; a line for each that is gone.

    What S3 does not let us move or remove stays, with a warning. `check` is awaited before each of them.
    """
    done: list[str] = []
    for key in [*foreign, *stale]:
        await check()
        try:
            if key in foreign:
                place = await _quarantine(bucket, key, foreign[key].quarantine_key(key))
                done.append(f"{key} was foreign, and is now {place}")
            else:
                await bucket.delete(key)
                done.append(f"{key} was stale, and is removed")
        except StoreError as error:
            _log.warning("not_repaired", extra={"key": key, "problem": str(error)})
    return done


async def _quarantine(bucket: Store, key: str, place: str) -> str:
    """Where the object has been moved; another place than `place` where something stands there already."""
    number, free = 1, place
    while await bucket.head(free):
        number += 1
        free = f"{place}.{number}"
    before = await bucket.head(key)
    await bucket.copy(key, free)
    copied = await bucket.head(free)
    if before is None or copied is None or copied.bytes != before.bytes:
        raise StoreError(f"move {key}", "another size", f"{free} is not a copy of it, which stays.")
    await bucket.delete(key)
    return free
