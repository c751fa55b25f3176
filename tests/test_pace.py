"""The pace, on a clock that moves only when somebody sleeps by it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from harvester.pace import LOWEST, NEAR, SINK, SLACK, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Clock


def pace_of(ceiling: float, clock: Clock, *, jitter: float = 0.0) -> Pace:
    return Pace(ceiling, clock=clock.time, sleep=clock.sleep, jitter=lambda: jitter)


async def turns_of(pace: Pace, count: int) -> list[float]:
    return [await pace.turn() for _ in range(count)]


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


@pytest.mark.parametrize("ceiling", [1, 2, 7, 20, 40, 50, 250])
async def test_no_second_has_more_turns_than_the_ceiling(clock: Clock, ceiling: int) -> None:
    """In any window of one second there are at most `ceiling` turns, though sleepers wake up to 5 ms late."""
    dice = Random(ceiling)

    async def sleep_late(seconds: float) -> None:
        await clock.sleep(seconds + dice.random() * 0.005)

    pace = Pace(ceiling, clock=clock.time, sleep=sleep_late)
    turns = await turns_of(pace, ceiling * 20)
    assert most_in_a_second(turns) <= ceiling


async def test_turns_are_spaced_evenly(clock: Clock) -> None:
    """There is no burst, not even at the start: each turn is 1/40 s and a little after the one before."""
    turns = await turns_of(pace_of(40, clock), 200)
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert min(gaps) == pytest.approx(max(gaps))
    assert 0.025 < min(gaps) < 0.0258


async def test_lateness_does_not_add_up(clock: Clock) -> None:
    """Sleepers that wake 2 ms late cost no throughput: all that the spacing leaves is used."""

    async def sleep_late(seconds: float) -> None:
        await clock.sleep(seconds + 0.002)

    turns = await turns_of(Pace(40, clock=clock.time, sleep=sleep_late), 4_000)
    assert len(turns) / turns[-1] > 0.995 * 40 / SLACK


@pytest.mark.parametrize("stall", [0.006, 0.5, 3.0, 100.0])
async def test_a_stall_is_not_made_up_for_by_a_burst(clock: Clock, stall: float) -> None:
    """After the process stood still, those who waited are spaced again."""
    nights = iter([0.0] * 30 + [stall])

    async def sleep_sometimes_long(seconds: float) -> None:
        await clock.sleep(seconds + next(nights, 0.0))

    pace = Pace(40, clock=clock.time, sleep=sleep_sometimes_long)
    assert most_in_a_second(await turns_of(pace, 200)) <= 40


async def test_turns_that_nobody_took_are_not_saved_up(clock: Clock) -> None:
    """After a minute in which nobody asked, the next hundred are spaced like any others."""
    pace = pace_of(40, clock)
    await turns_of(pace, 10)
    clock.now += 60.0
    assert most_in_a_second(await turns_of(pace, 100)) <= 40


async def test_first_come_first_served(clock: Clock) -> None:
    """Turns are given in the order of asking."""
    pace = pace_of(40, clock)
    served: list[int] = []

    async def ask(number: int) -> None:
        await pace.turn()
        served.append(number)

    await asyncio.gather(*map(ask, range(50)))
    assert served == list(range(50))


async def test_a_cancelled_waiter_blocks_nobody(clock: Clock) -> None:
    """Whoever is cancelled in the queue, at its head or further back, gives way, and its slot is not lost."""
    morning = asyncio.Event()

    async def sleep_until_morning(seconds: float) -> None:
        await morning.wait()
        await clock.sleep(seconds)

    pace = Pace(1, clock=clock.time, sleep=sleep_until_morning)
    first = await pace.turn()
    waiters = [asyncio.ensure_future(pace.turn()) for _ in range(4)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    waiters[2].cancel()
    morning.set()
    told = await asyncio.gather(*waiters, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in told] == [True, False, True, False]
    assert [told[1], told[3]] == pytest.approx([first + SLACK, first + 2 * SLACK])


# The hold


async def test_a_hold_stops_those_who_come_after(clock: Clock) -> None:
    """Nobody has a turn before TMDB's seconds are over."""
    pace = pace_of(40, clock)
    turn = await pace.turn()
    clock.now = 0.2
    pace.hold(7.0, turn=turn)
    assert await pace.turn() == pytest.approx(7.2)


