"""Which run is gone on with: by its date, its generation and what stands, never by comparing two times."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent, capture_logs, manifest_of
from loops import no_wait
from test_harvest import ids_from, ids_in
from test_receipt import with_checksum

from harvester.commands.harvest import harvest
from harvester.commands.verify import verify
from harvester.errors import Exit, NewerFormatError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, refusal, scripted
from harvester.fakes.s3_proxy import s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.model.batch import Batch
from harvester.model.manifest import decode_manifest, decode_summary
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.commands.harvest import HarvestReport
    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]


def at(time: str) -> Callable[[], str]:
    """A clock that stands still."""
    return lambda: f"{time}.000Z"


NOON_21, NOON_22, NOON_23 = (at(f"2026-11-{day}T12:00:00") for day in (21, 22, 23))


async def begun(settings: Settings, now: Callable[[], str], **more: Any) -> HarvestReport:
    """A harvest that is stopped after its first batch, as if it had been killed between two batches."""
    return await harvest(
        settings, observer=Silent(), shutdown=Shutdown(limit=1), clock=Clock(now=now, sleep=no_wait), **more
    )


async def gone_on_with(settings: Settings, now: Callable[[], str], **more: Any) -> HarvestReport:
    """A harvest to its end."""
    return await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(now=now, sleep=no_wait), **more)


def titles_of(asked: Counter[Any]) -> set[str]:
    """The ids that were asked for."""
    return {id_ for route, id_ in asked if route != "authentication"}


def failing(*ids: str) -> Any:
    """TMDB never has a usable answer for these movies."""
    return scripted({("movie", id_): [always(refusal(500))] for id_ in ids})


# Days


async def test_started_again_after_midnight_it_goes_on_under_its_own_date(bucket: Bucket, settings_for: Make) -> None:
    """What was begun yesterday lands under yesterday; what was finished yesterday is a new collection today."""
    evening, morning = at("2026-11-21T23:50:00"), at("2026-11-22T00:10:00")
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await begun(settings, evening)
        report = await gone_on_with(settings, morning)
        assert (report.status, report.run[:10], report.totals.found) == ("closed", "2026-11-21", 150)
        assert len(await bucket.objects("Raw/API/Movies/2026/11/21/")) == 2
        report = await gone_on_with(settings, morning)
        assert (report.status, report.run[:10], report.totals.found) == ("closed", "2026-11-22", 150)
        assert len(await bucket.objects("Raw/API/Movies/2026/11/22/")) == 2


async def test_more_rows_of_the_same_ids_make_a_new_day_all_the_same(bucket: Bucket, settings_for: Make) -> None:
    """A CSV that grew by artists of known titles does not keep today from being collected."""
    movies = ids_from(1, 5)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        await gone_on_with(settings_for(tmdb.url, movies=movies), NOON_21)
        report = await gone_on_with(settings_for(tmdb.url, movies=[*movies, movies[0]]), NOON_22)
    assert (report.status, report.run[:10], report.totals.found, report.totals.rows) == ("closed", "2026-11-22", 5, 12)


@pytest.mark.parametrize("later", ["2026-11-22T00:00:01", "2026-11-22T23:59:59"])
async def test_a_title_that_fails_for_ever_does_not_keep_the_next_day_from_being_collected(
    later: str, bucket: Bucket, settings_for: Make
) -> None:
    """The failed titles of yesterday are yesterday's: from midnight on a new collection begins."""
    movies = ids_from(1, 120)
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=failing(movies[0])) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        reports = [await gone_on_with(settings, at(time)) for time in ("2026-11-21T23:59:58", later)]
    assert [(report.status, report.run[:10], report.totals.found) for report in reports] == [
        ("failed", "2026-11-21", 119),
        ("failed", "2026-11-22", 119),
    ]


