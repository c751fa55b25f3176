"""The whole flow, against a TMDB stand-in and a real S3 server."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from conftest import Silent, client_of, manifest_of, receipts_of
from loops import no_wait

from harvester.commands.harvest import OPEN_BYTES, harvest
from harvester.commands.verify import verify
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, healthy, refusal, scripted, silence
from harvester.fakes.s3_proxy import s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.model.batch import cut
from harvester.model.ids_file import decode_outcomes
from harvester.model.manifest import decode_summary
from harvester.model.receipt import decode_receipt
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.fakes.s3_proxy import Call, Forward
    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]


def ids_from(first: int, count: int) -> list[str]:
    return [f"tt{number:07d}" for number in range(first, first + count)]


async def records_in(bucket: Bucket, folder: str) -> list[dict[str, Any]]:
    """Every record below a folder, read as a data lake's reader would."""
    records = []
    for key in await bucket.objects(folder):
        body = await bucket.read(key)
        records += [orjson.loads(line) for line in (body or b"").splitlines()]
    return records


async def ids_in(bucket: Bucket) -> list[str]:
    """The id of every record of the lake."""
    records = await records_in(bucket, "Raw/API/Movies/") + await records_in(bucket, "Raw/API/Series/")
    return [record["imdb_id"] for record in records]


