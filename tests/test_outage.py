"""Outages and refusals in the midst of a harvest: the whole flow, and the command line in a process of its own.

Each flow runs on a loop that loses no time waiting, and its seconds are that loop's; between it and a real S3 stands
a link, so that no more of them pass than S3 takes. Processes have the time of everybody, and nothing is asserted of it.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import re
import signal
import socket
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from conftest import Silent
from loops import Leaping, abroad, in_its_time, no_wait, run_on
from shells import Ended, Shell, answerless, kept, on_our_loop

from harvester.commands.harvest import LeaseOptions, harvest
from harvester.commands.resources import Resources, open_bucket_of
from harvester.commands.verify import verify
from harvester.errors import Exit, StoppedError, StoreError, TmdbRefusedError, TmdbUnavailableError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import RESET, Asked, Fault, always, healthy, html, refusal, scripted, silence
from harvester.fakes.s3_proxy import at_first, s3_proxy
from harvester.fakes.s3_server import S3Server, s3_server
from harvester.fakes.tmdb import KEY, FakeTmdb, fake_tmdb
from harvester.model.batch import Batch, cut
from harvester.reports.text import SHOWN, show_report
from harvester.runs.lease import LeaseTimes
from harvester.runtime.clock import Clock
from harvester.runtime.concurrency import fan_out
from harvester.runtime.shutdown import DRAIN_SECONDS, LAST_SECONDS, Shutdown
from harvester.store.s3 import CALL_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
    from pathlib import Path

    from aiohttp import web
    from shells import Running

    from harvester.fakes.s3_proxy import Call, Forward, S3Proxy
    from harvester.settings.settings import Settings

    Make = Callable[..., Settings]
    Story = Callable[["World"], Coroutine[Any, Any, None]]
    Play = Callable[[Story], None]

pytestmark = pytest.mark.timeout(180)  # for what hangs: a busy machine may take its time

MOVIES = [f"tt{number:07d}" for number in range(1, 351)]
SERIES = [f"tt{number:07d}" for number in range(900_001, 900_051)]
KINDS: Any = dict.fromkeys(SERIES, "tv")
CATALOG = Catalog(KINDS)

NOTICED = 120.0
"""Seconds after which an outage has been noticed at the latest (`tests/test_tmdb_client.py` has it so, too)."""

CONTAINER_SECONDS = 30.0
"""Between a container's SIGTERM and its SIGKILL."""


# --- seconds that pass while nobody works


@dataclass(frozen=True, slots=True)
class World:
    """What a story runs in: the link before S3, and settings that lead through it."""

    link: S3Proxy
    settings_for: Make


@pytest.fixture
def play(s3: S3Server, settings_for: Make) -> Play:
    """Plays a story to its end on a loop that loses no time waiting."""

    async def whole(story: Story) -> None:
        async with s3_proxy(s3.endpoint) as link:
            link.rules["*"] = in_its_time(at_first())
            await story(World(link, partial(settings_for, aws_endpoint_url_s3=link.url)))

    return lambda story: run_on(Leaping(), whole(story))


def now() -> float:
    """Seconds, by the loop."""
    return asyncio.get_running_loop().time()


