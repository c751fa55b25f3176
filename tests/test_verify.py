"""Verify: every harm is named, and the next harvest mends it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent
from shells import Shell, kept

from harvester.demo.catalog import Catalog
from harvester.demo.tmdb_stand_in import stand_in
from harvester.errors import BooksError
from harvester.harvest import harvest
from harvester.stop import Stop
from harvester.verify import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from harvester.demo.s3_server import S3Server
    from harvester.s3 import Bucket
    from harvester.settings import Settings

    Make = Callable[..., Settings]

MOVIES = [f"tt{number:07d}" for number in range(1, 7)]
SERIES = [f"tt{number:07d}" for number in range(900_001, 900_004)]
UNKNOWN, STRAY = MOVIES[1], MOVIES[3]
CATALOG = Catalog(kinds={**dict.fromkeys([*SERIES, STRAY], "tv"), UNKNOWN: "unknown"})


@dataclass(slots=True)
class Lake:
    """A bucket with one run in it: a batch of movies, one of series, and one of the movie that is a series."""

    bucket: Bucket
    settings: Settings
    run: str
    movies: str
    series: str
    strays: str

    @property
    def folder(self) -> str:
        return f"Raw/API/_harvest/{self.run}/"

    def receipt(self, data: str, *, of: str = "receipts") -> str:
        """The key of the receipt that a data file's key stands in."""
        collection = "Movies" if "/Movies/" in data else "Series"
        return f"{self.folder}{of}/{collection}/{data.rpartition('/')[2]}"

    async def read(self, key: str) -> bytes:
        body = await self.bucket.read(key)
        assert body is not None, key
        return body

    async def edit(self, key: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the JSON object at `key`; a broken seal stays broken."""
        whole = orjson.loads(await self.read(key))
        change(whole)
        await self.bucket.put(key, orjson.dumps(whole))

    async def seal(self, key: str) -> None:
        """Seal an altered receipt, as the harvester would."""
        whole = orjson.loads(await self.read(key))
        del whole["seal"]
        await self.bucket.put(key, orjson.dumps(whole | {"seal": sha256(orjson.dumps(whole)).hexdigest()}))

    async def replace(self, key: str, old: bytes, new: bytes) -> None:
        body = await self.read(key)
        assert old in body
        await self.bucket.put(key, body.replace(old, new))

    async def fail(self, id_: str) -> None:
        """Leave the movies as a run does in which the outcome of this id was a failure, down to the last object."""

        def fail(receipt: dict[str, Any]) -> None:
            receipt["outcomes"][id_] = {"outcome": "failed", "reason": "http_500"}

        done, failed = self.receipt(self.movies), self.receipt(self.movies, of="failed")
        await self.bucket.put(failed, await self.read(done))
        await self.edit(failed, fail)
        await self.seal(failed)
        await self.bucket.delete(done)
        await self.bucket.delete(f"{self.folder}summary.json")

    async def harvest(self) -> str:
        return (await harvest(self.settings, watcher=Silent(), stop=Stop())).status

    async def problems(self) -> list[str]:
        return (await verify(self.settings)).problems


@pytest.fixture
async def lake(bucket: Bucket, settings_for: Make) -> AsyncIterator[Lake]:
    """The lake after a harvest, with its TMDB still up."""
    async with stand_in(catalog=CATALOG) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES)
        report = await harvest(settings, watcher=Silent(), stop=Stop())
        assert report.status == "closed"
        [movies] = await bucket.objects("Raw/API/Movies/")
        strays, series = sorted(await bucket.objects("Raw/API/Series/"))
        yield Lake(bucket, settings, report.run, movies, series, strays)


async def test_a_healthy_run_is_proved(lake: Lake) -> None:
    """What was read is what the books say: every record once, nothing written, nothing wrong."""
    before = await lake.bucket.objects("")
    proof = await verify(lake.settings)
    assert (proof.run, proof.problems, proof.records) == (lake.run, [], 8)
    assert proof.as_json()["status"] == "proved"
    books = proof.books
    assert (books.rows, books.ids, books.duplicates, books.rejected) == (18, 9, 9, 0)
    assert (books.found, dict(books.missing), books.failed.total()) == (8, {"unknown": 1}, 0)
    assert (books.batches, books.files, books.bytes) == (3, 3, sum(before[key].bytes for key in await data_of(lake)))
    assert await lake.bucket.objects("") == before


async def data_of(lake: Lake) -> list[str]:
    return [*await lake.bucket.objects("Raw/API/Movies/"), *await lake.bucket.objects("Raw/API/Series/")]


# --- harm, and its mending


async def data_deleted(lake: Lake) -> str:
    await lake.bucket.delete(lake.movies)
    return f"{lake.movies} is gone"


async def data_truncated(lake: Lake) -> str:
    await lake.bucket.put(lake.movies, (await lake.read(lake.movies))[:-100])
    return f"{lake.movies} is not what landed"


async def data_emptied(lake: Lake) -> str:
    await lake.bucket.put(lake.movies, b"")
    return f"{lake.movies} is not what landed: 0 bytes of "


async def data_edited(lake: Lake) -> str:
    await lake.replace(lake.movies, b'"status":"Released"', b'"status":"Rumoured"')
    return f"{lake.movies} is not what landed"


async def data_garbled(lake: Lake) -> str:
    body = await lake.read(lake.movies)
    await lake.bucket.put(lake.movies, body.replace(b"{", b"[", 1))
    return f"{lake.movies} has something else than records in it"


async def a_record_twice(lake: Lake) -> str:
    first, *rest = (await lake.read(lake.movies)).splitlines(keepends=True)
    await lake.bucket.put(lake.movies, b"".join([first, first, *rest]))
    return "files and receipt differ in in another order or twice"


async def a_record_moved(lake: Lake) -> str:
    first, *rest = (await lake.read(lake.movies)).splitlines(keepends=True)
    await lake.bucket.put(lake.movies, b"".join(rest))
    await lake.bucket.put(lake.series, await lake.read(lake.series) + first)
    return f"{lake.series} has records of movie, tv among Series"


async def too_many_records(lake: Lake) -> str:
    first = (await lake.read(lake.movies)).splitlines(keepends=True)[0]
    await lake.bucket.put(lake.movies, first * 101)
    return f"{lake.movies} is too large: 101 records"


async def data_doubled(lake: Lake) -> str:
    double = lake.movies.replace(".json", ".2.json")
    await lake.bucket.put(double, await lake.read(lake.movies))
    return f"{double} is in no receipt"


async def receipt_deleted(lake: Lake) -> str:
    key = lake.receipt(lake.movies)
    await lake.bucket.delete(key)
    return f"Movies/{key.rpartition('/')[2].removesuffix('.json')} has no receipt"


async def receipt_of_moved_deleted(lake: Lake) -> str:
    await lake.bucket.delete(lake.receipt(lake.strays))
    return f"{STRAY} has moved from Movies/"


async def receipt_garbled(lake: Lake) -> str:
    await lake.bucket.put(lake.receipt(lake.movies), b'{"batch":')
    return f"{lake.receipt(lake.movies)} is not a receipt"


async def receipt_with_another_id(lake: Lake) -> str:
    await lake.replace(lake.receipt(lake.movies), b"tt0000005", b"tt0000995")
    return f"{lake.receipt(lake.movies)} is a receipt of other ids"


async def receipt_with_another_outcome(lake: Lake) -> str:
    def found_to_missing(receipt: dict[str, Any]) -> None:
        receipt["outcomes"][MOVIES[0]] = {"outcome": "missing", "reason": "unknown"}

    await lake.edit(lake.receipt(lake.movies), found_to_missing)
    return f"{lake.receipt(lake.movies)} contradicts itself: 3 titles found, 4 records"


async def receipt_with_a_strange_outcome(lake: Lake) -> str:
    await lake.replace(lake.receipt(lake.movies), b'"missing"', b'"mislaid"')
    return f"{lake.receipt(lake.movies)} contradicts itself"


async def receipt_with_another_count(lake: Lake) -> str:
    await lake.edit(lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(records=5))
    return f"{lake.receipt(lake.movies)} contradicts itself: 4 titles found, 5 records"


async def receipt_with_other_bytes(lake: Lake) -> str:
    await lake.edit(lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(bytes=5))
    await lake.seal(lake.receipt(lake.movies))
    return f"{lake.movies} is not what landed"


async def receipt_with_another_digest(lake: Lake) -> str:
    await lake.edit(lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(sha256="0" * 64))
    return f"{lake.receipt(lake.movies)} has been edited"


async def plan_with_other_rows(lake: Lake) -> str:
    await lake.edit(f"{lake.folder}plan.json", lambda plan: plan["input"]["Movies"].update(ids=5, rows=99))
    return "of 8 ids 9 have an outcome"


async def plan_with_other_duplicates(lake: Lake) -> str:
    await lake.edit(f"{lake.folder}plan.json", lambda plan: plan["input"]["Movies"].update(duplicates=1))
    return f"{lake.folder}summary.json has other books than the receipts"


async def plan_with_other_settings(lake: Lake) -> str:
    await lake.edit(f"{lake.folder}plan.json", lambda plan: plan["settings"].update(tmdb_language="pt-BR"))
    return f"not {lake.run[-8:]}"


async def summary_deleted(lake: Lake) -> str:
    await lake.bucket.delete(f"{lake.folder}summary.json")
    return f"{lake.folder}summary.json is missing"


async def summary_edited(lake: Lake) -> str:
    await lake.edit(f"{lake.folder}summary.json", lambda summary: summary["books"].update(found=9))
    return f"{lake.folder}summary.json has other books than the receipts"


async def summary_garbled(lake: Lake) -> str:
    await lake.bucket.put(f"{lake.folder}summary.json", b"{}")
    return f"{lake.folder}summary.json is not a summary"


HARMS = [
    data_deleted,
    data_truncated,
    data_emptied,
    data_edited,
    data_garbled,
    a_record_twice,
    a_record_moved,
    too_many_records,
    data_doubled,
    receipt_deleted,
    receipt_of_moved_deleted,
    receipt_garbled,
    receipt_with_another_id,
    receipt_with_another_outcome,
    receipt_with_a_strange_outcome,
    receipt_with_another_count,
    receipt_with_other_bytes,
    receipt_with_another_digest,
    plan_with_other_rows,
    plan_with_other_duplicates,
    plan_with_other_settings,
    summary_deleted,
    summary_edited,
    summary_garbled,
]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
async def test_every_harm_is_named_and_mended_by_the_next_harvest(
    harm: Callable[[Lake], Awaitable[str]], lake: Lake
) -> None:
    """Verify names what is wrong, by its key; harvested again, the run is proved and every record is there once."""
    expected = await harm(lake)
    proof = await verify(lake.settings)
    assert [problem for problem in proof.problems if expected in problem] != [], proof.problems
    assert proof.as_json()["status"] == "wrong"
    assert await lake.harvest() in ("closed", "nothing_to_do")
    proof = await verify(lake.settings)
    assert (proof.problems, proof.records, proof.run) == ([], 8, lake.run)
    assert await data_of(lake) == [lake.movies, lake.strays, lake.series]


@pytest.mark.parametrize("harm", ["deleted", "garbled", "of another shape"])
async def test_a_lost_plan_is_told_and_written_again(harm: str, lake: Lake) -> None:
    """Without its plan a run cannot be verified, and says which it is; the next harvest writes it anew."""
    key = f"{lake.folder}plan.json"
    before = dict.fromkeys(await data_of(lake))
    match harm:
        case "deleted":
            await lake.bucket.delete(key)
        case "garbled":
            await lake.bucket.put(key, b'{"run":')
        case _:
            await lake.edit(key, lambda plan: plan.update(input=[], settings={}))
    with pytest.raises(BooksError, match=lake.run):
        await verify(lake.settings)
    assert await lake.harvest() == "closed"
    proof = await verify(lake.settings)
    assert (proof.problems, proof.records, proof.run) == ([], 8, lake.run)
    assert dict.fromkeys(await data_of(lake)) == before


STRANGERS = ["export.json", "part-00000.parquet", "deeper/export.json", "tt0000001-tt0000009-deadbeef.json"]


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_foreign_file_is_named_and_set_aside_by_the_next_harvest(name: str, lake: Lake) -> None:
    """Among the data files everything is read by Athena, so a stranger is a harm; it is not ours to remove."""
    stranger = f"{lake.movies.rpartition('/')[0]}/{name}"
    await lake.bucket.put(stranger, b"{}\n")
    assert await lake.problems() == [f"{stranger} is in no receipt"]
    assert await lake.harvest() == "closed"
    assert await lake.read(f"{lake.folder}aside/{stranger}") == b"{}\n"
    assert await lake.problems() == []
    assert await data_of(lake) == [lake.movies, lake.strays, lake.series]
    assert await lake.harvest() == "nothing_to_do"


@pytest.mark.parametrize("name", ["", "_SUCCESS", ".DS_Store", "_temporary/0/part.json", ".ipynb_checkpoints/a.json"])
async def test_what_readers_do_not_read_is_no_harm(name: str, lake: Lake) -> None:
    """Hidden files, and the mark of a folder that S3's console makes, are left where they are."""
    key = f"{lake.movies.rpartition('/')[0]}/{name}"
    await lake.bucket.put(key, b"")
    assert await lake.problems() == []
    assert await lake.harvest() == "nothing_to_do"


async def test_a_file_that_another_run_may_be_landing_is_left_alone(lake: Lake) -> None:
    """What is named as a batch is, while another run of the day is unfinished, may have its receipt in a moment."""
    await lake.bucket.put(f"Raw/API/_harvest/{lake.run[:10]}-00000000/plan.json", b"{}")
    landing = f"{lake.movies.rpartition('/')[0]}/tt0000150-tt0000159-deadbeef.json"
    await lake.bucket.put(landing, b"{}\n")
    assert await lake.harvest() == "nothing_to_do"
    assert await lake.read(landing) == b"{}\n"


async def test_files_of_another_day_in_the_same_folder_are_no_strangers(bucket: Bucket, settings_for: Make) -> None:
    """A template without a date puts all runs into one folder, where each has its own files."""
    template = "{prefix}/{collection}/{batch}.json"
    async with stand_in(catalog=CATALOG) as tmdb:
        for day, movies in enumerate(([MOVIES[0]], [MOVIES[2]]), 20):
            settings = settings_for(tmdb.url, movies=movies, s3_key_template=template)
            clock = f"2026-11-{day}T12:00:00.000Z"
            report = await harvest(settings, watcher=Silent(), stop=Stop(), now=lambda clock=clock: clock)
            assert report.status == "closed"
        proof = await verify(settings)
    assert (proof.run[:10], proof.problems) == ("2026-11-21", [])
    assert len(await bucket.objects("Raw/API/Movies/")) == 2


async def test_a_finished_run_of_an_earlier_day_is_not_said_to_be_mended(bucket: Bucket, settings_for: Make) -> None:
    """Harvested again it would be a new collection, so nobody is sent to do that."""
    async with stand_in(catalog=CATALOG) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES)
        await harvest(settings, watcher=Silent(), stop=Stop(), now=lambda: "2026-01-02T12:00:00.000Z")
        [movies] = await bucket.objects("Raw/API/Movies/")
        await bucket.delete(movies)
        proof = await verify(settings)
        assert (proof.past, proof.as_json()["mended_by_harvest"], f"{movies} is gone" in proof.problems) == (
            True,
            False,
            True,
        )
        assert (await harvest(settings, watcher=Silent(), stop=Stop())).status == "closed"
        assert (await verify(settings)).problems == []


