"""Answers: every fact of TMDB's answers is a row, and every recorded answer is judged for what it is."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
import zlib
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import gzip_of
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.errors import TmdbRefusedError
from harvester.model.outcome import Found, Missing
from harvester.runtime.net import http_date as moment
from harvester.tmdb.responses import (
    BODY_LIMIT,
    CANDIDATES,
    Candidates,
    Match,
    NotFound,
    Response,
    Retry,
    classify,
    read_find,
    read_record,
    retry_after_seconds,
    unzip,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harvester.model.ids import Kind

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=timezone.utc)
HTML = b"<html>\r\n<head><title>Bad</title></head>\r\n<body>nginx</body>\r\n</html>\r\n"
RECORD = {"id": 603, "title": "Matrix", "vote_average": 8.223123456789012, "release_date": ""}
GOOD = orjson.dumps(RECORD)
ZIPPED = gzip_of(GOOD)


def answer(status: int, body: bytes = b"", *, retry_after: str | None = None) -> Response:
    return Response(status, unzip(body), http_date(), retry_after)


def result(code: Any, **more: Any) -> bytes:
    """TMDB's own error body."""
    return orjson.dumps({"success": False, "status_code": code, "status_message": "So it is."} | more)


def bomb(megabytes: int) -> bytes:
    """Gzip of so many megabytes of spaces, built from one deflated block."""
    deflate = zlib.compressobj(wbits=-15)
    block = deflate.compress(b" " * 2**20) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + block * megabytes


def padded(size: int) -> bytes:
    """A JSON object of exactly so many bytes."""
    return b'{"id":1,"overview":"' + b"x" * (size - 22) + b'"}'


HTML_STATUSES = [301, 400, 403, 404, 405, 418, 500, 502, 503, 504, 520]

