"""S3, against a real server, and against one in between that misbehaves as a test wants."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from conftest import capture_logs, client_of
from loops import Hasty, run_on

from harvester.errors import StoreError
from harvester.fakes.s3_proxy import S3Proxy, answering, at_first, refusing, s3_proxy
from harvester.runtime.concurrency import fan_out
from harvester.store.multipart import PART_BYTES
from harvester.store.s3 import CALL_SECONDS, MIN_BYTES_PER_SECOND, READ_TRIES, Bucket, open_bucket
from harvester.store.store import Listed, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from harvester.fakes.s3_proxy import Call, Forward, Rule
    from harvester.fakes.s3_server import S3Server

ATTEMPTS = 5
"""Requests that botocore makes of one call: the first, and the four retries that `open_bucket` asks it for."""

ACCESS_KEY, SECRET = "AKIDEXAMPLE", "a/secret+that/nobody+may/read"

# --- seconds that pass faster


def hurried(story: Coroutine[Any, Any, None], *, times: int = 60) -> None:
    """Run the story to its end on a hasty loop; a server of another process has that much less time."""
    run_on(Hasty(times), story)


# --- a server in between


def through(link: S3Proxy, server: S3Server | None = None, name: str = "lake") -> Any:
    """The bucket, opened as the harvester opens it, with the server in between."""
    credentials = (server.access_key, server.secret_key, None) if server else ("key", SECRET, None)
    return open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=link.url)


async def cut_off(call: Call, forward: Forward) -> web.StreamResponse:
    """Half of the body, and then the end of the connection."""
    response = await half_of(call.request, await forward())
    if call.request.transport is not None:
        call.request.transport.close()
    return response


async def stalled(call: Call, forward: Forward) -> web.StreamResponse:
    """Half of the body, and then nothing, for as long as anybody listens."""
    await half_of(call.request, await forward())
    await asyncio.Event().wait()
    raise AssertionError


async def dripping(call: Call, forward: Forward) -> web.StreamResponse:
    """Half of the body, and then a byte now and then: no block is late, and the 60 MB announced never come."""
    response = await half_of(call.request, await forward(), announced=60_000_000)
    while True:
        await asyncio.sleep(10)
        await response.write(b"x")


async def half_of(request: web.BaseRequest, whole: web.Response, announced: int = 0) -> web.StreamResponse:
    assert isinstance(whole.body, bytes)
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = announced or len(whole.body)
    await response.prepare(request)
    await response.write(whole.body[: len(whole.body) // 2])
    return response


@dataclass(slots=True)
class Gate:
    """A rule that holds a request until opened: before it is passed on, or its answer, after that was done."""

    when: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward() if self.when == "after" else None
        self.reached.set()
        await self.opened.wait()
        return response or await forward()


async def left_of(bucket: Bucket) -> tuple[list[str], list[str]]:
    """The keys of all objects, and of all unfinished uploads, as the fixture's own bucket sees them."""
    return list(await bucket.objects("")), [key for key, _ in await bucket.uploads("")]


# --- landing


@pytest.mark.parametrize(
    ("size", "parts"), [(1, 1), (PART_BYTES, 1), (PART_BYTES + 1, 2), (12_000_000, 3)], ids=lambda value: f"{value:,}"
)
async def test_what_landed_comes_back_byte_for_byte(bucket: Bucket, size: int, parts: int) -> None:
    """A body of any size is there whole, in parts of 5 MiB, under the ETag that `land` returned."""
    body = os.urandom(size)
    etag = await bucket.land("a/b.json", body)
    assert await bucket.read("a/b.json") == body
    assert await bucket.objects("a/") == {"a/b.json": Listed(size, etag)}
    assert etag.rpartition("-")[2] == str(parts)


async def test_what_has_landed_is_let_go_at_once(bucket: Bucket) -> None:
    """A body that has landed is not kept until the cycle collector runs: with large files that is 150 MB."""
    body = bytes(6 * 2**20)
    before = sys.getrefcount(body)
    gc.disable()
    try:
        await bucket.land("a", body)
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()


