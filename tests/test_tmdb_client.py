"""TMDB: what goes over the network, counted by the server; what comes of every kind of trouble; no secret in sight."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import socket
import traceback
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import orjson
import pytest
from conftest import capture_logs, gzip_of
from loops import Leaping, run_on

from harvester.errors import HarvestError, SettingsError, TmdbRefusedError, TmdbUnavailableError
from harvester.fakes.catalog import Catalog, movie_record, tv_record
from harvester.fakes.faults import (
    CUT,
    CUT_CHUNKED,
    EMPTY,
    HIDDEN_GZIP,
    MISLABELLED,
    NAMED,
    PART_MISSING,
    RESET,
    RESET_WITHIN,
    UNSUCCESSFUL,
    Fault,
    always,
    drip,
    html,
    refusal,
    scripted,
    silence,
)
from harvester.fakes.records import tmdb_id
from harvester.fakes.tmdb import KEY, TOKEN, FakeTmdb, fake_tmdb
from harvester.model.outcome import Failed, Found, Missing
from harvester.reports.progress_log import ProgressLog
from harvester.runtime.concurrency import fan_out
from harvester.settings.redaction import REDACTED
from harvester.tmdb.client import PART_SAMPLE, Tmdb
from harvester.tmdb.rate_limiter import RateLimiter
from harvester.tmdb.responses import BODY_LIMIT
from harvester.tmdb.retry import PART_TRIES, REFUSALS, TRIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from conftest import Clock

    from harvester.model.ids import Kind

FILM, SHOW, NOBODY, EPISODE, BOTH = "tt0000603", "tt0903747", "tt0000404", "tt0959621", "tt0137523"
KINDS: Any = {FILM: "movie", SHOW: "tv", NOBODY: "unknown", EPISODE: "episode", BOTH: "both"}
CATALOG = Catalog(KINDS, otherwise="both")


def ids(count: int, first: int = 1) -> list[str]:
    return [f"tt{number:07}" for number in range(first, first + count)]


def film(tt: str, **options: Any) -> Found:
    """The movie as the catalog has it."""
    record = orjson.loads(orjson.dumps(movie_record(CATALOG, tt, **options)))
    return Found("movie", tmdb_id("movie", tt), record)


def show(tt: str, **options: Any) -> Found:
    """The series as the catalog has it."""
    record = orjson.loads(orjson.dumps(tv_record(CATALOG, tt, **options)))
    return Found("tv", tmdb_id("tv", tt), record)


def tmdb_at(
    url: str,
    clock: Clock,
    *,
    key: str = KEY,
    append: Sequence[str] = (),
    language: str | None = None,
    concurrency: int = 20,
    limiter: Any = None,
) -> Any:
    """A `Tmdb` as the doors open it, but for its waits, which are virtual."""
    return Tmdb(
        base_url=url,
        key=key,
        language=language,
        append=append,
        limiter=limiter or RateLimiter(10_000, clock=clock.time, sleep=clock.sleep),
        concurrency=concurrency,
        observer=ProgressLog(),
        sleep=clock.sleep,
    )


@asynccontextmanager
async def impatient_tmdb_at(url: str, clock: Clock, *, key: str = KEY, seconds: float = 5.0) -> AsyncIterator[Tmdb]:
    """A `Tmdb` made by hand: its requests have so many true `seconds`, and its breaker goes by the virtual clock."""
    headers = {"Authorization": f"Bearer {key}"} if key == TOKEN else None
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False) as session:
        yield Tmdb(
            session=session,
            base_url=url,
            key=key,
            language=None,
            append=(),
            limiter=RateLimiter(10_000, clock=clock.time, sleep=clock.sleep),
            concurrency=20,
            clock=clock.time,
            sleep=clock.sleep,
        )


def http(status: int = 200, body: bytes = b'{"id":603}', **headers: str) -> bytes:
    """An HTTP response, to the letter."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", "Connection: close", *lines])
    return head.encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that sends these bytes, the last ones again and again; its URL, and the requests' heads as they came."""
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answers[min(len(heads), len(answers)) - 1])
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/3", heads


def absent_server() -> str:
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}/3"


# What a title costs


@pytest.mark.parametrize(
    ("id_", "kind", "expected", "requests"),
    [
        pytest.param(FILM, "movie", film(FILM), {"movie": 1}, id="a movie"),
        pytest.param(SHOW, "tv", show(SHOW), {"find": 1, "tv": 1}, id="a series"),
        pytest.param(NOBODY, "movie", Missing("unknown"), {"movie": 1, "find": 1}, id="no movie"),
        pytest.param(NOBODY, "tv", Missing("unknown"), {"find": 1}, id="no series"),
        pytest.param(
            EPISODE, "tv", Missing("episode", tmdb_id("tv", "tt0959620")), {"find": 1}, id="an episode among the series"
        ),
        pytest.param(
            EPISODE,
            "movie",
            Missing("episode", tmdb_id("tv", "tt0959620")),
            {"movie": 1, "find": 1},
            id="an episode among the movies",
        ),
        pytest.param(SHOW, "movie", show(SHOW), {"movie": 1, "find": 1, "tv": 1}, id="a series among the movies"),
        pytest.param(FILM, "tv", film(FILM), {"find": 1, "movie": 1}, id="a movie among the series"),
        pytest.param(BOTH, "movie", film(BOTH), {"movie": 1}, id="both, as a movie"),
        pytest.param(BOTH, "tv", show(BOTH), {"find": 1, "tv": 1}, id="both, as a series"),
    ],
)
async def test_a_title_costs_no_more_requests_than_it_must(
    clock: Clock, id_: str, kind: Kind, expected: Any, requests: dict[str, int]
) -> None:
    """A movie is one request and a series two, a reclassified title three and two, an unknown one two and one."""
    async with fake_tmdb(catalog=CATALOG) as server, tmdb_at(server.url, clock) as tmdb:
        assert expected == await tmdb.title(id_, kind)
        assert {(route, id_): count for route, count in requests.items()} == server.asked
        assert (tmdb.answered, tmdb.breaker.successes, tmdb.breaker.failures) == (1, sum(requests.values()), 0)


