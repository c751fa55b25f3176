"""The door: one command, from settings to exit code.

`cli` says what the commands and their options are; here one of them is run. Its result goes to standard output, for
people or as one JSON object, and what modules log to standard error. Whatever goes wrong is one sentence: no secret and
no traceback is ever shown. Output that cannot be written changes nothing of how the command ends.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from contextlib import contextmanager, suppress
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeAlias, cast

from harvester.errors import Exit, HarvestError
from harvester.settings.redaction import RedactingStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.runtime.shutdown import Shutdown

Result: TypeAlias = tuple[Exit, dict[str, Any], Callable[[], object]]
"""An exit code, the result for `--json` (empty if it has been told before the end), and what prints it for people."""

Command: TypeAlias = Callable[..., Coroutine[Any, Any, Result]]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def standard_streams() -> Iterator[None]:
    """All three streams, taking any text and never raising, even where cron or a pipe has closed them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out, err = RedactingStream(_writable(sys.stdout)), RedactingStream(_writable(sys.stderr))
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield
    finally:
        out.flush()
        if out.trouble and not isinstance(out.trouble, BrokenPipeError):  # who stops reading has read enough
            sys.stderr.write(f"The result could not be written to standard output: {out.trouble.strerror}.\n")
        err.flush()


def _writable(stream: TextIO | None) -> TextIO:
    """The stream, for any text; None is one that was closed before we began."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


def add_secrets(*secrets: str) -> None:
    """Let these secrets through neither of the standard streams, which must be those of `standard_streams`."""
    for stream in (sys.stdout, sys.stderr):
        cast("RedactingStream", stream).secrets.update(secrets)


def run_command(command: Command, given: dict[str, Any]) -> NoReturn:
    """Run `command` with whatever its parameters name, and exit; `given` are all options by name.

    Those are the `settings` in force with the flags, the `flags`, the `secrets` to be struck out, and other options.
    An empty variable of AWS's counts as not set: Docker passes on what an `--env-file` leaves empty, and the SDK would
    look for a profile without a name.
    """
    from harvester.settings.settings import Settings, load_settings, raw_secrets

    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]
    flags = {name: value for name, value in given.items() if name in Settings.model_fields}
    secrets = raw_secrets(**flags)
    add_secrets(*secrets)

    async def inside() -> Result:
        wanted = signature(command).parameters
        values = given | {"flags": flags, "secrets": secrets}
        if "settings" in wanted:
            values["settings"] = load_settings(**flags)
        return await command(**{name: values[name] for name in wanted})

    run_and_exit(inside, as_json=given["as_json"], verbose=given["verbose"])


def run_and_exit(command: Command, *, as_json: bool, verbose: bool = False) -> NoReturn:
    """Run `command`, tell its result, and exit with its code."""
    set_up_logs(verbose=verbose)
    code, result, show = _run(command)
    _on_signals(signal.SIG_IGN)  # how it ended is known, and about to be told
    try:
        if not as_json:
            show()
        elif result:
            print_json(result)
    except Exception as error:  # noqa: BLE001  # the same, once it is known how it ended
        where = _save_traceback()
        sys.stderr.write(f"The result cannot be shown ({type(error).__name__}). Please report {where}.\n")
        code = Exit.WRONG
    sys.exit(int(code))


def set_up_logs(*, verbose: bool = False, stream: TextIO | RedactingStream | None = None) -> None:
    """Log to `stream` (standard error), which is to strike out secrets itself; `verbose` adds debug lines.

    An event's name and the values in its `extra` are a readable line on a terminal, elsewhere (cron) a JSON object.
    """
    from structlog import dev, processors, stdlib

    out: Any = stream or sys.stderr
    terminal = out.isatty()
    renderer: Any = dev.ConsoleRenderer(colors=terminal) if terminal else processors.JSONRenderer()
    time = processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal)
    handler = logging.StreamHandler(out)
    handler.addFilter(_without_traceback)
    before: list[Any] = [stdlib.add_log_level, stdlib.ExtraAdder(), time]
    then = [stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    handler.setFormatter(stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=then))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)  # of libraries, only what warns
    logging.getLogger("harvester").setLevel(logging.DEBUG if verbose else logging.INFO)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Let every record through, but no traceback: it is nothing that a user could correct."""
    record.exc_info = record.exc_text = record.stack_info = None
    return True


def print_json(result: dict[str, Any]) -> None:
    """Write a command's result as the one JSON object on standard output."""
    import json  # orjson refuses half characters, as a path or a profile may have

    text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(result, separators=(",", ":"))
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _run(command: Command) -> Result:
    """The result of `command`; whatever it raises becomes one too, with a sentence."""
    _give_large_blocks_back()
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):  # uvloop takes 0.82 of asyncio's CPU time
        import uvloop

        new_loop = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            _on_signals(signal.default_int_handler)  # until the command listens itself
            return runner.run(command())
    except HarvestError as error:
        code, kind, message = error.exit_code, type(error).__name__, str(error)
    except KeyboardInterrupt:
        code, kind, message = Exit.STOPPED, "StoppedError", "Stopped. What has landed is safe; run again to go on."
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the last door: no traceback may pass
        code, kind, where = Exit.WRONG, type(error).__name__, _save_traceback()
        message = f"This is a bug of the harvester ({kind}). What has landed is safe. Please report {where}."
    text = message.encode(errors="backslashreplace").decode()  # a path in it need not be text
    result = {"status": "error", "error": kind, "message": text, "exit_code": int(code)}
    return code, result, partial(sys.stderr.write, f"{message}\n")


def _save_traceback() -> str:
    """Where the traceback of what has just been caught was saved; on standard error, if there is no other place."""
    text = cast("RedactingStream", sys.stderr).redacted(traceback.format_exc())
    options: Any = {"suffix": ".txt", "delete": False, "encoding": "utf-8", "errors": "backslashreplace"}
    try:
        with tempfile.NamedTemporaryFile("w", prefix="harvester-", **options) as file:
            file.write(text)
    except OSError:
        sys.stderr.write(text)
        return "the lines above"
    return file.name


def _give_large_blocks_back() -> None:
    """Have blocks of 2 MiB and more go back to the system when they are freed.

    glibc raises that limit with every larger block that is freed, up to 32 MiB (mallopt(3)), and files of 10 MB leave
    holes in its heap: with records of 262 KB a harvest took 267 MB and more, and takes 170.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # another libc, or none to be had
            import ctypes

            ctypes.CDLL(None).mallopt(-3, 2 * 2**20)  # M_MMAP_THRESHOLD in glibc's malloc.h


def _on_signals(handler: Any) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def on_shutdown_signals(shutdown: Shutdown, *, then: str = "taking no more batches, landing the open ones") -> None:
    """The first SIGINT or SIGTERM asks to stop, and says what happens `then`; the second ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, os._exit, int(Exit.STOPPED))
        sys.stderr.write(f"\n{name}: {then} (again to stop at once)\n")
        shutdown.request(name)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number.name)
