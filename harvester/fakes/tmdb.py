"""A stand-in TMDB on this machine: real sockets, the real routes, a strict rate limit, and faults on request.

    async with fake_tmdb(catalog=Catalog(), per_second=40, faults=random_faults({"429": 0.05})) as tmdb:
        ...  # request tmdb.url, then read tmdb.asked, tmdb.refused, tmdb.peak; set tmdb.down, tmdb.revoked

A request passes, in this order: outage, rate limit, key check, fault, response. At the real TMDB the CDN does the first
two, so they ignore the key. `catalog` decides what is returned, `faults` what goes wrong.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import struct
import time
from array import array
from collections import Counter, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import blake2b
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET, create_server
from typing import TYPE_CHECKING, Final, TypedDict, Unpack, cast

import orjson
from aiohttp import web

from harvester.fakes.catalog import Catalog, find_record, movie_record, padded, tv_record
from harvester.fakes.faults import JSON, Asked, Fault, Faults, Route, healthy, html, refusal
from harvester.fakes.records import Record, imdb_id, share
from harvester.model.ids import PREFIX, has_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEY: Final = "57a4d105" * 4
TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdGFuZC1pbiI6dHJ1ZX0.bm90LWEtc2VjcmV0"  # noqa: S105  "not-a-secret".
_MOST_PARTS: Final = 20  # developer.themoviedb.org/docs/append-to-response
_PATH: Final = re.compile(rf"/3/(?:(movie|tv|find)/([0-9]{{1,12}}|{PREFIX}[0-9]{{7,12}})|(authentication))")
_WELCOME: Final = {"success": True, "status_code": 1, "status_message": "Success."}


class Options(TypedDict, total=False):
    """The options of `fake_tmdb`; meanings and defaults as in `FakeTmdb`."""

    catalog: Catalog
    faults: Faults
    key: str
    token: str
    per_second: float | None
    retry_after: str | None
    latency: tuple[float, float]
    jitter: float
    compress: bool
    outage: Fault
    keep_arrivals: int
    clock: Callable[[], float]


@dataclass(slots=True)
class FakeTmdb:
    """The running server: its options, its counts, and two switches, `down` and `revoked`, to set while it runs.

    Attributes:
        catalog: The titles it knows.
        faults: The rule that decides which requests go wrong.
        key: The v3 key it accepts, only as `api_key` in the query.
        token: The v4 token it accepts, only as `Authorization: Bearer`.
        per_second: Requests accepted within any one second; None for no limit.
        retry_after: The header of the rate limit's 429s; None leaves it out.
        latency: Shortest and longest seconds before a response; the value follows from the id and the attempt.
        jitter: Longest seconds that a request takes to arrive, before it is counted or limited; the value follows from
            the id and the attempt. So requests arrive out of step, as over a real network.
        compress: Send chunked gzip to clients that accept gzip, as the real TMDB does.
        outage: The response to every request while `down`: a page of the CDN, or a `silence`.
        keep_arrivals: How many arrival times to keep, eight bytes each.
        clock: Gives seconds, for the rate limit and the arrival times.
        url: The base URL, `http://127.0.0.1:PORT/3`.
        asked: Requests received, by (route, IMDb id), also if the request named a TMDB number.
        turned_away: Those of `asked` refused by an outage, the rate limit or the key check; they count as no attempt.
        refused: 429s of the rate limit; those of a fault are not counted.
        peak: Most requests accepted by the limit within any one second.
        peak_all: Most requests received within any one second.
        in_flight: Requests being answered now.
        busiest: Most requests that were being answered at one time.
        arrivals: When the first `keep_arrivals` requests arrived, by the clock.
        received: Arrival times of the last second; `peak_all` is computed from them.
        accepted: Those that the rate limit accepted; the limit and `peak` are computed from them.
        down: An outage: every request gets `outage`, until this is False again.
        revoked: No key is accepted, until this is False again.
    """

    catalog: Catalog = field(default_factory=Catalog)
    faults: Faults = healthy
    key: str = KEY
    token: str = TOKEN
    per_second: float | None = None
    retry_after: str | None = "1"
    latency: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0
    compress: bool = True
    outage: Fault = field(default_factory=lambda: html(503))
    keep_arrivals: int = 100_000
    clock: Callable[[], float] = time.monotonic
    url: str = ""
    asked: Counter[tuple[Route, str]] = field(default_factory=Counter)
    turned_away: Counter[tuple[Route, str]] = field(default_factory=Counter)
    refused: int = 0
    peak: int = 0
    peak_all: int = 0
    in_flight: int = 0
    busiest: int = 0
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    down: bool = False
    revoked: bool = False
    received: deque[float] = field(default_factory=deque, repr=False)
    accepted: deque[float] = field(default_factory=deque, repr=False)


@asynccontextmanager
async def fake_tmdb(*, host: str = "127.0.0.1", port: int = 0, **options: Unpack[Options]) -> AsyncIterator[FakeTmdb]:
    """A TMDB that serves at `.url` inside the context; port 0 takes a free port. Leaving cuts open requests off."""
    tmdb = FakeTmdb(**options)

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        tmdb.in_flight += 1
        tmdb.busiest = max(tmdb.busiest, tmdb.in_flight)
        try:
            return await _serve(tmdb, request)
        finally:
            tmdb.in_flight -= 1

    # A client that disconnects cancels its request; otherwise a `silence` would go on without a client.
    server = web.Server(serve, access_log=None, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0.05)
    await runner.setup()
    with create_server((host, port), backlog=1024) as listening:
        try:
            await web.SockSite(runner, listening).start()
            tmdb.url = f"http://{host}:{listening.getsockname()[1]}/3"
            yield tmdb
        finally:
            # asyncio in 3.11 fails on a connection that is accepted in the loop iteration in which a server closes:
            # stop accepting first, and let the last connections finish.
            asyncio.get_running_loop().remove_reader(listening)
            await asyncio.sleep(0)
            await runner.cleanup()


@dataclass(frozen=True, slots=True)
class _Question:
    """A parsed path: `as_given` is the id in it, `tt` the IMDb id of that title."""

    route: Route
    as_given: str
    tt: str


async def _serve(tmdb: FakeTmdb, request: web.BaseRequest) -> web.StreamResponse:
    """The response to one request, or the fault it gets instead."""
    question = _read(request.path)
    key = question.route, question.tt
    if tmdb.jitter > 0:
        await asyncio.sleep(tmdb.jitter * share("way", *key, tmdb.asked[key] + 1))
    tmdb.asked[key] += 1
    fault = _turn_away(tmdb, request)
    if fault is not None:
        tmdb.turned_away[key] += 1
        return await _misbehave(tmdb, request, question, fault)
    asked = Asked(question.route, question.tt, tmdb.asked[key] - tmdb.turned_away[key])
    shortest, longest = tmdb.latency
    if longest > 0:
        await asyncio.sleep(shortest + (longest - shortest) * share("latency", asked.route, asked.id, asked.attempt))
    fault = tmdb.faults(asked)
    if fault is not None:
        return await _misbehave(tmdb, request, question, fault)
    return _send(tmdb, request, *_look_up(tmdb, request, question))


def _read(path: str) -> _Question:
    match _PATH.fullmatch(path):
        case None:
            return _Question("other", path, path)
        case found if (authentication := found[3]) is not None:
            return _Question("authentication", authentication, "")
        case found:
            route, given = cast("Route", found[1]), found[2]
            return _Question(
                route, given, imdb_id(route, int(given)) if given.isdecimal() and route != "find" else given
            )


def _turn_away(tmdb: FakeTmdb, request: web.BaseRequest) -> Fault | None:
    """The refusal by outage, rate limit or key check, if any. Every request is counted here, and only here."""
    now = tmdb.clock()
    if len(tmdb.arrivals) < tmdb.keep_arrivals:
        tmdb.arrivals.append(now)
    tmdb.peak_all = max(tmdb.peak_all, _in_last_second(tmdb.received, now) + 1)
    tmdb.received.append(now)
    if tmdb.down:
        return tmdb.outage
    accepted = _in_last_second(tmdb.accepted, now)
    if tmdb.per_second is not None and accepted + 1 > tmdb.per_second:
        tmdb.refused += 1
        return refusal(429, retry_after=tmdb.retry_after)
    tmdb.accepted.append(now)
    tmdb.peak = max(tmdb.peak, accepted + 1)
    by_key = request.query.get("api_key") == tmdb.key
    by_token = request.headers.get("Authorization") == f"Bearer {tmdb.token}"
    return None if (by_key or by_token) and not tmdb.revoked else refusal(401)


def _in_last_second(times: deque[float], now: float) -> int:
    """How many of these times lie in the second that ends now; older ones are removed."""
    while times and times[0] <= now - 1.0:
        times.popleft()
    return len(times)


def _look_up(
    tmdb: FakeTmdb, request: web.BaseRequest, question: _Question, *, without_a_part: bool = False, size: int = 0
) -> tuple[int, bytes]:
    """Status and body of the true response; on demand without the first appended part, or grown to `size` bytes."""
    query = request.query
    language = query.get("language")
    append = [part for part in query.get("append_to_response", "").split(",") if part]
    record: Record | None = None
    if len(append) > _MOST_PARTS:
        return _refused(400)
    append = append[1:] if without_a_part else append
    match question.route:
        case "authentication":
            record = _WELCOME
        case "find" if query.get("external_source") != "imdb_id":
            return _refused(422)
        case "find":
            record = find_record(tmdb.catalog, question.tt, language=language)
        case "movie":
            record = movie_record(tmdb.catalog, question.tt, language=language, append=append)
        case "tv" if not has_prefix(question.as_given):
            record = tv_record(tmdb.catalog, question.tt, language=language, append=append)
        case _:
            pass
    if record is None:
        return _refused(404)
    return 200, orjson.dumps(_grown(record, size) if size else record)


def _grown(record: Record, size: int) -> Record:
    """The record, padded to at least `size` bytes; for /find, in its first row."""
    if "overview" in record:
        return padded(record, size)
    found = {name: rows for name, rows in record.items() if isinstance(rows, list) and rows}
    return record | {name: [padded(rows[0], size), *rows[1:]] for name, rows in [*found.items()][:1]}


def _refused(status: int) -> tuple[int, bytes]:
    return status, refusal(status).body


def _send(
    tmdb: FakeTmdb, request: web.BaseRequest, status: int, body: bytes, *, content_type: str = JSON
) -> web.StreamResponse:
    """A complete response as TMDB sends it: chunked gzip, a weak ETag, and 304 if the client has it already."""
    etag = f'W/"{blake2b(body, digest_size=16).hexdigest()}"'
    if status == HTTPStatus.OK and request.headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"ETag": etag})
    headers = {"Content-Type": content_type, "ETag": etag, "Vary": "accept-encoding"}
    if not tmdb.compress or "gzip" not in request.headers.get("Accept-Encoding", ""):
        return web.Response(status=status, body=body, headers=headers)
    response = web.Response(status=status, body=gzip.compress(body, 1), headers=headers | {"Content-Encoding": "gzip"})
    response.enable_chunked_encoding()
    return response


async def _misbehave(tmdb: FakeTmdb, request: web.BaseRequest, question: _Question, fault: Fault) -> web.StreamResponse:
    """The response with the fault applied to it. See `Fault.way`."""
    if fault.way == "answer":
        return _instead(fault)
    if fault.way == "silence":
        await asyncio.sleep(fault.seconds)
    status, body = _look_up(
        tmdb, request, question, without_a_part=fault.way == "part", size=fault.size if fault.way == "big" else 0
    )
    match fault.way:
        case "silence" | "part" | "big" | "mislabelled":
            return _send(tmdb, request, status, body, content_type=fault.content_type)
        case "gzip":
            return web.Response(status=status, body=gzip.compress(body), headers={"Content-Type": JSON})
        case "reset":
            _reset(request)
            return web.Response()
        case "drip":
            return await _drip(request, status, body, fault)
        case "cut" | "cut_chunked" | "reset_within":
            return await _break_off(request, status, body, fault)


def _instead(fault: Fault) -> web.StreamResponse:
    headers = {"Content-Type": fault.content_type}
    if fault.retry_after is not None:
        headers["Retry-After"] = fault.retry_after
    if fault.retry_date is not None:
        headers["Retry-After"] = formatdate(time.time() + fault.retry_date, usegmt=True)
    return web.Response(status=fault.status, body=fault.body, headers=headers)


async def _drip(request: web.BaseRequest, status: int, body: bytes, fault: Fault) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"Content-Type": JSON})
    response.content_length = len(body)
    await response.prepare(request)
    for start in range(0, len(body), fault.size):
        await asyncio.sleep(fault.seconds)
        await response.write(body[start : start + fault.size])
    return response


async def _break_off(request: web.BaseRequest, status: int, body: bytes, fault: Fault) -> web.StreamResponse:
    """Half of the response, then the end of the connection: closed, or reset."""
    response = web.StreamResponse(status=status, headers={"Content-Type": JSON})
    if fault.way == "cut_chunked":
        response.enable_chunked_encoding()
    else:
        response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if fault.way == "reset_within":
        _reset(request)
    elif request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.BaseRequest) -> None:
    """End the connection with a TCP reset: without a linger time, unsent data is discarded."""
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
