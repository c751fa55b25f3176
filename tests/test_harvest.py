"""The whole flow, against a TMDB stand-in and a real S3 server."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from conftest import Silent, client_of
from loops import no_wait

from harvester.batches import cut
from harvester.demo.catalog import Catalog
from harvester.demo.faults import always, refusal, scripted, silence
from harvester.demo.s3_link import s3_link
from harvester.demo.tmdb_stand_in import stand_in
from harvester.harvest import OPEN_BYTES, harvest
from harvester.stop import Stop
from harvester.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.demo.s3_link import Call, Forward
    from harvester.demo.s3_server import S3Server
    from harvester.s3 import Bucket
    from harvester.settings import Settings

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


async def test_a_batch_without_a_receipt_is_done_again_under_the_same_names(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """Killed between data and receipt, a batch is not done; doing it again doubles nothing and asks nobody else."""
    movies = ids_from(1, 300)
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, watcher=watcher, stop=Stop())
        receipts = list(await bucket.objects(f"{watcher.run.layout.folder}receipts/"))
        await bucket.delete(watcher.run.layout.summary_key)
        await bucket.delete(receipts[1])
        asked = Counter(tmdb.asked)
        report = await harvest(settings, watcher=watcher, stop=Stop())
        again = Counter(tmdb.asked) - asked
    assert report.status == "closed"
    assert sum(count for (route, _), count in again.items() if route == "movie") == 100
    assert len(await bucket.objects("Raw/API/Movies/")) == 3
    assert sorted(record["imdb_id"] for record in await records_in(bucket, "Raw/API/Movies/")) == movies


@pytest.mark.parametrize("harm", ["deleted", "truncated", "edited", "receipt edited"])
async def test_what_was_damaged_is_mended_by_the_next_harvest(
    harm: str, bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """A batch is done only while its files are what its receipt says, also after the books were closed."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 200))
        await harvest(settings, watcher=watcher, stop=Stop())
        key = next(iter(await bucket.objects("Raw/API/Movies/")))
        body = await bucket.read(key) or b""
        receipt = next(iter(await bucket.objects(f"{watcher.run.layout.folder}receipts/")))
        match harm:
            case "deleted":
                await bucket.delete(key)
            case "truncated":
                await bucket.put(key, body[:-10])
            case "edited":
                await bucket.put(key, body.replace(b"tt0000005", b"tt0000006"))
            case _:
                await bucket.put(receipt, (await bucket.read(receipt) or b"").replace(b"tt0000005", b"tt0000995"))
        asked = tmdb.asked.total()
        report = await harvest(settings, watcher=watcher, stop=Stop())
        assert tmdb.asked.total() - asked == 101  # the key, and the one batch
        proof = await verify(settings)
    assert (report.status, report.books.found, proof.problems) == ("closed", 200, [])
    assert len(await records_in(bucket, "Raw/API/Movies/")) == 200


