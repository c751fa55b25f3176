"""Missing: every row and id without a record is listed, with its reason and the line it stands in."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Silent, capture_logs
from test_harvest import ids_from

from harvester.commands.harvest import harvest, warn_if_mostly_missing
from harvester.commands.missing import MissingRow, missing, write_csv
from harvester.errors import CorruptLakeError, SettingsError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, refusal, scripted
from harvester.fakes.tmdb import fake_tmdb
from harvester.model.documents import encode_document
from harvester.model.layout import Layout
from harvester.model.manifest import Totals, decode_summary
from harvester.model.receipt import decode_receipt
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

MOVIES = """imdb_id|título
tt0000001|a
nm0000002|uma pessoa, “ação”
tt0000003|c
tt0000003|c
tt0000004|d

tt0000005|e
"""
SERIES = "imdb_id,t\ntt0000001,a\ntt0900001,b\n,c\ntt0900002,d\n"
KINDS: Any = {"tt0000003": "unknown", "tt0000005": "episode", "tt0900001": "tv", "tt0900002": "season"}
FAULTS = scripted({("movie", "tt0000004"): [always(refusal(500))]})
EXPECTED = [
    MissingRow("rejected", "Movies", 3, None, "no_id", text="nm0000002|uma pessoa, “ação”"),
    MissingRow("missing", "Movies", 4, "tt0000003", "unknown"),
    MissingRow("failed", "Movies", 6, "tt0000004", "http_500"),
    MissingRow("missing", "Movies", 8, "tt0000005", "episode"),
    MissingRow("rejected", "Series", 4, None, "no_id", text=",c"),
    MissingRow("missing", "Series", 5, "tt0900002", "season"),
]


async def no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
def given(settings_for: Make, tmp_path: Path) -> Callable[..., Settings]:
    """Settings with the two CSVs above."""
    (tmp_path / "m.csv").write_text(MOVIES, encoding="utf-8")
    (tmp_path / "s.csv").write_text(SERIES, encoding="utf-8")
    return lambda url: settings_for(url, movies_csv=str(tmp_path / "m.csv"), series_csv=str(tmp_path / "s.csv"))


def without_show(rows: list[MissingRow]) -> list[MissingRow]:
    """The stand-in makes up the numbers of series that episodes are of."""
    return [MissingRow(row.outcome, row.collection, row.line, row.id, row.reason, text=row.text) for row in rows]


async def test_whatever_has_no_record_is_listed_with_its_line(bucket: Bucket, given: Make) -> None:
    """Rejected rows, missing and failed ids, in the order of the sources; found ones and duplicates are not."""
    async with fake_tmdb(catalog=Catalog(kinds=KINDS), faults=FAULTS) as tmdb:
        settings = given(tmdb.url)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))
    assert report.exit_code == 5
    listing = await missing(settings)
    assert (listing.run, listing.to_do, without_show(listing.rows)) == (
        report.run,
        0,
        EXPECTED,
    )
    shows = {row.id: row.show_id is not None for row in listing.rows if row.id}
    assert shows == {"tt0000003": False, "tt0000004": False, "tt0000005": True, "tt0900002": True}
    totals = report.totals.as_json()
    assert listing.counts.total() == totals["rejected"] + totals["missing"] + totals["failed"]


@pytest.mark.parametrize("damage", ["summary.json", "outcomes.jsonl.gz"])
async def test_without_the_outcomes_the_receipts_are_read(bucket: Bucket, given: Make, damage: str) -> None:
    """A run that is not closed, or whose outcomes were altered, says the same."""
    async with fake_tmdb(catalog=Catalog(kinds=KINDS), faults=FAULTS) as tmdb:
        settings = given(tmdb.url)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))
    await bucket.put(f"Raw/API/_harvest/{report.run}/{damage}", b"{}")
    assert without_show((await missing(settings, run=report.run)).rows) == EXPECTED


async def test_ids_without_an_outcome_are_counted(bucket: Bucket, settings_for: Make) -> None:
    """A harvest that was stopped says how many are still to do."""
    ids = [f"tt{number:07d}" for number in range(1, 251)]
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=ids)
        await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=100))
    listing = await missing(settings)
    assert (listing.rows, listing.to_do) == ([], 150)


async def test_a_damaged_receipt_is_passed_over_with_a_warning(bucket: Bucket, settings_for: Make) -> None:
    """Its ids are still to do, as the next harvest would have it, and the others are listed all the same."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 250))
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(limit=200))
    first, _ = await bucket.objects(f"Raw/API/_harvest/{report.run}/receipts/")
    await bucket.put(first, b"{}")
    with capture_logs() as logs:
        listed = await missing(settings)
    assert (listed.rows, listed.to_do) == ([], 150)
    assert [(line["event"], line["problem"].partition(" ")[0]) for line in logs] == [("receipt_refused", first)]


