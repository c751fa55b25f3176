"""Shards: cut, shared, and harvested by children in every order, in one lease; against a stand-in and a real S3."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent, capture_logs
from hypothesis import given
from hypothesis import strategies as st
from loops import Leaping, in_its_time, no_wait, run_on

from harvester.commands.harvest import LeaseOptions, harvest
from harvester.commands.resources import open_bucket_of
from harvester.commands.shards import SHARD_IDS, SHARD_SECONDS, Shard, cut_shards, harvest_shard, plan_shards, share
from harvester.commands.verify import verify
from harvester.errors import BusyError, CorruptLakeError, InputError, LeaseLostError, SettingsError, StoreError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import always, refusal, scripted
from harvester.fakes.s3_proxy import at_first, on_keys, refusing, s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.model.batch import Batch, cut
from harvester.runs.lease import LeaseState, LeaseTimes, decode_lease
from harvester.runtime.clock import Clock
from harvester.runtime.concurrency import fan_out
from harvester.runtime.shutdown import Shutdown
from harvester.settings.settings import EVENT_SETTINGS
from harvester.tmdb.cost import REQUESTS
from harvester.tmdb.rate_limiter import SPACING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from harvester.commands.harvest import HarvestReport
    from harvester.fakes.s3_proxy import Call, Forward
    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.model.ids import Collection
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

pytestmark = pytest.mark.timeout(240)  # for what hangs: a busy machine may take its time

RUN, TOKEN, OTHER_TOKEN = "2026-11-22-0123abcd", "c0ffee0123456789", "0ddba11c0ffee5ca"
WHERE = {"run": RUN, "generation": "5d1c0ffee5ca1ab1", "token": TOKEN, "attempt": "a77e3970123abcde"}


# Cutting and sharing


def batches_of(movies: int, series: int = 0) -> list[Batch]:
    """The batches of so many movies and series."""
    of: dict[Collection, int] = {"Movies": movies, "Series": series}
    return [batch for name, count in of.items() for batch in cut(name, [f"tt{i:010d}" for i in range(count)])]


def shards_of(batches: list[Batch], *, rate: float, children: int) -> list[Shard]:
    """The shards of the batches, as planning makes them."""
    return [Shard(**WHERE, rate=rate, batches=part) for part in cut_shards(batches, rate=rate, children=children)]


def requests(batches: list[Batch]) -> int:
    return sum(len(batch.ids) * REQUESTS[batch.collection] for batch in batches)


@given(
    movies=st.integers(0, 30_000),
    series=st.integers(0, 9_000),
    rate=st.floats(0.3, 10_000),
    children=st.integers(1, 50),
)
def test_every_batch_is_in_one_shard_whole_and_in_order(movies: int, series: int, rate: float, children: int) -> None:
    """And no shard takes longer than it may, or has more ids, unless it is of one batch alone."""
    batches = batches_of(movies, series)
    shards = shards_of(batches, rate=rate, children=children)
    assert [batch for shard in shards for batch in shard.cut()] == batches
    for shard in shards:
        cut = shard.cut()
        assert cut
        seconds = requests(cut) * SPACING / rate
        assert len(cut) == 1 or (seconds <= SHARD_SECONDS and sum(len(each.ids) for each in cut) <= SHARD_IDS)
    expected = {(shard.run, shard.generation, shard.token, shard.attempt, shard.rate) for shard in shards}
    assert expected <= {(*WHERE.values(), rate)}


@given(hundreds=st.integers(20, 2_000), rate=st.integers(1, 100).map(float), children=st.integers(1, 20))
def test_there_are_as_many_shards_as_let_all_children_end_together(hundreds: int, rate: float, children: int) -> None:
    """A multiple of the children, of nearly the same size: within one batch of each other."""
    shards = shards_of(batches_of(100 * hundreds), rate=rate, children=children)
    sizes = [len(shard.cut()) for shard in shards]
    assert len(shards) % children == 0 or set(sizes) == {1}
    assert max(sizes) - min(sizes) <= 1


def test_the_largest_shard_fits_into_what_step_functions_hands_a_child() -> None:
    """256 KiB of JSON, with ten digits in each id and all settings beside it, and it comes back out of it as it was."""
    shards = shards_of(batches_of(23_600), rate=10_000, children=1)
    step = {"action": "harvest", "settings": dict.fromkeys(EVENT_SETTINGS, "x" * 1_000)}
    bodies = [orjson.dumps(step | {"shard": shard}) for shard in shards]
    assert [sum(len(batch.ids) for batch in shard.cut()) for shard in shards] == [SHARD_IDS - 200] * 2
    assert 150_000 < max(map(len, bodies)) < 2**18
    assert [Shard.of(orjson.loads(body)["shard"]) for body in bodies] == shards


@given(rate=st.floats(1, 10_000), children=st.integers(1, 1_000))
def test_together_the_children_ask_no_more_than_the_rate(rate: float, children: int) -> None:
    """Whatever the rate, fractions too; nobody has a rate of nothing, and a shared one is a whole number."""
    at_once, each = share(rate, children)
    assert 1 <= at_once <= children
    assert each >= 1
    assert at_once * each <= rate
    assert at_once == 1 or each == int(each)


@pytest.mark.parametrize(
    ("rate", "children", "shared"),
    [(40, 4, (4, 10.0)), (40.5, 4, (4, 10.0)), (13.3, 1, (1, 13.0)), (2.5, 4, (2, 1.0)), (0.5, 4, (1, 0.5))],
)
def test_a_rate_is_shared(rate: float, children: int, shared: tuple[int, float]) -> None:
    """Too many children for the rate are fewer."""
    assert share(rate, children) == shared


# Harvesting


MOVIES = [f"tt{number:07d}" for number in range(1, 211)]
SERIES = [f"tt{number:07d}" for number in range(900_001, 900_031)]
KINDS: Any = {
    **dict.fromkeys(SERIES, "tv"),
    **dict.fromkeys(MOVIES[::70], "unknown"),
    MOVIES[5]: "tv",
    MOVIES[205]: "tv",
}
KINDS |= {SERIES[10]: "movie", SERIES[20]: "episode"}

LEASE = "Raw/API/_harvest/lease.json"
SILENT = LeaseOptions(times=LeaseTimes(silent=-1))
"""The turn of a harvest for which the lease has been silent for long enough, whenever it was renewed."""


_ticks = itertools.count()


def noon() -> str:
    """A clock that stands still, of those who plan and close."""
    return "2026-11-22T12:00:00.000Z"


def after_noon() -> str:
    """A clock that gives another time whenever it is asked: two children's records differ in theirs."""
    seconds, rest = divmod(next(_ticks), 1_000)
    return f"2026-11-22T{13 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}Z"


