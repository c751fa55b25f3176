"""Logs: one line per batch landed, per hold, per failed title, on standard error.

Modules log by `logging`: an event's name, and its values in `extra`. Here both become a line: readable on a terminal, a
JSON object elsewhere (`docker logs`, cron), so that a machine can read those.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from harvester.redaction import Struck


def set_up_logs(*, verbose: bool = False, stream: TextIO | Struck | None = None) -> None:
    """Log to `stream` (standard error), which is to strike out secrets itself; `verbose` adds debug lines."""
    out: Any = stream or sys.stderr
    terminal = out.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=terminal) if terminal else structlog.processors.JSONRenderer()
    time = structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal)
    handler = logging.StreamHandler(out)
    handler.addFilter(_without_traceback)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder(), time],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # of libraries, only what warns
    logging.getLogger("harvester").setLevel(logging.DEBUG if verbose else logging.INFO)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let every record through, but no traceback: it is nothing that a user could correct."""
    record.exc_info = record.exc_text = record.stack_info = None
    return True