async def test_every_part_but_the_last_is_5_mib_long(s3: S3Server, bucket: Bucket) -> None:
    """S3 refuses shorter ones at completion, when everything has been sent."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        await lake.land("a", bytes(2 * 5 * 2**20 + 7))
    parts = {one.part: one.bytes for one in link.seen if one.operation == "part"}
    assert parts == {1: 5 * 2**20, 2: 5 * 2**20, 3: 7}


async def test_no_more_than_four_parts_are_under_way(s3: S3Server, bucket: Bucket) -> None:
    """A large body does not take all connections of the bucket."""
    progress_deadline: list[int] = []
    most: list[int] = []

    async def count(call: Call, forward: Forward) -> web.StreamResponse:
        progress_deadline.append(1)
        most.append(len(progress_deadline))
        try:
            return await forward()
        finally:
            progress_deadline.pop()

    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["part"] = count
        await lake.land("a", bytes(6 * PART_BYTES))
    assert (len(most), max(most)) == (6, 4)


async def test_nothing_is_visible_before_the_last_request(s3: S3Server, bucket: Bucket) -> None:
    """Readers see the old object or the new one, and never a part of one."""
    await bucket.land("a", b"old")
    gate = Gate("before")
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["complete"] = gate
        landing = asyncio.ensure_future(lake.land("a", bytes(PART_BYTES + 1)))
        other = asyncio.ensure_future(lake.land("b", b"new"))
        await gate.reached.wait()
        before = [await bucket.read("a"), await bucket.read("b")]
        gate.opened.set()
        await landing
        await other
    assert before == [b"old", None]
    assert [await bucket.read("a"), await bucket.read("b")] == [bytes(PART_BYTES + 1), b"new"]


async def test_a_part_that_is_refused_aborts_the_upload(s3: S3Server, bucket: Bucket) -> None:
    """What is refused is reported as it is, nothing is visible, and nothing is left that would be billed."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["part"] = at_first(refusing(403, "AccessDenied"))
        with pytest.raises(StoreError) as caught:
            await lake.land("a", bytes(3 * PART_BYTES))
        assert await left_of(lake) == ([], [])
    assert (caught.value.code, link.times("abort"), link.times("complete")) == ("AccessDenied", 1, 0)


def test_a_part_is_sent_again_until_the_tries_are_used_up(s3: S3Server, bucket: Bucket) -> None:
    """A server in trouble gets five requests, by botocore's own retries, and then the upload is aborted."""

    async def story() -> None:
        async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
            link.rules["part"] = refusing(500, "InternalError")
            with pytest.raises(StoreError) as caught:
                await lake.land("a", b"body")
            assert await left_of(lake) == ([], [])
        assert (caught.value.code, caught.value.exit_code) == ("InternalError", 4)
        assert (link.times("part"), link.times("abort")) == (ATTEMPTS, 1)

    hurried(story(), times=20)


def test_a_part_that_fails_at_first_lands(s3: S3Server, bucket: Bucket) -> None:
    """Passing trouble is nobody's business: the object is whole all the same."""
    body = os.urandom(PART_BYTES + 1)

    async def story() -> None:
        async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
            link.rules["part"] = at_first(refusing(503, "SlowDown"), refusing(500, "InternalError"))
            await lake.land("a", body)
            assert link.times("part") >= 4
            assert await lake.read("a") == body

    hurried(story(), times=5)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["create", "part", "complete"])
async def test_an_upload_that_is_cancelled_leaves_nothing_behind(
    s3: S3Server, bucket: Bucket, operation: str, when: str
) -> None:
    """Cancelled within any request, before S3 has done it or after, the upload is gone and we are cancelled."""
    gate = Gate(when)
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules[operation] = gate
        landing = asyncio.ensure_future(lake.land("a", b"body"))
        await gate.reached.wait()
        landing.cancel()
        if operation == "create":  # the one small call that is let finish: its upload would have no name otherwise
            await asyncio.wait([landing], timeout=0.05)
            gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await landing
    assert await left_of(bucket) == (["a"] if (operation, when) == ("complete", "after") else [], [])


@pytest.mark.parametrize("trouble", ["refused", "cancelled"])
async def test_an_abort_is_let_finish_whichever_task_is_cancelled(s3: S3Server, bucket: Bucket, trouble: str) -> None:
    """Two batches in trouble at once cancel each other: an abort under way goes on, and leaves nothing behind."""
    parts, aborts = Gate("before"), Gate("before")
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["part"] = refusing(403, "AccessDenied") if trouble == "refused" else parts
        link.rules["abort"] = aborts
        landing = asyncio.ensure_future(lake.land("a", b"body"))
        if trouble == "cancelled":
            await parts.reached.wait()
            landing.cancel()
        await aborts.reached.wait()
        landing.cancel()
        await asyncio.wait([landing], timeout=0.05)
        assert not landing.done()
        aborts.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await landing
    assert await left_of(bucket) == ([], [])


