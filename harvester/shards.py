"""Shards: one run harvested in parts, side by side, by children that know nothing of each other.

Where one process is too little, or may live for 15 minutes only, `plan_shards` writes the plan and cuts what is left of
the run into shards; each child harvests one (`harvest_shard`); `harvest` itself does what is left then and closes the
books. Plan, names and receipts are those of any other harvest, so that a run begun on a laptop can be ended like this,
and the reverse. Together the children ask no more than the rate: each has its share of it, and never more of them run
at a time than it was shared among.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from harvester.aws_client import PATIENT
from harvester.batches import Batch
from harvester.errors import InputError
from harvester.harvest import Report, harvest_batches, report_of
from harvester.opening import open_bucket_of, open_tmdb_of, read_inputs
from harvester.pace import SLACK
from harvester.plan import REQUESTS
from harvester.run import open_part, open_run, utc
from harvester.titles import Collection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from harvester.harvest import Watcher
    from harvester.settings import Settings
    from harvester.stop import Stop

CHILDREN = 4

SHARD_SECONDS = 420.0
"""What a shard takes if every title is what its CSV says. A Lambda has 900 s; a movie that is missing costs twice, and
so do the answers that are no good."""

SHARD_IDS = 12_000
"""Ids in a shard at most: 15 bytes each in JSON, and Step Functions hands a child 256 KiB (docs, quotas)."""

_Id = Annotated[str, Field(pattern="^tt[0-9]{7,10}$")]
Cut = dict[Collection, tuple[Annotated[tuple[_Id, ...], Field(min_length=1)], ...]]
"""The ids of each batch, by collection."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one child harvests: whole batches of one run, in their order.

    Attributes:
        prefix: Folder of the harvest in the bucket, where the run's plan is found.
        rate: Requests per second that the child may ask at most.
        planned_at: Titles that failed since then are left to whoever closes the books.
        batches: The ids of each batch, by collection.
    """

    run: Annotated[str, Field(pattern="^[0-9a-f-]+$")]
    prefix: Annotated[str, Field(pattern="^[^/]")]
    rate: Annotated[float, Field(gt=0, le=10_000)]
    planned_at: str
    batches: Cut

    def cut(self) -> list[Batch]:
        """The batches."""
        return [Batch(collection, ids) for collection, some in self.batches.items() for ids in some]

    @classmethod
    def of(cls, told: Any) -> Shard:
        """The shard in `told`, which is JSON as `plan_shards` has written it.

        Raises:
            InputError: It is none.
        """
        try:
            return TypeAdapter(cls).validate_python(
                told
            )  # made here: 5 ms of every cold start, and few are of children
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError("the event", f"is no shard, as planning writes it: {where:.200} {first['msg']}") from None


def share(rate: float, children: int) -> tuple[int, float]:
    """How many of at most `children` may share the `rate`, and what each may ask a second: a whole number.

    The pace of a fraction could send one request more in some second than the fraction allows (14 at 13.3 a second).
    """
    children = max(1, min(children, int(rate)))
    return children, rate if children == 1 else float(rate // children)


def cut_shards(
    batches: Sequence[Batch], *, run: str, prefix: str, rate: float, children: int, planned_at: str
) -> list[Shard]:
    """The shards of `batches`, of about as many requests each, a multiple of `children` so that all end together.

    None takes longer than `SHARD_SECONDS` or has more than `SHARD_IDS`, unless it is of one batch alone.
    """
    costs = [len(batch.ids) * REQUESTS[batch.collection] for batch in batches]
    most = min(SHARD_SECONDS * rate / SLACK, SHARD_IDS)
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
    return [Shard(run, prefix, rate, planned_at, part) for part in parts]


async def plan_shards(
    settings: Settings, *, children: int = CHILDREN, again: bool = False, now: Callable[[], str] = utc
) -> dict[str, Any]:
    """Write the plan of the run to go on with, and the shards of what is left of it, as one JSON list in the bucket.

    What comes back says where they are, how many children may harvest them at a time, and where the CSVs were found,
    so that the same are read when the books are closed. `status` is `to_do`, `to_close` where no batch of the plan is
    left, or `nothing_to_do`.

    Raises:
        HarvestError: See `errors`.
    """
    settings.need_titles()
    settings.need("tmdb_api_key", "s3_bucket")
    inputs = await read_inputs(settings)
    async with AsyncExitStack() as stack:
        bucket = await stack.enter_async_context(open_bucket_of(settings))
        run = await open_run(bucket, inputs, settings, again=again, now=now)
        children, rate = share(settings.tmdb_rate, min(children, len(run.todo)))
        told: dict[str, Any] = {
            "status": "nothing_to_do" if run.nothing_to_do else "to_do" if run.todo else "to_close",
            "run": run.plan.run,
            "bucket": bucket.name,
            "shards_key": run.layout.shards_key,
            "shards": 0,
            "children": children,
            "rate_per_child": rate,
            "batches": len(run.todo),
            "sources": {f"{collection.lower()}_csv": ids.source for collection, ids in inputs.items()},
            "books": run.books.as_json(),
        }
        if not run.nothing_to_do:
            tmdb = await stack.enter_async_context(open_tmdb_of(settings))
            await tmdb.check_key()
            await run.begin()
            shards = cut_shards(
                run.todo,
                run=run.plan.run,
                prefix=settings.s3_prefix,
                rate=rate,
                children=children,
                planned_at=now(),
            )
            await bucket.put(run.layout.shards_key, orjson.dumps([asdict(shard) for shard in shards]))
            told["shards"] = len(shards)
    return told


async def harvest_shard(
    settings: Settings,
    shard: Shard,
    *,
    watcher: Watcher,
    stop: Stop,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], str] = utc,
) -> Report:
    """Harvest what is left of `shard`; its records are shaped by the run's plan, whatever `settings` say of that.

    Raises:
        HarvestError: See `errors`. Whatever was raised, what had landed is safe.
    """
    settings.need("tmdb_api_key", "s3_bucket")
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        async with stop.at_once():
            bucket = await stack.enter_async_context(open_bucket_of(settings, attempts=PATIENT))
            run = await open_part(bucket, shard.run, shard.cut(), prefix=shard.prefix, since=shard.planned_at, now=now)
            shape = {name: run.plan.settings[name] for name in ("tmdb_language", "tmdb_append", "output_format")}
            settings = settings.model_copy(update={"tmdb_rate": shard.rate, **shape})
            tmdb = await stack.enter_async_context(open_tmdb_of(settings, sleep))
        watcher.begin(run, titles=sum(len(batch.ids) for batch in run.todo), pace=tmdb.pace)
        async with stop.draining():
            await harvest_batches(run.todo, run=run, tmdb=tmdb, settings=settings, watcher=watcher, stop=stop)
        return report_of(run, tmdb, stop, done="landed", seconds=time.monotonic() - started)
