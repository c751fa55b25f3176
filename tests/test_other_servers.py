"""Servers whose listing is not what their answers were: the totals reconcile, and the next start has nothing to do."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from conftest import Silent
from loops import no_wait

from harvester.commands.harvest import harvest
from harvester.commands.verify import verify
from harvester.errors import CorruptLakeError, StoreError
from harvester.fakes.catalog import Catalog
from harvester.fakes.s3_proxy import s3_proxy
from harvester.fakes.tmdb import fake_tmdb
from harvester.runtime.clock import Clock
from harvester.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from harvester.fakes.s3_proxy import Call, Forward, Rule, S3Proxy
    from harvester.fakes.s3_server import S3Server
    from harvester.fakes.tmdb import FakeTmdb
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

MOVIES = [f"tt{number:07d}" for number in range(1, 131)]
CATALOG = Catalog(kinds={MOVIES[4]: "tv", MOVIES[5]: "unknown"}, otherwise="movie")
ETAG = re.compile(rb"<ETag>.*?</ETag>")


def rewriting(change: Callable[[bytes], bytes]) -> Rule:
    """Passes a call on, and changes the body of its response."""

    async def rule(_call: Call, forward: Forward) -> web.StreamResponse:
        response = await forward()
        assert isinstance(response.body, bytes)
        return web.Response(status=response.status, body=change(response.body), content_type="application/xml")

    return rule


def etags(new: bytes | Callable[[bytes], bytes]) -> Rule:
    """Another ETag in each place of an answer that has one."""
    change = new if callable(new) else lambda _old: new
    return rewriting(lambda body: ETAG.sub(lambda found: b"<ETag>" + change(found[0][6:-7]) + b"</ETag>", body))


def behind(listings: int) -> Rule:
    """A listing that lacks each object in the first so many listings that would have it."""
    seen: Counter[bytes] = Counter()

    def drop(found: re.Match[bytes]) -> bytes:
        key = re.search(rb"<Key>(.*?)</Key>", found[0])
        assert key is not None
        seen[key[1]] += 1
        return b"" if seen[key[1]] <= listings else found[0]

    return rewriting(lambda body: re.sub(rb"<Contents>.*?</Contents>", drop, body, flags=re.DOTALL))


SERVERS: dict[str, tuple[str, Rule]] = {
    "completes with another ETag": ("complete", etags(b"&quot;00000000000000000000000000000000-1&quot;")),
    "completes with an ETag without quotes": (
        "complete",
        etags(lambda old: old.replace(b"&#34;", b"").replace(b"&quot;", b"")),
    ),
    "lists ETags without the number of parts": ("list", etags(lambda old: old.replace(b"-1", b""))),
    "lists ETags in upper case": ("list", etags(bytes.upper)),
    "lists one ETag for all": ("list", etags(b"&quot;none&quot;")),
    "lists what was written two listings later": ("list", behind(2)),
}


async def answered(settings: Settings) -> Any:
    """A harvest, its waits taking no time, and what `verify` says then."""
    report = await harvest(settings, observer=Silent(), shutdown=Shutdown(), clock=Clock(sleep=no_wait))
    return report, await verify(settings)


@pytest.mark.parametrize("name", SERVERS)
async def test_whatever_a_server_lists_the_totals_reconcile_and_stay_so(
    name: str, s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """One rule when a run is opened and when it is closed: by ETag, or else by the bytes."""
    async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
        operation, link.rules[operation] = SERVERS[name]
        settings = settings_for(tmdb.url, movies=MOVIES, aws_endpoint_url_s3=link.url)
        report, verification = await answered(settings)
        assert (report.status, report.exit_code, report.totals.found, verification.problems) == ("closed", 0, 129, [])
        asked = titles_asked(tmdb)
        report, verification = await answered(settings)
        assert (report.exit_code, verification.problems, titles_asked(tmdb)) == (0, [], asked)
        assert report.status == "nothing_to_do" or "later" in name  # it may list the outcomes later too


def titles_asked(tmdb: FakeTmdb) -> int:
    """Requests but for those of the key."""
    return sum(count for (route, _), count in tmdb.asked.items() if route != "authentication")


async def broken(link: S3Proxy, settings: Settings) -> None:
    with pytest.raises(CorruptLakeError, match="is gone or not what landed"):
        await answered(settings)


async def test_a_listing_that_never_has_what_landed_is_believed_in_the_end(
    s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """Ten listings without a file are a file that is gone: exit 1, and the same command on a sound server closes."""
    async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
        settings = settings_for(tmdb.url, movies=MOVIES, aws_endpoint_url_s3=link.url)
        link.rules["list"] = behind(99)
        await broken(link, settings)
        link.rules.clear()
        asked = tmdb.asked.total()
        report, verification = await answered(settings)
        assert (report.status, report.totals.found, verification.problems) == ("closed", 129, [])
        assert tmdb.asked.total() == asked + 1  # the key


async def test_what_differs_in_its_etag_and_in_its_bytes_is_not_what_landed(
    s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """Where ETags say nothing, a file edited to the same size before the close is seen by its SHA-256."""
    async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
        settings = settings_for(tmdb.url, movies=MOVIES, aws_endpoint_url_s3=link.url)
        observer = Silent()

        async def edit(call: Call, forward: Forward) -> web.StreamResponse:
            if "receipts/" in call.key and len(observer.batches) == 2:
                [key] = [key for key in await bucket.objects("Raw/API/Movies/") if observer.batches[0].batch in key]
                body = await bucket.read(key) or b""
                await bucket.put(key, body.replace(b'"status":"Released"', b'"status":"Rumoured"'))
            return await forward()

        link.rules["list"] = edit
        with pytest.raises(CorruptLakeError, match="is not what landed"):
            await harvest(settings, observer=observer, shutdown=Shutdown(), clock=Clock(sleep=no_wait))


async def test_listings_without_etags_are_noticed_before_a_title_is_asked_for(
    s3: S3Server, bucket: Bucket, settings_for: Make
) -> None:
    """An object that lands there looks like the one it replaces: exit 4, and TMDB was asked for the key alone."""
    async with fake_tmdb(catalog=CATALOG) as tmdb, s3_proxy(s3.endpoint) as link:
        link.rules["list"] = rewriting(lambda body: ETAG.sub(b"", body))
        settings = settings_for(tmdb.url, movies=MOVIES, aws_endpoint_url_s3=link.url)
        with pytest.raises(StoreError, match="a listing without ETags"):
            await answered(settings)
        assert titles_asked(tmdb) == 0