async def test_all_harms_are_told_at_once(lake: Lake) -> None:
    """Verify does not stop at the first: each harm has its line, in order."""
    await lake.bucket.delete(lake.movies)
    await lake.bucket.put(lake.series, b"{}\n")
    problems = await lake.problems()
    assert problems == sorted(problems)
    assert {lake.movies, lake.series} <= {problem.split(" ")[0] for problem in problems}


async def command(lake: Lake, server: S3Server, folder: Path, *words: str) -> tuple[int, str]:
    """How `python -m harvester verify` ends, and what it prints."""
    environment = kept() | server.environment() | {"S3_BUCKET": lake.bucket.name, "COLUMNS": "300"}
    ended = await Shell(environment, folder).run("verify", *words)
    return ended.code, ended.out


async def test_the_command_ends_with_1_for_a_harm_and_with_0_without(s3: S3Server, lake: Lake, tmp_path: Path) -> None:
    """A script can rely on the exit code, and whoever reads it finds the harm by its key, in JSON too."""
    assert (await command(lake, s3, tmp_path))[0] == 0
    await lake.bucket.delete(lake.movies)
    code, out = await command(lake, s3, tmp_path)
    assert (code, f"{lake.movies} is gone" in out) == (1, True)
    code, out = await command(lake, s3, tmp_path, "--json")
    told = orjson.loads(out)
    assert (code, told["status"], f"{lake.movies} is gone" in told["problems"]) == (1, "wrong", True)


