"""Killed at any moment, nothing is lost, doubled or asked again: seen from outside.

A harvester runs in a process of its own, and all it says to the world goes through a TMDB stand-in and a link before a
real S3 server, which count what they see. So a moment is no time but an event ("before put receipt 3", "before ask
200"), the same on every machine, and there the process gets a SIGKILL. Then the same command runs to its end, and the
bucket is audited: read by a plain S3 client and held against the catalog of what TMDB has, by code that is nobody's but
this file's. `verify` is asked too, as a second opinion.

A dozen moments are in the default run. All of them: `pytest -m kill`.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import random
import re
import signal
import struct
import termios
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Silent, client_of
from loops import no_wait
from shells import Ended, Shell, kept

from harvester.demo.catalog import Catalog, kind_of, movie_record, tv_record
from harvester.demo.faults import Faults, always, healthy, refusal, scripted, sprinkled
from harvester.demo.s3_link import reset, s3_link
from harvester.demo.s3_server import S3Server, s3_server
from harvester.demo.tmdb_stand_in import KEY, StandIn, stand_in
from harvester.harvest import Report, harvest
from harvester.settings import Settings, load_settings
from harvester.stop import Stop
from harvester.verify import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from aiohttp import web

    from harvester.demo.catalog import Kind
    from harvester.demo.faults import Asked, Fault
    from harvester.demo.faults import Route as Door
    from harvester.demo.s3_link import Call, Forward

    Route = tuple[Door, str]
    """What was asked of TMDB: at which of its doors, for which IMDb id."""

    Truth = tuple[str, dict[str, Any]] | str
    """The collection a title belongs to, and its record; or why TMDB has none."""

KILLED = -signal.SIGKILL
DOORS: dict[str, Door] = {"Movies": "movie", "Series": "tv"}
"""By collection, the door of TMDB where its records are; it is called as their kind is."""

# --- what there is to harvest


def ids_from(first: int, count: int) -> list[str]:
    return [f"tt{number:07d}" for number in range(first, first + count)]


@dataclass(frozen=True)
class World:
    """What stands in the two CSVs, what TMDB has of it, and which of its answers are errors."""

    catalog: Catalog
    ids: Mapping[str, list[str]]
    faults: Faults = healthy

    def csv(self, collection: str) -> str:
        """A CSV with each title twice, and one row without an id."""
        rows = [f"{id_}|Ação" for id_ in self.ids[collection] for _ in range(2)]
        return "\n".join(["id|tituloPincipal", *rows, "none|Não", ""])

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """What must come of each id: a title is what its CSV says, if TMDB has it as that; else what TMDB says."""
        truths: dict[str, Truth] = {}
        for home, ids in self.ids.items():
            for id_ in ids:
                movie, series = movie_record(self.catalog, id_), tv_record(self.catalog, id_)
                known = {"Movies": movie, "Series": series} if home == "Movies" else {"Series": series, "Movies": movie}
                found = [(collection, record) for collection, record in known.items() if record]
                truths[id_] = found[0] if found else kind_of(self.catalog, id_)
        return truths

    @cached_property
    def batches(self) -> dict[tuple[str, str], list[str]]:
        """The ids of each batch of the CSVs, by collection and name."""
        cut = [(home, ids[at : at + 100]) for home, ids in self.ids.items() for at in range(0, len(ids), 100)]
        return {(home, name_of_batch(ids)): ids for home, ids in cut}


def name_of_batch(ids: Sequence[str]) -> str:
    return f"{ids[0]}-{ids[-1]}-{hashlib.sha256(chr(10).join(ids).encode()).hexdigest()[:8]}"


def mixed(movies: int, series: int) -> World:
    """Some movies are series and the reverse, some are nothing; some answers are 500."""
    films, shows = ids_from(1, movies), ids_from(900_001, series)
    kinds: dict[str, Kind] = dict.fromkeys([*shows, *films[7::29]], "tv")
    kinds |= dict.fromkeys(shows[3::14], "movie")
    kinds |= dict.fromkeys([*films[6::60], *shows[2::30]], "unknown")
    kinds |= {films[40]: "episode", shows[10]: "season"}
    return World(Catalog(kinds=kinds), {"Movies": films, "Series": shows}, sprinkled({"500": 0.01}, seed=23))


MIXED = mixed(350, 60)
"""Seven batches: four of movies and one of series, one more of each for those of the other kind."""

SMALL = mixed(120, 12)
"""Five batches."""

LARGE = World(Catalog(record_bytes=110_000), {"Movies": ids_from(1, 105)})
"""A batch of 11 MB: two files, of which the first takes two parts; and a small one."""

MANY = World(Catalog(), {"Movies": ids_from(1, 1_200)})
"""Twelve batches."""

# --- a moment in the life of a harvester


@dataclass(frozen=True, slots=True)
class Point:
    """The `nth` event of this name in one life: before it is passed on, or after it was done but before the answer.

    A request of TMDB is an `ask`, a call of S3 what it does; `event` is any of them.
    """

    when: str
    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.when} {self.name} {self.nth}"


def points(life: Mapping[str, int], *names: str, each: int, seed: int) -> list[Point]:
    """Points of a life, by seed: of every event named, up to `each` before it, and as many after it."""
    dice = random.Random(seed)
    return [
        Point(when, name, nth)
        for name in names
        for when in (("before",) if name == "ask" else ("before", "after"))
        for nth in sorted(dice.sample(range(1, life[name] + 1), min(each, life[name])))
    ]


@dataclass(slots=True)
class Life:
    """One life: what it asked of TMDB and how much of that got an error; what was done, and had been asked, before."""

    asked: Counter[Route]
    errors: Counter[Route]
    done: set[Route]
    before: Counter[Route]

    @property
    def repeated(self) -> Counter[Route]:
        """Requests for what had been asked in an earlier life."""
        return Counter({route: times for route, times in self.asked.items() if route in self.before})


@dataclass(slots=True)
class Lake:
    """A bucket as it stands: every object, and the key of every unfinished upload."""

    objects: dict[str, bytes]
    uploads: list[str]

    def receipts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every receipt, with its key."""
        return ((key, json.loads(body)) for key, body in self.objects.items() if "/receipts/" in key)

    def data(self) -> Iterator[tuple[str, str, bytes]]:
        """Every data file: collection, key, body."""
        return ((found[1], key, body) for key, body in self.objects.items() if (found := DATA.fullmatch(key)))