async def test_every_id_ends_in_one_outcome_and_the_totals_reconcile(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """Every distinct id ends in exactly one recorded outcome, verified against the bucket before exit 0."""
    movies, series = ids_from(1, 250), ids_from(900_001, 30)
    kinds = {**dict.fromkeys(series, "tv"), **dict.fromkeys(movies[::50], "unknown"), movies[7]: "episode"}
    async with fake_tmdb(catalog=Catalog(kinds=kinds, otherwise="movie")) as tmdb:
        report = await harvest(
            settings_for(tmdb.url, movies=movies, series=series), observer=observer, shutdown=Shutdown()
        )
    assert (report.status, report.exit_code) == ("closed", 0)
    totals = report.totals
    assert (totals.rows, totals.ids, totals.duplicates) == (560, 280, 280)
    assert (totals.found, dict(totals.missing)) == (274, {"unknown": 5, "episode": 1})
    found = [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")]
    found += [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Series/")]
    assert sorted(found) == sorted(set(movies + series) - set(movies[::50]) - {movies[7]})
    outcomes: Counter[str] = Counter()
    for key in await bucket.objects(f"Raw/API/_harvest/{report.run}/receipts/"):
        outcomes.update(list(orjson.loads(await bucket.read(key) or b"")["outcomes"]))
    assert outcomes == Counter(movies + series)


async def test_a_finished_run_of_today_is_left_alone(bucket: Bucket, settings_for: Make, observer: Silent) -> None:
    """Starting again after the end asks TMDB nothing and says so."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 5))
        await harvest(settings, observer=observer, shutdown=Shutdown())
        before = tmdb.asked.total()
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        assert (report.status, report.exit_code, report.totals.found) == ("nothing_to_do", 0, 5)
        assert tmdb.asked.total() == before


async def test_a_movie_that_is_a_series_lands_among_the_series(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """An id that TMDB knows only as the other kind is harvested as what it is, in its own batch and receipt."""
    movies = ids_from(1, 150)
    reclassified = [movies[3], movies[120]]
    async with fake_tmdb(catalog=Catalog(kinds=dict.fromkeys(reclassified, "tv"), otherwise="movie")) as tmdb:
        report = await harvest(settings_for(tmdb.url, movies=movies), observer=observer, shutdown=Shutdown())
        for route in ("movie", "find", "tv"):
            assert tmdb.asked[route, reclassified[0]] == 1
        verification = await verify(settings_for(tmdb.url))
    assert (report.status, report.totals.found, report.totals.batches, verification.problems) == ("closed", 150, 2, [])
    series = await records_in(bucket, "Raw/API/Series/")
    assert [record["imdb_id"] for record in series] == reclassified
    assert {record["harvest"]["kind"] for record in series} == {"tv"}
    assert [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")] == [
        id_ for id_ in movies if id_ not in reclassified
    ]
    names = [batch.name for batch in cut("Movies", movies)]
    layout = observer.layout
    assert sorted(await bucket.objects("Raw/API/Series/")) == [layout.data_key("Series", name) for name in names]
    assert sorted(await bucket.objects(layout.receipts)) == [layout.receipt_key("Movies", name) for name in names]


async def test_a_series_that_is_a_movie_lands_among_the_movies(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """The reverse: an id of the series' CSV that TMDB has as a movie lands there, next to the movies' own batches."""
    movies, series = ids_from(1, 120), ids_from(900_001, 110)
    reclassified = [series[0], series[105]]
    catalog = Catalog(kinds=dict.fromkeys(series, "tv") | dict.fromkeys(reclassified, "movie"), otherwise="movie")
    async with fake_tmdb(catalog=catalog) as tmdb:
        report = await harvest(
            settings_for(tmdb.url, movies=movies, series=series), observer=observer, shutdown=Shutdown()
        )
        verification = await verify(settings_for(tmdb.url))
    assert (report.status, report.totals.found, report.totals.batches, verification.problems) == ("closed", 230, 4, [])
    assert [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")] == movies + reclassified
    assert [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Series/")] == [
        id_ for id_ in series if id_ not in reclassified
    ]


async def test_a_batch_without_a_receipt_is_done_again_under_the_same_names(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """Killed between data and receipt, a batch is not done; doing it again doubles nothing and asks for no other."""
    movies = ids_from(1, 300)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=observer, shutdown=Shutdown())
        receipts = list(await bucket.objects(f"{observer.layout.folder}receipts/"))
        await bucket.delete(observer.layout.summary_key)
        await bucket.delete(receipts[1])
        asked = Counter(tmdb.asked)
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        asked_again = Counter(tmdb.asked) - asked
    assert report.status == "closed"
    assert sum(count for (route, _), count in asked_again.items() if route == "movie") == 100
    assert len(await bucket.objects("Raw/API/Movies/")) == 3
    assert sorted(record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")) == movies


DAMAGES = ["deleted", "truncated", "emptied", "edited", "receipt edited", "receipt deleted", "receipt emptied"]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_was_damaged_is_repaired_by_the_next_harvest(
    damage: str, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """A batch is done only while its files are what its receipt says, also after the run was closed."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 200))
        await harvest(settings, observer=observer, shutdown=Shutdown())
        key = next(iter(await bucket.objects("Raw/API/Movies/")))
        body = await bucket.read(key) or b""
        receipt = next(iter(await bucket.objects(observer.layout.receipts)))
        match damage:
            case "deleted":
                await bucket.delete(key)
            case "truncated":
                await bucket.put(key, body[:-10])
            case "emptied":
                await bucket.put(key, b"")
            case "edited":
                await bucket.put(key, body.replace(b"tt0000005", b"tt0000006"))
            case "receipt edited":
                await bucket.put(receipt, (await bucket.read(receipt) or b"").replace(b"tt0000005", b"tt0000995"))
            case "receipt deleted":
                await bucket.delete(receipt)
            case _:
                await bucket.put(receipt, b"")
        asked = tmdb.asked.total()
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        assert tmdb.asked.total() - asked == 101  # the key, and the one batch
        verification = await verify(settings)
        after = await harvest(settings, observer=observer, shutdown=Shutdown())
    assert (report.status, report.totals.found, verification.problems) == ("closed", 200, [])
    assert after.status == "nothing_to_do"
    assert len(await records_in(bucket, "Raw/API/Movies/")) == 200


@pytest.mark.parametrize("what", ["ids", "manifest", "summary", "outcomes"])
@pytest.mark.parametrize("damage", ["deleted", "nonsense"])
async def test_of_a_closed_run_nothing_is_asked_again_for_the_sake_of_what_is_written_about_it(
    what: str, damage: str, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """Ids, manifest, summary or outcomes lost or damaged: they are written anew from what has landed, and verified."""
    movies = ids_from(1, 150)
    async with fake_tmdb(catalog=Catalog(kinds={movies[7]: "tv"}, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=observer, shutdown=Shutdown())
        layout = observer.layout
        key = {
            "ids": layout.ids_key((await manifest_of(bucket, layout)).generation),
            "manifest": layout.manifest_key,
            "summary": layout.summary_key,
            "outcomes": layout.outcomes_key,
        }[what]
        await (bucket.delete(key) if damage == "deleted" else bucket.put(key, b"nonsense"))
        asked = Counter(tmdb.asked)
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        asked_again = Counter(tmdb.asked) - asked
        verification = await verify(settings)
        last = await harvest(settings, observer=observer, shutdown=Shutdown())
    assert (report.totals.found, verification.problems, last.status) == (150, [], "nothing_to_do")
    assert {route for route, _ in asked_again} <= {"authentication"}
    assert sorted(record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")) == sorted(
        set(movies) - {movies[7]}
    )


async def test_a_copied_object_with_another_etag_is_still_what_landed(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """Bytes decide: a bucket copied by other tools has other ETags, and no title is asked for again."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 120))
        await harvest(settings, observer=observer, shutdown=Shutdown())
        before = await bucket.objects("Raw/API/Movies/")
        for key in before:
            await bucket.put(key, await bucket.read(key) or b"")
        copied = await bucket.objects("Raw/API/Movies/")
        assert {key for key in before if before[key].etag != copied[key].etag} == before.keys()
        asked = Counter(tmdb.asked)
        reports = [await harvest(settings, observer=observer, shutdown=Shutdown()) for _ in range(2)]
        verification = await verify(settings)
        assert {route for route, _ in tmdb.asked - asked} <= {"authentication"}
    assert [(report.exit_code, report.totals.found) for report in reports] == [(0, 120)] * 2
    assert (reports[-1].status, verification.problems) == ("nothing_to_do", [])
    assert await bucket.objects("Raw/API/Movies/") == copied


async def test_a_failed_title_keeps_its_batch_open_and_its_neighbours_land(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """A poison id ends the run with exit 5, named; healed, the next run asks for its batch only."""
    movies = ids_from(1, 250)
    poison = movies[150]
    script = {("movie", poison): [refusal(500)] * 6}
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=scripted(script)) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(sleep=no_wait))
        assert (report.status, report.exit_code, report.failed) == ("failed", 5, {poison: "http_500"})
        assert len(await records_in(bucket, "Raw/API/Movies/")) == 249
        layout = observer.layout
        names = [batch.name for batch in cut("Movies", movies)]
        assert sorted(await bucket.objects(layout.receipts)) == [layout.receipt_key("Movies", name) for name in names]
        receipt = decode_receipt(
            layout,
            layout.receipt_key("Movies", names[1]),
            await bucket.read(layout.receipt_key("Movies", names[1])),
        )
        assert receipt.outcomes[poison] == {"outcome": "failed", "reason": "http_500"}
        verification = await verify(settings)
        assert (verification.problems, verification.totals, verification.records) == ([], report.totals, 249)
        asked = Counter(tmdb.asked)
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        asked_again = Counter(tmdb.asked) - asked
        verification = await verify(settings)
    assert (report.status, report.totals.found, verification.problems) == ("closed", 250, [])
    assert {id_ for route, id_ in asked_again if route == "movie"} == set(movies[100:200])
    assert sorted(await bucket.objects(layout.receipts)) == [layout.receipt_key("Movies", name) for name in names]


async def test_totals_with_failed_titles_are_written_and_the_retry_writes_them_again(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """They reconcile, so there are outcomes and a summary, which say who failed and, after the retry, that none did."""
    movies = ids_from(1, 120)
    poison = movies[110]
    faults = scripted({("movie", poison): [refusal(500)] * 6})
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=faults) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        for status, failed in (("failed", {"http_500": 1}), ("closed", {})):
            report = await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(sleep=no_wait))
            assert report.status == status
            layout = observer.layout
            summary = decode_summary(layout, await bucket.read(layout.summary_key))
            assert summary.generation == (await manifest_of(bucket, layout)).generation
            assert (summary.totals["failed_by_reason"], summary.totals) == (failed, report.totals.as_json())
            outcomes = dict(decode_outcomes(await bucket.read(layout.outcomes_key) or b""))
            assert list(outcomes) == movies
            assert outcomes[poison]["outcome"] == ("failed" if failed else "found")
    assert len(await records_in(bucket, "Raw/API/Movies/")) == 120


async def test_a_reclassified_title_that_failed_is_tried_again_in_its_own_batch(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """It belongs to its batch from run to run: that is done again as a whole, and what had landed is not doubled."""
    movies = ids_from(1, 220)
    reclassified = [movies[5], movies[60], movies[110], movies[210]]
    script = {("tv", reclassified[1]): [refusal(500)] * 7}
    catalog = Catalog(kinds=dict.fromkeys(reclassified, "tv"), otherwise="movie")
    async with fake_tmdb(catalog=catalog, faults=scripted(script)) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(sleep=no_wait))
        assert (report.status, report.failed) == ("failed", {reclassified[1]: "http_500"})
        assert [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Series/")] == [
            reclassified[0],
            *reclassified[2:],
        ]
        asked = Counter(tmdb.asked)
        report = await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(sleep=no_wait))
        asked_again = Counter(tmdb.asked) - asked
        verification = await verify(settings)
    assert (report.status, report.totals.found, verification.problems) == ("closed", 220, [])
    assert {id_ for route, id_ in asked_again if route == "movie"} == set(movies[:100])
    assert {id_ for route, id_ in asked_again if route == "tv"} == set(reclassified[:2])
    assert [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Series/")] == reclassified


async def test_a_limit_takes_whole_batches_and_the_next_run_goes_on(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """`--limit` stops after the batch that reaches it, with exit 75; nothing is asked twice after it."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 350))
        report = await harvest(settings, observer=observer, shutdown=Shutdown(limit=150))
        assert (report.status, report.exit_code, report.stopped_by) == ("stopped", 75, "limit")
        assert (report.totals.found, report.batches_left) == (200, 2)
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        assert (report.status, report.totals.found) == ("closed", 350)
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 1


async def test_asked_to_stop_it_lands_the_open_batches(bucket: Bucket, settings_for: Make) -> None:
    """A request to stop ends in exit 75 with every batch that was open landed, and few were."""
    shutdown = Shutdown()

    class Impatient(Silent):
        def title(self, event: Any) -> None:
            shutdown.request("SIGTERM")

    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 500))
        impatient = Impatient()
        report = await harvest(settings, observer=impatient, shutdown=shutdown)
        assert (report.status, report.exit_code, report.stopped_by) == ("stopped", 75, "SIGTERM")
        assert tmdb.asked.total() - 1 == report.totals.found == 100 * len(impatient.batches)
        assert 100 <= report.totals.found <= 200


async def test_open_batches_are_given_up_when_the_time_to_drain_is_over(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """A title that does not answer cannot keep a container from stopping; its batch is left to the next run."""
    movies = ids_from(1, 200)
    shutdown = Shutdown()

    class Impatient(Silent):
        def batch(self, event: Any) -> None:
            shutdown.request("SIGTERM", drain_seconds=0)

    quiet = scripted({("movie", movies[0]): [always(silence(60))]})
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=quiet) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, observer=Impatient(), shutdown=shutdown)
        assert (report.status, report.totals.found) == ("stopped", 100)
        tmdb.faults = healthy
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        assert (report.status, report.totals.found) == ("closed", 200)


async def test_a_slow_title_keeps_no_other_waiting(bucket: Bucket, settings_for: Make) -> None:
    """While one title of the first batch is silent, all other batches are asked and land."""
    movies = ids_from(1, 600)
    landed: list[str] = []
    shutdown = Shutdown()

    class Waiting(Silent):
        def batch(self, event: Any) -> None:
            landed.append(event.batch)
            if len(landed) == 5:
                shutdown.request("enough", drain_seconds=0)

    quiet = scripted({("movie", movies[0]): [always(silence(60))]})
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=quiet) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=Waiting(), shutdown=shutdown)
    assert sorted(landed) == sorted(batch.name for batch in cut("Movies", movies[100:]))


async def test_again_harvests_anew_under_the_same_names(bucket: Bucket, settings_for: Make, observer: Silent) -> None:
    """`--again` asks for everything once more, and an interrupted one is resumed without it."""
    movies = ids_from(1, 300)
    catalog = Catalog(kinds={movies[9]: "tv"}, otherwise="movie")
    async with fake_tmdb(catalog=catalog) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=observer, shutdown=Shutdown())
        keys = sorted(await bucket.objects("Raw/API/Movies/")) + sorted(await bucket.objects("Raw/API/Series/"))
        receipts = sorted(await bucket.objects(observer.layout.receipts))
        first = await manifest_of(bucket, observer.layout)
        report = await harvest(settings, observer=observer, shutdown=Shutdown(limit=100), again=True)
        assert (report.status, report.totals.found, report.batches_left) == ("stopped", 100, 2)
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        assert (report.status, report.totals.found) == ("closed", 300)
        assert Counter(tmdb.asked[route, id_] for route, id_ in tmdb.asked if route == "movie") == {2: 300}
        assert tmdb.asked["tv", movies[9]] == 2
        verification = await verify(settings)
    assert verification.problems == []
    assert sorted(await bucket.objects("Raw/API/Movies/")) + sorted(await bucket.objects("Raw/API/Series/")) == keys
    assert sorted(await bucket.objects(observer.layout.receipts)) == receipts
    second = await manifest_of(bucket, observer.layout)
    assert (second.run, second.batches, second.input) == (first.run, first.batches, first.input)
    assert second.generation != first.generation


