"""TMDB client: one semaphore, one pace and one retry policy for everything that is asked of it.

Every answer is held against its question. A record of another number is asked for again; one that TMDB has under
another IMDb id lands only if `/find`, asked over a connection of its own, says that TMDB has merged the two.

A movie costs one request, because `/movie/{tt…}` takes an IMDb id (undocumented; TMDbLib#230). A series costs two:
`/find/{tt…}` and `/tv/{number}`. A reclassified title, which TMDB has as the other kind only, costs three where the CSV
has it among the movies (`/movie`, `/find`, `/tv`) and two where it has it among the series (`/find`, `/movie`). An id
that TMDB does not have costs two among the movies and one among the series.

Promises: no more than `concurrency` requests in flight, each with its turn of the pace; a 429 holds everybody; a title
fails only while others are answered, because an outage is no title's fault; no URL with a query, where a v3 key stands,
leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlencode

import tenacity

from harvester import __version__
from harvester.answers import (
    Absent,
    Again,
    Failed,
    Found,
    Match,
    Missing,
    http_date,
    judge,
    read_find,
    read_record,
)
from harvester.errors import SettingsError, TmdbRefusedError, TmdbUnavailableError
from harvester.forms import PARTS_LIMIT
from harvester.health import Health
from harvester.redaction import STRUCK
from harvester.wire import get, open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    import aiohttp

    from harvester.answers import Answer
    from harvester.pace import Pace
    from harvester.titles import Kind

    Reader = Callable[[dict[str, Any]], "T | Again"]

T = TypeVar("T")

TRIES, REFUSALS, PART_TRIES = 6, 20, 3
"""Requests for one answer at most: of all kinds of trouble, of 429s (the pace's trouble rather than the title's), and
for the sake of an appended part that was left out."""

TRIES_SECONDS = 600.0  # for one answer at most, with room for several holds of 60 s
JITTER = tenacity.wait_random_exponential(0.5, 20.0)  # seconds; the n-th from 0 to 0.5 · 2ⁿ⁻¹, at most 20: full jitter
FEW = 3  # titles that may be in trouble at once before the route they were asked at is suspected
LEARNING = 20  # titles of a kind, after which a part that none of them had is taken for one TMDB does not have

KNOWN_TITLES: dict[Kind, str] = {"movie": "tt0111161", "tv": "tt0944947"}
"""Titles that every TMDB has: who does not know them has lost its data, or is not TMDB."""

KNOWN_GOOD = {"movie": "movie/tt0111161", "find": "find/tt0111161", "tv": "tv/1399"}
"""Known-good path per route, used as a health probe until one of our own requests has succeeded there."""


class Tmdb:
    """An open connection to TMDB, with a session that ends with the `async with`."""

    def __init__(
        self,
        *,
        base_url: str,
        key: str,
        language: str | None,
        append: Sequence[str],
        pace: Pace,
        concurrency: int,
        session: aiohttp.ClientSession | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        key_header = {"Authorization": f"Bearer {key}"} if is_token(key) else {}
        key_query = {} if is_token(key) else {"api_key": key}
        self._headers = {"Accept": "application/json", "User-Agent": f"tmdb-harvester/{__version__}"} | key_header
        self._session = session or open_session(self._headers, connections=concurrency)
        self._clock, self._sleep = clock or asyncio.get_running_loop().time, sleep
        self._base_url, self._secret = base_url.rstrip("/"), key.encode()
        self._plain = _query(key_query)
        self._find = _query({"external_source": "imdb_id"} | key_query)
        # Of a series only this part says which IMDb id TMDB has for it: 250 bytes, and no request more.
        self._added = "external_ids" if "external_ids" not in append and len(append) < PARTS_LIMIT else None
        parts = {"movie": append, "tv": (*append, self._added) if self._added else append}
        self._detail = {
            kind: _query({"language": language, "append_to_response": ",".join(parts[kind])} | key_query)
            for kind in parts
        }
        self.pace = pace
        self.health = Health(self._clock, base_url)
        self.answered = 0  # titles, those that TMDB does not have among them
        self._date: str | None = None
        self._append = tuple(append)
        self._parts_seen: dict[Kind, set[str]] = {"movie": set(), "tv": set()}
        self._records_seen: Counter[Kind] = Counter()
        self._concurrency, self._slots = concurrency, asyncio.Semaphore(concurrency)
        self._line = asyncio.Lock()
        self._in_trouble = 0
        self._refused: TmdbRefusedError | None = None
        self._known_good = dict(KNOWN_GOOD)
        self._found: dict[Kind, str] = {}  # the last title of each kind that was
        self._log = logging.getLogger(__name__)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def server_time(self) -> datetime | None:
        """What time it was there when it last answered, to the second; None if it did not say."""
        return http_date(self._date)

    async def check_key(self) -> None:
        """Ask `/authentication`, the cheapest request there is, and raise what it shows to be wrong.

        `TmdbRefusedError` blames the key, `SettingsError` the `base_url`, `TmdbUnavailableError` TMDB.
        """
        ask = partial(self._request, "authentication", self._plain, lambda body: body)
        not_there = (Absent(), Again("http_404"))
        response = await ask()
        if isinstance(response, Again) and response not in not_there:
            response = await self._persist(response, ask)
        if response in not_there:
            raise SettingsError(f"TMDB_BASE_URL {self._base_url!r} is not TMDB's API: it has no /authentication")
        if isinstance(response, Again):
            raise TmdbUnavailableError(response.reason, f"{self._base_url}/authentication has no usable answer")

    async def title(self, id_: str, kind: Kind) -> Found | Missing | Failed:
        """What TMDB has under the IMDb id `id_`, which its CSV files under `kind`.

        A title that TMDB has as the other kind only is looked up as that kind: `Found.kind` says which it is. Raises
        `TmdbRefusedError` if the key is revoked, and `TmdbUnavailableError` if TMDB answers nobody.
        """
        outcome = await self._title(id_, kind)
        self.answered += not isinstance(outcome, Failed)
        if isinstance(outcome, Found):
            self._found[kind] = id_
        return outcome

    async def check_known(self, kind: Kind, *, next_to_nothing: bool) -> None:
        """Ask for a title that TMDB must have: a `TmdbUnavailableError` if it has not, for then nothing is missing.

        That is one that it had just now; where `next_to_nothing` was found, one that every TMDB has.
        """
        id_ = KNOWN_TITLES[kind] if next_to_nothing else self._found.get(kind, KNOWN_TITLES[kind])
        known = await self._title(id_, kind)
        if not isinstance(known, Found):
            whose = "every TMDB has" if id_ == KNOWN_TITLES[kind] else "it had before"
            seen = f"{self._base_url} does not have {id_}, which {whose}, nor most titles asked for just now"
            raise TmdbUnavailableError(known.reason, seen)

    async def _title(self, id_: str, kind: Kind) -> Found | Missing | Failed:
        if kind == "movie":
            response = await self._record("movie", id_)
            if is_other_title(id_, response):
                response = await self._record("movie", id_, fresh=True)
            if not isinstance(response, Absent):
                return await self._confirmed(id_, response)
        candidates = await self._candidates(id_, kind)
        for candidate in [candidates] if isinstance(candidates, Failed) else candidates:
            if not isinstance(candidate, Match):
                return candidate
            response = await self._record(candidate.kind, candidate.tmdb_id)
            if not isinstance(response, Absent):
                return await self._confirmed(id_, response)
        raise AssertionError("the last candidate is no match")

    async def _confirmed(self, id_: str, response: Found | Failed) -> Found | Failed:
        """The title, if it is the one that was asked for, or if `/find` says that TMDB has merged the two."""
        if isinstance(response, Failed) or not is_other_title(id_, response):
            return response
        candidates = await self._candidates(id_, response.kind, fresh=True)
        if isinstance(candidates, Failed):
            return candidates
        if Match(response.kind, response.tmdb_id) in candidates:
            return replace(response, other_id=response.own_id)
        seen = {"path": f"find/{id_}", "reason": "other_title", "answered": response.own_id}
        self._log.warning("title_failed", extra=seen)
        return Failed("other_title")

    async def _candidates(self, id_: str, kind: Kind, *, fresh: bool = False) -> tuple[Match | Missing, ...] | Failed:
        response = await self._ask(f"find/{id_}", self._find, partial(read_find, kind=kind), fresh=fresh)
        return response if isinstance(response, tuple | Failed) else Failed("http_404")  # a /find that is not there

    @asynccontextmanager
    async def next_in_line(self) -> AsyncIterator[None]:
        """Wait until all titles begun before have been given a slot; begin the next ones inside, one caller at a time.

        Slots are given first come, first served. A slow title keeps its slot, or none while it waits to be asked
        again, and holds nobody else back.
        """
        async with self._line:
            async with self._slots:
                pass
            yield

    async def _record(self, kind: Kind, id_: str | int, *, fresh: bool = False) -> Found | Failed | Absent:
        number = id_ if isinstance(id_, int) else None

        def read(body: dict[str, Any]) -> Found | Again:
            known = self._append if self._records_seen[kind] < LEARNING else self._parts_seen[kind]
            added = self._added if kind == "tv" else None
            return read_record(body, kind, number=number, asked=self._append, known=known, added=added)

        response = await self._ask(f"{kind}/{id_}", self._detail[kind], read, fresh=fresh)
        if self._append and isinstance(response, Found):
            self._records_seen[kind] += 1
            self._parts_seen[kind].update(set(self._append).difference(response.missing_parts))
        return response

    async def _ask(self, path: str, query: str, read: Reader[T], *, fresh: bool = False) -> T | Found | Failed | Absent:
        """What `read` makes of the answer, asked for as often as it takes; `Failed` only where the title is to blame.

        It is to blame if as many titles were answered meanwhile as there were requests without a usable answer, its
        own retries among them. With too few titles to tell, TMDB is asked something else, and then for this title once
        more, because an outage may have ended just now.
        """
        ask = partial(self._request, path, query, read, fresh=fresh)
        response = await ask()
        if not isinstance(response, Again):
            return response
        self._in_trouble += 1
        try:
            while True:
                answered, bad = self.answered, self.health.bad
                response = await self._persist(response, ask)
                if not isinstance(response, Again):
                    return response
                if response.for_want_of_better:
                    return response.for_want_of_better
                if self.answered - answered < self.health.bad - bad:
                    if not await self._answers(path):
                        continue
                    response = await ask()
                    if not isinstance(response, Again):
                        return response
                self._log.warning("title_failed", extra={"path": path, "reason": response.reason})
                return Failed(response.reason)
        finally:
            self._in_trouble -= 1

    async def _answers(self, path: str) -> bool:
        """Whether TMDB answers: the simplest request, or, where more than a few are in trouble, one at their route."""
        route = path.partition("/")[0]
        if self._in_trouble <= FEW or route not in self._known_good:
            path, query = "authentication", self._plain
        else:
            path, query = self._known_good[route], self._detail.get(route, self._find)
        return not isinstance(await self._request(path, query, lambda body: body, probe=True), Again)

    async def _persist(self, response: T | Again, ask: Callable[[], Awaitable[T | Again]]) -> T | Again:
        """Ask again, with waits, while the `response` is no good: the first good one, or the last `Again`."""
        started, refusals = self._clock(), 0
        best: Found | None = None
        earlier = [response]

        async def one_try() -> T | Again:
            nonlocal refusals, best
            response = earlier.pop() if earlier else await ask()
            if not isinstance(response, Again):
                return response
            refusals += response.hold is not None
            best = response.for_want_of_better or best
            return replace(response, for_want_of_better=best)

        def enough(state: tenacity.RetryCallState) -> bool:
            late = self._clock() - started >= TRIES_SECONDS
            return late or refusals >= REFUSALS or state.attempt_number - refusals >= (PART_TRIES if best else TRIES)

        def last(state: tenacity.RetryCallState) -> Any:
            return state.outcome.result() if state.outcome else None

        retrying = tenacity.AsyncRetrying(
            sleep=self._sleep,
            stop=enough,
            wait=lambda state: 0.0 if last(state).hold is not None else JITTER(state),  # the pace waits after a 429
            retry=tenacity.retry_if_result(lambda response: isinstance(response, Again)),
            retry_error_callback=last,
        )
        return await retrying(one_try)

    async def _request(
        self, path: str, query: str, read: Reader[T], *, probe: bool = False, fresh: bool = False
    ) -> T | Absent | Again:
        """One request, in its turn: what `read` makes of a good answer. `fresh`: over a connection of its own.

        Before an outage is raised, TMDB is asked something else, unless this is that `probe`, or so many titles are in
        trouble that it would have to wait for them.
        """
        async with self._slots:
            turn = await self.pace.turn()
            if self._refused:  # while we waited
                raise self._refused
            async with open_session(self._headers, connections=1) if fresh else nullcontext(self._session) as session:
                answer = await get(session, f"{self._base_url}/{path}{query}")
            response: T | dict[str, Any] | Absent | Again = answer if isinstance(answer, Again) else self._judge(answer)
        if isinstance(response, dict):
            response = read(response)
        trouble = None
        if isinstance(response, Again):
            trouble = None if response.for_want_of_better else response.reason
            if response.hold is not None and self.pace.hold(response.hold, turn=turn):
                rate = round(self.pace.rate, 1)
                self._log.warning("hold", extra={"seconds": response.hold, "new_rate_per_second": rate})
        unavailable = self.health.count(trouble)
        if unavailable and (probe or self._in_trouble >= self._concurrency or not await self._answers(path)):
            raise unavailable
        if trouble is None and not probe:
            self._known_good[path.partition("/")[0]] = path
        return response

    def _judge(self, answer: Answer) -> dict[str, Any] | Absent | Again:
        self._date = answer.date
        if self._secret in answer.body:  # a server that repeats what it was asked; a record would land with it
            answer = replace(answer, body=answer.body.replace(self._secret, STRUCK.encode()))
        try:
            return judge(answer)
        except TmdbRefusedError as error:
            self._refused = error
            raise


def is_other_title(id_: str, response: object) -> bool:
    """Whether TMDB answered with a title that it has under another IMDb id than `id_`."""
    return isinstance(response, Found) and response.own_id not in (None, id_)


def _query(values: Mapping[str, str | None]) -> str:
    """The query string, from `?` on; empty values stay out, and commas and slashes as they are."""
    return "?" + urlencode({name: value for name, value in values.items() if value}, safe=",/")


def is_token(key: str) -> bool:
    """Whether `key` is a v4 read token, a JWT for the header; a v3 key has 32 hexadecimal digits, for the query."""
    return key.startswith("eyJ")
