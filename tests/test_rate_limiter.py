"""Rate limiter, on a clock that moves only when a task sleeps by it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from functools import partial
from math import inf
from random import Random
from typing import TYPE_CHECKING

import pytest

from harvester.tmdb.rate_limiter import (
    DECREASE,
    MIN_RATE,
    MIN_SPACING,
    NEAR_LIMIT_FACTOR,
    SPACING,
    RateLimiter,
    requests_in,
    seconds_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock


def limiter_of(ceiling: float, clock: Clock, *, jitter: float = 0.0) -> RateLimiter:
    return RateLimiter(ceiling, clock=clock.time, sleep=clock.sleep, jitter=lambda: jitter)


async def turns_of(limiter: RateLimiter, count: int) -> list[float]:
    return [await limiter.acquire() for _ in range(count)]


def most_in_a_second(times: list[float]) -> int:
    """The most of these sorted times in any window of one second, whose end belongs to the next window."""
    window: deque[float] = deque()
    most = 0
    for time in times:
        while window and window[0] <= time - 1.0:
            window.popleft()
        window.append(time)
        most = max(most, len(window))
    return most


# The spacing


@pytest.mark.parametrize("late", [0.005, 0.015, 0.06])
@pytest.mark.parametrize("ceiling", [1, 2, 7, 20, 40, 50, 250])
async def test_no_second_has_more_turns_than_the_ceiling(clock: Clock, ceiling: int, late: float) -> None:
    """In any window of one second there are at most `ceiling` turns, and 11 ms to spare, however late we wake."""
    dice = Random(ceiling)

    async def sleep_late(seconds: float) -> None:
        await clock.sleep(seconds + dice.random() * late)

    limiter = RateLimiter(ceiling, clock=clock.time, sleep=sleep_late)
    turns = await turns_of(limiter, ceiling * 20)
    assert most_in_a_second(turns) <= ceiling
    assert min(later - turn for turn, later in zip(turns, turns[ceiling:], strict=False)) >= MIN_SPACING - 1e-9


@pytest.mark.parametrize(("ceiling", "most"), [(39.5, 39), (13.3, 13), (2.5, 2), (1.9, 1), (0.5, 1)])
async def test_no_second_has_a_fraction_more_than_the_ceiling(clock: Clock, ceiling: float, most: int) -> None:
    """A ceiling that is no whole number is not rounded up in any second; 0.5 is one in any two seconds."""
    turns = await turns_of(limiter_of(ceiling, clock), 200)
    assert most_in_a_second(turns) == most
    assert min(later - earlier for earlier, later in itertools.pairwise(turns)) > 1 / ceiling


async def test_turns_are_spaced_evenly(clock: Clock) -> None:
    """There is no burst, not even at the start: each turn is 1/40 s and a little after the one before."""
    turns = await turns_of(limiter_of(40, clock), 200)
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert min(gaps) == pytest.approx(max(gaps))
    assert 0.025 < min(gaps) < 0.0258


@pytest.mark.parametrize("late", [0.002, 0.005, 0.010])
async def test_lateness_does_not_add_up(clock: Clock, late: float) -> None:
    """Sleepers that wake up to 10 ms late, as on a busy machine, cost nothing: all that the spacing leaves is used."""
    dice = Random(1)

    async def sleep_late(seconds: float) -> None:
        await clock.sleep(seconds + dice.random() * late)

    turns = await turns_of(RateLimiter(40, clock=clock.time, sleep=sleep_late), 4_000)
    assert len(turns) / turns[-1] > 0.995 * 40 / SPACING


@pytest.mark.parametrize("stall", [0.006, 0.03, 0.06, 0.5, 3.0, 100.0])
async def test_a_stall_is_not_made_up_for_by_a_burst(clock: Clock, stall: float) -> None:
    """After the process stood still, those who waited are spaced again."""
    nights = iter([0.0] * 30 + [stall])

    async def sleep_sometimes_long(seconds: float) -> None:
        await clock.sleep(seconds + next(nights, 0.0))

    turns = await turns_of(RateLimiter(40, clock=clock.time, sleep=sleep_sometimes_long), 200)
    assert most_in_a_second(turns) <= 40
    assert min(later - turn for turn, later in zip(turns, turns[11:], strict=False)) > 0.2


async def test_turns_that_nobody_took_are_not_saved_up(clock: Clock) -> None:
    """After a minute in which nobody asked, the next hundred are spaced like any others."""
    limiter = limiter_of(40, clock)
    await turns_of(limiter, 10)
    clock.now += 60.0
    assert most_in_a_second(await turns_of(limiter, 100)) <= 40


async def test_first_come_first_served(clock: Clock) -> None:
    """Turns are given in the order of asking."""
    limiter = limiter_of(40, clock)
    served: list[int] = []

    async def ask(number: int) -> None:
        await limiter.acquire()
        served.append(number)

    await asyncio.gather(*map(ask, range(50)))
    assert served == list(range(50))


async def test_a_cancelled_waiter_blocks_nobody(clock: Clock) -> None:
    """A task that is cancelled in the queue, at its head or further back, gives way, and its slot is not lost."""
    morning = asyncio.Event()

    async def sleep_until_morning(seconds: float) -> None:
        await morning.wait()
        await clock.sleep(seconds)

    limiter = RateLimiter(1, clock=clock.time, sleep=sleep_until_morning)
    first = await limiter.acquire()
    waiters = [asyncio.ensure_future(limiter.acquire()) for _ in range(4)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    waiters[2].cancel()
    morning.set()
    turns = await asyncio.gather(*waiters, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in turns] == [True, False, True, False]
    assert [turns[1], turns[3]] == pytest.approx([first + SPACING, first + 2 * SPACING])


# The back-off


async def test_a_back_off_stops_those_who_come_after(clock: Clock) -> None:
    """No request has a turn before TMDB's seconds are over."""
    limiter = limiter_of(40, clock)
    turn = await limiter.acquire()
    clock.now = 0.2
    limiter.back_off(7.0, ticket=turn)
    assert await limiter.acquire() == pytest.approx(7.2)


