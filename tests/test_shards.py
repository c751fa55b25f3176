"""Shards: cut, shared, and harvested by children in every order; against a TMDB stand-in and a real S3 server."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent
from hypothesis import given
from hypothesis import strategies as st
from loops import Leaping, in_its_time, no_wait, run_on

from harvester.batches import Batch, cut
from harvester.demo.catalog import Catalog
from harvester.demo.faults import always, refusal, scripted
from harvester.demo.s3_link import at_first, s3_link
from harvester.demo.tmdb_stand_in import stand_in
from harvester.errors import BooksError, InputError
from harvester.fan_out import fan_out
from harvester.harvest import harvest
from harvester.opening import open_bucket_of
from harvester.pace import SLACK
from harvester.plan import REQUESTS
from harvester.shards import SHARD_IDS, SHARD_SECONDS, Shard, cut_shards, harvest_shard, plan_shards, share
from harvester.stop import Stop
from harvester.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.demo.s3_server import S3Server
    from harvester.demo.tmdb_stand_in import StandIn
    from harvester.harvest import Report
    from harvester.s3 import Bucket
    from harvester.settings import Settings
    from harvester.titles import Collection

    Make = Callable[..., Settings]

WHERE = {"run": "2026-11-22-0123abcd", "prefix": "Raw/API", "planned_at": "2026-11-22T10:00:00.000Z"}


# Cutting and sharing


def batches_of(movies: int, series: int = 0) -> list[Batch]:
    """The batches of so many movies and series."""
    of: dict[Collection, int] = {"Movies": movies, "Series": series}
    return [batch for name, count in of.items() for batch in cut(name, [f"tt{i:010d}" for i in range(count)])]


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
    shards = cut_shards(batches, rate=rate, children=children, **WHERE)
    assert [batch for shard in shards for batch in shard.cut()] == batches
    for shard in shards:
        some = shard.cut()
        assert some
        seconds = requests(some) * SLACK / rate
        assert len(some) == 1 or (seconds <= SHARD_SECONDS and sum(len(each.ids) for each in some) <= SHARD_IDS)
    assert {(shard.run, shard.prefix, shard.rate) for shard in shards} <= {(WHERE["run"], WHERE["prefix"], rate)}


@given(hundreds=st.integers(20, 2_000), rate=st.integers(1, 100).map(float), children=st.integers(1, 20))
def test_there_are_as_many_shards_as_let_all_children_end_together(hundreds: int, rate: float, children: int) -> None:
    """A multiple of the children, of nearly the same size: within one batch of each other."""
    shards = cut_shards(batches_of(100 * hundreds), rate=rate, children=children, **WHERE)
    sizes = [len(shard.cut()) for shard in shards]
    assert len(shards) % children == 0 or set(sizes) == {1}
    assert max(sizes) - min(sizes) <= 1


def test_the_largest_shard_fits_into_what_step_functions_hands_a_child() -> None:
    """256 KiB of JSON, with ten digits in each id, and it comes back out of it as it was."""
    shards = cut_shards(batches_of(23_600), rate=10_000, children=1, **WHERE)
    bodies = [orjson.dumps({"action": "harvest", "shard": shard}) for shard in shards]
    assert [sum(len(batch.ids) for batch in shard.cut()) for shard in shards] == [SHARD_IDS - 200] * 2
    assert 150_000 < max(map(len, bodies)) < 2**18
    assert [Shard.of(orjson.loads(body)["shard"]) for body in bodies] == shards


@given(rate=st.floats(1, 10_000), children=st.integers(1, 1_000))
def test_together_the_children_ask_no_more_than_the_rate(rate: float, children: int) -> None:
    """Whatever the rate, fractions too; nobody has a rate of nothing, and a shared one is a whole number."""
    some, each = share(rate, children)
    assert 1 <= some <= children
    assert each >= 1
    assert some * each <= rate
    assert some == 1 or each == int(each)


@pytest.mark.parametrize(
    ("rate", "children", "shared"),
    [(40, 4, (4, 10.0)), (40.5, 4, (4, 10.0)), (13.3, 1, (1, 13.3)), (2.5, 4, (2, 1.0)), (0.5, 4, (1, 0.5))],
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


_ticks = itertools.count()


def noon() -> str:
    """A clock that stands still, of those who plan and close."""
    return "2026-11-22T12:00:00.000Z"


def after_noon() -> str:
    """A clock that tells another time whenever it is asked: two children's records differ in theirs."""
    seconds, rest = divmod(next(_ticks), 1_000)
    return f"2026-11-22T{13 + seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}Z"


