"""Lease: the right to harvest in a prefix, one harvest at a time.

It is one small object that names its holder and is written only by conditional puts (`Store.put_if`). A process that
waits for it only reads. A holder's silence is measured by S3's clock alone: no two clocks are compared.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from harvester.errors import (
    SAFE,
    BusyError,
    CorruptLakeError,
    LeaseLostError,
    NewerFormatError,
    StoppedError,
    StoreError,
)
from harvester.model.documents import FORMAT, RunName, decode_document
from harvester.runtime.clock import utc_now
from harvester.runtime.concurrency import beside, complete_or_undo
from harvester.runtime.shutdown import LAST_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from harvester.store.store import Store, Stored

    Sleep = Callable[[float], Awaitable[object]]
    Clocks = Sequence[Callable[[], float]]

LIMIT = 2**16
"""Bytes of a lease at most; a real one has about 300."""

WRITE_TRIES = 8
"""Puts at most: to renew while other holders of the token write too, or to take a lease that cannot be read back."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Times of a lease, in seconds."""

    renew: float = 30.0  # between two renewals
    check: float = 45.0  # age of the last renewal at which `Lease.check` renews
    silent: float = 90.0  # age of the last renewal at which another process takes over
    poll: float = 5.0  # between two reads of a waiting process; between a failed renewal and the next try


TIMES = LeaseTimes()
CLOCKS = (time.monotonic, time.time)
"""On Linux the first stands still while the machine sleeps; the second can be set back."""


@pydantic_dataclass(frozen=True, slots=True, config={"strict": True, "defer_build": True})
class LeaseState:
    """The content of a lease; a value that no harvester writes is a ValueError.

    `host` and `since` (UTC) are for people. `boot_id` and the next three identify the holder's process; they are None
    if /proc does not have them or several processes share the token.
    """

    token: Annotated[str, Field(pattern="^[!-~]{1,128}$")]
    host: Annotated[str, Field(pattern="^[ -~]{1,255}$")]
    since: Annotated[str, Field(pattern="^[0-9TZ:-]{1,32}$")]
    run: RunName | None = None  # the holder's run; until it is known, that of the previous holder
    boot_id: Annotated[str, Field(pattern="^[0-9a-f-]{1,64}$")] | None = None
    pid_namespace: Annotated[str, Field(pattern=r"^pid:\[[0-9]{1,20}\]$")] | None = None
    pid: Annotated[int, Field(ge=1, lt=10**7)] | None = None  # Linux has 2**22 at most
    process_start: Annotated[int, Field(ge=0, lt=10**18)] | None = None  # in ticks since the boot
    renewals: Annotated[int, Field(ge=0, lt=10**15)] = 0  # makes the ETag of each write different
    ended: bool = False


def encode_lease(state: LeaseState) -> bytes:
    """The JSON of a lease, without a checksum."""
    return orjson.dumps({"format": FORMAT} | asdict(state))


def decode_lease(body: bytes) -> LeaseState | None:
    """The lease in `body`, or None if it is invalid; a NewerFormatError if a newer harvester wrote it."""
    try:
        return decode_document("The lease", body, LeaseState, "a lease", with_checksum=False)
    except CorruptLakeError:
        return None


def new_state(token: str | None) -> LeaseState:
    """A new lease: of this process or, with a `token`, which other processes may share, of no process in particular."""
    host = re.sub(r"[^ -~]", "?", socket.gethostname())[:255] or "?"
    since = f"{utc_now()[:19]}Z"  # to the second
    if token is None:
        token = secrets.token_hex(8)
        with suppress(OSError, ValueError, IndexError):  # no /proc, or an unusual one
            process = os.getpid(), _status_and_start(os.getpid())[1]
            return LeaseState(token, host, since, None, *_boot_and_namespace(), *process)
    return LeaseState(token=token, host=host, since=since)