async def test_a_title_that_failed_today_is_tried_again_today(bucket: Bucket, settings_for: Make) -> None:
    """A run of today with failed titles is not finished: the same command, with `--again` too, retries their batch."""
    movies = ids_from(1, 220)
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), faults=failing(movies[150])) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        first = await gone_on_with(settings, NOON_21)
        for again in (False, True):
            asked = Counter(tmdb.asked)
            report = await gone_on_with(settings, NOON_21, again=again)
            assert (report.status, report.run, report.totals.found) == ("failed", first.run, 219)
            assert titles_of(tmdb.asked - asked) == set(movies[100:200])
        verification = await verify(settings)
    assert verification.problems == []


ENDS = {
    # how yesterday's run was left: the date of the run that today's start goes on with
    "closed": "22",
    "closed, a title failed": "22",
    "closed, then a file deleted": "22",
    "closed, then a receipt deleted": "22",
    "closed, then its ids deleted": "22",
    "killed before the summary": "21",
    "killed before the summary, a title failed": "22",
    "killed before the summary, a title failed, a file deleted": "22",
    "stopped": "21",
    "stopped, a title failed": "21",
    "stopped before any batch": "21",
    "again, stopped": "21",
    "again, stopped before any batch": "21",
    "again, a title failed in all that was done": "21",
}


class Impatient(Silent):
    """Asks to stop as soon as the run has begun."""

    def __init__(self, shutdown: Shutdown) -> None:
        super().__init__()
        self.shutdown = shutdown

    def begin(self, event: Any) -> None:
        super().begin(event)
        self.shutdown.request("SIGTERM", drain_seconds=0)


async def left_as(end: str, settings: Settings, tmdb: FakeTmdb, bucket: Bucket, poison: str) -> str:
    """Leave a run of the 21st in this state; its name."""

    async def run(*, stopped: bool, again: bool = False) -> Silent:
        shutdown = Shutdown(limit=1 if stopped else None)
        observer = Impatient(shutdown) if stopped and "before any batch" in end else Silent()
        report = await harvest(
            settings, observer=observer, shutdown=shutdown, clock=Clock(now=NOON_21, sleep=no_wait), again=again
        )
        assert (report.status == "stopped") == stopped
        return observer

    failed = failing(poison) if "title failed" in end else failing()
    if end.startswith("again"):
        await run(stopped=False)
    tmdb.faults = failed
    observer = await run(stopped=end.startswith(("again", "stopped")), again=end.startswith("again"))
    tmdb.faults = failing()
    layout = observer.layout
    gone = []
    if end.startswith("killed"):
        gone += [layout.outcomes_key, layout.summary_key]
    if end.endswith("file deleted"):
        gone.append(max(await bucket.objects(layout.data_folder("Movies"))))
    if end.endswith("receipt deleted"):
        gone.append(max(await bucket.objects(layout.receipts)))
    if end.endswith("ids deleted"):
        gone.append(layout.ids_key((await manifest_of(bucket, layout)).generation))
    for key in gone:
        await bucket.delete(key)
    return layout.run


@pytest.mark.parametrize("end", ENDS)
async def test_a_run_of_an_earlier_day_is_gone_on_with_only_where_it_is_unfinished(
    end: str, bucket: Bucket, settings_for: Make
) -> None:
    """Finished is what has a summary of its generation, or only failed titles left, whatever became of its files."""
    movies = ids_from(1, 210)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        name = await left_as(end, settings, tmdb, bucket, movies[0])
        old = await bucket.objects("Raw/API/Movies/2026/11/21/")
        asked = Counter(tmdb.asked)
        report = await gone_on_with(settings, NOON_22)
        repeated = tmdb.asked - asked
        assert (report.status, report.run) == ("closed", name.replace("-21-", f"-{ENDS[end]}-"))
        verification = await verify(settings, run=report.run)
        assert (verification.problems, verification.records) == ([], 210)
        if ENDS[end] == "22":
            assert titles_of(repeated) == set(movies)
            assert await bucket.objects("Raw/API/Movies/2026/11/21/") == old
        report = await gone_on_with(settings, NOON_22)
        assert report.run[:10] == "2026-11-22"
        assert report.status == ("nothing_to_do" if ENDS[end] == "22" else "closed")


