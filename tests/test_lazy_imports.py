"""The package's own names: `from harvester import harvest` works, and costs what it needs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

import harvester


def loaded_by(statement: str) -> set[str]:
    """The modules that `statement` loads in a fresh process."""
    program = f"import sys; before = {{*sys.modules}}; {statement}; print(*{{*sys.modules}} - before)"
    return {*subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()}


def test_importing_the_package_loads_nothing_else() -> None:
    """Neither our modules nor a library, nor of Python's own what is not there yet."""
    assert loaded_by("import harvester") == {"harvester"}


def test_a_name_loads_its_module_and_no_other_command() -> None:
    """Who wants the errors does not wait for aiobotocore, and who plans does not wait for the command line."""
    assert {name for name in loaded_by("from harvester import HarvestError") if name.startswith("harvester.")} == {
        "harvester.errors"
    }
    loaded = loaded_by("from harvester import plan")
    assert "harvester.commands.plan" in loaded
    assert loaded.isdisjoint(
        {"typer", "rich", "harvester.cli", "harvester.commands.upload", "harvester.commands.verify"}
    )


@pytest.mark.parametrize("name", harvester.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each is what its module defines under that name, and is listed."""
    module = import_module(f"harvester.{harvester._MODULES[name]}")
    assert getattr(harvester, name) is getattr(module, name)
    assert name in dir(harvester)


def test_an_observer_needs_public_names_only() -> None:
    """It can tell events apart, and be typed, without a look into the package."""
    failed = []

    def observe(event: harvester.Event) -> None:
        match event:
            case harvester.TitleDone(id_, "failed", reason):
                failed.append((id_, reason))
            case harvester.RunEnded(status):
                failed.append(("end", status))

    observer: harvester.Observer = observe
    events = set(get_args(harvester.Event))
    observer(harvester.TitleDone("tt0000001", "found", None))
    observer(harvester.TitleDone("tt0000002", "failed", "http_500"))
    observer(harvester.RunEnded("failed"))
    assert failed == [("tt0000002", "http_500"), ("end", "failed")]
    assert {getattr(harvester, event.__name__) for event in events} == events


def test_another_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="module 'harvester' has no attribute 'harvests'"):
        harvester.harvests  # type: ignore[attr-defined]  # noqa: B018
