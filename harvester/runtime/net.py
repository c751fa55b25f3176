"""Values shared by what reads from outside: errno values of a missing route, dates of HTTP headers, gzip's mark."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

NO_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)  # the kernel has no route to an address

GZIP_MAGIC = b"\x1f\x8b"
"""First bytes of gzip (RFC 1952, 2.3.1)."""


def http_date(text: str | None) -> datetime | None:
    """The time in an HTTP header such as `Date`, to the second, in UTC; None if it is absent or invalid."""
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