async def side_by_side(*stories: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results of all, in order; the first error ends the others."""
    return await fan_out(lambda story: story(), stories, at_once=len(stories))


# --- what is in the bucket


@dataclass(frozen=True, slots=True)
class Left:
    """What the bucket holds after a run.

    Attributes:
        failed_in_summary: How many titles had failed when the totals were reconciled; None where they were not.
        done: Outcomes by id, of batches that are done.
        failed: The same, of batches with failed titles, which are to be tried again.
        harm: What is wrong; a batch without a receipt is not.
    """

    failed_in_summary: int | None
    done: dict[str, str]
    failed: dict[str, str]
    harm: list[str]


async def left_in(settings: Settings) -> Left:
    """What receipts, summary and files say together, and what `verify` finds."""
    done: dict[str, str] = {}
    failed: dict[str, str] = {}
    summaries = []
    async with open_bucket_of(settings) as lake:
        for key in await lake.objects(f"{settings.s3_prefix}/_harvest/"):
            if "/receipts/" in key:
                outcomes = {
                    id_: outcome["outcome"]
                    for id_, outcome in json.loads(await lake.read(key) or b"")["outcomes"].items()
                }
                (failed if "failed" in outcomes.values() else done).update(outcomes)
            elif key.endswith("/summary.json"):
                summaries.append(json.loads(await lake.read(key) or b"")["totals"]["failed"])
        harm = [f"{key} is an open upload" for key, _ in await lake.uploads(settings.s3_prefix)]
    problems = (await verify(settings)).problems if done or failed else []
    harm += [problem for problem in problems if not problem.endswith("has no receipt: harvest goes on with it")]
    return Left(summaries[0] if summaries else None, done, failed, harm)


TAKES_OVER = LeaseOptions(times=LeaseTimes(silent=-1.0))
"""Of a harvest that does not wait for the lease: this very process has it, and could not give it back."""


async def closes(
    settings: Settings, tmdb: FakeTmdb, *, lease_options: LeaseOptions | None = None
) -> tuple[str, int, set[str], list[str]]:
    """Run once more: how it ends, how many are found, for whom TMDB was asked, and what is wrong afterwards."""
    asked = Counter(tmdb.asked)
    report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), lease_options=lease_options)
    repeated = {id_ for _, id_ in Counter(tmdb.asked) - asked if id_}
    left = await left_in(settings)
    assert left.failed_in_summary == 0
    return report.status, report.totals.found, repeated, left.harm + [f"{id_} has failed" for id_ in left.failed]


class After(Silent):
    """An observer that says when so many titles are known, or so many batches landed."""

    def __init__(self, *, titles: int = 0, batches: int = 0) -> None:
        super().__init__()
        self._wanted = titles, batches
        self.reached = asyncio.Event()

    def title(self, event: Any) -> None:
        super().title(event)
        self._look()

    def batch(self, event: Any) -> None:
        super().batch(event)
        self._look()

    def _look(self) -> None:
        if len(self.titles) >= self._wanted[0] and len(self.batches) >= self._wanted[1]:
            self.reached.set()


# --- TMDB goes away


WAYS: dict[str, tuple[Fault | None, str]] = {
    "503 in HTML": (html(503), "http_503"),
    "500 in JSON": (refusal(500), "http_500"),
    "silence": (silence(3600), "timeout"),
    "reset": (RESET, "connection_lost"),
    "closed port": (None, "connection_refused"),
}
"""How TMDB can be gone: what everybody meets, none where there is nobody to meet; the reason that is reported."""


CAUGHT = {"movies": MOVIES[:140], "series": SERIES[:30]}
"""Whom an outage meets: when 150 are known the first 100 have landed, or will, and 20 are left to be asked for.

They ask some 70 times each before it is noticed, so that with more of them it would be longer by our clock.
"""


class Tide:
    """A TMDB that goes away and comes back at the same address, which nobody else can take meanwhile."""

    def __init__(self, fault: Fault | None, address: str, stack: AsyncExitStack) -> None:
        self._fault, self._stack = fault, stack
        self._port = int(address.rpartition(":")[2])

    async def come(self) -> None:
        self.tmdb: FakeTmdb = await self._stack.enter_async_context(fake_tmdb(port=self._port, catalog=CATALOG))

    async def go(self) -> None:
        if self._fault:
            self.tmdb.outage, self.tmdb.down = self._fault, True
        else:
            await self._stack.aclose()

    async def come_back(self) -> None:
        if self._fault:
            self.tmdb.down = False
        else:
            await self.come()


@asynccontextmanager
async def tide(way: str) -> AsyncIterator[Tide]:
    with answerless() as address:
        async with AsyncExitStack() as stack:
            tide = Tide(WAYS[way][0], address, stack)
            await tide.come()
            yield tide


@pytest.mark.parametrize("way", WAYS)
def test_tmdb_gone_in_mid_harvest_ends_the_run_and_fails_nobody(way: str, play: Play) -> None:
    """Within two minutes the run ends with exit 6, what landed is safe, and the next run asks for the rest alone."""

    async def story(world: World) -> None:
        async with tide(way) as tmdb:
            settings = world.settings_for(tmdb.tmdb.url, **CAUGHT)
            observer = After(titles=150)
            began = []

            async def ebb() -> None:
                await observer.reached.wait()
                began.append(now())
                await tmdb.go()

            with pytest.raises(TmdbUnavailableError) as caught:
                await side_by_side(ebb, lambda: harvest(settings, observer=observer, shutdown=Shutdown()))
            assert now() - began[0] <= NOTICED
            assert (caught.value.exit_code, caught.value.reason) == (6, WAYS[way][1])
            left = await left_in(settings)
            assert 100 <= len(left.done) < 170
            assert (set(left.done.values()), left.failed, left.harm, left.failed_in_summary) == (
                {"found"},
                {},
                [],
                None,
            )
            await tmdb.come_back()
            rest = {*CAUGHT["movies"], *CAUGHT["series"]} - set(left.done)
            assert await closes(settings, tmdb.tmdb) == ("closed", 170, rest, [])

    play(story)


@pytest.mark.parametrize("way", WAYS)
def test_an_outage_of_twenty_seconds_is_waited_out(way: str, play: Play) -> None:
    """What passes is survived: the totals reconcile in the same run, and nobody has failed."""

    async def story(world: World) -> None:
        async with tide(way) as tmdb:
            settings = world.settings_for(tmdb.tmdb.url, **CAUGHT)
            observer = After(titles=150)

            async def ebb_and_flood() -> None:
                await observer.reached.wait()
                await tmdb.go()
                await asyncio.sleep(20)
                await tmdb.come_back()

            _, report = await side_by_side(
                ebb_and_flood, lambda: harvest(settings, observer=observer, shutdown=Shutdown())
            )
            assert (report.status, report.exit_code, report.totals.found, report.failed) == ("closed", 0, 170, {})

    play(story)


def test_silence_at_the_start_is_given_up_within_two_minutes(play: Play) -> None:
    """Before anything is asked, a TMDB that does not answer costs no more time than one that goes away later."""

    async def story(world: World) -> None:
        async with tide("silence") as tmdb:
            await tmdb.go()
            async with Resources(world.settings_for(tmdb.tmdb.url, movies=MOVIES)).tmdb() as opened:
                began = now()
                with pytest.raises(TmdbUnavailableError, match=re.escape(tmdb.tmdb.url)):
                    await opened.check_key()
                assert now() - began <= NOTICED

    play(story)


# --- TMDB comes and goes


def one_in_five() -> Callable[[Asked], Fault | None]:
    """Four of five requests for a title have no usable answer."""
    numbers = itertools.count(1)
    return lambda asked: refusal(503) if asked.route != "authentication" and next(numbers) % 5 else None


def every_ten_seconds() -> Callable[[Asked], Fault | None]:
    """Up for ten seconds, down for ten, and so on."""
    began = now()
    return lambda _: html(503) if (now() - began) % 20 > 10 else None


def refused_for_a_minute() -> Callable[[Asked], Fault | None]:
    """Every second request of the first minute is a 429."""
    began, numbers = now(), itertools.count()
    return lambda _: refusal(429, retry_after="1") if now() - began < 60 and next(numbers) % 2 else None


def down_for(*routes: str) -> Callable[[Asked], Fault | None]:
    """Some of TMDB's routes fail, and all others work."""
    return lambda asked: html(503) if asked.route in routes else None


@pytest.mark.parametrize(("weather", "failed"), [(every_ten_seconds, 20), (refused_for_a_minute, 0)])
def test_changing_weather_costs_time_and_hardly_a_title(weather: Any, failed: int, play: Play) -> None:
    """Up and down every ten seconds, or refusing every second request for a minute: the totals reconcile all the same.

    Who asks seven times in half a minute, and each time while TMDB is down, has failed; the next run finds it.
    """

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            settings = world.settings_for(tmdb.url, movies=MOVIES[:150], series=SERIES, tmdb_rate=12)
            bad, met = weather(), []

            def faults(asked: Asked) -> Fault | None:
                met.append(fault := bad(asked))
                return fault

            tmdb.faults = faults
            report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
            assert sum(fault is not None for fault in met) >= 20  # it has met some of it
            assert (report.totals.with_outcome, len(report.failed) <= failed) == (200, True)
            left = await left_in(settings)
            tmdb.faults = healthy
            assert (await closes(settings, tmdb))[1:] == (200, set(left.failed), left.harm)
            assert left.harm == []

    play(story)


def test_tmdb_answering_one_in_five_loses_nobody(play: Play) -> None:
    """Who had six bad answers in a row has failed, everybody else is found; the next run finds the rest."""

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            settings = world.settings_for(tmdb.url, movies=MOVIES[:150], series=SERIES)
            tmdb.faults = one_in_five()
            report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
            assert (report.status, report.totals.with_outcome) == ("failed", 200)
            assert set(report.failed.values()) == {"http_503"}
            assert 100 < report.totals.found < 200
            left = await left_in(settings)
            assert (left.harm, left.failed_in_summary) == ([], len(report.failed))
            assert Counter((left.done | left.failed).values()) == {
                "found": report.totals.found,
                "failed": len(report.failed),
            }
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", 200, set(left.failed), [])

    play(story)


def test_while_others_are_answered_those_on_a_failing_route_fail_alone(play: Play) -> None:
    """With /find down, who needs it has failed and all others are found; once it is up, the next run finds them."""
    strays = MOVIES[10:40]

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=Catalog(dict.fromkeys(strays, "tv"))) as tmdb:
            settings = world.settings_for(tmdb.url, movies=MOVIES, tmdb_rate=40)
            tmdb.faults = down_for("find")
            report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
            assert (report.status, report.failed) == ("failed", dict.fromkeys(strays, "http_503"))
            assert report.totals.found == 320
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", 350, set(MOVIES[:100]), [])

    play(story)


