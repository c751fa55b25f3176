"""What S3 can do wrong, at every request of a harvest: a table of places and faults, each once and for good.

Between harvester and S3 stands a proxy, the link, which does to the requests of one place what a fault says. What came
of it is looked at past the link, and is the same everywhere: objects are whole, a receipt names what is there, the
lease is given back, and the next harvest closes the run, asking TMDB for nothing but batches without a receipt.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from botocore.httpsession import where
from conftest import Silent, capture_logs, client_of
from loops import Leaping, abroad, in_its_time, no_wait, run_on
from sampling import sampled

from harvester.aws.errors import ADVICE
from harvester.commands.harvest import HarvestReport, LeaseOptions, harvest
from harvester.commands.verify import verify
from harvester.errors import Exit, HarvestError, StoppedError, StoreError
from harvester.fakes.catalog import Catalog, movie_record, tv_record
from harvester.fakes.faults import always, healthy, refusal, scripted
from harvester.fakes.s3_proxy import answering, at_first, on_keys, refusing, reset, reset_after, s3_proxy, silent
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.formats.registry import decode
from harvester.model.batch import Batch
from harvester.model.ids_file import decode_ids, decode_outcomes
from harvester.model.layout import Layout
from harvester.model.manifest import decode_manifest, decode_summary
from harvester.model.receipt import Receipt, decode_receipt
from harvester.runs.lease import LeaseState, LeaseTimes, decode_lease
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown
from harvester.store.s3 import CALL_SECONDS, open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from harvester.fakes.s3_proxy import Call, Forward, Rule, S3Proxy
    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]
    Story = Callable[["World"], Coroutine[Any, Any, None]]
    Play = Callable[..., None]

MOVIES, SERIES = ("tt0000001", "tt0000002"), ("tt0900001",)
FOUND = [*MOVIES, *SERIES]
"""Two batches, and all that must have landed of them in the end."""

POISON = MOVIES[1]
CATALOG = Catalog(kinds={SERIES[0]: "tv"}, otherwise="movie")

FAIL_FAST, WAIT_OUT = 5, 7
"""Requests that botocore makes of one call: of the first look, and from then on."""

MOST_CALLS = 80 + 2 * (2 * WAIT_OUT - 1)
"""Calls of a harvest: at most 75 when all is well, and one of each batch to the end, doubled by aiohttp at a reset."""

NOON = "2026-11-22T12:00:00.000Z"

FOREIGN, FOREIGN_BODY = "export.json", b'{"made": "by another program"}'

_numbers = itertools.count(1)

# --- a harvest with a link before S3


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the bucket, found whole.

    Attributes:
        files: The ids in each data file, by its key.
        receipts: Those of batches that are done.
        uploads: The keys of unfinished uploads.
        lease: Who is at work, or was.
        foreign: The keys of the foreign object, wherever it is.
    """

    files: dict[str, list[str]]
    receipts: list[Receipt]
    uploads: list[str]
    lease: LeaseState | None
    foreign: list[str]

    @property
    def waits(self) -> bool:
        """Whether the next harvest would wait for the lease: it was not given back."""
        return self.lease is not None and not self.lease.ended


