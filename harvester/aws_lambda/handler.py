"""The Lambda handler: a harvest as a whole or, for a state machine, in parts.

Before its time is over, an invocation begins no more batches, lands the open ones and answers `{"status": "more", …}`:
invoked again with the same event, it resumes. An error's type is the name of its class (see `errors`), for Retry and
Catch to match; failed titles are a status. Each invocation creates its clients, because connections die while the
process is frozen in between; only TMDB's key, if it is kept in AWS, is fetched once per cold start.
"""

from __future__ import annotations

import gc

gc.disable()  # looking for cycles during the imports took a seventh of a cold start

import asyncio
import logging
import secrets
import sys
import time
import traceback
from contextvars import copy_context
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from harvester.aws_lambda.events import parse_event
from harvester.commands.harvest import LeaseOptions, harvest
from harvester.commands.resources import CSV_SETTINGS, source_texts, with_key
from harvester.commands.result import result_json
from harvester.commands.shards import harvest_shard, plan_shards
from harvester.errors import Exit, HarvestError, SettingsError, StoppedError, TmdbRefusedError, readable
from harvester.model.batch import BATCH_SIZE
from harvester.model.csv_path import STDIN
from harvester.model.s3_url import is_s3_url
from harvester.reports.observers import harvest_observer
from harvester.runtime.json_log import JsonFormatter
from harvester.runtime.observer import BatchLanded, Event
from harvester.runtime.shutdown import DRAIN_SECONDS, Shutdown
from harvester.settings.provenance import unknown_names
from harvester.settings.redaction import RedactingStream
from harvester.settings.settings import load_settings, raw_secrets
from harvester.tmdb.cost import REQUESTS
from harvester.tmdb.rate_limiter import effective_rate, seconds_for

gc.freeze()
gc.enable()

if TYPE_CHECKING:
    from harvester.aws_lambda.events import Invocation
    from harvester.settings.settings import Settings

SPARE_SECONDS = 10.0
"""Seconds left after draining: for the answer, and for clocks that differ."""

FAILED_SHOWN = 100
"""Failed titles in an answer: Step Functions accepts 256 KiB. `outcomes.jsonl.gz` in the bucket has all of them."""

_log = logging.getLogger(__name__)

_keys: dict[str, str] = {}
"""TMDB's key by its reference, such as `ssm:/path`."""