async def test_a_hold_also_stops_those_already_waiting(clock: Clock) -> None:
    """After a 429 nobody asks again before TMDB's seconds are over, however early they queued."""
    held: list[float] = []

    async def sleep_and_be_held(seconds: float) -> None:
        await clock.sleep(seconds)
        if not held:
            held.append(clock.now)
            pace.hold(7.0, turn=first)

    pace = Pace(40, clock=clock.time, sleep=sleep_and_be_held, jitter=lambda: 0.0)
    first = await pace.turn()
    turns = await asyncio.gather(*(pace.turn() for _ in range(3)))
    assert turns[0] == pytest.approx(held[0] + 7.0)
    assert sorted(turns) == turns
    assert most_in_a_second(turns) == 3
    assert turns[1] - turns[0] > 1 / 40


async def test_after_a_hold_there_is_no_burst(clock: Clock) -> None:
    """Those who gathered during a hold are spaced when it is over."""
    pace = pace_of(40, clock)
    pace.hold(30.0, turn=await pace.turn())
    assert most_in_a_second(await turns_of(pace, 200)) <= 40


async def test_holds_prolong_and_never_shorten(clock: Clock) -> None:
    """Of several holds the one that ends last counts."""
    pace = pace_of(40, clock)
    turn = await pace.turn()
    pace.hold(10.0, turn=turn)
    pace.hold(1.0, turn=turn)
    pace.hold(0.0, turn=turn)
    assert await pace.turn() == pytest.approx(10.0)
    pace.hold(1.0, turn=turn)
    clock.now = 10.5
    pace.hold(2.0, turn=turn)
    assert await pace.turn() == pytest.approx(12.5)


@pytest.mark.parametrize(("jitter", "after"), [(0.0, 5.0), (1.0, 5.25)])
async def test_several_processes_do_not_come_back_as_one(clock: Clock, jitter: float, after: float) -> None:
    """A hold is longer by up to a quarter of a second of jitter, and never shorter."""
    pace = pace_of(40, clock, jitter=jitter)
    pace.hold(5.0, turn=await pace.turn())
    assert await pace.turn() == pytest.approx(after)


# The rate


async def test_the_rate_sinks_once_however_many_were_under_way(clock: Clock) -> None:
    """429s of requests sent before the rate sank lower nothing more; one sent after it does."""
    pace = pace_of(40, clock)
    under_way = await turns_of(pace, 8)
    clock.now += 0.2
    assert [pace.hold(1.0, turn=turn) for turn in under_way] == [True] + [False] * 7
    assert (pace.rate, pace.holds) == (40 * SINK, 1)
    assert pace.hold(1.0, turn=await pace.turn())
    assert pace.holds == 2
    assert pace.rate == pytest.approx(40 * SINK**2, rel=1e-3)


async def test_the_sunken_rate_is_the_one_kept(clock: Clock) -> None:
    """After a refusal the turns are further apart, by what the rate sank."""
    pace = pace_of(40, clock)
    pace.hold(1.0, turn=await pace.turn())
    first, second = await turns_of(pace, 2)
    assert second - first == pytest.approx(SLACK / (40 * SINK), rel=1e-3)


async def test_the_rate_climbs_back_to_the_ceiling_and_no_further(clock: Clock) -> None:
    """Refused once, the rate is back at the ceiling in a few minutes, and stays there."""
    pace = pace_of(40, clock)
    pace.hold(1.0, turn=await pace.turn())
    rates = []
    while clock.now < 400:
        await pace.turn()
        rates.append(pace.rate)
    assert rates == sorted(rates)
    assert rates[-1] == 40


async def test_no_climb_during_a_hold(clock: Clock) -> None:
    """Seconds in which nobody may ask prove nothing: the first turn after a long hold has the sunken rate."""
    pace = pace_of(40, clock)
    pace.hold(60.0, turn=await pace.turn())
    await pace.turn()
    assert pace.rate == pytest.approx(40 * SINK, rel=1e-3)


