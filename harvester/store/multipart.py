"""Multipart: the parts of an upload, and the deadline for sending one.

A part is made only when it can be sent, so that memory holds few of them; `s3.Bucket` sends several concurrently.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from harvester.model.lossless_json import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PART_BYTES = 5 * 2**20
"""At completion S3 refuses parts under 5 MiB, except the last (`EntityTooSmall`)."""

FILE_PART_BYTES = 8 * 2**20
"""Part size for a file, which may be large: fewer requests, and four at a time need little memory."""

PARTS_LIMIT = 10_000
"""Most parts of an upload to S3 (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""

POLL_SECONDS = 0.5
"""Time between two polls of a part's progress."""

Parts: TypeAlias = AsyncGenerator[tuple[int, io.BytesIO], None]
"""The parts of an upload with their numbers, from 1."""


@dataclass(frozen=True, slots=True)
class Body:
    """The content to land, and its description.

    `parts` makes the parts in order, again for each try. `check` is awaited before an upload begins and before it is
    completed. An error of either aborts the upload.
    """

    parts: Callable[[], Parts]
    content_type: str = CONTENT_TYPE
    metadata: Mapping[str, str] = field(default_factory=dict)  # `Store.head` returns it
    on_progress: Callable[[int], object] = lambda _sent: None  # bytes sent; fewer than before if a part is sent again
    check: Callable[[], Awaitable[object]] | None = None


def in_memory(body: bytes) -> Callable[[], Parts]:
    """Parts of 5 MiB, the last one shorter; one empty part for an empty body, because S3 requires one."""

    async def parts() -> Parts:
        for number, start in enumerate(range(0, max(len(body), 1), PART_BYTES), 1):
            yield number, io.BytesIO(body[start : start + PART_BYTES])

    return parts


def part_bytes(size: int) -> int:
    """Bytes of a part of a file of `size` bytes: 8 MiB, or as many whole MiB as keep it to 10,000 parts."""
    return max(FILE_PART_BYTES, -(-size // (PARTS_LIMIT * 2**20)) * 2**20)


@asynccontextmanager
async def progress_deadline(
    part: io.BytesIO, seconds: float, on_progress: Callable[[int], object]
) -> AsyncIterator[None]:
    """A deadline of `seconds`, extended while `part` makes progress; `on_progress` is called with the bytes sent.

    At a megabit a second four parts of 8 MiB take minutes; without a deadline they can hang for ever. Signing also
    reads a part from end to end, but without yielding to the event loop, so no poll sees it.
    """
    loop = asyncio.get_running_loop()
    size, position = part.getbuffer().nbytes, 0
    async with asyncio.timeout(seconds) as deadline:

        def poll(callback: Callable[..., object]) -> None:  # a reference to itself would be a cycle that keeps the part
            nonlocal position
            before, position = position, part.tell()
            if position != before and 0 < position < size and not deadline.expired():
                deadline.reschedule(loop.time() + seconds)
            on_progress(position)
            timers[:] = [loop.call_later(POLL_SECONDS, callback, callback)]

        timers = [loop.call_later(POLL_SECONDS, poll, poll)]
        try:
            yield
        finally:
            timers.pop().cancel()
    on_progress(size)
