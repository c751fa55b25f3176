"""Store: the protocol of what holds a lake, and the values that its methods return.

A store has objects, each with a key, a body and an ETag. `s3.Bucket` is a store; `registry.STORES` lists all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from harvester.model.lossless_json import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime
    from typing import IO

    from harvester.store.multipart import Body


class RetryPolicy(Enum):
    """How long a store tries again before it reports an outage."""

    FAIL_FAST = auto()
    """Seconds: for a store that may be misconfigured."""
    WAIT_OUT = auto()
    """Half a minute: for callers to which a failure costs more than a wait."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One object in a listing. `etag` has no quotes."""

    bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class Head:
    """Size and metadata of one object; names in `metadata` are in lower case."""

    bytes: int
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that was read; the body is empty if it is over the limit, and the ETag has no quotes.

    `age` is in seconds, by the store's own clock, to the second; None if the store does not report it.
    """

    body: bytes
    etag: str
    age: float | None


class Store(Protocol):
    """A lake's objects. Every method raises `StoreError` if the store refuses or cannot be reached."""

    @property
    def name(self) -> str:
        """The name of the store, such as that of the bucket."""

    def url(self, key: str) -> str:
        """The URL of the object at `key`, for messages."""

    async def objects(self, prefix: str) -> dict[str, Listed]:
        """All objects whose key begins with `prefix`, by key, in the order of keys."""

    async def folders(self, prefix: str) -> list[str]:
        """The names one level below `prefix` (which ends in a slash), without slashes, in order."""

    async def read(self, key: str) -> bytes | None:
        """The object at `key`; None if there is none."""

    async def fetch(self, key: str, into: IO[bytes]) -> bool:
        """Write the object at `key` to the file `into`, block by block; False if there is none."""

    async def read_stored(self, key: str, *, limit: int) -> Stored | None:
        """The object at `key` with its ETag and age, without its body if over `limit` bytes; None if there is none."""

    async def head(self, key: str) -> Head | None:
        """Size and metadata of the object at `key`; None if there is none."""

    async def put(self, key: str, body: bytes) -> str:
        """Put a small object, in one request; returns its ETag."""

    async def put_if(self, key: str, body: bytes, *, etag: str | None) -> bool:
        """Put a small object only if the one at `key` still has this ETag or, with None, only if there is none.

        False if the condition does not hold, or another put is under way. Callers read the object back in either case.
        """

    async def land(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str = CONTENT_TYPE,
        check: Callable[[], Awaitable[object]] | None = None,
    ) -> str:
        """Land `body` at `key`; otherwise as `land_parts`."""

    async def land_parts(self, key: str, body: Body) -> str:
        """Land `body` at `key`, whole or not at all; returns its ETag."""

    async def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Key and upload id of every unfinished upload below `prefix`."""

    async def begin(self, key: str) -> str:
        """The id of a new upload to `key`, to be completed or aborted."""

    async def abort(self, key: str, upload: str) -> None:
        """Abort an upload; no error if it no longer exists."""

    async def delete(self, key: str) -> None:
        """Remove the object at `key`, if there is one."""

    async def copy(self, key: str, to: str) -> None:
        """Copy the object at `key` to the key `to` within the store."""

    async def server_time(self, prefix: str) -> datetime | None:
        """The store's time, to the second; needs permission to list `prefix`. None if the store does not report it."""