@dataclass(slots=True)
class Scene:
    """A harvester between TMDB and S3, which count all they see of it, and strike at the `point`.

    Attributes:
        seen: Events of the life under way.
        strike: What is done at the point: a SIGKILL.
        struck: Set when that is done.
        lives: All lives that are over.
        held: Whether calls of S3 have to wait.
    """

    world: World
    tmdb: StandIn
    client: Any
    bucket: str
    shell: Shell
    settings: Settings
    faults: Faults
    point: Point | None = None
    process: asyncio.subprocess.Process | None = None
    strike: Callable[[], object] = lambda: None
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    seen: Counter[str] = field(default_factory=Counter)
    errors: Counter[Route] = field(default_factory=Counter)
    lives: list[Life] = field(default_factory=list)
    under_way: list[asyncio.Future[web.Response]] = field(default_factory=list)
    held: Callable[[], bool] = lambda: False

    @property
    def over(self) -> bool:
        """Whether the life under way has ended, by a kill or otherwise."""
        return self.process is not None and self.process.returncode is not None

    async def life(self, point: Point | None = None, *, strike: Callable[[], object] | None = None) -> Ended:
        """Run the harvester to its end; at the `point` it is killed, or what else `strike` does."""
        async with self.remembered():
            self.point = point
            async with self.shell.start("--json") as running:
                self.process = running.process
                self.strike = strike or self.process.kill
                return await running.ended()

    @asynccontextmanager
    async def remembered(self) -> AsyncIterator[None]:
        """Take what happens inside for one life."""
        done, before = done_in(await self.lake(), self.world), Counter(self.tmdb.asked)
        self.seen.clear()
        self.errors.clear()
        self.struck.clear()
        yield
        await self.settled()
        self.lives.append(Life(Counter(self.tmdb.asked) - before, Counter(self.errors), done, before))

    async def settled(self) -> None:
        """Wait until all that the dead has sent has arrived, and is done."""
        quiet = 0
        while quiet < 50:
            on_its_way = self.tmdb.in_flight > 0 or not all(passed_on.done() for passed_on in self.under_way)
            await asyncio.sleep(0.001 if on_its_way else 0)
            quiet = 0 if on_its_way else quiet + 1
        await asyncio.gather(*self.under_way, return_exceptions=True)
        self.under_way.clear()

    def is_now(self, name: str) -> bool:
        """Count an event; whether it is the point."""
        self.seen.update((name, "event"))
        return (
            self.point is not None
            and self.point.name in (name, "event")
            and self.point.nth == self.seen[self.point.name]
            and not self.struck.is_set()
        )

    def hit(self) -> None:
        self.strike()
        self.struck.set()

    def on_request(self, asked: Asked) -> Fault | None:
        """A request has come to TMDB."""
        if self.is_now("ask"):
            self.hit()
        fault = self.faults(asked)
        if fault:
            self.errors[asked.route, asked.id] += 1
        return fault

    async def on_call(self, call: Call, forward: Forward) -> web.StreamResponse:
        """A call has come to S3."""
        while self.held():
            await asyncio.sleep(0.01)
        now = self.is_now(name_of(call))
        if now and self.point and self.point.when == "before":
            self.hit()
            return await reset(call, forward)
        passed_on = asyncio.ensure_future(forward())
        self.under_way.append(passed_on)
        answer = await asyncio.shield(passed_on)  # what has been sent is done, also when who sent it is dead
        if now:
            self.hit()
            return await reset(call, forward)
        return answer

    async def harvest(self, *, limit: int | None = None, again: bool = False) -> Report:
        """A life in this process, which nobody ends."""
        async with self.remembered():
            return await harvest(self.settings, watcher=Silent(), stop=Stop(limit=limit), again=again, sleep=no_wait)

    async def harvest_with_a_failure(self, *, limit: int | None = None) -> None:
        """A life in which one title of the second batch has no usable answer."""
        poison = scripted({("movie", self.world.ids["Movies"][110]): [always(refusal(404, code=11))]})
        self.faults = lambda asked: poison(asked) or self.world.faults(asked)
        report = await self.harvest(limit=limit)
        self.faults = self.world.faults
        assert report.books.failed.total() == 1

    async def lake(self) -> Lake:
        """The bucket as it stands, read past the link."""
        objects: dict[str, bytes] = {}
        async for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for listed in page.get("Contents", ()):
                got = await self.client.get_object(Bucket=self.bucket, Key=listed["Key"])
                objects[listed["Key"]] = await got["Body"].read()
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket)
        return Lake(objects, [upload["Key"] async for page in pages for upload in page.get("Uploads", ())])

    async def put(self, key: str, body: bytes) -> None:
        await self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    async def remove(self, key: str) -> None:
        await self.client.delete_object(Bucket=self.bucket, Key=key)

    async def open_upload(self, key: str) -> None:
        """An upload with a part landed, and no end."""
        upload = (await self.client.create_multipart_upload(Bucket=self.bucket, Key=key))["UploadId"]
        part = {"UploadId": upload, "PartNumber": 1, "Body": b"half of it"}
        await self.client.upload_part(Bucket=self.bucket, Key=key, **part)