async def planned(settings: Settings, bucket: Bucket, **more: Any) -> tuple[dict[str, Any], list[Shard]]:
    """What planning answers, and the shards it has written."""
    plan = await plan_shards(settings, clock=Clock(now=noon), **more)
    shards = orjson.loads(await bucket.read(plan["shards_key"]) or b"[]")
    return plan, [Shard.of(shard) for shard in shards]


async def child(
    settings: Settings,
    shard: Shard,
    *,
    observer: Any = None,
    now: Callable[[], str] = after_noon,
    times: LeaseTimes = LeaseTimes(),  # noqa: B008  # it is frozen
) -> HarvestReport:
    """One child's harvest."""
    observer = observer or Silent()
    return await harvest_shard(
        settings, shard, observer=observer, shutdown=Shutdown(), times=times, clock=Clock(sleep=no_wait, now=now)
    )


async def whole(settings: Settings, *, shutdown: Shutdown | None = None, **more: Any) -> HarvestReport:
    """A harvest of everything, at noon."""
    at_noon = {"clock": Clock(now=noon, sleep=no_wait)}
    return await harvest(settings, observer=Silent(), shutdown=shutdown or Shutdown(), **(at_noon | more))


async def closed_by(settings: Settings, plan: dict[str, Any], **more: Any) -> HarvestReport:
    """The close of a plan, as a Lambda does it."""
    lease_options = LeaseOptions(wait=False, token=plan["token"])
    return await whole(settings, run_name=plan["run"], lease_options=lease_options, **({"attempt": OTHER_TOKEN} | more))


def asked_since(before: Counter[Any], tmdb: FakeTmdb) -> set[str]:
    """The ids that have been asked for since."""
    return {id_ for _, id_ in Counter(tmdb.asked) - before if id_}


def most_asked(tmdb: FakeTmdb) -> int:
    """How often the movie was asked for that was asked for most often."""
    return max(count for (route, _), count in tmdb.asked.items() if route == "movie")


async def records_in(bucket: Bucket, key: str) -> list[dict[str, Any]]:
    """The records of a data file, without the time at which each was fetched."""
    records = [orjson.loads(line) for line in (await bucket.read(key) or b"").splitlines()]
    for record in records:
        record["harvest"].pop("fetched_at")
    return records


async def lake(bucket: Bucket, prefix: str, generation: str) -> dict[str, Any]:
    """What the bucket holds below a prefix: the records of data files and the outcomes, of other objects the names."""
    held: dict[str, Any] = {}
    for key in await bucket.objects(f"{prefix}/"):
        if "/_harvest/" not in key:
            content: Any = await records_in(bucket, key)
        else:
            content = await bucket.read(key) if key.endswith("/outcomes.jsonl.gz") else None
        held[key.removeprefix(prefix).replace(generation, "GENERATION")] = content
    return held


async def ids_in(bucket: Bucket) -> list[str]:
    """The ids of all records of the lake, in order."""
    keys = [key for key in await bucket.objects("Raw/API/") if "/_harvest/" not in key]
    return sorted([record["imdb_id"] for key in keys for record in await records_in(bucket, key)])


async def lease_of(bucket: Bucket) -> LeaseState:
    """What the lease says."""
    state = decode_lease(await bucket.read(LEASE) or b"")
    assert state is not None
    return state


async def generation_of(bucket: Bucket, run: str) -> str:
    """The generation that counts, by the manifest."""
    manifest = orjson.loads(await bucket.read(f"Raw/API/_harvest/{run}/manifest.json") or b"{}")
    return str(manifest["generation"])


@pytest.fixture(scope="module")
def groupings() -> dict[str, Callable[[list[Shard]], list[list[Shard]]]]:
    """Which shards are harvested side by side, one group after another."""
    return {
        "backwards, twice": lambda shards: [[shard] for shard in reversed(shards * 2)],
        "all at once, each by two": lambda shards: [shards * 2],
    }


