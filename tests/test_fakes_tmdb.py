"""The stand-in TMDB: what it knows, how it misbehaves, and that it is as strict as the real one."""

from __future__ import annotations

import asyncio
import gzip
import json
import statistics
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
from loops import Leaping, run_on

from harvester.fakes.catalog import Catalog, catalog_of, find_record, kind_of, movie_record, tv_record
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
    Asked,
    Fault,
    always,
    big,
    drip,
    html,
    parse_shares,
    random_faults,
    refusal,
    scripted,
    silence,
)
from harvester.fakes.records import MOVIE_PARTS, TV_PARTS, imdb_id, share, tmdb_id
from harvester.fakes.tmdb import KEY, TOKEN, FakeTmdb, fake_tmdb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAYLOADS = Path(__file__).parents[2] / "shared/tmdb_payloads"
IDS = [f"tt{number:07}" for number in range(1, 401)]
MOVIE = "/movie/tt0000009"
recorded = pytest.mark.skipif(not PAYLOADS.is_dir(), reason=f"the recorded answers are not at {PAYLOADS}")


def movies(**options: Any) -> list[dict[str, Any]]:
    return [record for tt in IDS if (record := movie_record(Catalog(), tt, **options)) is not None]


def series(**options: Any) -> list[dict[str, Any]]:
    return [record for tt in IDS if (record := tv_record(Catalog(otherwise="tv"), tt, **options)) is not None]