JUDGED: list[Any] = [
    pytest.param(200, GOOD, RECORD, id="a record"),
    pytest.param(200, b"\r\n " + GOOD + b"\n", RECORD, id="white space around it"),
    pytest.param(200, ZIPPED, RECORD, id="gzip that no header named"),
    pytest.param(200, b'{"success":true,"status_code":1}', {"success": True, "status_code": 1}, id="authentication"),
    pytest.param(200, b'{"success":null,"id":1}', {"success": None, "id": 1}, id="success is null"),
    pytest.param(200, ZIPPED[: len(ZIPPED) // 2], Retry("bad_body"), id="cut gzip"),
    pytest.param(200, ZIPPED[:-8] + b"\0" * 8, Retry("bad_body"), id="gzip with a wrong checksum"),
    pytest.param(200, b"\x1f\x8b not gzip", Retry("bad_body"), id="gzip in name only"),
    pytest.param(200, gzip_of(GOOD[:9]) + gzip_of(GOOD[9:]), RECORD, id="gzip of two members"),
    pytest.param(200, gzip_of(b" \n"), Retry("empty_body"), id="gzip of nothing"),
    pytest.param(200, gzip_of(ZIPPED), Retry("bad_body"), id="gzip of gzip"),
    pytest.param(200, gzip_of(HTML), Retry("bad_body"), id="gzip of HTML"),
    pytest.param(200, b"", Retry("empty_body"), id="nothing"),
    pytest.param(200, b" \r\n\t", Retry("empty_body"), id="white space"),
    pytest.param(200, HTML, Retry("bad_body"), id="HTML with 200"),
    pytest.param(200, GOOD[:-1], Retry("bad_body"), id="cut JSON"),
    pytest.param(200, GOOD + GOOD, Retry("bad_body"), id="two objects"),
    pytest.param(200, b'{"id":NaN}', Retry("bad_body"), id="NaN"),
    pytest.param(200, b'{"title":"\xff"}', Retry("bad_body"), id="no UTF-8"),
    pytest.param(200, b"[" * 5000 + b"]" * 5000, Retry("bad_body"), id="too deep"),
    *[
        pytest.param(200, body, Retry("bad_body"), id=f"no object: {body.decode()}")
        for body in (b"null", b"true", b"1", b'"id"', b"[]", b'[{"id":1}]')
    ],
    pytest.param(200, result(11), Retry("success_false"), id="success:false with 200"),
    pytest.param(200, result(34), Retry("success_false"), id="not found, but with 200"),
    pytest.param(404, result(34), NotFound(), id="not found"),
    pytest.param(404, result(6), NotFound(), id="invalid id"),
    pytest.param(400, result(34), Retry("http_400"), id="not found, by another status"),
    pytest.param(404, result(34, extra=[1]), NotFound(), id="not found, with an extra key"),
    pytest.param(404, b'{"status_message":"No.","status_code":34}', NotFound(), id="not found, as in 2017"),
    pytest.param(404, gzip_of(result(34)), NotFound(), id="not found, in hidden gzip"),
    pytest.param(404, b"", Retry("http_404"), id="404 without a body"),
    pytest.param(404, b"{}", Retry("http_404"), id="404 without a code"),
    pytest.param(404, result(11), Retry("http_404"), id="404 with another code"),
    pytest.param(404, b"34", Retry("http_404"), id="404 with a number for a body"),
    pytest.param(404, result("34"), Retry("http_404"), id="404 with a text for a code"),
    pytest.param(404, result([34]), Retry("http_404"), id="404 with a list for a code"),
    pytest.param(404, result({}), Retry("http_404"), id="404 with an object for a code"),
    pytest.param(400, result(27), Retry("http_400"), id="more than 20 parts"),
    pytest.param(422, result(5), Retry("http_422"), id="invalid parameters"),
    pytest.param(403, b"", Retry("http_403"), id="403 without a body"),
    pytest.param(403, b"[]", Retry("http_403"), id="403 with an array"),
    pytest.param(403, b"{}", Retry("http_403"), id="403 with an empty object"),
    pytest.param(403, b'{"message":"Forbidden"}', Retry("http_403"), id="403 of a gateway"),
    *[
        pytest.param(403, result(code), Retry("http_403"), id=f"403 with {code!r} for a code")
        for code in (403, 100, 0, -7, True, 45.0, "45", None, [45])
    ],
    pytest.param(429, result(25), Retry("http_429"), id="too many requests"),
    pytest.param(429, HTML, Retry("http_429"), id="too many requests, says the CDN"),
    pytest.param(429, b"", Retry("http_429"), id="too many requests, without a word"),
    pytest.param(500, result(11), Retry("http_500"), id="internal error"),
    pytest.param(502, result(43), Retry("http_502"), id="no backend"),
    pytest.param(503, result(9), Retry("http_503"), id="offline"),
    pytest.param(503, result(46), Retry("http_503"), id="maintenance"),
    pytest.param(504, result(24), Retry("http_504"), id="backend timed out"),
    pytest.param(500, GOOD, Retry("http_500"), id="a record with 500"),
    pytest.param(204, b"", Retry("http_204"), id="no content"),
    pytest.param(304, b"", Retry("http_304"), id="not modified"),
    *[pytest.param(status, HTML, Retry(f"http_{status}"), id=f"HTML with {status}") for status in HTML_STATUSES],
]


@pytest.mark.parametrize(("status", "body", "expected"), JUDGED)
def test_an_answer_is_judged_by_its_status_first_and_its_body_second(status: int, body: bytes, expected: Any) -> None:
    """A good answer is its object, TMDB's own 404 is `NotFound`, and whatever is not certainly an answer is `Retry`."""
    assert expected == classify(answer(status, body))


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        *[pytest.param(401, result(code), code, id=f"401/{code}") for code in (3, 7, 10, 14, 30, 31, 32, 33, 35, 36)],
        pytest.param(401, b"", None, id="401 without a body"),
        pytest.param(401, HTML, None, id="401 in HTML"),
        pytest.param(401, gzip_of(result(7)), 7, id="401 in hidden gzip"),
        pytest.param(403, result(45), 45, id="suspended"),
        pytest.param(403, result(7), 7, id="403/7"),
        pytest.param(403, result(1), 1, id="the first of TMDB's codes"),
        pytest.param(403, result(99), 99, id="a code that TMDB may add"),
        pytest.param(403, b'{"status_code":45}', 45, id="suspended, in few words"),
    ],
)
def test_a_refusal_of_the_key_ends_the_run(status: int, body: bytes, code: int | None) -> None:
    """401 in any shape and 403 with a code of TMDB's raise, with the status and that code."""
    with pytest.raises(TmdbRefusedError) as caught:
        classify(answer(status, body))
    assert (status, code) == (caught.value.status, caught.value.code)


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    """The limit is read, a byte more is not, zipped or plain."""
    assert isinstance(classify(answer(200, padded(BODY_LIMIT))), dict)
    assert Retry("too_large") == classify(answer(200, padded(BODY_LIMIT + 1)))
    assert Retry("too_large") == classify(answer(200, gzip_of(padded(BODY_LIMIT + 1), 1)))
    assert Retry("too_large") == classify(answer(200, padded(33_000_000 + 2**20)))


