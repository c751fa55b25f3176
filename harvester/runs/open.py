"""Open a run: which run to resume, and what is left of it. Nothing is written here.

Only the newest run of the same ids and options that is not dated ahead of today is considered. If it is unfinished, it
is resumed under its own date; if it was finished today, there is nothing to do; if earlier, a new run begins.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harvester.errors import CorruptLakeError, InputError, SettingsError
from harvester.model.documents import DOCUMENT_BYTES
from harvester.model.ids_file import decode_ids
from harvester.model.layout import Layout
from harvester.model.manifest import InputCounts, Manifest, Summary, Totals, decode_manifest
from harvester.runs.checkpoint import Checkpoint, read_checkpoint
from harvester.runs.data_files import Warnings, by_batch, of_batches, run_names
from harvester.runs.documents import (
    cut_batches,
    listing_digest,
    read_ids,
    read_manifest,
    read_outcomes,
    read_summary,
)
from harvester.runs.other_runs import Day, read_day
from harvester.runs.run import Run
from harvester.runtime.clock import CLOCK, Clock

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
    again: bool = False,  # begin a new generation of today's run if it is finished
    run_name: str | None = None,  # name of the run to open, finished or not, of any day
    attempt: str | None = None,  # of a fan-out: batches whose failed titles it has tried count as done
    generation: str | None = None,  # token of a new generation; random by default
    day: str | None = None,  # date of a new run; today by default
    clock: Clock = CLOCK,
    warnings: Warnings | None = None,
) -> Run:
    """The run to resume, or a new one.

    Raises:
        InputError: The run `run_name` is of other ids or options.
        SettingsError: The day has records that were shaped by other options.
    """
    fingerprint = options.fingerprint({collection: input_ids.ids for collection, input_ids in inputs.items()})
    if run_name and not run_name.endswith(f"-{fingerprint}"):
        sources = " and ".join(input_ids.source for input_ids in inputs.values())
        raise InputError(sources, f"has other ids or options than {run_name} was planned with: plan again")
    warnings = warnings or Warnings()
    today = f"{day or clock.now()[:10]}-{fingerprint}"
    names = await run_names(bucket, prefix)
    warnings.warn_of("run_dated_ahead", [name for name in names if name[:10] > today[:10]])
    mine = [run_name] if run_name else [name for name in names if name.endswith(f"-{fingerprint}") and name <= today]
    opener = _RunOpener(bucket, inputs, options, clock, attempt, warnings)
    for name in reversed(mine):
        layout = Layout(prefix, options.key_template, name)
        manifest, etag = await opener.matching_manifest(layout)
        if manifest is None:
            continue
        run = await opener.resume(layout, manifest, etag, past=name != today and run_name is None)
        if run is None:
            break
        if again and run.closed and not run.pending and run_name is None and manifest.generation != generation:
            return await opener.begin(layout, generation, etag=etag, before=manifest)
        return run
    layout = Layout(prefix, options.key_template, run_name or today)
    return await opener.begin(layout, generation, etag=(await opener.matching_manifest(layout))[1])


async def open_part(
    bucket: Store,
    layout: Layout,
    batches: list[Batch],
    *,
    options: RecordOptions,
    generation: str,
    attempt: str,
    clock: Clock = CLOCK,
) -> Run:
    """The part of a run that consists of `batches`; a CorruptLakeError if they are not in its manifest."""
    manifest = await read_manifest(bucket, layout)
    unexpected = [batch.name for batch in batches if batch.name not in manifest.batches.get(batch.collection, ())]
    if unexpected or manifest.generation != generation or manifest.options != options:
        raise CorruptLakeError(f"{layout.manifest_key} does not match the planned shards: plan again")
    opener = _RunOpener(bucket, {}, options, clock, attempt, Warnings())
    day = await read_day(bucket, layout, opener.warnings)
    return await opener.run_of(day, replace(manifest, input={}, fresh=0), {}, batches)


@dataclass(frozen=True, slots=True)
class _RunOpener:
    """Reads the runs of the lake to open one, for these ids and options."""

    bucket: Store
    inputs: Mapping[Collection, InputIds]
    options: RecordOptions
    clock: Clock
    attempt: str | None
    warnings: Warnings

    @property
    def input_counts(self) -> dict[Collection, InputCounts]:
        return {name: InputCounts.of(input_ids) for name, input_ids in self.inputs.items()}

    def cut(self, fresh: Mapping[str, str]) -> tuple[list[Batch], dict[Collection, list[str]]]:
        """The batches of the ids that are not fresh, in order, and their names by collection."""
        batches = cut_batches({name: input_ids.ids for name, input_ids in self.inputs.items()}, fresh)
        return batches, {name: [batch.name for batch in batches if batch.collection == name] for name in self.inputs}

    async def matching_manifest(self, layout: Layout) -> tuple[Manifest | None, str | None]:
        """The manifest of a run, if it is of these ids and options, and its ETag; a warning if it is not."""
        stored = await self.bucket.read_stored(layout.manifest_key, limit=DOCUMENT_BYTES)
        if stored is None:
            return None, None
        try:
            manifest = decode_manifest(layout, stored.body)
            counts = {collection: count.ids for collection, count in manifest.input.items()}
            ours = {collection: len(input_ids.ids) for collection, input_ids in self.inputs.items()}
            if manifest.options != self.options or counts != ours:
                raise CorruptLakeError(f"{layout.manifest_key} is of other ids or options")  # noqa: TRY301
        except CorruptLakeError as error:
            self.warnings.warn("manifest_refused", problem=str(error))
            return None, stored.etag
        return manifest, stored.etag

    async def fresh_ids(self, day: Day, generations: Mapping[str, str | None]) -> tuple[dict[str, str], str | None]:
        """The fresh ids with the run that has them, and the one of these `generations` whose ids file says so.

        `generations` maps each token to the SHA-256 of its ids file, if known. The first counts whose file can be read,
        matches that SHA-256, and has the ids of the input. If there is none, freshness is computed from the lake.
        """
        for generation, sha256 in generations.items():
            key = day.layout.ids_key(generation)
            body, stored_sha256 = await read_ids(self.bucket, key)
            try:
                if sha256 not in (None, stored_sha256):
                    raise ValueError("its SHA-256 is not that of the manifest")  # noqa: TRY301
                frozen = decode_ids(body)
            except ValueError as error:
                self.warnings.warn("ids_refused", problem=f"{key}: {error}")
                continue
            if frozen.ids == {name: input_ids.ids for name, input_ids in self.inputs.items() if input_ids.ids}:
                return frozen.fresh, generation
        ids = {id_ for input_ids in self.inputs.values() for id_ in input_ids.ids}
        return (await day.harvested_by_others(ids)).owners(ids), None

    async def resume(self, layout: Layout, manifest: Manifest, etag: str | None, *, past: bool) -> Run | None:
        """The run of `manifest`; None if a new run is to begin, because this one is `past` and finished or damaged."""
        summary = await read_summary(self.bucket, layout, manifest.generation, self.warnings)
        if past and summary:
            return None
        day = await read_day(self.bucket, layout, self.warnings)
        fresh, stored = await self.fresh_ids(day, {manifest.generation: manifest.ids_sha256})
        counts = self.input_counts.items()
        expected = {name: replace(count, source=manifest.input[name].source) for name, count in counts}
        same = stored is not None and manifest.input == expected and manifest.fresh == len(fresh)
        if summary and same and await self.is_unchanged(day, manifest, summary):
            self.warnings.warn_of("foreign_objects", day.foreign(manifest.names))
            totals = Totals.of_json(summary.totals)
            run = Run(self.bucket, layout, manifest, Checkpoint({}, totals), [], [], self.inputs, fresh)
            return replace(run, closed=True, finished=True, clock=self.clock)
        batches, names = self.cut(fresh)
        if names != manifest.batches:
            return None if past else await self.begin(layout, None, etag=etag)
        try:
            await day.refuse_other_options(self.options)
        except SettingsError:
            if past:  # nothing more of it can ever land
                return None
            raise
        run = await self.run_of(day, replace(manifest, input=self.input_counts, fresh=len(fresh)), fresh, batches)
        tried = run.checkpoint.tried
        if past and any(tried.values()) and all(batch.name in tried for batch in batches):
            return None  # only failed titles are left
        # Ids and manifest are written again if the ids are lost or the CSVs have other rows now.
        return replace(run, etag=etag, begun=same, closed=summary is not None and not summary.totals["failed"])

    async def begin(
        self, layout: Layout, generation: str | None, *, etag: str | None, before: Manifest | None = None
    ) -> Run:
        """A new generation of the run in `layout`, with the fresh ids of the generation `before`, if there is one.

        If the manifest is lost but its ids file is not, the generation of that file is resumed. If both are lost, and a
        receipt is of a batch that would now have other ids, a CorruptLakeError: its titles would land twice.
        """
        day = await read_day(self.bucket, layout, self.warnings)
        await day.refuse_other_options(self.options)
        if before:
            fresh, _ = await self.fresh_ids(day, {before.generation: before.ids_sha256})
        else:
            keys = await self.bucket.objects(f"{layout.folder}ids-")
            generations = {name: None for key in keys if (name := layout.generation_of(key))}
            fresh, found = await self.fresh_ids(day, generations)
            generation = found or generation
        batches, names = self.cut(fresh)
        if before is None:
            receipts = {layout.receipt_key(batch.collection, batch.name) for batch in batches}
            if unexpected := sorted((await self.bucket.objects(layout.receipts)).keys() - receipts):
                raise CorruptLakeError(
                    f"The ids of {layout.run} are lost, and its receipts are of other batches than the input makes now "
                    f"({unexpected[0]}, {len(unexpected)} in all): restore {layout.folder}, or use another --prefix"
                )
        manifest = Manifest(
            run=layout.run,
            generation=generation or secrets.token_hex(8),
            created_at=self.clock.now(),
            input=self.input_counts,
            options=self.options,
            batches=names,
            fresh=len(fresh),
            ids_sha256="",  # known when they are written
            unknown=before.unknown if before else {},
        )
        return replace(await self.run_of(day, manifest, fresh, batches), etag=etag, begun=False)

    async def run_of(self, day: Day, manifest: Manifest, fresh: Mapping[str, str], batches: list[Batch]) -> Run:
        """The run with its checkpoint, its pending batches, and the ids that another run has harvested since.

        Two runs of a day may have a batch of the same ids, and so of the same name and key. If the other run has all of
        its ids, they are fresh here. If it has only some, this run does the whole batch, and its ids are fresh there.
        """
        layout = day.layout
        names = frozenset(batch.name for batch in batches)
        by_others = await day.harvested_by_others({id_ for batch in batches for id_ in batch.ids}, names)
        checkpoint = await read_checkpoint(day, manifest, batches, by_others, attempt=self.attempt)
        pending = [batch for batch in batches if batch.name not in checkpoint.outcomes]
        fresh_since: dict[str, str] = {}
        for batch in pending:
            owners = by_others.owners(batch.ids)
            sharing = {other.layout.run for other in day.others if batch.name in other.names}
            if sharing and len(owners) < len(batch.ids):
                owners = by_others.owners(batch.ids, excluding=sharing)
                checkpoint.files |= by_batch(layout, day.listed, frozenset([batch.name]))
            fresh_since |= owners
        self.warnings.warn_of("foreign_objects", day.foreign(manifest.names))
        ours = names.difference((batch.name for batch in pending), *(other.names for other in day.others))
        files = [key for name in ours for key in checkpoint.files.get(name, {})]
        self.warnings.warn_of("stale_files", [key for key in files if key not in checkpoint.landed])
        run = Run(self.bucket, layout, manifest, checkpoint, batches, pending, self.inputs, fresh)
        return replace(run, fresh_since=fresh_since, attempt=self.attempt, clock=self.clock)

    async def is_unchanged(self, day: Day, manifest: Manifest, summary: Summary) -> bool:
        """Whether nothing had failed when the totals were reconciled, and nothing has changed in the lake since."""
        layout = day.layout
        wanted = {layout.receipt_key(name, batch) for name, names in manifest.batches.items() for batch in names}
        stored = await self.bucket.objects(layout.receipts)
        receipts = {key: listed for key, listed in stored.items() if key in wanted}
        files = of_batches(layout, day.listed, manifest.names)
        if any(manifest.names & other.names for other in day.others):
            theirs = (await day.harvested_by_others((), manifest.names)).files
            files = {key: file for key, file in files.items() if key not in theirs}
        digests = summary.digests
        if (digests.files, digests.receipts) != (listing_digest(files), listing_digest(receipts)):
            return False
        outcomes = await read_outcomes(self.bucket, layout, digests.outcomes)
        if outcomes is None:
            return False
        size = sum(file.bytes for file in files.values())
        totals = replace(manifest.totals(), fresh=0, batches=len(wanted), files=len(files), bytes=size)
        try:
            for _, outcome in outcomes:
                totals.add_outcome(outcome)
        except ValueError:
            return False
        return totals.reconciles and not totals.failed and summary.totals | totals.as_json() == summary.totals
