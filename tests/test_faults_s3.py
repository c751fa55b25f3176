"""What S3 can do wrong, at every request of a harvest: a table of places and faults, each once and for good.

Between harvester and S3 stands the link, which does to the requests of one place what a fault says. What came of it is
looked at past the link, and is the same everywhere: objects are whole, a receipt speaks of what is there, and the next
harvest closes the books, asking TMDB for nothing but batches without a receipt.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from botocore.httpsession import where
from conftest import Silent, capture_logs, client_of
from loops import Leaping, abroad, in_its_time, no_wait, run_on

from harvester.demo.catalog import Catalog, movie_record, tv_record
from harvester.demo.faults import refusal, scripted
from harvester.demo.s3_link import answering, at_first, on_keys, refusing, reset, reset_after, s3_link, silent
from harvester.demo.tmdb_stand_in import KEY, stand_in
from harvester.errors import Exit, StoreError
from harvester.harvest import Report, harvest
from harvester.receipts import Receipt, decode_plan, decode_receipt
from harvester.records import decode
from harvester.s3 import CALL_SECONDS
from harvester.s3_client import open_bucket
from harvester.s3_trouble import ADVICE
from harvester.stop import Stop
from harvester.verify import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from harvester.demo.s3_link import Call, Forward, Link, Rule
    from harvester.demo.s3_server import S3Server
    from harvester.demo.tmdb_stand_in import StandIn
    from harvester.s3 import Bucket
    from harvester.settings import Settings

    Make = Callable[..., Settings]
    Story = Callable[["World"], Coroutine[Any, Any, None]]
    Tell = Callable[..., None]

MOVIES, SERIES = ("tt0000001", "tt0000002"), ("tt0900001",)
FOUND = [*MOVIES, *SERIES]
"""Two batches, and all that must have landed of them in the end."""

POISON = MOVIES[1]
CATALOG = Catalog(kinds={SERIES[0]: "tv"}, otherwise="movie")

ATTEMPTS, PATIENT = 5, 7
"""Requests that botocore makes of one call: until the plan is written, and from then on."""

MOST_CALLS = 21 + 2 * (2 * PATIENT - 1)
"""Calls of a harvest: 19 when all is well, and one of each batch to the end, which aiohttp doubles at a reset."""

NOON = "2026-11-22T12:00:00.000Z"

STRANGER, STRANGE = "export.json", b'{"made": "by somebody else"}'

_numbers = itertools.count(1)

# --- a harvest with a link before S3


@dataclass(frozen=True, slots=True)
class Seen:
    """What stands in the bucket, found whole.

    Attributes:
        files: The ids in each data file, by its key.
        receipts: Those of batches that are done.
        uploads: The keys of unfinished uploads.
        strangers: The keys of what somebody else has put there.
    """

    files: dict[str, list[str]]
    receipts: list[Receipt]
    uploads: list[str]
    strangers: list[str]


@dataclass(slots=True)
class World:
    """One TMDB, one folder of a bucket, and the link before it.

    Attributes:
        settings: Those of a harvest through the link.
        past: Those of somebody who reaches S3 past it.
        lake: The bucket, past the link.
        calls: What the last harvest asked of S3.
        seconds: How long it took, by the loop.
        struck: For each rule there has been, how many calls got another answer than S3's.
    """

    tmdb: StandIn
    link: Link
    settings: Settings
    past: Settings
    lake: Bucket
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.0
    struck: dict[str, int] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return self.settings.s3_prefix

    def spoil(self, operation: str, rule: Rule, keys: str = ".*") -> None:
        """The rule, for all calls of this operation with these keys below the prefix; one of them must come."""
        where = rf"^{self.prefix}/{keys}$"
        self.link.rules[operation] = in_its_time(on_keys(where, self.counted(f"{operation} of {where}", rule)))

    def counted(self, name: str, rule: Rule) -> Rule:
        """The rule, each answer of it counted that is not S3's own."""
        self.struck[name] = 0

        async def told(call: Call, forward: Forward) -> web.StreamResponse:
            s3s: list[web.Response] = []

            async def noted() -> web.Response:
                s3s.append(await forward())
                return s3s[-1]

            answer = None
            try:
                answer = await rule(call, noted)
            finally:  # or the silence was cancelled
                self.struck[name] += all(answer is not own for own in s3s)
            return answer

        return told

    def after_a_receipt(self, rule: Rule) -> Rule:
        """The rule, for whatever is asked when a batch has landed."""

        async def late(call: Call, forward: Forward) -> web.StreamResponse:
            before = (one for one in self.link.seen if one is not call)
            landed = any(one.operation == "put" and "/receipts/" in one.key for one in before)
            return await (rule(call, forward) if landed else forward())

        return late

    def heal(self) -> None:
        self.link.rules.clear()
        self.link.rules["*"] = in_its_time(at_first())

    async def harvest(self, *, limit: int | None = None) -> Report | StoreError:
        """Harvest through the link: what it reports, or that S3 was the trouble."""
        loop, before = asyncio.get_running_loop(), len(self.link.seen)
        began = loop.time()
        try:
            stop = Stop(limit=limit)
            return await harvest(self.settings, watcher=Silent(), stop=stop, sleep=no_wait, now=lambda: NOON)
        except StoreError as error:
            return error
        finally:
            self.calls, self.seconds = self.link.seen[before:], loop.time() - began

    async def look(self) -> Seen:
        """Read everything, and be sure that every object is whole, and every receipt true."""
        with abroad():
            bodies = {key: await self.lake.read(key) or b"" for key in await self.lake.objects(f"{self.prefix}/")}
            uploads = [key for key, _ in await self.lake.uploads(f"{self.prefix}/")]
        seen = Seen({}, [], uploads, [])
        for key, body in bodies.items():
            if key.endswith(STRANGER):
                assert body == STRANGE
                seen.strangers.append(key)
            elif "/_harvest/" not in key:
                seen.files[key] = [self.whole(record) for record in decode(body)]
            elif "/receipts/" in key:
                seen.receipts.append(decode_receipt(key, body))
            elif "/failed/" in key:
                decode_receipt(key, body)
            elif key.endswith("/plan.json"):
                decode_plan(key, body)
            else:
                assert orjson.loads(body)["books"]["found"] == len(FOUND)
        for receipt in seen.receipts:
            assert [id_ for file in receipt.files for id_ in seen.files[file.key]] == list(receipt.ids)
            for file in receipt.files:
                landed = bodies[file.key]
                assert (len(landed), sha256(landed).hexdigest()) == (file.bytes, file.sha256)
        return seen

    def whole(self, record: dict[str, Any]) -> str:
        """The id of a record, found to be all that TMDB has under it."""
        id_, catalog = str(record["imdb_id"]), self.tmdb.catalog
        sent = movie_record(catalog, id_) or tv_record(catalog, id_) or {}
        assert {name: value for name, value in record.items() if name != "harvest"} == sent | {"imdb_id": id_}
        return id_

    async def closed(self, report: Report | StoreError) -> None:
        """Be sure that the books are closed: nothing is lost, nothing double, nothing left behind."""
        assert isinstance(report, Report), report
        assert (report.exit_code, report.books.found) == (Exit.CLOSED, len(FOUND))
        seen = await self.look()
        assert sorted(id_ for ids in seen.files.values() for id_ in ids) == FOUND
        assert seen.uploads == []

    async def problems(self) -> list[str]:
        """What `verify` finds wrong."""
        with abroad():
            return (await verify(self.past)).problems

    async def goes_on(self, seen: Seen) -> None:
        """Be sure that the next harvest, without a fault, closes the books and asks only for what was not done."""
        self.heal()
        done = {id_ for receipt in seen.receipts for id_ in receipt.ids}
        asked = Counter(self.tmdb.asked)
        report = await self.harvest()
        again = {id_ for route, id_ in Counter(self.tmdb.asked) - asked if route != "authentication"}
        assert again == {*FOUND} - done
        await self.closed(report)

    def told(self, error: Report | StoreError, sentence: str) -> None:
        """Be sure that the harvest has ended with exit 4, soon, and with this sentence (a regular expression)."""
        assert isinstance(error, StoreError), error
        assert error.exit_code == Exit.STORE
        assert re.fullmatch(sentence, str(error)), str(error)
        assert not any(secret in str(error) for secret in (KEY, *(self.settings.credentials or ())) if secret)
        assert len(self.calls) <= MOST_CALLS
        assert self.seconds < 2 * CALL_SECONDS