def test_an_error_at_completion_that_comes_with_a_200_is_an_error(s3: S3Server, bucket: Bucket) -> None:
    """`CompleteMultipartUpload` can answer 200 and say in its body that it failed; that has not landed."""

    async def story() -> None:
        async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
            link.rules["complete"] = refusing(200, "InternalError")
            with pytest.raises(StoreError) as caught:
                await lake.land("a", b"body")
            assert await left_of(lake) == ([], [])
        assert (caught.value.code, link.times("complete")) == ("InternalError", ATTEMPTS)

    hurried(story(), times=20)


async def test_an_abort_that_is_refused_does_not_hide_the_trouble(s3: S3Server, bucket: Bucket) -> None:
    """The error that comes out is the first one; that an upload is left is logged, with its key."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["part"] = refusing(400, "BadDigest")
        link.rules["abort"] = refusing(403, "AccessDenied")
        with capture_logs() as logs, pytest.raises(StoreError) as caught:
            await lake.land("a", b"body")
    assert caught.value.code == "BadDigest"
    assert [(line["event"], line["key"]) for line in logs] == [("upload_left_unfinished", "a")]


async def test_an_abort_that_is_refused_does_not_hide_that_we_were_cancelled(s3: S3Server, bucket: Bucket) -> None:
    """Cancelled while the upload begins, we are cancelled, also where it cannot be aborted."""
    gate = Gate("after")
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules |= {"create": gate, "abort": refusing(403, "AccessDenied")}
        landing = asyncio.ensure_future(lake.land("a", b"body"))
        await gate.reached.wait()
        landing.cancel()
        await asyncio.wait([landing], timeout=0.05)
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await landing


# --- uploads


async def test_unfinished_uploads_are_listed_by_prefix_and_aborted(s3: S3Server, bucket: Bucket) -> None:
    """What a kill has left can be found by its key, and removed."""
    async with client_of(s3) as client:
        for key in ("a/1", "a/2", "b/1"):
            await client.create_multipart_upload(Bucket=bucket.name, Key=key)
        left = await bucket.uploads("a/")
        assert sorted(key for key, _ in left) == ["a/1", "a/2"]
        for key, upload in left:
            await bucket.abort(key, upload)
        left_open = (await client.list_multipart_uploads(Bucket=bucket.name))["Uploads"]
    assert [upload["Key"] for upload in left_open] == ["b/1"]


async def test_uploads_are_listed_page_by_page() -> None:
    """More than 1,000 of them come in pages, each asked for by where the one before has ended."""
    asked: list[tuple[str | None, str | None]] = []

    async def page(call: Call, forward: Forward) -> web.StreamResponse:
        asked.append((call.request.query.get("key-marker"), call.request.query.get("upload-id-marker")))
        number = len(asked)
        more = "true" if number < 3 else "false"
        return web.Response(
            text="<ListMultipartUploadsResult>"
            f"<IsTruncated>{more}</IsTruncated><NextKeyMarker>k{number}</NextKeyMarker>"
            f"<NextUploadIdMarker>u{number}</NextUploadIdMarker>"
            f"<Upload><Key>k{number}</Key><UploadId>u{number}</UploadId></Upload></ListMultipartUploadsResult>",
            content_type="application/xml",
        )

    async with s3_proxy() as link, through(link) as lake:
        link.rules["uploads"] = page
        assert await lake.uploads("") == [("k1", "u1"), ("k2", "u2"), ("k3", "u3")]
    assert asked == [(None, None), ("k1", "u1"), ("k2", "u2")]


async def test_an_upload_that_is_gone_is_aborted_already(s3: S3Server, bucket: Bucket) -> None:
    """Aborting an upload that is unknown (by now) succeeds."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["abort"] = refusing(404, "NoSuchUpload")
        await lake.abort("a", "an-upload")
    assert link.times("abort") == 1


async def test_an_abort_that_is_refused_is_an_error() -> None:
    """An upload that stays is not passed over in silence."""
    async with s3_proxy() as link, through(link) as lake:
        link.rules["abort"] = refusing(403, "AccessDenied")
        with pytest.raises(StoreError, match=r"^Cannot abort s3://lake/a: AccessDenied\. Grant this action"):
            await lake.abort("a", "an-upload")


# --- listing


async def test_more_than_a_thousand_objects_are_all_listed_in_order(bucket: Bucket) -> None:
    """A listing has every key below the prefix, sorted by the whole key, however many pages it takes."""
    asyncio.get_running_loop().set_debug(False)  # a thousand puts take twice as long with it
    keys = [f"many/{number:04}/x" for number in range(1_001)]
    await fan_out(lambda key: bucket.put(key, b"1"), [*keys, "many/0007-a", "neighbour"], at_once=16)
    assert list(await bucket.objects("many/")) == sorted([*keys, "many/0007-a"])
    assert await bucket.folders("many/") == [f"{number:04}" for number in range(1_001)]


