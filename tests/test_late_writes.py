"""Late writes, files cut off or beside a run: nothing is doubled, lost or left, and no wrong totals are accepted."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import Silent
from loops import no_wait
from test_receipt import with_checksum

from harvester.commands.harvest import harvest
from harvester.commands.verify import verify
from harvester.errors import CorruptLakeError
from harvester.fakes.catalog import Catalog
from harvester.fakes.s3_proxy import Call, Forward, at_first, on_keys, reset_after, s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from harvester.commands.harvest import HarvestReport
    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

CATALOG = Catalog(otherwise="movie")
A, B = ([f"tt{number:07d}" for number in range(1, last + 1)] for last in (20, 30))


async def harvested(settings: Settings) -> HarvestReport:
    return await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))


async def ids_that_stand(bucket: Bucket) -> Counter[str]:
    """How often each id stands in the day's folders, in lines that a reader could read."""
    ids: Counter[str] = Counter()
    for key in await bucket.objects("Raw/API/Movies/"):
        for line in (await bucket.read(key) or b"").splitlines():
            with suppress(orjson.JSONDecodeError):
                ids[orjson.loads(line)["imdb_id"]] += 1
    return ids


async def file_of(bucket: Bucket) -> str:
    [key] = await bucket.objects("Raw/API/Movies/")
    return key


@pytest.mark.parametrize("cut", [1, 300, 2_000])
async def test_what_is_left_of_a_file_that_was_cut_off_does_not_stand_twice(
    cut: int, bucket: Bucket, settings_for: Make
) -> None:
    """Another run of the day asks for the titles of the broken lines alone."""
    async with fake_tmdb(catalog=CATALOG) as tmdb:
        await harvested(settings_for(tmdb.url, movies=A))
        key = await file_of(bucket)
        await bucket.put(key, (await bucket.read(key) or b"")[:-cut])
        await harvested(settings_for(tmdb.url, movies=B))
    assert await ids_that_stand(bucket) == Counter(B)


@pytest.mark.parametrize("number", [2, 3])
async def test_a_stray_file_of_a_batch_that_is_done_makes_no_title_fresh(
    number: int, bucket: Bucket, settings_for: Make
) -> None:
    """Its receipt does not name the file: `verify --repair` would remove it, and the title with it."""
    async with fake_tmdb(catalog=CATALOG) as tmdb:
        await harvested(settings_for(tmdb.url, movies=A))
        stray = (await file_of(bucket)).replace(".json", f".{number}.json")
        await bucket.put(stray, b'{"imdb_id":"tt0000025","harvest":{"kind":"movie","tmdb_id":1}}\n')
        report = await harvested(settings := settings_for(tmdb.url, movies=B))
        assert report.totals.fresh == len(A)
        await verify(settings, day=report.run[:10], repairing=True)
    assert await ids_that_stand(bucket) == Counter(B)


def with_other_number(receipt: Any) -> None:
    receipt["outcomes"][A[0]]["tmdb_id"] += 1


LATE: dict[str, Callable[[Any], object]] = {
    "another generation": lambda receipt: receipt.update(generation="0" * 16),
    "another outcome": with_other_number,
    "another file": lambda receipt: receipt["files"][0].update(sha256="0" * 64, etag="0" * 32),
}


def edited(body: bytes, edit: Callable[[Any], object]) -> bytes:
    """The receipt with other contents, as whole as it was."""
    receipt = orjson.loads(body)
    edit(receipt)
    return with_checksum(receipt)


@pytest.mark.parametrize(
    "late",
    [
        *[pytest.param(lambda _, what=what: what, id=repr(what)) for what in (b"{}", b"", b"a page")],
        *[pytest.param(partial(edited, edit=edit), id=name) for name, edit in LATE.items()],
    ],
)
async def test_no_totals_are_reconciled_over_a_receipt_that_was_replaced(
    late: Callable[[bytes], bytes], s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """Such as by the put of a harvest that was killed, which arrives late: exit 1, and the next harvest closes them."""

    async def replaced(call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward()
        await bucket.put(call.key, late(await bucket.read(call.key) or b""))
        return response

    async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
        settings = settings_for(tmdb.url, movies=A, aws_endpoint_url_s3=link.url)
        link.rules["put"] = on_keys("/receipts/", replaced)
        with pytest.raises(CorruptLakeError, match="is not what was written"):
            await harvested(settings)
        link.rules.clear()
        report = await harvested(settings)
        assert (report.status, (await verify(settings)).problems) == ("closed", [])


@pytest.mark.parametrize("what", ["outcomes", "Movies/", "ids-"])
async def test_no_upload_is_left_whose_beginning_was_answered_too_late(
    what: str, s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """S3 began it, the response was lost, and botocore began another: the first is aborted before the summary."""
    async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
        rule: Any = on_keys(what, at_first(reset_after))
        link.rules["create"] = rule
        report = await harvested(settings_for(tmdb.url, movies=A, aws_endpoint_url_s3=link.url))
    assert (report.status, await bucket.uploads("Raw/API/")) == ("closed", [])
