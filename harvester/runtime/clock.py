"""The clock: the time, and a way to wait; passed in, so that no test waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def utc_text(moment: datetime) -> str:
    """A moment in UTC as ISO 8601, to the millisecond; such texts sort as times do."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_now() -> str:
    """The time now, as `utc_text` has it."""
    return utc_text(datetime.now(timezone.utc))


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` returns the time in the form of `utc_now`; `sleep` waits for a number of seconds."""

    now: Callable[[], str] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


CLOCK = Clock()
"""The real one."""
