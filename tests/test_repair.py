"""Repair: only `verify --repair` moves foreign objects to quarantine, and removes stale files of ours.

`harvest` only warns of both, `verify` names them; neither writes anything because of them.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web
from conftest import Silent, capture_logs
from loops import no_wait
from shells import Shell, kept
from test_verify import CATALOG, DAY, MOVIES, NOON, RUNS, Lake, open_lake

from harvester.commands.harvest import LeaseOptions, harvest
from harvester.commands.plan import plan
from harvester.commands.verify import verify
from harvester.errors import CorruptLakeError, LeaseLostError, NewerFormatError, SettingsError
from harvester.fakes.s3_proxy import refusing, s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.runs.lease import LeaseTimes, hold_lease
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from harvester.commands.verify import VerificationReport
    from harvester.fakes.s3_proxy import Call, Forward, S3Proxy
    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

LEASE = f"{RUNS}lease.json"


@pytest.fixture
async def lake(bucket: Bucket, settings_for: Make, tmp_path: Path) -> AsyncIterator[Lake]:
    async with open_lake(bucket, settings_for, tmp_path) as opened:
        yield opened


async def repaired(lake: Lake, settings: Settings | None = None, **more: Any) -> VerificationReport:
    return await verify(settings or lake.settings, repairing=True, **more)


async def objects(lake: Lake) -> dict[str, bytes]:
    """Everything in the bucket but the lease, which every repair writes."""
    return {key: await lake.read(key) for key in await lake.bucket.objects("") if key != LEASE}


def events(logs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [line for line in logs if line["event"] == name]


# --- foreign objects

FOREIGN = [
    "{batch}.parquet",
    "{batch}.json.bak",
    "{batch}.txt",
    "{batch}.jsonl",
    "{batch}.JSON",
    "{batch}",
    "{BATCH}.json",
    "{batch}.0.json",
    "{batch}.1.json",
    "{batch}.01.json",
    "{batch}.02.json",
    "{batch}.101.json",
    "{batch}.2.2.json",
    "{batch}.2.json.gz",
    "{batch}.\N{FULLWIDTH DIGIT TWO}.json",
    "{batch}-copy.json",
    "copy-{batch}.json",
    "{batch} .json",
    "parquet/{batch}.parquet",
    "deeper/{batch}.json",
    "curated.parquet",
    "export.json",
    "part-00000-3f9a1c2e.snappy.parquet",
    "tt0000001-tt0000009-deadbeef.json",
    "tt0000001-tt0000009-deadbeef.2.json",
    "with 'quotes', and a + in it & more.json",
    "Ação.json",
]
"""Names beside a batch's data file; `{batch}` is its name, `{BATCH}` the same in upper case."""


def beside(data: str, name: str) -> str:
    """The key of something with this name beside a data file."""
    folder, _, file = data.rpartition("/")
    batch = file.removesuffix(".json")
    return f"{folder}/{name.format(batch=batch, BATCH=batch.upper())}"


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_foreign_object_is_named_left_by_harvest_and_moved_by_repair(name: str, lake: Lake) -> None:
    """Readers read it, so it is wrong; it is not ours to remove, so it is moved, and only where that is asked for."""
    foreign = beside(lake.movies, name)
    before = await objects(lake)
    await lake.bucket.put(foreign, b"of others")
    named = [f"{foreign} is foreign: no run of the day has such a file; --repair moves it away"]
    assert await lake.problems() == named
    with capture_logs() as logs:
        assert await lake.harvest() == "nothing_to_do"
    [warning] = events(logs, "foreign_objects")
    assert (warning["log_level"], warning["count"], warning["first"]) == ("warning", 1, [foreign])
    assert await objects(lake) == before | {foreign: b"of others"}
    verification = await repaired(lake)
    target = f"{lake.folder}quarantine/{foreign}"
    assert (verification.problems, verification.repaired) == ([], [f"{foreign} was foreign, and is now {target}"])
    assert await objects(lake) == before | {target: b"of others"}
    with capture_logs() as logs:
        assert await lake.harvest() == "nothing_to_do"
    assert events(logs, "foreign_objects") == []
    assert (await repaired(lake)).repaired == []


