"""Helpers for the tests of the readers: the SQL of config/aws as data, and comparison of records sent and read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    Shape = str | list[Any] | dict[str, Any] | tuple[Any]

AWS = Path(__file__).parents[1] / "config" / "aws"

_TYPES = {"string": "VARCHAR", "bigint": "BIGINT", "double": "DOUBLE", "boolean": "BOOLEAN"}
"""Hive's scalar types in the tables, and DuckDB's types for them; any other is a KeyError."""


@dataclass(frozen=True)
class Table:
    """A table over the JSON.

    Attributes:
        columns: Name to shape. A scalar's shape is DuckDB's type, an array's `[shape]`, a map's `(shape,)` of its
            values, a struct's a dict.
        partitions: Name to type, likewise.
        properties: `TBLPROPERTIES`, and the mappings of the SerDe.
        location: URL of its data.
    """

    columns: dict[str, Shape]
    partitions: dict[str, Shape]
    properties: dict[str, str]
    location: str


def open_duckdb() -> duckdb.DuckDBPyConnection:
    """A database in memory; a context manager.

    DuckDB is imported here, not at the top: modules loaded before the first test are frozen (conftest), and DuckDB
    reports them as leaks at the end.
    """
    import duckdb

    return duckdb.connect()


def athena_statements() -> list[exp.Expression]:
    """The statements of athena.sql, then those in its comments; a syntax error is raised."""
    sql = (AWS / "athena.sql").read_text(encoding="utf-8")
    commented = re.findall(r"^-- (?:ALTER|CREATE) .*?^-- \);$", sql, re.DOTALL | re.MULTILINE)
    sql += "\n".join(re.sub(r"^-- ", "", statement, flags=re.MULTILINE) for statement in commented)
    statements = sqlglot.parse(sql, dialect="athena")
    return [statement for statement in statements if statement and not isinstance(statement, exp.Semicolon)]


def athena_table(name: str) -> Table:
    """The external table `tmdb.{name}`."""
    [create] = [
        statement
        for statement in athena_statements()
        if isinstance(statement, exp.Create) and isinstance(statement.this, exp.Schema) and _name(statement) == name
    ]
    table = create.args["properties"]
    properties = {each.name: each.args["value"].name for each in table.expressions if type(each) is exp.Property}
    for serde in table.find_all(exp.SerdeProperties):
        properties |= {each.name: each.args["value"].name for each in serde.expressions}
    [partitions] = table.find_all(exp.PartitionedByProperty)
    [location] = table.find_all(exp.LocationProperty)
    return Table(_columns(create.this), _columns(partitions.this), properties, location.name)


def appended_columns(name: str) -> dict[str, Shape]:
    """The columns that athena.sql adds to `tmdb.{name}` for appended parts, in a comment."""
    [alter] = [each for each in athena_statements() if isinstance(each, exp.Alter) and each.this.name == name]
    return {column.name: _shape(column.args["kind"]) for column in alter.find_all(exp.ColumnDef) if _is_column(column)}


def athena_query(kind: type[exp.Expression], name: str) -> exp.Expression:
    """The SELECT of the one CREATE or INSERT statement that makes or fills `tmdb.{name}`."""
    [statement] = [
        each for each in athena_statements() if isinstance(each, kind) and each.expression and _name(each) == name
    ]
    return statement.expression


def _name(statement: exp.Expression) -> str:
    return str(statement.this.this.name if isinstance(statement.this, exp.Schema) else statement.this.name)


def _is_column(column: exp.ColumnDef) -> bool:
    return not isinstance(column.parent, exp.DataType)


def _columns(schema: exp.Expression) -> dict[str, Shape]:
    return {column.name: _shape(column.args["kind"]) for column in schema.expressions}


def _shape(kind: exp.DataType) -> Shape:
    match kind.this:
        case exp.DataType.Type.STRUCT:
            return {field.name: _shape(field.args["kind"]) for field in kind.expressions}
        case exp.DataType.Type.ARRAY:
            return [_shape(kind.expressions[0])]
        case exp.DataType.Type.MAP:
            return (_shape(kind.expressions[1]),)
        case _:
            return _TYPES[kind.sql("hive").lower()]


def duckdb_type(shape: Shape) -> str:
    """The shape as a type of DuckDB."""
    match shape:
        case dict():
            fields = (f'"{name}" {duckdb_type(inner)}' for name, inner in shape.items())
            return f"STRUCT({', '.join(fields)})"
        case [inner] if isinstance(shape, list):
            return f"{duckdb_type(inner)}[]"
        case (inner,):
            return f"MAP(VARCHAR, {duckdb_type(inner)})"
        case _:
            return str(shape)


def unexpected(sent: Any, shape: Shape, at: str = "") -> Iterator[str]:
    """Paths of the keys in `sent` that have no column, and of which a reader therefore sees nothing."""
    match sent, shape:
        case dict(), dict():
            for key, value in sent.items():
                if key in shape:
                    yield from unexpected(value, shape[key], f"{at}.{key}")
                else:
                    yield f"{at}.{key}"[1:]
        case dict(), (inner,):
            for value in sent.values():
                yield from unexpected(value, inner, f"{at}.*")
        case list(), [inner]:
            for value in sent:
                yield from unexpected(value, inner, f"{at}[]")


def altered(sent: Any, read: Any, shape: Shape, at: str = "") -> Iterator[str]:
    """The differences between a record `sent` and as it was `read`, by column; a missing key counts as null."""
    match sent, shape:
        case dict(), dict() if isinstance(read, dict):
            for key, inner in shape.items():
                yield from altered(sent.get(key), read[key], inner, f"{at}.{key}")
        case dict(), (inner,) if isinstance(read, dict) and list(sent) == list(read):
            for key, value in sent.items():
                yield from altered(value, read[key], inner, f"{at}.{key}")
        case list(), [inner] if isinstance(read, list) and len(sent) == len(read):
            for index, value in enumerate(sent):
                yield from altered(value, read[index], inner, f"{at}[{index}]")
        case _, str() | dict() | list() | tuple():
            scalar = sent is None or (isinstance(shape, str) and not isinstance(sent, dict | list))
            if not scalar or isinstance(sent, bool) != isinstance(read, bool) or sent != read:
                yield f"{at[1:]}: {sent!r} was read as {read!r}"


def leaves(shape: Shape, at: str = "") -> Iterator[str]:
    """Paths of all scalars in a shape."""
    match shape:
        case dict():
            for key, inner in shape.items():
                yield from leaves(inner, f"{at}.{key}")
        case [inner] if isinstance(shape, list):
            yield from leaves(inner, f"{at}[]")
        case (inner,):
            yield from leaves(inner, f"{at}.*")
        case _:
            yield at[1:]


def filled(sent: Any, shape: Shape, at: str = "") -> Iterator[str]:
    """Paths of the scalars for which `sent` has a value."""
    match sent, shape:
        case dict(), dict():
            for key in sent.keys() & shape.keys():
                yield from filled(sent[key], shape[key], f"{at}.{key}")
        case dict(), (inner,):
            for value in sent.values():
                yield from filled(value, inner, f"{at}.*")
        case list(), [inner]:
            for value in sent:
                yield from filled(value, inner, f"{at}[]")
        case _, str() if sent is not None:
            yield at[1:]
