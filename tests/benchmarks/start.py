"""Start-up time of the command line and of the Lambda: `python -m harvester --help`, and the import of the handler.

For comparison, that of the bare interpreter and of the libraries that every harvest needs. All take turns, because a
machine's speed changes from minute to minute. Times are CPU times; nothing here waits. For the command the exit is
included, for an import it is not: a Lambda's process does not end.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench import Row, medians

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench import Bench

TIMES, QUICK_TIMES = 15, 3


def _imports(modules: str) -> tuple[str, str]:
    """Python's arguments to import these modules and exit at once."""
    return "-c", f"import os; import {modules}; os._exit(0)"


STARTS = {
    "help": ("-m", "harvester", "--help"),
    "handler": _imports("harvester.aws_lambda.handler"),
    "aiohttp": _imports("aiohttp"),
    "libraries": _imports("aiohttp, aiobotocore.session"),
    "python": ("-c", "pass"),
}
GOALS = {"help": 0.250, "handler": 0.350}
"""Seconds."""

WHAT = {"help": "`python -m harvester --help`", "handler": "import of the Lambda's handler"}


async def measure(bench: Bench) -> dict[str, float]:
    """The median and the best of each, in CPU seconds; the first round reads from the disk and is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in STARTS}
    for turn in range((QUICK_TIMES if bench.quick else TIMES) + 1):
        for name, words in STARTS.items():
            ran = await bench.python(*words)
            if turn:
                seen[name].append(ran.cpu_seconds)
    return {name: median(each) for name, each in seen.items()} | {f"best {name}": min(seen[name]) for name in seen}


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goal 10, for each entry point."""
    ms = {name: 1_000 * seconds for name, seconds in medians(runs).items()}
    beside = f"Python {ms['python']:.0f} ms, aiohttp {ms['aiohttp']:.0f}, and aiobotocore {ms['libraries']:.0f}"
    return [
        Row(
            10,
            f"{WHAT[name]} ({beside})",
            f"≤ {1_000 * goal:.0f} ms",
            f"{ms[name]:.0f} ms, best {ms[f'best {name}']:.0f}; {ms[name] / ms['libraries']:.2f} × those libraries",
            ms[name] <= 1_000 * goal,
        )
        for name, goal in GOALS.items()
    ]