async def test_a_batch_of_another_day_is_foreign_on_this_one(lake: Lake) -> None:
    """A data file of ours in the folder of a day whose runs have no such batch is moved like anything else there."""
    settings = await lake.another(["tt0000011"])
    shutdown, clock = Shutdown(), "2026-01-02T12:00:00.000Z"
    await harvest(settings, observer=Silent(), shutdown=shutdown, clock=Clock(sleep=no_wait, now=lambda: clock))
    [theirs] = await lake.bucket.objects("Raw/API/Movies/2026/01/02/")
    copy = beside(lake.movies, theirs.rpartition("/")[2])
    await lake.bucket.copy(theirs, copy)
    verification = await repaired(lake, run=lake.run)
    assert (verification.problems, len(verification.repaired)) == ([], 1)
    assert await lake.bucket.read(copy) is None
    assert (await verify(settings, day="2026-01-02")).problems == []


async def test_many_foreign_objects_are_counted_and_the_first_of_them_named(lake: Lake) -> None:
    """Harvest has one line for all of them, with 20 names, and repair one line for each."""
    keys = sorted(beside(lake.series, f"export-{number:03}.json") for number in range(25))
    for key in keys:
        await lake.bucket.put(key, b"")
    with capture_logs() as logs:
        assert await lake.harvest() == "nothing_to_do"
    [warning] = events(logs, "foreign_objects")
    assert (warning["count"], warning["first"]) == (25, keys[:20])
    assert len(await lake.problems()) == 25
    verification = await repaired(lake)
    assert (verification.problems, len(verification.repaired)) == ([], 25)


async def test_a_harvest_with_something_to_do_warns_of_foreign_objects_once(lake: Lake) -> None:
    """The lake is read before the lease is taken and again with it, and what is foreign is named once."""
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    await lake.bucket.delete(lake.movies)
    with capture_logs() as logs:
        assert await lake.harvest() == "closed"
    assert [line["first"] for line in events(logs, "foreign_objects")] == [[foreign]]
    assert await lake.read(foreign) == b"of others"


async def test_what_is_in_quarantine_is_never_overwritten(lake: Lake) -> None:
    """The same name again gets a number, also where somebody has already put something under that."""
    foreign = beside(lake.movies, "export.json")
    target = f"{lake.folder}quarantine/{foreign}"
    await lake.bucket.put(f"{target}.3", b"already there")
    for body in (b"first", b"second", b"third", b"first"):
        await lake.bucket.put(foreign, body)
        assert (await repaired(lake)).problems == []
    kept_there = {key: body for key, body in (await objects(lake)).items() if "/quarantine/" in key}
    assert kept_there == {
        target: b"first",
        f"{target}.2": b"second",
        f"{target}.3": b"already there",
        f"{target}.4": b"third",
        f"{target}.5": b"first",
    }


