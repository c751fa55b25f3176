"""The whole flow, against a TMDB stand-in and a real S3 server."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson

from harvester.demo.catalog import Catalog
from harvester.demo.tmdb_stand_in import stand_in
from harvester.harvest import Stop, harvest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Silent

    from harvester.s3 import Bucket
    from harvester.settings import Settings

Make = "Callable[..., Settings]"


def ids_from(first: int, count: int) -> list[str]:
    return [f"tt{number:07d}" for number in range(first, first + count)]


async def records_in(bucket: Bucket, folder: str) -> list[dict[str, Any]]:
    """Every record below a folder, read as a data lake's reader would."""
    records = []
    for key in await bucket.objects(folder):
        body = await bucket.read(key)
        records += [orjson.loads(line) for line in (body or b"").splitlines()]
    return records


async def test_every_id_ends_in_one_outcome_and_the_books_close(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """Every distinct id ends in exactly one recorded outcome, proved against the bucket before exit 0."""
    movies, series = ids_from(1, 250), ids_from(900_001, 30)
    kinds = {**dict.fromkeys(series, "tv"), **dict.fromkeys(movies[::50], "unknown"), movies[7]: "episode"}
    async with stand_in(catalog=Catalog(kinds=kinds, otherwise="movie")) as tmdb:
        report = await harvest(settings_for(tmdb.url, movies=movies, series=series), watcher=watcher, stop=Stop())
    assert (report.status, report.exit_code) == ("closed", 0)
    books = report.books
    assert (books.rows, books.ids, books.duplicates) == (560, 280, 280)
    assert (books.found, dict(books.missing)) == (274, {"unknown": 5, "episode": 1})
    found = [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")]
    found += [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Series/")]
    assert sorted(found) == sorted(set(movies + series) - set(movies[::50]) - {movies[7]})
    outcomes: Counter[str] = Counter()
    for key in await bucket.objects(f"Raw/API/_harvest/{report.run}/receipts/"):
        outcomes.update(list(orjson.loads(await bucket.read(key) or b"")["outcomes"]))
    assert outcomes == Counter(movies + series)


async def test_a_finished_run_of_today_is_left_alone(bucket: Bucket, settings_for: Make, watcher: Silent) -> None:
    """Starting again after the end asks TMDB nothing and says so."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 5))
        await harvest(settings, watcher=watcher, stop=Stop())
        before = tmdb.asked.total()
        report = await harvest(settings, watcher=watcher, stop=Stop())
        assert (report.status, report.exit_code, report.books.found) == ("nothing_to_do", 0, 5)
        assert tmdb.asked.total() == before


async def test_a_film_that_is_a_series_lands_among_the_series(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """An id that TMDB knows only as the other kind is harvested as what it is, in a batch made of such ids."""
    movies = ids_from(1, 150)
    strays = [movies[3], movies[120]]
    async with stand_in(catalog=Catalog(kinds=dict.fromkeys(strays, "tv"), otherwise="movie")) as tmdb:
        report = await harvest(settings_for(tmdb.url, movies=movies), watcher=watcher, stop=Stop())
        assert tmdb.asked["movie", strays[0]] == 1
        assert tmdb.asked["find", strays[0]] == 1
        assert tmdb.asked["tv", strays[0]] == 1
    assert (report.status, report.books.found) == ("closed", 150)
    series = await records_in(bucket, "Raw/API/Series/")
    assert [record["imdb_id"] for record in series] == strays
    assert {record["harvest"]["kind"] for record in series} == {"tv"}
    keys = list(await bucket.objects("Raw/API/Series/"))
    assert [key.rpartition("/")[2][:19] for key in keys] == [f"{strays[0]}-{strays[1]}"]
