"""Doing things side by side: the only place where tasks are made.

`asyncio.TaskGroup` underneath, so that nothing is left behind: when one fails or we are cancelled, the others are
cancelled and awaited. What comes out is the first real error itself, not a group of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable

T = TypeVar("T")
R = TypeVar("R")


async def fan_out(
    function: Callable[[T], Awaitable[R]], inputs: Iterable[T] | AsyncIterable[T], *, at_once: int
) -> list[R]:
    """The results of `function` over `inputs`, in their order, at most `at_once` under way.

    The next input is drawn only when there is room for it, so `inputs` may be endless, or wait.

    Raises:
        Exception: The first that `function` or `inputs` raised; the rest has been cancelled.
    """
    results: dict[int, R] = {}
    room = asyncio.Semaphore(at_once)

    async def one(place: int, value: T) -> None:
        try:
            results[place] = await function(value)
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as group, aclosing(_each(inputs)) as values:
            place = 0
            await room.acquire()
            async for value in values:
                group.create_task(one(place, value))
                place += 1
                await room.acquire()
    except BaseExceptionGroup as errors:
        error = _first(errors)
    else:
        return [results[place] for place in range(len(results))]
    raise error


async def finish(call: Coroutine[Any, Any, R], *, undo: Callable[[R], Awaitable[object]]) -> R:
    """The result of a small `call`; cancelled meanwhile, we let it finish and call `undo` with its result.

    For calls whose effect must be known, such as the start of an upload, which would be orphaned otherwise.
    """
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            await undo(task.result())
        raise


async def _each(inputs: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error inside `errors`, however deep."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
