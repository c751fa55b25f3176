"""Shutdown: a request to end early, and how long what is under way may still take."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

from harvester.errors import StoppedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DRAIN_SECONDS = 20.0
"""How long open batches may go on after a request to stop: a container has 30 s between SIGTERM and SIGKILL."""


class Shutdown:
    """A request to stop, from a signal, a deadline or a limit."""

    def __init__(self, *, limit: int | None = None) -> None:
        self.reason: str | None = None  # what asked, once it has
        self.interrupted = False  # whether something was left undone because of it
        self._left = inf if limit is None else limit
        self._seconds: float | None = None
        self._most = inf
        self._end: asyncio.Timeout | None = None

    def request(self, reason: str, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Take no more batches; those still open after `drain_seconds` are given up, to be done by the next run."""
        self.reason = self.reason or reason
        self._seconds = drain_seconds
        self._reschedule()

    def admits(self, ids: int) -> bool:
        """Whether so many more ids may be taken; those taken up to the limit have all the time they need."""
        if self.reason:
            self.interrupted = True
            return False
        self._left -= ids
        if self._left <= 0:
            self.reason = "limit"
        return True

    @asynccontextmanager
    async def immediately(self) -> AsyncIterator[None]:
        """Before the first batch is open: a request to stop cancels what is inside, and is raised as StoppedError."""
        async with self.draining(most=0.0):
            yield
        if self.interrupted:
            raise StoppedError(f"Stopped by {self.reason}. What has landed is safe; run again to go on.")

    @asynccontextmanager
    async def draining(self, *, most: float = inf) -> AsyncIterator[None]:
        """Once batches are open: cancel what is inside when the seconds to drain, `most` of them, are over."""
        self._most = most
        try:
            async with asyncio.timeout(None) as self._end:
                self._reschedule()
                yield
        except TimeoutError:
            if self._end is None or not self._end.expired():
                raise
            self.interrupted = True
        finally:
            self._end = None

    def _reschedule(self) -> None:
        if self._end and self._seconds is not None:
            self._end.reschedule(asyncio.get_running_loop().time() + min(self._seconds, self._most))
