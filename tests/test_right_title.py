"""The right title: what lands under an id is what TMDB has under that id, to the digit, or nothing does."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent, capture_logs
from loops import Leaping, in_its_time, run_on
from test_harvest import ids_from, records_in

from harvester.commands.harvest import harvest
from harvester.commands.resources import open_bucket_of
from harvester.commands.shards import Shard, harvest_shard, plan_shards
from harvester.commands.verify import verify
from harvester.errors import HarvestError, TmdbRefusedError, TmdbUnavailableError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import HTML, Asked, Fault, healthy, html, refusal
from harvester.fakes.s3_proxy import at_first, s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.model.batch import cut
from harvester.runtime.shutdown import Shutdown
from harvester.tmdb.known_titles import KNOWN_TITLES, MANY_UNKNOWN
from harvester.tmdb.responses import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable

    from harvester.commands.harvest import HarvestReport
    from harvester.commands.verify import VerificationReport
    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]
    Story = Callable[[Make, Bucket], Coroutine[Any, Any, None]]
    Play = Callable[[Story], None]
    Odd = Callable[[str, int], "tuple[int, bytes] | None"]
    Send = Callable[[asyncio.StreamWriter, bytes, bytes], Awaitable[None]]

pytestmark = pytest.mark.timeout(180)  # for what hangs: a busy machine may take its time

MOVIES, SERIES = ids_from(7_000_001, 120), ids_from(900_001, 40)
FILM, SHOW, OTHER = MOVIES[0], SERIES[0], "tt0133093"
ABSENT = 404, b'{"success":false,"status_code":34,"status_message":"The resource you requested could not be found."}'


@pytest.fixture
def play(s3: S3Server, settings_for: Make) -> Play:
    """Plays a story to its end on a loop that loses no time waiting; settings and bucket lead to S3 through a link."""

    async def whole(story: Story) -> None:
        async with s3_proxy(s3.endpoint) as link:
            link.rules["*"] = in_its_time(at_first())
            through = partial(settings_for, aws_endpoint_url_s3=link.url)
            async with open_bucket_of(through("https://tmdb.test/3")) as bucket:
                await story(through, bucket)

    return lambda story: run_on(Leaping(), whole(story))


# A TMDB to the letter


def number(id_: str) -> int:
    return int(id_[2:])


def film(id_: str, **more: Any) -> bytes:
    return orjson.dumps({"id": number(id_), "imdb_id": id_, "title": id_} | more)


def show(id_: str, **more: Any) -> bytes:
    """A series, which has no `imdb_id` at the top; its name says which one it is."""
    return orjson.dumps({"id": number(id_), "name": id_} | more)


def rows(**found: list[int]) -> bytes:
    """The arrays of `/find`, with rows of these numbers."""
    names = ("movie", "person", "tv", "tv_episode", "tv_season")
    of = {name: [{"id": each, "show_id": each} for each in found.get(name, ())] for name in names}
    return orjson.dumps({f"{name}_results": rows for name, rows in of.items()})


async def once(writer: asyncio.StreamWriter, answer: bytes, _before: bytes) -> None:
    """As servers do."""
    writer.write(answer)


@dataclass(slots=True)
class Raw:
    """A TMDB over plain keep-alive that has every id as a movie and as a series, but for what is `odd`.

    Attributes:
        odd: The answer to the n-th request for a path instead of the true one; None for that.
        send: How an answer goes onto its connection, which is given the answer before, too.
    """

    odd: Odd = lambda _path, _nth: None
    send: Send = once
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    open: dict[asyncio.StreamWriter, Any] = field(default_factory=dict)

    @property
    def connections(self) -> int:
        return len(self.open)

    def answer(self, path: str) -> bytes:
        self.asked[path] += 1
        status, body = self.odd(path, self.asked[path]) or (200, self.truth(*path.partition("/")[::2]))
        return b"HTTP/1.1 %d So\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)

    def truth(self, route: str, id_: str) -> bytes:
        match route:
            case "movie":
                return film(id_) if id_.startswith("tt") else film(f"tt{id_:0>7}", imdb_id=None)
            case "find":
                return rows(tv=[number(id_)])
            case "tv":
                id_ = f"tt{id_:0>7}"
                return show(id_, external_ids={"imdb_id": id_})
        return b'{"success":true,"status_code":1}'

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open[writer] = asyncio.current_task()
        before = b""
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                answer = self.answer(head.split()[1].partition("?")[0].removeprefix("/3/"))
                await self.send(writer, answer, before)
                await writer.drain()
                before = answer
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def raw(**how: Any) -> AsyncIterator[Raw]:
    tmdb = Raw(**how)
    async with await asyncio.start_server(tmdb.serve, "127.0.0.1", 0) as server:
        tmdb.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/3"
        try:
            yield tmdb
        finally:
            server.close()
            for task in tmdb.open.values():
                task.cancel()
            await asyncio.gather(*tmdb.open.values(), return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a harvest ended, and what is in the lake after it."""

    code: int
    report: HarvestReport | None
    error: HarvestError | None
    verification: VerificationReport | None