@pytest.mark.parametrize(
    ("id_", "kind", "route", "requests"),
    [
        pytest.param(SHOW, "tv", "tv", {"find": 1, "tv": 1}, id="a series"),
        pytest.param(FILM, "movie", "movie", {"movie": 2, "find": 1}, id="a movie"),
        pytest.param(SHOW, "movie", "tv", {"movie": 1, "find": 1, "tv": 1}, id="a series among the movies"),
        pytest.param(FILM, "tv", "movie", {"find": 1, "movie": 1}, id="a movie among the series"),
    ],
)
async def test_a_match_that_tmdb_has_no_record_of_is_missing(
    clock: Clock, id_: str, kind: Kind, route: Any, requests: dict[str, int]
) -> None:
    """`/find` has the title and the route of its kind says 404: TMDB has no such title, but others of this kind."""
    faults = scripted({(route, id_): [always(refusal(404))]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        assert Missing("unknown") == await tmdb.title(id_, kind)
        [other] = server.asked - Counter({(route, id_): count for route, count in requests.items()})
        assert (other[0], server.asked[other]) == (route, 1)


@pytest.mark.parametrize(("id_", "kind", "route"), [(SHOW, "tv", "tv"), (SHOW, "movie", "tv"), (FILM, "tv", "movie")])
async def test_a_route_without_any_record_is_an_outage(clock: Clock, id_: str, kind: Kind, route: Any) -> None:
    """`/find` has the title, and the route of its kind says 404 to all that is asked: nothing is missing by that."""
    async with (
        fake_tmdb(catalog=CATALOG, faults=lambda asked: refusal(404) if asked.route == route else None) as server,
        tmdb_at(server.url, clock) as tmdb,
    ):
        with pytest.raises(TmdbUnavailableError, match="nor what its /find has"):
            await tmdb.title(id_, kind)


@pytest.mark.parametrize("id_", [FILM, BOTH], ids=["a movie", "both"])
async def test_a_movie_that_only_find_knows_is_fetched_by_its_number(clock: Clock, id_: str) -> None:
    """Where `/movie/{tt}` has no answer and `/find` has a movie, its TMDB id is asked for: three requests."""
    faults = scripted({("movie", id_): [refusal(404)]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        assert film(id_) == await tmdb.title(id_, "movie")
        assert server.asked == {("movie", id_): 2, ("find", id_): 1}


# What is sent


async def test_a_v3_key_goes_into_the_query_only(clock: Clock) -> None:
    """TMDB takes the 32 digits as `api_key` and nowhere else."""
    async with raw_server(http()) as (url, heads), tmdb_at(url, clock) as tmdb:
        await tmdb.title(FILM, "movie")
        await tmdb.check_key()
    for head in heads:
        assert parse_qs(urlsplit(head.split()[1]).query)["api_key"] == [KEY]
        assert head.count(KEY) == 1
        assert "authorization" not in head.lower()


async def test_a_v4_token_goes_into_the_header_only(clock: Clock) -> None:
    """TMDB takes the JWT as a bearer and nowhere else."""
    async with raw_server(http()) as (url, heads), tmdb_at(url, clock, key=TOKEN) as tmdb:
        await tmdb.title(FILM, "movie")
        await tmdb.check_key()
    for head in heads:
        assert f"\r\nAuthorization: Bearer {TOKEN}\r\n" in head
        assert head.count(TOKEN) == 1
        assert "api_key" not in head


async def test_the_requests_are_what_tmdb_documents(clock: Clock) -> None:
    """Paths and queries are TMDB's, commas and slashes of appended parts as they are; /find has no use for them."""
    whole = http(body=orjson.dumps({"id": 1396, "credits": {}, "watch/providers": {}}))
    find = http(body=orjson.dumps({"movie_results": [], "tv_results": [{"id": 1396}]}))
    options: Any = {"key": TOKEN, "language": "pt-BR", "append": ("credits", "watch/providers")}
    async with raw_server(whole, find, whole) as (url, heads), tmdb_at(url, clock, **options) as tmdb:
        await tmdb.title(FILM, "movie")
        await tmdb.title(SHOW, "tv")
    parts = "language=pt-BR&append_to_response=credits,watch/providers"
    assert [head.partition(" HTTP/1.1")[0] for head in heads] == [
        f"GET /3/movie/{FILM}?{parts}",
        f"GET /3/find/{SHOW}?external_source=imdb_id",
        f"GET /3/tv/1396?{parts},external_ids",
    ]
    assert re.search(r"\r\nUser-Agent: tmdb-harvester/\d", heads[0])


async def test_a_reclassified_title_is_asked_for_by_its_number_in_its_kind(clock: Clock) -> None:
    """The record of the other kind is asked for as any other: by TMDB's number, with language and parts."""
    absent = http(404, orjson.dumps({"success": False, "status_code": 34}))
    series = http(body=orjson.dumps({"movie_results": [], "tv_results": [{"id": 1396}]}))
    movie = http(body=orjson.dumps({"movie_results": [{"id": 603}], "tv_results": []}))
    show = http(body=orjson.dumps({"id": 1396, "credits": {}}))
    film = http(body=orjson.dumps({"id": 603, "credits": {}}))
    options: Any = {"key": TOKEN, "language": "pt-BR", "append": ("credits",)}
    async with raw_server(absent, series, show, movie, film) as (url, heads), tmdb_at(url, clock, **options) as tmdb:
        assert Found("tv", 1396, {"id": 1396, "credits": {}}) == await tmdb.title(SHOW, "movie")
        assert Found("movie", 603, {"id": 603, "credits": {}}) == await tmdb.title(FILM, "tv")
    parts = "language=pt-BR&append_to_response=credits"
    assert [head.partition(" HTTP/1.1")[0] for head in heads] == [
        f"GET /3/movie/{SHOW}?{parts}",
        f"GET /3/find/{SHOW}?external_source=imdb_id",
        f"GET /3/tv/1396?{parts},external_ids",
        f"GET /3/find/{FILM}?external_source=imdb_id",
        f"GET /3/movie/603?{parts}",
    ]


@pytest.mark.parametrize(("movies", "series"), [("movie", "tv"), ("tv", "movie")], ids=["as filed", "reclassified"])
async def test_language_and_parts_are_asked_for(clock: Clock, movies: Kind, series: Kind) -> None:
    """The record comes in the language asked for, with the parts asked for, under whichever kind it was filed."""
    options: Any = {"language": "pt-BR", "append": ("credits", "watch/providers")}
    async with fake_tmdb(catalog=CATALOG) as server, tmdb_at(server.url, clock, **options) as tmdb:
        assert film(FILM, **options) == await tmdb.title(FILM, movies)
        assert show(SHOW, **options) == await tmdb.title(SHOW, series)


async def test_redirects_are_not_followed(clock: Clock) -> None:
    """A key is not carried to wherever somebody points: a redirect is no usable answer."""
    async with (
        fake_tmdb() as elsewhere,
        raw_server(http(302, b"", Location=f"{elsewhere.url}/authentication?api_key={KEY}")) as (url, _),
        tmdb_at(url, clock) as tmdb,
    ):
        with pytest.raises(TmdbUnavailableError) as caught:
            await tmdb.check_key()
        assert caught.value.reason == "http_302"
        assert elsewhere.asked.total() == 0


@pytest.mark.parametrize(("concurrency", "latency"), [(1, 0.01), (4, 0.1), (20, 3.0)])
async def test_no_more_requests_at_once_than_allowed(clock: Clock, concurrency: int, latency: float) -> None:
    """All the slots are used, and never more, counted by the server."""
    async with (
        fake_tmdb(catalog=CATALOG, latency=(latency, latency)) as server,
        tmdb_at(server.url, clock, concurrency=concurrency) as tmdb,
    ):
        await fan_out(lambda id_: tmdb.title(id_, "movie"), ids(concurrency + 10), at_once=100)
        assert server.busiest == concurrency


async def test_the_next_in_line_begins_when_those_before_have_had_a_slot(clock: Clock) -> None:
    """New titles are begun when all begun before are on their way, and by one after another."""
    inside = 0

    async def begin(tmdb: Tmdb, server: FakeTmdb) -> None:
        nonlocal inside
        async with tmdb.admission():
            inside += 1
            assert inside == 1
            assert server.asked.total() >= 9
            await asyncio.sleep(0)
            inside -= 1

    async with (
        fake_tmdb(catalog=CATALOG, latency=(0.02, 0.02)) as server,
        tmdb_at(server.url, clock, concurrency=2) as tmdb,
    ):
        before = asyncio.ensure_future(fan_out(lambda id_: tmdb.title(id_, "movie"), ids(10), at_once=10))
        while not server.asked:
            await asyncio.sleep(0)
        await fan_out(lambda _: begin(tmdb, server), range(3), at_once=3)
        await before


class Turns:
    """A rate limiter that only counts."""

    rate = 1.0

    def __init__(self) -> None:
        self.turns = self.backoffs = 0

    async def acquire(self) -> float:
        self.turns += 1
        return 0.0

    def back_off(self, retry_after: float | None, *, ticket: float) -> float | None:
        self.backoffs += 1
        return retry_after


@pytest.mark.parametrize("fault", [RESET, RESET_WITHIN, CUT, refusal(500)], ids=["reset", "within", "cut", "500"])
async def test_every_request_has_had_its_turn(clock: Clock, fault: Fault) -> None:
    """The server counts no request that the pace did not: nobody beneath us asks again on its own."""
    script = {("movie", id_): [fault, fault, fault] for id_ in ids(10)}
    limiter = Turns()
    async with (
        fake_tmdb(catalog=CATALOG, faults=scripted(script)) as server,
        tmdb_at(server.url, clock, limiter=limiter) as tmdb,
    ):
        outcome = await fan_out(lambda id_: tmdb.title(id_, "movie"), ids(20), at_once=20)
        assert [film(id_) for id_ in ids(20)] == outcome
        assert server.asked.total() == limiter.turns == tmdb.breaker.successes + tmdb.breaker.failures == 20 + 30


# The pre-flight


@pytest.mark.parametrize("key", [KEY, TOKEN], ids=["v3", "v4"])
async def test_a_good_key_passes_with_one_request(clock: Clock, key: str) -> None:
    """The pre-flight asks `/authentication` once and says nothing."""
    async with fake_tmdb() as server, tmdb_at(server.url, clock, key=key) as tmdb:
        await tmdb.check_key()
        assert server.asked == {("authentication", ""): 1}


@pytest.mark.parametrize("key", ["0" * 32, "eyJ.eyJ.x"], ids=["v3", "v4"])
async def test_a_bad_key_is_refused_with_one_request(clock: Clock, key: str) -> None:
    """A key that TMDB does not know raises at once, with TMDB's status and code."""
    async with fake_tmdb() as server, tmdb_at(server.url, clock, key=key) as tmdb:
        with pytest.raises(TmdbRefusedError) as caught:
            await tmdb.check_key()
        assert (caught.value.status, caught.value.code, server.asked.total()) == (401, 7, 1)


async def test_a_hiccup_at_the_start_is_waited_out(clock: Clock) -> None:
    """The pre-flight asks again, like anything else."""
    faults = scripted({("authentication", ""): [html(503), RESET, refusal(429), EMPTY]})
    async with fake_tmdb(faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        await tmdb.check_key()


async def test_nobody_at_home_is_unavailable(clock: Clock) -> None:
    """Where nobody listens the pre-flight ends with the reason, after all tries."""
    async with tmdb_at(absent_server(), clock) as tmdb:
        with pytest.raises(TmdbUnavailableError) as caught:
            await tmdb.check_key()
        assert (caught.value.reason, tmdb.breaker.failures) == ("connection_refused", TRIES)


@pytest.mark.parametrize("fault", [refusal(404), html(404)], ids=["json", "html"])
async def test_a_404_to_the_pre_flight_is_a_wrong_setting(clock: Clock, fault: Fault) -> None:
    """Where `/authentication` is not found, whoever answers is not TMDB's API: the setting is named."""
    async with (
        fake_tmdb(faults=scripted({("authentication", ""): [always(fault)]})) as server,
        tmdb_at(server.url, clock) as tmdb,
    ):
        with pytest.raises(SettingsError, match="TMDB_BASE_URL"):
            await tmdb.check_key()


async def test_a_base_url_that_lacks_something_is_a_wrong_setting(clock: Clock) -> None:
    """TMDB's own 404 for a path that it does not have says so too."""
    async with fake_tmdb() as server, tmdb_at(server.url.removesuffix("/3") + "/4", clock) as tmdb:
        with pytest.raises(SettingsError, match="/4"):
            await tmdb.check_key()


# Trouble on the first try

TROUBLE: dict[str, tuple[Fault, set[str]]] = {
    "500": (refusal(500), {"http_500"}),
    "502": (refusal(502), {"http_502"}),
    "502-html": (html(502), {"http_502"}),
    "503": (refusal(503), {"http_503"}),
    "503-maintenance": (refusal(503, code=46), {"http_503"}),
    "503-html": (html(503), {"http_503"}),
    "504": (refusal(504), {"http_504"}),
    "403-html": (html(403), {"http_403"}),
    "404-html": (html(404), {"http_404"}),
    "reset": (RESET, {"connection_lost"}),
    "reset-within": (RESET_WITHIN, {"connection_lost", "cut_body"}),
    "cut": (CUT, {"cut_body"}),
    "cut-chunked": (CUT_CHUNKED, {"cut_body"}),
    "empty": (EMPTY, {"empty_body"}),
    "html-200": (html(200), {"bad_body"}),
    "unsuccessful": (UNSUCCESSFUL, {"success_false"}),
    "array": (Fault("answer", 200, b"[]"), {"bad_body"}),
    "no-id": (Fault("answer", 200, b"{}"), {"bad_body"}),
    "too-large": (Fault("answer", 200, b" " * (BODY_LIMIT + 1)), {"too_large"}),
}
REFUSED = {name: fault for name, fault in NAMED.items() if name.startswith("429")}
RECLASSIFIED = [
    pytest.param("movie", "movie", id="a series among the movies, at /movie"),
    pytest.param("movie", "find", id="a series among the movies, at /find"),
    pytest.param("movie", "tv", id="a series among the movies, at /tv"),
    pytest.param("tv", "find", id="a movie among the series, at /find"),
    pytest.param("tv", "movie", id="a movie among the series, at /movie"),
]
"""What the CSV takes a reclassified title for, and the request that goes wrong."""

HARMLESS = {
    "mislabelled": MISLABELLED,
    "hidden-gzip": HIDDEN_GZIP,
    "slow-drip": drip(seconds=0.001, size=256),
    "late": silence(0.05),
}


@pytest.mark.parametrize("route", ["movie", "find", "tv"])
async def test_trouble_on_the_first_try_costs_one_more_request(clock: Clock, route: Any) -> None:
    """Whatever goes wrong once, on whichever of the three routes, the title is found with exactly one more request."""
    faults = {name: fault for name, (fault, _) in TROUBLE.items()} | REFUSED
    wanted = dict(zip(faults, ids(len(faults), first=2 * 10**6), strict=True))
    kind: Kind = "movie" if route == "movie" else "tv"
    truth = film if route == "movie" else show
    script = {(route, wanted[name]): [fault] for name, fault in faults.items()}
    async with fake_tmdb(catalog=CATALOG, faults=scripted(script)) as server, tmdb_at(server.url, clock) as tmdb:
        for name, id_ in wanted.items():
            assert truth(id_) == await tmdb.title(id_, kind), name
        for asked in ("movie",) if route == "movie" else ("find", "tv"):
            expected = dict.fromkeys(faults, 2 if asked == route else 1)
            assert expected == {name: server.asked[asked, id_] for name, id_ in wanted.items()}  # type: ignore[index]
        assert tmdb.breaker.failures == len(faults)


@pytest.mark.parametrize(("kind", "route"), RECLASSIFIED)
async def test_trouble_on_one_request_of_a_reclassified_title_costs_one_more(
    clock: Clock, kind: Kind, route: Any
) -> None:
    """Whatever goes wrong once, on whichever of its requests, it is found as what it is with exactly one more."""
    faults = {name: fault for name, (fault, _) in TROUBLE.items()} | REFUSED
    wanted = dict(zip(faults, ids(len(faults), first=2 * 10**6), strict=True))
    other: Kind = "tv" if kind == "movie" else "movie"
    catalog = Catalog(dict.fromkeys(wanted.values(), other))
    record_of = {"movie": movie_record, "tv": tv_record}[other]
    script = {(route, wanted[name]): [fault] for name, fault in faults.items()}
    async with fake_tmdb(catalog=catalog, faults=scripted(script)) as server, tmdb_at(server.url, clock) as tmdb:
        for name, id_ in wanted.items():
            truth = Found(other, tmdb_id(other, id_), orjson.loads(orjson.dumps(record_of(catalog, id_))))
            assert truth == await tmdb.title(id_, kind), name
        routes = ["movie", "find", "tv"] if kind == "movie" else ["find", "movie"]
        assert {(asked, id_): 2 if asked == route else 1 for asked in routes for id_ in wanted.values()} == server.asked
        assert tmdb.breaker.failures == len(faults)


async def test_silence_on_the_first_try_costs_one_more_request(clock: Clock) -> None:
    """A server that says nothing is left after a while, and asked again."""
    faults = scripted({("movie", FILM): [silence(60)]})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults) as server,
        impatient_tmdb_at(server.url, clock, seconds=0.15) as tmdb,
    ):
        assert film(FILM) == await tmdb.title(FILM, "movie")
        assert server.asked == {("movie", FILM): 2}


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_merely_odd_is_fine_at_once(clock: Clock, name: str) -> None:
    """A wrong content type, gzip that no header told of, and slowness cost no second request."""
    faults = scripted({("movie", FILM): [always(HARMLESS[name])]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        assert film(FILM) == await tmdb.title(FILM, "movie")
        assert server.asked == {("movie", FILM): 1}


@pytest.mark.parametrize(
    "date",
    ["garbage", "", "Mon, 99 Nov 2026 10:00:00 GMT", f"22 Nov {'9' * 30} 10:00:00 GMT", "Sun, 22 Nov 2026 10:00"],
)
async def test_a_strange_date_header_harms_nobody(clock: Clock, date: str) -> None:
    """A proxy may write what it likes into `Date`: the title is found."""
    async with raw_server(http(Date=date)) as (url, _), tmdb_at(url, clock) as tmdb:
        assert Found("movie", 603, {"id": 603}) == await tmdb.title(FILM, "movie")


@pytest.mark.parametrize("headers", [{"Content_Encoding": "gzip"}, {}], ids=["as its headers say", "unsaid"])
async def test_a_key_that_comes_back_in_gzip_is_struck_out(clock: Clock, headers: dict[str, str]) -> None:
    """A server that repeats what it was asked, in gzip, does not land the key with a record."""
    body = gzip_of(orjson.dumps({"id": 603, "title": f"?api_key={KEY}"}))
    async with raw_server(http(200, body, **headers)) as (url, _), tmdb_at(url, clock) as tmdb:
        outcome = await tmdb.title("tt0000001", "movie")
        assert outcome == Found("movie", 603, {"id": 603, "title": f"?api_key={REDACTED}"})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", "connection_lost", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "bad_http", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "bad_http", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "bad_http", id="an endless header"),
        pytest.param(http(200, b"not gzip", Content_Encoding="gzip"), "cut_body", id="gzip in name only"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_http", id="no chunk"),
        pytest.param(http(200)[:-3], "cut_body", id="cut short"),
    ],
)
async def test_what_is_no_http_is_asked_again(clock: Clock, answer: bytes, reason: str) -> None:
    """Whatever bytes come, they are a reason to ask again, and never a crash."""
    async with raw_server(answer) as (url, _), tmdb_at(url, clock) as tmdb:
        with pytest.raises(TmdbUnavailableError) as caught:
            await tmdb.check_key()
        assert caught.value.reason == reason


# Trouble on every try


async def neighbours_and(tmdb: Tmdb, id_: str, kind: Kind = "movie") -> Any:
    """What becomes of `id_` while others are asked for all the time, three at once, who must all be found."""
    outcome = asyncio.ensure_future(tmdb.title(id_, kind))

    async def neighbour(number: int) -> None:
        assert isinstance(await tmdb.title(f"tt{number:07}", "movie"), Found)

    await fan_out(neighbour, itertools.takewhile(lambda _: not outcome.done(), itertools.count(10_000)), at_once=3)
    return await outcome


async def test_trouble_on_every_try_fails_the_title_alone(clock: Clock) -> None:
    """A title that always goes wrong is `Failed` after six tries, for the right reason; its neighbours are found."""
    wanted = dict(zip(TROUBLE, ids(len(TROUBLE), first=2 * 10**6), strict=True))
    faults = scripted({("movie", wanted[name]): [always(fault)] for name, (fault, _) in TROUBLE.items()})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        for name, (_, reasons) in TROUBLE.items():
            failed = await neighbours_and(tmdb, wanted[name])
            assert isinstance(failed, Failed), name
            assert failed.reason in reasons, name
            assert server.asked["movie", wanted[name]] == TRIES, name
            assert server.asked["find", wanted[name]] == 0, name


@pytest.mark.parametrize("name", ["429", "429-bare", "429-absurd"])
async def test_a_title_refused_on_every_try_fails_in_the_end(clock: Clock, name: str) -> None:
    """429s are the pace's trouble, but twenty of them for one title, with others answered, are enough."""
    faults = scripted({("movie", FILM): [always(REFUSED[name])]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        assert Failed("http_429") == await neighbours_and(tmdb, FILM)
        assert server.asked["movie", FILM] == REFUSALS


@pytest.mark.parametrize(("kind", "other"), [("movie", "tv"), ("tv", "movie")], ids=["a series", "a movie"])
async def test_trouble_with_its_record_on_every_try_fails_a_reclassified_title_alone(
    clock: Clock, kind: Kind, other: Kind
) -> None:
    """`/find` knows it, its record always goes wrong: `Failed` after six tries, not missing; neighbours are found."""
    trouble = {name: TROUBLE[name] for name in ("500", "404-html", "reset", "cut", "empty", "unsuccessful", "no-id")}
    wanted = dict(zip(trouble, ids(len(trouble), first=2 * 10**6), strict=True))
    catalog = Catalog(dict.fromkeys(wanted.values(), other), otherwise="both")
    faults = scripted({(other, wanted[name]): [always(fault)] for name, (fault, _) in trouble.items()})
    before = {"movie": 1, "find": 1} if kind == "movie" else {"find": 1}
    async with fake_tmdb(catalog=catalog, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        for name, (_, reasons) in trouble.items():
            failed = await neighbours_and(tmdb, wanted[name], kind)
            assert isinstance(failed, Failed), name
            assert failed.reason in reasons, name
            asked = {route: count for (route, id_), count in server.asked.items() if id_ == wanted[name]}
            assert asked == before | {other: TRIES}, name


@pytest.mark.parametrize(("id_", "kind", "route"), [(SHOW, "movie", "tv"), (FILM, "tv", "movie")])
async def test_a_reclassified_title_refused_on_every_try_fails_in_the_end(
    clock: Clock, id_: str, kind: Kind, route: Any
) -> None:
    """429s for its record alone, twenty of them, fail the title, as they fail any other."""
    faults = scripted({(route, id_): [always(REFUSED["429"])]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        assert Failed("http_429") == await neighbours_and(tmdb, id_, kind)
        assert server.asked[route, id_] == REFUSALS


async def test_silence_on_every_try_fails_the_title_alone(clock: Clock) -> None:
    """A title that TMDB has no word for fails as `timeout`."""
    faults = scripted({("movie", FILM): [always(silence(60))]})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults) as server,
        impatient_tmdb_at(server.url, clock, seconds=0.15) as tmdb,
    ):
        assert Failed("timeout") == await neighbours_and(tmdb, FILM)
        assert server.asked["movie", FILM] == TRIES


async def test_a_title_alone_fails_only_after_tmdb_was_seen_to_answer(clock: Clock) -> None:
    """Without neighbours to compare with, the cheapest request tells a title's own trouble from an outage."""
    faults = scripted({("movie", FILM): [always(refusal(500))]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        assert Failed("http_500") == await tmdb.title(FILM, "movie")
        assert server.asked["authentication", ""] == 1
        assert TRIES <= server.asked["movie", FILM] <= TRIES + 1


@pytest.mark.parametrize(
    ("id_", "kind", "routes"),
    [
        pytest.param(SHOW, "tv", ["find", "tv"], id="a series"),
        pytest.param(SHOW, "movie", ["movie", "find", "tv"], id="a series among the movies"),
        pytest.param(FILM, "tv", ["find", "movie"], id="a movie among the series"),
    ],
)
async def test_a_title_fails_on_any_of_its_requests(clock: Clock, id_: str, kind: Kind, routes: list[Any]) -> None:
    """Trouble at `/find` is never taken for an id that TMDB does not know, and nothing is asked for after trouble."""
    for place, route in enumerate(routes, 1):
        faults = scripted({(route, id_): [always(html(502))]})
        async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
            assert Failed("http_502") == await tmdb.title(id_, kind)
            assert {asked for asked, _ in server.asked} - {"authentication"} == set(routes[:place])
            assert tmdb.answered == 0


async def test_waits_grow_and_have_an_end(clock: Clock) -> None:
    """The six tries of a title are spread over seconds, never over minutes."""
    waits: list[float] = []
    faults = scripted({("movie", FILM): [always(refusal(500))]})
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock) as tmdb:
        for _ in range(20):
            start = clock.now
            await tmdb.title(FILM, "movie")
            waits.append(clock.now - start)
    assert 3.0 < sum(waits) / len(waits) < 13.0  # 0.25 + 0.5 + 1 + 2 + 4 = 7.75
    assert max(waits) < 16.0


# 429


async def test_a_429_holds_everybody_and_is_no_try_of_the_title(clock: Clock) -> None:
    """Nobody at all is asked for while held, and a title refused more often than it has tries is still found."""
    held = TRIES + 2
    faults = scripted({("movie", FILM): [refusal(429, retry_after="7")] * held})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults, clock=clock.time) as server,
        tmdb_at(server.url, clock, limiter=RateLimiter(40, clock=clock.time, sleep=clock.sleep)) as tmdb,
    ):
        outcome = await fan_out(lambda id_: tmdb.title(id_, "movie"), [FILM, *ids(60)], at_once=61)
        assert [film(id_) for id_ in [FILM, *ids(60)]] == outcome
        assert server.asked["movie", FILM] == held + 1
        arrivals = sorted(server.arrivals)
        gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
        assert sum(gap >= 6.99 for gap in gaps) == held


async def test_a_limit_below_our_rate_costs_time_and_no_title(clock: Clock) -> None:
    """Against a strict limit of half our rate all are found, and the limit is never passed."""
    async with (
        fake_tmdb(catalog=CATALOG, per_second=20, clock=clock.time) as server,
        tmdb_at(server.url, clock, limiter=RateLimiter(40, clock=clock.time, sleep=clock.sleep)) as tmdb,
    ):
        outcome = await fan_out(lambda id_: tmdb.title(id_, "movie"), ids(300), at_once=100)
        assert [film(id_) for id_ in ids(300)] == outcome
        assert server.peak <= 20
        assert 0 < server.refused < 40
        assert tmdb.limiter.rate < 25


# Appended parts


async def titles(tmdb: Tmdb, wanted: Sequence[str]) -> list[Any]:
    return [await tmdb.title(id_, "movie") for id_ in wanted]


async def test_a_part_left_out_once_is_there_the_second_time(clock: Clock) -> None:
    """A record without a part that was asked for is asked for again."""
    faults = scripted({("movie", FILM): [PART_MISSING]})
    options: Any = {"append": ("credits", "keywords")}
    async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock, **options) as tmdb:
        assert film(FILM, **options) == await tmdb.title(FILM, "movie")
        assert server.asked == {("movie", FILM): 2}


async def test_a_part_left_out_every_time_is_recorded_as_missing(clock: Clock) -> None:
    """After three requests in all the title is taken as it is, and says which part it lacks."""
    faults = scripted({("movie", FILM): [always(PART_MISSING)]})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults) as server,
        tmdb_at(server.url, clock, append=("credits", "keywords")) as tmdb,
    ):
        expected = film(FILM, append=("keywords",))
        assert Found("movie", expected.tmdb_id, expected.record, ("credits",)) == await tmdb.title(FILM, "movie")
        assert server.asked == {("movie", FILM): PART_TRIES}


@pytest.mark.parametrize("then", [refusal(500), RESET, refusal(429, retry_after="1")], ids=["500", "reset", "429"])
async def test_a_title_once_had_is_not_lost_for_the_sake_of_a_part(clock: Clock, then: Fault) -> None:
    """A record with a part missing is better than none: trouble on asking again does not fail the title."""
    faults = scripted({("movie", FILM): [PART_MISSING, always(then)]})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults) as server,
        tmdb_at(server.url, clock, append=("credits", "keywords")) as tmdb,
    ):
        expected = film(FILM, append=("keywords",))
        assert Found("movie", expected.tmdb_id, expected.record, ("credits",)) == await tmdb.title(FILM, "movie")


async def test_a_part_that_tmdb_does_not_have_soon_costs_nothing(clock: Clock) -> None:
    """After twenty titles without it, a part nobody had is not asked for again; one that others had still is."""
    before, after = ids(PART_SAMPLE), ids(10, first=100)
    faults = scripted({("movie", after[3]): [PART_MISSING]})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults) as server,
        tmdb_at(server.url, clock, append=("credits", "nonsense")) as tmdb,
    ):
        outcome = await titles(tmdb, before)
        assert server.asked.total() == PART_SAMPLE * PART_TRIES
        outcome += await titles(tmdb, after)
        assert server.asked.total() == PART_SAMPLE * PART_TRIES + len(after) + 1
        assert {found.missing_parts for found in outcome} == {("nonsense",)}


