"""Killed at any moment, nothing is lost, doubled or asked again: seen from outside.

A harvester runs in a process of its own, and all it says to the world goes through a TMDB stand-in and a link before a
real S3 server, which count what they see. So a moment is no time but an event ("before put receipt 3", "before ask
200"), the same on every machine, and there the process gets a SIGKILL. Then the same command runs to its end, and the
bucket is audited: read by a plain S3 client and held against the catalog of what TMDB has, by code that is only this
file's. `verify` is asked too, as a second opinion.

A dozen moments are in the default run. All of them: `pytest -m kill`. Several harvesters at once: `test_many`.
"""

from __future__ import annotations

import asyncio
import fcntl
import gzip
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
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Silent, client_of, gzip_of
from loops import no_wait
from shells import Ended, Shell, kept

from harvester.commands.harvest import HarvestReport, harvest
from harvester.commands.verify import verify
from harvester.fakes.catalog import Catalog, find_record, kind_of, movie_record, tv_record
from harvester.fakes.faults import Faults, always, healthy, random_faults, refusal, scripted
from harvester.fakes.s3_proxy import reset, s3_proxy
from harvester.fakes.s3_server import S3Server, s3_server
from harvester.fakes.tmdb import KEY, FakeTmdb, fake_tmdb
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown
from harvester.settings.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from harvester.fakes.catalog import Kind
    from harvester.fakes.faults import Asked, Fault
    from harvester.fakes.faults import Route as Endpoint
    from harvester.fakes.s3_proxy import Call, Forward, S3Proxy

    Route = tuple[Endpoint, str]
    """What was asked of TMDB: at which of its endpoints, for which IMDb id."""

    Truth = tuple[str, dict[str, Any]] | str
    """The collection a title belongs to, and its record; or why TMDB has none."""

pytestmark = pytest.mark.timeout(180)  # two or more starts of a process each, whatever else the machine is doing

KILLED = -signal.SIGKILL
KINDS: dict[str, Endpoint] = {"Movies": "movie", "Series": "tv"}
"""By collection, the kind of its records, which is also TMDB's endpoint of them."""

# --- what there is to harvest


def ids_from(first: int, count: int) -> list[str]:
    return [f"tt{number:07d}" for number in range(first, first + count)]


@dataclass(frozen=True)
class World:
    """The ids in the two CSVs, what TMDB has of them, and which of its answers are errors."""

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
                truths.setdefault(id_, truth_of(self.catalog, id_, home))
        return truths

    @cached_property
    def batches(self) -> dict[tuple[str, str], list[str]]:
        """The ids of each batch of the CSVs, by collection and name."""
        cut = [(home, ids[at : at + 100]) for home, ids in self.ids.items() for at in range(0, len(ids), 100)]
        return {(home, name_of_batch(home, ids)): ids for home, ids in cut}


def truth_of(catalog: Catalog, id_: str, home: str) -> Truth:
    """What must come of an id in the CSV of a collection."""
    movie, series = movie_record(catalog, id_), tv_record(catalog, id_)
    known = {"Movies": movie, "Series": series} if home == "Movies" else {"Series": series, "Movies": movie}
    found = [(collection, record) for collection, record in known.items() if record]
    return found[0] if found else kind_of(catalog, id_)


def name_of_batch(collection: str, ids: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join([collection, *ids]).encode()).hexdigest()
    return f"{ids[0]}-{ids[-1]}-{digest[:8]}"


def mixed(movies: int, series: int) -> World:
    """Some movies are series and the reverse, some are nothing; some answers are 500."""
    films, shows = ids_from(1, movies), ids_from(900_001, series)
    kinds: dict[str, Kind] = dict.fromkeys([*shows, *films[7::29]], "tv")
    kinds |= dict.fromkeys(shows[3::14], "movie")
    kinds |= dict.fromkeys([*films[6::60], *shows[2::30]], "unknown")
    kinds |= {films[40]: "episode", shows[10]: "season"}
    return World(Catalog(kinds=kinds), {"Movies": films, "Series": shows}, random_faults({"500": 0.01}, seed=23))


MIXED = mixed(350, 60)
"""Five batches, four of movies and one of series, each with titles of the other kind: ten data files."""

SMALL = mixed(120, 12)
"""Three batches."""

LARGE = World(Catalog(record_bytes=110_000), {"Movies": ids_from(1, 105)})
"""A batch of 11 MB: two files, of which the first takes two parts; and a small one."""

MANY = World(Catalog(), {"Movies": ids_from(1, 1_200)})
"""Twelve batches."""

# --- a moment in the life of a harvester


@dataclass(frozen=True, slots=True)
class Point:
    """The `nth` event of this name in one life: before it is passed on, or after it was done but before the answer.

    A request of TMDB is an `ask`, a call of S3 what `name_of` makes of it; `event` is any of them.
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
    """All that is in a bucket: every object, and the key of every unfinished upload."""

    objects: dict[str, bytes]
    uploads: list[str]

    def receipts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every receipt, with its key."""
        return ((key, json.loads(body)) for key, body in self.objects.items() if "/receipts/" in key)

    def data(self) -> Iterator[tuple[str, str, bytes]]:
        """Every data file: collection, key, body."""
        return ((found[1], key, body) for key, body in self.objects.items() if (found := DATA.fullmatch(key)))

    def document(self, name: str) -> dict[str, Any]:
        """The one document of this name; an empty one where there is none."""
        bodies = [body for key, body in self.objects.items() if key.endswith(f"/{name}.json")]
        assert len(bodies) <= 1
        document: dict[str, Any] = json.loads(bodies[0]) if bodies else {}
        return document

    @property
    def generation(self) -> str | None:
        """The generation that counts; where the manifest is lost, that of the one ids file."""
        tokens = [found[3] for key in self.objects if (found := DOCUMENT.fullmatch(key)) and found[3]]
        named: str | None = self.document("manifest").get("generation")
        return named or (tokens[0] if len(tokens) == 1 else None)

    @property
    def closed(self) -> bool:
        """Whether the generation that counts has ended with nothing failed."""
        summary = self.document("summary")
        return bool(summary) and summary["generation"] == self.generation and not summary["totals"]["failed"]


