"""The fault matrix of the TMDB side: every way for an answer to go wrong, and what the whole flow makes of it.

The heart is `TABLE`: fault × when × route → what becomes of the title and of the run, and how many requests it takes.
Each cell is a harvest: `harvest()` as the entry points call it, at 40 a second with 20 in flight, of one title under
the fault and twenty healthy neighbours, against the TMDB stand-in and a real S3 server. Waits, back-offs and timeouts
are as long as ever, by the clock of a loop that leaps over them.

Covered elsewhere, and not here: single answers (`test_responses.py`), what breaks HTTP itself and one title at a time
(`test_tmdb_client.py`), how the rate decreases and increases (`test_rate_limiter.py`), outages (`test_outage.py`). The
limit of 600 s for one answer goes by the wall's clock, and so has no row.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent
from loops import Leaping, no_wait, run_on
from sampling import sampled

from harvester.commands.harvest import HarvestReport, harvest
from harvester.commands.resources import open_bucket_of
from harvester.commands.verify import verify
from harvester.errors import TmdbUnavailableError
from harvester.fakes.catalog import Catalog, movie_record, padded, tv_record
from harvester.fakes.faults import (
    CUT,
    CUT_CHUNKED,
    EMPTY,
    HIDDEN_GZIP,
    MISLABELLED,
    PART_MISSING,
    RESET,
    RESET_WITHIN,
    UNSUCCESSFUL,
    Fault,
    Route,
    always,
    big,
    drip,
    healthy,
    html,
    refusal,
    scripted,
    silence,
)
from harvester.fakes.records import tmdb_id
from harvester.fakes.tmdb import FakeTmdb, fake_tmdb
from harvester.model.batch import Batch
from harvester.model.ids_file import decode_outcomes
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from harvester.fakes.faults import Asked, Faults
    from harvester.model.ids import Collection, Kind
    from harvester.model.layout import Layout
    from harvester.settings.settings import Settings

    Make = Callable[..., Settings]
    Story = Callable[["Leaping"], Coroutine[Any, Any, None]]

FAULTS: dict[str, Fault] = {
    "500": refusal(500),
    "502 html": html(502),
    "503": refusal(503),
    "503 maintenance": refusal(503, code=46),
    "504": refusal(504),
    "504 html": html(504),
    "403 html": html(403),
    "404 html": html(404),
    "429": refusal(429),
    "429 html": html(429),
    "429 after 0": refusal(429, retry_after="0"),
    "429 after 3": refusal(429, retry_after="3"),
    "429 after date": replace(refusal(429), retry_date=3.0),
    "429 after -5": refusal(429, retry_after="-5"),
    "429 after soon": refusal(429, retry_after="soon"),
    "429 after age": refusal(429, retry_after="999999"),
    "reset": RESET,
    "reset within": RESET_WITHIN,
    "cut by length": CUT,
    "cut by chunk": CUT_CHUNKED,
    "empty": EMPTY,
    "html 200": html(200),
    "success false": UNSUCCESSFUL,
    "gzip undeclared": HIDDEN_GZIP,
    "mislabelled": MISLABELLED,
    "slow drip": drip(seconds=0.05),  # 20 s for the longest series
    "endless drip": drip(seconds=1.0, size=8),  # a minute for the shortest answer
    "silence": silence(60.0),
    "part missing": PART_MISSING,
    "31 MB": big(31),
    "31 MiB": big(31 * 2**20 / 10**6),
    "33 MB": big(33),
}

# The fault is met once (`first`), or always (`every`), by the first of 21 titles; or always by the only one (`alone`).
# The title's outcome and reason are those of its receipt; the run's, of its report.
#
# "6 of 27" is 6 requests for this title on this route, of 27 in all. In all, movies are 1 for the key + 20 neighbours,
# series 1 + 2·20 and 1 for the title's other route, which is not asked where /find is not answered. Its own: 2 are the
# fault and the answer; 6, 20 and 3 are TRIES, REFUSALS and PART_TRIES. All neighbours are asked between its first two
# requests, and so show that TMDB answers: 20 of them against its 19 further refusals, hence not a dozen. Where they
# were answered before its first timed out, or there are none, it is "+1", a probe of /authentication, and once more.
#
# A `Retry-After` of an age stops all requests for a minute at a time, and a title has ten minutes (TRIES_SECONDS). When
# it alone is left to be asked for, two periods with nothing but refusals look like an outage; "+1" asks whether it is.
#
# A combination that cannot exist (–): /find has no appended parts to leave out.
TABLE = """
fault           | when  | the title                       | the run       | /movie     | /find      | /tv        | wait
----------------|-------|---------------------------------|---------------|------------|------------|------------|------
500             | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
500             | every | failed http_500                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
502 html        | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
502 html        | every | failed http_502                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
503             | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
503             | every | failed http_503                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
503 maintenance | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
503 maintenance | every | failed http_503                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
504             | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
504             | every | failed http_504                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
504 html        | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
504 html        | every | failed http_504                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
403 html        | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
403 html        | every | failed http_403                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
404 html        | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
404 html        | every | failed http_404                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
429             | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 1 s
429             | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 1 s
429 html        | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 1 s
429 html        | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 1 s
429 after 0     | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 0 s
429 after 0     | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 0 s
429 after 3     | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 3 s
429 after 3     | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 3 s
429 after date  | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 2-3 s
429 after date  | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 2-3 s
429 after -5    | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 1 s
429 after -5    | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 1 s
429 after soon  | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 1 s
429 after soon  | every | failed http_429                 | failed 5      | 20 of 41   | 20 of 61   | 20 of 62   | 1 s
429 after age   | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    | 60 s
429 after age   | every | failed http_429                 | failed 5      | 11+1 of 33 | 10+1 of 52 | 11+1 of 54 | 60 s
reset           | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
reset           | every | failed connection_lost          | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
reset within    | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
reset within    | every | failed cut_body/connection_lost | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
cut by length   | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
cut by length   | every | failed cut_body                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
cut by chunk    | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
cut by chunk    | every | failed cut_body                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
empty           | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
empty           | every | failed empty_body               | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
html 200        | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
html 200        | every | failed bad_body                 | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
success false   | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
success false   | every | failed success_false            | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
gzip undeclared | first | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
gzip undeclared | every | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
mislabelled     | first | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
mislabelled     | every | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
slow drip       | first | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
slow drip       | every | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
endless drip    | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
endless drip    | every | failed timeout                  | failed 5      | 7+1 of 29  | 7+1 of 49  | 7+1 of 50  |
silence         | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
silence         | every | failed timeout                  | failed 5      | 7+1 of 29  | 7+1 of 49  | 7+1 of 50  |
part missing    | first | found                           | closed 0      | 2 of 23    | –          | 2 of 44    |
part missing    | every | found a part short              | closed 0      | 3 of 24    | –          | 3 of 45    |
31 MB           | first | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
31 MB           | every | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
31 MiB          | first | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
31 MiB          | every | found                           | closed 0      | 1 of 22    | 1 of 43    | 1 of 43    |
33 MB           | first | found                           | closed 0      | 2 of 23    | 2 of 44    | 2 of 44    |
33 MB           | every | failed too_large                | failed 5      | 6 of 27    | 6 of 47    | 6 of 48    |
500             | alone | failed http_500                 | failed 5      | 7+1 of 9   | 7+1 of 9   | 7+1 of 10  |
reset           | alone | failed connection_lost          | failed 5      | 7+1 of 9   | 7+1 of 9   | 7+1 of 10  |
empty           | alone | failed empty_body               | failed 5      | 7+1 of 9   | 7+1 of 9   | 7+1 of 10  |
429             | alone | failed http_429                 | failed 5      | 21+1 of 23 | 21+1 of 23 | 21+1 of 24 | 1 s
"""

ROUTES: tuple[Route, ...] = ("movie", "find", "tv")

TITLE = "tt0001001"
NEIGHBOURS = tuple(f"tt{number:07}" for number in range(1002, 1022))

PARTS = ("keywords", "external_ids")
"""Parts to be appended where one is left out: small, and known for movies and series alike."""

ANSWER, JITTER, SPACING = 0.1, 0.25, 0.03
"""Seconds: an answer takes the first, so that four or so are on their way at a time; a back-off may be longer by the
second, so that several harvesters do not come back as one; at 40 a second two requests are the third apart, at most."""

RATE = 40
MOST_ON_THE_WAY = int(ANSWER * RATE) + 1
"""Requests sent between the arrival of one and its answer."""


# --- the table as cases


@dataclass(frozen=True, slots=True)
class Case:
    """A cell of the table.

    Attributes:
        title: What becomes of it, and for which of the reasons.
        run: How its report ends, with its exit code.
        its, probes, in_all: Requests for the title on the route, of `/authentication` on its account, and all.
        back_off: Seconds of the back-off after a 429, at least and at most.
    """

    fault: str
    when: str
    title: str
    reasons: tuple[str, ...]
    run: tuple[str, int]
    route: Route
    its: int
    probes: int
    in_all: int
    back_off: tuple[float, float] | None

    def __str__(self) -> str:
        return f"{self.fault}-{self.when}-{self.route}"

    @property
    def kind(self) -> Kind:
        return "movie" if self.route == "movie" else "tv"

    @property
    def collection(self) -> Collection:
        return "Movies" if self.kind == "movie" else "Series"

    @property
    def catalog(self) -> Catalog:
        return Catalog(otherwise=self.kind)

    @property
    def neighbours(self) -> tuple[str, ...]:
        return () if self.when == "alone" else NEIGHBOURS

    @property
    def ids(self) -> tuple[str, ...]:
        return (TITLE, *self.neighbours)

    @property
    def found(self) -> list[str]:
        return [id_ for id_ in self.ids if id_ != TITLE or self.title.startswith("found")]

    @property
    def append(self) -> tuple[str, ...]:
        return PARTS if self.fault == "part missing" else ()

    @property
    def faults(self) -> Any:
        fault = FAULTS[self.fault]
        return scripted({(self.route, TITLE): [fault if self.when == "first" else always(fault)]})


def cases_of(table: str) -> Iterator[Case]:
    """Every cell of the table that has numbers."""
    for line in table.strip().splitlines()[2:]:
        fault, when, title, run, *cells, back_off = (cell.strip() for cell in line.split("|"))
        outcome, _, reasons = title.partition(" ") if title.startswith("failed") else (title, "", "")
        status, code = run.split()
        least, _, most = back_off.removesuffix(" s").partition("-")
        for route, cell in zip(ROUTES, cells, strict=True):
            if cell == "–":
                continue
            its, _, in_all = cell.partition(" of ")
            tries, _, probes = its.partition("+")
            yield Case(
                fault,
                when,
                outcome,
                tuple(reasons.split("/")),
                (status, int(code)),
                route,
                its=int(tries),
                probes=int(probes or 0),
                in_all=int(in_all),
                back_off=(float(least), float(most or least)) if back_off else None,
            )


CASES = list(cases_of(TABLE))


# --- seconds that pass at once, but for S3, which is another process


def in_leaps(story: Story) -> None:
    """Run the story to its end on a loop that leaps where it says."""
    loop = Leaping(look=0.03)
    loop.leaping = False
    run_on(loop, story(loop))


class Leaper(Silent):
    """An observer that lets the clock leap as long as titles are looked up, and nothing else is done."""

    def __init__(self, loop: Leaping) -> None:
        super().__init__()
        self._loop = loop

    def begin(self, event: Any) -> None:
        super().begin(event)
        self._loop.leaping = True

    def title(self, event: Any) -> None:
        super().title(event)
        self._loop.leaping = len(self.titles) < self.to_do


async def harvest_in_leaps(settings: Settings, loop: Leaping) -> tuple[HarvestReport | TmdbUnavailableError, Layout]:
    """How a harvest of one batch ended, and where everything of it stands."""
    observer = Leaper(loop)
    try:
        return await harvest(settings, observer=observer, shutdown=Shutdown()), observer.layout
    except TmdbUnavailableError as error:
        return error, observer.layout
    finally:
        loop.leaping = False


# --- what is right


def asked_for(case: Case) -> Counter[tuple[Route, str]]:
    """All requests that TMDB is sent: of the neighbours, as many as of any healthy title."""
    asked: Counter[tuple[Route, str]] = Counter(
        {("authentication", ""): 1 + case.probes, (case.route, TITLE): case.its}
    )
    asked["find", TITLE] += case.route == "tv"
    asked["tv", TITLE] += case.route == "find" and TITLE in case.found
    return asked + healthy_requests(case.kind, case.neighbours)


def healthy_requests(kind: Kind, ids: Sequence[str]) -> Counter[tuple[Route, str]]:
    """A movie is asked for once, a series on two routes."""
    routes: tuple[Route, ...] = ("movie",) if kind == "movie" else ("find", "tv")
    return Counter((route, id_) for route in routes for id_ in ids)


def line_of(case: Case, id_: str, fetched_at: str) -> bytes:
    """The record that lands: the catalog's own, byte for byte, behind the two keys in front."""
    of = movie_record if case.kind == "movie" else tv_record
    lacking = case.append[:1] if id_ == TITLE and case.title == "found a part short" else ()
    append = [part for part in case.append if part not in lacking]
    added = ["external_ids"] if case.kind == "tv" and "external_ids" not in append else []
    record = of(case.catalog, id_, append=append + added) or {}
    fault = FAULTS[case.fault]
    if id_ == TITLE and fault.way == "big" and case.its == 1 and case.route != "find":
        record = padded(record, fault.size)
    provenance: dict[str, Any] = {
        "kind": case.kind,
        "tmdb_id": record["id"],
        "fetched_at": fetched_at,
        "language": None,
    }
    if lacking:
        provenance["missing_parts"] = lacking
    if record.get("imdb_id", id_) != id_:
        provenance["tmdb_imdb_id"] = record["imdb_id"]
    rest = {key: value for key, value in record.items() if key not in ("imdb_id", *added)}
    return orjson.dumps({"imdb_id": id_, "harvest": provenance} | rest)


