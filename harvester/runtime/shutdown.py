"""Shutdown: a request to stop early, and how long open batches may still take."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from math import inf
from typing import TYPE_CHECKING

from harvester.errors import SAFE, StoppedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DRAIN_SECONDS = 20.0
"""Seconds that open batches have after a request to stop: a container has 30 s between SIGTERM and SIGKILL."""

LAST_SECONDS = 3.0
"""Seconds that a call to the store still has after cancellation. Three such calls in a row fit into what is left after
`DRAIN_SECONDS`: begin an upload, abort it, end the lease."""


class Shutdown:
    """A request to stop, from a signal, a deadline or a limit."""

    def __init__(self, *, limit: int | None = None) -> None:
        self.reason: str | None = None  # of the first request, once there is one
        self.interrupted = False  # whether work was left undone because of it
        self._left = inf if limit is None else limit
        self._drain_seconds: float | None = None
        self._drain_limit = inf
        self._end: asyncio.Timeout | None = None

    def request(self, reason: str, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Begin no more batches; those still open after `drain_seconds` are cancelled and left to the next run."""
        self.reason = self.reason or reason
        self._drain_seconds = drain_seconds
        self._reschedule()

    def admits(self, ids: int) -> bool:
        """Whether `ids` more may begin; those begun up to the limit have no deadline."""
        if self.reason:
            self.interrupted = True
            return False
        self._left -= ids
        if self._left <= 0:
            self.reason = "limit"
        return True

    @asynccontextmanager
    async def immediately(self) -> AsyncIterator[None]:
        """For work before the first batch: a request to stop cancels the body and raises StoppedError."""
        async with self.draining(most=0.0):
            yield
        if self.interrupted:
            raise StoppedError(f"Stopped by {self.reason}. {SAFE}")

    @asynccontextmanager
    async def draining(self, *, most: float = inf) -> AsyncIterator[None]:
        """For work with open batches: cancel the body when the drain seconds, at most `most`, are over."""
        self._drain_limit = most
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
        if self._end and self._drain_seconds is not None:
            self._end.reschedule(asyncio.get_running_loop().time() + min(self._drain_seconds, self._drain_limit))