@dataclass(slots=True)
class Scene:
    """A harvester between TMDB and S3, which count all they see of it, and act at the `point`.

    Attributes:
        start: Starts a harvester, in a context with `process` and `ended`: a command line, unless it is changed.
        seen: Events of the life under way.
        act: What is done at the point: a SIGKILL.
        reached: Set when that is done.
        lives: All lives that are over.
        held: Whether calls of S3 have to wait.
        shared: Whether runs of other ids are in the bucket too: then what is done is not looked at.
    """

    world: World
    tmdb: FakeTmdb
    link: S3Proxy
    client: Any
    bucket: str
    shell: Shell
    settings: Settings
    faults: Faults
    start: Callable[..., AbstractAsyncContextManager[Any]]
    point: Point | None = None
    process: Any = None
    act: Callable[[], object] = lambda: None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    seen: Counter[str] = field(default_factory=Counter)
    errors: Counter[Route] = field(default_factory=Counter)
    lives: list[Life] = field(default_factory=list)
    progress_deadline: list[asyncio.Future[web.Response]] = field(default_factory=list)
    held: Callable[[], bool] = lambda: False
    shared: bool = False

    @property
    def over(self) -> bool:
        """Whether the life under way has ended, by a kill or otherwise."""
        return self.process is not None and self.process.returncode is not None

    async def life(self, point: Point | None = None, *words: str, act: Callable[[], object] | None = None) -> Ended:
        """Run the harvester to its end; at the `point` it is killed, or `act` is done. Its `words` are flags."""
        async with self.remembered(again="--again" in words):
            self.point = point
            async with self.start("--json", *words) as running:
                self.process = running.process
                self.act = act or self.process.kill
                ended: Ended = await running.ended()
                return ended

    @asynccontextmanager
    async def remembered(self, *, again: bool = False) -> AsyncIterator[None]:
        """Take what happens inside for one life."""
        done = set() if self.shared else done_in(await self.lake(), again=again)
        before = Counter(self.tmdb.asked)
        self.seen.clear()
        self.errors.clear()
        self.reached.clear()
        yield
        await self.settled()
        self.lives.append(Life(Counter(self.tmdb.asked) - before, Counter(self.errors), done, before))

    async def settled(self) -> None:
        """Wait until all that a killed one has sent has arrived, and is done."""
        quiet = 0
        while quiet < 50:
            on_its_way = self.tmdb.in_flight > 0 or not all(passed_on.done() for passed_on in self.progress_deadline)
            await asyncio.sleep(0.001 if on_its_way else 0)
            quiet = 0 if on_its_way else quiet + 1
        await asyncio.gather(*self.progress_deadline, return_exceptions=True)
        self.progress_deadline.clear()

    def is_now(self, name: str) -> bool:
        """Count an event; whether it is the point."""
        self.seen.update((name, "event"))
        return (
            self.point is not None
            and self.point.name in (name, "event")
            and self.point.nth == self.seen[self.point.name]
            and not self.reached.is_set()
        )

    def hit(self) -> None:
        self.act()
        self.reached.set()

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
        self.progress_deadline.append(passed_on)
        answer = await asyncio.shield(passed_on)  # what has been sent is done, also when its sender is dead
        if now:
            self.hit()
            return await reset(call, forward)
        return answer

    async def harvest(self, *, limit: int | None = None, again: bool = False) -> HarvestReport:
        """A life in this process, which nothing ends."""
        async with self.remembered(again=again):
            return await harvest(
                self.settings,
                observer=Silent(),
                shutdown=Shutdown(limit=limit),
                again=again,
                clock=Clock(sleep=no_wait),
            )

    async def harvest_with_a_failure(self, *, limit: int | None = None) -> None:
        """A life in which one title of the second batch has no usable answer."""
        poison = scripted({("movie", self.world.ids["Movies"][110]): [always(refusal(404, code=11))]})
        self.faults = lambda asked: poison(asked) or self.world.faults(asked)
        report = await self.harvest(limit=limit)
        self.faults = self.world.faults
        assert report.totals.failed.total() == 1

    async def lake(self) -> Lake:
        """The bucket as it is now, read past the link."""
        return await lake_of(self.client, self.bucket)

    async def put(self, key: str, body: bytes) -> None:
        await self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    async def remove(self, key: str) -> None:
        await self.client.delete_object(Bucket=self.bucket, Key=key)

    async def open_upload(self, key: str) -> None:
        """An upload with a part landed, and no end."""
        upload = (await self.client.create_multipart_upload(Bucket=self.bucket, Key=key))["UploadId"]
        part = {"UploadId": upload, "PartNumber": 1, "Body": b"half of it"}
        await self.client.upload_part(Bucket=self.bucket, Key=key, **part)


async def lake_of(client: Any, bucket: str) -> Lake:
    """All that is in a bucket now, read by a plain S3 client."""
    objects: dict[str, bytes] = {}
    async for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for listed in page.get("Contents", ()):
            got = await client.get_object(Bucket=bucket, Key=listed["Key"])
            objects[listed["Key"]] = await got["Body"].read()
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
    return Lake(objects, [upload["Key"] async for page in pages for upload in page.get("Uploads", ())])


DOCUMENT_MARKS = {
    "lease.json": "lease",
    "manifest.json": "manifest",
    "/ids-": "ids",
    "outcomes.jsonl.gz": "outcomes",
    "summary.json": "summary",
    "/receipts/": "receipt",
}
"""By a part of its key, what a document is."""


def name_of(call: Call) -> str:
    """What is done, and with which document; to a data file where none is named."""
    if call.operation in ("list", "uploads"):
        return {"list": "list", "uploads": "list uploads"}[call.operation]
    return " ".join([call.operation, *(name for mark, name in DOCUMENT_MARKS.items() if mark in call.key)])


@asynccontextmanager
async def scene_of(
    world: World, server: S3Server, folder: Path, *, rate: int = 1_000, beside: Scene | None = None
) -> AsyncIterator[Scene]:
    """A scene with nothing in it yet; its bucket is that of the folder, made if need be, or that of another scene."""
    bucket = beside.bucket if beside else f"kills-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    csvs = {f"{collection.upper()}_CSV": str(folder / f"{collection}.csv") for collection in world.ids}
    for collection in world.ids:
        (folder / f"{collection}.csv").write_text(world.csv(collection), encoding="utf-8")
    asyncio.get_running_loop().set_debug(False)  # it would make the servers, which are not on trial, twice as slow
    async with client_of(server) as client, s3_proxy(server.endpoint) as link, fake_tmdb(catalog=world.catalog) as tmdb:
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            await client.create_bucket(Bucket=bucket)
        ours = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": tmdb.url, "TMDB_RATE": str(rate), "S3_BUCKET": bucket, **csvs}
        aws = server.environment()
        shell = Shell(kept() | aws | ours | {"AWS_ENDPOINT_URL_S3": link.url}, folder)
        direct = ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
        flags: dict[str, Any] = {name.lower(): value for name, value in ours.items()}
        settings = load_settings(**flags, **{name.lower(): aws[name] for name in direct})
        scene = Scene(world, tmdb, link, client, bucket, shell, settings, world.faults, shell.start)
        tmdb.faults = scene.on_request
        link.rules["*"] = scene.on_call
        yield scene


