"""`bare.py URL TITLES IN_FLIGHT [uvloop]`: the minimal client of TMDB, to compare the harvest with.

One session, IN_FLIGHT workers, read, `orjson.loads`: no rate limit, no retry, nothing stored. It uses asyncio's own
loop, or uvloop.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import aiohttp
import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator


async def ask(session: aiohttp.ClientSession, url: str, ids: Iterator[str]) -> None:
    """Request one of the `ids` after the other until none is left."""
    for id_ in ids:
        async with session.get(f"{url}/movie/{id_}?api_key=57a4d10557a4d10557a4d10557a4d105") as response:
            orjson.loads(await response.read())


async def main(url: str, titles: int, in_flight: int) -> None:
    """Request all titles."""
    ids = (f"tt{number:07d}" for number in range(1, titles + 1))
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(in_flight):
            group.create_task(ask(session, url, ids))


if __name__ == "__main__":
    factory = None
    if sys.argv[4:] == ["uvloop"]:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
