"""CSV rows: how the ids come out of the lines below the header, with and without quotes.

Promise: `rows = ids + duplicates + rejected`, in the memory of one block, the ids, and 8 bytes for each line kept.
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

LIKE_ROWS_KEPT = 2  # with `tt`, and without: one of them can be the row's own

_NO_LINE = b"\n"  # what no line begins with


@dataclass(frozen=True, slots=True)
class Columns:
    """What the header says: the names, the index of the id column, the delimiter, and whether quotes mean nothing."""

    names: list[str]
    at: int
    delimiter: str
    are_unquoted: bool

    def id_cell(self, line: str) -> str | None:
        """The cell of the id in a line that looks like a row of this file: with an id there, and as many delimiters.

        After a `tt…` there may be more delimiters.
        """
        cells = line.rstrip("\r\n").split(self.delimiter)
        if len(cells) < len(self.names) or parse_id(cells[self.at]) is None:
            return None
        return cells[self.at] if len(cells) == len(self.names) or has_prefix(cells[self.at]) else None

    def may_be_shifted(self, cells: Sequence[str | bytes], *, prefixed: bool) -> bool:
        """Whether a number of this row may stand in another column than it seems: there are more cells than names.

        In a file with ids that are `prefixed`, fewer cells are suspect, too.
        """
        return any(cells[len(self.names) :]) or (prefixed and len(cells) < len(self.names))


def split_line(line: str, delimiter: str) -> list[str]:
    """The cells of one line; between pipes, quotes are characters like any other."""
    return line.split("|") if delimiter == "|" else next(csv.reader([line], delimiter=delimiter), [])


def whole_lines(source: str, first: bytes, blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines after the header, whole, a block's worth at a time, cut at LF alone.

    `splitlines` also cuts at U+0085, U+2028, VT and FF, which stand inside real titles.
    """
    tail, number = b"", 2
    for block in itertools.chain([first], blocks):
        *lines, tail = (tail + block).split(b"\n")
        if len(lines[0] if lines else tail) > LONGEST_LINE:  # only what began in an earlier block can be
            raise InputError(source, f"has a line of over {LONGEST_LINE} bytes: is it a CSV file?", line=number)
        number += len(lines)
        yield lines
    yield [tail]


def take_rows(ids: InputIds, lines: Iterable[bytes], columns: Columns, seen: set[TitleId]) -> None:
    """Count every row of `lines`, and keep the ids that are not `seen`."""
    take = _take_unquoted if columns.are_unquoted else _take_quoted
    take(ids, lines, columns, seen)


def _take_unquoted(ids: InputIds, lines: Iterable[bytes], columns: Columns, seen: set[TitleId]) -> None:
    """Take rows without quoting: a delimiter is a delimiter, wherever it stands."""
    at, delimiter = columns.at, columns.delimiter.encode()
    latest = _NO_LINE
    for number, line in enumerate(lines, 2):
        if line.startswith(latest):  # the next artist of the same title: three rows of four
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
    """Take rows as in RFC 4180: quotes around a field may hide delimiters and line ends, but no row of this file."""
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
        why = str(error).replace("\t", "\\t") + "; is a quote left open there?"
        if "new-line" in why:
            why = "it has a carriage return that ends no line"
        raise InputError(ids.source, f"cannot be split at {delimiter!r}: {why}", line=row.number) from error


@dataclass(slots=True)
class _QuotedRow:
    """A row that is being read: the number of its first line, its bytes, and how many of its lines have been read.

    `like_rows` are, of several lines, those that look like rows, with the cell of the id.
    """

    source: str
    columns: Columns
    number: int = 2
    size: int = 0
    read: int = 0
    first: str = ""
    like_rows: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: bytes) -> str:
        """The next line, as text with its end."""
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
        """The next line begins a row. An InputError if quotes have made this one of several.

        That is where a line of it looks like a row, but for one with the row's `own` id: the first line, if the id
        column is the first. Where `own` has a `tt`, a row without is none of this file's.
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
    """Count one row, and keep its id if it is new; whether it has one."""
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