@dataclass(slots=True)
class World:
    """One TMDB, one folder of a bucket, and the link before it.

    Attributes:
        settings: Those of a harvest through the link.
        past: Those that reach S3 past it.
        lake: The bucket, past the link.
        other: The name of another run of the same day, if there is one; it has `POISON`.
        calls: What the last harvest asked of S3.
        seconds: How long it took, by the loop.
        spoilt: For each rule there has been, the calls that got another answer than S3's, by key.
    """

    tmdb: FakeTmdb
    link: S3Proxy
    settings: Settings
    past: Settings
    lake: Bucket
    other: str | None = None
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.0
    spoilt: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return self.settings.s3_prefix

    def layout(self, run: str) -> Layout:
        return Layout(self.prefix, self.settings.s3_key_template, run)

    def spoil(self, operation: str, rule: Rule, keys: str = ".*", *, after: tuple[str, ...] = ()) -> Counter[str]:
        """The rule, for all calls of this operation with these keys below the prefix; one of them must come.

        It waits for the calls `after` which it is to begin: regular expressions, in their order, of the operation and
        the key below the prefix. What is returned counts the calls that meet it, by key.
        """
        pattern = rf"^{self.prefix}/{keys}$"
        met = self.spoilt[f"{operation} of {pattern} after {after}"] = Counter[str]()
        self.link.rules[operation] = in_its_time(on_keys(pattern, self.following(after, self.counted(met, rule))))
        return met

    def counted(self, met: Counter[str], rule: Rule) -> Rule:
        """The rule; each response of it that is not S3's own is counted."""

        async def counting(call: Call, forward: Forward) -> web.StreamResponse:
            own: list[web.Response] = []

            async def noted() -> web.Response:
                own.append(await forward())
                return own[-1]

            response = None
            try:
                response = await rule(call, noted)
            finally:  # or the silence was cancelled
                met[call.key] += all(response is not each for each in own)
            return response

        return counting

    def following(self, after: tuple[str, ...], rule: Rule) -> Rule:
        """The rule, for what is asked when the calls `after` have been made, each after the one before it."""
        first = len(self.link.seen)

        async def late(call: Call, forward: Forward) -> web.StreamResponse:
            before = (each for each in itertools.islice(self.link.seen, first, None) if each is not call)
            names = (f"{each.operation} {each.key.removeprefix(self.prefix + '/')}" for each in before)
            come = all(any(re.fullmatch(pattern, name) for name in names) for pattern in after)
            return await (rule(call, forward) if come else forward())

        return late

    def heal(self) -> None:
        self.link.rules.clear()
        self.link.rules["*"] = in_its_time(at_first())
        self.tmdb.faults = healthy

    async def harvest(
        self,
        settings: Settings | None = None,
        *,
        limit: int | None = None,
        again: bool = False,
        takes_over: bool = False,
        sleep: Callable[[float], Awaitable[None]] = no_wait,
    ) -> HarvestReport | HarvestError:
        """Harvest through the link: what it reports, or the trouble that it ended with.

        Args:
            settings: Others than those of the world.
            limit: Of titles.
            again: Once more, although the run is closed.
            takes_over: Take the lease although its holder, which is this very process, has not given it back.
            sleep: How to wait before a title is asked for again.
        """
        loop, before = asyncio.get_running_loop(), len(self.link.seen)
        began = loop.time()
        lease_options = LeaseOptions(times=LeaseTimes(silent=-1.0)) if takes_over else LeaseOptions()
        try:
            return await harvest(
                settings or self.settings,
                observer=Silent(),
                shutdown=Shutdown(limit=limit),
                again=again,
                lease_options=lease_options,
                clock=Clock(sleep=sleep, now=lambda: NOON),
            )
        except HarvestError as error:
            return error
        finally:
            self.calls, self.seconds = self.link.seen[before:], loop.time() - began

    async def look(self) -> Contents:
        """Read everything, and be sure that every object is whole, and every receipt true."""
        with abroad():
            bodies = {key: await self.lake.read(key) or b"" for key in await self.lake.objects(f"{self.prefix}/")}
            uploads = [key for key, _ in await self.lake.uploads(f"{self.prefix}/")]
        lease = decode_lease(bodies.get(f"{self.prefix}/_harvest/lease.json", b""))
        contents = Contents({}, [], uploads, lease, [key for key in bodies if f"/{FOREIGN}" in key])
        runs = {key.split("/_harvest/")[1][:19] for key in bodies if re.search(rf"/{RUN}", key)}
        known = {f"{self.prefix}/_harvest/lease.json"} if lease else set()
        for layout in map(self.layout, runs):
            known |= self.take_run(layout, bodies, contents)
        for key in contents.foreign:
            assert bodies[key] == FOREIGN_BODY
        for key in bodies.keys() - known - {*contents.foreign}:
            assert "/_harvest/" not in key, key
            contents.files[key] = [self.whole(record) for record in decode(bodies[key])]
        for receipt in contents.receipts:
            assert [id_ for file in receipt.files for id_ in contents.files[file.key]] == [*receipt.recorded]
            for file in receipt.files:
                landed = bodies[file.key]
                assert (len(landed), sha256(landed).hexdigest()) == (file.bytes, file.sha256)
        return contents

    def take_run(self, layout: Layout, bodies: dict[str, bytes], contents: Contents) -> set[str]:
        """The keys of what there is about a run, each document of it found valid."""
        known = {key for key in bodies if key.startswith(layout.folder)} - {*contents.foreign}
        receipts = []
        for key in known - {layout.manifest_key}:
            if layout.generation_of(key):
                frozen = decode_ids(bodies[key]).ids
                assert set(FOUND) >= {id_ for ids in frozen.values() for id_ in ids}
            elif key == layout.outcomes_key:
                assert set(FOUND) >= {id_ for id_, _ in decode_outcomes(bodies[key])}
            elif key == layout.summary_key:
                decode_summary(layout, bodies[key])
            else:
                receipts.append(decode_receipt(layout, key, bodies[key]))
        if layout.manifest_key in known:
            manifest = decode_manifest(layout, bodies[layout.manifest_key])
            assert layout.ids_key(manifest.generation) in known  # they were written before
            current = (each for each in receipts if each.generation == manifest.generation)
            contents.receipts.extend(receipt for receipt in current if not receipt.failed)
        return known

    def whole(self, record: dict[str, Any]) -> str:
        """The id of a record, found to be all that TMDB has under it."""
        id_, catalog = str(record["imdb_id"]), self.tmdb.catalog
        sent = movie_record(catalog, id_) or tv_record(catalog, id_, append=["external_ids"]) or {}
        sent.pop("external_ids", None)  # asked of series beside what was wanted
        assert {name: value for name, value in record.items() if name != "harvest"} == sent | {"imdb_id": id_}
        return id_

    async def closed(self, report: HarvestReport | HarvestError) -> Contents:
        """Be sure that the run is closed: nothing is lost, nothing double, nothing left behind."""
        assert isinstance(report, HarvestReport), report
        totals = report.totals
        fresh = 0 if self.other is None else 1
        assert (report.exit_code, totals.found, totals.fresh) == (Exit.CLOSED, len(FOUND) - fresh, fresh)
        contents = await self.look()
        assert sorted(id_ for ids in contents.files.values() for id_ in ids) == FOUND
        assert contents.uploads == []
        return contents

    async def problems(self) -> list[str]:
        """What `verify` finds wrong on the day, or unfinished but for the other run."""
        with abroad():
            verification = await verify(self.past, day=NOON[:10])
        return verification.problems + [run for run in verification.unfinished if run != self.other]

    async def goes_on(self, contents: Contents) -> None:
        """Be sure that the next harvest, without a fault, closes the run and asks only for what was not done."""
        self.heal()
        done = {id_ for receipt in contents.receipts for id_ in receipt.ids}
        done |= set() if self.other is None else {POISON}
        asked = Counter(self.tmdb.asked)
        report = await self.harvest(takes_over=contents.waits)
        asked_again = {id_ for route, id_ in Counter(self.tmdb.asked) - asked if route != "authentication"}
        assert asked_again == {*FOUND} - done
        after = await self.closed(report)
        assert not after.waits or after.lease == contents.lease  # where nothing was left to do, it is not taken

    def is_trouble(self, error: HarvestReport | HarvestError, sentence: str, *, deadlines: int = 1) -> None:
        """Be sure that the harvest has ended with exit 4, soon, and with this sentence (a regular expression).

        Soon is one deadline of a call after another, so many, and less than one for all the rest.
        """
        assert isinstance(error, StoreError), error
        assert error.exit_code == Exit.STORE
        assert re.fullmatch(sentence, str(error)), str(error)
        assert not any(secret in str(error) for secret in (KEY, *(self.settings.credentials or ())) if secret)
        assert len(self.calls) <= MOST_CALLS
        assert self.seconds < (1 + deadlines) * CALL_SECONDS


@asynccontextmanager
async def world_of(s3: S3Server, name: str, make: Make, **options: Any) -> AsyncIterator[World]:
    prefix = f"Raw/{next(_numbers)}"
    credentials = (s3.access_key, s3.secret_key, None)
    async with (
        fake_tmdb(**{"catalog": CATALOG} | options) as tmdb,
        s3_proxy(s3.endpoint) as link,
        open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=s3.endpoint) as lake,
    ):
        past = make(tmdb.url, movies=MOVIES, series=SERIES, s3_prefix=prefix)
        settings = past.model_copy(update={"aws_endpoint_url_s3": link.url})
        world = World(tmdb, link, settings, past, lake)
        world.heal()
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bucket(s3: S3Server) -> AsyncIterator[Bucket]:
    """One bucket, in which every case has a folder: the first object of a new one takes SeaweedFS 0.25 s."""
    name = f"faults-{next(_numbers)}"
    async with client_of(s3) as client:
        await client.create_bucket(Bucket=name)
    credentials = (s3.access_key, s3.secret_key, None)
    async with open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=s3.endpoint) as opened:
        yield opened


