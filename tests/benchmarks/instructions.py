"""Instructions per title, counted by callgrind: nearly the same number however busy the machine is.

Two harvests, one with more titles: the difference is the cost of titles, without start-up; likewise for the bare loop.
SHA-256 is left out: callgrind's processor lacks the instructions for it, and needs a tenth of a title's time for what
takes a real processor 0.8 µs.

`python tests/benchmarks/instructions.py` is the check in CI: it fails if a harvested title, measured in titles of the
bare loop, costs 3 % more than `instructions.json` says. `--write` updates that file; commit it with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from bench import HERE, SERVER_CORE, csv_of, open_bench
from tmdb_server import answers, fast_tmdb

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from bench import Bench, Ran

FEW, MANY = 200, 1_400
BARE = "bare"
LOOPS = {BARE: ("20",), "bare on uvloop": ("20", "uvloop")}
"""The bare loops and their arguments: requests in flight, and the event loop."""

BASELINE = HERE / "instructions.json"
MARGIN = 0.03

CALLGRIND = (
    *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
    *("--toggle-collect=SHA256_Update", "--collect-atstart=yes"),
)
COUNTED = re.compile(r"Collected : (\d+)")
SEED = {"PYTHONHASHSEED": "0"}

_numbers = count(1_000)


async def count_instructions(bench: Bench, *loops: str) -> dict[str, float]:
    """Instructions per title of these bare loops, and of the whole harvest."""
    counted: dict[str, list[int]] = {name: [] for name in (*loops, "harvest")}
    async with fast_tmdb(answers()) as tmdb:
        settings = {"TMDB_BASE_URL": tmdb.url, "TMDB_API_KEY": KEY, "TMDB_RATE": "10000"}
        for titles in (FEW, MANY):
            for name in loops:
                bare = (sys.executable, str(HERE / "clients" / "bare.py"), tmdb.url, str(titles), *LOOPS[name])
                counted[name].append(_counted(await bench.run(*CALLGRIND, *bare, **SEED)))
            target = {"MOVIES_CSV": str(csv_of(bench, titles)), "S3_PREFIX": f"Raw/counted-{next(_numbers)}"}
            counted["harvest"].append(_counted(await bench.harvest(before=CALLGRIND, **settings, **target, **SEED)))
    return {name: (many - few) / (MANY - FEW) for name, (few, many) in counted.items()}


def _counted(ran: Ran) -> int:
    """The number that callgrind prints at the end."""
    found = COUNTED.search(ran.err)
    if not found:
        raise RuntimeError(f"callgrind counted nothing: {ran.err[-1000:]}")
    return int(found[1])


async def measure() -> dict[str, float]:
    """Instructions per title of the harvest and of the bare loop, in a separate bench."""
    with tempfile.TemporaryDirectory(prefix="harvester-instructions-") as folder:
        async with open_bench(Path(folder), quick=False) as bench:
            return await count_instructions(bench, BARE)


def main() -> None:
    """Count, and compare with the baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="store the count as the new baseline")
    words = parser.parse_args()
    os.sched_setaffinity(0, {SERVER_CORE})
    counted = asyncio.run(measure())
    ratio = counted["harvest"] / counted[BARE]
    print("Instructions per title:", ", ".join(f"{name} {number:,.0f}" for name, number in counted.items()))
    if words.write:
        BASELINE.write_text(json.dumps({"harvest_in_bare_loops": round(ratio, 3)}) + "\n", encoding="utf-8")
    allowed = json.loads(BASELINE.read_text(encoding="utf-8"))["harvest_in_bare_loops"]
    print(f"A harvested title takes {ratio:.3f} titles of the bare loop; {BASELINE.name} says {allowed}.")
    if ratio > allowed * (1 + MARGIN):
        sys.exit(
            f"That is {ratio / allowed - 1:.1%} more than before, and {MARGIN:.0%} is allowed. Find what has become "
            f"slower; if it is worth it, run {Path(__file__).name} --write and commit {BASELINE.name} with the reason."
        )


if __name__ == "__main__":
    main()