@pytest.mark.parametrize("route", ["find", "tv"])
def test_while_no_title_is_answered_none_fails(route: str, play: Play) -> None:
    """With the route down that every title left needs, the run ends with exit 6 and nobody has failed."""
    series = [f"tt{number:07d}" for number in range(900_001, 900_101)]

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=Catalog(dict.fromkeys(series, "tv"))) as tmdb:
            settings = world.settings_for(tmdb.url, series=series, tmdb_rate=10)
            tmdb.faults = down_for(route)
            try:
                ended: Any = (await harvest(settings, observer=Silent(), shutdown=Shutdown())).exit_code
            except TmdbUnavailableError as error:
                ended = error.exit_code
            left = await left_in(settings)
            assert (int(ended), len(left.failed), left.harm) == (6, 0, [])
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", 100, set(series), [])

    play(story)


# --- the key is revoked


@pytest.mark.parametrize("concurrency", [1, 20])
def test_a_key_revoked_in_mid_harvest_ends_it_and_the_good_key_goes_on(concurrency: int, play: Play) -> None:
    """After the first 401 no new request is sent; what landed is safe, and with a good key the rest is asked for."""

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            settings = world.settings_for(tmdb.url, movies=MOVIES, series=SERIES, tmdb_concurrency=concurrency)
            await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=100))
            observer = After(titles=50)
            before = []

            async def revoke() -> None:
                await observer.reached.wait()
                tmdb.revoked = True
                before.append(tmdb.asked.total())

            with pytest.raises(TmdbRefusedError) as caught:
                await side_by_side(revoke, lambda: harvest(settings, observer=observer, shutdown=Shutdown()))
            more = tmdb.asked.total() - before[0]
            assert (caught.value.exit_code, caught.value.status, caught.value.code) == (3, 401, 7)
            left = await left_in(settings)
            assert 100 <= len(left.done) < 400
            assert (left.failed, left.harm, left.failed_in_summary) == ({}, [], None)
            with pytest.raises(TmdbRefusedError):
                await harvest(settings, observer=Silent(), shutdown=Shutdown())
            tmdb.revoked = False
            assert await closes(settings, tmdb) == ("closed", 400, set(MOVIES + SERIES) - set(left.done), [])
        assert 1 <= more <= concurrency  # those that were on their way when the first 401 came

    play(story)


