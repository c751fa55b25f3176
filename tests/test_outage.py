"""Outages and refusals in the midst of a harvest: the whole flow, and the command line in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from conftest import Silent
from loops import Hasty, run_on

from harvester.batches import Batch, cut
from harvester.demo.catalog import Catalog
from harvester.demo.faults import RESET, Asked, Fault, always, healthy, html, refusal, scripted, silence
from harvester.demo.s3_server import S3Server, s3_server
from harvester.demo.tmdb_stand_in import KEY, StandIn, stand_in
from harvester.errors import StoreError, TmdbRefusedError, TmdbUnavailableError
from harvester.fan_out import fan_out
from harvester.harvest import Stop, harvest, open_bucket_of, open_tmdb_of
from harvester.s3 import CALL_SECONDS
from harvester.show import SHOWN, show_report
from harvester.verify import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
    from pathlib import Path

    from harvester.harvest import Report
    from harvester.settings import Settings

    Make = Callable[..., Settings]
    Story = Callable[["Hasty"], Coroutine[Any, Any, None]]

MOVIES = [f"tt{number:07d}" for number in range(1, 351)]
SERIES = [f"tt{number:07d}" for number in range(900_001, 900_051)]
KINDS: Any = dict.fromkeys(SERIES, "tv")
CATALOG = Catalog(KINDS)

NOTICED = 120.0
"""Seconds after which an outage has been noticed at the latest (`tests/test_tmdb.py` has it so, too)."""

SOON = 30.0 + 15.0
"""Seconds between a container's SIGTERM and its SIGKILL (see `DRAIN_SECONDS`), and some for a busy machine."""


# --- seconds that pass faster


def told_in_haste(story: Story) -> None:
    """Tell the story to its end, a quarter of an hour at most, on a loop that it may hurry while no S3 is needed."""
    loop = Hasty()
    run_on(loop, asyncio.wait_for(story(loop), 900))


async def no_wait(seconds: float) -> None:
    """No time between tries."""


