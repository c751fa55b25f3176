"""Repair: move foreign objects to quarantine and remove our stale files. Only this module deletes from the lake."""

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
    """Move each `foreign` object to the quarantine of its run and remove the `stale` files; a line for each one done.

    An object that S3 does not let us move or remove stays, with a warning. `check` is awaited before each object.
    """
    done: list[str] = []
    for key in [*foreign, *stale]:
        await check()
        try:
            if key in foreign:
                target = await _quarantine(bucket, key, foreign[key].quarantine_key(key))
                done.append(f"{key} was foreign, and is now {target}")
            else:
                await bucket.delete(key)
                done.append(f"{key} was stale, and is removed")
        except StoreError as error:
            _log.warning("not_repaired", extra={"key": key, "problem": str(error)})
    return done


async def _quarantine(bucket: Store, key: str, target: str) -> str:
    """Move an object to `target`, or, if that key is taken, to `target.2` and so on; the key that it has now."""
    number, free = 1, target
    while await bucket.head(free):
        number += 1
        free = f"{target}.{number}"
    before = await bucket.head(key)
    await bucket.copy(key, free)
    copied = await bucket.head(free)
    if before is None or copied is None or copied.bytes != before.bytes:
        raise StoreError(f"move {key}", "another size", f"{free} is not a copy of it, which stays.")
    await bucket.delete(key)
    return free
