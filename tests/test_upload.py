"""Upload: the CSV files into the raw zone, whole or not at all, known by their SHA-256; against a real S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from conftest import capture_logs, client_of, gzip_of
from loops import Leaping, run_on
from rich.console import Console
from shells import Shell, kept
from test_memory import PEAK, posix

from harvester import __version__
from harvester.cli.progress import upload_progress
from harvester.commands.upload import CsvKeys, Uploaded, UploadReport, upload
from harvester.errors import Exit, InputError, SettingsError, StoppedError, StoreError
from harvester.fakes.catalog import Catalog
from harvester.fakes.s3_proxy import at_first, on_keys, refusing, s3_proxy, silent
from harvester.fakes.tmdb import KEY, fake_tmdb
from harvester.model.key_template import KeyTemplate
from harvester.reports.text import show_upload
from harvester.runtime.concurrency import fan_out
from harvester.runtime.shutdown import Shutdown
from harvester.store.multipart import FILE_PART_BYTES, PARTS_LIMIT, POLL_SECONDS, part_bytes, progress_deadline
from harvester.store.s3 import CALL_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from harvester.fakes.s3_proxy import Call, Forward, S3Proxy
    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]

NOWHERE = "http://127.0.0.1:9/3"
"""A TMDB that nobody asks."""

DAY, NEXT_DAY = "2026-11-22", "2026-11-23"
MOVIES_KEY = "Raw/Local/CSV/Movies/2026/11/22/movies.csv"
SERIES_KEY = "Raw/Local/CSV/Series/2026/11/22/series.csv"
TEMPLATE = "Raw/Local/CSV/{collection}/{yyyy}/{mm}/{dd}/{name}"

HEAD_OF_CSV = b"id|tituloPincipal\n"
LARGE = 2 * FILE_PART_BYTES + 12_345
"""Bytes of a file of three parts."""


def csv_of(size: int, *, mark: bytes = b"tt0000001|A\xc3\xa7\xc3\xa3o\n") -> bytes:
    """A CSV of so many bytes, no two blocks of it alike."""
    rows = b"".join(b"%d %s" % (number, mark) for number in range(size // (len(mark) + 2) + 1))
    return (HEAD_OF_CSV + rows)[:size]


@dataclass(slots=True)
class World:
    """A bucket, a link before it, and the CSVs of a folder.

    Attributes:
        settings: Those of an upload through the link.
        lake: The bucket, past the link.
    """

    link: S3Proxy
    settings: Settings
    lake: Bucket
    server: S3Server
    folder: Path
    result: list[tuple[str, int, int]] = field(default_factory=list)

    def write(self, name: str, body: bytes) -> str:
        path = self.folder / name
        path.write_bytes(body)
        return str(path)

    def having(self, **more: Any) -> Settings:
        return self.settings.model_copy(update=more)

    async def upload(
        self, *, day: str = DAY, pass_s3: bool = False, shutdown: Shutdown | None = None, **more: Any
    ) -> Any:
        """What comes of an upload on that day."""
        return await upload(
            self.having(**more),
            shutdown=shutdown or Shutdown(),
            progress=lambda *result: self.result.append(result),
            pass_s3=pass_s3,
            now=lambda: f"{day}T12:00:00.000Z",
        )

    async def head(self, key: str) -> dict[str, Any]:
        """What S3 says of an object, asked by another client."""
        async with client_of(self.server) as client:
            head: dict[str, Any] = await client.head_object(Bucket=self.lake.name, Key=key)
        return head

    async def left(self) -> tuple[list[str], list[str]]:
        """The keys of all objects, and of all unfinished uploads."""
        return list(await self.lake.objects("")), [key for key, _ in await self.lake.uploads("")]

    def url(self, key: str) -> str:
        return f"s3://{self.lake.name}/{key}"


@pytest.fixture
async def world(s3: S3Server, bucket: Bucket, settings_for: Make, tmp_path: Path) -> AsyncIterator[World]:
    async with s3_proxy(s3.endpoint) as link:
        (tmp_path / "csv").mkdir()
        yield World(link, settings_for(NOWHERE, aws_endpoint_url_s3=link.url), bucket, s3, tmp_path / "csv")


# --- keys


@pytest.mark.parametrize(
    ("template", "key", "folder", "date"),
    [
        (TEMPLATE, MOVIES_KEY, "Raw/Local/CSV/Movies/", ("2026", "11", "22")),
        ("Raw/{yyyy}{mm}/{dd}-{yyyy}/{collection}/{name}", "Raw/202611/22-2026/Movies/movies.csv", "Raw/", DAY),
        ("{collection}/{dd}/{mm}/{yyyy}/{name}", "Movies/22/11/2026/movies.csv", "Movies/", DAY),
        ("a.b/{collection}/{yyyy}/{name}", "a.b/Movies/2026/movies.csv", "a.b/Movies/", ("2026",)),
        ("CSV/{collection}/{name}", "CSV/Movies/movies.csv", "CSV/Movies/movies.csv", ()),
    ],
)
def test_a_key_follows_from_the_template_and_gives_its_day(template: str, key: str, folder: str, date: Any) -> None:
    """Whatever the order of its parts, the newest of several days is known by the date, not by the alphabet."""
    keys = CsvKeys(KeyTemplate(template), "Movies", "movies.csv")
    assert (keys.key(DAY), keys.folder) == (key, folder)
    assert keys.date_in(key) == (tuple(date.split("-")) if isinstance(date, str) else date)
    foreign = (f"{key}.gz", f"x{key}", key.replace("Movies", "Series"), key.replace("movies", "films"))
    assert [keys.date_in(foreign_key) for foreign_key in foreign] == [None] * 4


def test_a_date_that_contradicts_itself_is_none() -> None:
    """A template may name the year twice; a key with two years is not of it."""
    keys = CsvKeys(KeyTemplate("{yyyy}/{collection}/{yyyy}/{name}"), "Movies", "movies.csv")
    assert keys.date_in("2026/Movies/2025/movies.csv") is None
    assert keys.date_in("2026/Movies/2026/movies.csv") == ("2026",)


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (1, FILE_PART_BYTES),
        (164_700_000, FILE_PART_BYTES),
        (PARTS_LIMIT * FILE_PART_BYTES, FILE_PART_BYTES),
        (PARTS_LIMIT * FILE_PART_BYTES + 1, 9 * 2**20),
        (5 * 2**40, 525 * 2**20),
    ],
)
def test_no_file_has_over_ten_thousand_parts(size: int, length: int) -> None:
    """Parts of 8 MiB do for 84 GB; those of a larger file are longer."""
    assert part_bytes(size) == length
    assert -(-size // length) <= PARTS_LIMIT


# --- what lands


async def test_both_csvs_land_byte_for_byte_and_say_what_they_are(world: World) -> None:
    """Under today's key of their collection, with SHA-256 and type, whatever they are called here; all is reported."""
    movies, series = csv_of(LARGE), csv_of(4_000)
    sources = {
        "movies_csv": world.write("Filmes e séries.txt", movies),
        "series_csv": world.write("séries+'x'.csv", series),
    }
    report = await world.upload(**sources)
    assert [await world.lake.read(key) for key in (MOVIES_KEY, SERIES_KEY)] == [movies, series]
    for key, body in ((MOVIES_KEY, movies), (SERIES_KEY, series)):
        head = await world.head(key)
        assert (head["ContentType"], head["Metadata"]) == ("text/csv", {"sha256": sha256(body).hexdigest()})
    assert report.as_json() | {"seconds": 0} == {
        "status": "uploaded",
        "exit_code": 0,
        "version": __version__,
        "files": [
            {
                "source": source,
                "collection": collection,
                "status": "uploaded",
                "url": world.url(key),
                "bytes": len(body),
                "sha256": sha256(body).hexdigest(),
                "read_back": True,
            }
            for source, collection, key, body in (
                (sources["movies_csv"], "Movies", MOVIES_KEY, movies),
                (sources["series_csv"], "Series", SERIES_KEY, series),
            )
        ],
        "seconds": 0,
    }
    assert sorted(await world.lake.objects("")) == [MOVIES_KEY, SERIES_KEY]


