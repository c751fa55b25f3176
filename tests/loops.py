"""Event loops on which seconds pass faster: timeouts and waits stay as long as they are, by the loop's own clock.

`Leaping` for whatever happens within this process, however busy the machine is; `Hasty` where another process has to
answer in the meantime, which then has that much less time.
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
"""Seconds by the wall after which what has not come through the loopback is taken not to be on its way."""


class Hasty(asyncio.SelectorEventLoop):
    """A loop on which `times` seconds pass in one."""

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
        """From now on `times` seconds pass in one."""
        self._then, self._since = self.time(), super().time()
        self.times = times


class Leaping(asyncio.SelectorEventLoop):
    """A loop whose clock stands while it works, and leaps over whatever time nothing happens in.

    A minute's hold is a minute by its clock and next to none by the wall's. Before it leaps it looks around, for a
    fortieth of the time or for `look` seconds: what has been sent arrives before anybody gives it up.

    Attributes:
        now: Its clock.
        leaping: False: the clock goes as the wall's.
        abroad: Threads and other processes that work for it: as long as there are any, the same.
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
        """A thread works as well."""
        self.abroad += 1
        future = super().run_in_executor(*call)
        future.add_done_callback(self._back)
        return future

    def _back(self, _future: asyncio.Future[Any]) -> None:
        self.abroad -= 1


@contextmanager
def abroad() -> Iterator[None]:
    """Another process works for us, on a loop that leaps."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Leaping)
    loop.abroad += 1
    try:
        yield
    finally:
        loop.abroad -= 1


def in_its_time(rule: Rule) -> Rule:
    """The rule of a link before a real S3, on a loop that leaps, with no more time passing than S3 itself takes."""

    async def timed(call: Call, forward: Forward) -> web.StreamResponse:
        async def forward_abroad() -> web.Response:
            with abroad():
                return await forward()

        return await rule(call, forward_abroad)

    return timed


async def no_wait(seconds: float) -> None:
    """A sleep that takes no time."""


def run_on(loop: asyncio.AbstractEventLoop, story: Coroutine[Any, Any, Any]) -> Any:
    """What comes of the story, told to its end on this loop.

    Not in debug mode, as other tests are: there every future and callback keeps the stack that it was made in, which is
    1.25 to 1.6 times the CPU time of stories that do not wait (measured), and slow callbacks say nothing here.
    """
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(story)
