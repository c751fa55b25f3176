"""Logs: one line per batch landed, per hold, per failed title, on standard error.

Readable on a terminal, a JSON object a line elsewhere (CloudWatch, `docker logs`), so that a machine can read those.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from harvester.redaction import Struck


def set_up_logs(*, verbose: bool = False, stream: TextIO | Struck | None = None) -> None:
    """Log to `stream` (standard error); `verbose` adds debug lines.

    What may not be said is struck out by the stream: give a `Struck` one, or have standard error be one before.
    """
    out: Any = stream or sys.stderr
    terminal = out.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=terminal) if terminal else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(out)  # of libraries' own warnings, which know nothing of structlog
    handler.addFilter(_without_traceback)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(message)s", force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let every record through, but no traceback: it is nothing that a user could mend."""
    record.exc_info = record.exc_text = record.stack_info = None
    return True
