"""Secrets: no key stands in anything that is written, said or shown, however it ends; TLS is not to be switched off.

Every secret here is marked, so that it can be looked for: as it is, in part, encoded, wrapped over lines. A
`Searched` shell runs the harvester as users do, and looks through everything that this has left behind.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, urlsplit

import pytest
import pytest_asyncio
import trustme
from conftest import client_of, gzip_of
from loops import Leaping, run_on
from shells import HARVESTER, QUICK, Running, Shell, answerless, kept, on_our_loop

from harvester.errors import HarvestError, SettingsError, StoreError, TmdbRefusedError, TmdbUnavailableError
from harvester.fakes.catalog import Catalog
from harvester.fakes.faults import RESET, always, refusal, scripted, silence
from harvester.fakes.faults import html as page
from harvester.fakes.s3_server import S3Server, s3_server
from harvester.fakes.tmdb import FakeTmdb, fake_tmdb
from harvester.runtime.concurrency import fan_out
from harvester.settings.redaction import REDACTED
from harvester.settings.settings import load_settings
from harvester.store.s3 import open_bucket
from harvester.tmdb.client import Tmdb
from harvester.tmdb.rate_limiter import RateLimiter

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping

    from conftest import Clock

    from harvester.store.s3 import Bucket

    Response = Callable[[str], bytes]
    """What a server says to a request with this head."""

pytestmark = pytest.mark.timeout(120)  # for what hangs: a busy machine may take its time

V3 = "5ec7e7ab1e0ddba11c0ffee0ca5cade5"
V4 = "eyJNYXJrZWQtdG9rZW4i.T25lLW1hcmtlZC1wYXJ0LWluLXRoZS1taWRkbGU.X2FuZC1vbmUtYXQtdGhlLWVuZF8"
ACCESS = "AKIA5EC7E7MARKEDKEY1"
SECRET = "s3cR/et+Mark/ed+Key/of+AWS/th4t+no0ne/Sees"
SESSION = "IQoJb3JpZ2luX2VjE/Marked+T0ken//of+A/Session+th4t/No0ne+Sees=="
SECRETS = {
    "v3 key": V3,
    "v4 token": V4,
    "access key id": ACCESS,
    "secret access key": SECRET,
    "session token": SESSION,
}
"""AWS's have slashes and plus signs, as the real ones do: encoding them gives something else."""

AS_SETTINGS = {
    "TMDB_API_KEY": V3,
    "AWS_ACCESS_KEY_ID": ACCESS,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": SESSION,
}

MOVIES = [f"tt{number:07d}" for number in range(1, 4)]

CATALOG = Catalog(otherwise="movie")


# Looking for secrets


def forms(secret: str) -> dict[str, str]:
    """What a secret looks like in other people's hands."""
    raw = secret.encode()
    values = {
        "as it is": secret,
        "its first 12 characters": secret[:12],
        "its last 12 characters": secret[-12:],
        "in a URL": quote(secret, safe=""),
        "in a form": quote_plus(secret),
        "in JSON": json.dumps(secret)[1:-1],
        "in JSON with slashes escaped": secret.replace("/", "\\/"),
        "in HTML": html.escape(secret),
        "in hexadecimal": raw.hex(),
    }
    for before in range(3):  # base64 takes three bytes at a time, so it matters how many stand before
        for alphabet in (b"+/", b"-_"):
            whole = base64.b64encode(bytes(before) + raw, alphabet).decode().rstrip("=")
            values[f"in base64 from byte {before}, with {alphabet.decode()}"] = whole[before + 1 if before else 0 : -1]
    return values


def named(value: object) -> str:
    """A test's parameter with every secret by its name."""
    text = " ".join(value) if isinstance(value, list) else str(value)
    for name, secret in SECRETS.items():
        text = text.replace(secret, f"<{name}>").replace(quote(secret, safe=""), f"<{name}, quoted>")
    return text.replace("\n", " ")


FORMS = {name: {how: form.lower().encode() for how, form in forms(secret).items()} for name, secret in SECRETS.items()}

LAYOUT = re.compile(rb"\x1b\[[0-9;?]*[a-z]|\xe2\x94\x82|\s", re.IGNORECASE)
"""Colours, the sides of boxes and white space: a secret may have been wrapped over two lines of a box."""


def found(places: Mapping[str, bytes]) -> list[str]:
    """Which secret stands where, in which form, and between what; without regard to case or line ends."""
    leaks = []
    for place, content in places.items():
        texts = (content.lower(), LAYOUT.sub(b"", content).lower())
        for name, ways in FORMS.items():
            for (how, form), text in itertools.product(ways.items(), texts):
                if (at := text.find(form)) >= 0:
                    around = text[max(at - 50, 0) : at + len(form) + 20].decode(errors="replace")
                    leaks.append(f"{place}: the {name}, {how}: …{around}…")
                    break
    return leaks


def files(folder: Path) -> dict[str, bytes]:
    """Every file and folder below `folder`, with what is in it."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {name: path.read_bytes() if path.is_file() else b"" for name, path in paths.items()}


def command_lines(pid: int) -> dict[str, bytes]:
    """What everybody on this machine may read of a process and its children: their arguments, and threads' names.

    Their environment is readable for their own user alone, who has put the keys there.
    """
    processes = {}
    for task in Path("/proc", str(pid), "task").glob("*"):
        with suppress(OSError):  # it has just ended
            processes[f"name of {task.name}"] = (task / "comm").read_bytes()
            processes[f"command line of {pid}"] = (task / "cmdline").read_bytes()
            for child in (task / "children").read_text(encoding="utf-8").split():
                processes |= command_lines(int(child))
    return processes


async def objects(client: Any, bucket: str) -> dict[str, bytes]:
    """Every object and every unfinished upload, with key, body, unpacked too, and all that is said of them."""
    contents = {}
    for each in (await client.list_objects_v2(Bucket=bucket)).get("Contents", ()):
        got = await client.get_object(Bucket=bucket, Key=each["Key"])
        about = f"{each['Key']}\n{got['Metadata']}\n{got['ResponseMetadata']['HTTPHeaders']}\n"
        body = await got["Body"].read()
        unpacked = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else b""
        contents[f"object {each['Key']}"] = about.encode() + body + unpacked
    uploads = await client.list_multipart_uploads(Bucket=bucket)
    contents["unfinished uploads"] = repr(uploads.get("Uploads")).encode()
    return contents


# The harvester as users run it


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and which secrets it has left where."""

    code: int
    out: str
    err: str
    leaks: list[str]

    @property
    def said(self) -> str:
        """All it said, as one line, without boxes."""
        return " ".join((self.out + self.err).replace("│", " ").split())


@dataclass(frozen=True, slots=True)
class Searching:
    """A process under way, and what stood in its folders before; made by `Searched.start`."""

    running: Running
    shell: Searched
    before: dict[str, bytes]

    async def ended(self) -> Ended:
        """Wait for the end, with an eye on the command lines, and look through everything."""
        ending = asyncio.ensure_future(self.running.ended())
        shown: dict[str, bytes] = {}
        while not ending.done():
            shown |= command_lines(self.running.process.pid)
            await asyncio.wait([ending], timeout=0.25)
        end = ending.result()
        places = {"standard output": end.out.encode(), "standard error": end.err.encode(), **shown}
        return Ended(end.code, end.out, end.err, found(places | await self.shell.written(self.before)))


