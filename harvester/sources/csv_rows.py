"""CSV rows: the ids in the lines below the header, with and without quotes.

Promise: `rows = ids + duplicates + rejected`; memory holds one block, the ids, and 8 bytes for each line number kept.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from harvester.errors import InputError
from harvester.model.ids import has_prefix, parse_id
from harvester.model.inputs import REJECT_LENGTH, REJECTS_KEPT, InputIds, Reject
from harvester.settings.redaction import redact_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from harvester.model.ids import TitleId

LONGEST_LINE = 2**20  # bytes; the longest real row has about 700

LIKE_ROWS_KEPT = 2  # with `tt`, and as many without: one of them can be the row's own

_NO_LINE = b"\n"  # no line begins with it


@dataclass(frozen=True, slots=True)
class Columns:
    """The header: the names, the index of the id column, the delimiter, and whether quotes have no meaning."""

    names: list[str]
    at: int
    delimiter: str
    are_unquoted: bool

    def id_cell(self, line: str) -> str | None:
        """The id cell of a line that looks like a row of this file: with an id there, and as many delimiters.

        With a `tt…` id there may be more delimiters.
        """
        cells = line.rstrip("\r\n").split(self.delimiter)
        if len(cells) < len(self.names) or parse_id(cells[self.at]) is None:
            return None
        return cells[self.at] if len(cells) == len(self.names) or has_prefix(cells[self.at]) else None

    def may_be_shifted(self, cells: Sequence[str | bytes], *, prefixed: bool) -> bool:
        """Whether cells of this row may be in the wrong column, because there are more cells than names.

        In a file with `prefixed` ids, fewer cells are suspect too.
        """
        return any(cells[len(self.names) :]) or (prefixed and len(cells) < len(self.names))


def split_line(line: str, delimiter: str) -> list[str]:
    """The cells of one line; with pipes, quotes have no meaning."""
    return line.split("|") if delimiter == "|" else next(csv.reader([line], delimiter=delimiter), [])


def whole_lines(source: str, first: bytes, blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The whole lines after the header, in lists of about a block, split at LF alone.

    `splitlines` also splits at U+0085, U+2028, VT and FF, which occur in real titles.
    """
    tail, number = b"", 2
    for block in itertools.chain([first], blocks):
        *lines, tail = (tail + block).split(b"\n")
        if len(lines[0] if lines else tail) > LONGEST_LINE:  # only a line from an earlier block can be that long
            raise InputError(source, f"has a line of over {LONGEST_LINE} bytes: is it a CSV file?", line=number)
        number += len(lines)
        yield lines
    yield [tail]


def take_rows(ids: InputIds, lines: Iterable[bytes], columns: Columns, seen: set[TitleId]) -> None:
    """Count every row of `lines`, and add to `ids` those that are not in `seen`."""
    take = _take_unquoted if columns.are_unquoted else _take_quoted
    take(ids, lines, columns, seen)


def _take_unquoted(ids: InputIds, lines: Iterable[bytes], columns: Columns, seen: set[TitleId]) -> None:
    """Take rows without quoting: every delimiter separates cells."""
    at, delimiter = columns.at, columns.delimiter.encode()
    latest = _NO_LINE
    for number, line in enumerate(lines, 2):
        if line.startswith(latest):  # another artist of the same title: three of four rows
            ids.rows += 1
            continue
        cells = line.split(delimiter, at + 1)
        if line.strip():
            text = cells[at].decode() if len(cells) > at else ""
            if not has_prefix(text) and columns.may_be_shifted(
                line.rstrip(b"\r").split(delimiter), prefixed=ids.prefixed
            ):
                text = ""
            taken = _take(ids, text, line.decode, number, seen)
            latest = cells[0] + delimiter if taken and at == 0 and len(cells) > 1 else _NO_LINE


def _take_quoted(ids: InputIds, lines: Iterable[bytes], columns: Columns, seen: set[TitleId]) -> None:
    """Take rows as in RFC 4180: a quoted field may contain delimiters and line ends, but not a row of this file."""
    at, delimiter = columns.at, columns.delimiter
    row = _QuotedRow(ids.source, columns)
    csv.field_size_limit(LONGEST_LINE)
    rows = csv.reader(map(row.add, lines), delimiter=delimiter, strict=True)
    try:
        for cells in rows:
            own = cells[at] if len(cells) > at else ""
            is_shifted = not has_prefix(own) and columns.may_be_shifted(cells, prefixed=ids.prefixed)
            if len(cells) > 1 or "".join(cells).strip():
                _take(ids, "" if is_shifted else own, partial(delimiter.join, cells), row.number, seen)
            row.end(own)
    except csv.Error as error:
        reason = str(error).replace("\t", "\\t") + "; is a quote left open there?"
        if "new-line" in reason:
            reason = "it has a carriage return that ends no line"
        raise InputError(ids.source, f"cannot be split at {delimiter!r}: {reason}", line=row.number) from error


@dataclass(slots=True)
class _QuotedRow:
    """A row that is being read: the number of its first line, its bytes, and how many of its lines have been read.

    `like_rows` are those lines of a row of several that look like rows themselves, with their id cells.
    """

    source: str
    columns: Columns
    number: int = 2
    size: int = 0
    read: int = 0
    first: str = ""
    like_rows: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: bytes) -> str:
        """Add the next line; returns it as text with its line end."""
        self.size, self.read = self.size + len(line), self.read + 1
        if self.size > LONGEST_LINE:
            problem = f"has a row of over {LONGEST_LINE} bytes: is a quote left open there?"
            raise InputError(self.source, problem, line=self.number)
        text = line.decode() + "\n"
        if self.read == 1:
            self.first = text
        elif self.read == 2:
            self._look_at(1, self.first)
        if self.read > 1:
            self._look_at(self.read, text)
        return text

    def _look_at(self, line: int, text: str) -> None:
        cell = self.columns.id_cell(text)
        if cell is None:
            return
        if sum(has_prefix(cell) == has_prefix(other) for _, other in self.like_rows) < LIKE_ROWS_KEPT:
            self.like_rows.append((line, cell))

    def end(self, own: str) -> None:
        """End the row; raises InputError if quotes have joined several rows into it.

        That is so if one of its lines looks like a row, except one with the row's `own` id (the first line, if the id
        column is the first). If `own` has a `tt`, a line whose id has none is not a row of this file.
        """
        expected = parse_id(own)
        for line, cell in self.like_rows:
            if expected and parse_id(cell) == expected and (self.columns.at > 0 or line == 1):
                expected = None
            elif has_prefix(cell) or not has_prefix(own):
                problem = f"has a row within the quotes that begin in line {self.number}: is a quote left open there?"
                raise InputError(self.source, problem, line=self.number + line - 1)
        self.number, self.size, self.read = self.number + self.read, 0, 0
        self.like_rows.clear()


def _take(ids: InputIds, text: str, row: Callable[[], str], line: int, seen: set[TitleId]) -> bool:
    """Count one row, and add its id if it is new; returns whether the row has an id."""
    ids.rows += 1
    id_ = parse_id(text)
    if id_ is None:
        ids.rejected_lines.append(line)
        if len(ids.rejects) < REJECTS_KEPT:
            ids.rejects.append(Reject(line, redact_shapes(row().rstrip("\r\n"))[:REJECT_LENGTH]))
        return False
    ids.prefixed = ids.prefixed or has_prefix(text)
    if id_ not in seen:
        seen.add(id_)
        ids.ids.append(id_)
        ids.lines.append(line)
    return True