async def ended(settings: Settings) -> Ended:
    """A harvest to its end, whichever, and the verification of what it has left, if it has begun a run."""
    try:
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
        return Ended(report.exit_code, report, None, await verify(settings))
    except HarvestError as error:
        return Ended(error.exit_code, None, error, None)


async def lake(bucket: Bucket) -> dict[str, dict[str, Any]]:
    """Every landed record, by its id."""
    records = await records_in(bucket, "Raw/API/Movies/") + await records_in(bucket, "Raw/API/Series/")
    by_id = {record["imdb_id"]: record for record in records}
    assert len(by_id) == len(records)
    return by_id


def named(records: Iterable[dict[str, Any]]) -> set[tuple[str, str]]:
    """The id that each record stands under, and which title it is."""
    return {(record["imdb_id"], record.get("title") or record["name"]) for record in records}


def themselves(ids: Iterable[str]) -> set[tuple[str, str]]:
    return {(id_, id_) for id_ in ids}


# Answers that nobody asked for


async def twice_at_once(writer: asyncio.StreamWriter, answer: bytes, _before: bytes) -> None:
    """The second copy comes with the first."""
    writer.write(answer + answer)


async def twice_in_pieces(writer: asyncio.StreamWriter, answer: bytes, _before: bytes) -> None:
    """Half of the second copy comes with the first, and the rest some moments later."""
    writer.write(answer + answer[:40])
    await asyncio.sleep(0.004)
    writer.write(answer[40:])


async def twice_later(writer: asyncio.StreamWriter, answer: bytes, _before: bytes) -> None:
    """The second copy comes some moments later, whatever has been asked meanwhile."""
    writer.write(answer)
    asyncio.get_running_loop().call_later(0.004, writer.write, answer)


async def before_the_next(writer: asyncio.StreamWriter, answer: bytes, before: bytes) -> None:
    """The second copy comes when the next request has been written already, and its own answer after that."""
    writer.write(before + answer)


async def one_behind(writer: asyncio.StreamWriter, answer: bytes, before: bytes) -> None:
    """A connection is one answer behind from its second request on, so that no byte is ever left over."""
    writer.write(before or answer)


async def goodbye(writer: asyncio.StreamWriter, answer: bytes, _before: bytes) -> None:
    """A word of the server's own follows, as some say before they close an idle connection."""
    writer.write(answer + b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")


REPEATS = [twice_at_once, twice_in_pieces, twice_later, before_the_next, one_behind, goodbye]


@pytest.mark.parametrize(
    ("of", "send"),
    [
        *[pytest.param("movies", send, id=f"movies-{send.__name__}") for send in REPEATS],
        *[pytest.param("series", send, id=f"series-{send.__name__}") for send in REPEATS],
    ],
)
def test_a_repeated_answer_is_no_answer_to_another_question(send: Send, of: str, play: Play) -> None:
    """Whenever the second copy comes, no title lands under another id, and none that is there is missing.

    Some may have failed: those whose answers were no JSON of theirs six times in a row. The next harvest finds them.
    """
    ids = {"movies": MOVIES, "series": SERIES}[of]
    unknown = set(ids[2:90:5])

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        route, _, id_ = path.partition("/")
        return None if id_ not in unknown else (200, rows()) if route == "find" else ABSENT

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(send=send, odd=odd) as tmdb:
            settings = settings_for(tmdb.url, **{of: ids}, tmdb_concurrency=8)
            end = await ended(settings)
            landed = await lake(bucket)
            assert end.report
            assert end.verification
            assert named(landed.values()) == themselves(set(ids) - unknown - set(end.report.failed))
            assert (end.verification.problems, end.report.totals.missing.total() <= len(unknown)) == ([], True)
            tmdb.send = once
            if end.code:
                end = await ended(settings)
            assert end.report
            assert (end.code, end.report.totals.missing.total()) == (0, len(unknown))
            assert named((await lake(bucket)).values()) == themselves(set(ids) - unknown)

    play(story)


def test_a_missing_title_of_mixed_answers_is_asked_for_again(play: Play) -> None:
    """An empty /find of another series says nothing: when a mix-up shows, what was missing is looked up anew."""
    first, second = SERIES[3], SERIES[9]
    wrong = {f"find/{first}": rows(), f"find/{second}": rows(tv=[number(SERIES[10])])}

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=lambda path, nth: (200, wrong[path]) if nth == 1 and path in wrong else None) as tmdb:
            with capture_logs() as logs:
                end = await ended(settings_for(tmdb.url, series=SERIES, tmdb_concurrency=1))
            assert (end.code, named((await lake(bucket)).values())) == (0, themselves(SERIES))
            assert [line["path"] for line in logs if line["event"] == "mixed_answers"] == [f"find/{second}"]

    play(story)