async def test_what_was_learned_of_movies_is_not_held_against_series(clock: Clock) -> None:
    """Movies have no `content_ratings` and series do: each kind is learned by itself."""
    faults = scripted({("tv", SHOW): [PART_MISSING]})
    async with (
        fake_tmdb(catalog=CATALOG, faults=faults) as server,
        tmdb_at(server.url, clock, append=("content_ratings",)) as tmdb,
    ):
        await titles(tmdb, ids(PART_SAMPLE + 1))
        assert show(SHOW, append=("content_ratings",)) == await tmdb.title(SHOW, "tv")


@pytest.mark.parametrize(("id_", "kind"), [(SHOW, "movie"), (FILM, "tv")], ids=["a series", "a movie"])
async def test_a_part_left_out_of_a_reclassified_title_is_asked_for_again(clock: Clock, id_: str, kind: Kind) -> None:
    """Only the record is asked for again; after three tries the title is taken as it is."""
    route: Any = "tv" if kind == "movie" else "movie"
    truth = show if kind == "movie" else film
    options: Any = {"append": ("credits", "keywords")}
    for tries, expected in (
        ([PART_MISSING], truth(id_, **options)),
        ([always(PART_MISSING)], replace(truth(id_, append=("keywords",)), missing_parts=("credits",))),
    ):
        faults = scripted({(route, id_): tries})
        async with fake_tmdb(catalog=CATALOG, faults=faults) as server, tmdb_at(server.url, clock, **options) as tmdb:
            assert expected == await tmdb.title(id_, kind)
            first = {("movie", id_): 1, ("find", id_): 1} if kind == "movie" else {("find", id_): 1}
            assert server.asked == first | {(route, id_): PART_TRIES if expected.missing_parts else 2}


