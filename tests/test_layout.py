"""Layout: the keys of a run, and which keys are those of its day's data files."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.model.batch import Batch
from harvester.model.key_template import KeyTemplate
from harvester.model.layout import FILES_LIMIT, DataFile, Layout
from harvester.settings.settings import Settings

if TYPE_CHECKING:
    from harvester.model.ids import Collection

RUN = "2026-11-22-3f9a1c2e"
DEFAULT = "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json"
HIVE = "{prefix}/{collection}/year={yyyy}/month={mm}/day={dd}/{batch}.jsonl"
FLAT = "{prefix}/v1.2/{collection}/{yyyy}-{mm}-{dd}/{batch}.ndjson"
DEEP = "{prefix}/x-{collection}.d/{yyyy}{mm}/{dd}/records/{batch}.json"
TEMPLATES = [DEFAULT, HIVE, FLAT, DEEP]
NAME = "tt0000009-tt0000941-408b65d2"
LAYOUT = Layout("Raw/API", DEFAULT, RUN)
COLLECTIONS: tuple[Collection, ...] = ("Movies", "Series")

NAMES = st.lists(st.integers(1, 10**10 - 1).map(lambda number: f"tt{number:07d}"), min_size=1, max_size=3).map(
    lambda ids: Batch("Movies", tuple(ids)).name
)


def test_keys_are_those_of_the_design() -> None:
    """Everything of a run stands where DESIGN 3.3 has it, dated by the run."""
    folder = f"Raw/API/_harvest/{RUN}/"
    assert LAYOUT.date == "2026-11-22"
    assert LAYOUT.data_key("Movies", NAME) == f"Raw/API/Movies/2026/11/22/{NAME}.json"
    assert LAYOUT.data_key("Series", NAME) == f"Raw/API/Series/2026/11/22/{NAME}.json"
    assert LAYOUT.folder == folder
    assert LAYOUT.manifest_key == f"{folder}manifest.json"
    assert LAYOUT.ids_key("5d1c0b7a5d1c0b7a") == f"{folder}ids-5d1c0b7a5d1c0b7a.jsonl.gz"
    assert LAYOUT.shards_key == f"{folder}shards.json"
    assert LAYOUT.outcomes_key == f"{folder}outcomes.jsonl.gz"
    assert LAYOUT.summary_key == f"{folder}summary.json"
    assert LAYOUT.receipt_key("Movies", NAME) == f"{folder}receipts/Movies/{NAME}.json"
    assert LAYOUT.receipt_key("Series", NAME) == f"{folder}receipts/Series/{NAME}.json"
    assert LAYOUT.quarantine_key("Raw/API/Movies/x") == f"{folder}quarantine/Raw/API/Movies/x"
    assert LAYOUT.lease_key == "Raw/API/_harvest/lease.json"


def test_a_key_of_each_kind_is_a_key_of_its_own() -> None:
    """Nothing that is written of a run overwrites anything else of it."""
    keys = [
        LAYOUT.lease_key,
        LAYOUT.manifest_key,
        LAYOUT.shards_key,
        LAYOUT.outcomes_key,
        LAYOUT.summary_key,
        *(LAYOUT.ids_key(generation) for generation in ("00000001", "00000002")),
        *(LAYOUT.receipt_key(collection, NAME) for collection in COLLECTIONS),
        *(LAYOUT.data_key(collection, NAME, number) for collection in COLLECTIONS for number in (1, 2, 3)),
        *(LAYOUT.quarantine_key(LAYOUT.data_key(collection, NAME)) for collection in COLLECTIONS),
    ]
    assert len(set(keys)) == len(keys)


def test_the_files_of_a_large_batch_are_numbered_from_two() -> None:
    """More than 10 MB of records: `….json`, `….2.json`, `….3.json`."""
    stem = f"Raw/API/Movies/2026/11/22/{NAME}"
    keys = [LAYOUT.data_key("Movies", NAME, number) for number in (1, 2, 3, 10)]
    assert keys == [f"{stem}.json", f"{stem}.2.json", f"{stem}.3.json", f"{stem}.10.json"]


def test_the_default_template_is_the_one_of_the_settings() -> None:
    """What these tests take for the default is what a user without settings gets."""
    fields = Settings.model_fields
    assert (fields["s3_prefix"].default, fields["s3_key_template"].default) == (LAYOUT.prefix, DEFAULT)


@pytest.mark.parametrize(
    ("template", "first", "second"),
    [
        (
            HIVE,
            f"Raw/API/Movies/year=2026/month=11/day=22/{NAME}.jsonl",
            f"Raw/API/Movies/year=2026/month=11/day=22/{NAME}.2.jsonl",
        ),
        (FLAT, f"Raw/API/v1.2/Movies/2026-11-22/{NAME}.ndjson", f"Raw/API/v1.2/Movies/2026-11-22/{NAME}.2.ndjson"),
        (
            DEEP,
            f"Raw/API/x-Movies.d/202611/22/records/{NAME}.json",
            f"Raw/API/x-Movies.d/202611/22/records/{NAME}.2.json",
        ),
    ],
)
def test_another_template_makes_other_data_keys(template: str, first: str, second: str) -> None:
    """The template says where data lands, Hive's way too; what is written about the run stays where it is."""
    assert KeyTemplate.of_data_files(template).text == template
    layout = Layout("Raw/API", template, RUN)
    assert (layout.data_key("Movies", NAME), layout.data_key("Movies", NAME, 2)) == (first, second)
    assert layout.folder == LAYOUT.folder