@pytest.fixture
def play(s3: S3Server, bucket: Bucket, settings_for: Make) -> Play:
    """Runs a story to its end in a world of its own, on a loop that loses no time waiting; every fault must be met."""

    def run(story: Story, **options: Any) -> None:
        async def whole_story() -> None:
            async with world_of(s3, bucket.name, settings_for, **options) as world:
                await story(world)
                assert [name for name, calls in world.spoilt.items() if not calls.total()] == []

        run_on(Leaping(), whole_story())

    return run


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the certificates that botocore brings."""
    first, end, _ = Path(where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----\n")
    file = tmp_path_factory.mktemp("authority") / "one.pem"
    file.write_text(first + end, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def _one_authority(_clean_environment: None, monkeypatch: pytest.MonkeyPatch, authority: Path) -> None:
    """There is no TLS here, and yet every client loads all authorities: with one, it is made in half the time."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))


# --- what was before


async def nothing(world: World) -> None:
    """The prefix is empty."""


async def interrupted(world: World) -> None:
    """The movies have landed, the series have not."""
    report = await world.harvest(limit=1)
    assert isinstance(report, HarvestReport), report
    assert (report.exit_code, report.batches_left) == (Exit.STOPPED, 1)


async def failed(world: World) -> None:
    """A movie has failed, so that the run was closed with that, and its batch is tried again."""
    world.tmdb.faults = scripted({("movie", POISON): [refusal(500)] * 7})
    report = await world.harvest()
    assert isinstance(report, HarvestReport), report
    assert (report.exit_code, report.failed) == (Exit.FAILED, {POISON: "http_500"})


async def copied(world: World) -> None:
    """The movies have landed, and have been copied: they have another ETag, so that they are read."""
    await interrupted(world)
    with abroad():
        for key in await world.lake.objects(f"{world.prefix}/Movies/"):
            await world.lake.put(key, await world.lake.read(key) or b"")


async def orphaned(world: World) -> None:
    """The movies have landed; of the series an upload is left that was killed."""
    await interrupted(world)
    [run] = {call.key.split("/_harvest/")[1][:19] for call in world.link.seen if call.key.endswith("manifest.json")}
    with abroad():
        await world.lake.begin(world.layout(run).data_key("Series", Batch("Series", SERIES).name))


async def relabelled(world: World) -> None:
    """S3 answers with another ETag than it lists, so that at the end every file is read."""
    world.link.rules["complete"] = in_its_time(
        doctored(lambda body: re.sub(rb"<ETag>.*?</ETag>", b"<ETag>&quot;other&quot;</ETag>", body))
    )


async def another(world: World) -> None:
    """Another run of the day has one of the movies."""
    csv = Path(str(world.settings.movies_csv)).with_name("other.csv")
    csv.write_text(f"id|t\n{POISON}|x\n", encoding="utf-8")
    report = await world.harvest(world.settings.model_copy(update={"movies_csv": str(csv), "series_csv": None}))
    assert isinstance(report, HarvestReport), report
    assert (report.status, report.totals.found) == ("closed", 1)
    world.other = report.run


async def another_unfinished(world: World) -> None:
    """The same, but that run has no summary, so that its receipts are read."""
    await another(world)
    with abroad():
        await world.lake.delete(world.layout(world.other).summary_key)


async def another_killed(world: World) -> None:
    """The same, and it was killed before the receipt, so that its file is read."""
    await another_unfinished(world)
    with abroad():
        for key in await world.lake.objects(world.layout(world.other).receipts):
            await world.lake.delete(key)


# --- the table

RUN = r"_harvest/\d{4}-\d\d-\d\d-[0-9a-f]{8}/"
OTHER = "_harvest/{other}/"
DAY = r"(Movies|Series)/\d{4}/\d\d/\d\d/"
FILE = DAY + r"tt\d{7}-tt\d{7}-[0-9a-f]{8}\.json"
LEASE = r"_harvest/lease\.json"
TAKEN = (f"put {LEASE}", f"get {LEASE}")
LOOKED = (*TAKEN, f"list {RUN}receipts/")
LANDED = (f"put {RUN}receipts/.+",)


@dataclass(frozen=True, slots=True)
class Place:
    """One request of a harvest.

    Attributes:
        operation: What it asks of S3.
        keys: Of which keys, below the prefix; `{other}` is another run of the day.
        verb: What we call it in a sentence.
        before: What must have been for a harvest to come there.
        after: The calls that have been made before, where the same is asked earlier, too.
        attempts: How often botocore asks.
        calls: How many calls meet it: two, where the end of the lease does so as well.
    """

    operation: str
    keys: str
    verb: str
    before: Callable[[World], Awaitable[None]] = nothing
    after: tuple[str, ...] = ()
    attempts: int = WAIT_OUT
    calls: int = 1


LOOK = {
    "list of the runs": Place("list", "_harvest/", "list"),
    "get of the manifest": Place("get", RUN + "manifest.json", "read", interrupted),
    "get of the summary": Place("get", RUN + "summary.json", "read", failed),
    "list of the data": Place("list", DAY, "list"),
    "list of the day's runs": Place("list", "_harvest/", "list", after=(f"list {DAY}",)),
    "get of another run's manifest": Place("get", OTHER + "manifest.json", "read", another),
    "get of the ids": Place("get", RUN + "ids-.+", "read", interrupted),
    "list of the ids": Place("list", RUN + "ids-", "list"),
    "get of another run's summary": Place("get", OTHER + "summary.json", "read", another),
    "get of another run's outcomes": Place("get", OTHER + "outcomes.jsonl.gz", "read", another),
    "list of another run's receipts": Place("list", OTHER + "receipts/", "list", another_unfinished),
    "get of another run's receipt": Place("get", OTHER + "receipts/.+", "read", another_unfinished),
    "get of another run's file": Place("get", FILE, "read", another_killed),
    "list of the receipts": Place("list", RUN + "receipts/", "list"),
    "get of a receipt": Place("get", RUN + "receipts/.+", "read", interrupted),
    "get of a file": Place("get", FILE, "read", copied),
}
"""What is read to know what is left to do: first without the lease, then with it."""