def holder_is_dead(state: LeaseState) -> bool:
    """Whether the holder was a process of this boot and PID namespace that no longer runs; False if unknown."""
    try:
        if state.pid is None or (state.boot_id, state.pid_namespace) != _boot_and_namespace():
            return False
        with suppress(PermissionError):  # another user's process: it exists
            os.kill(state.pid, 0)
        status, start = _status_and_start(state.pid)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, IndexError):
        return False
    return status in (b"Z", b"X") or state.process_start not in (None, start)


def _boot_and_namespace() -> tuple[str, str]:
    """Boot id and PID namespace of this process; process ids can be compared only if both are equal."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return boot_id, str(Path("/proc/self/ns/pid").readlink())


def _status_and_start(pid: int) -> tuple[bytes, int]:
    """Fields 3 and 22 of a process's `stat` (proc_pid_stat(5)): its state, and its start in ticks since the boot."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return fields[0], int(fields[19])


class Lease:
    """A lease that we hold or share; made by `hold_lease`."""

    def __init__(
        self, bucket: Store, key: str, state: LeaseState, *, times: LeaseTimes, sleep: Sleep, clocks: Clocks
    ) -> None:
        self.token = state.token
        self.previous_run: str | None = None  # in the lease when we took it; may have orphaned uploads
        self.keep = False  # set to leave the lease to other holders of its token when the context ends
        self.taken = False  # whether we are to end it, because we have tried to take it; never if we share it
        self._bucket, self._key, self._state = bucket, key, state
        self._times, self._sleep, self._clocks = times, sleep, clocks
        self._renewed = self._now()
        self._last_change = ("", 0.0)  # ETag, and when it was first read
        self._unreadable = False
        self._lock = asyncio.Lock()

    async def check(self) -> None:
        """Renew if the last renewal is too old by any clock; call this before each write to the lake."""
        await self.renew(older_than=self._times.check)

    async def renew(self, *, older_than: float = -inf, run: str | None = None, ended: bool = False) -> None:
        """Renew if the last renewal is more than `older_than` seconds ago; one by a holder of the same token counts.

        A LeaseLostError if another harvest has taken over, or a shared lease has ended.
        """
        async with self._lock:
            if max(now - then for now, then in zip(self._now(), self._renewed, strict=True)) > older_than:
                await self._write(run=run, ended=ended)

    async def acquire(self, *, wait: bool) -> None:
        """Take the lease as soon as it is free, ended or silent; a BusyError if it is not and `wait` is False."""
        announced, unreadable = False, 0
        while True:
            stored, state = await self._read()
            if stored is None or state is None or self._is_available(stored, state):
                self.taken, self._renewed, self.previous_run = True, self._now(), state.run if state else None
                await self._put(replace(self._state, run=self.previous_run), stored)
                _, state = await self._read()
                if state and state.token == self.token and not state.ended:
                    return
                unreadable += state is None
                if unreadable == WRITE_TRIES:
                    advice = f"The object read back is not what was written. {SAFE}"
                    raise StoreError(f"take the lease {self._key}", "NotStored", advice)
            holder = {"host": state.host, "since": state.since} if state else {"host": "unknown", "since": "now"}
            if not wait:
                raise BusyError(f"Another harvest is at work here: {holder['host']}, since {holder['since']}.")
            if not announced:
                _log.warning("lease_held", extra=holder)
            announced = True
            await self._sleep(self._times.poll)

    async def keep_renewing(self) -> None:
        """Renew for ever; an error of S3 is logged, and the renewal tried again after `LeaseTimes.poll`."""
        seconds = self._times.renew
        while True:
            await self._sleep(seconds)
            try:
                await self.renew()
                seconds = self._times.renew
            except StoreError as error:  # it may pass
                _log.warning("lease_not_renewed", extra={"key": self._key, "problem": str(error)})
                seconds = self._times.poll

    async def end(self) -> None:
        """Mark the lease ended, if it is still ours. Errors are logged, so that they do not hide the body's.

        It takes `LAST_SECONDS` at most, because a container may be waiting for us to exit. A lease that is not ended
        becomes silent.
        """
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self.renew(ended=True)
        except StoppedError:
            pass
        except (StoreError, TimeoutError, asyncio.CancelledError) as error:
            _log.warning("lease_not_ended", extra={"key": self._key, "problem": str(error) or "no response"})

    def _is_available(self, stored: Stored, state: LeaseState) -> bool:
        now = self._clocks[0]()
        if self._last_change[0] != stored.etag:
            self._last_change = (stored.etag, now)
        age = now - self._last_change[1] if stored.age is None or stored.age < 0 else stored.age
        return state.ended or state.token == self.token or age > self._times.silent or holder_is_dead(state)

    async def _write(self, *, run: str | None, ended: bool) -> None:
        """Renew, with these changes; nothing is left to do if another holder of our token has written the same."""
        now, before = self._now(), None
        for attempt in range(WRITE_TRIES):
            try:
                stored, state = await self._read()
            except NewerFormatError as error:
                raise LeaseLostError(str(error)) from None
            if state and state.token != self.token:
                raise LeaseLostError(f"Another harvest has taken over here: {state.host}, since {state.since}. {SAFE}")
            if not self.taken and stored and (state is None or state.ended):
                raise LeaseLostError(f"The harvest that this one is a part of has ended. {SAFE}")
            same = state and (state.run, state.ended) == (self._state.run, self._state.ended)
            if attempt and same and state != before:
                break
            before, last = state, state or self._state
            count = (last.renewals + 1) % 10**15
            if await self._put(replace(last, run=run or last.run, ended=ended, renewals=count), stored):
                break
        else:
            message = f"It was refused {WRITE_TRIES} times, though no other harvest has taken over"
            raise StoreError(f"renew the lease {self._key}", "NotRenewed", f"{message}. {SAFE}")
        self._renewed = now

    async def _put(self, state: LeaseState, stored: Stored | None) -> bool:
        """Write our state if the lease is still `stored`; whether it was."""
        self._state = state
        return await self._bucket.put_if(self._key, encode_lease(state), etag=stored.etag if stored else None)

    async def _read(self) -> tuple[Stored | None, LeaseState | None]:
        """The stored object and the lease in it; an invalid lease is logged once."""
        stored = await self._bucket.read_stored(self._key, limit=LIMIT)
        state = decode_lease(stored.body) if stored else None
        if stored and not state and not self._unreadable:
            self._unreadable = True
            _log.warning(
                "lease_unreadable", extra={"key": self._key, "why": "it is not a valid lease, and counts as ended"}
            )
        return stored, state

    def _now(self) -> list[float]:
        return [clock() for clock in self._clocks]


@asynccontextmanager
async def hold_lease(
    bucket: Store,
    key: str,
    *,
    token: str | None = None,  # shared by several processes: a lease with the same token is taken at once
    shared: bool = False,  # another process has taken it with the token: renew it, and never mark it ended
    wait: bool = True,  # while another harvest holds it
    times: LeaseTimes = TIMES,
    sleep: Sleep = asyncio.sleep,
    clocks: Clocks = CLOCKS,  # the first also measures silence if S3 does not say how old the lease is
) -> AsyncIterator[Lease]:
    """Take the lease at `key`, renew it while the body of the context runs, and mark it ended however the body ends.

    Raises:
        BusyError: Another harvest holds it, and `wait` is False.
        LeaseLostError: Another harvest has taken over, or a shared lease has ended. The body has been cancelled.
    """
    lease = Lease(bucket, key, new_state(token), times=times, sleep=sleep, clocks=clocks)
    left_to_others = False
    try:
        await (lease.renew() if shared else lease.acquire(wait=wait))
        async with beside(lease.keep_renewing()):
            yield lease
        left_to_others = lease.keep
    finally:
        if lease.taken and not left_to_others:
            await complete_or_undo(lease.end(), seconds=LAST_SECONDS)
