"""Hostile input: bad and odd CSVs through the real command line, each with what must come of it.

Either exit 0 with every row accounted for, or exit 2 with one sentence that names the file, and the line where there is
one; never a traceback, never a request to TMDB. A FIFO without a writer is left out: to read one is to wait
for its writer, for ever, as `cat` does.
"""

from __future__ import annotations

import asyncio
import bz2
import codecs
import csv
import fcntl
import gzip
import io
import json
import logging
import lzma
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
import zipfile
from array import array
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import pytest_asyncio
from conftest import client_of
from shells import Ended

from harvester.cli.app import main
from harvester.commands.harvest import harvest
from harvester.fakes.tmdb import KEY
from harvester.runtime.shutdown import Shutdown
from harvester.sources.csv import LONGEST_HEADER
from harvester.sources.csv_rows import LONGEST_LINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from conftest import Silent

    from harvester.fakes.s3_server import S3Server
    from harvester.settings.settings import Settings
    from harvester.store.s3 import Bucket

    Make = Callable[..., Settings]
    Run = Callable[..., Ended]
    Measure = Callable[[Callable[[BinaryIO], object]], "Measured"]

MB = 10**6


@dataclass(frozen=True, slots=True)
class Read:
    """Exit 0: rows, ids, duplicates, and the lines of the rejected rows."""

    rows: int
    ids: int
    duplicates: int
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Exit 2: the line to blame, if there is one, and the words that say what is wrong."""

    line: int | None
    words: tuple[str, ...]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lake(s3: S3Server) -> str:
    """A bucket for all of them: planning writes nothing, and nothing else comes that far."""
    async with client_of(s3) as client:
        await client.create_bucket(Bucket="hostile")
    return "hostile"


@pytest.fixture
def cli(s3: S3Server, lake: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command line, in this process. At TMDB's address nothing answers, but a connection would be seen."""
    with socket.create_server(("127.0.0.1", 0)) as tmdb:
        tmdb.setblocking(False)
        url = f"http://127.0.0.1:{tmdb.getsockname()[1]}/3"
        settings = {"TMDB_API_KEY": KEY, "TMDB_BASE_URL": url, "S3_BUCKET": lake}
        for name, value in (s3.environment() | settings).items():
            monkeypatch.setenv(name, value)
        streams = sys.stdout, sys.stderr
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def run(*words: str) -> Ended:
            with pytest.raises(SystemExit) as caught:
                main(list(words))
            out, err = capsys.readouterr()
            assert "Traceback" not in out + err
            assert KEY not in out + err
            with pytest.raises(BlockingIOError):
                tmdb.accept()
            return Ended(int(caught.value.code or 0), out, err)

        yield run
    sys.stdout, sys.stderr = streams
    for number, handler in before.items():
        signal.signal(number, handler)
    for handler in [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]:
        logging.root.removeHandler(handler)  # it writes to the captured stream, which is gone


def shown(text: str) -> str:
    """What would not show, or would do something to a terminal."""
    return "".join(character for character in text if not character.isprintable())


def is_read(cli: Run, source: str, expected: Read) -> None:
    """Both ways to ask for a plan end in 0, with this account and nothing unprintable on the screen."""
    ended = cli("plan", "--json", "--movies", source)
    assert (ended.code, ended.err) == (0, "")
    account = ended.result["input"]["Movies"]
    assert account["source"] == source
    assert (account["rows"], account["ids"], account["duplicates"]) == (
        expected.rows,
        expected.ids,
        expected.duplicates,
    )
    assert tuple(reject["line"] for reject in account["rejects"]) == expected.rejected
    assert account["rejected"] == len(expected.rejected)
    assert account["rows"] == account["ids"] + account["duplicates"] + account["rejected"]
    assert (account["batches"], account["batches_to_do"]) == (1, 1)
    plain = cli("plan", "--movies", source)
    assert (plain.code, plain.err) == (0, "")
    assert shown(plain.out.replace("\n", "")) == ""


def refusal(cli: Run, source: str) -> str:
    """`plan --json` and a plain harvest both end in 2, with the same sentence about `source`; that sentence."""
    ended = cli("plan", "--json", "--movies", source)
    assert (ended.code, ended.err) == (2, "")
    result = ended.result
    assert (result["status"], result["error"], result["exit_code"]) == ("error", "InputError", 2)
    message: str = result["message"]
    assert message.startswith(source)
    assert shown(message.removeprefix(source)) == ""
    assert len(message.removeprefix(source)) < 1_200
    plain = cli("harvest", "--movies", source)
    assert (plain.code, plain.out, plain.err) == (2, "", f"{message}\n")
    return message


def is_refused(cli: Run, source: str, expected: Refused) -> None:
    """Exit 2, and the sentence has the line to blame and the words that say what is wrong."""
    message = refusal(cli, source)
    start = f"{source}: " if expected.line is None else f"{source}, line {expected.line}: "
    assert message.startswith(start)
    assert [word for word in expected.words if word not in message.removeprefix(start)] == []


# The corpus


