"""The survey: what the bucket says of a run.

The bucket is the checkpoint. What counts as done is what stands there: a receipt, no older than its plan, that agrees
with itself, and whose files are listed with the size and mark it says. Everything else is done again, under the same
names, so whatever was killed, deleted or damaged mends by itself. Nothing is written here.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from harvester.errors import BooksError
from harvester.fan_out import fan_out
from harvester.lake import list_data, stem, unclaimed
from harvester.moved import Moved
from harvester.receipts import Books, decode_receipt

if TYPE_CHECKING:
    from harvester.batches import Layout
    from harvester.receipts import LandedFile, Plan, Receipt
    from harvester.s3 import Bucket, Listed

_log = logging.getLogger(__name__)

READS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Paper:
    """A receipt, or what stands for it in `failed/`.

    Attributes:
        landed: Its data files, as listed; None where the batch has to be done again.
    """

    key: str
    receipt: Receipt
    landed: dict[str, Listed] | None


@dataclass(slots=True)
class Standing:
    """What stands in the bucket of one run; made by `survey`, and kept up by whoever lands more.

    Attributes:
        here: Its papers and all data files, as the survey found them.
        moved: The titles that turned out to be of the other kind.
        books: What the papers in force say; `open_run` adds the input.
        in_force: The keys of those papers: receipts, and of a batch just done also what says who failed.
        landed: The data files they speak of.
        failed: Titles without a usable answer in those papers, with the reason.
        tried_at: When the batches were tried that have to be done again, by the key of their paper.
        astray: Keys of what we have made ourselves and no paper in force speaks of.
        strangers: Keys of data files that are nobody's.
        orphans: Key and id of uploads that nobody will complete.
    """

    here: dict[str, Listed]
    moved: Moved
    books: Books = field(default_factory=Books)
    in_force: set[str] = field(default_factory=set)
    landed: dict[str, Listed] = field(default_factory=dict)
    tried_at: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    astray: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    orphans: list[tuple[str, str]] = field(default_factory=list)

    def take(self, paper: Paper) -> None:
        """Count a paper that is in force; one whose batch has to be done again tells only of what has moved."""
        receipt = paper.receipt
        self.moved.take(receipt, again=paper.landed is None)
        if paper.landed is None:
            _log.warning("batch_again", extra={"batch": receipt.batch, "collection": receipt.collection})
            self.tried_at[paper.key] = receipt.landed_at
            return
        self.in_force.add(paper.key)
        self.landed |= paper.landed
        self.books.take(receipt)
        self.failed |= {id_: told["reason"] for id_, told in receipt.outcomes.items() if told["outcome"] == "failed"}


async def survey(
    bucket: Bucket, plan: Plan, layout: Layout, *, only: frozenset[str] | None = None, since: str | None = None
) -> Standing:
    """What stands in the bucket of the run of `plan`; with `only`, as if there were no files but of those batches.

    Batches with failed titles are to be done again; those that were tried `since` then have been.

    Raises:
        StoreError: S3 refused, or could not be reached.
    """
    papers = await bucket.objects(layout.folder)
    data = await list_data(bucket, layout)
    if only is not None:
        papers, data = ({key: file for key, file in some.items() if stem(key) in only} for some in (papers, data))
    standing = Standing(papers | data, Moved(plan))
    read = partial(_read, bucket=bucket, plan=plan, layout=layout, standing=standing, since=since)
    of_moved: list[Paper] = []
    for folder in (layout.receipts, layout.failed):
        kept = [key for key in papers if key.startswith(folder)]
        of_moved += [paper for paper in await fan_out(read, kept, at_once=READS_AT_ONCE) if paper]
    _take_those_of_moved(of_moved, standing)
    done = {stem(key) for key in standing.in_force}
    unspoken = data.keys() - standing.landed.keys() - set(standing.astray)
    standing.astray += [key for key in unspoken if stem(key) in done]
    moved = standing.moved
    ours = done.union((name for _, name in moved.planned), (batch.name for batch in moved.batches()))
    standing.strangers, standing.orphans = await unclaimed(bucket, layout, ours=ours, files=unspoken)
    return standing


async def _read(
    key: str, *, bucket: Bucket, plan: Plan, layout: Layout, standing: Standing, since: str | None
) -> Paper | None:
    """Take the paper at `key` for what it is worth; one of moved titles comes back, to be taken after all others."""
    body = await bucket.read(key)
    planned = standing.moved.planned
    try:
        receipt = decode_receipt(key, body or b"")
    except BooksError as error:
        _log.warning("receipt_refused", extra={"problem": str(error)})
        if not any(key.endswith(f"/{collection}/{name}.json") for collection, name in planned):
            standing.astray += [other for other in standing.here if stem(other) == stem(key)]
        return None
    batch = (receipt.collection, receipt.batch)
    if receipt.landed_at < plan.created_at:
        if batch not in planned:  # batches of moved titles are cut anew by `--again`
            standing.astray += [key, *(file.key for file in receipt.files)]
        return None
    if layout.receipt_key(*batch) in standing.in_force:
        standing.astray.append(key)  # of a failed try, before the one that did not fail
        return None
    listed = {file.key: await _as_landed(file, bucket, standing.here) for file in receipt.files}
    tried = since is not None and receipt.landed_at >= since
    whole = None not in listed.values() and (tried or not receipt.failed)
    landed = {name: file for name, file in listed.items() if file} if whole else None
    paper = Paper(key, receipt, landed)
    if batch not in planned:
        return paper
    standing.take(paper)
    return None


def _take_those_of_moved(papers: list[Paper], standing: Standing) -> None:
    """Take the papers of moved titles, each title once: two harvesters at once may have cut them otherwise."""
    for paper in sorted(papers, key=lambda paper: (paper.landed is None, -len(paper.receipt.ids), paper.key)):
        if standing.moved.meets(paper.receipt):
            files = [file.key for file in paper.receipt.files if file.key not in standing.landed]
            standing.astray += [paper.key, *files]
        else:
            standing.take(paper)


async def _as_landed(file: LandedFile, bucket: Bucket, here: dict[str, Listed]) -> Listed | None:
    """What is listed of a data file, if it is still what landed; a copy has the same bytes and another mark."""
    listed = here.get(file.key)
    if listed is None or listed.bytes != file.bytes:
        return None
    if listed.etag == file.etag:
        return listed
    body = await bucket.read(file.key)
    return listed if hashlib.sha256(body or b"").hexdigest() == file.sha256 else None