@dataclass(frozen=True, slots=True)
class Searched:
    """Runs programs with marked secrets, in a working folder, a home and a folder for temporary files of their own."""

    shell: Shell
    folder: Path
    client: Any
    bucket: str

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def having(self, **environment: str) -> Searched:
        """The same with other variables."""
        return replace(self, shell=self.shell.having(**environment))

    @asynccontextmanager
    async def start(self, *words: str, **options: Any) -> AsyncIterator[Searching]:
        before = files(self.folder)
        async with self.shell.start(*words, **options) as running:
            yield Searching(running, self, before)

    async def run(self, *words: str, **options: Any) -> Ended:
        async with self.start(*words, **options) as searching:
            return await searching.ended()

    async def written(self, before: Mapping[str, bytes]) -> dict[str, bytes]:
        """Files that are new or other than `before`, and all objects."""
        now = files(self.folder).items()
        text = {f"file {name}": name.encode() + b"\n" + body for name, body in now if before.get(name) != body}
        return text | await objects(self.client, self.bucket)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def marked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    """An S3 server with marked credentials: it keeps those it was first started with in its data."""
    async with s3_server(tmp_path_factory.mktemp("marked")) as server:
        await server.kill()
        shutil.rmtree(server.folder / "data")
        (server.folder / "data").mkdir()
        server.access_key, server.secret_key = ACCESS, SECRET
        settings = json.loads((server.folder / "s3.json").read_text(encoding="utf-8"))
        settings["identities"][0]["credentials"] = [{"accessKey": ACCESS, "secretKey": SECRET}]
        (server.folder / "s3.json").write_text(json.dumps(settings), encoding="utf-8")
        await server.start_again()
        try:
            yield server
        finally:
            await server.kill()  # it has nothing to save


_numbers = itertools.count(1)


@pytest.fixture
async def shell_for(marked: S3Server, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Searched]]]:
    """Makes a shell for the TMDB at a URL, with a bucket, folders and a CSV of its own."""

    async def make(url: str, *, key: str = V3, movies: Iterable[str] = MOVIES, **environment: str) -> Searched:
        number = next(_numbers)
        folder = tmp_path / str(number)
        for name in ("work", "home", "tmp"):
            (folder / name).mkdir(parents=True)
        rows = "".join(f"{id_}|Ação\n" for id_ in movies)
        (folder / "work" / "movies.csv").write_text(f"id|tituloPincipal\n{rows}", encoding="utf-8")
        bucket = f"marked-{number}"
        await client.create_bucket(Bucket=bucket)
        settings = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "TMDB_API_KEY": key,
            "TMDB_BASE_URL": url,
            "TMDB_RATE": "1000",
            "MOVIES_CSV": "movies.csv",
            "S3_BUCKET": bucket,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": marked.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        return Searched(Shell(kept() | settings | environment, folder / "work", never=()), folder, client, bucket)

    async with client_of(marked) as client:
        yield make


@pytest.fixture(scope="session")
def nobody() -> Iterator[str]:
    """A URL at which nobody answers."""
    with answerless() as address:
        yield f"http://{address}"


def knowing(**options: Any) -> Any:
    """A TMDB that takes the marked keys."""
    return fake_tmdb(catalog=CATALOG, key=V3, token=V4, **options)


# Servers that say anything


@dataclass(slots=True)
class FixedServer:
    """A server of a few bytes; `heads` are those of the requests it was sent."""

    url: str
    heads: list[str] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)
    """Path to the body of its last PUT; nothing is read back but by an `answer` that does."""