@pytest.mark.parametrize("of", ["movies", "series"])
def test_a_record_of_the_other_kind_is_another_title(of: str, play: Play) -> None:
    """A cache that answers /tv/{n} with /movie/{n}, or the reverse, has the number right and the title wrong."""
    ids = {"movies": MOVIES[:5], "series": SERIES[:5]}[of]

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        route, _, id_ = path.partition("/")
        if route == "movie" and of == "movies":
            return 200, orjson.dumps({"id": number(id_), "imdb_id": id_, "name": "x"})
        return (200, orjson.dumps({"id": int(id_), "title": "x"})) if route == "tv" and of == "series" else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            end = await ended(settings_for(tmdb.url, **{of: ids}))
            assert end.code in {5, 6}
            assert await lake(bucket) == {}

    play(story)


def test_answers_that_crossed_once_are_asked_for_again_on_a_new_connection(play: Play) -> None:
    """Two films get each other's record once: over a connection of its own each gets its own."""
    one, two = MOVIES[:2]
    crossed = {f"movie/{one}": film(two), f"movie/{two}": film(one)}

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=lambda path, nth: (200, crossed[path]) if nth == 1 and path in crossed else None) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=[one, two], tmdb_concurrency=1))
            assert (end.code, named((await lake(bucket)).values())) == (0, themselves([one, two]))
            assert {path: tmdb.asked[path] for path in crossed} == dict.fromkeys(crossed, 2)
            assert tmdb.connections == 3  # that of all, and one for each

    play(story)


# Numbers that were not asked for


NUMBERS: dict[str, Callable[[int], Any]] = {
    "the next": lambda wanted: wanted + 1,
    "one and the same": lambda _: 603,
    "none": lambda _: None,
    "zero": lambda _: 0,
    "negative": lambda wanted: -wanted,
    "a text": str,
    "a float": float,
    "true": lambda _: True,
    "beyond 63 bits": lambda wanted: wanted + 2**63,
    "beyond 64 bits": lambda wanted: wanted + 2**64,
}


def with_id(body: bytes, value: Any) -> bytes:
    return json.dumps(json.loads(body) | {"id": value}).encode()


@pytest.mark.parametrize("wrong", NUMBERS.values(), ids=NUMBERS)
def test_a_record_of_another_number_never_lands(wrong: Callable[[int], Any], play: Play) -> None:
    """/tv/{n} that answers with another number than n, for ever: no series lands, and exit 5 or 6."""

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        route, _, id_ = path.partition("/")
        return (200, with_id(show(f"tt{id_:0>7}"), wrong(int(id_)))) if route == "tv" else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            end = await ended(settings_for(tmdb.url, series=SERIES))
            assert end.code in {5, 6}
            if end.report:
                assert set(end.report.failed.values()) <= {"other_title", "bad_body"}
            assert await lake(bucket) == {}

    play(story)


@pytest.mark.parametrize("wrong", NUMBERS.values(), ids=NUMBERS)
def test_a_record_of_another_number_is_asked_for_again(wrong: Callable[[int], Any], play: Play) -> None:
    """Once wrong, the right one lands; one title that is always wrong fails by name, and the others land."""
    odd_one, right = f"tv/{number(SERIES[1])}", f"tv/{number(SERIES[2])}"

    def odd(path: str, nth: int) -> tuple[int, bytes] | None:
        if path == odd_one or (path == right and nth == 1):
            return 200, with_id(show(f"tt{path[3:]:0>7}"), wrong(int(path[3:])))
        return None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            end = await ended(settings_for(tmdb.url, series=SERIES))
            assert end.report
            assert end.verification
            reason = "other_title" if wrong(7) in (8, 603) else "bad_body"
            assert (end.code, end.report.failed, end.verification.problems) == (5, {SERIES[1]: reason}, [])
            assert named((await lake(bucket)).values()) == themselves(SERIES) - {(SERIES[1], SERIES[1])}
            assert tmdb.asked[right] == 2

    play(story)


# IMDb ids that were not asked for


@pytest.mark.parametrize("own", [OTHER, "tt1", "603", 603, ["tt0133093"], "\0"], ids=repr)
def test_one_and_the_same_title_for_every_id_never_lands(own: Any, play: Play) -> None:
    """Every /movie/tt… is answered with one imdb_id that /find does not confirm: nothing lands, each fails by name."""
    wanted = MOVIES[:30]

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        if path.startswith("find/"):
            return 200, rows()
        return (200, film(OTHER, imdb_id=own)) if path.startswith("movie/tt") else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=wanted))
            assert end.report
            assert (end.code, end.report.failed) == (5, dict.fromkeys(wanted, "other_title"))
            assert await lake(bucket) == {}

    play(story)