async def test_a_copied_object_with_another_mark_is_still_what_landed(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """Bytes decide: a bucket copied by other tools has other ETags, and nothing is asked again."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 20))
        await harvest(settings, watcher=watcher, stop=Stop())
        key = next(iter(await bucket.objects("Raw/API/Movies/")))
        await bucket.put(key, await bucket.read(key) or b"")
        report = await harvest(settings, watcher=watcher, stop=Stop())
    assert report.status == "nothing_to_do"


async def test_a_failed_title_keeps_its_batch_open_and_its_neighbours_land(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """A poison id ends the run with exit 5, named; healed, the next run asks for its batch only."""
    movies = ids_from(1, 250)
    poison = movies[150]
    script = {("movie", poison): [refusal(500)] * 6}
    async with stand_in(catalog=Catalog(otherwise="movie"), faults=scripted(script)) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, watcher=watcher, stop=Stop(), sleep=no_wait)
        assert (report.status, report.exit_code, report.failed) == ("failed", 5, {poison: "http_500"})
        assert len(await records_in(bucket, "Raw/API/Movies/")) == 249
        papers = await bucket.objects(watcher.run.layout.folder)
        failed = watcher.run.layout.failed_key("Movies", next(cut("Movies", movies[100:])).name)
        assert [key for key in papers if "/failed/" in key] == [failed]
        assert watcher.run.layout.summary_key not in papers
        asked = Counter(tmdb.asked)
        report = await harvest(settings, watcher=watcher, stop=Stop())
        again = Counter(tmdb.asked) - asked
    assert (report.status, report.books.found) == ("closed", 250)
    assert {id_ for route, id_ in again if route == "movie"} == set(movies[100:200])
    papers = await bucket.objects(watcher.run.layout.folder)
    assert [key for key in papers if "/failed/" in key] == []


async def test_a_moved_title_that_failed_is_tried_again_in_its_own_batch(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """Moved titles keep their batch from run to run, so that what had landed of it is not doubled."""
    movies = ids_from(1, 120)
    strays = [movies[5], movies[60], movies[110]]
    script = {("tv", strays[1]): [refusal(500)] * 7}
    catalog = Catalog(kinds=dict.fromkeys(strays, "tv"), otherwise="movie")
    async with stand_in(catalog=catalog, faults=scripted(script)) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, watcher=watcher, stop=Stop(), sleep=no_wait)
        assert (report.status, report.failed) == ("failed", {strays[1]: "http_500"})
        asked = Counter(tmdb.asked)
        report = await harvest(settings, watcher=watcher, stop=Stop())
        again = Counter(tmdb.asked) - asked
        proof = await verify(settings)
    assert (report.status, report.books.found, proof.problems) == ("closed", 120, [])
    assert {(route, id_) for route, id_ in again if route != "authentication"} == {("tv", id_) for id_ in strays}
    assert [record["imdb_id"] for record in await records_in(bucket, "Raw/API/Series/")] == strays


async def test_a_limit_takes_whole_batches_and_the_next_run_goes_on(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """`--limit` stops after the batch that reaches it, with exit 75; nothing is asked twice after it."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 350))
        report = await harvest(settings, watcher=watcher, stop=Stop(limit=150))
        assert (report.status, report.exit_code, report.stopped_by) == ("stopped", 75, "limit")
        assert (report.books.found, report.batches_left) == (200, 2)
        report = await harvest(settings, watcher=watcher, stop=Stop())
        assert (report.status, report.books.found) == ("closed", 350)
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 1


async def test_asked_to_stop_it_lands_the_open_batches(bucket: Bucket, settings_for: Make) -> None:
    """A request to stop ends in exit 75 with every batch that was open landed, and few were."""
    stop = Stop()

    class Impatient(Silent):
        def title(self, told: Any) -> None:
            stop.ask("SIGTERM")

    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 500))
        impatient = Impatient()
        report = await harvest(settings, watcher=impatient, stop=stop)
        assert (report.status, report.exit_code, report.stopped_by) == ("stopped", 75, "SIGTERM")
        assert tmdb.asked.total() - 1 == report.books.found == 100 * len(impatient.receipts)
        assert 100 <= report.books.found <= 200


async def test_open_batches_are_given_up_when_the_time_to_drain_is_over(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """A title that does not answer cannot keep a container from stopping; its batch is left to the next run."""
    movies = ids_from(1, 200)
    stop = Stop()

    class Impatient(Silent):
        def batch(self, receipt: Any) -> None:
            stop.ask("SIGTERM", drain_seconds=0)

    quiet = scripted({("movie", movies[0]): [silence(60)]})
    async with stand_in(catalog=Catalog(otherwise="movie"), faults=quiet) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, watcher=Impatient(), stop=stop)
        assert (report.status, report.books.found) == ("stopped", 100)
        report = await harvest(settings, watcher=watcher, stop=Stop())
        assert (report.status, report.books.found) == ("closed", 200)


async def test_a_slow_title_keeps_nobody_else_waiting(bucket: Bucket, settings_for: Make) -> None:
    """While one title of the first batch is silent, all other batches are asked and land."""
    movies = ids_from(1, 1_000)
    order: list[str] = []
    stop = Stop()

    class Waiting(Silent):
        def batch(self, receipt: Any) -> None:
            order.append(receipt.batch)
            if len(order) == 9:
                stop.ask("enough", drain_seconds=0)

    quiet = scripted({("movie", movies[0]): [silence(60)]})
    async with stand_in(catalog=Catalog(otherwise="movie"), faults=quiet) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, watcher=Waiting(), stop=stop)
    assert sorted(order) == sorted(batch.name for batch in cut("Movies", movies[100:]))


async def test_again_harvests_anew_under_the_same_names(bucket: Bucket, settings_for: Make, watcher: Silent) -> None:
    """`--again` asks for everything once more, and an interrupted one is resumed without it."""
    movies = ids_from(1, 300)
    catalog = Catalog(kinds={movies[9]: "tv"}, otherwise="movie")
    async with stand_in(catalog=catalog) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, watcher=watcher, stop=Stop())
        keys = list(await bucket.objects("Raw/API/"))
        report = await harvest(settings, watcher=watcher, stop=Stop(limit=100), again=True)
        assert (report.status, report.books.found) == ("stopped", 99)
        report = await harvest(settings, watcher=watcher, stop=Stop())
        assert (report.status, report.books.found) == ("closed", 300)
        assert tmdb.asked["movie", movies[200]] == 2
        proof = await verify(settings)
    assert proof.problems == []
    assert list(await bucket.objects("Raw/API/")) == keys


