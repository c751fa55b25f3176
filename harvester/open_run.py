"""Which run to go on with, and what is left of it. Nothing is written here.

The newest run of the same ids and options that is not dated ahead of today is looked at, and none older: unfinished, it
is gone on with under its own date; finished today, it is left alone; finished earlier, a new run begins.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harvester.batches import cut
from harvester.books import Books
from harvester.checkpoint import Checkpoint, read_checkpoint
from harvester.data_files import Notices, by_batch, list_data, of_batches, read_document, run_names
from harvester.documents import DOCUMENT_BYTES
from harvester.errors import BooksError, InputError, SettingsError
from harvester.ids_file import GZIP_BYTES, decode_ids, decode_outcomes
from harvester.layout import Layout
from harvester.manifest import Account, Manifest, decode_manifest, decode_summary
from harvester.other_runs import foreign_keys, listing_digest, read_other_runs, read_standing, refuse_other_options
from harvester.run import Run, utc

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harvester.batches import Batch
    from harvester.manifest import RecordOptions, Summary
    from harvester.other_runs import OtherRun, Standing
    from harvester.s3 import Bucket, Listed
    from harvester.settings import Settings
    from harvester.titles import Collection, Ids


async def open_run(
    bucket: Bucket,
    inputs: Mapping[Collection, Ids],
    settings: Settings,
    *,
    again: bool = False,
    only: str | None = None,
    attempt: str | None = None,
    generation: str | None = None,
    day: str | None = None,
    now: Callable[[], str] = utc,
    notices: Notices | None = None,
) -> Run:
    """The run to go on with, or a new one.

    Args:
        again: Begin a new generation of today's run where that is finished.
        only: The one run that is meant, finished or not, of whichever day.
        attempt: Of a fan-out: batches whose failed titles this attempt has tried are taken as done.
        generation: The token of a generation that is begun; a random one without it.
        day: Of a run that is begun; by default that of `now`.
        notices: Warned of what is bad or foreign in the lake.

    Raises:
        InputError: The run that is meant is of other ids or options.
        SettingsError: Records of other options stand on that day.
        NewerFormatError: A newer harvester has written some of it.
    """
    mark = settings.record_options.fingerprint({collection: account.ids for collection, account in inputs.items()})
    if only and not only.endswith(f"-{mark}"):
        sources = " and ".join(account.source for account in inputs.values())
        raise InputError(sources, f"has other ids, or is asked for otherwise, than {only} was planned of: plan anew")
    notices = notices or Notices()
    today = f"{day or now()[:10]}-{mark}"
    names = await run_names(bucket, settings.s3_prefix)
    notices.warn_of("run_dated_ahead", [name for name in names if name[:10] > today[:10]])
    mine = [only] if only else [name for name in names if name.endswith(f"-{mark}") and name <= today]
    look = _Look(bucket, inputs, settings.record_options, now, attempt, notices)
    for name in reversed(mine):
        layout = Layout(settings.s3_prefix, settings.s3_key_template, name)
        manifest, etag = await look.read_manifest(layout)
        if manifest is None:
            continue
        run = await look.go_on(layout, manifest, etag, past=name != today and only is None)
        if run is None:
            break
        if again and run.closed and not run.todo and only is None and manifest.generation != generation:
            return await look.begin(layout, generation, etag=etag, before=manifest)
        return run
    layout = Layout(settings.s3_prefix, settings.s3_key_template, only or today)
    return await look.begin(layout, generation, etag=(await look.read_manifest(layout))[1])


async def open_part(
    bucket: Bucket,
    layout: Layout,
    batches: list[Batch],
    *,
    options: RecordOptions,
    generation: str,
    attempt: str,
    now: Callable[[], str] = utc,
) -> Run:
    """The part of a run that consists of `batches`; the rest of it is not looked at.

    Raises:
        BooksError: There is no manifest of that run, or it is of another generation, or does not have these batches.
        NewerFormatError: A newer harvester has written some of it.
    """
    manifest = decode_manifest(layout, await read_document(bucket, layout.manifest_key))
    strange = [batch.name for batch in batches if batch.name not in manifest.batches.get(batch.collection, ())]
    if strange or manifest.generation != generation or manifest.options != options:
        raise BooksError(f"{layout.manifest_key} is not of the shards that were planned: plan anew")
    look = _Look(bucket, {}, options, now, attempt, Notices())
    return await look.checkpoint(layout, replace(manifest, input={}, fresh=0), {}, batches, await look.read_day(layout))


@dataclass(frozen=True, slots=True)
class _Day:
    """What stands on a run's day: all data files, and the other runs."""

    listed: dict[str, Listed]
    others: list[OtherRun]


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the lake, for these ids and options."""

    bucket: Bucket
    inputs: Mapping[Collection, Ids]
    options: RecordOptions
    now: Callable[[], str]
    attempt: str | None
    notices: Notices

    @property
    def accounts(self) -> dict[Collection, Account]:
        return {name: Account.of(account) for name, account in self.inputs.items()}

    def says(self, manifest: Manifest, marks: Mapping[str, str]) -> bool:
        """Whether the manifest counts what the CSVs have, wherever they were read from, and the marks."""
        accounts = {name: replace(account, source="") for name, account in self.accounts.items()}
        counted = {name: replace(account, source="") for name, account in manifest.input.items()}
        return counted == accounts and manifest.fresh == len(marks)

    @property
    def ids(self) -> set[str]:
        return {id_ for account in self.inputs.values() for id_ in account.ids}

    def cut(self, marks: Mapping[str, str]) -> list[Batch]:
        """The batches of the ids that are not marked as fresh, in order."""
        return [
            batch
            for collection, account in self.inputs.items()
            for batch in cut(collection, (id_ for id_ in account.ids if id_ not in marks))
        ]

    def names(self, batches: list[Batch]) -> dict[Collection, list[str]]:
        return {name: [batch.name for batch in batches if batch.collection == name] for name in self.inputs}

    async def read_manifest(self, layout: Layout) -> tuple[Manifest | None, str | None]:
        """The manifest of a run, if it is of these ids and options, and its ETag; another is named."""
        stored = await self.bucket.read_stored(layout.manifest_key, limit=DOCUMENT_BYTES)
        if stored is None:
            return None, None
        try:
            manifest = decode_manifest(layout, stored.body)
        except BooksError as error:
            self.notices.warn("manifest_refused", problem=str(error))
            return None, stored.etag
        ids = {collection: account.ids for collection, account in manifest.input.items()}
        if manifest.options == self.options and ids == {name: len(some.ids) for name, some in self.inputs.items()}:
            return manifest, stored.etag
        self.notices.warn("manifest_refused", problem=f"{layout.manifest_key} is of other ids or options")
        return None, stored.etag

    async def read_marks(self, layout: Layout, generation: str, sha256: str | None) -> dict[str, str] | None:
        """The ids that this generation has marked as fresh; None if its ids cannot be read or are not those wanted."""
        key = layout.ids_key(generation)
        body = await read_document(self.bucket, key, limit=GZIP_BYTES) or b""
        try:
            if sha256 not in (None, hashlib.sha256(body).hexdigest()):
                raise ValueError("it is not what its manifest says")  # noqa: TRY301
            frozen = decode_ids(body)
        except ValueError as error:
            self.notices.warn("ids_refused", problem=f"{key}: {error}")
            return None
        wanted = {name: some.ids for name, some in self.inputs.items() if some.ids}
        return frozen.fresh if frozen.ids == wanted else None

    async def read_summary(self, layout: Layout, manifest: Manifest) -> Summary | None:
        """The summary of this generation; None if there is none."""
        if (body := await read_document(self.bucket, layout.summary_key)) is None:
            return None
        try:
            summary = decode_summary(layout, body)
        except BooksError as error:
            self.notices.warn("summary_refused", problem=str(error))
            return None
        return summary if summary.generation == manifest.generation else None

    async def read_day(self, layout: Layout) -> _Day:
        listed = await list_data(self.bucket, layout)
        return _Day(listed, await read_other_runs(self.bucket, layout, self.notices))

    async def standing(self, day: _Day, wanted: set[str], ours: frozenset[str] = frozenset()) -> Standing:
        """What stands under the other runs of the day; see `read_standing`."""
        return await read_standing(self.bucket, day.others, day.listed, self.notices, wanted=wanted, ours=ours)

    async def go_on(self, layout: Layout, manifest: Manifest, etag: str | None, *, past: bool) -> Run | None:
        """The run of `manifest`; None where a new run is to begin, because this is `past` and finished or damaged."""
        summary = await self.read_summary(layout, manifest)
        if past and summary:
            return None
        day = await self.read_day(layout)
        marks = await self.marks_if_unchanged(layout, manifest, summary, day) if summary else None
        if summary and marks is not None:
            self.notices.warn_of("foreign_objects", foreign_keys(layout, day.listed, manifest.names, day.others))
            checkpoint = Checkpoint(by_batch(layout, day.listed, manifest.names), Books.of_json(summary.books))
            run = Run(self.bucket, layout, manifest, self.now, checkpoint, [], [], marks=marks)
            return replace(run, closed=True, finished=True)
        stored = await self.read_marks(layout, manifest.generation, manifest.ids_sha256)
        marks = (await self.standing(day, self.ids)).of(self.ids) if stored is None else stored
        batches = self.cut(marks)
        if self.names(batches) != manifest.batches:
            return None if past else await self.begin(layout, None, etag=etag)
        try:
            await refuse_other_options(self.bucket, layout, day.others, self.options)
        except SettingsError:
            if past:  # nothing of it can ever land any more
                return None
            raise
        written, manifest = manifest, replace(manifest, input=self.accounts, fresh=len(marks))
        run = await self.checkpoint(layout, manifest, marks, batches, day)
        tried = run.checkpoint.tried
        if past and any(tried.values()) and all(batch.name in tried for batch in batches):
            return None  # only failed titles are left
        same = stored is not None and self.says(written, marks)
        # What was lost is written anew, and so is what the CSVs' other rows have changed.
        closed = summary is not None and not summary.books["failed"]
        return replace(run, etag=etag, begun=same, closed=closed)

    async def begin(
        self, layout: Layout, generation: str | None, *, etag: str | None, before: Manifest | None = None
    ) -> Run:
        """A new generation of the run in `layout`.

        Its ids are marked and cut once: as those of the generation `before`, or else by what stands under other runs
        now. Where the manifest was lost and its ids still stand, it goes on with these.
        """
        generation = generation or secrets.token_hex(8)
        day = await self.read_day(layout)
        await refuse_other_options(self.bucket, layout, day.others, self.options)
        marks = await self.read_marks(layout, before.generation, before.ids_sha256) if before else None
        for key in () if before else await self.bucket.objects(f"{layout.folder}ids-"):
            if (found := layout.generation_of(key)) and (
                marks := await self.read_marks(layout, found, None)
            ) is not None:
                generation = found
                break
        if marks is None:
            marks = (await self.standing(day, self.ids)).of(self.ids)
        batches = self.cut(marks)
        if before is None:
            await self.refuse_other_cut(layout, batches)
        manifest = Manifest(
            run=layout.run,
            generation=generation,
            created_at=self.now(),
            input=self.accounts,
            options=self.options,
            batches=self.names(batches),
            fresh=len(marks),
            ids_sha256="",  # known when they are written
            unknown=before.unknown if before else {},
        )
        return replace(await self.checkpoint(layout, manifest, marks, batches, day), etag=etag, begun=False)

    async def refuse_other_cut(self, layout: Layout, batches: list[Batch]) -> None:
        """Be sure that a run whose manifest or ids were lost has no receipt of a batch that is now cut otherwise.

        Raises:
            BooksError: It has one: its titles would land twice.
        """
        names = {layout.receipt_key(batch.collection, batch.name) for batch in batches}
        if strange := sorted((await self.bucket.objects(layout.receipts)).keys() - names):
            raise BooksError(
                f"The ids of {layout.run} are lost, and others make other batches than {strange[0]} is of "
                f"({len(strange)} receipts): bring {layout.folder} back, or harvest into another --prefix"
            )

    async def checkpoint(
        self, layout: Layout, manifest: Manifest, marks: Mapping[str, str], batches: list[Batch], day: _Day
    ) -> Run:
        """The run, with what stands of it, and what it need not ask for because another run has it by now.

        Two runs of a day may have a batch of the same ids, and so of the same name and key. Where the other has all of
        it, it is left to that; where it has some, the batch is done whole, and the other finds its ids here then.
        """
        names = {batch.name for batch in batches}
        ids = {id_ for batch in batches for id_ in batch.ids}
        standing = await self.standing(day, ids, frozenset(names))
        checkpoint = await read_checkpoint(
            self.bucket,
            layout,
            batches,
            generation=manifest.generation,
            books=manifest.books(),
            listed=day.listed,
            theirs=standing.files,
            notices=self.notices,
            attempt=self.attempt,
        )
        receipts = checkpoint.receipts
        todo = [batch for batch in batches if layout.receipt_key(batch.collection, batch.name) not in receipts]
        elsewhere: dict[str, str] = {}
        for batch in todo:
            fresh = standing.of(batch.ids)
            sharing = {other.layout.run for other in day.others if batch.name in other.names}
            if sharing and len(fresh) < len(batch.ids):
                fresh = standing.of(batch.ids, but=sharing)
                checkpoint.files |= by_batch(layout, day.listed, frozenset([batch.name]))
            elsewhere |= fresh
        self.notices.warn_of("foreign_objects", foreign_keys(layout, day.listed, manifest.names, day.others))
        shared = {name for other in day.others for name in other.names}
        done = names - {batch.name for batch in todo} - shared
        files = [key for name in done for key in checkpoint.files.get(name, {})]
        self.notices.warn_of("stale_files", [key for key in files if key not in checkpoint.landed])
        return Run(
            self.bucket,
            layout,
            manifest,
            self.now,
            checkpoint,
            batches,
            todo,
            inputs=self.inputs,
            marks=marks,
            elsewhere=elsewhere,
            attempt=self.attempt,
        )

    async def marks_if_unchanged(
        self, layout: Layout, manifest: Manifest, summary: Summary, day: _Day
    ) -> dict[str, str] | None:
        """The marks of a run in which nothing failed, if everything stands as when its books were closed; else None."""
        stored = await self.bucket.objects(layout.receipts)
        receipts = {layout.receipt_key(name, batch) for name, some in manifest.batches.items() for batch in some}
        files = of_batches(layout, day.listed, manifest.names)
        if any(manifest.names & other.names for other in day.others):
            theirs = (await self.standing(day, set(), manifest.names)).files
            files = {key: file for key, file in files.items() if key not in theirs}
        if not receipts <= stored.keys() or listing_digest(files) != summary.digests.files:
            return None
        if listing_digest({key: stored[key] for key in receipts}) != summary.digests.receipts:
            return None
        outcomes = await read_document(self.bucket, layout.outcomes_key, limit=GZIP_BYTES) or b""
        if hashlib.sha256(outcomes).hexdigest() != summary.digests.outcomes:
            return None
        books = Books(batches=len(receipts), files=len(files), bytes=sum(file.bytes for file in files.values()))
        for account in self.accounts.values():
            books.take_input(account)
        try:
            for _, outcome in decode_outcomes(outcomes):
                books.take_outcome(outcome)
        except ValueError:
            return None
        same = books.balance and not books.failed and summary.books | books.as_json() == summary.books
        marks = await self.read_marks(layout, manifest.generation, manifest.ids_sha256) if same else None
        return marks if marks is not None and self.says(manifest, marks) else None
