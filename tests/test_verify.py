"""Verify: every harm is named, and what is harmed is done again by the next harvest; a day is proved over all its runs.

What harvest leaves where it is, and only `verify --repair` moves away or removes, is in `test_repair`.
"""

from __future__ import annotations

import asyncio
import gzip
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent, capture_logs, gzip_of
from contract import COMMON, OF_A_RUN, holds
from loops import no_wait
from shells import Shell, kept

from harvester.commands.harvest import harvest
from harvester.commands.verify import verify
from harvester.errors import CorruptLakeError, NewerFormatError, SettingsError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import refusal
from harvester.fakes.tmdb import fake_tmdb
from harvester.runtime.clock import Clock, utc_now
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from harvester.commands.verify import VerificationReport
    from harvester.fakes.faults import Asked, Fault
    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]
    Harm = Callable[["Lake"], Awaitable[str]]

MOVIES = [f"tt{number:07d}" for number in range(1, 7)]
SERIES = [f"tt{number:07d}" for number in range(900_001, 900_004)]
UNKNOWN, RECLASSIFIED = MOVIES[1], MOVIES[3]
CATALOG = Catalog(kinds={**dict.fromkeys([*SERIES, RECLASSIFIED], "tv"), UNKNOWN: "unknown"})

DAY = utc_now()[:10]
NOON = f"{DAY}T12:00:00.000Z"
"""When every harvest here takes place, so that midnight comes between no two of them."""

RUNS = "Raw/API/_harvest/"


