"""Batches: at most 100 ids that are looked up, land and are accounted for together.

Second on the road. Names follow from content: whoever harvests the same ids under the same date writes the same keys,
so that doing it twice is harmless and nothing has to be coordinated.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from harvester.titles import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harvester.titles import Collection

BATCH_SIZE = 100
"""Titles; the data lake's rule is at most 100 records in a file."""

RUNS = "_harvest"
"""Folder of receipts and plans. Athena, Spark and Hive do not read below a folder that begins with an underscore."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One to 100 distinct ids of one collection, in the order of their CSV."""

    collection: Collection
    ids: tuple[str, ...]

    @property
    def name(self) -> str:
        """First id, last id, and 4 bytes of SHA-256 over all ids, a line each: `tt0000009-tt0000941-408b65d2`."""
        digest = hashlib.sha256("\n".join(self.ids).encode()).hexdigest()[:8]
        return f"{self.ids[0]}-{self.ids[-1]}-{digest}"


def cut(collection: Collection, ids: Iterable[str]) -> Iterator[Batch]:
    """Batches of 100 in the order of `ids`; the last may be shorter."""
    rest = iter(ids)
    while some := tuple(islice(rest, BATCH_SIZE)):
        yield Batch(collection, some)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one run stands in the bucket.

    Attributes:
        prefix: Folder of the whole harvest, without a slash at its end.
        template: Of a data file's key; has `{collection}` and `{batch}`, may have `{prefix}`, `{yyyy}`, `{mm}`, `{dd}`.
        run: `{date}-{fingerprint}`; the date in the keys is the run's, whatever the time.
    """

    prefix: str
    template: str
    run: str

    def data_key(self, collection: Collection, name: str, number: int = 1) -> str:
        """Key of a batch's data file; `number` 2 and up are those of a batch too large for one file."""
        key = self._data_path(collection).replace("{batch}", name)
        if number == 1:
            return key
        stem, dot, suffix = key.rpartition(".")
        return f"{stem}.{number}{dot}{suffix}"

    def data_folder(self, collection: Collection) -> str:
        """What the keys of all data files of this run and collection begin with."""
        return self._data_path(collection).partition("{batch}")[0]

    @property
    def data_folders(self) -> list[str]:
        """The folders of both collections; a template can make them one."""
        return sorted({self.data_folder(collection) for collection in KINDS})

    def _data_path(self, collection: Collection) -> str:
        yyyy, mm, dd = self.run[:10].split("-")
        values = {"prefix": self.prefix, "collection": collection, "yyyy": yyyy, "mm": mm, "dd": dd}
        return self.template.format(**values, batch="{batch}")

    @property
    def folder(self) -> str:
        """Folder of the run's plan, receipts and summary, with a slash at its end."""
        return f"{self.prefix}/{RUNS}/{self.run}/"

    @property
    def plan_key(self) -> str:
        """Written first."""
        return f"{self.folder}plan.json"

    @property
    def summary_key(self) -> str:
        """Written when the books are closed."""
        return f"{self.folder}summary.json"

    @property
    def shards_key(self) -> str:
        """What the children of a fan-out are to harvest; written after the plan, where there is one."""
        return f"{self.folder}shards.json"

    @property
    def receipts(self) -> str:
        """Folder of the receipts."""
        return f"{self.folder}receipts/"

    @property
    def failed(self) -> str:
        """Folder of the papers of batches with failed titles."""
        return f"{self.folder}failed/"

    def receipt_key(self, collection: Collection, name: str) -> str:
        """Written last of a batch: where this stands, the batch is done."""
        return f"{self.receipts}{collection}/{name}.json"

    def failed_key(self, collection: Collection, name: str) -> str:
        """Stands instead of a receipt while a batch has failed titles."""
        return f"{self.failed}{collection}/{name}.json"

    def aside_key(self, key: str) -> str:
        """Where an object goes that somebody else has put among the data files."""
        return f"{self.folder}aside/{key}"