async def test_more_than_ten_megabytes_land_as_several_files(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """A batch too large for one file is several, all named in its receipt, each within both limits."""
    async with stand_in(catalog=Catalog(otherwise="movie", record_bytes=262_000)) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 100))
        report = await harvest(settings, watcher=watcher, stop=Stop())
        proof = await verify(settings)
    listed = await bucket.objects("Raw/API/Movies/")
    assert [key.partition(".")[2] for key in listed] == ["2.json", "3.json", "json"]
    assert max(file.bytes for file in listed.values()) <= 10_000_000
    assert [file.key for file in watcher.receipts[0].files] == [min(listed, key=len), *list(listed)[:2]]
    assert (report.books.found, report.books.files, proof.problems) == (100, 3, [])


async def test_the_array_format_is_one_line_of_json_a_file(bucket: Bucket, settings_for: Make, watcher: Silent) -> None:
    """`--format array` lands what `multiline=true` readers want: one compact JSON array."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 10), output_format="array")
        await harvest(settings, watcher=watcher, stop=Stop())
        proof = await verify(settings)
    body = await bucket.read(next(iter(await bucket.objects("Raw/API/Movies/")))) or b""
    assert (len(orjson.loads(body)), body.count(b"\n"), proof.problems) == (10, 1, [])


async def test_an_id_in_both_csvs_is_a_movie(bucket: Bucket, settings_for: Make, watcher: Silent) -> None:
    """Movies come first: a series row of the same id is a duplicate, and the id has one outcome."""
    ids = ids_from(1, 3)
    async with stand_in(catalog=Catalog(kinds={ids[2]: "tv"}, otherwise="both")) as tmdb:
        report = await harvest(settings_for(tmdb.url, movies=ids[:2], series=ids[1:]), watcher=watcher, stop=Stop())
    assert (report.books.rows, report.books.ids, report.books.duplicates, report.books.found) == (8, 3, 5, 3)
    assert len(await records_in(bucket, "Raw/API/Movies/")) == 2


async def test_the_recorded_answers_come_back_out_of_the_bucket_as_they_were(
    bucket: Bucket, settings_for: Make, watcher: Silent, payloads: Path
) -> None:
    """Every record equals what TMDB sent, but for the two keys in front."""
    bodies = [
        orjson.loads(path.read_bytes()) for kind in ("movie", "tv") for path in sorted((payloads / kind).iterdir())
    ]
    movies, series = [body for body in bodies if "title" in body], [body for body in bodies if "name" in body]
    answers: dict[str, Any] = {"/3/authentication": {"success": True}}
    for number, body in enumerate(movies):
        answers[f"/3/movie/tt{number:07d}"] = body
    for number, body in enumerate(series, 5_000):
        row = {"tv_results": [{"id": number}], "movie_results": [], "person_results": []}
        answers[f"/3/find/tt{number:07d}"] = row
        answers[f"/3/tv/{number}"] = body

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(answers[request.path]), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        settings = settings_for(
            str(server.make_url("/3")), movies=ids_from(0, len(movies))[1:], series=ids_from(5_000, len(series))
        )
        report = await harvest(settings, watcher=watcher, stop=Stop())
    assert (report.status, report.books.found) == ("closed", len(bodies) - 1)
    landed = await records_in(bucket, "Raw/API/Movies/") + await records_in(bucket, "Raw/API/Series/")
    for record, sent in zip(landed, movies[1:] + series, strict=True):
        id_, told = record.pop("imdb_id"), record.pop("harvest")
        expected = dict(sent)
        assert told.get("tmdb_imdb_id", id_) == expected.pop("imdb_id", id_)
        assert record == expected


def at(time: str) -> Callable[[], str]:
    """A clock that stands still."""
    return lambda: f"{time}.000Z"


async def test_started_again_after_midnight_it_goes_on_under_its_own_date(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """What was begun yesterday lands under yesterday; what was finished yesterday is a new collection today."""
    evening, morning = at("2026-11-21T23:50:00"), at("2026-11-22T00:10:00")
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await harvest(settings, watcher=watcher, stop=Stop(limit=100), now=evening)
        report = await harvest(settings, watcher=watcher, stop=Stop(), now=morning)
        assert (report.status, report.run[:10], report.books.found) == ("closed", "2026-11-21", 150)
        assert len(await bucket.objects("Raw/API/Movies/2026/11/21/")) == 2
        report = await harvest(settings, watcher=watcher, stop=Stop(), now=morning)
        assert (report.status, report.run[:10], report.books.found) == ("closed", "2026-11-22", 150)
        assert len(await bucket.objects("Raw/API/Movies/2026/11/22/")) == 2


async def test_more_rows_of_the_same_ids_make_a_new_day_all_the_same(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """A CSV that grew by artists of known titles does not keep today from being collected."""
    movies = ids_from(1, 5)
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, watcher=watcher, stop=Stop(), now=at("2026-11-21T10:00:00"))
        more = settings_for(tmdb.url, movies=[*movies, movies[0]])
        report = await harvest(more, watcher=watcher, stop=Stop(), now=at("2026-11-22T10:00:00"))
    assert (report.status, report.run[:10], report.books.found, report.books.rows) == ("closed", "2026-11-22", 5, 12)


@pytest.mark.parametrize(("later", "day"), [("2026-11-22T01:00:00", "21"), ("2026-11-22T23:00:00", "22")])
async def test_a_title_that_fails_for_ever_does_not_keep_the_next_day_from_being_collected(
    later: str, day: str, bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """For half a day the failed titles of yesterday are tried again; after that a new collection begins."""
    movies = ids_from(1, 120)
    faults = scripted({("movie", movies[0]): [always(refusal(500))]})
    async with stand_in(catalog=Catalog(otherwise="movie"), faults=faults) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        told = [
            await harvest(settings, watcher=watcher, stop=Stop(), now=at(time), sleep=no_wait)
            for time in ("2026-11-21T22:00:00", later)
        ]
    assert [(report.status, report.run[:10]) for report in told] == [
        ("failed", "2026-11-21"),
        ("failed", f"2026-11-{day}"),
    ]


async def test_interrupted_again_is_gone_on_with_by_the_same_command(
    bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """`--again` begins anew what is finished, not what it has begun itself."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 300))
        await harvest(settings, watcher=watcher, stop=Stop())
        for left in (2, 1):
            report = await harvest(settings, watcher=watcher, stop=Stop(limit=100), again=True)
            assert (report.status, report.batches_left) == ("stopped", left)
        report = await harvest(settings, watcher=watcher, stop=Stop(), again=True)
        assert (report.status, report.books.found) == ("closed", 300)
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 2


