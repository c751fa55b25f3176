"""The README is right: its commands and settings exist, and its table is the settings' own.

`python tests/test_readme.py` writes the settings table anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import test_faults_s3
import test_faults_tmdb
import test_hostile_csv
import test_kills
import test_repair
import test_verify
import typer

from harvester.cli.app import app
from harvester.errors import Exit
from harvester.settings.settings import Settings, flag_of

S3_CALLS = len(test_faults_s3.PLACES) + len(test_faults_s3.BESIDE)

HOSTILE = [*test_hostile_csv.CORPUS, *test_hostile_csv.CARRIAGE_RETURNS, *test_hostile_csv.NO_TEXT]

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SET_UP = (
    "python3 -m venv .venv && .venv/bin/pip install '.[demo]' && .venv/bin/python -m harvester demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/python -m pytest",
)


def settings_table() -> str:
    """Every setting with its flag, default and meaning, as Markdown."""
    rows = ["| environment | flag | default | |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = f"`{flag_of(name)}`" if flag_of(name) else "–"
        shown = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        default = f"`{shown}`" if field.default not in (None, ()) else "–"
        rows.append(f"| `{name.upper()}` | {flag} | {default} | {field.description} |")
    return "\n".join(rows)


def commands() -> dict[str, set[str]]:
    """Every command of the harvester, with its flags."""
    group = typer.main.get_command(app)
    return {
        name: {flag for parameter in command.params for flag in parameter.opts}
        for name, command in getattr(group, "commands", {}).items()
    }


def test_the_settings_table_is_that_of_the_settings() -> None:
    """Nobody has to keep the table by hand."""
    assert settings_table() in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", SET_UP)
def test_the_set_up_commands_stand_there_as_they_are_tried(command: str) -> None:
    """A newcomer types these two lines."""
    assert f"\n{command}\n" in README.read_text(encoding="utf-8")


def test_every_command_and_flag_named_exists() -> None:
    """Whatever `python -m harvester` is followed by is a command, and each `--flag` one of some command."""
    text = README.read_text(encoding="utf-8")
    known = commands()
    assert set(re.findall(r"-m harvester ([a-z]+)", text)) <= set(known)
    flags = set().union(*known.values())
    named = set(re.findall(r"`(--[a-z-]+)", text)) | set(re.findall(r"harvester [a-z ]*(--[a-z-]+)", text))
    assert named - {"--strict", "--env-file", "--read-only"} <= flags | {"--help"}


def test_every_flag_of_a_setting_is_one_of_harvest() -> None:
    """The table's flags are those of the command line."""
    flags = {flag for name in Settings.model_fields if (flag := flag_of(name))}
    assert flags <= commands()["harvest"]


def test_every_exit_code_is_listed() -> None:
    """Scripts can rely on the table of exit codes."""
    codes = {int(number) for number in re.findall(r"^\| (\d+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)}
    assert codes == {int(code) for code in Exit}


def test_every_test_named_exists() -> None:
    """A promise names a test that can be run."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    text = README.read_text(encoding="utf-8")
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []
    assert [path for path in re.findall(r"`(tests/\w+\.py)`", text) if not (ROOT / path).is_file()] == []


NUMBERS = [
    f"{test_kills.SIGKILLS} SIGKILLs of the harvester in one `pytest -m kill`",
    f"{len(test_kills.S3_KILLS)} of the S3 server",
    f"{len(test_faults_tmdb.FAULTS)} faults × {len(test_faults_tmdb.ROUTES)} routes × first or every try",
    f"{len(test_faults_tmdb.CASES)} cells of a table",
    f"{len(test_faults_s3.FAULTS)} faults × {S3_CALLS} calls × once or always",
    f"{len(test_faults_s3.FAULTS) * S3_CALLS * 2} cells",
    f"{len(HOSTILE)} hostile files",
    f"{len(test_verify.HARMS)} harms and {len(test_repair.FOREIGN)} kinds of foreign objects",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_numbers_of_the_promises_are_those_of_the_tests(number: str) -> None:
    """A case that is added or removed changes the number that the README names."""
    assert number in README.read_text(encoding="utf-8")


def test_the_example_settings_are_settings() -> None:
    """Every name in .env.example and harvester.toml is one that is read."""
    names = re.findall(r"^#? ?([A-Z_0-9]+)=", (ROOT / "config/.env.example").read_text(encoding="utf-8"), re.MULTILINE)
    names += re.findall(
        r"^# ([a-z_0-9]+) = ", (ROOT / "config/harvester.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(names) > 15
    assert {name.lower() for name in names} <= set(Settings.model_fields)


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    table = re.compile(r"@@SETTINGS@@|\| environment \|.*?\n\n", re.DOTALL)
    README.write_text(table.sub(lambda _: settings_table() + "\n\n", text, count=1), encoding="utf-8")