def test_a_gzip_bomb_takes_no_more_memory_than_the_limit() -> None:
    """A gigabyte hidden in a megabyte of gzip is given up at the limit, not unpacked."""
    body = bomb(1024)
    tracemalloc.start()
    try:
        assert Retry("too_large") == classify(answer(200, body))
        assert tracemalloc.get_traced_memory()[1] < 3 * BODY_LIMIT
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ERRORS = st.fixed_dictionaries({"status_code": JSON}, optional={"success": JSON, "status_message": JSON, "id": JSON})
BODIES = st.one_of(st.binary(max_size=40), JSON.map(orjson.dumps), ERRORS.map(orjson.dumps))
STATUSES = st.sampled_from([200, 401, 403, 404, 429, 500]) | st.integers(100, 599)


@settings(deadline=None, max_examples=250, database=None, derandomize=True)
@given(STATUSES, BODIES | BODIES.map(gzip_of) | st.binary(max_size=40).map(b"\x1f\x8b".__add__), st.text())
def test_no_answer_whatsoever_is_a_crash(status: int, body: bytes, retry_after: str) -> None:
    """Any status with any bytes is an object, `NotFound` or `Retry`, or a refusal of the key, and nothing else."""
    try:
        verdict = classify(answer(status, body, retry_after=retry_after))
    except TmdbRefusedError:
        assert status in {401, 403}
    else:
        assert isinstance(verdict, dict | NotFound | Retry)
        assert status == 200 or not isinstance(verdict, dict)


def http_date(**later: float) -> str:
    return format_datetime(NOW + timedelta(**later), usegmt=True)


LAST_DATE = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)

RETRY_AFTER: list[Any] = [
    pytest.param("7", 7.0, id="seconds"),
    pytest.param(" 7 ", 7.0, id="spaces around"),
    pytest.param("007", 7.0, id="zeros in front"),
    pytest.param("0", 0.0, id="zero"),
    pytest.param("60", 60.0, id="the most"),
    pytest.param("61", 61.0, id="more than the most"),
    pytest.param("999999", 999_999.0, id="absurd"),
    pytest.param("9" * 5000, float("inf"), id="absurdly absurd"),
    pytest.param(None, None, id="absent"),
    pytest.param("", None, id="empty"),
    pytest.param("-5", None, id="negative"),
    pytest.param("soon", None, id="garbage"),
    pytest.param("1.5", None, id="float"),
    pytest.param("1e3", None, id="exponent"),
    pytest.param("٣", None, id="Arabic digit"),
    pytest.param("²", None, id="superscript"),
    pytest.param("inf", None, id="infinite"),
    pytest.param(http_date(seconds=30), 30.0, id="a date to come"),
    pytest.param(http_date(hours=2), 7_200.0, id="a date in two hours"),
    pytest.param(
        "Fri, 31 Dec 9999 23:59:59 GMT",
        (LAST_DATE - NOW).total_seconds(),
        id="the last date there is",
    ),
    pytest.param(http_date(), 0.0, id="now"),
    pytest.param(http_date(seconds=-30), None, id="a date gone by"),
    pytest.param("Sunday, 22-Nov-26 10:00:30 GMT", 30.0, id="a date as in RFC 850"),
    pytest.param("Sun Nov 22 10:00:30 2026", 30.0, id="a date as of asctime"),
    pytest.param("Sun, 22 Nov 2026 07:00:30 -0300", 30.0, id="a date of another zone"),
    pytest.param("Sun, 99 Nov 2026 10:00:30 GMT", None, id="no such day"),
    pytest.param(f"22 Nov {'9' * 30} 10:00:30 GMT", None, id="no such year"),
]


@pytest.mark.parametrize(("retry_after", "expected"), RETRY_AFTER)
def test_retry_after_is_understood_in_all_its_forms(retry_after: str | None, expected: float | None) -> None:
    """Seconds or a date; None where it is absent or says nothing."""
    assert Retry("http_429", retry_after=expected) == classify(answer(429, result(25), retry_after=retry_after))