@dataclass(slots=True)
class Lake:
    """A bucket with a closed run in it: a batch of movies, one of which TMDB has as a series, and a batch of series.

    Attributes:
        settings: Of the run.
        tmdb: Still up.
        failing: Ids for which TMDB has no usable answer.
        run: The run's name.
        movies: Key of the movies' data file.
        reclassified: Key of the same batch's data file among the series.
        series: Key of the series' data file.
    """

    bucket: Bucket
    settings: Settings
    tmdb: FakeTmdb
    failing: set[str]
    folder_of_csvs: Path
    make: Make
    run: str = ""
    movies: str = ""
    reclassified: str = ""
    series: str = ""

    @property
    def folder(self) -> str:
        return f"{RUNS}{self.run}/"

    @property
    def manifest(self) -> str:
        return f"{self.folder}manifest.json"

    @property
    def summary(self) -> str:
        return f"{self.folder}summary.json"

    @property
    def outcomes(self) -> str:
        return f"{self.folder}outcomes.jsonl.gz"

    def receipt(self, data: str) -> str:
        """The key of the receipt that names the data file."""
        return f"{self.folder}receipts/{'Series' if data == self.series else 'Movies'}/{data.rpartition('/')[2]}"

    async def ids_key(self) -> str:
        """The key of the ids of the run, of which there is one generation."""
        [key] = await self.bucket.objects(f"{self.folder}ids-")
        return key

    async def data(self) -> list[str]:
        """Keys of everything in the data folders."""
        return [*await self.bucket.objects("Raw/API/Movies/"), *await self.bucket.objects("Raw/API/Series/")]

    async def read(self, key: str) -> bytes:
        body = await self.bucket.read(key)
        assert body is not None, key
        return body

    async def edit(self, key: str, change: Callable[[dict[str, Any]], object], *, with_checksum: bool) -> None:
        """Change the JSON object at `key`: with the checksum that fits, or with that of what it was."""
        whole = orjson.loads(await self.read(key))
        change(whole)
        if with_checksum:
            del whole["checksum"]
            whole |= {"checksum": sha256(orjson.dumps(whole)).hexdigest()}
        await self.bucket.put(key, orjson.dumps(whole))

    async def edit_lines(self, key: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Change the gzip of JSON Lines at `key`."""
        rows = [orjson.loads(line) for line in gzip.decompress(await self.read(key)).splitlines()]
        change(rows)
        await self.bucket.put(key, gzip_of(b"".join(orjson.dumps(row) + b"\n" for row in rows)))

    async def replace(self, key: str, old: bytes, new: bytes) -> None:
        body = await self.read(key)
        assert old in body
        await self.bucket.put(key, body.replace(old, new))

    async def harvest(self, settings: Settings | None = None, *, limit: int | None = None, again: bool = False) -> str:
        """Harvest as before, or with other settings; how it ended."""
        shutdown = Shutdown(limit=limit)
        report = await harvest(
            settings or self.settings,
            observer=Silent(),
            shutdown=shutdown,
            again=again,
            clock=Clock(sleep=no_wait, now=lambda: NOON),
        )
        return report.status

    async def another(self, movies: list[str], **more: Any) -> Settings:
        """Settings for another CSV of movies."""
        path = self.folder_of_csvs / f"another-{len(movies)}-{movies[0]}.csv"
        path.write_text("id\n" + "".join(f"{id_}\n" for id_ in movies), encoding="utf-8")
        return self.make(self.tmdb.url, movies_csv=str(path), **more)

    async def runs(self) -> list[str]:
        """All runs, by name."""
        return sorted(name for name in await self.bucket.folders(RUNS) if name[:10] == DAY)

    def asked_since(self, before: Counter[Any]) -> set[str]:
        """The ids that TMDB has been asked for since it had been asked for those before."""
        return {id_ for _, id_ in Counter(self.tmdb.asked) - before if id_}

    async def problems(self, **more: Any) -> list[str]:
        return (await verify(self.settings, **more)).problems


@asynccontextmanager
async def open_lake(bucket: Bucket, make: Make, folder: Path) -> AsyncIterator[Lake]:
    """The lake after a harvest, with its TMDB still up."""
    failing: set[str] = set()

    def fault(asked: Asked) -> Fault | None:
        return refusal(404, code=11) if asked.id in failing else None

    async with fake_tmdb(catalog=CATALOG, faults=fault) as tmdb:
        lake = Lake(bucket, make(tmdb.url, movies=MOVIES, series=SERIES), tmdb, failing, folder, make)
        assert await lake.harvest() == "closed"
        [lake.run] = await lake.runs()
        lake.movies, lake.reclassified, lake.series = await lake.data()
        yield lake


@pytest.fixture
async def lake(bucket: Bucket, settings_for: Make, tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(bucket, settings_for, tmp_path) as opened:
        yield opened


async def test_a_healthy_run_is_proved(lake: Lake) -> None:
    """What was read is what the totals say: every record once, nothing written, nothing wrong."""
    before = await lake.bucket.objects("")
    verification = await verify(lake.settings)
    assert (verification.runs, verification.problems, verification.records) == ([lake.run], [], 8)
    assert (verification.unfinished, verification.repaired) == ([], [])
    assert verification.as_json()["status"] == "proved"
    totals = verification.totals
    assert (totals.rows, totals.ids, totals.duplicates, totals.rejected) == (18, 9, 9, 0)
    assert (totals.found, dict(totals.missing), totals.failed.total(), totals.fresh) == (8, {"unknown": 1}, 0, 0)
    assert (totals.batches, totals.files, totals.bytes) == (2, 3, sum(before[key].bytes for key in await lake.data()))
    assert await lake.bucket.objects("") == before


# --- harm, of which the next harvest does a batch again


async def data_deleted(lake: Lake) -> str:
    await lake.bucket.delete(lake.movies)
    return f"{lake.movies} is gone"


async def data_truncated(lake: Lake) -> str:
    await lake.bucket.put(lake.movies, (await lake.read(lake.movies))[:-100])
    return f"{lake.movies} is not what landed"


async def data_emptied(lake: Lake) -> str:
    await lake.bucket.put(lake.movies, b"")
    return f"{lake.movies} is not what landed: it has 0 bytes, not "


async def data_edited(lake: Lake) -> str:
    await lake.replace(lake.movies, b'"status":"Released"', b'"status":"Rumoured"')
    return f"{lake.movies} is not what landed: its SHA-256 differs"


async def data_garbled(lake: Lake) -> str:
    body = await lake.read(lake.movies)
    await lake.bucket.put(lake.movies, body.replace(b"{", b"[", 1))
    return f"{lake.movies} has something other than records in it"


async def data_of_another_batch(lake: Lake) -> str:
    await lake.bucket.put(lake.movies, await lake.read(lake.series))
    return f"{lake.movies} has records of tv among Movies"


async def a_record_twice(lake: Lake) -> str:
    first, *rest = (await lake.read(lake.movies)).splitlines(keepends=True)
    await lake.bucket.put(lake.movies, b"".join([first, first, *rest]))
    return "files and receipt differ in in another order or twice"


async def records_in_another_order(lake: Lake) -> str:
    first, *rest = (await lake.read(lake.movies)).splitlines(keepends=True)
    await lake.bucket.put(lake.movies, b"".join([*rest, first]))
    return "files and receipt differ in in another order or twice"


async def too_many_records(lake: Lake) -> str:
    first = (await lake.read(lake.movies)).splitlines(keepends=True)[0]
    await lake.bucket.put(lake.movies, first * 101)
    return f"{lake.movies} is too large: 101 records"


async def a_record_among_the_other_kind(lake: Lake) -> str:
    first, *rest = (await lake.read(lake.movies)).splitlines(keepends=True)
    await lake.bucket.put(lake.movies, b"".join(rest))
    await lake.bucket.put(lake.reclassified, await lake.read(lake.reclassified) + first)
    return f"{lake.reclassified} has records of movie, tv among Series"


async def reclassified_deleted(lake: Lake) -> str:
    await lake.bucket.delete(lake.reclassified)
    return f"{lake.reclassified} is gone"


async def reclassified_edited(lake: Lake) -> str:
    await lake.replace(lake.reclassified, b'"popularity"', b'"popolarity"')
    return f"{lake.reclassified} is not what landed: its SHA-256 differs"


async def receipt_deleted(lake: Lake) -> str:
    key = lake.receipt(lake.movies)
    await lake.bucket.delete(key)
    return f"Movies/{key.rpartition('/')[2].removesuffix('.json')} has no receipt: harvest goes on with it"


async def receipt_garbled(lake: Lake) -> str:
    await lake.bucket.put(lake.receipt(lake.movies), b'{"batch":')
    return f"{lake.receipt(lake.movies)} is not a receipt"


async def receipt_of_another_batch(lake: Lake) -> str:
    await lake.bucket.put(lake.receipt(lake.movies), await lake.read(lake.receipt(lake.series)))
    return f"{lake.receipt(lake.movies)} is a receipt of other ids"


async def receipt_with_another_id(lake: Lake) -> str:
    def rename(receipt: dict[str, Any]) -> None:
        receipt["outcomes"] = {id_.replace("0000005", "0000995"): result for id_, result in receipt["outcomes"].items()}

    await lake.edit(lake.receipt(lake.movies), rename, with_checksum=True)
    return f"{lake.receipt(lake.movies)} is a receipt of other ids"


async def receipt_with_another_outcome(lake: Lake) -> str:
    def found_to_missing(receipt: dict[str, Any]) -> None:
        receipt["outcomes"][MOVIES[0]] = {"outcome": "missing", "reason": "unknown"}

    await lake.edit(lake.receipt(lake.movies), found_to_missing, with_checksum=True)
    return f"{lake.receipt(lake.movies)} contradicts itself: 4 titles with a record, 5 records"


async def receipt_with_an_unknown_outcome(lake: Lake) -> str:
    await lake.edit(
        lake.receipt(lake.movies),
        lambda receipt: receipt["outcomes"][UNKNOWN].update(outcome="mislaid"),
        with_checksum=True,
    )
    return f"{lake.receipt(lake.movies)} is not a receipt"


async def receipt_with_another_count(lake: Lake) -> str:
    await lake.edit(
        lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(records=5), with_checksum=True
    )
    return f"{lake.receipt(lake.movies)} contradicts itself: 5 titles with a record, 6 records"


async def receipt_with_other_bytes(lake: Lake) -> str:
    await lake.edit(lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(bytes=5), with_checksum=True)
    return f"{lake.movies} is not what landed: "


async def receipt_with_another_digest(lake: Lake) -> str:
    await lake.edit(
        lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(sha256="0" * 64), with_checksum=False
    )
    return f"{lake.receipt(lake.movies)} has been edited"


async def receipt_of_another_generation(lake: Lake) -> str:
    await lake.edit(lake.receipt(lake.movies), lambda receipt: receipt.update(generation="0" * 16), with_checksum=True)
    name = lake.movies.rpartition("/")[2].removesuffix(".json")
    return f"Movies/{name} has no receipt: harvest goes on with it"


async def receipt_of_another_run(lake: Lake) -> str:
    await lake.edit(
        lake.receipt(lake.movies), lambda receipt: receipt.update(run=f"{DAY}-00000000"), with_checksum=True
    )
    return f"{lake.receipt(lake.movies)} is a receipt of another run, {DAY}-00000000"


async def receipt_that_names_a_file_of_another_batch(lake: Lake) -> str:
    await lake.edit(
        lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(key=lake.series), with_checksum=True
    )
    return f"{lake.receipt(lake.movies)} names a file that is not of its batch"


async def receipt_that_names_a_file_of_others(lake: Lake) -> str:
    key = "Finance/ledger.parquet"
    await lake.edit(lake.receipt(lake.movies), lambda receipt: receipt["files"][0].update(key=key), with_checksum=True)
    return f"{lake.receipt(lake.movies)} names a file that is not of its batch"


BATCH_HARMS = [
    data_deleted,
    data_truncated,
    data_emptied,
    data_edited,
    data_garbled,
    data_of_another_batch,
    a_record_twice,
    records_in_another_order,
    too_many_records,
    a_record_among_the_other_kind,
    reclassified_deleted,
    reclassified_edited,
    receipt_deleted,
    receipt_garbled,
    receipt_of_another_batch,
    receipt_with_another_id,
    receipt_with_another_outcome,
    receipt_with_an_unknown_outcome,
    receipt_with_another_count,
    receipt_with_other_bytes,
    receipt_with_another_digest,
    receipt_of_another_generation,
    receipt_of_another_run,
    receipt_that_names_a_file_of_another_batch,
    receipt_that_names_a_file_of_others,
]


async def is_proved(lake: Lake) -> None:
    """The run is proved, and has the data files that it had, with every record once."""
    verification = await verify(lake.settings)
    assert (verification.problems, verification.records, verification.runs) == ([], 8, [lake.run])
    assert await lake.data() == [lake.movies, lake.reclassified, lake.series]


@pytest.mark.parametrize("harm", BATCH_HARMS, ids=lambda harm: harm.__name__)
async def test_a_harmed_batch_is_named_and_done_again_by_the_next_harvest(harm: Harm, lake: Lake) -> None:
    """Verify names what is wrong, by its key; the next harvest asks for that batch alone, and the run is proved."""
    ledger = "Finance/ledger.parquet"
    await lake.bucket.put(ledger, b"PAR1")
    expected = await harm(lake)
    verification = await verify(lake.settings)
    assert [problem for problem in verification.problems if expected in problem] != [], verification.problems
    assert (verification.as_json()["status"], verification.as_json()["left_to_harvest"]) == ("wrong", True)
    before = Counter(lake.tmdb.asked)
    assert await lake.harvest() == "closed"
    assert lake.asked_since(before) == set(MOVIES)
    await is_proved(lake)
    assert await lake.read(ledger) == b"PAR1"


# --- harm, of which the next harvest writes anew what it knows already


async def summary_deleted(lake: Lake) -> str:
    await lake.bucket.delete(lake.summary)
    return f"{lake.summary} is not there: harvest reconciles the totals"


async def summary_edited(lake: Lake) -> str:
    await lake.edit(lake.summary, lambda summary: summary["totals"].update(found=9), with_checksum=False)
    return f"{lake.summary} has been edited"


async def summary_with_other_totals(lake: Lake) -> str:
    await lake.edit(lake.summary, lambda summary: summary["totals"].update(found=9), with_checksum=True)
    return f"{lake.summary} has other totals than the receipts"


async def summary_of_another_generation(lake: Lake) -> str:
    await lake.edit(lake.summary, lambda summary: summary.update(generation="0" * 16), with_checksum=True)
    return f"{lake.summary} is of an earlier generation: harvest reconciles the totals"


async def summary_of_another_run(lake: Lake) -> str:
    await lake.edit(lake.summary, lambda summary: summary.update(run=f"{DAY}-00000000"), with_checksum=True)
    return f"{lake.summary} is a summary of another run"


async def summary_garbled(lake: Lake) -> str:
    await lake.bucket.put(lake.summary, b"{}")
    return f"{lake.summary} is not a summary"


async def outcomes_deleted(lake: Lake) -> str:
    await lake.bucket.delete(lake.outcomes)
    return f"{lake.outcomes} is gone or not what the summary says"


async def outcomes_garbled(lake: Lake) -> str:
    await lake.bucket.put(lake.outcomes, (await lake.read(lake.outcomes))[:-5])
    return f"{lake.outcomes} is gone or not what the summary says"


async def outcomes_edited(lake: Lake) -> str:
    await lake.edit_lines(lake.outcomes, lambda rows: rows[0].update(tmdb_id=1))
    return f"{lake.outcomes} is gone or not what the summary says"


async def manifest_with_other_ids(lake: Lake) -> str:
    await lake.edit(
        lake.manifest, lambda manifest: manifest["input"]["Movies"].update(ids=5, rows=11), with_checksum=True
    )
    return f"{lake.manifest} has other "


async def manifest_with_other_duplicates(lake: Lake) -> str:
    account = {"duplicates": 1, "rows": 7}
    await lake.edit(lake.manifest, lambda manifest: manifest["input"]["Movies"].update(account), with_checksum=True)
    return f"{lake.summary} has other totals than the receipts"


async def manifest_with_other_options(lake: Lake) -> str:
    await lake.edit(lake.manifest, lambda manifest: manifest["options"].update(language="pt-BR"), with_checksum=True)
    return f"the ids and options of {lake.run} make the fingerprint "


async def manifest_with_other_batches(lake: Lake) -> str:
    await lake.edit(lake.manifest, lambda manifest: manifest["batches"].update(Series=[]), with_checksum=True)
    return f"{lake.manifest} has other "


async def manifest_with_fresh_ids(lake: Lake) -> str:
    await lake.edit(lake.manifest, lambda manifest: manifest.update(fresh=1), with_checksum=True)
    return f"{lake.manifest} has other "


TOTALS_HARMS = [
    summary_deleted,
    summary_edited,
    summary_with_other_totals,
    summary_of_another_generation,
    summary_of_another_run,
    summary_garbled,
    outcomes_deleted,
    outcomes_garbled,
    outcomes_edited,
    manifest_with_other_ids,
    manifest_with_other_duplicates,
    manifest_with_other_options,
    manifest_with_other_batches,
    manifest_with_fresh_ids,
]


@pytest.mark.parametrize("harm", TOTALS_HARMS, ids=lambda harm: harm.__name__)
async def test_harmed_totals_are_named_and_written_anew_by_the_next_harvest(harm: Harm, lake: Lake) -> None:
    """The receipts and data files still stand, so the next harvest asks for no title, and the run is proved."""
    expected = await harm(lake)
    verification = await verify(lake.settings)
    assert [problem for problem in verification.problems if expected in problem] != [], verification.problems
    before = Counter(lake.tmdb.asked)
    assert await lake.harvest() in ("closed", "nothing_to_do")
    assert lake.asked_since(before) == set()
    await is_proved(lake)


async def test_outcomes_and_summary_forged_together_are_named(lake: Lake) -> None:
    """Only verify holds the outcomes against all receipts; without the summary, harvest writes both anew."""
    await outcomes_edited(lake)
    digest = sha256(await lake.read(lake.outcomes)).hexdigest()
    await lake.edit(lake.summary, lambda summary: summary["digests"].update(outcomes=digest), with_checksum=True)
    assert await lake.problems() == [f"{lake.outcomes} has other outcomes than the receipts"]
    await lake.bucket.delete(lake.summary)
    assert await lake.harvest() == "closed"
    await is_proved(lake)


async def ids_deleted(lake: Lake) -> str:
    key = await lake.ids_key()
    await lake.bucket.delete(key)
    return f"{key} is not the ids of this run"


async def ids_garbled(lake: Lake) -> str:
    key = await lake.ids_key()
    await lake.bucket.put(key, (await lake.read(key))[:-5])
    return f"{key} is not the ids of this run"


async def ids_edited(lake: Lake) -> str:
    await lake.edit_lines(await lake.ids_key(), lambda rows: rows[4].update(id="tt0000995"))
    return f"{lake.manifest} has other "


async def ids_with_a_mark(lake: Lake) -> str:
    await lake.edit_lines(await lake.ids_key(), lambda rows: rows[4].update(fresh=f"{DAY}-00000000"))
    return f"1 ids are fresh by {DAY}-00000000, which does not have them: ['{MOVIES[4]}']"


async def ids_twice(lake: Lake) -> str:
    key = await lake.ids_key()
    await lake.edit_lines(key, lambda rows: rows.append(rows[0]))
    return f"{key} is not the ids of this run"


async def ids_with_other_bytes(lake: Lake) -> str:
    key = await lake.ids_key()
    await lake.edit_lines(key, lambda rows: rows[0].update(remark="of the same meaning"))
    return f"{key} is not what {lake.manifest} says: its SHA-256 differs"


async def manifest_of_another_generation(lake: Lake) -> str:
    await lake.edit(lake.manifest, lambda manifest: manifest.update(generation="0" * 16), with_checksum=True)
    return f"{lake.folder}ids-{'0' * 16}.jsonl.gz is not the ids of this run"


IDS_HARMS = [
    ids_deleted,
    ids_garbled,
    ids_edited,
    ids_with_a_mark,
    ids_twice,
    ids_with_other_bytes,
    manifest_of_another_generation,
]

HARMS = [*BATCH_HARMS, *TOTALS_HARMS, *IDS_HARMS]
"""All of them; the README says how many there are."""


@pytest.mark.parametrize("harm", IDS_HARMS, ids=lambda harm: harm.__name__)
async def test_harmed_ids_are_named_and_written_anew_by_the_next_harvest(harm: Harm, lake: Lake) -> None:
    """What was fresh is not known any more, so titles may be asked for again; then the run is proved."""
    expected = await harm(lake)
    verification = await verify(lake.settings)
    assert [problem for problem in verification.problems if expected in problem] != [], verification.problems
    assert await lake.harvest() in ("closed", "nothing_to_do")
    await is_proved(lake)


@pytest.mark.parametrize("harm", ["deleted", "garbled", "of another shape", "edited", "with another template"])
async def test_a_lost_manifest_is_named_and_written_again(harm: str, lake: Lake) -> None:
    """Without its manifest a run cannot be verified, and says which it is; the next harvest asks for no title."""
    await lake.bucket.put("Finance/ledger.parquet", b"PAR1")
    match harm:
        case "deleted":
            await lake.bucket.delete(lake.manifest)
        case "garbled":
            await lake.bucket.put(lake.manifest, b'{"run":')
        case "edited":
            await lake.edit(lake.manifest, lambda manifest: manifest.update(batches={}), with_checksum=False)
        case "of another shape":
            await lake.edit(lake.manifest, lambda manifest: manifest.update(input=[], options={}), with_checksum=True)
        case _:
            await lake.edit(
                lake.manifest, lambda manifest: manifest["options"].update(key_template="{batch}"), with_checksum=True
            )
    before = Counter(lake.tmdb.asked)
    with pytest.raises(CorruptLakeError, match=lake.run) as caught:
        await verify(lake.settings)
    assert caught.value.exit_code == 1
    assert await lake.harvest() == "closed"
    assert lake.asked_since(before) == set()
    await is_proved(lake)
    assert await lake.read("Finance/ledger.parquet") == b"PAR1"


@pytest.mark.parametrize(
    "template", ["{batch}", "Finance/{batch}.json", "{prefix}/Finance/{collection}/{yyyy}/{mm}/{dd}/{batch}.json"]
)
async def test_a_template_in_the_manifest_is_no_place_to_act_on(template: str, lake: Lake) -> None:
    """Keys follow from the settings alone: whatever template the manifest has, nothing is written or moved by it."""
    others = ["Finance/2026/ledger.parquet", "Trusted/API/x.parquet", "Raw/API/Finance/x.json"]
    for key in others:
        await lake.bucket.put(key, b"of others")
    await lake.edit(
        lake.manifest, lambda manifest: manifest["options"].update(key_template=template), with_checksum=True
    )
    before = {key: stored for key, stored in (await lake.bucket.objects("")).items() if RUNS not in key}
    assert await lake.harvest() == "closed"
    assert {key: stored for key, stored in (await lake.bucket.objects("")).items() if RUNS not in key} == before
    await is_proved(lake)


@pytest.mark.parametrize("harmed", ["manifest", "summary", "receipt"])
async def test_a_newer_format_is_refused_in_a_sentence(harmed: str, lake: Lake) -> None:
    """What a newer harvester has written is not judged by an older one: exit 2, and the object by its key."""
    key = {"manifest": lake.manifest, "summary": lake.summary, "receipt": lake.receipt(lake.movies)}[harmed]
    await lake.edit(key, lambda whole: whole.update(format=2), with_checksum=True)
    with pytest.raises(NewerFormatError, match=f"^{key} has format 2, and this harvester reads format 1") as caught:
        await verify(lake.settings)
    assert caught.value.exit_code == 2


async def test_a_finished_run_of_an_earlier_day_is_not_said_to_be_done_again(
    bucket: Bucket, settings_for: Make
) -> None:
    """Harvested again it would be a new collection, so nobody is sent to do that."""
    async with fake_tmdb(catalog=CATALOG) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES)
        await harvest(
            settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(now=lambda: "2026-01-02T12:00:00.000Z")
        )
        [movies] = await bucket.objects("Raw/API/Movies/")
        await bucket.delete(movies)
        verification = await verify(settings)
        assert (
            verification.past,
            verification.as_json()["left_to_harvest"],
            f"{movies} is gone" in verification.problems,
        ) == (
            True,
            False,
            True,
        )
        assert (await harvest(settings, observer=Silent(), shutdown=Shutdown())).status == "closed"
        assert (await verify(settings)).problems == []


async def test_runs_of_two_days_have_folders_of_their_own(bucket: Bucket, settings_for: Make) -> None:
    """The same ids of another day are neither foreign nor doubled: each day is proved for itself."""
    async with fake_tmdb(catalog=CATALOG) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES)
        for day in ("20", "21"):
            clock = f"2026-11-{day}T12:00:00.000Z"
            report = await harvest(
                settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(now=lambda clock=clock: clock)
            )
            assert report.status == "closed"
        verifications = [await verify(settings), await verify(settings, day="2026-11-20")]
    assert [([name[:10] for name in verification.runs], verification.problems) for verification in verifications] == [
        (["2026-11-21"], []),
        (["2026-11-20"], []),
    ]
    assert len(await bucket.objects("Raw/API/Movies/")) == 2


async def test_all_harms_are_named_at_once(lake: Lake) -> None:
    """Verify does not stop at the first: each harm has its line, in order."""
    await lake.bucket.delete(lake.movies)
    await lake.bucket.put(lake.series, b"{}\n")
    problems = await lake.problems()
    assert problems == sorted(problems)
    assert {lake.movies, lake.series} <= {problem.split(" ")[0] for problem in problems}


# --- what is no harm


async def test_a_batch_that_failed_and_was_tried_again_has_one_receipt(lake: Lake) -> None:
    """A failed try and the retry after it write the same receipt, and the run is proved after both."""
    movies = ["tt0000011", "tt0000012"]
    settings = await lake.another(movies)
    lake.failing.add(movies[0])
    assert await lake.harvest(settings) == "failed"
    verification = await verify(lake.settings)
    assert (verification.problems, dict(verification.totals.failed), verification.records) == ([], {"http_404": 1}, 1)
    lake.failing.clear()
    assert await lake.harvest(settings) == "closed"
    verification = await verify(lake.settings)
    assert (
        verification.problems,
        verification.totals.failed.total(),
        verification.totals.batches,
        verification.records,
    ) == ([], 0, 1, 2)
    assert len(await lake.bucket.objects(f"{RUNS}{verification.runs[0]}/receipts/")) == 1


async def test_a_record_that_a_failed_title_keeps_is_proved(lake: Lake) -> None:
    """A title that fails with `--again` is counted as failed, and its earlier record is proved like any other."""
    lake.failing |= {MOVIES[0], RECLASSIFIED, SERIES[0]}
    assert await lake.harvest(again=True) == "failed"
    verification = await verify(lake.settings)
    assert (
        verification.problems,
        verification.totals.found,
        verification.totals.failed.total(),
        verification.records,
    ) == ([], 5, 3, 8)
    await lake.replace(lake.movies, MOVIES[0].encode(), b"tt0000995")
    assert any(problem.startswith("Movies/") and MOVIES[0] in problem for problem in await lake.problems())


async def test_an_empty_file_of_a_title_that_is_no_longer_reclassified_is_proved(
    bucket: Bucket, settings_for: Make
) -> None:
    """Where TMDB has changed its mind, the file that is no longer filled is empty, and named by the receipt."""
    for form, empty in (("jsonl", b""), ("array", b"[]")):
        prefix = f"Raw/{form}"
        for kinds in ({RECLASSIFIED: "tv"}, {}):
            async with fake_tmdb(catalog=Catalog(kinds=kinds)) as tmdb:
                settings = settings_for(tmdb.url, movies=MOVIES, s3_prefix=prefix, output_format=form)
                report = await harvest(
                    settings, observer=Silent(), shutdown=Shutdown(), again=True, clock=Clock(now=lambda: NOON)
                )
                assert report.status == "closed"
        [series] = await bucket.objects(f"{prefix}/Series/")
        body = await bucket.read(series)
        verification = await verify(settings)
        assert (body or b"").strip() == empty
        assert (verification.problems, verification.records, verification.totals.files) == ([], 6, 2)


async def test_an_unfinished_run_is_said_to_be_unfinished(bucket: Bucket, settings_for: Make) -> None:
    """Each batch that is to be done is named, and what has landed so far is proved."""
    movies = [f"tt{number:07d}" for number in range(1, 202)]
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=1))
        verification = await verify(settings)
    assert (report.status, verification.records) == ("stopped", 100)
    assert [problem.partition("-")[0] for problem in verification.problems] == ["Movies/tt0000101", "Movies/tt0000201"]
    assert {problem.partition(" ")[2] for problem in verification.problems} == {
        "has no receipt: harvest goes on with it"
    }


async def test_two_runs_of_one_day_with_other_ids_do_not_disturb_each_other(lake: Lake) -> None:
    """Both are proved by their names, and the one without a name is the one that was at work last."""
    settings = await lake.another(["tt0000007", "tt0000008"])
    assert await lake.harvest(settings) == "closed"
    [second] = set(await lake.runs()) - {lake.run}
    verifications = [await verify(settings), await verify(settings, run=lake.run)]
    assert [(verification.runs, verification.problems) for verification in verifications] == [
        ([second], []),
        ([lake.run], []),
    ]
    assert await lake.harvest(again=True) == "closed"
    assert (await verify(settings)).runs == [lake.run]


@pytest.mark.parametrize("lease", [None, b"", b"[]", b"{}", b'{"run":7}', b'{"run":"2026-11-29-00000000"}', b"\xff"])
async def test_without_a_good_lease_the_last_run_by_name_is_verified(lease: bytes | None, lake: Lake) -> None:
    """What stands in the lease is data from outside: anything else than a run that is there is passed over."""
    assert await lake.harvest(await lake.another(["tt0000007"])) == "closed"
    if lease is None:
        await lake.bucket.delete(f"{RUNS}lease.json")
    else:
        await lake.bucket.put(f"{RUNS}lease.json", lease)
    verification = await verify(lake.settings)
    assert (verification.runs, verification.problems) == ([(await lake.runs())[-1]], [])


@pytest.mark.parametrize("other", [{"tmdb_language": "pt-BR"}, {"output_format": "array"}, {"tmdb_append": "credits"}])
async def test_a_harvest_in_another_form_leaves_a_proved_day_as_it_is(other: dict[str, str], lake: Lake) -> None:
    """A day has one form, so records of another are refused before anything is written, and the first stay proved."""
    settings = await lake.another(MOVIES, **other)
    before = await lake.bucket.objects("Raw/API/M"), await lake.bucket.objects("Raw/API/S")
    with pytest.raises(SettingsError, match="All records of a day need the same options"):
        await lake.harvest(settings)
    assert (await lake.bucket.objects("Raw/API/M"), await lake.bucket.objects("Raw/API/S")) == before
    assert await lake.problems(day=DAY) == []


# --- a day, over all its runs

GROWN = [*MOVIES, "tt0000007", "tt0000008"]


@dataclass(slots=True)
class Day:
    """The lake after a second harvest of the day, of a CSV that has grown: all of the first's ids are fresh in it."""

    lake: Lake
    settings: Settings
    run: str
    data: str

    @property
    def folder(self) -> str:
        return f"{RUNS}{self.run}/"

    async def ids_key(self) -> str:
        [key] = await self.lake.bucket.objects(f"{self.folder}ids-")
        return key

    async def verification(self) -> VerificationReport:
        return await verify(self.settings, day=DAY)


@pytest.fixture
async def day(lake: Lake) -> Day:
    settings, before = await lake.another(GROWN), await lake.data()
    assert await lake.harvest(settings) == "closed"
    [run] = set(await lake.runs()) - {lake.run}
    [data] = set(await lake.data()) - set(before)
    return Day(lake, settings, run, data)


async def test_a_day_is_proved_over_all_its_runs(day: Day) -> None:
    """Every title stands once, whichever run has it; the totals are those of all runs together."""
    before = await day.lake.bucket.objects("")
    verification = await day.verification()
    assert (verification.runs, verification.problems, verification.unfinished) == (
        sorted([day.lake.run, day.run]),
        [],
        [],
    )
    result = verification.as_json()
    holds(result, code=0, of_a_run=True, day=True)
    assert (result["status"], result["lake"]) == ("proved", f"s3://{day.lake.bucket.name}/Raw/API")
    assert {name: result[name] for name in result if name not in (*COMMON, *OF_A_RUN)} | {"totals": None} == {
        "day": DAY,
        "runs": verification.runs,
        "records": 10,
        "totals": None,
        "problems": [],
        "unfinished": [],
        "repaired": [],
        "left_to_harvest": False,
    }
    totals = verification.totals
    assert (totals.ids, totals.found, totals.missing.total(), totals.failed.total(), totals.fresh) == (17, 10, 1, 0, 6)
    assert (totals.batches, totals.files) == (3, 4)
    assert await day.lake.bucket.objects("") == before


async def test_each_run_of_a_day_is_proved_for_itself(day: Day) -> None:
    """Fresh ids are proved against the run that has them, so the later run has only its own records."""
    verifications = [await verify(day.settings, run=run) for run in (day.lake.run, day.run)]
    assert [
        (verification.problems, verification.records, verification.totals.fresh) for verification in verifications
    ] == [
        ([], 8, 0),
        ([], 2, 6),
    ]


async def the_file_of_the_other_run_deleted(day: Day) -> str:
    await day.lake.bucket.delete(day.lake.movies)
    lacking = [MOVIES[0], MOVIES[1], MOVIES[2]]
    return f"5 ids are fresh by {day.lake.run}, which does not have them: {lacking}"  # the reclassified still stands


async def the_file_of_the_other_run_edited(day: Day) -> str:
    await data_edited(day.lake)
    return f"1 ids are fresh by {day.lake.run}, which does not have them: ['{UNKNOWN}']"  # the file's own still stand


async def the_other_run_has_lost_receipt_and_summary(day: Day) -> str:
    await day.lake.bucket.delete(day.lake.receipt(day.lake.movies))
    await day.lake.bucket.delete(day.lake.summary)
    return f"1 ids are fresh by {day.lake.run}, which does not have them: ['{UNKNOWN}']"  # the file's own still stand


async def the_other_run_has_lost_receipt_and_file(day: Day) -> str:
    await day.lake.bucket.delete(day.lake.receipt(day.lake.movies))
    await day.lake.bucket.delete(day.lake.movies)
    return f"5 ids are fresh by {day.lake.run}, which does not have them: "  # the reclassified title still stands


@pytest.mark.parametrize(
    "harm",
    [
        the_file_of_the_other_run_deleted,
        the_file_of_the_other_run_edited,
        the_other_run_has_lost_receipt_and_summary,
        the_other_run_has_lost_receipt_and_file,
    ],
    ids=lambda harm: harm.__name__,
)
async def test_a_fresh_id_that_the_other_run_has_no_more_is_a_harm_of_both(
    harm: Callable[[Day], Awaitable[str]], day: Day
) -> None:
    """The later run says which ids it lacks, and of which run; harvested again by that, the day is proved."""
    expected = await harm(day)
    assert [problem for problem in await day.lake.problems(run=day.run) if problem.startswith(expected)] != []
    verification = await day.verification()
    assert [problem for problem in verification.problems if problem.startswith(expected)] != []
    before = Counter(day.lake.tmdb.asked)
    assert await day.lake.harvest() == "closed"
    assert day.lake.asked_since(before) == set(MOVIES)
    verification = await day.verification()
    assert (verification.problems, verification.unfinished, verification.records) == ([], [], 10)


async def test_a_receipt_that_a_closed_run_has_lost_is_a_harm_of_its_day(day: Day) -> None:
    """Its totals were reconciled with that receipt, so it is not merely unfinished."""
    await day.lake.bucket.delete(day.lake.receipt(day.lake.movies))
    assert f"{day.lake.summary} has other totals than the receipts" in (await day.verification()).problems
    assert await day.lake.harvest() == "closed"
    assert (await day.verification()).problems == []


async def test_fresh_ids_are_proved_by_the_receipts_where_the_other_runs_outcomes_are_wrong(day: Day) -> None:
    """The outcomes file only saves reading the receipts: with a wrong one the fresh ids still stand."""
    await day.lake.edit_lines(day.lake.outcomes, lambda rows: rows.clear())
    assert await day.lake.problems(run=day.run) == []
    assert await day.lake.problems(run=day.lake.run) == [
        f"{day.lake.outcomes} is gone or not what the summary says",
    ]


async def the_mark_names_another_run(day: Day) -> str:
    await day.lake.edit_lines(await day.ids_key(), lambda rows: rows[2].update(fresh=f"{DAY}-00000000"))
    return f"{day.folder}outcomes.jsonl.gz has other outcomes than the receipts"


async def the_mark_is_taken_away(day: Day) -> str:
    await day.lake.edit_lines(await day.ids_key(), lambda rows: rows[2].pop("fresh"))
    return f"{day.folder}manifest.json has other "


async def the_mark_is_put_where_none_was(day: Day) -> str:
    await day.lake.edit_lines(await day.ids_key(), lambda rows: rows[7].update(fresh=day.lake.run))
    return f"1 ids are fresh by {day.lake.run}, which does not have them: ['{GROWN[7]}']"


async def the_outcomes_name_another_run(day: Day) -> str:
    await day.lake.edit_lines(f"{day.folder}outcomes.jsonl.gz", lambda rows: rows[2].update(run=f"{DAY}-00000000"))
    return f"{day.folder}outcomes.jsonl.gz is gone or not what the summary says"


async def the_outcomes_are_in_another_order(day: Day) -> str:
    await day.lake.edit_lines(f"{day.folder}outcomes.jsonl.gz", lambda rows: rows.reverse())
    return f"{day.folder}outcomes.jsonl.gz is gone or not what the summary says"


@pytest.mark.parametrize(
    "harm",
    [
        the_mark_names_another_run,
        the_mark_is_taken_away,
        the_mark_is_put_where_none_was,
        the_outcomes_name_another_run,
        the_outcomes_are_in_another_order,
    ],
    ids=lambda harm: harm.__name__,
)
async def test_harmed_marks_and_outcomes_are_named_and_written_anew(
    harm: Callable[[Day], Awaitable[str]], day: Day
) -> None:
    """Which run has a fresh id is proved; the next harvest of the run that says otherwise writes it anew."""
    expected = await harm(day)
    verification = await day.verification()
    assert [problem for problem in verification.problems if problem.startswith(expected)] != [], verification.problems
    assert await day.lake.harvest(day.settings) in ("closed", "nothing_to_do")
    verification = await day.verification()
    assert (verification.problems, verification.unfinished, verification.records) == ([], [], 10)


async def test_a_fresh_id_in_a_receipt_is_proved_against_the_run_that_has_it(lake: Lake) -> None:
    """An id that another run has got since the cut is fresh in its batch's receipt, and proved like a marked one."""
    many = [f"tt{number:07d}" for number in range(101, 231)]
    first, second = await lake.another(many), await lake.another(many[110:120])
    assert await lake.harvest(first, limit=1) == "stopped"
    before = set(await lake.runs())
    assert await lake.harvest(second) == "closed"
    [theirs] = set(await lake.runs()) - before
    assert await lake.harvest(first) == "closed"
    verification = await verify(lake.settings, day=DAY)
    assert (verification.problems, verification.unfinished, verification.totals.fresh) == ([], [], 10)
    assert verification.records == 8 + len(many)
    receipts = await lake.bucket.objects(f"{RUNS}{theirs}/receipts/")
    for key in [*receipts, *[key for key in await lake.data() if "tt0000211" in key]]:
        await lake.bucket.delete(key)
    [problem] = [problem for problem in await lake.problems(day=DAY) if " are fresh by " in problem]
    assert problem.startswith(f"10 ids are fresh by {theirs}, which does not have them: ['tt0000211', ")


async def unfinished(lake: Lake) -> tuple[Settings, str, str]:
    """A second run of the day that was killed between the data and the receipt of its second batch; that file's key."""
    settings = await lake.another([f"tt{number:07d}" for number in range(101, 302)])
    assert await lake.harvest(settings, limit=101) == "stopped"
    [run] = set(await lake.runs()) - {lake.run}
    [data] = [key for key in await lake.data() if "/tt0000201-" in key]
    await lake.bucket.delete(f"{RUNS}{run}/receipts/Movies/{data.rpartition('/')[2]}")
    return settings, run, data


async def without_the_last_record(lake: Lake, key: str) -> bytes:
    """What stands at `key`, with room for another record."""
    return b"".join((await lake.read(key)).splitlines(keepends=True)[:-1])


async def test_an_unfinished_run_of_a_day_is_named_and_not_wrong(lake: Lake) -> None:
    """Where every title stands once, the day is proved, with the run that is to be gone on with by its name."""
    settings, run, _ = await unfinished(lake)
    verification = await verify(lake.settings, day=DAY)
    assert (verification.problems, verification.unfinished, verification.records) == ([], [run], 8 + 200)
    assert (verification.as_json()["status"], verification.as_json()["unfinished"]) == ("proved", [run])
    assert len((await verify(lake.settings, run=run)).problems) == 2  # asked for by its name, it is not whole
    assert await lake.harvest(settings) == "closed"
    verification = await verify(lake.settings, day=DAY)
    assert (verification.problems, verification.unfinished, verification.records) == ([], [], 8 + 201)


async def test_a_title_that_stands_twice_on_a_day_is_wrong(lake: Lake) -> None:
    """Both files are named, also where one of them has no receipt yet."""
    _, _, data = await unfinished(lake)
    first = (await lake.read(lake.movies)).splitlines(keepends=True)[0]
    await lake.bucket.put(data, await without_the_last_record(lake, data) + first)
    verification = await verify(lake.settings, day=DAY)
    [problem] = verification.problems
    assert problem.startswith(f"{MOVIES[0]} is in ")
    assert {lake.movies, data} <= set(problem.split())


async def test_a_title_that_stands_twice_in_one_file_is_wrong(lake: Lake) -> None:
    """Also in a file that has no receipt yet."""
    _, _, data = await unfinished(lake)
    first = (await lake.read(data)).splitlines(keepends=True)[0]
    await lake.bucket.put(data, await without_the_last_record(lake, data) + first)
    verification = await verify(lake.settings, day=DAY)
    assert [problem for problem in verification.problems if "tt0000201" in problem and data in problem] != []


async def test_a_run_with_failed_titles_does_not_disturb_another_of_the_day(lake: Lake) -> None:
    """What has landed of a batch with a failed title is its run's, and the day is proved."""
    lake.failing.add("tt0000011")
    assert await lake.harvest(await lake.another(["tt0000011", "tt0000012"])) == "failed"
    assert await lake.harvest(await lake.another(["tt0000007"])) == "closed"
    verification = await verify(lake.settings, day=DAY)
    assert (verification.problems, verification.unfinished, verification.records) == ([], [], 8 + 1 + 1)
    assert dict(verification.totals.failed) == {"http_404": 1}


async def test_a_run_that_was_killed_before_its_manifest_is_unfinished(lake: Lake) -> None:
    """The ids are written before the manifest: killed between the two, nothing of the run is wrong on its day."""
    begun = f"{DAY}-00000000"
    await lake.bucket.copy(await lake.ids_key(), f"{RUNS}{begun}/ids-{'0' * 16}.jsonl.gz")
    verification = await verify(lake.settings, day=DAY)
    assert (verification.problems, verification.unfinished, verification.records) == ([], [begun], 8)


async def test_a_run_of_a_day_without_a_good_manifest_is_a_harm_and_hides_no_other(day: Day) -> None:
    """The others are read all the same."""
    await day.lake.bucket.put(f"{day.folder}manifest.json", b"{}")
    verification = await day.verification()
    assert [
        problem for problem in verification.problems if problem.startswith(f"{day.folder}manifest.json is not ")
    ] != []
    assert (verification.runs, verification.records) == (sorted([day.lake.run, day.run]), 8)


# --- nothing to verify


async def test_an_empty_bucket_has_no_run_to_verify(bucket: Bucket, settings_for: Make) -> None:
    """Nothing is not proved: the sentence says where was looked, and what to do."""
    where = f"below s3://{bucket.name}/Raw/API/_harvest/: harvest first$"
    settings = settings_for("http://127.0.0.1:9/3")
    with pytest.raises(CorruptLakeError, match=f"^There is no run {where}") as caught:
        await verify(settings)
    assert caught.value.exit_code == 1
    with pytest.raises(CorruptLakeError, match=f"^There is no run of 2026-11-29 {where}") as caught:
        await verify(settings, day="2026-11-29")
    assert caught.value.exit_code == 1


async def test_an_unknown_run_is_named(lake: Lake) -> None:
    """A mistyped name is repeated as it was typed."""
    with pytest.raises(CorruptLakeError, match="Raw/API/_harvest/2026-01-01-00000000"):
        await verify(lake.settings, run="2026-01-01-00000000")


@pytest.mark.parametrize(
    "day", ["", "today", "2026-11", "2026-11-2", "29-11-2026", "2026-13-01", "2026-02-30", "2026-11-29-3f9a1c2e", "../"]
)
async def test_a_day_that_is_none_is_refused_before_s3_is_asked(day: str, settings_for: Make) -> None:
    """It is a mistake of usage, exit 2, and repeated as it was typed."""
    settings = settings_for("http://127.0.0.1:9/3", aws_endpoint_url_s3="http://127.0.0.1:9")
    with pytest.raises(SettingsError) as caught:
        await verify(settings, day=day)
    assert str(caught.value) == f"--day {day!r} is no date: give one such as 2026-11-29"


async def test_a_run_and_a_day_are_not_given_both(settings_for: Make) -> None:
    """One of them would be passed over: exit 2, before S3 is asked."""
    settings = settings_for("http://127.0.0.1:9/3", aws_endpoint_url_s3="http://127.0.0.1:9")
    with pytest.raises(SettingsError, match=r"^--run and --day are both given"):
        await verify(settings, run="2026-11-29-3f9a1c2e", day="2026-11-29")


async def test_another_folder_beside_the_runs_hides_none(lake: Lake) -> None:
    """Notes, an empty folder and a lease below `_harvest/` are no run, and the latest run is still found."""
    await lake.bucket.put(f"{RUNS}notes/read-me.txt", b"hello")
    await lake.bucket.put(f"{RUNS}zzz/", b"")
    await lake.bucket.delete(f"{RUNS}lease.json")
    assert (await verify(lake.settings)).runs == [lake.run]


async def test_verify_may_be_cancelled(lake: Lake) -> None:
    """Ctrl-C in the midst of reading ends it, and leaves nothing behind."""
    reading = asyncio.ensure_future(verify(lake.settings))
    await asyncio.wait([reading], timeout=0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_verify_logs_nothing_of_a_healthy_day(day: Day) -> None:
    """Warnings are for what is wrong."""
    with capture_logs() as logs:
        await day.verification()
    assert [line for line in logs if line["log_level"] == "warning"] == []


# --- the command


async def command(lake: Lake, server: S3Server, folder: Path, *words: str) -> tuple[int, str, str]:
    """How `python -m harvester verify` ends, and what it prints."""
    environment = kept() | server.environment() | {"S3_BUCKET": lake.bucket.name, "COLUMNS": "300"}
    ended = await Shell(environment, folder).run("verify", *words)
    return ended.code, ended.out, ended.err


async def test_the_command_ends_with_1_for_a_harm_and_with_0_without(s3: S3Server, lake: Lake, tmp_path: Path) -> None:
    """A script can rely on the exit code, and the harm is found by its key, in JSON too."""
    assert (await command(lake, s3, tmp_path))[0] == 0
    await lake.bucket.delete(lake.movies)
    code, out, _ = await command(lake, s3, tmp_path)
    assert (code, f"{lake.movies} is gone" in out) == (1, True)
    code, out, _ = await command(lake, s3, tmp_path, "--json")
    printed = orjson.loads(out)
    assert (code, printed["status"], f"{lake.movies} is gone" in printed["problems"]) == (1, "wrong", True)


async def test_the_command_verifies_a_day(s3: S3Server, lake: Lake, tmp_path: Path) -> None:
    """`--day` ends with 0 with an unfinished run, which it names, and with 1 once a title stands twice."""
    _, run, data = await unfinished(lake)
    code, out, _ = await command(lake, s3, tmp_path, "--day", DAY)
    assert (code, out.splitlines()[0]) == (0, f"Proved. {DAY}, runs {', '.join(await lake.runs())}")
    assert f"{run} is not finished: run its harvest again to go on with it" in out
    first = (await lake.read(lake.movies)).splitlines(keepends=True)[0]
    await lake.bucket.put(data, await without_the_last_record(lake, data) + first)
    code, out, _ = await command(lake, s3, tmp_path, "--day", DAY, "--json")
    printed = orjson.loads(out)
    assert (code, printed["day"], printed["status"], printed["unfinished"]) == (1, DAY, "wrong", [run])
    assert len(printed["problems"]) == 1
