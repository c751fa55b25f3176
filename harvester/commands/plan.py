"""Plan: what a harvest would do. Only the bucket is asked, not TMDB."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harvester.commands.resources import Resources
from harvester.commands.result import result_json, run_ref
from harvester.errors import Exit
from harvester.model.manifest import InputCounts
from harvester.runs.open import open_run
from harvester.runtime.clock import CLOCK, Clock
from harvester.runtime.current_run import CURRENT_RUN
from harvester.tmdb.cost import REQUESTS
from harvester.tmdb.rate_limiter import effective_rate, seconds_for

if TYPE_CHECKING:
    from harvester.settings.settings import Settings


async def plan(settings: Settings, *, again: bool = False, clock: Clock = CLOCK) -> dict[str, Any]:
    """What `harvest` would do with these settings, as `--json` prints it; nothing is written.

    Requests and seconds are a lower bound: every title costs its `REQUESTS`, and no request is repeated.
    """
    CURRENT_RUN.set(None)
    started_at = clock.now()
    settings.require_input()
    settings.require("s3_bucket")
    resources = Resources(settings, clock=clock)
    inputs = await resources.inputs()
    async with resources.lake() as bucket:
        run = await open_run(
            bucket, inputs, prefix=resources.prefix, options=resources.options, again=again, clock=clock
        )
    account: dict[str, Any] = {}
    requests = 0
    for collection, ids in inputs.items():
        pending = [batch for batch in run.pending if batch.collection == collection]
        asked = sum(id_ not in run.fresh_since for batch in pending for id_ in batch.ids)
        requests += asked * REQUESTS[collection]
        batches = len(run.manifest.batches[collection])
        account[collection] = asdict(InputCounts.of(ids)) | {
            "rejects": [asdict(reject) for reject in ids.rejects],
            "fresh": sum(id_ in run.fresh for id_ in ids.ids) + sum(len(batch.ids) for batch in pending) - asked,
            "batches": batches,
            "batches_done": batches - len(pending),
            "batches_to_do": len(pending),
        }
    return result_json(
        "nothing_to_do" if run.finished else "to_do",
        Exit.CLOSED,
        run_ref(bucket, run.layout, reconciled=run.finished),
        started_at=started_at,
        ended_at=clock.now(),
        input=account,
        requests=requests,
        rate_per_second=effective_rate(settings.tmdb_rate),
        seconds=round(seconds_for(requests, settings.tmdb_rate), 1),
    )
