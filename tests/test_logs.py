"""Logs: for people on a terminal, for machines elsewhere, and never a secret."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import structlog

from harvester.logs import set_up_logs
from harvester.redaction import STRUCK, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, TOKEN = "0123456789abcdef" * 2, "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2VjcmV0"
SECRETS = (KEY, TOKEN)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is set up once a process; other tests are not to notice."""
    yield
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object_where_no_terminal_is() -> None:
    """A machine reads one object a line: level, UTC time, event, and every value under its name."""
    stream = io.StringIO()
    set_up_logs(secrets=SECRETS, stream=stream)
    log = structlog.get_logger("harvest")
    log.info("batch_landed", batch="tt1-tt2", found=99, text="two\nlines")
    log.warning("hold", seconds=1.5)
    first, second = lines(stream)
    assert first.pop("timestamp").endswith("Z")
    assert first == {"level": "info", "event": "batch_landed", "batch": "tt1-tt2", "found": 99, "text": "two\nlines"}
    assert (second["level"], second["seconds"]) == ("warning", 1.5)


def test_a_line_is_readable_on_a_terminal() -> None:
    """People see the event and its values, and no JSON."""
    stream = Terminal()
    set_up_logs(secrets=SECRETS, stream=stream)
    structlog.get_logger().info("batch_landed", found=99)
    assert "batch_landed" in stream.getvalue()
    assert "99" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("terminal", [False, True], ids=["elsewhere", "terminal"])
@pytest.mark.parametrize("secret", SECRETS, ids=["key", "token"])
def test_no_secret_is_ever_in_a_line(secret: str, terminal: bool) -> None:  # noqa: FBT001
    """Struck out of the event, of names, of values however deep, and of whatever else has a secret in its text."""
    stream = Terminal() if terminal else io.StringIO()
    set_up_logs(secrets=SECRETS, stream=stream)
    log = structlog.get_logger()
    event = f"asked with {secret}"
    log.info(event)
    log.info("value", url=f"https://api.themoviedb.org/3/movie/1?api_key={secret}&language=pt", known=True)
    log.info("deep", headers={"Authorization": [f"Bearer {secret}"]}, raw=secret.encode(), error=ValueError(secret))
    log.info("name", **{secret: 1})
    written = stream.getvalue()
    assert secret not in written
    assert written.count(STRUCK) == 6
    assert written.count("\n") == 4


def test_no_secret_is_in_an_exception_that_is_logged() -> None:
    """A traceback with the key in its message, and in that of its cause, has it struck out; it is one line of JSON."""
    stream = io.StringIO()
    set_up_logs(secrets=SECRETS, stream=stream)

    try:
        int(TOKEN)
    except ValueError as cause:
        error = KeyError(KEY)
        error.__cause__ = cause
        structlog.get_logger().error("bug", exc_info=error)
    [line] = lines(stream)
    assert not any(secret in stream.getvalue() for secret in SECRETS)
    assert f"ValueError: invalid literal for int() with base 10: '{STRUCK}'" in line["exception"]
    assert f"KeyError: '{STRUCK}'" in line["exception"]


def test_an_exception_on_a_terminal_is_shown_without_a_warning() -> None:
    """Whoever logs an exception gets the traceback and nothing about how it should be formatted."""
    stream = Terminal()
    set_up_logs(secrets=SECRETS, stream=stream)
    try:
        int(KEY + "x")
    except ValueError:
        structlog.get_logger().exception("bug")
    assert "invalid literal" in stream.getvalue()
    assert KEY not in stream.getvalue()


def test_debug_lines_are_for_those_who_ask() -> None:
    """`verbose` adds them, and nothing else does."""
    quiet, loud = io.StringIO(), io.StringIO()
    for stream, verbose in ((quiet, False), (loud, True)):
        set_up_logs(secrets=(), verbose=verbose, stream=stream)
        structlog.get_logger().debug("small")
        structlog.get_logger().info("large")
    assert [line["event"] for line in lines(quiet)] == ["large"]
    assert [line["event"] for line in lines(loud)] == ["small", "large"]


def test_whoever_had_a_logger_before_is_set_up_too() -> None:
    """Modules have their loggers at import, before anybody knows a secret."""
    log = structlog.get_logger("of a module")
    set_up_logs(secrets=(), stream=io.StringIO())
    log.info("first")
    stream = io.StringIO()
    set_up_logs(secrets=SECRETS, stream=stream)
    log.info("second", key=KEY)
    [line] = lines(stream)
    assert (line["event"], line["key"]) == ("second", STRUCK)


def test_logs_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the result's alone."""
    set_up_logs(secrets=SECRETS)
    structlog.get_logger().info("hello")
    out, err = capsys.readouterr()
    assert (out, orjson.loads(err)["event"]) == ("", "hello")
    assert not sys.stderr.isatty()


@pytest.mark.parametrize(
    ("text", "secrets", "redacted"),
    [
        ("api_key=abcdefgh&x=abcdefgh", ("abcdefgh",), f"api_key={STRUCK}&x={STRUCK}"),
        ("one abcdefgh, two stuvwxyz", ("abcdefgh", "stuvwxyz"), f"one {STRUCK}, two {STRUCK}"),
        ("nothing", ("abcdefgh",), "nothing"),
        ("nothing", (), "nothing"),
        ("nothing", ("",), "nothing"),
        ("s3://demo-lake", ("demo",), "s3://demo-lake"),
        ("a key abcdefghij", ("abcdefgh", "abcdefghij"), f"a key {STRUCK}"),
    ],
)
def test_every_secret_is_struck_out(text: str, secrets: tuple[str, ...], redacted: str) -> None:
    """However often it stands there, and whatever other secrets there are; one that is empty is none."""
    assert redact(text, secrets) == redacted
