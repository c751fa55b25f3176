"""The command line: a door to `harvest`, and to what one wants to know before and after it.

The result goes to standard output, for people or, with `--json`, as one JSON object; progress and logs go to standard
error. Every command ends with one of the exit codes of `errors`. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from harvester.errors import Exit, HarvestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from harvester.harvest import Stop
    from harvester.settings import Settings

COMMANDS = ("harvest", "plan", "verify", "demo")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Harvest TMDB for every IMDb id of two CSVs into S3, with closed books. Without a command: harvest.",
)