async def test_an_empty_prefix_lists_everything(bucket: Bucket) -> None:
    """`objects("")` is the whole bucket, and nothing where there is nothing."""
    assert await bucket.objects("") == {}
    for key in ("b", "a/b", "a-b"):
        await bucket.put(key, key.encode())
    listed = await bucket.objects("")
    assert list(listed) == ["a-b", "a/b", "b"]
    assert [file.bytes for file in listed.values()] == [3, 3, 1]


async def test_keys_may_have_any_characters(bucket: Bucket) -> None:
    """What a data lake's folders are called comes back as it was put: blanks, pluses, accents, percent signs."""
    keys = sorted(["Filmes+e+series/ação.csv", "a b/100%/é&x=1.json", "a%20b"])
    for key in keys:
        await bucket.put(key, key.encode())
    assert list(await bucket.objects("")) == keys
    assert [await bucket.read(key) for key in keys] == [key.encode() for key in keys]


async def test_folders_are_the_names_one_level_below(bucket: Bucket) -> None:
    """Names without slashes, each once, without what lies deeper and without files."""
    for key in ("r/2026-11-21-a/plan.json", "r/2026-11-21-a/x/y/z", "r/2026-11-22-b/plan.json", "r/file", "s/t/u"):
        await bucket.put(key, b"1")
    assert await bucket.folders("r/") == ["2026-11-21-a", "2026-11-22-b"]
    assert await bucket.folders("nothing/") == []


# --- reading


async def test_what_is_not_there_is_none(bucket: Bucket) -> None:
    """A missing object is an answer, unlike an empty one."""
    await bucket.put("empty", b"")
    assert [await bucket.read("missing"), await bucket.read("empty")] == [None, b""]
    file = io.BytesIO(b"of before")
    assert (await bucket.fetch("missing", file), await bucket.fetch("empty", file), file.getvalue()) == (
        False,
        True,
        b"",
    )


async def test_an_object_is_fetched_into_a_file(bucket: Bucket, tmp_path: Path) -> None:
    """A file of many blocks has just the object's bytes, whatever was in it."""
    body = os.urandom(3_000_000)
    await bucket.land("a", body)
    with (tmp_path / "a").open("w+b") as file:
        file.write(bytes(4_000_000))
        assert await bucket.fetch("a", file)
    assert (tmp_path / "a").read_bytes() == body


async def test_a_body_that_is_cut_off_is_read_again(s3: S3Server, bucket: Bucket) -> None:
    """A GET whose body ends early is repeated by us, since botocore does not; nothing is read twice."""
    body = os.urandom(1_000_000)
    await bucket.put("a", body)
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["get"] = at_first(cut_off, cut_off)
        assert await lake.read("a") == body
        link.rules["get"] = at_first(cut_off, cut_off)
        file = io.BytesIO()
        assert await lake.fetch("a", file)
    assert file.getvalue() == body
    assert link.times("get") == 6


async def test_a_body_that_is_cut_off_every_time_is_an_error(s3: S3Server, bucket: Bucket) -> None:
    """Half an object is never taken for the whole; after four tries it is the store's trouble."""
    await bucket.put("a", bytes(1_000_000))
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["get"] = cut_off
        with pytest.raises(StoreError, match=f"^Cannot read s3://{bucket.name}/a: ClientPayloadError") as caught:
            await lake.read("a")
    assert (link.times("get"), caught.value.exit_code) == (READ_TRIES, 4)


async def test_a_body_that_is_not_what_s3_says_is_read_again(s3: S3Server, bucket: Bucket) -> None:
    """A body that does not fit its checksum is no better than half of one."""
    await bucket.put("a", b"what was put")

    async def spoilt(call: Call, forward: Forward) -> web.StreamResponse:
        return web.Response(body=b"what was pot", headers={"x-amz-checksum-crc32": "iBoW4A=="})

    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["get"] = at_first(spoilt)
        assert await lake.read("a") == b"what was put"
        link.rules["get"] = spoilt
        with pytest.raises(StoreError):
            await lake.read("a")


def test_a_body_that_stalls_is_read_again(s3: S3Server, bucket: Bucket) -> None:
    """A server that falls silent in the midst of a body does not hold us for ever."""
    body = os.urandom(1_000_000)

    async def story() -> None:
        async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
            await lake.put("a", body)
            link.rules["get"] = at_first(stalled)
            assert await lake.read("a") == body
            assert link.times("get") >= 2

    hurried(story(), times=20)


