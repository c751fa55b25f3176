"""The clock: the time, and a way to wait; passed in, so that no test waits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def utc_now() -> str:
    """The time now in UTC, ISO 8601, to the millisecond; these texts sort by time."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Clock:
    """`now` returns the time in the form of `utc_now`; `sleep` waits for a number of seconds."""

    now: Callable[[], str] = utc_now
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
