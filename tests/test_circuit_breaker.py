"""Circuit breaker: when too many requests for too long had no usable answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harvester.tmdb.circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    from conftest import Clock

    from harvester.errors import TmdbUnavailableError


def counted(
    breaker: CircuitBreaker, clock: Clock, *, successes: int, failures: int, last: str | None = "http_503"
) -> TmdbUnavailableError | None:
    """What comes of a period of 30 s with so many requests, evenly spread, the last of them at its very end."""
    start = clock.now
    reasons: list[str | None] = (
        [None] * (successes - (last is None)) + ["http_503"] * (failures - (last is not None)) + [last]
    )
    outage = None
    for number, reason in enumerate(reasons, 1):
        assert outage is None
        clock.now = start + 30.0 * number / len(reasons)
        outage = breaker.record(reason)
    return outage


def test_two_bad_periods_are_an_outage(clock: Clock) -> None:
    """Nine of ten without a usable answer in two periods in a row are one; the reason is the last one's."""
    breaker = CircuitBreaker(clock.time, "http://tmdb.test/3")
    assert counted(breaker, clock, successes=1, failures=9) is None
    outage = counted(breaker, clock, successes=1, failures=9)
    assert outage is not None
    assert outage.reason == "http_503"
    assert "9 of 10 requests to http://tmdb.test/3 had no usable answer" in str(outage)


def test_an_outage_is_reported_again_after_another_bad_period(clock: Clock) -> None:
    """A caller that found TMDB answering after all gets it again, once a period and not at every request."""
    breaker = CircuitBreaker(clock.time, "http://tmdb.test/3")
    assert [counted(breaker, clock, successes=0, failures=9) is not None for _ in range(4)] == [False, True, True, True]


@pytest.mark.parametrize(
    "periods",
    [
        pytest.param([(2, 9), (2, 9), (2, 9)], id="a little better than nine of ten"),
        pytest.param([(0, 9), (9, 9), (0, 9), (9, 9)], id="a good one between"),
        pytest.param([(0, 2), (0, 1)], id="too few requests"),
    ],
)
def test_anything_else_is_none(clock: Clock, periods: list[tuple[int, int]]) -> None:
    """Less than nine of ten, or not twice in a row, or hardly any requests, are no outage."""
    breaker = CircuitBreaker(clock.time, "http://tmdb.test/3")
    assert [counted(breaker, clock, successes=successes, failures=failures) for successes, failures in periods] == [
        None
    ] * len(periods)
    assert breaker.failures == sum(failures for _, failures in periods)


def test_a_good_answer_at_the_wrong_moment_hides_no_outage(clock: Clock) -> None:
    """If a period happens to end with one of the few good answers, the next bad one is still an outage."""
    breaker = CircuitBreaker(clock.time, "http://tmdb.test/3")
    assert counted(breaker, clock, successes=0, failures=20) is None
    assert counted(breaker, clock, successes=1, failures=20, last=None) is None
    assert breaker.record("http_503") is not None