async def test_a_file_is_gzip_by_its_first_bytes(world: World) -> None:
    """It goes up as it is, so it is called so: by what is in it, not by its name here."""
    zipped = gzip_of(csv_of(9_000))
    await world.upload(movies_csv=world.write("movies.csv", zipped), series_csv=world.write("s.csv.gz", csv_of(90)))
    assert sorted(await world.lake.objects("")) == [f"{MOVIES_KEY}.gz", SERIES_KEY]
    assert await world.lake.read(f"{MOVIES_KEY}.gz") == zipped
    assert (await world.head(f"{MOVIES_KEY}.gz"))["ContentType"] == "application/gzip"


async def test_the_template_says_where_they_land(world: World) -> None:
    """Also one without a date, under whose one key a changed file replaces the old one."""
    template = {"s3_csv_template": "CSV/{collection}/{name}"}
    csv = world.write("movies.csv", csv_of(900))
    assert (await world.upload(movies_csv=csv, **template)).status == "uploaded"
    [again] = (await world.upload(movies_csv=csv, day=NEXT_DAY, **template)).files
    assert (again.status, again.url, again.since) == ("unchanged", world.url("CSV/Movies/movies.csv"), None)
    world.write("movies.csv", csv_of(901))
    assert (await world.upload(movies_csv=csv, day=NEXT_DAY, **template)).status == "uploaded"
    assert {key: file.bytes for key, file in (await world.lake.objects("")).items()} == {"CSV/Movies/movies.csv": 901}


async def test_parts_are_sent_side_by_side_and_checked(world: World) -> None:
    """Four at most, of 8 MiB, each with the checksum that S3 holds it against."""
    under: list[int] = []
    most: list[int] = []

    async def count(call: Call, forward: Forward) -> web.StreamResponse:
        under.append(1)
        most.append(len(under))
        try:
            return await forward()
        finally:
            under.pop()

    world.link.rules["part"] = count
    await world.upload(movies_csv=world.write("movies.csv", csv_of(5 * FILE_PART_BYTES + 7)))
    parts = [call for call in world.link.seen if call.operation == "part"]
    assert sorted(call.bytes for call in parts) == [7] + [FILE_PART_BYTES] * 5
    assert max(most) == 4
    assert all("x-amz-checksum-crc32" in {name.lower() for name in call.headers} for call in parts)