async def planned(settings: Settings, bucket: Bucket, **more: Any) -> tuple[dict[str, Any], list[Shard]]:
    """What planning tells, and the shards it has written."""
    plan = await plan_shards(settings, now=noon, **more)
    told = orjson.loads(await bucket.read(plan["shards_key"]) or b"[]")
    return plan, [Shard.of(shard) for shard in told]


async def child(settings: Settings, shard: Shard, *, stop: Stop | None = None, watcher: Any = None) -> Report:
    """One child's harvest."""
    stop, watcher = stop or Stop(), watcher or Silent()
    return await harvest_shard(settings, shard, watcher=watcher, stop=stop, sleep=no_wait, now=after_noon)


async def whole(
    settings: Settings, *, stop: Stop | None = None, now: Callable[[], str] = noon, **closing: str | None
) -> Report:
    """A harvest of everything, or its close."""
    return await harvest(settings, watcher=Silent(), stop=stop or Stop(), sleep=no_wait, now=now, **closing)


def asked_since(before: Counter[Any], tmdb: StandIn) -> set[str]:
    """The ids that have been asked for since."""
    return {id_ for _, id_ in Counter(tmdb.asked) - before if id_}


async def lake(bucket: Bucket, prefix: str) -> dict[str, list[dict[str, Any]]]:
    """What the bucket holds below a prefix: the records of data files but for their time, nothing of other objects."""
    held: dict[str, list[dict[str, Any]]] = {}
    for key in await bucket.objects(f"{prefix}/"):
        records = []
        if "/_harvest/" not in key:
            records = [orjson.loads(line) for line in (await bucket.read(key) or b"").splitlines()]
            for record in records:
                record["harvest"].pop("fetched_at")
        held[key.removeprefix(prefix)] = records
    return held


@pytest.fixture(scope="module")
def orders() -> dict[str, Callable[[list[Shard]], list[list[Shard]]]]:
    """Which shards are harvested side by side, one group after another."""
    return {
        "backwards, twice": lambda shards: [[shard] for shard in reversed(shards * 2)],
        "all at once, each by two": lambda shards: [shards * 2],
    }