# --- poison


@dataclass(frozen=True, slots=True)
class Poison:
    """Ids that TMDB cannot answer on one of its routes, those of the CSVs, and the reclassified among them."""

    ids: list[str]
    route: Any = "movie"
    movies: list[str] = field(default_factory=lambda: MOVIES[:210])
    series: list[str] = field(default_factory=lambda: SERIES)
    reclassified: list[str] = field(default_factory=list)

    @property
    def batches(self) -> list[Batch]:
        """The batches that cannot be done."""
        planned = [*cut("Movies", self.movies), *cut("Series", self.series)]
        return [batch for batch in planned if set(batch.ids) & set(self.ids)]


STRAYS = [MOVIES[5], MOVIES[120], MOVIES[205]]

POISONS = {
    "in the first batch": Poison([MOVIES[7]]),
    "in the last batch": Poison([MOVIES[209]], series=[]),
    "the only id there is": Poison([MOVIES[0]], movies=MOVIES[:1], series=[]),
    "a series that /find cannot answer": Poison([SERIES[30]], "find"),
    "a series that /tv cannot answer": Poison([SERIES[30]], "tv"),
    "a reclassified title": Poison([STRAYS[1]], "tv", reclassified=STRAYS),
    "in two batches": Poison([MOVIES[7], MOVIES[199]]),
    "all ids of a batch": Poison(MOVIES[100:200]),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_poison_fails_by_name_and_alone_and_is_forgotten_when_it_heals(
    poison: Poison, play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 5 with the ids named and all others landed; healed, the next run asks for their batches and closes."""
    script: Any = {(poison.route, id_): [always(refusal(500))] for id_ in poison.ids}
    catalog = Catalog(KINDS | dict.fromkeys(poison.reclassified, "tv"))
    everybody = set(poison.movies + poison.series)

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=catalog, faults=scripted(script)) as tmdb:
            settings = world.settings_for(tmdb.url, movies=poison.movies, series=poison.series)
            report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))
            assert (report.status, report.exit_code) == ("failed", 5)
            assert report.failed == dict.fromkeys(poison.ids, "http_500")
            show_report(report)
            shown = re.findall(r"(tt\d+) failed: http_500", capsys.readouterr().out)
            assert sorted(shown) == sorted(poison.ids)[:SHOWN]
            left = await left_in(settings)
            assert {id_ for id_, what in left.failed.items() if what == "failed"} == set(poison.ids)
            neighbours = {id_ for id_, what in (left.done | left.failed).items() if what == "found"}
            assert (neighbours, left.harm) == (everybody - set(poison.ids), [])
            assert left.failed_in_summary == len(poison.ids)
            blocked = {id_ for batch in poison.batches for id_ in batch.ids}
            assert set(left.failed) == blocked
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", len(everybody), blocked, [])

    play(story)


# --- nobody at home, at the start


@pytest.fixture
def shell_for(s3: S3Server, tmp_path: Path) -> Callable[[Settings], Shell]:
    """Makes a shell in which the harvester has these settings."""

    def make(settings: Settings) -> Shell:
        fields = {name: getattr(settings, name) for name in ("movies_csv", "series_csv", "s3_bucket", "s3_prefix")}
        fields |= {"tmdb_base_url": settings.tmdb_base_url, "tmdb_rate": "1000", "tmdb_api_key": KEY}
        ours = {name.upper(): str(value) for name, value in fields.items() if value}
        return Shell(kept() | s3.environment() | ours, tmp_path)

    return make


UNROUTED = "127.255.255.255"
"""The loopback's broadcast address: Linux knows no way for a TCP connection there (ENETUNREACH), and sends nothing."""

NOBODY = {
    "TMDB refuses": ("TMDB_BASE_URL", "http://{nobody}/3", "connection.refused", 6),
    "TMDB unknown": ("TMDB_BASE_URL", "https://tmdb.onion/3", "dns|name|resolve", 6),
    "TMDB without TLS": ("TMDB_BASE_URL", "https://{plain}/3", "tls|ssl", 6),
    "TMDB without a network": ("TMDB_BASE_URL", f"http://{UNROUTED}/3", "no route to it .+ check the network", 6),
    "S3 refuses": ("AWS_ENDPOINT_URL_S3", "http://{nobody}", "refused|connect|reach", 4),
    "S3 unknown": ("AWS_ENDPOINT_URL_S3", "https://s3.onion", "dns|name|resolve|connect|reach", 4),
    "S3 without TLS": ("AWS_ENDPOINT_URL_S3", "https://{plain}", "tls|ssl", 4),
    "S3 without a network": ("AWS_ENDPOINT_URL_S3", f"http://{UNROUTED}", "no route to it. check the network", 4),
}
"""Who cannot be reached, by which setting, and what the sentence about it must have; the exit code.

No resolver asks the network for a name that ends in `.onion` (RFC 7686).
"""


def test_the_kernel_itself_knows_no_way_to_an_address() -> None:
    """What stands for a network that is gone: a connection there fails at once, as it would without any route."""
    with socket.socket() as going, pytest.raises(OSError, match="unreachable"):
        going.connect((UNROUTED, 80))


async def test_an_absent_server_is_reported_in_one_sentence_with_the_host_and_what_it_was(
    shell_for: Any, settings_for: Make
) -> None:
    """A refused connection, an unknown host, a port without TLS, no way at all: which it was, at which host."""
    async with fake_tmdb() as tmdb:
        with answerless() as nobody:
            places = {"nobody": nobody, "plain": urlsplit(tmdb.url).netloc}  # speaks HTTP, and no TLS
            shell = shell_for(settings_for(tmdb.url, movies=MOVIES[:3]))

            async def one(name: str) -> dict[str, Any]:
                setting, template, words, code = NOBODY[name]
                url = template.format_map(places)
                end = await shell.having(**{setting: url}).run()
                (sentence,) = end.sentences
                return {
                    "code": end.code == code,
                    "names the host": urlsplit(url).netloc in sentence,
                    "says what it was": bool(re.search(words, sentence, re.IGNORECASE)),
                    "has no query": "?" not in sentence,  # DESIGN 4: no URL with a query is put in an error
                }

            well = dict.fromkeys(("code", "names the host", "says what it was", "has no query"), True)
            assert await deviations(one, NOBODY, well, at_once=len(NOBODY)) == {}  # they only wait


async def deviations(
    one: Callable[[str], Awaitable[dict[str, Any]]], names: Iterable[str], well: dict[str, Any], *, at_once: int = 4
) -> dict[str, dict[str, Any]]:
    """Of all stories, played side by side, those that went otherwise than `well`, and in what."""
    names = list(names)
    ends = dict(zip(names, await fan_out(one, names, at_once=at_once), strict=True))
    unexpected = {name: {word: how for word, how in went.items() if how != well[word]} for name, went in ends.items()}
    return {name: went for name, went in unexpected.items() if went}


# --- TMDB goes away while a process is at it


async def test_tmdb_gone_in_mid_run_ends_the_process_with_exit_6(shell_for: Any, settings_for: Make) -> None:
    """One sentence, nobody is failed by it, what landed is safe, and the next run asks for the rest.

    Time passes faster for the process once there is nobody left whom it could wait for; it has as much as ever.
    """
    quiet: Any = {("movie", id_): [always(silence(3600))] for id_ in MOVIES[130:]}
    with answerless() as address:
        port = int(address.rpartition(":")[2])
        settings = settings_for(f"http://{address}/3", movies=MOVIES)
        async with AsyncExitStack() as day:
            tmdb = await day.enter_async_context(fake_tmdb(port=port, catalog=CATALOG, faults=scripted(quiet)))
            shell = shell_for(settings).having(TMDB_CONCURRENCY="20")
            async with shell.start(program=on_our_loop(quick=20)) as running:
                await running.says("batch_landed")
                await running.until(lambda: tmdb.asked.total() >= 1 + 130 + 20)  # so no other one is about to land
                await day.aclose()
                running.hurry()
                end = await running.ended()
        assert end.code == 6
        (sentence,) = end.sentences
        assert sentence.startswith("TMDB is unavailable: ")
        assert f"requests to http://{address}/3 had no usable answer" in sentence
        left = await left_in(settings)
        assert (set(left.done), left.failed, left.harm) == (set(MOVIES[:100]), {}, [])
        assert left.failed_in_summary is None
        async with fake_tmdb(port=port, catalog=CATALOG) as tmdb:
            assert await closes(settings, tmdb) == ("closed", 350, set(MOVIES[100:]), [])


# --- S3 goes away


class Hush:
    """Before an S3 that from the `nth` such call on is silent, whatever it is asked, until it is `opened`."""

    def __init__(self, operation: str, keys: str = "", nth: int = 1) -> None:
        self._operation, self._keys, self._left = operation, keys, nth
        self.held, self.opened = asyncio.Event(), asyncio.Event()

    async def rule(self, call: Call, forward: Forward) -> web.StreamResponse:
        if call.operation == self._operation and re.search(self._keys, call.key):
            self._left -= 1
        if self._left == 0:
            self.held.set()
        if self.held.is_set():
            await self.opened.wait()
        return await forward()


def test_s3_gone_in_mid_upload_ends_the_run_and_the_next_one_reconciles_the_totals(
    settings_for: Make, tmp_path: Path
) -> None:
    """Killed before an upload is complete, S3 is given up with exit 4 and a sentence, soon; nothing is lost by it."""
    loop = Leaping()

    async def story() -> None:
        loop.leaping = False  # S3 has all the time it takes, but for when it is away
        async with own_s3(tmp_path) as (store, at), fake_tmdb(catalog=CATALOG) as tmdb, AsyncExitStack() as way:
            settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES, **at)
            await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=100))
            link = await way.enter_async_context(s3_proxy(store.endpoint))
            hush = Hush("complete")
            link.rules["*"] = hush.rule
            through = settings.model_copy(update={"aws_endpoint_url_s3": link.url})
            began = []

            async def ebb() -> None:
                await hush.held.wait()
                await store.kill()
                await way.aclose()
                way.enter_context(answerless(urlsplit(link.url).port))  # nobody listens any more
                loop.leaping = True
                began.append(now())

            with pytest.raises(StoreError, match=r"^Cannot .* s3://lake/Raw/API/.* AWS_ENDPOINT_URL_S3") as caught:
                await side_by_side(ebb, lambda: harvest(through, observer=Silent(), shutdown=Shutdown()))
            assert (caught.value.exit_code, now() - began[0] <= 2 * CALL_SECONDS) == (4, True)
            loop.leaping = False
            await store.start_again()
            left = await left_in(settings)
            assert (set(left.done), left.failed, left.failed_in_summary) == (set(MOVIES[:100]), {}, None)
            assert "is an open upload" in left.harm[0]
            closed = await closes(settings, tmdb, lease_options=TAKES_OVER)
            assert closed == ("closed", 400, set(MOVIES[100:] + SERIES), [])

    run_on(loop, story())