async def test_nothing_is_asked_of_s3_but_what_the_readme_lists(world: World) -> None:
    """List, list uploads, begin, upload, complete, HEAD: no permission to remove or copy is needed."""
    csv = world.write("movies.csv", csv_of(900))
    for body in (csv_of(900), csv_of(800), csv_of(800)):
        world.write("movies.csv", body)
        await world.upload(movies_csv=csv)
    asked = Counter(call.operation for call in world.link.seen)
    assert asked == {"list": 3, "uploads": 2, "create": 2, "part": 2, "complete": 2, "other": 4}
    assert {call.request.method for call in world.link.seen if call.operation == "other"} == {"HEAD"}


# --- unchanged


async def test_an_unchanged_file_is_not_sent_again(world: World) -> None:
    """Not on the same day and not on a later one: the result says where it stands, and since when."""
    csv = world.write("movies.csv", csv_of(LARGE))
    await world.upload(movies_csv=csv)
    for day in (DAY, NEXT_DAY):
        report = await world.upload(movies_csv=csv, day=day)
        [file] = report.files
        assert (report.status, file.status, file.url, file.since) == (
            "unchanged",
            "unchanged",
            world.url(MOVIES_KEY),
            DAY,
        )
    assert world.link.times("create") == 1


async def test_a_changed_file_is_sent_again_and_so_is_what_it_was_before(world: World) -> None:
    """It is the newest object that counts: who takes a change back wants to find that there."""
    csv, keys = world.write("movies.csv", b""), []
    for body, day in ((b"id\ntt1\n", DAY), (b"id\ntt2\n", NEXT_DAY), (b"id\ntt1\n", "2026-12-01")):
        world.write("movies.csv", body)
        [file] = (await world.upload(movies_csv=csv, day=day)).files
        keys.append(file.url.removeprefix(world.url("")))
        assert (file.status, await world.lake.read(keys[-1])) == ("uploaded", body)
    assert len(set(keys)) == 3


async def test_what_somebody_else_has_put_there_does_not_count_as_unchanged(world: World) -> None:
    """A placeholder, or a manual upload of the same bytes, has no SHA-256 of ours; it is replaced by one that has."""
    body = csv_of(900)
    await world.lake.put(MOVIES_KEY, b"")
    await world.lake.put(SERIES_KEY, body)
    csvs = {"movies_csv": world.write("m.csv", body), "series_csv": world.write("s.csv", body)}
    assert [file.status for file in (await world.upload(**csvs)).files] == ["uploaded"] * 2
    assert [await world.lake.read(key) for key in (MOVIES_KEY, SERIES_KEY)] == [body] * 2
    assert (await world.head(SERIES_KEY))["Metadata"] == {"sha256": sha256(body).hexdigest()}


async def test_an_object_of_a_day_to_come_is_not_the_newest(world: World) -> None:
    """A key with a wrong year, made by a wrong clock, does not have the same file uploaded every day."""
    csv = world.write("movies.csv", csv_of(900))
    await world.lake.put("Raw/Local/CSV/Movies/2206/11/22/movies.csv", b"from the future")
    await world.upload(movies_csv=csv)
    assert (await world.upload(movies_csv=csv)).status == "unchanged"


async def test_neighbours_are_not_taken_for_the_csv(world: World) -> None:
    """Other files below the folder, and the other collection's, say nothing of this one."""
    csv = world.write("movies.csv", csv_of(900))
    await world.upload(movies_csv=csv)
    for key in ("2026/11/23/movies.csv.gz", "2026/11/23/old/movies.csv", "2026/11/23/x.csv", "zz"):
        await world.lake.put(f"Raw/Local/CSV/Movies/{key}", b"something")
    assert (await world.upload(movies_csv=csv, day="2026-11-24")).status == "unchanged"


# --- what cannot be uploaded


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("nowhere.csv", "nowhere.csv: cannot be read (No such file or directory): give the path of a CSV file"),
        (".", ".: is a folder: give the path of a CSV file"),
        ("/dev/null", "/dev/null: is no file, but a pipe or a device: give the path of a CSV file"),
        ("fifo", "fifo: is no file, but a pipe or a device: give the path of a CSV file"),
        ("empty.csv", "empty.csv: is empty: was the download or the export finished?"),
        ("-", "-: standard input cannot be uploaded, since a file is read twice: give the path of a CSV file"),
        ("", "--movies or --series: is no path: give the path of a CSV file"),
        ("a\0b", "a\0b: is no path: give the path of a CSV file"),
        (
            "s3://l/a.csv",
            "s3://l/a.csv: is in S3, and a file is uploaded: give its path, or let harvest take it from there",
        ),
        (
            os.fsdecode(b"f\xefn.csv"),
            r"f\udcefn.csv: cannot be read (No such file or directory): give the path of a CSV file",
        ),
    ],
    ids=lambda value: repr(value[:12]),
)
async def test_what_cannot_be_uploaded_is_reported_before_anything_is_sent(
    world: World, source: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence and exit 2; the good file beside it is not sent either, and S3 is asked nothing."""
    valid = world.write("movies.csv", csv_of(900))
    monkeypatch.chdir(world.folder)
    Path("empty.csv").touch()
    os.mkfifo("fifo")
    with pytest.raises(InputError) as caught:
        await world.upload(movies_csv=valid, series_csv=source)
    assert (str(caught.value), caught.value.exit_code, world.link.seen) == (sentence, Exit.USAGE, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_a_file_that_may_not_be_read_is_reported(world: World) -> None:
    """The system's own word for it."""
    csv = world.write("movies.csv", csv_of(900))
    Path(csv).chmod(0)
    with pytest.raises(InputError, match=r"movies\.csv: cannot be read \(Permission denied\)"):
        await world.upload(movies_csv=csv)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [({}, "There is no CSV to read"), ({"movies_csv": "a", "s3_bucket": None}, "S3_BUCKET is not set: give --bucket")],
)
async def test_what_is_not_set_is_reported(world: World, more: dict[str, Any], sentence: str) -> None:
    """As for every command."""
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        await world.upload(**more)


