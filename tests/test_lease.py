"""Lease: one harvest at a time in a prefix, whatever becomes of its holder; against a real S3 server.

No test waits for the times of a lease: sleeps are counted, clocks are set, and a link before S3 changes its `Date`.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from conftest import capture_logs
from hypothesis import given
from hypothesis import strategies as st
from loops import Hasty, no_wait, run_on

from harvester.errors import BusyError, LeaseLostError, NewerFormatError, StoreError
from harvester.fakes.s3_proxy import S3Proxy, answering, at_first, refusing, reset_after, s3_proxy, silent
from harvester.runs.lease import (
    LIMIT,
    Lease,
    LeaseState,
    LeaseTimes,
    decode_lease,
    encode_lease,
    hold_lease,
    holder_is_dead,
    new_state,
)
from harvester.runtime.shutdown import LAST_SECONDS
from harvester.store.s3 import open_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from harvester.fakes.s3_proxy import Call, Forward, Rule
    from harvester.fakes.s3_server import S3Server
    from harvester.store.s3 import Bucket

KEY = "Raw/API/_harvest/lease.json"
RUN, OTHER_RUN = "2026-11-29-3f9a1c2e", "2026-11-28-00c0ffee"
SINCE = "2026-11-29T10:00:00Z"

REMOTE = LeaseState("remote", "laptop", SINCE, RUN, "816b674c-0000", "pid:[1]", 1, 1)
"""A holder on another machine."""

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")


async def never(_seconds: float) -> None:
    """A sleep without an end: no renewal, and no second read."""
    await asyncio.Event().wait()


async def forbidden(seconds: float) -> None:
    """The sleep of a process that must not wait, and ends before the first renewal."""
    if seconds != LeaseTimes().renew:
        pytest.fail(f"it waits for {seconds} s")
    await never(seconds)


@asynccontextmanager
async def linked(s3: S3Server, bucket: Bucket) -> AsyncIterator[tuple[S3Proxy, Bucket]]:
    """A link before the server, and the bucket through it."""
    credentials = (s3.access_key, s3.secret_key, None)
    async with (
        s3_proxy(s3.endpoint) as link,
        open_bucket(bucket.name, region="us-east-1", credentials=credentials, endpoint_url=link.url) as opened,
    ):
        yield link, opened


async def stored_lease(bucket: Bucket) -> LeaseState:
    """The lease as it is in the bucket."""
    body = await bucket.read(KEY)
    assert body is not None
    state = decode_lease(body)
    assert state is not None
    return state


@dataclass(slots=True)
class Time:
    """A clock, the sleep that sets it forward, and the rule by which it is the age of every object."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    async def dated(self, _call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward()
        if modified := response.headers.get("Last-Modified"):
            date = email.utils.parsedate_to_datetime(modified) + timedelta(seconds=self.now)
            response.headers["Date"] = email.utils.format_datetime(date, usegmt=True)
        return response


async def undated(_call: Call, forward: Forward) -> web.StreamResponse:
    """A server that does not say when an object was written."""
    response = await forward()
    del response.headers["Last-Modified"]
    return response


# --- one at a time


async def test_eight_contenders_hold_it_one_after_the_other(bucket: Bucket) -> None:
    """However many want it at once, no two ever hold it at the same time, and all get their turn."""
    inside: list[int] = []
    turns: list[int] = []

    async def contend(number: int) -> None:
        async with hold_lease(bucket, KEY, times=LeaseTimes(poll=0.2)) as lease:
            inside.append(number)
            assert inside == [number]
            await lease.renew()
            turns.append(number)
            assert inside == [number]
            inside.remove(number)

    await asyncio.gather(*(contend(number) for number in range(8)))
    assert sorted(turns) == list(range(8))
    assert (await stored_lease(bucket)).ended


