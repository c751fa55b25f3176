"""Shards: one run harvested in parallel by children that do not communicate.

`plan_shards` takes the lease, writes the manifest and cuts what is left of the run into shards. Each child harvests one
and renews the lease (`harvest_shard`). `harvest` then does what is left, reconciles the totals and ends the lease. What
is written is the same as in any other harvest, so a run begun on a laptop can be finished like this, and the reverse.
Each child has its share of the rate, and at most as many run at a time as the rate was divided by.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from harvester.commands.harvest import (
    HarvestReport,
    LeaseOptions,
    Started,
    end_observed,
    harvest_batches,
    report_of,
    start,
)
from harvester.commands.resources import CSV_SETTINGS, Resources
from harvester.commands.result import result_json, run_ref, totals_json
from harvester.errors import Exit, InputError, NewerFormatError
from harvester.model.batch import BATCH_SIZE, Batch
from harvester.model.documents import FORMAT, RunName, Token
from harvester.model.ids import Collection, TitleId
from harvester.runs.lease import TIMES, LeaseTimes, hold_lease
from harvester.runs.open import open_part
from harvester.runs.run import abort_uploads
from harvester.runtime.clock import CLOCK, Clock
from harvester.runtime.current_run import CURRENT_RUN
from harvester.runtime.observer import ignore
from harvester.store.store import RetryPolicy
from harvester.tmdb.cost import REQUESTS
from harvester.tmdb.rate_limiter import effective_rate, requests_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.runtime.observer import Observer
    from harvester.runtime.shutdown import Shutdown
    from harvester.settings.settings import Settings

CHILDREN = 4

SHARD_SECONDS = 420.0
"""Seconds for a shard if every title is found under its kind. A Lambda has 900 s: a missing movie costs two requests
instead of one, and failed requests are repeated."""

SHARD_IDS = 12_000
"""Ids in a shard at most: 15 bytes each in JSON, and Step Functions hands a child 256 KiB (docs, quotas)."""

Cut = dict[Collection, tuple[Annotated[tuple[TitleId, ...], Field(min_length=1, max_length=BATCH_SIZE)], ...]]
"""The ids of each batch, by collection."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one child harvests: whole batches of one run, in order."""

    run: RunName
    generation: Token
    token: Token  # of the lease, which the child renews
    attempt: Token  # called again, a child leaves titles that failed in it to `close`
    rate: Annotated[float, Field(gt=0, le=10_000)]  # requests per second at most
    batches: Cut
    format: int = FORMAT

    def cut(self) -> list[Batch]:
        """The batches."""
        return [Batch(collection, ids) for collection, cuts in self.batches.items() for ids in cuts]

    @classmethod
    def of(cls, payload: Any) -> Shard:
        """The shard in `payload`, JSON as `plan_shards` writes it; an InputError if it is none."""
        version = payload.get("format") if isinstance(payload, dict) else None
        if type(version) is int and version > FORMAT:
            raise NewerFormatError("the shard", version)
        if type(version) is not int or version != FORMAT:
            raise InputError("the event", f"is no shard as `plan` writes it: its format is {version!r:.50}")
        try:
            # Built here, not on import: it would cost every cold start 5 ms, and few are of children.
            return TypeAdapter(cls).validate_python(payload)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(map(str, first["loc"]))
            raise InputError("the event", f"is no shard as `plan` writes it: {path:.200} {first['msg']}") from None