def payload(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((PAYLOADS / name).read_bytes())
    return loaded


def test_chance_is_the_same_in_every_process() -> None:
    """The catalog's chance is a hash with a fixed outcome, not Python's salted one."""
    assert [round(share("kind", tt), 6) for tt in IDS[:3]] == [0.865812, 0.089765, 0.206471]


def test_the_same_question_has_the_same_answer() -> None:
    """A record asked for twice is the same to the byte."""
    assert orjson.dumps(movies(append=["credits"])[:20]) == orjson.dumps(movies(append=["credits"])[:20])


@pytest.mark.parametrize("kind", ["movie", "tv", "episode", "season"])
def test_a_tmdb_number_leads_back_to_its_imdb_id(kind: str) -> None:
    """TMDB's numbers follow from the IMDb ids and can be undone, so that the server keeps no list of them."""
    ids = [*IDS, "tt0137523", "tt10000000", "tt99999999"]
    assert [imdb_id(kind, tmdb_id(kind, tt)) for tt in ids] == ids


def test_a_number_of_one_kind_is_none_of_another() -> None:
    """Neither the IMDb number nor another kind's number passes for the TMDB id of a title."""
    numbers = {9, *(tmdb_id(kind, "tt0000009") for kind in ("movie", "tv", "episode", "season"))}
    assert len(numbers) == 5


def test_what_is_given_goes_before_what_is_drawn() -> None:
    """`kinds` is certain: `otherwise` and the share of missing ids concern the other ids alone."""
    catalog = Catalog({"tt0000001": "tv", "tt0000002": "movie"}, otherwise="season", missing=1.0)
    assert [kind_of(catalog, tt) for tt in IDS[:3]] == ["tv", "movie", "unknown"]


def test_left_alone_the_hash_makes_every_kind() -> None:
    """Without a rule the ids are a mixture of everything TMDB can answer."""
    assert {kind_of(Catalog(otherwise=None), tt) for tt in IDS} == {
        "movie",
        "tv",
        "episode",
        "season",
        "both",
        "unknown",
    }


def test_a_catalog_of_lists_knows_those_lists_but_a_share() -> None:
    """Movies are movies, series are series, what is on both is both, the rest and the missing share are unknown."""
    titles = {tt: (f"Title {tt}", "1994") for tt in IDS}
    series = {"tt0000007": ("Seven", "2001"), "tt9000000": ("Nine", "2002")}
    catalog = catalog_of(titles, series, missing=0.0)
    assert [kind_of(catalog, tt) for tt in ("tt0000006", *series, "tt8000000")] == ["movie", "both", "tv", "unknown"]
    kinds = [kind_of(catalog_of(titles, series, missing=0.1), tt) for tt in IDS]
    assert 0.05 < kinds.count("unknown") / len(kinds) < 0.15


def test_titles_and_years_of_the_csv_are_shown() -> None:
    """A title that the CSV names is shown by its name and its year; a year that is none makes an empty date."""
    catalog = Catalog({"tt0000002": "tv"}, titles={"tt0000001": ("Carmencita", "1894"), "tt0000002": ("Clown", "\\N")})
    movie, show = movie_record(catalog, "tt0000001"), tv_record(catalog, "tt0000002")
    assert movie is not None
    assert show is not None
    assert (movie["title"], movie["release_date"][:4]) == ("Carmencita", "1894")
    assert (show["name"], show["first_air_date"]) == ("Clown", "")


def test_records_are_as_large_as_recorded_ones() -> None:
    """Movies take 0.5 to 2.3 KB and about 1.4, series 1.1 to 25 KB and about 3.9."""
    films, shows = ([len(orjson.dumps(record)) for record in records] for records in (movies(), series()))
    assert (min(films) > 500, 1200 < statistics.median(films) < 1700, max(films) < 2500) == (True, True, True)
    assert (min(shows) > 1100, 3300 < statistics.median(shows) < 4600, max(shows) < 25_000) == (True, True, True)


def test_the_texts_are_awkward() -> None:
    """What breaks careless code is there: quotes, backslashes, U+2028, accents, emoji, nulls, empty dates, floats."""
    films = movies()
    text = "".join(film["overview"] + film["title"] for film in films)
    assert [sign for sign in '"\\\u2028ã🌧🌙' if sign not in text] == []
    assert {None, *IDS} >= {film["imdb_id"] for film in films} > {None}
    assert "" in {film["release_date"] for film in films}
    assert None in {film["poster_path"] for film in films}
    assert max(len(repr(film["popularity"])) for film in films) >= 17


def test_a_language_changes_the_words_and_nothing_else() -> None:
    """Languages differ in their texts, down to those we do not speak, and in no number, date or length of a list."""
    plain, portuguese, japanese, italian = (
        movie_record(Catalog(), "tt0000003", language=language) for language in (None, "pt-BR", "ja", "it-IT")
    )
    assert plain is not None
    assert portuguese is not None
    assert japanese is not None
    assert italian is not None
    assert len({record["overview"] for record in (plain, portuguese, japanese, italian)}) == 4
    numbers = ("id", "budget", "popularity", "release_date", "vote_count")
    assert [portuguese[key] for key in numbers] == [plain[key] for key in numbers]


def test_records_can_be_padded() -> None:
    """`record_bytes` makes every record about so long, and still one JSON object."""
    padded = movie_record(Catalog(record_bytes=50_000), "tt0000001")
    assert 50_000 <= len(orjson.dumps(padded)) < 50_100


@pytest.mark.parametrize(("kind", "parts"), [("movie", MOVIE_PARTS), ("tv", TV_PARTS)])
def test_every_documented_part_can_be_appended(kind: str, parts: dict[str, Any]) -> None:
    """Parts come in the order asked, named to the letter, after TMDB's own keys; an unknown one does not."""
    record_of = movie_record if kind == "movie" else tv_record
    catalog = Catalog(otherwise="movie" if kind == "movie" else "tv")
    plain, whole = record_of(catalog, "tt0000001"), record_of(catalog, "tt0000001", append=["no-such-part", *parts])
    assert plain is not None
    assert whole is not None
    assert list(whole) == [*plain, *parts]
    assert "watch/providers" in whole
    assert [part for part in parts if whole[part] in ({}, [])] == []


@pytest.mark.parametrize(
    ("kind", "filled"),
    [
        ("movie", {"movie_results"}),
        ("tv", {"tv_results"}),
        ("both", {"movie_results", "tv_results"}),
        ("episode", {"tv_episode_results"}),
        ("season", {"tv_season_results"}),
        ("unknown", set()),
    ],
)
def test_find_fills_the_arrays_of_the_kind(kind: Any, filled: set[str]) -> None:
    """Of /find's five arrays those fill that fit what the id is; an unknown id leaves all five empty."""
    found = find_record(Catalog(otherwise=kind), "tt0000009")
    assert len(found) == 5
    assert {array for array, rows in found.items() if rows} == filled


def test_an_episode_and_a_season_name_their_show() -> None:
    """What is only part of a series says of which one, by TMDB's number."""
    for kind, array in (("episode", "tv_episode_results"), ("season", "tv_season_results")):
        row = find_record(Catalog({"tt0000009": kind}), "tt0000009")[array][0]  # type: ignore[dict-item]
        assert row["show_id"] == tmdb_id("tv", "tt0000008")


@recorded
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("movie/tmdblib_tt1345836_append_to_response_credits_images_keywords.json", ["credits", "images", "keywords"]),
        ("movie/tmdblib_47964_language_it.json", []),
        ("tv/tmdblib_1400_append_to_response_episode_groups.json", ["episode_groups"]),
    ],
)
def test_records_have_the_keys_of_the_newest_recorded_ones(name: str, parts: list[str]) -> None:
    """A record of ours has the same keys as TMDB's newest, at the top and in the first row of each list."""
    theirs = payload(name)
    ours = (movies if name.startswith("movie") else series)(append=parts)
    assert {tuple(record) for record in ours} == {tuple(theirs)}
    for key, value in theirs.items():
        for row in value[:1] if isinstance(value, list) else [value]:
            if isinstance(row, dict):
                same = [record[key] for record in ours if record[key]]
                assert set(same[0][0] if isinstance(value, list) else same[0]) == set(row), key