@pytest.mark.parametrize("order", ["backwards, twice", "all at once, each by two"])
async def test_children_in_any_order_leave_the_bucket_as_one_harvest_does(
    order: str, orders: Any, bucket: Bucket, settings_for: Make
) -> None:
    """The same keys, books and records as of one harvest of the same ids, with moved, missing and all; each proved."""
    async with stand_in(catalog=Catalog(kinds=KINDS, otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES, series=SERIES)
        plan, shards = await planned(settings, bucket, children=2)
        assert (plan["status"], plan["shards"], len(shards), plan["batches"]) == ("to_do", 2, 2, 4)
        for group in orders[order](shards):
            reports = await fan_out(partial(child, settings), group, at_once=len(group))
            assert {report.status for report in reports} == {"landed"}
        closed = await whole(settings, only=plan["run"])
        proof = await verify(settings)
        alone = settings.model_copy(update={"s3_prefix": "Raw/Alone"})
        expected = await whole(alone)
    assert (closed.status, expected.status, proof.problems) == ("closed", "closed", [])
    assert closed.run == expected.run
    told, wanted = closed.books.as_json(), expected.books.as_json()
    assert told == wanted
    held = await lake(bucket, "Raw/API")
    assert held.pop(f"/_harvest/{plan['run']}/shards.json") == []
    assert held == await lake(bucket, "Raw/Alone")


async def test_each_title_is_asked_for_once_where_each_child_is_called_once(bucket: Bucket, settings_for: Make) -> None:
    """Neither planning nor closing asks again for what has landed; called again, a child asks for nothing."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        assert tmdb.asked.total() == 1  # the key
        reports = [await child(settings, shard) for shard in shards * 2]
        assert [report.requests for report in reports[:2]] == [100, 10]
        assert [report.requests for report in reports[2:]] == [0] * 2
        assert [report.books.found for report in reports[2:]] == [report.books.found for report in reports[:2]]
        assert (await whole(settings, only=plan["run"])).status == "closed"
        assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 1


async def test_a_run_begun_by_one_harvest_is_ended_by_children(bucket: Bucket, settings_for: Make) -> None:
    """Begun on a laptop with `--limit`: only the rest is cut into shards, of the same run."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        begun = await whole(settings, stop=Stop(limit=50))
        assert (begun.status, begun.batches_left) == ("stopped", 1)
        plan, shards = await planned(settings, bucket)
        assert (plan["run"], plan["batches"], plan["books"]["found"]) == (begun.run, 1, 100)
        for shard in shards:
            await child(settings, shard)
        closed = await whole(settings, only=plan["run"])
    assert (closed.status, closed.run, closed.books.found) == ("closed", begun.run, 110)
    assert max(count for (route, _), count in tmdb.asked.items() if route == "movie") == 1


async def test_a_run_begun_by_children_is_ended_by_one_harvest(bucket: Bucket, settings_for: Make) -> None:
    """Whoever has lost the patience for a map goes on with the command line, and the books close."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        await child(settings, shards[1])
        before = Counter(tmdb.asked)
        closed = await whole(settings)
        landed = {id_ for batch in shards[1].cut() for id_ in batch.ids}
        assert asked_since(before, tmdb) == set(MOVIES[:110]) - landed
        assert (closed.status, closed.run, closed.books.found) == ("closed", plan["run"], 110)
        assert (await verify(settings)).problems == []


class DiedError(Exception):
    """What ends a child in mid-flight."""


@pytest.mark.parametrize("receipts", [1, 2])
async def test_a_child_that_has_died_is_done_again_for_what_is_left(
    receipts: int, bucket: Bucket, settings_for: Make
) -> None:
    """After any receipt: only batches without one are asked for by the child that takes its place."""

    class Mortal(Silent):
        def batch(self, receipt: Any) -> None:
            super().batch(receipt)
            if len(self.receipts) == receipts:
                raise DiedError

    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES)
        plan, (shard,) = await planned(settings, bucket, children=1)
        with pytest.raises(DiedError):
            await child(settings, shard, watcher=Mortal())
        done = list(await bucket.objects(f"Raw/API/_harvest/{plan['run']}/receipts/"))
        assert len(done) >= receipts
        before = Counter(tmdb.asked)
        report = await child(settings, shard)
        names = {key.rpartition("/")[2] for key in done}
        left = {id_ for batch in shard.cut() if f"{batch.name}.json" not in names for id_ in batch.ids}
        assert asked_since(before, tmdb) == left
        assert (report.status, report.books.found) == ("landed", 210)
        assert (await whole(settings, only=plan["run"])).status == "closed"
        assert (await verify(settings)).problems == []


async def test_failed_titles_fail_no_child_and_are_left_to_the_close(bucket: Bucket, settings_for: Make) -> None:
    """A child lands their neighbours and is done; called again it leaves them; whoever closes asks for them again."""
    poison = MOVIES[105]
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        tmdb.faults = scripted({("movie", poison): [always(refusal(500))]})
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, (shard,) = await planned(settings, bucket, children=1)
        told = await child(settings, shard)
        assert (told.status, told.exit_code, told.failed) == ("landed", 0, {poison: "http_500"})
        before = Counter(tmdb.asked)
        told = await child(settings, shard)
        assert (told.status, asked_since(before, tmdb)) == ("landed", set())
        tried = await whole(settings, only=plan["run"])
        assert (tried.status, tried.exit_code, tried.failed) == ("failed", 5, {poison: "http_500"})
        before = Counter(tmdb.asked)
        left = await whole(settings, only=plan["run"], since=noon())  # called once more for want of time
        assert (left.status, left.books, left.failed) == ("failed", tried.books, tried.failed)
        assert asked_since(before, tmdb) == set()
        tmdb.faults = scripted({})
        before = Counter(tmdb.asked)
        again, (rest,) = await planned(settings, bucket, children=1)  # the map is started again
        assert (again["run"], again["batches"]) == (plan["run"], 1)
        await child(settings, replace(rest, planned_at="2026-11-22T20:00:00.000Z"))
        closed = await whole(settings, only=plan["run"])
        assert asked_since(before, tmdb) == set(MOVIES[100:110])
    assert (closed.status, closed.books.found, closed.failed) == ("closed", 110, {})


async def test_titles_that_have_moved_are_harvested_by_the_close(bucket: Bucket, settings_for: Make) -> None:
    """Whom a child finds to be of the other kind lands in a batch of such titles of all children."""
    strays = [MOVIES[5], MOVIES[105]]
    async with stand_in(catalog=Catalog(kinds=dict.fromkeys(strays, "tv"), otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        for shard in shards:
            await child(settings, shard)
        assert await bucket.objects("Raw/API/Series/") == {}
        before = Counter(tmdb.asked)
        closed = await whole(settings, only=plan["run"])
        assert asked_since(before, tmdb) == set(strays)
    assert (closed.status, closed.books.found) == ("closed", 110)
    assert [key.rpartition("/")[2][:19] for key in await bucket.objects("Raw/API/Series/")] == ["-".join(strays)]


async def test_a_plan_of_which_nothing_is_left_is_closed_or_done(bucket: Bucket, settings_for: Make) -> None:
    """`to_close` while the books are open, `nothing_to_do` then, and `again` has it all done once more."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        for shard in shards:
            await child(settings, shard)
        told, none = await planned(settings, bucket)
        assert (told["status"], told["shards"], none, told["run"]) == ("to_close", 0, [], plan["run"])
        assert (await whole(settings, only=plan["run"])).status == "closed"
        kept = await bucket.objects("")
        told = await plan_shards(settings, now=noon)
        assert (told["status"], told["shards"], told["books"]["found"]) == ("nothing_to_do", 0, 110)
        assert await bucket.objects("") == kept
        for day in ("2026-11-22", "2026-11-23"):  # an answer that was lost, and asked for once more
            told_again = await whole(settings, only=plan["run"], now=lambda day=day: f"{day}T00:30:00.000Z")
            assert (told_again.status, told_again.run) == ("nothing_to_do", plan["run"])
        told = await plan_shards(settings, again=True, now=lambda: "2026-11-22T23:00:00.000Z")
        assert (told["status"], told["shards"], told["run"]) == ("to_do", 2, plan["run"])


async def test_a_close_of_other_csvs_is_refused_and_begins_no_run(bucket: Bucket, settings_for: Make) -> None:
    """A CSV that has been replaced while the children were at it is not harvested by who closes the books."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:110])
        plan, shards = await planned(settings, bucket)
        for shard in shards:
            await child(settings, shard)
        kept, asked = await bucket.objects(""), tmdb.asked.total()
        with pytest.raises(
            InputError, match=f"movies.csv: has other ids, or is asked for otherwise, than {plan['run']}"
        ):
            await whole(settings_for(tmdb.url, movies=MOVIES[:111]), only=plan["run"])
        assert (await bucket.objects(""), tmdb.asked.total()) == (kept, asked)


async def test_a_shard_of_no_plan_is_refused(bucket: Bucket, settings_for: Make) -> None:
    """Of a run that is not there, or has no such batch: nobody is asked for it."""
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:150])
        plan, (shard,) = await planned(settings, bucket, children=1)
        asked = tmdb.asked.total()
        with pytest.raises(BooksError, match=f"Raw/API/_harvest/{WHERE['run']}/plan.json is not a plan"):
            await child(settings, replace(shard, run=WHERE["run"]))
        with pytest.raises(BooksError, match=f"{plan['run']}/plan.json has no batch tt0000001-tt0000099-.*: plan anew"):
            await child(settings, replace(shard, batches={"Movies": (tuple(MOVIES[:99]),)}))
        assert tmdb.asked.total() == asked


async def test_records_are_shaped_by_the_plan_and_not_by_the_environment_of_a_child(
    bucket: Bucket, settings_for: Make
) -> None:
    """Language, appended parts, format and folder: a run is of one shape, whoever harvests it."""
    shape: dict[str, Any] = {"tmdb_language": "pt-BR", "tmdb_append": "credits", "output_format": "array"}
    shape |= {"s3_prefix": "Raw/Outra", "s3_key_template": "{prefix}/{collection}/{yyyy}-{mm}-{dd}/{batch}.json"}
    async with stand_in(catalog=Catalog(otherwise="movie")) as tmdb:
        settings = settings_for(tmdb.url, movies=MOVIES[:20], **shape)
        plan, (shard,) = await planned(settings, bucket)
        other = settings_for(tmdb.url, tmdb_language="en", tmdb_append="videos")
        assert (await child(other, shard)).status == "landed"
        (key,) = await bucket.objects("Raw/Outra/Movies/2026-11-22/")
        records = orjson.loads(await bucket.read(key) or b"")
        assert {(record["harvest"]["language"], "credits" in record, "videos" in record) for record in records} == {
            ("pt-BR", True, False)
        }
        closed = await whole(settings, only=plan["run"])
    assert (closed.status, closed.books.found) == ("closed", 20)


def test_each_child_asks_at_most_its_rate_and_all_at_most_the_rate(s3: S3Server, settings_for: Make) -> None:
    """As TMDB counts it, in any second of a loop whose clock knows no busy machine; and hardly less than that."""

    async def story() -> None:
        clock = asyncio.get_running_loop().time
        async with s3_link(s3.endpoint) as link:
            link.rules["*"] = in_its_time(at_first())
            async with stand_in(catalog=Catalog(otherwise="movie"), clock=clock) as tmdb:
                settings = settings_for(tmdb.url, movies=MOVIES, tmdb_rate=20, aws_endpoint_url_s3=link.url)
                plan = await plan_shards(settings, children=2)
                shards = await shards_at(settings, plan)
                assert (plan["children"], plan["rate_per_child"], len(shards)) == (2, 10, 2)
                harvest_one = partial(harvest_shard, settings, watcher=Silent(), stop=Stop())
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
