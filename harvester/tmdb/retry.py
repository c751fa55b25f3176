"""Retry: how often, and with which waits, one request to TMDB is repeated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from harvester.tmdb.responses import Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from harvester.model.outcome import Found

T = TypeVar("T")

TRIES, REFUSALS, PART_TRIES = 6, 20, 3
"""Requests for one answer at most: in general, with a 429 (which is no fault of the title; not counted in the first
number), and to get an appended part that was left out."""

TRIES_SECONDS = 600.0  # for one answer at most, with room for several back-offs of 60 s
JITTER = tenacity.wait_random_exponential(0.5, 20.0)  # seconds; the n-th from 0 to 0.5 · 2ⁿ⁻¹, at most 20: full jitter


async def retry(
    response: T | Retry,
    ask: Callable[[], Awaitable[T | Retry]],
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> T | Retry:
    """The first good response, or the last `Retry`: calls `ask`, with waits, while the `response` is a `Retry`."""
    started, refusals = clock(), 0
    best: Found | None = None
    earlier = [response]

    async def one_try() -> T | Retry:
        nonlocal refusals, best
        response = earlier.pop() if earlier else await ask()
        if not isinstance(response, Retry):
            return response
        refusals += response.is_rate_limit
        best = response.partial_record or best
        return replace(response, partial_record=best)

    def enough(state: tenacity.RetryCallState) -> bool:
        late = clock() - started >= TRIES_SECONDS
        return late or refusals >= REFUSALS or state.attempt_number - refusals >= (PART_TRIES if best else TRIES)

    def last(state: tenacity.RetryCallState) -> Any:
        return state.outcome.result() if state.outcome else None

    retrying = tenacity.AsyncRetrying(
        sleep=sleep,
        stop=enough,
        wait=lambda state: 0.0 if last(state).is_rate_limit else JITTER(state),  # the rate limiter waits after a 429
        retry=tenacity.retry_if_result(lambda response: isinstance(response, Retry)),
        retry_error_callback=last,
    )
    return await retrying(one_try)
