"""Requests per title: one for a movie, two for a series or for an id that TMDB does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bench import Row, medians
from tmdb_server import answers, fast_tmdb

from harvester.fakes.tmdb import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench import Bench

    Knows = Literal["movie", "tv", "nothing"]

TITLES = 300

CASES: dict[str, tuple[Knows, str, float]] = {
    "found movie": ("movie", "MOVIES_CSV", 1.0),
    "found series": ("tv", "SERIES_CSV", 2.0),
    "missing id": ("nothing", "MOVIES_CSV", 2.0),
}
"""Case to: what TMDB knows, the setting of the CSV, and the goal."""


async def measure(bench: Bench) -> dict[str, float]:
    """Requests per title, counted by TMDB, without the check of the key."""
    return {
        case: await _requests_per_title(bench, case.replace(" ", "-"), knows, csv)
        for case, (knows, csv, _) in CASES.items()
    }


async def _requests_per_title(bench: Bench, case: str, knows: Knows, csv: str) -> float:
    path = bench.folder / f"{case}.csv"
    path.write_text("id|t\n" + "".join(f"tt{number:07d}|x\n" for number in range(1, TITLES + 1)), encoding="utf-8")
    async with fast_tmdb(answers(knows=knows)) as tmdb:
        settings = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": tmdb.url, "TMDB_RATE": "10000"}
        await bench.harvest(S3_PREFIX=f"Raw/{case}", **{csv: str(path)}, **settings)
        return (tmdb.asked.total() - tmdb.asked["authentication"]) / TITLES


def rows(runs: Sequence[dict[str, float]]) -> list[Row]:
    """Goal 11, for each outcome."""
    seen = medians(runs)
    return [
        Row(11, f"requests per {case}", f"{goal:.2f}", f"{seen[case]:.2f}", seen[case] == goal)
        for case, (_, _, goal) in CASES.items()
    ]
