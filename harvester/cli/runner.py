"""Runs one command: from settings to exit code.

The commands are in `app`, their options in `options`. A command's result goes to standard output, as text or one JSON
object, and logs to standard error. An error is one sentence: no secret and no traceback is ever shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from dataclasses import asdict
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from harvester.cli.logs import set_up_logs
from harvester.cli.signals import set_signal_handler
from harvester.cli.streams import add_secrets
from harvester.commands.result import CommandResult, result_json
from harvester.errors import SAFE, Exit, HarvestError, readable
from harvester.reports.json_output import print_json
from harvester.runtime.clock import utc_now
from harvester.runtime.current_run import CURRENT_RUN
from harvester.settings.provenance import sdk_variables, unknown_names
from harvester.settings.settings import Settings, load_settings, raw_secrets

if TYPE_CHECKING:
    from harvester.settings.redaction import RedactingStream

Command: TypeAlias = Callable[..., Coroutine[Any, Any, CommandResult]]

_log = logging.getLogger(__name__)


def run_command(command: Command, options: dict[str, Any]) -> NoReturn:
    """Run `command` with the arguments that its parameters name, and exit; `options` are all of them by name.

    It may also name the `settings` in force, the `flags` given for settings, and the `secrets` to redact.
    """
    flags = {name: value for name, value in options.items() if name in Settings.model_fields}
    secrets = [*raw_secrets(**flags), *_prepare_sdk_variables()]
    add_secrets(*secrets)

    async def run_with_arguments() -> CommandResult:
        parameters = signature(command).parameters
        values = options | {"flags": flags, "secrets": secrets}
        if "settings" in parameters:
            for unknown in unknown_names():
                _log.warning("unknown_setting", extra=asdict(unknown))
            values["settings"] = load_settings(**flags)
        return await command(**{name: values[name] for name in parameters})

    run_and_exit(run_with_arguments, as_json=options["as_json"], verbose=options["verbose"])


def _prepare_sdk_variables() -> list[str]:
    """Copy the AWS SDK's variables from `.env` to the environment; returns the secrets among all of them.

    Empty ones are removed: Docker passes on what an `--env-file` leaves empty, and the SDK would look for a profile
    without a name.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]
    for name, value in sdk_variables(os.environ).items():
        with suppress(ValueError):  # a value that no environment can have, such as one with a NUL
            os.environ[name] = value
    return [value for name, value in os.environ.items() if re.fullmatch("AWS_.*(TOKEN|SECRET|KEY)", name)]


def run_and_exit(command: Command, *, as_json: bool, verbose: bool = False) -> NoReturn:
    """Run `command`, print its result, and exit with its code."""
    set_up_logs(verbose=verbose)
    code, result, show = _run(command)
    set_signal_handler(signal.SIG_IGN)  # the result is known, and is printed now
    try:
        if not as_json:
            show()
        elif result:
            print_json(result)
    except Exception as error:  # noqa: BLE001  # no traceback may be shown
        path = _save_traceback()
        sys.stderr.write(f"The result cannot be shown ({type(error).__name__}). Please report {path}.\n")
        code = Exit.WRONG
    sys.exit(int(code))


def _run(command: Command) -> CommandResult:
    """The result of `command`; whatever it raises becomes a result with one sentence."""
    _lower_mmap_threshold()
    started_at, context = utc_now(), copy_context()
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):  # uvloop takes 0.82 of asyncio's CPU time
        import uvloop

        new_loop = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            set_signal_handler(signal.default_int_handler)  # until the command sets its own
            return runner.run(command(), context=context)
    except HarvestError as error:
        code, kind, message = error.exit_code, type(error).__name__, str(error)
    except KeyboardInterrupt:
        code, kind, message = Exit.STOPPED, "StoppedError", f"Stopped. {SAFE}"
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # no traceback may be shown
        code, kind, path = Exit.WRONG, type(error).__name__, _save_traceback()
        message = f"This is a bug of the harvester ({kind}). What has landed is safe. Please report {path}."
    times = {"started_at": started_at, "ended_at": utc_now()}
    result = result_json("error", code, context.get(CURRENT_RUN), **times, error=kind, message=readable(message))
    return code, result, partial(sys.stderr.write, f"{message}\n")


def _save_traceback() -> str:
    """Save the traceback of the exception just caught, and return the path; written to standard error if that fails."""
    text = cast("RedactingStream", sys.stderr).redacted(traceback.format_exc())
    options: Any = {"suffix": ".txt", "delete": False, "encoding": "utf-8", "errors": "backslashreplace"}
    try:
        with tempfile.NamedTemporaryFile("w", prefix="harvester-", **options) as file:
            file.write(text)
    except OSError:
        sys.stderr.write(text)
        return "the lines above"
    return file.name


def _lower_mmap_threshold() -> None:
    """Have blocks of 2 MiB and more returned to the system when they are freed.

    glibc raises that threshold with every larger block that is freed, up to 32 MiB (mallopt(3)), and files of 10 MB
    then fragment its heap: with records of 262 KB a harvest took 267 MB and more without this, and takes 170 with it.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # another libc, or none
            import ctypes

            ctypes.CDLL(None).mallopt(-3, 2 * 2**20)  # M_MMAP_THRESHOLD in glibc's malloc.h
