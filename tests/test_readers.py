"""The readers of what lands: the columns of config/aws let every record through, and its queries run as written."""

from __future__ import annotations

import ast
import csv
import json
import re
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from reading import (
    AWS,
    altered,
    appended_columns,
    athena_query,
    athena_statements,
    athena_table,
    duckdb_type,
    filled,
    leaves,
    open_duckdb,
    unexpected,
)
from sqlglot import exp

from harvester.fakes.catalog import Catalog, movie_record, tv_record
from harvester.formats.registry import FORMATS
from harvester.model.batch import Batch
from harvester.model.ids import KINDS
from harvester.model.layout import Layout
from harvester.model.outcome import Found
from harvester.model.record import record_line
from harvester.settings.settings import Settings
from harvester.tmdb.responses import read_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import duckdb
    from reading import Shape

    from harvester.model.ids import Collection, Kind

TABLES: dict[str, Kind] = {"movies": "movie", "series": "tv"}
COLLECTIONS = {kind: collection for collection, kind in KINDS.items()}
each_table = pytest.mark.parametrize("table", TABLES)
PREFIX = Settings.model_fields["s3_prefix"].default
TEMPLATE = Settings.model_fields["s3_key_template"].default
APPENDED = ("credits", "keywords", "watch/providers")
RECORDED = {"movie": 22, "tv": 18}
EMPTY = {
    "movies": {},
    "series": {
        "harvest.tmdb_imdb_id": "series have no `imdb_id` of TMDB's own to differ from ours; `harvest` is one for both",
        "next_episode_to_air.runtime": "null of an episode that has not been shown; one shape for both episodes",
        "next_episode_to_air.still_path": "likewise",
    },
}
"""Columns that are never filled, and why they are there all the same."""


def layout_of(day: str) -> Layout:
    return Layout(PREFIX, TEMPLATE, f"{day}-3f9a1c2e")


def line_of(number: int, kind: Kind, body: dict[str, Any], *, asked: tuple[str, ...] = (), day: str) -> bytes:
    """The record as it lands; every tenth under an id that TMDB has since merged into another."""
    found = read_record(body, kind, asked=asked)
    assert isinstance(found, Found)
    asked_for = f"tt{number if number % 10 else number + 9_000_000:07}"
    line = record_line(asked_for, found, language=(None, "pt-BR")[number % 2], fetched_at=f"{day}T07:59:43.182Z")
    assert line
    return line


def stand_in_lines(
    kind: Kind, *, append: tuple[str, ...] = (), day: str = "2026-11-22", count: int = 300
) -> list[bytes]:
    """Records of the demo's TMDB; a part that it has never heard of is asked for as well, and missing."""
    catalog = Catalog(otherwise=kind)
    make = movie_record if kind == "movie" else tv_record
    lines = []
    for number in range(1, count + 1):
        body = make(catalog, f"tt{number:07}", append=append)
        assert body
        lines.append(line_of(number, kind, body, asked=(*append, "nonsense"), day=day))
    return lines


def recorded_lines(payloads: Path, kind: Kind) -> tuple[list[bytes], set[str]]:
    """Records of everything that the real TMDB has been seen to answer; and the parts that were appended."""
    lines, parts = [], set[str]()
    with (payloads / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter="\t"), start=1):
            if row["file"].startswith(f"{kind}/"):
                asked = parse_qs(urlsplit(row["request"]).query).get("append_to_response", [""])[0].split(",")
                body = json.loads((payloads / row["file"]).read_bytes())
                lines.append(line_of(number, kind, body, asked=tuple(filter(None, asked)), day="2026-11-22"))
                parts |= set(asked)
    assert len(lines) == RECORDED[kind]
    return lines, parts


def land(lake: Path, kind: Kind, lines: list[bytes], *, day: str = "2026-11-22") -> None:
    """Write the lines where and as the harvester would, with receipts beside them that no reader may see."""
    layout, collection = layout_of(day), COLLECTIONS[kind]
    for number, file in enumerate(FORMATS["jsonl"].encode(lines), start=1):
        name = Batch(collection, (f"tt{number:07}",)).name
        for key in (layout.data_key(collection, name), layout.receipt_key(collection, name)):
            path = lake / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.body if "_harvest" not in key else b'{"batch":"a receipt"}\n')