async def test_a_csv_in_s3_is_passed_over_where_it_is_harvested_too(world: World) -> None:
    """It is not looked at; the other one is uploaded."""
    source = "s3://elsewhere/series.csv"
    csv = world.write("movies.csv", csv_of(900))
    report = await world.upload(movies_csv=csv, series_csv=source, pass_s3=True)
    assert [file.status for file in report.files] == ["uploaded", "in_s3"]
    assert report.as_json()["files"][1] == {
        "source": source,
        "collection": "Series",
        "status": "in_s3",
        "url": source,
    }


# --- trouble on the way


def meanwhile(change: Callable[[], object]) -> Any:
    """A rule by which `change` is made when a part has come."""

    async def rule(call: Call, forward: Forward) -> web.StreamResponse:
        change()
        return await forward()

    return at_first(rule)


@pytest.mark.parametrize("harm", ["edited", "appended to", "cut", "emptied"])
async def test_a_file_that_changes_on_the_way_is_not_stored(world: World, harm: str) -> None:
    """What was hashed and what is sent are the same bytes, or nothing is there, and the sentence says so."""
    body = csv_of(6 * FILE_PART_BYTES)
    path = Path(world.write("movies.csv", body))
    await world.lake.put(MOVIES_KEY, b"of before")

    def change() -> None:
        with path.open("r+b") as file:
            if harm == "edited":
                file.seek(len(body) - 9)
                file.write(b"x")
            elif harm == "appended to":
                file.seek(0, io.SEEK_END)
                file.write(b"tt1|x\n")
            else:
                file.truncate(len(body) - 9 if harm == "cut" else 0)

    world.link.rules["create"] = meanwhile(change)
    with pytest.raises(InputError) as caught:
        await world.upload(movies_csv=str(path))
    assert str(caught.value) == f"{path}: has changed while it was read, and is not stored: upload it when it is whole"
    assert await world.left() == ([MOVIES_KEY], [])
    assert await world.lake.read(MOVIES_KEY) == b"of before"


async def test_a_file_that_is_replaced_on_the_way_goes_up_as_it_was(world: World) -> None:
    """An export that is renamed into place is another file: the one that was hashed is sent to its end."""
    body = csv_of(LARGE)
    path = Path(world.write("movies.csv", body))
    other = Path(world.write("new.csv", csv_of(900)))
    world.link.rules["create"] = meanwhile(lambda: other.rename(path))
    await world.upload(movies_csv=str(path))
    assert await world.lake.read(MOVIES_KEY) == body


async def test_a_part_that_fails_at_first_is_sent_again(world: World) -> None:
    """Passing trouble is nobody's business: what is there is the file."""
    body = csv_of(LARGE)
    world.link.rules["part"] = at_first(refusing(503, "SlowDown"), refusing(500, "InternalError"))
    await world.upload(movies_csv=world.write("movies.csv", body))
    assert world.link.times("part") == 5
    assert await world.lake.read(MOVIES_KEY) == body


async def test_an_upload_that_is_gone_at_its_end_is_done_again(world: World) -> None:
    """Aborted by somebody else, say: the file is read and sent once more, and the progress begins anew."""
    body = csv_of(LARGE)
    world.link.rules["complete"] = at_first(refusing(404, "NoSuchUpload"))
    await world.upload(movies_csv=world.write("movies.csv", body))
    assert world.link.times("create") == 2
    assert await world.lake.read(MOVIES_KEY) == body
    done = [done for _, done, _ in world.result]
    assert (done[-1], done == sorted(done)) == (LARGE, False)
    assert (await world.left())[1] == []


async def test_a_refusal_aborts_the_upload(world: World) -> None:
    """What S3 says is reported with its exit code; nothing is visible and nothing is billed."""
    world.link.rules["part"] = on_keys("series", refusing(403, "AccessDenied"))
    movies, series = world.write("movies.csv", csv_of(900)), world.write("series.csv", csv_of(LARGE))
    with pytest.raises(StoreError) as caught:
        await world.upload(movies_csv=movies, series_csv=series)
    assert (caught.value.exit_code, caught.value.code) == (Exit.STORE, "AccessDenied")
    assert await world.left() == ([MOVIES_KEY], [])
    world.link.rules.clear()
    assert [file.status for file in (await world.upload(movies_csv=movies, series_csv=series)).files] == [
        "unchanged",
        "uploaded",
    ]