def zipped(**files: str) -> bytes:
    """A zip file; an xlsx is one too."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in files.items():
            file.writestr(name, text)
    return whole.getvalue()


def refused(line: int | None, *words: str) -> Refused:
    return Refused(line, words)


def no_column(header: str) -> Refused:
    return refused(1, "has no id column", f"its header is {header}. Name the column with --id-column")


def bad_byte(line: int, byte: str) -> Refused:
    return refused(line, f"is not UTF-8 (byte b'\\x{byte}')", "convert it")


ROWS = "id|t\ntt0000001|Ação\ntt0000002|b\n"
PIPES = ROWS.encode()
COMMAS = PIPES.replace(b"|", b",")
TWO = Read(2, 2, 0)
BINARY = "is not UTF-8 text (it begins with b"
FAR = b"tt0000001|" + b"x" * 89 + b"\n"
"""A row of 100 bytes."""
MARK = codecs.BOM_UTF8

ENCODINGS: dict[str, tuple[bytes, Read | Refused]] = {
    "UTF-16 with a mark": (ROWS.encode("utf-16"), refused(None, BINARY, r"\xff\xfe")),
    "UTF-16 BE with a mark": (codecs.BOM_UTF16_BE + ROWS.encode("utf-16-be"), refused(None, BINARY, r"\xfe\xff")),
    "UTF-16 LE without a mark": (ROWS.encode("utf-16-le"), refused(None, BINARY, r"i\x00d\x00")),
    "UTF-16 BE without a mark": (ROWS.encode("utf-16-be"), refused(None, BINARY, r"\x00i\x00d")),
    "UTF-16 in gzip": (gzip.compress(ROWS.encode("utf-16")), refused(None, BINARY, r"\xff\xfe")),
    "UTF-32": (ROWS.encode("utf-32"), refused(None, BINARY, r"\xff\xfe\x00\x00")),
    "UTF-7": (b"+/v8-" + PIPES, no_column("'+/v8-id|t'")),
    "EBCDIC": (ROWS.encode("cp500"), bad_byte(1, "89")),
    "latin-1": (ROWS.encode("latin-1"), bad_byte(2, "e7")),
    "latin-1 in the header": ("id|título\ntt0000001|a\n".encode("latin-1"), bad_byte(1, "ed")),
    "latin-1 in commas": (ROWS.replace("|", ",").encode("latin-1"), bad_byte(2, "e7")),
    "cp1252 quotes": ("id|t\ntt0000001|a\ntt0000002|“q”\n".encode("cp1252"), bad_byte(3, "93")),
    "Shift JIS": ("id|t\ntt0000001|映画\n".encode("shift-jis"), bad_byte(2, "89")),
    "UTF-8 with a mark": (MARK + PIPES, TWO),
    "UTF-8 with the mark twice": (MARK + MARK + PIPES, no_column(r"'\ufeffid|t'")),
    "a mark in the middle": (PIPES + MARK + b"tt0000003|c\ntt0000004|d\n", Read(4, 3, 0, (4,))),
    "two files with marks put together": (MARK + PIPES + MARK + PIPES, Read(5, 2, 2, (4,))),
    "a mark within a title": ("id|t\ntt0000001|a\ufeffb\n".encode(), Read(1, 1, 0)),
    "a mark and no more": (MARK, refused(None, "is empty")),
    "an overlong slash": (PIPES + b"tt0000003|\xc0\xaf\n", bad_byte(4, "c0")),
    "an overlong slash of three bytes": (PIPES + b"tt0000003|\xe0\x80\xaf\n", bad_byte(4, "e0")),
    "an overlong NUL": (PIPES + b"tt000000\xc0\x80|c\n", bad_byte(4, "c0")),
    "a surrogate": (PIPES + b"tt0000003|\xed\xa0\x80\n", bad_byte(4, "ed")),
    "surrogates for an emoji": (PIPES + b"tt0000003|\xed\xa0\xbc\xed\xbe\xac\n", bad_byte(4, "ed")),
    "beyond Unicode": (PIPES + b"tt0000003|\xf4\x90\x80\x80\n", bad_byte(4, "f4")),
    "a lone continuation byte": (PIPES + b"tt0000003|\x80\n", bad_byte(4, "80")),
    "a byte of all ones": (b"\xff" + PIPES, bad_byte(1, "ff")),
    "a character cut off by a line end": (PIPES + b"tt0000003|\xe2\x82\ntt0000004|d\n", bad_byte(4, "e2")),
    "a character cut off at the end": (PIPES + b"tt0000003|\xe2\x82", bad_byte(4, "e2")),
    "a bad byte far inside": (b"id|t\n" + FAR * 5_000 + b"tt0000002|\xe7\n", bad_byte(5_002, "e7")),
    "noncharacters and private ones": ("id|t\ntt0000001|\ufffe\uffff\ue000\U0010ffff\n".encode(), Read(1, 1, 0)),
}

LINE_ENDS: dict[str, tuple[bytes, Read | Refused]] = {
    "CRLF between pipes": (PIPES.replace(b"\n", b"\r\n"), TWO),
    "CRLF between commas": (COMMAS.replace(b"\n", b"\r\n"), TWO),
    "CR CR LF between pipes": (PIPES.replace(b"\n", b"\r\r\n"), TWO),
    "CR CR LF between commas": (COMMAS.replace(b"\n", b"\r\r\n"), TWO),
    "LF CR between pipes": (PIPES.replace(b"\n", b"\n\r"), TWO),
    "LF and CRLF mixed": (b"id,t\r\ntt0000001,a\ntt0000002,b\r\n\nbad,c\n", Read(3, 2, 0, (5,))),
    "no line end at the end": (PIPES.removesuffix(b"\n"), TWO),
    "CR alone in a file of one long line": (b"id|t\r" + b"tt0000001|a\r" * 2_000, refused(1, "carriage return")),
    "CR within a title between pipes": (b"id|t\ntt0000001|a\rb\ntt0000002|c\n", TWO),
    "CR and LF within quotes": (b'id,t\r\ntt0000001,"a\r\nb\rc\nd"\r\nbad,e\r\n', Read(2, 1, 0, (5,))),
    "VT, FF, NEL and U+2028 between pipes": (
        "id|t\ntt0000001|a\vb\fc\u0085d\u2028e\nbad|\u2029\n".encode(),
        Read(2, 1, 0, (3,)),
    ),
    "VT, FF, NEL and U+2028 between commas": (
        "id,t\ntt0000001,a\vb\fc\u0085d\u2028e\nbad,\u2029\n".encode(),
        Read(2, 1, 0, (3,)),
    ),
    "U+2028 within an id": ("id|t\ntt0000001|a\ntt0000\u2028002|b\n".encode(), Read(2, 1, 0, (3,))),
    "blank lines among the rows": (b"id|t\n\ntt0000001|a\n \t\n\r\ntt0000002|b\n\n\n", TWO),
    "a blank line before the header": (b"\n" + PIPES, no_column("''")),
}

DELIMITERS: dict[str, tuple[bytes, Read | Refused]] = {
    "commas": (COMMAS, TWO),
    "semicolons": (PIPES.replace(b"|", b";"), TWO),
    "tabs": (PIPES.replace(b"|", b"\t"), TWO),
    "spaces": (PIPES.replace(b"|", b" "), no_column("'id t'")),
    "colons": (PIPES.replace(b"|", b":"), no_column("'id:t'")),
    "carets": (PIPES.replace(b"|", b"^"), no_column("'id^t'")),
    "two pipes for one": (PIPES.replace(b"|", b"||"), TWO),
    "commas in the header and semicolons below": (
        b"id,t\ntt0000001;a\n",
        refused(None, "none of its 1 rows has an IMDb title id", "line 2: 'tt0000001;a'", "column 'id'"),
    ),
    "a spreadsheet's word for its delimiter": (b"sep=;\nid;t\ntt0000001;a\n", refused(1, "'sep=;'", "delete it")),
    "a table of Markdown": (b"| id | t |\n|----|---|\n| tt0000001 | a |\n", Read(2, 1, 0, (2,))),
    "a comment before the header": (b"# ids of today\n" + PIPES, no_column("'# ids of today'")),
    "SQL": (b"INSERT INTO t (id,t) VALUES ('tt0000001','a');\n", refused(1, "has no id column", "INSERT INTO")),
}

HEADERS: dict[str, tuple[bytes, Read | Refused]] = {
    "a header without rows": (b"id|t\n", refused(None, "has a header but no rows", "column 'id'")),
    "a header without an end": (b"id|t", refused(None, "has a header but no rows", "column 'id'")),
    "rows without a header": (b"tt0000001|a\ntt0000002|b\n", refused(1, "has no header")),
    "ids without a header": (b"tt0000001\ntt0000002\n", refused(1, "has no header")),
    "ids alone": (b"id\ntt0000001\ntt0000002\n", TWO),
    "the header twice": (b"id|t\n" + PIPES, Read(3, 2, 0, (2,))),
    "the header again below": (PIPES + PIPES, Read(5, 2, 2, (4,))),
    "quotes in a header of pipes": (b'"id"|"t"\n"tt0000001"|"a|b"\n', Read(1, 1, 0)),
    "quotes in a header of commas": (b'"t, original","id"\n"a, b","tt0000001"\n', Read(1, 1, 0)),
    "single quotes in the header": (b"'id','t'\n'tt0000001','a'\n", no_column("\"'id','t'\"")),
    "spaces and capitals in the header": (b" T , IMDB_ID \na,tt0000001\n", Read(1, 1, 0)),
    "mark, quotes, spaces and capitals": (MARK + b'" Const ";" T "\r\ntt0000001;a\r\n', Read(1, 1, 0)),
    "the id column twice": (b"id|id\ntt0000001|tt0000002\ntt0000001|tt0000003\n", Read(2, 1, 1)),
    "two id columns": (b"id,imdb_id\n278,tt0000001\n279,tt0000001\n", Read(2, 1, 1)),
    "empty names": (b"||id|\nx|y|tt0000001|\n", Read(1, 1, 0)),
    "only empty names": (b"||\ntt0000001|tt0000002|tt0000003\n", no_column("'||'")),
    "the id column last": (b"a,b,id\r\nx,y,tt0000001\r\nx,y,tt0000002\r\n", TWO),
    "ten thousand columns": (b"|" * 10_000 + b"id\n" + b"|" * 10_000 + b"tt0000001\n", Read(1, 1, 0)),
    "too many columns": (b"id" + b"|x" * LONGEST_HEADER + b"\n" + FAR, refused(1, f"over {LONGEST_HEADER} bytes")),
    "many columns and no id": (
        b"x|" * 4_000 + b"\n" + FAR,
        refused(1, "has no id column", "'x|x|", "with --id-column"),
    ),
    "ragged rows": (b"a|id\nx\nx|tt0000001|y|z\n\n|\n|tt0000002\n", Read(4, 2, 0, (2, 5))),
    "ragged rows of commas": (b"a,id\nx\nx,tt0000001,y,z\n\n,\n,tt0000002\n", Read(4, 2, 0, (2, 5))),
    "what a terminal would obey": (
        b"\x1b]0;x\x07\x1b[2J\x9b".replace(b"\x9b", "\u009b".encode()) + PIPES,
        refused(1, "has no id column", r"\x1b]0;x\x07\x1b[2J\x9bid|t"),
    ),
    "what a terminal would obey in a row": (PIPES + b"\x1b[2J\x1b[31m[bold]|c\n", Read(3, 2, 0, (4,))),
    "right to left in a row": (PIPES + "\u202e1000000tt|c\n".encode(), Read(3, 2, 0, (4,))),
}

QUOTES: dict[str, tuple[bytes, Read | Refused]] = {
    "a quote left open": (COMMAS + b'tt0000003,"c\ntt0000004,d\n', refused(4, "split at ','", "quote left open")),
    "a quote left open in a long file": (
        b'id,t\ntt0000001,"a\n' + b"tt0000002,b\n" * 50_000,
        refused(2, "split at ','", "quote left open"),
    ),
    "a quote left open in the header": (b'"id,t\ntt0000001,a\n', no_column("'\"id,t'")),
    "a quote left open between pipes": (b'id|t\ntt0000001|"a\ntt0000002|b"\n"tt0000003|c\n', Read(3, 3, 0)),
    "quotes doubled": (b'id,t\n"tt0000001","say ""hi"""\n"""tt0000002""",b\n', TWO),
    "a lone quote in a title": (b'id,t\ntt0000001,12" vinyl\ntt0000002,b\n', TWO),
    "a lone quote before a title": (b'id;t\ntt0000001;a\ntt0000002;"12" vinyl"\n', refused(3, "split at ';'")),
    "a lone quote before a title, with tabs": (b'id\tt\ntt0000001\t"12" vinyl"\n', refused(2, r"split at '\t'")),
    "a lone quote for an id": (PIPES + b'"|c\n', Read(3, 2, 0, (4,))),
    "nothing but a quote": (b'"', no_column("'\"'")),
    "a quote in IMDb's own dump": (b'tconst\tt\ntt0000001\t"a\ntt0000002\tb\n', TWO),
    "a backslash at the end of a line": (b"id,t\ntt0000001,a\\\ntt0000002,b\\\n", TWO),
    "a backslash at the end of the file": (b"id|t\ntt0000001|a\\\ntt0000002|b\\", TWO),
    "a backslash before a quote": (b'id,t\ntt0000001,"a \\"b\\" c"\n', refused(2, "split at ','")),
    "a field of 200 KB": (b'id,t\ntt0000001,"' + b"x" * 200_000 + b'"\n', Read(1, 1, 0)),
}

