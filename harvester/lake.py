"""The lake: what stands in the folders where data files land, and whose it is.

Readers read everything in those folders, so what no receipt speaks of is a harm: `verify` names it, `harvest` mends it.
What we made ourselves goes away; what somebody else has put there is not ours to remove, and is set aside, whole, in
the run's own folder, which readers do not see.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harvester.batches import RUNS, Layout
from harvester.errors import StoreError

if TYPE_CHECKING:
    from harvester.s3 import Bucket, Listed

_log = logging.getLogger(__name__)

_RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d-[0-9a-f]{8}")
_BATCH_NAME = re.compile(r"tt\d{7,10}-tt\d{7,10}-[0-9a-f]{8}")


def stem(key: str) -> str:
    """The batch's name in the key of one of its files."""
    return key.rpartition("/")[2].partition(".")[0]


async def run_names(bucket: Bucket, prefix: str) -> list[str]:
    """The runs below `prefix`, oldest first; other folders beside them are not ours.

    Raises:
        StoreError: S3 refused, or could not be reached.
    """
    return sorted(name for name in await bucket.folders(f"{prefix}/{RUNS}/") if _RUN_NAME.fullmatch(name))


async def list_data(bucket: Bucket, layout: Layout) -> dict[str, Listed]:
    """Every object in the folders of a run's data files that a reader would read, those of other runs among them.

    Athena, Spark and Hive pass over names that begin with `_` or `.`, such as `_SUCCESS`; a key that ends in a slash is
    the mark of a folder that S3's console has made.

    Raises:
        StoreError: S3 refused, or could not be reached.
    """
    listed: dict[str, Listed] = {}
    for folder in layout.data_folders:
        for key, file in (await bucket.objects(folder)).items():
            names = key.removeprefix(folder).split("/")
            if names[-1] and not any(name.startswith(("_", ".")) for name in names):
                listed[key] = file
    return listed


@dataclass(frozen=True, slots=True)
class Others:
    """The other runs that land their files in the same folders.

    Attributes:
        batches: Every batch of theirs that has a receipt, or a paper in `failed/`, with its run.
        landing: Whether one may be landing just now: its books are not closed, or it may be out of our sight, below
            another prefix that the keys do not tell.
    """

    batches: dict[str, str]
    landing: bool

    def may_own(self, key: str) -> bool:
        """Whether it is a data file of theirs, or has such a name that its receipt may be about to be written."""
        name = stem(key)
        return name in self.batches or (self.landing and _BATCH_NAME.match(name) is not None)


async def others_of(bucket: Bucket, layout: Layout) -> Others:
    """The runs beside that of `layout`.

    Raises:
        StoreError: S3 refused, or could not be reached.
    """
    batches: dict[str, str] = {}
    landing = "{prefix}" not in layout.template
    for name in await run_names(bucket, layout.prefix):
        other = Layout(layout.prefix, layout.template, name)
        if name != layout.run and not set(other.data_folders).isdisjoint(layout.data_folders):
            papers = await bucket.objects(other.folder)
            batches |= {stem(key): name for key in papers if key.startswith((other.receipts, other.failed))}
            landing |= other.summary_key not in papers
    return Others(batches, landing)


async def unclaimed(
    bucket: Bucket, layout: Layout, *, ours: set[str], files: set[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Strangers among the data `files`, by key; and uploads that nobody will complete, by key and id.

    A file of no batch of `ours` is another run's, or a stranger. An upload of a batch of `ours` was left by a kill, and
    so was that of any other batch, unless another run may be at it; one without a batch's name is not ours to abort.
    The other runs are read only where something is not of `ours`.

    Raises:
        StoreError: S3 refused, or could not be reached.
    """
    uploads = [upload for folder in layout.data_folders for upload in await bucket.uploads(folder)]
    uploads = [(key, upload) for key, upload in uploads if _BATCH_NAME.match(stem(key))]
    foreign = {key for key in files.union(key for key, _ in uploads) if stem(key) not in ours}
    if foreign:
        others = await others_of(bucket, layout)
        foreign = {key for key in foreign if not others.may_own(key)}
    orphans = [(key, upload) for key, upload in uploads if stem(key) in ours or key in foreign]
    return sorted(foreign & files), orphans


async def set_aside(bucket: Bucket, layout: Layout, key: str) -> None:
    """Move a stranger out of the readers' way; if S3 does not let us, it stays, which `verify` will say."""
    try:
        await bucket.copy(key, layout.aside_key(key))
        await bucket.delete(key)
    except StoreError as error:
        _log.warning("stranger_stays", extra={"key": key, "problem": str(error)})
    else:
        _log.warning("set_aside", extra={"key": key, "now": layout.aside_key(key)})
