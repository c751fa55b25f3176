"""The harvester against common alternatives: a loop with `requests`, Scrapy with its feed export, dlt.

TMDB responds after 50 ms, and 40 requests may be in flight (one for the loop): so 800 titles a second are the maximum,
and the bare loop of aiohttp shows how many this machine reaches. dlt with 40 in flight reaches some 600, so nothing can
be 1.6 times as fast. It is measured a second time with only 40 threads set: then it has 20 in flight. The harvester
lands in S3 and reconciles its totals; its rivals write to the local disk.

The number is titles per second from the first request received to the end of the process. So it leaves out the start,
and includes all work on the records: normalizing, landing, reconciling. CPU time is that of the whole process, per
title.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

from bench import HERE, Row, medians, rivals_bin
from tmdb_server import answers, fast_tmdb

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench import Bench, Ran

CLIENTS = HERE / "clients"
LATENCY, IN_FLIGHT = 0.05, "40"

TITLES = {"harvester": 6_000, "bare": 4_000, "sequential": 200, "Scrapy": 4_000, "dlt": 6_000, "dlt of 20": 3_000}
QUICK = {"harvester": 2_500, "bare": 600, "sequential": 50, "Scrapy": 600, "dlt": 1_500, "dlt of 20": 400}
"""How many titles each must load: some seconds of work for each, at its speed."""

GOALS = {"sequential": 35.0, "Scrapy": 1.6, "dlt": 1.6}
"""How many times as fast as each the harvester should be."""

_numbers = count(1)


class _SinceTheFirst(Counter[str]):
    """A counter that stores the time of its first count."""

    began = 0.0

    def __setitem__(self, name: str, number: int) -> None:
        self.began = self.began or time.monotonic()
        super().__setitem__(name, number)


async def measure(bench: Bench) -> dict[str, float]:
    """Titles per second, and CPU milliseconds per title, of each."""
    values: dict[str, float] = {}
    for name, titles in (QUICK if bench.quick else TITLES).items():
        async with fast_tmdb(answers(), latency=LATENCY) as tmdb:
            asked = tmdb.asked = _SinceTheFirst()
            ran = await _run(bench, name, tmdb.url, titles)
            values[name] = titles / (time.monotonic() - asked.began)
        if asked["movie"] != titles:
            raise RuntimeError(f"{name} asked for {asked['movie']} titles instead of {titles}: {ran.out[-1000:]}")
        values[f"{name} cpu"] = 1_000 * ran.cpu_seconds / titles
    return values


async def _run(bench: Bench, name: str, url: str, titles: int) -> Ran:
    words, place = (url, str(titles)), bench.folder / f"rival-{next(_numbers)}"
    python = str(rivals_bin("python"))
    match name:
        case "bare":
            return await bench.python(str(CLIENTS / "bare.py"), *words, IN_FLIGHT, "uvloop")
        case "sequential":
            return await bench.run(python, str(CLIENTS / "sequential.py"), *words, str(place))
        case "Scrapy":
            return await bench.run(python, str(CLIENTS / "scrapy_spider.py"), *words, IN_FLIGHT, f"{place}.jsonl")
        case "dlt" | "dlt of 20":
            items = "80" if name == "dlt" else "20"  # in flight or queued, so that no thread waits
            return await bench.run(python, str(CLIENTS / "dlt_pipeline.py"), *words, IN_FLIGHT, items, str(place))
        case _:
            csv = place.with_suffix(".csv")
            lines = (f"tt{number:07d}|x\n" for number in range(1, titles + 1))
            csv.write_text(f"id|t\n{''.join(lines)}", encoding="utf-8")
            tmdb = {"TMDB_BASE_URL": url, "TMDB_API_KEY": KEY, "TMDB_RATE": "10000", "TMDB_CONCURRENCY": IN_FLIGHT}
            return await bench.harvest(MOVIES_CSV=str(csv), **tmdb)


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goal 7, for each rival."""
    seen = medians(runs)
    times = medians([{name: run["harvester"] / run[name] for name in TITLES} for run in runs])
    cost = medians([{name: run[f"{name} cpu"] / run["harvester cpu"] for name in TITLES} for run in runs])
    # With few titles, too much of the CPU time is start-up.
    cpu = {name: f", and {1 / cost[name]:.2f} × the CPU" for name in ("Scrapy", "dlt")}
    also = {"dlt": f" (with 20 in flight, {seen['dlt of 20']:.0f}: {times['dlt of 20']:.2f} ×)"}
    return [
        Row(
            7,
            f"{seen['harvester']:.0f} titles a second (bare loop {seen['bare']:.0f}, at most 800) "
            f"against {name}'s {seen[name]:.0f}{also.get(name, '')}",
            f"≥ {goal:g} ×",
            f"{times[name]:.2f} ×{cpu.get(name, '')}",
            times[name] >= goal,
        )
        for name, goal in GOALS.items()
    ]
