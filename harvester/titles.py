"""Titles: what an IMDb id is, and how the ids come out of a CSV.

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
from array import array
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from harvester.errors import InputError
from harvester.redaction import redact_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Collection = Literal["Movies", "Series"]
Kind = Literal["movie", "tv"]
KINDS: dict[Collection, Kind] = {"Movies": "movie", "Series": "tv"}
"""A collection is a CSV and a folder of the bucket; a kind is TMDB's word for what stands in it."""

ID_COLUMNS = ("imdb_id", "tconst", "imdb_title_id", "titleId", "const", "id")
"""Header names of an id column, compared as `plain` has them; the first of these that occurs wins. `id` comes last:
exports that have both an `id` and an `imdb_id` keep TMDB's or a row's number in the former."""

OF_ANYTHING = ("titleid", "const", "id")
"""Header names that may as well be of TMDB's numbers, or of rows: at least one of their ids must begin with `tt`."""

IMDB_COLUMNS = (
    "tconst titleid ordering title region language types attributes isoriginaltitle titletype primarytitle "
    "originaltitle isadult startyear endyear runtimeminutes genres directors writers parenttconst seasonnumber "
    "episodenumber nconst category job characters averagerating numvotes"
)
"""Columns of IMDb's own TSV files, as `plain` has them; these quote nothing (developer.imdb.com)."""

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

REJECTS_KEPT, REJECT_LENGTH = 1_000, 200
"""All rejected rows are counted, each with its line; the text is kept of this many, this many characters of each."""

_WELL_FORMED = re.compile(r"tt[0-9]{7,10}")
_TITLE_ID = re.compile(r"tt(?:[0-9]{7}|[1-9][0-9]{7,9})")
_LOOSE_ID = re.compile(r"(?:tt)?([0-9]{1,10})(?:\.0)?")
_NO_LINE = b"\n"  # what no line begins with


@dataclass(frozen=True, slots=True)
class Reject:
    """A row whose id cannot be an IMDb title id. `line` counts from 1, the header being line 1."""

    line: int
    text: str


@dataclass(slots=True)
class Ids:
    """What a CSV holds: distinct ids in order of first sight, and an account of every row.

    `lines` are those where each of `ids` was seen first, counted as in `Reject` (of a quoted row its first line).
    `rejects` are the first `REJECTS_KEPT` rejected rows, with their text. `prefixed`: some id began with `tt`.
    """

    source: str
    ids: list[str] = field(default_factory=list)
    rows: int = 0
    rejected_lines: array[int] = field(default_factory=partial(array, "L"))
    rejects: list[Reject] = field(default_factory=list)
    lines: array[int] = field(default_factory=partial(array, "L"))
    prefixed: bool = False

    @property
    def rejected(self) -> int:
        """Rows without an IMDb title id."""
        return len(self.rejected_lines)

    @property
    def duplicates(self) -> int:
        """Rows whose id had been seen before."""
        return self.rows - self.rejected - len(self.ids)


def is_title_id(value: object) -> bool:
    """Whether `value` is a text of the form `^tt[0-9]{7,10}$`, as every id that `parse_id` returns is."""
    return isinstance(value, str) and _WELL_FORMED.fullmatch(value) is not None


def plain(name: str) -> str:
    """A header name without case, spaces, underscores and dashes: `IMDb ID`, `imdb_id` and `imdbId` are one."""
    return re.sub(r"[\s_-]", "", name).casefold()


def parse_id(text: str) -> str | None:
    """The IMDb title id meant by `text`, or None.

    IMDb pads to seven digits (`tt0304141`). Spreadsheets lose the padding, the `tt`, or both, and pandas turns the
    rest into floats: `tt304141`, `304141`, `304141.0` and `00304141` are all that title. Nothing but `^tt[0-9]{7,10}$`
    comes back, because it goes into a URL path, where TMDB's edge would resolve `..` and `%2F`.
    """
    if _TITLE_ID.fullmatch(text):
        return text if text.strip("t0") else None
    loose = _LOOSE_ID.fullmatch(text.strip().strip("\"'").strip().lower())
    digits = loose[1].lstrip("0") if loose else ""
    return "tt" + digits.zfill(7) if digits else None


def read_ids(source: str, *, column: str | None = None, seen: set[str] | None = None, name: str | None = None) -> Ids:
    """The ids of the CSV at `source`: a path, `.gz` too, or `-` for standard input.

    `column` is the id column's header, if none of `ID_COLUMNS` is. `seen` are ids of an earlier CSV, which count as
    duplicates here; this one's are added. `name` is what errors and books call the source, if not by its path.

    `InputError`: no such file, nothing in it, not UTF-8, no id column, or not one usable id.
    """
    ids = Ids((name or source).encode(errors="backslashreplace").decode())  # a path need not be text
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


def _read(ids: Ids, stream: BinaryIO, column: str | None, seen: set[str]) -> None:
    blocks = _utf8_blocks(ids.source, stream)
    first = next(blocks, b"")
    if not first.strip():
        raise InputError(ids.source, "is empty: was the download or the export finished?")
    header, _, rest = first.partition(b"\n")
    columns = _header(ids.source, header, column)
    name = columns.names[columns.at]
    lines = itertools.chain.from_iterable(_lines(ids.source, rest, blocks))
    if columns.are_unquoted:
        _take_plain(ids, lines, columns, seen)
    else:
        _take_quoted(ids, lines, columns, seen)
    if ids.rows == ids.rejected:
        sample = f", as in line {ids.rejects[0].line}: {ids.rejects[0].text!r}" if ids.rejects else ""
        what = f"none of its {ids.rows} rows has an IMDb title id{sample}" if ids.rows else "has a header but no rows"
        raise InputError(ids.source, f"{what}. Ids were looked for in column {name!r} (--id-column changes it)")
    if column is None and not ids.prefixed and plain(name) in OF_ANYTHING:
        other = _column_with_ids(rest, columns)
        better = f"; those in column {other!r} do: give --id-column {shlex.quote(other)}" if other else ""
        problem = (
            f"has numbers in column {name!r} that may be TMDB's, or the rows': none begins with tt{better}. "
            f"If they are IMDb's all the same, give --id-column {shlex.quote(name)}"
        )
        raise InputError(ids.source, problem)