@recorded
@pytest.mark.parametrize(
    ("name", "array", "kind"),
    [
        ("find/tmdblib_tt0088247_external_source_imdb_id.json", "movie_results", "movie"),
        ("find/tmdblib_81189_external_source_tvdb_id.json", "tv_results", "tv"),
        ("find/tmdblib_tt0959621_external_source_imdb_id.json", "tv_episode_results", "episode"),
        ("find/tmdblib_30272_external_source_tvdb_id.json", "tv_season_results", "season"),
    ],
)
def test_find_has_the_keys_of_the_recorded_ones(name: str, array: str, kind: Any) -> None:
    """The arrays of /find, and the rows in them, have the recorded keys."""
    theirs, ours = payload(name), find_record(Catalog(otherwise=kind), "tt0000009")
    assert set(ours) == set(theirs)
    assert set(ours[array][0]) == set(theirs[array][0])


# What goes wrong


def test_a_script_is_followed_try_by_try() -> None:
    """The n-th request meets the n-th entry; after the last all is well, unless it is to last for ever."""
    rule = scripted({("movie", "tt0000001"): [RESET, None, CUT], ("tv", "tt0000002"): [None, always(EMPTY)]})
    assert [rule(Asked("movie", "tt0000001", attempt)) for attempt in range(1, 6)] == [RESET, None, CUT, None, None]
    assert [rule(Asked("tv", "tt0000002", attempt)) for attempt in range(1, 5)] == [None, *[always(EMPTY)] * 3]
    assert rule(Asked("find", "tt0000001", 1)) is None


def test_random_faults_keep_to_their_shares_and_to_their_seed() -> None:
    """About the given share of requests fails, the same ones at every repeat, and others with another seed."""
    asked = [Asked("movie", f"tt{number:07}", 1) for number in range(5000)]
    first, repeated, other = (
        [rule(each) for each in asked]
        for rule in (random_faults({"reset": 0.1, "500": 0.05}, seed=seed) for seed in (1, 1, 2))
    )
    assert first == repeated != other
    assert 400 < first.count(RESET) < 600
    assert 200 < first.count(refusal(500)) < 300


