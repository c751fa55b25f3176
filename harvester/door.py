"""The door: one command, from settings to exit code.

`cli` says what the commands and their options are; here one of them is run. Its result goes to standard output, for
people or as one JSON object, and whatever goes wrong is a sentence: no secret and no traceback is shown to anybody.
An output that cannot be written changes nothing of how the command ends.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeAlias, cast

from harvester.errors import Exit, HarvestError, StoppedError
from harvester.redaction import Struck

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harvester.stop import Stop

Result: TypeAlias = tuple[Exit, dict[str, Any], Callable[[], object]]
"""An exit code, the result for `--json` (empty if it has been told before the end), and what prints it for people."""

Command: TypeAlias = Callable[[], Coroutine[Any, Any, Result]]


M_MMAP_THRESHOLD = -3
"""What glibc's malloc.h calls this."""


@contextmanager
def standard_streams() -> Iterator[None]:
    """All three of them, that take any text and never raise: cron jobs and pipes may see to none of it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    out, err = Struck(_writable(sys.stdout)), Struck(_writable(sys.stderr))
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


def open_door(
    command: Callable[[dict[str, Any], list[str]], Coroutine[Any, Any, Result]], given: dict[str, Any]
) -> NoReturn:
    """Run `command` with the flags and secrets in force, and exit; `given` is what its function was called with."""
    from harvester.settings import Settings, raw_secrets

    _forget_empty_variables()
    flags = {name: value for name, value in given.items() if name in Settings.model_fields}
    secrets = raw_secrets(**flags)
    go_through(partial(command, flags, secrets), as_json=given["as_json"], verbose=given["verbose"], secrets=secrets)


def _forget_empty_variables() -> None:
    """An empty variable of AWS's is one that is not set, as for our own settings.

    Docker passes on what an `--env-file` leaves empty, and the SDK would look for a profile without a name.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("AWS_") and not value]:
        del os.environ[name]


def go_through(command: Command, *, as_json: bool, verbose: bool = False, secrets: Sequence[str] = ()) -> NoReturn:
    """Run `command`, tell its result, and exit with its code; no secret is in whatever anybody writes from now on."""
    from harvester.logs import set_up_logs

    sys.stdout, sys.stderr = (cast("TextIO", Struck(stream, secrets)) for stream in (sys.stdout, sys.stderr))
    set_up_logs(verbose=verbose)
    code, told, show = _run(command)
    _on_signals(signal.SIG_IGN)  # how it ended is known, and about to be told
    try:
        if not as_json:
            show()
        elif told:
            tell_json(told)
    except Exception as error:  # noqa: BLE001  # the same, once it is known how it ended
        where = _save_traceback()
        sys.stderr.write(f"The result cannot be shown ({type(error).__name__}). Please report {where}.\n")
        code = Exit.WRONG
    sys.exit(int(code))


def tell_json(told: dict[str, Any]) -> None:
    """Write a command's result as the one JSON object on standard output."""
    import orjson

    sys.stdout.write(f"{orjson.dumps(told).decode()}\n")
    sys.stdout.flush()


def _run(command: Command) -> Result:
    """The result of `command`; whatever it raises is one too, told in a sentence."""
    _give_large_blocks_back()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            _on_signals(signal.default_int_handler)  # until the command listens itself
            return runner.run(command())
    except HarvestError as error:
        return _error(error.exit_code, type(error), str(error))
    except KeyboardInterrupt:
        return _error(StoppedError.exit_code, StoppedError, "Stopped. What has landed is safe; run again to go on.")
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the last door: no traceback may pass
        name, where = type(error).__name__, _save_traceback()
        message = f"This is a bug of the harvester ({name}). What has landed is safe. Please report {where}."
        return _error(Exit.WRONG, type(error), message)


def _error(code: Exit, kind: type[BaseException], message: str) -> Result:
    text = message.encode(errors="backslashreplace").decode()  # a path in it need not be text
    told = {"status": "error", "error": kind.__name__, "message": text, "exit_code": int(code)}
    return code, told, partial(sys.stderr.write, f"{message}\n")


def learn(secret: str) -> None:
    """Let this secret, which nobody knew before, through none of the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        cast("Struck", stream).learn([secret])


def _save_traceback() -> str:
    """Where the traceback of what has just been caught was saved; on standard error, if there is no other place."""
    text = cast("Struck", sys.stderr).struck(traceback.format_exc())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="harvester-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
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

            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2 * 2**20)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop where it is installed: 0.82 of asyncio's CPU time."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def listen(stop: Stop, *, then: str = "taking no more batches, landing the open ones") -> None:
    """The first SIGINT or SIGTERM asks to stop, and tells what happens `then`; the second ends the process at once."""
    heard: list[str] = []

    def on_signal(name: str) -> None:
        if heard:
            os._exit(int(Exit.STOPPED))
        sys.stderr.write(f"\n{name}: {then} (again to stop at once)\n")
        heard.append(name)
        stop.ask(name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number.name)
