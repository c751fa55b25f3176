"""Event loops with a faster clock: by the loop's own clock, timeouts and waits have their full length.

Use `Leaping` if everything happens in this process, however busy the machine is; use `Hasty` if another process has to
respond, which then has that much less time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from aiohttp import web

    from harvester.fakes.s3_proxy import Call, Forward, Rule

LOOK = 0.1
"""Real seconds after which nothing more is expected to arrive over loopback."""


class Hasty(asyncio.SelectorEventLoop):
    """A loop whose clock runs `times` as fast as real time."""

    def __init__(self, times: float = 1.0) -> None:
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                return super().select(timeout and timeout / loop.times)

        self.times = times
        self._since = self._then = 0.0
        super().__init__(Selector())

    def time(self) -> float:
        return self._then + (super().time() - self._since) * self.times

    def hurry(self, times: float) -> None:
        """Let the clock run `times` as fast as real time from now on."""
        self._then, self._since = self.time(), super().time()
        self.times = times


class Leaping(asyncio.SelectorEventLoop):
    """A loop whose clock stops while it works, and skips time in which nothing happens.

    A back-off of a minute is a minute by its clock and almost no real time. Before a skip it waits for I/O, a fortieth
    of the time or `look` seconds, whichever is less: so data that was sent arrives before a timeout ends.

    Attributes:
        now: Its clock, in seconds.
        leaping: False: the clock runs in real time.
        abroad: Number of threads and other processes that work for it; while above 0, the clock runs in real time.
    """

    def __init__(self, look: float = LOOK) -> None:
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                if timeout is None or timeout <= 0:
                    return super().select(timeout)
                leaps, began = loop.leaping and not loop.abroad, time.monotonic()
                ready = super().select(min(timeout / 40, look) if leaps else timeout) or super().select(0)
                passed = time.monotonic() - began
                loop.now += timeout if leaps and not ready else min(passed, timeout)
                return ready

        self.now, self.leaping, self.abroad = 0.0, True, 0
        super().__init__(Selector())

    def time(self) -> float:
        return self.now

    def run_in_executor(self, *call: Any) -> Any:
        """Count the thread as working for the loop until it is done."""
        self.abroad += 1
        future = super().run_in_executor(*call)
        future.add_done_callback(self._back)
        return future

    def _back(self, _future: asyncio.Future[Any]) -> None:
        self.abroad -= 1


@contextmanager
def abroad() -> Iterator[None]:
    """Let the clock of a `Leaping` loop run in real time, while another process works for it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Leaping)
    loop.abroad += 1
    try:
        yield
    finally:
        loop.abroad -= 1


def in_its_time(rule: Rule) -> Rule:
    """A rule for an S3 proxy on a `Leaping` loop: forwarded calls take only the real time that S3 needs."""

    async def timed(call: Call, forward: Forward) -> web.StreamResponse:
        async def forward_abroad() -> web.Response:
            with abroad():
                return await forward()

        return await rule(call, forward_abroad)

    return timed


async def no_wait(seconds: float) -> None:
    """A sleep that takes no time."""


def run_on(loop: asyncio.AbstractEventLoop, scenario: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, run to its end on this loop.

    Without debug mode, unlike other tests: there every future and callback stores its stack, which takes 1.25 to 1.6
    times the CPU of scenarios that do not wait (measured), and warnings of slow callbacks have no meaning here.
    """
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(scenario)