NULS: dict[str, tuple[bytes, Read | Refused]] = {
    "a NUL first": (b"\0" + PIPES, refused(None, "is not UTF-8 text", r"b'\x00id|t")),
    "a NUL within an id": (b"id|t\ntt000\x000001|a\ntt0000002|b\n", refused(None, "is not UTF-8 text")),
    "NULs far inside": (PIPES + FAR * 20 + b"tt00000\x003|c\ntt0000004|\0\n\0\n", Read(25, 3, 20, (24, 26))),
    "NULs far inside commas": (
        (PIPES + FAR * 20 + b"tt00000\x003|c\ntt0000004|\0\n\0\n").replace(b"|", b","),
        Read(25, 3, 20, (24, 26)),
    ),
    "nothing but NULs": (b"\0" * 4_096, refused(None, "is not UTF-8 text")),
}

GZIP = gzip.compress(PIPES * 2_000, mtime=0)
UNZIP = ("is not a whole gzip file", "fetch it again")

ARCHIVES: dict[str, tuple[bytes, Read | Refused]] = {
    "gzip": (gzip.compress(PIPES), TWO),
    "gzip cut short": (GZIP[: len(GZIP) // 2], refused(None, *UNZIP)),
    "gzip without its last byte": (GZIP[:-1], refused(None, *UNZIP)),
    "gzip of another sum": (GZIP[:-8] + b"\0" * 4 + GZIP[-4:], refused(None, *UNZIP, "CRC")),
    "gzip of nothing": (gzip.compress(b""), refused(None, "is empty")),
    "gzip of a header": (gzip.compress(b"id|t\n"), refused(None, "has a header but no rows")),
    "gzip with garbage after it": (gzip.compress(PIPES) + b"garbage", refused(None, *UNZIP)),
    "gzip with zeros after it": (gzip.compress(PIPES) + b"\0" * 512, TWO),
    "gzip twice, one after another": (gzip.compress(PIPES) + gzip.compress(b"tt0000003|c\n"), Read(3, 3, 0)),
    "gzip's first two bytes": (GZIP[:2], refused(None, *UNZIP)),
    "gzip's first nine bytes": (GZIP[:9], refused(None, *UNZIP)),
    "gzip of an unknown method": (b"\x1f\x8b\x09" + GZIP[3:], refused(None, *UNZIP)),
    "gzip's head before text": (GZIP[:10] + PIPES, refused(None, *UNZIP)),
}

OTHER_THINGS: dict[str, tuple[bytes, Read | Refused]] = {
    "an empty file": (b"", refused(None, "is empty: was the download or the export finished?")),
    "a lone line end": (b"\n", refused(None, "is empty")),
    "white space": (b" \t\r\n\v\f\n  ", refused(None, "is empty")),
    "a page of an expired link": (
        b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head></html>\n",
        no_column("'<!DOCTYPE html>'"),
    ),
    "a page on one line": (b"<html>" + b"<p>id,t</p>" * 2_000 + b"</html>", refused(1, "first line of over")),
    "an error of S3 (NoSuchKey)": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code><Key>movies.csv</Key></Error>',
        no_column('\'<?xml version="1.0" encoding="UTF-8"?>\''),
    ),
    "an error of S3 (ExpiredToken)": (
        b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>",
        refused(1, "has no id column", "<Code>ExpiredToken</Code>"),
    ),
    "JSON": (b'{"id": "tt0000001", "t": "a"}', refused(1, "has no id column", '{"id": "tt0000001"')),
    "JSON over lines": (b'[\n {"id": "tt0000001"}\n]\n', no_column("'['")),
    "JSON Lines": (b'{"imdb_id":"tt0000001"}\n{"imdb_id":"tt0000002"}\n', no_column('\'{"imdb_id":"tt0000001"}\'')),
    "a git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 164700000\n",
        no_column("'version https://git-lfs.github.com/spec/v1'"),
    ),
    "prose": ("Olá, mundo. É só um texto.\n".encode(), no_column("'Olá, mundo. É só um texto.'")),
}