def test_s3_gone_for_a_second_and_slow_to_come_back_is_waited_out(settings_for: Make, tmp_path: Path) -> None:
    """A restart of S3 is botocore's to survive: the totals reconcile in the same run, and nobody is asked for twice.

    Of six waits between seven tries, random up to 1, 2, 4, 8, 16 and 20 s, it takes all to be over within a second to
    fail: by one call in 15 million (1 / 6! of 1 · 2 · 4 · 8 · 16 · 20).
    """

    async def story() -> None:
        async with AsyncExitStack() as stack:
            with abroad():
                store, at = await stack.enter_async_context(own_s3(tmp_path))
            link = await stack.enter_async_context(s3_proxy(store.endpoint))
            tmdb = await stack.enter_async_context(fake_tmdb(catalog=CATALOG, latency=(0.02, 0.05)))
            settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES, **at | {"aws_endpoint_url_s3": link.url})
            coming, observer = Hush("none"), After(batches=1)
            coming.opened.set()
            link.rules["*"] = in_its_time(coming.rule)
            before = []

            async def restart() -> None:
                await observer.reached.wait()
                before.append(len(link.seen))
                with abroad():
                    await store.kill()
                await asyncio.sleep(1)
                coming.opened.clear()
                coming.held.set()
                with abroad():
                    await store.start_again()
                coming.opened.set()

            _, report = await side_by_side(restart, lambda: harvest(settings, observer=observer, shutdown=Shutdown()))
            assert (report.exit_code, report.totals.found, (await left_in(settings)).harm) == (0, 400, [])
            assert (
                max(call.attempt for call in link.seen[before[0] :] if call.operation in LANDING) > 1
            )  # it was missed
            assert max(tmdb.asked.values()) == 1

    run_on(Leaping(), story())


