"""Plan: what a harvest would do; only the bucket is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from conftest import Silent

from harvester.commands.harvest import harvest
from harvester.commands.plan import plan
from harvester.errors import SettingsError, StoreError
from harvester.fakes.catalog import Catalog
from harvester.fakes.tmdb import fake_tmdb
from harvester.runtime.shutdown import Shutdown
from harvester.tmdb.rate_limiter import SPACING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

NOBODY = "http://127.0.0.1:9/3"
"""Where no TMDB is: a request to it fails."""


def ids_from(first: int, count: int) -> list[str]:
    return [f"tt{number:07d}" for number in range(first, first + count)]


def batches_of(result: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """By collection: batches in all, done, and to do."""
    return {
        collection: (account["batches"], account["batches_done"], account["batches_to_do"])
        for collection, account in result["input"].items()
    }


async def test_a_new_run_is_counted_row_for_row(bucket: Bucket, settings_for: Make, tmp_path: Path) -> None:
    """Every row is an id, a duplicate or a reject, which is shown with its line; no key is needed for that."""
    (tmp_path / "some.csv").write_text("id|x\ntt0000001|a\ntt0000001|b\nnm0000002|c\ntt0000003|d\n", encoding="utf-8")
    settings = settings_for(NOBODY, movies_csv=str(tmp_path / "some.csv"), tmdb_api_key=None)
    planned = await plan(settings)
    assert planned["input"] == {
        "Movies": {
            "source": str(tmp_path / "some.csv"),
            "rows": 4,
            "ids": 2,
            "duplicates": 1,
            "rejected": 1,
            "rejects": [{"line": 4, "text": "nm0000002|c"}],
            "fresh": 0,
            "batches": 1,
            "batches_done": 0,
            "batches_to_do": 1,
        }
    }
    assert (planned["status"], planned["requests"]) == ("to_do", 2)


async def test_a_movie_costs_one_request_and_a_series_two(bucket: Bucket, settings_for: Make) -> None:
    """Requests are the least that is needed, and seconds what they take at the rate, its spacing included."""
    settings = settings_for(NOBODY, movies=ids_from(1, 250), series=ids_from(900_001, 130), tmdb_rate=25)
    planned = await plan(settings)
    assert batches_of(planned) == {"Movies": (3, 0, 3), "Series": (2, 0, 2)}
    assert planned["requests"] == 250 + 2 * 130
    assert (planned["rate_per_second"], planned["seconds"]) == (25, round(510 / 25 * SPACING, 1))


async def test_as_many_requests_are_made_as_were_planned(bucket: Bucket, settings_for: Make) -> None:
    """Where TMDB knows every title as what its CSV says, the harvest asks what the plan said, and the key."""
    async with fake_tmdb(catalog=Catalog(kinds=dict.fromkeys(ids_from(900_001, 3), "tv"))) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 5), series=ids_from(900_001, 3))
        planned = await plan(settings)
        assert (planned["requests"], tmdb.asked.total()) == (11, 0)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
        assert tmdb.asked.total() - tmdb.asked["authentication", ""] == 11
    assert report.run == planned["run"]


async def test_what_is_done_is_not_planned_again(bucket: Bucket, settings_for: Make) -> None:
    """After a part of a harvest only the rest is to do, of the same run; nobody is asked and nothing is written."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 350))
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=150))
        asked, before = tmdb.asked.total(), await bucket.objects("")
        planned = await plan(settings)
        assert tmdb.asked.total() == asked
    assert (planned["status"], planned["run"], planned["requests"]) == ("to_do", report.run, 150)
    assert batches_of(planned) == {"Movies": (4, 2, 2)}
    assert await bucket.objects("") == before


async def test_nothing_is_written_to_an_empty_bucket(bucket: Bucket, settings_for: Make) -> None:
    """Not even the plan itself: only a harvest begins a run."""
    await plan(settings_for(NOBODY, movies=ids_from(1, 3)))
    assert await bucket.objects("") == {}


async def test_a_finished_run_leaves_nothing_to_do(bucket: Bucket, settings_for: Make) -> None:
    """Today's harvest is done; `again` plans all of it anew."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 3))
        await harvest(settings, observer=Silent(), shutdown=Shutdown())
        planned = await plan(settings)
        anew = await plan(settings, again=True)
    assert (planned["status"], planned["requests"], planned["seconds"], batches_of(planned)) == (
        "nothing_to_do",
        0,
        0.0,
        {"Movies": (1, 1, 0)},
    )
    assert (anew["status"], anew["requests"], batches_of(anew)) == ("to_do", 3, {"Movies": (1, 0, 1)})


async def test_an_unfinished_run_is_gone_on_with_also_again(bucket: Bucket, settings_for: Make) -> None:
    """`again` is for what is finished: a restart with it plans no more than what is left."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 250))
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=150))
        planned = await plan(settings, again=True)
    assert (report.status, planned["run"], planned["requests"]) == ("stopped", report.run, 50)
    assert batches_of(planned) == {"Movies": (3, 2, 1)}