# --- what is no harm


async def test_a_paper_of_a_failed_try_beside_the_receipt_is_no_harm(lake: Lake) -> None:
    """Killed between writing the receipt and removing the paper in `failed/`, the batch is done all the same."""
    done = await lake.read(lake.receipt(lake.movies))
    await lake.fail(UNKNOWN)
    await lake.bucket.put(lake.receipt(lake.movies), done)
    assert await lake.harvest() == "closed"
    proof = await verify(lake.settings)
    assert (proof.problems, proof.books.ids, proof.books.accounted) == ([], 9, 9)


async def test_a_run_with_failed_titles_says_so_and_is_no_harm(lake: Lake) -> None:
    """Failed titles are counted, not wrong: their neighbours are proved, and no summary is looked for."""
    await lake.fail(UNKNOWN)
    proof = await verify(lake.settings)
    assert (proof.problems, dict(proof.books.failed), proof.records) == ([], {"http_500": 1}, 8)


async def test_an_unfinished_run_is_said_to_be_unfinished(bucket: Bucket, settings_for: Make) -> None:
    """Each batch that is to be done is named, and what has landed so far is proved."""
    movies = [f"tt{number:07d}" for number in range(1, 202)]
    async with stand_in() as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, watcher=Silent(), stop=Stop(limit=1))
        proof = await verify(settings)
    assert (report.status, proof.records) == ("stopped", 100)
    assert [problem.partition("-")[0] for problem in proof.problems] == ["Movies/tt0000101", "Movies/tt0000201"]
    assert {problem.partition(" ")[2] for problem in proof.problems} == {"has no receipt: harvest goes on with it"}


