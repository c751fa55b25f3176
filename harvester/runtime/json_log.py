"""Log lines as JSON: one formatter for the command line and the Lambda.

A line has `time` (UTC), `level`, `event`, `run` once the run is known, and the values that were logged with the event.
Numbers stay numbers: seconds, bytes, counts and rates.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from typing import Any

from harvester.runtime.clock import utc_text
from harvester.runtime.current_run import CURRENT_RUN

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id", "tenant_id"}
"""Attributes of every record: of `logging` itself, and of AWS's runtime client."""


def values_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was logged with the event (`extra`), after the name of the run at work."""
    values = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    run = CURRENT_RUN.get()
    return ({"run": run.run} if run else {}) | values


class JsonFormatter(logging.Formatter):
    """A JSON object a line, in ASCII, so that any stream takes it. Tracebacks stay out, unless they are a value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of `record`."""
        first = {
            "time": utc_text(datetime.fromtimestamp(record.created, timezone.utc)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        return json.dumps(first | values_of(record), default=str)