def upload_of(name: str, keys: str) -> dict[str, Place]:
    return {
        f"create of {name}": Place("create", keys, "begin"),
        f"part of {name}": Place("part", keys, "upload"),
        f"complete of {name}": Place("complete", keys, "complete"),
    }


def uploads_at(moment: str, **more: Any) -> dict[str, Place]:
    return {
        f"uploads of the data, {moment}": Place("uploads", DAY, "list the uploads of", **more),
        f"uploads of the run, {moment}": Place("uploads", RUN, "list the uploads of", **more),
    }


def with_lease(places: dict[str, Place]) -> Iterator[tuple[str, Place]]:
    for name, place in places.items():
        yield f"{name}, with the lease", replace(place, after=(*TAKEN, *place.after))


PLACES = {
    **{name: replace(place, attempts=FAIL_FAST) for name, place in LOOK.items()},
    "get of the lease": Place("get", LEASE, "read"),
    "put of the lease": Place("put", LEASE, "write", calls=2),
    "get of the lease, read back": Place("get", LEASE, "read", after=TAKEN[:1], calls=2),
    **uploads_at("of the holder before", before=interrupted, after=TAKEN),
    "abort of an orphan": Place("abort", FILE, "abort", orphaned, after=TAKEN),
    **dict(with_lease(LOOK)),
    "get of the lease, to name the run": Place("get", LEASE, "read", after=LOOKED, calls=2),
    "put of the lease, to name the run": Place("put", LEASE, "write", after=LOOKED, calls=2),
    **uploads_at("to begin", after=LOOKED),
    **upload_of("the ids", RUN + "ids-.+"),
    "put of the manifest": Place("put", RUN + "manifest.json", "write"),
    "get of the manifest, read back": Place("get", RUN + "manifest.json", "read", after=(f"put {RUN}manifest.json",)),
    **upload_of("a file", FILE),
    "put of a receipt": Place("put", RUN + "receipts/.+", "write"),
    **uploads_at("to close", after=LANDED),
    "list of the receipts, to close": Place("list", RUN + "receipts/", "list", after=LANDED),
    "list of the data, to close": Place("list", DAY, "list", after=LANDED),
    "get of a file, to close": Place("get", FILE, "read", relabelled, after=LANDED),
    **upload_of("the outcomes", RUN + "outcomes.jsonl.gz"),
    "get of the summary, to close": Place("get", RUN + "summary.json", "read", after=LANDED),
    "get of the manifest, to close": Place("get", RUN + "manifest.json", "read", after=LANDED),
    "put of the summary": Place("put", RUN + "summary.json", "write"),
}
"""In the order of a harvest: every request whose trouble ends a harvest."""

BESIDE = (
    "abort of what failed",
    "get of the lease, to renew it",
    "put of the lease, to renew it",
    "get of the lease, to end it",
    "put of the lease, to end it",
    "get of a file, for what it keeps",
    "copy of a foreign object",
    "delete of a foreign object or a stale file",
)
"""The others, which have tables of their own below: a harvest ends as it would without them, or they are `verify`'s."""