def test_a_body_that_drips_is_given_up_and_read_again(s3: S3Server, bucket: Bucket) -> None:
    """A minute behind a quarter of a megabit a second is too late, however steadily bytes come, however many may."""
    body = os.urandom(1_000_000)

    async def story() -> None:
        async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
            await lake.put("a", body)
            link.rules["get"] = at_first(dripping)
            began = asyncio.get_running_loop().time()
            assert await lake.read("a") == body
            took = asyncio.get_running_loop().time() - began
            assert CALL_SECONDS + len(body) / 2 / MIN_BYTES_PER_SECOND <= took < 60_000_000 / MIN_BYTES_PER_SECOND
            assert link.times("get") == 2

    hurried(story(), times=60)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_completion_that_meets_another_call_is_tried_again(times: int, s3: S3Server, bucket: Bucket) -> None:
    """409 `OperationAborted` says "try again"; botocore takes it for final."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["complete"] = at_first(*[refusing(409, "OperationAborted")] * times)
        await lake.land("a", b"body")
        assert (link.times("complete"), link.times("create"), link.times("abort")) == (times + 1, 1, 0)
    assert await left_of(bucket) == (["a"], [])


async def test_a_completion_that_always_meets_another_call_is_an_error(s3: S3Server, bucket: Bucket) -> None:
    """After four tries the upload is aborted, and S3's message is reported."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["complete"] = refusing(409, "OperationAborted")
        with pytest.raises(StoreError, match=r"complete .*: OperationAborted"):
            await lake.land("a", b"body")
        assert (link.times("complete"), link.times("abort")) == (READ_TRIES, 1)
    assert await left_of(bucket) == ([], [])


# --- reading what stands, and writing only if it still does


async def test_what_stands_is_read_with_its_etag_and_its_age(bucket: Bucket) -> None:
    """The ETag is that of the listing; the age is counted by the server, from the second of the put."""
    await bucket.put("a", b"body")
    stored = await bucket.read_stored("a", limit=4)
    assert stored is not None
    assert (stored.body, stored.etag) == (b"body", (await bucket.objects("a"))["a"].etag)
    assert stored.age is not None
    assert 0 <= stored.age < 60
    assert await bucket.read_stored("missing", limit=4) is None


@pytest.mark.parametrize(
    ("date", "modified", "age"),
    [
        ("Sun, 29 Nov 2026 10:01:31 GMT", "Sun, 29 Nov 2026 10:00:00 GMT", 91),
        ("Sun, 29 Nov 2026 10:00:00 GMT", "Sun, 29 Nov 2026 10:00:01 GMT", -1),
        ("Sun, 29 Nov 2026 10:00:00 GMT", None, None),
        ("today", "Sun, 29 Nov 2026 10:00:00 GMT", None),
    ],
)
async def test_an_age_is_what_one_answer_says(date: str, modified: str | None, age: float | None) -> None:
    """It is the difference of two headers of the same answer, and None where one of them says no time."""

    async def say(call: Call, forward: Forward) -> web.StreamResponse:
        headers = {"Date": date, "ETag": '"e"'} | ({"Last-Modified": modified} if modified else {})
        return web.Response(body=b"body", headers=headers)

    async with s3_proxy() as link, through(link) as lake:
        link.rules["get"] = say
        stored = await lake.read_stored("a", limit=100)
    assert stored == Stored(b"body", "e", age)


async def test_an_object_without_an_etag_is_no_answer() -> None:
    """Without one nothing can be put on condition."""
    async with s3_proxy() as link, through(link) as lake:
        link.rules["get"] = answering(200, "body")
        with pytest.raises(StoreError, match=r"^Cannot read s3://lake/a: an answer without an ETag"):
            await lake.read_stored("a", limit=100)


@pytest.mark.parametrize("chunked", [False, True])
async def test_what_is_too_large_is_not_read(s3: S3Server, bucket: Bucket, *, chunked: bool) -> None:
    """Over the limit the body is empty, whether or not the server says beforehand how long it is; the rest is known."""
    await bucket.put("a", bytes(1_000_000))

    async def in_chunks(call: Call, forward: Forward) -> web.StreamResponse:
        whole = await forward()
        headers = {name: value for name, value in whole.headers.items() if name != "Content-Length"}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(call.request)
        assert isinstance(whole.body, bytes)
        with suppress(ConnectionError):  # nobody reads on
            await response.write(whole.body)
        return response

    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        if chunked:
            link.rules["get"] = in_chunks
        stored = await lake.read_stored("a", limit=999_999)
        whole = await lake.read_stored("a", limit=1_000_000)
    assert stored is not None
    assert whole is not None
    assert (stored.body, stored.etag, stored.age is None) == (b"", whole.etag, False)
    assert whole.body == bytes(1_000_000)