CORPUS = ENCODINGS | LINE_ENDS | DELIMITERS | HEADERS | QUOTES | NULS | ARCHIVES | OTHER_THINGS


@pytest.mark.parametrize("name", CORPUS)
def test_each_bad_csv_ends_in_its_account_or_in_one_sentence(cli: Run, tmp_path: Path, name: str) -> None:
    """Exit 0 with every row accounted for, or 2 with a sentence of file, line and trouble; TMDB hears nothing of it."""
    content, expected = CORPUS[name]
    path = tmp_path / "movies.csv"
    path.write_bytes(content)
    if isinstance(expected, Read):
        is_read(cli, str(path), expected)
    else:
        is_refused(cli, str(path), expected)


CARRIAGE_RETURNS = {
    "between pipes": PIPES.replace(b"\n", b"\r"),
    "between commas": COMMAS.replace(b"\n", b"\r"),
    "between some rows of commas": b"id,t\ntt0000001,a\rtt0000002,b\ntt0000003,c\n",
    "after LF, between commas": COMMAS.replace(b"\n", b"\n\r"),
    "in a file put before another": PIPES.replace(b"\n", b"\r") + PIPES,
}


@pytest.mark.parametrize("name", CARRIAGE_RETURNS)
def test_carriage_returns_for_line_ends_are_called_by_their_name(cli: Run, tmp_path: Path, name: str) -> None:
    """Lines that end as an old Mac ended them are refused for that: they are not "no rows", nor lost in the header."""
    path = tmp_path / "movies.csv"
    path.write_bytes(CARRIAGE_RETURNS[name])
    message = refusal(cli, str(path))
    assert "carriage return" in message
    assert "universal-newline" not in message  # Python's advice to Python programmers