def name_of(call: Call) -> str:
    match call.operation:
        case "put":
            kinds = {"plan.json": "plan", "summary.json": "summary", "/receipts/": "receipt", "/failed/": "failed"}
            return "put " + next(kind for mark, kind in kinds.items() if mark in call.key)
        case "uploads":
            return "list uploads"
        case operation:
            return operation


@asynccontextmanager
async def scene_of(world: World, server: S3Server, folder: Path, *, rate: int = 1_000) -> AsyncIterator[Scene]:
    """A scene with nobody in it yet; its bucket is that of the folder, made if need be."""
    bucket = f"kills-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    csvs = {f"{collection.upper()}_CSV": str(folder / f"{collection}.csv") for collection in world.ids}
    for collection in world.ids:
        (folder / f"{collection}.csv").write_text(world.csv(collection), encoding="utf-8")
    asyncio.get_running_loop().set_debug(False)  # it would make the servers, which are not on trial, twice as slow
    async with client_of(server) as client, s3_link(server.endpoint) as link, stand_in(catalog=world.catalog) as tmdb:
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            await client.create_bucket(Bucket=bucket)
        told = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": tmdb.url, "TMDB_RATE": str(rate), "S3_BUCKET": bucket, **csvs}
        aws = server.environment()
        shell = Shell(kept() | aws | told | {"AWS_ENDPOINT_URL_S3": link.url}, folder)
        direct = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
        flags: dict[str, Any] = {name.lower(): value for name, value in told.items()}
        settings = load_settings(**flags, **{name.lower(): aws[name] for name in direct})
        scene = Scene(world, tmdb, client, bucket, shell, settings, world.faults)
        tmdb.faults = scene.on_request
        link.rules["*"] = scene.on_call
        yield scene


# --- the audit

DATA = re.compile(r"Raw/API/(Movies|Series)/\d{4}/\d\d/\d\d/tt\d+-tt\d+-[0-9a-f]{8}(?:\.\d+)?\.json")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
PAPER = re.compile(
    r"Raw/API/_harvest/(\d{4}-\d\d-\d\d-[0-9a-f]{8})/(plan|summary|receipts/(?:Movies|Series)/tt.+)\.json"
)


def audit(world: World, lake: Lake, books: Mapping[str, Any]) -> list[str]:
    """Every harm in the lake of a finished run, of which the harvester has told these `books`."""
    problems = [f"an upload of {key} is an orphan" for key in lake.uploads]
    papers = {key: found for key in lake.objects if (found := PAPER.fullmatch(key))}
    problems += [f"{key} is a stray" for key in lake.objects if key not in papers and not DATA.fullmatch(key)]
    problems += [f"{key} is of another run" for key, found in papers.items() if found[1] != papers[min(papers)][1]]
    problems += [*audit_records(world, lake), *audit_receipts(world, lake)]
    if books != (true := books_of(world, lake)):
        problems.append(f"the books are {books}, the true ones {true}")
    for name, told in (("plan", None), ("summary", books)):
        kept = [json.loads(lake.objects[key]).get("books") for key, found in papers.items() if found[2] == name]
        if kept != [told]:
            problems.append(f"there are {len(kept)} papers of the name {name}, with the books {kept}")
    return problems


def audit_records(world: World, lake: Lake) -> Iterator[str]:
    """Each title that TMDB has stands in one data file, once, where it belongs, as TMDB has it; nothing else does."""
    times: Counter[str] = Counter()
    for collection, key, body in lake.data():
        for record in map(json.loads, body.splitlines()):
            id_ = record.pop("imdb_id")
            times[id_] += 1
            truth = world.truths.get(id_, "no such id")
            if isinstance(truth, str) or truth[0] != collection:
                yield f"{id_} does not belong into {key}"
            elif record | {"imdb_id": ""} != truth[1] | {"imdb_id": "", "harvest": record["harvest"]}:
                yield f"{id_} is in {key} what it is not at TMDB"
            elif not TIME.fullmatch(record["harvest"].pop("fetched_at", "")):
                yield f"{id_} is in {key} without a time"
            elif record["harvest"] != put_in_front(id_, truth):
                yield f"{id_} has in {key} {record['harvest']} in front"
    for id_, truth in world.truths.items():
        expected = 0 if isinstance(truth, str) else 1
        if times[id_] != expected:
            yield f"{id_} has {times[id_]} records instead of {expected}"