async def test_reclassified_titles_are_planned_with_their_batch(bucket: Bucket, settings_for: Make) -> None:
    """A title that TMDB has as the other kind is of the batch that its CSV says: done with it, and to do with it."""
    movies = ids_from(1, 4)
    async with fake_tmdb(catalog=Catalog(kinds=dict.fromkeys(movies[:2], "tv"), otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=Silent(), shutdown=Shutdown())
        done = await plan(settings)
        [reclassified] = await bucket.objects("Raw/API/Series/")
        await bucket.delete(reclassified)
        planned = await plan(settings)
    assert (done["status"], done["requests"], batches_of(done)) == ("nothing_to_do", 0, {"Movies": (1, 1, 0)})
    assert (planned["status"], planned["requests"], batches_of(planned)) == ("to_do", 4, {"Movies": (1, 0, 1)})


def csv_of(folder: Path, ids: list[str]) -> str:
    """A CSV of these ids, under a name of its own."""
    path = folder / f"{ids[0]}-{len(ids)}.csv"
    path.write_text("id\n" + "".join(f"{id_}\n" for id_ in ids), encoding="utf-8")
    return str(path)


def fresh_of(planned: dict[str, Any]) -> tuple[int, int]:
    """The movies that another run of the day has, and the requests."""
    return planned["input"]["Movies"]["fresh"], planned["requests"]


async def test_what_another_run_of_the_day_has_is_not_planned(
    bucket: Bucket, settings_for: Make, tmp_path: Path
) -> None:
    """Ids that stand already are counted as fresh, whether found or missing, and cost no request."""
    async with fake_tmdb(catalog=Catalog(kinds={"tt0000003": "unknown"})) as tmdb:
        first = settings_for(tmdb.url, movies_csv=csv_of(tmp_path, ids_from(1, 150)))
        grown = settings_for(tmdb.url, movies_csv=csv_of(tmp_path, ids_from(1, 380)))
        assert fresh_of(await plan(grown)) == (0, 380)
        await harvest(first, observer=Silent(), shutdown=Shutdown())
        planned = await plan(grown)
        assert (fresh_of(planned), batches_of(planned)) == ((150, 230), {"Movies": (3, 0, 3)})
        report = await harvest(grown, observer=Silent(), shutdown=Shutdown())
        assert (report.run, report.totals.fresh, report.totals.found) == (planned["run"], 150, 230)
        planned = await plan(grown)
        assert (planned["status"], planned["requests"]) == ("nothing_to_do", 0)
        assert batches_of(planned) == {"Movies": (3, 3, 0)}


async def test_what_another_run_has_got_since_the_cut_is_not_planned(
    bucket: Bucket, settings_for: Make, tmp_path: Path
) -> None:
    """The batches stay as they were cut, and the ids in them that need no request any more are fresh."""
    async with fake_tmdb() as tmdb:
        first = settings_for(tmdb.url, movies_csv=csv_of(tmp_path, ids_from(1, 250)))
        second = settings_for(tmdb.url, movies_csv=csv_of(tmp_path, ids_from(151, 30)))
        await harvest(first, observer=Silent(), shutdown=Shutdown(limit=100))
        await harvest(second, observer=Silent(), shutdown=Shutdown())
        planned = await plan(first)
        assert (fresh_of(planned), batches_of(planned)) == ((30, 120), {"Movies": (3, 1, 2)})
        before = tmdb.asked.total() - tmdb.asked["authentication", ""]
        report = await harvest(first, observer=Silent(), shutdown=Shutdown())
        assert tmdb.asked.total() - tmdb.asked["authentication", ""] - before == 120
    assert (report.status, report.totals.fresh) == ("closed", 30)


@pytest.mark.parametrize("other", [{"tmdb_language": "pt-BR"}, {"output_format": "array"}, {"tmdb_append": "credits"}])
async def test_other_options_on_the_same_day_are_refused(
    other: dict[str, str], bucket: Bucket, settings_for: Make
) -> None:
    """A plan says what a harvest would: a day has records of one form."""
    async with fake_tmdb() as tmdb:
        await harvest(settings_for(tmdb.url, movies=ids_from(1, 3)), observer=Silent(), shutdown=Shutdown())
    with pytest.raises(
        SettingsError,
        match="need the same options: give another --prefix, or clear that day first",
    ):
        await plan(settings_for(NOBODY, movies=ids_from(1, 3), **other))


async def test_planning_it_again_leaves_what_has_landed(bucket: Bucket, settings_for: Make) -> None:
    """`plan --again` is a question: whatever a harvest would do anew, the bucket stays as it is."""
    movies = ids_from(1, 4)
    async with fake_tmdb(catalog=Catalog(kinds={movies[0]: "tv"}, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=Silent(), shutdown=Shutdown())
        before = await bucket.objects("")
        await plan(settings, again=True)
    assert await bucket.objects("") == before


async def test_without_a_csv_there_is_nothing_to_plan(bucket: Bucket, settings_for: Make) -> None:
    """What is missing is a setting, and is reported before anybody is asked."""
    with pytest.raises(SettingsError, match="There is no CSV to read"):
        await plan(settings_for(NOBODY))


async def test_without_a_bucket_there_is_no_plan(bucket: Bucket, settings_for: Make) -> None:
    """A plan needs to see what is done: no such bucket is the store's error."""
    with pytest.raises(StoreError, match="NoSuchBucket"):
        await plan(settings_for(NOBODY, movies=ids_from(1, 3), s3_bucket="nobody-has-it"))