@asynccontextmanager
async def fixed_server(
    answer: Response, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[FixedServer]:
    """A server that gives every request `answer` to the letter, and closes; over TLS on demand."""
    server = FixedServer("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"(?i)\ncontent-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            server.heads.append(head)
            if head.startswith("PUT"):
                server.stored[urlsplit(path_of(head)).path] = body.decode("latin-1")
            writer.write(answer(head))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as listener:
        port = listener.sockets[0].getsockname()[1]
        server.url = f"{'https' if tls else 'http'}://{host}:{port}"
        yield server


def http(status: int, body: object, *, reason: str = "So", **headers: str) -> bytes:
    """An HTTP response; a `body` that is no text is sent as JSON."""
    content = body if isinstance(body, str) else json.dumps(body)
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    length = len(content.encode())
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nConnection: close\r\n{''.join(lines)}\r\n"
    return (head + content).encode()


def responding_with(body: bytes) -> Response:
    return lambda _head: body


def path_of(head: str) -> str:
    return head.split()[1]


def asks_for_key(head: str) -> bool:
    return "/authentication" in path_of(head)


def healthy(head: str) -> bytes:
    """TMDB in the least words: every key is good, and every id a movie."""
    return http(200, {"success": True, "status_code": 1, "id": 1, "title": "Ação"})


def as_headers(head: str) -> bytes:
    line = " ".join(head.split())
    headers = dict.fromkeys(("Location", "Set_Cookie", "WWW_Authenticate", "Link", "Date", "X_Seen"), line)
    return http(500, "", **headers)


def redirecting(to: str) -> Response:
    """Points to the same path and query at `to`, by one status after the other."""
    statuses = itertools.cycle([301, 302, 303, 307, 308])
    return lambda head: http(next(statuses), "", Location=to + path_of(head))


def in_turn(answers: Iterable[Response]) -> Response:
    """To the first request the first answer, and so on."""
    left = iter(answers)

    def answer(head: str) -> bytes:
        respond = next(left)
        return respond(head)

    return answer


ECHOES: dict[str, Response] = {
    "an error in JSON": lambda head: http(500, {"success": False, "status_code": 11, "status_message": head}),
    "no success in a 200": lambda head: http(200, {"success": False, "status_code": 7, "status_message": head}),
    "a page": lambda head: http(502, f"<html><pre>{head}</pre></html>", Content_Type="text/html"),
    "a page in a 200": lambda head: http(200, f"<html><pre>{head}</pre></html>", Content_Type="text/html"),
    "the reason of a status": lambda head: http(500, "", reason=" ".join(head.split())),
    "no HTTP": lambda head: head.encode(),
    "no header": lambda head: b"HTTP/1.1 200 OK\r\n" + head.encode(),
    "headers": as_headers,
    "no gzip": lambda head: http(200, head, Content_Encoding="gzip"),
    "a redirect to itself": redirecting(""),
}
"""Servers that repeat all they were asked, key and all."""


def refusing(head: str) -> bytes:
    """TMDB's refusal of a key, from somebody who repeats it."""
    return http(401, {"success": False, "status_code": 7, "status_message": f"Invalid API key: {head}"})


def refusing_in_part(head: str) -> bytes:
    """The same, long enough that cutting it at 200 characters cuts the key in two."""
    at = min(head.find(key) for key in (V3, V4) if key in head)
    return http(401, {"success": False, "status_code": 7, "status_message": "." * 180 + head[at:]})


# The search itself


@pytest.mark.parametrize("name", SECRETS)
def test_the_search_knows_every_form_of_every_secret(name: str) -> None:
    """Raw, cut, encoded or wrapped, in upper or lower case, one secret is found, and no other."""
    secret = SECRETS[name]
    half = len(secret) // 2
    basic = {
        f"after {before}": base64.b64encode(b"x" * before + secret.encode() + b"y").decode() for before in range(4)
    }
    wrapped = f"{secret[:half]}     │\n│ \x1b[1m{secret[half:]}"
    ways = forms(secret) | basic | {"wrapped": wrapped, "shouted": secret.upper(), "as bytes": repr(secret.encode())}
    for how, form in ways.items():
        leaks = found({"here": f"so: {form}!".encode(), "there": b"nothing"})
        assert [f"here: the {name}"] == [each.partition(",")[0] for each in leaks], how
    assert found({"here": f"{secret[:11]} {secret[-11:]} {REDACTED_FORMS}".encode()}) == []


REDACTED_FORMS = "TMDB_API_KEY [secret] api_key= eyJ… AKIA /+ ="

PLANT = """
import ctypes, os, pathlib, subprocess, sys, tempfile
key = os.environ["TMDB_API_KEY"]
print("output", key)
print("error", key, file=sys.stderr)
pathlib.Path("new.txt").write_text(key)
pathlib.Path(key).mkdir()
with open("movies.csv", "a") as file:
    file.write(key)
pathlib.Path.home().joinpath(".cache").mkdir()
pathlib.Path.home().joinpath(".cache", "new").write_text(key)
with tempfile.NamedTemporaryFile("w", delete=False) as file:
    file.write(key)
ctypes.CDLL(None).prctl(15, key[:15].encode())
child = subprocess.Popen([sys.executable, "-c", "input()", key], stdin=subprocess.PIPE)
sys.stdout.flush()
sys.stderr.flush()
pathlib.Path("planted").touch()
input()
child.communicate(b"\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep command lines elsewhere")
async def test_the_search_finds_a_secret_in_every_place(shell_for: Any, nobody: str) -> None:
    """A program that plants a key in every place leaves it to be found in every one: the search can fail."""
    shell = await shell_for(f"{nobody}/3")
    put = partial(shell.client.put_object, Bucket=shell.bucket)
    await put(Key=f"a/{V3}/b.json", Body=b"")
    await put(Key="body.json", Body=V3.encode())
    await put(Key="packed.jsonl.gz", Body=gzip_of(V3.encode()))
    await put(Key="metadata.json", Metadata={"key": V3})
    await shell.client.create_multipart_upload(Bucket=shell.bucket, Key=f"unfinished/{V3}.json")
    async with shell.start(program=("-c", PLANT), stdin=asyncio.subprocess.PIPE) as searching:
        process = searching.running.process
        await searching.running.until((shell.work / "planted").exists)
        ending = asyncio.ensure_future(searching.ended())
        places = [each.partition(": ")[0] for each in found(command_lines(process.pid))]
        await asyncio.sleep(0)  # so that it looks as well, before the end
        assert process.stdin
        process.stdin.write(b"\n")
        leaks = [each.partition(": ")[0] for each in (await ending).leaks]
    assert sorted({place.rpartition(" ")[0] for place in places}) == ["command line of", "name of"]
    [temporary] = [name for name in files(shell.folder) if name.startswith("tmp/")]
    assert set(places) <= set(leaks)
    assert {
        "standard output",
        "standard error",
        "file work/new.txt",
        f"file work/{V3}",
        "file work/movies.csv",
        "file home/.cache/new",
        f"file {temporary}",
        f"object a/{V3}/b.json",
        "object body.json",
        "object packed.jsonl.gz",
        "object metadata.json",
        "unfinished uploads",
    } == {leak for leak in leaks if " of " not in leak}  # a process that was just begun may have had a line as well


async def test_the_search_finds_nothing_where_there_is_nothing(shell_for: Any, nobody: str) -> None:
    """What stood there before, an environment with all the keys, and a program that says nothing are no find."""
    shell = await shell_for(f"{nobody}/3", AWS_SESSION_TOKEN=SESSION)
    (shell.work / ".env").write_text("".join(SECRETS.values()), encoding="utf-8")
    assert Ended(0, "hello\n", "", []) == await shell.run(program=("-c", "print('hello')"))


# All is well


@pytest.mark.parametrize(
    ("key", "pure", "then"),
    [(V3, "", ["plan --verbose", "verify --json", "doctor --verbose"]), (V4, "1", ["doctor --json"])],
    ids=["v3", "v4"],
)
async def test_a_harvest_that_reconciles_its_totals_shows_no_secret(
    shell_for: Any, key: str, pure: str, then: list[str]
) -> None:
    """Nor does any other command, nor what Python and asyncio say in debug mode."""
    faults = scripted({("movie", MOVIES[0]): [RESET, refusal(500), page(502)]})
    async with knowing(faults=faults) as tmdb:
        shell = await shell_for(tmdb.url, key=key, AIOHTTP_NO_EXTENSIONS=pure, PYTHONASYNCIODEBUG="1")
        debugged = await shell.run("--verbose", program=("-X", "dev", "-m", "harvester"))
        assert (debugged.code, debugged.leaks) == (0, [])
        assert "Complete." in debugged.out
        for words in then:
            ended = await shell.run(*words.split())
            assert (ended.code, ended.leaks) == (0, []), words


async def test_a_terminal_is_shown_no_secret(shell_for: Any) -> None:
    """The bar, the colours and the readable lines of a terminal have none either."""
    faults = scripted({("movie", MOVIES[0]): [refusal(429, retry_after="0"), RESET]})
    async with knowing(faults=faults) as tmdb:
        shell = await shell_for(tmdb.url, TERM="xterm-256color")
        ours, theirs = os.openpty()
        async with shell.start("--verbose", stdout=theirs, stderr=theirs) as searching:
            os.close(theirs)
            reading = asyncio.ensure_future(asyncio.to_thread(read_to_end, ours))
            ended = await searching.ended()
        shown = await reading
    assert (ended.code, ended.leaks) == (0, [])
    assert b"Complete." in shown
    assert found({"terminal": shown}) == []


def read_to_end(terminal: int) -> bytes:
    """All that a terminal is shown until nobody writes to it any more; the number is closed then."""
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream, suppress(OSError):
        while block := stream.read(2**16):
            shown += block
    return shown


# Usage and settings


@pytest.mark.parametrize("words", [[V3], ["harvest", V4], ["--api-key", V3], ["--rate", V4, "--json"]], ids=named)
async def test_a_usage_error_does_not_repeat_a_secret(shell_for: Any, nobody: str, words: list[str]) -> None:
    """Who types a key where it does not belong has shown it to their shell; we do not show it to a log as well."""
    shell = await shell_for(f"{nobody}/3", key=V4 if V4 in words else V3)
    ended = await shell.run(*words)
    theirs = ("command line of", "name of")
    assert (ended.code, [each for each in ended.leaks if not each.startswith(theirs)]) == (2, [])


WRONG_PLACES = (
    "TMDB_BASE_URL",
    "TMDB_LANGUAGE",
    "TMDB_APPEND",
    "TMDB_RATE",
    "TMDB_CONCURRENCY",
    "S3_KEY_TEMPLATE",
    "OUTPUT_FORMAT",
    "AWS_ENDPOINT_URL_S3",
)
"""Settings that a key cannot be."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, V3) for name in WRONG_PLACES),
        ("TMDB_API_KEY", f"{V3}0"),
        ("TMDB_API_KEY", V3[:-1]),
        ("TMDB_API_KEY", f"'{V3}'"),
        ("TMDB_API_KEY", f"api_key={V3}"),
        ("TMDB_API_KEY", f"Bearer {V4}"),
        ("TMDB_API_KEY", V4.rpartition(".")[0]),
        ("TMDB_API_KEY", f"{V3}\n{V3}"),
        ("TMDB_BASE_URL", f"https://api.themoviedb.org/3?api_key={V3}"),
        ("TMDB_BASE_URL", f"https://api.themoviedb.org/3/movie/550?api_key={V3}&language=pt-BR"),
        ("TMDB_BASE_URL", f"https://api.themoviedb.org/3#api_key={V3}"),
        ("TMDB_BASE_URL", f"https://api.themoviedb.org/3&api_key={V3}"),
        ("TMDB_BASE_URL", f"https://{V3}@api.themoviedb.org/3"),
        ("TMDB_BASE_URL", f"https://me:{V4}@api.themoviedb.org/3"),
        ("AWS_ENDPOINT_URL_S3", f"http://{ACCESS}:{quote(SECRET, safe='')}@127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_S3", f"http://{ACCESS}:{SECRET}@127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:9?X-Amz-Security-Token={quote(SESSION, safe='')}"),
        ("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:9/#{SECRET}"),
        ("AWS_ENDPOINT_URL_S3", SECRET),
        ("TMDB_LANGUAGE", SECRET),
        ("S3_BUCKET", V4),
    ],
    ids=named,
)
def test_a_wrong_setting_is_reported_without_the_secret_in_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A key with a slip, in the wrong variable, or in a URL: the error names the setting, and nothing of it shows."""
    for each, secret in AS_SETTINGS.items():
        monkeypatch.setenv(each, secret)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings()
    assert found(shown_of(caught.value)) == []


@pytest.mark.parametrize(
    ("secret", "key"), [(V3, V3), (V4, ""), (SECRET, V3)], ids=["a known key", "by its shape", "a secret of AWS's"]
)
async def test_a_key_in_wrong_variables_is_not_repeated(shell_for: Any, secret: str, key: str) -> None:
    """Lines of `.env` pasted over others; also where no key is known: what looks like one is one."""
    shell = (await shell_for("", key=key)).having(**dict.fromkeys(WRONG_PLACES, secret), AWS_SESSION_TOKEN=SESSION)
    ended = await shell.run("--verbose")
    assert (ended.code, ended.leaks) == (2, [])
    assert [name for name in WRONG_PLACES if name not in ended.said] == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("CSV_ID_COLUMN", 2),
        ("S3_BUCKET", 4),
        ("AWS_PROFILE", 4),
    ],
)
async def test_a_key_that_may_be_another_setting_is_not_repeated_either(shell_for: Any, name: str, code: int) -> None:
    """Where a key is as good as any other text, trouble comes later, and is reported without it."""
    async with knowing() as tmdb:
        ended = await (await shell_for(tmdb.url)).having(**{name: V3}).run("--verbose")
    assert (ended.code, ended.leaks) == (code, [])


@pytest.mark.parametrize("words", [["--json"], ["doctor"]], ids=" ".join)
async def test_a_wrong_setting_beside_good_keys_is_reported_without_them(shell_for: Any, words: list[str]) -> None:
    """What is wrong is named, and the keys beside it, with a slip in one of them, are not."""
    shell = (await shell_for("ftp://x", key=f"'{V3}'")).having(TMDB_RATE="fast", AWS_SESSION_TOKEN=SESSION)
    ended = await shell.run(*words)
    assert (ended.code, ended.leaks) == (1 if words == ["doctor"] else 2, [])
    assert "TMDB_RATE" in ended.said
    assert "neither a v3 key" in ended.said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(".env", f"TMDB_API_KEY={V3}\nAWS_SECRET_ACCESS_KEY={SECRET}\nMOVIES_CSV=Séries.csv\n", id="env"),
        pytest.param("config/harvester.toml", f"tmdb_api_key = '{V3}'\nmovies_csv = 'Séries'\n", id="toml"),
        pytest.param("config/harvester.toml", f"tmdb_api_ky = '{V3}'\n", id="misspelt"),
        pytest.param("config/harvester.toml", f"tmdb_api_key = {V4}\n", id="no quotes"),
        pytest.param("config/harvester.toml", f"tmdb_api_key = ['{V3}']\n", id="a list"),
        pytest.param("config/harvester.toml", f"[tmdb_api_key]\nvalue = '{V3}'\n", id="a table"),
    ],
)
def test_a_file_of_settings_that_cannot_be_read_is_not_repeated(tmp_path: Path, name: str, content: str) -> None:
    """Latin-1, a misspelt name or broken TOML are reported without the text there, also in the cause of the error."""
    (tmp_path / "config").mkdir()
    (tmp_path / name).write_text(content, encoding="latin-1")  # the working folder of every test
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert found(shown_of(caught.value)) == []


async def test_a_key_in_a_name_of_the_users_own_stands_there_and_nowhere_else(shell_for: Any) -> None:
    """A prefix or a CSV that is named after the key is the user's text, and kept; but it is not said."""
    async with knowing() as tmdb:
        shell = (await shell_for(tmdb.url)).having(S3_PREFIX=f"Raw/{V3}", MOVIES_CSV=f"{V3}.csv")
        (shell.work / "movies.csv").rename(shell.work / f"{V3}.csv")
        for words in (["--verbose"], ["doctor"]):
            ended = await shell.run(*words)
            assert ended.code == 0, ended.said
            assert [each for each in ended.leaks if not each.startswith("object ")] == [], words
    assert {"Raw"} == {each.split()[1].partition("/")[0] for each in ended.leaks}