def _column_with_ids(rest: bytes, columns: _Columns) -> str | None:
    """The first column that has an id with `tt` in one of the first rows."""
    for line in rest.decode(errors="replace").split("\n")[:SAMPLE]:
        for name, cell in zip(columns.names, columns.split(line), strict=False):
            if is_title_id(cell.strip()):
                return name
    return None


@dataclass(frozen=True, slots=True)
class _Columns:
    """The header's names, the place of the id column among them, and the delimiter."""

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
        """The cell of the id in a line that looks like a row: with as many delimiters, and an id in its place."""
        cells = line.split(self.delimiter)
        whole = len(cells) == len(self.names) and parse_id(cells[self.at]) is not None
        return cells[self.at].strip('" \r') if whole else None

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
    wanted = [plain(name) for name in ([column] if column else ID_COLUMNS)]
    for delimiter in sorted("|\t;,", key=line.count, reverse=True):
        names = [name.strip().strip('"') for name in _cells(line, delimiter)]
        if column in names:  # another may differ in spaces or case alone
            return _Columns(names, names.index(column), delimiter)
        known = [plain(name) for name in names]
        for name in wanted:
            if name in known:
                return _Columns(names, known.index(name), delimiter)
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


def _take_plain(ids: Ids, lines: Iterable[bytes], columns: _Columns, seen: set[str]) -> None:
    """Take rows without quoting: a delimiter is a delimiter, wherever it stands."""
    at, delimiter = columns.at, columns.delimiter.encode()
    latest = _NO_LINE
    for number, line in enumerate(lines, 2):
        if line.startswith(latest):  # the next artist of the same title: three rows of four
            ids.rows += 1
            continue
        cells = line.split(delimiter, at + 1)
        if line.strip():
            taken = _take(ids, cells[at].decode() if len(cells) > at else "", line.decode, number, seen)
            latest = cells[0] + delimiter if taken and at == 0 and len(cells) > 1 else _NO_LINE


def _take_quoted(ids: Ids, lines: Iterable[bytes], columns: _Columns, seen: set[str]) -> None:
    """Take rows as in RFC 4180: quotes around a field may hide delimiters and line ends, but no row of this file."""
    at, delimiter = columns.at, columns.delimiter
    number, size, read = 2, 0, 0  # the row's first line, its bytes, and how many of its lines have been read
    like_rows: dict[int, str] = {}  # those of its lines that look like rows; three are more than enough

    def texts() -> Iterator[str]:
        nonlocal size, read
        for line in lines:
            size, read = size + len(line), read + 1
            if size > LONGEST_LINE:
                problem = f"has a row of over {LONGEST_LINE} bytes: is a quote left open there?"
                raise InputError(ids.source, problem, line=number)
            text = line.decode()
            if len(like_rows) < 3 and (cell := columns.id_cell(text)):
                like_rows[read] = cell
            yield text + "\n"

    rows = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        for cells in rows:
            if len(cells) > 1 or "".join(cells).strip():
                _take(ids, cells[at] if len(cells) > at else "", partial(delimiter.join, cells), number, seen)
            if read > 1:
                own = parse_id(cells[at]) if len(cells) > at else None
                _refuse_hidden_rows(ids, like_rows, own, number, read if at else 0)
            number, size, read = rows.line_num + 2, 0, 0
            like_rows.clear()
    except csv.Error as error:
        why = str(error).replace("\t", "\\t") + "; is a quote left open there?"
        if "new-line" in why:
            why = "it has a carriage return that ends no line"
        raise InputError(ids.source, f"cannot be split at {delimiter!r}: {why}", line=number) from error


def _refuse_hidden_rows(ids: Ids, like_rows: dict[int, str], own: str | None, number: int, last: int) -> None:
    """An InputError if quotes have made one row of several: if some line of it is a row of its own, by its looks.

    `like_rows` are the cells of the ids in such lines. The first line may look so if it has the row's `own` id, and so
    may the `last`, which is 0 where the id comes first: then no field that ends there can have it.
    """
    for line, cell in like_rows.items():
        is_own = line in (1, last) and parse_id(cell) == own
        if not is_own and (is_title_id(cell) or not ids.prefixed):
            problem = f"has a row within the quotes that begin in line {number}: is a quote left open there?"
            raise InputError(ids.source, problem, line=number + line - 1)


def _take(ids: Ids, text: str, row: Callable[[], str], line: int, seen: set[str]) -> bool:
    """Count one row, and keep its id if it is new; whether it has one."""
    ids.rows += 1
    id_ = parse_id(text)
    if id_ is None:
        ids.rejected_lines.append(line)
        if len(ids.rejects) < REJECTS_KEPT:
            ids.rejects.append(Reject(line, redact_shapes(row().rstrip("\r\n"))[:REJECT_LENGTH]))
        return False
    ids.prefixed = ids.prefixed or "tt" in text.lower()
    if id_ not in seen:
        seen.add(id_)
        ids.ids.append(id_)
        ids.lines.append(line)
    return True
