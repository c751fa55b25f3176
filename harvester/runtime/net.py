"""Network values shared by TMDB and AWS: errno values that mean there is no route, and dates of HTTP headers."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

NO_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)  # the kernel has no route to an address


def http_date(text: str | None) -> datetime | None:
    """The time in an HTTP header such as `Date`, to the second, in UTC; None if it is absent or invalid."""
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