# --- the audit

DATA = re.compile(r"Raw/API/(Movies|Series)/\d{4}/\d\d/\d\d/tt\d+-tt\d+-[0-9a-f]{8}(?:\.\d+)?\.json")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DOCUMENT = re.compile(
    r"Raw/API/_harvest/(\d{4}-\d\d-\d\d-[0-9a-f]{8})/"
    r"((?:manifest|summary|receipts/(?:Movies|Series)/tt.+)\.json|(?:ids-([0-9a-f]{16})|outcomes)\.jsonl\.gz)"
)
LEASE = "Raw/API/_harvest/lease.json"
CHECKSUM = re.compile(rb',"checksum":"([0-9a-f]{64})"\}$')


def audit(world: World, lake: Lake, totals: Mapping[str, Any], *, earlier: int = 0, ended: bool = True) -> list[str]:
    """Every harm in the lake of a finished run, of which the harvester has reported these `totals`.

    Args:
        world: What there was to harvest.
        lake: What has come of it.
        totals: As the harvester has them.
        earlier: Generations that may have begun before the one that counts; each has left its ids.
        ended: Whether the lease must have ended.
    """
    problems = [f"an upload of {key} is an orphan" for key in lake.uploads]
    documents = {key: found for key in lake.objects if (found := DOCUMENT.fullmatch(key))}
    ours = {key for key in lake.objects if key == LEASE or key in documents or DATA.fullmatch(key)}
    problems += [f"{key} is not a key of ours" for key in lake.objects if key not in ours]
    problems += [
        f"{key} is of another run" for key, found in documents.items() if found[1] != documents[min(documents)][1]
    ]
    problems += [*audit_records(world, lake), *audit_receipts(world, lake), *audit_documents(world, lake, totals)]
    if {"filtered": 0} | totals != (true := totals_of(world, lake)):  # the summary has no such key
        problems.append(f"the totals are {totals}, the true ones {true}")
    generations = [found[3] for found in documents.values() if found[3]]
    if len(generations) > 1 + earlier or lake.document("manifest").get("generation") not in generations:
        problems.append(f"there are ids of {len(generations)} generations")
    lease = json.loads(lake.objects.get(LEASE, b"{}"))
    if lease.get("format") != 1 or {lease.get("run")} != {found[1] for found in documents.values()}:
        problems.append(f"the lease is {lease}")
    if ended and not lease.get("ended"):
        problems.append("the lease has not ended")
    return problems


def audit_records(world: World, lake: Lake) -> Iterator[str]:
    """Each title that TMDB has is in one data file, once, where it belongs, as TMDB has it; nothing else is."""
    times: Counter[str] = Counter()
    for collection, key, body in lake.data():
        for record in map(json.loads, body.splitlines()):
            id_ = record.pop("imdb_id")
            times[id_] += 1
            truth = world.truths.get(id_, "no such id")
            if isinstance(truth, str) or truth[0] != collection:
                yield f"{id_} does not belong into {key}"
            else:
                yield from (f"{id_} {problem} in {key}" for problem in audit_record(id_, record, truth))
    for id_, truth in world.truths.items():
        expected = 0 if isinstance(truth, str) else 1
        if times[id_] != expected:
            yield f"{id_} has {times[id_]} records instead of {expected}"


def audit_record(id_: str, record: dict[str, Any], truth: tuple[str, dict[str, Any]]) -> Iterator[str]:
    """What is wrong with a record, whose `imdb_id` has been taken off."""
    if record | {"imdb_id": ""} != truth[1] | {"imdb_id": "", "harvest": record["harvest"]}:
        yield "is not what it is at TMDB"
    elif not TIME.fullmatch(record["harvest"].pop("fetched_at", "")):
        yield "is without a time"
    elif record["harvest"] != put_in_front(id_, truth):
        yield f"has {record['harvest']} in front"