NO_TEXT = {
    "a zip file": zipped(**{"movies.csv": ROWS}),
    "a spreadsheet": zipped(**{"[Content_Types].xml": "<Types/>", "xl/worksheets/sheet1.xml": "<worksheet/>"}),
    "gzip within gzip": gzip.compress(gzip.compress(PIPES, mtime=0)),
    "bzip2": bz2.compress(PIPES),
    "xz": lzma.compress(PIPES),
    "zstandard": b"\x28\xb5\x2f\xfd\x04\x58\x71\x00",
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "Parquet": b"PAR1\x15\x04\x15\x1c\x15\x00PAR1",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
}


@pytest.mark.parametrize("name", NO_TEXT)
def test_what_is_no_text_is_not_to_be_converted_to_utf_8(cli: Run, tmp_path: Path, name: str) -> None:
    """A spreadsheet or an archive is refused for what it is: no encoding would make a CSV of it."""
    path = tmp_path / "movies.csv"
    path.write_bytes(NO_TEXT[name])
    message = refusal(cli, str(path))
    assert [advice for advice in ("save it as UTF-8", "iconv") if advice in message] == []


# Where it comes from


def a_link(folder: Path, to: str) -> str:
    (folder / "link.csv").symlink_to(to)
    return str(folder / "link.csv")


def a_socket(folder: Path) -> str:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.csv")  # a path of AF_UNIX has 107 bytes at most: it lies in the working folder
    return "socket.csv"


def a_file(folder: Path, content: bytes) -> str:
    (folder / "file.csv").write_bytes(content)
    return str(folder / "file.csv")


