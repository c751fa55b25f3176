"""The demo as its user meets it: a folder of their own, and two servers for their own tries."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING

import pytest

from harvester.demo.environment import OURS, prepare_folder
from harvester.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


async def started(*words: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harvester", *words, stdout=PIPE, stderr=PIPE, env=os.environ | environment
    )


async def ended(*words: str, **environment: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error."""
    process = await started(*words, **environment)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def test_the_demo_clears_away_what_it_has_left_and_nothing_else(tmp_path: Path) -> None:
    """Run again, it begins with an empty `Raw`; what else is in the folder stays."""
    mine = tmp_path / "out/mine.json"
    prepare_folder(tmp_path / "out")
    mine.write_text("{}", encoding="utf-8")
    (tmp_path / "out/Raw/API").mkdir()
    prepare_folder(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [OURS, "Raw", "mine.json"]


@pytest.mark.parametrize("chaos", [(), ("--chaos", "kill=1")], ids=["the story", "chaos"])
async def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path, chaos: tuple[str, ...]) -> None:
    """A user's own `Raw` is theirs: exit 2, a sentence that says what to do, nothing removed and nothing begun."""
    mine = tmp_path / "out/Raw/mine.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}", encoding="utf-8")
    code, out, err = await ended("demo", "--folder", "out", *chaos)
    sentence = "out/Raw is there, and not known to be the demo's, which would replace it: remove it, or choose another"
    assert (code, out, err) == (2, "", f"{sentence} --folder\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


@pytest.mark.parametrize("kind", ["a file", "a link", "a link to nowhere"])
def test_a_raw_that_is_no_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    """Nor is a link followed to what somebody keeps elsewhere."""
    raw, elsewhere = tmp_path / "Raw", tmp_path / "elsewhere"
    if kind == "a file":
        raw.touch()
    else:
        raw.symlink_to(elsewhere)
    if kind == "a link":
        elsewhere.mkdir()
        (elsewhere / "mine.json").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match="not known to be the demo's"):
        prepare_folder(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", [(), ("--serve",), ("--chaos", "")], ids=["the story", "servers", "chaos"])
async def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path, words: tuple[str, ...]) -> None:
    """In a sentence that names it, with what to do; it is no bug of the harvester."""
    (tmp_path / "taken").touch()
    message = "taken/out cannot be made (Not a directory): give another --folder\n"
    assert await ended("demo", "--folder", "taken/out", *words) == (1, "", message)


async def test_servers_that_are_kept_up_are_reported_in_one_json_object(tmp_path: Path) -> None:
    """With `--json` a script has at once all that points a harvester at them; Ctrl-C ends it with 0."""
    process = await started("demo", "--serve", "--json", "--folder", str(tmp_path / "out"))
    assert process.stdout
    report = json.loads(await process.stdout.readline())
    code, planned, _ = await ended("plan", "--json", **report["settings"])
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (report["status"], code, json.loads(planned)["status"]) == ("serving", 0, "to_do")
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_servers_that_are_kept_up_are_printed_as_a_shell_takes_it(tmp_path: Path) -> None:
    """For people it is what they paste into another shell; a container's stop ends it with 0, and says nothing more."""
    process = await started("demo", "--serve", "--folder", str(tmp_path / "out"))
    assert process.stdout
    script = b""
    while not script.endswith(b" -m harvester verify\n"):
        script += await process.stdout.readuntil(b"\n")
    process.send_signal(signal.SIGTERM)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert b"\nexport S3_BUCKET=demo-lake\n" in script


async def test_servers_are_kept_up_or_chaos_is_played() -> None:
    """Both at once is no use of it: exit 2 and a sentence."""
    code, out, err = await ended("demo", "--serve", "--chaos", "kill=1")
    assert (code, out) == (2, "")
    assert err == "--serve keeps healthy servers up, and --chaos plays to its end: give one of the two\n"