def outcomes_of(case: Case, reason: str) -> dict[str, dict[str, Any]]:
    """What the receipt says of every id."""
    outcomes: dict[str, dict[str, Any]] = {
        id_: {"outcome": "found", "kind": case.kind, "tmdb_id": tmdb_id(case.kind, id_)} for id_ in case.ids
    }
    return outcomes | ({} if TITLE in case.found else {TITLE: {"outcome": "failed", "reason": reason}})


async def check_what_landed(case: Case, settings: Settings, layout: Layout, report: HarvestReport) -> None:
    """The bucket has the batch's receipt and what belongs to a run that has ended, and the catalog's own records."""
    batch = Batch(case.collection, case.ids)
    receipt_key = layout.receipt_key(batch.collection, batch.name)
    async with open_bucket_of(settings) as bucket:
        documents = await bucket.objects(layout.folder)
        [ids] = [key for key in documents if layout.generation_of(key)]
        assert documents.keys() == {layout.manifest_key, ids, receipt_key, layout.outcomes_key, layout.summary_key}
        receipt = orjson.loads(await bucket.read(receipt_key) or b"")
        totals = orjson.loads(await bucket.read(layout.summary_key) or b"")["totals"]
        outcomes = [*decode_outcomes(await bucket.read(layout.outcomes_key) or b"")]
        bodies = [await bucket.read(file["key"]) or b"" for file in receipt["files"]]
        data = await bucket.objects(layout.data_folder("Movies")) | await bucket.objects(layout.data_folder("Series"))
    assert outcomes_of(case, report.failed.get(TITLE, "")) == receipt["outcomes"] == dict(outcomes)
    assert (totals["found"], totals["failed_by_reason"]) == (len(case.found), dict(Counter(report.failed.values())))
    assert {file["key"] for file in receipt["files"]} == set(data)
    lines = [line for body in bodies for line in body.splitlines()]
    records = [orjson.loads(line) for line in lines]
    assert case.found == [record["imdb_id"] for record in records]
    fetched_at = [record["harvest"]["fetched_at"] for record in records]
    expected = [line_of(case, id_, at) for id_, at in zip(case.found, fetched_at, strict=True)]
    differing = [id_ for id_, line, right in zip(case.found, lines, expected, strict=True) if line != right]
    assert differing == []  # not `expected == lines`: the difference of 31 MB takes long to print


