"""S3: list, read, land whole objects by multipart upload, abort.

Retries are botocore's own (`standard`) and two that it lacks: for the body of a GET, and for an upload that no longer
exists. An object appears whole or not at all; an upload that fails or is cancelled is aborted; no call takes longer
than its deadline.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import aiohttp
import botocore.exceptions
import tenacity

from harvester.aws.client import open_client
from harvester.aws.errors import no_answer, refusal, store_error
from harvester.errors import StoreError, StoreErrorKind
from harvester.model.lossless_json import CONTENT_TYPE
from harvester.model.s3_url import S3Url
from harvester.runtime.concurrency import complete_or_undo, fan_out
from harvester.runtime.net import http_date
from harvester.runtime.shutdown import LAST_SECONDS
from harvester.store.multipart import Body, in_memory, progress_deadline
from harvester.store.store import Head, Listed, RetryPolicy, Stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from typing import IO, TypeAlias

    from harvester.aws.client import Access

    Deadline: TypeAlias = AbstractAsyncContextManager[object]

T = TypeVar("T")

CALL_SECONDS = 60.0
"""Deadline of one call, botocore's retries included; extended for a part that makes progress
(`multipart.progress_deadline`). Without it an upload can hang for ever: see `_no_expect`."""

TRIES = {RetryPolicy.FAIL_FAST: 5, RetryPolicy.WAIT_OUT: 7}
"""Requests of one call, at most: an S3 that does not answer is reported after 8 s, or after 26 s, at most 51."""

PARTS_AT_ONCE = 4
READ_TRIES = 4
MIN_BYTES_PER_SECOND = 31_250
"""0.25 Mbit/s: a body that is a minute late at this rate, all blocks together, is read again from its start."""

CUT_OFF = (aiohttp.ClientError, TimeoutError, botocore.exceptions.BotoCoreError)
"""Errors of reading a body that ends early, stalls, or does not match its checksum."""

NOT_PUT = (StoreErrorKind.PRECONDITION, StoreErrorKind.CONFLICT, StoreErrorKind.NO_OBJECT)
"""Refusals of a conditional put: the condition does not hold, or another put is under way."""

_NEXT_PAGE = {
    "list_objects_v2": {"NextContinuationToken": "ContinuationToken"},
    "list_multipart_uploads": {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"},
}
"""By listing: the fields of a page, and the parameters of the next page's request that take their values."""


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, StoreError) and error.kind is StoreErrorKind.CONFLICT


_retried = partial(
    tenacity.retry,
    stop=tenacity.stop_after_attempt(READ_TRIES),
    wait=tenacity.wait_random_exponential(0.1, 5),
    reraise=True,
)
"""Retries of errors that botocore does not retry."""


async def _unless(call: Awaitable[T], *kinds: StoreErrorKind) -> T | None:
    """The result of `call`; None if S3 refuses it with an error of these `kinds`."""
    try:
        return await call
    except StoreError as error:
        if error.kind not in kinds:
            raise
        return None