async def test_a_process_that_waits_logs_it_once_and_only_reads(s3: S3Server, bucket: Bucket) -> None:
    """It logs one line with the holder's host, and makes no put until the holder has ended."""
    time_ = Time()

    async def sleep(seconds: float) -> None:
        await time_.sleep(seconds)
        if time_.now == 15:
            await bucket.put(KEY, encode_lease(replace(REMOTE, ended=True)))

    await bucket.put(KEY, encode_lease(REMOTE))
    async with linked(s3, bucket) as (link, lake):
        with capture_logs() as logs:
            holding = hold_lease(lake, KEY, sleep=lambda seconds: never(0) if seconds == 30 else sleep(seconds))
            async with holding:
                pass
    assert time_.slept == [5, 5, 5]
    assert [call.operation for call in link.seen][:6] == ["get", "get", "get", "get", "put", "get"]
    assert logs == [{"event": "lease_held", "log_level": "warning", "host": "laptop", "since": SINCE}]


async def test_a_process_that_does_not_wait_ends_with_busy(s3: S3Server, bucket: Bucket) -> None:
    """With `wait=False` a lease that another process holds is an error that names the host, after one read."""
    await bucket.put(KEY, encode_lease(REMOTE))
    async with linked(s3, bucket) as (link, lake):
        with pytest.raises(BusyError, match=f"laptop, since {SINCE}") as caught:
            async with hold_lease(lake, KEY, wait=False, sleep=forbidden):
                pytest.fail("it holds")
    assert caught.value.exit_code == 75
    assert [call.operation for call in link.seen] == ["get"]


async def test_two_harvests_in_one_process_exclude_each_other(bucket: Bucket) -> None:
    """The second one does not take the first for dead, nor for itself."""
    async with hold_lease(bucket, KEY, sleep=never):
        with pytest.raises(BusyError):
            async with hold_lease(bucket, KEY, wait=False, sleep=never):
                pytest.fail("it holds")
        assert not (await stored_lease(bucket)).ended


# --- taking over

HOLDER = """
import asyncio, sys
from harvester.runs.lease import hold_lease
from harvester.store.s3 import open_bucket

async def main(url, name, access_key, secret_key, key, run):
    credentials = (access_key, secret_key, None)
    async with open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=url) as bucket:
        async with hold_lease(bucket, key) as lease:
            await lease.renew(run=run)
            print("held", flush=True)
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@linux_only
async def test_a_holder_that_was_killed_is_taken_over_at_once(s3: S3Server, bucket: Bucket) -> None:
    """On the same machine the next process need not wait, and learns the run; while the holder lives, it must."""
    arguments = (s3.endpoint, bucket.name, s3.access_key, s3.secret_key, KEY, RUN)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, *arguments, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert await process.stdout.readline() == b"held\n"
        with pytest.raises(BusyError):
            async with hold_lease(bucket, KEY, wait=False):
                pytest.fail("it holds")
    finally:
        process.kill()
        await process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (await stored_lease(bucket)).ended
    async with hold_lease(bucket, KEY, sleep=forbidden) as lease:
        assert lease.previous_run == RUN


@linux_only
def test_a_holder_is_dead_only_where_its_process_can_be_compared() -> None:
    """A process of this boot and namespace is dead if it is gone, a zombie, or its id is now another process's."""
    ours = new_state(None)
    assert ours.pid == os.getpid()
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    zombie = replace(ours, pid=child.pid, process_start=int(fields[22 - 3]))
    dead = {"zombie": holder_is_dead(zombie)}
    child.wait()
    dead |= {
        "reaped": holder_is_dead(zombie),
        "reaped, of another boot": holder_is_dead(replace(zombie, boot_id="0" * 8)),
        "reaped, of another namespace": holder_is_dead(replace(zombie, pid_namespace="pid:[1]")),
        "reaped, of no boot": holder_is_dead(replace(zombie, boot_id=None)),
        "no process": holder_is_dead(replace(ours, pid=None)),
        "this one": holder_is_dead(ours),
        "this one, its start not known": holder_is_dead(replace(ours, process_start=None)),
        "an earlier process of this id": holder_is_dead(replace(ours, process_start=1)),
        "an id too high to exist": holder_is_dead(replace(ours, pid=9_999_999)),
    }
    assert [what for what, so in dead.items() if so] == [
        "zombie",
        "reaped",
        "an earlier process of this id",
        "an id too high to exist",
    ]