def read(lake: Path, collection: Collection, columns: dict[str, Shape]) -> list[dict[str, Any]]:
    """Every record of a collection as DuckDB reads it through the columns, by the key of each."""
    spelled = ", ".join(f"\"{key}\": '{duckdb_type(shape)}'" for key, shape in columns.items())
    with open_duckdb() as connection:
        found = connection.sql(
            f"FROM read_json('{lake}/{PREFIX}/{collection}/*/*/*/*.json', format='newline_delimited', "
            f"columns={{{spelled}}})"
        )
        return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]


def assert_read_whole(lake: Path, kind: Kind, lines: list[bytes], columns: dict[str, Shape]) -> None:
    """Land the lines, and hold what is read of them, record for record and value for value, against their JSON."""
    land(lake, kind, lines)
    rows = read(lake, COLLECTIONS[kind], columns)
    records = [json.loads(line) for line in lines]
    assert sorted(record["imdb_id"] for record in rows) == sorted(record["imdb_id"] for record in records)
    by_id = {record["imdb_id"]: record for record in rows}
    wrong = [f"{r['imdb_id']} {difference}" for r in records for difference in altered(r, by_id[r["imdb_id"]], columns)]
    assert wrong[:10] == []


# --- the columns


@each_table
def test_every_record_of_the_stand_in_is_read_whole(table: str, tmp_path: Path) -> None:
    """No record is lost, no value altered, no key passed over."""
    kind, columns = TABLES[table], athena_table(table).columns
    lines = stand_in_lines(kind)
    assert_read_whole(tmp_path, kind, lines, columns)
    assert sorted({key for line in lines for key in unexpected(json.loads(line), columns)}) == []


@each_table
def test_every_recorded_title_is_read_whole(table: str, tmp_path: Path, payloads: Path) -> None:
    """The same of what the real TMDB has answered from 2017 to 2025, but for the parts appended to it."""
    kind, columns = TABLES[table], athena_table(table).columns
    lines, parts = recorded_lines(payloads, kind)
    assert_read_whole(tmp_path, kind, lines, columns)
    assert sorted({key for line in lines for key in unexpected(json.loads(line), columns)} - parts) == []


@each_table
def test_no_column_is_always_empty(table: str) -> None:
    """Every column, to the last field of its structs, has a value in some record, but for those that say why not."""
    kind, columns = TABLES[table], athena_table(table).columns
    present = {leaf for line in stand_in_lines(kind) for leaf in filled(json.loads(line), columns)}
    assert sorted(set(leaves(columns)) - present) == sorted(EMPTY[table])


@each_table
def test_appended_parts_are_read_whole(table: str, tmp_path: Path, payloads: Path) -> None:
    """The columns that a comment of athena.sql adds for credits and keywords let those through, the real ones too."""
    kind, added = TABLES[table], appended_columns(table)
    columns = athena_table(table).columns | added
    assert set(added) == {"credits", "keywords"}
    lines = stand_in_lines(kind, append=APPENDED, count=30)
    assert_read_whole(tmp_path / "stand-in", kind, lines, columns)
    assert {key for line in lines for key in unexpected(json.loads(line), columns)} == {"watch/providers"}
    present = {leaf for line in lines for leaf in filled(json.loads(line), added)}
    assert sorted(set(leaves(added)) - present) == []
    lines, parts = recorded_lines(payloads, kind)
    assert_read_whole(tmp_path / "recorded", kind, lines, columns)
    assert {key for line in lines for key in unexpected(json.loads(line), columns)} <= parts - set(added)


