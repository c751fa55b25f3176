"""Networks, of TMDB and AWS alike: errno values that mean there is no route, and dates as HTTP headers have them."""

from __future__ import annotations

import errno
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

NO_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)  # the kernel has no route to an address


def http_date(text: str | None) -> datetime | None:
    """The moment that an HTTP header such as `Date` names, to the second, in UTC; None if it names none."""
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