@pytest.mark.parametrize("order", ["backwards, twice", "all at once, each by two"])
async def test_children_in_any_order_leave_the_bucket_as_one_harvest_does(
    order: str, groupings: Any, bucket: Bucket, settings_for: Make
) -> None:
    """The same keys, totals, records and outcomes as of one harvest, with reclassified and missing titles; verified."""
    async with fake_tmdb(catalog=Catalog(kinds=KINDS, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES)
        plan, shards = await planned(settings, bucket, children=2)
        assert (plan["status"], plan["shards"], len(shards), plan["batches"]) == ("to_do", 2, 2, 4)
        for group in groupings[order](shards):
            reports = await fan_out(partial(child, settings), group, at_once=len(group))
            assert {report.status for report in reports} == {"landed"}
        closed = await closed_by(settings, plan)
        verification = await verify(settings)
        alone = settings.model_copy(update={"s3_prefix": "Raw/Alone"})
        expected = await whole(alone)
    assert (closed.status, expected.status, verification.problems) == ("closed", "closed", [])
    assert closed.run == expected.run
    assert {**closed.totals.as_json(), "bytes": 0} == {**expected.totals.as_json(), "bytes": 0}
    held = await lake(bucket, "Raw/API", shards[0].generation)
    assert held.pop(f"/_harvest/{plan['run']}/shards.json", "gone") is None
    manifest = orjson.loads(await bucket.read(f"Raw/Alone/_harvest/{expected.run}/manifest.json") or b"")
    assert held == await lake(bucket, "Raw/Alone", manifest["generation"])


async def test_each_title_is_asked_for_once_where_each_child_is_called_once(bucket: Bucket, settings_for: Make) -> None:
    """Neither planning nor closing asks again for what has landed; called again, a child asks for nothing."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        assert tmdb.asked.total() == 1  # the key
        reports = [await child(settings, shard) for shard in shards * 2]
        assert [report.requests for report in reports[:2]] == [100, 10]
        assert [report.requests for report in reports[2:]] == [0] * 2
        assert [report.totals.found for report in reports[2:]] == [report.totals.found for report in reports[:2]]
        assert (await closed_by(settings, plan)).status == "closed"
        assert most_asked(tmdb) == 1


async def test_a_run_begun_by_one_harvest_is_ended_by_children(bucket: Bucket, settings_for: Make) -> None:
    """Begun on a laptop with `--limit`: only the rest is cut into shards, of the same run and generation."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        begun = await whole(settings, shutdown=Shutdown(limit=50))
        assert (begun.status, begun.batches_left) == ("stopped", 1)
        generation = await generation_of(bucket, begun.run)
        plan, shards = await planned(settings, bucket, execution="an execution")
        assert (plan["run"], plan["batches"], plan["totals"]["found"]) == (begun.run, 1, 100)
        assert [shard.generation for shard in shards] == [generation]
        for shard in shards:
            await child(settings, shard)
        closed = await closed_by(settings, plan)
        assert most_asked(tmdb) == 1
    assert (closed.status, closed.run, closed.totals.found) == ("closed", begun.run, 110)


async def test_a_run_begun_by_children_is_ended_by_one_harvest(bucket: Bucket, settings_for: Make) -> None:
    """A map that nobody goes on with is ended from the command line, once its lease is silent: just what is left."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        await child(settings, shards[1])
        before = Counter(tmdb.asked)
        closed = await whole(settings, lease_options=SILENT)
        landed = {id_ for batch in shards[1].cut() for id_ in batch.ids}
        assert asked_since(before, tmdb) == set(MOVIES[:110]) - landed
        assert (closed.status, closed.run, closed.totals.found) == ("closed", plan["run"], 110)
        assert (await verify(settings)).problems == []


class DiedError(Exception):
    """What ends a child in mid-flight."""


@pytest.mark.parametrize("receipts", [1, 2])
async def test_a_child_that_has_died_is_done_again_for_what_is_left(
    receipts: int, bucket: Bucket, settings_for: Make
) -> None:
    """After any receipt: only batches without one are asked for by the child in its place, in the same lease."""

    class Mortal(Silent):
        def batch(self, event: Any) -> None:
            super().batch(event)
            if len(self.batches) == receipts:
                raise DiedError

    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES)
        plan, (shard,) = await planned(settings, bucket, children=1)
        with pytest.raises(DiedError):
            await child(settings, shard, observer=Mortal())
        assert not (await lease_of(bucket)).ended
        done = list(await bucket.objects(f"Raw/API/_harvest/{plan['run']}/receipts/"))
        assert len(done) >= receipts
        before = Counter(tmdb.asked)
        report = await child(settings, shard)
        names = {key.rpartition("/")[2] for key in done}
        left = {id_ for batch in shard.cut() if f"{batch.name}.json" not in names for id_ in batch.ids}
        assert asked_since(before, tmdb) == left
        assert (report.status, report.totals.found) == ("landed", 210)
        assert (await closed_by(settings, plan)).status == "closed"
        assert (await verify(settings)).problems == []


async def test_reclassified_titles_land_with_the_rest_of_their_shard(bucket: Bucket, settings_for: Make) -> None:
    """A child lands them among the series, under the name of their own batch; nothing is left of them to the close."""
    reclassified = [MOVIES[5], MOVIES[105]]
    async with fake_tmdb(catalog=Catalog(kinds=dict.fromkeys(reclassified, "tv"), otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        for shard, id_ in zip(shards, reclassified, strict=True):
            assert (await child(settings, shard)).totals.found == len(shard.cut()[0].ids)
            [batch] = shard.cut()
            key = f"Raw/API/Series/2026/11/22/{batch.name}.json"
            assert [record["imdb_id"] for record in await records_in(bucket, key)] == [id_]
        before = Counter(tmdb.asked)
        closed = await closed_by(settings, plan)
        assert asked_since(before, tmdb) == set()
    assert (closed.status, closed.totals.found, closed.totals.batches) == ("closed", 110, 2)
    assert await ids_in(bucket) == MOVIES[:110]


# Failed titles: by attempt, once for the children and once for the close


CLOCKS = {"behind": "2020-01-01T00:00:00.000Z", "the same": noon(), "ahead": "2031-12-31T23:59:59.999Z"}


@pytest.mark.parametrize("clock", CLOCKS)
async def test_failed_titles_are_tried_once_by_the_children_and_once_more_by_the_close(
    clock: str, bucket: Bucket, settings_for: Make
) -> None:
    """A child lands their neighbours; called again, each step leaves what its attempt has tried, by whichever clock."""
    poison = MOVIES[105]
    step = partial(child, now=lambda: CLOCKS[clock])
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        tmdb.faults = scripted({("movie", poison): [always(refusal(500))]})
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, (shard,) = await planned(settings, bucket, children=1)
        first = await step(settings, shard)
        assert (first.status, first.exit_code, first.failed) == ("landed", 0, {poison: "http_500"})
        before = Counter(tmdb.asked)
        retried = await step(settings, shard)
        assert (retried.status, retried.failed, asked_since(before, tmdb)) == ("landed", {poison: "http_500"}, set())
        tried = await closed_by(settings, plan)
        assert (tried.status, tried.exit_code, tried.failed) == ("failed", 5, {poison: "http_500"})
        assert asked_since(before, tmdb) == set(MOVIES[100:110])
        before = Counter(tmdb.asked)
        left = await closed_by(settings, plan)  # called once more for want of time
        assert (left.status, left.totals, left.failed) == ("failed", tried.totals, tried.failed)
        assert asked_since(before, tmdb) == set()
        tmdb.faults = scripted({})
        before = Counter(tmdb.asked)
        plan, (rest,) = await planned(settings, bucket, children=1)  # the state machine is started again
        assert (plan["run"], plan["batches"]) == (tried.run, 1)
        assert (rest.generation, rest.attempt == shard.attempt) == (shard.generation, False)
        await step(settings, rest)
        closed = await closed_by(settings, plan)
        assert asked_since(before, tmdb) == set(MOVIES[100:110])
    assert (closed.status, closed.totals.found, closed.failed) == ("closed", 110, {})


async def test_a_failed_title_keeps_the_record_that_a_child_of_an_earlier_generation_has_landed(
    bucket: Bucket, settings_for: Make
) -> None:
    """`again`, and TMDB fails for it: its neighbours are replaced, its record stands, and the totals call it failed."""
    poison = MOVIES[105]
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        for shard in shards:
            await child(settings, shard)
        assert (await closed_by(settings, plan)).status == "closed"
        tmdb.faults = scripted({("movie", poison): [always(refusal(500))]})
        plan, shards = await planned(settings, bucket, again=True)
        reports = [await child(settings, shard) for shard in shards]
        assert [report.failed for report in reports] == [{}, {poison: "http_500"}]
        closed = await closed_by(settings, plan)
        assert (closed.status, closed.totals.found, closed.failed) == ("failed", 109, {poison: "http_500"})
        assert await ids_in(bucket) == MOVIES[:110]
        assert (await verify(settings)).problems == []


# Planning: the lease and the generation follow from the execution


async def test_a_repeated_plan_step_is_the_same_and_takes_its_own_lease_back(
    bucket: Bucket, settings_for: Make
) -> None:
    """Same run, generation, token and batches, at once and without a wait; only the attempt is another."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket, execution="arn:execution:1")
        manifest = await bucket.read(f"Raw/API/_harvest/{plan['run']}/manifest.json")
        held = await lease_of(bucket)
        assert (held.token, held.run, held.ended, held.pid) == (plan["token"], plan["run"], False, None)
        repeated, same = await planned(settings, bucket, execution="arn:execution:1")
        assert (repeated, await bucket.read(f"Raw/API/_harvest/{plan['run']}/manifest.json")) == (plan, manifest)
        assert [replace(shard, attempt=TOKEN) for shard in same] == [replace(shard, attempt=TOKEN) for shard in shards]
        assert {shard.attempt for shard in same}.isdisjoint(shard.attempt for shard in shards)
        assert {(shard.token, shard.generation) for shard in same} == {
            (plan["token"], await generation_of(bucket, plan["run"]))
        }
        renewed = await lease_of(bucket)
        assert (renewed.token, renewed.run, renewed.ended) == (held.token, held.run, False)
        for shard in (shards[0], same[1]):
            assert (await child(settings, shard)).status == "landed"
        assert (await closed_by(settings, plan)).status == "closed"
        assert most_asked(tmdb) == 1


async def test_two_plan_steps_of_one_execution_at_once_are_one(bucket: Bucket, settings_for: Make) -> None:
    """A step that is called again while the first call still runs: one generation, and children of both go together."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        both = await fan_out(lambda _: planned(settings, bucket, execution="arn:execution:1"), range(2), at_once=2)
        (plan, first), (other, same) = both
        assert (plan["run"], plan["token"], plan["batches"]) == (other["run"], other["token"], other["batches"])
        assert {shard.generation for shard in first + same} == {await generation_of(bucket, plan["run"])}
        for shard in (first[0], same[1]):
            assert (await child(settings, shard)).status == "landed"
        assert (await closed_by(settings, plan)).status == "closed"
        assert most_asked(tmdb) == 1


async def test_another_execution_finds_the_lake_busy_and_changes_nothing(bucket: Bucket, settings_for: Make) -> None:
    """It does not wait, asks for no title, and says who is at work; once that has closed, there is nothing to do."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket, execution="arn:execution:1")
        held, stood = await lease_of(bucket), await bucket.objects("")
        for other in ("arn:execution:2", None):
            with pytest.raises(BusyError, match=f"Another harvest is at work here: {held.host}, since {held.since}"):
                await planned(settings, bucket, execution=other)
        assert await bucket.objects("") == stood
        for shard in shards:
            await child(settings, shard)
        assert (await closed_by(settings, plan)).status == "closed"
        assert most_asked(tmdb) == 1
        second, _ = await planned(settings, bucket, execution="arn:execution:2")
        assert (second["status"], second["run"]) == ("nothing_to_do", plan["run"])


async def test_another_execution_takes_over_a_lease_that_is_silent_and_the_old_children_are_lost(
    bucket: Bucket, settings_for: Make
) -> None:
    """Of an execution that was stopped: its run is gone on with by another, and what it still starts begins nothing."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        old, shards = await planned(settings, bucket, execution="arn:execution:1")
        await child(settings, shards[0])
        new, rest = await planned(settings, bucket, execution="arn:execution:2", times=SILENT.times)
        assert (new["run"], new["batches"], new["token"] == old["token"]) == (old["run"], 1, False)
        before = Counter(tmdb.asked)
        for shard in shards:
            with pytest.raises(LeaseLostError, match="Another harvest has taken over here"):
                await child(settings, shard)
        with pytest.raises(BusyError):
            await closed_by(settings, old)
        assert asked_since(before, tmdb) == set()
        for shard in rest:
            await child(settings, shard)
        assert (await closed_by(settings, new)).status == "closed"
        assert most_asked(tmdb) == 1


@pytest.mark.parametrize("key", ["manifest.json", "ids-", "shards.json"])
async def test_a_plan_that_fails_gives_the_lease_back(
    key: str, s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """Whatever could not be written: the next plan, of any execution, need not wait."""
    async with s3_proxy(s3.endpoint) as link, fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        link.rules["*"] = on_keys(f"_harvest/2026.*/{key}", at_first_write)
        settings = settings_for(tmdb.url, movies=MOVIES[:110], aws_endpoint_url_s3=link.url)
        with pytest.raises(StoreError, match=f"{key}.*AccessDenied"):
            await planned(settings, bucket, execution="arn:execution:1")
        assert (await lease_of(bucket)).ended
        link.rules.clear()
        plan, shards = await planned(settings, bucket, execution="arn:execution:2")
        assert (plan["status"], len(shards)) == ("to_do", 2)


async def at_first_write(call: Call, forward: Forward) -> web.StreamResponse:
    """The rule of a link that lets nothing be written."""
    return await (forward() if call.operation in ("get", "list") else refusing(403, "AccessDenied")(call, forward))


async def test_a_plan_of_which_nothing_is_left_is_closed_or_done(bucket: Bucket, settings_for: Make) -> None:
    """`to_close` until the totals are reconciled; then `nothing_to_do`, with the lease ended and nothing written."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket, execution="arn:execution:1")
        for shard in shards:
            await child(settings, shard)
        plan_result, none = await planned(settings, bucket, execution="arn:execution:1")
        assert (plan_result["status"], plan_result["shards"], none, plan_result["run"]) == (
            "to_close",
            0,
            [],
            plan["run"],
        )
        assert not (await lease_of(bucket)).ended
        assert (await closed_by(settings, plan_result)).status == "closed"
        assert (await lease_of(bucket)).ended
        before = await bucket.objects("")
        for execution in ("arn:execution:1", "arn:execution:2", None):
            plan_result = await plan_shards(settings, execution=execution, clock=Clock(now=noon))
            assert (plan_result["status"], plan_result["shards"], plan_result["totals"]["found"]) == (
                "nothing_to_do",
                0,
                110,
            )
        for day in ("2026-11-22", "2026-11-23"):  # an answer that was lost, and asked for once more
            second = await closed_by(settings, plan, clock=Clock(now=lambda day=day: f"{day}T00:30:00.000Z"))
            assert (second.status, second.run) == ("nothing_to_do", plan["run"])
        assert await bucket.objects("") == before


async def test_again_begins_one_generation_for_each_execution_that_asks_for_it(
    bucket: Bucket, settings_for: Make
) -> None:
    """Of a finished run of today: the same ids and batches; a repeated plan goes on, closed or not, and begins none."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket, execution="arn:execution:1", again=True)  # none is finished yet
        generations = [await generation_of(bucket, plan["run"])]
        for shard in shards:
            await child(settings, shard)
        assert (await closed_by(settings, plan)).status == "closed"
        for number in (2, 3):
            plan_again = partial(planned, settings, bucket, execution=f"arn:execution:{number}", again=True)
            plan, anew = await plan_again()
            assert (plan["status"], plan["shards"], plan["run"][:10]) == ("to_do", 2, "2026-11-22")
            generations.append(await generation_of(bucket, plan["run"]))
            assert [shard.batches for shard in anew] == [shard.batches for shard in shards]
            await child(settings, anew[0])
            plan, rest = await plan_again()
            assert (plan["batches"], [shard.batches for shard in rest]) == (1, [shards[1].batches])
            await child(settings, rest[0])
            assert (await plan_again())[0]["status"] == "to_close"
            assert (await closed_by(settings, plan)).status == "closed"
            assert (await plan_again())[0]["status"] == "nothing_to_do"
            assert await generation_of(bucket, plan["run"]) == generations[-1]
            assert {tmdb.asked["movie", id_] for id_ in MOVIES[:110]} == {number}
        assert len(set(generations)) == 3
        assert (await verify(settings)).problems == []


async def test_an_unfinished_generation_is_gone_on_with_also_where_it_is_asked_for_again(
    bucket: Bucket, settings_for: Make
) -> None:
    """`again` on what is not finished begins nothing from zero: the rest is cut into shards, of the same generation."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        begun = await whole(settings, shutdown=Shutdown(limit=50))
        generation = await generation_of(bucket, begun.run)
        plan, (shard,) = await planned(settings, bucket, execution="arn:execution:1", again=True)
        assert (plan["batches"], shard.generation) == (1, generation)


# The lease, while the children are at work


async def test_children_renew_the_lease_and_the_close_ends_it(bucket: Bucket, settings_for: Make) -> None:
    """Each at its start and while it works, side by side; it stays the plan's, and no child marks it ended."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.02, 0.05)) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        held = await lease_of(bucket)
        often = LeaseTimes(renew=0.001, check=-1)
        reports = await fan_out(lambda shard: child(settings, shard, times=often), shards * 2, at_once=4)
        assert {report.status for report in reports} == {"landed"}
        renewed = await lease_of(bucket)
        assert renewed.renewals >= held.renewals + 4
        assert replace(renewed, renewals=0) == replace(held, renewals=0)
        assert (await closed_by(settings, plan)).status == "closed"
        ended = await lease_of(bucket)
        assert (ended.token, ended.ended) == (plan["token"], True)


async def test_a_laptop_beside_the_children_waits_and_finds_all_done(bucket: Bucket, settings_for: Make) -> None:
    """Its line says who is at work; each title is asked for once, and it ends with nothing to do."""
    async with fake_tmdb(catalog=Catalog(kinds={MOVIES[5]: "tv"}, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        held = await lease_of(bucket)
        with capture_logs() as logs:
            waiting = asyncio.ensure_future(whole(settings, lease_options=LeaseOptions(times=LeaseTimes(poll=0.05))))
            busy = {"event": "lease_held", "log_level": "warning"}
            while busy | {"host": held.host, "since": held.since} not in logs:
                await asyncio.sleep(0.01)
            for shard in shards:
                await child(settings, shard)
            assert not waiting.done()
            assert (await closed_by(settings, plan)).status == "closed"
            laptop = await waiting
        assert (laptop.status, laptop.run, laptop.totals.found) == ("nothing_to_do", plan["run"], 110)
        assert most_asked(tmdb) == 1
        assert (await verify(settings)).problems == []


async def test_a_lambda_beside_the_children_is_busy(bucket: Bucket, settings_for: Make) -> None:
    """It neither waits nor writes, and asks for no title."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        _, shards = await planned(settings, bucket)
        await child(settings, shards[0])
        stood, before = await bucket.objects(""), Counter(tmdb.asked)
        with pytest.raises(BusyError) as caught:
            await whole(settings, lease_options=LeaseOptions(wait=False))
        assert (caught.value.exit_code, asked_since(before, tmdb)) == (75, set())
        assert await bucket.objects("") == stood


AT = {
    "the start of a data file": ("create", "Movies/2026"),
    "a part of it": ("part", "Movies/2026"),
    "its completion": ("complete", "Movies/2026"),
    "that of the reclassified titles' file": ("complete", "Series/2026"),
    "the receipt": ("put", "receipts/"),
}
"""Where a child stands still, by operation and key, for longer than its lease is good for."""


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "is gone"])
@pytest.mark.parametrize("at", AT)
async def test_a_laptop_that_takes_over_from_a_child_doubles_and_loses_nothing(
    at: str, s3: S3Server, bucket: Bucket, settings_for: Make, *, comes_back: bool
) -> None:
    """Frozen at any write while a laptop harvests all, a child ends with LeaseLostError, or is no more; all is once."""
    operation, pattern = AT[at]
    taken_over, at_last = asyncio.Event(), asyncio.Event()

    async def frozen(_call: Call, forward: Forward) -> web.StreamResponse:
        taken_over.set()
        await at_last.wait()
        return await forward()

    async with (
        s3_proxy(s3.endpoint) as link,
        fake_tmdb(catalog=Catalog(kinds={MOVIES[5]: "tv"}, otherwise="movie")) as tmdb,
    ):
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, (shard,) = await planned(settings, bucket, children=1)
        shard = replace(shard, batches={"Movies": (tuple(MOVIES[:100]),)})
        link.rules[operation] = on_keys(pattern, at_first(frozen))
        aside = settings.model_copy(update={"aws_endpoint_url_s3": link.url})
        late = asyncio.ensure_future(child(aside, shard, times=LeaseTimes(check=-1, renew=3_600)))
        await taken_over.wait()
        laptop = await whole(settings, lease_options=SILENT)
        assert (laptop.status, laptop.run, laptop.totals.found) == ("closed", plan["run"], 110)
        assert await ids_in(bucket) == MOVIES[:110]
        stood = await bucket.objects("")
        if comes_back:
            at_last.set()
            if operation == "put":  # nothing is checked after the receipt, and the next run sees that it is not true
                assert (await late).status == "landed"
                assert (await whole(settings)).status == "closed"
            else:
                with pytest.raises(LeaseLostError, match=r"that this one is a part of has ended|has taken over here"):
                    await late
                assert await bucket.objects("") == stood
        else:
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
        assert await ids_in(bucket) == MOVIES[:110]
        assert await bucket.uploads("") == []
        verification = await verify(settings, day="2026-11-22")
        assert (verification.problems, verification.totals.found) == ([], 110)
        with pytest.raises(LeaseLostError):
            await child(settings, shard)
        assert (await closed_by(settings, plan)).status == "nothing_to_do"


