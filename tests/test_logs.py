"""Logs: for people on a terminal, for machines elsewhere, and never a secret."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from harvester.cli.logs import set_up_logs
from harvester.runtime.current_run import CURRENT_RUN, RunRef
from harvester.settings.redaction import REDACTED, RedactingStream

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, TOKEN = "0123456789abcdef" * 2, "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2VjcmV0"
SECRETS = (KEY, TOKEN)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullTerminal(RedactingStream):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is set up once a process; other tests are not to notice."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before
    logging.getLogger("harvester").setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object_where_no_terminal_is() -> None:
    """A machine reads one object a line: level, UTC time, event, and every value under its name."""
    stream = io.StringIO()
    set_up_logs(stream=RedactingStream(stream, SECRETS))
    log = logging.getLogger("harvester.commands.harvest")
    log.info("batch_landed", extra={"batch": "tt1-tt2", "found": 99, "text": "two\nlines"})
    log.warning("back_off", extra={"seconds": 1.5})
    first, second = lines(stream)
    assert first.pop("time").endswith("Z")
    assert first == {"level": "info", "event": "batch_landed", "batch": "tt1-tt2", "found": 99, "text": "two\nlines"}
    assert (second["level"], second["seconds"]) == ("warning", 1.5)


@pytest.mark.parametrize("terminal", [False, True], ids=["elsewhere", "terminal"])
def test_a_line_names_the_run_at_work_and_no_other(terminal: bool) -> None:  # noqa: FBT001
    """Each line has `run` once the run is known, also of tasks; the next invocation begins without it."""
    stream = Terminal() if terminal else io.StringIO()
    set_up_logs(stream=RedactingStream(stream))
    log = logging.getLogger("harvester")

    async def invocation() -> None:
        log.info("before")
        CURRENT_RUN.set(RunRef("2026-11-22-3f9a1c2e", "s3://lake/Raw/API"))
        asyncio.get_running_loop().call_soon(partial(log.info, "timer"))
        await asyncio.create_task(task())

    async def task() -> None:
        await asyncio.sleep(0)
        log.warning("task")

    for _ in range(2):
        asyncio.run(invocation())
    named = ["2026-11-22-3f9a1c2e" in line for line in stream.getvalue().splitlines()]
    assert named == [False, True, True] * 2


def test_a_line_is_readable_on_a_terminal() -> None:
    """People see the event and its values, and no JSON."""
    stream = Terminal()
    set_up_logs(stream=RedactingStream(stream, SECRETS))
    logging.getLogger("harvester").info("batch_landed", extra={"found": 99})
    logging.getLogger("harvester").warning("too_long", extra={"path": "x" * 500, "text": "two\nlines"})
    first, second = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue()).splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d info     batch_landed  found=99", first)
    assert second.endswith(f" warning  too_long  path={'x' * 500}  text='two\\nlines'")


@pytest.mark.parametrize("terminal", [False, True], ids=["elsewhere", "terminal"])
@pytest.mark.parametrize("secret", SECRETS, ids=["key", "token"])
def test_no_secret_is_ever_in_a_line(secret: str, terminal: bool) -> None:  # noqa: FBT001
    """Redacted in the event, of names, of values however deep, and of whatever else has a secret in its text."""
    stream = Terminal() if terminal else io.StringIO()
    set_up_logs(stream=RedactingStream(stream, SECRETS))
    log = logging.getLogger("harvester")
    event = f"asked with {secret}"
    log.info(event)
    log.info("value", extra={"url": f"https://api.themoviedb.org/3/movie/1?api_key={secret}&language=pt"})
    deep = {"headers": {"Authorization": [f"Bearer {secret}"]}, "raw": secret.encode(), "error": ValueError(secret)}
    log.info("deep", extra=deep)
    log.info("name", extra={secret: 1})
    written = stream.getvalue()
    assert secret not in written
    assert written.count(REDACTED) == 6
    assert written.count("\n") == 4


@pytest.mark.parametrize("terminal", [False, True], ids=["elsewhere", "terminal"])
def test_a_library_has_its_say_without_its_traceback(terminal: bool) -> None:  # noqa: FBT001
    """What botocore or asyncio warn of is a line, without a secret; where in their code is nobody's concern."""
    stream = Terminal() if terminal else io.StringIO()
    set_up_logs(stream=RedactingStream(stream, SECRETS))
    try:
        int(TOKEN)
    except ValueError:
        logging.getLogger("library").warning("Refreshing %s failed", KEY, exc_info=True, stack_info=True)
    assert f"Refreshing {REDACTED} failed" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("terminal", [False, True], ids=["elsewhere", "terminal"])
def test_a_log_that_cannot_be_written_is_nobodys_end(terminal: bool) -> None:  # noqa: FBT001
    """Neither ours nor a library's lines raise where the disk is full."""
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        stream = FullTerminal(full) if terminal else RedactingStream(full)
        set_up_logs(stream=stream)
        logging.getLogger("harvester").info("batch_landed")
        logging.getLogger("library").warning("oh")
        assert stream.trouble is not None
        assert stream.trouble.errno == errno.ENOSPC
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # what is left in the buffer goes there


def test_debug_lines_are_for_those_who_ask() -> None:
    """`verbose` adds them, and nothing else does."""
    quiet, loud = io.StringIO(), io.StringIO()
    for stream, verbose in ((quiet, False), (loud, True)):
        set_up_logs(verbose=verbose, stream=stream)
        logging.getLogger("harvester").debug("small")
        logging.getLogger("harvester").info("large")
    assert [line["event"] for line in lines(quiet)] == ["large"]
    assert [line["event"] for line in lines(loud)] == ["small", "large"]


def test_a_logger_made_before_is_set_up_too() -> None:
    """Modules have their loggers at import, before anybody knows a secret."""
    log = logging.getLogger("harvester.of_a_module")
    set_up_logs(stream=io.StringIO())
    log.info("first")
    stream = io.StringIO()
    set_up_logs(stream=RedactingStream(stream, SECRETS))
    log.info("second", extra={"key": KEY})
    [line] = lines(stream)
    assert (line["event"], line["key"]) == ("second", REDACTED)


def test_logs_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the result's alone."""
    set_up_logs()
    logging.getLogger("harvester").info("hello")
    out, err = capsys.readouterr()
    assert (out, orjson.loads(err)["event"]) == ("", "hello")
    assert not sys.stderr.isatty()