@pytest.mark.parametrize(
    ("kind", "other", "part"),
    [("movie", "tv", "content_ratings"), ("tv", "movie", "release_dates")],
    ids=["series among the movies", "movies among the series"],
)
async def test_parts_are_learned_for_the_kind_that_a_title_really_is(
    clock: Clock, kind: Kind, other: Kind, part: str
) -> None:
    """Only the `other` kind has the part: what reclassified titles teach counts for it, and not for the CSV's kind."""
    strays, later, own = ids(PART_SAMPLE), f"tt{500:07}", f"tt{600:07}"
    catalog = Catalog(dict.fromkeys([*strays, later], other), otherwise=kind)
    faults = scripted({(other, later): [PART_MISSING]})
    async with (
        fake_tmdb(catalog=catalog, faults=faults) as server,
        tmdb_at(server.url, clock, append=(part, "nonsense")) as tmdb,
    ):
        assert {("nonsense",)} == {(await tmdb.title(id_, kind)).missing_parts for id_ in strays}
        assert sum(server.asked[other, id_] for id_ in strays) == PART_SAMPLE * PART_TRIES
        assert (await tmdb.title(later, kind)).missing_parts == ("nonsense",)
        assert server.asked[other, later] == 2  # for the part that the kind is known to have, and no more
        assert (await tmdb.title(own, kind)).missing_parts == (part, "nonsense")
        assert server.asked[kind, own] == PART_TRIES  # of the CSV's own kind nothing is known yet


