"""Multipart: what an upload is made of, and how long a part of it may be on its way.

Parts are made when there is room for the next, so that memory holds a few of them; `s3.Bucket` sends them side by side.
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
"""S3 refuses parts under 5 MiB, but for the last, at completion (`EntityTooSmall`)."""

FILE_PART_BYTES = 8 * 2**20
"""Of a file, whose size has no limit: fewer requests, and four at a time are little memory."""

PARTS_LIMIT = 10_000
"""S3 takes no more parts (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)."""

POLL_SECONDS = 0.5
"""Between two polls of how far a part has got."""

Parts: TypeAlias = AsyncGenerator[tuple[int, io.BytesIO], None]
"""The parts of an upload with their numbers, from 1."""


@dataclass(frozen=True, slots=True)
class Body:
    """What is to land.

    `parts` makes the parts in order, anew for each try. `check` is awaited before an upload is begun and before it is
    completed. What either of them raises aborts the upload.
    """

    parts: Callable[[], Parts]
    content_type: str = CONTENT_TYPE
    metadata: Mapping[str, str] = field(default_factory=dict)  # to be read back by `Store.head`
    on_progress: Callable[[int], object] = lambda _sent: None  # bytes; fewer than before where a part is sent again
    check: Callable[[], Awaitable[object]] | None = None


def in_memory(body: bytes) -> Callable[[], Parts]:
    """Parts of 5 MiB, the last one shorter; of nothing, one empty part, because S3 completes no upload without any."""

    async def parts() -> Parts:
        for number, start in enumerate(range(0, max(len(body), 1), PART_BYTES), 1):
            yield number, io.BytesIO(body[start : start + PART_BYTES])

    return parts


def part_bytes(size: int) -> int:
    """Bytes of a part of a file of `size` bytes: 8 MiB, and whole MiB more where there would be over 10,000 parts."""
    return max(FILE_PART_BYTES, -(-size // (PARTS_LIMIT * 2**20)) * 2**20)


@asynccontextmanager
async def progress_deadline(
    part: io.BytesIO, seconds: float, on_progress: Callable[[int], object]
) -> AsyncIterator[None]:
    """A deadline of so many `seconds`, put off while `part` is being sent, and gets on; `on_progress` hears how far.

    At a megabit a second four parts of 8 MiB take minutes; and without a deadline they can hang for ever. Signing reads
    a part from end to end too, but at once: that is never seen here.
    """
    loop = asyncio.get_running_loop()
    size, here = part.getbuffer().nbytes, 0
    async with asyncio.timeout(seconds) as deadline:

        def poll(again: Callable[..., object]) -> None:  # a `poll` that named itself would keep the part, in a cycle
            nonlocal here
            before, here = here, part.tell()
            if here != before and 0 < here < size and not deadline.expired():
                deadline.reschedule(loop.time() + seconds)
            on_progress(here)
            timers[:] = [loop.call_later(POLL_SECONDS, again, again)]

        timers = [loop.call_later(POLL_SECONDS, poll, poll)]
        try:
            yield
        finally:
            timers.pop().cancel()
    on_progress(size)