LANDING = ("create", "part", "complete", "put")


@asynccontextmanager
async def own_s3(folder: Path) -> AsyncIterator[tuple[S3Server, dict[str, Any]]]:
    """A server that one test may kill, and the settings that lead to it."""
    async with s3_server(folder / "own", buckets=["lake"]) as store:
        try:
            yield (
                store,
                {
                    "s3_bucket": "lake",
                    "aws_access_key_id": store.access_key,
                    "aws_secret_access_key": store.secret_key,
                    "aws_endpoint_url_s3": store.endpoint,
                },
            )
        finally:
            await store.kill()  # it has nothing to save


# --- signals, at every stage

BOTH = (signal.SIGTERM, signal.SIGINT)
IDS = MOVIES[:120]
STOPPED_WELL: dict[str, Any] = {"code": 75, "said something": True, "then": "closed", "lost": 0, "harm": []}


def each(stages: Iterable[str], numbers: Iterable[signal.Signals] = BOTH) -> dict[str, tuple[str, signal.Signals]]:
    """Every stage with every signal, by a name that is also its prefix in the bucket."""
    return {f"{number.name}-{stage}": (stage, number) for number in numbers for stage in stages}


def at_once_with_others(settings: Settings, name: str, tmdb: FakeTmdb) -> Settings:
    """The same CSV, which nobody writes while others read it, into a folder of its own, from this TMDB."""
    return settings.model_copy(update={"s3_prefix": name, "tmdb_base_url": tmdb.url})


async def how_it_went(end: Ended, settings: Settings, tmdb: FakeTmdb, ids: list[str]) -> dict[str, Any]:
    """How a stopped process ended, and what the next run makes of what it left."""
    tmdb.faults = healthy
    status, found, _, harm = await closes(settings, tmdb)
    return {
        "code": end.code,
        "said something": bool(end.sentences or end.out),
        "then": "closed" if status == "nothing_to_do" else status,
        "lost": len(ids) - found,
        "harm": harm,
    }