def of_kind(truth: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Kind and number of a title, as TMDB has it."""
    return {"kind": KINDS[truth[0]], "tmdb_id": truth[1]["id"]}


def put_in_front(id_: str, truth: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """What must stand in front of a record, but for the time."""
    own = truth[1].get("imdb_id", id_)
    return of_kind(truth) | {"language": None} | ({} if own == id_ else {"tmdb_imdb_id": own})


def outcome_of(catalog: Catalog, id_: str, truth: Truth) -> dict[str, Any]:
    """What a receipt must say of an id."""
    if not isinstance(truth, str):
        return {"outcome": "found"} | of_kind(truth)
    rows = find_record(catalog, id_).get(f"tv_{truth}_results")
    return {"outcome": "missing", "reason": truth} | ({"show_id": rows[0]["show_id"]} if rows else {})


def audit_receipts(world: World, lake: Lake) -> Iterator[str]:
    """Each id has its true outcome, in its batch's receipt; each data file is, to the byte, that of one receipt."""
    files: Counter[str] = Counter()
    names: Counter[tuple[str, str]] = Counter()
    for key, receipt in lake.receipts():
        collection, outcomes = receipt["collection"], receipt["outcomes"]
        batch = (collection, name_of_batch(collection, list(outcomes)))
        names[batch] += 1
        files.update(file["key"] for file in receipt["files"])
        if not key.endswith(f"/receipts/{batch[0]}/{batch[1]}.json") or receipt["batch"] != batch[1]:
            yield f"{key} has the ids of another batch"
        if (receipt["format"], receipt["generation"]) != (1, lake.generation) or not has_valid_checksum(
            lake.objects[key]
        ):
            yield f"{key} is of another form or generation, or has been edited"
        yield from (f"{problem} in {key}" for problem in audit_files(receipt, lake))
        for id_, outcome in outcomes.items():
            if outcome != outcome_of(world.catalog, id_, world.truths.get(id_, "no such id")):
                yield f"{id_} is {outcome} in {key}"
    yield from (f"{batch} has {names[batch]} receipts" for batch in world.batches.keys() | names if names[batch] != 1)
    yield from (f"{batch} is not a batch of the CSVs" for batch in names if batch not in world.batches)
    yield from (f"{key} is in {files[key]} receipts instead of 1" for _, key, _ in lake.data() if files[key] != 1)


def audit_files(receipt: Mapping[str, Any], lake: Lake) -> Iterator[str]:
    """The files of a receipt are what it says, and have the titles in them that it has found, in their order."""
    recorded: dict[str, list[str]] = {home: [] for home in KINDS}
    for file in receipt["files"]:
        found, body = DATA.fullmatch(file["key"]), lake.objects.get(file["key"], b"")
        ids = [json.loads(line)["imdb_id"] for line in body.splitlines()]
        if (file["bytes"], file["sha256"], file["records"]) != (len(body), hashlib.sha256(body).hexdigest(), len(ids)):
            yield f"{file['key']} is not what is said"
        if not found or f"/{receipt['batch']}." not in file["key"]:
            yield f"{file['key']} is of another batch than is said"
        else:
            recorded[found[1]] += ids
    for home, kind in KINDS.items():
        if recorded[home] != [id_ for id_, outcome in receipt["outcomes"].items() if outcome.get("kind") == kind]:
            yield f"the titles found are not those in the files of {home}"


def audit_documents(world: World, lake: Lake, totals: Mapping[str, Any]) -> Iterator[str]:
    """Manifest, ids, outcomes and summary say what they should, each of the others."""
    expected_ids = [*rows_of(world)]
    expected_outcomes = [{"id": id_} | outcome_of(world.catalog, id_, truth) for id_, truth in world.truths.items()]
    for key, body in lake.objects.items():
        if "/ids-" in key and lines_of(body) != expected_ids:
            yield f"{key} has other rows than the CSVs"
        if "/outcomes" in key and lines_of(body) != expected_outcomes:
            yield f"{key} has other outcomes than there are"
        if key.endswith(("/manifest.json", "/summary.json")) and not has_valid_checksum(body):
            yield f"{key} has been edited"
    manifest, summary = lake.document("manifest"), lake.document("summary")
    batches = {home: [name for of, name in world.batches if of == home] for home in world.ids}
    if (manifest.get("format"), manifest.get("batches"), manifest.get("fresh")) != (1, batches, 0):
        yield "the manifest is missing, or has other batches"
    rows = {home: {"rows": 2 * len(ids) + 1, "ids": len(ids)} for home, ids in world.ids.items()}
    if {home: {name: of[name] for name in ("rows", "ids")} for home, of in manifest.get("input", {}).items()} != rows:
        yield "the manifest has another account of the CSVs"
    outcomes = [body for key, body in lake.objects.items() if key.endswith("/outcomes.jsonl.gz")]
    digests = [hashlib.sha256(body).hexdigest() for body in outcomes]
    if [summary.get("digests", {}).get("outcomes")] != digests:
        yield "the outcomes are missing, or not those of the summary"
    written = {name: number for name, number in totals.items() if name != "filtered"}  # of results alone
    if (summary.get("format"), summary.get("generation")) != (1, lake.generation) or summary.get("totals") != written:
        yield f"the summary is {summary}"


def rows_of(world: World) -> Iterator[dict[str, Any]]:
    """What must stand in an ids file: each id with the line it was seen in first, then the row that has none."""
    for collection, ids in world.ids.items():
        for number, id_ in enumerate(ids):
            yield {"id": id_, "collection": collection, "line": 2 + 2 * number}
        yield {"collection": collection, "line": 2 + 2 * len(ids), "rejected": "no_id", "text": "none|Não"}


def lines_of(body: bytes) -> list[Any]:
    """The rows of JSON Lines in gzip."""
    return [json.loads(line) for line in gzip.decompress(body).splitlines()]


def has_valid_checksum(body: bytes) -> bool:
    """Whether the checksum at the end of a document is that of all before it."""
    checksum = CHECKSUM.search(body)
    return checksum is not None and hashlib.sha256(body[: checksum.start()] + b"}").hexdigest() == checksum[1].decode()


def totals_of(world: World, lake: Lake) -> dict[str, Any]:
    """The totals as they should be, by what is in the CSVs and in the lake."""
    ids = len(world.truths)
    bodies = [body for _, _, body in lake.data()]
    missing = Counter(truth for truth in world.truths.values() if isinstance(truth, str))
    return {
        "rows": 2 * ids + len(world.ids),
        "duplicates": ids,
        "rejected": len(world.ids),
        "filtered": 0,
        "ids": ids,
        "found": sum(len(body.splitlines()) for body in bodies),
        "missing": missing.total(),
        "failed": 0,
        "fresh": 0,
        "other_ids": 0,
        "missing_by_reason": dict(missing),
        "failed_by_reason": {},
        "batches": len(list(lake.receipts())),
        "files": len(bodies),
        "bytes": sum(map(len, bodies)),
    }


def done_in(lake: Lake, *, again: bool) -> set[Route]:
    """What need not be asked again: a receipt of the generation that counts has it, with its files and no failure.

    Asked for `again`, a generation that is closed is followed by another, of which nothing is done.
    """
    done: set[Route] = set()
    if again and lake.closed:
        return done
    for _, receipt in lake.receipts():
        failed = any(outcome["outcome"] == "failed" for outcome in receipt["outcomes"].values())
        files = {file["key"] for file in receipt["files"]}
        if receipt["generation"] == lake.generation and files <= lake.objects.keys() and not failed:
            done.update((endpoint, id_) for id_ in receipt["outcomes"] for endpoint in ("movie", "tv", "find"))
    return done


def audit_requests(lives: Sequence[Life]) -> list[str]:
    """Every request that was one too many: for what had a receipt, or twice in one life without an error."""
    problems = []
    for number, life in enumerate(lives, 1):
        for (endpoint, id_), times in life.asked.items():
            if (endpoint, id_) in life.done:
                problems.append(f"life {number} asked {endpoint} for {id_}, of which there was a receipt")
            if id_ and times > 1 + life.errors[endpoint, id_]:
                problems.append(f"life {number} asked {endpoint} for {id_} {times} times")
    return problems


async def closed(scene: Scene, ended: Ended, *, earlier: int = 0) -> None:
    """Assert that the last life has reconciled the totals, did not wait, and that all is as it should be."""
    assert (ended.code, ended.result["exit_code"]) == (0, 0), ended.result
    assert "lease_held" not in ended.err
    await proved(scene, ended.result["totals"], earlier=earlier, ended=ended.result["status"] != "nothing_to_do")


async def proved(scene: Scene, totals: Mapping[str, Any], *, earlier: int = 0, ended: bool = True) -> None:
    """Assert that nothing is lost, doubled, orphaned, foreign, asked again or deleted; and that `verify` agrees."""
    assert audit(scene.world, await scene.lake(), totals, earlier=earlier, ended=ended) == []
    assert audit_requests(scene.lives) == []
    assert scene.link.times("delete") + scene.link.times("copy") == 0
    assert (await verify(scene.settings)).as_json()["status"] == "proved"


# --- killed at a point, and run to the end

LIVES: dict[str, dict[str, int]] = {
    "first": {
        "list": 18,
        "get manifest": 4,
        "ask": 503,
        "get lease": 4,
        "put lease": 3,
        "list uploads": 6,
        "create ids": 1,
        "part ids": 1,
        "complete ids": 1,
        "put manifest": 1,
        "create": 10,
        "part": 10,
        "complete": 10,
        "put receipt": 5,
        "create outcomes": 1,
        "part outcomes": 1,
        "complete outcomes": 1,
        "get summary": 1,
        "put summary": 1,
    },
    "going on": {
        "list": 14,
        "get manifest": 3,
        "get summary": 3,
        "get ids": 2,
        "get receipt": 4,
        "ask": 394,
        "get lease": 4,
        "put lease": 3,
        "list uploads": 9,
        "abort": 1,
        "create": 9,
        "part": 9,
        "complete": 9,
        "put receipt": 4,
        "create outcomes": 1,
        "part outcomes": 1,
        "complete outcomes": 1,
        "put summary": 1,
    },
    "again": {
        "list": 22,
        "get manifest": 4,
        "get summary": 3,
        "get ids": 4,
        "get outcomes": 2,
        "get receipt": 10,
        "ask": 507,
        "get lease": 4,
        "put lease": 3,
        "list uploads": 9,
        "create ids": 1,
        "part ids": 1,
        "complete ids": 1,
        "put manifest": 1,
        "create": 10,
        "part": 10,
        "complete": 10,
        "put receipt": 5,
        "create outcomes": 1,
        "part outcomes": 1,
        "complete outcomes": 1,
        "put summary": 1,
    },
    "large": {
        "list": 18,
        "get manifest": 4,
        "ask": 106,
        "get lease": 4,
        "put lease": 3,
        "list uploads": 6,
        "create ids": 1,
        "part ids": 1,
        "complete ids": 1,
        "put manifest": 1,
        "create": 3,
        "part": 4,
        "complete": 3,
        "put receipt": 2,
        "create outcomes": 1,
        "part outcomes": 1,
        "complete outcomes": 1,
        "get summary": 1,
        "put summary": 1,
    },
}
"""What happens, and how often, in lives that nothing ends: the first in the mixed world; one there that has much to do
that an earlier one has left; one more there, of a generation of its own; one in the large world."""

FIRST, GOING_ON, AGAIN, LARGEST = LIVES["first"], LIVES["going on"], LIVES["again"], LIVES["large"]

EVERYWHERE = [
    *(("first", point) for point in points(FIRST, *FIRST, each=2, seed=1)),
    *(("first", point) for point in points(FIRST, "ask", each=20, seed=2)),
    *(("going on", point) for point in points(GOING_ON, *GOING_ON, each=1, seed=3)),
    *(("again", point) for point in points(AGAIN, *AGAIN, each=1, seed=9)),
    *(("large", point) for point in points(LARGEST, "part", "complete", "put receipt", each=2, seed=4)),
]

SOME = {
    "first": [
        "ask",
        "list",
        "list uploads",
        "put lease",
        "complete ids",
        "put manifest",
        "create",
        "part",
        "complete",
        "put receipt",
        "complete outcomes",
        "put summary",
    ],
    "going on": ["abort", "get receipt"],
    "again": ["put manifest", "put receipt"],
    "large": ["part"],
}
A_DOZEN = [
    (life, random.Random(f"{life} {name}").choice(points(LIVES[life], name, each=7, seed=5)))
    for life, names in SOME.items()
    for name in names
]
"""One of each kind of event that makes a difference."""


def few_and_all(few: Sequence[Any], every: Sequence[Any]) -> list[Any]:
    """Parameters of a test: a few for the default run, and all of them for `-m kill`."""
    return [
        *(pytest.param(case, id=id_of(case)) for case in few),
        *(pytest.param(case, id=f"all: {id_of(case)}", marks=pytest.mark.kill) for case in every),
    ]


def id_of(case: Any) -> str:
    return ", ".join(map(str, case)) if isinstance(case, tuple) else str(case)


@asynccontextmanager
async def scene_before(life: str, s3: S3Server, folder: Path) -> AsyncIterator[tuple[Scene, list[str]]]:
    """The scene in which this life is about to begin, and the words that begin it."""
    async with scene_of(LARGE if life == "large" else MIXED, s3, folder) as scene:
        if life == "going on":
            await leave_much_to_do(scene)
        if life == "again":
            await scene.harvest()
        yield scene, ["--again"] if life == "again" else []


async def leave_much_to_do(scene: Scene) -> None:
    """An earlier life in the mixed world, that leaves all there is to go on with.

    Its first batch is done; its second has a failed title, and a file that it does not fill; an upload of the third is
    open; the rest is not begun.
    """
    await scene.harvest_with_a_failure(limit=200)
    _, second, third, *_ = [name for _, name in scene.world.batches]
    lake = await scene.lake()
    [key] = [key for _, key, _ in lake.data() if "/Movies/" in key and second in key]
    await scene.put(key.replace(".json", ".2.json"), lake.objects[key])
    await scene.open_upload(key.replace(second, third))


@pytest.mark.parametrize("life", LIVES)
async def test_points_are_chosen_from_the_whole_of_a_life(life: str, s3: S3Server, tmp_path: Path) -> None:
    """What is known to happen in a life is all that happens in it, so that no kind of moment is left out."""
    async with scene_before(life, s3, tmp_path) as (scene, words):
        await closed(scene, await scene.life(None, *words), earlier=1)
        assert without_renewals(scene.seen) == LIVES[life]


def without_renewals(seen: Mapping[str, int]) -> dict[str, int]:
    """What has happened, less the renewals of the lease, of which a slow machine sees more: taken, named, ended."""
    renewed = seen["put lease"] - 3
    less = {"put lease": seen["put lease"] - renewed, "get lease": seen["get lease"] - renewed}
    return {name: times for name, times in (dict(seen) | less).items() if name != "event"}


@pytest.mark.parametrize("case", few_and_all(A_DOZEN, EVERYWHERE))
async def test_killed_at_any_moment_the_next_run_reconciles_the_totals(
    case: tuple[str, Point], s3: S3Server, tmp_path: Path
) -> None:
    """After a SIGKILL at any moment the same command loses nothing, doubles nothing, and asks for nothing done."""
    life, point = case
    async with scene_before(life, s3, tmp_path) as (scene, words):
        assert (await scene.life(point, *words)).code == KILLED
        await closed(scene, await scene.life(None, *words), earlier=2 if words else 0)


SEEDS, MOSTS = range(10), (250, 250, 120, 60)
"""Seeds, and of each four lives: events until the kill, at most; the last two end in the midst of going on."""


@pytest.mark.parametrize("seed", few_and_all([0], SEEDS))
async def test_killed_again_and_again_it_comes_to_an_end(seed: int, s3: S3Server, tmp_path: Path) -> None:
    """Each life goes on where the last was killed, while going on or not, and the last reconciles the totals."""
    dice = random.Random(seed)
    async with scene_of(MIXED, s3, tmp_path) as scene:
        for most in MOSTS:
            point = Point(dice.choice(["before", "after"]), "event", dice.randint(1, most))
            assert (await scene.life(point)).code == KILLED
        await closed(scene, await scene.life())


async def test_killed_in_a_later_generation_a_plain_start_goes_on_with_it(s3: S3Server, tmp_path: Path) -> None:
    """A generation that `--again` has begun is gone on with, by a start with it or without, and not begun anew."""
    async with scene_before("again", s3, tmp_path) as (scene, words):
        assert (await scene.life(Point("after", "put receipt", 2), *words)).code == KILLED
        generation = (await scene.lake()).generation
        assert (await scene.life(Point("before", "put receipt", 2), *words)).code == KILLED
        await closed(scene, await scene.life(), earlier=1)
        assert (await scene.lake()).generation == generation


@pytest.mark.parametrize("module", ["typer", "aiohttp", "harvester.tmdb.client"])
async def test_killed_while_it_starts_it_has_done_nothing(module: str, s3: S3Server, tmp_path: Path) -> None:
    """Killed when it has just imported some module, it has sent nothing, and the bucket is empty."""
    async with scene_of(MIXED, s3, tmp_path) as scene:
        (tmp_path / "Movies.csv").unlink()
        os.mkfifo(tmp_path / "Movies.csv")  # nothing writes to it: however late the kill, it has got no further
        async with scene.shell.having(PYTHONPROFILEIMPORTTIME="1").start("--json") as running:
            await running.until(lambda: re.search(rf"\| +{module}\n", running.err.decode()))
            running.process.kill()
            assert (await running.ended()).code == KILLED
        await scene.settled()
        assert (scene.seen.total(), await scene.lake()) == (0, Lake({}, []))


async def test_killed_while_it_reads_its_csv_it_has_done_nothing(s3: S3Server, tmp_path: Path) -> None:
    """Killed with half of its CSV read, it has sent nothing, and the next one reads all of it."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        csv = tmp_path / "Movies.csv"
        rows = csv.read_bytes()
        csv.unlink()
        os.mkfifo(csv)
        life = asyncio.ensure_future(scene.life())
        pipe = -1
        while pipe < 0:
            with suppress(OSError):  # nothing reads it yet
                pipe = os.open(csv, os.O_WRONLY | os.O_NONBLOCK)
            await asyncio.sleep(0.01)
        os.write(pipe, rows[: len(rows) // 2])
        while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"    ")) != (0,):
            await asyncio.sleep(0.01)
        scene.process.kill()
        assert (await life).code == KILLED
        os.close(pipe)
        assert (scene.seen.total(), await scene.lake()) == (0, Lake({}, []))
        csv.unlink()
        csv.write_bytes(rows)
        await closed(scene, await scene.life())


# --- a kill of S3

CALLS = (
    "list",
    "put lease",
    "get lease",
    "complete ids",
    "put manifest",
    "create",
    "part",
    "complete",
    "put receipt",
    "complete outcomes",
    "put summary",
)
AWAY = [
    Point("after", "create", 3),
    Point("before", "complete", 5),
    Point("after", "put receipt", 2),
    Point("before", "ask", 400),
]
S3_KILLS = [
    *((point, "back") for point in points(FIRST, *CALLS, each=1, seed=8)),
    *((point, "away") for point in AWAY),
]


@pytest.mark.parametrize(
    "case", few_and_all([(Point("after", "create", 6), "back"), (Point("before", "put receipt", 3), "back")], S3_KILLS)
)
async def test_s3_killed_at_any_moment_nothing_is_lost(case: tuple[Point, str], tmp_path: Path) -> None:
    """S3 back within a second: the harvest goes on, or ends with exit 4. S3 away: exit 4. The next run closes."""
    point, then = case
    async with s3_server(tmp_path / "s3") as server, scene_of(MIXED, server, tmp_path) as scene:
        life = asyncio.ensure_future(scene.life(point, act=server.process.kill))
        reached = asyncio.ensure_future(scene.reached.wait())
        await asyncio.wait([life, reached], return_when=asyncio.FIRST_COMPLETED)
        assert reached.done()
        if then == "back":
            await server.start_again()
        ended = await life
        assert ended.code in ([0, 4] if then == "back" else [4])
        if then == "away":
            await server.start_again()
        await closed(scene, ended if ended.code == 0 else await scene.life())


# --- a power cut: of the last writes some have arrived, and others not

POWER_CUTS: dict[str, tuple[World, Sequence[str]]] = {
    "data, not its receipt": (SMALL, ["receipts/Movies/{first}", "outcomes", "summary"]),
    "data of one collection, not of the other": (
        SMALL,
        ["Series/[0-9/]+/{first}", "receipts/Movies/{first}", "outcomes", "summary"],
    ),
    "the last receipt, not the outcomes": (SMALL, ["outcomes", "summary"]),
    "the outcomes, not the summary": (SMALL, ["summary"]),
    "ids, not the manifest": (SMALL, ["^((?!/ids-).)*$"]),
    "manifest, nothing later": (SMALL, ["^((?!/ids-|manifest).)*$"]),
    "the first file, not the second": (LARGE, [r"{first}\.2\.json", "receipts/Movies/{first}", "outcomes", "summary"]),
    # What follows is no order in which we write; but S3 elsewhere might keep less than it has confirmed.
    "receipt, not its data": (SMALL, ["Movies/[0-9/]+/{first}", "summary"]),
    "receipt, not its data of the other collection": (SMALL, ["Series/[0-9/]+/{first}", "summary"]),
    "the second file, not the first": (
        LARGE,
        [r"Movies/[0-9/]+/{first}\.json", "receipts/Movies/{first}", "summary"],
    ),
    "both files, but of the receipt nothing": (LARGE, ["receipts/Movies/{first}", "summary"]),
    "summary, not the first receipt": (SMALL, ["receipts/Movies/{first}"]),
    "summary, not the outcomes": (SMALL, ["outcomes"]),
    "everything, not the manifest": (SMALL, ["manifest"]),
    "everything, not the ids": (SMALL, ["/ids-"]),
    "everything, not the lease": (SMALL, ["lease", "summary"]),
}
"""What has not arrived, by patterns of keys, each of which some key must have."""


async def cut(scene: Scene, *patterns: str) -> None:
    """Remove every object whose key has one of the patterns; `{first}` is the name of the first batch."""
    first = next(name for _, name in scene.world.batches)
    objects = (await scene.lake()).objects
    for pattern in patterns:
        keys = [key for key in objects if re.search(pattern.replace("{first}", first), key)]
        assert keys != [], pattern
        for key in keys:
            await scene.remove(key)


@pytest.mark.parametrize("case", POWER_CUTS)
async def test_whatever_a_power_cut_has_left_is_repaired(case: str, s3: S3Server, tmp_path: Path) -> None:
    """Whichever of the last writes have not arrived, the next harvest reconciles the totals and repeats nothing."""
    world, lost = POWER_CUTS[case]
    async with scene_of(world, s3, tmp_path) as scene:
        await scene.harvest()
        await cut(scene, *lost)
        await proved(scene, (await scene.harvest()).totals.as_json())


async def test_parts_of_an_upload_without_an_end_go_away(s3: S3Server, tmp_path: Path) -> None:
    """Cut off between the first part and the completion, the batch is done again, and no part stays behind."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest()
        keys = [key for key in (await scene.lake()).objects if "summary" in key or next(iter(SMALL.batches))[1] in key]
        for key in keys:
            await scene.remove(key)
        uploads = sorted(key for key in keys if DATA.fullmatch(key))
        for key in uploads:
            await scene.open_upload(key)
        assert sorted((await scene.lake()).uploads) == uploads
        await proved(scene, (await scene.harvest()).totals.as_json())


async def test_uploads_of_ids_and_outcomes_without_an_end_go_away(s3: S3Server, tmp_path: Path) -> None:
    """Cut off within the upload of a document, the next run leaves no part of it, nor of any generation's ids."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest()
        await cut(scene, "summary")
        ids, outcomes = [key for key in (await scene.lake()).objects if key.endswith(".gz")]
        uploads = [ids, ids.replace(ids[-25:-9], "0" * 16), outcomes]
        for key in uploads:
            await scene.open_upload(key)
        assert sorted((await scene.lake()).uploads) == sorted(uploads)
        await proved(scene, (await scene.harvest()).totals.as_json())


async def test_a_failed_title_asks_again_for_its_batch_alone(s3: S3Server, tmp_path: Path) -> None:
    """A receipt with a failed title says so, and the next run asks for its batch again, and replaces it."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest_with_a_failure()
        failed = [receipt["batch"] for _, receipt in (await scene.lake()).receipts() if "failed" in str(receipt)]
        assert failed == [name for _, name in SMALL.batches][1:2]
        await proved(scene, (await scene.harvest()).totals.as_json())
        of_batch = {id_ for (_, name), ids in SMALL.batches.items() if name in failed for id_ in ids}
        assert {id_ for _, id_ in scene.lives[1].asked if id_} == of_batch


# --- what going on costs


RESUMED = points({"put receipt": 12, "create": 12, "ask": 1201}, "put receipt", "create", "ask", each=2, seed=10)

SIGKILLS = len(EVERYWHERE) + len(SEEDS) * len(MOSTS) + len(RESUMED)
"""Kills of the harvester in one `pytest -m kill`, less those of `test_many`."""


@pytest.mark.parametrize("point", few_and_all([Point("before", "put receipt", 11)], RESUMED))
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
    """The lake with one thing changed in the first object whose key has the pattern, under a checksum that fits."""
    key = next(key for key in lake.objects if re.search(pattern, key))
    body = gzip.decompress(lake.objects[key]) if key.endswith(".gz") else lake.objects[key]
    assert old in body
    body = body.replace(old, new, 1)
    if (checksum := CHECKSUM.search(body)) and old not in checksum[0]:
        body = body[: checksum.start()] + b"}"
        body = body[:-1] + b',"checksum":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    return Lake(lake.objects | {key: gzip_of(body) if key.endswith(".gz") else body}, lake.uploads)


def with_wrong_checksum(lake: Lake, pattern: str) -> Lake:
    """The lake with the first object whose key has the pattern under a checksum that does not fit."""
    return edited(lake, pattern, b'"checksum":"', b'"checksum":"0')


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
    "a receipt of the other collection": lambda lake: copied(lake, RECEIPT, "Movies", "Series"),
    "an outcome": lambda lake: edited(lake, RECEIPT, b'"unknown"', b'"episode"'),
    "the id of an outcome": lambda lake: edited(lake, RECEIPT, b"tt0000007", b"tt0000999"),
    "the kind of an outcome": lambda lake: edited(lake, RECEIPT, b'"kind":"movie"', b'"kind":"tv"'),
    "the number of an outcome": lambda lake: edited(lake, RECEIPT, b'"tmdb_id":', b'"tmdb_id":1'),
    "the show of an episode": lambda lake: edited(lake, RECEIPT, b'"show_id":', b'"show_id":1'),
    "a failed title": lambda lake: edited(lake, RECEIPT, b'"missing"', b'"failed"'),
    "a digest": lambda lake: edited(lake, RECEIPT, b'"sha256":"', b'"sha256":"0'),
    "a number of records": lambda lake: edited(lake, RECEIPT, b'"records":', b'"records":1'),
    "the generation of a receipt": lambda lake: edited(lake, RECEIPT, b'"generation":"', b'"generation":"0'),
    "the format of a receipt": lambda lake: edited(lake, RECEIPT, b'"format":1', b'"format":2'),
    "the checksum of a receipt": lambda lake: with_wrong_checksum(lake, RECEIPT),
}
HARMS_TO_DOCUMENTS: dict[str, Callable[[Lake], Lake]] = {
    "the manifest gone": lambda lake: without(lake, "manifest"),
    "the checksum of the manifest": lambda lake: with_wrong_checksum(lake, "manifest"),
    "a batch of the manifest": lambda lake: edited(lake, "manifest", b'"tt0000001-', b'"tt0000002-'),
    "the fresh ids of the manifest": lambda lake: edited(lake, "manifest", b'"fresh":0', b'"fresh":1'),
    "the rows of the manifest": lambda lake: edited(lake, "manifest", b'"rows":', b'"rows":1'),
    "an id": lambda lake: edited(lake, "/ids-", b"tt0000007", b"tt0000999"),
    "the line of an id": lambda lake: edited(lake, "/ids-", b'"line":2', b'"line":3'),
    "a fresh id": lambda lake: edited(lake, "/ids-", b'"line":2', b'"line":2,"fresh":"2026-11-29-3f9a1c2e"'),
    "the reason of a rejected row": lambda lake: edited(lake, "/ids-", b'"no_id"', b'"no"'),
    "the outcomes gone": lambda lake: without(lake, "outcomes"),
    "one of the outcomes": lambda lake: edited(lake, "outcomes", b'"missing"', b'"failed"'),
    "the summary gone": lambda lake: without(lake, "summary"),
    "the checksum of the summary": lambda lake: with_wrong_checksum(lake, "summary"),
    "the generation of the summary": lambda lake: edited(lake, "summary", b'"generation":"', b'"generation":"0'),
    "the totals of the summary": lambda lake: edited(lake, "summary", b'"found":', b'"found":1'),
    "the outcomes' digest": lambda lake: edited(lake, "summary", b'"outcomes":"', b'"outcomes":"0'),
}
HARMS: dict[str, Callable[[Lake], Lake]] = {
    "the ids gone": lambda lake: without(lake, "/ids-"),
    "ids of another generation": lambda lake: copied(lake, "/ids-", "/ids-", "/ids-0000000000000000.jsonl.gz."),
    "ids of one more generation": lambda lake: copied(lake, "/ids-", generation_in(lake), "0" * 16),
    "a receipt of another run": lambda lake: copied(lake, RECEIPT, "_harvest/20", "_harvest/19"),
    "a receipt in failed/": lambda lake: copied(lake, RECEIPT, "receipts", "failed"),
    "something in the folder of the run": lambda lake: copied(lake, "manifest", "manifest", "manifest-of-old"),
    "something at the top": lambda lake: Lake(lake.objects | {"export.json": b""}, lake.uploads),
    "something in quarantine": lambda lake: copied(lake, MOVIES, "Raw/API/", "Raw/API/_harvest/quarantine/Raw/API/"),
    "the lease gone": lambda lake: without(lake, "lease"),
    "the lease under way": lambda lake: edited(lake, "lease", b'"ended":true', b'"ended":false'),
    "the lease of another run": lambda lake: edited(lake, "lease", b'"run":"20', b'"run":"19'),
    "an upload": lambda lake: Lake(lake.objects, ["Raw/API/Movies/2026/11/22/tt0000001.json"]),
}