# The run's trouble


async def test_a_key_revoked_on_the_way_ends_the_run(clock: Clock) -> None:
    """The first 401 comes out itself, and nobody asks again."""
    async with fake_tmdb(catalog=CATALOG) as server, tmdb_at(server.url, clock, concurrency=5) as tmdb:
        await titles(tmdb, ids(3))
        server.revoked = True
        with pytest.raises(TmdbRefusedError) as caught:
            await fan_out(lambda id_: tmdb.title(id_, "movie"), ids(100, first=10), at_once=100)
        assert caught.value.code == 7
        assert server.asked.total() <= 3 + 2 * 5


@pytest.mark.parametrize("outage", [html(503), RESET], ids=["503", "reset"])
async def test_an_outage_fails_no_title(clock: Clock, outage: Fault) -> None:
    """When nobody is answered the run stops within two minutes, and no title is failed by it."""
    seen: list[Any] = []
    async with fake_tmdb(catalog=CATALOG, outage=outage) as server, impatient_tmdb_at(server.url, clock) as tmdb:

        async def one(id_: str) -> None:
            seen.append(await tmdb.title(id_, "movie"))
            server.down = len(seen) >= 50

        start = clock.now
        with pytest.raises(TmdbUnavailableError):
            await fan_out(one, ids(1000), at_once=20)
        assert {type(each) for each in seen} == {Found}
        assert clock.now - start < 120


