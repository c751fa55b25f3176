"""Landing: nothing that has landed is taken away by a failure, and no file is deleted but emptied, and named."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent
from loops import no_wait
from test_harvest import ids_from

from harvester.commands.harvest import harvest
from harvester.commands.verify import verify
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, healthy, refusal, scripted
from harvester.fakes.s3_proxy import s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.formats.registry import FORMATS, decode
from harvester.model.batch import cut
from harvester.model.ids_file import decode_outcomes
from harvester.model.layout import Layout
from harvester.model.receipt import decode_receipt
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from harvester.commands.harvest import HarvestReport
    from harvester.fakes.s3_proxy import Call, Forward
    from harvester.fakes.s3_server import S3Server
    from harvester.model.ids import Collection, Kind
    from harvester.model.receipt import Receipt
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

FORMS = list(FORMATS)
EMPTY: dict[str, bytes] = {"jsonl": b"", "array": b"[]"}


def failing(*ids: str) -> Any:
    """TMDB never has a usable record of these titles, whichever kind they are asked for as."""
    return scripted({(route, id_): [always(refusal(500))] for id_ in ids for route in ("movie", "tv")})


async def harvested(settings: Settings, *, again: bool = False) -> tuple[HarvestReport, Layout]:
    report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait), again=again)
    return report, Layout(settings.s3_prefix, settings.s3_key_template, report.run)


async def lake(bucket: Bucket) -> dict[str, list[dict[str, Any]]]:
    """The records of each data file, by key, as a reader sees them."""
    keys = [*await bucket.objects("Raw/API/Movies/"), *await bucket.objects("Raw/API/Series/")]
    return {key: decode(await bucket.read(key) or b"") for key in keys}


async def records_of(bucket: Bucket) -> dict[str, dict[str, Any]]:
    """The record of each title; none stands twice."""
    records = [record for in_file in (await lake(bucket)).values() for record in in_file]
    assert len({record["imdb_id"] for record in records}) == len(records)
    return {record["imdb_id"]: record for record in records}


async def receipt_of(bucket: Bucket, layout: Layout, collection: Collection, name: str) -> Receipt:
    key = layout.receipt_key(collection, name)
    return decode_receipt(layout, key, await bucket.read(key))


def sides(collection: Collection) -> tuple[Kind, Kind]:
    """The kind of a collection's own titles, and that of reclassified ones."""
    return ("movie", "tv") if collection == "Movies" else ("tv", "movie")


# A title that fails keeps its record


@pytest.mark.parametrize(
    ("where", "collection", "form"),
    [
        ("own", "Movies", "jsonl"),
        ("other", "Movies", "array"),
        ("both", "Movies", "jsonl"),
        ("own", "Series", "array"),
        ("other", "Series", "jsonl"),
        ("both", "Series", "array"),
    ],
)
async def test_a_title_that_fails_keeps_the_record_that_has_landed(
    where: str, collection: Collection, form: str, bucket: Bucket, settings_for: Make
) -> None:
    """The outcome is failed, kept, exit 5, and the record stays as it was, in its place, until it is found again."""
    ids = ids_from(1, 130)
    own, other = sides(collection)
    kinds = dict.fromkeys(ids, own) | dict.fromkeys(ids[10:20], other)
    poison = {"own": [ids[3]], "other": [ids[12]], "both": [ids[0], ids[10], ids[19], ids[99]]}[where]
    names = [batch.name for batch in cut(collection, ids)]
    async with fake_tmdb(catalog=Catalog(kinds=kinds)) as tmdb:
        settings = settings_for(tmdb.url, output_format=form, **{collection.lower(): ids})
        await harvested(settings)
        before = await records_of(bucket)
        tmdb.faults = failing(*poison)
        tmdb.catalog = replace(tmdb.catalog, titles=dict.fromkeys(ids, ("Another title", "2001")))
        for again in (True, False):  # a new generation, and a retry that fails as well
            report, layout = await harvested(settings, again=again)
            assert (report.status, report.exit_code) == ("failed", 5)
            assert report.failed == dict.fromkeys(poison, "http_500")
            assert (report.totals.found, dict(report.totals.failed)) == (130 - len(poison), {"http_500": len(poison)})
            receipt = await receipt_of(bucket, layout, collection, names[0])
            for id_ in poison:
                assert receipt.outcomes[id_] == {
                    "outcome": "failed",
                    "reason": "http_500",
                    "kept": True,
                    "kind": kinds[id_],
                    "tmdb_id": before[id_]["harvest"]["tmdb_id"],
                }
            records = await records_of(bucket)
            assert {id_: records[id_] for id_ in poison} == {id_: before[id_] for id_ in poison}
            assert records.keys() == before.keys()
            assert [id_ for id_ in ids if records[id_] == before[id_]] == poison
            outcomes = dict(decode_outcomes(await bucket.read(layout.outcomes_key) or b""))
            assert [id_ for id_ in ids if outcomes[id_] != receipt.outcomes.get(id_, outcomes[id_])] == []
            for key, in_file in (await lake(bucket)).items():
                kind = "movie" if key.startswith("Raw/API/Movies/") else "tv"
                name = key.rpartition("/")[2].removesuffix(".json")
                batch = ids[:100] if name == names[0] else ids[100:]
                assert [record["imdb_id"] for record in in_file] == [id_ for id_ in batch if kinds[id_] == kind]
            verification = await verify(settings)
            assert (verification.problems, verification.records) == ([], 130)
        tmdb.faults = healthy
        asked = Counter(tmdb.asked)
        report, _ = await harvested(settings)
        assert (report.status, report.totals.found, report.failed) == ("closed", 130, {})
        assert {id_ for route, id_ in tmdb.asked - asked if route != "authentication"} == set(ids[:100])
        records = await records_of(bucket)
        assert [id_ for id_ in ids if records[id_] == before[id_]] == []
        verification = await verify(settings)
    assert (verification.problems, verification.records) == ([], 130)


