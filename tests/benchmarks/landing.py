"""Whether S3 ever leaves the rate limiter idle: a harvest with 100 ms for every call to S3, and one without.

TMDB measures: the time from the first title's request to the last one's, beyond what that many requests need at the
rate. A little is lost without the delay too, to late wake-ups and slow responses; the difference is due to S3.
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
    """Forward the call after `DELAY`."""
    await asyncio.sleep(DELAY)
    return await forward()


async def measure(bench: Bench) -> dict[str, float]:
    """The idle share of the time, without and with the delay, and the number of delayed calls."""
    async with s3_proxy(bench.s3.endpoint) as proxy:
        without = await _idle(bench, "plain", proxy.url)
        calls = len(proxy.seen)
        proxy.rules["*"] = late
        delayed = await _idle(bench, "late", proxy.url)
        return {"without": without, "with": delayed, "calls": len(proxy.seen) - calls}


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
            "rate limiter idle because of S3 between the first and the last title's request, "
            f"{DELAY * 1000:.0f} ms per call ({seen['calls']:.0f} calls)",
            f"≤ {GOAL:.0%}",
            f"{max(idle, 0.0):.2%}; idle in all {seen['with']:.2%}, without the delay {seen['without']:.2%}",
            idle <= GOAL,
        )
    ]