# Outages in virtual time, where requests take as long as they take


def in_virtual_time(story: Coroutine[Any, Any, None]) -> None:
    random.seed(1)  # of the waits
    run_on(Leaping(look=0.0), story)


class Line:
    """A session without a net: a request takes `seconds`, then `meets` gives its answer, or its error.

    `meets` is called with the time and the URL.
    """

    def __init__(self, meets: Callable[[float, Any], aiohttp.ClientError | TimeoutError | tuple[int, bytes]]) -> None:
        self.meets = meets
        self.seconds = 0.2
        self.slow = 0.2  # seconds before an error or an answer other than 200
        self.asked = 0

    @asynccontextmanager
    async def get(self, url: Any, **_: Any) -> AsyncIterator[Any]:
        self.asked += 1
        loop = asyncio.get_running_loop()
        result = self.meets(loop.time(), url)
        good = isinstance(result, tuple) and result[0] == 200
        await asyncio.sleep(self.seconds if good else self.slow)
        if isinstance(result, Exception):
            raise result
        yield Response(*result)


class Response:
    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.blocks = status, [body, b""]
        self.headers: dict[str, str] = {}
        self.content = self

    async def readany(self) -> bytes:
        return self.blocks.pop(0)


GOOD = 200, b'{"id":603}'
ABSENT = 404, b'{"success":false,"status_code":34}'
DOWN: dict[str, tuple[Any, float]] = {
    "503 at once": ((503, b"<html>"), 0.05),
    "429 at once": ((429, b""), 0.05),
    "silence": (TimeoutError(), 15.0),
}