def test_titles_that_tmdb_has_merged_land_and_are_counted(play: Play) -> None:
    """/find confirms the film that has another id by now: it lands under the id asked for, and says the other one."""

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        return {f"movie/{FILM}": (200, film(OTHER)), f"find/{FILM}": (200, rows(movie=[number(OTHER)]))}.get(path)

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES[:5])
            end = await ended(settings)
            assert end.report
            assert end.verification
            landed = await lake(bucket)
            record = landed[FILM]
            assert (record["title"], record["harvest"]["tmdb_id"]) == (OTHER, number(OTHER))
            assert record["harvest"]["tmdb_imdb_id"] == OTHER
            assert [id_ for id_ in MOVIES[:5] if "tmdb_imdb_id" in landed[id_]["harvest"]] == [FILM]
            assert (end.code, end.report.totals.found, end.report.totals.other_ids) == (0, 5, 1)
            assert (end.verification.problems, end.verification.totals.other_ids) == ([], 1)
            [receipt] = await bucket.objects(f"Raw/API/_harvest/{end.report.run}/receipts/")
            outcomes = orjson.loads(await bucket.read(receipt) or b"")["outcomes"]
            assert outcomes[FILM] == {"outcome": "found", "kind": "movie", "tmdb_id": 133093, "other_id": OTHER}
            assert outcomes[MOVIES[1]].keys() == {"outcome", "kind", "tmdb_id"}
            second = await harvest(settings, observer=Silent(), shutdown=Shutdown())
            assert (second.status, second.totals.other_ids) == ("nothing_to_do", 1)

    play(story)


@pytest.mark.parametrize("own", [None, "", FILM], ids=repr)
def test_no_imdb_id_is_no_other_imdb_id(own: str | None, play: Play) -> None:
    """Films whose imdb_id is null or empty, as of many, land after one request."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=lambda path, _: (200, film(FILM, imdb_id=own)) if path == f"movie/{FILM}" else None) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES[:5]))
            assert end.report
            assert (end.code, end.report.totals.other_ids, set(await lake(bucket))) == (0, 0, {*MOVIES[:5]})
            assert tmdb.asked[f"movie/{FILM}"] == 1
            assert tmdb.asked[f"find/{FILM}"] == 0

    play(story)


@pytest.mark.parametrize(
    ("own", "second", "expected"),
    [
        pytest.param(SHOW, number(SHOW), (0, 0), id="its own"),
        pytest.param(None, number(SHOW), (0, 0), id="none"),
        pytest.param(OTHER, number(SHOW), (0, 1), id="another, confirmed"),
        pytest.param(OTHER, None, (5, 0), id="another, not confirmed"),
    ],
)
def test_a_series_that_names_another_id_lands_only_if_find_says_so_twice(
    own: str | None, second: int | None, expected: tuple[int, int], play: Play
) -> None:
    """Appended `external_ids` that name another id: /find is asked once more, over a connection of its own."""
    code, other_ids = expected

    def odd(path: str, nth: int) -> tuple[int, bytes] | None:
        if path == f"tv/{number(SHOW)}":
            return 200, show(SHOW, external_ids={"imdb_id": own})
        if path.startswith("tv/"):
            return 200, show(f"tt{path[3:]:0>7}", external_ids={})
        return (200, rows(tv=[second] if second else [])) if path == f"find/{SHOW}" and nth > 1 else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            end = await ended(settings_for(tmdb.url, series=SERIES[:3], tmdb_append="external_ids"))
            assert end.report
            assert end.verification
            assert (end.code, end.report.totals.other_ids, end.verification.totals.other_ids) == (
                code,
                other_ids,
                other_ids,
            )
            assert end.report.failed == ({SHOW: "other_title"} if code else {})
            assert (SHOW in await lake(bucket)) == (code == 0)

    play(story)


# Rows of /find that are gone


GONE: dict[str, tuple[str, dict[str, list[int]], set[str], Any, list[str]]] = {
    "the first of two": ("tv", {"tv": [9001, 9002]}, {"tv/9001"}, ("found", 9002), ["tv/9001", "tv/9002"]),
    "the own kind": (
        "movie",
        {"movie": [9003], "tv": [9002]},
        {"movie/9003"},
        ("found", 9002),
        ["movie/9003", "tv/9002"],
    ),
    "the own kind, of a series": (
        "tv",
        {"movie": [9003], "tv": [9002]},
        {"tv/9002"},
        ("found", 9003),
        ["tv/9002", "movie/9003"],
    ),
    "both, with an episode": (
        "tv",
        {"movie": [9003], "tv": [9002], "tv_episode": [62]},
        {"tv/9002", "movie/9003"},
        ("missing", "episode"),
        ["tv/9002", "movie/9003"],
    ),
    "the only one, with a season": (
        "movie",
        {"tv": [9002], "tv_season": [62]},
        {"tv/9002"},
        ("missing", "season"),
        ["tv/9002"],
    ),
    "all of them": ("tv", {"tv": [9001, 9002]}, {"tv/9001", "tv/9002"}, ("missing", "unknown"), ["tv/9001", "tv/9002"]),
    "more than are asked for": (
        "tv",
        {"tv": [*range(9001, 9021)]},
        {f"tv/{each}" for each in range(9001, 9021)},
        ("missing", "unknown"),
        [f"tv/{each}" for each in range(9001, 9001 + CANDIDATES)],
    ),
    "none, and the first is enough": ("tv", {"tv": [9001, 9002]}, set(), ("found", 9001), ["tv/9001"]),
}


@pytest.mark.parametrize("case", GONE.values(), ids=GONE)
def test_a_row_that_is_gone_gives_way_to_the_next(case: Any, play: Play) -> None:
    """The next of its kind, then the other kind, then episode and season, and only then it is unknown."""
    kind, found, gone, (outcome, what), requests = case
    id_, neighbours = {"movie": (FILM, MOVIES[1:4]), "tv": (SHOW, SERIES[1:4])}[kind]
    unknown, rows_of_tv = gone | {f"movie/{FILM}"}, {f"tv/{each}" for each in found.get("tv", ())}

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        if path in unknown:
            return ABSENT
        if path in rows_of_tv:
            return 200, show(id_, id=int(path[3:]), external_ids={"imdb_id": id_})
        return (200, rows(**found)) if path == f"find/{id_}" else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=odd) as tmdb:
            end = await ended(settings_for(tmdb.url, **{"movies" if kind == "movie" else "series": [id_, *neighbours]}))
            assert end.report
            assert end.verification
            [receipt] = await bucket.objects(f"Raw/API/_harvest/{end.report.run}/receipts/")
            outcome_json = orjson.loads(await bucket.read(receipt) or b"")["outcomes"][id_]
            assert (outcome_json["outcome"], outcome_json.get("tmdb_id") or outcome_json["reason"]) == (outcome, what)
            asked = [path for path in tmdb.asked if path.partition("/")[2] in {str(each) for each in range(9001, 9021)}]
            assert (asked, {tmdb.asked[path] for path in asked}) == (requests, {1})
            assert (end.code, end.verification.problems) == (0, [])

    play(story)


# Nothing rounded, nothing dropped


EXACT = {
    "30 digits": "123456789012345678901234567890",
    "2**64": "18446744073709551616",
    "-2**63-1": "-9223372036854775809",
    "5,000 digits": "7" * 5_000,
    "a long decimal": "0.1234567890123456789012345",
    "trailing zeros": "1.10",
    "an exponent beyond floats": "1e400",
    "a small exponent beyond floats": "-1.5E-400",
    "half of a surrogate pair": r'"cut \ud83d"',
    "the other half": r'"\udc00 cut"',
    "nested": '{"a":[1,{"b":340282366920938463463374607431768211456}]}',
}


def whole(text: str) -> Any:
    """JSON with every digit."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