@settings(deadline=None, database=None, derandomize=True)
@given(st.text() | st.from_regex(r"(Mon, )?[0-9]{1,3} (Jan|Feb) [0-9]{1,30} [0-9:]{1,9}( [A-Z+0-9-]{1,12})?"))
def test_a_retry_after_is_never_negative(retry_after: str) -> None:
    """No `Retry-After`, however odd, asks for less than no time."""
    seconds = retry_after_seconds(answer(429, retry_after=retry_after))
    assert seconds is None or seconds >= 0.0


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Sun, 22 Nov 2026 10:00:00 GMT", NOW),
        ("Sun, 22 Nov 2026 10:00:00 -0000", NOW),
        ("Sun Nov 22 10:00:00 2026", NOW),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_of_http_is_a_moment_or_nothing(date: str | None, expected: datetime | None) -> None:
    """Without a zone too, the moment can be compared with ours; what is no date crashes nothing."""
    assert expected == moment(date)


def test_a_date_is_measured_from_the_servers_clock() -> None:
    """What counts is the `Date` of the same answer: our own clock may be wrong."""
    late = Response(429, b"", http_date(seconds=20), http_date(seconds=30))
    assert retry_after_seconds(late) == 10.0


# The record


def record(**more: Any) -> dict[str, Any]:
    return {"id": 603, **more}


def test_a_record_is_kept_as_it_came() -> None:
    """What is found is TMDB's object itself: nothing renamed, dropped or rounded."""
    assert Found("movie", 603, RECORD) == read_record(RECORD, "movie")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"title": "Matrix"},
        *({"id": id_} for id_ in (None, "603", 6.5, 603.0, [1], True, False, 0, -1, -603, 2**63, 2**64 - 1)),
    ],
)
def test_an_object_without_a_tmdb_id_is_no_record(body: dict[str, Any]) -> None:
    """An object that has no number of TMDB's under `id` is asked for again."""
    assert Retry("bad_body") == read_record(body, "movie")


@pytest.mark.parametrize("id_", [1, 2**63 - 1])
def test_every_id_that_a_receipt_can_have_is_a_tmdb_id(id_: int) -> None:
    """The smallest and the largest: 63 bits."""
    assert Found("tv", id_, {"id": id_}) == read_record({"id": id_}, "tv")


def test_an_error_without_success_is_no_record() -> None:
    """TMDB's old error body, should it come with 200, does not pass for a title."""
    body = classify(answer(200, b'{"status_code":34,"status_message":"Not found."}'))
    assert isinstance(body, dict)
    assert Retry("bad_body") == read_record(body, "tv")


ASKED = ("credits", "watch/providers")


@pytest.mark.parametrize(
    ("body", "known", "missing"),
    [
        pytest.param(record(**{"credits": {}, "watch/providers": {}}), ASKED, None, id="both there"),
        pytest.param(record(credits=None, **{"watch/providers": {}}), ASKED, None, id="there, and null"),
        pytest.param(record(credits={}), ASKED, ("watch/providers",), id="one left out"),
        pytest.param(record(), ("credits",), ASKED, id="both left out, one of them known"),
    ],
)
def test_a_part_that_tmdb_left_out_is_asked_for_again(
    body: dict[str, Any], known: tuple[str, ...], missing: tuple[str, ...] | None
) -> None:
    """An appended part is looked for under the name it was asked by; without it the title is second best."""
    found = Found("movie", 603, body, missing or ())
    expected = found if missing is None else Retry("missing_parts", partial_record=found)
    assert expected == read_record(body, "movie", asked=ASKED, known=known)


def test_a_part_that_tmdb_does_not_know_is_not_waited_for() -> None:
    """A part that is not known for this kind is recorded as missing, and that is that."""
    expected = Found("tv", 603, record(credits={}), ("nonsense",))
    assert expected == read_record(record(credits={}), "tv", asked=("credits", "nonsense"), known=("credits",))


# /find


def found(**arrays: Any) -> dict[str, Any]:
    names = ("movie", "person", "tv", "tv_episode", "tv_season")
    return {f"{name}_results": arrays.get(name, []) for name in names}