def generation_in(lake: Lake) -> str:
    """The generation that counts, which there is."""
    assert lake.generation
    return lake.generation


async def test_the_audit_sees_every_harm(s3: S3Server, tmp_path: Path) -> None:
    """A healthy lake has no harm, and each harm done to it is seen: a check that cannot fail would show nothing.

    What is done to records, receipts and documents is seen by what they say, not only by a digest that does not fit.
    """
    async with scene_of(SMALL, s3, tmp_path) as scene:
        totals = (await scene.harvest()).totals.as_json()
        lake = await scene.lake()
        assert audit(SMALL, lake, totals) == []
        audits: list[tuple[Mapping[str, Callable[[Lake], Lake]], Callable[[Lake], Iterator[str]]]] = [
            (HARMS, lambda harmed: iter(audit(SMALL, harmed, totals))),
            (HARMS_TO_RECORDS, lambda harmed: audit_records(SMALL, harmed)),
            (HARMS_TO_RECEIPTS, lambda harmed: audit_receipts(SMALL, harmed)),
            (HARMS_TO_DOCUMENTS, lambda harmed: audit_documents(SMALL, harmed, totals)),
        ]
        for harms, see in audits:
            assert [name for name, harm in harms.items() if not [*see(harm(lake))]] == []
        assert [name for name in totals if audit(SMALL, lake, totals | {name: totals["rows"] + 1}) == []] == []
        await scene.open_upload("Raw/API/Movies/export.json")
        assert audit(SMALL, await scene.lake(), totals) == ["an upload of Raw/API/Movies/export.json is an orphan"]


async def test_the_audit_sees_what_is_asked_again(s3: S3Server, tmp_path: Path) -> None:
    """Titles asked for although there is a receipt, and titles asked for twice in one life, are named one by one."""
    async with scene_of(SMALL, s3, tmp_path) as scene:
        await scene.harvest()
        await scene.harvest(again=True)
        first, second = scene.lives
        assert audit_requests(scene.lives) == []  # a generation of its own has nothing done
        asked = {(endpoint, id_) for endpoint, id_ in first.asked if id_}
        done = done_in(await scene.lake(), again=False)
        assert asked <= done
        assert len(audit_requests([replace(second, done=done)])) == len(asked)
        assert first.errors.total() > 0
        assert len(audit_requests([replace(first, errors=Counter())])) == first.errors.total()