async def test_a_back_off_also_stops_requests_already_queued(clock: Clock) -> None:
    """After a 429 no request is sent before TMDB's seconds are over, however early it queued."""
    backed_off: list[float] = []

    async def sleep_and_back_off(seconds: float) -> None:
        await clock.sleep(seconds)
        if not backed_off:
            backed_off.append(clock.now)
            limiter.back_off(7.0, ticket=first)

    limiter = RateLimiter(40, clock=clock.time, sleep=sleep_and_back_off, jitter=lambda: 0.0)
    first = await limiter.acquire()
    turns = await asyncio.gather(*(limiter.acquire() for _ in range(3)))
    assert turns[0] == pytest.approx(backed_off[0] + 7.0)
    assert sorted(turns) == turns
    assert most_in_a_second(turns) == 3
    assert turns[1] - turns[0] > 1 / 40


async def test_after_a_back_off_there_is_no_burst(clock: Clock) -> None:
    """Those who gathered during a back-off are spaced when it is over."""
    limiter = limiter_of(40, clock)
    limiter.back_off(30.0, ticket=await limiter.acquire())
    assert most_in_a_second(await turns_of(limiter, 200)) <= 40


@pytest.mark.parametrize(
    ("asked", "waited"), [(None, 1.0), (0.0, 0.0), (7.0, 7.0), (60.0, 60.0), (61.0, 60.0), (inf, 60.0)]
)
async def test_a_back_off_takes_the_servers_seconds_within_bounds(
    clock: Clock, asked: float | None, waited: float
) -> None:
    """One second where the server names none, and never more than 60: an absurd one would stop a run for hours."""
    limiter = limiter_of(40, clock)
    assert limiter.back_off(asked, ticket=await limiter.acquire()) == waited
    assert await limiter.acquire() >= waited


async def test_back_offs_prolong_and_never_shorten(clock: Clock) -> None:
    """Of several back-offs the one that ends last counts."""
    limiter = limiter_of(40, clock)
    turn = await limiter.acquire()
    limiter.back_off(10.0, ticket=turn)
    limiter.back_off(1.0, ticket=turn)
    limiter.back_off(0.0, ticket=turn)
    assert await limiter.acquire() == pytest.approx(10.0)
    limiter.back_off(1.0, ticket=turn)
    clock.now = 10.5
    limiter.back_off(2.0, ticket=turn)
    assert await limiter.acquire() == pytest.approx(12.5)


