"""The commands of the command line.

The result goes to standard output, as text or, with `--json`, as one JSON object; progress and logs go to standard
error. Every command ends with one of the exit codes of `errors`. The modules of a command are imported
when it is called.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harvester import __version__
from harvester.cli.options import AGAIN, INPUT, LIMIT, OUTPUT, RUN, STORE, THEN, TMDB, VERIFY, option, setting
from harvester.cli.runner import run_and_exit, run_command
from harvester.cli.signals import on_shutdown_signals
from harvester.cli.streams import add_secrets, standard_streams
from harvester.errors import Exit, SettingsError
from harvester.settings.redaction import REDACTED, redact_shapes

if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Parameter

    from harvester.cli.runner import Command
    from harvester.commands.result import CommandResult
    from harvester.runtime.shutdown import Shutdown
    from harvester.settings.settings import Settings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Harvest TMDB for every IMDb id of two CSVs into S3, with reconciled totals. Default command: harvest.",
    epilog="Exit codes: 0 complete, 1 something wrong, 2 usage or input, 3 TMDB refuses the key, 4 the bucket refuses, "
    "5 some ids failed, 6 TMDB is unavailable, 75 stopped before the end. Settings: flag > environment > .env > "
    "config/harvester.toml.",
)


def _command(*options: Parameter) -> Callable[[Command], None]:
    """Make a coroutine function a command with these options, `--json` and `--verbose`; see `run_command`."""

    def register(command: Command) -> None:
        def run(**options: Any) -> None:
            run_command(command, options)

        parameters = (*options, *OUTPUT)
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # this is what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(command.__name__, help=command.__doc__)(run)

    return register


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"harvester {__version__}\n")
        raise typer.Exit


@_command(*INPUT, *TMDB, *STORE, LIMIT, AGAIN)
async def harvest(settings: Settings, *, limit: int | None, again: bool) -> CommandResult:
    """Harvest the CSVs; resume where an earlier run stopped."""
    from harvester.runtime.shutdown import Shutdown

    settings = await _with_key(settings)
    shutdown = Shutdown(limit=limit)
    on_shutdown_signals(shutdown)
    return await _harvest_until(shutdown, settings, again=again)


async def _with_key(settings: Settings) -> Settings:
    """The settings with TMDB's key itself, fetched if they have a reference to it."""
    from harvester.commands.resources import with_key

    known: dict[str, str] = {}
    settings = await with_key(settings, known)
    add_secrets(*known.values())
    return settings


async def _harvest_until(shutdown: Shutdown, settings: Settings, *, again: bool) -> CommandResult:
    from harvester.commands.harvest import harvest as run_harvest
    from harvester.reports.observers import harvest_observer
    from harvester.reports.text import show_report

    report = await run_harvest(settings, observer=harvest_observer(), shutdown=shutdown, again=again)
    return report.exit_code, report.as_json(), partial(show_report, report)


@_command(*INPUT, *map(setting, ("tmdb_language", "tmdb_append", "tmdb_rate")), *STORE, AGAIN)
async def plan(settings: Settings, *, again: bool) -> CommandResult:
    """Show what harvest would do; reads the bucket, asks TMDB nothing."""
    from harvester.commands.plan import plan as make_plan
    from harvester.reports.text import show_plan

    planned = await make_plan(settings, again=again)
    return Exit.CLOSED, planned, partial(show_plan, planned)


@_command(
    setting("movies_csv", "Movies: a path"),
    *map(setting, ("series_csv", "csv_id_column")),
    *(*TMDB, *STORE, LIMIT, AGAIN, THEN),
)
async def upload(settings: Settings, *, then_harvest: bool, limit: int | None, again: bool) -> CommandResult:
    """Upload the CSV files themselves, byte for byte; unchanged ones are skipped."""
    from harvester.cli.progress import upload_progress
    from harvester.commands.upload import upload as send
    from harvester.reports.text import show_upload
    from harvester.runtime.shutdown import Shutdown

    if then_harvest:
        settings = await _with_key(settings)
    elif limit is not None or again:
        raise SettingsError("--limit and --again are options of the harvest: add --then-harvest, or leave them out")
    shutdown = Shutdown(limit=limit)
    on_shutdown_signals(shutdown, **({} if then_harvest else {"then": "aborting the upload"}))
    with upload_progress() as progress:
        report = await send(settings, shutdown=shutdown, progress=progress, pass_s3=then_harvest)
    if not then_harvest:
        return Exit.CLOSED, report.as_json(), partial(show_upload, report)
    for file in report.files:  # the result is printed at the end of the harvest, hours later
        logging.getLogger(__name__).info(file.status, extra=file.as_json())
    # From the local file: reading it back from S3 would cost a download, and a read-only disk has no room for it.
    code, harvested, show_harvest = await _harvest_until(shutdown, settings, again=again)

    def show() -> None:
        show_upload(report, harvested=True)
        show_harvest()

    return code, harvested | {"upload": report.as_json()}, show


