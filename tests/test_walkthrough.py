"""The demo as its user sees it: the folder it writes, and the two servers it can keep running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from typing import TYPE_CHECKING

import pytest
from contract import holds

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


def test_the_demo_removes_the_files_of_its_last_run_and_no_others(tmp_path: Path) -> None:
    """Run again, it begins with an empty `Raw`; other files in the folder stay."""
    mine = tmp_path / "out/mine.json"
    prepare_folder(tmp_path / "out")
    mine.write_text("{}", encoding="utf-8")
    (tmp_path / "out/Raw/API").mkdir()
    prepare_folder(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == [OURS, "Raw", "mine.json"]


@pytest.mark.parametrize("chaos", [(), ("--chaos", "kill=1")], ids=["walkthrough", "chaos"])
async def test_a_folder_that_is_not_the_demos_is_left_alone(tmp_path: Path, chaos: tuple[str, ...]) -> None:
    """A `Raw` that the user made: exit 2, a sentence that says what to do, nothing removed and nothing started."""
    mine = tmp_path / "out/Raw/mine.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}", encoding="utf-8")
    code, out, err = await ended("demo", "--folder", "out", *chaos)
    sentence = (
        "out/Raw already exists and was not made by the demo, which would replace it: remove it, or choose another"
    )
    assert (code, out, err) == (2, "", f"{sentence} --folder\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


@pytest.mark.parametrize("kind", ["a file", "a link", "a link to nowhere"])
def test_a_raw_that_is_no_folder_is_left_alone(tmp_path: Path, kind: str) -> None:
    """A link is not followed either, so the files it leads to stay."""
    raw, elsewhere = tmp_path / "Raw", tmp_path / "elsewhere"
    if kind == "a file":
        raw.touch()
    else:
        raw.symlink_to(elsewhere)
    if kind == "a link":
        elsewhere.mkdir()
        (elsewhere / "mine.json").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match="was not made by the demo"):
        prepare_folder(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", [(), ("--serve",), ("--chaos", "")], ids=["walkthrough", "servers", "chaos"])
async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The message is one sentence that names the folder and says what to do; it is not reported as a bug."""
    (tmp_path / "taken").touch()
    message = "taken/out cannot be made (Not a directory): choose another --folder\n"
    assert await ended("demo", "--folder", "taken/out", *words) == (1, "", message)


async def test_servers_that_are_kept_up_print_their_settings_as_json(tmp_path: Path) -> None:
    """`--serve --json` prints one JSON object with all settings for a harvester at once; Ctrl-C ends it with 0."""
    process = await started("demo", "--serve", "--json", "--folder", str(tmp_path / "out"))
    assert process.stdout
    result = json.loads(await process.stdout.readline())
    holds(result, code=0)
    code, planned, _ = await ended("plan", "--json", **result["settings"])
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (result["status"], code, json.loads(planned)["status"]) == ("serving", 0, "to_do")
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_servers_that_are_kept_up_print_their_settings_for_a_shell(tmp_path: Path) -> None:
    """`--serve` prints lines to paste into a shell; SIGTERM, as of a container's stop, ends it with 0, silently."""
    process = await started("demo", "--serve", "--folder", str(tmp_path / "out"))
    assert process.stdout
    script = b""
    while not script.endswith(b" -m harvester verify\n"):
        script += await process.stdout.readuntil(b"\n")
    process.send_signal(signal.SIGTERM)
    assert await process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert b"\nexport S3_BUCKET=demo-lake\n" in script


async def test_serve_and_chaos_exclude_each_other() -> None:
    """Both at once is a usage error: exit 2 and one sentence."""
    code, out, err = await ended("demo", "--serve", "--chaos", "kill=1")
    assert (code, out) == (2, "")
    assert err == "--serve and --chaos do not go together: give one of the two\n"
