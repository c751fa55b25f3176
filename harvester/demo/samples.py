"""The sample CSVs: real ids, titles, years and people, in the exact format of the real files, with their oddities."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from harvester.model.ids import parse_id

if TYPE_CHECKING:
    from harvester.fakes.catalog import Kind

FOLDER = Path(str(files("harvester.demo"))) / "csv"
MOVIES, SERIES = FOLDER / "movies.csv", FOLDER / "series.csv"

REALLY: dict[str, Kind] = {
    "tt0092337": "tv",  # Dekalog; like the next two, a mini-series that is often listed as a film
    "tt0112130": "tv",  # Pride and Prejudice
    "tt0318997": "tv",  # Angels in America
    "tt0120902": "movie",  # The X Files
    "tt1291580": "movie",  # Behind the Candelabra
    "tt0959621": "episode",  # the pilot of Breaking Bad
    "tt1544667": "episode",  # one of Community
}
"""The true kind of these ids, in whichever of the two CSVs they stand."""


def sample_titles(path: Path) -> dict[str, tuple[str, str]]:
    """Title and year of every usable id in a sample CSV."""
    titles: dict[str, tuple[str, str]] = {}
    with path.open(encoding="utf-8", newline="\n") as file:
        next(file)
        for line in file:
            cells = line.split("|")
            id_ = parse_id(cells[0])
            if id_:
                titles[id_] = (cells[1], cells[3])
    return titles