async def side_by_side(*stories: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results of all, in order; the first error ends the others."""
    return await fan_out(lambda story: story(), stories, at_once=len(stories))


# --- what stands in the bucket


@dataclass(frozen=True, slots=True)
class Standing:
    """What the bucket holds after a run: whether its books are closed, outcomes by id, and what is wrong."""

    closed: bool
    done: dict[str, str]
    failed: dict[str, str]
    harm: list[str]


async def standing(settings: Settings) -> Standing:
    """What papers and files say together: batches without a paper are no harm, all else that `verify` finds is."""
    done: dict[str, str] = {}
    failed: dict[str, str] = {}
    async with open_bucket_of(settings) as lake:
        papers = await lake.objects(f"{settings.s3_prefix}/_harvest/")
        for key in papers:
            for folder, outcomes in (("/receipts/", done), ("/failed/", failed)):
                if folder in key:
                    told = json.loads(await lake.read(key) or b"")["outcomes"]
                    outcomes |= {id_: what["outcome"] for id_, what in told.items()}
        harm = [f"{key} is an open upload" for key, _ in await lake.uploads(settings.s3_prefix)]
    problems = (await verify(settings)).problems if done or failed else []
    harm += [problem for problem in problems if not problem.endswith("has no receipt: harvest goes on with it")]
    return Standing(any(key.endswith("/summary.json") for key in papers), done, failed, harm)


async def closes(settings: Settings, tmdb: StandIn) -> tuple[str, int, set[str], list[str]]:
    """Run once more: how it ends, how many are found, for whom TMDB was asked, and what is wrong afterwards."""
    asked = Counter(tmdb.asked)
    report = await harvest(settings, watcher=Silent(), stop=Stop())
    again = {id_ for _, id_ in Counter(tmdb.asked) - asked if id_}
    left = await standing(settings)
    assert left.closed
    return report.status, report.books.found, again, left.harm + [f"{id_} is in failed/" for id_ in left.failed]


class After(Silent):
    """A watcher that says when so many titles are known, or so many batches landed."""

    def __init__(self, *, titles: int = 0, batches: int = 0) -> None:
        super().__init__()
        self._wanted = titles, batches
        self.reached = asyncio.Event()

    def title(self, told: Any) -> None:
        super().title(told)
        self._look()

    def batch(self, receipt: Any) -> None:
        super().batch(receipt)
        self._look()

    def _look(self) -> None:
        if len(self.titles) >= self._wanted[0] and len(self.receipts) >= self._wanted[1]:
            self.reached.set()


# --- TMDB goes away


WAYS: dict[str, tuple[Fault | None, str]] = {
    "503 in HTML": (html(503), "http_503"),
    "500 in JSON": (refusal(500), "http_500"),
    "silence": (silence(3600), "timeout"),
    "reset": (RESET, "connection_lost"),
    "closed port": (None, "connection_refused"),
}
"""How TMDB can be gone: what everybody meets, none where there is nobody to meet; the reason that is told."""


class Tide:
    """A TMDB that goes away and comes back at the same address."""

    def __init__(self, fault: Fault | None, stack: AsyncExitStack) -> None:
        self._fault, self._stack = fault, stack

    async def come(self, port: int = 0) -> None:
        self.tmdb: StandIn = await self._stack.enter_async_context(stand_in(port=port, catalog=CATALOG))

    async def go(self) -> None:
        if self._fault:
            self.tmdb.outage, self.tmdb.down = self._fault, True
        else:
            await self._stack.aclose()

    async def come_back(self) -> None:
        if self._fault:
            self.tmdb.down = False
        else:
            await self.come(urlsplit(self.tmdb.url).port or 0)


@asynccontextmanager
async def tide(way: str) -> AsyncIterator[Tide]:
    async with AsyncExitStack() as stack:
        tide = Tide(WAYS[way][0], stack)
        await tide.come()
        yield tide


@pytest.mark.parametrize("way", WAYS)
def test_tmdb_gone_in_mid_harvest_ends_the_run_and_fails_nobody(way: str, settings_for: Make) -> None:
    """Within two minutes the run ends with exit 6, what landed is safe, and the next run asks for the rest alone."""

    async def story(loop: Hasty) -> None:
        async with tide(way) as tmdb:
            settings = settings_for(tmdb.tmdb.url, movies=MOVIES, series=SERIES)
            watcher = After(titles=220)
            began = []

            async def ebb() -> None:
                await watcher.reached.wait()
                began.append(loop.time())
                await tmdb.go()
                while not watcher.receipts:  # what is whole may land before we hurry
                    await asyncio.sleep(0.01)
                loop.hurry(30)

            with pytest.raises(TmdbUnavailableError) as caught:
                await side_by_side(ebb, lambda: harvest(settings, watcher=watcher, stop=Stop()))
            seconds = loop.time() - began[0]
            loop.hurry(1)
            assert caught.value.exit_code == 6
            assert caught.value.reason in (WAYS[way][1], "timeout")  # on a busy machine any answer may come too late
            assert seconds <= NOTICED
            left = await standing(settings)
            assert 100 <= len(left.done) < 400
            assert (set(left.done.values()), left.failed, left.harm, left.closed) == ({"found"}, {}, [], False)
            await tmdb.come_back()
            rest = set(MOVIES + SERIES) - set(left.done)
            assert await closes(settings, tmdb.tmdb) == ("closed", 400, rest, [])

    told_in_haste(story)


@pytest.mark.parametrize("way", WAYS)
def test_an_outage_of_twenty_seconds_is_waited_out(way: str, settings_for: Make) -> None:
    """What passes is survived: the books close in the same run, and nobody has failed."""

    async def story(loop: Hasty) -> None:
        async with tide(way) as tmdb:
            settings = settings_for(tmdb.tmdb.url, movies=MOVIES, series=SERIES)
            watcher = After(titles=220)

            async def ebb_and_flood() -> None:
                await watcher.reached.wait()
                await tmdb.go()
                loop.hurry(30)
                await asyncio.sleep(20)
                await tmdb.come_back()

            _, report = await side_by_side(ebb_and_flood, lambda: harvest(settings, watcher=watcher, stop=Stop()))
            assert (report.status, report.exit_code, report.books.found, report.failed) == ("closed", 0, 400, {})

    told_in_haste(story)


def test_silence_at_the_start_is_given_up_within_two_minutes(settings_for: Make) -> None:
    """Before anything is asked, a TMDB that does not answer costs no more time than one that goes away later."""

    async def story(loop: Hasty) -> None:
        async with tide("silence") as tmdb:
            await tmdb.go()
            async with open_tmdb_of(settings_for(tmdb.tmdb.url, movies=MOVIES)) as opened:
                loop.hurry(60)
                began = loop.time()
                with pytest.raises(TmdbUnavailableError, match=re.escape(tmdb.tmdb.url)):
                    await opened.check_key()
                assert loop.time() - began <= NOTICED

    told_in_haste(story)


# --- TMDB comes and goes


def one_in_five(_: Hasty) -> Callable[[Asked], Fault | None]:
    """Four of five requests for a title have no usable answer."""
    numbers = itertools.count(1)
    return lambda asked: refusal(503) if asked.route != "authentication" and next(numbers) % 5 else None


def every_ten_seconds(loop: Hasty) -> Callable[[Asked], Fault | None]:
    """Up for ten seconds, down for ten, and so on."""
    began = loop.time()
    return lambda _: html(503) if (loop.time() - began) % 20 > 10 else None


def refused_for_a_minute(loop: Hasty) -> Callable[[Asked], Fault | None]:
    """Every second request of the first minute is a 429."""
    began, numbers = loop.time(), itertools.count()
    return lambda _: refusal(429, retry_after="1") if loop.time() - began < 60 and next(numbers) % 2 else None


def down_for(*routes: str) -> Callable[[Hasty], Callable[[Asked], Fault | None]]:
    """Some of TMDB's doors are shut, and all others are open."""
    return lambda _: lambda asked: html(503) if asked.route in routes else None


@pytest.mark.parametrize(("weather", "failed"), [(every_ten_seconds, 20), (refused_for_a_minute, 0)])
def test_changing_weather_costs_time_and_hardly_a_title(weather: Any, failed: int, settings_for: Make) -> None:
    """Up and down every ten seconds, or refusing every second request for a minute: the books close all the same.

    Who asks seven times in half a minute, and each time while TMDB is down, has failed; the next run finds it.
    """

    async def story(loop: Hasty) -> None:
        async with stand_in(catalog=CATALOG) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES[:150], series=SERIES, tmdb_rate=12)
            tmdb.faults = weather(loop)
            began = loop.time()
            loop.hurry(40)
            report = await harvest(settings, watcher=Silent(), stop=Stop())
            assert loop.time() - began > 45  # it has met some of it
            loop.hurry(1)
            assert (report.books.accounted, len(report.failed) <= failed) == (200, True)
            left = await standing(settings)
            tmdb.faults = healthy
            assert (await closes(settings, tmdb))[1:] == (200, set(left.failed), left.harm)
            assert left.harm == []

    told_in_haste(story)


