"""The real TMDB, asked a handful of questions: skipped unless HARVESTER_LIVE=1 and TMDB_API_KEY is set.

HARVESTER_LIVE=1 TMDB_API_KEY=… python -m pytest -m live
"""

from __future__ import annotations

import asyncio
import os

import pytest

from harvester.errors import TmdbRefusedError
from harvester.model.outcome import Found, Missing
from harvester.tmdb.client import Tmdb
from harvester.tmdb.rate_limiter import RateLimiter

KEY = os.environ.get("TMDB_API_KEY", "")

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        os.environ.get("HARVESTER_LIVE") != "1" or not KEY, reason="asks the real TMDB; set HARVESTER_LIVE=1"
    ),
]


async def ask(id_: str, kind: str, *, append: tuple[str, ...] = ()) -> object:
    """What the real TMDB says of an id."""
    limiter = RateLimiter(10, clock=asyncio.get_running_loop().time)
    async with Tmdb(
        base_url="https://api.themoviedb.org/3", key=KEY, language=None, append=append, limiter=limiter, concurrency=2
    ) as tmdb:
        await tmdb.check_key()
        return await tmdb.title(id_, kind)  # type: ignore[arg-type]


async def test_a_film_is_found_by_its_imdb_id_in_one_request() -> None:
    """`/movie/{tt}` still takes an IMDb id, with appended parts, although nobody has documented it."""
    outcome = await ask("tt0133093", "movie", append=("credits", "watch/providers"))
    assert isinstance(outcome, Found)
    assert (outcome.tmdb_id, outcome.missing_parts, outcome.record["imdb_id"]) == (603, (), "tt0133093")


@pytest.mark.parametrize(
    ("id_", "kind", "expected"),
    [
        ("tt0959621", "tv", Missing("episode", 1396)),
        ("tt9999999999", "movie", Missing("unknown")),
    ],
)
async def test_what_is_no_film_is_recognized(id_: str, kind: str, expected: object) -> None:
    """`/find` still fills the array of what the id really is."""
    assert await ask(id_, kind) == expected


@pytest.mark.parametrize(
    ("id_", "kind", "found"), [("tt0903747", "movie", ("tv", 1396)), ("tt0133093", "tv", ("movie", 603))]
)
async def test_a_title_of_the_other_kind_is_found_as_what_it_is(id_: str, kind: str, found: tuple[str, int]) -> None:
    """A series among the movies, or a movie among the series, has its record in the same look-up."""
    outcome = await ask(id_, kind)
    assert isinstance(outcome, Found)
    assert (outcome.kind, outcome.tmdb_id, outcome.record["id"]) == (*found, found[1])


async def test_a_double_hit_is_what_its_csv_says() -> None:
    """tt0137523 is Fight Club, and was an unrelated series besides."""
    outcome = await ask("tt0137523", "movie")
    assert isinstance(outcome, Found)
    assert outcome.record["title"] == "Fight Club"


async def test_a_wrong_key_is_refused() -> None:
    """The cheapest request detects a wrong key."""
    limiter = RateLimiter(10, clock=asyncio.get_running_loop().time)
    async with Tmdb(
        base_url="https://api.themoviedb.org/3", key="f" * 32, language=None, append=(), limiter=limiter, concurrency=2
    ) as tmdb:
        with pytest.raises(TmdbRefusedError, match="code 7"):
            await tmdb.check_key()
