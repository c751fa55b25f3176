"""Logs: one line per batch landed, per hold, per failed title, on standard error; never a secret.

Readable on a terminal, a JSON object a line elsewhere (CloudWatch, `docker logs`), so that a machine can read those.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from harvester.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Unread:
    """A stream that nobody may be reading any more (`2>&1 | head`): that does not end a harvest."""

    stream: TextIO

    def write(self, text: str) -> None:
        with suppress(BrokenPipeError):
            self.stream.write(text)

    def flush(self) -> None:
        with suppress(BrokenPipeError):
            self.stream.flush()


def set_up_logs(*, secrets: Sequence[str], verbose: bool = False, stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error); `verbose` adds debug lines.

    The secrets are struck out of every finished line. That is a second lock: nothing is meant to log them at all.
    """
    out = stream or sys.stderr
    terminal = out.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer(colors=terminal) if terminal else structlog.processors.JSONRenderer()

    def render(logger: Any, name: str, event: structlog.typing.EventDict) -> str:
        return redact(str(renderer(logger, name, event)), secrets)

    handler = logging.StreamHandler(out)  # of libraries' own warnings, which know nothing of structlog

    def strike(record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(handler.format(record), secrets), None
        record.exc_info = record.exc_text = record.stack_info = None
        return True

    handler.addFilter(strike)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(message)s", force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=_Unread(out)),  # type: ignore[arg-type]  # it writes
        cache_logger_on_first_use=False,
    )
