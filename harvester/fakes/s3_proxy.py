"""A link before an S3 server: it passes every request on, but where a rule has its way with it.

    async with s3_link(server.endpoint) as link:
        link.rules["part"] = at_first(refusing(503, "SlowDown"))
        ...  # speak S3 to link.url, then read link.seen

The signature of a request covers its Host, which is passed on as it came, so the server beyond accepts it. Nothing is
changed on the way, and a rule decides alone: before the request has reached S3, after it, or instead of it.
"""

from __future__ import annotations

import asyncio
import io
import re
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import aiohttp
from aiohttp import web
from yarl import URL

from harvester.fakes.records import share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Operation: TypeAlias = Literal[
    "create", "part", "complete", "abort", "put", "copy", "get", "delete", "list", "uploads", "other"
]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a rule sees it.

    Attributes:
        operation: What it asks of S3.
        key: Of the object, or the prefix of a listing.
        part: Number of the part, 0 where there is none.
        attempt: 1 for the first request of this operation, key and part, 2 for the next.
        bytes: Size of what is sent.
        headers: Of the request.
        request: The request itself; its body may not have come yet.
    """

    operation: Operation
    key: str
    part: int
    attempt: int
    bytes: int
    headers: Mapping[str, str]
    request: web.BaseRequest = field(repr=False)


Forward: TypeAlias = Callable[[], Awaitable[web.Response]]
"""Passes the request on; the answer of the server beyond."""

Rule: TypeAlias = Callable[[Call, Forward], Awaitable[web.StreamResponse]]
"""Answers a call, by passing it on or otherwise."""


@dataclass(slots=True)
class S3Proxy:
    """The running link; made by `s3_proxy`.

    Attributes:
        beyond: URL of the server it passes on to.
        url: Where it listens.
        rules: By operation, or `*` for every operation without a rule of its own.
        seen: Every call that came, in order.
    """

    beyond: str
    url: str = ""
    rules: dict[str, Rule] = field(default_factory=dict)
    seen: list[Call] = field(default_factory=list)
    attempts: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def times(self, operation: Operation) -> int:
        """How many calls of this operation came."""
        return sum(call.operation == operation for call in self.seen)


@asynccontextmanager
async def s3_proxy(beyond: str = "", *, host: str = "127.0.0.1") -> AsyncIterator[S3Proxy]:
    """A link to the S3 server at the URL `beyond`; what it holds back is let go at the end."""
    link = S3Proxy(beyond)

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        call = _read(link, request)
        link.seen.append(call)

        async def forward() -> web.Response:
            body = await request.content.read()
            headers = {name: value for name, value in request.headers.items() if name != "Connection"}
            url = URL(link.beyond + request.raw_path, encoded=True)
            async with session.request(
                request.method, url, data=io.BytesIO(body) if body else None, headers=headers
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name != "Transfer-Encoding"}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        rule = link.rules.get(call.operation) or link.rules.get("*")
        try:
            return await (rule(call, forward) if rule else forward())
        except aiohttp.ClientConnectionError:  # nobody beyond: the same for whoever asks here
            return await reset(call, forward)

    runner = web.ServerRunner(web.Server(serve, access_log=None, handler_cancellation=True), shutdown_timeout=0.05)
    await runner.setup()
    try:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
            await web.TCPSite(runner, host, 0).start()
            link.url = f"http://{host}:{runner.addresses[0][1]}"
            yield link
            await runner.cleanup()
    finally:
        await runner.cleanup()


def _read(link: S3Proxy, request: web.BaseRequest) -> Call:
    query = request.query
    key = query.get("prefix") or request.path.lstrip("/").partition("/")[2]
    operation, part = _operation(request), int(query.get("partNumber", 0))
    link.attempts[operation, key, part] += 1
    size = int(request.headers.get("Content-Length", 0))
    attempt = link.attempts[operation, key, part]
    return Call(operation, key, part, attempt, size, dict(request.headers), request)


def _operation(request: web.BaseRequest) -> Operation:  # noqa: PLR0911  # a table
    query = request.query
    match request.method:
        case "POST" if "uploads" in query:
            return "create"
        case "POST" if "uploadId" in query:
            return "complete"
        case "PUT" if "partNumber" in query:
            return "part"
        case "PUT":
            return "copy" if "x-amz-copy-source" in request.headers else "put"
        case "DELETE":
            return "abort" if "uploadId" in query else "delete"
        case "GET" if "uploads" in query:
            return "uploads"
        case "GET":
            return "list" if "list-type" in query else "get"
        case _:
            return "other"


# Rules


def answering(status: int, body: str = "", **headers: str) -> Rule:
    """A rule that answers so, without having read what was sent."""

    async def rule(_call: Call, _forward: Forward) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type="application/xml", headers=headers)

    return rule


def refusing(status: int, code: str) -> Rule:
    """A rule that answers with S3's error `code`; S3 does so with status 200 too, at the completion of an upload."""
    return answering(status, f"<Error><Code>{code}</Code><Message>So it is.</Message></Error>")


async def reset(call: Call, _forward: Forward) -> web.StreamResponse:
    """End the connection with a TCP reset, without an answer."""
    if call.request.transport is not None:
        call.request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        call.request.transport.abort()
    return web.Response()


async def reset_after(call: Call, forward: Forward) -> web.StreamResponse:
    """Have it done, and end the connection before the answer: who asked cannot know."""
    await forward()
    return await reset(call, forward)


async def silent(_call: Call, _forward: Forward) -> web.StreamResponse:
    """Never answer, for as long as anybody waits."""
    await asyncio.Event().wait()
    raise AssertionError


def at_first(*rules: Rule) -> Rule:
    """A rule that follows one of these after the other, and then passes everything on."""
    left = list(rules)

    async def rule(call: Call, forward: Forward) -> web.StreamResponse:
        return await (left.pop(0)(call, forward) if left else forward())

    return rule


def on_keys(pattern: str, rule: Rule) -> Rule:
    """A rule for those calls in whose key the regular expression is found; others are passed on."""

    async def chosen(call: Call, forward: Forward) -> web.StreamResponse:
        return await (rule(call, forward) if re.search(pattern, call.key) else forward())

    return chosen


NAMED: Final[Mapping[str, Rule]] = {
    "s3-503": refusing(503, "SlowDown"),
    "s3-500": refusing(500, "InternalError"),
    "s3-reset": reset,
    "s3-reset-after": reset_after,
}
"""The names a user may write in a list of shares."""


def random_faults(shares: Mapping[str, float], *, seed: int = 0) -> Rule:
    """Each fault, by its name in `NAMED`, for its share of all calls; which ones follows from the seed alone."""

    async def rule(call: Call, forward: Forward) -> web.StreamResponse:
        chance = share("s3", seed, call.operation, call.key, call.part, call.attempt)
        for name, part in shares.items():
            if chance < part:
                return await NAMED[name](call, forward)
            chance -= part
        return await forward()

    return rule
