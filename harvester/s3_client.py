"""The bucket, opened with a client of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import botocore.exceptions

from harvester.aws_client import ATTEMPTS, open_client
from harvester.s3 import Bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


def _no_expect(request: Any, **_: Any) -> None:
    """Drop `Expect: 100-continue` before the request is signed.

    Measured: with it an upload to a silent server hung for 240 s at `read_timeout=1`, because aiohttp starts that
    clock only after the body is sent, and waits for the server's leave before that without any.
    """
    if "Expect" in request.headers:
        del request.headers["Expect"]


@asynccontextmanager
async def open_bucket(
    name: str,
    *,
    region: str | None = None,
    profile: str | None = None,
    credentials: tuple[str, str, str | None] | None = None,
    endpoint_url: str | None = None,
    connections: int = 32,
    attempts: int = ATTEMPTS,
) -> AsyncIterator[Bucket]:
    """The bucket `name`; what is None is left to the SDK's own chain.

    Raises:
        StoreError: No such profile, or no such region.
    """
    async with open_client(
        "s3",
        action=f"open s3://{name}",
        region=region,
        profile=profile,
        credentials=credentials,
        endpoint_url=endpoint_url,
        connections=connections,
        attempts=attempts,
    ) as (client, session):
        client.meta.events.register("before-sign.s3", _no_expect)

        async def secrets() -> list[str]:
            """The credentials in force; a role's change every hour, and may be refused then."""
            held: Sequence[str | None] = credentials or ()
            with suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                if source := None if credentials else await session.get_credentials():
                    held = await source.get_frozen_credentials()
            return [secret for secret in held[:3] if secret]

        yield Bucket(client, name, secrets)