async def test_what_stands_is_read_again_where_its_body_is_cut_off(s3: S3Server, bucket: Bucket) -> None:
    """As with any other read."""
    body = os.urandom(100_000)
    await bucket.put("a", body)
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        link.rules["get"] = at_first(cut_off, cut_off)
        stored = await lake.read_stored("a", limit=100_000)
    assert stored is not None
    assert (stored.body, link.times("get")) == (body, 3)


async def test_a_put_on_condition_is_done_only_where_the_condition_holds(bucket: Bucket) -> None:
    """With None there must be no object, with an ETag that very one; else nothing is written."""
    assert await bucket.put_if("a", b"one", etag=None)
    assert not await bucket.put_if("a", b"two", etag=None)
    one = await bucket.read_stored("a", limit=100)
    assert one is not None
    assert one.body == b"one"
    assert await bucket.put_if("a", b"two", etag=one.etag)
    assert not await bucket.put_if("a", b"three", etag=one.etag)
    assert not await bucket.put_if("missing", b"three", etag=one.etag)
    assert [await bucket.read("a"), await bucket.read("missing")] == [b"two", None]


@pytest.mark.parametrize("new", [True, False])
async def test_of_eight_puts_on_one_condition_one_is_done(bucket: Bucket, *, new: bool) -> None:
    """Exactly one of those who have seen the same is let through, and what it wrote stands."""
    if not new:
        await bucket.put("a", b"before")
    stored = await bucket.read_stored("a", limit=100)
    etag = stored.etag if stored else None
    bodies = [str(number).encode() for number in range(8)]
    done = await fan_out(lambda body: bucket.put_if("a", body, etag=etag), bodies, at_once=8)
    assert sum(done) == 1
    assert await bucket.read("a") == bodies[done.index(True)]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (412, "PreconditionFailed"),
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (404, "NoSuchKey"),
        (412, ""),
        (409, ""),
        (404, ""),
    ],
)
async def test_a_condition_that_does_not_hold_is_an_answer(status: int, code: str) -> None:
    """412, 409 and 404, in S3's words or in none: read again, and decide anew."""
    async with s3_proxy() as link, through(link) as lake:
        link.rules["put"] = refusing(status, code) if code else answering(status)
        assert not await lake.put_if("a", b"body", etag="e")
        assert not await lake.put_if("a", b"body", etag=None)
    assert [(call.headers.get("If-Match"), call.headers.get("If-None-Match")) for call in link.seen] == [
        ('"e"', None),
        (None, "*"),
    ]


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchBucket"), (403, "AccessDenied"), (501, "NotImplemented")])
async def test_a_put_on_condition_that_is_refused_otherwise_is_an_error(status: int, code: str) -> None:
    """That the bucket is not there, or conditions not known, has nothing to do with what others write."""
    async with s3_proxy() as link, through(link) as lake:
        link.rules["put"] = refusing(status, code)
        with pytest.raises(StoreError, match=rf"^Cannot write s3://lake/a: {code}\."):
            await lake.put_if("a", b"body", etag=None)


# --- small objects


async def test_what_is_put_replaces_and_what_is_deleted_is_gone(s3: S3Server, bucket: Bucket) -> None:
    """One request each; deleting what is not there is fine."""
    async with s3_proxy(s3.endpoint) as link, through(link, s3, bucket.name) as lake:
        await lake.put("a", b"one")
        await lake.put("a", b"two")
        assert await bucket.read("a") == b"two"
        await lake.delete("a")
        await lake.delete("a")
    assert await bucket.read("a") is None
    assert [one.operation for one in link.seen] == ["put", "put", "delete", "delete"]


async def test_whatever_is_written_says_that_it_is_json(s3: S3Server, bucket: Bucket) -> None:
    """A browser or a crawler that comes upon an object knows what it has."""
    await bucket.put("a", b"{}")
    await bucket.land("b", b"{}")
    async with client_of(s3) as client:
        types = [(await client.head_object(Bucket=bucket.name, Key=key))["ContentType"] for key in ("a", "b")]
    assert types == ["application/json", "application/json; charset=utf-8"]


async def test_no_request_waits_for_leave_to_send_its_body() -> None:
    """`Expect: 100-continue` is on no request: with it, a silent server holds an upload for ever."""
    async with s3_proxy() as link, through(link) as lake:
        link.rules["*"] = answering(200, "<x><UploadId>u</UploadId><ETag>e</ETag></x>", ETag='"e"')
        await lake.put("a", b"body")
        await lake.land("a", b"body")
    assert [one.operation for one in link.seen] == ["put", "create", "part", "complete"]
    assert [one.headers.get("Expect") for one in link.seen] == [None] * 4