@pytest.mark.parametrize("limit", [1, 100, 200])
async def test_again_takes_nothing_away_that_has_landed(
    limit: int, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """Begun anew and stopped early, the day's folder still has every title, once: files are replaced one by one."""
    movies, series = ids_from(1, 250), ids_from(900_001, 30)
    catalog = Catalog(kinds=dict.fromkeys(series, "tv") | {movies[9]: "tv", movies[201]: "unknown"}, otherwise="movie")
    found = sorted([*movies, *series])
    found.remove(movies[201])
    async with fake_tmdb(catalog=catalog) as tmdb:
        settings = settings_for(tmdb.url, movies=movies, series=series)
        await harvest(settings, observer=observer, shutdown=Shutdown())
        report = await harvest(settings, observer=observer, shutdown=Shutdown(limit=limit), again=True)
        assert report.status == "stopped"
        assert sorted(await ids_in(bucket)) == found
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        verification = await verify(settings)
    assert (report.status, report.totals.found, verification.problems) == ("closed", 279, [])
    assert sorted(await ids_in(bucket)) == found


async def test_more_than_ten_megabytes_land_as_several_files(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """A batch too large for one file is several, all named in its receipt, each within both limits."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie", record_bytes=262_000)) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 100))
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
        verification = await verify(settings)
    listed = await bucket.objects("Raw/API/Movies/")
    assert [key.partition(".")[2] for key in listed] == ["2.json", "3.json", "json"]
    assert max(file.bytes for file in listed.values()) <= 10_000_000
    [receipt] = await receipts_of(bucket, observer.layout)
    assert [file.key for file in receipt.files] == [min(listed, key=len), *list(listed)[:2]]
    assert (report.totals.found, report.totals.files, verification.problems) == (100, 3, [])


async def test_the_array_format_is_one_line_of_json_a_file(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """`--format array` lands what `multiline=true` readers want: one compact JSON array."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 10), output_format="array")
        await harvest(settings, observer=observer, shutdown=Shutdown())
        verification = await verify(settings)
    body = await bucket.read(next(iter(await bucket.objects("Raw/API/Movies/")))) or b""
    assert (len(orjson.loads(body)), body.count(b"\n"), verification.problems) == (10, 1, [])


async def test_an_id_in_both_csvs_is_a_movie(bucket: Bucket, settings_for: Make, observer: Silent) -> None:
    """Movies come first: a series row of the same id is a duplicate, and the id has one outcome."""
    ids = ids_from(1, 3)
    async with fake_tmdb(catalog=Catalog(kinds={ids[2]: "tv"}, otherwise="both")) as tmdb:
        report = await harvest(
            settings_for(tmdb.url, movies=ids[:2], series=ids[1:]), observer=observer, shutdown=Shutdown()
        )
    assert (report.totals.rows, report.totals.ids, report.totals.duplicates, report.totals.found) == (8, 3, 5, 3)
    assert len(await records_in(bucket, "Raw/API/Movies/")) == 2


def recorded_imdb_id(body: dict[str, Any]) -> str | None:
    """The IMDb id in a recorded answer, read here and not by the harvester, whose count is compared with it."""
    return body.get("imdb_id") or (body.get("external_ids") or {}).get("imdb_id")


async def test_the_recorded_answers_come_back_out_of_the_bucket_as_they_were(
    bucket: Bucket, settings_for: Make, observer: Silent, payloads: Path
) -> None:
    """Every record equals what TMDB sent, but for the two keys in front; also one that TMDB has under another id."""
    bodies = [
        orjson.loads(path.read_bytes()) for kind in ("movie", "tv") for path in sorted((payloads / kind).iterdir())
    ]
    answers: dict[str, Any] = {"/3/authentication": {"success": True}}
    sent: dict[str, Any] = {}
    made = iter(ids_from(1, len(bodies)))
    for body in bodies:
        own = recorded_imdb_id(body)
        id_ = next(made) if own is None or own in sent else own  # recorded more than once: the rest under other ids
        sent[id_] = body
        kind = "movie" if "title" in body else "tv"
        answers[f"/3/find/{id_}"] = {"movie_results": [], "tv_results": [], f"{kind}_results": [{"id": body["id"]}]}
        answers[f"/3/movie/{id_}" if kind == "movie" else f"/3/tv/{body['id']}"] = body
    movies = [id_ for id_, body in sent.items() if "title" in body]
    series = [id_ for id_, body in sent.items() if "name" in body]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(answers[request.path]), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        settings = settings_for(str(server.make_url("/3")), movies=movies, series=series)
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
    others = sum(recorded_imdb_id(body) not in (None, id_) for id_, body in sent.items())
    assert others > 0
    assert (report.status, report.totals.found, report.totals.other_ids) == ("closed", len(bodies), others)
    landed = await records_in(bucket, "Raw/API/Movies/") + await records_in(bucket, "Raw/API/Series/")
    assert [record["imdb_id"] for record in landed] == movies + series
    for record in landed:
        id_, about = record.pop("imdb_id"), record.pop("harvest")
        expected = dict(sent[id_])
        if about["kind"] == "tv":
            expected.pop("external_ids", None)  # asked for by us, for the IMDb id in it
        assert about.get("tmdb_imdb_id", id_) == expected.pop("imdb_id", id_)
        assert record == expected


async def test_interrupted_again_is_gone_on_with_by_the_same_command(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """`--again` begins anew what is finished, not what it has begun itself."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 300))
        await harvest(settings, observer=observer, shutdown=Shutdown())
        for left in (2, 1):
            report = await harvest(settings, observer=observer, shutdown=Shutdown(limit=100), again=True)
            assert (report.status, report.batches_left) == ("stopped", left)
        report = await harvest(settings, observer=observer, shutdown=Shutdown(), again=True)
        assert (report.status, report.totals.found) == ("closed", 300)
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 2


async def test_an_upload_orphaned_by_a_kill_is_aborted_by_the_next_harvest(
    s3: S3Server, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """Parts without an end are invisible and billed: those of any batch of the day are gone, no others are."""
    movies = ids_from(1, 150)
    keys = [f"Raw/API/{{}}/2026/11/22/{batch.name}.json" for batch in cut("Movies", movies)]
    ours = [
        keys[0].format("Movies"),
        keys[1].format("Movies"),
        keys[1].format("Series"),
        keys[0].format("Movies").replace(".json", ".2.json"),
    ]
    foreign = [
        "Raw/API/Movies/2026/11/22/export.json",
        keys[0].format("Movies") + ".bak",
        keys[0].format("Movies").replace("/22/", "/23/"),
        keys[0].format("Movies").replace("Raw/API", "Raw/API2"),
    ]
    async with client_of(s3) as client, fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        for key in (*ours, *foreign):
            await client.create_multipart_upload(Bucket=bucket.name, Key=key)
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(
            settings,
            observer=observer,
            shutdown=Shutdown(limit=100),
            clock=Clock(now=lambda: "2026-11-22T12:00:00.000Z"),
        )
        assert report.status == "stopped"
        assert sorted(key for key, _ in await bucket.uploads("")) == sorted(foreign)
        await harvest(
            settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=lambda: "2026-11-22T12:30:00.000Z")
        )
        assert sorted(key for key, _ in await bucket.uploads("")) == sorted(foreign)


async def test_uploads_of_a_dead_holders_run_are_aborted_by_the_next_holder(
    s3: S3Server, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """The lease names the run of the harvest that was killed: its orphans are aborted even if it is never resumed."""
    movies, others = ids_from(1, 120), ids_from(1_001, 20)
    [batch] = cut("Movies", others)
    async with client_of(s3) as client, fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=others)
        await harvest(
            settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=lambda: "2026-11-20T12:00:00.000Z")
        )
        for folder in ("Raw/API/Movies/2026/11/20", "Raw/API/Series/2026/11/20", "Raw/API/Movies/2026/11/19"):
            await client.create_multipart_upload(Bucket=bucket.name, Key=f"{folder}/{batch.name}.json")
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(
            settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=lambda: "2026-11-22T12:00:00.000Z")
        )
    assert [key for key, _ in await bucket.uploads("")] == [f"Raw/API/Movies/2026/11/19/{batch.name}.json"]


async def test_while_s3_does_not_answer_no_more_is_held_than_fits(
    s3: S3Server, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """With records of 200 KB two batches are more than may be held: TMDB is asked for the third when one has landed."""
    size, opened, waiting = 200_000, asyncio.Event(), []
    assert 100 * size < OPEN_BYTES < 180 * size  # when the third is in line, 20 titles of the second are on their way

    async def wait(call: Call, forward: Forward) -> web.StreamResponse:
        if call.key.startswith("Raw/API/Movies/"):
            waiting.append(call.key)
            await opened.wait()
        return await forward()

    async with fake_tmdb(catalog=Catalog(otherwise="movie", record_bytes=size)) as tmdb, s3_proxy(s3.endpoint) as link:
        link.rules["create"] = wait
        settings = settings_for(tmdb.url, movies=ids_from(1, 210), aws_endpoint_url_s3=link.url)
        harvesting = asyncio.ensure_future(harvest(settings, observer=observer, shutdown=Shutdown()))
        while len(waiting) < 2:
            await asyncio.sleep(0.01)
        assert Counter(route for route, _ in tmdb.asked.elements()) == {"authentication": 1, "movie": 200}
        opened.set()
        report = await harvesting
    assert (report.status, report.totals.found) == ("closed", 210)