FILM, SHOW = {"id": 550, "title": "Fight Club"}, {"id": 62, "name": "Clube"}
NONE = Missing("unknown")
EPISODE, SEASON, PERSON = {"id": 1, "show_id": 1396}, {"id": 2, "show_id": 90669}, {"id": 62, "name": "Bruce"}


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        pytest.param(found(movie=[FILM]), "movie", (Match("movie", 550), NONE), id="own kind, movie"),
        pytest.param(found(tv=[SHOW]), "tv", (Match("tv", 62), NONE), id="own kind, tv"),
        pytest.param(found(tv=[SHOW]), "movie", (Match("tv", 62), NONE), id="other kind, tv"),
        pytest.param(found(movie=[FILM]), "tv", (Match("movie", 550), NONE), id="other kind, movie"),
        pytest.param(
            found(movie=[FILM], tv=[SHOW]), "movie", (Match("movie", 550), Match("tv", 62), NONE), id="both, as movie"
        ),
        pytest.param(
            found(movie=[FILM], tv=[SHOW]), "tv", (Match("tv", 62), Match("movie", 550), NONE), id="both, as tv"
        ),
        pytest.param(
            found(movie=[FILM, SHOW]), "movie", (Match("movie", 550), Match("movie", 62), NONE), id="two rows"
        ),
        pytest.param(found(movie=[FILM, FILM]), "movie", (Match("movie", 550), NONE), id="one row twice"),
        pytest.param(
            found(tv=[SHOW] * CANDIDATES + [{"id": 7}]), "tv", (Match("tv", 62), Match("tv", 7), NONE), id="and another"
        ),
        pytest.param(
            found(movie=[{"id": number} for number in range(1, 9)], tv=[SHOW]),
            "movie",
            (*(Match("movie", number) for number in range(1, CANDIDATES + 1)), Match("tv", 62), NONE),
            id="more rows than are asked for",
        ),
        pytest.param(
            found(tv=[SHOW], tv_episode=[EPISODE]),
            "movie",
            (Match("tv", 62), Missing("episode", 1396)),
            id="series and episode",
        ),
        pytest.param(found(tv_episode=[EPISODE]), "tv", (Missing("episode", 1396),), id="episode"),
        pytest.param(found(tv_episode=[EPISODE]), "movie", (Missing("episode", 1396),), id="episode, asked as movie"),
        pytest.param(found(tv_season=[SEASON]), "tv", (Missing("season", 90669),), id="season"),
        pytest.param(
            found(tv_episode=[EPISODE], tv_season=[SEASON]), "tv", (Missing("episode", 1396),), id="episode 1st"
        ),
        pytest.param(found(person=[PERSON]), "movie", (NONE,), id="person only"),
        pytest.param(found(), "movie", (NONE,), id="unknown movie"),
        pytest.param(found(), "tv", (NONE,), id="unknown series"),
        pytest.param({}, "movie", Retry("bad_body"), id="no arrays at all"),
        pytest.param({"movie_results": []}, "movie", Retry("bad_body"), id="an array left out"),
        pytest.param(found(movie=None), "movie", Retry("bad_body"), id="an array is null"),
        pytest.param(found(movie=7), "movie", Retry("bad_body"), id="an array is a number"),
        pytest.param(found(movie=["x"]), "movie", Retry("bad_body"), id="a row is a text"),
        pytest.param(found(movie=[None]), "movie", Retry("bad_body"), id="a row is null"),
        pytest.param(found(movie=[{}]), "movie", Retry("bad_body"), id="a row without id"),
        pytest.param(found(movie=[{"id": None}]), "movie", Retry("bad_body"), id="an id is null"),
        pytest.param(found(tv=[{"id": "?"}]), "tv", Retry("bad_body"), id="an id is a text"),
        pytest.param(found(tv=[{"id": [62]}]), "tv", Retry("bad_body"), id="an id is a list"),
        *[
            pytest.param(found(movie=[FILM, {"id": id_}]), "movie", Retry("bad_body"), id=f"an id is {id_!r}")
            for id_ in (True, 9002.7, 603.0, "603", 0, -5, 2**63)
        ],
        pytest.param(found(tv_episode=[{"id": 1}]), "tv", Retry("bad_body"), id="an episode without its show"),
        pytest.param(found(tv_season=[{"show_id": None}]), "tv", Retry("bad_body"), id="a season without its show"),
    ],
)
def test_find_says_what_an_id_is(body: dict[str, Any], kind: Kind, expected: object) -> None:
    """The CSV's own kind comes first, then the other one, then why it is missing; broken rows are asked for again."""
    found = read_find(body, kind)
    assert expected == ((*found.matches, found.missing) if isinstance(found, Candidates) else found)


@settings(deadline=None, database=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            f"{name}_results": JSON | st.lists(st.dictionaries(st.sampled_from(["id", "show_id"]), JSON), max_size=2)
            for name in ("movie", "tv", "tv_episode", "tv_season")
        },
    ),
    st.sampled_from(["movie", "tv"]),
)
def test_no_find_whatsoever_is_a_crash(body: dict[str, Any], kind: Kind) -> None:
    """Whatever stands in the five arrays, it is matches and then missing, or asked for again."""
    match read_find(orjson.loads(orjson.dumps(body)), kind):
        case Candidates(matches, Missing()):
            assert all(isinstance(each, Match) for each in matches)
        case verdict:
            assert verdict == Retry("bad_body")


