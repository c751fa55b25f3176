"""Other runs of the day: what stands under them need not be asked for again, and must not land twice.

What counts is what stands: a receipt of any generation whose files are as they landed, and a data file that no such
receipt names, because its harvest was killed between the two. The lease keeps all that from changing meanwhile.
"""

from __future__ import annotations

import hashlib
import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from harvester.batches import cut
from harvester.data_files import is_as_landed, list_data, of_batches, read_document, read_records, run_names
from harvester.errors import BooksError, SettingsError
from harvester.fan_out import fan_out
from harvester.ids_file import GZIP_BYTES, decode_ids, decode_outcomes
from harvester.layout import RUNS, Layout
from harvester.manifest import decode_manifest, decode_summary, digest_of
from harvester.receipts import RECEIPT_BYTES, decode_receipt, stands

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from harvester.data_files import Notices
    from harvester.manifest import Manifest, RecordOptions
    from harvester.receipts import Receipt
    from harvester.s3 import Bucket, Listed

READS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class OtherRun:
    """Another run of the same day and prefix.

    Attributes:
        manifest: None where it cannot be read; then its batches are known by its receipts and ids.
        names: Its batches.
    """

    layout: Layout
    manifest: Manifest | None
    names: frozenset[str]


async def read_other_runs(bucket: Bucket, layout: Layout, notices: Notices) -> list[OtherRun]:
    """The other runs of the day of `layout`, oldest name first; one that cannot be read hides no other.

    Raises:
        NewerFormatError: A newer harvester has written one of them.
    """
    others = []
    for name in await run_names(bucket, layout.prefix):
        if name[:10] != layout.date or name == layout.run:
            continue
        other = Layout(layout.prefix, layout.template, name)
        body = await read_document(bucket, other.manifest_key)
        try:
            manifest = decode_manifest(other, body)
            others.append(OtherRun(other, manifest, manifest.names))
        except BooksError as error:
            if body is not None:  # otherwise it was killed before it wrote one
                notices.warn("manifest_refused", problem=str(error))
            others.append(OtherRun(other, None, await _names_without_manifest(bucket, other)))
    return others


async def _names_without_manifest(bucket: Bucket, layout: Layout) -> frozenset[str]:
    """The batches of a run whose manifest cannot be read, or is not written yet: of its receipts, and of its ids."""
    stored = await bucket.objects(layout.folder)
    names = {_stem(key) for key in stored if key.startswith(layout.receipts)}
    for key in stored:
        if layout.generation_of(key):
            with suppress(ValueError):
                frozen = decode_ids(await read_document(bucket, key, limit=GZIP_BYTES) or b"")
                for collection, ids in frozen.ids.items():
                    names |= {batch.name for batch in cut(collection, (id_ for id_ in ids if id_ not in frozen.fresh))}
    return frozenset(names)


async def refuse_other_options(
    bucket: Bucket, layout: Layout, others: Sequence[OtherRun], options: RecordOptions
) -> None:
    """Be sure that nothing stands on this day whose records were shaped by other options.

    Raises:
        SettingsError: Something does; the message says how to go on.
    """
    for other in others:
        if other.manifest is None or other.manifest.options == options:
            continue
        theirs = Layout(layout.prefix, other.manifest.options.key_template, other.layout.run)
        receipts = await bucket.objects(theirs.receipts)
        if receipts or of_batches(theirs, await list_data(bucket, theirs), other.names):
            raise SettingsError(_other_options(bucket.name, theirs, other.manifest.options, options))


def _other_options(bucket: str, layout: Layout, theirs: RecordOptions, ours: RecordOptions) -> str:
    values = asdict(ours)
    differ = [
        f"{name} {value!r} there and {values[name]!r} here"
        for name, value in asdict(theirs).items()
        if values[name] != value
    ]
    remove = "aws s3 rm --recursive"
    clear = [f"{remove} {shlex.quote(f's3://{bucket}/{folder}')}" for folder in layout.data_folders]
    runs = shlex.quote(f"s3://{bucket}/{layout.prefix}/{RUNS}/")
    clear.append(f"{remove} {runs} --exclude '*' --include '{layout.date}-*'")
    return (
        f"{layout.date} has records of other options, of the run {layout.run}: {', '.join(differ)}. One day has one "
        f"form: give another --prefix, or clear that day first: {' && '.join(clear)}"
    )


def foreign_keys(
    layout: Layout, listed: Mapping[str, Listed], names: frozenset[str], others: Sequence[OtherRun]
) -> list[str]:
    """The keys among the day's data files whose names the layout makes of no batch of any run of that day."""
    known = names.union(*(other.names for other in others))
    return [key for key in listed if (file := layout.parse(key)) is None or file.batch not in known]