def test_tmdb_answering_one_in_five_loses_nobody(settings_for: Make) -> None:
    """Who had six bad answers in a row has failed, everybody else is found; the next run finds the rest."""

    async def story(loop: Hasty) -> None:
        async with stand_in(catalog=CATALOG) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES[:150], series=SERIES)
            tmdb.faults = one_in_five(loop)
            loop.hurry(30)
            report = await harvest(settings, watcher=Silent(), stop=Stop())
            loop.hurry(1)
            assert (report.status, report.books.accounted) == ("failed", 200)
            assert set(report.failed.values()) == {"http_503"}
            assert 100 < report.books.found < 200
            left = await standing(settings)
            assert (left.harm, left.closed) == ([], False)
            assert Counter((left.done | left.failed).values()) == {
                "found": report.books.found,
                "failed": len(report.failed),
            }
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", 200, set(left.failed), [])

    told_in_haste(story)


def test_while_others_are_answered_those_behind_a_shut_door_fail_alone(settings_for: Make) -> None:
    """With /find down, who needs it has failed and all others are found; once it is up, the next run finds them."""
    strays = MOVIES[10:40]

    async def story(loop: Hasty) -> None:
        async with stand_in(catalog=Catalog(dict.fromkeys(strays, "tv"))) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES, tmdb_rate=40)
            tmdb.faults = down_for("find")(loop)
            loop.hurry(20)
            report = await harvest(settings, watcher=Silent(), stop=Stop())
            loop.hurry(1)
            assert (report.status, report.failed) == ("failed", dict.fromkeys(strays, "http_503"))
            assert report.books.found == 320
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", 350, set(MOVIES[:100]), [])

    told_in_haste(story)


@pytest.mark.parametrize("route", ["find", "tv"])
def test_while_no_title_is_answered_none_fails(route: str, settings_for: Make) -> None:
    """With the door down that every title left needs, the run ends with exit 6 and nobody has failed."""
    series = [f"tt{number:07d}" for number in range(900_001, 900_101)]

    async def story(loop: Hasty) -> None:
        async with stand_in(catalog=Catalog(dict.fromkeys(series, "tv"))) as tmdb:
            settings = settings_for(tmdb.url, series=series, tmdb_rate=40)
            tmdb.faults = down_for(route)(loop)
            loop.hurry(40)
            try:
                ended: Any = (await harvest(settings, watcher=Silent(), stop=Stop())).exit_code
            except TmdbUnavailableError as error:
                ended = error.exit_code
            loop.hurry(1)
            left = await standing(settings)
            assert (int(ended), len(left.failed), left.harm) == (6, 0, [])
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", 100, set(series), [])

    told_in_haste(story)