async def test_an_upload_orphaned_by_a_kill_is_aborted_by_the_next_run_that_takes_its_batch(
    s3: S3Server, bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """Parts without an end are invisible and billed: ours are gone when the batch is, and nobody else's are touched."""
    movies = ids_from(1, 150)
    first, second = (f"Raw/API/Movies/2026/11/22/{batch.name}.json" for batch in cut("Movies", movies))
    foreign = "Raw/API/Movies/2026/11/22/export.json"
    noon = at("2026-11-22T12:00:00")
    async with client_of(s3) as client, stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        for key in (first, second, foreign):
            await client.create_multipart_upload(Bucket=bucket.name, Key=key)
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, watcher=watcher, stop=Stop(limit=100), now=noon)
        assert sorted(key for key, _ in await bucket.uploads("")) == sorted([second, foreign])
        await harvest(settings, watcher=watcher, stop=Stop(), now=noon)
        assert [key for key, _ in await bucket.uploads("")] == [foreign]


async def test_while_s3_does_not_answer_no_more_is_held_than_fits(
    s3: S3Server, bucket: Bucket, settings_for: Make, watcher: Silent
) -> None:
    """With records of 200 KB two batches are more than may be held: TMDB is asked for the third when one has landed."""
    size, opened = 200_000, asyncio.Event()
    assert 100 * size < OPEN_BYTES < 180 * size  # when the third is in line, 20 titles of the second are on their way

    async def held(_call: Call, forward: Forward) -> web.StreamResponse:
        await opened.wait()
        return await forward()

    async with stand_in(catalog=Catalog(otherwise="movie", record_bytes=size)) as tmdb, s3_link(s3.endpoint) as link:
        link.rules["create"] = held
        settings = settings_for(tmdb.url, movies=ids_from(1, 210), aws_endpoint_url_s3=link.url)
        harvesting = asyncio.ensure_future(harvest(settings, watcher=watcher, stop=Stop()))
        while link.times("create") < 2:
            await asyncio.sleep(0.01)
        assert Counter(route for route, _ in tmdb.asked.elements()) == {"authentication": 1, "movie": 200}
        opened.set()
        report = await harvesting
    assert (report.status, report.books.found) == ("closed", 210)