async def test_the_climb_is_slow_where_the_limit_is(clock: Clock) -> None:
    """Far below the rate that was refused the climb is quick; near it, several times slower."""
    pace = pace_of(100, clock)
    for _ in range(3):
        turn = await pace.turn()
        refused = pace.rate
        pace.hold(1.0, turn=turn)
    far: list[float] = []
    near: list[float] = []
    while pace.rate < refused:
        before, start = pace.rate, clock.now
        await pace.turn()
        speeds = near if before > NEAR * refused else far
        if pace.rate > before and clock.now - start < 0.5:
            speeds.append((pace.rate - before) / (clock.now - start))
    assert min(far) > 4 * max(near[:-1])


@pytest.mark.parametrize("ceiling", [40.0, 1.0, 0.2])
async def test_the_rate_never_sinks_below_the_floor(clock: Clock, ceiling: float) -> None:
    """However often TMDB refuses, somebody asks every other second, or as seldom as the ceiling allows."""
    pace = pace_of(ceiling, clock)
    for _ in range(200):
        pace.hold(1.0, turn=await pace.turn())
    assert pace.rate == pytest.approx(min(LOWEST, ceiling), rel=0.05)
    assert pace.rate >= min(LOWEST, ceiling)


# Against a server


class Server:
    """A strict limit over any second, half of `latency` away, and the pace that asks it, all on one virtual clock."""

    def __init__(self, *, limit: int, ceiling: float, latency: float = 0.2, jitter: float = 0.0) -> None:
        self.limit, self.latency, self.jitter = limit, latency, jitter
        self.now = 0.0
        self.good = self.refused = 0
        self.dice = Random(1)
        self.pace = Pace(ceiling, clock=lambda: self.now, sleep=self.sleep, jitter=self.dice.random)
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._accepted: deque[float] = deque()
        self._sent = itertools.count()

    async def be_asked(self, *, until: float) -> None:
        """One request at every turn."""
        while self.now < until:
            turn = await self.pace.turn()
            self._later(self.latency / 2 + self.dice.random() * self.jitter, partial(self._serve, turn))

    async def sleep(self, seconds: float) -> None:
        """Wake up to 2 ms late; what comes meanwhile comes in its order."""
        end = self.now + seconds + self.dice.random() * 0.002
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
            self._later(self.latency / 2, partial(self.pace.hold, 1.0, turn=turn))

    def _later(self, seconds: float, come: Callable[[], object]) -> None:
        heapq.heappush(self._coming, (self.now + seconds, next(self._sent), come))


@pytest.mark.parametrize(
    ("limit", "ceiling", "good_per_second", "refused_share"),
    [(50, 60, 46.0, 0.007), (30, 40, 27.0, 0.025), (20, 40, 17.0, 0.025), (40, 40, 39.0, 0.0)],
)
async def test_a_limit_below_the_ceiling_is_found_and_used(
    limit: int, ceiling: float, good_per_second: float, refused_share: float
) -> None:
    """Over five minutes nearly all of a server's own limit is used, and few requests are refused."""
    server = Server(limit=limit, ceiling=ceiling)
    await server.be_asked(until=300)
    assert server.good / 300 >= good_per_second
    assert server.refused / (server.good + server.refused) <= refused_share


async def test_a_limit_that_sinks_for_a_while_is_followed_down_and_up() -> None:
    """When TMDB allows less for a time, so does the pace; ten minutes after it is at the ceiling again."""
    server = Server(limit=40, ceiling=40)
    await server.be_asked(until=60)
    assert (server.pace.rate, server.refused) == (40, 0)
    server.limit = 20
    await server.be_asked(until=180)
    assert 17 < server.pace.rate < 24
    server.limit = 40
    await server.be_asked(until=780)
    assert server.pace.rate == 40


async def test_arrivals_a_little_out_of_step_are_not_refused() -> None:
    """At a ceiling equal to the limit, 10 ms of jitter on the way to the server cost not one 429."""
    server = Server(limit=40, ceiling=40, jitter=0.010)
    await server.be_asked(until=300)
    assert server.refused == 0