async def test_ids_that_are_fresh_are_not_missing(bucket: Bucket, settings_for: Make, tmp_path: Path) -> None:
    """What another run of the day knows is listed for that run, not again for this one."""
    async with fake_tmdb(catalog=Catalog(kinds={"tt0000002": "unknown"})) as tmdb:
        first = settings_for(tmdb.url, movies=["tt0000001", "tt0000002"])
        earlier = await harvest(first, observer=Silent(), shutdown=Shutdown())
        settings = settings_for(tmdb.url, movies=["tt0000001", "tt0000002", "tt0000003"])
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
    listing = await missing(settings)
    assert (report.totals.fresh, listing.rows, listing.to_do, listing.fresh) == (
        2,
        [],
        0,
        {earlier.run: 2},
    )


async def test_ids_that_became_fresh_on_the_way_are_counted_too(bucket: Bucket, settings_for: Make) -> None:
    """A receipt may leave an id to another run that was quicker: none is left out of the account."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=["tt0000001", "tt0000002"])
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
    folder = f"Raw/API/_harvest/{report.run}/"
    [key] = await bucket.objects(f"{folder}receipts/")
    layout = Layout("Raw/API", settings.s3_key_template, report.run)
    receipt = decode_receipt(layout, key, await bucket.read(key) or b"")
    fresh: Any = {"outcome": "fresh", "run": "2026-11-22-91ab03cc"}
    outcomes = {**receipt.outcomes, "tt0000001": fresh}
    files = tuple(replace(file, records=1) for file in receipt.files)
    await bucket.put(key, encode_document(replace(receipt, outcomes=outcomes, files=files)))
    await bucket.delete(f"{folder}summary.json")
    listing = await missing(settings)
    assert (listing.rows, listing.to_do, listing.fresh) == (
        [],
        0,
        {"2026-11-22-91ab03cc": 1},
    )


async def test_outcomes_that_never_were_whole_are_read_from_the_receipts(bucket: Bucket, given: Make) -> None:
    """A summary may fit what stands there, and that may be nothing."""
    async with fake_tmdb(catalog=Catalog(kinds=KINDS), faults=FAULTS) as tmdb:
        settings = given(tmdb.url)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))
    layout = Layout("Raw/API", settings.s3_key_template, report.run)
    summary = decode_summary(layout, await bucket.read(layout.summary_key) or b"")
    await bucket.put(layout.outcomes_key, b"broken")
    digests = replace(summary.digests, outcomes=hashlib.sha256(b"broken").hexdigest())
    await bucket.put(layout.summary_key, encode_document(replace(summary, digests=digests)))
    assert without_show((await missing(settings)).rows) == EXPECTED


@pytest.mark.parametrize("content", ["imdb_id|title\ntt0000001|a\n", "x", "\n"])
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, content: str) -> None:
    """`--csv` sounds like an input: the CSV of the movies must survive that. Its own output is replaced."""
    path = tmp_path / "movies.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="is some other file"):
        write_csv([], path)
    assert path.read_text(encoding="utf-8") == content
    path.write_text("", encoding="utf-8")
    write_csv(EXPECTED, path)
    write_csv([], path)
    assert path.read_text(encoding="utf-8").splitlines() == ["outcome,collection,line,id,reason,show_id,text"]


async def test_rows_are_written_as_a_csv(tmp_path: Path) -> None:
    """UTF-8, quoted where it must be, with a header, and read back as they were."""
    write_csv(EXPECTED, tmp_path / "não há.csv")
    with (tmp_path / "não há.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["outcome"], row["line"], row["id"], row["text"]) for row in rows] == [
        (row.outcome, str(row.line), row.id or "", row.text or "") for row in EXPECTED
    ]


def test_a_file_that_cannot_be_written_is_reported_in_a_sentence(tmp_path: Path) -> None:
    """With its path, as it was given."""
    with pytest.raises(SettingsError, match=r"nowhere/x\.csv' cannot be written: No such file"):
        write_csv([], tmp_path / "nowhere" / "x.csv")


@pytest.mark.parametrize("run", [None, "2026-11-22-3f9a1c2e"])
async def test_no_run_is_reported_in_a_sentence(bucket: Bucket, settings_for: Make, run: str | None) -> None:
    """Nothing was harvested, or not under this name."""
    with pytest.raises(CorruptLakeError, match="There is no run"):
        await missing(settings_for("http://127.0.0.1:9/3"), run=run)


async def test_ids_that_were_altered_are_no_ids(bucket: Bucket, settings_for: Make) -> None:
    """What stands in the lake is data from outside."""
    async with fake_tmdb() as tmdb:
        settings = settings_for(tmdb.url, movies=["tt0000001"])
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
    [key] = [
        key for key in await bucket.objects("Raw/API/_harvest/") if Layout("Raw/API", "", report.run).generation_of(key)
    ]
    for body in (
        b"no gzip",
        gzip.compress(b"".join(gzip.decompress(await bucket.read(key) or b"").splitlines(True)[1:])),
    ):
        await bucket.put(key, body)
        with pytest.raises(CorruptLakeError, match="is not the ids of this run"):
            await missing(settings)


@pytest.mark.parametrize(
    ("ids", "missing", "likely"),
    [
        (101, {"unknown": 51}, ["games"]),
        (101, {"unknown": 50}, None),
        (100, {"unknown": 100}, None),
        (200, {"episode": 101}, ["episodes"]),
        (200, {"episode": 30, "unknown": 71}, ["games", "episodes"]),
        (200, {"season": 150, "episode": 50}, ["seasons", "episodes"]),
        (200, {"episode": 60, "unknown": 40}, None),
        (0, {}, None),
    ],
)
def test_a_run_that_mostly_misses_says_why_that_may_be(
    ids: int, missing: dict[str, int], likely: list[str] | None
) -> None:
    """Over 100 ids, and over half of them missing: a warning with the reasons, the commonest first."""
    with capture_logs() as logs:
        warn_if_mostly_missing(Totals(rows=ids, ids=ids, missing=Counter(missing)))
    if likely is None:
        assert logs == []
        return
    [line] = logs
    assert (line["event"], line["log_level"]) == ("mostly_missing", "warning")
    assert (line["missing"], line["ids"]) == (sum(missing.values()), ids)
    assert [
        word for part in line["likely"].split("; ") for word in ("games", "episodes", "seasons") if word in part
    ] == (likely)


async def test_a_harvest_that_mostly_misses_says_so(settings_for: Make) -> None:
    """In its log, once the totals are reconciled, and not again when there is nothing to do."""
    kinds: Any = dict.fromkeys(ids_from(1, 61), "episode")
    async with fake_tmdb(catalog=Catalog(kinds)) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 110))
        for expected in (1, 0):
            with capture_logs() as logs:
                await harvest(settings, observer=Silent(), shutdown=Shutdown())
            assert [line["event"] for line in logs].count("mostly_missing") == expected