async def landed_text(bucket: Bucket, id_: str) -> str:
    """The landed line of an id."""
    lines = [
        line for key in await bucket.objects("Raw/API/Movies/") for line in (await bucket.read(key) or b"").split(b"\n")
    ]
    [line] = [line for line in lines if f'"imdb_id":"{id_}"'.encode() in line]
    return line.decode()


def answering(id_: str, body: str | bytes) -> Odd:
    """A TMDB that answers for this one film with these bytes."""
    sent = body if isinstance(body, bytes) else body.encode()
    return lambda path, _: (200, sent) if path == f"movie/{id_}" else None


@pytest.mark.parametrize("text", EXACT.values(), ids=EXACT)
def test_every_digit_and_character_lands(text: str, play: Play) -> None:
    """The landed line says what TMDB's bytes said, its neighbours land too, and `verify` confirms it."""
    body = f'{{"id":{number(FILM)},"imdb_id":"{FILM}","title":"T","odd":{text}}}'

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=answering(FILM, body)) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES[:3])
            end = await ended(settings)
            assert end.report
            assert end.verification
            assert (end.code, end.report.totals.found, end.verification.problems) == (0, 3, [])
            record = whole(await landed_text(bucket, FILM))
            assert record.pop("harvest")["tmdb_id"] == number(FILM)
            assert record == whole(body)

    play(story)


@pytest.mark.parametrize("text", EXACT.values(), ids=EXACT)
@pytest.mark.parametrize("form", ["jsonl", "array"])
def test_every_digit_of_a_record_that_is_kept_stays(text: str, form: str, play: Play) -> None:
    """A batch is tried again for one title, and another one fails now: its earlier record stands there as it was."""
    body = f'{{"id":{number(FILM)},"imdb_id":"{FILM}","title":"T","odd":{text}}}'.encode()
    broken = MOVIES[1]

    def odd(path: str, _nth: int) -> tuple[int, bytes] | None:
        if path == f"movie/{FILM}" and broken == MOVIES[1]:
            return 200, body
        return (500, b"") if path == f"movie/{broken}" else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        nonlocal broken
        async with raw(odd=odd) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES[:3], output_format=form)
            first = await ended(settings)
            assert first.report
            assert first.report.failed == {MOVIES[1]: "http_500"}
            broken = FILM
            second = await ended(settings)
            assert second.report
            assert second.verification
            assert (second.report.failed, second.verification.problems) == ({FILM: "http_500"}, [])
            [key] = await bucket.objects("Raw/API/Movies/")
            text = (await bucket.read(key) or b"").decode()
            records = whole(text) if form == "array" else [whole(line) for line in text.splitlines()]
            record = next(record for record in records if record["imdb_id"] == FILM)
            del record["harvest"]
            assert record == whole(body.decode())

    play(story)


