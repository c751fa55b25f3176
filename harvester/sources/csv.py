"""Titles: how the ids come out of a CSV.

The CSVs have one row per artist, so a title's id stands in 4.3 adjacent rows on average. The real files are separated
by pipes without any quoting or escaping (a field may hold a lone `"` or end in a backslash); copies made by pandas or a
spreadsheet have commas, semicolons or tabs, with quotes. The header line decides.

Promise: `rows = ids + duplicates + rejected`, in the memory of one block, the ids, and 8 bytes for each line kept.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import re
import shlex
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from harvester.errors import InputError
from harvester.model.ids import has_prefix, is_title_id, parse_id
from harvester.model.inputs import REJECT_LENGTH, REJECTS_KEPT, InputIds, Reject
from harvester.settings.redaction import redact_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ID_COLUMNS = ("imdb_id", "tconst", "imdb_title_id", "titleId", "const", "id")
"""Header names of an id column, compared as `plain` has them; the first of these that occurs wins. `id` comes last:
exports that have both an `id` and an `imdb_id` keep TMDB's or a row's number in the former."""

AMBIGUOUS = ("titleid", "const", "id")
"""Header names that TMDB's numbers or row numbers may have, too: under these some IMDb id must begin with `tt`."""

IMDB_COLUMNS = (
    "tconst titleid ordering title region language types attributes isoriginaltitle titletype primarytitle "
    "originaltitle isadult startyear endyear runtimeminutes genres directors writers parenttconst seasonnumber "
    "episodenumber nconst category job characters averagerating numvotes"
)
"""Columns of IMDb's own TSV files, as `plain` has them; these quote nothing (developer.imdb.com)."""

LIKE_ROWS_KEPT = 2  # with `tt`, and without: one of them can be the row's own
SAMPLE = 100  # rows that are looked at for another column with ids

BLOCK_BYTES = 2**15  # the processor's cache holds it: 2¹⁸ took a fifth more time and 3.6 MB more memory (measured)
LONGEST_LINE, LONGEST_HEADER = 2**20, 2**14  # bytes; the longest real row has about 700

MAGIC = {
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or export it as CSV",
    b"\x1f\x8b": "gzip within gzip: unpack it once",
    b"BZh": "a bzip2 archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"\x28\xb5\x2f\xfd": "a zstandard archive: unpack it",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file: export it as CSV",
    b"\x89PNG": "a picture",
}
"""How files begin that are taken for CSVs by mistake, and what they are."""

_NO_LINE = b"\n"  # what no line begins with


def plain(name: str) -> str:
    """A header name without case, spaces, underscores and dashes: `IMDb ID`, `imdb_id` and `imdbId` are one."""
    return re.sub("[ _-]", "", name).casefold()


def read_ids(
    source: str, *, column: str | None = None, seen: set[str] | None = None, name: str | None = None
) -> InputIds:
    """The ids of the CSV at `source`: a path, `.gz` too, or `-` for standard input.

    `column` is the id column's header, if none of `ID_COLUMNS` is. `seen` are ids of an earlier CSV, which count as
    duplicates here; this one's are added. `name` is what errors and books call the source, if not by its path.

    `InputError`: no such file, nothing in it, not UTF-8, no id column, or not one usable id.
    """
    ids = InputIds((name or source).encode(errors="backslashreplace").decode())  # a path need not be text
    if not source or "\0" in source:
        raise InputError(ids.source or "--movies or --series", "is no path: give that of a CSV file, an s3:// URL or -")
    try:
        # not sys.stdin: Python waits for whoever reads that, before it ends
        with open(0, "rb", closefd=False) if source == "-" else Path(source).open("rb") as stream:
            _read(ids, stream, column, set() if seen is None else seen)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(ids.source, f"is not a whole gzip file ({error}): fetch it again") from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}): give the path of a CSV file, an s3:// URL or -"
        raise InputError(ids.source, problem) from error
    return ids


def _read(ids: InputIds, stream: BinaryIO, column: str | None, seen: set[str]) -> None:
    blocks = _utf8_blocks(ids.source, stream)
    first = next(blocks, b"")
    if not first.strip():
        raise InputError(ids.source, "is empty: was the download or the export finished?")
    header, _, rest = first.partition(b"\n")
    columns = _header(ids.source, header, column)
    lines = itertools.chain.from_iterable(_lines(ids.source, rest, blocks))
    if columns.are_unquoted:
        _take_plain(ids, lines, columns, seen)
    else:
        _take_quoted(ids, lines, columns, seen)
    name = columns.names[columns.at]
    if ids.rows == ids.rejected:
        sample = f", as in line {ids.rejects[0].line}: {ids.rejects[0].text!r}" if ids.rejects else ""
        what = f"none of its {ids.rows} rows has an IMDb title id{sample}" if ids.rows else "has a header but no rows"
        raise InputError(ids.source, f"{what}. Ids were looked for in column {name!r} (--id-column changes it)")
    if column is None and not ids.prefixed and plain(name) in AMBIGUOUS:
        other = _column_with_ids(rest, columns)
        better = f"Those in column {other!r} do: give {_flag(other)}" if other else "Give a file with IMDb ids"
        problem = (
            f"has numbers in column {name!r} that may be TMDB's, or row numbers: none begins with tt. {better}. "
            f"If they are IMDb's all the same, give {_flag(name)}"
        )
        raise InputError(ids.source, problem)