def tmdb_on(line: Line, *, ceiling: float = 40.0) -> Tmdb:
    loop = asyncio.get_running_loop()
    return Tmdb(
        session=line,  # type: ignore[arg-type]
        base_url="http://tmdb.test/3",
        key=KEY,
        language=None,
        append=(),
        limiter=RateLimiter(ceiling, clock=loop.time),
        concurrency=20,
        clock=loop.time,
    )


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize(("at_once", "seconds"), [(1, 900), (2, 600), (20, 120), (300, 120)])
def test_an_outage_is_noticed_however_few_are_asked_for(down: str, at_once: int, seconds: float) -> None:
    """TMDB down in whatever way, the run stops: within two minutes at full speed, and surely with one title left."""

    async def story() -> None:
        trouble, slow = DOWN[down]
        line = Line(lambda *_: trouble)
        line.slow = slow
        tmdb = tmdb_on(line)
        failed: list[Any] = []

        async def one(id_: str) -> None:
            failed.append(await tmdb.title(id_, "movie"))

        with pytest.raises(TmdbUnavailableError):
            async with asyncio.timeout(seconds):
                await fan_out(one, ids(at_once), at_once=at_once)
        assert failed == []

    in_virtual_time(story())


@pytest.mark.parametrize("down", DOWN)
@pytest.mark.parametrize("lasts", [20, 40, 3600])
def test_titles_do_not_fail_by_an_outage_however_long(down: str, lasts: float) -> None:
    """In the middle of a run TMDB goes away, for seconds or an hour: titles wait, or the run stops; none is failed."""

    async def story() -> None:
        trouble, slow = DOWN[down]
        line = Line(lambda now, _: trouble if 10 <= now < 10 + lasts else GOOD)
        line.slow = slow
        tmdb = tmdb_on(line)
        seen: list[Any] = []

        async def one(id_: str) -> None:
            seen.append(await tmdb.title(id_, "movie"))

        with suppress(TmdbUnavailableError):
            async with asyncio.timeout(lasts + 600):
                await fan_out(one, ids(1_000), at_once=300)
            assert lasts < 120
        assert [each for each in seen if isinstance(each, Failed)] == []

    in_virtual_time(story())