async def test_a_holder_on_another_machine_is_taken_over_after_90_s_of_silence(s3: S3Server, bucket: Bucket) -> None:
    """Not before; the 90 s are counted by S3's clock, whatever ours says."""
    time_ = Time()
    await bucket.put(KEY, encode_lease(REMOTE))
    async with linked(s3, bucket) as (link, lake):
        link.rules["get"] = time_.dated
        async with hold_lease(lake, KEY, sleep=forbid_renewing(time_), clocks=[lambda: 0.0]) as lease:
            assert lease.previous_run == RUN
    assert sum(time_.slept) == 95  # at 90 s it is not yet over 90


async def test_a_holder_that_renews_is_never_taken_over(s3: S3Server, bucket: Bucket) -> None:
    """However long a harvest takes, renewals every 30 s keep the lease."""
    time_, holder = Time(), REMOTE

    async def sleep(seconds: float) -> None:
        nonlocal holder
        await time_.sleep(seconds)
        if time_.now % 30 == 0:
            holder = replace(holder, renewals=holder.renewals + 1)
            await bucket.put(KEY, encode_lease(holder))
            time_.now = 0  # the age of what was just written
        if len(time_.slept) == 30:
            raise LookupError  # that is enough

    await bucket.put(KEY, encode_lease(holder))
    async with linked(s3, bucket) as (link, lake):
        link.rules["get"] = time_.dated
        with pytest.raises(LookupError):
            async with hold_lease(lake, KEY, sleep=sleep):
                pytest.fail("it holds")
    assert link.times("put") == 0


async def test_silence_is_measured_by_our_clock_where_the_server_gives_no_age(s3: S3Server, bucket: Bucket) -> None:
    """The 90 s begin when an ETag is first seen, and anew with each renewal."""
    time_ = Time()

    async def sleep(seconds: float) -> None:
        await forbid_renewing(time_)(seconds)
        if time_.now == 60:
            await bucket.put(KEY, encode_lease(replace(REMOTE, renewals=7)))

    await bucket.put(KEY, encode_lease(REMOTE))
    async with linked(s3, bucket) as (link, lake):
        link.rules["get"] = undated
        async with hold_lease(lake, KEY, sleep=sleep, clocks=[time_.clock]):
            pass
    assert sum(time_.slept) == 60 + 95


def forbid_renewing(time_: Time) -> Callable[[float], Coroutine[Any, Any, None]]:
    """The sleep of a process that waits for the lease by this time, and ends before the first renewal."""

    async def sleep(seconds: float) -> None:
        await (never(seconds) if seconds == LeaseTimes().renew else time_.sleep(seconds))

    return sleep


async def test_a_token_takes_its_own_lease_back_at_once(bucket: Bucket) -> None:
    """A repeated step of an execution does not wait for the first one, which may have been killed."""
    async with hold_lease(bucket, KEY, token="execution-1", sleep=never) as first:
        await first.renew(run=RUN)
        first.keep = True
    async with hold_lease(bucket, KEY, token="execution-1", wait=False, sleep=never) as second:
        assert second.previous_run == RUN
    assert (await stored_lease(bucket)).ended


async def test_the_lease_names_the_dead_holders_run_until_ours_is_named(bucket: Bucket) -> None:
    """If we are killed in between, the next holder still knows which uploads to abort."""
    await bucket.put(KEY, encode_lease(replace(REMOTE, ended=True)))
    async with hold_lease(bucket, KEY, sleep=never) as lease:
        assert (lease.previous_run, (await stored_lease(bucket)).run) == (RUN, RUN)
        await lease.renew()
        assert (await stored_lease(bucket)).run == RUN
        await lease.renew(run=OTHER_RUN)
        await lease.renew()
        assert (lease.previous_run, (await stored_lease(bucket)).run) == (RUN, OTHER_RUN)
    assert (await stored_lease(bucket)).run == OTHER_RUN