async def test_a_child_aborts_the_uploads_of_its_own_batches_alone(bucket: Bucket, settings_for: Make) -> None:
    """What a killed child has left open is cleared away by the one in its place, and a sibling's is at work."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        keys = [f"Raw/API/Movies/2026/11/22/{shard.cut()[0].name}.json" for shard in shards]
        for key in (*keys, f"{keys[0]}.bak"):
            await bucket.begin(key)
        await child(settings, shards[0])
        assert [key for key, _ in await bucket.uploads("")] == [f"{keys[0]}.bak", keys[1]]
        await child(settings, shards[1])
        assert (await closed_by(settings, plan)).status == "closed"
        assert [key for key, _ in await bucket.uploads("")] == [f"{keys[0]}.bak"]


# Other runs of the day


async def test_ids_that_stand_under_another_run_of_the_day_are_no_childs(bucket: Bucket, settings_for: Make) -> None:
    """A CSV that has grown since the morning: its new ids alone are cut into shards, and the rest counts as fresh."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        morning = await whole(settings_for(tmdb.url, movies=MOVIES[:110]))
        assert morning.status == "closed"
        settings = settings_for(tmdb.url, movies=MOVIES[50:200])
        plan, shards = await planned(settings, bucket)
        assert [id_ for shard in shards for batch in shard.cut() for id_ in batch.ids] == MOVIES[110:200]
        for shard in shards:
            await child(settings, shard)
        closed = await closed_by(settings, plan)
        assert (closed.status, closed.totals.ids, closed.totals.found, closed.totals.fresh) == ("closed", 150, 90, 60)
        assert most_asked(tmdb) == 1
        assert await ids_in(bucket) == MOVIES[:200]
        assert (await verify(settings, day="2026-11-22")).problems == []