async def test_a_key_in_a_row_of_the_csv_is_not_said(shell_for: Any) -> None:
    """Who pasted it there learns that a row was rejected, not what it is."""
    async with knowing() as tmdb:
        shell = await shell_for(tmdb.url)
        with (shell.work / "movies.csv").open("a", encoding="utf-8") as file:
            file.write(f"{V3}|a key\n")
        for words in (["plan"], ["doctor"]):
            ended = await shell.run(*words)
            assert (ended.code, [each for each in ended.leaks if not each.startswith("object ")]) == (0, []), words


async def test_a_csv_that_is_no_csv_is_not_repeated(shell_for: Any, nobody: str) -> None:
    """`--movies .env` is one letter away: the error shows the first line of the file, but not the key in it."""
    shell = await shell_for(f"{nobody}/3")
    for first in (f"TMDB_API_KEY={V3}", f"{'#' * 180}{V3}"):  # the second is cut at 200 characters
        (shell.work / "keys.txt").write_text(f"{first}\n", encoding="utf-8")
        ended = await shell.run("--movies", "keys.txt")
        assert (ended.code, ended.leaks) == (2, [])


# TMDB


@pytest.mark.parametrize(
    ("answer", "key", "code"),
    [
        pytest.param(refusing, V3, 3, id="401 v3"),
        pytest.param(refusing, V4, 3, id="401 v4"),  # cut at 200 characters, in the midst of the token
        pytest.param(refusing_in_part, V3, 3, id="401 cut within the key"),
        pytest.param(lambda head: http(403, {"status_code": 45, "status_message": head}), V3, 3, id="403"),
        pytest.param(lambda head: http(404, {"status_code": 45, "status_message": head}), V3, 2, id="404"),
    ],
)
async def test_a_refusal_that_repeats_the_key_is_reported_without_it(
    shell_for: Any, answer: Response, key: str, code: int
) -> None:
    """TMDB's words are shown, but not those that are the key, or a part of it."""
    async with fixed_server(answer) as tmdb:
        ended = await (await shell_for(f"{tmdb.url}/3", key=key)).run("--verbose")
    assert (ended.code, ended.leaks) == (code, [])


async def test_a_key_that_is_refused_or_revoked_is_not_repeated(shell_for: Any) -> None:
    """Before the first title, in words, in JSON and by the doctor, and in the midst of a harvest."""
    async with knowing() as tmdb:
        tmdb.revoked = True
        shell = await shell_for(tmdb.url)
        for words in (["--verbose"], ["--json"], ["doctor"]):
            ended = await shell.run(*words)
            assert (1 if words == ["doctor"] else 3, []) == (ended.code, ended.leaks)
    async with fixed_server(lambda head: healthy(head) if asks_for_key(head) else refusing(head)) as revoked:
        ended = await (await shell_for(f"{revoked.url}/3")).run("--verbose")
    assert (ended.code, ended.leaks) == (3, [])
    assert "TMDB refuses the key (HTTP 401, code 7" in ended.said


async def test_no_trouble_with_tmdb_shows_the_key(shell_for: Any) -> None:
    """Whatever a server says back: it is unavailable, for a reason in our own words; each try meets another echo."""

    async def meet(case: tuple[str, list[Response]]) -> tuple[int, list[str]]:
        key, answers = case
        async with fixed_server(in_turn(answers)) as tmdb:
            shell = await shell_for(f"{tmdb.url}/3", key=key)
            async with shell.start("--verbose", program=on_our_loop()) as searching:
                await searching.running.until(lambda: tmdb.heads)  # S3 has been asked; the rest is waiting
                searching.running.hurry()
                ended = await searching.ended()
            assert len(tmdb.heads) == 6
        assert "TMDB is unavailable" in ended.said
        return ended.code, ended.leaks

    echoes = list(ECHOES.values())
    cases = [(V3, echoes[:6]), (V4, echoes[-6:])]
    assert await fan_out(meet, cases, at_once=2) == [(6, []), (6, [])]


