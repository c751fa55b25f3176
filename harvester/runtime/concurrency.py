"""Doing things side by side: the only place where tasks are made.

`asyncio.TaskGroup` underneath, so that nothing is left behind: when one fails or we are cancelled, the others are
cancelled and awaited. What comes out is the first real error itself, not a group of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

T = TypeVar("T")
R = TypeVar("R")


async def fan_out(
    function: Callable[[T], Awaitable[R]], inputs: Iterable[T] | AsyncGenerator[T, None], *, at_once: int
) -> list[R]:
    """The results of `function` over `inputs`, in their order, at most `at_once` under way.

    The next input is drawn only when there is room for it, so `inputs` may be endless, or wait. What comes out is the
    first error that `function` or `inputs` raised; the rest has been cancelled.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    slots = asyncio.Semaphore(at_once)
    drawn = inputs if isinstance(inputs, AsyncGenerator) else _one_by_one(inputs)
    place = 0

    async def one(place: int, value: T) -> None:
        try:
            results[place] = await function(value)
        except Exception as error:
            errors.append(error)
            raise
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group, aclosing(drawn) as values:
            try:
                await slots.acquire()
                async for value in values:
                    group.create_task(one(place, value))
                    place += 1
                    await slots.acquire()
            except Exception as error:
                errors.append(error)
                raise
    except BaseExceptionGroup:
        pass
    if errors:
        raise errors[0]
    if len(results) < place:
        raise asyncio.CancelledError  # one of them was, on its own account
    return [results[place] for place in range(place)]


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run `work` beside the body of the context, and cancel it at the body's end.

    What comes out is the error of `work`, after which the body has been cancelled, or the body's own.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            try:
                yield
            finally:
                work_was_first = task.done()
                task.cancel()
    except BaseExceptionGroup as errors:  # that of the work, if any, and then that of the body, if any
        error = errors.exceptions[0 if work_was_first else -1]
    else:
        return
    raise error


class MemoryBudget:
    """How many bytes may be held at a time: a caller that would begin more waits until some are given back."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._free = asyncio.Event()
        self._free.set()

    def reserve(self, size: int) -> None:
        """Hold `size` bytes more, or with a negative size fewer. Never waits."""
        self._held += size
        if self._held < self._limit:
            self._free.set()
        else:
            self._free.clear()

    async def wait(self) -> None:
        """Wait until less than the limit is held."""
        await self._free.wait()


async def in_thread(function: Callable[[], R]) -> R:
    """The result of a blocking `function`, in a thread of its own; cancelled, we leave it behind.

    `asyncio.to_thread` would have us wait for its end, at the latest at that of the process: for a pipe that nobody
    closes, for ever.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[R] = loop.create_future()

    def work() -> None:
        settle: Callable[[], object]
        try:
            settle = partial(result.set_result, function())
        except BaseException as error:  # noqa: BLE001  # it is raised where it is awaited
            settle = partial(result.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: result.done() or settle())

    threading.Thread(target=work, daemon=True).start()
    return await result


async def complete_or_undo(
    call: Coroutine[Any, Any, R], *, undo: Callable[[R], Coroutine[Any, Any, object]] | None = None, seconds: float
) -> R:
    """The result of a small `call`; cancelled meanwhile, we let it finish and call `undo`, if any, with its result.

    For calls whose effect must be known, such as the start of an upload, which would be orphaned, or its abort. After
    the first cancel each of the two has so many `seconds` left, however often we are cancelled.
    """
    task = asyncio.ensure_future(call)
    if not await _cancelled_before_the_end_of(task, seconds):
        return task.result()
    if not task.cancelled() and task.exception() is None and undo:
        undoing = asyncio.ensure_future(undo(task.result()))
        asyncio.get_running_loop().call_later(seconds, undoing.cancel)
        await _cancelled_before_the_end_of(undoing, seconds)
    raise asyncio.CancelledError


async def _cancelled_before_the_end_of(task: asyncio.Future[Any], seconds: float) -> bool:
    """Wait for the end of `task`, which has so many `seconds` left once we are cancelled; whether we were."""
    timer: asyncio.TimerHandle | None = None
    try:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                timer = timer or asyncio.get_running_loop().call_later(seconds, task.cancel)
    finally:
        if timer:
            timer.cancel()
    return timer is not None


async def _one_by_one(values: Iterable[T]) -> AsyncGenerator[T, None]:
    for value in values:
        yield value