async def test_ids_that_another_run_has_got_since_are_fresh_for_a_child(bucket: Bucket, settings_for: Make) -> None:
    """Planned, and overtaken by a harvest of other CSVs with the same ids: its batch keeps its name, without these."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket, execution="arn:execution:1")
        other = settings_for(tmdb.url, series=MOVIES[90:150]).model_copy(update={"movies_csv": None})
        assert (await whole(other, lease_options=SILENT)).totals.found == 60
        settings = settings_for(tmdb.url, movies=MOVIES[:110]).model_copy(update={"series_csv": None})
        plan, same = await planned(settings, bucket, execution="arn:execution:1")
        assert [shard.batches for shard in same] == [shard.batches for shard in shards]
        before = Counter(tmdb.asked)
        reports = [await child(settings, shard) for shard in same]
        assert [(report.totals.found, report.totals.fresh) for report in reports] == [(90, 10), (0, 10)]
        assert asked_since(before, tmdb) == set(MOVIES[:90])
        closed = await closed_by(settings, plan)
        assert (closed.status, closed.totals.found, closed.totals.fresh) == ("closed", 90, 20)
        assert await ids_in(bucket) == MOVIES[:150]
        assert (await verify(settings, day="2026-11-22")).problems == []


async def test_a_plan_of_other_options_on_a_day_is_refused_and_writes_nothing(
    bucket: Bucket, settings_for: Make
) -> None:
    """A day has one form: exit 2, no title is asked for, and the lease is nobody's."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        assert (await whole(settings)).status == "closed"
        stood, before = await bucket.objects(""), Counter(tmdb.asked)
        with pytest.raises(
            SettingsError, match=r"2026-11-22 has records of other options.*language None there and 'de'"
        ):
            await planned(settings_for(tmdb.url, movies=MOVIES[:110], tmdb_language="de"), bucket)
        assert (await bucket.objects(""), asked_since(before, tmdb)) == (stood, set())
        assert (await lease_of(bucket)).ended


