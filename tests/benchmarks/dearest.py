"""What a harvest spends its CPU time on: py-spy samples its stack 400 times a second.

A sample with a call to S3 in its stack counts for S3; any other counts for the part of its innermost known frame.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

from bench import csv_of, medians, rivals_bin
from tmdb_server import answers, fast_tmdb

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench import Bench, Row

TITLES, QUICK_TITLES = 20_000, 3_000

S3 = "S3: aiobotocore makes, signs, sends and reads its calls, four a batch"

PARTS = {
    "HTTP: aiohttp, with yarl, sends requests and parses answers": ("aiohttp/", "yarl/", "multidict/"),
    "a title: queue, rate limiter, reading its response": ("harvester/tmdb",),
    "a batch: its records, its file, its receipt": (
        "harvester/commands",
        "harvester/formats",
        "harvester/model",
        "harvester/runs",
    ),
    "landing: multipart, deadlines": ("harvester/aws", "harvester/store"),
    "the ids: reading the CSV": ("harvester/sources",),
    "the loop and its tasks": ("asyncio/", "harvester/runtime"),
}
"""Each part, and paths of its frames; the first part that matches counts."""

_numbers = count(1)


async def measure(bench: Bench) -> dict[str, float]:
    """Each part's share of all samples within the command, from its settings to its reconciled totals."""
    stacks = bench.folder / "stacks.txt"
    spy = (str(rivals_bin("py-spy")), "record", "-r", "400", "-f", "raw", "-o", str(stacks), "--")
    async with fast_tmdb(answers()) as tmdb:
        titles = QUICK_TITLES if bench.quick else TITLES
        settings = {"TMDB_BASE_URL": tmdb.url, "TMDB_API_KEY": KEY, "TMDB_RATE": "10000"}
        target = {"MOVIES_CSV": str(csv_of(bench, titles)), "S3_PREFIX": f"Raw/spied-{next(_numbers)}"}
        await bench.harvest(before=spy, **settings, **target)
    samples = Counter[str]()
    for line in stacks.read_text(encoding="utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if any(frame.startswith("_run (harvester/cli/runner.py") for frame in frames):
            samples[_part(frames)] += int(number)
    return {part: samples[part] / samples.total() for part in (S3, *PARTS, "all else")}


def _part(frames: Sequence[str]) -> str:
    if any("botocore/" in frame for frame in frames):
        return S3
    for frame in reversed(frames):
        path = frame.partition("(")[2]
        for part, paths in PARTS.items():
            if any(each in path for each in paths) and ("harvester/" in path or paths[0].endswith("/")):
                return part
    return "all else"


def rows(_runs: Sequence[dict[str, float]]) -> list[Row]:
    """None: this has no goal."""
    return []


def text(runs: Sequence[dict[str, float]], _folder: Path) -> str:
    """The parts, the most expensive first."""
    shares = sorted(medians(runs).items(), key=lambda each: -each[1])
    dear = [f"{number}. {share:.0%} {part}" for number, (part, share) in enumerate(shares[:3], 1)]
    rest = "; ".join(f"{share:.0%} {part}" for part, share in shares[3:])
    return (
        "\n".join(
            [
                "## The three most expensive parts",
                "",
                "Of a harvest's CPU time without a limit, as py-spy sees it:",
                "",
                *dear,
            ]
        )
        + f"\n\nThe rest: {rest}.\n"
    )
