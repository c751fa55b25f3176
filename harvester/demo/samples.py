"""The sample CSVs: real ids, titles, years and people, in the exact shape of the real files, oddities included."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harvester.titles import parse_id

FOLDER = Path(str(files("harvester.demo"))) / "csv"
MOVIES, SERIES = FOLDER / "movies.csv", FOLDER / "series.csv"


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