# What is refused


async def test_a_close_of_other_csvs_is_refused_and_begins_no_run(bucket: Bucket, settings_for: Make) -> None:
    """A CSV that has been replaced while the children were at it is not harvested by the close."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        for shard in shards:
            await child(settings, shard)
        stored, asked = await bucket.objects(""), tmdb.asked.total()
        with pytest.raises(InputError, match=f"movies.csv: has other ids or options than {plan['run']}"):
            await closed_by(settings_for(tmdb.url, movies=MOVIES[:111]), plan)
        assert (await bucket.objects(""), tmdb.asked.total()) == (stored, asked)


CHANGES: dict[str, Any] = {
    "another run": {"run": RUN},
    "another generation": {"generation": WHERE["generation"]},
    "other batches": {"batches": {"Movies": (tuple(MOVIES[:99]),)}},
    "another collection": {"batches": {"Series": (tuple(MOVIES[:100]),)}},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_shard_of_no_plan_is_refused(change: str, bucket: Bucket, settings_for: Make) -> None:
    """Of a run that is not there, of another generation, or of batches that it has not: nothing is asked or written."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:150])
        _, (shard,) = await planned(settings, bucket, children=1)
        asked, stood = tmdb.asked.total(), (await bucket.objects("")).keys()
        wrong = replace(shard, **CHANGES[change])
        words = "is not there" if change == "another run" else "does not match the planned shards: plan again"
        with pytest.raises(CorruptLakeError, match=f"Raw/API/_harvest/{wrong.run}/manifest.json {words}"):
            await child(settings, wrong)
        assert (tmdb.asked.total(), (await bucket.objects("")).keys()) == (asked, stood)
        assert (await child(settings, shard)).status == "landed"