async def test_a_signal_while_a_csv_is_being_read_ends_it(shell_for: Any, settings_for: Make, tmp_path: Path) -> None:
    """Reading is given up: from a pipe that nobody closes, and from standard input; for `plan` as for `harvest`."""
    rows = ("id|t\n" + "".join(f"{id_}|{'x' * 2_000}\n" for id_ in IDS)).encode()  # more than a pipe holds
    stages = each(["a-path", "stdin", "plan-stdin"])
    shared = settings_for("http://localhost/3", movies=IDS)

    async def one(name: str) -> dict[str, Any]:
        stage, number = stages[name]
        async with fake_tmdb(catalog=CATALOG) as tmdb, AsyncExitStack() as stack:
            settings = at_once_with_others(shared, name, tmdb)
            path = tmp_path / name
            os.mkfifo(path)
            words = ["plan"] if stage.startswith("plan") else []
            words += ["--movies", str(path) if stage == "a-path" else "-"]
            running = await stack.enter_async_context(shell_for(settings).start(*words, stdin=asyncio.subprocess.PIPE))
            if stage == "a-path":
                await feed(path, rows, running, stack)
            else:
                assert running.process.stdin
                running.process.stdin.transport.set_write_buffer_limits(0)
                running.process.stdin.write(rows)
                await running.process.stdin.drain()
            running.send(number)
            return await how_it_went(await running.ended(), settings, tmdb, IDS)

    assert await deviations(one, stages, STOPPED_WELL) == {}


async def feed(path: Path, rows: bytes, running: Running, stack: AsyncExitStack) -> None:
    """Write the rows into a FIFO, once somebody has opened it, as they are read; it has no end before the stack's."""
    pipes, left = [], bytearray(rows)

    def opened() -> bool:
        with suppress(OSError):  # nobody has opened it yet
            pipes.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return bool(pipes)

    def written() -> bool:
        with suppress(BlockingIOError):
            del left[: os.write(pipes[0], left)]
        return not left

    await running.until(opened)
    stack.callback(os.close, pipes[0])
    await running.until(written)


SILENT_AT = {
    "first look": ("list", "", 1),
    "get": ("get", "/manifest.json", 1),
    "lease": ("put", "/lease.json", 1),
    "second look": ("list", "/receipts/", 2),
    "ids": ("complete", "/ids-", 1),
    "manifest": ("put", "/manifest.json", 1),
    "begin": ("create", "/tt", 1),
    "part": ("part", "/tt", 1),
    "complete": ("complete", "/tt", 1),
    "receipt": ("put", "/receipts/", 1),
    "outcomes": ("create", "/outcomes", 1),
    "closing": ("put", "/summary.json", 1),
}
"""The stages of a harvest, by the call at which S3 falls silent, and which of them; for there to be a manifest to get,
one was stopped before."""


@pytest.mark.parametrize("stage", SILENT_AT)
def test_a_stop_while_s3_says_nothing_takes_less_than_a_container_waits(stage: str, play: Play) -> None:
    """Whatever S3 falls silent in the midst of, half a minute after the request the harvest has ended by itself."""

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            settings = world.settings_for(tmdb.url, movies=IDS)
            await stopped_before(stage, settings)
            hush, shutdown, began = Hush(*SILENT_AT[stage]), Shutdown(), []
            world.link.rules["*"] = in_its_time(hush.rule)

            async def ask() -> None:
                await hush.held.wait()
                began.append(now())
                shutdown.request("SIGTERM")

            try:
                _, report = await side_by_side(ask, lambda: harvest(settings, observer=Silent(), shutdown=shutdown))
                code = report.exit_code
            except StoppedError as error:
                code = error.exit_code
            assert now() - began[0] <= DRAIN_SECONDS + 3 * LAST_SECONDS < CONTAINER_SECONDS
            assert code == Exit.STOPPED
            hush.opened.set()
            status, *rest = await closes(settings, tmdb, lease_options=TAKES_OVER)
            assert (status, rest[0], rest[2]) == ("closed", 120, [])

    play(story)


def test_a_lease_that_cannot_be_given_back_holds_nobody_up(play: Play) -> None:
    """S3 silent when all is done: reconciled totals are soon known to be so, whether somebody asks to stop or not."""

    async def story(world: World) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            settings = world.settings_for(tmdb.url, movies=IDS)
            hush, began = Hush("put", "/lease.json", 3), []  # after the one that takes it and the one with the run
            world.link.rules["*"] = in_its_time(hush.rule)

            async def look() -> None:
                await hush.held.wait()
                began.append(now())

            _, report = await side_by_side(look, lambda: harvest(settings, observer=Silent(), shutdown=Shutdown()))
            assert (report.status, now() - began[0] <= LAST_SECONDS) == ("closed", True)

    play(story)


async def stopped_before(stage: str, settings: Settings) -> None:
    """Harvest a part, where there is nothing to be got otherwise."""
    if stage == "get":
        assert (await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=100))).exit_code == Exit.STOPPED


@pytest.mark.parametrize("number", BOTH)
async def test_a_signal_while_s3_says_nothing_ends_it_by_itself(
    number: signal.Signals, s3: S3Server, shell_for: Any, settings_for: Make
) -> None:
    """Whatever S3 falls silent in the midst of: exit 75, not the 4 of a deadline; the next run reconciles the totals.

    How soon is measured by the loop's clock, above; here time passes faster when nobody is left to be waited for.
    """
    shared = settings_for("http://localhost/3", movies=IDS)

    async def one(stage: str) -> dict[str, Any]:
        async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
            settings = at_once_with_others(shared, stage, tmdb)
            await stopped_before(stage, settings)
            hush = Hush(*SILENT_AT[stage])
            link.rules["*"] = hush.rule
            shell = shell_for(settings).having(AWS_ENDPOINT_URL_S3=link.url)
            async with shell.start(program=on_our_loop(quick=20)) as running:
                await running.until(hush.held.is_set)
                running.hurry()
                running.send(number)
                return await how_it_went(await running.ended(), settings, tmdb, IDS)

    assert await deviations(one, SILENT_AT, STOPPED_WELL) == {}