async def test_a_head_that_is_refused_says_what_to_grant(world: World) -> None:
    """An answer to HEAD has no body, and so no word of S3's: it is the permission that is wanting."""
    world.link.rules["other"] = refusing(403, "")
    with pytest.raises(StoreError) as caught:
        await world.upload(movies_csv=world.write("movies.csv", csv_of(900)))
    assert str(caught.value) == (
        f"Cannot look at {world.url(MOVIES_KEY)}: AccessDenied. "
        "Grant this action to the credentials in use (README, section on permissions)."
    )


@pytest.mark.parametrize(
    ("result", "seen"),
    [
        (web.Response(headers={"Content-Length": "899"}), "899 bytes with sha256 None"),
        (web.Response(headers={"Content-Length": "900", "x-amz-meta-sha256": "0"}), "900 bytes with sha256 0"),
        (web.Response(status=404), "nothing there"),
    ],
    ids=["shorter", "another", "gone"],
)
async def test_what_is_read_back_must_be_what_was_sent(world: World, result: web.Response, seen: str) -> None:
    """Uploaded is said of nothing that S3 has not confirmed, size and SHA-256."""

    async def rule(call: Call, forward: Forward) -> web.StreamResponse:
        return result

    world.link.rules["other"] = rule
    body = csv_of(900)
    with pytest.raises(StoreError) as caught:
        await world.upload(movies_csv=world.write("movies.csv", body))
    assert str(caught.value) == (
        f"Cannot read back {world.url(MOVIES_KEY)}: {seen}. It was 900 bytes with {sha256(body).hexdigest()}. "
        "Does another program write there? Upload it again."
    )


async def test_uploads_that_a_kill_has_left_are_aborted_of_whatever_day(world: World) -> None:
    """Yesterday's key never comes again, its parts would be billed for ever; an upload to another key is left alone."""
    yesterday, other_key = MOVIES_KEY.replace("/22/", "/21/"), "Raw/Local/CSV/Movies/2026/11/22/other.csv"
    async with client_of(world.server) as client:
        for key in (MOVIES_KEY, MOVIES_KEY, yesterday, other_key, SERIES_KEY):
            await client.create_multipart_upload(Bucket=world.lake.name, Key=key)
    with capture_logs() as logs:
        await world.upload(movies_csv=world.write("movies.csv", csv_of(900)))
    assert sorted((await world.left())[1]) == sorted([SERIES_KEY, other_key])
    aborted = [line["key"] for line in logs if line["event"] == "upload_aborted"]
    assert sorted(aborted) == sorted([MOVIES_KEY, MOVIES_KEY, yesterday])


async def test_two_uploads_of_one_csv_at_once_leave_it_whole(world: World) -> None:
    """Each may abort what the other has begun, and who is aborted begins anew."""
    csv, body = world.write("movies.csv", csv_of(LARGE)), csv_of(LARGE)
    reports = await fan_out(lambda _: world.upload(movies_csv=csv), range(2), at_once=2)
    assert [report.files[0].sha256 for report in reports] == [sha256(body).hexdigest()] * 2
    assert await world.lake.read(MOVIES_KEY) == body
    assert await world.left() == ([MOVIES_KEY], [])


@pytest.mark.parametrize("where", ["other", "create", "part", "complete"])
async def test_asked_to_stop_it_aborts_at_once(world: World, where: Any) -> None:
    """Wherever it is, what is under way is aborted, and nothing is left."""
    await world.lake.put(MOVIES_KEY, b"of before")
    held, shutdown = asyncio.Event(), Shutdown()

    async def pause(call: Call, forward: Forward) -> web.StreamResponse:
        held.set()
        shutdown.request("SIGTERM")
        if where == "create":  # the one small call that is let finish
            return await forward()
        return await silent(call, forward)

    world.link.rules[where] = pause
    with pytest.raises(StoppedError, match=r"^Stopped by SIGTERM\. What has landed is safe; run again to go on\.$"):
        await world.upload(movies_csv=world.write("movies.csv", csv_of(LARGE)), shutdown=shutdown)
    assert held.is_set()
    assert await world.left() == ([MOVIES_KEY], [])
    assert await world.lake.read(MOVIES_KEY) == b"of before"


# --- slow and stalled


def on_the_way(steps: Callable[[io.BytesIO], AsyncIterator[None]]) -> tuple[float, list[int]]:
    """Seconds after which a part that moves so is given up, or has arrived, and what was reported of it."""
    progress: list[int] = []

    async def story() -> float:
        loop, part = asyncio.get_running_loop(), io.BytesIO(bytes(1_000))
        began = loop.time()
        with contextlib.suppress(TimeoutError):
            async with progress_deadline(part, CALL_SECONDS, progress.append):
                async for _ in steps(part):
                    pass
                progress.append(-1)
        return loop.time() - began

    return run_on(Leaping(look=0), story()), progress