@pytest.mark.parametrize("change", [{"token": OTHER_TOKEN}, {}], ids=["another's token", "after the close"])
async def test_a_shard_whose_lease_is_anothers_or_has_ended_is_not_begun(
    change: dict[str, Any], bucket: Bucket, settings_for: Make
) -> None:
    """Nothing is asked for or written for a harvest that is over."""
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        if not change:
            await closed_by(settings, plan)
        asked, stood = tmdb.asked.total(), await bucket.objects("")
        with pytest.raises(LeaseLostError) as caught:
            await child(settings, replace(shards[0], **change))
        assert (caught.value.exit_code, tmdb.asked.total(), await bucket.objects("")) == (75, asked, stood)


async def test_records_are_shaped_by_the_settings_of_the_plan_and_a_child_of_others_is_refused(
    bucket: Bucket, settings_for: Make
) -> None:
    """Language, appended parts, format and layout: a run is of one shape, whichever child harvests it."""
    shape: dict[str, Any] = {"tmdb_language": "pt-BR", "tmdb_append": "credits", "output_format": "array"}
    shape |= {"s3_key_template": "{prefix}/{collection}/{yyyy}-{mm}-{dd}/{batch}.json"}
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:20], **shape)
        plan, (shard,) = await planned(settings, bucket)
        asked, stood = tmdb.asked.total(), (await bucket.objects("")).keys()
        for name in shape:
            other = settings_for(tmdb.url, **{key: value for key, value in shape.items() if key != name})
            with pytest.raises(
                CorruptLakeError, match=f"{plan['run']}/manifest.json does not match the planned shards"
            ):
                await child(other, shard)
        assert (tmdb.asked.total(), (await bucket.objects("")).keys()) == (asked, stood)
        assert (await child(settings_for(tmdb.url, **shape), shard)).status == "landed"
        (key,) = await bucket.objects("Raw/API/Movies/2026-11-22/")
        records = orjson.loads(await bucket.read(key) or b"")
        assert {(record["harvest"]["language"], "credits" in record) for record in records} == {("pt-BR", True)}
        closed = await closed_by(settings, plan)
    assert (closed.status, closed.totals.found) == ("closed", 20)


