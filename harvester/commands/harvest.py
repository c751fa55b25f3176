"""Harvest: the whole road from the sources to reconciled totals.

`read sources → open run → take the lease → begin → batches → look up → encode → land → receipt → reconcile`

Killed at any moment, it loses nothing: data lands first and the receipt last, so a batch without a receipt is done
again, under the same names.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from harvester.commands.resources import Resources
from harvester.commands.result import result_json, run_ref, totals_json
from harvester.errors import BusyError, Exit
from harvester.formats.registry import FORMATS
from harvester.model.ids import KINDS
from harvester.model.outcome import Failed, Found, Fresh, Missing, Outcome, name_of
from harvester.model.record import record_line
from harvester.runs.data_files import Warnings
from harvester.runs.lease import TIMES, LeaseTimes, hold_lease
from harvester.runs.open import open_run
from harvester.runs.run import Run, abort_uploads, land_batch
from harvester.runtime.clock import CLOCK, Clock
from harvester.runtime.concurrency import MemoryBudget, fan_out
from harvester.runtime.current_run import CURRENT_RUN, RunRef
from harvester.runtime.observer import BatchLanded, RunBegun, RunEnded, TitleDone, ignore
from harvester.runtime.shutdown import Shutdown
from harvester.store.store import RetryPolicy
from harvester.tmdb.known_titles import are_unknown_in_a_row, check_missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from harvester.model.batch import Batch
    from harvester.model.manifest import Totals
    from harvester.runtime.observer import Observer
    from harvester.settings.settings import Settings
    from harvester.tmdb.client import Tmdb

BATCHES_AT_ONCE = 32
"""Open batches at most. Usually two or three are open; more only while slow titles, or S3, delay some."""

OPEN_BYTES = 32 * 10**6
"""Bytes of records in open batches, above which no batch is begun. With `append_to_response`, a record has 20 KB and
more: 7,000 of them took 658 MB while S3 was unreachable, without this limit."""

MOSTLY_MISSING_IDS = 100
"""Ids above which there is a warning if TMDB has less than half of them."""

LIKELY_REASONS = {
    "unknown": "TMDB has no games and podcasts, and few shorts; or the ids are not those of the titles",
    "episode": "episodes have no record of their own: leave out the rows of titleType tvEpisode",
    "season": "seasons have no record of their own",
}
"""Why TMDB may lack most ids of a CSV, by the reason that most are missing for."""

BEGIN_TRIES = 5
"""How often a run is opened again after a process without the lease has replaced its manifest."""


Status = Literal["closed", "nothing_to_do", "failed", "stopped", "landed"]
"""How a harvest can end. `landed`: the child of a fan-out is done; the totals are still to be reconciled."""


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    """How a harvest gets the lease of its prefix."""

    wait: bool = True  # while another harvest is at work; False: raise `BusyError`
    token: str | None = None  # of a lease that several processes share; None: a random one
    times: LeaseTimes = TIMES


@dataclass(frozen=True, slots=True)
class HarvestReport:
    """How a harvest ended."""

    status: Status
    ref: RunRef
    totals: Totals
    started_at: str  # UTC, as is `ended_at`
    ended_at: str
    seconds: float
    requests: int = 0
    backoffs: int = 0
    batches_left: int = 0
    stopped_by: str | None = None
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """`{date}-{fingerprint}`."""
        return self.ref.run

    @property
    def exit_code(self) -> Exit:
        """What the command line exits with."""
        return {"failed": Exit.FAILED, "stopped": Exit.STOPPED}.get(self.status, Exit.CLOSED)

    def as_json(self) -> dict[str, Any]:
        """For `--json` and Lambda."""
        return result_json(
            self.status,
            self.exit_code,
            self.ref,
            started_at=self.started_at,
            ended_at=self.ended_at,
            totals=totals_json(self.totals),
            seconds=round(self.seconds, 1),
            requests=self.requests,
            backoffs=self.backoffs,
            batches_left=self.batches_left,
            stopped_by=self.stopped_by,
            failed=self.failed,
        )


@dataclass(frozen=True, slots=True)
class Started:
    """When a harvest began: in UTC, and by the monotonic clock."""

    at: str
    monotonic_seconds: float


async def harvest(
    settings: Settings,
    *,
    shutdown: Shutdown | None = None,  # None: nothing asks it to stop
    observer: Observer = ignore,
    again: bool = False,  # harvest also if these ids were finished today
    run_name: str | None = None,  # this run; None: the one that `open_run` finds
    attempt: str | None = None,  # leave titles that failed in this attempt; None: try all again
    lease_options: LeaseOptions | None = None,  # None: wait for the lease
    clock: Clock = CLOCK,
) -> HarvestReport:
    """Harvest the CSVs of `settings` into its bucket; resume where an earlier run stopped.

    Whatever is raised (see `errors`), what has landed is safe.
    """
    CURRENT_RUN.set(None)
    resources = Resources(settings, clock=clock, observer=observer)
    which = {"again": again, "run_name": run_name, "attempt": attempt}
    return await end_observed(
        _harvest(resources, shutdown or Shutdown(), lease_options or LeaseOptions(), **which), observer
    )


async def end_observed(work: Coroutine[Any, Any, HarvestReport], observer: Observer) -> HarvestReport:
    """The report of `work`, after the observer has seen how it ended."""
    status: Status | None = None
    try:
        report = await work
        status = report.status
    finally:
        observer(RunEnded(status))
    return report


async def _harvest(
    resources: Resources, shutdown: Shutdown, lease_options: LeaseOptions, **which: Any
) -> HarvestReport:
    started = Started(resources.clock.now(), time.monotonic())
    async with AsyncExitStack() as stack:
        async with shutdown.immediately():
            run, tmdb = await start(stack, resources, lease_options, **which)
        if run.finished:
            return report_of(run, tmdb, shutdown, done="nothing_to_do", started=started)
        async with shutdown.draining():
            await harvest_batches(run, tmdb=tmdb, resources=resources, shutdown=shutdown)
            if not shutdown.interrupted:
                await run.close()
                warn_if_mostly_missing(run.totals)
        return report_of(run, tmdb, shutdown, done="failed" if run.totals.failed else "closed", started=started)


async def start(
    stack: AsyncExitStack, resources: Resources, lease_options: LeaseOptions, **which: Any
) -> tuple[Run, Tmdb]:
    """The run that `open_run` finds by `which`, begun unless it is finished, and TMDB; both are closed with `stack`.

    The lake is read first without the lease, then again with it; only the second reading decides what is left. TMDB is
    asked nothing, not even to check the key, before the lake is known to be usable. Uploads that a killed holder of
    the lease left open are aborted.
    """
    settings, clock = resources.settings, resources.clock
    settings.require_input()
    settings.require("tmdb_api_key", "s3_bucket")
    inputs = await resources.inputs()
    tmdb = await stack.enter_async_context(resources.tmdb())
    bucket = await stack.enter_async_context(resources.lake())
    open_ = partial(open_run, inputs=inputs, prefix=resources.prefix, options=resources.options, clock=clock, **which)
    open_ = partial(
        open_, day=clock.now()[:10], warnings=Warnings()
    )  # the day of the start, however long the wait for the lease
    run = await open_(bucket)
    CURRENT_RUN.set(run_ref(bucket, run.layout))
    if run.finished:
        return run, tmdb
    # S3 has answered, so its address is right: from now on an outage is waited out.
    bucket = await stack.enter_async_context(resources.lake(retry_policy=RetryPolicy.WAIT_OUT))
    lease_context = hold_lease(
        bucket, run.layout.lease_key, token=lease_options.token, wait=lease_options.wait, times=lease_options.times
    )
    lease = await stack.enter_async_context(lease_context)
    await bucket.objects(run.layout.lease_key)  # it exists, so this shows whether listings have ETags
    await tmdb.check_key()
    if lease.previous_run:
        await abort_uploads(bucket, replace(run.layout, run=lease.previous_run))
    for _ in range(BEGIN_TRIES):
        run = await open_(bucket)  # again: the lake may have changed before the lease was ours
        run.lease = lease
        CURRENT_RUN.set(run_ref(bucket, run.layout))
        if run.finished:
            return run, tmdb
        await lease.renew(run=run.name)
        await abort_uploads(bucket, run.layout)
        if await run.begin():
            return run, tmdb
    raise BusyError(f"Another harvest keeps beginning {run.name}, without the lease. Nothing is lost; run again later.")


def report_of(run: Run, tmdb: Tmdb, shutdown: Shutdown, *, done: Status, started: Started) -> HarvestReport:
    """How a harvest ended: stopped, or `done`."""
    reconciled = not shutdown.interrupted and done != "landed"
    return HarvestReport(
        "stopped" if shutdown.interrupted else done,
        run_ref(run.bucket, run.layout, reconciled=reconciled),
        run.totals,
        started.at,
        run.clock.now(),
        time.monotonic() - started.monotonic_seconds,
        requests=tmdb.breaker.successes + tmdb.breaker.failures,
        backoffs=tmdb.limiter.backoffs,
        batches_left=len(run.batches) - len(run.checkpoint.receipts),
        stopped_by=shutdown.reason if shutdown.interrupted else None,
        failed=run.checkpoint.failed,
    )


def warn_if_mostly_missing(totals: Totals) -> None:
    """Log a warning, with the likely reasons, if TMDB has less than half of more than `MOSTLY_MISSING_IDS` ids."""
    if totals.ids > MOSTLY_MISSING_IDS and 2 * totals.missing.total() > totals.ids:
        likely = [LIKELY_REASONS[reason] for reason, _ in totals.missing.most_common() if reason in LIKELY_REASONS]
        values = {"missing": totals.missing.total(), "ids": totals.ids, "likely": "; ".join(likely)}
        logging.getLogger(__name__).warning("mostly_missing", extra=values)


async def harvest_batches(run: Run, *, tmdb: Tmdb, resources: Resources, shutdown: Shutdown) -> None:
    """Harvest what is to do of `run`, with as many batches open as it takes to use the whole rate."""
    titles = sum(len(batch.ids) for batch in run.pending)
    resources.observer(RunBegun(run.name, titles, run.totals.batches, tmdb.limiter.ceiling))
    budget = MemoryBudget(OPEN_BYTES)
    harvest_one = partial(harvest_batch, run=run, tmdb=tmdb, resources=resources, shutdown=shutdown, budget=budget)
    gc.freeze()  # ids and batches live until the end; scanning them for cycles over and over took 5 % of the time
    try:
        await fan_out(harvest_one, run.pending, at_once=BATCHES_AT_ONCE)
    finally:
        gc.unfreeze()


async def harvest_batch(
    batch: Batch, *, run: Run, tmdb: Tmdb, resources: Resources, shutdown: Shutdown, budget: MemoryBudget
) -> None:
    """Look up every title of `batch`, land the records, and write the receipt last.

    Batches begin in order, each once all titles before it have been admitted. So a slow title delays its own batch
    only, no other request, and usually only two or three batches are open.
    """
    kind, options, observer = KINDS[batch.collection], resources.options, resources.observer
    lines: dict[str, bytes] = {}

    async def look_up(id_: str) -> Outcome:
        other = run.fresh_since.get(id_)
        outcome: Outcome = Fresh(other) if other else await tmdb.title(id_, kind)
        if isinstance(outcome, Found):
            line = record_line(id_, outcome, language=options.language, fetched_at=run.clock.now())
            if line:
                lines[id_] = line
                budget.reserve(len(line))
            outcome = (
                replace(outcome, record={}) if line else Failed("too_deep")
            )  # the line takes a fifth of its memory
        return outcome

    async def look_up_observed(id_: str) -> Outcome:
        outcome = await look_up(id_)
        observer(TitleDone(id_, name_of(outcome), getattr(outcome, "reason", None)))
        return outcome

    async def admitted_ids() -> AsyncGenerator[str, None]:
        async with tmdb.admission():
            await budget.wait()
            if shutdown.admits(len(batch.ids)):
                for id_ in batch.ids:
                    yield id_

    mixes_answers = tmdb.mixes_answers
    outcomes = await fan_out(look_up_observed, admitted_ids(), at_once=len(batch.ids))
    if not outcomes:
        return
    if tmdb.mixes_answers > mixes_answers or are_unknown_in_a_row(outcomes):  # are the missing really missing?
        missing = [id_ for id_, outcome in zip(batch.ids, outcomes, strict=True) if isinstance(outcome, Missing)]
        second = dict(zip(missing, await fan_out(look_up, missing, at_once=len(batch.ids)), strict=True))
        outcomes = [second.get(id_, outcome) for id_, outcome in zip(batch.ids, outcomes, strict=True)]
    await check_missing(tmdb, kind, outcomes)
    reserved = sum(map(len, lines.values()))
    receipt = await land_batch(run, batch, outcomes, lines, form=FORMATS[options.output_format])
    budget.reserve(-reserved)
    counts = Counter[str](outcome["outcome"] for outcome in receipt.outcomes.values())
    observer(BatchLanded(batch.name, batch.collection, counts, sum(file.bytes for file in receipt.files)))