def test_a_part_that_gets_on_has_all_the_time_it_needs() -> None:
    """Ten times the deadline, at a byte a second: who is slow lands, too."""

    async def steps(part: io.BytesIO) -> AsyncIterator[None]:
        for _ in range(600):
            await asyncio.sleep(1)
            part.read(1)
            yield

    seconds, progress = on_the_way(steps)
    assert seconds == pytest.approx(600)
    assert progress[-2:] == [-1, 1_000]
    assert progress[:-2] == sorted(progress[:-2])


@pytest.mark.parametrize("far", [0, 400, 1_000])
def test_a_part_that_does_not_get_on_is_given_up_after_a_minute(far: int) -> None:
    """Not begun, stuck in the midst, or sent whole and not answered: 60 s from when it was last seen to move."""

    async def steps(part: io.BytesIO) -> AsyncIterator[None]:
        part.read(far)
        await asyncio.sleep(10_000)
        yield

    seconds, progress = on_the_way(steps)
    assert seconds == pytest.approx(CALL_SECONDS + (POLL_SECONDS if 0 < far < 1_000 else 0))
    assert -1 not in progress


def test_a_part_that_is_sent_again_has_its_time_again() -> None:
    """Half of it, a reset, and all of it again, a byte a second."""

    async def steps(part: io.BytesIO) -> AsyncIterator[None]:
        for length in (500, 900):
            part.seek(0)
            for _ in range(length):
                await asyncio.sleep(1)
                part.read(1)
            yield

    assert on_the_way(steps)[0] == pytest.approx(1_400)


def test_a_slow_part_of_a_file_lands(settings_for: Make) -> None:
    """At 33 KB a second a part takes minutes, and no call gives it up; the progress is reported meanwhile.

    Only the first megabytes are slow: the loopback's buffers take 4.7 at once, and a server has 20 s from the end on.
    """

    async def slow(call: Call, forward: Forward) -> web.StreamResponse:
        assert call.request.transport is not None
        call.request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        taken = 0
        async for block in call.request.content.iter_chunked(2**18):
            taken += len(block)
            await asyncio.sleep(8 if taken < 3_500_000 else 0)
        assert taken == call.bytes
        return web.Response(headers={"ETag": '"e"'})

    async def otherwise(call: Call, forward: Forward) -> web.StreamResponse:
        xml = "<x><UploadId>u</UploadId><ETag>e</ETag><IsTruncated>false</IsTruncated></x>"
        return web.Response(text=xml, content_type="application/xml")

    async def nothing_there(call: Call, forward: Forward) -> web.StreamResponse:
        return web.Response(status=404)

    async def story() -> float:
        loop = asyncio.get_running_loop()
        async with s3_proxy() as link:
            link.rules |= {"part": slow, "*": otherwise, "other": nothing_there}
            settings = settings_for(NOWHERE, movies_csv="movies.csv", aws_endpoint_url_s3=link.url)
            began = loop.time()
            with pytest.raises(StoreError, match="Cannot read back"):  # it is no S3
                await upload(settings, shutdown=Shutdown(), progress=lambda _name, done, _all: far.append(done))
            assert [link.times(operation) for operation in ("part", "complete", "abort")] == [2, 1, 0]
            return loop.time() - began

    Path("movies.csv").write_bytes(csv_of(FILE_PART_BYTES + 12_345))
    far: list[int] = []
    assert run_on(Leaping(look=0.02), story()) > 1.5 * CALL_SECONDS
    assert (len(set(far)) > 3, far[-1]) == (True, FILE_PART_BYTES + 12_345)


# --- progress


async def test_progress_reports_bytes_of_all_files_to_the_end(world: World) -> None:
    """Which file, and how far of both together; what is unchanged is not counted."""
    movies, series = world.write("movies.csv", csv_of(LARGE)), world.write("series.csv", csv_of(900))
    await world.upload(movies_csv=movies, series_csv=series)
    assert {(name, of) for name, _, of in world.result} == {
        (name, LARGE + 900) for name in ("movies.csv", "series.csv")
    }
    done = [done for _, done, _ in world.result]
    assert (done, done[-1]) == (sorted(done), LARGE + 900)
    world.result.clear()
    world.write("series.csv", csv_of(901))
    await world.upload(movies_csv=movies, series_csv=series)
    assert world.result[-1] == ("series.csv", 901, 901)
    assert {(name, of) for name, _, of in world.result} == {("series.csv", 901)}


