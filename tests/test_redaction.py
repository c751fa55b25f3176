"""Redaction: every known secret is removed, in whatever form, of texts and of streams."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from harvester.settings.redaction import REDACTED, RedactingStream, redact

SECRET = 's3cR/et+"quoted"/key'


@pytest.mark.parametrize(
    ("text", "secrets", "redacted"),
    [
        ("api_key=abcdefgh&x=abcdefgh", ("abcdefgh",), f"api_key={REDACTED}&x={REDACTED}"),
        ("one abcdefgh, two stuvwxyz", ("abcdefgh", "stuvwxyz"), f"one {REDACTED}, two {REDACTED}"),
        ("nothing", ("abcdefgh",), "nothing"),
        ("nothing", (), "nothing"),
        ("nothing", ("",), "nothing"),
        ("s3://demo-lake", ("demo",), "s3://demo-lake"),
        ("a key abcdefghij", ("abcdefgh", "abcdefghij"), f"a key {REDACTED}"),
        ("no UTF-8: \udcff\udcfeabcdef", ("\udcff\udcfeabcdef",), f"no UTF-8: {REDACTED}"),
    ],
)
def test_every_secret_is_redacted(text: str, secrets: tuple[str, ...], redacted: str) -> None:
    """However often it stands there, and whatever other secrets there are; one that is empty is none."""
    assert redact(text, secrets) == redacted


@pytest.mark.parametrize(
    "form",
    [SECRET, quote(SECRET), quote(SECRET, safe=""), json.dumps(SECRET)[1:-1], json.dumps(json.dumps(SECRET))[3:-3]],
    ids=["as it is", "in a path", "in a query", "in JSON", "in JSON within JSON"],
)
def test_a_stream_strikes_secrets_out_of_all_that_is_written(form: str) -> None:
    """In each of its forms, in the first line and in those after it, although the secrets are given only once."""
    stream = io.StringIO()
    redacted = RedactingStream(stream, (secret for secret in (SECRET, "")))
    for _ in range(2):
        print(f"<{form}>", file=redacted)
    assert stream.getvalue() == f"<{REDACTED}>\n" * 2
    assert redacted.trouble is None


def test_lines_are_redacted_as_single_texts_are() -> None:
    """`writelines` is no way past the redaction."""
    stream = io.StringIO()
    RedactingStream(stream, [SECRET]).writelines(f"<{SECRET}>\n" for _ in range(2))
    assert stream.getvalue() == f"<{REDACTED}>\n" * 2


@pytest.mark.parametrize("name", ["buffer", "detach"])
def test_the_bytes_below_a_stream_cannot_be_reached(name: str) -> None:
    """What would be written there is not redacted; typer, for one, looks for a `buffer`."""
    redacted = RedactingStream(io.TextIOWrapper(io.BytesIO()), [SECRET])
    assert not hasattr(redacted, name)


def test_a_stream_that_cannot_be_written_to_remembers_it_and_raises_nothing() -> None:
    """A full disk and a reader who has left are reported by `trouble`; the writer goes on."""
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w", encoding="utf-8") as full, os.fdopen(write, "w", encoding="utf-8") as pipe:
        for stream, number in ((full, errno.ENOSPC), (pipe, errno.EPIPE)):
            redacted = RedactingStream(stream)
            assert redacted.write("some words") == len("some words")
            assert redacted.trouble is None  # they are in a buffer
            redacted.flush()
            assert redacted.trouble is not None
            assert redacted.trouble.errno == number
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left in the buffer goes there


def test_a_stream_is_otherwise_the_stream_it_is() -> None:
    """Who asks it for its encoding, its number or whether it is a terminal is answered."""
    with Path(os.devnull).open("w", encoding="utf-8") as stream:
        redacted = RedactingStream(stream, ["abcdefgh"])
        assert (redacted.fileno(), redacted.encoding, redacted.isatty()) == (stream.fileno(), "utf-8", False)