# --- the key is revoked


@pytest.mark.parametrize("concurrency", [1, 20])
def test_a_key_revoked_in_mid_harvest_ends_it_and_the_good_key_goes_on(concurrency: int, settings_for: Make) -> None:
    """After the first 401 no new request is sent; what landed is safe, and with a good key the rest is asked for."""

    async def story(_: Hasty) -> None:
        async with stand_in(catalog=CATALOG) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES, tmdb_concurrency=concurrency)
            await harvest(settings, watcher=Silent(), stop=Stop(limit=100))
            watcher = After(titles=50)
            before = []

            async def revoke() -> None:
                await watcher.reached.wait()
                tmdb.revoked = True
                before.append(tmdb.asked.total())

            with pytest.raises(TmdbRefusedError) as caught:
                await side_by_side(revoke, lambda: harvest(settings, watcher=watcher, stop=Stop()))
            more = tmdb.asked.total() - before[0]
            assert (caught.value.exit_code, caught.value.status, caught.value.code) == (3, 401, 7)
            left = await standing(settings)
            assert 100 <= len(left.done) < 400
            assert (left.failed, left.harm, left.closed) == ({}, [], False)
            with pytest.raises(TmdbRefusedError):
                await harvest(settings, watcher=Silent(), stop=Stop())
            tmdb.revoked = False
            assert await closes(settings, tmdb) == ("closed", 400, set(MOVIES + SERIES) - set(left.done), [])
        assert 1 <= more <= concurrency  # those that were on their way when the first 401 came

    told_in_haste(story)


# --- poison


@dataclass(frozen=True, slots=True)
class Poison:
    """Ids that TMDB cannot answer at one of its doors, those of the CSVs, and those that TMDB has as the other kind."""

    ids: list[str]
    route: Any = "movie"
    movies: list[str] = field(default_factory=lambda: MOVIES[:210])
    series: list[str] = field(default_factory=lambda: SERIES)
    moved: list[str] = field(default_factory=list)

    @property
    def batches(self) -> list[Batch]:
        """The batches that cannot be done: a moved title is in one of its own."""
        if self.moved:
            return list(cut("Series", self.moved))
        planned = [*cut("Movies", self.movies), *cut("Series", self.series)]
        return [batch for batch in planned if set(batch.ids) & set(self.ids)]


STRAYS = [MOVIES[5], MOVIES[120], MOVIES[205]]