async def test_a_title_that_was_missing_and_fails_now_keeps_nothing(bucket: Bucket, settings_for: Make) -> None:
    """There was no record, so nothing says that one was kept, and none stands."""
    movies = ids_from(1, 30)
    async with fake_tmdb(catalog=Catalog(kinds={movies[3]: "unknown"}, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvested(settings)
        tmdb.faults = failing(movies[3])
        report, layout = await harvested(settings, again=True)
        verification = await verify(settings)
    receipt = await receipt_of(bucket, layout, "Movies", next(cut("Movies", movies)).name)
    assert receipt.outcomes[movies[3]] == {"outcome": "failed", "reason": "http_500"}
    assert (report.failed, verification.problems, verification.records) == ({movies[3]: "http_500"}, [], 29)
    assert (await records_of(bucket)).keys() == {*movies} - {movies[3]}


@pytest.mark.parametrize(
    "damage", [b"", b'{"imdb_id":"tt0000004"', b"nonsense", b"[1,2]\n", b'[{"imdb_id":4}]\n', "record"]
)
async def test_of_a_damaged_file_nothing_is_kept_that_is_no_record(
    damage: bytes | str, bucket: Bucket, settings_for: Make
) -> None:
    """A title that fails while its file is damaged has no record to keep; its neighbours are repaired all the same."""
    movies = ids_from(1, 30)
    poison = movies[3]
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvested(settings)
        [key] = await bucket.objects("Raw/API/Movies/")
        record = orjson.loads((await bucket.read(key) or b"").split(b"\n")[3])
        assert record.pop("harvest")
        assert record["imdb_id"] == poison
        await bucket.put(key, damage if isinstance(damage, bytes) else orjson.dumps(record | {"harvest": [5]}) + b"\n")
        tmdb.faults = failing(poison)
        report, layout = await harvested(settings)
        verification = await verify(settings)
        assert (report.failed, verification.problems, verification.records) == ({poison: "http_500"}, [], 29)
        receipt = await receipt_of(bucket, layout, "Movies", next(cut("Movies", movies)).name)
        assert receipt.outcomes[poison] == {"outcome": "failed", "reason": "http_500"}
        tmdb.faults = healthy
        report, _ = await harvested(settings)
        verification = await verify(settings)
    assert (report.status, verification.problems, verification.records) == ("closed", [], 30)


async def test_a_title_that_tmdb_has_no_more_keeps_nothing(bucket: Bucket, settings_for: Make) -> None:
    """Missing is an answer and no failure: the record goes with it, and nothing is left to be tried again."""
    movies = ids_from(1, 30)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvested(settings)
        tmdb.catalog = Catalog(kinds={movies[3]: "unknown"}, otherwise="movie")
        report, _ = await harvested(settings, again=True)
        verification = await verify(settings)
    assert (report.status, dict(report.totals.missing)) == ("closed", {"unknown": 1})
    assert (verification.problems, (await records_of(bucket)).keys()) == ([], {*movies} - {movies[3]})


async def test_a_title_found_as_the_other_kind_stands_in_one_place(bucket: Bucket, settings_for: Make) -> None:
    """Reclassified between two generations, also when it fails in between, it leaves one folder for the other."""
    movies = ids_from(1, 30)
    title = movies[3]
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvested(settings)
        tmdb.faults = failing(title)
        report, layout = await harvested(settings, again=True)
        assert report.failed == {title: "http_500"}
        tmdb.faults, tmdb.catalog = healthy, Catalog(kinds={title: "tv"}, otherwise="movie")
        report, layout = await harvested(settings)
        verification = await verify(settings)
    assert (report.status, verification.problems, verification.records) == ("closed", [], 30)
    [name] = [batch.name for batch in cut("Movies", movies)]
    files = {key: [record["imdb_id"] for record in in_file] for key, in_file in (await lake(bucket)).items()}
    assert files == {
        layout.data_key("Movies", name): [id_ for id_ in movies if id_ != title],
        layout.data_key("Series", name): [title],
    }


# A file that is no longer filled


@pytest.mark.parametrize("form", FORMS)
async def test_a_file_that_its_batch_no_longer_fills_is_emptied_and_named(
    form: str, bucket: Bucket, settings_for: Make
) -> None:
    """Two files became one: the second is there, empty, named with 0 records; filled again, it is as before."""
    movies = ids_from(1, 110)
    large, small = Catalog(otherwise="movie", record_bytes=130_000), Catalog(otherwise="movie")
    first, last = (batch.name for batch in cut("Movies", movies))
    async with fake_tmdb(catalog=large) as tmdb:
        settings = settings_for(tmdb.url, movies=movies, output_format=form)
        _, layout = await harvested(settings)
        keys = [layout.data_key("Movies", first), layout.data_key("Movies", first, 2), layout.data_key("Movies", last)]
        for catalog, counts in ((small, [100, 0]), (small, [100, 0]), (large, None)):
            tmdb.catalog = catalog
            report, _ = await harvested(settings, again=True)
            assert (report.status, report.totals.found, report.totals.files) == ("closed", 110, 3)
            receipt = await receipt_of(bucket, layout, "Movies", first)
            assert [file.key for file in receipt.files] == keys[:2]
            if counts:
                assert [file.records for file in receipt.files] == counts
                assert (await bucket.read(keys[1]), receipt.files[1].bytes) == (EMPTY[form], len(EMPTY[form]))
            else:
                assert sum(file.records for file in receipt.files) == 100
                assert min(file.records for file in receipt.files) > 0
            verification = await verify(settings)
            assert (verification.problems, verification.records) == ([], 110)
            assert sorted(await records_of(bucket)) == sorted(movies)
            assert set(await bucket.objects("Raw/API/Movies/")) == set(keys)
            report, _ = await harvested(settings)
            assert report.status == "nothing_to_do"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("collection", ["Movies", "Series"])
async def test_a_file_of_reclassified_titles_that_are_none_any_more_is_emptied_and_named(
    collection: Collection, form: str, bucket: Bucket, settings_for: Make
) -> None:
    """What was a series is a movie again: its file among the series is empty, and no title stands twice."""
    ids = ids_from(1, 130)
    own, other = sides(collection)
    names = [batch.name for batch in cut(collection, ids)]
    folder: Collection = "Series" if collection == "Movies" else "Movies"
    async with fake_tmdb(catalog=Catalog(kinds={ids[3]: other, ids[120]: other}, otherwise=own)) as tmdb:
        settings = settings_for(tmdb.url, output_format=form, **{collection.lower(): ids})
        _, layout = await harvested(settings)
        tmdb.catalog = Catalog(kinds={ids[120]: other}, otherwise=own)
        report, _ = await harvested(settings, again=True)
        verification = await verify(settings)
        assert (report.status, report.totals.found, verification.problems, verification.records) == (
            "closed",
            130,
            [],
            130,
        )
        receipt = await receipt_of(bucket, layout, collection, names[0])
        assert [(file.key, file.records) for file in receipt.files] == [
            (layout.data_key(collection, names[0]), 100),
            (layout.data_key(folder, names[0]), 0),
        ]
        assert await bucket.read(layout.data_key(folder, names[0])) == EMPTY[form]
        assert (await records_of(bucket)).keys() == {*ids}
        tmdb.catalog = Catalog(kinds={ids[3]: other, ids[120]: other}, otherwise=own)
        report, _ = await harvested(settings, again=True)
        verification = await verify(settings)
        assert (report.status, verification.problems, verification.records) == ("closed", [], 130)
    receipt = await receipt_of(bucket, layout, collection, names[0])
    assert [file.records for file in receipt.files] == [99, 1]


@pytest.mark.parametrize("form", FORMS)
async def test_the_file_of_a_batch_that_finds_nothing_any_more_is_emptied_and_named(
    form: str, bucket: Bucket, settings_for: Make
) -> None:
    """TMDB has none of its titles now; a batch that never found any has no file at all."""
    movies = ids_from(1, 120)
    first, last = (batch.name for batch in cut("Movies", movies))
    gone = dict.fromkeys(movies[100:], "unknown")
    async with fake_tmdb(catalog=Catalog(kinds=dict.fromkeys(movies[:100], "unknown"), otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies, output_format=form)
        _, layout = await harvested(settings)
        key = layout.data_key("Movies", last)
        assert list(await lake(bucket)) == [key]
        tmdb.catalog = Catalog(kinds=dict.fromkeys(movies[:100], "unknown") | gone)
        report, _ = await harvested(settings, again=True)
        verification = await verify(settings)
    assert (report.status, report.totals.found, report.totals.files, verification.problems) == ("closed", 0, 1, [])
    assert await lake(bucket) == {key: []}
    assert await bucket.read(key) == EMPTY[form]
    files = [(await receipt_of(bucket, layout, "Movies", name)).files for name in (first, last)]
    assert [[(file.key, file.records) for file in some] for some in files] == [[], [(key, 0)]]


async def test_what_a_killed_harvest_has_landed_without_a_receipt_is_overwritten_or_emptied(
    bucket: Bucket, settings_for: Make
) -> None:
    """Killed between data and receipt, with more files than are needed now: the next harvest leaves each title once."""
    movies = ids_from(1, 110)
    large = Catalog(kinds={movies[7]: "tv"}, otherwise="movie", record_bytes=130_000)
    first = next(cut("Movies", movies)).name
    async with fake_tmdb(catalog=large) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        _, layout = await harvested(settings)
        await bucket.delete(layout.summary_key)
        await bucket.delete(layout.receipt_key("Movies", first))
        tmdb.catalog = Catalog(otherwise="movie")
        report, _ = await harvested(settings)
        verification = await verify(settings)
    assert (report.status, verification.problems, verification.records) == ("closed", [], 110)
    receipt = await receipt_of(bucket, layout, "Movies", first)
    assert {file.key: file.records for file in receipt.files} == {
        layout.data_key("Movies", first): 100,
        layout.data_key("Movies", first, 2): 0,
        layout.data_key("Series", first): 0,
    }


async def test_a_harvest_deletes_nothing(s3: S3Server, bucket: Bucket, settings_for: Make) -> None:
    """It needs no `s3:DeleteObject`: not for failed titles, nor for emptied, stale or foreign files, nor at closing."""
    movies = ids_from(1, 120)
    refused: list[str] = []

    async def refuse(call: Call, forward: Forward) -> web.StreamResponse:
        refused.append(call.key)
        return await forward()

    async with (
        fake_tmdb(catalog=Catalog(kinds={movies[3]: "tv"}, otherwise="movie")) as tmdb,
        s3_proxy(s3.endpoint) as link,
    ):
        link.rules["delete"] = refuse
        settings = settings_for(tmdb.url, movies=movies, aws_endpoint_url_s3=link.url)
        _, layout = await harvested(settings)
        first = next(cut("Movies", movies)).name
        foreign = {
            f"{layout.data_folder('Movies')}curated.parquet": b"x",
            layout.data_key("Movies", first) + ".bak": b"y",
            layout.data_key("Movies", "tt0000009-tt0000941-408b65d2"): b"z",
            layout.data_key("Movies", first, 7): b'{"imdb_id":"tt0000001"}',
        }
        for key, body in foreign.items():
            await bucket.put(key, body)
        await harvested(settings)
        tmdb.faults, tmdb.catalog = failing(movies[50]), Catalog(otherwise="movie")
        await harvested(settings, again=True)
        tmdb.faults = healthy
        report, _ = await harvested(settings)
    assert (report.status, refused, link.times("delete")) == ("closed", [], 0)
    for key, body in foreign.items():
        expected = b"" if key == layout.data_key("Movies", first, 7) else body  # under a name of its own batch
        assert await bucket.read(key) == expected
