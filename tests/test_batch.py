"""Batches: ids cut by the hundred, under names that follow from collection and ids alone."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.model.batch import BATCH_SIZE, Batch, cut
from harvester.model.layout import BATCH_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.model.ids import Collection

IDS = st.lists(st.integers(1, 10**10 - 1).map(lambda number: f"tt{number:07d}"), unique=True, max_size=350)
COLLECTIONS: tuple[Collection, ...] = ("Movies", "Series")


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
    ("collection", "ids", "name"),
    [
        # printf 'Movies\ntt0000001\ntt0000002\ntt0000003' | sha256sum
        ("Movies", ("tt0000001", "tt0000002", "tt0000003"), "tt0000001-tt0000003-028172be"),
        ("Series", ("tt0000001", "tt0000002", "tt0000003"), "tt0000001-tt0000003-efe35ef1"),
        ("Movies", ("tt0133093",), "tt0133093-tt0133093-5352d3bd"),
    ],
)
def test_a_name_is_first_id_last_id_and_digest(collection: Collection, ids: tuple[str, ...], name: str) -> None:
    """These names stand in buckets: they never change, whatever the code becomes."""
    assert Batch(collection, ids).name == name


@given(IDS.filter(bool), st.sampled_from(COLLECTIONS))
def test_a_name_follows_from_collection_and_ids_alone(ids: list[str], collection: Collection) -> None:
    """First id, last id and SHA-256 over the collection and the ids, a line each: the same for everyone."""
    digest = hashlib.sha256("\n".join([collection, *ids]).encode()).hexdigest()
    expected = f"{ids[0]}-{ids[-1]}-{digest[:8]}"
    assert Batch(collection, tuple(ids)).name == expected
    assert re.fullmatch(BATCH_NAME, expected)


@given(IDS.filter(bool))
def test_no_two_collections_share_a_name(ids: list[str]) -> None:
    """The same ids among the movies and among the series are two batches, with two names."""
    assert Batch("Movies", tuple(ids)).name != Batch("Series", tuple(ids)).name


def test_other_ids_between_the_same_ends_make_another_name() -> None:
    """First and last id do not tell two batches apart; the digest does, for content and for order."""
    first, last = "tt0000001", "tt0000009"
    inner = [("tt0000002", "tt0000003"), ("tt0000003", "tt0000002"), ("tt0000002", "tt0000004"), ("tt0000002",), ()]
    names = {Batch(collection, (first, *ids, last)).name for ids in inner for collection in COLLECTIONS}
    assert len(names) == 2 * len(inner)
    assert {name[:19] for name in names} == {"tt0000001-tt0000009"}