def of_kind(truth: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Kind and number of a title, as TMDB has it."""
    return {"kind": DOORS[truth[0]], "tmdb_id": truth[1]["id"]}


def put_in_front(id_: str, truth: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """What must stand in front of a record, but for the time."""
    own = truth[1].get("imdb_id", id_)
    return of_kind(truth) | {"language": None} | ({} if own == id_ else {"tmdb_imdb_id": own})


def audit_receipts(world: World, lake: Lake) -> Iterator[str]:
    """Each id has its true outcome, in one receipt of its kind; each data file is, to the byte, that of one receipt."""
    times: Counter[str] = Counter()
    files: Counter[str] = Counter()
    names: set[tuple[str, str]] = set()
    for key, receipt in lake.receipts():
        collection, outcomes = receipt["collection"], receipt["outcomes"]
        times.update(list(outcomes))
        names.add((collection, name_of_batch(ids_of(receipt))))
        if not key.endswith(f"/{collection}/{name_of_batch(ids_of(receipt))}.json"):
            yield f"{key} has the ids of another batch"
        found = []
        for file in receipt["files"]:
            files[file["key"]] += 1
            body = lake.objects.get(file["key"], b"")
            found += [json.loads(line)["imdb_id"] for line in body.splitlines()]
            if (file["bytes"], file["sha256"]) != (len(body), hashlib.sha256(body).hexdigest()):
                yield f"{file['key']} is not what {key} says"
        if found != [id_ for id_, told in outcomes.items() if told["outcome"] == "found"]:
            yield f"{key} has found other titles than stand in its files"
        for id_, told in outcomes.items():
            truth = world.truths.get(id_, "no such id")
            if told.get("reason", collection) != (truth if isinstance(truth, str) else truth[0]):
                yield f"{id_} is {told} in {key}"
            elif not isinstance(truth, str) and told != {"outcome": "found"} | of_kind(truth):
                yield f"{id_} is {told} in {key}, and not of the kind or number it has"
    yield from (f"{batch} has no receipt" for batch in world.batches.keys() - names)
    yield from (f"{id_} has {times[id_]} outcomes instead of 1" for id_ in world.truths if times[id_] != 1)
    yield from (f"{key} is in {files[key]} receipts instead of 1" for _, key, _ in lake.data() if files[key] != 1)


def ids_of(receipt: Mapping[str, Any]) -> list[str]:
    """The ids of a receipt's batch, in its order; those of the other kind stand apart, with their places."""
    ids = list(receipt["outcomes"])
    for id_, told in receipt.get("moved", {}).items():
        ids.insert(told["place"], id_)
    return ids


def books_of(world: World, lake: Lake) -> dict[str, Any]:
    """The books as they should be, by what stands in the CSVs and in the lake."""
    ids = len(world.truths)
    bodies = [body for _, _, body in lake.data()]
    missing = Counter(truth for truth in world.truths.values() if isinstance(truth, str))
    return {
        "rows": 2 * ids + len(world.ids),
        "duplicates": ids,
        "rejected": len(world.ids),
        "ids": ids,
        "found": sum(len(body.splitlines()) for body in bodies),
        "missing": missing.total(),
        "failed": 0,
        "missing_by_reason": dict(missing),
        "failed_by_reason": {},
        "batches": len(list(lake.receipts())),
        "files": len(bodies),
        "bytes": sum(map(len, bodies)),
    }


def done_in(lake: Lake, world: World) -> set[Route]:
    """What need not be asked again: a receipt has it, with its files; moved titles have two, for other doors."""
    done: set[Route] = set()
    for _, receipt in lake.receipts():
        if not lake.objects.keys() >= {file["key"] for file in receipt["files"]}:
            continue
        door = DOORS[receipt["collection"]]
        done.update((door, id_) for id_ in receipt["outcomes"])
        if set(ids_of(receipt)) <= set(world.ids.get(receipt["collection"], ())):
            done.update((door, id_) for id_ in ids_of(receipt))
            done.update(("find", id_) for id_ in ids_of(receipt))
    return done


def audit_requests(lives: Sequence[Life]) -> list[str]:
    """Every request that was one too many: for what had a receipt, or twice in one life without an error."""
    problems = []
    for number, life in enumerate(lives, 1):
        for (door, id_), times in life.asked.items():
            if (door, id_) in life.done:
                problems.append(f"life {number} asked {door} for {id_}, of which there was a receipt")
            if id_ and times > 1 + life.errors[door, id_]:
                problems.append(f"life {number} asked {door} for {id_} {times} times")
    return problems


async def closed(scene: Scene, ended: Ended) -> None:
    """Assert that the last life has closed the books, and that everything is as it should be."""
    assert (ended.code, ended.told["exit_code"]) == (0, 0), ended.told
    await proved(scene, ended.told["books"])


async def proved(scene: Scene, books: Mapping[str, Any]) -> None:
    """Assert that nothing is lost, doubled, orphaned, astray or asked again; and that `verify` says so too."""
    assert audit(scene.world, await scene.lake(), books) == []
    assert audit_requests(scene.lives) == []
    assert (await verify(scene.settings)).as_json()["status"] == "proved"


# --- killed at a point, and run to the end

LIVES: dict[str, dict[str, int]] = {
    "fresh": {
        "ask": 503,
        "list": 7,
        "list uploads": 4,
        "put plan": 1,
        "create": 7,
        "part": 7,
        "complete": 7,
        "put receipt": 7,
        "put summary": 1,
    },
    "mending": {
        "ask": 392,
        "list": 7,
        "list uploads": 4,
        "get": 4,
        "put plan": 1,
        "delete": 2,
        "abort": 1,
        "create": 7,
        "part": 7,
        "complete": 7,
        "put receipt": 7,
        "put summary": 1,
    },
    "large": {
        "ask": 106,
        "list": 7,
        "list uploads": 4,
        "put plan": 1,
        "create": 3,
        "part": 4,
        "complete": 3,
        "put receipt": 2,
        "put summary": 1,
    },
}
"""What happens, and how often, in lives that nobody ends: one in the mixed world; one there that has an earlier one's
mess to mend; one in the large world. Points are chosen from these."""

EVERYWHERE = [
    *(("fresh", point) for point in points(LIVES["fresh"], *LIVES["fresh"], each=2, seed=1)),
    *(("fresh", point) for point in points(LIVES["fresh"], "ask", each=20, seed=2)),
    *(("mending", point) for point in points(LIVES["mending"], *LIVES["mending"], each=2, seed=3)),
    *(("large", point) for point in points(LIVES["large"], "part", "complete", "put receipt", each=2, seed=4)),
]

A_DOZEN = [
    *(("fresh", random.Random(name).choice(points(LIVES["fresh"], name, each=7, seed=5))) for name in LIVES["fresh"]),
    *(
        ("mending", random.Random(name).choice(points(LIVES["mending"], name, each=2, seed=6)))
        for name in ("delete", "abort")
    ),
    ("large", random.Random(7).choice(points(LIVES["large"], "part", each=4, seed=7))),
]
"""One of each event there is."""


def few_and_all(few: Sequence[Any], every: Sequence[Any]) -> list[Any]:
    """Parameters of a test: a few for the default run, and all of them for `-m kill`."""
    return [
        *(pytest.param(case, id=id_of(case)) for case in few),
        *(pytest.param(case, id=f"all: {id_of(case)}", marks=pytest.mark.kill) for case in every),
    ]


def id_of(case: Any) -> str:
    return ", ".join(map(str, case)) if isinstance(case, tuple) else str(case)


async def leave_a_mess(scene: Scene) -> None:
    """An earlier life that has left all there is to mend, in the mixed world.

    Its first batch is done, with a file too many; its second has a failed title; an upload of the third is open; the
    rest is not begun.
    """
    await scene.harvest_with_a_failure(limit=200)
    first, second, third, *_ = [name for _, name in scene.world.batches]
    lake = await scene.lake()
    [key] = [key for _, key, _ in lake.data() if first in key]
    await scene.put(key.replace(".json", ".2.json"), lake.objects[key])
    await scene.open_upload(key.replace(first, third))
    assert [key for key in lake.objects if "/failed/" in key and second in key] != []


@pytest.mark.kill
@pytest.mark.parametrize("life", LIVES)
async def test_points_are_chosen_from_the_whole_of_a_life(life: str, s3: S3Server, tmp_path: Path) -> None:
    """What is known to happen in a life is all that happens in it, so that no kind of moment is left out."""
    async with scene_of(LARGE if life == "large" else MIXED, s3, tmp_path) as scene:
        if life == "mending":
            await leave_a_mess(scene)
        await closed(scene, await scene.life())
        assert dict(scene.seen) == LIVES[life] | {"event": sum(LIVES[life].values())}


@pytest.mark.parametrize("case", few_and_all(A_DOZEN, EVERYWHERE))
async def test_killed_at_any_moment_the_next_run_closes_the_books(
    case: tuple[str, Point], s3: S3Server, tmp_path: Path
) -> None:
    """After a SIGKILL at any moment the same command loses nothing, doubles nothing, and asks for nothing done."""
    life, point = case
    async with scene_of(LARGE if life == "large" else MIXED, s3, tmp_path) as scene:
        if life == "mending":
            await leave_a_mess(scene)
        assert (await scene.life(point)).code == KILLED
        await closed(scene, await scene.life())


AGAIN, MOSTS = range(10), (250, 250, 120, 60)
"""Seeds, and of each four lives: events until the kill, at most; the last two end in the midst of going on."""


@pytest.mark.parametrize("seed", few_and_all([0], AGAIN))
async def test_killed_again_and_again_it_comes_to_an_end(seed: int, s3: S3Server, tmp_path: Path) -> None:
    """Each life goes on where the last was killed, in the midst of going on or not, and the last closes the books."""
    dice = random.Random(seed)
    async with scene_of(MIXED, s3, tmp_path) as scene:
        for most in MOSTS:
            point = Point(dice.choice(["before", "after"]), "event", dice.randint(1, most))
            assert (await scene.life(point)).code == KILLED
        await closed(scene, await scene.life())


@pytest.mark.parametrize("module", ["typer", "aiohttp", "harvester.tmdb"])
async def test_killed_while_it_starts_it_has_done_nothing(module: str, s3: S3Server, tmp_path: Path) -> None:
    """Killed when it has just imported some module, it has asked nobody, and the bucket is empty."""
    async with scene_of(MIXED, s3, tmp_path) as scene:
        (tmp_path / "Movies.csv").unlink()
        os.mkfifo(tmp_path / "Movies.csv")  # nobody writes to it: however late we strike, it has got no further
        async with scene.shell.having(PYTHONPROFILEIMPORTTIME="1").start("--json") as running:
            await running.until(lambda: re.search(rf"\| +{module}\n", running.err.decode()))
            running.process.kill()
            assert (await running.ended()).code == KILLED
        await scene.settled()
        assert (scene.seen.total(), await scene.lake()) == (0, Lake({}, []))


async def test_killed_while_it_reads_its_csv_it_has_done_nothing(s3: S3Server, tmp_path: Path) -> None:
    """Killed with half of its CSV read, it has asked nobody, and the next one reads all of it."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        csv = tmp_path / "Movies.csv"
        rows = csv.read_bytes()
        csv.unlink()
        os.mkfifo(csv)
        life = asyncio.ensure_future(scene.life())
        pipe = -1
        while pipe < 0:
            with suppress(OSError):  # nobody reads it yet
                pipe = os.open(csv, os.O_WRONLY | os.O_NONBLOCK)
            await asyncio.sleep(0.01)
        os.write(pipe, rows[: len(rows) // 2])
        while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"    ")) != (0,):
            await asyncio.sleep(0.01)
        assert scene.process
        scene.process.kill()
        assert (await life).code == KILLED
        os.close(pipe)
        assert (scene.seen.total(), await scene.lake()) == (0, Lake({}, []))
        csv.unlink()
        csv.write_bytes(rows)
        await closed(scene, await scene.life())


# --- a kill of S3

CALLS = ("list", "put plan", "create", "part", "complete", "put receipt", "put summary")
AWAY = [
    Point("after", "create", 3),
    Point("before", "complete", 5),
    Point("after", "put receipt", 2),
    Point("before", "ask", 400),
]
S3_KILLS = [
    *((point, "back") for point in points(LIVES["fresh"], *CALLS, each=1, seed=8)),
    *((point, "away") for point in AWAY),
]


@pytest.mark.parametrize(
    "case", few_and_all([(Point("after", "create", 6), "back"), (Point("before", "put receipt", 3), "back")], S3_KILLS)
)
async def test_s3_killed_at_any_moment_nothing_is_lost(case: tuple[Point, str], tmp_path: Path) -> None:
    """S3 back within a second: the harvest goes on, or ends with exit 4. S3 away: exit 4. The next run closes."""
    point, then = case
    async with s3_server(tmp_path / "s3") as server, scene_of(MIXED, server, tmp_path) as scene:
        life = asyncio.ensure_future(scene.life(point, strike=server.process.kill))
        struck = asyncio.ensure_future(scene.struck.wait())
        await asyncio.wait([life, struck], return_when=asyncio.FIRST_COMPLETED)
        assert struck.done()
        if then == "back":
            await server.start_again()
        ended = await life
        assert ended.code in ([0, 4] if then == "back" else [4])
        if then == "away":
            await server.start_again()
        await closed(scene, ended if ended.code == 0 else await scene.life())


# --- a power cut: of the last writes some have arrived, and others not

POWER_CUTS: dict[str, tuple[World, Sequence[str]]] = {
    "data, not its receipt": (SMALL, ["receipts/Movies/{first}", "summary"]),
    "the last receipt, not the summary": (SMALL, ["summary"]),
    "data of the moved, not its receipt": (SMALL, ["receipts/Series/{moved}", "summary"]),
    "plan, nothing else": (SMALL, ["^((?!plan).)*$"]),
    "the first file, not the second": (LARGE, [r"{first}\.2\.json", "receipts/Movies/{first}", "summary"]),
    # What follows is no order in which we write; but S3 elsewhere might keep less than it has told us.
    "receipt of the moved, not that of the batch they moved from": (SMALL, ["receipts/Movies/{first}", "summary"]),
    "receipt of a batch, not that of those who moved from it": (
        SMALL,
        ["receipts/Series/{moved}", "Series/[0-9/]+/{moved}", "summary"],
    ),
    "receipt, not its data": (SMALL, ["Movies/[0-9/]+/{first}", "summary"]),
    "the second file, not the first": (
        LARGE,
        [r"Movies/[0-9/]+/{first}\.json", "receipts/Movies/{first}", "summary"],
    ),
    "both files, but of the receipt nothing": (LARGE, ["receipts/Movies/{first}", "summary"]),
    "summary, not the first receipt": (SMALL, ["receipts/Movies/{first}"]),
    "everything, not the plan": (SMALL, ["plan"]),
}
"""What has not arrived, by patterns of keys, each of which some key must have."""


@pytest.mark.parametrize("cut", POWER_CUTS)
async def test_whatever_a_power_cut_has_left_is_mended(cut: str, s3: S3Server, tmp_path: Path) -> None:
    """Whichever of the last writes have not arrived, the next harvest closes the books, and asks for nothing done."""
    world, lost = POWER_CUTS[cut]
    async with scene_of(world, s3, tmp_path) as scene:
        await scene.harvest()
        lake = await scene.lake()
        names = {"first": next(name for _, name in world.batches), "moved": moved_to("Series", scene.world, lake)}
        for pattern in lost:
            keys = [key for key in lake.objects if re.search(pattern.format(**names), key)]
            assert keys != [], pattern
            for key in keys:
                await scene.remove(key)
        await proved(scene, (await scene.harvest()).books.as_json())


def moved_to(collection: str, world: World, lake: Lake) -> str:
    """The name of the one batch of moved titles in a collection."""
    names = {receipt["batch"] for _, receipt in lake.receipts() if receipt["collection"] == collection}
    return "".join(names - {name for _, name in world.batches})


async def test_parts_of_an_upload_without_an_end_go_away(s3: S3Server, tmp_path: Path) -> None:
    """Cut off between the first part and the completion, the batch is done again, and no part stays behind."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest()
        keys = [key for key in (await scene.lake()).objects if "summary" in key or next(iter(SMALL.batches))[1] in key]
        for key in keys:
            await scene.remove(key)
        await scene.open_upload(min(keys))
        assert (await scene.lake()).uploads == [min(keys)]
        await proved(scene, (await scene.harvest()).books.as_json())


async def test_a_paper_of_failure_that_outlived_its_receipt_goes_away(s3: S3Server, tmp_path: Path) -> None:
    """Cut off between writing the receipt and removing the paper in `failed/`, the batch is done all the same."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest_with_a_failure()
        [(key, paper)] = [(key, body) for key, body in (await scene.lake()).objects.items() if "/failed/" in key]
        await scene.harvest()
        await scene.put(key, paper)
        await scene.remove(key.partition("failed/")[0] + "summary.json")
        await proved(scene, (await scene.harvest()).books.as_json())


# --- two at the same time


def two(seed: int) -> tuple[Point, int, Point]:
    """Where the first is killed, how many of its receipts the second finds, and where that is killed, if it is."""
    dice = random.Random(seed)
    calls = points(LIVES["fresh"], "create", "complete", "put receipt", "put summary", each=7, seed=seed)
    second = Point(dice.choice(["before", "after"]), "event", dice.randint(20, 300))
    return dice.choice(calls), dice.randint(0, 4), second


BOTH_AT_THE_MOVED = (Point("after", "put receipt", 7), 2, Point("after", "put receipt", 2))
ONE_ENDS_THE_OTHERS_BATCH = (Point("after", "part", 7), 5, Point("before", "put summary", 1))
TWOS = [BOTH_AT_THE_MOVED, ONE_ENDS_THE_OTHERS_BATCH, *map(two, range(8))]


@pytest.mark.parametrize("case", few_and_all(TWOS[:2], TWOS))
async def test_two_harvesters_of_the_same_ids_both_killed_lose_and_double_nothing(
    case: tuple[Point, int, Point], s3: S3Server, tmp_path: Path
) -> None:
    """The second begins while the first is at work, both are killed, and one more run closes the books.

    Both ask TMDB, but nothing else is done twice. How one ends that is not killed in time is not told here.
    """
    first_point, receipts, second_point = case
    async with scene_of(MIXED, s3, tmp_path, rate=400) as first, scene_of(MIXED, s3, tmp_path, rate=400) as second:
        second.held = lambda: first.seen["put receipt"] < receipts and not first.over
        ended = await asyncio.gather(first.life(first_point), second.life(second_point))
        assert KILLED in [one.code for one in ended]
        await closed_for_both(first, await first.life())


LATE = [Point(when, name, 6) for name in ("create", "complete", "put receipt") for when in ("after", "before")]


@pytest.mark.kill  # the two race each other, so that a busy machine may find them elsewhere
@pytest.mark.parametrize("point", LATE, ids=str)
async def test_killed_after_another_has_closed_the_books_it_leaves_nothing_behind(
    point: Point, s3: S3Server, tmp_path: Path
) -> None:
    """It was at work on the moved titles, which another has cut otherwise and landed; the next run clears it away."""
    async with scene_of(MIXED, s3, tmp_path, rate=400) as first, scene_of(MIXED, s3, tmp_path, rate=400) as second:
        first.held = lambda: first.seen["put receipt"] >= 5 and not second.seen["put summary"] and not second.over
        second.held = lambda: first.seen["put receipt"] < 2 and not first.over
        ended = await asyncio.gather(first.life(point), second.life())
        assert [one.code for one in ended] == [KILLED, 0]
        first.held = lambda: False
        await closed_for_both(first, await first.life())


async def closed_for_both(scene: Scene, ended: Ended) -> None:
    """Assert that the last life has closed the books; what was set aside on the way, out of sight, is no harm."""
    assert (ended.code, ended.told["exit_code"]) == (0, 0), ended.told
    lake = await scene.lake()
    in_sight = Lake({key: body for key, body in lake.objects.items() if "/aside/" not in key}, lake.uploads)
    assert audit(scene.world, in_sight, ended.told["books"]) == []
    assert (await verify(scene.settings)).as_json()["status"] == "proved"


# --- what going on costs


GOING_ON = points({"put receipt": 12, "create": 12, "ask": 1201}, "put receipt", "create", "ask", each=2, seed=10)

SIGKILLS = len(EVERYWHERE) + len(AGAIN) * len(MOSTS) + len(TWOS) + len(LATE) + len(GOING_ON)
"""Kills of the harvester in one `pytest -m kill`; of the two that begin together, the second may end before its."""


@pytest.mark.parametrize("point", few_and_all([Point("before", "put receipt", 11)], GOING_ON))
async def test_going_on_asks_only_for_the_batches_that_were_open(point: Point, s3: S3Server, tmp_path: Path) -> None:
    """Of twelve batches at most three are open at any moment, and nothing else is asked again.

    Measured at 40 points: two, and at most 123 of 1,201 requests. Only slow titles keep more of them open.
    """
    async with scene_of(MANY, s3, tmp_path, rate=400) as scene:
        assert (await scene.life(point)).code == KILLED
        await closed(scene, await scene.life())
        again = scene.lives[1].repeated
        batches = [name for (_, name), ids in MANY.batches.items() if any(("movie", id_) in again for id_ in ids)]
        assert len(batches) <= 3
        assert max(again.values(), default=1) == 1


# --- the audit itself


def without(lake: Lake, *patterns: str) -> Lake:
    """The lake without the first object whose key has each pattern."""
    gone = {next(key for key in lake.objects if re.search(pattern, key)) for pattern in patterns}
    return Lake({key: body for key, body in lake.objects.items() if key not in gone}, lake.uploads)


def edited(lake: Lake, pattern: str, old: bytes, new: bytes) -> Lake:
    """The lake with one thing changed in the first object whose key has the pattern."""
    key = next(key for key in lake.objects if re.search(pattern, key))
    assert old in lake.objects[key]
    return Lake(lake.objects | {key: lake.objects[key].replace(old, new, 1)}, lake.uploads)


def copied(lake: Lake, pattern: str, old: str, new: str) -> Lake:
    """The lake with a copy of the first object whose key has the pattern."""
    key = next(key for key in lake.objects if re.search(pattern, key) and old in key)
    return Lake(lake.objects | {key.replace(old, new): lake.objects[key]}, lake.uploads)


def doubled(lake: Lake, pattern: str) -> Lake:
    """The lake with the first record of the first object whose key has the pattern in there twice."""
    key = next(key for key in lake.objects if re.search(pattern, key))
    body = lake.objects[key]
    return Lake(lake.objects | {key: body + body[: body.index(b"\n") + 1]}, lake.uploads)


def carried(lake: Lake, pattern: str, to: str) -> Lake:
    """The lake with the first record of one object at the end of another."""
    key, other = (next(key for key in lake.objects if re.search(which, key)) for which in (pattern, to))
    first, line_end, rest = lake.objects[key].partition(b"\n")
    return Lake(lake.objects | {key: rest, other: lake.objects[other] + first + line_end}, lake.uploads)


MOVIES, SERIES, RECEIPT = r"Movies/\d+/", r"Series/\d+/", r"receipts/Movies/"
HARMS_TO_RECORDS: dict[str, Callable[[Lake], Lake]] = {
    "a data file gone": lambda lake: without(lake, MOVIES),
    "a data file and its receipt gone": lambda lake: without(lake, MOVIES, RECEIPT),
    "a data file twice": lambda lake: copied(lake, MOVIES, ".json", ".2.json"),
    "a data file in both folders": lambda lake: copied(lake, MOVIES, "Movies", "Series"),
    "a data file under another name": lambda lake: copied(lake, SERIES, "/tt0", "/tt1"),
    "a record twice": lambda lake: doubled(lake, SERIES),
    "a record in a file of the other kind": lambda lake: carried(lake, MOVIES, SERIES),
    "a value of a record": lambda lake: edited(lake, MOVIES, b'"adult":false', b'"adult":true'),
    "the id of a record": lambda lake: edited(lake, MOVIES, b'{"imdb_id":"tt0000002"', b'{"imdb_id":"tt0000003"'),
    "the kind of a record": lambda lake: edited(lake, MOVIES, b'"kind":"movie"', b'"kind":"tv"'),
    "the number of a record": lambda lake: edited(lake, MOVIES, b'"tmdb_id":', b'"tmdb_id":1'),
    "the time of a record": lambda lake: edited(lake, MOVIES, b'"fetched_at":"20', b'"fetched_at":"'),
    "the language of a record": lambda lake: edited(lake, MOVIES, b'"language":null', b'"language":"pt-BR"'),
}
HARMS_TO_RECEIPTS: dict[str, Callable[[Lake], Lake]] = {
    "a receipt gone": lambda lake: without(lake, RECEIPT),
    "a receipt twice": lambda lake: copied(lake, RECEIPT, "tt0000001", "tt0000002"),
    "an outcome": lambda lake: edited(lake, RECEIPT, b'"unknown"', b'"episode"'),
    "the id of an outcome": lambda lake: edited(lake, RECEIPT, b"tt0000007", b"tt0000999"),
    "the kind of an outcome": lambda lake: edited(lake, RECEIPT, b'"kind":"movie"', b'"kind":"tv"'),
    "the number of an outcome": lambda lake: edited(lake, RECEIPT, b'"tmdb_id":', b'"tmdb_id":1'),
    "a digest": lambda lake: edited(lake, RECEIPT, b'"sha256":"', b'"sha256":"0'),
}
HARMS: dict[str, Callable[[Lake], Lake]] = {
    "the plan gone": lambda lake: without(lake, "plan"),
    "the summary gone": lambda lake: without(lake, "summary"),
    "a receipt of another run": lambda lake: copied(lake, RECEIPT, "_harvest/20", "_harvest/19"),
    "a paper in failed/": lambda lake: copied(lake, RECEIPT, "receipts", "failed"),
    "something in the folder of the run": lambda lake: copied(lake, "plan", "plan", "plan-of-old"),
    "something at the top": lambda lake: Lake(lake.objects | {"export.json": b""}, lake.uploads),
    "the books of the summary": lambda lake: edited(lake, "summary", b'"found":', b'"found":1'),
    "an upload": lambda lake: Lake(lake.objects, ["Raw/API/Movies/2026/11/22/tt0000001.json"]),
}


async def test_the_audit_sees_every_harm(s3: S3Server, tmp_path: Path) -> None:
    """A healthy lake has no harm, and each harm done to it is told: a proof that cannot fail would prove nothing.

    What is done to records and receipts is told by what they say, and not only by a digest that does not fit.
    """
    async with scene_of(SMALL, s3, tmp_path) as scene:
        books = (await scene.harvest()).books.as_json()
        lake = await scene.lake()
        assert audit(SMALL, lake, books) == []
        assert [name for name, harm in HARMS.items() if audit(SMALL, harm(lake), books) == []] == []
        assert [name for name, harm in HARMS_TO_RECORDS.items() if not [*audit_records(SMALL, harm(lake))]] == []
        assert [name for name, harm in HARMS_TO_RECEIPTS.items() if not [*audit_receipts(SMALL, harm(lake))]] == []
        assert [name for name in books if audit(SMALL, lake, books | {name: books["rows"] + 1}) == []] == []
        await scene.open_upload("Raw/API/Movies/export.json")
        assert audit(SMALL, await scene.lake(), books) == ["an upload of Raw/API/Movies/export.json is an orphan"]


async def test_the_audit_sees_what_is_asked_again(s3: S3Server, tmp_path: Path) -> None:
    """Titles asked for although their receipt stands, and titles asked for twice in one life, are told one by one."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest()
        await scene.harvest(again=True)
        asked = {(door, id_) for door, id_ in scene.lives[0].asked if id_}
        assert len(audit_requests(scene.lives)) == len(asked)
        assert audit_requests(scene.lives[:1]) == []
        first = scene.lives[0]
        assert first.errors.total() > 0
        assert len(audit_requests([Life(first.asked, Counter(), set(), Counter())])) == first.errors.total()