SOURCES: dict[str, tuple[Callable[[Path], str], Refused]] = {
    "nothing": (lambda folder: str(folder / "nothing.csv"), refused(None, "No such file or directory", "s3:// URL")),
    "a folder": (str, refused(None, "cannot be read (Is a directory)", "give the path of a CSV file")),
    "a link to nothing": (lambda folder: a_link(folder, "nothing.csv"), refused(None, "No such file or directory")),
    "a link to itself": (lambda folder: a_link(folder, "link.csv"), refused(None, "symbolic links")),
    "a path through a file": (lambda folder: a_file(folder, PIPES) + "/x", refused(None, "Not a directory")),
    "a name too long": (lambda folder: str(folder / ("x" * 300)), refused(None, "File name too long")),
    "a socket": (a_socket, refused(None, "cannot be read")),
    "/dev/null": (lambda _: "/dev/null", refused(None, "is empty")),
    "/dev/zero": (lambda _: "/dev/zero", refused(None, "is not UTF-8 text")),
    "a web address": (lambda _: "https://example.com/movies.csv", refused(None, "cannot be read", "s3:// URL or -")),
    "another scheme": (lambda _: "S3A://lake/movies.csv", refused(None, "cannot be read", "s3:// URL or -")),
    "no bucket and no key": (lambda _: "s3://", refused(None, "is not an S3 URL", "give s3://bucket/key")),
    "a bucket without a key": (lambda _: "s3://hostile", refused(None, "is not an S3 URL", "give s3://bucket/key")),
    "a key that is not there": (
        lambda _: "s3://hostile/movies+and%20more.csv?versionId=1#x",
        refused(None, "does not exist"),
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_no_file_is_named(cli: Run, tmp_path: Path, name: str) -> None:
    """Folders, links to nothing, devices and addresses end in 2, with the name as it was given and what to give."""
    make, expected = SOURCES[name]
    is_refused(cli, make(tmp_path), expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(cli: Run, tmp_path: Path) -> None:
    """A missing permission is the user's to give: exit 2, and the system's own words."""
    path = tmp_path / "secret.csv"
    path.write_bytes(PIPES)
    path.chmod(0)
    is_refused(cli, str(path), refused(None, "cannot be read (Permission denied)"))


NAMES = [
    "two words.csv",
    "two\nlines.csv",
    "Ação 映画 🎬.csv",
    "e\u0301.csv",
    "[bold]red[reset].csv",
    "{mm}%2F%s.csv",
    "'\"\\.csv",
    "s3:.csv",
    "movies.csv.gz",
    "-",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_taken_as_it_is(cli: Run, tmp_path: Path, name: str) -> None:
    """Spaces, line ends, other alphabets, markup and braces in a name are read, and named in full when refused."""
    path = tmp_path / name
    path.write_bytes(PIPES)
    is_read(cli, str(path), TWO)
    path.write_bytes(b"")
    is_refused(cli, str(path), refused(None, "is empty"))


def test_a_pipe_of_the_shell_is_read_as_a_file_is(cli: Run) -> None:
    """`--movies <(zcat movies.csv.gz)`, and so is what is still zipped, though it cannot be sought in."""
    for content in (PIPES, gzip.compress(PIPES)):
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        ended = cli("plan", "--json", "--movies", f"/dev/fd/{reading}")
        os.close(reading)
        assert (ended.code, ended.result["input"]["Movies"]["ids"]) == (0, 2)


LATIN_1 = os.fsdecode(b"caf\xe9.csv")
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")


@only_linux
def test_a_path_that_is_not_utf_8_is_planned(cli: Run, tmp_path: Path) -> None:
    """A name of Linux is bytes, and old archives have it in Latin-1: it is read, or refused, in JSON too."""
    for words in ([], ["--json"]):
        missing = cli("plan", *words, "--movies", str(tmp_path / LATIN_1))
        assert missing.code == 2
        assert "No such file or directory" in missing.out + missing.err
    (tmp_path / LATIN_1).write_bytes(PIPES)
    ended = cli("plan", "--json", "--movies", str(tmp_path / LATIN_1))
    assert (ended.code, ended.result["input"]["Movies"]["ids"]) == (0, 2)


@only_linux
async def test_a_path_that_is_not_utf_8_is_harvested(
    bucket: Bucket, settings_for: Make, observer: Silent, tmp_path: Path
) -> None:
    """The plan that is written into the bucket is JSON, whatever the name of the CSV."""
    (tmp_path / LATIN_1).write_bytes(PIPES)
    async with recording() as (url, _):
        settings = settings_for(url, movies_csv=str(tmp_path / LATIN_1))
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
    assert (report.status, report.totals.found) == ("closed", 2)


def test_an_empty_path_is_no_path(cli: Run) -> None:
    """`--movies "$UNSET"` is reported as the flag that has nothing, not as a folder without a name."""
    for words in (["plan"], ["plan", "--json"], ["harvest"]):
        ended = cli(*words, "--movies", "")
        assert ended.code == 2
        assert "--movies" in ended.out + ended.err


def test_a_path_with_a_nul_is_no_path(cli: Run, tmp_path: Path) -> None:
    """No system has such a file; from the TOML file one can be asked for all the same."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "harvester.toml").write_text(r'movies_csv = "movies\u0000.csv"', encoding="utf-8")
    ended = cli("plan", "--json")
    assert (ended.code, ended.result["error"]) == (2, "InputError")


@pytest.mark.parametrize(
    "source", ["s3://two words/movies.csv", f"s3://hostile/{LATIN_1}", "s3://hostile/two\nlines.csv"]
)
def test_what_is_no_address_in_s3_is_refused_in_one_sentence(cli: Run, source: str) -> None:
    """A bucket or key that cannot be is the input's fault: exit 2, on one line, without the SDK's patterns."""
    ended = cli("plan", "--movies", source)
    assert ended.code == 2
    assert ended.err.endswith("\n")
    assert ended.err.count("\n") == 1 + source.count("\n")
    assert "regex" not in ended.err


def test_one_bad_csv_of_two_stops_both(cli: Run, tmp_path: Path) -> None:
    """Good movies do not hide bad series: exit 2 names the series' file, and nothing is asked for the movies."""
    for path in ("movies.csv", "series.csv"):
        (tmp_path / path).write_bytes(PIPES)
    (tmp_path / "series.csv").write_bytes(ENCODINGS["latin-1"][0])
    for words in (["plan", "--json"], ["harvest", "--json"]):
        ended = cli(*words, "--movies", "movies.csv", "--series", "series.csv")
        assert (ended.code, ended.result["error"]) == (2, "InputError")
        assert ended.result["message"].startswith("series.csv, line 2: is not UTF-8")


def test_a_title_in_both_csvs_is_counted_once(cli: Run, tmp_path: Path) -> None:
    """The same file twice, under two names, has its ids in the movies and nothing but duplicates in the series."""
    (tmp_path / "movies.csv").write_bytes(PIPES)
    ended = cli("plan", "--json", "--movies", "movies.csv", "--series", "./movies.csv")
    result = ended.result["input"]
    assert ended.code == 0
    assert [
        (result[name]["rows"], result[name]["ids"], result[name]["duplicates"]) for name in ("Movies", "Series")
    ] == [
        (2, 2, 0),
        (2, 0, 2),
    ]


# Standard input


def test_a_closed_standard_input_is_an_empty_one(s3: S3Server, tmp_path: Path) -> None:
    """`<&-`, as daemons start their children: nothing can be read there, which is exit 2 and no bug."""
    command = 'exec "$0" -m harvester plan --json --movies - --bucket hostile <&-'
    run = subprocess.run(
        ["sh", "-c", command, sys.executable],
        capture_output=True,
        env=os.environ | s3.environment(),
        cwd=tmp_path,
        timeout=50,
        check=False,
    )
    assert "Traceback" not in (run.stdout + run.stderr).decode()
    result = json.loads(run.stdout)
    assert (run.returncode, result["error"]) == (2, "InputError")
    assert result["message"].startswith("-: ")


@only_linux
@pytest.mark.parametrize("content", [PIPES, MARK + PIPES, gzip.compress(PIPES)], ids=["plain", "mark", "gzip"])
def test_standard_input_may_come_byte_by_byte(content: bytes) -> None:
    """Mark and gzip are recognised by the first bytes, also if a slow pipe brings them one by one."""
    program = "from harvester.sources.csv import read_ids; print(*read_ids('-').ids)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        pipe = process.stdin.fileno()
        unread = array("i", [0])
        for index in range(4):
            os.write(pipe, content[index : index + 1])
            unread[0] = 1
            while unread[0] and process.poll() is None:
                time.sleep(0.01)
                fcntl.ioctl(pipe, termios.FIONREAD, unread)
            if process.poll() is not None:
                break
        out, _ = process.communicate(content[4:])
    assert out.split() == [b"tt0000001", b"tt0000002"]


# Ids that are none, or look like none

PATHS = ["tt0111161/", "tt0111161/..", "../tt0111161", "tt0111161/../tv/1", "/3/movie/1", "..", "%2F", "tt0111161%2F.."]
QUERIES = ["tt0111161%00", "%74%740111161", "tt0111161?api_key=x", "tt0111161#", "tt0111161&language=x", "tt0111161;x"]
CUTS = [
    "tt0111161\\",
    "tt0111161,tt0068646",
    "tt0111161|tt0068646",
    "tt0111\n161",
    "tt0111161\nHost: x",
    "tt0111161\r\nx",
]
DIGITS = ["tt٠١١١١٦١", "tt０１１１１６１", "ｔｔ0111161", "tt011116¹", "tt011116Ⅰ", "тт0111161", "９", "²", "Ⅷ", "٣"]
LENGTHS = [
    "9" * 40,
    "tt" + "1" * 40,
    "tt12345678901",
    "12345678901",
    "tt0000000",
    "tt0000000000",
    "0",
    "tt",
    "t0111161",
]
KINDS = ["ttt0111161", "tt 0111161", "0 111 161", "0.111.161", "111,161", "nm0000001", "co0111161", "-1", "-tt0111161"]
NUMBERS = ["+1", "+1+1", "1e6", "0x10", "0b1", "1_000", "1.5", "1.00", ".0", "1.", "NaN", "nan", "inf", "TRUE"]
NULLS = ["None", "null", r"\N", "#N/A", "", " ", "\n", '"', "''"]
FORMULAS = [
    "=tt0111161",
    '="tt0111161"',
    '=HYPERLINK("https://x/?a=1","tt0111161")',
    "@SUM(1+1)*2",
    "-2+3+cmd|' /C calc'!A0",
]
UNSEEN = ["\u200btt0111161", "tt0111161\u200b", "\u200ftt0111161\u200f", "\u202ett0111161", "\ufefftt0111161"]
PARTS = [
    "tt\u00ad0111161",
    "tt0111161\u0301",
    "🎬",
    "tt🎬",
    "tt0111161 (1994)",
    "https://www.imdb.com/title/tt0111161/",
]
PROGRAMS = ["<b>tt0111161</b>", "{tt0111161}", "${TMDB_API_KEY}", "{{7*7}}", "'; DROP TABLE x; --"]
FAR_NULS = ["x" * 100_000, "tt0111161\0", "\0tt0111161", "tt01\x0011161"]  # near the beginning they would mean UTF-16

NO_IDS = [
    *[*PATHS, *QUERIES, *CUTS, *DIGITS, *LENGTHS, *KINDS, *NUMBERS],
    *[*NULLS, *FORMULAS, *UNSEEN, *PARTS, *PROGRAMS, *FAR_NULS],
]

REPAIRED = {
    "TT0000011": "tt0000011",
    "tT0000012": "tt0000012",
    " tt0000013 ": "tt0000013",
    "\ttt0000014\r": "tt0000014",
    "tt0000015\n": "tt0000015",
    "\u00a0tt0000016\u3000": "tt0000016",
    '"tt0000017"': "tt0000017",
    "' 18 '": "tt0000018",
    "19": "tt0000019",
    "20.0": "tt0000020",
    "tt21": "tt0000021",
    "0000022": "tt0000022",
    "1234567890": "tt1234567890",
    "tt1234567891": "tt1234567891",
}

GOOD = ["tt0111161", "tt0068646"]


def csv_of(ids: list[str], delimiter: str) -> tuple[bytes, list[int]]:
    """A CSV of these ids, quoted where there is no pipe, and the line at which each of them begins."""
    rows = [[id_, "a title"] for id_ in ids]
    whole = io.StringIO()
    lines = []
    writer = csv.writer(whole, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    whole.write(f"id{delimiter}t\n")
    for row in rows:
        lines.append(whole.getvalue().count("\n") + 1)
        if delimiter == "|":
            whole.write("|".join(row) + "\n")
        else:
            writer.writerow(row)
    return whole.getvalue().encode(), lines


@pytest.mark.parametrize("delimiter", ["|", ",", ";", "\t"])
def test_odd_ids_are_repaired_or_rejected_each_in_its_row(cli: Run, tmp_path: Path, delimiter: str) -> None:
    """What spreadsheets do to an id is undone, and anything else in its place is reported by its line."""
    odd_ids = [*NO_IDS, *REPAIRED]
    if delimiter == "|":  # without quotes, a line end or a pipe is what it is
        odd_ids = [id_ for id_ in odd_ids if not set(id_) & set("\n|")]
    content, lines = csv_of(["tt0111161", *odd_ids, "tt0068646", *GOOD], delimiter)
    path = tmp_path / "movies.csv"
    path.write_bytes(content)
    repaired = [id_ for id_ in odd_ids if id_ in REPAIRED]
    rejected = [line for id_, line in zip(odd_ids, lines[1:], strict=False) if id_ not in REPAIRED]
    is_read(cli, str(path), Read(len(odd_ids) + 4, len(repaired) + 2, 2, tuple(rejected)))


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[str, list[str]]]:
    """A TMDB that knows every title by the number 7, and what it was asked for, as it stood in the request's line."""
    asked: list[str] = []
    rows = {f"{name}_results": [{"id": 7}] for name in ("movie", "tv")}
    body = orjson.dumps({"success": True, "status_code": 1, "id": 7} | rows)
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked.append(head.partition(b"\r\n")[0].decode("latin-1"))
                writer.write(response)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/3", asked


BATCH = r"tt[0-9]{7,10}-tt[0-9]{7,10}-[0-9a-f]{8}"
DATA = rf"(Movies|Series)/[0-9]{{4}}/[0-9]{{2}}/[0-9]{{2}}/{BATCH}"
RUN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}-[0-9a-f]{8}"
OF_RUN = rf"(manifest|summary|receipts/(Movies|Series)/{BATCH})\.json|(ids-[0-9a-f]{{8,64}}|outcomes)\.jsonl\.gz"
KEY_OF_OURS = re.compile(rf"Raw/API/({DATA}\.json|_harvest/(lease\.json|{RUN}/({OF_RUN})))")


async def test_tmdb_is_asked_for_nothing_but_ids(
    bucket: Bucket, settings_for: Make, observer: Silent, tmp_path: Path
) -> None:
    """Whatever stands in the CSVs, a path ends in `tt` and digits or in a number; query and keys are ours."""
    movies, series = ["tt0111161", *NO_IDS, *REPAIRED, "tt0068646"], ["tt0944947", *NO_IDS, *REPAIRED, "tt0903747"]
    (tmp_path / "movies.csv").write_bytes(csv_of(movies, ",")[0])
    (tmp_path / "series.csv").write_bytes(csv_of(series, ";")[0])
    async with recording() as (url, asked):
        settings = settings_for(url, movies_csv="movies.csv", series_csv="series.csv")
        report = await harvest(settings, observer=observer, shutdown=Shutdown())
    totals = report.totals
    assert (report.status, totals.ids, totals.found) == ("closed", len(REPAIRED) + 4, len(REPAIRED) + 4)
    assert (totals.rejected, totals.duplicates) == (2 * len(NO_IDS), len(REPAIRED))
    [first, *others] = [line.removesuffix(" HTTP/1.1").removeprefix("GET ").partition("?") for line in asked]
    assert first == ("/3/authentication", "?", f"api_key={KEY}")
    unexpected = [path for path, _, _ in others if not re.fullmatch(r"/3/(movie|tv|find)/(tt[0-9]{7,10}|[0-9]+)", path)]
    assert unexpected == []
    assert sorted(path for path, _, _ in others) == sorted(
        [f"/3/movie/{id_}" for id_ in ("tt0111161", *REPAIRED.values(), "tt0068646")]
        + ["/3/find/tt0944947", "/3/tv/7", "/3/find/tt0903747", "/3/tv/7"]
    )
    queries = {"", "external_source=imdb_id&", "append_to_response=external_ids&"}
    assert {query for _, _, query in others} == {f"{query}api_key={KEY}" for query in queries}
    keys = await bucket.objects("")
    assert [key for key in keys if not KEY_OF_OURS.fullmatch(key)] == []
    assert len(keys) == 9  # lease, ids, manifest, a data file and a receipt of each CSV, outcomes, summary


# Memory

PEAK = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)
"""
"""A small process that starts the measured one: what is started by a large process begins with its peak (Linux)."""


@dataclass(frozen=True, slots=True)
class Measured:
    code: int
    result: dict[str, Any]
    peak: int


@pytest.fixture(scope="module")
def measure(s3: S3Server, lake: str, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Plans a CSV in a process of its own; its exit code, its result, and its most memory in bytes."""
    path = tmp_path_factory.mktemp("memory") / "movies.csv"
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

    def run(write: Callable[[BinaryIO], object]) -> Measured:
        with path.open("wb") as file:
            write(file)
        command = [sys.executable, "-m", "harvester", "plan", "--json", "--movies", path.name, "--bucket", lake]
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PEAK, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | s3.environment(),
            cwd=path.parent,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it and the measured one, if they still run
        assert err == b""
        result, measured = out.splitlines()
        peak, code = measured.split()
        return Measured(int(code), json.loads(result), int(peak) * 1024)

    return run


@pytest.fixture(scope="module")
def read_peak(measure: Measure) -> int:
    """What planning a tiny file takes."""
    measured = measure(lambda file: file.write(PIPES))
    assert measured.code == 0
    return measured.peak


@pytest.fixture(scope="module")
def refused_peak(measure: Measure) -> int:
    """What refusing a tiny file takes: less, because the bucket is not asked then."""
    measured = measure(lambda file: file.write(b"id|t\n"))
    assert measured.code == 2
    return measured.peak


def one_line(file: BinaryIO, head: bytes) -> None:
    """A line of 100 MB after `head`."""
    file.write(head)
    file.writelines(b"x" * MB for _ in range(100))


def sparse(file: BinaryIO, head: bytes) -> None:
    """A line of 100 MB of NULs, of which the disk holds nothing."""
    file.write(head + FAR * 20)
    file.truncate(100 * MB)


def bomb(file: BinaryIO, head: bytes) -> None:
    """A line of 100 MB in half a megabyte of gzip."""
    with gzip.open(file, "wb", compresslevel=1) as unzipped:
        one_line(unzipped, head)


def one_row(file: BinaryIO, head: bytes) -> None:
    """A row of 30 MB in short lines, in gzip: every line ends within quotes."""
    with gzip.open(file, "wb", compresslevel=1) as unzipped:
        unzipped.write(head + b'tt0000002,"')
        for _ in range(30):
            unzipped.write(b'ab\ncd","' * (MB // 8))


TOO_LONG = f"has a line of over {LONGEST_LINE} bytes"

ENDLESS: dict[str, tuple[Callable[[Any, bytes], None], bytes, Refused]] = {
    "a line of pipes": (one_line, b"id|t\ntt0000001|a\n", refused(3, TOO_LONG)),
    "a line of commas": (one_line, b"id,t\ntt0000001,a\n", refused(3, TOO_LONG)),
    "a field within quotes": (one_line, b'id,t\ntt0000001,"', refused(2, TOO_LONG)),
    "a header": (one_line, b"id|", refused(1, f"has a first line of over {LONGEST_HEADER} bytes")),
    "a line of NULs": (sparse, b"id|t\n", refused(22, TOO_LONG)),
    "a line in gzip": (bomb, b"id|t\ntt0000001|a\n", refused(3, TOO_LONG)),
    "a row of many lines": (one_row, b"id,t\ntt0000001,a\n", refused(3)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_refused_in_bounded_memory(measure: Measure, refused_peak: int, name: str) -> None:
    """A line or row of 30 to 100 MB takes at most 20 MB above a tiny file, and is refused by its number.

    Measured: 68.4 MB for the tiny file, 0.6 MB more for the header, 3.6 to 4.2 MB more for a line.
    """
    make, head, expected = ENDLESS[name]
    ended = measure(lambda file: make(file, head))
    assert (ended.code, ended.result["error"]) == (2, "InputError")
    assert ended.result["message"].startswith(f"movies.csv, line {expected.line}: ")
    assert [word for word in expected.words if word not in ended.result["message"]] == []
    assert ended.peak - refused_peak < 20 * MB


@pytest.mark.parametrize("delimiter", [b"|", b","])
@pytest.mark.parametrize(
    ("rows", "account"),
    [
        (
            lambda: b"tt0000001|a\n" * 500_000 + b"tt0000002|b\ntt0000001|a\n" * 250_000,
            [1_000_000, 2, 999_998, 0],
        ),
        (lambda: b"tt0000001|a\n" + b"nm0000001|a\n" * 999_999, [1_000_000, 1, 0, 999_999]),
    ],
    ids=["duplicates", "rejects"],
)
def test_a_million_rows_of_nothing_new_take_little_memory(
    measure: Measure, read_peak: int, rows: Callable[[], bytes], account: list[int], delimiter: bytes
) -> None:
    """Duplicates, adjacent and in turn, and rejects are all counted and take at most 20 MB above a tiny file.

    Measured: 81.4 MB for the tiny file, 0.3 MB more for duplicates, 8.1 MB for rejects, which each have their line.
    """
    ended = measure(lambda file: file.write((b"id|t\n" + rows()).replace(b"|", delimiter)))
    result = ended.result["input"]["Movies"]
    assert ended.code == 0
    assert [result[name] for name in ("rows", "ids", "duplicates", "rejected")] == account
    assert len(result["rejects"]) == min(1_000, account[-1])
    assert ended.peak - read_peak < 20 * MB
