"""The standard streams: they accept any text, show no secret, and never raise.

Output that cannot be written does not change how a command ends.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from harvester.settings.redaction import RedactingStream

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def standard_streams() -> Iterator[None]:
    """Make the standard streams accept any text and never raise, even where cron or a pipe has closed them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out, err = RedactingStream(_writable(sys.stdout)), RedactingStream(_writable(sys.stderr))
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()
        if out.trouble and not isinstance(out.trouble, BrokenPipeError):  # the reader has read enough
            sys.stderr.write(f"The result could not be written to standard output: {out.trouble.strerror}.\n")
        err.flush()


def _writable(stream: TextIO | None) -> TextIO:
    """The stream, made to accept any text; None stands for one that was closed before we began."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def add_secrets(*secrets: str) -> None:
    """Redact these secrets in both output streams, which must be those of `standard_streams`."""
    for stream in (sys.stdout, sys.stderr):
        cast("RedactingStream", stream).secrets.update(secrets)