def test_a_key_with_a_slash_is_read_by_its_mapping(tmp_path: Path) -> None:
    """The commented table of watch providers names the key that its column is of, and no country loses its capitals."""
    table = athena_table("movies_watch_providers")
    assert table.properties["mapping.watch_providers"] == "watch/providers"
    assert table.properties["case.insensitive"] == "false"
    columns = {table.properties.get(f"mapping.{name}", name): shape for name, shape in table.columns.items()}
    lines = stand_in_lines("movie", append=APPENDED, count=30)
    assert_read_whole(tmp_path, "movie", lines, columns)
    present = {leaf for line in lines for leaf in filled(json.loads(line), columns)}
    assert sorted(set(leaves(columns)) - present) == []


@each_table
def test_columns_are_named_in_lower_case(table: str) -> None:
    """Athena knows no other, so a key with a capital would be a column that is always empty."""
    assert [path for path in leaves(athena_table(table).columns) if not re.fullmatch(r"[a-z0-9_.\[\]]+", path)] == []


@each_table
@pytest.mark.parametrize(
    ("column", "harm"),
    [("vote_average", "BIGINT"), ("popularity", "FLOAT"), ("original_language", "BOOLEAN"), ("harvest", "VARCHAR")],
)
def test_a_wrong_type_would_be_seen(table: str, column: str, harm: str, tmp_path: Path) -> None:
    """The tests above are as good as this: a type that cuts a fraction, or is another's, does not pass."""
    from duckdb import Error as DuckDBError

    kind, columns = TABLES[table], athena_table(table).columns | {column: harm}
    with pytest.raises((AssertionError, DuckDBError)):
        assert_read_whole(tmp_path, kind, stand_in_lines(kind, count=100), columns)


def test_a_lost_key_and_a_made_up_column_would_be_seen() -> None:
    """And so is a key without a column, at any depth, and a column that no record has."""
    columns = athena_table("series").columns
    [line] = stand_in_lines("tv", count=1)
    record = json.loads(line)
    record["seasons"][0]["colour"] = record["harvest"]["mood"] = record["tone"] = 1
    assert sorted(unexpected(record, columns)) == ["harvest.mood", "seasons[].colour", "tone"]
    assert "tone" not in set(filled(record, columns | {"tune": "BIGINT"}))
    assert "tune" in set(leaves(columns | {"tune": "BIGINT"})) - set(filled(record, columns | {"tune": "BIGINT"}))
    assert [*altered({"a": True}, {"a": 1}, {"a": "BIGINT"})] == ["a: True was read as 1"]
    assert [*altered({"a": [{"b": 1}]}, {"a": []}, {"a": [{"b": "BIGINT"}]})] == ["a: [{'b': 1}] was read as []"]


# --- where they look


@pytest.mark.parametrize("table", [*TABLES, "movies_watch_providers"])
def test_the_projected_folders_are_those_of_the_layout(table: str) -> None:
    """Every day of the projected years is looked for where the harvester lands it, and nowhere beside."""
    definition = athena_table(table)
    collection = COLLECTIONS[TABLES[table.partition("_")[0]]]
    assert definition.properties["projection.enabled"] == "true"
    assert definition.partitions == {"year": "VARCHAR", "month": "VARCHAR", "day": "VARCHAR"}
    first, last = (int(year) for year in definition.properties["projection.year.range"].split(","))
    day = date(first, 1, 1)
    assert (first, last >= first + 9) == (2026, True)
    while day.year <= last:
        folder = definition.properties["storage.location.template"]
        for name, value in (("year", day.year), ("month", day.month), ("day", day.day)):
            of = {key: definition.properties[f"projection.{name}.{key}"] for key in ("type", "range", "digits")}
            least, most = (int(end) for end in of["range"].split(","))
            assert (of["type"], least <= value <= most) == ("integer", True)
            folder = folder.replace(f"${{{name}}}", str(value).zfill(int(of["digits"])))
        assert folder == f"s3://my-data-lake/{layout_of(day.isoformat()).data_folder(collection)}"
        assert folder.startswith(definition.location)
        day += timedelta(days=1)


# --- Athena's queries


