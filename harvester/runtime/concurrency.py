"""Concurrency: the only module that creates tasks.

It uses `asyncio.TaskGroup`, so that no task is left running: when one fails or the caller is cancelled, the others are
cancelled and awaited. The first real error is raised itself, not in a group.
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
    """The results of `function` for each of the `inputs`, in their order, with at most `at_once` calls running.

    The next input is taken only when a call for it can start, so `inputs` may be endless, or wait. The first error that
    `function` or `inputs` raises cancels the rest and is raised.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    slots = asyncio.Semaphore(at_once)
    generator = inputs if isinstance(inputs, AsyncGenerator) else _one_by_one(inputs)
    started = 0

    async def call(index: int, value: T) -> None:
        try:
            results[index] = await function(value)
        except Exception as error:
            errors.append(error)
            raise
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group, aclosing(generator):
            try:
                await slots.acquire()
                async for value in generator:
                    group.create_task(call(started, value))
                    started += 1
                    await slots.acquire()
            except Exception as error:
                errors.append(error)
                raise
    except BaseExceptionGroup:
        pass
    if errors:
        raise errors[0]
    if len(results) < started:
        raise asyncio.CancelledError  # a call raised it itself
    return [results[index] for index in range(started)]


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Run `work` concurrently with the body of the context, and cancel it when the body ends.

    An error of `work` cancels the body and is raised; so is an error of the body.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            try:
                yield
            finally:
                work_was_first = task.done()
                task.cancel()
    except BaseExceptionGroup as errors:  # the error of the work, if any, then that of the body, if any
        error = errors.exceptions[0 if work_was_first else -1]
    else:
        return
    raise error


class MemoryBudget:
    """A limit on the bytes in memory: callers wait before they begin more, until some are released."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._free = asyncio.Event()
        self._free.set()

    def reserve(self, size: int) -> None:
        """Reserve `size` bytes, or release them if negative. Never waits."""
        self._held += size
        if self._held < self._limit:
            self._free.set()
        else:
            self._free.clear()

    async def wait(self) -> None:
        """Wait until less than the limit is reserved."""
        await self._free.wait()


async def in_thread(function: Callable[[], R]) -> R:
    """The result of a blocking `function`, run in its own thread; a cancelled caller does not wait for it.

    With `asyncio.to_thread` the process would wait for the thread when it exits: for ever, if that reads from a pipe
    that is never closed.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def work() -> None:
        settle: Callable[[], object]
        try:
            settle = partial(future.set_result, function())
        except BaseException as error:  # noqa: BLE001  # raised by the `await`
            settle = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: future.done() or settle())

    threading.Thread(target=work, daemon=True).start()
    return await future


async def complete_or_undo(
    call: Coroutine[Any, Any, R], *, undo: Callable[[R], Coroutine[Any, Any, object]] | None = None, seconds: float
) -> R:
    """The result of a short `call`; if cancelled meanwhile, waits for it to finish and calls `undo` with its result.

    For calls whose effect must be known, such as the start of an upload, which would be orphaned, or its abort. After
    the first cancellation the call and `undo` have this many `seconds` each, even if it is cancelled again.
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
    """Whether the caller was cancelled before `task` ended; `task` has this many `seconds` after that."""
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
