"""A table of single answers, without a socket: what TMDB's responses make of a title, and what was asked for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from aioresponses import aioresponses
from conftest import gzip_of
from loops import no_wait

from harvester.model.outcome import Failed, Found, Missing
from harvester.tmdb.client import Tmdb
from harvester.tmdb.rate_limiter import RateLimiter

BASE = "https://api.themoviedb.org/3"
KEY = "0123456789abcdef0123456789abcdef"
FILM = {"id": 603, "imdb_id": "tt0133093", "title": "The Matrix", "vote_average": 8.2}
SHOW = {"id": 1396, "name": "Breaking Bad"}
NOBODY: dict[str, list[Any]] = {f"{name}_results": [] for name in ("movie", "tv", "tv_episode", "tv_season", "person")}
ABSENT = (404, {"success": False, "status_code": 34, "status_message": "The resource could not be found."})
MOVIE_URL = f"{BASE}/movie/tt0133093?api_key={KEY}"
FIND_URL = f"{BASE}/find/tt0133093?api_key={KEY}&external_source=imdb_id"  # aioresponses sorts a query
TV_URL = f"{BASE}/tv/1396?api_key={KEY}&append_to_response=external_ids"
KNOWN_TV_URL, KNOWN_FILM_URL = TV_URL.replace("1396", "1399"), MOVIE_URL.replace("tt0133093", "tt0111161")
FILM_URL = f"{BASE}/movie/603?api_key={KEY}"


class Answered(aiohttp.ClientResponse):
    """What aioresponses 0.7.9 makes of an answer lacks an argument that aiohttp 3.14 asks for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **({"stream_writer": SimpleNamespace(output_size=0)} | named))


TABLE: dict[str, tuple[str, list[tuple[str, int, Any]], Any]] = {
    "a film": ("movie", [(MOVIE_URL, 200, FILM)], Found("movie", 603, FILM)),
    "a film in gzip that does not say so": (
        "movie",
        [(MOVIE_URL, 200, gzip_of(orjson.dumps(FILM)))],
        Found("movie", 603, FILM),
    ),
    "a film at the second try": (
        "movie",
        [(MOVIE_URL, 502, b"<html>Bad Gateway</html>"), (MOVIE_URL, 200, FILM)],
        Found("movie", 603, FILM),
    ),
    "nothing": ("movie", [(MOVIE_URL, *ABSENT), (FIND_URL, 200, NOBODY)], Missing("unknown")),
    "an episode": (
        "movie",
        [(MOVIE_URL, *ABSENT), (FIND_URL, 200, NOBODY | {"tv_episode_results": [{"id": 1, "show_id": 1396}]})],
        Missing("episode", 1396),
    ),
    "a series among the films": (
        "movie",
        [(MOVIE_URL, *ABSENT), (FIND_URL, 200, NOBODY | {"tv_results": [{"id": 1396}]}), (TV_URL, 200, SHOW)],
        Found("tv", 1396, SHOW),
    ),
    "a film among the series": (
        "tv",
        [(FIND_URL, 200, NOBODY | {"movie_results": [{"id": 603}]}), (FILM_URL, 200, FILM)],
        Found("movie", 603, FILM),
    ),
    "a film that only /find knows by its IMDb id": (
        "movie",
        [(MOVIE_URL, *ABSENT), (FIND_URL, 200, NOBODY | {"movie_results": [{"id": 603}]}), (FILM_URL, 200, FILM)],
        Found("movie", 603, FILM),
    ),
    "a double hit among the films": (
        "movie",
        [
            (MOVIE_URL, *ABSENT),
            (FIND_URL, 200, NOBODY | {"movie_results": [{"id": 603}], "tv_results": [{"id": 1396}]}),
            (FILM_URL, 200, FILM),
        ],
        Found("movie", 603, FILM),
    ),
    "a series": (
        "tv",
        [(FIND_URL, 200, NOBODY | {"tv_results": [{"id": 1396}]}), (TV_URL, 200, SHOW)],
        Found("tv", 1396, SHOW),
    ),
    "a double hit among the series": (
        "tv",
        [(FIND_URL, 200, NOBODY | {"movie_results": [{"id": 603}], "tv_results": [{"id": 1396}]}), (TV_URL, 200, SHOW)],
        Found("tv", 1396, SHOW),
    ),
    "a series that has just gone": (
        "tv",
        [
            (FIND_URL, 200, NOBODY | {"tv_results": [{"id": 1396}]}),
            (TV_URL, *ABSENT),
            (KNOWN_TV_URL, 200, SHOW | {"id": 1399}),
        ],
        Missing("unknown"),
    ),
    "a series among the films that has just gone": (
        "movie",
        [
            (MOVIE_URL, *ABSENT),
            (FIND_URL, 200, NOBODY | {"tv_results": [{"id": 1396}]}),
            (TV_URL, *ABSENT),
            (KNOWN_TV_URL, 200, SHOW | {"id": 1399}),
        ],
        Missing("unknown"),
    ),
    "a film among the series that has just gone": (
        "tv",
        [
            (FIND_URL, 200, NOBODY | {"movie_results": [{"id": 603}]}),
            (FILM_URL, *ABSENT),
            (KNOWN_FILM_URL, 200, FILM | {"id": 278, "imdb_id": "tt0111161"}),
        ],
        Missing("unknown"),
    ),
    "trouble for ever": (
        "movie",
        [(MOVIE_URL, 500, {"success": False, "status_code": 11})] * 6
        + [(f"{BASE}/authentication?api_key={KEY}", 200, {"success": True})]
        + [(MOVIE_URL, 500, b"")],
        Failed("http_500"),
    ),
    "trouble for ever with the record of a series among the films": (
        "movie",
        [(MOVIE_URL, *ABSENT), (FIND_URL, 200, NOBODY | {"tv_results": [{"id": 1396}]})]
        + [(TV_URL, 500, {"success": False, "status_code": 11})] * 6
        + [(f"{BASE}/authentication?api_key={KEY}", 200, {"success": True})]
        + [(TV_URL, 500, b"")],
        Failed("http_500"),
    ),
}


@pytest.mark.parametrize("name", TABLE)
async def test_these_answers_make_this_of_a_title(name: str) -> None:
    """Each answer is asked for once and in this order, and the title is what they say."""
    kind, answers, expected = TABLE[name]
    with aioresponses() as network:
        for url, status, body in answers:
            content = body if isinstance(body, bytes) else orjson.dumps(body)
            network.get(url, status=status, body=content, response_class=Answered)
        limiter = RateLimiter(10_000, clock=lambda: 0.0, sleep=no_wait)
        limiter.rate = float("inf")
        async with Tmdb(
            base_url=BASE, key=KEY, language=None, append=(), limiter=limiter, concurrency=2, sleep=no_wait
        ) as tmdb:
            outcome = await tmdb.title("tt0133093", kind)  # type: ignore[arg-type]  # a word of the table
        asked = [str(url) for (_, url), calls in network.requests.items() for _ in calls]
    assert outcome == expected
    assert sorted(asked) == sorted(url for url, _, _ in answers)