@pytest.mark.parametrize(("jitter", "after"), [(0.0, 5.0), (1.0, 5.25)])
async def test_several_processes_do_not_come_back_as_one(clock: Clock, jitter: float, after: float) -> None:
    """A back-off is longer by up to a quarter of a second of jitter, and never shorter."""
    limiter = limiter_of(40, clock, jitter=jitter)
    limiter.back_off(5.0, ticket=await limiter.acquire())
    assert await limiter.acquire() == pytest.approx(after)


# The rate


async def test_the_rate_sinks_once_however_many_were_under_way(clock: Clock) -> None:
    """429s of requests sent before the rate sank lower nothing more; one sent after it does."""
    limiter = limiter_of(40, clock)
    in_flight = await turns_of(limiter, 8)
    clock.now += 0.2
    assert [limiter.back_off(1.0, ticket=turn) for turn in in_flight] == [1.0] + [None] * 7
    assert (limiter.rate, limiter.backoffs) == (40 * DECREASE, 1)
    assert limiter.back_off(1.0, ticket=await limiter.acquire()) == 1.0
    assert limiter.backoffs == 2
    assert limiter.rate == pytest.approx(40 * DECREASE**2, rel=1e-3)


@pytest.mark.parametrize(("ceiling", "limit"), [(60, 50), (100, 60), (40, 20)])
async def test_a_refusal_shows_the_limit(clock: Clock, ceiling: int, limit: int) -> None:
    """So many were answered in the second before: that is the limit, and the rate sinks to just below it at once."""
    limiter = limiter_of(ceiling, clock)
    *_, refused = await turns_of(limiter, limit + 1)
    limiter.back_off(1.0, ticket=refused)
    assert limiter.rate == pytest.approx(limit * NEAR_LIMIT_FACTOR)


async def test_a_second_in_which_the_rate_sank_shows_no_limit(clock: Clock) -> None:
    """Refused at once after a back-off of no time, as with one title that always is, the rate sinks by a step."""
    limiter = limiter_of(40, clock)
    *_, refused = await turns_of(limiter, 80)
    limiter.back_off(0.0, ticket=refused)
    limiter.rate = 40.0
    *_, refused = await turns_of(limiter, 30)
    limiter.back_off(0.0, ticket=refused)
    assert limiter.rate == pytest.approx(40 * DECREASE)


async def test_a_refusal_at_the_right_rate_leaves_nearly_all_of_it(clock: Clock) -> None:
    """As much was answered as the rate allows, so the limit is no lower, and the way alone too uneven for the slack."""
    limiter = limiter_of(40, clock)
    *_, refused = await turns_of(limiter, 80)
    limiter.back_off(1.0, ticket=refused)
    assert limiter.rate == 40 * NEAR_LIMIT_FACTOR


async def test_a_sunken_rate_that_is_refused_sinks_by_more(clock: Clock) -> None:
    """Refused again before it has climbed back, the second before has shown too much, as with a bucket of tokens."""
    limiter = limiter_of(40, clock)
    for _ in range(2):
        *_, refused = await turns_of(limiter, 80)
        limiter.back_off(1.0, ticket=refused)
    assert limiter.rate == pytest.approx(40 * NEAR_LIMIT_FACTOR * DECREASE, rel=1e-3)


async def test_a_refusal_amid_few_requests_shows_no_limit(clock: Clock) -> None:
    """With less than half of the rate asked for in the second before, the rate sinks by a step and not to that."""
    limiter = limiter_of(40, clock)
    *_, refused = await turns_of(limiter, 10)
    limiter.back_off(1.0, ticket=refused)
    assert limiter.rate == 40 * DECREASE


async def test_a_refusal_heard_of_late_shows_no_limit(clock: Clock) -> None:
    """Of a second that is half forgotten nothing is concluded."""
    limiter = limiter_of(60, clock)
    *_, refused = await turns_of(limiter, 50)
    clock.now += 4.3
    await limiter.acquire()
    limiter.back_off(1.0, ticket=refused)
    assert limiter.rate == 60 * DECREASE