async def test_a_signal_while_tmdb_says_nothing_ends_it_by_itself(shell_for: Any, settings_for: Make) -> None:
    """In the pre-flight at once, in the midst of the titles when the time to drain is over: 20 s, and nothing less."""
    silences: Any = {"authentication": ("authentication", ""), "title": ("movie", IDS[110])}
    stages = each(silences)
    shared = settings_for("http://localhost/3", movies=IDS)

    async def one(name: str) -> dict[str, Any]:
        stage, number = stages[name]
        faults = scripted({silences[stage]: [always(silence(600))]})
        async with fake_tmdb(catalog=CATALOG, faults=faults) as tmdb:
            settings = at_once_with_others(shared, name, tmdb)
            async with shell_for(settings).start() as running:
                await running.until(lambda: tmdb.asked[silences[stage]])
                running.send(number)
                return await how_it_went(await running.ended(), settings, tmdb, IDS)

    assert await deviations(one, stages, STOPPED_WELL) == {}


async def test_a_signal_while_s3_is_slow_lets_it_finish_what_is_open(
    s3: S3Server, shell_for: Any, settings_for: Make
) -> None:
    """What S3 answers after the signal still counts: a batch lands, and reconciling that has begun ends."""
    backoffs = {
        "first look": (("list", ""), 75, 0),
        "lease": (("put", "/lease.json"), 75, 0),
        "landing": (("complete", "/tt"), 75, 100),
        "closing": (("put", "/summary.json"), 0, 350),  # nothing was left to be done
    }
    shared = settings_for("http://localhost/3", movies=MOVIES)

    async def one(stage: str) -> dict[str, Any]:
        at, code, landed = backoffs[stage]
        hush = Hush(*at)
        async with fake_tmdb(catalog=CATALOG, latency=(0.02, 0.02)) as tmdb, s3_proxy(s3.endpoint) as link:
            link.rules["*"] = hush.rule
            settings = at_once_with_others(shared, stage, tmdb)
            shell = shell_for(settings).having(AWS_ENDPOINT_URL_S3=link.url, TMDB_CONCURRENCY="5")
            async with shell.start() as running:
                await running.until(hush.held.is_set)
                running.send(signal.SIGTERM)
                await running.says("beginning no more batches")
                hush.opened.set()
                end = await running.ended()
            left = await left_in(settings)
            went = await how_it_went(end, settings, tmdb, MOVIES)
            return went | {
                "code": end.code == code,
                "harm": left.harm + went["harm"],
                "landed": len(left.done) >= landed,
            }

    assert await deviations(one, backoffs, STOPPED_WELL | {"code": True, "landed": True}) == {}


@contextmanager
def narrow() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe of one page, the first not blocking: who writes to it gets no further than who reads it."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(read, False)
    try:
        yield read, write
    finally:
        os.close(read)
        with suppress(OSError):
            os.close(write)


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("command", ["harvest", "plan"])
async def test_a_signal_while_it_starts_is_a_stop_like_any_other(
    command: str, number: signal.Signals, shell_for: Any, settings_for: Make
) -> None:
    """Also while Python still imports what a command needs, a signal ends in 75 and a sentence."""
    settings = settings_for("https://tmdb.onion/3", movies=IDS)
    shell = shell_for(settings).having(PYTHONPROFILEIMPORTTIME="1")
    with narrow() as (read, write):
        async with shell.start(command, stderr=write) as running:
            os.close(write)
            output = bytearray()

            def imports() -> bool:
                with suppress(BlockingIOError):
                    while b" pydantic_core\n" not in output:
                        output.extend(os.read(read, 256))
                return b" pydantic_core\n" in output

            def has_ended() -> bool:
                with suppress(BlockingIOError):
                    while block := os.read(read, 4096):
                        output.extend(block)
                    return True
                return False

            await running.until(imports)
            running.send(number)  # a page later, at the most, it has stopped to wait for us
            await running.until(has_ended)
            end = await running.ended()
    (sentence,) = Ended(end.code, end.out, output.decode()).sentences
    assert (end.code, end.out, sentence.partition(" ")[0].rstrip(".")) == (75, "", "Stopped")


@pytest.mark.parametrize("number", BOTH)
async def test_a_signal_after_the_end_changes_nothing(
    number: signal.Signals, shell_for: Any, settings_for: Make
) -> None:
    """A process that has reported its end ends so: the code fits the totals shown, without a traceback."""
    async with fake_tmdb(catalog=CATALOG) as tmdb:
        shell = shell_for(settings_for(tmdb.url, movies=MOVIES[:3]))

        async def one(word: str) -> tuple[int, list[str]]:
            async with shell.start(word, "--json") as running:
                await running.until(lambda: b"\n" in running.out)
                running.send(number)
                end = await running.ended()
                return end.code, end.sentences

        assert await fan_out(one, ["harvest", "plan"], at_once=1) == 2 * [(0, [])]
