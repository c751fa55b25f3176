"""The command line: a door to `harvest`, and to what one wants to know before and after it.

The result goes to standard output, for people or, with `--json`, as one JSON object; progress and logs go to standard
error. Every command ends with one of the exit codes of `errors`. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from harvester import __version__
from harvester.errors import Exit, HarvestError, StoppedError
from harvester.redaction import is_key, redact, redact_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from harvester.harvest import Stop
    from harvester.settings import Settings

    Result = tuple[Exit, dict[str, Any], Callable[[], object]]
    """An exit code, the result for `--json`, and what prints it for people."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Harvest TMDB for every IMDb id of two CSVs into S3, with closed books. Without a command: harvest.",
    epilog="Exit codes: 0 closed, 1 something wrong, 2 usage or input, 3 TMDB refuses the key, 4 the bucket refuses, "
    "5 some ids failed, 6 TMDB is unavailable, 75 stopped before the end. Settings: flag > environment > .env > "
    "config/harvester.toml.",
)

_INPUT, _TMDB, _STORE, _RUN = "Input", "TMDB", "Bucket", "This run"

Movies = Annotated[
    str | None, typer.Option("--movies", help="Movies: path, s3://… or - (MOVIES_CSV).", rich_help_panel=_INPUT)
]
Series = Annotated[str | None, typer.Option("--series", help="Series, likewise (SERIES_CSV).", rich_help_panel=_INPUT)]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", help="Header of the id column (CSV_ID_COLUMN).", rich_help_panel=_INPUT)
]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="Where TMDB is (TMDB_BASE_URL).", rich_help_panel=_TMDB)
]
Language = Annotated[
    str | None, typer.Option("--language", help="Such as pt-BR (TMDB_LANGUAGE).", rich_help_panel=_TMDB)
]
Append = Annotated[
    str | None, typer.Option("--append", help="Such as credits,keywords (TMDB_APPEND).", rich_help_panel=_TMDB)
]
Rate = Annotated[
    float | None, typer.Option("--rate", help="Requests per second at most (TMDB_RATE).", rich_help_panel=_TMDB)
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", help="Requests in flight (TMDB_CONCURRENCY).", rich_help_panel=_TMDB)
]
BucketName = Annotated[str | None, typer.Option("--bucket", help="Where it lands (S3_BUCKET).", rich_help_panel=_STORE)]
Prefix = Annotated[
    str | None, typer.Option("--prefix", help="Folder in the bucket (S3_PREFIX).", rich_help_panel=_STORE)
]
Form = Annotated[str | None, typer.Option("--format", help="jsonl or array (OUTPUT_FORMAT).", rich_help_panel=_STORE)]
Again = Annotated[bool, typer.Option("--again", help="Harvest anew what was finished today.", rich_help_panel=_RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"harvester {__version__}\n")
        raise typer.Exit


@app.command()
def harvest(
    movies_csv: Movies = None,
    series_csv: Series = None,
    csv_id_column: IdColumn = None,
    tmdb_base_url: BaseUrl = None,
    tmdb_language: Language = None,
    tmdb_append: Append = None,
    tmdb_rate: Rate = None,
    tmdb_concurrency: Concurrency = None,
    s3_bucket: BucketName = None,
    s3_prefix: Prefix = None,
    output_format: Form = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Stop after the batch that reaches N ids.", rich_help_panel=_RUN),
    ] = None,
    again: Again = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Harvest the CSVs; go on where an earlier run has stopped."""
    _open_door(partial(_harvest, limit=limit, again=again), locals())


@app.command()
def plan(
    movies_csv: Movies = None,
    series_csv: Series = None,
    csv_id_column: IdColumn = None,
    tmdb_language: Language = None,
    tmdb_append: Append = None,
    tmdb_rate: Rate = None,
    s3_bucket: BucketName = None,
    s3_prefix: Prefix = None,
    output_format: Form = None,
    again: Again = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show what harvest would do; asks nobody but the bucket."""
    _open_door(partial(_plan, again=again), locals())


@app.command()
def verify(
    run: Annotated[str | None, typer.Option("--run", help="Such as 2026-11-22-3f9a1c2e; else the latest.")] = None,
    s3_bucket: BucketName = None,
    s3_prefix: Prefix = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read a run back from the bucket and prove its books."""
    _open_door(partial(_verify, run=run), locals())


@app.command()
def doctor(
    movies_csv: Movies = None,
    series_csv: Series = None,
    csv_id_column: IdColumn = None,
    tmdb_base_url: BaseUrl = None,
    tmdb_language: Language = None,
    tmdb_append: Append = None,
    tmdb_rate: Rate = None,
    tmdb_concurrency: Concurrency = None,
    s3_bucket: BucketName = None,
    s3_prefix: Prefix = None,
    output_format: Form = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Try everything a harvest needs, and say what to mend."""
    from harvester.logs import set_up_logs
    from harvester.settings import raw_secrets

    flags = _flags(locals())
    secrets = raw_secrets(**flags)
    _strike_out(secrets)
    set_up_logs(secrets=secrets, verbose=verbose)
    _end(_guarded(partial(_doctor, flags, secrets), as_json=as_json, secrets=secrets))


@app.command()
def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Keep both servers up, to try every command by hand.")] = False,
    chaos: Annotated[
        str | None,
        typer.Option("--chaos", help="Faults and kills of your own: 429=5%,reset=2%,slow=3%,s3-503=1%,kill=3."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which requests the chaos falls on.")] = 1,
    folder: Annotated[Path, typer.Option("--folder", help="Where the landed files are left.")] = Path("harvester-demo"),
    as_json: AsJson = False,
) -> None:
    """The whole thing on this machine: faults, a kill, a resume; no account and no network."""
    from harvester.demo.chaos import parse_chaos, play
    from harvester.demo.story import serve_by_hand, tell

    async def inside() -> Result:
        if chaos is not None:
            return await play(parse_chaos(chaos), folder, seed=seed, as_json=as_json)
        return await (serve_by_hand(folder) if serve else tell(folder, as_json=as_json))

    _end(_guarded(inside, as_json=as_json, secrets=()))


def main(arguments: list[str] | None = None) -> None:
    """Run the command in `arguments` (the command line's own), and exit with its code."""
    _open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    words = [redact_shapes(word) if is_key(word) else word for word in words]  # typer repeats what it does not know
    named = bool(words) and (not words[0].startswith("-") or words[0] in ("-h", "--help", "--version"))
    app(args=words if named else ["harvest", *words], prog_name="harvester")


def _open_door(command: Callable[[Settings], Coroutine[Any, Any, Result]], given: dict[str, Any]) -> None:
    """Run `command` with the settings in force, and exit; `given` is what its function was called with."""
    from harvester.logs import set_up_logs
    from harvester.settings import load_settings, raw_secrets

    async def inside() -> Result:
        return await command(load_settings(**_flags(given)))

    secrets = raw_secrets(**_flags(given))
    _strike_out(secrets)
    set_up_logs(secrets=secrets, verbose=given["verbose"])
    _end(_guarded(inside, as_json=given["as_json"], secrets=secrets))


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """Of what a command's function was called with, that which is a setting: they have the names of its fields."""
    from harvester.settings import Settings

    return {name: value for name, value in given.items() if name in Settings.model_fields}


class _Struck:
    """A stream that lets no secret through, whoever writes to it: rich, warnings, Python itself."""

    def __init__(self, stream: TextIO, secrets: Sequence[str]) -> None:
        self._stream, self._secrets = stream, secrets

    def write(self, text: str) -> int:
        return self._stream.write(redact(text, self._secrets))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _strike_out(secrets: Sequence[str]) -> None:
    sys.stdout, sys.stderr = (cast("TextIO", _Struck(stream, secrets)) for stream in (sys.stdout, sys.stderr))


def _open_standard_streams() -> None:
    """Be sure that there are three, and that any text can be written: cron jobs and pipes may see to neither."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _guarded(command: Callable[[], Coroutine[Any, Any, Result]], *, as_json: bool, secrets: Sequence[str]) -> Exit:
    """Run `command` to its exit code; whatever it raises is told in a sentence, and nothing is a traceback."""
    import orjson

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            _on_signals(signal.default_int_handler)  # until the command listens itself
            code, result, show = runner.run(command())
    except HarvestError as error:
        code, message, name = error.exit_code, str(error), type(error).__name__
    except KeyboardInterrupt:
        code, name = StoppedError.exit_code, StoppedError.__name__
        message = "Stopped. What has landed is safe; run again to go on."
    except Exception as error:  # noqa: BLE001  # the last door: a bug of ours must not end in a traceback that shows a key
        where = _save_traceback(redact(traceback.format_exc(), secrets))
        code, name = Exit.WRONG, type(error).__name__
        message = f"This is a bug of the harvester ({name}). What has landed is safe. Please report {where}."
    else:
        message, name = "", ""
    _on_signals(signal.SIG_IGN)  # how it ended is known, and about to be told
    with suppress(BrokenPipeError, SystemExit):  # rich's word for it; who stops reading does not change how it ended
        if message and not as_json:
            sys.stderr.write(f"{redact(message, secrets)}\n")
        elif message:
            text = message.encode(errors="backslashreplace").decode()  # a path in it need not be text
            result = {"status": "error", "error": name, "message": text, "exit_code": int(code)}
        if as_json:
            sys.stdout.write(redact(orjson.dumps(result).decode(), secrets) + "\n")
        elif not message:
            try:
                show()
            except Exception as error:  # noqa: BLE001  # the same, once it is known how it ended
                where = _save_traceback(redact(traceback.format_exc(), secrets))
                sys.stderr.write(f"The result cannot be shown ({type(error).__name__}). Please report {where}.\n")
                return Exit.WRONG
    return code


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _save_traceback(text: str) -> str:
    """Where the traceback was saved; on standard error, if there is no other place."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="harvester-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        sys.stderr.write(text)
        return "the lines above"
    return file.name


def _end(code: Exit) -> None:
    """Exit with `code`, also where nobody reads our output any more (`| head`)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise typer.Exit(int(code))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop where it is installed: 0.82 of asyncio's CPU time."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(stop: Stop) -> None:
    """The first SIGINT or SIGTERM asks to stop; the second ends the process at once."""
    heard: list[str] = []

    def on_signal(name: str) -> None:
        if heard:
            os._exit(int(Exit.STOPPED))
        sys.stderr.write(f"\n{name}: taking no more batches, landing the open ones (again to stop at once)\n")
        heard.append(name)
        stop.ask(name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, on_signal, number.name)
        except NotImplementedError:  # Windows: Ctrl-C is a KeyboardInterrupt
            return


async def _harvest(settings: Settings, *, limit: int | None, again: bool) -> Result:
    from harvester.harvest import Stop
    from harvester.harvest import harvest as run_harvest
    from harvester.progress import watching
    from harvester.show import show_report

    stop = Stop(limit=limit)
    _listen(stop)
    with watching() as watcher:
        report = await run_harvest(settings, watcher=watcher, stop=stop, again=again)
    return report.exit_code, report.as_json(), partial(show_report, report, settings)


async def _plan(settings: Settings, *, again: bool) -> Result:
    from harvester.plan import plan as make_plan
    from harvester.show import show_plan

    told = await make_plan(settings, again=again)
    return Exit.CLOSED, told, partial(show_plan, told)


async def _verify(settings: Settings, *, run: str | None) -> Result:
    from harvester.progress import counting
    from harvester.show import show_proof
    from harvester.verify import verify as prove

    with counting("receipts read back") as progress:
        proof = await prove(settings, run=run, progress=progress)
    return (Exit.WRONG if proof.problems else Exit.CLOSED), proof.as_json(), partial(show_proof, proof)


async def _doctor(flags: dict[str, Any], secrets: list[str]) -> Result:
    from harvester.doctor import Examination, examine
    from harvester.progress import looking
    from harvester.show import show_examination

    with looking() as look:
        findings = [look(finding.without(secrets)) async for finding in examine(flags)]
    examination = Examination(tuple(findings))
    return (
        Exit.CLOSED if examination.healthy else Exit.WRONG,
        examination.as_json(),
        partial(show_examination, examination),
    )
