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
    """Log to `stream` (standard error), which is to strike out secrets itself; `verbose` adds debug lines.

    An event's name and the values in its `extra` are a readable line on a terminal, elsewhere (cron) a JSON object.
    """
    out: Any = stream or sys.stderr
    handler: logging.Handler = TerminalHandler(out) if out.isatty() else logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())  # a terminal's handler has lines of its own
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # of libraries, only what warns
    logging.getLogger("harvester").setLevel(logging.DEBUG if verbose else logging.INFO)


class TerminalHandler(logging.Handler):
    """Writes a line for people: the time here, the level, the event, and its values.

    Lines are not wrapped, and no value is cut into styles: a secret in one stays whole, so that it is struck out.
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
    """A value on one line: what cannot be printed is escaped."""
    text = str(value)
    return text if text.isprintable() else repr(text)
