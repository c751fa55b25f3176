"""The run that is at work: results, errors and log lines name it.

`CURRENT_RUN` is a context variable. Tasks and timers inherit it from the task that starts them. Each command begins by
clearing it, because one task may call several; it stays set when a command has failed, for the error's result.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run (`{date}-{fingerprint}`), its lake (`s3://bucket/prefix`), and the key of its summary once it has one."""

    run: str
    lake: str
    summary_key: str | None = None


CURRENT_RUN: ContextVar[RunRef | None] = ContextVar("current_run", default=None)
