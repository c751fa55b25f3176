"""Runner: however a command ends and whatever becomes of its output, there is an exit code and no traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harvester.reports.json_output import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import asyncio, logging, sys
from functools import partial
from harvester.cli.runner import run_and_exit
from harvester.cli.streams import standard_streams
from harvester.errors import Exit, InputError

async def stopped():
    return Exit.STOPPED, {"status": "stopped"}, lambda: sys.stdout.write("Stopped.\\n" * 10_000)

async def loud():
    for _ in range(1_000):
        logging.getLogger("harvester").info("a line of ours")
        logging.getLogger("library").warning("a line of theirs")
        sys.stderr.write("progress")
    return await stopped()

async def wrong():
    raise InputError("movies.csv", "cannot be read")

async def cancelled():
    raise asyncio.CancelledError

async def unshowable():
    return Exit.CLOSED, {"status": {"no": "JSON"}, "set": {1}}, lambda: 1 / 0

with standard_streams():
    run_and_exit(globals()[sys.argv[1]], as_json="--json" in sys.argv)
"""
"""Commands that end in every way, each run as the command line runs it."""


def run_program(*words: str, program: str = PROGRAM, **streams: Any) -> subprocess.CompletedProcess[str]:
    """How a process of `program` has ended; its temporary files are in the working folder."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    environment = {**os.environ, "TMPDIR": str(Path.cwd())}
    ended = subprocess.run([sys.executable, "-c", program, *words], check=False, text=True, env=environment, **options)
    assert "Traceback" not in f"{ended.stdout}{ended.stderr}"
    return ended


@contextmanager
def full_disk() -> Iterator[int]:
    yield (number := os.open("/dev/full", os.O_WRONLY))
    os.close(number)


@contextmanager
def reader_gone() -> Iterator[int]:
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@contextmanager
def terminal_gone() -> Iterator[int]:
    ours, theirs = os.openpty()
    os.close(ours)
    yield theirs
    os.close(theirs)


dead_ends = pytest.mark.parametrize("dead_end", [full_disk, reader_gone, terminal_gone])
for_whom = pytest.mark.parametrize("words", [(), ("--json",)], ids=["for people", "as JSON"])

UNWRITTEN = {
    full_disk: "The result could not be written to standard output: No space left on device.\n",
    terminal_gone: "The result could not be written to standard output: Input/output error.\n",
    reader_gone: "",
}


@dead_ends
@for_whom
def test_a_result_that_cannot_be_written_changes_no_exit_code(dead_end: Any, words: tuple[str, ...]) -> None:
    """The command ends as it has ended; that its result is nowhere is said, but to those who stopped reading it."""
    with dead_end() as stdout:
        ended = run_program("stopped", *words, stdout=stdout)
    assert (ended.returncode, ended.stderr) == (75, UNWRITTEN[dead_end])


@dead_ends
@for_whom
def test_logs_and_progress_that_cannot_be_written_change_nothing(dead_end: Any, words: tuple[str, ...]) -> None:
    """The command goes on to its end, and its result is there in whole."""
    with dead_end() as stderr:
        ended = run_program("loud", *words, stderr=stderr)
    assert (ended.returncode, ended.stdout) == (75, '{"status":"stopped"}\n' if words else "Stopped.\n" * 10_000)


@dead_ends
@for_whom
def test_an_error_that_cannot_be_shown_keeps_its_exit_code(dead_end: Any, words: tuple[str, ...]) -> None:
    """A script that has thrown both outputs away can still see by the number what was wrong."""
    with dead_end() as stdout, dead_end() as stderr:
        assert run_program("wrong", *words, stdout=stdout, stderr=stderr).returncode == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--nonsense"], 2), (["--help"], 0), (["--version"], 0), (["plan", "--movies", "nowhere.csv"], 2)],
    ids=["usage", "help", "version", "an error"],
)
@pytest.mark.parametrize("closed", [">/dev/full 2>/dev/full", "<&- >&- 2>&-", ">&-", "2>&-"])
def test_the_command_line_bears_streams_that_are_full_or_closed(words: list[str], code: int, closed: str) -> None:
    """From the first word on: usage and help are shown before any command has begun."""
    script = f'"$0" -m harvester "$@" {closed}'
    ended = subprocess.run(
        ["sh", "-c", script, sys.executable, *words], check=False, capture_output=True, text=True, env=os.environ
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_command_that_is_cancelled_by_nobody_is_a_bug_of_ours() -> None:
    """A `CancelledError` that reaches the runner is reported like any other bug: exit 1, a sentence, a file."""
    ended = run_program("cancelled")
    [saved] = Path.cwd().glob("harvester-*.txt")
    sentence = "This is a bug of the harvester (CancelledError). What has landed is safe."
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"{sentence} Please report {saved}.\n")
    assert "in cancelled" in saved.read_text(encoding="utf-8")
    assert json.loads(run_program("cancelled", "--json").stdout)["error"] == "CancelledError"


@for_whom
def test_a_result_that_cannot_be_shown_is_a_bug_of_ours(words: tuple[str, ...]) -> None:
    """As a table or as JSON: exit 1, a sentence, a file."""
    ended = run_program("unshowable", *words)
    [saved] = Path.cwd().glob("harvester-*.txt")
    kind = "TypeError" if words else "ZeroDivisionError"
    sentence = f"The result cannot be shown ({kind}). Please report {saved}.\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", sentence)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("text", ["ação", "🎬", "\udce7", "\x00"])
def test_a_result_is_json_whatever_the_stream_can_write(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str
) -> None:
    """What the encoding of standard output does not have is escaped as JSON escapes it."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding, errors="backslashreplace"))
    print_json({"source": text})
    assert json.loads(out.getvalue().decode(encoding)) == {"source": text}
