"""Whether the pace ever stands idle because of S3: a harvest with 100 ms for every call to S3, and one without.

What counts is what TMDB has seen: the time from the first title's request to the last one's, beyond what so many turns
take. Without the delay a little is lost too, to late wakers and slow answers: what is more with it, is S3's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench import Row, medians

from harvester.fakes.catalog import Catalog
from harvester.fakes.s3_proxy import s3_proxy
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.tmdb.rate_limiter import SPACING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web
    from bench import Bench

    from harvester.fakes.s3_proxy import Call, Forward

SECONDS, QUICK_SECONDS = 60, 6

RATE = 40

DELAY = 0.1
"""Seconds before a call is passed on to S3."""

GOAL = 0.01


async def late(_call: Call, forward: Forward) -> web.StreamResponse:
    """Pass the call on after a while."""
    await asyncio.sleep(DELAY)
    return await forward()


async def measure(bench: Bench) -> dict[str, float]:
    """The share of the time that was idle, without the delay and with it, and the calls that were late."""
    async with s3_proxy(bench.s3.endpoint) as link:
        without = await _idle(bench, "plain", link.url)
        calls = len(link.seen)
        link.rules["*"] = late
        delayed = await _idle(bench, "late", link.url)
        return {"without": without, "with": delayed, "calls": len(link.seen) - calls}


async def _idle(bench: Bench, name: str, s3_url: str) -> float:
    """The share of the time from the first title's request to the last one's in which there could have been more."""
    ids = round((QUICK_SECONDS if bench.quick else SECONDS) * RATE / SPACING)
    path = bench.folder / f"landing-{ids}.csv"
    path.write_text("id|t\n" + "".join(f"tt{number:07d}|x\n" for number in range(1, ids + 1)), encoding="utf-8")
    async with fake_tmdb(catalog=Catalog(otherwise="movie"), latency=(0.05, 0.3)) as tmdb:
        await bench.harvest(
            TMDB_API_KEY=KEY,
            TMDB_BASE_URL=tmdb.url,
            TMDB_RATE=str(RATE),
            MOVIES_CSV=str(path),
            S3_PREFIX=f"Raw/landing-{name}",
            AWS_ENDPOINT_URL_S3=s3_url,
        )
        _, first, *_, last = tmdb.arrivals  # the very first one is for the key
        return 1 - (ids - 1) * SPACING / RATE / (last - first)


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goal 12."""
    seen = medians(runs)
    idle = seen["with"] - seen["without"]
    return [
        Row(
            12,
            f"pace idle because of S3 between the first title's request and the last one's, "
            f"{DELAY * 1000:.0f} ms per call ({seen['calls']:.0f} calls)",
            f"≤ {GOAL:.0%}",
            f"{max(idle, 0.0):.2%}; idle at all {seen['with']:.2%}, without the delay {seen['without']:.2%}",
            idle <= GOAL,
        )
    ]
