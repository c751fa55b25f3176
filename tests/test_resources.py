"""Opening: CSVs that are named by their folder in S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harvester.commands.resources import read_inputs
from harvester.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

FOLDER = "Raw/Filmes e séries/CSV/Movies/"


def csv_of(number: int) -> bytes:
    return f"id|tituloPrincipal\ntt{number:07d}|a title\n".encode()


async def test_a_folder_stands_for_the_latest_csv_in_it(bucket: Bucket, settings_for: Make) -> None:
    """By its key, which ends in dates; whatever else lies there is passed over, and the books name the CSV itself."""
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
        inputs = await read_inputs(settings_for("http://127.0.0.1:9/3", movies_csv=f"s3://{bucket.name}/{source}"))
        assert {name: (ids.source, ids.ids) for name, ids in inputs.items()} == {
            "Movies": (f"s3://{bucket.name}/{FOLDER}{key}", [id_])
        }


@pytest.mark.parametrize("source", ["empty/", "others/", "others/movies.csv", "other"])
async def test_where_there_is_no_csv_it_is_said_so(source: str, bucket: Bucket, settings_for: Make) -> None:
    """A folder without one, or a key without an object: the sentence names the place as it was given."""
    await bucket.put("others/readme.txt", b"id\ntt0000001\n")
    settings = settings_for("http://127.0.0.1:9/3", movies_csv=f"s3://{bucket.name}/{source}")
    with pytest.raises(InputError, match=f"^s3://{bucket.name}/{source}: is not there: give s3://bucket/key of a CSV"):
        await read_inputs(settings)


@pytest.mark.parametrize("source", ["s3://", "s3://lake", "s3://lake/", "s3:///movies.csv", "s3://lake/a\x00b.csv"])
async def test_what_is_no_place_in_s3_is_refused_before_anybody_is_asked(source: str, settings_for: Make) -> None:
    """A whole bucket is no folder: the latest CSV of it could be anything."""
    settings = settings_for("http://127.0.0.1:9/3", movies_csv=source, aws_endpoint_url_s3="http://127.0.0.1:9")
    with pytest.raises(InputError, match="is no place in S3"):
        await read_inputs(settings)
