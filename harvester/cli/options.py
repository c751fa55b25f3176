"""The options of the commands, as parameters that typer reads; those of settings come from the `Settings` fields."""

from __future__ import annotations

from inspect import Parameter
from typing import Annotated, Any

import typer

from harvester.settings.settings import Settings, option_of


def option(name: str, flags: str, text: str, panel: str = "", kind: Any = str | None, **more: Any) -> Parameter:
    """An option, passed to commands as `name`, with the help `text`; False or None if it is not given."""
    info = typer.Option(*flags.split(), help=text, rich_help_panel=panel or None, **more)
    default = False if kind is bool else None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def setting(name: str, text: str = "") -> Parameter:
    """The option of a setting; `text` replaces its help where a command accepts less."""
    declared, annotation = option_of(name), Settings.model_fields[name].annotation
    kind = annotation if annotation in (int, float) else str  # `Settings` parse other types
    return option(name, declared.flag or "", f"{text or declared.help} ({name.upper()}).", declared.panel, kind | None)


def settings_of(panel: str) -> tuple[Parameter, ...]:
    """The options of all settings in one `panel` of the help."""
    return tuple(setting(name) for name in Settings.model_fields if option_of(name).panel == panel)


INPUT, TMDB, STORE = settings_of("Input"), settings_of("TMDB"), settings_of("Bucket")
LIMIT = option("limit", "--limit", "Stop after the batch that reaches N ids.", "This run", int | None, min=1)
AGAIN = option("again", "--again", "Harvest again what was finished today.", "This run", bool)
THEN = option("then_harvest", "--then-harvest", "Then harvest them, with the options of harvest.", kind=bool)
RUN = option("run", "--run", "The run, such as 2026-11-22-3f9a1c2e; by default the last one at work.")
VERIFY = (
    RUN,
    option("day", "--day", "All runs of a day, such as 2026-11-22."),
    option("repair", "--repair", "Move foreign objects to quarantine and remove stale files.", kind=bool),
)
OUTPUT = (
    option("as_json", "--json", "Print the result as one JSON object.", kind=bool),
    option("verbose", "--verbose -v", "Log debug lines too.", kind=bool),
)