async def test_an_invalid_token_or_run_is_not_written(bucket: Bucket) -> None:
    """It is a ValueError of the caller, and the lease stays as it is: written, it would be unreadable."""
    with pytest.raises(ValueError, match="LeaseState\ntoken\n"):
        async with hold_lease(bucket, KEY, token="two words", sleep=never):
            pytest.fail("it holds")
    assert await bucket.read(KEY) is None
    async with hold_lease(bucket, KEY, sleep=never) as lease:
        with pytest.raises(ValueError, match="LeaseState\nrun\n"):
            await lease.renew(run="../../other")
        assert (await stored_lease(bucket)).run is None


# --- the end


async def test_it_is_marked_ended_when_the_body_returns(bucket: Bucket) -> None:
    """The next process does not wait."""
    async with hold_lease(bucket, KEY, sleep=never) as lease:
        assert (await stored_lease(bucket)).token == lease.token
        assert not (await stored_lease(bucket)).ended
    assert (await stored_lease(bucket)).ended
    async with hold_lease(bucket, KEY, sleep=forbidden):
        pass


async def test_it_is_marked_ended_when_the_body_raises(bucket: Bucket) -> None:
    """The error comes out itself."""
    error = LookupError("the title")
    with pytest.raises(LookupError) as caught:
        async with hold_lease(bucket, KEY, sleep=never):
            raise error
    assert caught.value is error
    assert (await stored_lease(bucket)).ended


@pytest.mark.parametrize("times", [1, 3])
async def test_it_is_marked_ended_when_the_body_is_cancelled(bucket: Bucket, times: int) -> None:
    """However often it is cancelled meanwhile."""
    held = asyncio.Event()

    async def body() -> None:
        async with hold_lease(bucket, KEY, sleep=never):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(body())
    await held.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await stored_lease(bucket)).ended


async def test_cancelled_while_it_is_being_taken_it_is_marked_ended(s3: S3Server, bucket: Bucket) -> None:
    """A put that was not yet read back leaves no lease that others would wait for."""
    reached = asyncio.Event()

    async def hold_back(_call: Call, forward: Forward) -> web.StreamResponse:
        reached.set()
        await asyncio.Event().wait()
        return await forward()

    async with linked(s3, bucket) as (link, lake):
        link.rules["get"] = at_first(passed, hold_back)
        task = asyncio.ensure_future(hold_lease(lake, KEY, sleep=never).__aenter__())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await stored_lease(bucket)).ended


async def passed(_call: Call, forward: Forward) -> web.StreamResponse:
    return await forward()


def test_cancelled_it_does_not_wait_long_for_the_end(s3: S3Server, bucket: Bucket) -> None:
    """A container is killed 30 s after SIGTERM: a server that is silent then is given up after 4 s."""

    async def story() -> None:
        async with linked(s3, bucket) as (link, lake):
            held = asyncio.Event()

            async def body() -> None:
                async with hold_lease(lake, KEY, sleep=never):
                    held.set()
                    await never(0)

            task = asyncio.ensure_future(body())
            await held.wait()
            link.rules["put"] = silent
            began = asyncio.get_running_loop().time()
            task.cancel()
            with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.get_running_loop().time() - began < 3 * LAST_SECONDS
        assert [line["event"] for line in logs] == ["lease_not_ended"]

    run_on(Hasty(5), story())


async def test_an_end_that_cannot_be_written_hides_nothing(s3: S3Server, bucket: Bucket) -> None:
    """It is logged, and the body's own error comes out."""
    async with linked(s3, bucket) as (link, lake):

        async def body() -> None:
            async with hold_lease(lake, KEY, sleep=never):
                link.rules["put"] = refusing(403, "AccessDenied")
                raise LookupError

        with capture_logs() as logs, pytest.raises(LookupError):
            await body()
    assert [(line["event"], line["key"]) for line in logs] == [("lease_not_ended", KEY)]
    assert "AccessDenied" in logs[0]["problem"]


# --- renewing


