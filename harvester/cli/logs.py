"""The command line's logs: readable lines on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from harvester.runtime.json_log import JsonFormatter, values_of

if TYPE_CHECKING:
    from harvester.settings.redaction import RedactingStream

STYLES = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "bold red"}
"""How a terminal shows a level; `info` is green."""


def set_up_logs(*, verbose: bool = False, stream: TextIO | RedactingStream | None = None) -> None:
    """Log to `stream` (standard error), which must redact secrets itself; `verbose` adds debug lines.

    A record's message is the event's name, and its `extra` the values.
    """
    out: Any = stream or sys.stderr
    handler: logging.Handler = TerminalHandler(out) if out.isatty() else logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())  # `TerminalHandler` ignores it
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # of libraries, only warnings
    logging.getLogger("harvester").setLevel(logging.DEBUG if verbose else logging.INFO)


class TerminalHandler(logging.Handler):
    """Writes a readable line: the local time, the level, the event, and its values.

    Lines are not wrapped and values not styled in parts: a secret stays whole, so that the stream can redact it.
    """

    def __init__(self, out: Any) -> None:
        from rich.console import Console

        super().__init__()
        self._console = Console(file=out, highlight=False, emoji=False, markup=False, soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of `record`."""
        from rich.text import Text

        level = record.levelname.lower()
        line = Text.assemble(
            (time.strftime("%H:%M:%S", time.localtime(record.created)), "dim"),
            (f" {level:<8} ", STYLES.get(level, "green")),
            (_shown(record.getMessage()), "bold"),
            *((f"  {name}={_shown(value)}", "") for name, value in values_of(record).items()),
        )
        self._console.print(line)


def _shown(value: Any) -> str:
    """A value on one line, unprintable characters escaped."""
    text = str(value)
    return text if text.isprintable() else repr(text)
