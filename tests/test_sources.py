"""Sources: which one a text names, and CSVs that are named by their folder in S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harvester.commands.resources import source_options, source_texts
from harvester.errors import InputError
from harvester.model.inputs import InputIds
from harvester.sources.csv import LocalCsv
from harvester.sources.registry import SOURCES, read_inputs, source_of
from harvester.sources.s3_csv import S3Csv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harvester.model.ids import Collection
    from harvester.settings.settings import Settings
    from harvester.sources.source import SourceOptions
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

FOLDER = "Raw/Filmes e séries/CSV/Movies/"


async def read(settings: Settings) -> dict[Collection, InputIds]:
    """The ids of the sources that the settings name."""
    return await read_inputs(source_texts(settings), source_options(settings))


def csv_of(number: int) -> bytes:
    return f"id|tituloPrincipal\ntt{number:07d}|a title\n".encode()


async def test_a_folder_stands_for_the_latest_csv_in_it(bucket: Bucket, settings_for: Make) -> None:
    """By its key, which ends in dates; whatever else lies there is passed over, and the totals name the CSV itself."""
    keys = ["2026/02/09/movies.csv", "2026/11/22/movies.CSV", "2026/11/3/old.csv", "2025/12/31/movies.csv.gz"]
    for number, key in enumerate(keys, 1):
        await bucket.put(FOLDER + key, csv_of(number))
    await bucket.put(f"{FOLDER}2026/11/22/movies.parquet", b"PAR1")
    await bucket.put(f"{FOLDER}zzz.json", b"{}")
    await bucket.put("Raw/Filmes e séries/CSV/Series/2027/01/01/series.csv", csv_of(9))
    for source, key, id_ in [
        (FOLDER, "2026/11/3/old.csv", "tt0000003"),
        (f"{FOLDER}2026/11/22/", "2026/11/22/movies.CSV", "tt0000002"),
        (f"{FOLDER}2025/", "2025/12/31/movies.csv.gz", "tt0000004"),
        (FOLDER + keys[0], keys[0], "tt0000001"),
    ]:
        inputs = await read(settings_for("http://127.0.0.1:9/3", movies_csv=f"s3://{bucket.name}/{source}"))
        assert {name: (ids.source, ids.ids) for name, ids in inputs.items()} == {
            "Movies": (f"s3://{bucket.name}/{FOLDER}{key}", [id_])
        }


@pytest.mark.parametrize("source", ["empty/", "others/", "others/movies.csv", "other"])
async def test_where_there_is_no_csv_it_is_said_so(source: str, bucket: Bucket, settings_for: Make) -> None:
    """A folder without one, or a key without an object: the sentence names the place as it was given."""
    await bucket.put("others/readme.txt", b"id\ntt0000001\n")
    settings = settings_for("http://127.0.0.1:9/3", movies_csv=f"s3://{bucket.name}/{source}")
    with pytest.raises(
        InputError, match=f"^s3://{bucket.name}/{source}: does not exist: give s3://bucket/key of a CSV"
    ):
        await read(settings)


@pytest.mark.parametrize("source", ["s3://", "s3://lake", "s3://lake/", "s3:///movies.csv", "s3://lake/a\x00b.csv"])
async def test_what_is_no_place_in_s3_is_refused_before_anybody_is_asked(source: str, settings_for: Make) -> None:
    """A whole bucket is no folder: the latest CSV of it could be anything."""
    settings = settings_for("http://127.0.0.1:9/3", movies_csv=source, aws_endpoint_url_s3="http://127.0.0.1:9")
    with pytest.raises(InputError, match="is not an S3 URL with a bucket and a key"):
        await read(settings)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("s3://lake/a.csv", S3Csv),
        ("s3://lake/folder/", S3Csv),
        ("a.csv", LocalCsv),
        ("-", LocalCsv),
        ("S3A://x", LocalCsv),
    ],
)
def test_a_text_names_one_source(text: str, kind: type, settings_for: Make) -> None:
    """The first of the registry that takes the text; what none of the others takes is a path."""
    assert isinstance(source_of(text, source_options(settings_for("http://127.0.0.1:9/3"))), kind)


class Listed:
    """A source of one's own: `ids:` and ids with commas between them."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids

    @classmethod
    def of(cls, text: str, _options: SourceOptions) -> Listed | None:
        return cls(text.removeprefix("ids:").split(",")) if text.startswith("ids:") else None

    async def read(self, seen: set[str]) -> InputIds:
        account = InputIds("a list", rows=len(self.ids))
        for line, id_ in enumerate(self.ids, 1):
            if id_ not in seen:
                seen.add(id_)
                account.ids.append(id_)
                account.lines.append(line)
        return account


async def test_a_new_source_is_a_class_and_a_line_of_the_registry(settings_for: Make, tmp_path: Path) -> None:
    """It stands beside the others, and an id that both have is a duplicate in the later one, as of two CSVs."""
    csv = tmp_path / "series.csv"
    csv.write_text("id|t\ntt0000002|b\ntt0000003|c\n", encoding="utf-8")
    settings = settings_for("http://127.0.0.1:9/3", movies_csv="ids:tt0000001,tt0000002,tt0000001", series_csv=str(csv))
    inputs = await read_inputs(source_texts(settings), source_options(settings), (Listed.of, *SOURCES))
    assert {name: (each.ids, each.rows, each.duplicates) for name, each in inputs.items()} == {
        "Movies": (["tt0000001", "tt0000002"], 3, 1),
        "Series": (["tt0000003"], 2, 1),
    }
