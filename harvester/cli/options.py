"""The options of the commands, as parameters that typer reads; those of settings are made from the settings' fields."""

from __future__ import annotations

from inspect import Parameter
from typing import Annotated, Any

import typer

from harvester.settings.settings import Settings, option_of


def option(name: str, flags: str, words: str, panel: str = "", kind: Any = str | None, **more: Any) -> Parameter:
    """An option, as the parameter `name` of commands; not given, it is False or None."""
    info = typer.Option(*flags.split(), help=words, rich_help_panel=panel or None, **more)
    default = False if kind is bool else None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def setting(name: str, words: str = "") -> Parameter:
    """The option of a setting; `words` instead of its own where a command takes less."""
    its, annotation = option_of(name), Settings.model_fields[name].annotation
    kind = annotation if annotation in (int, float) else str  # other types are read by the settings themselves
    return option(name, its.flag or "", f"{words or its.help} ({name.upper()}).", its.panel, kind | None)


def settings_of(panel: str) -> tuple[Parameter, ...]:
    """The options of all settings of one `panel` of the help."""
    return tuple(setting(name) for name in Settings.model_fields if option_of(name).panel == panel)


INPUT, TMDB, STORE = settings_of("Input"), settings_of("TMDB"), settings_of("Bucket")
LIMIT = option("limit", "--limit", "Stop after the batch that reaches N ids.", "This run", int | None, min=1)
AGAIN = option("again", "--again", "Harvest anew what was finished today.", "This run", bool)
THEN = option("then_harvest", "--then-harvest", "Harvest them too, with the options of harvest.", kind=bool)
RUN = option("run", "--run", "Such as 2026-11-22-3f9a1c2e; else the one at work last.")
PROOF = (
    RUN,
    option("day", "--day", "Such as 2026-11-22: all runs of that day."),
    option("repair", "--repair", "Move foreign objects to quarantine, remove stale files of ours.", kind=bool),
)
OUTPUT = (
    option("as_json", "--json", "Print the result as one JSON object.", kind=bool),
    option("verbose", "--verbose -v", "Log more.", kind=bool),
)
