"""The commands of the command line: `harvest`, and what one wants to know before and after it.

The result goes to standard output, for people or, with `--json`, as one JSON object; progress and logs go to standard
error. Every command ends with one of the exit codes of `errors`. Heavy imports wait until a command needs them.
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
from harvester.cli.options import AGAIN, INPUT, LIMIT, OUTPUT, PROOF, RUN, STORE, THEN, TMDB, option, setting
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
    help="Harvest TMDB for every IMDb id of two CSVs into S3, with closed books. Without a command: harvest.",
    epilog="Exit codes: 0 closed, 1 something wrong, 2 usage or input, 3 TMDB refuses the key, 4 the bucket refuses, "
    "5 some ids failed, 6 TMDB is unavailable, 75 stopped before the end. Settings: flag > environment > .env > "
    "config/harvester.toml.",
)


def _command(*options: Parameter) -> Callable[[Command], None]:
    """Make a coroutine function a command with these options, `--json` and `--verbose`; see `run_command`."""

    def register(command: Command) -> None:
        def run(**given: Any) -> None:
            run_command(command, given)

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
    """Harvest the CSVs; go on where an earlier run has stopped."""
    from harvester.runtime.shutdown import Shutdown

    settings = await _having_key(settings)
    shutdown = Shutdown(limit=limit)
    on_shutdown_signals(shutdown)
    return await _harvest_until(shutdown, settings, again=again)


async def _having_key(settings: Settings) -> Settings:
    """The settings with TMDB's key itself, wherever it is kept."""
    from harvester.commands.resources import with_key

    known: dict[str, str] = {}
    settings = await with_key(settings, known)
    add_secrets(*known.values())
    return settings


async def _harvest_until(shutdown: Shutdown, settings: Settings, *, again: bool) -> CommandResult:
    from harvester.cli.progress import harvest_observer
    from harvester.commands.harvest import harvest as run_harvest
    from harvester.reports.text import show_report

    report = await run_harvest(settings, observer=harvest_observer(), shutdown=shutdown, again=again)
    return report.exit_code, report.as_json(), partial(show_report, report)


@_command(*INPUT, *map(setting, ("tmdb_language", "tmdb_append", "tmdb_rate")), *STORE, AGAIN)
async def plan(settings: Settings, *, again: bool) -> CommandResult:
    """Show what harvest would do; asks nobody but the bucket."""
    from harvester.commands.plan import plan as make_plan
    from harvester.reports.text import show_plan

    planned = await make_plan(settings, again=again)
    return Exit.CLOSED, planned, partial(show_plan, planned)


@_command(setting("movies_csv", "Movies: a path"), *INPUT[1:], *TMDB, *STORE, LIMIT, AGAIN, THEN)
async def upload(settings: Settings, *, then_harvest: bool, limit: int | None, again: bool) -> CommandResult:
    """Upload the CSVs themselves, byte for byte; unchanged ones are left alone."""
    from harvester.cli.progress import upload_progress
    from harvester.commands.upload import upload as send
    from harvester.reports.text import show_upload
    from harvester.runtime.shutdown import Shutdown

    if then_harvest:
        settings = await _having_key(settings)
    elif limit is not None or again:
        raise SettingsError("--limit and --again are about the harvest: give --then-harvest too, or leave them away")
    shutdown = Shutdown(limit=limit)
    on_shutdown_signals(shutdown, **({} if then_harvest else {"then": "giving up what is on its way"}))
    with upload_progress() as progress:
        report = await send(settings, shutdown=shutdown, progress=progress, pass_s3=then_harvest)
    if not then_harvest:
        return Exit.CLOSED, report.as_json(), partial(show_upload, report)
    for file in report.files:  # the result is told at the end of the harvest, hours later
        logging.getLogger(__name__).info(file.status, extra=file.as_json())
    # From the local file: it need not come back over the network, and a read-only disk has no room for it.
    code, harvested, show_harvest = await _harvest_until(shutdown, settings, again=again)

    def show() -> None:
        show_upload(report, harvested=True)
        show_harvest()

    return code, report.as_json() | {"exit_code": int(code), "harvest": harvested}, show


@_command(*PROOF, *map(setting, ("s3_bucket", "s3_prefix")))
async def verify(settings: Settings, *, run: str | None, day: str | None, repair: bool) -> CommandResult:
    """Read a run, or a whole day, back from the bucket and prove its books."""
    from harvester.cli.progress import count_progress
    from harvester.commands.verify import verify as prove
    from harvester.reports.text import show_verification

    with count_progress("receipts read back") as progress:
        verification = await prove(settings, run=run, day=day, repairing=repair, progress=progress)
    return (
        verification.exit_code,
        verification.as_json(),
        partial(show_verification, verification),
    )


@_command(RUN, option("csv", "--csv", "Write all of them to this file."), *map(setting, ("s3_bucket", "s3_prefix")))
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
    """Try everything a harvest needs, and say what to mend."""
    from harvester.cli.progress import check_progress
    from harvester.commands.doctor import DoctorReport, run_checks
    from harvester.reports.text import show_doctor_report

    with check_progress() as look:
        findings = [look(finding.without(secrets)) async for finding in run_checks(flags, secrets)]
    doctor_report = DoctorReport(tuple(findings))
    return doctor_report.exit_code, doctor_report.as_json(), partial(show_doctor_report, doctor_report)


@app.command()
def demo(
    serve: Annotated[bool, typer.Option("--serve", help="Keep both servers up, to try every command by hand.")] = False,
    chaos: Annotated[
        str | None, typer.Option(help="Faults and kills of your own: 429=5%,reset=2%,slow=3%,s3-503=1%,kill=3.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which requests the chaos falls on.")] = 1,
    folder: Annotated[Path, typer.Option("--folder", help="Where the landed files are left.")] = Path("harvester-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """The whole thing on this machine: faults, a kill, a resume; no account and no network."""
    from harvester.demo.chaos import parse_chaos
    from harvester.demo.chaos import run as run_chaos
    from harvester.demo.walkthrough import run as run_walkthrough
    from harvester.demo.walkthrough import serve as keep_serving

    async def inside() -> CommandResult:
        if serve and chaos is not None:
            raise SettingsError("--serve keeps healthy servers up, and --chaos plays to its end: give one of the two")
        if chaos is not None:
            return await run_chaos(parse_chaos(chaos), folder, seed=seed, as_json=as_json)
        return await (keep_serving(folder, as_json=as_json) if serve else run_walkthrough(folder, as_json=as_json))

    run_and_exit(inside, as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command in `arguments` (the command line's own), and exit with its code."""
    words = sys.argv[1:] if arguments is None else arguments
    words = [REDACTED if redact_shapes(word) == REDACTED else word for word in words]  # typer repeats unknown ones
    named = bool(words) and (not words[0].startswith("-") or words[0] in ("-h", "--help", "--version"))
    with standard_streams():
        app(args=words if named else ["harvest", *words], prog_name="harvester")