@dataclass(slots=True)
class Ticks:
    """A sleep that ends when the test says so."""

    slept: list[float] = field(default_factory=list)
    ticks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asked.set()
        await self.ticks.acquire()

    async def tick(self) -> None:
        """End the sleep under way, and come back when the next one has begun."""
        await self.asked.wait()
        self.asked.clear()
        self.ticks.release()
        await self.asked.wait()


async def test_it_is_renewed_every_30_s_beside_the_body(bucket: Bucket) -> None:
    """Each renewal changes the counter and nothing else."""
    ticks = Ticks()
    async with hold_lease(bucket, KEY, sleep=ticks.sleep):
        states = [await stored_lease(bucket)]
        for _ in range(3):
            await ticks.tick()
            states.append(await stored_lease(bucket))
    assert [state.renewals for state in states] == [0, 1, 2, 3]
    assert {replace(state, renewals=0) for state in states} == {states[0]}
    assert ticks.slept == [30, 30, 30, 30]


async def test_trouble_with_s3_while_renewing_is_logged_and_tried_again_soon(s3: S3Server, bucket: Bucket) -> None:
    """A renewal that fails ends nothing: the next one follows after 5 s."""
    ticks = Ticks()
    async with linked(s3, bucket) as (link, lake):
        with capture_logs() as logs:
            async with hold_lease(lake, KEY, sleep=ticks.sleep):
                link.rules["put"] = at_first(refusing(403, "AccessDenied"))
                await ticks.tick()
                await ticks.tick()
    assert [line["event"] for line in logs] == ["lease_not_renewed"]
    assert ticks.slept == [30, 5, 30]


async def test_a_lease_that_is_anothers_ends_the_body(bucket: Bucket) -> None:
    """The renewal beside it finds it, the body is cancelled, and the other's lease stays as it is."""
    ticks, taken = Ticks(), encode_lease(REMOTE)

    async def body() -> None:
        async with hold_lease(bucket, KEY, sleep=ticks.sleep):
            await bucket.put(KEY, taken)
            ticks.ticks.release()
            await asyncio.Event().wait()

    with pytest.raises(LeaseLostError, match=f"^Another harvest has taken over here: laptop, since {SINCE}") as caught:
        await body()
    assert (caught.value.exit_code, await bucket.read(KEY)) == (75, taken)


@pytest.mark.parametrize("clock", [0, 1])
async def test_a_holder_that_was_frozen_finds_out_before_it_writes(bucket: Bucket, clock: int) -> None:
    """Past 45 s by any of its clocks it reads first; replaced meanwhile, it ends and has written nothing."""
    clocks, taken = [Time(), Time()], encode_lease(replace(REMOTE, ended=True))
    async with hold_lease(bucket, KEY, sleep=never, clocks=[one.clock for one in clocks]) as lease:
        await lease.check()
        await bucket.put(KEY, taken)
        clocks[clock].now = 46
        with pytest.raises(LeaseLostError):
            await lease.check()
    assert await bucket.read(KEY) == taken


async def test_a_check_costs_nothing_as_long_as_the_lease_is_renewed(s3: S3Server, bucket: Bucket) -> None:
    """Up to 45 s it makes no request; after that, checks at the same time make one renewal."""
    time_ = Time()
    async with (
        linked(s3, bucket) as (link, lake),
        hold_lease(lake, KEY, sleep=never, clocks=[time_.clock, time.time]) as lease,
    ):
        before = len(link.seen)
        time_.now = 45
        await lease.check()
        assert len(link.seen) == before
        time_.now = 46
        await asyncio.gather(*(lease.check() for _ in range(20)))
        assert [call.operation for call in link.seen][before:] == ["get", "put"]
        assert (await stored_lease(bucket)).renewals == 1


