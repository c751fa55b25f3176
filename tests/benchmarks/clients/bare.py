"""`bare.py URL TITLES IN_FLIGHT [uvloop]`: the least that asks TMDB for so many titles, to compare the harvest with.

One session, so many workers, read, `orjson.loads`: no pace, no retry, nothing kept. On asyncio's own loop unless told
otherwise.
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
    """Ask for the next of the `ids` until there are none left."""
    for id_ in ids:
        async with session.get(f"{url}/movie/{id_}?api_key=57a4d10557a4d10557a4d10557a4d105") as response:
            orjson.loads(await response.read())


async def main(url: str, titles: int, in_flight: int) -> None:
    """Ask for all."""
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