OTHERS: dict[str, dict[str, Any]] = {
    "the same ids and one more": {"movies": MOVIES, "series": [*SERIES, "tt0900009"]},
    "another language": {"movies": MOVIES, "series": SERIES, "tmdb_language": "pt-BR"},
    "another format": {"movies": MOVIES, "series": SERIES, "output_format": "array"},
}


async def test_two_runs_of_one_day_with_other_ids_do_not_disturb_each_other(lake: Lake, settings_for: Make) -> None:
    """Both are proved by their names, and the one without a name is the later one."""
    settings = settings_for(lake.settings.tmdb_base_url, movies=["tt0000007", "tt0000008"])
    second = await harvest(settings, watcher=Silent(), stop=Stop())
    proofs = [await verify(settings), await verify(settings, run=lake.run)]
    assert [(proof.run, proof.problems) for proof in proofs] == [(second.run, []), (lake.run, [])]


@pytest.mark.parametrize("other", OTHERS)
async def test_the_same_batch_landed_anew_on_the_same_day_is_the_later_runs(
    other: str, lake: Lake, settings_for: Make
) -> None:
    """Names follow from the ids alone, so the later run is proved, and the earlier says which one that is."""
    settings = settings_for(lake.settings.tmdb_base_url, **OTHERS[other])
    second = await harvest(settings, watcher=Silent(), stop=Stop())
    proof = await verify(settings)
    assert (proof.run, proof.problems) == (second.run, [])
    before = (await verify(settings, run=lake.run)).problems
    assert f"{lake.movies} is not what landed: run {second.run} has landed it anew" in before