@dataclass(slots=True)
class Noted:
    """The faults of a case, as the stand-in asks for them, with what was asked, in the order in which it came."""

    faults: Faults
    asked: list[tuple[Route, str]] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Fault | None:
        self.asked.append((asked.route, asked.id))
        return self.faults(asked)


def check_back_offs(case: Case, asked: Sequence[tuple[Route, str]], arrivals: Sequence[float]) -> None:
    """After each refusal no request at all arrives during the back-off, and otherwise none is kept waiting."""
    assert case.back_off is not None
    least, most = case.back_off
    own = [index for index, what in enumerate(asked) if what == (case.route, TITLE)]
    came_back = set()
    for index in own[:1] if case.when == "first" else own:
        answered = arrivals[index] + ANSWER
        on_the_way = [at for at in arrivals[index + 1 :] if at < answered + least]
        assert len(on_the_way) <= MOST_ON_THE_WAY
        assert [at for at in on_the_way if at > answered + least / 2] == []
        first = index + len(on_the_way) + 1
        if first < len(arrivals):  # else there is no further request
            assert arrivals[first] <= answered + most + JITTER + ANSWER + SPACING
            came_back.add(first)
    gaps = enumerate(itertools.pairwise(arrivals), 1)
    others = [later - earlier for index, (earlier, later) in gaps if index not in came_back]
    assert [gap for gap in others if gap > JITTER + ANSWER + SPACING] == []