async def test_of_several_days_only_the_latest_is_looked_at(bucket: Bucket, settings_for: Make) -> None:
    """An unfinished run is left behind once a later one has begun; nothing older is gone on with."""
    movies = ids_from(1, 150)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await gone_on_with(settings, NOON_22)
        old = await begun(settings, NOON_21)
        assert (old.status, old.run[:10]) == ("stopped", "2026-11-21")
        report = await gone_on_with(settings, NOON_23)
        assert (report.status, report.run[:10]) == ("closed", "2026-11-23")
        assert len(await bucket.objects("Raw/API/Movies/2026/11/21/")) == 1


async def test_again_of_a_finished_run_of_yesterday_is_a_new_run(bucket: Bucket, settings_for: Make) -> None:
    """`--again` concerns today's run: where today has none, one begins, and yesterday's files stay as they are."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await gone_on_with(settings, NOON_21)
        old = await bucket.objects("Raw/API/Movies/2026/11/21/")
        report = await gone_on_with(settings, NOON_22, again=True)
        assert (report.status, report.run[:10]) == ("closed", "2026-11-22")
        assert await bucket.objects("Raw/API/Movies/2026/11/21/") == old


@pytest.mark.parametrize("now", [NOON_21, NOON_22], ids=["today", "yesterday"])
async def test_again_goes_on_with_what_is_unfinished(
    now: Callable[[], str], bucket: Bucket, settings_for: Make
) -> None:
    """A restart of `--again` never begins from zero, of today's run or of yesterday's."""
    movies = ids_from(1, 310)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await begun(settings, NOON_21, again=True)
        await begun(settings, now, again=True)
        report = await gone_on_with(settings, now, again=True)
        assert (report.status, report.run[:10], report.totals.found) == ("closed", "2026-11-21", 310)
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 1


# Runs dated ahead (shared/cases/break-11)


@pytest.mark.parametrize("end", ["closed", "stopped"])
async def test_a_run_dated_ahead_is_warned_of_and_neither_resumed_nor_in_the_way(
    end: str, bucket: Bucket, settings_for: Make
) -> None:
    """A clock two days fast made a run; by a right clock today's is begun, killed, resumed and finished as ever."""
    movies = ids_from(1, 310)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        ahead = await (gone_on_with if end == "closed" else begun)(settings, NOON_23)
        there = await bucket.objects("Raw/API/Movies/2026/11/23/")
        for expected in ("stopped", "stopped", "closed", "nothing_to_do"):
            with capture_logs() as lines:
                report = await (begun if expected == "stopped" else gone_on_with)(settings, NOON_21)
            assert (report.status, report.run[:10]) == (expected, "2026-11-21")
            [warning] = [line for line in lines if line["event"] == "run_dated_ahead"]
            assert (warning["log_level"], warning["count"], warning["first"]) == ("warning", 1, [ahead.run])
        assert Counter(count for (route, _), count in tmdb.asked.items() if route == "movie") == (
            {2: 310} if end == "closed" else {2: 100, 1: 210}
        )
        assert await bucket.objects("Raw/API/Movies/2026/11/23/") == there
        verification = await verify(settings, run=report.run)
        assert verification.problems == []
        with capture_logs() as lines:
            report = await gone_on_with(settings, NOON_23)
        assert (report.status, report.run) == ("nothing_to_do" if end == "closed" else "closed", ahead.run)
        assert [line for line in lines if line["event"] == "run_dated_ahead"] == []


