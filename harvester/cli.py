"""The command line: a door to `harvest`, and to what one wants to know before and after it.

The result goes to standard output, for people or, with `--json`, as one JSON object; progress and logs go to standard
error. Every command ends with one of the exit codes of `errors`. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harvester import __version__
from harvester.door import go_through, learn, listen, open_door, standard_streams
from harvester.errors import Exit, SettingsError
from harvester.redaction import is_key, redact_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from harvester.door import Result
    from harvester.settings import Settings
    from harvester.stop import Stop

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
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Stop after the batch that reaches N ids.", rich_help_panel=_RUN),
]
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
    limit: Limit = None,
    again: Again = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Harvest the CSVs; go on where an earlier run has stopped."""
    open_door(_with(partial(_harvest, limit=limit, again=again)), locals())


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
    open_door(_with(partial(_plan, again=again)), locals())


@app.command()
def upload(
    movies_csv: Annotated[
        str | None, typer.Option("--movies", help="Movies: a path (MOVIES_CSV).", rich_help_panel=_INPUT)
    ] = None,
    series_csv: Series = None,
    s3_bucket: BucketName = None,
    then_harvest: Annotated[
        bool, typer.Option("--then-harvest", help="Harvest them too, with the options of harvest.")
    ] = False,
    csv_id_column: IdColumn = None,
    tmdb_base_url: BaseUrl = None,
    tmdb_language: Language = None,
    tmdb_append: Append = None,
    tmdb_rate: Rate = None,
    tmdb_concurrency: Concurrency = None,
    s3_prefix: Prefix = None,
    output_format: Form = None,
    limit: Limit = None,
    again: Again = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Upload the CSVs themselves, byte for byte; unchanged ones are left alone."""
    open_door(_with(partial(_upload, then_harvest=then_harvest, limit=limit, again=again)), locals())


@app.command()
def verify(
    run: Annotated[
        str | None, typer.Option("--run", help="Such as 2026-11-22-3f9a1c2e; else the one at work last.")
    ] = None,
    day: Annotated[str | None, typer.Option("--day", help="Such as 2026-11-22: all runs of that day.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move foreign objects to quarantine, remove stale files of ours.")
    ] = False,
    s3_bucket: BucketName = None,
    s3_prefix: Prefix = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read a run, or a whole day, back from the bucket and prove its books."""
    open_door(_with(partial(_verify, run=run, day=day, repair=repair)), locals())


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
    open_door(_doctor, locals())


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
        if serve and chaos is not None:
            raise SettingsError("--serve keeps healthy servers up, and --chaos plays to its end: give one of the two")
        if chaos is not None:
            return await play(parse_chaos(chaos), folder, seed=seed, as_json=as_json)
        return await (serve_by_hand(folder, as_json=as_json) if serve else tell(folder, as_json=as_json))

    go_through(inside, as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command in `arguments` (the command line's own), and exit with its code."""
    words = sys.argv[1:] if arguments is None else arguments
    words = [redact_shapes(word) if is_key(word) else word for word in words]  # typer repeats what it does not know
    named = bool(words) and (not words[0].startswith("-") or words[0] in ("-h", "--help", "--version"))
    with standard_streams():
        app(args=words if named else ["harvest", *words], prog_name="harvester")


def _with(command: Callable[[Settings], Coroutine[Any, Any, Result]]) -> Callable[..., Coroutine[Any, Any, Result]]:
    """`command`, for the door: with the settings that are in force with these flags."""

    async def inside(flags: dict[str, Any], _secrets: list[str]) -> Result:
        from harvester.settings import load_settings

        return await command(load_settings(**flags))

    return inside


async def _harvest(settings: Settings, *, limit: int | None, again: bool) -> Result:
    from harvester.stop import Stop

    settings = await _having_key(settings)
    stop = Stop(limit=limit)
    listen(stop)
    return await _harvest_until(stop, settings, again=again)


async def _having_key(settings: Settings) -> Settings:
    """The settings with TMDB's key itself, wherever it is kept."""
    from harvester.opening import with_key

    settings = await with_key(settings)
    learn(settings.tmdb_api_key.get_secret_value() if settings.tmdb_api_key else "")
    return settings


async def _harvest_until(stop: Stop, settings: Settings, *, again: bool) -> Result:
    from harvester.harvest import harvest as run_harvest
    from harvester.progress import watching
    from harvester.show import show_report

    with watching() as watcher:
        report = await run_harvest(settings, watcher=watcher, stop=stop, again=again)
    return report.exit_code, report.as_json(), partial(show_report, report, settings)


async def _upload(settings: Settings, *, then_harvest: bool, limit: int | None, again: bool) -> Result:
    from harvester.progress import sending
    from harvester.show import show_upload
    from harvester.stop import Stop
    from harvester.upload import upload as send

    if then_harvest:
        settings = await _having_key(settings)
    elif limit is not None or again:
        raise SettingsError("--limit and --again are about the harvest: give --then-harvest too, or leave them away")
    stop = Stop(limit=limit)
    listen(stop, **({} if then_harvest else {"then": "giving up what is on its way"}))
    with sending() as progress:
        report = await send(settings, stop=stop, progress=progress, pass_s3=then_harvest)
    if not then_harvest:
        return Exit.CLOSED, report.as_json(), partial(show_upload, report)
    for file in report.files:  # the result is told at the end of the harvest, hours later
        logging.getLogger(__name__).info(file.status, extra=file.as_json())
    # From the local file: it need not come back over the network, and a read-only disk has no room for it.
    code, harvested, show_harvest = await _harvest_until(stop, settings, again=again)

    def show() -> None:
        show_upload(report, harvested=True)
        show_harvest()

    return code, report.as_json() | {"exit_code": int(code), "harvest": harvested}, show


async def _plan(settings: Settings, *, again: bool) -> Result:
    from harvester.plan import plan as make_plan
    from harvester.show import show_plan

    told = await make_plan(settings, again=again)
    return Exit.CLOSED, told, partial(show_plan, told)


async def _verify(settings: Settings, *, run: str | None, day: str | None, repair: bool) -> Result:
    from harvester.progress import counting
    from harvester.show import show_proof
    from harvester.verify import verify as prove

    with counting("receipts read back") as progress:
        proof = await prove(settings, run=run, day=day, repairing=repair, progress=progress)
    return (Exit.WRONG if proof.problems else Exit.CLOSED), proof.as_json(), partial(show_proof, proof)


async def _doctor(flags: dict[str, Any], secrets: list[str]) -> Result:
    from harvester.doctor import Examination, examine
    from harvester.progress import looking
    from harvester.show import show_examination

    with looking() as look:
        findings = [look(finding.without(secrets)) async for finding in examine(flags, secrets)]
    examination = Examination(tuple(findings))
    return (
        Exit.CLOSED if examination.healthy else Exit.WRONG,
        examination.as_json(),
        partial(show_examination, examination),
    )
