"""Other runs of the day: ids that they have harvested are not asked for again, and must not land twice.

A receipt of any generation counts if its files are as they landed. A data file without such a receipt counts too: its
harvest was killed between the two. Nothing of this changes meanwhile, because we hold the lease.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from harvester.errors import CorruptLakeError, SettingsError
from harvester.model.ids_file import decode_ids
from harvester.model.layout import RUNS, Layout
from harvester.model.receipt import is_settled
from harvester.runs.data_files import Warnings, is_as_landed, list_data, of_batches, read_records, run_names
from harvester.runs.documents import (
    DOCUMENTS_AT_ONCE,
    cut_batches,
    listing_digest,
    read_ids,
    read_manifest,
    read_outcomes,
    read_summary,
    receipt_or_none,
)
from harvester.runtime.concurrency import fan_out

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from harvester.model.manifest import Manifest
    from harvester.model.record_options import RecordOptions
    from harvester.store.store import Listed, Store


@dataclass(frozen=True, slots=True)
class OtherRun:
    """Another run of the same day and prefix."""

    layout: Layout
    manifest: Manifest | None  # None if it cannot be read
    names: frozenset[str]  # of its batches; without a manifest, by its receipts and ids


@dataclass(slots=True)
class HarvestedByOthers:
    """What the other runs of a day have harvested."""

    ids: dict[str, set[str]] = field(default_factory=dict)  # of each run: found, missing, or failed with a record kept
    files: set[str] = field(default_factory=set)  # keys of the data files in their valid receipts
    batches: set[str] = field(default_factory=set)  # names of those with such a receipt: other files of them are stale

    def owners(self, ids: Iterable[str], *, excluding: Container[str] = ()) -> dict[str, str]:
        """Those of `ids` that one of the runs has harvested, with the name of that run."""
        runs = [(run, harvested) for run, harvested in self.ids.items() if run not in excluding]
        return {id_: run for id_ in ids for run, harvested in reversed(runs) if id_ in harvested}


@dataclass(frozen=True, slots=True)
class Day:
    """The day of one run: all its data files as `listed`, and its `others`, the other runs, oldest name first."""

    bucket: Store
    layout: Layout
    warnings: Warnings
    listed: dict[str, Listed]
    others: list[OtherRun]

    def foreign(self, names: frozenset[str]) -> list[str]:
        """Keys of the data files that belong neither to the batches of these `names` nor to those of the other runs."""
        known = names.union(*(other.names for other in self.others))
        return [key for key in self.listed if (file := self.layout.parse(key)) is None or file.batch not in known]

    async def refuse_other_options(self, options: RecordOptions) -> None:
        """Raise a SettingsError, which says what to do, if this day has records that were shaped by other options."""
        for other in self.others:
            if other.manifest is None or other.manifest.options == options:
                continue
            theirs = Layout(self.layout.prefix, other.manifest.options.key_template, other.layout.run)
            receipts = await self.bucket.objects(theirs.receipts)
            if receipts or of_batches(theirs, await list_data(self.bucket, theirs), other.names):
                raise SettingsError(_other_options(self.bucket, theirs, other.manifest.options, options))

    async def harvested_by_others(
        self, wanted: Container[str], ours: frozenset[str] = frozenset()
    ) -> HarvestedByOthers:
        """What the other runs have harvested of the `wanted` ids.

        A reconciled run that has not changed since costs one read. Files under the names of `ours` that are in no
        receipt are not read: those batches are done again in any case.
        """
        by_others = HarvestedByOthers()
        for other in self.others:
            files = of_batches(other.layout, self.listed, other.names)
            closed = await self._ids_when_closed(other, files, wanted)
            by_others.ids[other.layout.run] = closed or set()
            if closed is not None:
                by_others.files.update(files)
                by_others.batches |= other.names
                continue
            keys = [key for key in await self.bucket.objects(other.layout.receipts) if _stem(key) in other.names]
            add = partial(self._add_receipt, by_others, other.layout, wanted)
            await fan_out(add, keys, at_once=DOCUMENTS_AT_ONCE)
        for other in self.others:  # a killed harvest leaves files without a receipt
            for key, file in of_batches(other.layout, self.listed, other.names - ours - by_others.batches).items():
                records = await read_records(self.bucket, key, file, warnings=self.warnings)
                ids = (record["imdb_id"] for record in records)
                by_others.ids[other.layout.run].update(id_ for id_ in ids if id_ in wanted)
        return by_others

    async def _ids_when_closed(
        self, other: OtherRun, files: dict[str, Listed], wanted: Container[str]
    ) -> set[str] | None:
        """The ids by the outcomes file, written when the totals were reconciled; None if the lake has changed since."""
        if other.manifest is None:
            return None
        summary = await read_summary(self.bucket, other.layout, other.manifest.generation, self.warnings)
        if summary is None or summary.digests.files != listing_digest(files):
            return None
        outcomes = await read_outcomes(self.bucket, other.layout, summary.digests.outcomes)
        if outcomes is None:
            return None
        try:
            return {id_ for id_, outcome in outcomes if id_ in wanted and is_settled(outcome)}
        except ValueError as error:
            self.warnings.warn("outcomes_refused", problem=str(error))
            return None

    async def _add_receipt(
        self, by_others: HarvestedByOthers, layout: Layout, wanted: Container[str], key: str
    ) -> None:
        """Add the receipt at `key`, of any generation, unless it is invalid or one of its files is not as landed."""
        receipt = await receipt_or_none(self.bucket, layout, key, self.warnings)
        if receipt is None or not all([await is_as_landed(file, self.bucket, self.listed) for file in receipt.files]):
            return
        outcomes = receipt.outcomes.items()
        by_others.ids[layout.run].update(id_ for id_, outcome in outcomes if id_ in wanted and is_settled(outcome))
        by_others.files.update(file.key for file in receipt.files)
        by_others.batches.add(receipt.batch)


async def read_day(bucket: Store, layout: Layout, warnings: Warnings) -> Day:
    """The day of the run of `layout`; a run whose manifest cannot be read is a warning, and the others still count."""
    day = Day(bucket, layout, warnings, await list_data(bucket, layout), [])
    for name in await run_names(bucket, layout.prefix):
        if name[:10] != layout.date or name == layout.run:
            continue
        other = Layout(layout.prefix, layout.template, name)
        try:
            manifest = await read_manifest(bucket, other)
            day.others.append(OtherRun(other, manifest, manifest.names))
        except CorruptLakeError as error:
            stored = await bucket.objects(other.folder)
            if other.manifest_key in stored:  # without one, it was killed before it wrote it
                warnings.warn("manifest_refused", problem=str(error))
            day.others.append(OtherRun(other, None, await _names_without_manifest(bucket, other, stored)))
    return day


async def _names_without_manifest(bucket: Store, layout: Layout, stored: Iterable[str]) -> frozenset[str]:
    """The batches of a run whose manifest cannot be read or is not written yet, by its receipts and its ids files.

    `stored`: the keys in its folder.
    """
    names = {_stem(key) for key in stored if key.startswith(layout.receipts)}
    for key in stored:
        if layout.generation_of(key):
            with suppress(ValueError):
                body, _ = await read_ids(bucket, key)
                frozen = decode_ids(body)
                names |= {batch.name for batch in cut_batches(frozen.ids, frozen.fresh)}
    return frozenset(names)


def _other_options(bucket: Store, layout: Layout, theirs: RecordOptions, ours: RecordOptions) -> str:
    there, here = asdict(theirs), asdict(ours)
    differ = [f"{name} {there[name]!r} there and {here[name]!r} here" for name in there if here[name] != there[name]]
    remove = "aws s3 rm --recursive"
    clear = [f"{remove} {shlex.quote(bucket.url(folder))}" for folder in layout.data_folders]
    runs = shlex.quote(bucket.url(f"{layout.prefix}/{RUNS}/"))
    clear.append(f"{remove} {runs} --exclude '*' --include '{layout.date}-*'")
    return (
        f"{layout.date} has records of other options, of the run {layout.run}: {', '.join(differ)}. All records of a "
        f"day need the same options: give another --prefix, or clear that day first: {' && '.join(clear)}"
    )


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")