@pytest.mark.parametrize(
    "body",
    [
        '{"id":7000001,"adult":true,"adult":false}',
        '{"id":7000001,"id":7000002,"imdb_id":"tt7000001"}',
        '{"id":7000001,"genres":[{"id":18,"name":"a","id":18}]}',
        '{"id":7000001,"imdb_id":"tt7000001","imdb\\u005fid":"tt7000002"}',
        '{"id":7000001,"revenue":123456789012345678901234567890,"a":1,"a":1}',
    ],
)
def test_a_key_that_stands_twice_fails_its_title_by_name(body: str, play: Play) -> None:
    """Nobody can say which of the two is meant: the title fails, alone."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=answering(FILM, body)) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES[:3]))
            assert end.report
            assert (end.code, end.report.failed) == (5, {FILM: "duplicate_key"})
            assert named((await lake(bucket)).values()) == themselves(MOVIES[1:3])

    play(story)


@pytest.mark.parametrize("theirs", ["null", '{"x":1}', '"2026"', '{"kind":"tv","tmdb_id":9}', "1.10", "[1e400]"])
def test_a_key_harvest_of_tmdbs_own_is_kept(theirs: str, play: Play) -> None:
    """What TMDB should call `harvest` stands in ours, as `tmdb_harvest`."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        body = f'{{"harvest":{theirs},"id":{number(FILM)},"imdb_id":"{FILM}"}}'
        async with raw(odd=answering(FILM, body)) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES[:3]))
            assert end.verification
            assert (end.code, end.verification.problems) == (0, [])
            record = whole(await landed_text(bucket, FILM))
            assert (record["harvest"]["tmdb_id"], record["harvest"]["tmdb_harvest"]) == (number(FILM), whole(theirs))

    play(story)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b'{"id":7000001,"x":' + b"[" * 300 + b"]" * 300 + b"}", "too_deep", id="too deep to be written"),
        pytest.param(b'{"id":7000001,"x":1e400,"y":' + b"[" * 300 + b"]" * 300 + b"}", "too_deep", id="and odd"),
        pytest.param(b"[" * 5_000 + b"]" * 5_000, "bad_body", id="too deep to be read"),
        pytest.param(b'{"id":7000001,"x":"caf\xe9"}', "bad_body", id="no UTF-8"),
        pytest.param(b'{"id":7000001,"x":NaN}', "bad_body", id="no number"),
        pytest.param(b'{"id":7000001,"\\ud800":1}', "bad_body", id="half a pair for a key"),
        pytest.param(b'{"id":18446744073709551616}', "bad_body", id="an id beyond 64 bits"),
    ],
)
def test_what_cannot_land_as_it_is_fails_by_name(body: bytes, reason: str, play: Play) -> None:
    """Nothing lands of it, and its neighbours do."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with raw(odd=answering(FILM, body)) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES[:3]))
            assert end.report
            assert (end.code, end.report.failed) == (5, {FILM: reason})
            assert named((await lake(bucket)).values()) == themselves(MOVIES[1:3])

    play(story)


# All missing is an outage


EMPTY_FIND = Fault("answer", 200, rows())
CATALOG = Catalog(dict.fromkeys(SERIES, "tv"))
KIND: dict[str, Any] = {"movies": "movie", "series": "tv"}


def not_found(asked: Asked) -> Fault | None:
    """TMDB's own words for every title: not found, and nothing at /find."""
    return {"movie": refusal(404), "tv": refusal(404), "find": EMPTY_FIND}.get(asked.route)


def no_find(asked: Asked) -> Fault | None:
    return EMPTY_FIND if asked.route == "find" else None


def no_records(asked: Asked) -> Fault | None:
    """/find knows all, and no record is there."""
    return refusal(404) if asked.route in {"movie", "tv"} else None


def one_in_a_hundred(asked: Asked) -> Fault | None:
    return None if asked.id in {MOVIES[7], SERIES[7]} else not_found(asked)


@pytest.mark.parametrize(
    ("faults", "of"),
    [
        pytest.param(not_found, {"movies": MOVIES, "series": SERIES}, id="all"),
        pytest.param(not_found, {"movies": MOVIES[:3]}, id="three movies"),
        pytest.param(not_found, {"series": SERIES[:1]}, id="one series"),
        pytest.param(no_find, {"series": SERIES}, id="no find"),
        pytest.param(no_records, {"movies": MOVIES, "series": SERIES}, id="no records"),
        pytest.param(one_in_a_hundred, {"movies": MOVIES}, id="all but one of a hundred"),
    ],
)
def test_a_tmdb_that_knows_nobody_is_unavailable(
    faults: Callable[[Asked], Fault | None], of: dict[str, list[str]], play: Play
) -> None:
    """Exit 6, nobody is missing, and the next harvest of a healthy TMDB finds all."""
    everybody = sorted(id_ for ids in of.values() for id_ in ids)

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=CATALOG, faults=faults) as tmdb:
            settings = settings_for(tmdb.url, **of)
            end = await ended(settings)
            assert isinstance(end.error, TmdbUnavailableError)
            assert (end.code, await bucket.objects("Raw/API/Movies/"), await lake(bucket)) == (6, {}, {})
            reasons = [*sum(KNOWN_TITLES.values(), ()), "nor what its /find has"]
            assert any(reason in str(end.error) for reason in reasons)
            tmdb.faults = healthy
            end = await ended(settings)
            assert end.report
            assert end.verification
            assert (end.code, end.report.totals.found, end.verification.problems) == (0, len(everybody), [])
            assert sorted(await lake(bucket)) == everybody

    play(story)