@_command(*VERIFY, *map(setting, ("s3_bucket", "s3_prefix")))
async def verify(settings: Settings, *, run: str | None, day: str | None, repair: bool) -> CommandResult:
    """Read a run, or a whole day, back from the bucket and check its totals."""
    from harvester.cli.progress import count_progress
    from harvester.commands.verify import verify as run_verify
    from harvester.reports.text import show_verification

    with count_progress("receipts read back") as progress:
        verification = await run_verify(settings, run=run, day=day, repairing=repair, progress=progress)
    return (
        verification.exit_code,
        verification.as_json(),
        partial(show_verification, verification),
    )


@_command(RUN, option("csv", "--csv", "Write all rows to this CSV file."), *map(setting, ("s3_bucket", "s3_prefix")))
async def missing(settings: Settings, *, run: str | None, csv: str | None) -> CommandResult:
    """List the rows and ids that have no record: rejected, missing or failed, and why."""
    from harvester.commands.missing import missing as list_missing
    from harvester.commands.missing import write_csv
    from harvester.reports.text import show_missing

    report = await list_missing(settings, run=run)
    if csv is not None:
        write_csv(report.rows, Path(csv))
    return Exit.CLOSED, report.as_json(), partial(show_missing, report, csv)


@_command(*INPUT, *TMDB, *STORE)
async def doctor(flags: dict[str, Any], secrets: list[str]) -> CommandResult:
    """Check everything a harvest needs, and say what to fix."""
    from harvester.cli.progress import check_progress
    from harvester.commands.doctor import DoctorReport, run_checks
    from harvester.reports.text import show_doctor_report

    with check_progress() as show_progress:
        findings = [show_progress(finding.without(secrets)) async for finding in run_checks(flags, secrets)]
    doctor_report = DoctorReport(tuple(findings))
    return doctor_report.exit_code, doctor_report.as_json(), partial(show_doctor_report, doctor_report)


@app.command()
def demo(
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep both servers running, to try every command by hand.")
    ] = False,
    chaos: Annotated[
        str | None, typer.Option(help="Faults and kills, such as 429=5%,reset=2%,slow=3%,s3-503=1%,kill=3.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the faults: which requests they hit.")] = 1,
    folder: Annotated[Path, typer.Option("--folder", help="Where the landed files are copied to.")] = Path(
        "harvester-demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Run all of it on this machine: faults, a kill, a resume; no account and no network."""
    from harvester.demo.chaos import parse_chaos
    from harvester.demo.chaos import run as run_chaos
    from harvester.demo.walkthrough import run as run_walkthrough
    from harvester.demo.walkthrough import serve as keep_serving

    async def run_demo() -> CommandResult:
        if serve and chaos is not None:
            raise SettingsError("--serve and --chaos do not go together: give one of the two")
        if chaos is not None:
            return await run_chaos(parse_chaos(chaos), folder, seed=seed, as_json=as_json)
        return await (keep_serving(folder, as_json=as_json) if serve else run_walkthrough(folder, as_json=as_json))

    run_and_exit(run_demo, as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command in `arguments` (the command line's own), and exit with its code."""
    args = sys.argv[1:] if arguments is None else arguments
    args = [REDACTED if redact_shapes(arg) == REDACTED else arg for arg in args]  # typer prints unknown ones
    has_command = bool(args) and (not args[0].startswith("-") or args[0] in ("-h", "--help", "--version"))
    with standard_streams():
        app(args=args if has_command else ["harvest", *args], prog_name="harvester")