def test_every_statement_is_athenas_sql() -> None:
    """All of athena.sql parses as Athena's, the statements in its comments too, and none is passed over."""
    kinds = [type(statement).__name__ for statement in athena_statements()]
    assert kinds == ["Create"] * 3 + ["Select"] + ["Create"] * 2 + ["Insert"] * 2 + ["Create"] * 2 + ["Alter"] * 2 + [
        "Create"
    ]


@each_table
def test_trusted_and_latest_have_every_column(table: str) -> None:
    """Parquet, what is added to it and the view of the latest have the columns of RAW in their order, and the day."""
    expected = [*athena_table(table).columns, "collected"]
    for kind, name in (
        (exp.Create, f"trusted_{table}"),
        (exp.Insert, f"trusted_{table}"),
        (exp.Create, f"latest_{table}"),
    ):
        assert athena_query(kind, name).named_selects == expected


def raw_tables(connection: duckdb.DuckDBPyConnection, lake: Path) -> None:
    """`tmdb.movies` and `tmdb.series` in DuckDB, through Athena's columns and with its partitions."""
    connection.execute("CREATE SCHEMA tmdb")
    for table, kind in TABLES.items():
        columns = athena_table(table).columns
        spelled = ", ".join(f"{name}: '{duckdb_type(shape)}'" for name, shape in columns.items())
        of_path = ", ".join(
            f"regexp_extract(filename, '(\\d+)/(\\d+)/(\\d+)/[^/]+$', {group}) AS {name}"
            for group, name in enumerate(("year", "month", "day"), start=1)
        )
        connection.execute(
            f"CREATE TABLE tmdb.{table} AS SELECT * EXCLUDE (filename), {of_path} FROM read_json("
            f"'{lake}/{PREFIX}/{COLLECTIONS[kind]}/*/*/*/*.json', format='newline_delimited', filename=true, "
            f"columns={{{spelled}}})"
        )


def land_three_days(lake: Path) -> None:
    """A hundred titles on a day, sixty of them on the next, thirty on a day of the month after."""
    for kind in TABLES.values():
        for day, count in (("2026-11-21", 100), ("2026-11-22", 60), ("2026-12-01", 30)):
            land(lake, kind, stand_in_lines(kind, day=day, count=count), day=day)


LATEST = {date(2026, 11, 21): 40, date(2026, 11, 22): 30, date(2026, 12, 1): 30}


@each_table
def test_athenas_queries_make_trusted_and_find_the_latest(table: str, tmp_path: Path) -> None:
    """Put into DuckDB's dialect they keep every record and its day; a day is added once; each id is there once."""
    land_three_days(tmp_path)
    with open_duckdb() as connection:
        raw_tables(connection, tmp_path)
        trusted, latest = f"tmdb.trusted_{table}", f"tmdb.latest_{table}"
        days = f"SELECT collected, count(*) FROM {trusted} GROUP BY collected ORDER BY collected"
        connection.execute(f"CREATE TABLE {trusted} AS {athena_query(exp.Create, f'trusted_{table}').sql('duckdb')}")
        assert connection.execute(days).fetchall() == [(date(2026, 11, 21), 100), (date(2026, 11, 22), 60)]
        for _ in range(2):
            connection.execute(f"INSERT INTO {trusted} {athena_query(exp.Insert, f'trusted_{table}').sql('duckdb')}")
            assert connection.execute(days).fetchall()[2:] == [(date(2026, 12, 1), 30)]
        connection.execute(f"CREATE VIEW {latest} AS {athena_query(exp.Create, f'latest_{table}').sql('duckdb')}")
        assert dict(connection.execute(f"SELECT collected, count(*) FROM {latest} GROUP BY 1").fetchall()) == LATEST
        once = "SELECT count(*), count(DISTINCT imdb_id), bool_and(harvest.fetched_at[:10] = collected::text)"
        assert connection.execute(f"{once} FROM {latest}").fetchall() == [(100, 100, True)]


