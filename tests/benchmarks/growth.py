"""How cost grows with the number of ids: of a whole harvest, and of the same command again, with nothing left to do.

The second is how a resume begins: it reads the CSV, lists all landed files and reads every receipt. There is no goal,
but a plot. Each size is measured once, whatever the number of rounds: a million ids take minutes.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import orjson
from bench import csv_of, medians
from plot import Panel, svg
from tmdb_server import answers, fast_tmdb

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench import Bench, Ran, Row

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (1_000, 5_000)

BYTES_PER_ID = 6_000
"""What the S3 server writes for an id at most: 1.4 KB of record, its share of a receipt, and a margin."""


_once: dict[str, float] = {}
"""The numbers of the first round."""


async def measure(bench: Bench) -> dict[str, float]:
    """Seconds, CPU seconds and peak bytes of each harvest, and of the same command again."""
    if not _once:
        sizes = QUICK_SIZES if bench.quick else SIZES
        if shutil.disk_usage(bench.folder).free < sum(sizes) * BYTES_PER_ID:
            raise RuntimeError(f"{bench.folder} needs {sum(sizes) * BYTES_PER_ID / 1e9:.0f} GB free: set TMPDIR")
        _once.update([each for ids in sizes for each in (await _measure(bench, ids)).items()])
    return dict(_once)


async def _measure(bench: Bench, ids: int) -> dict[str, float]:
    path = csv_of(bench, ids)
    seen: dict[str, float] = {}
    async with fast_tmdb(answers()) as tmdb:
        for what, status in (("harvest", "closed"), ("again", "nothing_to_do")):
            ran = await bench.harvest(
                TMDB_API_KEY=KEY,
                TMDB_BASE_URL=tmdb.url,
                TMDB_RATE="10000",
                TMDB_CONCURRENCY="20",
                MOVIES_CSV=str(path),
                S3_PREFIX=f"Raw/growth-{ids}",
            )
            if (ended_as := orjson.loads(ran.out)["status"]) != status:
                raise RuntimeError(f"{what} of {ids} ids ended as {ended_as}, not {status}: {ran.out[-1000:]}")
            seen |= _numbers(f"{ids} {what}", ran)
    return seen


def _numbers(name: str, ran: Ran) -> dict[str, float]:
    return {f"{name} seconds": ran.seconds, f"{name} cpu": ran.cpu_seconds, f"{name} bytes": ran.peak_bytes}


def rows(_runs: Sequence[dict[str, float]]) -> list[Row]:
    """None: there is no goal."""
    return []


def text(runs: Sequence[dict[str, float]], folder: Path) -> str:
    """The numbers, with a picture of them, which is written to `growth.svg` in `folder`."""
    seen = medians(runs)
    sizes = sorted({int(name.split()[0]) for name in seen})
    (folder / "growth.svg").write_text(svg(_panels(seen, sizes)), encoding="utf-8")
    about = (
        "Of a whole harvest without a limit, and of the same command again, when there is nothing left to do: it reads "
        "the CSV, lists all that has landed and reads every receipt, one for 100 ids. Measured once."
    )
    lines = [
        "## How cost grows with ids",
        "",
        about,
        "",
        "| ids | harvest | CPU | peak | nothing to do | CPU | peak |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for ids in sizes:
        cells = [f"{ids:,}"]
        for what in ("harvest", "again"):
            name = f"{ids} {what}"
            cells += [f"{seen[f'{name} seconds']:.1f} s", f"{seen[f'{name} cpu']:.1f} s"]
            cells.append(f"{seen[f'{name} bytes'] / 1e6:.0f} MB")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![Time, memory and resume, by ids](growth.svg)", ""])


def _panels(seen: Mapping[str, float], sizes: Sequence[int]) -> list[Panel]:
    """Time of a harvest by 1,000 ids, memory, and time of the same again."""

    def line(name: str, unit: float = 1.0) -> list[float]:
        return [seen[f"{ids} {name}"] / unit for ids in sizes]

    def of_1000(name: str) -> list[float]:
        return [1_000 * value / ids for value, ids in zip(line(name), sizes, strict=True)]

    time = {"all": of_1000("harvest seconds"), "CPU": of_1000("harvest cpu")}
    memory = {"harvest": line("harvest bytes", 1e6), "nothing to do": line("again bytes", 1e6)}
    again = {"all": line("again seconds"), "CPU": line("again cpu")}
    return [
        Panel("Harvest: seconds per 1,000 ids", sizes, time),
        Panel("Peak memory, MB", sizes, memory),
        Panel("Nothing to do: seconds", sizes, again),
    ]
