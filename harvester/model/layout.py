"""Layout: the keys of everything that a run writes, and which keys are those of data files.

A key is ours only if the layout makes exactly that key from a collection, a batch and a number. Athena, Spark and Hive
do not read below a folder that begins with an underscore.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from harvester.model.ids import KINDS, TITLE_ID
from harvester.model.key_template import KeyTemplate, date_values

if TYPE_CHECKING:
    from harvester.model.ids import Collection

RUNS = "_harvest"
LEASE = f"{RUNS}/lease.json"
"""Below the prefix: the folder of the runs, and the lease beside them."""
RUN_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9a-f]{8}")
BATCH_NAME = rf"{TITLE_ID}-{TITLE_ID}-[0-9a-f]{{8}}"
GENERATION = r"[0-9a-f]{8,64}"

FILES_LIMIT = 100
"""Data files of one batch and collection at most: a batch has at most 100 records, and a file at least one."""

_NUMBERED = re.compile(rf"({BATCH_NAME})(?:\.([2-9]|[1-9][0-9]|{FILES_LIMIT}))?")
_IDS_NAME = re.compile(rf"ids-({GENERATION})\.jsonl\.gz")


@dataclass(frozen=True, slots=True)
class DataFile:
    """The parts of a data file's key; a batch too large for one file has files of `number` 2 and up."""

    collection: Collection
    batch: str
    number: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one run."""

    prefix: str  # folder of the whole harvest, without a trailing slash
    template: str  # of a data file's key, as `KeyTemplate.of_data_files` accepts it
    run: str  # `{date}-{fingerprint}`; all keys have this date, even after midnight

    @property
    def date(self) -> str:
        """The run's date, such as 2026-11-29."""
        return self.run[:10]

    @property
    def lease_key(self) -> str:
        """Key of the lease of this prefix."""
        return f"{self.prefix}/{LEASE}"

    @property
    def folder(self) -> str:
        """Folder of the run's documents, with a trailing slash."""
        return f"{self.prefix}/{RUNS}/{self.run}/"

    @property
    def manifest_key(self) -> str:
        """Key of the manifest, which is written after the ids and says which generation counts."""
        return f"{self.folder}manifest.json"

    @property
    def shards_key(self) -> str:
        """Key of the list of what each child of a fan-out is to harvest; written after the manifest."""
        return f"{self.folder}shards.json"

    @property
    def receipts(self) -> str:
        """Folder of the receipts, with a trailing slash."""
        return f"{self.folder}receipts/"

    @property
    def outcomes_key(self) -> str:
        """Key of the outcomes of all ids, written when the totals are reconciled."""
        return f"{self.folder}outcomes.jsonl.gz"

    @property
    def summary_key(self) -> str:
        """Key of the summary, which is written last."""
        return f"{self.folder}summary.json"

    @property
    def _template(self) -> KeyTemplate:
        return KeyTemplate.of_data_files(self.template)

    @property
    def _values(self) -> dict[str, str]:
        """Values of the template's fields that are the same for all data files of this run's day."""
        return {"prefix": self.prefix, **date_values(self.date)}

    def data_folder(self, collection: Collection) -> str:
        """The common start of the keys of this collection's data files on this run's day."""
        return self._template.start(collection=collection, **self._values)

    @property
    def data_folders(self) -> list[str]:
        """The data folders of both collections."""
        return [self.data_folder(collection) for collection in KINDS]

    def data_key(self, collection: Collection, name: str, number: int = 1) -> str:
        """Key of a batch's data file of this `number`, with its records of `collection`; `name` is the batch's."""
        batch = name if number == 1 else f"{name}.{number}"
        return self._template.fill(collection=collection, batch=batch, **self._values)

    def parse(self, key: str) -> DataFile | None:
        """The parts of `key` if it is the key of a data file of this run's day, else None."""
        values = self._template.parse(key, **self._values)
        found = _NUMBERED.fullmatch(values["batch"]) if values else None
        if values is None or found is None:
            return None
        return DataFile(cast("Collection", values["collection"]), found[1], int(found[2] or 1))

    def ids_key(self, generation: str) -> str:
        """Key of the ids file of a generation, which is written first."""
        return f"{self.folder}ids-{generation}.jsonl.gz"

    def generation_of(self, key: str) -> str | None:
        """The generation whose ids file has this key; None if it is another key."""
        found = _IDS_NAME.fullmatch(key.removeprefix(self.folder))
        return found[1] if found else None

    def receipt_key(self, collection: Collection, name: str) -> str:
        """Key of a batch's receipt, which is written last."""
        return f"{self.receipts}{collection}/{name}.json"

    def quarantine_key(self, key: str) -> str:
        """Where `verify --repair` moves a foreign object."""
        return f"{self.folder}quarantine/{key}"