@pytest.mark.parametrize("at", [2, 101, 110, 140, 195, 200, 250, 399, 499])
def test_a_tmdb_that_forgets_everybody_in_mid_run_is_unavailable(at: int, play: Play) -> None:
    """What had landed is safe, and no batch lands of which a title was forgotten; the next run finds all."""
    movies = ids_from(1, 500)

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            tmdb.faults = lambda asked: not_found(asked) if tmdb.asked.total() > 1 + at else None
            settings = settings_for(tmdb.url, movies=movies)
            end = await ended(settings)
            assert (end.code, isinstance(end.error, TmdbUnavailableError)) == (6, True)
            assert len(await lake(bucket)) <= at // 100 * 100
            tmdb.faults = healthy
            end = await ended(settings)
            assert end.report
            assert (end.report.totals.found, set(await lake(bucket))) == (500, {*movies})

    play(story)


@pytest.mark.parametrize("end_of_it", [150, 250, 400, 600])
def test_an_outage_that_passes_leaves_next_to_no_title_missing(end_of_it: int, play: Play) -> None:
    """Those that were not there, one after the other, are asked for once more; if they still are not, it is exit 6.

    A few at the ends of it, fewer than that takes, cannot be distinguished from titles that TMDB never had.
    """

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            tmdb.faults = lambda asked: not_found(asked) if 110 < tmdb.asked.total() < end_of_it else None
            settings = settings_for(tmdb.url, movies=ids_from(1, 500))
            end = await ended(settings)
            assert end.code == (6 if isinstance(end.error, TmdbUnavailableError) else 0)
            tmdb.faults = healthy
            end = await ended(settings)
            assert end.report
            assert end.code == 0
            assert end.report.totals.found > 500 - 2 * MANY_UNKNOWN

    play(story)


def only(route: str) -> Callable[[Asked], Fault | None]:
    """That route alone has lost everything."""
    return lambda asked: not_found(asked) if asked.route == route else None


def find_404(asked: Asked) -> Fault | None:
    return refusal(404) if asked.route == "find" else None


@pytest.mark.parametrize(
    ("faults", "of"),
    [
        pytest.param(only("tv"), "movies", id="no series, some of them in the CSV of the movies"),
        pytest.param(only("find"), "movies", id="nothing at /find, which some of the movies need"),
        pytest.param(only("movie"), "series", id="no movies, some of them in the CSV of the series"),
        pytest.param(find_404, "movies", id="no /find, which some of the movies need"),
        pytest.param(find_404, "series", id="no /find, which all series need"),
    ],
)
def test_a_route_that_has_lost_everything_is_an_outage(
    faults: Callable[[Asked], Fault | None], of: str, play: Play
) -> None:
    """Also where less than half of a batch needs it: exit 6, nobody is missing, nobody has failed."""
    ids = {"movies": MOVIES, "series": SERIES}[of]
    catalog = Catalog(dict.fromkeys(ids[:30], "tv" if of == "movies" else "movie") | dict.fromkeys(ids[30:], KIND[of]))

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=catalog, faults=faults) as tmdb:
            settings = settings_for(tmdb.url, **{of: ids})
            end = await ended(settings)
            assert (end.code, isinstance(end.error, TmdbUnavailableError)) == (6, True)
            tmdb.faults = healthy
            end = await ended(settings)
            assert end.report
            assert (end.code, end.report.totals.found) == (0, len(ids))

    play(story)


def test_a_known_title_in_trouble_of_its_own_is_no_outage(play: Play) -> None:
    """The next one is asked for, where the first that every TMDB has gives no usable answer."""
    first, second = KNOWN_TITLES["movie"]

    def faults(asked: Asked) -> Fault | None:
        return refusal(500) if asked.id == first else None

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=Catalog(otherwise="unknown"), faults=faults) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES[:3]))
            assert end.report
            assert (end.code, end.report.totals.missing, tmdb.asked["movie", second]) == (0, Counter(unknown=3), 1)

    play(story)


@pytest.mark.parametrize("of", ["movies", "series"])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_titles_that_a_healthy_tmdb_does_not_have_are_missing(of: str, count: int, play: Play) -> None:
    """A batch without one known title lands as missing where TMDB knows the title that everybody knows: exit 0."""
    ids: dict[str, Any] = {of: SERIES[:count]}
    routes = ("find",) if of == "series" else ("movie", "find")

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=Catalog(otherwise="unknown")) as tmdb:
            end = await ended(settings_for(tmdb.url, **ids))
            assert end.report
            assert end.verification
            assert (end.code, end.report.totals.missing, end.verification.problems) == (0, Counter(unknown=count), [])
            asked = [tmdb.asked[route, id_] for route in routes for id_ in (KNOWN_TITLES["tv"][0], SERIES[0])]
            assert set(asked) == {1} if count < MANY_UNKNOWN else {1, 2}  # such a row is asked for once more
            assert tmdb.asked[routes[0], KNOWN_TITLES["movie"][0]] == 1
            assert await lake(bucket) == {}

    play(story)


