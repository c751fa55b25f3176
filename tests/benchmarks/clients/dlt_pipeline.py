"""`dlt_pipeline.py URL TITLES THREADS ITEMS FOLDER`: a dlt pipeline into JSON Lines, to compare the harvest with.

As its manual recommends for many detail requests: a list of ids, and a transformer that requests each in a thread pool
with dlt's own client. ITEMS are in flight; dlt's default is 20. Records stay whole: nested data is not split into
tables. Telemetry is off.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # read when it is imported

import dlt
from dlt.sources.helpers import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = {"api_key": "57a4d10557a4d10557a4d10557a4d105"}


def main(url: str, titles: int, *, threads: int, items: int, folder: Path) -> None:
    """Load all titles into the folder."""

    @dlt.resource(selected=False)
    def ids() -> Iterator[list[str]]:
        yield [f"tt{number:07d}" for number in range(1, titles + 1)]

    @dlt.transformer(data_from=ids, max_table_nesting=0)
    def movies(page: list[str]) -> Iterator[Any]:
        @dlt.defer
        def movie(id_: str) -> Any:
            return requests.get(f"{url}/movie/{id_}", params=KEY).json()

        for id_ in page:
            yield movie(id_)

    dlt.config["extract.workers"] = threads
    dlt.config["extract.max_parallel_items"] = items
    pipeline = dlt.pipeline(
        "titles",
        pipelines_dir=str(folder / "pipelines"),
        destination=dlt.destinations.filesystem((folder / "lake").as_uri()),
        dataset_name="raw",
    )
    pipeline.run(movies, loader_file_format="jsonl")


if __name__ == "__main__":
    url, titles, threads, items, folder = sys.argv[1:]
    main(url, int(titles), threads=int(threads), items=int(items), folder=Path(folder))
