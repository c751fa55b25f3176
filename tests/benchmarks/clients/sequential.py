"""`sequential.py URL TITLES FOLDER`: the usual first script, to compare the harvest with.

One session of `requests`, one title after another, and a file of JSON for every hundred records.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import requests

PER_FILE = 100
KEY = {"api_key": "57a4d10557a4d10557a4d10557a4d105"}


def main(url: str, titles: int, folder: Path) -> None:
    """Request all titles and write them to files."""
    folder.mkdir()
    with requests.Session() as session:
        records: list[Any] = []
        for number in range(1, titles + 1):
            response = session.get(f"{url}/movie/tt{number:07d}", params=KEY, timeout=30)
            response.raise_for_status()
            records.append(response.json())
            if len(records) == PER_FILE or number == titles:
                (folder / f"{number:07d}.json").write_text(json.dumps(records), encoding="utf-8")
                records = []


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
