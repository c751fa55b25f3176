"""The bucket, opened with a client of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Unpack

import botocore.exceptions

from harvester.aws_client import ATTEMPTS, open_client
from harvester.s3 import Bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from harvester.aws_client import Access


def _no_expect(request: Any, **_: Any) -> None:
    """Drop `Expect: 100-continue` before the request is signed.

    Measured: with it an upload to a silent server hung for 240 s at `read_timeout=1`, because aiohttp starts that clock
    only when the body is sent, and has none while it waits for the server's `100 Continue`.
    """
    if "Expect" in request.headers:
        del request.headers["Expect"]


@asynccontextmanager
async def open_bucket(name: str, *, attempts: int = ATTEMPTS, **access: Unpack[Access]) -> AsyncIterator[Bucket]:
    """The bucket `name`; a `StoreError` if there is no such profile or region."""
    opening = open_client("s3", action=f"open s3://{name}", attempts=attempts, **access)
    async with opening as (client, session):
        credentials = access.get("credentials")
        client.meta.events.register("before-sign.s3", _no_expect)

        async def secrets() -> list[str]:
            """The credentials in force; a role's change every hour, and may be refused then."""
            held: Sequence[str | None] = credentials or ()
            with suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                if source := None if credentials else await session.get_credentials():
                    held = await source.get_frozen_credentials()
            return [secret for secret in held[:3] if secret]

        yield Bucket(client, name, secrets)