def _column_with_ids(rest: bytes, columns: _Columns) -> str | None:
    """Another column that has an id with `tt` in one of the first rows."""
    for line in rest.decode(errors="replace").split("\n")[:SAMPLE]:
        cells = columns.split(line.replace("\r", " "))
        for index, (name, cell) in enumerate(zip(columns.names, cells, strict=False)):
            if index != columns.at and is_title_id(cell.strip()):
                return name
    return None


def _flag(name: str) -> str:
    return f"--id-column {shlex.quote(name)}" if name.isprintable() else "its name with --id-column"


@dataclass(frozen=True, slots=True)
class _Columns:
    """The header's names, the index of the id column, and the delimiter."""

    names: list[str]
    at: int
    delimiter: str

    @property
    def are_unquoted(self) -> bool:
        """Whether quotes are characters like any other: between pipes, and in TSV files of IMDb's own."""
        known = [plain(name) for name in self.names]
        return self.delimiter == "|" or (
            self.delimiter == "\t" and (known[0] == "tconst" or set(known) <= set(IMDB_COLUMNS.split()))
        )

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

    def split(self, line: str) -> list[str]:
        return _cells(line, self.delimiter)


def _cells(line: str, delimiter: str) -> list[str]:
    return line.split("|") if delimiter == "|" else next(csv.reader([line], delimiter=delimiter), [])


@dataclass(slots=True)
class _Rejoined:
    """A stream of which the `head` has been read already; a pipe cannot seek back."""

    head: bytes
    rest: BinaryIO

    def read(self, size: int) -> bytes:
        head, self.head = self.head, b""
        return head + self.rest.read(size - len(head))


def _utf8_blocks(source: str, stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of `stream`, unzipped, without a byte order mark and known to be UTF-8, block by block."""
    rejoined = _Rejoined(stream.read(2), stream)
    zipped = rejoined.head == b"\x1f\x8b"
    read: Any = gzip.GzipFile(fileobj=cast("BinaryIO", rejoined)).read if zipped else rejoined.read
    block = read(BLOCK_BYTES).removeprefix(codecs.BOM_UTF8)
    for magic, what in MAGIC.items():
        if block.startswith(magic):
            raise InputError(source, f"is no CSV file but {what}")
    if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in block[:1024]:
        raise InputError(source, f"is not UTF-8 text (it begins with {block[:8]!r}): save it as UTF-8")
    check = codecs.getincrementaldecoder("utf-8")()
    line = 1
    try:
        while block:
            check.decode(block)
            yield block
            line += block.count(b"\n")
            block = read(BLOCK_BYTES)
        check.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line += error.object.count(b"\n", 0, error.start)
        bad = error.object[error.start : error.start + 1]
        problem = f"is not UTF-8 (byte {bad!r}): convert it, for example with `iconv -f latin1 -t utf-8`"
        raise InputError(source, problem, line=line) from error


def _header(source: str, header: bytes, column: str | None) -> _Columns:
    if b"\r" in header.rstrip(b"\r"):
        problem = "has lines that end in a carriage return alone: save it with the line ends of Unix or Windows"
        raise InputError(source, problem, line=1)
    if len(header) > LONGEST_HEADER:
        raise InputError(source, f"has a first line of over {LONGEST_HEADER} bytes: is it a CSV file?", line=1)
    line = header.decode(errors="replace").rstrip("\r")  # _utf8_blocks raises where it is no UTF-8
    wanted = [name for name in map(plain, [column] if column else ID_COLUMNS) if name]
    for delimiter in sorted("|\t;,", key=line.count, reverse=True):
        names = [name.strip().strip('"') for name in _cells(line, delimiter)]
        if any(map(is_title_id, names)):
            problem = "has no header, but a row in its first line: add one above, such as imdb_id and further names"
            raise InputError(source, problem, line=1)
        if column in names:  # another may differ in spaces or case alone
            return _Columns(names, names.index(column), delimiter)
        known = [plain(name) for name in names]
        for name in wanted:
            if name in known:
                return _Columns(names, known.index(name), delimiter)
    if line.lower().startswith("sep="):
        raise InputError(source, f"begins with {line[:20]!r}, a line that only Excel reads: delete it", line=1)
    expected = f"named {column!r}" if column else f"({', '.join(ID_COLUMNS)})"
    seen = f"its header is {redact_shapes(line)[:200]!r}"
    raise InputError(source, f"has no id column {expected}; {seen}. Name the column with --id-column", line=1)


def _lines(source: str, first: bytes, blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
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


def _take_plain(ids: InputIds, lines: Iterable[bytes], columns: _Columns, seen: set[str]) -> None:
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


def _take_quoted(ids: InputIds, lines: Iterable[bytes], columns: _Columns, seen: set[str]) -> None:
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
    columns: _Columns
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


def _take(ids: InputIds, text: str, row: Callable[[], str], line: int, seen: set[str]) -> bool:
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
