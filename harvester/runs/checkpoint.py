"""Checkpoint: what the lake has of a run. Nothing is written here.

A batch is done if it has a receipt of the run's generation whose files are listed as the receipt says. Every other
batch is done again, under the same names.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import orjson

from harvester.runs.data_files import by_batch, is_as_landed
from harvester.runs.documents import DOCUMENTS_AT_ONCE, receipt_or_none
from harvester.runtime.concurrency import fan_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from harvester.model.batch import Batch
    from harvester.model.ids import Collection
    from harvester.model.manifest import Manifest, Totals
    from harvester.model.receipt import LandedFile, Receipt
    from harvester.runs.other_runs import Day, HarvestedByOthers
    from harvester.store.store import Listed


@dataclass(slots=True)
class Checkpoint:
    """What the lake has of one generation of a run; made by `read_checkpoint`, kept up to date by `add`.

    A receipt is current if it is of this generation and its files are as they landed.
    """

    files: dict[str, dict[str, Listed]]  # the data files of each batch, by key, as listed when the run was opened
    totals: Totals  # of the input and the current receipts
    receipts: dict[str, str] = field(default_factory=dict)  # keys of the current receipts, and their ETags
    landed: dict[str, LandedFile] = field(default_factory=dict)  # the data files in those receipts
    failed: dict[str, str] = field(default_factory=dict)  # ids of failed titles in those receipts, with the reason
    tried: dict[str, bool] = field(default_factory=dict)  # batches with a receipt, current or not; whether any failed
    outcomes: dict[str, bytes] = field(default_factory=dict)  # of each batch, as compressed JSON: 10 bytes an id

    def add(self, key: str, receipt: Receipt, etag: str) -> None:
        """Count a current receipt, stored at `key` with this ETag."""
        self.receipts[key] = etag
        self.tried[receipt.batch] = receipt.failed
        self.landed |= {file.key: file for file in receipt.files}
        self.totals.add_receipt(receipt)
        self.failed |= {id_: each["reason"] for id_, each in receipt.outcomes.items() if each["outcome"] == "failed"}
        self.outcomes[receipt.batch] = _packed(receipt)

    def has(self, receipt: Receipt) -> bool:
        """Whether this receipt was counted, with the same files and outcomes."""
        same_files = all(self.landed.get(file.key) == file for file in receipt.files)
        return same_files and self.outcomes.get(receipt.batch) == _packed(receipt)

    def outcomes_in_order(
        self, ids: Mapping[Collection, Sequence[str]], fresh: Mapping[str, str], batches: Iterable[Batch]
    ) -> Iterator[dict[str, Any]]:
        """The outcomes of all `ids`, in their order; the `fresh` ones are in none of the `batches`."""
        packed = (self.outcomes[batch.name] for batch in batches)
        outcomes = (outcome for of_batch in packed for outcome in orjson.loads(zlib.decompress(of_batch)))
        for id_ in chain.from_iterable(ids.values()):
            run = fresh.get(id_)
            yield {"id": id_} | ({"outcome": "fresh", "run": run} if run else next(outcomes))


def _packed(receipt: Receipt) -> bytes:
    return zlib.compress(orjson.dumps(list(receipt.outcomes.values())), 1)


def empty_checkpoint(day: Day, manifest: Manifest, by_others: HarvestedByOthers, names: frozenset[str]) -> Checkpoint:
    """The checkpoint of the batches of these `names` before any receipt is counted.

    Files in `by_others` are not ours, even under the name of a batch of ours.
    """
    ours = {key: file for key, file in day.listed.items() if key not in by_others.files}
    return Checkpoint(by_batch(day.layout, ours, names), manifest.totals())


async def read_checkpoint(
    day: Day, manifest: Manifest, batches: Sequence[Batch], by_others: HarvestedByOthers, *, attempt: str | None
) -> Checkpoint:
    """The checkpoint of these `batches`; those with failed titles are to be done again, unless `attempt` tried them."""
    layout, warnings = day.layout, day.warnings
    names = frozenset(batch.name for batch in batches)
    checkpoint = empty_checkpoint(day, manifest, by_others, names)
    stored = await day.bucket.objects(layout.receipts)
    keys = [key for batch in batches if (key := layout.receipt_key(batch.collection, batch.name)) in stored]

    async def read(key: str) -> None:
        receipt = await receipt_or_none(day.bucket, layout, key, warnings)
        if receipt is None or receipt.generation != manifest.generation:
            return
        checkpoint.tried[receipt.batch] = receipt.failed
        if receipt.failed and (attempt is None or receipt.attempt != attempt):
            return
        for file in receipt.files:
            if not await is_as_landed(file, day.bucket, day.listed):
                warnings.warn("batch_again", batch=receipt.batch, why=f"{file.key} is gone or not what landed")
                return
        checkpoint.add(key, receipt, stored[key].etag)

    await fan_out(read, keys, at_once=DOCUMENTS_AT_ONCE)
    return checkpoint
