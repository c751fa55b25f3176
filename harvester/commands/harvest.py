"""The harvest: the one road from CSV to closed books.

`read inputs → open run → lease → begin → batches → look up → land → receipt → close`

Killed at any moment, it loses nothing: data lands first and the receipt last, so a batch without one is done again,
under the same names.
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

from harvester.aws.client import RetryPolicy
from harvester.commands.resources import Resources
from harvester.commands.result import result_json, run_ref, totals_json
from harvester.errors import BusyError, Exit
from harvester.formats.registry import FORMATS
from harvester.model.ids import KINDS
from harvester.model.outcome import Failed, Found, Fresh, Missing, Outcome, name_of
from harvester.model.record import record_line
from harvester.runs.data_files import Warnings
from harvester.runs.lease import LeaseTimes, hold_lease
from harvester.runs.open import open_run
from harvester.runs.run import Run, abort_uploads, land_batch
from harvester.runtime.clock import Clock
from harvester.runtime.concurrency import MemoryBudget, fan_out
from harvester.runtime.current_run import CURRENT_RUN, RunRef
from harvester.runtime.observer import BatchLanded, RunBegun, RunEnded, TitleDone, ignore
from harvester.tmdb.known_titles import are_unknown_in_a_row, check_missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from harvester.model.batch import Batch
    from harvester.model.manifest import Totals
    from harvester.runtime.observer import Observer
    from harvester.runtime.shutdown import Shutdown
    from harvester.settings.settings import Settings
    from harvester.tmdb.client import Tmdb

BATCHES_AT_ONCE = 32
"""Open batches at most. Usually two or three are open; more only while slow titles, or S3, keep some from landing."""

OPEN_BYTES = 32 * 10**6
"""Bytes of records in open batches, from which on none is begun. With `append_to_response` a record has 20 KB and more:
7,000 of them, while S3 was away, took 658 MB before there was this limit."""

MANY = 100
"""Ids above which it is worth a warning that TMDB has less than half of them."""

LIKELY = {
    "unknown": "TMDB has no games and podcasts, and few shorts; or the ids are not those of the titles",
    "episode": "episodes have no record of their own: leave out the rows of titleType tvEpisode",
    "season": "seasons have no record of their own",
}
"""Why TMDB lacks most of a CSV, by the reason that it is missing for."""

BEGIN_TRIES = 5
"""How often a run is opened again whose manifest a process without the lease has replaced."""


Status = Literal["closed", "nothing_to_do", "failed", "stopped", "landed"]
"""How a harvest can end; `landed` is what the child of a fan-out has done, which leaves the books to be closed."""


@dataclass(frozen=True, slots=True)
class LeaseOptions:
    """How a harvest gets the lease of its prefix."""

    wait: bool = True  # while another harvest is at work; otherwise it ends with `BusyError`
    token: str | None = None  # where several processes share the lease; a random one without it
    times: LeaseTimes = field(default_factory=LeaseTimes)


@dataclass(frozen=True, slots=True)
class Report:
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
    """When a harvest began: UTC, and by the clock that nobody sets."""

    at: str
    clock: float


async def harvest(
    settings: Settings,
    *,
    shutdown: Shutdown,
    observer: Observer = ignore,
    again: bool = False,  # harvest also if these ids were finished today
    only: str | None = None,  # the run that is meant; without it, the one that `open_run` finds
    attempt: str | None = None,  # batches whose failed titles it has tried are left; without it they are tried again
    lease_options: LeaseOptions | None = None,  # by default it waits for the lease
    clock: Clock = Clock(),  # noqa: B008  # it is frozen
) -> Report:
    """Harvest the CSVs of `settings` into its bucket, or what is left of that.

    Whatever is raised (see `errors`), what has landed is safe.
    """
    started, which = Started(clock.now(), time.monotonic()), {"again": again, "only": only, "attempt": attempt}
    resources = Resources(settings, clock=clock, observer=observer)
    status: Status | None = None
    try:
        async with AsyncExitStack() as stack:
            async with shutdown.immediately():
                run, tmdb = await start(stack, resources, lease_options or LeaseOptions(), **which)
            status = "nothing_to_do"
            if not run.finished:
                async with shutdown.draining():
                    await harvest_batches(run, tmdb=tmdb, resources=resources, shutdown=shutdown)
                    if not shutdown.interrupted:
                        await run.close()
                        warn_if_mostly_missing(run.totals)
                status = "failed" if run.totals.failed else "closed"
            report = report_of(run, tmdb, shutdown, done=status, started=started)
            status = report.status
            return report
    finally:
        observer(RunEnded(status))


async def start(
    stack: AsyncExitStack, resources: Resources, lease_options: LeaseOptions, **which: Any
) -> tuple[Run, Tmdb]:
    """The run that `open_run` finds by `which`, begun unless it is finished, and TMDB; all ends with `stack`.

    The lake is read first without the lease; only what is read with the lease decides what is left. TMDB is asked
    nothing, not even whether it takes the key, before the lake has shown that it can be harvested into. Uploads that
    the holder before has left open, killed, are aborted.
    """
    settings, clock = resources.settings, resources.clock
    settings.require_input()
    settings.require("tmdb_api_key", "s3_bucket")
    inputs = await resources.inputs()
    tmdb = await stack.enter_async_context(resources.tmdb())
    bucket = await stack.enter_async_context(resources.lake())
    look = partial(open_run, inputs=inputs, prefix=resources.prefix, options=resources.options, clock=clock, **which)
    look = partial(look, day=clock.now()[:10], notices=Warnings())  # the day of the start, however long it waits
    run = await look(bucket)
    CURRENT_RUN.set(run_ref(bucket, run.layout))
    if run.finished:
        return run, tmdb
    # S3 is there, so from now on we wait for it: with titles in hand, not to hear that an address is wrong.
    bucket = await stack.enter_async_context(resources.lake(retry_policy=RetryPolicy.WAIT_OUT))
    holding = hold_lease(
        bucket, run.layout.lease_key, token=lease_options.token, wait=lease_options.wait, times=lease_options.times
    )
    lease = await stack.enter_async_context(holding)
    await bucket.objects(run.layout.lease_key)  # an object that is sure to exist: do listings have ETags?
    await tmdb.check_key()
    if lease.previous_run:
        await abort_uploads(bucket, replace(run.layout, run=lease.previous_run))
    for _ in range(BEGIN_TRIES):
        run = await look(bucket)  # again: what was read without the lease may have changed since
        run.lease = lease
        CURRENT_RUN.set(run_ref(bucket, run.layout))
        if run.finished:
            return run, tmdb
        await lease.renew(run=run.name)
        await abort_uploads(bucket, run.layout)
        if await run.begin():
            return run, tmdb
    raise BusyError(f"Another harvest keeps beginning {run.name}, without the lease. Nothing is lost; run again later.")


def report_of(run: Run, tmdb: Tmdb, shutdown: Shutdown, *, done: Status, started: Started) -> Report:
    """How a harvest ended: stopped, or `done`."""
    reconciled = not shutdown.interrupted and done != "landed"
    return Report(
        "stopped" if shutdown.interrupted else done,
        run_ref(run.bucket, run.layout, reconciled=reconciled),
        run.totals,
        started.at,
        run.clock.now(),
        time.monotonic() - started.clock,
        requests=tmdb.breaker.successes + tmdb.breaker.failures,
        backoffs=tmdb.limiter.backoffs,
        batches_left=len(run.batches) - len(run.checkpoint.receipts),
        stopped_by=shutdown.reason if shutdown.interrupted else None,
        failed=run.checkpoint.failed,
    )


def warn_if_mostly_missing(totals: Totals) -> None:
    """Say so, with the likely reasons, if TMDB has less than half of more than `MANY` ids."""
    if totals.ids > MANY and 2 * totals.missing.total() > totals.ids:
        likely = [LIKELY[reason] for reason, _ in totals.missing.most_common() if reason in LIKELY]
        values = {"missing": totals.missing.total(), "ids": totals.ids, "likely": "; ".join(likely)}
        logging.getLogger(__name__).warning("mostly_missing", extra=values)


async def harvest_batches(run: Run, *, tmdb: Tmdb, resources: Resources, shutdown: Shutdown) -> None:
    """Harvest what is to do of `run`, batch after batch, as many open as it takes to use the whole rate."""
    titles = sum(len(batch.ids) for batch in run.pending)
    resources.observer(RunBegun(run.name, titles, run.totals.batches, tmdb.limiter.ceiling))
    budget = MemoryBudget(OPEN_BYTES)
    one = partial(harvest_batch, run=run, tmdb=tmdb, resources=resources, shutdown=shutdown, budget=budget)
    gc.freeze()  # what has been made until now stays: looking through it for cycles again and again is 5 % of the work
    try:
        await fan_out(one, run.pending, at_once=BATCHES_AT_ONCE)
    finally:
        gc.unfreeze()


async def harvest_batch(
    batch: Batch, *, run: Run, tmdb: Tmdb, resources: Resources, shutdown: Shutdown, budget: MemoryBudget
) -> None:
    """Look up every title of `batch`, land what was found, and write the receipt, last.

    Batches are begun in their order, each when the titles before it are on their way. So a slow title keeps its own
    batch from landing and nobody from being asked, while only two or three batches are open.
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
            outcome = replace(outcome, record={}) if line else Failed("too_deep")  # a line takes a fifth of the memory
        return outcome

    async def look_up_observed(id_: str) -> Outcome:
        outcome = await look_up(id_)
        observer(TitleDone(id_, name_of(outcome), getattr(outcome, "reason", None)))
        return outcome

    async def in_line() -> AsyncGenerator[str, None]:
        async with tmdb.admission():
            await budget.wait()
            if shutdown.admits(len(batch.ids)):
                for id_ in batch.ids:
                    yield id_

    mixes_answers = tmdb.mixes_answers
    outcomes = await fan_out(look_up_observed, in_line(), at_once=len(batch.ids))
    if not outcomes:
        return
    if tmdb.mixes_answers > mixes_answers or are_unknown_in_a_row(outcomes):  # ask again: is what is missing missing?
        missing = [id_ for id_, outcome in zip(batch.ids, outcomes, strict=True) if isinstance(outcome, Missing)]
        later = dict(zip(missing, await fan_out(look_up, missing, at_once=len(batch.ids)), strict=True))
        outcomes = [later.get(id_, outcome) for id_, outcome in zip(batch.ids, outcomes, strict=True)]
    await check_missing(tmdb, kind, outcomes)
    held = sum(map(len, lines.values()))
    receipt = await land_batch(run, batch, outcomes, lines, form=FORMATS[options.output_format])
    budget.reserve(-held)
    counts = Counter[str](outcome["outcome"] for outcome in receipt.outcomes.values())
    observer(BatchLanded(batch.name, batch.collection, counts, sum(file.bytes for file in receipt.files)))
