"""Layout: the keys of everything that one run writes, and which keys are those of its data files.

A key is ours only if the layout makes that very key of a collection, a batch and a number. Athena, Spark and Hive do
not read below a folder that begins with an underscore.
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
"""Data files of one batch and collection at most: a batch has 100 records, and a file one of them at least."""

_NUMBERED = re.compile(rf"({BATCH_NAME})(?:\.([2-9]|[1-9][0-9]|{FILES_LIMIT}))?")
_IDS_NAME = re.compile(rf"ids-({GENERATION})\.jsonl\.gz")


@dataclass(frozen=True, slots=True)
class DataFile:
    """What the key of a data file says; `number` 2 and up are those of a batch too large for one file."""

    collection: Collection
    batch: str
    number: int


class _InFolder:
    """The key of this name in the folder of a run."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, layout: Layout, _type: type[Layout]) -> str:
        return f"{layout.folder}{self._name}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one run."""

    prefix: str  # folder of the whole harvest, without a slash at its end
    template: str  # of a data file's key, as `KeyTemplate.of_data_files` accepts it
    run: str  # `{date}-{fingerprint}`; the date in the keys is the run's, whatever the time

    manifest_key = _InFolder("manifest.json")  # written after the ids; says which generation counts
    shards_key = _InFolder("shards.json")  # what the children of a fan-out are to harvest; after the manifest
    receipts = _InFolder("receipts/")
    outcomes_key = _InFolder("outcomes.jsonl.gz")  # what became of every id; when the books are closed
    summary_key = _InFolder("summary.json")  # written last

    @property
    def date(self) -> str:
        """The run's date, such as 2026-11-29."""
        return self.run[:10]

    @property
    def lease_key(self) -> str:
        """Who is at work in this prefix."""
        return f"{self.prefix}/{LEASE}"

    @property
    def folder(self) -> str:
        """Folder of what is written about the run, with a slash at its end."""
        return f"{self.prefix}/{RUNS}/{self.run}/"

    @property
    def _template(self) -> KeyTemplate:
        return KeyTemplate(self.template)

    @property
    def _values(self) -> dict[str, str]:
        """The fields of the template that are the same for all data files of this run's day."""
        return {"prefix": self.prefix, **date_values(self.date)}

    def data_folder(self, collection: Collection) -> str:
        """What the keys of all data files of this run's day and of this collection begin with."""
        return self._template.start(collection=collection, **self._values)

    @property
    def data_folders(self) -> list[str]:
        """The folders of both collections."""
        return [self.data_folder(collection) for collection in KINDS]

    def data_key(self, collection: Collection, name: str, number: int = 1) -> str:
        """Key of the data file of this `number` of the batch of this `name`, with the records of `collection`."""
        batch = name if number == 1 else f"{name}.{number}"
        return self._template.fill(collection=collection, batch=batch, **self._values)

    def parse(self, key: str) -> DataFile | None:
        """What `key` says, if it is that of a data file of this run's day; None for any other key."""
        values = self._template.parse(key, **self._values)
        found = _NUMBERED.fullmatch(values["batch"]) if values else None
        if values is None or found is None:
            return None
        return DataFile(cast("Collection", values["collection"]), found[1], int(found[2] or 1))

    def ids_key(self, generation: str) -> str:
        """All ids of the input; written first of a generation."""
        return f"{self.folder}ids-{generation}.jsonl.gz"

    def generation_of(self, key: str) -> str | None:
        """The generation whose ids stand at `key`; None if it is another key."""
        found = _IDS_NAME.fullmatch(key.removeprefix(self.folder))
        return found[1] if found else None

    def receipt_key(self, collection: Collection, name: str) -> str:
        """Written last of a batch."""
        return f"{self.receipts}{collection}/{name}.json"

    def quarantine_key(self, key: str) -> str:
        """Where `verify --repair` moves a foreign object."""
        return f"{self.folder}quarantine/{key}"