def test_shares_are_read_as_a_user_writes_them() -> None:
    """Percent and fractions, spaces and a trailing comma are read; nothing at all means no faults."""
    assert parse_shares(" 429=5%, reset=0.02 ,slow = 3 %,") == {"429": 0.05, "reset": 0.02, "slow": 0.03}
    assert parse_shares("") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("429", "written name=share"),
        ("429=", "written name=share"),
        ("boom=5%", "no fault is called 'boom'"),
        ("429=lots", "must be a number such as 5%"),
        ("429=-1%", "between 0% and 100%"),
        ("429=nan", "between 0% and 100%"),
        ("429=150%", "between 0% and 100%"),
        ("429=60%,reset=60%", "120% together"),
        ("429=1%,429=2%", "given twice"),
    ],
)
def test_unreadable_shares_say_what_is_wrong(text: str, problem: str) -> None:
    """A list of shares that makes no sense is refused with a sentence naming the piece."""
    with pytest.raises(ValueError, match=problem):
        parse_shares(text)


# The server


class Asking:
    """A client of one stand-in: `get` gives status, headers and body of a single request."""

    def __init__(self, tmdb: FakeTmdb, session: aiohttp.ClientSession) -> None:
        self.tmdb = tmdb
        self.session = session

    async def get(
        self, path: str, *, key: str | None = KEY, bearer: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        query = {} if key is None else {"api_key": key}
        sent = (headers or {}) | ({} if bearer is None else {"Authorization": f"Bearer {bearer}"})
        async with self.session.get(self.tmdb.url + path, params=query, headers=sent) as response:
            return (
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.read(),
            )

    async def status(self, path: str, **how: Any) -> int:
        return (await self.get(path, **how))[0]

    async def json(self, path: str, **how: Any) -> Any:
        return json.loads((await self.get(path, **how))[2])


@asynccontextmanager
async def asking(fault: Fault | None = None, **options: Any) -> AsyncIterator[Asking]:
    """A stand-in where every request meets `fault`, and a client that asks once and no more.

    aiohttp repeats a GET by itself when a connection breaks; the middleware hides the break from that repetition.
    """
    if fault is not None:
        options["faults"] = lambda _asked: fault
    async with fake_tmdb(**options) as tmdb, aiohttp.ClientSession(middlewares=(once,)) as session:
        yield Asking(tmdb, session)


class BrokenConnectionError(Exception):
    """The connection broke before an answer."""


async def once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise BrokenConnectionError from error


async def test_a_movie_is_found_by_both_its_ids() -> None:
    """/movie takes an IMDb id and TMDB's own number alike, and counts both as the same title."""
    async with asking() as client:
        by_imdb, by_number = await client.json(MOVIE), await client.json(f"/movie/{tmdb_id('movie', 'tt0000009')}")
        assert by_imdb == by_number == movie_record(Catalog(), "tt0000009")
        assert client.tmdb.asked == {("movie", "tt0000009"): 2}


async def test_a_series_is_found_by_way_of_find_alone() -> None:
    """/tv refuses an IMDb id with 404, as TMDB does, and takes the number that /find gives for it."""
    async with asking(catalog=Catalog(otherwise="tv")) as client:
        found = await client.json("/find/tt0000009?external_source=imdb_id")
        assert await client.status("/tv/tt0000009") == 404
        record = await client.json(f"/tv/{found['tv_results'][0]['id']}?append_to_response=external_ids")
        assert record["external_ids"]["imdb_id"] == "tt0000009"
        assert "imdb_id" not in record


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/movie/tt9999999", 404, 34),
        ("/movie/tt12", 404, 34),
        ("/movie/12345678901234567890", 404, 34),
        ("/movie/tt0000009%2F..%2F..", 404, 34),
        ("/tv/5", 404, 34),
        ("/person/5", 404, 34),
        ("", 404, 34),
        ("/find/tt0000009", 422, 5),
        (f"{MOVIE}?append_to_response={','.join(['credits'] * 21)}", 400, 27),
    ],
)
async def test_what_is_not_there_is_refused_as_tmdb_does(path: str, status: int, code: int) -> None:
    """Unknown titles and paths, a /find without a source, and a 21st appended part get TMDB's status and code."""
    async with asking(catalog=Catalog({"tt0000009": "movie"}, otherwise="unknown")) as client:
        answered, _, body = await client.get(path)
        assert (answered, json.loads(body)["status_code"]) == (status, code)