# The recorded answers


def exchanges(payloads: Path, *folders: str) -> dict[str, tuple[str, int, bytes]]:
    """What was recorded in these folders: file → request, status, body."""
    with (payloads / "INDEX.tsv").open(encoding="utf-8", newline="") as index:
        rows = [row for row in csv.DictReader(index, delimiter="\t") if row["file"].startswith(folders)]
    return {
        row["file"]: (row["request"], int(row["http_status"]), (payloads / row["file"]).read_bytes()) for row in rows
    }


@pytest.mark.parametrize("kind", ["movie", "tv"])
def test_every_recorded_title_is_found(payloads: Path, kind: Kind) -> None:
    """Each recorded movie and series is found under the id asked for, its record equal to what was sent."""
    recorded = exchanges(payloads, f"{kind}/")
    assert len(recorded) > 15
    for file, (request, status, body) in recorded.items():
        asked = re.fullmatch(rf"GET /3/{kind}/(?P<id>\w+)(?:\?(?P<query>.*))?", request)
        assert asked, file
        parts = re.search(r"append_to_response=([^&]+)", asked["query"] or "")
        record = json.loads(body)
        judged = classify(answer(status, body))
        assert isinstance(judged, dict), file
        expected = Found(kind, record["id"], record)
        assert expected == read_record(judged, kind, asked=parts[1].split(",") if parts else ()), file
        assert asked["id"] in {str(record["id"]), record.get("imdb_id")}, file


RECORDED_FINDS = {
    "find/flexget_2017_find_tt0936501_external_source_imdb_id.json": Match("movie", 8681),
    "find/quoted_2022_tt3487478_tv.json": Match("tv", 62637),
    "find/tmdbapi_rb_2022_find_1924016_external_source_tvdb_id_language_en.json": Missing("season", 90669),
    "find/tmdbapi_rb_2022_find_tt3749900_external_source_imdb_id_language_en.json": Match("tv", 60708),
    "find/tmdblib_30272_external_source_tvdb_id.json": Missing("episode", 2635),
    "find/tmdblib_81189_external_source_tvdb_id.json": Match("tv", 1396),
    "find/tmdblib_nm0000246_external_source_imdb_id.json": Missing("unknown"),
    "find/tmdblib_tt0088247_external_source_imdb_id.json": Match("movie", 218),
    "find/tmdblib_tt0959621_external_source_imdb_id.json": Missing("episode", 1396),
}


@pytest.mark.parametrize("kind", ["movie", "tv"])
def test_every_recorded_find_is_read_rightly(payloads: Path, kind: Kind) -> None:
    """Each recorded `/find` is the movie, series, episode, season or nothing that it was, whichever kind asks."""
    outcomes = {}
    for file, (_, status, body) in exchanges(payloads, "find/").items():
        judged = classify(answer(status, body))
        candidates = read_find(judged, kind) if isinstance(judged, dict) else judged
        assert isinstance(candidates, Candidates), file
        outcomes[file] = (*candidates.matches, candidates.missing)[0]
    assert outcomes == RECORDED_FINDS


def test_every_recorded_error_is_judged_rightly(payloads: Path) -> None:
    """Recorded 404s are `NotFound`, 429s stop all requests, and the 401 is a refusal with its code."""
    outcomes: dict[str, Any] = {}
    for file, (_, status, body) in exchanges(payloads, "error/").items():
        try:
            outcomes[file] = classify(answer(status, body))
        except TmdbRefusedError as error:
            outcomes[file] = (error.status, error.code)
    assert outcomes == {
        "error/moviequeue_2021_movie_0_append_to_response_trailers_credits_releases.json": NotFound(),
        "error/quoted_404_no_success_field_2017.json": NotFound(),
        "error/quoted_429_legacy_count_43.json": Retry("http_429"),
        "error/quoted_429_legacy_count_54.json": Retry("http_429"),
        "error/tmdblib_401_authentication_token_validate_with_login.json": (401, 30),
    }


def test_every_other_recorded_body_is_an_object(payloads: Path) -> None:
    """Lists, changes and configuration are good answers too, equal to what was sent."""
    others = exchanges(payloads, "other/")
    expected = {file: json.loads(body) for file, (_, _, body) in others.items()}
    assert expected == {file: classify(answer(status, body)) for file, (_, status, body) in others.items()}