POISONS = {
    "in the first batch": Poison([MOVIES[7]]),
    "in the last batch": Poison([MOVIES[209]], series=[]),
    "the only id there is": Poison([MOVIES[0]], movies=MOVIES[:1], series=[]),
    "a series that /find cannot answer": Poison([SERIES[30]], "find"),
    "a series that /tv cannot answer": Poison([SERIES[30]], "tv"),
    "a moved title": Poison([STRAYS[1]], "tv", moved=STRAYS),
    "in two batches": Poison([MOVIES[7], MOVIES[199]]),
    "all ids of a batch": Poison(MOVIES[100:200]),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_poison_fails_by_name_and_alone_and_is_forgotten_when_it_heals(
    poison: Poison, settings_for: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 5 with the ids named and all others landed; healed, the next run asks for their batches and closes."""
    script: Any = {(poison.route, id_): [always(refusal(500))] for id_ in poison.ids}
    catalog = Catalog(KINDS | dict.fromkeys(poison.moved, "tv"))
    everybody = set(poison.movies + poison.series)

    async def story(_: Hasty) -> None:
        async with stand_in(catalog=catalog, faults=scripted(script)) as tmdb:
            settings = settings_for(tmdb.url, movies=poison.movies, series=poison.series)
            report = await harvest(settings, watcher=Silent(), stop=Stop(), sleep=no_wait)
            assert (report.status, report.exit_code) == ("failed", 5)
            assert report.failed == dict.fromkeys(poison.ids, "http_500")
            show_report(report, settings)
            shown = re.findall(r"(tt\d+) failed: http_500", capsys.readouterr().out)
            assert sorted(shown) == sorted(poison.ids)[:SHOWN]
            left = await standing(settings)
            assert {id_ for id_, what in left.failed.items() if what == "failed"} == set(poison.ids)
            neighbours = {id_ for id_, what in (left.done | left.failed).items() if what == "found"}
            assert (neighbours, left.harm, left.closed) == (everybody - set(poison.ids), [], False)
            blocked = {id_ for batch in poison.batches for id_ in batch.ids}
            assert set(left.failed) == blocked
            tmdb.faults = healthy
            assert await closes(settings, tmdb) == ("closed", len(everybody), blocked, [])

    told_in_haste(story)


# --- nobody at home, at the start


def answerless() -> socket.socket:
    """A port that is taken and not listened at: whoever connects is refused."""
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    return nobody


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process has ended: its code, None if it had to be killed; and what it said."""

    code: int | None
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """What it told people: neither log lines nor Python's own list of imports."""
        lines = [line for line in self.err.splitlines() if line and not line.startswith(("{", "import time:"))]
        assert not [line for line in lines if "Traceback" in line], self.err
        assert KEY not in self.out + self.err
        return lines


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs the harvester, each time with its own settings."""

    folder: Path
    s3: S3Server

    async def start(self, settings: Settings, *words: str, **environment: str) -> asyncio.subprocess.Process:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
        told = {name: getattr(settings, name) for name in ("movies_csv", "series_csv", "s3_bucket", "s3_prefix")}
        told |= {"tmdb_base_url": settings.tmdb_base_url, "tmdb_rate": "1000", "tmdb_api_key": KEY}
        ours = {name.upper(): str(value) for name, value in told.items() if value}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "harvester",
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=kept | self.s3.environment() | ours | environment,
            cwd=self.folder,
        )


@pytest.fixture
def shell(s3: S3Server, tmp_path: Path) -> Shell:
    return Shell(tmp_path, s3)


async def ended(process: asyncio.subprocess.Process, *, within: float) -> Ended:
    """How the process ends; it is killed when it has not within so many seconds. Its standard input stays open."""
    assert process.stdout
    assert process.stderr
    code: int | None = None
    reading = [asyncio.ensure_future(stream.read()) for stream in (process.stdout, process.stderr)]
    with suppress(TimeoutError):
        code = await asyncio.wait_for(process.wait(), within)
    if code is None:
        process.kill()
        await process.wait()
    out, err = [(await each).decode() for each in reading]
    if process.stdin:
        process.stdin.close()
    return Ended(code, out, err)


NOBODY = {
    "TMDB refuses": ("TMDB_BASE_URL", "http://{nobody}/3", "connection.refused", 6),
    "TMDB unknown": ("TMDB_BASE_URL", "https://tmdb.invalid/3", "dns|name|resolve", 6),
    "TMDB without TLS": ("TMDB_BASE_URL", "https://{plain}/3", "tls|ssl", 6),
    "S3 refuses": ("AWS_ENDPOINT_URL_S3", "http://{nobody}", "refused|connect|reach", 4),
    "S3 unknown": ("AWS_ENDPOINT_URL_S3", "https://s3.invalid", "dns|name|resolve|connect|reach", 4),
    "S3 without TLS": ("AWS_ENDPOINT_URL_S3", "https://{plain}", "tls|ssl", 4),
}
"""Who cannot be reached, by which setting, and what the sentence about it must have; the exit code."""


@pytest.mark.timeout(90)
def test_nobody_at_home_is_told_in_one_sentence_with_the_host_and_what_it_was(shell: Shell, settings_for: Make) -> None:
    """A refused connection, an unknown host, a port without TLS: which it was, at which host, soon; for TMDB and S3."""

    async def story(_: Hasty) -> None:
        async with stand_in() as tmdb:
            with answerless() as nobody:
                places = {
                    "nobody": f"127.0.0.1:{nobody.getsockname()[1]}",
                    "plain": urlsplit(tmdb.url).netloc,  # speaks HTTP, and no TLS
                }
                settings = settings_for(tmdb.url, movies=MOVIES[:3])

                async def one(name: str) -> dict[str, Any]:
                    setting, template, words, code = NOBODY[name]
                    url = template.format_map(places)
                    end = await ended(await shell.start(settings, **{setting: url}), within=60)
                    (sentence,) = end.sentences
                    return {
                        "code": end.code == code,
                        "names the host": urlsplit(url).netloc in sentence,
                        "says what it was": bool(re.search(words, sentence, re.IGNORECASE)),
                        "has no query": "?" not in sentence,  # DESIGN 4: no URL with a query is put in an error
                    }

                well = dict.fromkeys(("code", "names the host", "says what it was", "has no query"), True)
                assert await deviations(one, NOBODY, well) == {}

    told_in_haste(story)


async def deviations(
    one: Callable[[str], Awaitable[dict[str, Any]]], names: Iterable[str], well: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Of all stories, told side by side, those that went otherwise than `well`, and in what."""
    names = list(names)
    told = dict(zip(names, await fan_out(one, names, at_once=len(names)), strict=True))
    strange = {name: {word: how for word, how in went.items() if how != well[word]} for name, went in told.items()}
    return {name: went for name, went in strange.items() if went}


# --- S3 goes away


def test_s3_gone_in_mid_upload_ends_the_run_and_the_next_one_closes_the_books(
    settings_for: Make, tmp_path: Path
) -> None:
    """Killed before an upload is complete, S3 is given up with exit 4 and a sentence, soon; nothing is lost by it."""

    async def story(loop: Hasty) -> None:
        async with own_s3(tmp_path) as (store, at), stand_in(catalog=CATALOG) as tmdb, AsyncExitStack() as way:
            settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES, **at)
            await harvest(settings, watcher=Silent(), stop=Stop(limit=100))
            url, link = await way.enter_async_context(relay(store.endpoint, r"POST \S+uploadId"))
            began = []

            async def ebb() -> None:
                await link.held.wait()
                await store.kill()
                await way.aclose()  # nobody listens any more
                loop.hurry(20)
                began.append(loop.time())

            through = settings_for(tmdb.url, movies=MOVIES, series=SERIES, **at | {"aws_endpoint_url_s3": url})
            with pytest.raises(StoreError, match=r"^Cannot .* s3://lake/Raw/API/.* AWS_ENDPOINT_URL_S3") as caught:
                await side_by_side(ebb, lambda: harvest(through, watcher=Silent(), stop=Stop()))
            seconds = loop.time() - began[0]
            loop.hurry(1)
            assert (caught.value.exit_code, seconds <= 2 * CALL_SECONDS) == (4, True)
            await store.start_again()
            left = await standing(settings)
            assert (set(left.done), left.failed, left.closed) == (set(MOVIES[:100]), {}, False)
            assert "is an open upload" in left.harm[0]
            assert await closes(settings, tmdb) == ("closed", 400, set(MOVIES[100:] + SERIES), [])

    told_in_haste(story)


def test_s3_gone_for_two_seconds_is_waited_out(settings_for: Make, tmp_path: Path) -> None:
    """A restart of S3 is botocore's to survive; whether it did or not, the books close at last, and nothing is lost."""

    async def story(_: Hasty) -> None:
        async with own_s3(tmp_path) as (store, at), stand_in(catalog=CATALOG, latency=(0.02, 0.05)) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES, **at)
            watcher = After(batches=1)

            async def restart() -> None:
                await watcher.reached.wait()
                await store.start_again()

            first: Report | StoreError
            try:
                _, first = await side_by_side(restart, lambda: harvest(settings, watcher=watcher, stop=Stop()))
            except StoreError as error:
                first = error
            assert first.exit_code in (0, 4)
            if first.exit_code == 4:
                await store.start_again()
            report = await harvest(settings, watcher=Silent(), stop=Stop())
            assert (report.exit_code, report.books.found, (await standing(settings)).harm) == (0, 400, [])

    told_in_haste(story)