def check_rate(arrivals: Sequence[float]) -> None:
    """Never more than 40 in a second, less the time by which one of them may be seen late."""
    times = [last - first for first, last in zip(arrivals, arrivals[RATE:], strict=False)]
    assert [seconds for seconds in times if seconds < 1 - SPACING] == []


# --- the matrix


@pytest.mark.parametrize(
    "case",
    sampled(
        [(case,) for case in CASES],
        lambda case: (case.fault, case.when),
        lambda case: (case.fault, case.route),
        lambda case: (case.when, case.route),
    ),
    ids=str,
)
def test_a_fault_is_the_trouble_of_its_title_alone(case: Case, settings_for: Make) -> None:
    """The title ends as its row says, after so many requests; all others are asked as ever, found, and land."""

    async def story(loop: Leaping) -> None:
        noted = Noted(case.faults)
        async with fake_tmdb(**server_of(case, loop) | {"faults": noted}) as tmdb:
            settings = settings_of(case, settings_for, tmdb)
            report, layout = await harvest_in_leaps(settings, loop)
        assert isinstance(report, HarvestReport), report
        assert (case.run, len(case.found)) == ((report.status, report.exit_code), report.totals.found)
        assert set(report.failed) == set(case.ids) - set(case.found)
        assert set(report.failed.values()) <= set(case.reasons)
        assert asked_for(case) == tmdb.asked
        assert case.in_all == tmdb.asked.total() == report.requests
        await check_what_landed(case, settings, layout, report)
        refusals = 1 if case.when == "first" else case.its
        assert report.backoffs == (refusals if case.back_off else 0)
        assert len(noted.asked) == len(tmdb.arrivals)
        check_rate(tmdb.arrivals)
        if case.back_off:
            check_back_offs(case, noted.asked[1:], tmdb.arrivals[1:])  # the first is the key's, before the clock leaps

    in_leaps(story)