@asynccontextmanager
async def world_of(s3: S3Server, name: str, make: Make, **options: Any) -> AsyncIterator[World]:
    prefix = f"Raw/{next(_numbers)}"
    credentials = (s3.access_key, s3.secret_key, None)
    async with (
        stand_in(**{"catalog": CATALOG} | options) as tmdb,
        s3_link(s3.endpoint) as link,
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
def tell(s3: S3Server, bucket: Bucket, settings_for: Make) -> Tell:
    """Runs a story to its end in a world of its own, on a loop that loses no time waiting; every fault must be met."""

    def run(story: Story, **options: Any) -> None:
        async def whole_story() -> None:
            async with world_of(s3, bucket.name, settings_for, **options) as world:
                await story(world)
                assert [name for name, times in world.struck.items() if not times] == []

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


# --- the table


async def nothing(world: World) -> None:
    """The bucket is empty."""


async def interrupted(world: World) -> None:
    """The movies have landed, the series have not."""
    report = await world.harvest(limit=1)
    assert isinstance(report, Report), report
    assert (report.exit_code, report.batches_left) == (Exit.STOPPED, 1)


async def copied(world: World) -> None:
    """The movies have landed, and have been copied: they have another mark, so that they are read to be known."""
    await interrupted(world)
    with abroad():
        for key in await world.lake.objects(f"{world.prefix}/Movies/"):
            await world.lake.put(key, await world.lake.read(key) or b"")


async def visited(world: World) -> None:
    """The movies have landed, and somebody has put a file of his own beside them."""
    await interrupted(world)
    with abroad():
        for key in await world.lake.objects(f"{world.prefix}/Movies/"):
            await world.lake.put(f"{key.rpartition('/')[0]}/{STRANGER}", STRANGE)


async def failed(world: World) -> None:
    """A movie has failed, so that its batch is tried again, and the paper about it will be removed."""
    world.tmdb.faults = scripted({("movie", POISON): [refusal(500)] * 7})
    report = await world.harvest()
    assert isinstance(report, Report), report
    assert (report.exit_code, report.failed) == (Exit.FAILED, {POISON: "http_500"})


RUN = r"_harvest/\d{4}-\d\d-\d\d-[0-9a-f]{8}/"
DAY = r"(Movies|Series)/\d{4}/\d\d/\d\d/"
FILE = DAY + r"tt\d{7}-tt\d{7}-[0-9a-f]{8}\.json"


@dataclass(frozen=True, slots=True)
class Place:
    """One request of a harvest.

    Attributes:
        operation: What it asks of S3.
        keys: Of which keys, below the prefix.
        verb: What we call it in a sentence.
        before: What must have been for a harvest to come there.
        late: Whether the same is asked before anything has landed, which is another place.
        attempts: How often botocore asks.
    """

    operation: str
    keys: str
    verb: str
    before: Callable[[World], Awaitable[None]] = nothing
    late: bool = False
    attempts: int = PATIENT


PLACES = {
    "list of the runs": Place("list", "_harvest/", "list", attempts=ATTEMPTS),
    "get of the plan": Place("get", RUN + "plan.json", "read", interrupted, attempts=ATTEMPTS),
    "get of the summary": Place("get", RUN + "summary.json", "read", interrupted, attempts=ATTEMPTS),
    "list of the run": Place("list", RUN, "list", attempts=ATTEMPTS),
    "list of the data": Place("list", DAY, "list", attempts=ATTEMPTS),
    "uploads": Place("uploads", DAY, "list the uploads of", attempts=ATTEMPTS),
    "get of a receipt": Place("get", RUN + "receipts/.+", "read", interrupted, attempts=ATTEMPTS),
    "get of a file": Place("get", FILE, "read", copied, attempts=ATTEMPTS),
    "put of the plan": Place("put", RUN + "plan.json", "write", attempts=ATTEMPTS),
    "create": Place("create", FILE, "begin"),
    "part": Place("part", FILE, "upload"),
    "complete": Place("complete", FILE, "complete"),
    "put of a receipt": Place("put", RUN + "receipts/.+", "write"),
    "delete": Place("delete", RUN + "failed/.+", "remove", failed),
    "list of the run, to close": Place("list", RUN, "list", late=True),
    "list of the data, to close": Place("list", DAY, "list", late=True),
    "put of the summary": Place("put", RUN + "summary.json", "write"),
}
"""In the order of the road; `abort` and `copy`, whose trouble is not the harvest's, have tests of their own below."""

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

    def tries(self, attempts: int = PATIENT) -> tuple[int, int]:
        """Requests of one call that meets nothing else, at least and at most."""
        if self.rule is silent:
            return 3, 3  # 20 s each, before the deadline
        return (attempts, attempts * (1 + self.twice)) if self.passes else (1, 1)

    @property
    def sentence(self) -> str:
        """The advice as a regular expression; where nobody was reached, who it was stands before it."""
        who = r"http://127\.0\.0\.1:\d+ breaks the connection\. " if self.advice == NETWORK else ""
        return who + re.escape(self.advice)


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
THROUGH = [
    (place, fault)
    for place in PLACES
    for fault in FAULTS
    if not (PLACES[place].operation == "get" and fault == "200 with an error")
]
"""The table; an error that comes as the body of a GET is no error, but a body, and has a test of its own below."""


def lasting(rule: Rule, lasts: str) -> Rule:
    return at_first(rule) if lasts == "once" else rule


async def spoilt(world: World, place: Place, fault: Fault, lasts: str) -> Report | StoreError:
    """What comes of a harvest with this fault at this place."""
    await place.before(world)
    rule = lasting(fault.rule, lasts)
    world.spoil(place.operation, world.after_a_receipt(rule) if place.late else rule, place.keys)
    return await world.harvest()


@pytest.mark.parametrize(("place", "fault"), [(place, fault) for place, fault in THROUGH if FAULTS[fault].passes])
def test_a_fault_that_passes_is_nobodys_business(tell: Tell, place: str, fault: str) -> None:
    """Where botocore asks again, one fault at any request leaves closed books and nothing else."""

    async def story(world: World) -> None:
        report = await spoilt(world, PLACES[place], FAULTS[fault], "once")
        assert len(world.calls) <= MOST_CALLS
        await world.closed(report)
        assert await world.problems() == []

    tell(story)


@pytest.mark.parametrize(
    ("place", "fault", "lasts"),
    [(*one, "once") for one in THROUGH if not FAULTS[one[1]].passes] + [(*one, "always") for one in THROUGH],
)
def test_a_fault_that_stays_ends_the_harvest_and_the_next_one_closes_the_books(
    tell: Tell, place: str, fault: str, lasts: str
) -> None:
    """It ends soon, with exit 4, action, key, S3's word and what to do; nothing is lost, half there or left behind."""

    async def story(world: World) -> None:
        here, what = PLACES[place], FAULTS[fault]
        error = await spoilt(world, here, what, lasts)
        action = f"Cannot {here.verb} s3://{world.lake.name}/{world.prefix}/{here.keys}"
        world.told(error, rf"{action}: {what.code}\. {what.sentence}")
        tries = Counter(call.key for call in world.calls if call.operation == here.operation)
        least, most = what.tries(here.attempts)
        assert least <= max(tries.values()) - here.late <= most
        # Uploads that have begun without our knowing, no answer having come, are left to the next harvest.
        unknown = tries.total() if (place, fault) == ("create", "reset after") else 0
        seen = await world.look()
        assert len(seen.uploads) <= unknown
        await world.goes_on(seen)

    tell(story)


@pytest.mark.parametrize(("fault", "lasts"), ONCE + ALWAYS)
def test_an_abort_that_fails_leaves_an_upload_to_the_next_harvest(tell: Tell, fault: str, lasts: str) -> None:
    """What is told is why an upload had to be aborted; that it could not be is logged, and mended next time."""

    async def story(world: World) -> None:
        what = FAULTS[fault]
        world.spoil("part", at_first(refusing(403, "AccessDenied")))
        world.spoil("abort", lasting(what.rule, lasts))
        with capture_logs() as logs:
            error = await world.harvest()
        action = f"s3://{world.lake.name}/{world.prefix}/{FILE}"
        world.told(error, rf"Cannot upload {action}: AccessDenied\. {re.escape(ADVICE['AccessDenied'])}")
        tries = Counter(call.key for call in world.calls if call.operation == "abort")
        assert max(tries.values()) <= what.tries()[1]
        vain = len(tries) if lasts == "always" else int(not what.passes)
        left = [line for line in logs if line["event"] == "upload_left_unfinished"]
        assert len(left) == vain
        sentence = rf"Cannot abort {action}: {what.code}\. {what.sentence}"
        for line in left:  # the other batch, cancelled, has but four seconds
            assert re.fullmatch(f"{world.prefix}/{FILE}", line["key"])
            assert line["problem"] == "no answer" or re.fullmatch(sentence, line["problem"])
        seen = await world.look()
        # The other batch may have been cancelled while S3 completed its upload: then there is none to abort.
        open_ones = [line["key"] for line in left if line["key"] not in seen.files]
        assert sorted(seen.uploads) == ([] if fault == "reset after" else sorted(open_ones))
        await world.goes_on(seen)

    tell(story)


@pytest.mark.parametrize(("fault", "lasts"), ONCE + ALWAYS)
def test_a_stranger_that_cannot_be_set_aside_stays_and_keeps_nobody(tell: Tell, fault: str, lasts: str) -> None:
    """The file of somebody else is whole, here or there or both, and the books close without it."""

    async def story(world: World) -> None:
        what = FAULTS[fault]
        await visited(world)
        world.spoil("copy", lasting(what.rule, lasts))
        with capture_logs() as logs:
            report = await world.harvest()
        assert isinstance(report, Report), report
        assert report.exit_code == Exit.CLOSED
        seen = await world.look()
        stays = [key for key in seen.strangers if "/_harvest/" not in key]
        problems = [line["problem"] for line in logs if line["event"] == "stranger_stays"]
        assert len(stays) == len(problems) == (lasts == "always" or not what.passes)
        for problem in problems:
            action = rf"Cannot copy s3://{world.lake.name}/{world.prefix}/{DAY}{STRANGER}"
            assert re.fullmatch(rf"{action}: {what.code}\. {what.sentence}", problem)
        assert await world.problems() == [f"{key} is in no receipt" for key in stays]
        await world.goes_on(seen)
        assert ["/_harvest/" in key for key in (await world.look()).strangers] == [True]
        assert await world.problems() == []

    tell(story)


@pytest.mark.parametrize("lasts", ["once", "always"])
@pytest.mark.parametrize("place", [place for place in PLACES if PLACES[place].operation == "get"])
def test_an_error_that_comes_as_a_body_is_a_damaged_paper(tell: Tell, place: str, lasts: str) -> None:
    """What cannot be read is done again or written anew, and the books close."""

    async def story(world: World) -> None:
        await world.closed(await spoilt(world, PLACES[place], FAULTS["200 with an error"], lasts))
        assert await world.problems() == []

    tell(story)


# --- answers that make no sense


def doctored(change: Callable[[bytes], bytes], *, without: str = "") -> Rule:
    """The true answer, with its body changed, or without a header."""

    async def rule(_call: Call, forward: Forward) -> web.StreamResponse:
        answer = await forward()
        assert isinstance(answer.body, bytes)
        kept = {
            name: value for name, value in answer.headers.items() if name.lower() not in {"content-length", without}
        }
        return web.Response(status=answer.status, body=change(answer.body), headers=kept)

    return rule


HALF = doctored(lambda body: body[: len(body) // 2])
EMPTY = doctored(lambda _: b"")
PORTAL = doctored(lambda _: b"<html><body>Welcome to the hotel. Please sign in.</body></html>")
TEXT = doctored(lambda _: b"Welcome to the hotel. Please sign in.")
ENDLESS = doctored(lambda body: body.replace(b">false</IsTruncated>", b">true</IsTruncated>"))
UNMARKED = doctored(lambda body: re.sub(rb"<ETag>.*?</ETag>", b"", body), without="etag")


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        pytest.param(place, rule, id=f"{place}-{name}")
        for name, rule in {"half": HALF, "empty": EMPTY, "a portal": PORTAL, "text": TEXT}.items()
        for place in ("list of the runs", "list of the run", "list of the data", "uploads", "create", "complete")
    ]
    + [
        pytest.param("list of the data", ENDLESS, id="list-more to come without a word where"),
        pytest.param("list of the data, to close", UNMARKED, id="list-without ETag"),
        pytest.param("part", UNMARKED, id="part-without ETag"),
        pytest.param("complete", UNMARKED, id="complete-without ETag"),
        pytest.param("put of a receipt", UNMARKED, id="put-without ETag"),
    ],
)
def test_an_answer_that_makes_no_sense_is_the_stores_trouble(tell: Tell, place: str, rule: Rule) -> None:
    """Half an answer, none or another's is exit 4: neither an empty bucket, harvested anew, nor a bug of ours."""

    async def story(world: World) -> None:
        here = PLACES[place]
        error = await spoilt(world, here, Fault(rule, "", ""), "always")
        action = f"Cannot {here.verb} s3://{world.lake.name}/{world.prefix}/{here.keys}"
        world.told(error, rf"{action}: .+\. (.+ )?{SAFE}")
        await world.goes_on(await world.look())

    tell(story)


EDGES = ["list of the runs", "get of the plan", "create", "part", "put of a receipt"]


@pytest.mark.parametrize("place", EDGES)
@pytest.mark.parametrize(
    ("status", "body"),
    [(500, "<Error><Code>Inter"), (502, "<html>Bad gateway</html>"), (503, ""), (504, "Gateway timeout")],
)
def test_an_error_in_other_words_than_s3s_passes_by_its_status(tell: Tell, place: str, status: int, body: str) -> None:
    """A balancer's page, half an error or none at all: what may pass is asked again, whatever it is written in."""

    async def story(world: World) -> None:
        await world.closed(await spoilt(world, PLACES[place], Fault(answering(status, body), "", ""), "once"))

    tell(story)


@pytest.mark.parametrize("place", EDGES)
@pytest.mark.parametrize(
    ("status", "body"), [(403, "<html>Blocked</html>"), (403, ""), (502, "<html>Bad gateway</html>")]
)
def test_an_error_in_other_words_than_s3s_is_told_by_its_status(tell: Tell, place: str, status: int, body: str) -> None:
    """Where S3 has no word for it, the sentence has at least the number."""

    async def story(world: World) -> None:
        here = PLACES[place]
        error = await spoilt(world, here, Fault(answering(status, body), "", ""), "always")
        action = f"Cannot {here.verb} s3://{world.lake.name}/{world.prefix}/{here.keys}"
        world.told(error, rf"{action}: .*\b{status}\b.*{SAFE}")
        await world.goes_on(await world.look())

    tell(story)


# --- pages


def in_pages(rule: Rule) -> Rule:
    """The true listings, a key a page, where S3 gives a thousand; the rule is for the second page."""
    pages: dict[str, list[str]] = {}

    async def paged(call: Call, forward: Forward) -> web.StreamResponse:
        async def page() -> web.Response:
            number = int(call.request.query.get("continuation-token", 0))
            if number == 0:
                whole = (await forward()).text or ""
                pages[call.key] = [found[0] for found in re.finditer(r"<(Contents|CommonPrefixes)>.*?</\1>", whole)]
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
def test_a_listing_whose_second_page_fails_once_is_whole(tell: Tell, fault: str) -> None:
    """No page is left out: what has a receipt on any page is done, and TMDB is asked nothing."""

    async def story(world: World) -> None:
        await world.harvest()
        asked = world.tmdb.asked.total()
        world.spoil("list", in_pages(at_first(FAULTS[fault].rule)))
        report = await world.harvest()
        assert isinstance(report, Report), report
        assert (report.status, report.books.found) == ("nothing_to_do", len(FOUND))
        assert world.tmdb.asked.total() == asked
        pages = Counter(call.key.removeprefix(world.prefix) for call in world.calls if call.operation == "list")
        assert max(pages.values()) > 4  # the plan, two receipts and the summary, and one of them again

    tell(story)


def test_a_listing_whose_second_page_is_refused_is_no_listing(tell: Tell) -> None:
    """What the first page does not show is not taken for missing: exit 4, with nothing asked and nothing written."""

    async def story(world: World) -> None:
        await world.harvest()
        asked = world.tmdb.asked.total()
        world.spoil("list", in_pages(refusing(403, "AccessDenied")))
        folder = f"s3://{world.lake.name}/{world.prefix}/{RUN}"
        world.told(await world.harvest(), rf"Cannot list {folder}: AccessDenied\. {re.escape(ADVICE['AccessDenied'])}")
        assert world.tmdb.asked.total() == asked
        assert {call.operation for call in world.calls} == {"list", "get"}
        await world.goes_on(await world.look())

    tell(story)


# --- uploads that go wrong in their own ways


@pytest.mark.parametrize(
    ("place", "status", "code", "said"),
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
    tell: Tell, place: str, status: int, code: str, said: str
) -> None:
    """What S3 finds wrong is told in its words, as a sentence; the upload is aborted and its batch stays open."""

    async def story(world: World) -> None:
        here, body = PLACES[place], f"<Error><Code>{code}</Code><Message>{said}</Message></Error>"
        error = await spoilt(world, here, Fault(answering(status, body), "", ""), "once")
        action = f"Cannot {here.verb} s3://{world.lake.name}/{world.prefix}/{here.keys}"
        world.told(error, rf"{action}: {code}\. {said.rstrip('.')}\. {SAFE}")
        seen = await world.look()
        assert seen.uploads == []
        await world.goes_on(seen)

    tell(story)


@pytest.mark.parametrize("place", ["part", "complete"])
def test_an_upload_that_is_gone_is_begun_anew(tell: Tell, place: str) -> None:
    """Another harvester of the same ids has aborted it, or it was completed and nobody heard: the batch lands."""

    async def story(world: World) -> None:
        report = await spoilt(world, PLACES[place], Fault(refusing(404, "NoSuchUpload"), "", ""), "once")
        assert (getattr(report, "status", report), (await world.look()).uploads) == ("closed", [])

    tell(story)


def test_a_completion_whose_answer_is_lost_lands_or_is_done_again(tell: Tell) -> None:
    """S3 has done it, nobody heard, and the second try meets an upload that is gone: nothing is lost by that."""

    async def story(world: World) -> None:
        lost = Fault(at_first(reset_after, refusing(404, "NoSuchUpload")), "", "")
        await spoilt(world, PLACES["complete"], lost, "always")
        seen = await world.look()
        assert (len(seen.files) >= 1, seen.uploads) == (True, [])
        await world.goes_on(seen)

    tell(story)


def test_a_second_file_that_is_refused_leaves_its_batch_open(tell: Tell) -> None:
    """A batch of two files, the second refused in its second part: the first alone is no receipt's."""

    async def story(world: World) -> None:
        async def second_part(call: Call, forward: Forward) -> web.StreamResponse:
            return await (refusing(403, "AccessDenied")(call, forward) if call.part == 2 else forward())

        world.spoil("part", second_part, DAY + r".+\.2\.json")
        action = f"s3://{world.lake.name}/{world.prefix}/{DAY}"
        world.told(await world.harvest(), rf"Cannot upload {action}.+\.2\.json: AccessDenied\. .+")
        seen = await world.look()
        assert seen.uploads == []
        assert "Movies" not in {receipt.collection for receipt in seen.receipts}
        assert MOVIES[:1] in [tuple(ids) for ids in seen.files.values()]
        await world.goes_on(seen)

    large = Catalog(kinds=CATALOG.kinds, otherwise="movie", record_bytes=6_000_000)
    tell(story, catalog=large)


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
def test_credentials_that_end_in_the_midst_say_what_to_do(tell: Tell, status: int, code: str, does: str) -> None:
    """From one request to the next nothing is allowed any more: exit 4, what to mend, and what has landed is kept."""

    async def story(world: World) -> None:
        world.spoil("*", world.after_a_receipt(refusing(status, code)))
        world.told(await world.harvest(), rf"Cannot .+: {code}\. .*{does}.*")
        seen = await world.look()
        assert len(seen.receipts) == 1
        await world.goes_on(seen)

    tell(story)


def test_an_s3_that_slows_everybody_down_for_two_minutes_ends_harvests_and_harms_nothing(tell: Tell) -> None:
    """Started every half minute, a harvest ends with exit 4 while that lasts, keeps S3 quiet, and then closes."""

    async def story(world: World) -> None:
        loop = asyncio.get_running_loop()
        began: list[float] = []

        async def busy(call: Call, forward: Forward) -> web.StreamResponse:
            began.append(loop.time())
            slow = began[-1] < began[0] + 120
            return await (refusing(503, "SlowDown")(call, forward) if slow else forward())

        world.spoil("*", world.after_a_receipt(busy))
        ends = 0
        while isinstance(report := await world.harvest(), StoreError):
            world.told(report, rf"Cannot .+: SlowDown\. {GO_ON}")
            assert len((await world.look()).receipts) == 1
            ends += 1
            await asyncio.sleep(30)
        assert 1 <= ends <= 4
        await world.closed(report)

    tell(story)