async def test_a_lease_that_was_deleted_or_overwritten_is_written_anew(bucket: Bucket) -> None:
    """The holder that comes first keeps it, with its token and run."""
    async with hold_lease(bucket, KEY, sleep=never) as lease:
        await lease.renew(run=RUN)
        await bucket.delete(KEY)
        await lease.renew()
        assert ((await stored_lease(bucket)).token, (await stored_lease(bucket)).run) == (lease.token, RUN)
        with capture_logs() as logs:
            for body in (b"no lease", b"no lease either"):
                await bucket.put(KEY, body)
                await lease.renew()
        assert ((await stored_lease(bucket)).token, (await stored_lease(bucket)).run) == (lease.token, RUN)
    assert [(line["event"], line["key"]) for line in logs] == [("lease_unreadable", KEY)]


# --- shared by the children of a fan-out


async def test_children_of_one_token_renew_side_by_side(bucket: Bucket) -> None:
    """Of renewals at the same time one is written, all count, and only the last step marks the lease ended."""
    async with hold_lease(bucket, KEY, token="execution-1", sleep=never) as plan:
        await plan.renew(run=RUN)
        plan.keep = True
    assert (await stored_lease(bucket)).pid is None  # its process ends, and the lease does not

    async def child() -> None:
        async with hold_lease(bucket, KEY, token="execution-1", shared=True, sleep=never) as lease:
            await lease.renew()

    await asyncio.gather(*(child() for _ in range(8)))
    stored = await stored_lease(bucket)
    assert (stored.run, stored.ended) == (RUN, False)
    assert stored.renewals >= 2
    async with hold_lease(bucket, KEY, token="execution-1", wait=False, sleep=never):
        pass
    assert (await stored_lease(bucket)).ended


async def test_a_peers_renewal_counts_as_ours_but_not_as_a_change(s3: S3Server, bucket: Bucket) -> None:
    """Refused because of one, a renewal is done; a run or an end is written all the same."""

    async def renewed_meanwhile(_call: Call, forward: Forward) -> web.StreamResponse:
        state = await stored_lease(bucket)
        await bucket.put(KEY, encode_lease(replace(state, renewals=state.renewals + 1)))
        return await forward()

    async with linked(s3, bucket) as (link, lake):
        async with hold_lease(lake, KEY, token="execution-1", sleep=never) as lease:
            for step in (lease.renew(), lease.renew(run=RUN)):
                link.rules["put"] = at_first(renewed_meanwhile)
                await step
            assert (await stored_lease(bucket)).run == RUN
            link.rules["put"] = at_first(renewed_meanwhile)
        assert ((await stored_lease(bucket)).ended, (await stored_lease(bucket)).renewals) == (True, 5)
    assert link.times("put") == 1 + 1 + 2 + 2


async def test_a_lease_that_is_kept_is_marked_ended_all_the_same_where_the_body_fails(bucket: Bucket) -> None:
    """No child goes on with a plan that failed."""

    async def plan() -> None:
        async with hold_lease(bucket, KEY, token="execution-1", sleep=never) as lease:
            lease.keep = True
            raise LookupError

    with pytest.raises(LookupError):
        await plan()
    assert (await stored_lease(bucket)).ended


@pytest.mark.parametrize("change", [{"ended": True}, {"token": "execution-2"}], ids=str)
async def test_a_child_whose_lease_is_lost_does_not_begin(bucket: Bucket, change: dict[str, Any]) -> None:
    """Its lease has ended, or another harvest has it: the child ends before it has done anything."""
    stored = encode_lease(replace(replace(REMOTE, token="execution-1"), **change))
    await bucket.put(KEY, stored)
    with pytest.raises(LeaseLostError):
        async with hold_lease(bucket, KEY, token="execution-1", shared=True, sleep=never):
            pytest.fail("it begins")
    assert await bucket.read(KEY) == stored


# --- decoding: the lease is data from outside

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(), SCALARS, max_size=3)
VALID = {"format": 1} | asdict(REMOTE)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_and_json_are_no_lease(body: bytes) -> None:
    """The decoder returns None for them, and never raises."""
    assert decode_lease(body) is None