def test_where_no_terminal_is_there_is_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, of how many, at which rate, and what is left; none before ten seconds have passed."""
    seconds = iter([0.0, 9.0, 10.0, 15.0, 30.0])
    with capture_logs() as logs, upload_progress(clock=lambda: next(seconds)) as progress:
        for done in (90, 100, 150, 100):
            progress("movies.csv", done, 1_000)
    line = {"event": "sending", "log_level": "info", "file": "movies.csv", "of": 1_000}
    assert logs == [
        line | {"done": 100, "bytes_per_second": 10, "seconds_left": 90},
        line | {"done": 100, "bytes_per_second": 0, "seconds_left": None},  # sent again from the beginning
    ]


def test_on_a_terminal_there_is_a_bar_with_bytes_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is wiped at the end, for the result to follow."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with upload_progress() as progress:
        progress("movies.csv", 0, 164_700_000)
        progress("movies.csv", 82_000_000, 164_700_000)
    text = capsys.readouterr().err
    shown = Console(width=120).render_str(text).plain
    assert "movies.csv" in shown
    assert "82.0/164.7 MB" in shown.replace("\x1b[0m", "").replace("\x1b[32m", "")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_the_result_is_shown_with_urls_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What is long is not cut, brackets are no style, and the command can be pasted."""
    long, two = "x" * 90, "s3://lake/series.csv"
    files = (
        Uploaded("m", "Movies", "uploaded", f"s3://lake/{'x' * 90}/[b] e/movies.csv", 164_700_000, "0" * 64),
        Uploaded("s", "Series", "unchanged", "s3://lake/series.csv", 77_000_000, "1" * 64, DAY),
    )
    show_upload(UploadReport(files, 16.47))
    assert capsys.readouterr().out.splitlines() == [
        "Uploaded.",
        f" Movies   164.7 MB  uploaded                    s3://lake/{'x' * 90}/[b] e/movies.csv",
        " Series    77.0 MB  unchanged since 2026-11-22  s3://lake/series.csv",
        "164.7 MB in 16.5 s (10.0 MB/s); SHA-256 and size stored with each, and read back",
        f"Next: python -m harvester harvest --bucket lake --movies 's3://lake/{long}/[b] e/movies.csv' --series {two}",
    ]
    show_upload(UploadReport((Uploaded("s3://a/b", "Movies", "in_s3", "s3://a/b"),), 1.0), harvested=True)
    assert capsys.readouterr().out.splitlines() == [
        "Nothing to upload.",
        " Movies             in S3 already  s3://a/b",
    ]


# --- the command


@pytest.fixture
def shell_for(world: World) -> Callable[..., Shell]:
    """Makes a shell for the CSVs of these bodies, with the link before S3."""

    def make(*, movies: bytes | None = None, series: bytes | None = None, url: str = NOWHERE) -> Shell:
        settings = {"TMDB_BASE_URL": url, "TMDB_RATE": "1000", "S3_BUCKET": world.lake.name, "TMDB_API_KEY": KEY}
        if movies is not None:
            settings["MOVIES_CSV"] = world.write("Filmes e séries.csv", movies)
        if series is not None:
            settings["SERIES_CSV"] = world.write("series.csv", series)
        link = {"AWS_ENDPOINT_URL_S3": world.link.url}
        return Shell(kept() | world.server.environment() | settings | link, world.folder)

    return make


async def test_the_command_uploads_and_says_where_and_what_next(shell_for: Any, world: World) -> None:
    """Exit 0, a line a file, nothing on standard error; and what it says to do next takes what was uploaded."""
    ids = [f"tt{number:07d}" for number in range(1, 151)]
    movies = HEAD_OF_CSV + "".join(f"{id_}|Ação\n" for id_ in ids).encode()
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        shell = shell_for(movies=movies, url=tmdb.url)
        ended = await shell.run("upload")
        assert (ended.code, ended.err) == (0, "")
        day = next(iter(await world.lake.objects("")))
        lines = ended.out.splitlines()
        assert lines[0] == "Uploaded."
        assert lines[1].split() == ["Movies", f"{len(movies) / 1_000:.1f}", "kB", "uploaded", world.url(day)]
        assert lines[-1] == f"Next: python -m harvester harvest --bucket {world.lake.name} --movies {world.url(day)}"
        harvested = await shell.run(*lines[-1].removeprefix("Next: python -m harvester ").split(), "--json")
    assert (harvested.code, harvested.result["totals"]["found"]) == (0, 150)
    second = await shell.run("upload", "--json")
    assert (second.code, second.result["status"], second.result["files"][0]["url"]) == (0, "unchanged", world.url(day))


async def test_then_harvest_does_both_and_ends_as_the_harvest_does(shell_for: Any, world: World) -> None:
    """The CSVs go up, the totals reconcile, and one JSON object reports both; a second time there is nothing to do."""
    movies = HEAD_OF_CSV + b"".join(b"tt%07d|x\n" % number for number in range(1, 251))
    series = HEAD_OF_CSV + b"tt0900001|x\n"
    async with fake_tmdb(catalog=Catalog(kinds={"tt0900001": "tv"}, otherwise="movie")) as tmdb:
        shell = shell_for(movies=movies, series=series, url=tmdb.url)
        part = await shell.run("upload", "--then-harvest", "--json", "--limit", "100", "--language", "pt-BR")
        assert (part.code, part.result["exit_code"], part.result["status"]) == (75, 75, "stopped")
        assert (part.result["stopped_by"], part.result["upload"]["status"]) == ("limit", "uploaded")
        ended = await shell.run("upload", "--then-harvest", "--json", "--language", "pt-BR")
        assert (ended.code, ended.result["status"], ended.result["upload"]["status"]) == (0, "closed", "unchanged")
        assert (ended.result["totals"]["found"], ended.result["run"]) == (251, part.result["run"])
        shown = await shell.run("upload", "--then-harvest", "--language", "pt-BR")
        files = ended.result["upload"]["files"]
        taken = [word for file in files for word in (f"--{file['collection'].lower()}", file["url"])]
        same = await shell.run("harvest", *taken, "--json", "--language", "pt-BR")
    assert [line.split(". ")[0] for line in shown.out.splitlines() if not line.startswith(" ")][:2] == [
        "Nothing to upload.",
        "Nothing to do: finished today (--again harvests it again)",
    ]
    assert "Next:" not in shown.out
    assert (same.result["status"], same.result["run"]) == ("nothing_to_do", ended.result["run"])
    assert {line.rpartition("/")[2] for line in await world.lake.objects("Raw/Local/")} == {"movies.csv", "series.csv"}


