"""TMDB: speak HTTP to it, with one semaphore, one pace and one policy of asking again.

A movie costs one request, because `/movie/{tt…}` takes an IMDb id (undocumented; TMDbLib#230). A series costs two:
`/find/{tt…}` and `/tv/{number}`. A reclassified title, which TMDB has as the other kind only, costs three where the CSV
has it among the movies (`/movie`, `/find`, `/tv`) and two where it has it among the series (`/find`, `/movie`). An id
that TMDB does not have costs two among the movies and one among the series.

Promises: no more than `concurrency` requests in flight, each with its turn of the pace; a 429 holds everybody; a title
is failed only while others are being answered, because an outage is nobody's fault; no URL with a query, where a v3 key
stands, leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import tenacity

from harvester import __version__
from harvester.answers import (
    Absent,
    Again,
    Answer,
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
from harvester.health import Health
from harvester.redaction import STRUCK
from harvester.wire import get, open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    import aiohttp

    from harvester.pace import Pace
    from harvester.titles import Kind

    Clock = Callable[[], float]

T = TypeVar("T")

TRIES, REFUSALS, PART_TRIES = 6, 20, 3
"""Requests for one answer at most: of all kinds of trouble, of 429s (the pace's trouble rather than the title's), and
for the sake of an appended part that was left out."""

TRIES_SECONDS = 600.0
"""Time for one answer at most; it has room for several holds of 60 s."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
"""Seconds: the n-th wait is random between 0 and the smaller of 0.5 · 2ⁿ⁻¹ and 20 ("full jitter")."""

FEW = 3
"""Titles that may be in trouble on their own account while nobody else is asked for."""

WITNESSES = {"movie": "movie/tt0111161", "find": "find/tt0111161", "tv": "tv/1399"}
"""What is asked to see whether a door of TMDB's answers, until it has answered for a title of ours."""

LEARNING = 20
"""Titles of a kind after which an appended part that none of them had is taken for one TMDB does not have."""


