"""TMDB client: one semaphore, one rate limiter and one retry policy for all requests.

Every answer is compared with its request. A record of another title is requested again over a new connection. If that
brings the other title too, the record lands only if `/find` has it under the requested id. If it brings the right
title, the old connection has mixed up answers, and from then on no connection is used twice.

`tmdb.cost` says how many requests a title takes.

Promises: at most `concurrency` requests are in flight, each admitted by the rate limiter; a 429 delays all requests; a
title fails only while others are answered, because an outage is no title's fault; no URL with its query, which may
contain a v3 key, leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeGuard, TypeVar
from urllib.parse import urlencode

from harvester import __version__
from harvester.errors import SettingsError, TmdbRefusedError, TmdbUnavailableError
from harvester.model.outcome import Failed, Found, Missing
from harvester.model.record_options import APPEND_LIMIT
from harvester.runtime.net import http_date
from harvester.runtime.observer import BackOffBegun, RequestDone, RetryBegun, ignore
from harvester.settings.redaction import REDACTED
from harvester.tmdb.circuit_breaker import CircuitBreaker
from harvester.tmdb.responses import Candidates, Match, NotFound, Retry, classify, read_find, read_record
from harvester.tmdb.retry import retry
from harvester.tmdb.transport import get, open_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    import aiohttp

    from harvester.model.ids import Kind
    from harvester.runtime.observer import Observer
    from harvester.tmdb.rate_limiter import RateLimiter
    from harvester.tmdb.responses import Response

    Reader = Callable[[dict[str, Any]], "T | Retry"]

T = TypeVar("T")

ISOLATED_FAILURES = 3  # titles without a usable answer at once, up to which their route is not suspected
PART_SAMPLE = 20  # titles of a kind; a part that none of them had is then taken for one that TMDB does not have

PROBE_PATHS = {"movie": "movie/tt0111161", "find": "find/tt0111161", "tv": "tv/1399"}
"""Known-good path per route, used as a health probe until one of our own requests has succeeded there."""


class Tmdb:
    """A client with an HTTP session, which `async with` closes."""

    def __init__(
        self,
        *,
        base_url: str,
        key: str,
        language: str | None,
        append: Sequence[str],
        limiter: RateLimiter,
        concurrency: int,
        observer: Observer = ignore,
        session: aiohttp.ClientSession | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        key_header = {"Authorization": f"Bearer {key}"} if is_token(key) else {}
        key_query = {} if is_token(key) else {"api_key": key}
        self._headers = {"Accept": "application/json", "User-Agent": f"tmdb-harvester/{__version__}"} | key_header
        self._session = session or open_session(self._headers, connections=concurrency)
        self._clock, self._sleep = clock or asyncio.get_running_loop().time, sleep
        self.base_url, self._secret = base_url.rstrip("/"), key.encode()
        self._plain = _query(key_query)
        self._find = _query({"external_source": "imdb_id"} | key_query)
        # Only this part has the IMDb id of a series: 250 bytes, and no additional request.
        self._added = "external_ids" if "external_ids" not in append and len(append) < APPEND_LIMIT else None
        parts = {"movie": append, "tv": (*append, self._added) if self._added else append}
        self._detail = {
            kind: _query({"language": language, "append_to_response": ",".join(parts[kind])} | key_query)
            for kind in parts
        }
        self.limiter = limiter
        self._observe = observer
        self.breaker = CircuitBreaker(self._clock, base_url)
        self.answered = 0  # titles, including those that TMDB does not have
        self._date: str | None = None
        self._append = tuple(append)
        self._parts_seen: dict[Kind, set[str]] = {"movie": set(), "tv": set()}
        self._records_seen: Counter[Kind] = Counter()
        self._concurrency, self._slots = concurrency, asyncio.Semaphore(concurrency)
        self._admission_lock = asyncio.Lock()
        self._in_trouble = 0
        self._refused: TmdbRefusedError | None = None
        self._probe_paths = dict(PROBE_PATHS)
        self._found: dict[Kind, str] = {}  # the title found last, by the kind of its CSV
        self.mixes_answers = False  # whether a connection has brought the answer to another request
        self._log = logging.getLogger(__name__)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def server_time(self) -> datetime | None:
        """TMDB's time at its last response, to the second; None if that had no `Date`."""
        return http_date(self._date)

    async def check_key(self) -> None:
        """Request `/authentication`, the cheapest route, and raise an error if that fails.

        Raises:
            TmdbRefusedError: the key is refused.
            SettingsError: `base_url` is not TMDB's API.
            TmdbUnavailableError: TMDB has no usable answer.
        """
        ask = partial(self._request, "authentication", self._plain, lambda body: body)
        not_there = (NotFound(), Retry("http_404"))
        response = await ask()
        if isinstance(response, Retry) and response not in not_there:
            response = await retry(response, ask, clock=self._clock, sleep=self._sleep)
        if response in not_there:
            raise SettingsError(f"TMDB_BASE_URL {self.base_url!r} is not TMDB's API: it has no /authentication")
        if isinstance(response, Retry):
            raise TmdbUnavailableError(response.reason, f"{self.base_url}/authentication has no usable answer")

    async def title(self, id_: str, kind: Kind) -> Found | Missing | Failed:
        """The outcome of a title, by its IMDb id and the `kind` of its CSV.

        A title that TMDB has as the other kind only is looked up as that kind: `Found.kind` says which it is.

        Raises:
            TmdbRefusedError: the key is invalid, suspended or revoked.
            TmdbUnavailableError: TMDB has no usable answer for any title.
        """
        outcome = await self.lookup(id_, kind)
        self.answered += not isinstance(outcome, Failed)
        if isinstance(outcome, Found):
            self._found[kind] = id_
        return outcome

    def last_found(self, kind: Kind) -> str | None:
        """The id of the title found last, among those that were looked up as `kind`."""
        return self._found.get(kind)

    async def _check_record(self, kind: Kind) -> None:
        """Request a record that TMDB must have, after `/find` had a title whose record TMDB does not have."""
        path = self._probe_paths[kind]
        response = await self._record(kind, path.partition("/")[2])
        if isinstance(response, NotFound):
            raise TmdbUnavailableError("gone", f"{self.base_url} does not have {path}, nor what its /find has")

    async def lookup(self, id_: str, kind: Kind) -> Found | Missing | Failed:
        """The outcome, as of `title`, without counting it: also for titles that are not in the run."""
        if kind == "movie":
            response = await self._record("movie", id_)
            if is_other_title(response, id_):
                return await self._lookup_again(id_, kind, response)
            if not isinstance(response, NotFound):
                return response
        candidates = await self._candidates(id_, kind)
        if isinstance(candidates, Failed):
            return candidates
        for match in candidates.matches:
            response = await self._record(match.kind, match.tmdb_id)
            if is_other_title(response, id_):
                return await self._lookup_again(id_, kind, response)
            if not isinstance(response, NotFound):
                return response
        for match_kind in {match.kind for match in candidates.matches}:
            await self._check_record(match_kind)
        return candidates.missing

    async def _lookup_again(self, id_: str, kind: Kind, other: Found) -> Found | Failed:
        """Look up `id_` over new connections, because it was answered with the `other` title.

        Returns the right title if TMDB has one, else the other one if `/find` has it under this id: TMDB has merged
        the two.
        """
        if kind == "movie":
            response = await self._record("movie", id_, reuse=False)
            if isinstance(response, Found) and response.tmdb_id != other.tmdb_id:
                self._stop_reuse(f"movie/{id_}")
            if isinstance(response, Found) and is_other_title(response, id_):
                other = response
            elif not isinstance(response, NotFound):
                return response
        candidates = await self._candidates(id_, kind, reuse=False)
        if isinstance(candidates, Failed):
            return candidates
        same = Match(other.kind, other.tmdb_id)
        for match in candidates.matches:
            response = other if match == same else await self._record(match.kind, match.tmdb_id, reuse=False)
            if not isinstance(response, NotFound) and not is_other_title(response, id_):
                if same not in candidates.matches:
                    self._stop_reuse(f"find/{id_}")
                return response
        if same in candidates.matches:
            return other
        fields = {"path": f"find/{id_}", "reason": "other_title", "answered": other.tmdb_imdb_id}
        self._log.warning("title_failed", extra=fields)
        return Failed("other_title")

    def _stop_reuse(self, path: str) -> None:
        """Use no connection twice from now on, because one has brought the answer to another request."""
        if not self.mixes_answers:
            self._log.warning("mixed_answers", extra={"path": path})
        self.mixes_answers = True

    async def _candidates(self, id_: str, kind: Kind, *, reuse: bool = True) -> Candidates | Failed:
        response = await self._ask(f"find/{id_}", self._find, partial(read_find, kind=kind), reuse=reuse)
        if isinstance(response, Candidates | Failed):
            return response
        raise AssertionError(response)

    @asynccontextmanager
    async def admission(self) -> AsyncIterator[None]:
        """Wait until all titles begun before have a slot; one caller at a time begins the next ones inside.

        Slots are given first come, first served. A slow title keeps only its own slot, and none while it waits for a
        retry, so it does not delay others.
        """
        async with self._admission_lock:
            async with self._slots:
                pass
            yield

    async def _record(self, kind: Kind, id_: str | int, *, reuse: bool = True) -> Found | Failed | NotFound:
        number = id_ if isinstance(id_, int) else None

        def read(body: dict[str, Any]) -> Found | Retry:
            known = self._append if self._records_seen[kind] < PART_SAMPLE else self._parts_seen[kind]
            added = self._added if kind == "tv" else None
            return read_record(body, kind, number=number, asked=self._append, known=known, added=added)

        response = await self._ask(f"{kind}/{id_}", self._detail[kind], read, reuse=reuse)
        if self._append and isinstance(response, Found):
            self._records_seen[kind] += 1
            self._parts_seen[kind].update(set(self._append).difference(response.missing_parts))
        return response

    async def _ask(
        self, path: str, query: str, read: Reader[T], *, reuse: bool = True
    ) -> T | Found | Failed | NotFound:
        """What `read` returns for the answer, after retries; `Failed` only where the title is the cause.

        It is the cause if at least as many titles were answered meanwhile as there were requests without a usable
        answer, its own retries included. With fewer, TMDB is sent a probe, and if that is answered, this request once
        more, because an outage may have ended just now.
        """
        ask = self._asking(path, query, read, reuse=reuse)
        response = await ask()
        if not isinstance(response, Retry):
            return response
        self._in_trouble += 1
        try:
            while True:
                answered, failures = self.answered, self.breaker.failures
                response = await retry(response, ask, clock=self._clock, sleep=self._sleep)
                if not isinstance(response, Retry):
                    return response
                if response.partial_record:
                    return response.partial_record
                if self.answered - answered < self.breaker.failures - failures:
                    if not await self._probe(path):
                        continue
                    response = await ask()
                    if not isinstance(response, Retry):
                        return response
                self._log.warning("title_failed", extra={"path": path, "reason": response.reason})
                return Failed(response.reason)
        finally:
            self._in_trouble -= 1

    def _asking(
        self, path: str, query: str, read: Reader[T], *, reuse: bool
    ) -> Callable[[], Awaitable[T | NotFound | Retry]]:
        """A function that sends one request; over new connections once an answer may belong to another request."""
        unexpected: set[str] = set()  # reasons that may mean an answer to another request
        last: Retry | None = None

        async def ask() -> T | NotFound | Retry:
            nonlocal last
            if last:
                self._observe(RetryBegun(path, last.reason))
            response = await self._request(path, query, read, reuse=reuse and not unexpected)
            if isinstance(response, Retry):
                last = response
                unexpected.update({"other_title", "bad_body"} & {response.reason})
            elif "other_title" in unexpected:
                self._stop_reuse(path)
            return response

        return ask

    async def _probe(self, path: str) -> bool:
        """Whether TMDB answers the simplest request or, with many titles in trouble, one at the route of `path`."""
        route = path.partition("/")[0]
        if self._in_trouble <= ISOLATED_FAILURES or route not in self._probe_paths:
            path, query = "authentication", self._plain
        else:
            path, query = self._probe_paths[route], self._detail.get(route, self._find)
        return not isinstance(await self._request(path, query, lambda body: body, is_probe=True), Retry)

    async def _request(
        self, path: str, query: str, read: Reader[T], *, is_probe: bool = False, reuse: bool = True
    ) -> T | NotFound | Retry:
        """One request: what `read` returns for a good answer. Unless `reuse`, over a new connection.

        Before an outage is raised, TMDB is sent a probe, unless this is one (`is_probe`), or so many titles are in
        trouble that the probe would have to wait for them.
        """
        async with self._slots:
            ticket = await self.limiter.acquire()
            if self._refused:  # during the wait
                raise self._refused
            new = self.mixes_answers or not reuse
            started = self._clock()
            async with open_session(self._headers, connections=1) if new else nullcontext(self._session) as session:
                http_response = await get(session, f"{self.base_url}/{path}{query}")
            seconds, route = self._clock() - started, path.partition("/")[0]
            response: T | dict[str, Any] | NotFound | Retry
            try:
                response = http_response if isinstance(http_response, Retry) else self._classify(http_response)
            except TmdbRefusedError:
                self._observe(RequestDone(route, "refused", seconds))
                raise
        if isinstance(response, dict):
            response = read(response)
        elif isinstance(response, NotFound) and path.startswith("find/"):
            response = Retry("http_404")  # `/find` exists for every id
        trouble = None
        if isinstance(response, Retry):
            trouble = None if response.partial_record else response.reason
            if response.is_rate_limit:
                back_off_seconds = self.limiter.back_off(response.retry_after, ticket=ticket)
                if back_off_seconds is not None:
                    self._observe(BackOffBegun(back_off_seconds, self.limiter.rate))
        self._observe(RequestDone(route, trouble, seconds))
        unavailable = self.breaker.record(trouble)
        if unavailable and (is_probe or self._in_trouble >= self._concurrency or not await self._probe(path)):
            raise unavailable
        if trouble is None and not is_probe and not isinstance(response, NotFound):
            self._probe_paths[route] = path
        return response

    def _classify(self, response: Response) -> dict[str, Any] | NotFound | Retry:
        self._date = response.date
        if self._secret in response.body:  # the server repeats the request; the key would land with the record
            response = replace(response, body=response.body.replace(self._secret, REDACTED.encode()))
        try:
            return classify(response)
        except TmdbRefusedError as error:
            self._refused = error
            raise


def is_other_title(response: object, id_: str) -> TypeGuard[Found]:
    """Whether TMDB answered with a title that it has under another IMDb id than `id_`."""
    return isinstance(response, Found) and response.other_id(id_) is not None


def _query(values: Mapping[str, str | None]) -> str:
    """The query string, with its `?`; empty values are left out, commas and slashes not escaped."""
    return "?" + urlencode({name: value for name, value in values.items() if value}, safe=",/")


def is_token(key: str) -> bool:
    """Whether `key` is a v4 read token, a JWT for the header; a v3 key has 32 hexadecimal digits, for the query."""
    return key.startswith("eyJ")