async def test_a_run_of_other_ids_dated_ahead_is_warned_of_too(bucket: Bucket, settings_for: Make) -> None:
    """Whatever its ids: it shows a clock that is wrong."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        ahead = await gone_on_with(settings_for(tmdb.url, movies=ids_from(1_001, 10)), NOON_23)
        with capture_logs() as lines:
            report = await gone_on_with(settings_for(tmdb.url, movies=ids_from(1, 10)), NOON_22)
    assert report.status == "closed"
    assert [line["first"] for line in lines if line["event"] == "run_dated_ahead"] == [[ahead.run]]


# Clocks that are wrong (shared/cases/break-04)


def ticking(start: str, minutes: int) -> Callable[[], str]:
    """A clock of the 21st that goes on by so many minutes each time it is looked at, from this hour and minute."""
    hour, minute = map(int, start.split(":"))
    times = itertools.count(60 * hour + minute, minutes)

    def now() -> str:
        passed = max(0, min(next(times), 24 * 60 - 1))
        return f"2026-11-21T{passed // 60:02}:{passed % 60:02}:00.000Z"

    return now


CLOCKS: dict[str, list[Callable[[], str]]] = {
    # each start of the same harvest has its clock; the first ones are stopped after a batch
    "right": [at("2026-11-21T12:00:00"), at("2026-11-21T12:01:00"), at("2026-11-21T12:02:00")],
    "a: begun 10 minutes fast": [at("2026-11-21T12:10:00"), at("2026-11-21T12:00:30"), at("2026-11-21T12:01:00")],
    "a: begun 14 minutes slow": [at("2026-11-21T11:46:00"), at("2026-11-21T12:00:30"), at("2026-11-21T12:01:00")],
    "a: gone on with 10 minutes slow": [
        at("2026-11-21T12:00:00"),
        at("2026-11-21T11:51:00"),
        at("2026-11-21T12:02:00"),
    ],
    "b: set back in mid-run": [ticking("18:00", -1), ticking("16:00", -1), at("2026-11-21T12:00:00")],
    "b: set forward in mid-run": [ticking("6:00", 1), ticking("12:00", 1), ticking("6:00", 1)],
    "stands still": [at("2026-11-21T12:00:00")] * 3,
    "in another form": [lambda: "2026-11-21T12:00:00+00:00", lambda: "2026-11-21", lambda: "2026-11-21 nonsense"],
}


@pytest.mark.parametrize("clocks", CLOCKS)
async def test_whatever_the_clock_nothing_is_asked_twice_and_all_is_proved(
    clocks: str, bucket: Bucket, settings_for: Make
) -> None:
    """Receipts count by their generation: begun, gone on with and closed by other clocks, each title is asked once."""
    movies = ids_from(1, 310)
    one, two, three = CLOCKS[clocks]
    async with fake_tmdb(catalog=Catalog(kinds={movies[120]: "tv"}, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        for now, left in ((one, 3), (two, 2)):
            report = await begun(settings, now)
            assert (report.status, report.batches_left) == ("stopped", left)
        report = await gone_on_with(settings, three)
        assert (report.status, report.run[:10], report.totals.found) == ("closed", "2026-11-21", 310)
        assert Counter(count for (route, _), count in tmdb.asked.items() if route == "movie") == {1: 310}
        verification = await verify(settings)
        assert (verification.problems, verification.records, verification.totals) == ([], 310, report.totals)
        asked = tmdb.asked.total()
        for now in (one, two, three):
            report = await gone_on_with(settings, now)
            assert report.status == "nothing_to_do"
        assert tmdb.asked.total() == asked
    assert sorted(await ids_in(bucket)) == movies


@pytest.mark.parametrize("clocks", CLOCKS)
async def test_whatever_the_clock_again_asks_everything_once_more_and_once_only(
    clocks: str, bucket: Bucket, settings_for: Make
) -> None:
    """`--again` by a slow clock is a new generation all the same, and is gone on with by any other (break-04 c)."""
    movies = ids_from(1, 210)
    one, two, three = CLOCKS[clocks]
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await gone_on_with(settings, at("2026-11-21T12:00:00"))
        for now, left in ((one, 2), (two, 1)):
            report = await begun(settings, now, again=True)
            assert (report.status, report.batches_left) == ("stopped", left)
        report = await gone_on_with(settings, three)
        assert (report.status, report.totals.found) == ("closed", 210)
        assert Counter(count for (route, _), count in tmdb.asked.items() if route == "movie") == {2: 210}
        verification = await verify(settings)
        assert (verification.problems, verification.records) == ([], 210)


async def test_a_fast_clock_over_midnight_is_a_run_of_its_own_day(bucket: Bucket, settings_for: Make) -> None:
    """Begun ten minutes fast at 23:55, it is tomorrow's; today has its own, and tomorrow it is gone on with."""
    movies = ids_from(1, 210)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        fast = await begun(settings, at("2026-11-22T00:05:00"))
        right = await gone_on_with(settings, at("2026-11-21T23:56:00"))
        assert (right.status, right.run[:10]) == ("closed", "2026-11-21")
        asked = Counter(tmdb.asked)
        report = await gone_on_with(settings, at("2026-11-22T00:01:00"))
        assert (report.status, report.run) == ("closed", fast.run)
        assert titles_of(tmdb.asked - asked) == set(movies[100:])
        for run in (right.run, fast.run):
            verification = await verify(settings, run=run)
            assert (verification.problems, verification.records) == ([], 210)


