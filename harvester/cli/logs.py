"""The command line's logs: readable lines on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from harvester.settings.redaction import RedactingStream


def set_up_logs(*, verbose: bool = False, stream: TextIO | RedactingStream | None = None) -> None:
    """Log to `stream` (standard error), which is to strike out secrets itself; `verbose` adds debug lines.

    An event's name and the values in its `extra` are a readable line on a terminal, elsewhere (cron) a JSON object.
    """
    from structlog import dev, processors, stdlib

    out: Any = stream or sys.stderr
    terminal = out.isatty()
    renderer: Any = dev.ConsoleRenderer(colors=terminal) if terminal else processors.JSONRenderer()
    time = processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal)
    handler = logging.StreamHandler(out)
    handler.addFilter(_without_traceback)
    before: list[Any] = [stdlib.add_log_level, stdlib.ExtraAdder(), time]
    then = [stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    handler.setFormatter(stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=then))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # of libraries, only what warns
    logging.getLogger("harvester").setLevel(logging.DEBUG if verbose else logging.INFO)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let every record through, but no traceback: it is nothing that a user could correct."""
    record.exc_info = record.exc_text = record.stack_info = None
    return True
