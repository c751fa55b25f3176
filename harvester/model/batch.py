"""Batches: at most 100 ids that are looked up, land and get a receipt together.

A batch's name follows from its ids, so every harvest of the same ids under the same date writes the same keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harvester.model.ids import Collection, TitleId

BATCH_SIZE = 100
"""Titles; the data lake's rule is at most 100 records in a file."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One to 100 distinct ids of one collection, in the order of their CSV."""

    collection: Collection
    ids: tuple[TitleId, ...]

    @property
    def name(self) -> str:
        """First id, last id, 4 bytes of SHA-256 over collection and all ids: `tt0000009-tt0000941-1f3fbc35`."""
        digest = hashlib.sha256("\n".join([self.collection, *self.ids]).encode()).hexdigest()[:8]
        return f"{self.ids[0]}-{self.ids[-1]}-{digest}"


def cut(collection: Collection, ids: Iterable[TitleId]) -> Iterator[Batch]:
    """Batches of 100 in the order of `ids`; the last may be shorter."""
    rest = iter(ids)
    while batch_ids := tuple(islice(rest, BATCH_SIZE)):
        yield Batch(collection, batch_ids)