async def test_no_trouble_on_the_way_to_tmdb_shows_the_key(shell_for: Any, nobody: str) -> None:
    """Nobody at home, a reset, an outage, silence until the time is over."""
    quiet = scripted({("authentication", ""): [silence(60)]})
    reset = scripted({("authentication", ""): [always(RESET)]})
    async with knowing(faults=quiet) as silent, knowing(faults=reset) as broken, knowing() as out:
        out.down = True
        cases: dict[str, tuple[FakeTmdb | None, int]] = {
            "silent": (silent, 0),
            "broken": (broken, 6),
            "out": (out, 6),
            "nobody": (None, 6),  # nobody says when they are asked, so that this one waits as long as it does
        }

        async def meet(name: str) -> tuple[int, list[str]]:
            tmdb, _ = cases[name]
            shell = await shell_for(tmdb.url if tmdb else f"{nobody}/3")
            program = on_our_loop() if tmdb else HARVESTER
            async with shell.start("--verbose", program=program) as searching:
                if tmdb:
                    await searching.running.until(tmdb.asked.total)
                    searching.running.hurry()
                if tmdb is silent:
                    await searching.running.until(lambda: silent.asked.total() > 1)
                    searching.running.slow_down()  # it goes on, and S3 has all the time it takes
                ended = await searching.ended()
                return ended.code, ended.leaks

        outcomes = await fan_out(meet, cases, at_once=len(cases))
    assert {name: (code, []) for name, (_, code) in cases.items()} == dict(zip(cases, outcomes, strict=True))


async def test_titles_that_fail_show_no_key(shell_for: Any) -> None:
    """Poison titles end in exit 5, with reasons in our own words in the log, on the screen and in the bucket."""
    troubles = dict(zip((f"tt{number:07d}" for number in range(101, 199)), ECHOES.values(), strict=False))

    tries: Counter[str] = Counter()

    def answer(head: str) -> bytes:
        id_ = path_of(head).partition("?")[0].rpartition("/")[2]
        tries[id_] += 1
        return troubles.get(id_, healthy)(head)

    async with fixed_server(answer) as tmdb:
        shell = await shell_for(f"{tmdb.url}/3", movies=[*troubles, *(f"tt{number:07d}" for number in range(1, 60))])
        async with shell.start("--verbose", program=on_our_loop()) as searching:
            await searching.running.until(lambda: tries.keys() >= troubles.keys())
            searching.running.hurry()
            await searching.running.until(lambda: all(tries[id_] >= 6 for id_ in troubles))
            searching.running.slow_down()  # it lands now, and S3 has all the time it takes
            ended = await searching.ended()
    assert (ended.code, ended.leaks) == (5, [])
    assert len(ECHOES) == ended.out.count(" failed: ")


async def test_no_redirect_takes_the_key_to_another_host(shell_for: Any) -> None:
    """301, 302, 303, 307 and 308, before the first title and for a title: the other host is asked nothing."""
    paths: list[str] = []

    async with fixed_server(healthy) as elsewhere:
        point = redirecting(elsewhere.url)

        def answer(head: str) -> bytes:
            paths.append(path_of(head))
            return point(head) if len(paths) <= 5 or paths.count(paths[-1]) == 1 else healthy(head)

        async with fixed_server(answer) as tmdb:
            movies = [f"tt{number:07d}" for number in range(1, 11)]
            shell = await shell_for(f"{tmdb.url}/3", movies=movies)
            async with shell.start("--verbose", program=on_our_loop(slow=1.0)) as searching:
                await searching.running.until(lambda: paths)
                searching.running.hurry()
                await searching.running.until(lambda: len(paths) > 5)
                searching.running.slow_down()
                ended = await searching.ended()
        assert elsewhere.heads == []
    assert (ended.code, ended.leaks, len(paths)) == (0, [], 26)


@pytest.mark.parametrize("key", [V3, V4], ids=["v3", "v4"])
async def test_a_record_that_repeats_the_key_does_not_land_with_it(shell_for: Any, key: str) -> None:
    """A 200 with our own request in it is nothing that TMDB says of a title: the key is in no object."""

    def answer(head: str) -> bytes:
        return http(200, {"success": True, "id": 1, "title": "Ação", "links": {"self": head}})

    async with fixed_server(lambda head: healthy(head) if asks_for_key(head) else answer(head)) as tmdb:
        shell = await shell_for(f"{tmdb.url}/3", key=key)
        ended = await shell.run("--verbose")
    assert (ended.code, ended.leaks) == (0, [])
    [landed] = [
        body
        for name, body in (await objects(shell.client, shell.bucket)).items()
        if name.startswith("object Raw/API/Movies/")
    ]
    assert landed.count(REDACTED.encode()) == landed.count(b'"links"') == len(MOVIES)


async def test_a_signal_shows_no_secret(shell_for: Any) -> None:
    """Asked to stop, it lands what is open and says so, without a key."""
    async with knowing(latency=(0.05, 0.05)) as tmdb:
        shell = await shell_for(tmdb.url, movies=[f"tt{number:07d}" for number in range(1, 301)])
        async with shell.start("--verbose") as searching:
            await searching.running.until(lambda: tmdb.asked.total() >= 20)
            searching.running.send(signal.SIGTERM)
            ended = await searching.ended()
    assert (ended.code, ended.leaks) == (75, [])


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
async def test_a_crash_shows_no_secret(shell_for: Any, number: signal.Signals) -> None:
    """With Python's fault handler a crash shows where it was, but not with what."""
    async with knowing(latency=(0.05, 0.05)) as tmdb:
        shell = await shell_for(tmdb.url, movies=[f"tt{number:07d}" for number in range(1, 301)])
        shell = shell.having(PYTHONFAULTHANDLER="1", PYTHONASYNCIODEBUG="1")
        without_core = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"
        then = "; os.execv(sys.executable, [sys.executable, '-m', 'harvester', '--verbose'])"
        async with shell.start(program=("-c", without_core + then)) as searching:  # a core has all the memory there was
            await searching.running.until(lambda: tmdb.asked.total() >= 20)
            searching.running.send(number)
            ended = await searching.ended()
    assert (-number, []) == (ended.code, ended.leaks)
    assert "Fatal Python error" in ended.err


# S3


def s3_refusal(status: int, code: str, message: str) -> Response:
    """S3's error, which repeats what it was asked, as the real one does where signatures do not match.

    In `message` and `code`, {access} and {token} are those of the request, {quoted} is the token as a URL has it.
    """

    def answer(head: str) -> bytes:
        credential = re.search(r"Credential=([^/]+)/", head)
        token = re.search(r"(?i)x-amz-security-token: (\S+)", head)
        credentials = {"access": credential[1] if credential else "", "token": token[1] if token else ""}
        credentials["quoted"] = quote(credentials["token"], safe="")
        words = {
            "Code": code.format_map(credentials),
            "Message": message.format_map(credentials),
            "AWSAccessKeyId": credentials["access"],
            "StringToSign": head,
            "SignatureProvided": head,
            "CanonicalRequest": f"{head}\nX-Amz-Security-Token={credentials['quoted']}",
            "Token-0": credentials["token"],
        }
        parts = "".join(f"<{name}>{html.escape(text)}</{name}>" for name, text in words.items())
        return http(status, f"<?xml version='1.0'?><Error>{parts}</Error>", Content_Type="application/xml")

    return answer


S3_ECHOES: dict[str, Response] = {
    "SignatureDoesNotMatch": s3_refusal(403, "SignatureDoesNotMatch", "The signature of {access} does not match"),
    "AccessDenied": s3_refusal(403, "AccessDenied", "User: {access} with {token} is not authorized"),
    "InvalidToken": s3_refusal(400, "InvalidToken", "The token {token} of {access} is malformed or invalid"),
    "in a URL": s3_refusal(400, "InvalidRequest", "GET /?X-Amz-Security-Token={quoted}"),
    "in the code": s3_refusal(400, "Invalid{access}", "no"),
    "a page": lambda head: http(403, f"<html>{head}</html>", Content_Type="text/html"),
    "broken XML": lambda head: http(403, f"<Error><Message>{head}", Content_Type="application/xml"),
    "a 500": s3_refusal(500, "InternalError", "While looking at {access} and {token}"),
    "a redirect to itself": redirecting(""),
}