async def test_twenty_parts_are_not_too_many() -> None:
    """The most parts TMDB takes, it takes; those it does not know it leaves out."""
    async with asking() as client:
        record = await client.json(f"{MOVIE}?append_to_response=credits,watch/providers,{','.join('x' * 18)}")
        assert list(record)[-2:] == ["credits", "watch/providers"]


async def test_the_language_is_heard() -> None:
    """`language` reaches the texts of every route."""
    async with asking() as client:
        assert await client.json(f"{MOVIE}?language=ja") == movie_record(Catalog(), "tt0000009", language="ja")
        found = await client.json("/find/tt0000009?external_source=imdb_id&language=ja")
        assert found == find_record(Catalog(), "tt0000009", language="ja")


@pytest.mark.parametrize(
    ("key", "bearer", "status"),
    [
        (KEY, None, 200),
        (None, TOKEN, 200),
        (None, None, 401),
        (TOKEN, None, 401),
        (None, KEY, 401),
        (KEY.upper(), None, 401),
    ],
)
async def test_a_key_is_good_in_its_own_place_only(key: str | None, bearer: str | None, status: int) -> None:
    """The v3 key counts in the query, the v4 token in the header; swapped, wrong or absent, it is 401, code 7."""
    async with asking() as client:
        answered, _, body = await client.get("/authentication", key=key, bearer=bearer)
        assert (answered, json.loads(body)["status_code"]) == (status, 1 if status == 200 else 7)


async def test_an_outage_and_a_revoked_key_come_and_go() -> None:
    """The switches work while the server runs, and a request that they turn away uses up no try."""
    rule = scripted({("movie", "tt0000009"): [refusal(500)]})
    async with asking(faults=rule) as client:
        client.tmdb.down = True
        status, headers, body = await client.get(MOVIE)
        assert (status, headers["content-type"], body[:6]) == (503, "text/html", b"<html>")
        client.tmdb.down, client.tmdb.revoked = False, True
        assert await client.status(MOVIE) == 401
        client.tmdb.revoked = False
        assert [await client.status(MOVIE), await client.status(MOVIE)] == [500, 200]
        assert (client.tmdb.asked.total(), client.tmdb.turned_away.total()) == (4, 2)


async def test_answers_are_chunked_gzip_with_a_weak_etag() -> None:
    """Bodies travel as TMDB's do, an ETag is answered with 304, and compression can be switched off."""
    async with asking() as client:
        status, headers, body = await client.get(MOVIE)
        assert (status, headers["content-encoding"], headers["transfer-encoding"]) == (200, "gzip", "chunked")
        assert headers["etag"].startswith('W/"')
        assert await client.get(MOVIE, headers={"If-None-Match": headers["etag"]}) != (200, headers, body)
        assert await client.status(MOVIE, headers={"If-None-Match": headers["etag"]}) == 304
    async with asking(compress=False) as client:
        assert (await client.get(MOVIE))[1]["content-length"] == str(len(body))


async def test_the_limit_is_strict_within_any_second() -> None:
    """Request 41 within a second is refused, refusals use up nothing, and one second after the first one more fits."""
    now = [100.0]
    async with asking(per_second=40, clock=lambda: now[0]) as client:
        assert [await client.status("/authentication") for _ in range(40)] == [200] * 40
        now[0] = 100.999
        status, headers, body = await client.get("/authentication")
        assert (status, headers["retry-after"], json.loads(body)["status_code"]) == (429, "1", 25)
        now[0] = 101.0
        assert [await client.status("/authentication") for _ in range(2)] == [200, 200]
        assert (client.tmdb.peak, client.tmdb.peak_all, client.tmdb.refused) == (40, 41, 1)