def test_athenas_first_query_counts_a_day(tmp_path: Path) -> None:
    """What a newcomer runs first has the number of records and titles of that day."""
    land_three_days(tmp_path)
    [select] = [statement for statement in athena_statements() if isinstance(statement, exp.Select)]
    with open_duckdb() as connection:
        raw_tables(connection, tmp_path)
        now = "2026-11-22T07:59:43.182Z"
        assert connection.execute(select.sql("duckdb")).fetchall() == [(60, 60, now, now)]


# --- DuckDB's


def duckdb_statements(lake: Path) -> Iterator[str]:
    """Those of duckdb.sql over a folder in place of the bucket; who one is to S3 is nothing to a folder."""
    sql = (AWS / "duckdb.sql").read_text(encoding="utf-8").replace("s3://my-data-lake", str(lake))
    with open_duckdb() as connection:
        statements = [statement.query.strip() for statement in connection.extract_statements(sql)]
    secrets = [statement for statement in statements if re.search("^CREATE OR REPLACE SECRET", statement, re.MULTILINE)]
    assert len(secrets) == 1
    return (statement for statement in statements if statement not in secrets)


def test_duckdbs_queries_run_as_written(tmp_path: Path) -> None:
    """Over landed files every statement runs; Trusted and the latest hold each record, and a second time no more."""
    lake = tmp_path / "lake"
    land_three_days(lake)
    for collection in ("Movies", "Series"):
        (lake / f"Trusted/API/{collection}/collected=2026-11-22").mkdir(parents=True)  # S3 has no folders to make
    with open_duckdb() as connection:
        for _ in range(2):
            shown = [connection.execute(statement).fetchall() for statement in duckdb_statements(lake)]
        assert shown[-1][0][:2] == (date(2026, 11, 22), 60)
        for table, collection in (("movies", "Movies"), ("series", "Series")):
            columns = athena_table(table).columns
            latest = connection.execute(
                f"SELECT collected, count(*) FROM 'latest_{table}.parquet' GROUP BY 1"
            ).fetchall()
            assert dict(latest) == LATEST
            rows = connection.execute(
                f"FROM read_parquet('{lake}/Trusted/API/{collection}/*/*.parquet', hive_partitioning=false)"
            ).fetchall()
            by_id = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
            sent = [json.loads(line) for line in stand_in_lines(TABLES[table], count=60)]
            assert len(rows) == len(sent)
            assert [
                difference for record in sent for difference in altered(record, by_id[record["imdb_id"]], columns)
            ] == []


@each_table
def test_duckdbs_columns_are_athenas(table: str, tmp_path: Path) -> None:
    """The two lists of columns are one, in names, order and types."""
    land(tmp_path, TABLES[table], stand_in_lines(TABLES[table], count=1))
    columns = athena_table(table).columns
    with open_duckdb() as connection:
        for statement in duckdb_statements(tmp_path):
            if "CREATE OR REPLACE MACRO" in statement:
                connection.execute(statement)
        spelled = ", ".join(f'NULL::{duckdb_type(shape)} AS "{name}"' for name, shape in columns.items())
        text = connection.execute(f"DESCRIBE FROM {table}('2026/11/22')").fetchall()
        meant = connection.execute(f"DESCRIBE SELECT {spelled}, NULL::DATE AS collected").fetchall()
        assert [column[:2] for column in text] == [column[:2] for column in meant]


# --- Spark's


@each_table
def test_sparks_job_finds_the_columns(table: str) -> None:
    """`columns_of` of trusted.py takes the very column list of the table out of athena.sql. Spark itself is not run."""
    tree = ast.parse((AWS / "trusted.py").read_text(encoding="utf-8"))
    [function] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "columns_of"]
    names: dict[str, Any] = {"re": re}
    exec(compile(ast.Module([function], type_ignores=[]), "trusted.py", "exec"), names)
    text = names["columns_of"]((AWS / "athena.sql").read_text(encoding="utf-8"), table)
    parsed = exp.maybe_parse(f"CREATE TABLE t ({text})", dialect="spark")
    assert [column.name for column in parsed.this.expressions] == list(athena_table(table).columns)
    with pytest.raises(SystemExit, match="has no table"):
        names["columns_of"]("", table)