async def test_the_sunken_rate_is_the_one_kept(clock: Clock) -> None:
    """After a refusal the turns are further apart, by what the rate sank."""
    limiter = limiter_of(40, clock)
    limiter.back_off(1.0, ticket=await limiter.acquire())
    first, second = await turns_of(limiter, 2)
    assert second - first == pytest.approx(SPACING / (40 * DECREASE), rel=1e-3)


async def test_a_sunken_rate_is_for_what_comes(clock: Clock) -> None:
    """Turns taken before the rate sank keep nobody waiting after it: TMDB says how long to back off, also if 0."""
    limiter = limiter_of(40, clock)
    *_, refused = await turns_of(limiter, 80)
    limiter.back_off(0.0, ticket=refused)
    limiter.rate = 10.0
    assert await limiter.acquire() - refused < 0.05


async def test_the_rate_climbs_back_to_the_ceiling_and_no_further(clock: Clock) -> None:
    """Refused once, the rate is back at the ceiling in a few minutes, and stays there."""
    limiter = limiter_of(40, clock)
    limiter.back_off(1.0, ticket=await limiter.acquire())
    rates = []
    while clock.now < 400:
        await limiter.acquire()
        rates.append(limiter.rate)
    assert rates == sorted(rates)
    assert rates[-1] == 40


async def test_no_climb_during_a_back_off(clock: Clock) -> None:
    """Seconds without requests show nothing: the first turn after a long back-off has the lowered rate."""
    limiter = limiter_of(40, clock)
    limiter.back_off(60.0, ticket=await limiter.acquire())
    await limiter.acquire()
    assert limiter.rate == pytest.approx(40 * DECREASE, rel=1e-3)


async def test_the_climb_is_slow_where_the_limit_is(clock: Clock) -> None:
    """Far below the limit and above it the climb is quick; just below it, many times slower."""
    limiter = limiter_of(100, clock)
    for _ in range(3):
        turn = await limiter.acquire()
        limit = limiter.rate
        limiter.back_off(1.0, ticket=turn)
    far: list[float] = []
    near: list[float] = []
    while limiter.rate < 99:
        before, start = limiter.rate, clock.now
        await limiter.acquire()
        speeds = near if NEAR_LIMIT_FACTOR * limit <= before < limit else far
        if limiter.rate > before and clock.now - start < 0.5:
            speeds.append((limiter.rate - before) / (clock.now - start))
    assert min(far) > 20 * max(near)
    assert near


@pytest.mark.parametrize("ceiling", [40.0, 1.0, 0.2])
async def test_the_rate_never_sinks_below_the_floor(clock: Clock, ceiling: float) -> None:
    """However often TMDB refuses, a request is sent every other second, or as seldom as the ceiling allows."""
    limiter = limiter_of(ceiling, clock)
    for _ in range(200):
        limiter.back_off(3.0, ticket=await limiter.acquire())
    assert limiter.rate == pytest.approx(min(MIN_RATE, ceiling), rel=0.05)
    assert limiter.rate >= min(MIN_RATE, ceiling)


# Against a server


class Server:
    """A strict limit over any second, half of `latency` away, and the rate limiter before it, on one virtual clock."""

    def __init__(
        self, *, limit: int, ceiling: float, latency: float = 0.2, jitter: float = 0.0, late: float = 0.002
    ) -> None:
        self.limit, self.latency, self.jitter, self.late = limit, latency, jitter, late
        self.now = 0.0
        self.good = self.refused = 0
        self.dice = Random(1)
        self.limiter = RateLimiter(ceiling, clock=lambda: self.now, sleep=self.sleep, jitter=self.dice.random)
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._accepted: deque[float] = deque()
        self._sent = itertools.count()

    async def be_asked(self, *, until: float) -> None:
        """One request at every turn."""
        while self.now < until:
            turn = await self.limiter.acquire()
            self._later(self.latency / 2 + self.dice.random() * self.jitter, partial(self._serve, turn))

    async def sleep(self, seconds: float) -> None:
        """Wake up to `late` seconds late; what comes meanwhile comes in its order."""
        end = self.now + seconds + self.dice.random() * self.late
        while self._coming and self._coming[0][0] <= end:
            self.now, _, come = heapq.heappop(self._coming)
            come()
        self.now = end

    def _serve(self, turn: float) -> None:
        while self._accepted and self._accepted[0] <= self.now - 1.0:
            self._accepted.popleft()
        if len(self._accepted) < self.limit:
            self._accepted.append(self.now)
            self.good += 1
        else:
            self.refused += 1
            self._later(self.latency / 2, partial(self.limiter.back_off, 1.0, ticket=turn))

    def _later(self, seconds: float, come: Callable[[], object]) -> None:
        heapq.heappush(self._coming, (self.now + seconds, next(self._sent), come))