async def test_sixty_a_second_are_forty_and_twenty_refusals() -> None:
    """Under a steady overload exactly the limit is served, and the counts say what was received, served and refused."""
    now = [0.0]
    async with asking(per_second=40, retry_after=None, clock=lambda: now[0]) as client:
        statuses = []
        for number in range(240):
            now[0] = number / 64
            statuses.append(await client.get("/authentication"))
        tmdb = client.tmdb
        served = sum(status == 200 for status, _, _ in statuses)
        assert (tmdb.peak, tmdb.peak_all, served, tmdb.refused) == (40, 64, 160, 80)
        assert not any("retry-after" in headers for _, headers, _ in statuses)
        assert list(tmdb.arrivals) == [number / 64 for number in range(240)]


async def test_only_so_many_arrivals_are_kept() -> None:
    """The log of arrivals does not grow without end."""
    async with asking(keep_arrivals=2) as client:
        assert [await client.status("/authentication") for _ in range(3)] == [200] * 3
        assert len(client.tmdb.arrivals) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (RESET, BrokenConnectionError),
        (RESET_WITHIN, aiohttp.ClientPayloadError),
        (CUT, aiohttp.ClientPayloadError),
        (CUT_CHUNKED, aiohttp.ClientPayloadError),
    ],
)
async def test_broken_connections_break(fault: Fault, error: type[Exception]) -> None:
    """A reset and a body that stops too early reach the client as such, and the next request is well again."""
    async with asking(faults=scripted({("movie", "tt0000009"): [fault]})) as client:
        with pytest.raises(error):
            await client.get(MOVIE)
        assert await client.status(MOVIE) == 200


async def test_a_reset_is_a_reset() -> None:
    """The connection ends with a TCP reset, not with an orderly close."""
    async with asking(RESET) as client:
        with pytest.raises(BrokenConnectionError) as caught:
            await client.get(MOVIE)
        assert isinstance(caught.value.__cause__, ConnectionResetError | aiohttp.ClientOSError)
        assert "reset by peer" in str(caught.value.__cause__)


@pytest.mark.parametrize("name", [name for name, fault in NAMED.items() if fault.way == "answer"])
async def test_a_named_answer_is_sent_to_the_letter(name: str) -> None:
    """Every fault that is an answer of its own arrives with its status, type, body and Retry-After."""
    fault = NAMED[name]
    async with asking(fault) as client:
        status, headers, body = await client.get(MOVIE)
        assert (status, headers["content-type"], body) == (fault.status, fault.content_type, fault.body)
        if fault.retry_date is None:
            assert headers.get("retry-after") == fault.retry_after
        else:
            assert headers["retry-after"].endswith(" GMT")


def test_the_odd_answers_are_what_they_are_called() -> None:
    """An empty body, an error and a page can come with 200, and any status can be a page."""
    assert (EMPTY.status, EMPTY.body) == (200, b"")
    assert (UNSUCCESSFUL.status, json.loads(UNSUCCESSFUL.body)["success"]) == (200, False)
    assert (html(504).status, html(504).content_type, b"504" in html(504).body) == (504, "text/html", True)
    assert json.loads(refusal(503, code=46).body)["status_code"] == 46


@pytest.mark.parametrize(
    ("fault", "content_type"), [(HIDDEN_GZIP, "application/json;charset=utf-8"), (MISLABELLED, "text/plain")]
)
async def test_a_body_can_come_under_a_false_name(fault: Fault, content_type: str) -> None:
    """Gzip that does not say so, and JSON that is called something else, still hold the record."""
    async with asking(fault, compress=False) as client:
        _, headers, body = await client.get(MOVIE)
        assert (headers["content-type"], "content-encoding" in headers) == (content_type, False)
        text = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
        assert (json.loads(text), text == body) == (movie_record(Catalog(), "tt0000009"), fault is MISLABELLED)


async def test_an_appended_part_can_be_left_out() -> None:
    """The first part asked for is missing from an answer that is otherwise good."""
    async with asking(PART_MISSING) as client:
        assert await client.json(f"{MOVIE}?append_to_response=credits,keywords") == movie_record(
            Catalog(), "tt0000009", append=["keywords"]
        )