@pytest.mark.parametrize(("kind", "other"), [("movie", "tv"), ("tv", "movie")])
@pytest.mark.parametrize("at_once", [20, 300])
def test_an_outage_of_one_route_fails_no_reclassified_title(kind: Kind, other: Kind, at_once: int) -> None:
    """Where `/find` answers all and the other kind's route none, the run stops: no title is failed or missing."""
    found = orjson.dumps({"movie_results": [], "tv_results": []} | {f"{other}_results": [{"id": 7}]})
    answers = {"authentication": (200, b"{}"), "find": (200, found), kind: ABSENT, other: (503, b"")}

    async def story() -> None:
        line = Line(lambda _, url: answers[urlsplit(str(url)).path.split("/")[2]])
        tmdb = tmdb_on(line)
        ended: list[Any] = []

        async def one(id_: str) -> None:
            ended.append(await tmdb.title(id_, kind))

        with pytest.raises(TmdbUnavailableError):
            async with asyncio.timeout(600):
                await fan_out(one, ids(1_000), at_once=at_once)
        assert ended == []

    in_virtual_time(story())


def test_trouble_of_a_few_is_no_outage() -> None:
    """With half of all requests failing for a minute and more the run goes on, and most titles are found."""

    async def story() -> None:
        requests = itertools.count()
        tmdb = tmdb_on(Line(lambda *_: GOOD if next(requests) % 2 else (503, b"")))
        outcome = await fan_out(lambda id_: tmdb.title(id_, "movie"), ids(2_000), at_once=100)
        assert sum(isinstance(each, Found) for each in outcome) > 1_900

    in_virtual_time(story())


# Secrets


@pytest.mark.parametrize("key", [KEY, TOKEN], ids=["v3", "v4"])
async def test_no_secret_in_any_error_or_log_line(clock: Clock, caplog: pytest.LogCaptureFixture, key: str) -> None:
    """Neither key nor token stands in any error's text, representation or traceback, nor in any log line."""
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    small = [fault for fault, _ in TROUBLE.values() if len(fault.body) < 1_000]
    script = {("movie", id_): [always(fault)] for id_, fault in zip(ids(99), small, strict=False)}

    async def provoke(url: str, ask: Callable[[Tmdb], Any]) -> None:
        for make in (tmdb_at, impatient_tmdb_at):
            async with make(url, clock, key=key) as tmdb:
                try:
                    await ask(tmdb)
                except HarvestError as error:
                    errors.append(error)

    with capture_logs() as logs:
        async with fake_tmdb(catalog=CATALOG, faults=scripted(script)) as server:
            async with tmdb_at(server.url, clock, key=key) as tmdb:
                outcome = await fan_out(lambda id_: tmdb.title(id_, "movie"), ids(len(script) + 10), at_once=50)
                assert sum(isinstance(each, Failed) for each in outcome) == len(script)
            await provoke(server.url + "/nowhere", Tmdb.check_key)
            server.revoked = True
            await provoke(server.url, Tmdb.check_key)
            server.revoked, server.down = False, True
            for server.outage in (html(503), RESET, refusal(429), Fault("answer", 301), EMPTY):
                await provoke(server.url, Tmdb.check_key)
            async with impatient_tmdb_at(server.url, clock, key=key) as tmdb:
                with pytest.raises(TmdbUnavailableError) as caught:
                    await tmdb.title(FILM, "movie")
                errors.append(caught.value)
        await provoke(absent_server(), Tmdb.check_key)
        async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n") as (url, _):
            await provoke(url, Tmdb.check_key)
    assert len(errors) == 2 * 9 + 1
    assert {"title_failed", "back_off"} <= {line["event"] for line in logs}
    seen = [f"{error} {error!r} {''.join(traceback.format_exception(error))}" for error in errors]
    seen += [repr(logs), caplog.text, *(repr(record.__dict__) for record in caplog.records)]
    assert [text for text in seen if key in text] == []