def handler(event: Any, context: Any) -> dict[str, Any]:
    """The answer to the event. Raises one of `errors`; a bare `HarvestError` is a bug, with its traceback logged."""
    until = time.monotonic() + context.get_remaining_time_in_millis() / 1_000
    log: Any = RedactingStream(sys.stderr, raw_secrets())
    log_handler = logging.StreamHandler(log)
    log_handler.setFormatter(JsonFormatter())  # CloudWatch can query JSON values
    logging.basicConfig(handlers=[log_handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("harvester").setLevel(logging.INFO)
    run_context = copy_context()  # of this invocation: `CURRENT_RUN` must not reach the next one
    try:
        with asyncio.Runner() as runner:
            return runner.run(_answer(event, log, until=until), context=run_context)
    except HarvestError as error:
        problem = error
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # no traceback may be shown
        run_context.run(partial(_log.exception, "bug", extra={"traceback": traceback.format_exc()}))
        problem = HarvestError(f"This is a bug of the harvester ({type(error).__name__}). What has landed is safe.")
    if isinstance(problem, TmdbRefusedError):
        _keys.clear()  # it may have been replaced in AWS
    problem.args = (readable(log.redacted(str(problem))),)  # JSON may have a lone surrogate
    raise problem.with_traceback(None) from None


async def _answer(event: Any, log: RedactingStream, *, until: float) -> dict[str, Any]:
    invocation = parse_event(event)
    if invocation is None:
        return result_json("ignored", Exit.CLOSED)
    for unknown in unknown_names():
        _log.warning("unknown_setting", extra=asdict(unknown))
    environment, settings = load_settings(), load_settings(**invocation.settings)
    for name, source in (invocation.settings | invocation.sources).items():
        own = getattr(environment, name)
        if name in CSV_SETTINGS.values() and not is_s3_url(str(source)) and source != own:  # no other local file
            raise SettingsError(f"The event may not set {name} to {source!r:.200}: give s3://bucket/key")
    rate = max(settings.tmdb_rate, invocation.shard.rate if invocation.shard else 0)
    for name, value in {"tmdb_rate": rate, "tmdb_concurrency": settings.tmdb_concurrency}.items():
        if value > (limit := getattr(environment, name)):
            raise SettingsError(
                f"The event may not set {name} to {value:g}: the function's own, {limit:g}, is the limit"
            )
    if invocation.sources:
        settings = settings.model_copy(update=dict.fromkeys(CSV_SETTINGS.values()) | invocation.sources)
    if STDIN in source_texts(settings).values():
        raise SettingsError("MOVIES_CSV and SERIES_CSV cannot be standard input here: give s3://bucket/key")
    settings = await with_key(settings, _keys)
    log.secrets.update(_keys.values())
    if invocation.action == "plan":
        planned = await plan_shards(
            settings, children=invocation.children, again=invocation.again, execution=invocation.execution
        )
        return planned | {"settings": invocation.settings}
    return await _harvest(settings, invocation, until=until)


class _Landed:
    """An observer that counts landed batches, and those that are `complete`: without a failed title."""

    def __init__(self) -> None:
        self.batches = self.complete = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchLanded):
            self.batches += 1
            self.complete += not event.outcomes.get("failed")


async def _harvest(settings: Settings, invocation: Invocation, *, until: float) -> dict[str, Any]:
    shutdown, landed = Shutdown(), _Landed()
    observer = harvest_observer(landed, is_terminal=False)
    attempt = invocation.attempt or secrets.token_hex(8) if invocation.run else None
    rate = effective_rate(invocation.shard.rate if invocation.shard else settings.tmdb_rate)
    timer = _request_shutdown_in_time(shutdown, rate=rate, seconds=until - time.monotonic())
    try:
        if invocation.shard:
            report = await harvest_shard(settings, invocation.shard, observer=observer, shutdown=shutdown)
        else:
            lease_options = LeaseOptions(wait=False, token=invocation.token)
            report = await harvest(
                settings,
                observer=observer,
                shutdown=shutdown,
                again=invocation.again,
                run_name=invocation.run,
                attempt=attempt,
                lease_options=lease_options,
            )
    finally:
        timer.cancel()
    answer = report.as_json()
    if report.status == "stopped":
        # Invoked again, a step of a fan-out skips batches with failed titles; without a fan-out they are tried again.
        if not (landed.batches if invocation.shard or invocation.run else landed.complete):
            advice = f"give the function more time (at most 900 s), or raise the rate, which is {rate:g} a second"
            raise StoppedError(f"The time was over before one batch had landed: {advice}.")
        _log.warning("more", extra={"why": "the time is over; invoke it again to go on"})
        answer["status"] = "more"
    return answer | {"attempt": attempt, "failed": dict(islice(report.failed.items(), FAILED_SHOWN))}


def _request_shutdown_in_time(shutdown: Shutdown, *, rate: float, seconds: float) -> asyncio.TimerHandle:
    """Request a shutdown while there is time for a batch begun just then, at this rate; not before half of the time."""
    batch_seconds = seconds_for(BATCH_SIZE * max(REQUESTS.values()), rate)
    at = max(seconds - SPARE_SECONDS - DRAIN_SECONDS - batch_seconds, seconds / 2)
    request = partial(shutdown.request, "deadline", drain_seconds=max(seconds - SPARE_SECONDS - at, 0.0))
    return asyncio.get_running_loop().call_later(at, request)