def test_a_template_that_was_never_accepted_makes_and_knows_no_keys() -> None:
    """Whatever a layout was made from: keys outside the prefix would be written, or taken for ours."""
    layout = Layout("Raw/API", "{collection}/{batch}.json", RUN)
    for use in (layout.parse, lambda name: layout.data_key("Movies", name)):
        with pytest.raises(ValueError, match=r"must begin with \{prefix\}/"):
            use(NAME)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_data_folder_is_what_all_its_keys_begin_with(template: str, collection: Collection) -> None:
    """Listing the folder lists every file of the day and collection, and none of the other collection's."""
    layout = Layout("Raw/API", template, RUN)
    other: Collection = "Series" if collection == "Movies" else "Movies"
    folder = layout.data_folder(collection)
    for number in (1, 2):
        assert layout.data_key(collection, NAME, number).startswith(folder)
        assert not layout.data_key(other, NAME, number).startswith(folder)
    assert collection in folder
    assert layout.data_folders == [layout.data_folder("Movies"), layout.data_folder("Series")]
    assert not layout.manifest_key.startswith(folder)


def test_what_is_written_about_a_run_is_hidden_from_the_readers_of_the_lake() -> None:
    """Below the prefix it stands in a folder that begins with an underscore, and data does not."""
    keys = [
        LAYOUT.lease_key,
        LAYOUT.manifest_key,
        LAYOUT.ids_key("00000001"),
        LAYOUT.outcomes_key,
        LAYOUT.summary_key,
        LAYOUT.receipt_key("Movies", NAME),
        LAYOUT.quarantine_key(LAYOUT.data_key("Movies", NAME)),
    ]
    assert [any(part.startswith("_") for part in PurePosixPath(key).parts) for key in keys] == [True] * len(keys)
    assert not any(part.startswith(("_", ".")) for part in PurePosixPath(LAYOUT.data_key("Movies", NAME)).parts)


@given(NAMES, st.integers(1, FILES_LIMIT), st.sampled_from(COLLECTIONS), st.sampled_from(TEMPLATES))
def test_a_data_key_is_read_back_as_what_it_was_made_of(
    name: str, number: int, collection: Collection, template: str
) -> None:
    """Whatever data file a run can have, its key says collection, batch and number."""
    layout = Layout("Raw/API", template, RUN)
    assert layout.parse(layout.data_key(collection, name, number)) == DataFile(collection, name, number)


