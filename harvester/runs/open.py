"""Which run to go on with, and what is left of it. Nothing is written here.

The newest run of the same ids and options that is not dated ahead of today is looked at, and none older: unfinished, it
is gone on with under its own date; finished today, it is left alone; finished earlier, a new run begins.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harvester.errors import CorruptLakeError, InputError, SettingsError
from harvester.model.documents import DOCUMENT_BYTES
from harvester.model.ids_file import GZIP_BYTES, decode_ids, decode_outcomes
from harvester.model.layout import Layout
from harvester.model.manifest import Digests, InputCounts, Manifest, Summary, Totals, decode_manifest
from harvester.runs.checkpoint import Checkpoint, read_checkpoint
from harvester.runs.data_files import Warnings, by_batch, of_batches, read_document, run_names
from harvester.runs.other_runs import Day, cut_unmarked, listing_digest, read_day, read_summary
from harvester.runs.run import Run
from harvester.runtime.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.model.batch import Batch
    from harvester.model.ids import Collection
    from harvester.model.inputs import InputIds
    from harvester.model.record_options import RecordOptions
    from harvester.store.store import Store


async def open_run(
    bucket: Store,
    inputs: Mapping[Collection, InputIds],
    *,
    prefix: str,
    options: RecordOptions,
    again: bool = False,  # begin a new generation of today's run where that is finished
    only: str | None = None,  # the one run that is meant, finished or not, of whichever day
    attempt: str | None = None,  # of a fan-out: batches whose failed titles it has tried are taken as done
    generation: str | None = None,  # token of a generation that is begun; a random one without it
    day: str | None = None,  # of a run that is begun; by default today
    clock: Clock = Clock(),  # noqa: B008  # it is frozen
    notices: Warnings | None = None,
) -> Run:
    """The run to go on with, or a new one.

    An InputError if the run that is meant, a SettingsError if what stands on that day is of other ids or options.
    """
    mark = options.fingerprint({collection: account.ids for collection, account in inputs.items()})
    if only and not only.endswith(f"-{mark}"):
        sources = " and ".join(account.source for account in inputs.values())
        raise InputError(sources, f"has other ids, or is asked for otherwise, than {only} was planned of: plan anew")
    notices = notices or Warnings()
    today = f"{day or clock.now()[:10]}-{mark}"
    names = await run_names(bucket, prefix)
    notices.warn_of("run_dated_ahead", [name for name in names if name[:10] > today[:10]])
    mine = [only] if only else [name for name in names if name.endswith(f"-{mark}") and name <= today]
    look = _RunFinder(bucket, inputs, options, clock, attempt, notices)
    for name in reversed(mine):
        layout = Layout(prefix, options.key_template, name)
        manifest, etag = await look.read_manifest(layout)
        if manifest is None:
            continue
        run = await look.go_on(layout, manifest, etag, past=name != today and only is None)
        if run is None:
            break
        if again and run.closed and not run.todo and only is None and manifest.generation != generation:
            return await look.begin(layout, generation, etag=etag, before=manifest)
        return run
    layout = Layout(prefix, options.key_template, only or today)
    return await look.begin(layout, generation, etag=(await look.read_manifest(layout))[1])


async def open_part(
    bucket: Store,
    layout: Layout,
    batches: list[Batch],
    *,
    options: RecordOptions,
    generation: str,
    attempt: str,
    clock: Clock = Clock(),  # noqa: B008  # it is frozen
) -> Run:
    """The part of a run that consists of `batches`; a CorruptLakeError if its manifest does not have them."""
    manifest = decode_manifest(layout, await read_document(bucket, layout.manifest_key))
    unexpected = [batch.name for batch in batches if batch.name not in manifest.batches.get(batch.collection, ())]
    if unexpected or manifest.generation != generation or manifest.options != options:
        raise CorruptLakeError(f"{layout.manifest_key} is not of the shards that were planned: plan anew")
    look = _RunFinder(bucket, {}, options, clock, attempt, Warnings())
    day = await read_day(bucket, layout, look.notices)
    return await look.checkpoint(day, replace(manifest, input={}, fresh=0), {}, batches)


@dataclass(frozen=True, slots=True)
class _RunFinder:
    """One look at the lake, for these ids and options."""

    bucket: Store
    inputs: Mapping[Collection, InputIds]
    options: RecordOptions
    clock: Clock
    attempt: str | None
    notices: Warnings

    @property
    def accounts(self) -> dict[Collection, InputCounts]:
        return {name: InputCounts.of(account) for name, account in self.inputs.items()}

    def cut(self, marks: Mapping[str, str]) -> tuple[list[Batch], dict[Collection, list[str]]]:
        """The batches of the ids that are not marked as fresh, in order, and their names by collection."""
        batches = cut_unmarked({name: account.ids for name, account in self.inputs.items()}, marks)
        return batches, {name: [batch.name for batch in batches if batch.collection == name] for name in self.inputs}

    async def read_manifest(self, layout: Layout) -> tuple[Manifest | None, str | None]:
        """The manifest of a run, if it is of these ids and options, and its ETag; another is named."""
        stored = await self.bucket.read_stored(layout.manifest_key, limit=DOCUMENT_BYTES)
        if stored is None:
            return None, None
        try:
            manifest = decode_manifest(layout, stored.body)
            ids = {collection: account.ids for collection, account in manifest.input.items()}
            if manifest.options != self.options or ids != {name: len(some.ids) for name, some in self.inputs.items()}:
                raise CorruptLakeError(f"{layout.manifest_key} is of other ids or options")  # noqa: TRY301
        except CorruptLakeError as error:
            self.notices.warn("manifest_refused", problem=str(error))
            return None, stored.etag
        return manifest, stored.etag

    async def mark(self, day: Day, generations: Mapping[str, str | None]) -> tuple[dict[str, str], str | None]:
        """The ids that are fresh, and which of these `generations` has marked them; without any, by what stands now.

        It is the first whose ids can be read, are those wanted and, if a SHA-256 is given, have that.
        """
        for generation, sha256 in generations.items():
            key = day.layout.ids_key(generation)
            body = await read_document(self.bucket, key, limit=GZIP_BYTES) or b""
            try:
                if sha256 not in (None, hashlib.sha256(body).hexdigest()):
                    raise ValueError("it is not what its manifest says")  # noqa: TRY301
                frozen = decode_ids(body)
            except ValueError as error:
                self.notices.warn("ids_refused", problem=f"{key}: {error}")
                continue
            if frozen.ids == {name: some.ids for name, some in self.inputs.items() if some.ids}:
                return frozen.fresh, generation
        ids = {id_ for account in self.inputs.values() for id_ in account.ids}
        return (await day.harvested(ids)).of(ids), None

    async def go_on(self, layout: Layout, manifest: Manifest, etag: str | None, *, past: bool) -> Run | None:
        """The run of `manifest`; None where a new run is to begin, because this is `past` and finished or damaged."""
        summary = await read_summary(self.bucket, layout, manifest.generation, self.notices)
        if past and summary:
            return None
        day = await read_day(self.bucket, layout, self.notices)
        marks, stored = await self.mark(day, {manifest.generation: manifest.ids_sha256})
        sources = {name: replace(some, source=manifest.input[name].source) for name, some in self.accounts.items()}
        same = stored is not None and manifest.input == sources and manifest.fresh == len(marks)
        if summary and same and await self.is_as_closed(day, manifest, summary):
            self.notices.warn_of("foreign_objects", day.foreign(manifest.names))
            totals = Totals.of_json(summary.totals)
            run = Run(self.bucket, layout, manifest, Checkpoint({}, totals), [], [], self.inputs, marks)
            return replace(run, closed=True, finished=True, clock=self.clock)
        batches, names = self.cut(marks)
        if names != manifest.batches:
            return None if past else await self.begin(layout, None, etag=etag)
        try:
            await day.refuse_other_options(self.options)
        except SettingsError:
            if past:  # nothing of it can ever land any more
                return None
            raise
        run = await self.checkpoint(day, replace(manifest, input=self.accounts, fresh=len(marks)), marks, batches)
        tried = run.checkpoint.tried
        if past and any(tried.values()) and all(batch.name in tried for batch in batches):
            return None  # only failed titles are left
        # What was lost is written anew, and so is what the CSVs' other rows have changed.
        return replace(run, etag=etag, begun=same, closed=summary is not None and not summary.totals["failed"])

    async def begin(
        self, layout: Layout, generation: str | None, *, etag: str | None, before: Manifest | None = None
    ) -> Run:
        """A new generation of the run in `layout`, with the marks of the generation `before`, if there is one.

        Where the manifest was lost and its ids still stand, it goes on with these. Where both were lost, a
        CorruptLakeError if a receipt is of a batch that is now cut otherwise: its titles would land twice.
        """
        day = await read_day(self.bucket, layout, self.notices)
        await day.refuse_other_options(self.options)
        if before:
            marks, _ = await self.mark(day, {before.generation: before.ids_sha256})
        else:
            keys = await self.bucket.objects(f"{layout.folder}ids-")
            marks, found = await self.mark(day, {name: None for key in keys if (name := layout.generation_of(key))})
            generation = found or generation
        batches, names = self.cut(marks)
        if before is None:
            receipts = {layout.receipt_key(batch.collection, batch.name) for batch in batches}
            if unexpected := sorted((await self.bucket.objects(layout.receipts)).keys() - receipts):
                raise CorruptLakeError(
                    f"The ids of {layout.run} are lost, and others make other batches than {unexpected[0]} is of "
                    f"({len(unexpected)} receipts): bring {layout.folder} back, or harvest into another --prefix"
                )
        manifest = Manifest(
            run=layout.run,
            generation=generation or secrets.token_hex(8),
            created_at=self.clock.now(),
            input=self.accounts,
            options=self.options,
            batches=names,
            fresh=len(marks),
            ids_sha256="",  # known when they are written
            unknown=before.unknown if before else {},
        )
        return replace(await self.checkpoint(day, manifest, marks, batches), etag=etag, begun=False)

    async def checkpoint(self, day: Day, manifest: Manifest, marks: Mapping[str, str], batches: list[Batch]) -> Run:
        """The run, with what stands of it, and what it need not ask for because another run has it by now.

        Two runs of a day may have a batch of the same ids, and so of the same name and key. Where the other has all of
        it, it is left to that; where it has some, the batch is done whole, and the other finds its ids here then.
        """
        layout = day.layout
        names = frozenset(batch.name for batch in batches)
        harvested = await day.harvested({id_ for batch in batches for id_ in batch.ids}, names)
        checkpoint = await read_checkpoint(day, manifest, batches, harvested, attempt=self.attempt)
        todo = [batch for batch in batches if batch.name not in checkpoint.outcomes]
        elsewhere: dict[str, str] = {}
        for batch in todo:
            fresh = harvested.of(batch.ids)
            sharing = {other.layout.run for other in day.others if batch.name in other.names}
            if sharing and len(fresh) < len(batch.ids):
                fresh = harvested.of(batch.ids, but=sharing)
                checkpoint.files |= by_batch(layout, day.listed, frozenset([batch.name]))
            elsewhere |= fresh
        self.notices.warn_of("foreign_objects", day.foreign(manifest.names))
        ours = names.difference((batch.name for batch in todo), *(other.names for other in day.others))
        files = [key for name in ours for key in checkpoint.files.get(name, {})]
        self.notices.warn_of("stale_files", [key for key in files if key not in checkpoint.landed])
        run = Run(self.bucket, layout, manifest, checkpoint, batches, todo, self.inputs, marks)
        return replace(run, elsewhere=elsewhere, attempt=self.attempt, clock=self.clock)

    async def is_as_closed(self, day: Day, manifest: Manifest, summary: Summary) -> bool:
        """Whether nothing had failed when the books were closed, and everything stands as it did then."""
        layout = day.layout
        wanted = {layout.receipt_key(name, batch) for name, some in manifest.batches.items() for batch in some}
        receipts = {key: seen for key, seen in (await self.bucket.objects(layout.receipts)).items() if key in wanted}
        files = of_batches(layout, day.listed, manifest.names)
        if any(manifest.names & other.names for other in day.others):
            theirs = (await day.harvested((), manifest.names)).files
            files = {key: file for key, file in files.items() if key not in theirs}
        body = await read_document(self.bucket, layout.outcomes_key, limit=GZIP_BYTES) or b""
        outcomes = hashlib.sha256(body).hexdigest()
        if summary.digests != Digests(listing_digest(files), listing_digest(receipts), outcomes):
            return False
        size = sum(file.bytes for file in files.values())
        totals = replace(manifest.totals(), fresh=0, batches=len(wanted), files=len(files), bytes=size)
        try:
            for _, outcome in decode_outcomes(body):
                totals.add_outcome(outcome)
        except ValueError:
            return False
        return totals.reconciles and not totals.failed and summary.totals | totals.as_json() == summary.totals