def server_of(case: Case, loop: Leaping) -> Any:
    """How the stand-in is for this case."""
    return {"catalog": case.catalog, "faults": case.faults, "latency": (ANSWER, ANSWER), "clock": loop.time}


def settings_of(case: Case, make: Make, tmdb: FakeTmdb) -> Settings:
    """Settings for a harvest of just this case, as people have them."""
    csv: Any = {case.collection.lower(): case.ids}
    return make(tmdb.url, tmdb_rate=RATE, tmdb_append=",".join(case.append), **csv)


# --- and what follows


@pytest.mark.parametrize(
    ("route", "fault"),
    [("movie", "500"), ("movie", "reset"), ("find", "html 200"), ("tv", "cut by length")],
)
async def test_when_the_fault_is_gone_the_next_harvest_asks_for_that_one_batch(
    route: Route, fault: str, settings_for: Make
) -> None:
    """A failed title keeps its batch open and no other: healed, that batch is asked for, and the run is closed."""
    movies, series = NEIGHBOURS[:12], [f"tt{number:07}" for number in range(2001, 2013)]
    title = movies[5] if route == "movie" else series[5]
    faults = scripted({(route, title): [always(FAULTS[fault])]})
    catalog = Catalog(kinds=dict.fromkeys(series, "tv"))
    async with fake_tmdb(catalog=catalog, faults=faults) as tmdb:
        settings = settings_for(tmdb.url, movies=movies, series=series)
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))
        assert (report.status, report.exit_code, report.totals.found) == ("failed", 5, 23)
        assert list(report.failed) == [title]
        asked, tmdb.faults = Counter(tmdb.asked), healthy
        report = await harvest(settings, observer=Silent(), shutdown=Shutdown())
        asked_again = Counter(tmdb.asked) - asked
    batch = healthy_requests("movie", movies) if route == "movie" else healthy_requests("tv", series)
    assert Counter({("authentication", ""): 1}) + batch == asked_again
    assert (report.status, report.exit_code, report.totals.found, report.failed) == ("closed", 0, 24, {})
    assert (await verify(settings)).problems == []