@pytest.mark.parametrize(
    ("trouble", "command"),
    [
        ("InvalidToken", "harvest --verbose"),
        ("InvalidToken", "doctor"),
        ("in a URL", "plan --json"),
        ("in the code", "verify --verbose"),
        ("broken XML", "plan --verbose"),
    ],
)
async def test_no_refusal_by_s3_shows_a_secret(shell_for: Any, trouble: str, command: str) -> None:
    """S3 repeats what it was asked in its errors; its message is reported without any secret, by every command."""
    async with knowing() as tmdb, fixed_server(S3_ECHOES[trouble]) as s3:
        shell = await shell_for(tmdb.url, AWS_ENDPOINT_URL_S3=s3.url, AWS_SESSION_TOKEN=SESSION)
        ended = await shell.run(*command.split())
        assert s3.heads
    assert (ended.code, ended.leaks) == (1 if command == "doctor" else 4, [])


async def test_secrets_that_the_sdk_finds_are_redacted_too(shell_for: Any, nobody: str) -> None:
    """Credentials of `~/.aws` are no settings of ours, and secrets all the same."""
    async with fixed_server(S3_ECHOES["InvalidToken"]) as s3:
        shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=s3.url, AWS_PROFILE="lake")
        (shell.folder / "home" / ".aws").mkdir()
        (shell.folder / "home" / ".aws" / "credentials").write_text(
            f"[lake]\naws_access_key_id={ACCESS}\naws_secret_access_key={SECRET}\naws_session_token={SESSION}\n",
            encoding="utf-8",
        )
        ended = await shell.having(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").run("--verbose")
        assert found({"what S3 was sent": "".join(s3.heads).encode()}) != []
    assert (ended.code, ended.leaks) == (4, [])


async def test_access_keys_with_quotes_are_redacted_in_json_too(shell_for: Any, nobody: str) -> None:
    """Other S3s take any text as access key; in JSON it is written otherwise."""
    odd = f'{ACCESS}"\\'
    async with fixed_server(s3_refusal(400, "Invalid", f"What is {odd}?")) as s3:
        shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=s3.url, AWS_ACCESS_KEY_ID=odd)
        ended = await shell.run("--json")
    assert (ended.code, ended.leaks) == (4, [])


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": SECRET[::-1]}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": SECRET, "AWS_SECRET_ACCESS_KEY": ACCESS}, "Authorization"),
    ],
    ids=["a wrong secret", "swapped"],
)
async def test_a_real_server_that_refuses_shows_no_secret(
    shell_for: Any, nobody: str, environment: dict[str, str], code: str
) -> None:
    """Wrong or swapped credentials end in exit 4 and S3's word for it."""
    ended = await (await shell_for(f"{nobody}/3")).having(**environment).run("--verbose")
    assert (ended.code, ended.leaks) == (4, [])
    assert code in ended.err


async def test_an_s3_that_cannot_be_reached_shows_no_secret(shell_for: Any, nobody: str) -> None:
    """Nobody listening, and a server that hangs up."""
    async with fixed_server(responding_with(b"")) as mute:
        urls = [nobody, mute.url]

        async def meet(url: str) -> tuple[int, list[str]]:
            shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=url, AWS_SESSION_TOKEN=SESSION)
            ended = await shell.run("--verbose", program=on_our_loop(QUICK))  # nothing but waiting between its tries
            return ended.code, ended.leaks

        outcomes = await fan_out(meet, urls, at_once=len(urls))
    assert dict.fromkeys(urls, (4, [])) == dict(zip(urls, outcomes, strict=True))


async def test_a_refusal_in_the_midst_of_a_harvest_shows_no_secret(shell_for: Any) -> None:
    """An S3 that lists nothing, keeps what is put in one request, and refuses to begin an upload."""
    nothing = http(200, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
    no_key = http(404, "<Error><Code>NoSuchKey</Code></Error>")

    def answer(head: str) -> bytes:
        path = urlsplit(path_of(head))
        match head.split(maxsplit=1)[0], path.query:
            case "POST", _:
                return S3_ECHOES["InvalidToken"](head)
            case "PUT", _:
                return http(200, "", ETag='"1"')
            case _, query if "list-type" in query or "uploads" in query:
                return nothing
        return http(200, s3.stored[path.path], ETag='"1"') if path.path in s3.stored else no_key

    async with knowing() as tmdb, fixed_server(answer) as s3:
        shell = await shell_for(tmdb.url, AWS_ENDPOINT_URL_S3=s3.url, AWS_SESSION_TOKEN=SESSION)
        ended = await shell.run("--verbose")
    assert (ended.code, ended.leaks) == (4, [])
    assert "InvalidToken" in ended.said


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_takes_credentials_to_another_host(status: int) -> None:
    """S3's requests are signed for one host; to another nothing is sent, and a session token least of all."""

    async def story() -> None:
        async with (
            fixed_server(S3_ECHOES["AccessDenied"]) as elsewhere,
            fixed_server(lambda head: http(status, "", Location=elsewhere.url + path_of(head))) as s3,
            bucket_at(s3.url) as bucket,
        ):
            for call in calls(bucket):
                with pytest.raises(StoreError):
                    await call()
            assert s3.heads
            assert found({"what the other host was sent": "".join(elsewhere.heads).encode()}) == []
            assert elsewhere.heads == []

    run_on(Leaping(), story())  # every call is tried again, with waits


async def test_a_redirect_of_s3s_ends_in_exit_4(shell_for: Any, nobody: str) -> None:
    """A bucket that has moved, or a hotel's page of welcome, is reported in a sentence."""
    async with (
        fixed_server(S3_ECHOES["AccessDenied"]) as elsewhere,
        fixed_server(lambda head: http(307, "", Location=elsewhere.url + path_of(head))) as s3,
    ):
        shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=s3.url, AWS_SESSION_TOKEN=SESSION)
        ended = await shell.run("--verbose")
        assert elsewhere.heads == []
    assert (ended.code, ended.leaks) == (4, [])


# Bugs of ours

BUG = """
import asyncio, os, time, warnings
from functools import partial
import harvester.{module} as module

key, secret = os.environ["TMDB_API_KEY"], os.environ["AWS_SECRET_ACCESS_KEY"]
access, session = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SESSION_TOKEN"]

def raw(*words, **more):
    try:
        raise KeyError(f"http://host/3/movie/1?api_key={{key}}&language=pt", session)
    except KeyError as cause:
        error = RuntimeError({{"Authorization": f"Bearer {{key}}"}}, secret.encode())
        error.add_note(access)
        raise ExceptionGroup("both", [error, ValueError(session)]) from cause

def to_asyncio(*words, **more):
    async def forgotten(key):
        raise RuntimeError(key, secret)
    loop = asyncio.get_running_loop()
    loop.create_task(forgotten(key), name=f"task of {{key}}")
    loop.call_soon(partial(raw, key))
    loop.call_soon(partial(lambda url: time.sleep(0.2), f"http://host/3?api_key={{key}}"))
    loop.call_exception_handler({{"message": f"lost {{key}}", "handle": key}})

def as_warnings(*words, **more):
    warnings.simplefilter("always")
    warnings.warn(f"Unclosed response <ClientResponse(http://host/3?api_key={{key}}) [200 OK]>", ResourceWarning)

class Falls:
    def __del__(self):
        raise RuntimeError(key)

def at_the_end(*words, **more):
    Falls()

module.{name} = {bug}
"""
"""What `sitecustomize` does in the child: one of our functions has a bug. The product is not touched."""