class Bucket:
    """One bucket, made by `open_bucket`. Every method raises `StoreError` if S3 refuses or cannot be reached."""

    def __init__(self, client: Any, name: str, secrets: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self.name = name
        self._client, self._secrets = client, secrets

    def url(self, key: str) -> str:
        """The URL of the object at `key`, for messages."""
        return str(S3Url(self.name, key))

    async def objects(self, prefix: str) -> dict[str, Listed]:
        """All objects whose key begins with `prefix`, by key, in the order of keys; 1,000 per request."""
        found = await self._list("list", "list_objects_v2", "Contents", Prefix=prefix)
        if any("ETag" not in each for each in found):
            raise store_error(f"list {self.url(prefix)}", "a listing without ETags")
        listed = {each["Key"]: Listed(each["Size"], each["ETag"].strip('"')) for each in found}
        return dict(sorted(listed.items()))  # S3 sorts by bytes, SeaweedFS folder by folder

    async def folders(self, prefix: str) -> list[str]:
        """The names one level below `prefix` (which ends in a slash), without slashes, in order."""
        found = await self._list("list", "list_objects_v2", "CommonPrefixes", Prefix=prefix, Delimiter="/")
        return sorted(each["Prefix"][len(prefix) : -1] for each in found)

    async def read(self, key: str) -> bytes | None:
        """The object at `key`; None if there is none."""
        into = io.BytesIO()
        return into.getvalue() if await self.fetch(key, into) else None

    async def fetch(self, key: str, into: IO[bytes]) -> bool:
        """Write the object at `key` to the file `into`, block by block; False if there is none."""
        return await self._get(key, into) is not None

    async def read_stored(self, key: str, *, limit: int) -> Stored | None:
        """The object at `key` with its ETag and age, without its body if over `limit` bytes; None if there is none."""
        into = io.BytesIO()
        if (response := await self._get(key, into, limit=limit)) is None:
            return None
        if "ETag" not in response:
            raise store_error(f"read {self.url(key)}", "an answer without an ETag")
        headers = response["ResponseMetadata"]["HTTPHeaders"]
        now, written = http_date(headers.get("date")), http_date(headers.get("last-modified"))
        age = (now - written).total_seconds() if now and written else None
        body = into.getvalue() if into.tell() <= limit else b""
        return Stored(body, response["ETag"].strip('"'), age)

    async def head(self, key: str) -> Head | None:
        """Size and metadata of the object at `key`; None if there is none."""
        response = await _unless(
            self._call("look at", key, "head_object", "ContentLength", Key=key), StoreErrorKind.NO_OBJECT
        )
        return Head(response["ContentLength"], response.get("Metadata", {})) if response else None

    async def put(self, key: str, body: bytes) -> str:
        """Put a small object, in one request; returns its ETag."""
        return await self._put(key, body)

    async def _put(self, key: str, body: bytes, **condition: str) -> str:
        content = {"Body": body, "ContentType": "application/json"}
        response = await self._call("write", key, "put_object", "ETag", Key=key, **content, **condition)
        return str(response["ETag"]).strip('"')

    async def put_if(self, key: str, body: bytes, *, etag: str | None) -> bool:
        """Put a small object only if the one at `key` still has this ETag or, with None, only if there is none.

        False if the condition does not hold, or another put is under way. Callers read the object back in either case:
        some servers ignore the condition, and botocore repeats a put whose response was lost, which is then refused.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}
        return await _unless(self._put(key, body, **condition), *NOT_PUT) is not None

    async def delete(self, key: str) -> None:
        """Remove the object at `key`, if there is one."""
        await self._call("remove", key, "delete_object", None, Key=key)

    async def copy(self, key: str, to: str) -> None:
        """Copy the object at `key`, of at most 5 GB, to the key `to` within S3."""
        source = {"Bucket": self.name, "Key": key}
        await self._call("copy", key, "copy_object", "CopyObjectResult", Key=to, CopySource=source)

    async def land(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str = CONTENT_TYPE,
        check: Callable[[], Awaitable[object]] | None = None,
    ) -> str:
        """Land `body` at `key`, in parts of 5 MiB; otherwise as `land_parts`."""
        return await self.land_parts(key, Body(in_memory(body), content_type, check=check))

    async def land_parts(self, key: str, body: Body) -> str:
        """Land `body` at `key`, whole or not at all; returns its ETag.

        Nothing is visible at `key` until the last request, and an upload that fails or is cancelled is aborted. A
        killed process cannot abort, nor can any while S3 is unreachable; the next run that lands at `key` does.
        """
        if (etag := await _unless(self._land_once(key, body), StoreErrorKind.NO_UPLOAD)) is not None:
            return etag
        # It was completed, and the response lost; or another harvester of the same ids has aborted it.
        return await self._land_once(key, body)

    async def uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Key and upload id of every unfinished upload below `prefix`."""
        found = await self._list("list the uploads of", "list_multipart_uploads", "Uploads", Prefix=prefix)
        return [(each["Key"], each["UploadId"]) for each in found]

    async def begin(self, key: str, body: Body | None = None) -> str:
        """The id of a new upload of `body` to `key`, to be completed or aborted."""
        body = body or Body(in_memory(b""))
        about = {"Key": key, "ContentType": body.content_type, "Metadata": body.metadata}
        response = await self._call("begin", key, "create_multipart_upload", "UploadId", **about)
        return str(response["UploadId"])

    async def abort(self, key: str, upload: str) -> None:
        """Abort an upload; no error if it no longer exists."""
        await _unless(
            self._call("abort", key, "abort_multipart_upload", None, Key=key, UploadId=upload), StoreErrorKind.NO_UPLOAD
        )

    async def server_time(self, prefix: str) -> datetime | None:
        """S3's time, to the second, from a listing of `prefix`; None if the response has no `Date`."""
        page = await self._call("list", prefix, "list_objects_v2", "IsTruncated", MaxKeys=1, Prefix=prefix)
        return http_date(page["ResponseMetadata"]["HTTPHeaders"].get("date"))

    async def _list(self, verb: str, operation: str, field: str, **query: str) -> list[dict[str, Any]]:
        """The values of this field on all pages of a listing."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self._call(verb, query["Prefix"], operation, "IsTruncated", **query)
            found += page.get(field, ())
            if not page["IsTruncated"]:
                return found
            if not _NEXT_PAGE[operation].keys() <= page.keys():
                raise store_error(f"{verb} {self.url(query['Prefix'])}", "a page without its continuation token")
            query |= {parameter: page[page_field] for page_field, parameter in _NEXT_PAGE[operation].items()}

    async def _land_once(self, key: str, body: Body) -> str:
        if body.check:
            await body.check()
        abort = partial(self._abort_after_trouble, key)
        upload = await complete_or_undo(self.begin(key, body), undo=abort, seconds=LAST_SECONDS)
        sent: dict[int, int] = {}

        async def send(part: tuple[int, io.BytesIO]) -> dict[str, Any]:
            number, content = part

            def on_progress(bytes_sent: int) -> None:
                sent[number] = bytes_sent
                body.on_progress(sum(sent.values()))

            target = {"Key": key, "UploadId": upload, "PartNumber": number}
            deadline = progress_deadline(content, CALL_SECONDS, on_progress)
            response = await self._call("upload", key, "upload_part", "ETag", deadline, **target, Body=content)
            content.close()  # a reference cycle in botocore's requests keeps it: a file of 165 MB took 155 MB
            return {"PartNumber": number, "ETag": response["ETag"]}

        try:
            parts = await fan_out(send, body.parts(), at_once=PARTS_AT_ONCE)
            if body.check:
                await body.check()
            done = await self._complete(key, {"UploadId": upload, "MultipartUpload": {"Parts": parts}})
        except BaseException as error:
            seconds = LAST_SECONDS if isinstance(error, asyncio.CancelledError) else None
            # An error of another batch may cancel this one meanwhile.
            await complete_or_undo(abort(upload, seconds=seconds), seconds=LAST_SECONDS)
            raise
        return str(done["ETag"]).strip('"')

    @_retried(retry=tenacity.retry_if_exception(_is_conflict))
    async def _complete(self, key: str, upload: dict[str, Any]) -> dict[str, Any]:
        return await self._call("complete", key, "complete_multipart_upload", "ETag", Key=key, **upload)

    async def _abort_after_trouble(self, key: str, upload: str, *, seconds: float | None = None) -> None:
        """Abort; log a failure to do so instead of raising it, so that the first error stays visible."""
        try:
            async with asyncio.timeout(seconds):
                await self.abort(key, upload)
        except (StoreError, TimeoutError, asyncio.CancelledError) as error:
            fields = {"key": key, "problem": str(error) or "no answer"}
            logging.getLogger(__name__).warning("upload_left_unfinished", extra=fields)

    async def _get(self, key: str, into: IO[bytes], *, limit: float = math.inf) -> dict[str, Any] | None:
        """S3's response for the object at `key`, None if there is none; its bytes go to `into`, unless over `limit`."""
        try:
            return await _unless(self._get_once(key, into, limit), StoreErrorKind.NO_OBJECT)
        except CUT_OFF as error:
            raise store_error(f"read {self.url(key)}", type(error).__name__) from error

    @_retried(retry=tenacity.retry_if_exception_type(CUT_OFF))
    async def _get_once(self, key: str, into: IO[bytes], limit: float) -> dict[str, Any]:
        into.seek(0)
        into.truncate()
        response = await self._call("read", key, "get_object", "Body", Key=key)
        started = asyncio.get_running_loop().time()
        async with response["Body"] as stream, asyncio.timeout(CALL_SECONDS) as body_deadline:
            while max(response.get("ContentLength", 0), into.tell()) <= limit:
                async with asyncio.timeout(CALL_SECONDS):
                    block = await stream.read(2**18)
                if not block:
                    return response
                into.write(block)
                body_deadline.reschedule(started + CALL_SECONDS + into.tell() / MIN_BYTES_PER_SECOND)
        return response

    async def _call(
        self, verb: str, key: str, operation: str, field: str | None, within: Deadline | None = None, /, **query: Any
    ) -> dict[str, Any]:
        """The response to one call of S3's API within a deadline; errors become `StoreError`.

        A good response has this `field`: botocore returns a 200 with an empty body as an empty response (tried), and
        after an empty listing everything would be harvested again.
        """
        action = f"{verb} {self.url(key)}"
        try:
            async with within or asyncio.timeout(CALL_SECONDS):
                response: dict[str, Any] = await getattr(self._client, operation)(Bucket=self.name, **query)
        except TimeoutError as error:
            raise store_error(action, f"no answer within {CALL_SECONDS:.0f} s") from error
        except botocore.exceptions.ClientError as error:
            secrets = await self._secrets()  # S3 repeats them in some error messages
            raise refusal(action, operation, error, secrets) from None
        except (botocore.exceptions.BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise no_answer(action, error, self._client.meta.endpoint_url) from None
        if field and field not in response:
            raise store_error(action, "an empty answer")
        return response


def _no_expect(request: Any, **_: Any) -> None:
    """Drop `Expect: 100-continue` before the request is signed.

    Measured: with it an upload to a silent server hung for 240 s at `read_timeout=1`, because aiohttp starts that
    timeout only when the body is sent, and has none while it waits for the server's `100 Continue`.
    """
    del request.headers["Expect"]


@asynccontextmanager
async def open_bucket(
    name: str, *, retry_policy: RetryPolicy = RetryPolicy.FAIL_FAST, **access: Unpack[Access]
) -> AsyncIterator[Bucket]:
    """The bucket `name`; a `StoreError` if there is no such profile or region."""
    client_context = open_client("s3", action=f"open s3://{name}", tries=TRIES[retry_policy], **access)
    async with client_context as (client, session):
        credentials = access.get("credentials")
        client.meta.events.register("before-sign.s3", _no_expect)

        async def secrets() -> list[str]:
            """The current credentials; those of a role change every hour, and the renewal may be refused."""
            current: Sequence[str | None] = credentials or ()
            with suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                if source := None if credentials else await session.get_credentials():
                    current = await source.get_frozen_credentials()
            return [secret for secret in current[:3] if secret]

        yield Bucket(client, name, secrets)
