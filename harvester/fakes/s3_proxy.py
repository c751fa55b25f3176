"""A proxy in front of an S3 server: it forwards every request, except where a rule decides otherwise.

    async with s3_proxy(server.endpoint) as proxy:
        proxy.rules["part"] = at_first(refusing(503, "SlowDown"))
        ...  # send S3 requests to proxy.url, then read proxy.seen

The Host header is forwarded unchanged, because the signature of a request covers it: so the server accepts it. The
proxy changes nothing; only a rule acts, before the request reaches S3, after it, or instead of it.
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

from harvester.fakes.records import pick, share

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Operation: TypeAlias = Literal[
    "create", "part", "complete", "abort", "put", "copy", "get", "delete", "list", "uploads", "other"
]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a rule sees it.

    Attributes:
        operation: Which operation of S3.
        key: Key of the object, or prefix of a listing.
        part: Number of the part; 0 if there is none.
        attempt: 1 for the first request of this operation, key and part, 2 for the next.
        bytes: Size of the request's body.
        headers: Headers of the request.
        request: The request itself; its body may not have arrived yet.
    """

    operation: Operation
    key: str
    part: int
    attempt: int
    bytes: int
    headers: Mapping[str, str]
    request: web.BaseRequest = field(repr=False)


Forward: TypeAlias = Callable[[], Awaitable[web.Response]]
"""Forwards the request and returns the response of S3."""

Rule: TypeAlias = Callable[[Call, Forward], Awaitable[web.StreamResponse]]
"""Responds to a call, by forwarding it or otherwise."""


@dataclass(slots=True)
class S3Proxy:
    """The running proxy; made by `s3_proxy`.

    Attributes:
        beyond: URL of the S3 server behind it.
        url: The URL it listens at.
        rules: Rule by operation; `*` is for operations without a rule of their own.
        seen: Every call received, in order.
    """

    beyond: str
    url: str = ""
    rules: dict[str, Rule] = field(default_factory=dict)
    seen: list[Call] = field(default_factory=list)
    attempts: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def times(self, operation: Operation) -> int:
        """How many calls of this operation were received."""
        return sum(call.operation == operation for call in self.seen)


@asynccontextmanager
async def s3_proxy(beyond: str = "", *, host: str = "127.0.0.1") -> AsyncIterator[S3Proxy]:
    """A proxy to the S3 server at the URL `beyond`; calls that are still open at the end are cancelled."""
    proxy = S3Proxy(beyond)

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        call = _read(proxy, request)
        proxy.seen.append(call)

        async def forward() -> web.Response:
            body = await request.content.read()
            headers = {name: value for name, value in request.headers.items() if name != "Connection"}
            url = URL(proxy.beyond + request.raw_path, encoded=True)
            async with session.request(
                request.method, url, data=io.BytesIO(body) if body else None, headers=headers
            ) as response:
                headers = {name: value for name, value in response.headers.items() if name != "Transfer-Encoding"}
                return web.Response(status=response.status, body=await response.read(), headers=headers)

        rule = proxy.rules.get(call.operation) or proxy.rules.get("*")
        try:
            return await (rule(call, forward) if rule else forward())
        except aiohttp.ClientConnectionError:  # S3 is down: the client gets a reset too
            return await reset(call, forward)

    runner = web.ServerRunner(web.Server(serve, access_log=None, handler_cancellation=True), shutdown_timeout=0.05)
    await runner.setup()
    try:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
            await web.TCPSite(runner, host, 0).start()
            proxy.url = f"http://{host}:{runner.addresses[0][1]}"
            yield proxy
            await runner.cleanup()
    finally:
        await runner.cleanup()


def _read(proxy: S3Proxy, request: web.BaseRequest) -> Call:
    query = request.query
    key = query.get("prefix") or request.path.lstrip("/").partition("/")[2]
    operation, part = _operation(request), int(query.get("partNumber", 0))
    proxy.attempts[operation, key, part] += 1
    size = int(request.headers.get("Content-Length", 0))
    attempt = proxy.attempts[operation, key, part]
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
    """A rule that sends this response without reading the request's body."""

    async def rule(_call: Call, _forward: Forward) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type="application/xml", headers=headers)

    return rule


def refusing(status: int, code: str) -> Rule:
    """A rule that responds with S3's error `code`; S3 does so with status 200 too, when an upload is completed."""
    return answering(status, f"<Error><Code>{code}</Code><Message>So it is.</Message></Error>")


async def reset(call: Call, _forward: Forward) -> web.StreamResponse:
    """End the connection with a TCP reset, without a response."""
    if call.request.transport is not None:
        call.request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        call.request.transport.abort()
    return web.Response()


async def reset_after(call: Call, forward: Forward) -> web.StreamResponse:
    """Forward the call, then reset the connection before the response: the client cannot know the outcome."""
    await forward()
    return await reset(call, forward)


async def silent(_call: Call, _forward: Forward) -> web.StreamResponse:
    """Never respond, however long the client waits."""
    await asyncio.Event().wait()
    raise AssertionError


def at_first(*rules: Rule) -> Rule:
    """A rule that applies these one after the other, one to each call, and then forwards everything."""
    remaining = list(rules)

    async def rule(call: Call, forward: Forward) -> web.StreamResponse:
        return await (remaining.pop(0)(call, forward) if remaining else forward())

    return rule


def on_keys(pattern: str, rule: Rule) -> Rule:
    """A rule for calls whose key matches the regular expression (`re.search`); others are forwarded."""

    async def chosen(call: Call, forward: Forward) -> web.StreamResponse:
        return await (rule(call, forward) if re.search(pattern, call.key) else forward())

    return chosen


NAMED: Final[Mapping[str, Rule]] = {
    "s3-503": refusing(503, "SlowDown"),
    "s3-500": refusing(500, "InternalError"),
    "s3-reset": reset,
    "s3-reset-after": reset_after,
}
"""Fault names that a user may write in a list of shares."""


def random_faults(shares: Mapping[str, float], *, seed: int = 0) -> Rule:
    """A rule that gives each fault, by its name in `NAMED`, to its share of all calls, chosen by the seed alone."""

    async def rule(call: Call, forward: Forward) -> web.StreamResponse:
        name = pick(shares, share("s3", seed, call.operation, call.key, call.part, call.attempt))
        return await (NAMED[name](call, forward) if name else forward())

    return rule
