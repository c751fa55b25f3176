"""A TMDB that uses almost no CPU, so that the client is what is measured: a bare protocol with prepared responses.

Depending on `knows`, every id is a movie (`/movie/{tt}`), a series (`/find/{tt}` and `/tv/{n}`), or unknown, except for
the known titles. All records are the same one, so they have no IMDb id. There are no limit, faults or key check: the
rate is measured against the demo's strict stand-in instead. Bodies are chunked gzip, like TMDB's, unless `plain`.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

from harvester.fakes.catalog import Catalog, find_record, movie_record, tv_record
from harvester.tmdb.known_titles import KNOWN_TITLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ASKED = re.compile(rb"GET /3/(movie|find|tv|authentication)/?([^ ?]*)[^ ]* HTTP/1\.1\r\n")


@dataclass(slots=True)
class FastTmdb:
    """The running server.

    Attributes:
        answers: Complete responses with headers, by path, or else by its first word.
        latency: Seconds before a response.
        asked: Requests, by the first word of the path.
        url: The base URL.
    """

    answers: dict[bytes, bytes]
    latency: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""


class _Connection(asyncio.Protocol):
    def __init__(self, server: FastTmdb) -> None:
        self._server = server
        self._before = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._before + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            self._answer(data[: end + 2])
            data = data[end + 4 :]
        self._before = data

    def _answer(self, head: bytes) -> None:
        asked = ASKED.match(head)
        assert asked, head
        route = asked[1]
        self._server.asked[route.decode()] += 1
        answer = self._server.answers.get(b"%b/%b" % (route, asked[2])) or self._server.answers[route]
        if self._server.latency:
            asyncio.get_running_loop().call_later(self._server.latency, self._transport.write, answer)
        else:
            self._transport.write(answer)


def answers(
    *, knows: Literal["movie", "tv", "nothing"] = "movie", record_bytes: int = 0, plain: bool = False
) -> dict[bytes, bytes]:
    """A response for each route, from a catalog in which every id is a movie, or a series, or unknown."""
    sample_id = "tt0111161"
    catalog = Catalog(otherwise="unknown" if knows == "nothing" else knows, record_bytes=record_bytes)
    absent = {"success": False, "status_code": 34, "status_message": "The resource you requested could not be found."}
    records: dict[bytes, dict[str, Any] | None] = {
        b"movie": movie_record(catalog, sample_id),
        b"tv": tv_record(catalog, sample_id),
        b"find": find_record(catalog, sample_id),
        b"authentication": {"success": True, "status_code": 1, "status_message": "Success."},
    }
    if knows == "nothing":
        for id_ in KNOWN_TITLES["movie"] + KNOWN_TITLES["tv"]:
            records[b"movie/%b" % id_.encode()] = movie_record(catalog, id_)
            records[b"find/%b" % id_.encode()] = found = find_record(catalog, id_)
            records |= {b"tv/%d" % row["id"]: tv_record(catalog, id_) for row in found["tv_results"]}
    return {
        route: _response(404 if record is None else 200, orjson.dumps(_nameless(record or absent)), plain=plain)
        for route, record in records.items()
    }


def _nameless(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"imdb_id": None} if "imdb_id" in record else record


def _response(status: int, body: bytes, *, plain: bool) -> bytes:
    """Headers and body as the demo's stand-in and TMDB send them."""
    head = (
        f"HTTP/1.1 {status} {'OK' if status == 200 else 'Not Found'}\r\n"
        "Content-Type: application/json;charset=utf-8\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
        'ETag: W/"0123456789abcdef0123456789abcdef"\r\nVary: accept-encoding\r\n'
    )
    if plain:
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    zipped = gzip.compress(body, 6, mtime=0)
    chunks = [zipped[start : start + 2**13] for start in range(0, len(zipped), 2**13)]
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    return f"{head}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunked


@asynccontextmanager
async def fast_tmdb(answers: dict[bytes, bytes], *, latency: float = 0.0) -> AsyncIterator[FastTmdb]:
    """A server at `.url`, running inside the context."""
    tmdb = FastTmdb(answers, latency)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(tmdb), "127.0.0.1", 0, backlog=1024)
    try:
        tmdb.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/3"
        yield tmdb
    finally:
        server.close()
