"""The options of the commands, as parameters that typer reads."""

from __future__ import annotations

from inspect import Parameter
from typing import Annotated, Any

import typer


def option(name: str, flags: str, words: str, panel: str = "", kind: Any = str | None, **more: Any) -> Parameter:
    """An option, as the parameter `name` of commands; not given, it is False or None."""
    info = typer.Option(*flags.split(), help=words, rich_help_panel=panel or None, **more)
    default = False if kind is bool else None
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


INPUT = (
    option("movies_csv", "--movies", "Movies: path, s3://… or - (MOVIES_CSV).", "Input"),
    option("series_csv", "--series", "Series, likewise (SERIES_CSV).", "Input"),
    option("csv_id_column", "--id-column", "Header of the id column (CSV_ID_COLUMN).", "Input"),
)
TMDB = (
    option("tmdb_base_url", "--base-url", "Where TMDB is (TMDB_BASE_URL).", "TMDB"),
    option("tmdb_language", "--language", "Such as pt-BR (TMDB_LANGUAGE).", "TMDB"),
    option("tmdb_append", "--append", "Such as credits,keywords (TMDB_APPEND).", "TMDB"),
    option("tmdb_rate", "--rate", "Requests per second at most (TMDB_RATE).", "TMDB", float | None),
    option("tmdb_concurrency", "--concurrency", "Requests in flight (TMDB_CONCURRENCY).", "TMDB", int | None),
)
STORE = (
    option("s3_bucket", "--bucket", "Where it lands (S3_BUCKET).", "Bucket"),
    option("s3_prefix", "--prefix", "Folder in the bucket (S3_PREFIX).", "Bucket"),
    option("output_format", "--format", "jsonl or array (OUTPUT_FORMAT).", "Bucket"),
)
LIMIT = option("limit", "--limit", "Stop after the batch that reaches N ids.", "This run", int | None, min=1)
AGAIN = option("again", "--again", "Harvest anew what was finished today.", "This run", bool)
FILE = option("movies_csv", "--movies", "Movies: a path (MOVIES_CSV).", "Input")
THEN = option("then_harvest", "--then-harvest", "Harvest them too, with the options of harvest.", kind=bool)
PROOF = (
    option("run", "--run", "Such as 2026-11-22-3f9a1c2e; else the one at work last."),
    option("day", "--day", "Such as 2026-11-22: all runs of that day."),
    option("repair", "--repair", "Move foreign objects to quarantine, remove stale files of ours.", kind=bool),
)
OUTPUT = (
    option("as_json", "--json", "Print the result as one JSON object.", kind=bool),
    option("verbose", "--verbose -v", "Log more.", kind=bool),
)