async def test_then_harvest_passes_over_what_is_in_s3_already(shell_for: Any, world: World) -> None:
    """It is harvested from there, and said to be there."""
    await world.lake.put("Filmes e series/m.csv", b"id|t\ntt0000001|x\n")
    async with fake_tmdb(catalog=Catalog(otherwise="movie")) as tmdb:
        source = world.url("Filmes e series/m.csv")
        ended = await shell_for(url=tmdb.url).run("upload", "--then-harvest", "--movies", source)
    assert ended.code == 0
    assert ended.out.splitlines()[:2] == ["Nothing to upload.", f" Movies             in S3 already  {source}"]
    assert "Complete." in ended.out


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        (["--movies", "s3://lake/a.csv"], {}, "s3://lake/a.csv: is in S3, and a file is uploaded"),
        (["--movies", "-", "--then-harvest"], {}, "-: standard input cannot be uploaded"),
        (["--then-harvest"], {"TMDB_API_KEY": ""}, "TMDB_API_KEY is not set"),
        (["--limit", "1"], {}, "--limit and --again are options of the harvest: add --then-harvest"),
        (["--again"], {}, "--limit and --again are options of the harvest: add --then-harvest"),
        ([], {"MOVIES_CSV": ""}, "There is no CSV to read: give --movies or --series"),
        ([], {"S3_CSV_TEMPLATE": "x/{name}"}, "S3_CSV_TEMPLATE must have {collection} and end in /{name}"),
    ],
)
async def test_wrong_usage_is_exit_2_and_nothing_is_asked(
    shell_for: Any, world: World, words: list[str], environment: dict[str, str], sentence: str
) -> None:
    """One sentence, before S3 or TMDB hear of us; a key that is missing is reported before, not after 165 MB."""
    ended = await shell_for(movies=csv_of(900)).having(**environment).run("upload", *words)
    assert (ended.code, ended.out, world.link.seen) == (2, "", [])
    assert ended.err.startswith(sentence)
    assert len(ended.err.splitlines()) == 1


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_in_mid_upload_aborts_and_ends_in_75(
    shell_for: Any, world: World, number: signal.Signals
) -> None:
    """A container's stop and Ctrl-C leave nothing in the bucket; run again, it uploads."""
    world.link.rules["part"] = silent
    shell = shell_for(movies=csv_of(LARGE))
    async with shell.start("upload") as running:
        await running.until(lambda: world.link.times("part") == 3)
        running.send(number)
        ended = await running.ended()
    assert (ended.code, ended.out) == (75, "")
    assert ended.sentences[-1] == f"Stopped by {number.name}. What has landed is safe; run again to go on."
    assert await world.left() == ([], [])
    world.link.rules.clear()
    assert (await shell.run("upload", "--json")).result["status"] == "uploaded"


@posix
async def test_killed_in_mid_upload_nothing_is_visible_and_the_next_one_clears_it_away(
    shell_for: Any, world: World
) -> None:
    """After a SIGKILL readers see no part of a file, and the next upload aborts what is billed, and lands it whole."""
    body = csv_of(LARGE)
    world.link.rules["complete"] = silent
    shell = shell_for(movies=body)
    async with shell.start("upload") as running:
        await running.until(lambda: world.link.times("complete") == 1)
        running.send(signal.SIGKILL)
        await running.ended()
    objects, uploads = await world.left()
    assert (objects, len(uploads)) == ([], 1)
    world.link.rules.clear()
    ended = await shell.run("upload", "--json")
    assert (ended.code, await world.left()) == (0, (uploads, []))
    assert await world.lake.read(uploads[0]) == body


MB_165 = 164_700_000
OVER = 100_000_000
"""Four parts of 8 MiB under way, one being read and one that has been: 50 MB; as much again for what sends them."""


@posix
@pytest.mark.timeout(180)
async def test_a_large_file_takes_a_few_parts_of_memory(s3: S3Server, bucket: Bucket, tmp_path: Path) -> None:
    """165 MB, or twice that, are uploaded in no more memory than a small file takes, but for 100 MB."""
    peaks = {}
    for size in (1_000, MB_165, 2 * MB_165):
        csv = tmp_path / f"{size}.csv"
        with csv.open("wb") as file:
            file.truncate(size)
        target = {
            "MOVIES_CSV": str(csv),
            "S3_BUCKET": bucket.name,
            "S3_CSV_TEMPLATE": f"{size}/{{collection}}/{{name}}",
        }
        ended = await Shell(kept() | s3.environment() | target, tmp_path).run("upload", "--json", program=("-c", PEAK))
        code, peaks[size] = map(int, ended.out.split())
        assert code == 0, ended.err
        assert (await bucket.objects(f"{size}/"))[f"{size}/Movies/movies.csv"].bytes == size
    assert max(peaks[MB_165], peaks[2 * MB_165]) - peaks[1_000] < OVER, peaks