@pytest.mark.parametrize(
    ("limit", "ceiling", "good_per_second", "refused_share"),
    [
        (50, 60, 47.5, 0.005),
        (30, 40, 28.5, 0.005),
        (20, 40, 18.9, 0.01),
        (60, 100, 57.0, 0.006),
        (40, 40, 39.4, 0.0),
    ],
)
@pytest.mark.parametrize("seconds", [60, 300])
async def test_a_limit_below_the_ceiling_is_found_and_used(
    limit: int, ceiling: float, good_per_second: float, refused_share: float, seconds: int
) -> None:
    """Over one minute and over five nearly all of a server's own limit is used, and few requests are refused."""
    server = Server(limit=limit, ceiling=ceiling)
    await server.be_asked(until=seconds)
    assert server.good / seconds >= good_per_second
    assert server.refused / (server.good + server.refused) <= refused_share


async def test_a_limit_that_sinks_for_a_while_is_followed_down_and_up() -> None:
    """When TMDB allows less for a time, so does the limiter; ten minutes after it is at the ceiling again."""
    server = Server(limit=40, ceiling=40)
    await server.be_asked(until=60)
    assert (server.limiter.rate, server.refused) == (40, 0)
    server.limit = 20
    await server.be_asked(until=180)
    assert 19 < server.limiter.rate < 20.5
    assert server.good >= 60 * 39.4 + 120 * 18.7
    server.limit = 40
    await server.be_asked(until=780)
    assert server.limiter.rate == 40


async def test_arrivals_a_little_out_of_step_are_not_refused() -> None:
    """At a ceiling equal to the limit, 10 ms of jitter on the way to the server cost not one 429."""
    server = Server(limit=40, ceiling=40, jitter=0.010)
    await server.be_asked(until=300)
    assert server.refused == 0


async def test_a_way_more_uneven_than_the_slack_costs_one_refusal() -> None:
    """With 20 ms of jitter on the way the first 429 widens the spacing: over the first minute, 95 % of the limit."""
    server = Server(limit=40, ceiling=40, jitter=0.020)
    await server.be_asked(until=60)
    assert server.refused == 1
    assert server.good / 60 >= 0.95 * 40


async def test_a_busy_machine_loses_nothing_and_is_not_refused() -> None:
    """Waking 5 ms late on average, and up to 10, the harvest still has all of a limit as high as its ceiling."""
    server = Server(limit=40, ceiling=40, late=0.010)
    await server.be_asked(until=300)
    assert server.refused == 0
    assert server.good / 300 >= 0.98 * 40


async def test_a_busy_machine_keeps_to_a_limit_it_has_found() -> None:
    """Waking 15 ms late on average, and up to 30, no more is made up for than the found limit lets through."""
    server = Server(limit=50, ceiling=60, late=0.030)
    await server.be_asked(until=120)
    assert server.limiter.backoffs == 1
    assert server.good / 120 >= 0.94 * 50


@pytest.mark.parametrize("per_second", [0.5, 1.0, 1.9, 13.3, 40.0])
def test_the_requests_of_a_time_take_that_time(per_second: float) -> None:
    """The plan and the shards reckon with one rate: that of the limiter, fractions above 1 rounded down."""
    assert requests_in(seconds_for(5_000, per_second), per_second) == pytest.approx(5_000)
