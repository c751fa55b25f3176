"""Batches: ids cut by the hundred, under names and keys that follow from the ids alone."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.batches import BATCH_SIZE, Batch, Layout, cut
from harvester.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.titles import Collection

DEFAULT = "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json"
NAME = "tt0000009-tt0000941-408b65d2"
LAYOUT = Layout("Raw/API", DEFAULT, "2026-11-22-3f9a1c2e")
IDS = st.lists(st.integers(1, 10**10 - 1).map(lambda number: f"tt{number:07d}"), unique=True, max_size=350)


def ids_from(first: int, count: int) -> list[str]:
    return [f"tt{number:07d}" for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (99, [99]), (100, [100]), (101, [100, 1]), (200, [100, 100]), (250, [100, 100, 50])],
)
def test_ids_are_cut_by_the_hundred(count: int, sizes: list[int]) -> None:
    """Every batch has 100 ids but the last, which has the rest; no ids are no batch."""
    assert BATCH_SIZE == 100
    batches = list(cut("Series", ids_from(1, count)))
    assert [len(batch.ids) for batch in batches] == sizes
    assert {batch.collection for batch in batches} <= {"Series"}


@given(IDS)
def test_the_batches_together_are_the_ids_in_their_order(ids: list[str]) -> None:
    """Cutting loses no id, repeats none and keeps the CSV's order, also from an iterator."""
    assert [id_ for batch in cut("Movies", iter(ids)) for id_ in batch.ids] == ids


def test_ids_are_cut_one_batch_at_a_time() -> None:
    """The first batch takes a hundred ids and no more: an endless input is fine."""
    taken = []

    def endless() -> Iterator[str]:
        for number in range(1, 10**9):
            taken.append(number)
            yield f"tt{number:07d}"

    first = next(cut("Movies", endless()))
    assert (first.ids[-1], len(taken)) == ("tt0000100", 100)


@pytest.mark.parametrize(
    ("ids", "name"),
    [
        # printf 'tt0000001\ntt0000002\ntt0000003' | sha256sum
        (("tt0000001", "tt0000002", "tt0000003"), "tt0000001-tt0000003-f31faca7"),
        (("tt0133093",), "tt0133093-tt0133093-9c12bf7f"),
    ],
)
def test_a_name_is_first_id_last_id_and_digest(ids: tuple[str, ...], name: str) -> None:
    """These names stand in buckets: they never change, whatever the code becomes."""
    assert Batch("Movies", ids).name == name


@given(IDS.filter(bool))
def test_a_name_follows_from_the_ids_alone(ids: list[str]) -> None:
    """Whoever has these ids makes the same name, for either collection: first, last and sha256 over a line each."""
    digest = hashlib.sha256(b"\n".join(id_.encode() for id_ in ids)).hexdigest()
    expected = f"{ids[0]}-{ids[-1]}-{digest[:8]}"
    assert {Batch("Movies", tuple(ids)).name, Batch("Series", tuple(ids)).name} == {expected}
    assert re.fullmatch(r"tt[0-9]{7,10}-tt[0-9]{7,10}-[0-9a-f]{8}", expected)


def test_other_ids_between_the_same_ends_make_another_name() -> None:
    """First and last id do not tell two batches apart; the digest does, for content and for order."""
    first, last = "tt0000001", "tt0000009"
    inner = [("tt0000002", "tt0000003"), ("tt0000003", "tt0000002"), ("tt0000002", "tt0000004"), ("tt0000002",), ()]
    names = {Batch("Movies", (first, *ids, last)).name for ids in inner}
    assert len(names) == len(inner)
    assert {name[:19] for name in names} == {"tt0000001-tt0000009"}


def test_keys_are_those_of_the_design() -> None:
    """Everything of a run stands where DESIGN 3.3 has it, dated by the run."""
    folder = "Raw/API/_harvest/2026-11-22-3f9a1c2e/"
    assert LAYOUT.data_key("Movies", NAME) == f"Raw/API/Movies/2026/11/22/{NAME}.json"
    assert LAYOUT.data_key("Series", NAME) == f"Raw/API/Series/2026/11/22/{NAME}.json"
    assert LAYOUT.folder == folder
    assert LAYOUT.plan_key == f"{folder}plan.json"
    assert LAYOUT.summary_key == f"{folder}summary.json"
    assert LAYOUT.receipt_key("Movies", NAME) == f"{folder}receipts/Movies/{NAME}.json"
    assert LAYOUT.failed_key("Movies", NAME) == f"{folder}failed/Movies/{NAME}.json"
    assert LAYOUT.receipt_key("Series", NAME) == f"{folder}receipts/Series/{NAME}.json"
    assert LAYOUT.failed_key("Series", NAME) == f"{folder}failed/Series/{NAME}.json"


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
            "{prefix}/{collection}/year={yyyy}/month={mm}/day={dd}/{batch}.jsonl",
            f"Raw/API/Movies/year=2026/month=11/day=22/{NAME}.jsonl",
            f"Raw/API/Movies/year=2026/month=11/day=22/{NAME}.2.jsonl",
        ),
        ("{collection}/{batch}.json", f"Movies/{NAME}.json", f"Movies/{NAME}.2.json"),
        ("v1.2/{collection}/{batch}.ndjson", f"v1.2/Movies/{NAME}.ndjson", f"v1.2/Movies/{NAME}.2.ndjson"),
        ("lake/{yyyy}{mm}{dd}-{collection}-{batch}.json", f"lake/20261122-Movies-{NAME}.json", None),
        ("{{x}}/{collection}/{batch}.json", f"{{x}}/Movies/{NAME}.json", f"{{x}}/Movies/{NAME}.2.json"),
    ],
)
def test_another_template_makes_other_data_keys(template: str, first: str, second: str | None) -> None:
    """The template says where data lands, Hive's way too, and nothing of the run's own papers."""
    layout = Layout("Raw/API", template, "2026-11-22-3f9a1c2e")
    assert layout.data_key("Movies", NAME) == first
    if second:
        assert layout.data_key("Movies", NAME, 2) == second
    assert layout.folder == LAYOUT.folder


@pytest.mark.parametrize("template", [DEFAULT, "{collection}/{batch}.json", "{yyyy}-{collection}/{batch}.json"])
@pytest.mark.parametrize("collection", ["Movies", "Series"])
def test_a_data_folder_is_what_all_its_keys_begin_with(template: str, collection: Collection) -> None:
    """Listing the folder lists every file of the run and collection, and none of the other collection's."""
    layout = Layout("Raw/API", template, "2026-11-22-3f9a1c2e")
    other: Collection = "Series" if collection == "Movies" else "Movies"
    folder = layout.data_folder(collection)
    for number in (1, 2):
        assert layout.data_key(collection, NAME, number).startswith(folder)
        assert not layout.data_key(other, NAME, number).startswith(folder)
    assert collection in folder


def test_papers_are_hidden_from_the_readers_of_the_lake() -> None:
    """Below the prefix, receipts and plans stand in a folder that begins with an underscore, and data does not."""
    keys = [LAYOUT.plan_key, LAYOUT.summary_key, LAYOUT.receipt_key("Movies", NAME), LAYOUT.failed_key("Movies", NAME)]
    assert [any(part.startswith("_") for part in PurePosixPath(key).parts) for key in keys] == [True] * 4
    assert not any(part.startswith(("_", ".")) for part in PurePosixPath(LAYOUT.data_key("Movies", NAME)).parts)