def with_a_bug(shell: Searched, module: str, name: str, bug: str) -> Searched:
    """The shell, whose Pythons find one of our functions broken."""
    folder = shell.folder / "bug"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BUG.format(module=module, name=name, bug=bug), encoding="utf-8")
    return shell.having(PYTHONPATH=str(folder), AWS_SESSION_TOKEN=SESSION)


@pytest.mark.parametrize(
    ("module", "name"),
    [("settings.settings", "load_settings"), ("commands.harvest", "start")],
    ids=["in the settings", "on the road"],
)
async def test_a_bug_of_ours_saves_a_traceback_without_secrets(
    shell_for: Any, nobody: str, module: str, name: str
) -> None:
    """One sentence, exit 1, and a file for the report that its reader may publish; nobody else may read it."""
    ended = await with_a_bug(shell := await shell_for(f"{nobody}/3"), module, name, "raw").run("--verbose")
    [saved] = (shell.folder / "tmp").glob("harvester-*.txt")
    assert (ended.code, ended.leaks) == (1, [])
    assert str(saved) in ended.said
    assert "Traceback" not in ended.said
    assert "RuntimeError" in saved.read_text(encoding="utf-8")
    assert saved.stat().st_mode & 0o777 == 0o600


async def test_a_bug_in_what_is_shown_is_no_traceback_either(shell_for: Any) -> None:
    """The last lines of a harvest are ours as well: a bug there is reported in a sentence, without a key."""
    async with knowing() as tmdb:
        shell = with_a_bug(await shell_for(tmdb.url), "reports.text", "show_report", "raw").having(AWS_SESSION_TOKEN="")
        ended = await shell.run()
    assert (ended.code, ended.leaks) == (1, [])
    assert "Traceback" not in ended.said


@pytest.mark.parametrize("bug", ["to_asyncio", "as_warnings", "at_the_end"])
async def test_what_python_says_by_itself_has_no_secret(shell_for: Any, bug: str) -> None:
    """Asyncio's slow callbacks and lost exceptions, warnings, and errors that nobody can catch, in debug mode."""
    async with knowing() as tmdb:
        shell = with_a_bug(await shell_for(tmdb.url), "commands.harvest", "warn_if_mostly_missing", bug).having(
            AWS_SESSION_TOKEN=""
        )
        shell = shell.having(PYTHONASYNCIODEBUG="1")
        ended = await shell.run("--verbose", program=("-X", "dev", "-m", "harvester"))
    assert (ended.code, ended.leaks) == (0, [])
    sentences = {
        "to_asyncio": ("never retrieved", "Executing <Handle", "took 0."),
        "as_warnings": ("Unclosed response",),
        "at_the_end": ("RuntimeError",),
    }
    assert [words for words in sentences[bug] if words not in ended.said] == []


# TLS


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of our own, and the file that says that it is trusted."""

    ca: trustme.CA
    file: str

    def server(self, *names: str, **options: Any) -> ssl.SSLContext:
        """What a server needs to call itself by these names."""
        import ssl as tls

        context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, **options).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(path))
    return Authority(ca, str(path))


@pytest.fixture(scope="session")
def unknown() -> Authority:
    return Authority(trustme.CA(), "")


LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)

SWITCHES = {
    "PYTHONHTTPSVERIFY": "0",
    "SSL_NO_VERIFY": "1",
    "GIT_SSL_NO_VERIFY": "1",
    "NODE_TLS_REJECT_UNAUTHORIZED": "0",
    "CURL_CA_BUNDLE": "",
    "AWS_NO_VERIFY_SSL": "1",
}
"""What people set elsewhere so that a program takes any certificate."""


def certificates(trusted: Authority, unknown: Authority) -> dict[str, tuple[ssl.SSLContext, dict[str, str]]]:
    """Servers' certificates with one flaw each, and what is set to have them taken all the same."""
    return {
        "unknown": (unknown.server("127.0.0.1"), SWITCHES),
        "expired": (trusted.server("127.0.0.1", not_after=LONG_AGO), {}),
        "another's": (trusted.server("api.themoviedb.org"), {}),
    }


async def test_a_tmdb_with_a_bad_certificate_never_sees_the_key(
    shell_for: Any, trusted: Authority, unknown: Authority
) -> None:
    """An unknown, expired or foreign certificate is reported as TLS's, and no request is sent, whatever is switched."""

    async def meet(case: tuple[ssl.SSLContext, dict[str, str]]) -> tuple[int, list[str], list[str]]:
        tls, environment = case
        async with fixed_server(healthy, tls=tls) as tmdb:
            shell = await shell_for(f"{tmdb.url}/3", SSL_CERT_FILE=trusted.file)
            ended = await shell.having(**environment).run("--verbose")
            assert "tls" in ended.said.lower()
            return ended.code, ended.leaks, tmdb.heads

    cases = certificates(trusted, unknown)
    outcomes = await fan_out(meet, cases.values(), at_once=len(cases))
    assert dict(zip(cases, outcomes, strict=True)) == dict.fromkeys(cases, (6, [], []))