# --- trouble


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", ["list", "put", "put much", "land"])
def test_a_server_that_is_silent_is_given_up_at_the_deadline(what: str) -> None:
    """No call takes longer than 60 s, botocore's retries and a body that nobody reads included."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # connections are made, and nobody ever accepts them
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link = S3Proxy("", f"http://127.0.0.1:{silent.getsockname()[1]}")
            async with through(link) as lake:
                calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                    "list": lambda: lake.objects("a"),
                    "put": lambda: lake.put("a", b"body"),
                    "put much": lambda: lake.put("a", bytes(20_000_000)),
                    "land": lambda: lake.land("a", b"body"),
                }
                began = asyncio.get_running_loop().time()
                with pytest.raises(StoreError, match="no answer within 60 s") as caught:
                    await calls[what]()
                took = asyncio.get_running_loop().time() - began
        assert caught.value.exit_code == 4
        assert CALL_SECONDS <= took < CALL_SECONDS + 30

    hurried(story())


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("list", lambda lake: lake.objects("a")),
        ("list", lambda lake: lake.folders("a/")),
        ("uploads", lambda lake: lake.uploads("a")),
        ("put", lambda lake: lake.put("a", b"body")),
        ("create", lambda lake: lake.land("a", b"body")),
        ("part", lambda lake: lake.land("a", b"body")),
        ("complete", lambda lake: lake.land("a", b"body")),
    ],
)
def test_an_empty_answer_is_no_answer(operation: str, call: Callable[[Bucket], Coroutine[Any, Any, object]]) -> None:
    """A 200 with nothing in it is an error: an empty listing would have everything harvested again."""

    async def story() -> None:
        async with s3_proxy() as link, through(link) as lake:
            link.rules["*"] = answering(200, "<x><UploadId>u</UploadId><ETag>e</ETag></x>", ETag='"e"')
            link.rules[operation] = answering(200)
            with pytest.raises(StoreError, match=r"^Cannot .* s3://lake/a"):
                await call(lake)

    hurried(story())


@dataclass(frozen=True, slots=True)
class Trouble:
    """How a bucket is opened so that there is trouble, and what the error must say of it."""

    code: str
    advice: str
    name: str = ""
    access_key: str = ""
    secret_key: str = SECRET
    endpoint: str = ""
    rule: Rule | None = None
    requests: int = 1

    def result(self, error: StoreError, name: str) -> None:
        """Be sure that the error says what was tried, on what, with which word of S3's, and what to do."""
        assert (error.code, error.exit_code) == (self.code, 4)
        assert str(error) == f"Cannot list s3://{name}/a/b: {self.code}. {self.advice}"
        assert error.__suppress_context__  # botocore's own words hold URLs, and what S3 repeats of the credentials
        assert SECRET not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble("NoSuchBucket", "Create the bucket, or correct S3_BUCKET.", name="nobody-has-it", secret_key=""),
        Trouble("SignatureDoesNotMatch", "Correct the AWS credentials (AWS_SECRET_ACCESS_KEY)."),
        Trouble(
            "InvalidAccessKeyId",
            "Correct the AWS credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE).",
            access_key="AKIANOBODY",
        ),
    ],
    ids=lambda trouble: trouble.code,
)
async def test_what_the_server_refuses_is_reported_with_what_to_do(
    s3: S3Server, bucket: Bucket, trouble: Trouble
) -> None:
    """The message names the action, the bucket, the key and the setting to fix, and never the secret."""
    name = trouble.name or bucket.name
    credentials = (trouble.access_key or s3.access_key, trouble.secret_key or s3.secret_key, None)
    async with open_bucket(name, region="us-east-1", credentials=credentials, endpoint_url=s3.endpoint) as lake:
        with pytest.raises(StoreError) as caught:
            await lake.objects("a/b")
    trouble.result(caught.value, name)
    assert s3.secret_key not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(
            "AccessDenied",
            "Grant this action to the credentials in use (README, section on permissions).",
            rule=refusing(403, "AccessDenied"),
        ),
        Trouble(
            "ExpiredToken",
            "The AWS session has expired: log in again (`aws sso login`), then run again.",
            rule=refusing(400, "ExpiredToken"),
        ),
        Trouble(
            "SlowDown",
            "So it is. What has landed is safe; run again to go on.",
            rule=refusing(503, "SlowDown"),
            requests=ATTEMPTS,
        ),
        Trouble(
            "InternalError",
            "So it is. What has landed is safe; run again to go on.",
            rule=refusing(500, "InternalError"),
            requests=ATTEMPTS,
        ),
    ],
    ids=lambda trouble: trouble.code,
)
def test_what_s3_answers_is_reported_with_what_to_do(trouble: Trouble) -> None:
    """What may pass is tried five times, what will not once; the message is as above."""

    async def story() -> None:
        async with s3_proxy() as link, through(link) as lake:
            assert trouble.rule
            link.rules["*"] = trouble.rule
            with pytest.raises(StoreError) as caught:
                await lake.objects("a/b")
        trouble.result(caught.value, "lake")
        assert link.times("list") == trouble.requests

    hurried(story())