SAFE = "What has landed is safe; run again to go on."
GO_ON = f"So it is. {SAFE}"
NETWORK = ADVICE["EndpointConnectionError"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What S3 does instead.

    Attributes:
        rule: The doing of it.
        code: The word for it in a sentence.
        advice: What the sentence says to do.
        twice: Whether aiohttp sends each request once more.
        passes: Whether botocore asks again.
    """

    rule: Rule
    code: str
    advice: str
    twice: bool = False
    passes: bool = True

    def tries(self, attempts: int = WAIT_OUT) -> tuple[int, int]:
        """Requests of one call that meets nothing else, at least and at most."""
        if self.rule is silent:
            return 3, 3  # 20 s each, before the deadline
        return (attempts, attempts * (1 + self.twice)) if self.passes else (1, 1)

    @property
    def sentence(self) -> str:
        """The advice as a regular expression; where no server was reached, its address stands before it."""
        who = r"http://127\.0\.0\.1:\d+ breaks the connection\. " if self.advice == NETWORK else ""
        return who + re.escape(self.advice)

    def at(self, operation: str) -> Fault:
        """The same at this operation: an error as the body of a GET is no error to botocore, but has no ETag."""
        if operation == "get" and self.code == "InternalError" and self is FAULTS["200 with an error"]:
            return replace(self, code="an answer without an ETag", advice=SAFE, passes=False)
        return self


FAULTS = {
    "503": Fault(refusing(503, "SlowDown"), "SlowDown", GO_ON),
    "500": Fault(refusing(500, "InternalError"), "InternalError", GO_ON),
    "reset": Fault(reset, "EndpointConnectionError", NETWORK, twice=True),
    "reset after": Fault(reset_after, "EndpointConnectionError", NETWORK, twice=True),
    "silence": Fault(silent, "no answer within 60 s", SAFE),
    "200 with an error": Fault(refusing(200, "InternalError"), "InternalError", GO_ON),
    "403": Fault(refusing(403, "AccessDenied"), "AccessDenied", ADVICE["AccessDenied"], passes=False),
    "404": Fault(refusing(404, "NoSuchBucket"), "NoSuchBucket", ADVICE["NoSuchBucket"], passes=False),
}

ONCE = [(fault, "once") for fault in FAULTS]
ALWAYS = [(fault, "always") for fault in FAULTS]
FILES_READ = [name for name, place in PLACES.items() if (place.operation, place.keys) == ("get", FILE)]
CELLS = [
    (place, fault, lasts)
    for place, (fault, lasts) in itertools.product(PLACES, ONCE + ALWAYS)
    if not (place in FILES_READ and fault == "200 with an error")
]
"""The table; an error that comes as the body of a data file is what is in it, and has a test of its own below."""

PASSING = [cell for cell in CELLS if cell[2] == "once" and FAULTS[cell[1]].at(PLACES[cell[0]].operation).passes]
STAYING = [cell for cell in CELLS if cell not in PASSING]


def of_the_place(place: str, *_rest: object) -> object:
    return place


def of_the_operation(place: str, fault: str, lasts: str) -> object:
    return PLACES[place].operation, fault, lasts


def lasting(rule: Rule, lasts: str) -> Rule:
    return at_first(rule) if lasts == "once" else rule


async def spoilt(world: World, place: Place, rule: Rule) -> tuple[HarvestReport | HarvestError, Counter[str]]:
    """What comes of a harvest with this rule at this place, and the calls that have met it, by key."""
    await place.before(world)
    keys = place.keys.replace("{other}", world.other or "")
    met = world.spoil(place.operation, rule, keys, after=place.after)
    return await world.harvest(), met


def action_at(world: World, place: Place) -> str:
    """What a sentence says that could not be done there (a regular expression)."""
    keys = place.keys.replace("{other}", world.other or "")
    return f"Cannot {place.verb} s3://{world.lake.name}/{world.prefix}/{keys}"


@pytest.mark.parametrize(("place", "fault", "lasts"), sampled(PASSING, of_the_place))
def test_a_fault_that_passes_changes_nothing(play: Play, place: str, fault: str, lasts: str) -> None:
    """Where botocore asks again, one fault at any request leaves a closed run and nothing else."""

    async def story(world: World) -> None:
        report, _ = await spoilt(world, PLACES[place], lasting(FAULTS[fault].rule, lasts))
        assert len(world.calls) <= MOST_CALLS
        contents = await world.closed(report)
        assert not contents.waits
        assert await world.problems() == []

    play(story)


@pytest.mark.parametrize(("place", "fault", "lasts"), sampled(STAYING, of_the_operation))
def test_a_fault_that_stays_ends_the_harvest_and_the_next_one_closes_the_run(
    play: Play, place: str, fault: str, lasts: str
) -> None:
    """It ends soon, with exit 4, action, key, S3's code and what to do; nothing is lost, half there or left behind."""

    async def story(world: World) -> None:
        here, what = PLACES[place], FAULTS[fault].at(PLACES[place].operation)
        error, met = await spoilt(world, here, lasting(what.rule, lasts))
        world.is_trouble(error, rf"{action_at(world, here)}: {what.code}\. {what.sentence}", deadlines=here.calls)
        # Uploads that have begun without our knowing, no answer having come, are left to the next harvest.
        left = met.total() if (here.operation, fault) == ("create", "reset after") else here.operation == "abort"
        contents = await world.look()
        calls = here.calls if lasts == "always" else 1
        least, most = what.tries(here.attempts)
        certain = 1 if here.keys == LEASE else calls  # giving the lease back has LAST_SECONDS, tries or no tries
        assert least * certain <= max(met.values()) <= most * calls
        assert len(contents.uploads) <= left
        assert not contents.waits or here.keys == LEASE
        await world.goes_on(contents)

    play(story)


# --- beside the table


@pytest.mark.parametrize(("fault", "lasts"), ONCE + ALWAYS)
def test_an_abort_that_fails_leaves_an_upload_to_the_next_harvest(play: Play, fault: str, lasts: str) -> None:
    """The sentence says why an upload had to be aborted; that it could not be is logged, and the next harvest does."""

    async def story(world: World) -> None:
        what = FAULTS[fault]
        world.spoil("part", at_first(refusing(403, "AccessDenied")), FILE)
        tries = world.spoil("abort", lasting(what.rule, lasts))
        with capture_logs() as logs:
            error = await world.harvest()
        action = f"s3://{world.lake.name}/{world.prefix}/{FILE}"
        world.is_trouble(error, rf"Cannot upload {action}: AccessDenied\. {re.escape(ADVICE['AccessDenied'])}")
        assert max(tries.values()) <= what.tries()[1]
        aborted = {call.key for call in world.calls if call.operation == "abort"}
        vain = len(aborted) if lasts == "always" else int(not what.passes)
        left = [line for line in logs if line["event"] == "upload_left_unfinished"]
        assert len(left) == vain
        sentence = rf"Cannot abort {action}: {what.code}\. {what.sentence}"
        for line in left:  # the other batch, cancelled, has but four seconds
            assert re.fullmatch(f"{world.prefix}/{FILE}", line["key"])
            assert line["problem"] == "no response" or re.fullmatch(sentence, line["problem"])
        contents = await world.look()
        # The other batch may have been cancelled while S3 completed its upload: then there is none to abort.
        open_ones = [line["key"] for line in left if line["key"] not in contents.files]
        assert sorted(contents.uploads) == ([] if fault == "reset after" else sorted(open_ones))
        assert not contents.waits
        await world.goes_on(contents)

    play(story)


RENEWAL, END = (f"put {RUN}manifest.json", f"get {RUN}manifest.json"), (f"put {RUN}summary.json",)

BACK_OFF_SECONDS = 40
"""For which a 429 stops all requests: the lease is renewed after 30."""


@pytest.mark.parametrize(
    ("moment", "operation", "fault", "lasts"),
    sampled(
        [(*where, *how) for *where, how in itertools.product(["renewal", "end"], ["get", "put"], ONCE + ALWAYS)],
        lambda moment, operation, _fault, lasts: (moment, operation, lasts),
        lambda _moment, operation, fault, _lasts: (operation, fault),
        lambda _moment, _operation, fault, lasts: (fault, lasts),
    ),
)
def test_a_lease_that_cannot_be_renewed_or_given_back_keeps_no_run_open(
    play: Play, moment: str, operation: str, fault: str, lasts: str
) -> None:
    """While no other harvest has taken over, this one goes on and closes its run; what failed is logged."""

    async def story(world: World) -> None:
        what, verb = FAULTS[fault].at(operation), "read" if operation == "get" else "write"
        world.tmdb.faults = scripted({("movie", POISON): [refusal(429, retry_after=str(BACK_OFF_SECONDS))]})
        world.spoil(operation, lasting(what.rule, lasts), LEASE, after=RENEWAL if moment == "renewal" else END)
        with capture_logs() as logs:
            report = await world.harvest(sleep=asyncio.sleep)
        contents = await world.closed(report)
        problems = [(line["event"], line["problem"]) for line in logs if line["event"].startswith("lease_")]
        event = "lease_not_ended" if moment == "end" or lasts == "always" else "lease_not_renewed"
        at_last = [problem for name, problem in problems if name == event]
        too_long = moment == "end" and fault == "silence"  # an end has LAST_SECONDS, and waits out no silence
        assert len(at_last) == (lasts == "always" or not what.passes or too_long)
        action = f"Cannot {verb} s3://{world.lake.name}/{world.prefix}/{LEASE}"
        for _, problem in problems:
            ended_early = problem == "no response" and event == "lease_not_ended"
            assert ended_early or re.fullmatch(rf"{action}: {what.code}\. {what.sentence}", problem)
        given_back = event != "lease_not_ended" or not at_last or (operation, fault) == ("put", "reset after")
        assert contents.waits is not given_back
        assert await world.problems() == []
        await world.goes_on(contents)

    play(story)


@pytest.mark.parametrize(
    ("fault", "lasts"),
    ONCE + ALWAYS,
)
def test_a_record_that_is_to_be_kept_is_not_lost_where_its_file_cannot_be_read(
    play: Play, fault: str, lasts: str
) -> None:
    """Asked again, a title fails, whose record stands: it is kept, or the harvest ends before anything is replaced."""

    async def story(world: World) -> None:
        what = FAULTS[fault]
        await world.closed(await world.harvest())
        world.tmdb.faults = scripted({("movie", POISON): [always(refusal(500))]})
        here = Place("get", FILE, "read")
        world.spoil("get", lasting(what.rule, lasts), FILE, after=LOOKED)
        report = await world.harvest(again=True)
        if lasts == "once" and what.at("get").passes:
            assert isinstance(report, HarvestReport), report
            assert (report.exit_code, report.failed) == (Exit.FAILED, {POISON: "http_500"})
        elif fault == "200 with an error":
            world.is_trouble(report, rf"{action_at(world, here)}: .+")
        else:
            world.is_trouble(report, rf"{action_at(world, here)}: {what.code}\. {what.sentence}")
        contents = await world.look()
        assert sorted(id_ for ids in contents.files.values() for id_ in ids) == FOUND
        assert not contents.waits
        await world.goes_on(contents)

    play(story)


@pytest.mark.parametrize(
    ("operation", "fault", "lasts"),
    sampled(
        [(operation, *how) for operation, how in itertools.product(["copy", "delete"], ONCE + ALWAYS)],
        lambda operation, _fault, lasts: (operation, lasts),
        lambda operation, fault, _lasts: (operation, fault),
        lambda _operation, fault, lasts: (fault, lasts),
    ),
)
def test_what_repair_cannot_move_or_remove_stays_whole_and_is_named(
    play: Play, operation: str, fault: str, lasts: str
) -> None:
    """`verify --repair` goes on with the rest and names what is left, no harvest minds, and the next repair does it."""

    async def story(world: World) -> None:
        what = FAULTS[fault]
        contents = await world.closed(await world.harvest())
        movies = min(contents.files)
        foreign, stale = f"{movies.rpartition('/')[0]}/{FOREIGN}", f"{movies.removesuffix('.json')}.2.json"
        with abroad():
            await world.lake.put(foreign, FOREIGN_BODY)
            await world.lake.put(stale, await world.lake.read(movies) or b"")
        named = {
            foreign: f"{foreign} is foreign: no run of the day has such a file; --repair moves it away",
            stale: f"{stale} is in no receipt: --repair removes it",
        }
        world.spoil(operation, lasting(what.rule, lasts))
        with capture_logs() as logs:
            verification = await verify(world.settings, repairing=True)
        vain = [foreign, stale] if operation == "delete" and lasts == "always" else [foreign]
        vain = vain if lasts == "always" or not what.passes else []
        problems = {line["key"]: line["problem"] for line in logs if line["event"] == "not_repaired"}
        assert list(problems) == vain
        for key, problem in problems.items():
            action = f"Cannot {'copy' if operation == 'copy' else 'remove'} s3://{world.lake.name}/{re.escape(key)}"
            assert re.fullmatch(rf"{action}: {what.code}\. {what.sentence}", problem)
        stays = [] if (operation, fault) == ("delete", "reset after") else vain  # removed, and the answer was lost
        assert verification.problems == [named[key] for key in stays]
        contents = await world.look()
        assert [key for key in (foreign, stale) if key in contents.foreign or key in contents.files] == stays
        copies = [key for key in contents.foreign if "/quarantine/" in key]
        assert len(copies) == (operation == "delete" or not vain or fault == "reset after")
        asked = world.tmdb.asked.total()
        report = await world.harvest()
        assert isinstance(report, HarvestReport), report
        assert (report.exit_code, report.totals.found) == (Exit.CLOSED, len(FOUND))
        assert world.tmdb.asked.total() - asked <= 1  # the key
        assert {call.operation for call in world.calls} & {"copy", "delete"} == set()
        world.heal()
        assert (await verify(world.settings, repairing=True)).problems == []
        contents = await world.look()
        assert len(contents.foreign) == len(copies) + (foreign in stays)
        assert [key for key in contents.foreign if "/quarantine/" not in key] == []

    play(story)


# --- answers that are not what they should be


def doctored(change: Callable[[bytes], bytes], *, without: str = "") -> Rule:
    """The true response, with its body changed and no checksum of it, or without a header."""

    async def rule(_call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward()
        assert isinstance(response.body, bytes)
        dropped = ("content-length", "x-amz-checksum", *([without] if without else []))  # which would not fit it
        headers = {name: value for name, value in response.headers.items() if not name.lower().startswith(dropped)}
        return web.Response(status=response.status, body=change(response.body), headers=headers)

    return rule


HALF = doctored(lambda body: body[: len(body) // 2])
EMPTY = doctored(lambda _: b"")
PORTAL = doctored(lambda _: b"<html><body>Welcome to the hotel. Please sign in.</body></html>")
TEXT = doctored(lambda _: b"Welcome to the hotel. Please sign in.")
ENDLESS = doctored(lambda body: body.replace(b">false</IsTruncated>", b">true</IsTruncated>"))
UNMARKED = doctored(lambda body: re.sub(rb"<ETag>.*?</ETag>", b"", body), without="etag")


@pytest.mark.parametrize(
    ("place", "lasts"),
    list(itertools.product(FILES_READ, ["once", "always"])),
)
def test_an_answer_that_is_not_the_file_that_is_listed_loses_and_doubles_nothing(
    play: Play, place: str, lasts: str
) -> None:
    """An error as the body of a data file: its batch is done again, or the harvest ends; the next one closes."""

    async def story(world: World) -> None:
        report, _ = await spoilt(world, PLACES[place], lasting(FAULTS["200 with an error"].rule, lasts))
        if isinstance(report, HarvestReport):
            await world.closed(report)
        else:
            assert report.exit_code in (Exit.WRONG, Exit.STORE), report
        await world.goes_on(await world.look())
        assert await world.problems() == []

    play(story)


PAGES = {"empty": EMPTY, "a portal": PORTAL, "half": HALF}

DOCUMENTS = {
    "get of the manifest": "closes",
    "get of the summary": "closes",
    "get of another run's manifest": "closes",
    "get of the ids": "closes",
    "get of another run's summary": "closes",
    "get of another run's outcomes": "closes",
    "get of another run's receipt": "closes",
    "get of a receipt": "closes",
    "get of the lease, read back": "closes",
    "get of the manifest, read back": "closes",
    "get of the manifest, to close": "is stopped",
}
"""What comes of a harvest that once reads nonsense there."""


@pytest.mark.parametrize(
    ("place", "page"),
    sampled(itertools.product(DOCUMENTS, PAGES), of_the_place, lambda _place, page: page),
)
def test_a_document_that_is_read_as_nonsense_is_as_if_it_were_not_there(play: Play, place: str, page: str) -> None:
    """What cannot be read is done again or read again, and the run closes; nothing is asked for twice on a day."""

    async def story(world: World) -> None:
        report, _ = await spoilt(world, PLACES[place], at_first(PAGES[page]))
        if DOCUMENTS[place] == "is stopped":
            assert isinstance(report, StoppedError), report
        else:
            await world.closed(report)
        await world.goes_on(await world.look())
        assert await world.problems() == []

    play(story)


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        pytest.param(place, rule, id=f"{place}-{name}")
        for name, rule in {"half": HALF, "empty": EMPTY, "a portal": PORTAL, "text": TEXT}.items()
        for place in (
            "list of the runs",
            "list of the data",
            "list of the receipts",
            "uploads of the data, to begin",
            "create of a file",
            "complete of a file",
        )
    ]
    + [
        pytest.param("list of the data", ENDLESS, id="list-more to come without a word where"),
        pytest.param("list of the data, to close", UNMARKED, id="list-without ETag"),
        pytest.param("part of a file", UNMARKED, id="part-without ETag"),
        pytest.param("complete of a file", UNMARKED, id="complete-without ETag"),
        pytest.param("put of a receipt", UNMARKED, id="put-without ETag"),
        pytest.param("put of the lease", UNMARKED, id="lease-without ETag"),
        pytest.param("get of the manifest", UNMARKED, id="get-without ETag"),
    ],
)
def test_an_answer_that_makes_no_sense_is_the_stores_trouble(play: Play, place: str, rule: Rule) -> None:
    """Half an answer, none or another's is exit 4: neither an empty bucket, harvested anew, nor a bug of ours."""

    async def story(world: World) -> None:
        here = PLACES[place]
        error, _ = await spoilt(world, here, rule)
        world.is_trouble(error, rf"{action_at(world, here)}: .+\. (.+ )?{SAFE}", deadlines=here.calls)
        await world.goes_on(await world.look())

    play(story)


EDGES = [
    "list of the runs",
    "get of the manifest",
    "put of the lease",
    "create of a file",
    "part of a file",
    "put of a receipt",
]


def of_the_answer(_place: str, status: int, body: str) -> object:
    return status, body


@pytest.mark.parametrize(
    ("place", "status", "body"),
    sampled(
        [
            (place, *answer)
            for place in EDGES
            for answer in [
                (500, "<Error><Code>Inter"),
                (502, "<html>Bad gateway</html>"),
                (503, ""),
                (504, "Gateway timeout"),
            ]
        ],
        of_the_place,
        of_the_answer,
    ),
)
def test_an_error_in_other_words_than_s3s_passes_by_its_status(play: Play, place: str, status: int, body: str) -> None:
    """A balancer's page, half an error or none at all: what may pass is asked again, whatever it is written in."""

    async def story(world: World) -> None:
        report, _ = await spoilt(world, PLACES[place], at_first(answering(status, body)))
        await world.closed(report)

    play(story)


@pytest.mark.parametrize(
    ("place", "status", "body"),
    sampled(
        [
            (place, *answer)
            for place in EDGES
            for answer in [(403, "<html>Blocked</html>"), (403, ""), (502, "<html>Bad gateway</html>")]
        ],
        of_the_place,
        of_the_answer,
    ),
)
def test_an_error_in_other_words_than_s3s_is_named_by_its_status(
    play: Play, place: str, status: int, body: str
) -> None:
    """Where S3 has no word for it, the sentence has at least the number."""

    async def story(world: World) -> None:
        here = PLACES[place]
        error, _ = await spoilt(world, here, answering(status, body))
        world.is_trouble(error, rf"{action_at(world, here)}: .*\b{status}\b.*{SAFE}", deadlines=here.calls)
        await world.goes_on(await world.look())

    play(story)


# --- pages


def in_pages(rule: Rule) -> Rule:
    """The true listings, a key a page, where S3 gives a thousand; the rule is for the second page."""
    pages: dict[str, list[str]] = {}

    async def paged(call: Call, forward: Forward) -> web.StreamResponse:
        async def page() -> web.Response:
            number = int(call.request.query.get("continuation-token", 0))
            if number == 0:
                whole = (await forward()).text or ""
                pages[call.key] = [match[0] for match in re.finditer(r"<(Contents|CommonPrefixes)>.*?</\1>", whole)]
            more = "true" if number + 1 < len(pages[call.key]) else "false"
            return web.Response(
                text=f"<ListBucketResult><IsTruncated>{more}</IsTruncated><NextContinuationToken>{number + 1}"
                f"</NextContinuationToken>{''.join(pages[call.key][number : number + 1])}</ListBucketResult>",
                content_type="application/xml",
            )

        second = call.request.query.get("continuation-token") == "1"
        return await (rule(call, page) if second else page())

    return paged


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if FAULTS[fault].passes])
def test_a_listing_whose_second_page_fails_once_is_whole(play: Play, fault: str) -> None:
    """No page is left out: what has a receipt on any page is done, and TMDB is asked nothing."""

    async def story(world: World) -> None:
        await world.harvest()
        asked = world.tmdb.asked.total()
        world.spoil("list", in_pages(at_first(FAULTS[fault].rule)))
        report = await world.harvest()
        assert isinstance(report, HarvestReport), report
        assert (report.status, report.totals.found) == ("nothing_to_do", len(FOUND))
        assert world.tmdb.asked.total() == asked
        pages = Counter(call.key.removeprefix(world.prefix) for call in world.calls if call.operation == "list")
        assert max(pages.values()) == 5  # twice the lease and the run, and one of them again

    play(story)