@pytest.mark.parametrize("size", [0, 6 * 2**20])
async def test_a_foreign_object_is_moved_whole(size: int, lake: Lake) -> None:
    """Whatever its size, every byte of it is in quarantine."""
    foreign, body = beside(lake.movies, "export.bin"), bytes(range(256)) * (size // 256)
    await lake.bucket.put(foreign, body)
    assert (await repaired(lake)).problems == []
    assert await lake.read(f"{lake.folder}quarantine/{foreign}") == body


HIDDEN = ["", "_SUCCESS", ".DS_Store", "_temporary/0/part.json", ".ipynb_checkpoints/a.json", "deep/_x/a.json"]


@pytest.mark.parametrize("name", HIDDEN)
async def test_what_readers_do_not_read_is_no_harm_and_stays(name: str, lake: Lake) -> None:
    """Hidden files, and the mark of a folder that S3's console makes, are left where they are."""
    await lake.bucket.put(beside(lake.movies, name), b"")
    before = await objects(lake)
    assert await lake.problems() == []
    with capture_logs() as logs:
        assert await lake.harvest() == "nothing_to_do"
    assert [line for line in logs if line["log_level"] == "warning"] == []
    verification = await repaired(lake)
    assert (verification.problems, verification.repaired) == ([], [])
    assert await objects(lake) == before


@pytest.mark.parametrize("nested", ["/sub", "/deep/sub", ""])
async def test_another_harvest_below_a_days_folder_is_left_alone(nested: str, lake: Lake) -> None:
    """A folder with a lease of its own is another harvest's prefix: its files are not foreign here."""
    theirs = await lake.another(["tt0000011", "tt0000012"], s3_prefix=lake.movies.rpartition("/")[0] + nested)
    assert await lake.harvest(theirs) == "closed"
    before = await objects(lake)
    assert await lake.problems() == []
    verification = await repaired(lake)
    assert (verification.problems, verification.repaired) == ([], [])
    assert await objects(lake) == before
    assert (await verify(theirs)).problems == []


@pytest.mark.parametrize("name", ["_harvest/notes.txt", "_harvest/lease.json.bak", "my_harvest/lease.json"])
async def test_what_is_no_harvests_prefix_hides_nothing_foreign(name: str, lake: Lake) -> None:
    """Only a lease makes a folder another harvest's prefix: any other stray object leaves its neighbours named."""
    await lake.bucket.put(beside(lake.movies, name), b"{}")
    foreign = {beside(lake.movies, each) for each in ("export.bin", "sub/export.bin", "my/export.bin")}
    for key in foreign:
        await lake.bucket.put(key, b"of others")
    named = " ".join(await lake.problems())
    assert all(key in named for key in foreign)


async def test_what_is_not_in_the_days_folders_is_never_looked_at(lake: Lake) -> None:
    """The rest of the bucket, the rest of the prefix and the other days are of no concern to a repair."""
    others = [
        "Finance/ledger.parquet",
        "Trusted/API/x.parquet",
        "Raw/API/notes.txt",
        "Raw/API/Movies/notes.txt",
        "Raw/API/Movies/2020/01/02/export.json",
        f"{lake.movies.rpartition('/')[0]}-old/export.json",
        f"{RUNS}notes/read-me.txt",
        f"{lake.folder}notes.txt",
    ]
    for key in others:
        await lake.bucket.put(key, b"of others")
    before = await objects(lake)
    verification = await repaired(lake)
    assert (verification.problems, verification.repaired) == ([], [])
    assert await objects(lake) == before


# --- stale files of ours

STALE = ["{movies}.2.json", "{movies}.99.json", "{movies}.100.json", "{series}.json"]
"""Names that the layout makes of a batch that is done, and that its receipt does not name."""


@pytest.mark.parametrize("name", STALE)
async def test_a_stale_file_of_ours_is_named_left_by_harvest_and_removed_by_repair(name: str, lake: Lake) -> None:
    """The receipt of a batch that is done does not name it, so its records stand twice, or are of no batch."""
    folder, _, movies = lake.movies.removesuffix(".json").rpartition("/")
    series = lake.series.removesuffix(".json").rpartition("/")[2]
    stale = f"{folder}/{name.format(movies=movies, series=series)}"
    before = await lake.data()
    await lake.bucket.put(stale, await lake.read(lake.movies))
    assert await lake.problems() == [f"{stale} is in no receipt: --repair removes it"]
    for _ in range(2):
        with capture_logs() as logs:
            assert await lake.harvest() in ("closed", "nothing_to_do")
        [warning] = events(logs, "stale_files")
        assert (warning["log_level"], warning["count"], warning["first"]) == ("warning", 1, [stale])
        assert await lake.read(stale) == await lake.read(lake.movies)
    verification = await repaired(lake)
    assert (verification.problems, verification.repaired, verification.records) == (
        [],
        [f"{stale} was stale, and is removed"],
        8,
    )
    assert await lake.data() == before
    assert await lake.bucket.objects(f"{lake.folder}quarantine/") == {}
    with capture_logs() as logs:
        assert await lake.harvest() in ("closed", "nothing_to_do")
    assert events(logs, "stale_files") == []
    assert await lake.problems() == []


async def killed_between_data_and_receipt(lake: Lake) -> tuple[Settings, str, str]:
    """A run of the day whose second batch has its data file and no receipt: its settings, its name, that file."""
    settings = await lake.another([f"tt{number:07d}" for number in range(101, 302)])
    assert await lake.harvest(settings, limit=101) == "stopped"
    [run] = set(await lake.runs()) - {lake.run}
    [data] = [key for key in await lake.data() if "/tt0000201-" in key]
    await lake.bucket.delete(f"{RUNS}{run}/receipts/Movies/{data.rpartition('/')[2]}")
    return settings, run, data


@pytest.mark.parametrize("which", ["its own", "another run's", "the whole day's"])
async def test_a_file_of_a_batch_that_is_still_to_do_stays(which: str, lake: Lake) -> None:
    """Its receipt may be written by the next harvest: whichever run is repaired, it is neither stale nor foreign."""
    settings, run, data = await killed_between_data_and_receipt(lake)
    for key in (data.replace(".json", ".2.json"), data.replace("/Movies/", "/Series/")):
        await lake.bucket.put(key, b"")  # a batch that was larger, or had reclassified titles, in the pass before
    before = await objects(lake)
    more = {"its own": {"run": run}, "another run's": {"run": lake.run}, "the whole day's": {"day": DAY}}[which]
    verification = await repaired(lake, **more)
    assert verification.repaired == []
    assert [problem for problem in verification.problems if "foreign" in problem or "no receipt: --" in problem] == []
    assert await objects(lake) == before
    with capture_logs() as logs:
        assert await lake.harvest(settings) == "closed"
    assert [line for line in logs if line["event"] in ("foreign_objects", "stale_files")] == []
    verification = await verify(lake.settings, day=DAY)
    assert (verification.problems, verification.unfinished, verification.records) == ([], [], 8 + 201)


async def test_a_file_of_a_batch_with_failed_titles_stays(lake: Lake) -> None:
    """A batch with a failed title is still to do, so nothing under its name is stale; the retry empties it."""
    settings = await lake.another(["tt0000011", "tt0000012"])
    lake.failing.add("tt0000011")
    assert await lake.harvest(settings) == "failed"
    [data] = [key for key in await lake.data() if "/tt0000011-" in key]
    extra = data.replace(".json", ".2.json")
    await lake.bucket.put(extra, b"")
    before = await objects(lake)
    verification = await repaired(lake)
    assert (verification.repaired, [problem for problem in verification.problems if "repair" in problem]) == ([], [])
    assert await objects(lake) == before
    lake.failing.clear()
    assert await lake.harvest(settings) == "closed"
    assert (await lake.problems(day=DAY), await lake.read(extra)) == ([], b"")


async def test_the_files_of_an_earlier_generation_stay_until_their_batch_is_done(lake: Lake) -> None:
    """`--again` that was stopped has batches with a receipt of the generation before: their files still count."""
    lake.settings = await lake.another([f"tt{number:07d}" for number in range(101, 302)])
    assert await lake.harvest() == "closed"
    assert await lake.harvest(again=True, limit=1) == "stopped"
    before = await objects(lake)
    verification = await repaired(lake)
    assert (verification.repaired, {problem.partition(" ")[2] for problem in verification.problems}) == (
        [],
        {"has no receipt: harvest goes on with it"},
    )
    verification = await repaired(lake, day=DAY)
    assert (verification.problems, len(verification.unfinished), verification.records) == ([], 1, 8 + 201)
    assert await objects(lake) == before


# --- what S3 refuses


@asynccontextmanager
async def linked(lake: Lake, s3: S3Server) -> AsyncIterator[tuple[S3Proxy, Settings]]:
    """A link before S3, and the lake's settings through it."""
    async with s3_proxy(s3.endpoint) as link:
        yield link, lake.settings.model_copy(update={"aws_endpoint_url_s3": link.url})


@pytest.mark.parametrize("operation", ["copy", "delete"])
async def test_what_s3_refuses_to_move_stays_and_is_named(operation: str, s3: S3Server, lake: Lake) -> None:
    """Without the permission nothing is lost: the object is still there, warned of and named; the rest is moved."""
    stubborn, willing = beside(lake.movies, "a.json"), beside(lake.movies, "b.json")
    await lake.bucket.put(stubborn, b"stubborn")
    await lake.bucket.put(willing, b"willing")

    async def refuse_one(call: Call, forward: Forward) -> web.StreamResponse:
        one = call.key.endswith("/a.json")
        return await (refusing(403, "AccessDenied")(call, forward) if one else forward())

    async with linked(lake, s3) as (link, settings):
        link.rules[operation] = refuse_one
        with capture_logs() as logs:
            verification = await repaired(lake, settings)
    [warning] = events(logs, "not_repaired")
    assert (warning["log_level"], warning["key"], "AccessDenied" in warning["problem"]) == ("warning", stubborn, True)
    assert verification.problems == [
        f"{stubborn} is foreign: no run of the day has such a file; --repair moves it away"
    ]
    assert verification.repaired == [f"{willing} was foreign, and is now {lake.folder}quarantine/{willing}"]
    assert await lake.read(stubborn) == b"stubborn"
    assert (await repaired(lake)).problems == []


async def test_a_stale_file_that_s3_refuses_to_remove_stays_and_is_named(s3: S3Server, lake: Lake) -> None:
    """Without `s3:DeleteObject` it is still there, warned of and named."""
    stale = lake.movies.replace(".json", ".2.json")
    await lake.bucket.put(stale, b"")
    async with linked(lake, s3) as (link, settings):
        link.rules["delete"] = refusing(403, "AccessDenied")
        with capture_logs() as logs:
            verification = await repaired(lake, settings)
    assert [line["key"] for line in events(logs, "not_repaired")] == [stale]
    assert (verification.problems, verification.repaired) == ([f"{stale} is in no receipt: --repair removes it"], [])
    assert stale in await lake.data()


async def test_a_copy_that_is_none_costs_nothing(s3: S3Server, lake: Lake) -> None:
    """Where S3 says it has copied and has not, the object stays where it is."""
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    copied = (
        '<CopyObjectResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ETag>"0"</ETag>'
        "<LastModified>2026-11-29T10:00:00.000Z</LastModified></CopyObjectResult>"
    )

    async def pretend(call: Call, _forward: Forward) -> web.StreamResponse:
        return web.Response(text=copied, content_type="application/xml")

    async with linked(lake, s3) as (link, settings):
        link.rules["copy"] = pretend
        with capture_logs() as logs:
            verification = await repaired(lake, settings)
    assert ([line["key"] for line in events(logs, "not_repaired")], verification.repaired) == ([foreign], [])
    assert len(verification.problems) == 1
    assert await lake.read(foreign) == b"of others"


async def test_a_key_too_long_for_the_quarantine_stays_and_is_named(s3: S3Server, lake: Lake) -> None:
    """S3 takes 1,024 bytes of a key: what would need more in quarantine is left, and the rest is moved."""
    folder = lake.movies.rpartition("/")[0]
    parts = ["x" * 200] * 4
    long = f"{folder}/{'/'.join(parts)}/{'y' * 180}.json"
    short = f"{folder}/z.json"
    for key in (long, short):
        await lake.bucket.put(key, b"of others")

    async def limited(call: Call, forward: Forward) -> web.StreamResponse:
        return await (forward() if len(call.key) <= 1_024 else refusing(400, "KeyTooLongError")(call, forward))

    assert len(long) <= 1_024 < len(f"{lake.folder}quarantine/{long}")
    async with linked(lake, s3) as (link, settings):
        link.rules["*"] = limited
        verification = await repaired(lake, settings)
    assert [problem.partition(" ")[0] for problem in verification.problems] == [long]
    assert verification.repaired == [f"{short} was foreign, and is now {lake.folder}quarantine/{short}"]
    assert await lake.read(long) == b"of others"


# --- what is not believed


async def test_without_a_good_manifest_nothing_is_moved(lake: Lake) -> None:
    """Which batches the run has is not known, so nothing is called foreign; the error names the manifest."""
    await lake.bucket.put(beside(lake.movies, "export.json"), b"of others")
    await lake.edit(lake.manifest, lambda manifest: manifest.update(batches={}), with_checksum=False)
    before = await objects(lake)
    with pytest.raises(CorruptLakeError, match=r"manifest\.json has been edited"):
        await repaired(lake)
    assert await objects(lake) == before


async def test_a_manifest_that_leaves_out_a_batch_has_no_data_file_moved(lake: Lake) -> None:
    """A checksum does not show who wrote it: where ids and batches differ, the batches are not acted on."""
    await lake.edit(lake.manifest, lambda manifest: manifest["batches"].update(Movies=[]), with_checksum=True)
    before = await objects(lake)
    verification = await repaired(lake)
    assert verification.repaired == []
    assert [problem for problem in verification.problems if problem.startswith(f"{lake.manifest} has other ")] != []
    assert await objects(lake) == before


async def test_another_runs_bad_manifest_has_none_of_its_files_moved(lake: Lake) -> None:
    """Its batches are known by its receipts or not at all, so on that day nothing under a batch's name is moved."""
    _, run, data = await killed_between_data_and_receipt(lake)
    await lake.bucket.put(f"{RUNS}{run}/manifest.json", b"{}")
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    verification = await repaired(lake, run=lake.run)
    assert [line.partition(" ")[0] for line in verification.repaired] == [foreign]
    assert data in await lake.data()


async def test_a_forged_receipt_has_nothing_of_others_removed(lake: Lake) -> None:
    """A receipt with a valid checksum that names an object of others is no receipt, and what it names stays."""
    ledger = "Finance/ledger.parquet"
    await lake.bucket.put(ledger, b"PAR1")
    key = lake.receipt(lake.movies)
    forged = key.replace("tt0000001", "tt0000000")
    await lake.bucket.put(forged, await lake.read(key))
    await lake.edit(forged, lambda receipt: receipt["files"][0].update(key=ledger), with_checksum=True)
    verification = await repaired(lake)
    assert (verification.repaired, [problem for problem in verification.problems if problem.startswith(forged)]) == (
        [],
        verification.problems,
    )
    assert len(verification.problems) == 1
    assert await lake.read(ledger) == b"PAR1"


OTHER_TEMPLATES = [
    "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.jsonl",
    "{prefix}/{collection}/{yyyy}/{mm}/{dd}/deeper/{batch}.json",
    "{prefix}/x/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
]


@pytest.mark.parametrize("template", OTHER_TEMPLATES)
async def test_a_run_of_another_template_is_not_repaired(template: str, lake: Lake) -> None:
    """Under another S3_KEY_TEMPLATE every file of the run would be foreign: a sentence says which one it has."""
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    before = await objects(lake)
    settings = lake.settings.model_copy(update={"s3_key_template": template})
    with pytest.raises(SettingsError, match="S3_KEY_TEMPLATE"):
        await repaired(lake, settings)
    assert await objects(lake) == before


# --- a day, and who else is at work


async def test_a_day_is_repaired_over_all_its_runs(lake: Lake) -> None:
    """Foreign objects and the stale files of every run of the day are gone after one repair, and the day is proved."""
    assert await lake.harvest(await lake.another(["tt0000011", "tt0000012"])) == "closed"
    [theirs] = [key for key in await lake.data() if "/tt0000011-" in key]
    foreign = [beside(lake.movies, "a.json"), beside(lake.series, "b.json")]
    stale = [lake.movies.replace(".json", ".2.json"), theirs.replace(".json", ".2.json")]
    before = await lake.data()
    for key in foreign + stale:
        await lake.bucket.put(key, b"")
    named = {problem.partition(" ")[0] for problem in await lake.problems(day=DAY)}
    assert named == {*foreign, *stale}
    verification = await repaired(lake, day=DAY)
    assert (verification.problems, sorted(line.partition(" ")[0] for line in verification.repaired)) == (
        [],
        sorted(foreign + stale),
    )
    assert await lake.data() == before


async def test_a_repair_waits_for_the_lease_and_marks_it_ended(lake: Lake) -> None:
    """While a harvest is at work, nothing is moved; once it has ended, the repair is done and the lease free again."""
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    with capture_logs() as logs:
        async with hold_lease(lake.bucket, LEASE):
            waiting = asyncio.ensure_future(repaired(lake, times=LeaseTimes(poll=0.05)))
            while not events(logs, "lease_held"):
                assert not waiting.done()
                await asyncio.sleep(0.01)
            assert await lake.read(foreign) == b"of others"
        verification = await waiting
    assert (verification.problems, len(verification.repaired)) == ([], 1)
    assert orjson.loads(await lake.read(LEASE))["ended"] is True


async def test_a_run_that_has_begun_while_a_repair_waited_is_read_too(lake: Lake) -> None:
    """Which runs the day has is looked up once the lease is ours."""
    settings, lease_options = await lake.another(["tt0000011", "tt0000012"]), LeaseOptions(token="another-harvest")
    with capture_logs() as logs:
        async with hold_lease(lake.bucket, LEASE, token=lease_options.token):
            waiting = asyncio.ensure_future(repaired(lake, day=DAY, times=LeaseTimes(poll=0.05)))
            while not events(logs, "lease_held"):
                assert not waiting.done()
                await asyncio.sleep(0.01)
            report = await harvest(
                settings,
                observer=Silent(),
                shutdown=Shutdown(),
                lease_options=lease_options,
                clock=Clock(sleep=no_wait, now=lambda: NOON),
            )
        verification = await waiting
    assert report.status == "closed"
    assert (verification.runs, verification.problems, verification.records) == (await lake.runs(), [], 8 + 2)


async def test_a_repair_that_loses_the_lease_moves_nothing_more(s3: S3Server, lake: Lake) -> None:
    """Looked at before each object: what was moved stays moved, what is left is left, and the end is exit 75."""
    first, second = beside(lake.movies, "a.json"), beside(lake.movies, "b.json")
    for key in (first, second):
        await lake.bucket.put(key, b"of others")

    async def taken_over(_call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward()
        theirs = orjson.loads(await lake.read(LEASE)) | {"token": "another", "host": "elsewhere"}
        await lake.bucket.put(LEASE, orjson.dumps(theirs))
        return response

    async with linked(lake, s3) as (link, settings):
        link.rules["copy"] = taken_over
        with pytest.raises(LeaseLostError, match="elsewhere") as caught:
            await repaired(lake, settings, times=LeaseTimes(check=0.0))
    assert caught.value.exit_code == 75
    assert (await lake.bucket.read(first), await lake.bucket.read(second)) == (None, b"of others")


async def test_only_a_repair_takes_the_lease(lake: Lake) -> None:
    """While a harvest is at work, `verify`, `verify --day` and `plan` wait for nothing and write nothing."""
    await lake.bucket.put(beside(lake.movies, "export.json"), b"of others")
    async with hold_lease(lake.bucket, LEASE):
        before = await lake.bucket.objects("")
        for more in ({}, {"run": lake.run}, {"day": DAY}):
            assert len((await verify(lake.settings, **more)).problems) == 1
        assert (await plan(lake.settings))["status"] == "nothing_to_do"
        assert await lake.bucket.objects("") == before


async def test_a_lease_of_a_newer_harvester_is_not_taken(lake: Lake) -> None:
    """What it says is not known, so nothing is moved, and the end is exit 75."""
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    await lake.bucket.put(LEASE, b'{"format":2}')
    with pytest.raises(NewerFormatError, match="install a newer one"):
        await repaired(lake)
    assert await lake.read(foreign) == b"of others"


async def test_a_harvest_after_a_repair_goes_on_as_before(bucket: Bucket, settings_for: Make) -> None:
    """The lease that a repair leaves behind still names the run of a killed harvest, whose open uploads are aborted."""
    async with fake_tmdb(catalog=CATALOG) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(now=lambda: NOON))
        [data] = await bucket.objects("Raw/API/Movies/")
        await bucket.begin(data)
        assert (await verify(settings, repairing=True)).problems == []
        assert len(await bucket.uploads("Raw/API/Movies/")) == 1
        status = (
            await harvest(settings, observer=Silent(), shutdown=Shutdown(), again=True, clock=Clock(now=lambda: NOON))
        ).status
    assert (status, await bucket.uploads("Raw/API/Movies/")) == ("closed", [])
    assert orjson.loads(await bucket.read(LEASE) or b"")["run"] == report.run


# --- the command


async def test_the_command_says_what_was_repaired(s3: S3Server, lake: Lake, tmp_path: Path) -> None:
    """`--repair` ends with 0 where nothing is wrong any more, and names each object with where it is now."""
    foreign = beside(lake.movies, "export.json")
    await lake.bucket.put(foreign, b"of others")
    shell = Shell(kept() | s3.environment() | {"S3_BUCKET": lake.bucket.name, "COLUMNS": "300"}, tmp_path)
    named = await shell.run("verify")
    assert (named.code, f"{foreign} is foreign" in named.out, await lake.read(foreign)) == (1, True, b"of others")
    ended = await shell.run("verify", "--repair")
    moved = f"{foreign} was foreign, and is now {lake.folder}quarantine/{foreign}"
    assert (ended.code, moved in ended.out) == (0, True)
    ended = await shell.run("verify", "--repair", "--day", DAY, "--json")
    assert (ended.code, ended.result["status"], ended.result["repaired"]) == (0, "proved", [])


async def test_a_foreign_object_is_not_said_to_be_done_again_by_harvest(lake: Lake) -> None:
    """Nobody is sent to harvest for what only a repair moves away."""
    await lake.bucket.put(beside(lake.movies, "export.json"), b"of others")
    assert (await verify(lake.settings)).as_json()["left_to_harvest"] is False