@asynccontextmanager
async def own_s3(folder: Path) -> AsyncIterator[tuple[S3Server, dict[str, Any]]]:
    """A server that one test may kill, and the settings that lead to it."""
    async with s3_server(folder / "own", buckets=["lake"]) as store:
        yield (
            store,
            {
                "s3_bucket": "lake",
                "aws_access_key_id": store.access_key,
                "aws_secret_access_key": store.secret_key,
                "aws_endpoint_url_s3": store.endpoint,
            },
        )


# --- signals, at every stage


class Relay:
    """Passes bytes on to an S3 server until a request whose first line matches comes; from then on it holds them."""

    def __init__(self, beyond: str, hold_at: str) -> None:
        self._beyond = urlsplit(beyond)
        self._hold_at = re.compile(hold_at.encode())
        self.held, self.opened = asyncio.Event(), asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        with suppress(ConnectionError, asyncio.CancelledError):
            there, thither = await asyncio.open_connection(self._beyond.hostname, self._beyond.port)
            try:
                await side_by_side(lambda: self._pass(reader, thither), lambda: self._bring(there, writer))
            finally:
                thither.close()
        writer.close()
        self._open.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(2**16):
            if self._hold_at.match(block.partition(b"\r\n")[0]):
                self.held.set()
            if self.held.is_set():
                await self.opened.wait()
            writer.write(block)
            await writer.drain()
        writer.close()

    async def _bring(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(2**16):
            writer.write(block)
            await writer.drain()
        writer.close()

    async def end(self) -> None:
        for task in list(self._open):
            task.cancel()
        while self._open:
            await asyncio.sleep(0)


@asynccontextmanager
async def relay(beyond: str, hold_at: str) -> AsyncIterator[tuple[str, Relay]]:
    """Its URL, and the relay."""
    link = Relay(beyond, hold_at)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", link
    finally:
        server.close()
        await link.end()


BOTH = (signal.SIGTERM, signal.SIGINT)
IDS = MOVIES[:120]
STOPPED_WELL: dict[str, Any] = {"code": 75, "said something": True, "then": "closed", "lost": 0, "harm": []}


def each(stages: Iterable[str], numbers: Iterable[signal.Signals] = BOTH) -> dict[str, tuple[str, signal.Signals]]:
    """Every stage with every signal, by a name that is also its prefix in the bucket."""
    return {f"{number.name}-{stage}": (stage, number) for number in numbers for stage in stages}


async def how_it_went(end: Ended, settings: Settings, tmdb: StandIn, ids: list[str]) -> dict[str, Any]:
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


@pytest.mark.timeout(180)
def test_a_signal_while_a_csv_is_being_read_ends_it(shell: Shell, settings_for: Make, tmp_path: Path) -> None:
    """Reading is given up: from a pipe that nobody closes, and from standard input; for `plan` as for `harvest`."""
    rows = "id|t\n" + "".join(f"{id_}|{'x' * 2_000}\n" for id_ in IDS)  # more than a pipe holds
    stages = each(["a-path", "stdin", "plan-stdin"])

    async def one(name: str) -> dict[str, Any]:
        stage, number = stages[name]
        async with stand_in(catalog=CATALOG) as tmdb, AsyncExitStack() as stack:
            settings = settings_for(tmdb.url, movies=IDS, s3_prefix=name)
            path = tmp_path / name
            os.mkfifo(path)
            words = ["plan"] if stage.startswith("plan") else []
            process = await shell.start(settings, *words, "--movies", str(path) if stage == "a-path" else "-")
            if stage == "a-path":
                await feed(path, rows, stack)
            else:
                assert process.stdin
                process.stdin.transport.set_write_buffer_limits(0)
                process.stdin.write(rows.encode())
                await process.stdin.drain()
            process.send_signal(number)
            return await how_it_went(await ended(process, within=SOON), settings, tmdb, IDS)

    async def story(_: Hasty) -> None:
        assert await deviations(one, stages, STOPPED_WELL) == {}

    told_in_haste(story)


async def feed(path: Path, rows: str, stack: AsyncExitStack) -> None:
    """Write the rows into a FIFO, once somebody has opened it, as they are read; it has no end before the stack's."""
    while True:
        try:
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody has opened it yet
            await asyncio.sleep(0.01)
        else:
            break
    stack.callback(os.close, pipe)
    left = rows.encode()
    while left:
        try:
            left = left[os.write(pipe, left) :]
        except BlockingIOError:
            await asyncio.sleep(0.01)


@pytest.mark.timeout(180)
def test_a_signal_while_s3_says_nothing_ends_it_before_a_container_is_killed(shell: Shell, settings_for: Make) -> None:
    """Whatever S3 falls silent in the midst of, half a minute after the signal the process is gone by itself."""
    holds = {
        "survey": r"GET \S+list-type=2",
        "closing": r"PUT \S+/summary\.json",
        "complete": r"POST \S+uploadId",
        "begin": r"POST \S+\?uploads",
        "part": r"PUT \S+partNumber",
        "receipt": r"PUT \S+/receipts/",
    }
    stages = each(holds, [signal.SIGTERM]) | each(list(holds)[:2], [signal.SIGINT])

    async def one(name: str) -> dict[str, Any]:
        stage, number = stages[name]
        async with stand_in(catalog=CATALOG) as tmdb, relay(shell.s3.endpoint, holds[stage]) as (url, link):
            settings = settings_for(tmdb.url, movies=IDS, s3_prefix=name)
            process = await shell.start(settings, AWS_ENDPOINT_URL_S3=url)
            await link.held.wait()
            process.send_signal(number)
            return await how_it_went(await ended(process, within=SOON), settings, tmdb, IDS)

    async def story(_: Hasty) -> None:
        assert await deviations(one, stages, STOPPED_WELL) == {}

    told_in_haste(story)


@pytest.mark.timeout(180)
def test_a_signal_while_tmdb_says_nothing_ends_it_before_a_container_is_killed(
    shell: Shell, settings_for: Make
) -> None:
    """In the pre-flight, and in the midst of the titles."""
    silences: Any = {"authentication": ("authentication", ""), "title": ("movie", IDS[110])}
    stages = each(silences)

    async def one(name: str) -> dict[str, Any]:
        stage, number = stages[name]
        faults = scripted({silences[stage]: [always(silence(600))]})
        async with stand_in(catalog=CATALOG, faults=faults) as tmdb:
            settings = settings_for(tmdb.url, movies=IDS, s3_prefix=name)
            process = await shell.start(settings)
            while not tmdb.asked[silences[stage]]:
                await asyncio.sleep(0.01)
            process.send_signal(number)
            return await how_it_went(await ended(process, within=SOON), settings, tmdb, IDS)

    async def story(_: Hasty) -> None:
        assert await deviations(one, stages, STOPPED_WELL) == {}

    told_in_haste(story)


@pytest.mark.timeout(180)
def test_a_signal_while_s3_is_slow_lets_it_finish_what_is_open(shell: Shell, settings_for: Make) -> None:
    """What S3 answers after the signal still counts: a batch lands, and books that were being closed are closed."""
    holds = {
        "survey": (r"GET \S+list-type=2", 75, 0),
        "landing": (r"POST \S+uploadId", 75, 100),
        "closing": (r"PUT \S+/summary\.json", 0, 350),  # nothing was left to be done
    }

    async def one(stage: str) -> dict[str, Any]:
        pattern, code, landed = holds[stage]
        async with (
            stand_in(catalog=CATALOG, latency=(0.02, 0.02)) as tmdb,
            relay(shell.s3.endpoint, pattern) as (url, link),
        ):
            settings = settings_for(tmdb.url, movies=MOVIES, s3_prefix=stage)
            process = await shell.start(settings, AWS_ENDPOINT_URL_S3=url, TMDB_CONCURRENCY="5")
            await link.held.wait()
            process.send_signal(signal.SIGTERM)
            assert process.stderr
            while b"taking no more batches" not in (line := await process.stderr.readline()):
                assert line
            link.opened.set()
            end = await ended(process, within=SOON)
            left = await standing(settings)
            went = await how_it_went(end, settings, tmdb, MOVIES)
            return went | {
                "code": end.code == code,
                "harm": left.harm + went["harm"],
                "landed": len(left.done) >= landed,
            }

    async def story(_: Hasty) -> None:
        assert await deviations(one, holds, STOPPED_WELL | {"code": True, "landed": True}) == {}

    told_in_haste(story)


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("command", ["harvest", "plan"])
def test_a_signal_while_it_starts_is_a_stop_like_any_other(
    command: str, number: signal.Signals, shell: Shell, settings_for: Make
) -> None:
    """Also while Python still imports what a command needs, a signal ends in 75 and a sentence."""

    async def story(_: Hasty) -> None:
        settings = settings_for("https://tmdb.invalid/3", movies=IDS)
        process = await shell.start(settings, command, PYTHONPROFILEIMPORTTIME="1")
        assert process.stderr
        while b" pydantic_core" not in (line := await process.stderr.readline()):
            assert line
        process.send_signal(number)
        end = await ended(process, within=SOON)
        assert (end.code, len(end.sentences), end.out) == (75, 1, "")

    told_in_haste(story)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_after_the_end_changes_nothing(number: signal.Signals, shell: Shell, settings_for: Make) -> None:
    """Who has told how it ended ends so: the code is that of the books that were shown, and there is no traceback."""

    async def story(_: Hasty) -> None:
        async with stand_in(catalog=CATALOG) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES[:3])

            async def one(word: str) -> tuple[int | None, list[str]]:
                process = await shell.start(settings, word, "--json")
                assert process.stdout
                await process.stdout.readline()
                with suppress(ProcessLookupError):
                    process.send_signal(number)
                end = await ended(process, within=SOON)
                return end.code, [line for line in end.err.splitlines() if not line.startswith("{")]

            assert await fan_out(one, ["harvest", "plan"], at_once=1) == 2 * [(0, [])]

    told_in_haste(story)