OWN = LAYOUT.data_key("Movies", NAME)
FOLDER = LAYOUT.data_folder("Movies")


@pytest.mark.parametrize(
    "key",
    [
        # shared/cases/break-10, and its siblings
        OWN.replace(".json", ".parquet"),
        f"{OWN}.bak",
        OWN.replace(".json", ".txt"),
        OWN.removesuffix(".json"),
        f"{OWN}.gz",
        f"{OWN}l",
        OWN.replace(".json", ".JSON"),
        OWN.replace(".json", ".2.parquet"),
        OWN.replace(".json", ".2"),
        f"{FOLDER}parquet/{NAME}.json",
        f"{FOLDER}{NAME}/{NAME}.json",
        f"{FOLDER}{NAME}-1.json",
        f"{FOLDER}x{NAME}.json",
        f"{FOLDER}{NAME.upper()}.json",
        f"{FOLDER}curated.parquet",
        # numbers that no file has
        *(OWN.replace(".json", f".{number}.json") for number in ("0", "1", "02", "101", "1000", "-2", "2.2", "٢", "²")),
        # names that no batch has
        f"{FOLDER}tt000009-tt0000941-408b65d2.json",
        f"{FOLDER}tt00000000009-tt0000941-408b65d2.json",
        f"{FOLDER}tt0000009-tt0000941-408b65d.json",
        f"{FOLDER}tt0000009-tt0000941-408b65dg.json",
        f"{FOLDER}tt0000009-tt0000941.json",
        f"{FOLDER}tt٠٠٠٠٠٠٩-tt0000941-408b65d2.json",
        f"{OWN}\n",
        # other places
        OWN.replace("/22/", "/23/"),
        OWN.replace("Movies", "Books"),
        OWN.replace("Movies", "movies"),
        OWN.replace("Raw/API", "Raw/API2"),
        f"x/{OWN}",
        f"/{OWN}",
        f"{NAME}.json",
        FOLDER,
        FOLDER.rstrip("/"),
        "",
        LAYOUT.receipt_key("Movies", NAME),
        LAYOUT.quarantine_key(OWN),
    ],
)
def test_any_other_key_is_not_ours(key: str) -> None:
    """Ours is only what the layout itself makes of collection, batch and number."""
    assert LAYOUT.parse(key) is None


@given(st.text(max_size=20) | st.sampled_from([FOLDER, OWN, NAME, ".json", ".2", "/", "\n", "tt0000009"]), st.data())
def test_a_key_that_is_read_is_the_key_that_is_made(piece: str, data: st.DataObject) -> None:
    """No key but the one that the layout makes is read as a data file's."""
    at = data.draw(st.integers(0, len(OWN)))
    to = data.draw(st.integers(at, len(OWN)))
    key = OWN[:at] + piece + OWN[to:]
    if file := LAYOUT.parse(key):
        assert LAYOUT.data_key(file.collection, file.batch, file.number) == key


def test_the_ids_of_a_generation_are_known_by_their_key() -> None:
    """Where a manifest is lost, the ids file itself says of which generation it is; nothing else does."""
    assert LAYOUT.generation_of(LAYOUT.ids_key("5d1c0b7a")) == "5d1c0b7a"
    assert LAYOUT.generation_of(LAYOUT.ids_key("5d" * 32)) == "5d" * 32
    for key in (
        LAYOUT.ids_key(""),
        LAYOUT.ids_key("5d1c0b7"),
        LAYOUT.ids_key("5d" * 33),
        LAYOUT.ids_key("5D1C0B7A"),
        LAYOUT.ids_key("../../x1"),
        LAYOUT.ids_key("5d1c0b7a") + ".gz",
        LAYOUT.ids_key("5d1c0b7a").replace(RUN, "2026-11-23-3f9a1c2e"),
        LAYOUT.outcomes_key,
    ):
        assert LAYOUT.generation_of(key) is None