class Tmdb:
    """An open connection to TMDB; made by `open_tmdb`.

    Attributes:
        pace: The pace that every request takes its turn of.
        health: Counts of requests with and without a usable answer.
        answered: How many titles TMDB has answered, those it does not have among them.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        base_url: str,
        key: str,
        language: str | None,
        append: Sequence[str],
        pace: Pace,
        concurrency: int,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.pace = pace
        self.health = Health(clock, base_url)
        self.answered = 0
        self._date: str | None = None
        self._session, self._base_url = session, base_url.rstrip("/")
        self._clock, self._sleep = clock, sleep
        self._append = tuple(append)
        self._concurrency, self._slots = concurrency, asyncio.Semaphore(concurrency)
        self._line = asyncio.Lock()
        self._secret = key.encode()
        key_query: dict[str, str | None] = {} if is_token(key) else {"api_key": key}
        self._plain = _query(key_query)
        self._find = _query({"external_source": "imdb_id"} | key_query)
        self._detail = _query({"language": language, "append_to_response": ",".join(append)} | key_query)
        self._parts_seen: dict[Kind, set[str]] = {"movie": set(), "tv": set()}
        self._records_seen: Counter[Kind] = Counter()
        self._in_trouble = 0
        self._refused: TmdbRefusedError | None = None
        self._witnesses = dict(WITNESSES)
        self._log = logging.getLogger(__name__)

    @property
    def server_time(self) -> datetime | None:
        """What time it was there when it last answered, to the second; None if it did not say."""
        return http_date(self._date)

    async def check_key(self) -> None:
        """Ask `/authentication`, the cheapest request there is, before anything else is.

        Raises:
            TmdbRefusedError: The key is no good.
            TmdbUnavailableError: No usable answer after all tries.
            SettingsError: Whoever answers is not TMDB.
        """
        ask = partial(self._request, "authentication", self._plain, lambda body: body)
        told = await ask()
        if isinstance(told, Again) and told.reason != "http_404":
            told = await self._persist(told, ask)
        if isinstance(told, Absent) or (isinstance(told, Again) and told.reason == "http_404"):
            raise SettingsError(f"TMDB_BASE_URL {self._base_url!r} is not TMDB's API: it has no /authentication")
        if isinstance(told, Again):
            raise TmdbUnavailableError(told.reason, f"{self._base_url}/authentication has no usable answer")

    async def title(self, id_: str, kind: Kind) -> Found | Missing | Failed:
        """What TMDB has under the IMDb id `id_`, which its CSV files under `kind`.

        A title that TMDB has as the other kind only is looked up as that kind: `Found.kind` says which it is.

        Raises:
            TmdbRefusedError: The key is no good any more.
            TmdbUnavailableError: TMDB answers nobody.
        """
        outcome = await self._title(id_, kind)
        self.answered += not isinstance(outcome, Failed)
        return outcome

    async def _title(self, id_: str, kind: Kind) -> Found | Missing | Failed:
        response: Found | Missing | Failed | Match | Absent
        if kind == "movie":
            response = await self._record("movie", id_)
            if not isinstance(response, Absent):
                return response
        response = await self._ask(f"find/{id_}", self._find, partial(read_find, kind=kind))
        if isinstance(response, Match):
            response = await self._record(response.kind, response.tmdb_id)
        return Missing("unknown") if isinstance(response, Absent) else response

    @asynccontextmanager
    async def next_in_line(self) -> AsyncIterator[None]:
        """Wait until all titles begun before have been given a slot; begin the next ones inside.

        Slots are given first come, first served, so a slow title keeps its slot, or none while it waits to be asked
        again, and nobody else. Who waits here is let in one after another.
        """
        async with self._line:
            async with self._slots:
                pass
            yield

    async def _record(self, kind: Kind, id_: str | int) -> Found | Failed | Absent:
        told = await self._ask(f"{kind}/{id_}", self._detail, partial(self._read_record, kind))
        if self._append and isinstance(told, Found):
            self._records_seen[kind] += 1
            self._parts_seen[kind].update(part for part in self._append if part not in told.missing_parts)
        return told

    def _read_record(self, kind: Kind, body: dict[str, Any]) -> Found | Again:
        learning = self._records_seen[kind] < LEARNING
        known = self._append if learning else self._parts_seen[kind]
        return read_record(body, kind, asked=self._append, known=known)

    async def _ask(
        self, path: str, query: str, read: Callable[[dict[str, Any]], T | Again]
    ) -> T | Found | Failed | Absent:
        """What `read` makes of the answer, asked for as often as it takes; `Failed` only where the fault is its own.

        It is its own if as many titles were answered meanwhile as there were requests without a usable answer, its
        own further ones among them. With too few titles to tell, TMDB is asked something else, and then for this once
        more, because an outage may have ended just now.
        """
        told = await self._request(path, query, read)
        if not isinstance(told, Again):
            return told
        self._in_trouble += 1
        try:
            return await self._ask_again(path, told, partial(self._request, path, query, read))
        finally:
            self._in_trouble -= 1

    async def _ask_again(
        self, path: str, told: T | Absent | Again, ask: Callable[[], Awaitable[T | Absent | Again]]
    ) -> T | Found | Failed | Absent:
        while isinstance(told, Again):
            answered, bad = self.answered, self.health.bad
            told = await self._persist(told, ask)
            if isinstance(told, Again) and told.for_want_of_better:
                return told.for_want_of_better
            if isinstance(told, Again) and self.answered - answered < self.health.bad - bad:
                if not await self._answers(_door(path)):
                    continue
                told = await ask()
            if isinstance(told, Again):
                self._log.warning("title_failed", extra={"path": path, "reason": told.reason})
                return Failed(told.reason)
        return told

    async def _answers(self, door: str) -> bool:
        """Whether TMDB answers: the simplest request, or, where more than a few are in trouble, one at their door."""
        if self._in_trouble <= FEW or door not in self._witnesses:
            path, query = "authentication", self._plain
        else:
            path, query = self._witnesses[door], self._find if door == "find" else self._detail
        return not isinstance(await self._request(path, query, lambda body: body, sure=True), Again)

    async def _persist(self, first: T | Again, ask: Callable[[], Awaitable[T | Again]]) -> T | Again:
        """Ask again, with waits, after the `first` try was no good: the answer, or the last `Again`.

        tenacity is entered only here: around every request it would cost half of what the request itself does.
        """
        started = self._clock()
        refusals = 0
        best: Found | None = None
        earlier: list[T | Again] = [first]

        async def one_try() -> T | Again:
            nonlocal refusals, best
            told = earlier.pop() if earlier else await ask()
            if isinstance(told, Again):
                refusals += told.hold is not None
                best = told.for_want_of_better or best
                return replace(told, for_want_of_better=best)
            return told

        def enough(state: tenacity.RetryCallState) -> bool:
            late = self._clock() - started >= TRIES_SECONDS
            return late or refusals >= REFUSALS or state.attempt_number - refusals >= (PART_TRIES if best else TRIES)

        def wait(state: tenacity.RetryCallState) -> float:
            told = state.outcome.result() if state.outcome else None
            held = isinstance(told, Again) and told.hold is not None
            return 0.0 if held else tenacity.wait_random_exponential(FIRST_WAIT, LONGEST_WAIT)(state)

        retrying = tenacity.AsyncRetrying(
            sleep=self._sleep,
            stop=enough,
            wait=wait,
            retry=tenacity.retry_if_result(lambda told: isinstance(told, Again)),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        return await retrying(one_try)

    async def _request(
        self, path: str, query: str, read: Callable[[dict[str, Any]], T | Again], *, sure: bool = False
    ) -> T | Absent | Again:
        """One request, in its turn: what `read` makes of a good answer.

        Where it would be one too many without an answer, TMDB is asked something else first, unless this is that
        request already (`sure`), or so many are in trouble that it would have to wait for them.
        """
        async with self._slots:
            turn = await self.pace.turn()
            if self._refused:  # while we waited
                raise self._refused
            answer = await get(self._session, f"{self._base_url}/{path}{query}")
            told: T | dict[str, Any] | Absent | Again = answer if isinstance(answer, Again) else self._judge(answer)
        if isinstance(told, dict):
            told = read(told)
        usable = not isinstance(told, Again) or told.for_want_of_better is not None
        if isinstance(told, Again) and told.hold is not None and self.pace.hold(told.hold, turn=turn):
            self._log.warning("hold", extra={"seconds": told.hold, "new_rate_per_second": round(self.pace.rate, 1)})
        unavailable = self.health.count(None if usable else told.reason)  # type: ignore[union-attr]
        if unavailable and (sure or self._in_trouble >= self._concurrency or not await self._answers(_door(path))):
            raise unavailable
        if usable and not sure:
            self._witnesses[_door(path)] = path
        return told

    def _judge(self, answer: Answer) -> dict[str, Any] | Absent | Again:
        self._date = answer.date
        if self._secret in answer.body:  # a server that repeats what it was asked; a record would land with it
            answer = replace(answer, body=answer.body.replace(self._secret, STRUCK.encode()))
        try:
            return judge(answer)
        except TmdbRefusedError as error:
            self._refused = error
            raise


def _query(values: Mapping[str, str | None]) -> str:
    """The query string, from `?` on; empty values stay out, and commas and slashes as they are."""
    return "?" + urlencode({name: value for name, value in values.items() if value}, safe=",/")


def _door(path: str) -> str:
    """The first word of a path, such as `movie`."""
    return path.partition("/")[0]


def is_token(key: str) -> bool:
    """Whether `key` is a v4 read token, a JWT for the header; a v3 key has 32 hexadecimal digits, for the query."""
    return key.startswith("eyJ")


@asynccontextmanager
async def open_tmdb(
    *,
    base_url: str,
    key: str,
    language: str | None,
    append: Sequence[str],
    pace: Pace,
    concurrency: int,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Tmdb]:
    """A `Tmdb` with a session of its own, closed at the end: a session per request costs 2.3 times, 8.9 over TLS."""
    headers = {"Accept": "application/json", "User-Agent": f"tmdb-harvester/{__version__}"}
    if is_token(key):
        headers["Authorization"] = f"Bearer {key}"
    async with open_session(headers, connections=concurrency) as session:
        clock = asyncio.get_running_loop().time
        yield Tmdb(
            session,
            base_url=base_url,
            key=key,
            language=language,
            append=append,
            pace=pace,
            concurrency=concurrency,
            clock=clock,
            sleep=sleep,
        )