@dataclass(slots=True)
class Standing:
    """What stands under the other runs of a day.

    Attributes:
        ids: The ids that each run has: found, missing, or failed with their earlier record kept.
        files: Keys of the data files that their receipts in force name.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    def of(self, ids: Iterable[str], *, but: Container[str] = ()) -> dict[str, str]:
        """Those of `ids` that stand under one of the runs, with that run; some runs may be left out."""
        some = [(run, have) for run, have in self.ids.items() if run not in but]
        return {id_: run for id_ in ids for run, have in reversed(some) if id_ in have}


async def read_standing(
    bucket: Bucket,
    others: Sequence[OtherRun],
    listed: Mapping[str, Listed],
    notices: Notices,
    *,
    wanted: Container[str],
    ours: frozenset[str] = frozenset(),
) -> Standing:
    """What stands under `others`; one read of each that was closed and whose data files are as they were then.

    Args:
        listed: All data files of the day.
        notices: Warned of what cannot be read.
        wanted: The ids that are of interest; others take no memory.
        ours: Names of batches that we do again ourselves, if a file under their name is in no receipt.

    Raises:
        NewerFormatError: A newer harvester has written some of it.
    """
    standing = Standing()
    unnamed: list[tuple[set[str], str]] = []
    for other in others:
        files = of_batches(other.layout, listed, other.names)
        closed = await _ids_when_closed(bucket, other, files, notices, wanted)
        ids = standing.ids[other.layout.run] = closed or set()
        if closed is not None:
            standing.files.update(files)
            continue
        keys = [key for key in await bucket.objects(other.layout.receipts) if _stem(key) in other.names]
        in_force = partial(_read_in_force, bucket, other, listed, notices)
        for some, named in await fan_out(in_force, keys, at_once=READS_AT_ONCE):
            ids.update(id_ for id_ in some if id_ in wanted)
            standing.files.update(named)
        unnamed += [(ids, key) for key in of_batches(other.layout, listed, other.names - ours)]
    for ids, key in unnamed:
        if key not in standing.files:
            ids.update(id_ for id_ in await _ids_in(bucket, key, listed[key], notices) if id_ in wanted)
    return standing


async def _read_in_force(
    bucket: Bucket, other: OtherRun, listed: Mapping[str, Listed], notices: Notices, key: str
) -> tuple[list[str], list[str]]:
    """Ids and files of the receipt at `key`, of whichever generation; none where it is bad, or a file not as landed."""
    try:
        receipt = await read_receipt(bucket, other.layout, key)
    except BooksError as error:
        notices.warn("receipt_refused", problem=str(error))
        return [], []
    for file in receipt.files:
        if not await is_as_landed(file, bucket, listed):
            return [], []
    ids = [id_ for id_, outcome in receipt.outcomes.items() if stands(outcome)]
    return ids, [file.key for file in receipt.files]


async def _ids_in(bucket: Bucket, key: str, listed: Listed, notices: Notices) -> list[str]:
    """The ids of the records in a data file that no receipt in force names."""
    try:
        return [str(record["imdb_id"]) for record in await read_records(bucket, key, listed)]
    except BooksError as error:
        notices.warn("data_file_refused", problem=str(error))
        return []


async def _ids_when_closed(
    bucket: Bucket, other: OtherRun, files: Mapping[str, Listed], notices: Notices, wanted: Container[str]
) -> set[str] | None:
    """The ids by the outcomes that were written at closing; None where they may not be true any more."""
    body = await read_document(bucket, other.layout.summary_key) if other.manifest else None
    if body is None or other.manifest is None:
        return None
    try:
        summary = decode_summary(other.layout, body)
        if summary.generation != other.manifest.generation or summary.digests.files != listing_digest(files):
            return None
        outcomes = await read_document(bucket, other.layout.outcomes_key, limit=GZIP_BYTES) or b""
        if hashlib.sha256(outcomes).hexdigest() != summary.digests.outcomes:
            return None
        return {id_ for id_, outcome in decode_outcomes(outcomes) if id_ in wanted and stands(outcome)}
    except (BooksError, ValueError) as error:
        notices.warn("outcomes_refused", problem=str(error))
        return None


async def read_receipt(bucket: Bucket, layout: Layout, key: str) -> Receipt:
    """The receipt at `key`.

    Raises:
        BooksError: It is not a receipt of this run and key.
        NewerFormatError: A newer harvester has written it.
    """
    return decode_receipt(layout, key, await read_document(bucket, key, limit=RECEIPT_BYTES))


def listing_digest(files: Mapping[str, Listed]) -> str:
    """The digest of these objects, as they are listed."""
    return digest_of({key: (file.bytes, file.etag) for key, file in files.items()})


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")
