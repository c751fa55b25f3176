"""How much of the allowed rate is used: with a limit equal to the ceiling, with jitter, and with a lower limit.

A harvest of movies, one request each, for a minute from the first to the last. The server counts: it is the demo's
stand-in, with a strict limit for any second, and responses in 50 to 300 ms. In the eight seconds of a quick run one
back-off takes a seventh of the time, so it misses goals that the minute meets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import Row, medians

from harvester.fakes.catalog import Catalog
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.tmdb.rate_limiter import SPACING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench import Bench

SECONDS, QUICK_SECONDS = 60, 8

LATENCY = (0.05, 0.3)


@dataclass(frozen=True, slots=True)
class Case:
    """One harvest, and its goals.

    Attributes:
        number: Of the goals.
        limit: What the server allows in any second.
        ceiling: TMDB_RATE of the harvester.
        jitter: Longest seconds that a request takes to arrive.
        used: Share of the limit that accepted requests must use.
        refused: Largest share of requests that may be refused.
    """

    number: int
    limit: int
    ceiling: int
    jitter: float
    used: float
    refused: float


CASES = {
    "limit 40, ceiling 40": Case(1, 40, 40, 0.0, 0.985, 0.0),
    "limit 40, ceiling 40, 20 ms jitter": Case(2, 40, 40, 0.020, 0.95, 0.0),
    "limit 50, ceiling 60": Case(3, 50, 60, 0.0, 46 / 50, 0.007),
    "limit 30, ceiling 40": Case(4, 30, 40, 0.0, 0.90, 0.025),
}


async def measure(bench: Bench) -> dict[str, float]:
    """For each case: accepted requests per second, 429s, all requests, and the most in any second."""
    seen: dict[str, float] = {}
    for name, case in CASES.items():
        seen |= {f"{name}: {what}": value for what, value in (await _harvest(bench, case)).items()}
    return seen


async def _harvest(bench: Bench, case: Case) -> dict[str, float]:
    ids = round((QUICK_SECONDS if bench.quick else SECONDS) * case.limit / SPACING)
    path = bench.folder / f"movies-{ids}.csv"
    path.write_text("id|t\n" + "".join(f"tt{number:07d}|x\n" for number in range(1, ids + 1)), encoding="utf-8")
    async with fake_tmdb(
        catalog=Catalog(otherwise="movie"), per_second=case.limit, latency=LATENCY, jitter=case.jitter
    ) as tmdb:
        await bench.harvest(
            TMDB_API_KEY=KEY,
            TMDB_BASE_URL=tmdb.url,
            TMDB_RATE=str(case.ceiling),
            TMDB_CONCURRENCY="20",
            MOVIES_CSV=str(path),
            S3_PREFIX=f"Raw/rate-{case.number}",
        )
        _, first, *_, last = tmdb.arrivals  # the very first one is for the key
        return {
            "good": (len(tmdb.arrivals) - 1 - tmdb.refused - 1) / (last - first),  # n of them end n - 1 spans
            "refused": tmdb.refused,
            "requests": len(tmdb.arrivals) - 1,
            "peak": tmdb.peak_all,
        }


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goals 1 to 4: the median of the rates; the maximum over all runs of 429s and of requests in a second."""
    rows = []
    for name, case in CASES.items():
        good = medians(runs)[f"{name}: good"]
        refused = max(run[f"{name}: refused"] for run in runs)
        share = max(run[f"{name}: refused"] / run[f"{name}: requests"] for run in runs)
        peak = max(run[f"{name}: peak"] for run in runs)
        is_below = peak <= case.limit if case.number == 1 else True
        goal = f"≥ {case.used:.1%} used, " + (f"≤ {case.refused:.1%} 429s" if case.refused else "no 429")
        seen = f"{good / case.limit:.1%}, {good:.1f}/s; {refused:.0f} 429s, {share:.2%}; at most {peak:.0f} in a second"
        met = good >= case.used * case.limit and share <= case.refused and is_below
        rows.append(Row(case.number, name, goal + ", ≤ 40 in any second" * (case.number == 1), seen, met))
    return rows
