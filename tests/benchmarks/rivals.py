"""Against what people use instead: a loop with `requests`, Scrapy with its feed export, dlt.

TMDB answers after 50 ms, and 40 requests may be in flight, but for the loop, which has one: 800 titles a second are
the most there can be, of which the bare loop of aiohttp shows what comes through here. dlt with 40 under way gets some
600 of them, so that nobody can be 1.6 times as fast. It is measured a second time as it is when told of 40 threads
alone: it then has 20 things under way. The harvester lands in S3 and closes its books; its rivals write to this
machine's disk.

What is counted is titles per second from the first request that arrives until the process has ended. So how long each
takes to start is left out, and all it does with the records is in: normalizing, landing, closing the books. CPU time
is that of the whole process, by titles.
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
"""How many titles each is asked for: some seconds of each, however fast it is."""

GOALS = {"sequential": 35.0, "Scrapy": 1.6, "dlt": 1.6}
"""How many times as fast as each the harvester shall be."""

_numbers = count(1)


class _SinceTheFirst(Counter[str]):
    """Counts, and remembers when the first was counted."""

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
            items = "80" if name == "dlt" else "20"  # under way or about to be: no thread waits for one
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
    # Of few titles too much of the CPU time is that of the start.
    cpu = {name: f", and {1 / cost[name]:.2f} × the CPU" for name in ("Scrapy", "dlt")}
    also = {"dlt": f" (of 20 things under way, {seen['dlt of 20']:.0f}: {times['dlt of 20']:.2f} ×)"}
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