@given(st.fixed_dictionaries({}, optional={name: JSON | st.just(value) for name, value in VALID.items()} | {"x": JSON}))
def test_arbitrary_values_of_the_right_keys_are_a_valid_lease_or_none(values: dict[str, Any]) -> None:
    """What is decoded can be encoded and decoded again; only a higher format raises."""
    try:
        state = decode_lease(json.dumps(values).encode())
    except NewerFormatError:
        assert values["format"] > 1
    else:
        assert state is None or decode_lease(encode_lease(state)) == state
        if state:
            assert holder_is_dead(replace(state, pid_namespace=None)) is False


def test_unknown_keys_are_ignored() -> None:
    """A later version may add some."""
    body = json.dumps(VALID | {"colour": "blue"}).encode()
    assert decode_lease(body) == REMOTE


WRONG: dict[str, list[Any]] = {
    "format": [0, "1", None],
    "token": ["", "two words", "x" * 129, None, 1],
    "host": ["", "\x1b[2J", "x" * 256],
    "since": ["yesterday", 0],
    "run": ["../2026-11-29-3f9a1c2e", "2026-11-29-3f9a1c2e\n", "٢٠٢٦-11-29-3f9a1c2e", "", 1],
    "pid": [0, -1, True, 1.5, "1", 2**31, 2**70],
    "process_start": [-1, 2**64, False],
    "renewals": [None, -1, 10**15, True],
    "ended": [None, 0, "true"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_one_wrong_value_makes_it_no_lease(name: str, value: Any) -> None:
    """Types, lengths and patterns are checked."""
    assert decode_lease(json.dumps(VALID | {name: value}).encode()) is None


@pytest.mark.parametrize("body", [b"", b"garbage", b"[" * 5_000, b'{"format":1}', b" " * (LIMIT + 1)], ids=len)
async def test_an_unreadable_lease_counts_as_ended(bucket: Bucket, body: bytes) -> None:
    """It is taken over at once, and logged once by its key."""
    await bucket.put(KEY, body)
    with capture_logs() as logs:
        async with hold_lease(bucket, KEY, sleep=forbidden) as lease:
            assert lease.previous_run is None
    assert [(line["event"], line["key"]) for line in logs] == [("lease_unreadable", KEY)]
    assert (await stored_lease(bucket)).ended


@pytest.mark.parametrize("wait", [True, False])
async def test_the_lease_of_a_newer_harvester_is_left_alone(bucket: Bucket, *, wait: bool) -> None:
    """It is neither waited for nor taken over, and a holder that finds it has lost its own."""
    newer = json.dumps({"format": 2, "holder": "?", "ended": True}).encode()
    await bucket.put(KEY, newer)
    with pytest.raises(NewerFormatError, match="install a newer one"):
        async with hold_lease(bucket, KEY, wait=wait, sleep=forbidden):
            pytest.fail("it holds")
    with pytest.raises(LeaseLostError, match="install a newer one"):
        async with hold_lease(bucket, KEY, token="execution-1", shared=True, sleep=never):
            pytest.fail("it begins")
    assert await bucket.read(KEY) == newer


# --- servers that lose answers, or ignore conditions


async def test_a_put_whose_answer_was_lost_counts(s3: S3Server, bucket: Bucket) -> None:
    """In taking, naming, renewing and ending: botocore repeats the put, S3 refuses it, and reading back decides."""
    async with linked(s3, bucket) as (link, lake):
        link.rules["put"] = first_of_each_put(reset_after)
        async with hold_lease(lake, KEY, sleep=forbidden) as lease:
            assert (await stored_lease(bucket)).token == lease.token
            await lease.renew(run=RUN)
            await lease.renew()
            stored = await stored_lease(bucket)
    assert (stored.run, stored.renewals) == (RUN, 2)
    assert ((await stored_lease(bucket)).ended, (await stored_lease(bucket)).renewals) == (True, 3)
    assert link.times("put") == 8


def first_of_each_put(rule: Rule) -> Rule:
    """The rule for the first request of each put; a repetition by botocore has the same condition."""
    seen: set[str] = set()

    async def chosen(call: Call, forward: Forward) -> web.StreamResponse:
        condition = call.headers.get("If-Match", "none")
        if condition in seen:
            return await forward()
        seen.add(condition)
        return await rule(call, forward)

    return chosen


def ignoring_conditions(bucket: Bucket, gate: Callable[[], Coroutine[Any, Any, object]] | None = None) -> Rule:
    """A server that ignores conditions; `gate` is awaited before each put and before its answer."""

    async def rule(call: Call, _forward: Forward) -> web.StreamResponse:
        body = await call.request.content.read()
        if gate:
            await gate()
        await bucket.put(call.key, body)
        if gate:
            await gate()
        return web.Response(headers={"ETag": '"of-any-kind"'})

    return rule


async def test_where_conditions_are_ignored_reading_back_decides(s3: S3Server, bucket: Bucket) -> None:
    """Two processes find no lease and both puts succeed: the later one holds it, the other reads that and does not."""
    barrier = asyncio.Barrier(2)
    contested = asyncio.Event()
    held: list[Lease] = []

    async def contend(lake: Bucket) -> None:
        async with hold_lease(lake, KEY, wait=False, sleep=never) as lease:
            held.append(lease)
            await contested.wait()

    async with linked(s3, bucket) as (link, lake):
        link.rules["put"] = ignoring_conditions(bucket, barrier.wait)
        contenders = [asyncio.ensure_future(contend(lake)) for _ in range(2)]
        [done], [holding] = await asyncio.wait(contenders, return_when=asyncio.FIRST_COMPLETED)
        assert isinstance(done.exception(), BusyError)
        link.rules["put"] = ignoring_conditions(bucket)
        contested.set()
        await holding
    assert len(held) == 1
    assert (await stored_lease(bucket)).token == held[0].token


async def test_where_conditions_are_ignored_the_earlier_of_two_holders_stops(s3: S3Server, bucket: Bucket) -> None:
    """A put that comes late makes two holders, until the first one renews: then it has lost."""
    async with linked(s3, bucket) as (link, lake):
        link.rules["put"] = ignoring_conditions(bucket)
        hasty = LeaseTimes(silent=-1)  # it takes over at once
        async with hold_lease(lake, KEY, sleep=never) as first, hold_lease(lake, KEY, sleep=never, times=hasty) as last:
            await last.renew()
            with pytest.raises(LeaseLostError):
                await first.renew()
            await last.renew()
    assert (await stored_lease(bucket)).token == last.token


async def test_a_renewal_that_is_always_refused_is_an_error(s3: S3Server, bucket: Bucket) -> None:
    """Where no other holder writes, refusals are a StoreError after some tries; a single one does not matter."""
    async with linked(s3, bucket) as (link, lake), hold_lease(lake, KEY, sleep=never) as lease:
        link.rules["put"] = refusing(409, "ConditionalRequestConflict")
        with pytest.raises(StoreError, match=r"^Cannot renew the lease .*: NotRenewed\. It was refused 8 times"):
            await lease.renew()
        link.rules["put"] = at_first(refusing(409, "ConditionalRequestConflict"))
        await lease.renew()
    assert (await stored_lease(bucket)).ended


def test_since_is_the_time_of_taking() -> None:
    """In UTC, to the second."""
    taken = datetime.fromisoformat(new_state(None).since)
    assert abs((datetime.now(timezone.utc) - taken).total_seconds()) < 60


@pytest.mark.parametrize(
    "read_back", [None, b"<ListBucketResult/>", b'{"format": 1}'], ids=["nothing", "a page", "JSON"]
)
async def test_a_store_that_does_not_give_back_what_was_written_ends_in_a_sentence(
    read_back: bytes | None, s3: S3Server, bucket: Bucket
) -> None:
    """Such as a proxy that says 200 to everything: no wait for a holder that does not exist."""
    async with linked(s3, bucket) as (link, lake):
        link.rules["get"] = (
            refusing(404, "NoSuchKey") if read_back is None else answering(200, read_back.decode(), ETag='"1"')
        )
        with pytest.raises(StoreError, match=r"take the lease .*: NotStored\. The object read back is not what was"):
            async with hold_lease(lake, KEY, sleep=no_wait):
                pytest.fail("it was taken")