def test_a_bucket_in_another_region_is_reported_with_what_to_do() -> None:
    """Sent elsewhere, botocore goes there, once; sent elsewhere again, the region is the setting to fix."""

    async def story() -> None:
        async with s3_proxy() as link, through(link) as lake:
            body = "<Error><Code>PermanentRedirect</Code></Error>"
            link.rules["*"] = answering(301, body, **{"x-amz-bucket-region": "eu-west-1"})
            with pytest.raises(StoreError) as caught:
                await lake.objects("a/b")
        Trouble("PermanentRedirect", "The bucket is in another region: correct AWS_REGION.").result(
            caught.value, "lake"
        )

    hurried(story())


@pytest.mark.parametrize(
    ("host", "does"),
    [("127.0.0.1", "refuses the connection"), ("nobody.onion", "has a name that cannot be resolved")],
)
def test_a_server_that_cannot_be_reached_is_reported_with_what_to_do(host: str, does: str) -> None:
    """A refused connection and a name that does not resolve are the network's trouble, or the endpoint's.

    No resolver asks the network for a name that ends in `.onion` (RFC 7686).
    """

    async def story() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # taken, and not listened at
            url = f"http://{host}:{nobody.getsockname()[1]}"
            async with through(S3Proxy("", url)) as lake:
                with pytest.raises(StoreError) as caught:
                    await lake.objects("a/b")
        advice = f"{url} {does}. Check the network and AWS_ENDPOINT_URL_S3."
        Trouble("EndpointConnectionError", advice).result(caught.value, "lake")

    hurried(story())


async def test_no_credentials_anywhere_is_reported_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user who has set nothing yet learns what to set."""
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    async with open_bucket("lake", region="us-east-1", endpoint_url="http://127.0.0.1:9") as lake:
        with pytest.raises(StoreError) as caught:
            await lake.objects("a/b")
    advice = "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    Trouble("NoCredentialsError", advice).result(caught.value, "lake")


async def test_an_unknown_profile_is_reported_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile is looked up before anything is asked."""
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(StoreError) as caught:
        async with open_bucket("lake", profile="nobody"):
            pytest.fail("it is open")
    error = caught.value
    assert (error.code, error.exit_code) == ("ProfileNotFound", 4)
    assert str(error) == (
        "Cannot open s3://lake: ProfileNotFound. Correct AWS_PROFILE, or make the profile with `aws configure`."
    )


async def test_an_endpoint_that_is_none_is_reported() -> None:
    """A setting that is no URL is an error of ours, not botocore's."""
    with pytest.raises(StoreError, match=r"^Cannot open s3://lake: ValueError\. Invalid endpoint: nonsense"):
        async with open_bucket("lake", credentials=("key", SECRET, None), endpoint_url="nonsense"):
            pytest.fail("it is open")


async def test_a_role_that_is_refused_is_reported_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the credentials that cannot be had, not the bucket that refuses; at the hourly renewal of a role, too."""
    refused = (
        "<ErrorResponse><Error><Code>AccessDenied</Code>"
        "<Message>Not authorized to perform: sts:AssumeRole.</Message></Error></ErrorResponse>"
    )
    config = tmp_path / "config.ini"
    config.write_text(
        "[profile course]\nrole_arn = arn:aws:iam::123456789012:role/lake\nsource_profile = me\n"
        f"[profile me]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    async with s3_proxy() as sts:
        sts.rules["*"] = answering(403, refused)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        async with open_bucket("lake", region="us-east-1", profile="course", endpoint_url="http://127.0.0.1:9") as lake:
            with pytest.raises(StoreError) as caught:
                await lake.read("a")
    assert str(caught.value) == (
        "Cannot get credentials (assume_role) to read s3://lake/a: AccessDenied. "
        "Grant this action to the credentials in use (README, section on permissions)."
    )