def test_each_child_asks_at_most_its_rate_and_all_at_most_the_rate(s3: S3Server, settings_for: Make) -> None:
    """As TMDB counts it, in any second of a loop whose clock knows no busy machine; and hardly less than that."""

    async def story() -> None:
        clock = asyncio.get_running_loop().time
        async with s3_proxy(s3.endpoint) as link:
            link.rules["*"] = in_its_time(at_first())
            async with fake_tmdb(catalog=Catalog(otherwise="movie"), clock=clock) as tmdb:
                settings = settings_for(tmdb.url, movies=MOVIES, tmdb_rate=20, aws_endpoint_url_s3=link.url)
                plan = await plan_shards(settings, children=2)
                shards = await shards_at(settings, plan)
                assert (plan["children"], plan["rate_per_child"], len(shards)) == (2, 10, 2)
                harvest_one = partial(harvest_shard, settings, observer=Silent(), shutdown=Shutdown())
                tmdb.peak_all = 0
                await harvest_one(replace(shards[0], batches={"Movies": (tuple(MOVIES[:100]),)}))
                assert 9 <= tmdb.peak_all <= 10
                await asyncio.sleep(1)
                tmdb.peak_all = 0
                await fan_out(harvest_one, shards, at_once=2)
                assert 15 <= tmdb.peak_all <= 20

    run_on(Leaping(), story())


async def shards_at(settings: Settings, plan: dict[str, Any]) -> list[Shard]:
    """The shards of a plan, read as a state machine reads them."""
    async with open_bucket_of(settings) as bucket:
        return [Shard.of(shard) for shard in orjson.loads(await bucket.read(plan["shards_key"]) or b"")]
