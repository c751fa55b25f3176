"""The time now, as a text."""

from __future__ import annotations

import time
from datetime import datetime, timezone


def utc(seconds: float | None = None) -> str:
    """The time now, or `seconds` after the epoch, in UTC, ISO 8601, to the millisecond; such texts sort as times do."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