async def test_a_tmdb_with_a_good_certificate_is_asked_directly(shell_for: Any, trusted: Authority) -> None:
    """With its authority trusted all is well; and a proxy of the environment is sent nothing."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    async with (
        fixed_server(responding_with(http(502, ""))) as proxy,
        fixed_server(healthy, tls=trusted.server("localhost"), host="localhost") as tmdb,
    ):
        shell = await shell_for(f"{tmdb.url}/3", SSL_CERT_FILE=trusted.file, NO_PROXY="127.0.0.1")
        ended = await shell.having(**dict.fromkeys(proxies, proxy.url)).run("--verbose")
        assert proxy.heads == []
        assert len(tmdb.heads) == 1 + len(MOVIES)
    assert (ended.code, ended.leaks) == (0, [])


async def test_an_s3_with_a_bad_certificate_never_sees_the_credentials(
    shell_for: Any, nobody: str, trusted: Authority, unknown: Authority
) -> None:
    """The same for S3: exit 4, a sentence, and no request; nor do empty names of files switch it off."""

    async def meet(case: tuple[ssl.SSLContext, dict[str, str]]) -> tuple[int, list[str], list[str]]:
        tls, environment = case
        async with fixed_server(S3_ECHOES["AccessDenied"], tls=tls) as s3:
            shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=s3.url, AWS_SESSION_TOKEN=SESSION)
            ended = await shell.having(**{"AWS_CA_BUNDLE": trusted.file} | environment).run("--verbose")
            assert "Cannot" in ended.said
            return ended.code, ended.leaks, s3.heads

    cases = certificates(trusted, unknown)
    cases["no AWS_CA_BUNDLE"] = cases["unknown"][0], {"AWS_CA_BUNDLE": ""}
    cases["no REQUESTS_CA_BUNDLE"] = cases["unknown"][0], {"REQUESTS_CA_BUNDLE": ""}
    outcomes = await fan_out(meet, cases.values(), at_once=len(cases))
    assert dict(zip(cases, outcomes, strict=True)) == dict.fromkeys(cases, (4, [], []))


async def test_an_s3_with_a_good_certificate_is_asked(shell_for: Any, nobody: str, trusted: Authority) -> None:
    """With its authority trusted S3 is asked, and what it says is reported."""
    async with fixed_server(S3_ECHOES["AccessDenied"], tls=trusted.server("127.0.0.1")) as s3:
        shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=s3.url, AWS_CA_BUNDLE=trusted.file)
        ended = await shell.run("--verbose")
        assert s3.heads
    assert (ended.code, ended.leaks) == (4, [])
    assert "AccessDenied" in ended.said


async def test_a_proxy_on_the_way_to_s3_sees_no_secret(shell_for: Any, nobody: str, trusted: Authority) -> None:
    """The SDK goes through HTTPS_PROXY, as it is asked to, by a tunnel: the proxy learns the host and no more."""
    async with (
        fixed_server(responding_with(http(403, ""))) as proxy,
        fixed_server(S3_ECHOES["AccessDenied"], tls=trusted.server("localhost"), host="localhost") as s3,
    ):
        shell = await shell_for(f"{nobody}/3", AWS_ENDPOINT_URL_S3=s3.url, AWS_SESSION_TOKEN=SESSION)
        ended = await shell.having(AWS_CA_BUNDLE=trusted.file, HTTPS_PROXY=proxy.url).run("--verbose")
        assert {"CONNECT"} == {head.split()[0] for head in proxy.heads}
        assert found({"what the proxy was sent": "".join(proxy.heads).encode()}) == []
        assert s3.heads == []
    assert (ended.code, ended.leaks) == (4, [])


# In clear


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8080",
        "127.0.0.1:8080",
        "127.8.9.10",
        "[::1]:8080",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.20:81",
        "[fd00::1]",
        "tmdb",
        "stand-in:8080",
        "tmdb.internal",
        "host.docker.internal:8080",
        "tmdb.lan.local",
        "tmdb.localhost",
        "TMDB.INTERNAL",
    ],
)
def test_http_is_for_near_hosts(host: str) -> None:
    """This machine, a private network or a name that no public host has: a stand-in needs no certificate."""
    assert f"http://{host}/3" == load_settings(tmdb_base_url=f"http://{host}/3").tmdb_base_url


@pytest.mark.parametrize(
    "host",
    [
        "api.themoviedb.org",
        "API.THEMOVIEDB.ORG:80",
        "api.themoviedb.org.",
        "8.8.8.8",
        "172.32.0.1",
        "192.169.0.1:8080",
        "[2606:4700::1111]",
        "[::ffff:8.8.8.8]",
        "134744072",  # 8.8.8.8, as the system reads it
        "0x08080808",
        "8.8.2056",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "10.0.0.1.example.com",
        "internal.example.com",
        "example-internal.com",
        "tmdb.notlocal",
        "api.themoviedb.org:80.internal",
    ],
)
def test_http_is_refused_to_public_hosts(host: str) -> None:
    """The key stands in every request: over plain http everybody on the way would read it. DNS is not asked."""
    with pytest.raises(SettingsError) as caught:
        load_settings(tmdb_base_url=f"http://{host}/3", tmdb_api_key=V3)
    message = str(caught.value)
    assert message.startswith("TMDB_BASE_URL ")
    assert "https://" in message
    assert f"https://{host}/3" == load_settings(tmdb_base_url=f"https://{host}/3").tmdb_base_url


async def test_http_to_a_public_host_ends_in_exit_2_and_a_sentence(shell_for: Any) -> None:
    """The sentence says why, and what to write instead."""
    ended = await (await shell_for("http://api.themoviedb.org/3")).run("--verbose")
    assert (ended.code, ended.leaks) == (2, [])
    assert "TMDB_BASE_URL must begin with https://, or the key would" in ended.said


# What stands in memory and may be shown


def shown_of(error: BaseException, seen: frozenset[int] = frozenset()) -> dict[str, bytes]:
    """All that can be shown of an exception and of those it came from; of ours also the attributes."""
    if id(error) in seen:
        return {}
    name = type(error).__name__
    ours = vars(error) if isinstance(error, HarvestError) else {}
    text = f"{error}\n{error!r}\n{error.args!r}\n{getattr(error, '__notes__', ())}\n{ours!r}"
    places = {f"{name} {id(error)}": text.encode()}
    if not seen:
        places["traceback"] = "".join(traceback.format_exception(error)).encode()
    context = None if error.__suppress_context__ else error.__context__
    others = [error.__cause__, context, *getattr(error, "exceptions", ())]
    for other in others:
        if other is not None:
            places |= shown_of(other, seen | {id(error)})
    return places


def test_the_search_sees_what_an_exception_came_from() -> None:
    """A cause, a context, a note, a member and an argument that the text does not have are all looked at."""

    def raising(secret: str) -> Iterator[BaseException]:
        yield StoreError("read", "x", secret)
        yield ExceptionGroup("x", [ValueError(secret)])
        noted = ValueError("x")
        noted.add_note(secret)
        yield noted
        for linked in ("__cause__", "__context__"):
            error = SettingsError("x")
            setattr(error, linked, UnicodeDecodeError("utf-8", secret.encode(), 0, 1, "x"))
            yield error

    for error in raising(V3):
        assert found(shown_of(error)) != []
    for error in raising("nothing"):
        assert found(shown_of(error)) == []


def tmdb_at(url: str, clock: Clock, key: str) -> Any:
    """A `Tmdb` as the commands open it, but for its waits, which are virtual."""
    limiter = RateLimiter(10_000, clock=clock.time, sleep=clock.sleep)
    options: Any = {"language": None, "append": (), "limiter": limiter, "concurrency": 5, "sleep": clock.sleep}
    return Tmdb(base_url=f"{url}/3", key=key, **options)


def bucket_at(url: str) -> Any:
    return open_bucket("lake", region="us-east-1", credentials=(ACCESS, SECRET, SESSION), endpoint_url=url)


def calls(bucket: Bucket) -> list[Callable[[], Awaitable[object]]]:
    """Something of each kind that is asked of S3."""
    return [
        lambda: bucket.objects("Raw/"),
        lambda: bucket.read("a"),
        lambda: bucket.put("a", b"x"),
        lambda: bucket.land("a", b"x"),
    ]


@pytest.mark.parametrize("key", [V3, V4], ids=["v3", "v4"])
async def test_no_error_of_tmdbs_carries_the_key(clock: Clock, key: str) -> None:
    """Not in its text, arguments or attributes, nor in what it came from: a Lambda logs all of an exception."""
    for answer in (refusing, refusing_in_part, *ECHOES.values()):
        async with fixed_server(answer) as server, tmdb_at(server.url, clock, key) as tmdb:
            with pytest.raises((TmdbRefusedError, TmdbUnavailableError)) as caught:
                await tmdb.check_key()
            assert found(shown_of(caught.value)) == []


@pytest.mark.parametrize("trouble", [name for name in S3_ECHOES if name not in ("a 500", "a redirect to itself")])
async def test_no_error_of_s3s_carries_a_secret(trouble: str) -> None:
    """The same for what S3 repeats, whatever was being done."""
    async with fixed_server(S3_ECHOES[trouble]) as server, bucket_at(server.url) as bucket:
        for call in calls(bucket):
            with pytest.raises(StoreError) as caught:
                await call()
            assert found(shown_of(caught.value)) == []


async def test_nothing_that_holds_a_secret_shows_it(clock: Clock) -> None:
    """Settings, `Tmdb`, `Bucket`, and tasks that wait for an answer, as they print themselves."""
    settings = load_settings(
        tmdb_api_key=V3, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET, aws_session_token=SESSION
    )
    places = {}
    async with knowing(faults=scripted({("movie", MOVIES[0]): [silence(60)]})) as server:
        url = server.url.removesuffix("/3")
        for key in (V3, V4):
            async with tmdb_at(url, clock, key) as tmdb, bucket_at(url) as bucket:
                waiting = asyncio.ensure_future(tmdb.title(MOVIES[0], "movie"))
                while not server.asked.total():
                    await asyncio.sleep(0.01)
                stack = io.StringIO()
                waiting.print_stack(file=stack)
                tasks = [f"{task!r} {task.get_coro()!r}" for task in asyncio.all_tasks()]
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    await waiting
                for each in (settings, tmdb, bucket, tmdb.limiter, tmdb.breaker):
                    places[f"{type(each).__name__} with {key[:3]}"] = f"{each!r} {each!s} {each:}".encode()
                places[f"tasks with {key[:3]}"] = f"{tasks} {stack.getvalue()}".encode()
    assert found(places) == []
    assert len(places) == 12