def share(rate: float, children: int) -> tuple[int, float]:
    """The number of children, at most `children`, that share the `rate`, and the rate of each: a whole number.

    At a fractional rate a limiter could send one request too many in some second (14 at 13.3 a second).
    """
    children = max(1, min(children, int(rate)))
    return children, effective_rate(rate) if children == 1 else float(rate // children)


def cut_shards(batches: Sequence[Batch], *, rate: float, children: int) -> list[Cut]:
    """The `batches` in shards of about equal cost; a multiple of `children` of them, so that all children end together.

    No shard takes longer than `SHARD_SECONDS` or has more than `SHARD_IDS`, unless it is a single batch.
    """
    costs = [len(batch.ids) * REQUESTS[batch.collection] for batch in batches]
    most = min(requests_in(SHARD_SECONDS, rate), SHARD_IDS)
    even = max(most - max(costs, default=0), most / 2)  # a batch belongs to the shard it begins in, and may exceed it
    number = children * ceil(sum(costs) / even / children)
    parts: list[Cut] = []
    done, index, shard_cost = 0, -1, 0
    for batch, cost in zip(batches, costs, strict=True):
        if (next_index := done * number // sum(costs)) > index or shard_cost + cost > most:
            parts.append({})
            index, shard_cost = next_index, 0
        parts[-1][batch.collection] = (*parts[-1].get(batch.collection, ()), batch.ids)
        done, shard_cost = done + cost, shard_cost + cost
    return parts


def token_of(execution: str | None, purpose: str) -> str:
    """A token for `purpose`: the same for the same execution; random without an execution."""
    return hashlib.sha256(f"{purpose}\n{execution}".encode()).hexdigest()[:16] if execution else secrets.token_hex(8)


async def plan_shards(
    settings: Settings,
    *,
    children: int = CHILDREN,  # at most so many harvest at a time
    again: bool = False,  # begin a new generation where today's run is finished
    execution: str | None = None,  # of the state machine; tokens follow from it, so that a repeated plan is the same
    times: LeaseTimes = TIMES,
    clock: Clock = CLOCK,
) -> dict[str, Any]:
    """Write the run's manifest, and the shards of what is left of it as a JSON list in the bucket.

    Returns the key of the list, how many children may harvest at a time, the token of the lease, which stays open for
    them, and where the CSVs were found, so that the same ones are read to reconcile the totals. `status` is `to_do`,
    `to_close` if no batch is left, or `nothing_to_do`, with the lease ended.
    """
    CURRENT_RUN.set(None)
    started_at, generation, token = clock.now(), token_of(execution, "generation"), token_of(execution, "lease")
    async with AsyncExitStack() as stack:
        lease_options = LeaseOptions(wait=False, token=token, times=times)
        run, _ = await start(stack, Resources(settings, clock=clock), lease_options, again=again, generation=generation)
        children, rate = share(settings.tmdb_rate, min(children, len(run.pending)))
        shards: list[dict[str, Any]] = []
        if run.lease and not run.finished:
            shard = partial(Shard, run.name, run.manifest.generation, token, secrets.token_hex(8), rate)
            shards = [asdict(shard(cut)) for cut in cut_shards(run.pending, rate=rate, children=children)]
            await run.check_lease()
            await run.bucket.put(run.layout.shards_key, orjson.dumps(shards))
            run.lease.keep = True
    return result_json(
        "nothing_to_do" if run.finished else "to_do" if run.pending else "to_close",
        Exit.CLOSED,
        run_ref(run.bucket, run.layout, reconciled=run.finished),
        started_at=started_at,
        ended_at=clock.now(),
        totals=totals_json(run.totals),
        bucket=run.bucket.name,
        shards_key=run.layout.shards_key,
        shards=len(shards),
        children=children,
        rate_per_child=rate,
        batches=len(run.pending),
        token=token,
        sources={CSV_SETTINGS[collection]: ids.source for collection, ids in run.inputs.items()},
    )


async def harvest_shard(
    settings: Settings,
    shard: Shard,
    *,
    shutdown: Shutdown,
    observer: Observer = ignore,
    times: LeaseTimes = TIMES,
    clock: Clock = CLOCK,
) -> HarvestReport:
    """Harvest what is left of `shard`, under the lease that `plan_shards` took."""
    CURRENT_RUN.set(None)
    settings.require("tmdb_api_key", "s3_bucket")
    resources = Resources(settings, clock=clock, observer=observer)
    return await end_observed(_harvest_shard(resources, shard, shutdown, times), observer)


async def _harvest_shard(resources: Resources, shard: Shard, shutdown: Shutdown, times: LeaseTimes) -> HarvestReport:
    clock = resources.clock
    started = Started(clock.now(), time.monotonic())
    layout = resources.layout(shard.run)
    batches = shard.cut()
    async with AsyncExitStack() as stack:
        async with shutdown.immediately():
            bucket = await stack.enter_async_context(resources.lake(retry_policy=RetryPolicy.WAIT_OUT))
            CURRENT_RUN.set(run_ref(bucket, layout))
            lease_context = hold_lease(bucket, layout.lease_key, token=shard.token, shared=True, times=times)
            lease = await stack.enter_async_context(lease_context)
            await abort_uploads(bucket, layout, frozenset(batch.name for batch in batches))
            which = {"generation": shard.generation, "attempt": shard.attempt}
            run = await open_part(bucket, layout, batches, **which, options=resources.options, clock=clock)
            run.lease = lease
            tmdb = await stack.enter_async_context(resources.tmdb(rate=shard.rate))
        async with shutdown.draining():
            await harvest_batches(run, tmdb=tmdb, resources=resources, shutdown=shutdown)
        return report_of(run, tmdb, shutdown, done="landed", started=started)
