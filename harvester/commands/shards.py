"""Shards: one run harvested in parts, side by side, by children that know nothing of each other.

`plan_shards` takes the lease, writes the manifest and cuts what is left of the run into shards. Each child harvests one
and renews the lease (`harvest_shard`). `harvest` does what is left then, closes the books and ends the lease. All that
is written is as of any other harvest, so a run begun on a laptop can be ended like this, and the reverse. Each child
has its share of the rate, and never more of them run at a time than it was shared among.
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

from harvester.aws.client import RetryPolicy
from harvester.commands.harvest import LeaseOptions, Report, Started, harvest_batches, report_of, start
from harvester.commands.resources import CSV_SETTINGS, Resources
from harvester.commands.result import result_json, run_ref, totals_json
from harvester.errors import Exit, InputError, NewerFormatError
from harvester.model.batch import BATCH_SIZE, Batch
from harvester.model.documents import FORMAT, RunName, Token
from harvester.model.ids import Collection, TitleId
from harvester.runs.lease import LeaseTimes, hold_lease
from harvester.runs.open import open_part
from harvester.runs.run import abort_uploads
from harvester.runtime.clock import Clock
from harvester.runtime.current_run import CURRENT_RUN
from harvester.runtime.observer import RunEnded, ignore
from harvester.tmdb.cost import REQUESTS
from harvester.tmdb.rate_limiter import SPACING, effective_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.runtime.observer import Observer
    from harvester.runtime.shutdown import Shutdown
    from harvester.settings.settings import Settings

CHILDREN = 4

SHARD_SECONDS = 420.0
"""What a shard takes if every title is what its CSV says. A Lambda has 900 s; a movie that is missing costs twice, and
so do the answers that are no good."""

SHARD_IDS = 12_000
"""Ids in a shard at most: 15 bytes each in JSON, and Step Functions hands a child 256 KiB (docs, quotas)."""

Cut = dict[Collection, tuple[Annotated[tuple[TitleId, ...], Field(min_length=1, max_length=BATCH_SIZE)], ...]]
"""The ids of each batch, by collection."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one child harvests: whole batches of one run, in their order."""

    run: RunName
    generation: Token
    token: Token  # of the lease, which the child renews
    attempt: Token  # titles that failed in it are left to the close
    rate: Annotated[float, Field(gt=0, le=10_000)]  # requests per second at most
    batches: Cut
    format: int = FORMAT

    def cut(self) -> list[Batch]:
        """The batches."""
        return [Batch(collection, ids) for collection, some in self.batches.items() for ids in some]

    @classmethod
    def of(cls, result: Any) -> Shard:
        """The shard in `told`, which is JSON as `plan_shards` has written it; an InputError if it is none."""
        seen = result.get("format") if isinstance(result, dict) else None
        if type(seen) is int and seen > FORMAT:
            raise NewerFormatError("the shard", seen)
        if type(seen) is not int or seen != FORMAT:
            raise InputError("the event", f"is no shard, as planning writes it: its format is {seen!r:.50}")
        try:
            # Made here: 5 ms of every cold start, and few are of children.
            return TypeAdapter(cls).validate_python(result)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError("the event", f"is no shard, as planning writes it: {where:.200} {first['msg']}") from None


def share(rate: float, children: int) -> tuple[int, float]:
    """How many of at most `children` may share the `rate`, and what each may ask a second: a whole number.

    The pace of a fraction could send one request more in some second than the fraction allows (14 at 13.3 a second).
    """
    children = max(1, min(children, int(rate)))
    return children, effective_rate(rate) if children == 1 else float(rate // children)


def cut_shards(batches: Sequence[Batch], *, rate: float, children: int) -> list[Cut]:
    """The `batches` in parts of about as many requests each, a multiple of `children` so that all end together.

    None takes longer than `SHARD_SECONDS` or has more than `SHARD_IDS`, unless it is of one batch alone.
    """
    costs = [len(batch.ids) * REQUESTS[batch.collection] for batch in batches]
    most = min(SHARD_SECONDS * rate / SPACING, SHARD_IDS)
    even = max(most - max(costs, default=0), most / 2)  # a batch belongs where it begins, and may reach beyond the end
    number = children * ceil(sum(costs) / even / children)
    parts: list[Cut] = []
    done, place, held = 0, -1, 0
    for batch, cost in zip(batches, costs, strict=True):
        if (here := done * number // sum(costs)) > place or held + cost > most:
            parts.append({})
            place, held = here, 0
        parts[-1][batch.collection] = (*parts[-1].get(batch.collection, ()), batch.ids)
        done, held = done + cost, held + cost
    return parts


def token_of(execution: str | None, what: str) -> str:
    """A token for `what`: the same whenever the same execution asks for it, a random one without any."""
    return hashlib.sha256(f"{what}\n{execution}".encode()).hexdigest()[:16] if execution else secrets.token_hex(8)


async def plan_shards(
    settings: Settings,
    *,
    children: int = CHILDREN,  # that may harvest at a time, at most
    again: bool = False,  # begin a new generation where today's run is finished
    execution: str | None = None,  # of the state machine; makes the tokens, so that a repeated plan is the same
    times: LeaseTimes = LeaseTimes(),  # noqa: B008  # it is frozen
    clock: Clock = Clock(),  # noqa: B008  # it is frozen
) -> dict[str, Any]:
    """Write the manifest of the run to go on with, and the shards of what is left of it, as a JSON list in the bucket.

    What comes back says where they are, how many children may harvest them at a time, the token of the lease, which is
    left to them, and where the CSVs were found, so that the same are read when the books are closed. `status` is
    `to_do`, `to_close` where no batch is left, or `nothing_to_do`, with the lease ended.
    """
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
    times: LeaseTimes = LeaseTimes(),  # noqa: B008  # it is frozen
    clock: Clock = Clock(),  # noqa: B008  # it is frozen
) -> Report:
    """Harvest what is left of `shard`, in the lease that its plan has taken."""
    started = Started(clock.now(), time.monotonic())
    settings.require("tmdb_api_key", "s3_bucket")
    resources = Resources(settings, clock=clock, observer=observer)
    layout = resources.layout(shard.run)
    batches = shard.cut()
    async with AsyncExitStack() as stack:
        stack.callback(observer, RunEnded("landed"))
        async with shutdown.immediately():
            bucket = await stack.enter_async_context(resources.lake(retry_policy=RetryPolicy.WAIT_OUT))
            CURRENT_RUN.set(run_ref(bucket, layout))
            holding = hold_lease(bucket, layout.lease_key, token=shard.token, shared=True, times=times)
            lease = await stack.enter_async_context(holding)
            await abort_uploads(bucket, layout, frozenset(batch.name for batch in batches))
            which = {"generation": shard.generation, "attempt": shard.attempt}
            run = await open_part(bucket, layout, batches, **which, options=resources.options, clock=clock)
            run.lease = lease
            tmdb = await stack.enter_async_context(resources.tmdb(rate=shard.rate))
        async with shutdown.draining():
            await harvest_batches(run, tmdb=tmdb, resources=resources, shutdown=shutdown)
        return report_of(run, tmdb, shutdown, done="landed", started=started)