def test_two_titles_without_an_answer_are_no_outage(settings_for: Make) -> None:
    """Two titles' trouble is theirs while TMDB answers all others: they fail by name, and their neighbours land."""

    async def story(loop: Leaping) -> None:
        silent = [TITLE, NEIGHBOURS[0]]
        faults = scripted({("movie", id_): [always(FAULTS["silence"])] for id_ in silent})
        async with fake_tmdb(catalog=Catalog(), faults=faults, latency=(ANSWER, ANSWER), clock=loop.time) as tmdb:
            settings = settings_for(tmdb.url, movies=[TITLE, *NEIGHBOURS], tmdb_rate=40)
            report, _ = await harvest_in_leaps(settings, loop)
        assert isinstance(report, HarvestReport), report
        assert (report.status, report.exit_code, report.totals.found) == ("failed", 5, 19)
        assert dict.fromkeys(silent, "timeout") == report.failed

    in_leaps(story)


def test_the_table_is_complete() -> None:
    """Every fault is met on every route, once and always, but for the combination that the table's comment names."""
    expected = {
        (fault, when, route)
        for fault, when, route in itertools.product(FAULTS, ("first", "every"), ROUTES)
        if (fault, route) != ("part missing", "find")
    }
    assert expected == {(case.fault, case.when, case.route) for case in CASES if case.when != "alone"}