@pytest.mark.parametrize("keys", ["_harvest/", RUN + "receipts/"], ids=["runs", "receipts"])
def test_a_listing_whose_second_page_is_refused_is_no_listing(play: Play, keys: str) -> None:
    """What the first page does not show is not taken for missing: exit 4, with nothing asked and nothing written."""

    async def story(world: World) -> None:
        await world.harvest()
        asked = world.tmdb.asked.total()
        world.spoil("list", in_pages(refusing(403, "AccessDenied")), keys)
        action = f"Cannot list s3://{world.lake.name}/{world.prefix}/{keys}"
        world.is_trouble(await world.harvest(), rf"{action}: AccessDenied\. {re.escape(ADVICE['AccessDenied'])}")
        assert world.tmdb.asked.total() == asked
        assert {call.operation for call in world.calls} <= {"list", "get"}
        await world.goes_on(await world.look())

    play(story)


# --- uploads that go wrong in their own ways


@pytest.mark.parametrize(
    ("place", "status", "code", "message"),
    [
        ("complete", 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold"),
        ("complete", 400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size"),
        ("complete", 400, "InvalidPart", "One or more of the specified parts could not be found."),
        ("complete", 400, "InvalidPartOrder", "The list of parts was not in ascending order."),
        ("part", 400, "BadDigest", "The CRC32 you specified did not match the calculated checksum."),
        ("create", 400, "InvalidRequest", "Object Lock configuration is missing."),
    ],
)
def test_an_upload_that_s3_refuses_is_done_again_by_the_next_harvest(
    play: Play, place: str, status: int, code: str, message: str
) -> None:
    """What S3 finds wrong is reported in its words, as a sentence; the upload is aborted and its batch stays open."""

    async def story(world: World) -> None:
        here = PLACES[f"{place} of a file"]
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        error, _ = await spoilt(world, here, at_first(answering(status, body)))
        world.is_trouble(error, rf"{action_at(world, here)}: {code}\. {message.rstrip('.')}\. {SAFE}")
        contents = await world.look()
        assert contents.uploads == []
        await world.goes_on(contents)

    play(story)


@pytest.mark.parametrize(
    "place", ["part of a file", "complete of a file", "complete of the ids", "complete of the outcomes"]
)
def test_an_upload_that_is_gone_is_begun_anew(play: Play, place: str) -> None:
    """Another harvester of the same ids has aborted it, or it was completed and the answer lost: the batch lands."""

    async def story(world: World) -> None:
        report, _ = await spoilt(world, PLACES[place], at_first(refusing(404, "NoSuchUpload")))
        assert (getattr(report, "status", report), (await world.look()).uploads) == ("closed", [])

    play(story)


def test_a_completion_whose_answer_is_lost_lands_or_is_done_again(play: Play) -> None:
    """S3 has done it, the answer was lost, and the second try meets an upload that is gone: nothing is lost by that."""

    async def story(world: World) -> None:
        await spoilt(world, PLACES["complete of a file"], at_first(reset_after, refusing(404, "NoSuchUpload")))
        contents = await world.look()
        assert (len(contents.files) >= 1, contents.uploads) == (True, [])
        await world.goes_on(contents)

    play(story)


def test_a_second_file_that_is_refused_leaves_its_batch_open(play: Play) -> None:
    """A batch of two files, the second refused in its second part: the first alone is no receipt's."""

    async def story(world: World) -> None:
        async def second_part(call: Call, forward: Forward) -> web.StreamResponse:
            return await (refusing(403, "AccessDenied")(call, forward) if call.part == 2 else forward())

        world.spoil("part", second_part, DAY + r".+\.2\.json")
        action = f"Cannot upload s3://{world.lake.name}/{world.prefix}/{DAY}"
        world.is_trouble(await world.harvest(), rf"{action}.+\.2\.json: AccessDenied\. .+")
        contents = await world.look()
        assert contents.uploads == []
        assert "Movies" not in {receipt.collection for receipt in contents.receipts}
        assert MOVIES[:1] in [tuple(ids) for ids in contents.files.values()]
        await world.goes_on(contents)

    large = Catalog(kinds=CATALOG.kinds, otherwise="movie", record_bytes=6_000_000)
    play(story, catalog=large)


# --- trouble in the midst of a harvest


@pytest.mark.parametrize(
    ("status", "code", "does"),
    [
        (400, "ExpiredToken", r"log in again \(`aws sso login`\), then run again"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_credentials_that_end_in_the_midst_say_what_to_do(play: Play, status: int, code: str, does: str) -> None:
    """From one request to the next nothing is allowed any more: exit 4, what to fix, and what has landed is kept."""

    async def story(world: World) -> None:
        world.spoil("*", refusing(status, code), after=LANDED)
        world.is_trouble(await world.harvest(), rf"Cannot .+: {code}\. .*{does}.*")
        contents = await world.look()
        assert len(contents.receipts) == 1
        await world.goes_on(contents)

    play(story)


def test_an_s3_that_slows_every_client_for_two_minutes_ends_harvests_and_damages_nothing(play: Play) -> None:
    """Started every half minute, a harvest ends with exit 4 while that lasts, keeps S3 quiet, and then closes."""

    async def story(world: World) -> None:
        loop = asyncio.get_running_loop()
        began: list[float] = []

        async def busy(call: Call, forward: Forward) -> web.StreamResponse:
            began.append(loop.time())
            slow = began[-1] < began[0] + 120
            return await (refusing(503, "SlowDown")(call, forward) if slow else forward())

        world.spoil("*", busy, after=LANDED)
        ends = 0
        while isinstance(report := await world.harvest(takes_over=True), StoreError):
            world.is_trouble(report, rf"Cannot .+: SlowDown\. {GO_ON}")
            assert len((await world.look()).receipts) == 1
            ends += 1
            await asyncio.sleep(30)
        assert 1 <= ends <= 4
        await world.closed(report)

    play(story)