# Formats and keys of other versions


DOCUMENTS = ["manifest", "receipt", "summary"]


async def altered(bucket: Bucket, observer: Silent, name: str, **values: Any) -> str:
    """Put other values into a document of the run, with a checksum that fits; its key."""
    layout = observer.layout
    keys = {
        "manifest": layout.manifest_key,
        "summary": layout.summary_key,
        "receipt": min(await bucket.objects(layout.receipts)),
    }
    whole = orjson.loads(await bucket.read(keys[name]) or b"")
    await bucket.put(keys[name], with_checksum(whole | values))
    return keys[name]


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_higher_format_is_refused_before_tmdb_is_asked(
    name: str, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """`harvest` and `verify` end with exit 2 and a sentence that names the object; nothing is written over it."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        key = await altered(bucket, observer, name, format=2, colour="red")
        there, asked = await bucket.objects("Raw/API/"), Counter(tmdb.asked)
        sentence = f"{key} has format 2, and this harvester reads format 1: install a newer one"
        for refused in (
            gone_on_with(settings, NOON_21),
            gone_on_with(settings, NOON_21, again=True),
            verify(settings),
        ):
            with pytest.raises(NewerFormatError) as caught:
                await refused
            assert (str(caught.value), caught.value.exit_code) == (sentence, Exit.USAGE)
        assert (await bucket.objects("Raw/API/"), tmdb.asked) == (there, asked)


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_keys_that_are_not_known_change_nothing(
    name: str, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """A document of a later version of format 1 is read like any other: nothing is asked again, and all is proved."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        await altered(bucket, observer, name, colour="red", deep={"a": [1]})
        asked = Counter(tmdb.asked)
        report = await gone_on_with(settings, NOON_21)
        assert report.status in ("closed", "nothing_to_do")
        assert titles_of(tmdb.asked - asked) == set()
        verification = await verify(settings)
    assert verification.problems == []


@pytest.mark.parametrize("name", ["manifest", "summary"])
async def test_keys_that_are_not_known_are_kept_when_a_document_is_written_anew(
    name: str, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """A new generation writes manifest and summary anew, and what a later version had written into them stays."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        layout = observer.layout
        first = (await manifest_of(bucket, layout)).generation
        more = {"colour": "red", "deep": {"a": [1, None]}}
        await altered(bucket, observer, name, **more)
        await begun(settings, NOON_21, again=True)
        report = await gone_on_with(settings, NOON_21)
        assert report.status == "closed"
        manifest = decode_manifest(layout, await bucket.read(layout.manifest_key))
        summary = decode_summary(layout, await bucket.read(layout.summary_key))
        assert manifest.generation == summary.generation != first
        assert (manifest if name == "manifest" else summary).unknown == more
        verification = await verify(settings)
    assert verification.problems == []


async def test_keys_of_a_manifest_are_kept_where_its_ids_are_frozen_anew(
    bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """The ids were lost, so the manifest may be written anew; what a later version had written into it stays."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 150))
        await harvest(settings, observer=observer, shutdown=Shutdown(limit=1), clock=Clock(now=NOON_21))
        layout = observer.layout
        first = (await manifest_of(bucket, layout)).generation
        await altered(bucket, observer, "manifest", colour="red")
        await bucket.delete(layout.ids_key(first))
        await gone_on_with(settings, NOON_21)
        manifest = decode_manifest(layout, await bucket.read(layout.manifest_key))
        verification = await verify(settings)
    assert (manifest.unknown, verification.problems) == ({"colour": "red"}, [])


# Documents that were crafted (shared/cases/break-01 to break-03)


OTHERS = {
    "Finance/2026/ledger.parquet": b"ledger",
    "Trusted/API/x.parquet": b"x",
    "Raw/API2/Movies/x.json": b"y",
    "ledger.parquet": b"z",
}
"""Other people's objects in the same bucket."""

TEMPLATES = [
    "{batch}",
    "Finance/{batch}.json",
    "{prefix!r:{prefix}}",
    "{prefix:>99999999999}",
    "{prefix:>999999999}",
    "{prefix}/../{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
    "{prefix}/{collection}/{yyyy}/{mm}/{dd}/x/{batch}.json",
    ["{batch}"],
]


async def objects_outside(bucket: Bucket) -> dict[str, Any]:
    """Everything in the bucket but what is the harvester's."""
    return {key: listed for key, listed in (await bucket.objects("")).items() if not key.startswith("Raw/API/")}


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
@pytest.mark.parametrize("more", [{}, {"again": True}], ids=["", "again"])
async def test_a_manifest_moves_nothing(
    template: Any,
    more: dict[str, bool],
    bucket: Bucket,
    settings_for: Make,
    observer: Silent,
) -> None:
    """Whatever template stands in it, keys follow from the settings alone; it is named once, and written anew."""
    movies = ids_from(1, 120)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        options = orjson.loads(await bucket.read(observer.layout.manifest_key) or b"")["options"]
        for key, body in OTHERS.items():
            await bucket.put(key, body)
        await altered(bucket, observer, "manifest", options=options | {"key_template": template})
        outside, asked = await objects_outside(bucket), Counter(tmdb.asked)
        data = await bucket.objects("Raw/API/Movies/")
        with capture_logs() as lines:
            report = await gone_on_with(settings, NOON_21, **more)
        assert (report.status, report.totals.found) == ("closed", 120)
        assert titles_of(tmdb.asked - asked) == set()  # with `--again`: there was nothing that could be begun anew
        assert [line["log_level"] for line in lines if line["event"] == "manifest_refused"] == ["warning"]
        assert await objects_outside(bucket) == outside
        assert await bucket.objects("Raw/API/Movies/") == data
        verification = await verify(settings)
        assert verification.problems == []
        report = await gone_on_with(settings, NOON_21)
    assert report.status == "nothing_to_do"


async def test_a_receipt_has_nothing_deleted(bucket: Bucket, settings_for: Make, observer: Silent) -> None:
    """Of any batch and generation, with a valid checksum: objects it names outside of ours are kept."""
    movies = ids_from(1, 120)
    ledger = next(iter(OTHERS))
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        for key, body in OTHERS.items():
            await bucket.put(key, body)
        layout = observer.layout
        manifest = await manifest_of(bucket, layout)
        outside, asked = await objects_outside(bucket), Counter(tmdb.asked)
        first = min(await bucket.objects(layout.receipts))
        body = await bucket.read(first) or b""
        for generation in (manifest.generation, "00000000"):
            whole = orjson.loads(body) | {"generation": generation}
            whole["files"].append({"key": ledger, "records": 0, "bytes": 6, "sha256": "ab" * 32, "etag": "x"})
            await bucket.put(first, with_checksum(whole))
            whole = decoy(whole)
            forged = layout.receipt_key("Movies", whole["batch"])
            await bucket.put(forged, with_checksum(whole))
            for again in (False, True):
                report = await gone_on_with(settings, NOON_21, again=again)
                assert (report.status, report.totals.found, report.totals.batches) == ("closed", 120, 2)
                assert await objects_outside(bucket) == outside
                assert forged in await bucket.objects(layout.receipts)  # `harvest` deletes nothing at all
            verification = await verify(settings)
            assert [problem for problem in verification.problems if forged not in problem] == []
            assert await objects_outside(bucket) == outside
        assert titles_of(tmdb.asked - asked) == set(movies)


def decoy(whole: dict[str, Any]) -> dict[str, Any]:
    """The receipt of a batch that the run does not have, which names the same files."""
    outcomes = {"tt9000001": {"outcome": "missing", "reason": "unknown"}}
    files = [file | {"records": 0} for file in whole["files"]]
    return whole | {"batch": Batch("Movies", ("tt9000001",)).name, "outcomes": outcomes, "files": files}


CRAFTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "landed_at of a number": lambda whole: whole.update(landed_at=1),
    "landed_at of null": lambda whole: whole.update(landed_at=None),
    "a file's key of a list": lambda whole: whole["files"][0].update(key=[]),
    "a file's key of an object": lambda whole: whole["files"][0].update(key={"a": 1}),
    "records beyond all numbers": lambda whole: whole["files"][0].update(records=2**64 - 1),
    "bytes of null": lambda whole: whole["files"][0].update(bytes=None),
    "no etag": lambda whole: whole["files"][0].pop("etag"),
    "a generation of a list": lambda whole: whole.update(generation=[]),
    "outcomes of lists": lambda whole: whole.update(outcomes={id_: [] for id_ in whole["outcomes"]}),
    "a run of a number": lambda whole: whole.update(run=2026),
}


@pytest.mark.parametrize("crafted", CRAFTED)
async def test_a_crafted_receipt_is_as_if_it_were_not_there(
    crafted: str, bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """It is named once and its batch done again, under the same names; `verify` names it before, and not after."""
    movies = ids_from(1, 110)
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=movies)
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        key = max(await bucket.objects(observer.layout.receipts))
        whole = orjson.loads(await bucket.read(key) or b"")
        CRAFTED[crafted](whole)
        await bucket.put(key, with_checksum(whole))
        verification = await verify(settings)
        assert [problem for problem in verification.problems if problem.startswith(f"{key} is not a receipt")] != []
        asked = Counter(tmdb.asked)
        with capture_logs() as lines:
            report = await gone_on_with(settings, NOON_21)
        assert (report.status, report.totals.found) == ("closed", 110)
        assert titles_of(tmdb.asked - asked) == set(movies[100:])
        assert [key in line["problem"] for line in lines if line["event"] == "receipt_refused"] == [True]
        verification = await verify(settings)
    assert (verification.problems, verification.records) == ([], 110)


@pytest.mark.parametrize("name", ["manifest", "summary"])
@pytest.mark.parametrize(
    "values",
    [{"run": 5}, {"generation": None}, {"totals": {}, "batches": {}}, {"digests": [], "input": "x"}, {"checksum": 5}],
    ids=str,
)
async def test_a_crafted_manifest_or_summary_is_as_if_it_were_not_there(
    name: str, values: dict[str, Any], bucket: Bucket, settings_for: Make, observer: Silent
) -> None:
    """It is named once and written anew from what stands; no title is asked for again."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=ids_from(1, 110))
        await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(now=NOON_21))
        key = await altered(bucket, observer, name, **values)
        if "checksum" in values:
            await bucket.put(key, (await bucket.read(key) or b"").replace(b'"checksum":"', b'"checksum":"0'))
        asked = Counter(tmdb.asked)
        with capture_logs() as lines:
            report = await gone_on_with(settings, NOON_21)
        assert (report.status, report.totals.found) == ("closed", 110)
        assert titles_of(tmdb.asked - asked) == set()
        assert [key in line["problem"] for line in lines if line["event"] == f"{name}_refused"] == [True]
        verification = await verify(settings)
    assert (verification.problems, verification.records) == ([], 110)


async def test_of_a_closed_run_neither_receipts_nor_files_are_read(
    s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """A second cut of the day learns from the outcomes what stands, however many titles that is."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb, s3_proxy(s3.endpoint) as link:
        await gone_on_with(settings_for(tmdb.url, movies=ids_from(1, 250)), NOON_22)
        settings = settings_for(tmdb.url, movies=ids_from(1, 300), aws_endpoint_url_s3=link.url)
        report = await gone_on_with(settings, NOON_22)
    assert (report.totals.fresh, report.totals.found) == (250, 50)
    read = [call.key for call in link.seen if call.operation == "get"]
    assert [key for key in read if "/receipts/" in key or "/_harvest/" not in key] == []
    assert any(key.endswith("outcomes.jsonl.gz") and report.run not in key for key in read)