def test_where_most_are_known_nobody_else_is_asked_for(play: Play) -> None:
    """A usual share of unknown titles costs no request more, and episodes are known ones."""
    kinds: Any = dict.fromkeys(MOVIES[:90:3], "unknown")
    kinds |= {id_: "episode" for id_ in MOVIES[:100] if id_ not in kinds}

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=Catalog(kinds)) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES))
            assert end.report
            assert end.report.totals.missing == Counter(unknown=30, episode=70)
            assert not any(tmdb.asked[route, ids[0]] for route in ("movie", "find") for ids in KNOWN_TITLES.values())
            assert len(await lake(bucket)) == 20

    play(story)


def test_a_shard_that_tmdb_knows_nobody_of_ends_with_exit_6(play: Play) -> None:
    """A child of a fan-out lands nothing as missing either, and the same shard is found when TMDB is well again."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            settings = settings_for(tmdb.url, movies=MOVIES)
            plan = await plan_shards(settings, children=1)
            shards = orjson.loads(await bucket.read(plan["shards_key"]) or b"")
            [shard] = [Shard.of(each) for each in shards]
            assert [*shard.cut()] == [*cut("Movies", MOVIES)]
            tmdb.faults = not_found
            with pytest.raises(TmdbUnavailableError) as caught:
                await harvest_shard(settings, shard, observer=Silent(), shutdown=Shutdown())
            assert (caught.value.exit_code, await lake(bucket)) == (6, {})
            tmdb.faults = healthy
            report = await harvest_shard(settings, shard, observer=Silent(), shutdown=Shutdown())
            assert (report.exit_code, sorted(await lake(bucket))) == (0, MOVIES)

    play(story)


# 403


GATEWAYS = {
    "API gateway": Fault("answer", 403, b'{"message":"Forbidden"}'),
    "HTML": html(403),
    "its own status for a code": Fault("answer", 403, b'{"status_code":403,"error":"Forbidden"}'),
    "empty": Fault("answer", 403, b""),
    "empty object": Fault("answer", 403, b"{}"),
    "text": Fault("answer", 403, b"Access denied", HTML),
    "a code that is a text": Fault("answer", 403, b'{"status_code":"7"}'),
    "a code that is true": Fault("answer", 403, b'{"status_code":true}'),
}


@pytest.mark.parametrize("fault", GATEWAYS.values(), ids=GATEWAYS)
@pytest.mark.parametrize("after", [0, 60], ids=["from the start", "in mid run"])
def test_a_403_of_a_gateway_is_asked_again_and_no_fault_of_the_key(fault: Fault, after: int, play: Play) -> None:
    """For ever, it ends in exit 6 and fails nobody; when it is over, the next harvest finds all."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            tmdb.faults = lambda _: fault if tmdb.asked.total() > after else None
            settings = settings_for(tmdb.url, movies=MOVIES)
            end = await ended(settings)
            assert isinstance(end.error, TmdbUnavailableError)
            assert (end.code, end.error.reason) == (6, "http_403")
            tmdb.faults = healthy
            end = await ended(settings)
            assert (end.code, sorted(await lake(bucket))) == (0, MOVIES)

    play(story)


@pytest.mark.parametrize("fault", GATEWAYS.values(), ids=GATEWAYS)
def test_a_403_of_a_gateway_for_a_while_costs_nobody(fault: Fault, play: Play) -> None:
    """Once for every third title, it is asked again and found."""
    third = set(MOVIES[::3])

    async def story(settings_for: Make, bucket: Bucket) -> None:
        def faults(asked: Asked) -> Fault | None:
            return fault if asked.id in third and asked.attempt == 1 else None

        async with fake_tmdb(catalog=CATALOG, faults=faults) as tmdb:
            end = await ended(settings_for(tmdb.url, movies=MOVIES))
            assert (end.code, sorted(await lake(bucket))) == (0, MOVIES)
            assert {tmdb.asked["movie", id_] for id_ in third} == {2}

    play(story)


@pytest.mark.parametrize("code", [3, 7, 10, 14, 45])
@pytest.mark.parametrize("after", [0, 60], ids=["from the start", "in mid run"])
def test_a_403_in_tmdbs_own_words_is_the_keys(code: int, after: int, play: Play) -> None:
    """Exit 3 at once, with TMDB's code."""

    async def story(settings_for: Make, bucket: Bucket) -> None:
        async with fake_tmdb(catalog=CATALOG) as tmdb:
            tmdb.faults = lambda _: refusal(403, code=code) if tmdb.asked.total() > after else None
            end = await ended(settings_for(tmdb.url, movies=MOVIES[:100], tmdb_concurrency=10))
            assert isinstance(end.error, TmdbRefusedError)
            assert (end.code, end.error.status, end.error.code) == (3, 403, code)
            assert tmdb.asked.total() <= after + 10
            assert await lake(bucket) == {}

    play(story)