async def test_a_record_can_be_of_any_size() -> None:
    """A record of so many megabytes is one good JSON object."""
    async with asking(big(0.3)) as client:
        _, _, body = await client.get(MOVIE)
        assert 300_000 <= len(body) < 300_100
        assert json.loads(body)["imdb_id"] == "tt0000009"


async def test_a_dripping_answer_is_whole_in_the_end() -> None:
    """Byte by byte the true record arrives."""
    async with asking(drip(seconds=0, size=100)) as client:
        assert await client.json(MOVIE) == movie_record(Catalog(), "tt0000009")


async def test_latency_follows_from_the_request() -> None:
    """Requests take their time before an answer, and more than one can be under way."""
    async with asking(latency=(0.001, 0.002)) as client:
        assert await asyncio.gather(*(client.status(f"/movie/{tt}") for tt in IDS[:10])) == [200] * 10
        assert 1 < client.tmdb.busiest <= 10


def test_what_was_late_on_the_way_is_counted_when_it_comes() -> None:
    """With jitter on the way, requests sent together come one by one, each as late as follows from its id."""
    loop = Leaping()

    async def story() -> list[float]:
        async with asking(jitter=100.0, clock=loop.time) as client:
            sent = loop.time()
            asked = (client.status(f"/movie/{tt}") for tt in IDS[:4])
            assert await asyncio.gather(*asked) == [200] * 4
            return [arrival - sent for arrival in client.tmdb.arrivals]

    late = sorted(100.0 * share("way", "movie", tt, 1) for tt in IDS[:4])
    assert run_on(loop, story()) == pytest.approx(late, abs=5.0)
    assert late[-1] - late[0] > 50.0


def test_the_limit_counts_what_comes_and_not_what_was_sent() -> None:
    """Of two requests a second apart, the first so late on the way that both come in one, a limit of 1 refuses one."""
    loop = Leaping()
    late = {tt: 1.2 * share("way", "movie", tt, 1) for tt in IDS}
    slow, quick = max(IDS, key=late.__getitem__), min(IDS, key=late.__getitem__)

    async def story() -> tuple[list[int], list[int]]:
        statuses = []
        for jitter in (0.0, 1.2):
            async with asking(jitter=jitter, per_second=1, clock=loop.time) as client:
                first = asyncio.create_task(client.status(f"/movie/{slow}"))
                await asyncio.sleep(1.1)
                statuses.append([await client.status(f"/movie/{quick}"), await first])
        return statuses[0], statuses[1]

    assert late[slow] - late[quick] > 1.1
    assert run_on(loop, story()) == ([200, 200], [200, 429])


@pytest.mark.parametrize("fault", [silence(3600), drip(seconds=3600)])
async def test_leaving_does_not_wait_for_the_slow(fault: Fault) -> None:
    """The stand-in closes at once, whatever silence or drip is still under way, and no request stays behind."""
    came = asyncio.Event()

    def slow(_asked: Asked) -> Fault:
        came.set()
        return fault

    async with aiohttp.ClientSession(middlewares=(once,)) as session:
        async with fake_tmdb(faults=slow) as tmdb, asyncio.timeout(20):
            waiting = asyncio.create_task(Asking(tmdb, session).status(MOVIE))
            await came.wait()
            assert tmdb.in_flight == 1
        with pytest.raises((BrokenConnectionError, aiohttp.ClientPayloadError)):
            await waiting
    assert tmdb.in_flight == 0


async def test_a_client_that_gives_up_is_forgotten() -> None:
    """A silence ends with the client that waited for it."""
    gone = asyncio.Event()
    async with asking(silence(3600)) as client:
        waiting = asyncio.create_task(client.status(MOVIE))
        while client.tmdb.in_flight == 0:
            await asyncio.sleep(0)
        waiting.cancel()
        while client.tmdb.in_flight:
            await asyncio.sleep(0)
        gone.set()
    assert gone.is_set()