async def test_a_run_with_failed_titles_does_not_disturb_another_of_the_day(lake: Lake, settings_for: Make) -> None:
    """What has landed of a batch with a failed title is its run's, whoever verifies his own."""
    await lake.fail(UNKNOWN)
    settings = settings_for(lake.settings.tmdb_base_url, movies=["tt0000007"])
    await harvest(settings, watcher=Silent(), stop=Stop())
    assert (await verify(settings)).problems == []


# --- nothing to verify


async def test_an_empty_bucket_has_no_run_to_verify(bucket: Bucket, settings_for: Make) -> None:
    """Nothing is not proved: the sentence says where was looked, and what to do."""
    where = f"below s3://{bucket.name}/Raw/API/_harvest/: harvest first$"
    with pytest.raises(BooksError, match=f"^There is no run to verify {where}") as caught:
        await verify(settings_for("http://127.0.0.1:9/3"))
    assert caught.value.exit_code == 1


async def test_an_unknown_run_is_named(lake: Lake) -> None:
    """A mistyped name is told as it was typed."""
    with pytest.raises(BooksError, match="Raw/API/_harvest/2026-01-01-00000000"):
        await verify(lake.settings, run="2026-01-01-00000000")


async def test_another_folder_beside_the_runs_hides_none(lake: Lake) -> None:
    """Somebody's notes below `_harvest/` are no run, and the latest run is still found."""
    await lake.bucket.put("Raw/API/_harvest/notes/read-me.txt", b"hello")
    assert (await verify(lake.settings)).run == lake.run


async def test_verify_may_be_cancelled(lake: Lake) -> None:
    """Ctrl-C in the midst of reading ends it, and leaves nothing behind."""
    reading = asyncio.ensure_future(verify(lake.settings))
    await asyncio.wait([reading], timeout=0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
