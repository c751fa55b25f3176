"""Cost of a title without a rate limit: CPU time, instructions and titles per second, against the bare loop.

The bare loop requests and parses, on asyncio's own loop: one session, `orjson.loads`, nothing stored. The harvest is a
whole one, from CSV to reconciled totals, with S3. Each runs short and long, and the difference counts, so that start-up
is not in it. All take turns; the result is the median of the differences.
"""

from __future__ import annotations

from itertools import count
from statistics import median
from typing import TYPE_CHECKING

from bench import HERE, Row, csv_of, medians
from instructions import LOOPS, count_instructions
from tmdb_server import answers, fast_tmdb

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench import Bench, Ran

FEW, MANY, QUICK_MANY = 1_000, 9_000, 3_000
TURNS = 3
SIZES = {"as they come": 0, "4 KB": 4_096}
"""Bytes of a record; without padding the stand-in's has 1.4 KB, the median of recorded movies."""

CLIENTS = ("bare", "bare on uvloop", "harvest")

_numbers = count(1)
_counted: dict[str, float] = {}


async def measure(bench: Bench) -> dict[str, float]:
    """CPU seconds and seconds per title, by client and size; instructions once, because they do not vary."""
    many = QUICK_MANY if bench.quick else MANY
    values: dict[str, float] = {}
    for size, record_bytes in SIZES.items():
        async with fast_tmdb(answers(record_bytes=record_bytes)) as tmdb:
            seen: dict[tuple[str, int], list[Ran]] = {}
            for _ in range(1 if bench.quick else TURNS):
                for client in CLIENTS:
                    for titles in (FEW, many):
                        seen.setdefault((client, titles), []).append(await _run(bench, client, titles, tmdb.url))
        for client in CLIENTS:
            pairs = list(zip(seen[client, FEW], seen[client, many], strict=True))
            for what in ("cpu_seconds", "seconds"):
                more = median(getattr(long, what) - getattr(short, what) for short, long in pairs)
                values[f"{client}, {size}, {what}"] = more / (many - FEW)
    if not bench.quick and not _counted:
        _counted.update(await count_instructions(bench, *LOOPS))
    return values | _counted


async def _run(bench: Bench, client: str, titles: int, url: str) -> Ran:
    if client != "harvest":
        words = (str(HERE / "clients" / "bare.py"), url, str(titles), "20")
        return await bench.python(*words, *(["uvloop"] if "uvloop" in client else []))
    settings = {"TMDB_BASE_URL": url, "TMDB_API_KEY": KEY, "TMDB_RATE": "10000", "TMDB_CONCURRENCY": "20"}
    return await bench.harvest(MOVIES_CSV=str(csv_of(bench, titles)), S3_PREFIX=f"Raw/{next(_numbers)}", **settings)


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goals 5 and 6."""
    seen = medians(runs)
    ratios = medians([{name: value / run[_bare_of(name)] for name, value in run.items()} for run in runs])
    calls = []
    for size in SIZES:
        name = f"harvest, {size}, cpu_seconds"
        on_uvloop = 1 / ratios[f"bare on uvloop, {size}, cpu_seconds"] * ratios[name]
        calls.append(
            Row(
                5,
                f"CPU time of a title, records {size}: {1e6 * seen[name]:.0f} µs "
                f"against the bare loop's {1e6 * seen[_bare_of(name)]:.0f}",
                "≤ 1.25 ×",
                f"{ratios[name]:.2f} × ({on_uvloop:.2f} × a bare loop on uvloop)",
                ratios[name] <= 1.25,
            )
        )
    if "harvest" in seen:
        instructions = seen["harvest"] / seen["bare"]
        calls.append(
            Row(
                5,
                f"instructions of a title, but for SHA-256 (92,000 more): {seen['harvest']:,.0f} "
                f"against {seen['bare']:,.0f}",
                "≤ 1.25 ×",
                f"{instructions:.2f} × ({seen['harvest'] / seen['bare on uvloop']:.2f} × on uvloop)",
                instructions <= 1.25,
            )
        )
    name = "harvest, 4 KB, seconds"
    return [
        *calls,
        Row(
            6,
            f"titles a second, 4 KB records: {1 / seen[name]:,.0f} against {1 / seen[_bare_of(name)]:,.0f}",
            "≥ 0.8 ×",
            f"{1 / ratios[name]:.2f} ×",
            1 / ratios[name] >= 0.8,
        ),
    ]


def _bare_of(name: str) -> str:
    """The name of the same number for the bare loop."""
    return ",".join(["bare", *name.split(",")[1:]])
