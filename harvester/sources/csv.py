"""CSV: the ids of a local file, or of standard input.

The CSVs have one row per artist, so a title's id is in 4.3 adjacent rows on average. The real files are separated by
pipes without any quoting or escaping (a field may contain a lone `"` or end in a backslash); copies made by pandas or a
spreadsheet have commas, semicolons or tabs, with quotes. The header line shows which.
"""

from __future__ import annotations

import codecs
import gzip
import itertools
import re
import shlex
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from harvester.errors import InputError, readable
from harvester.model.csv_path import STDIN, path_name
from harvester.model.ids import PREFIX, is_title_id
from harvester.model.inputs import InputIds
from harvester.runtime.concurrency import in_thread
from harvester.runtime.net import GZIP_MAGIC
from harvester.settings.redaction import redact_shapes
from harvester.sources.csv_rows import Columns, split_line, take_rows, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harvester.model.ids import TitleId
    from harvester.sources.source import SourceOptions

ID_COLUMNS = ("imdb_id", "tconst", "imdb_title_id", "titleId", "const", "id")
"""Header names of an id column, compared after `normalize_header`; the first that occurs is used.

`id` is last: in exports with both `id` and `imdb_id`, the former is TMDB's number or a row number.
"""

AMBIGUOUS = ("titleid", "const", "id")
"""Header names that columns of TMDB's numbers or row numbers may have too: in these, some id must begin with `tt`."""

IMDB_COLUMNS = (
    "tconst titleid ordering title region language types attributes isoriginaltitle titletype primarytitle "
    "originaltitle isadult startyear endyear runtimeminutes genres directors writers parenttconst seasonnumber "
    "episodenumber nconst category job characters averagerating numvotes"
)
"""Columns of IMDb's own TSV files, after `normalize_header`; these files have no quoting (developer.imdb.com)."""

SAMPLE = 100  # rows that are searched for another column with ids

BLOCK_BYTES = 2**15  # fits the processor's cache: 2¹⁸ took a fifth more time and 3.6 MB more memory (measured)
LONGEST_HEADER = 2**14  # bytes

MAGIC = {
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it, or export it as CSV",
    GZIP_MAGIC: "gzip within gzip: unpack it once",
    b"BZh": "a bzip2 archive: unpack it",
    b"\xfd7zXZ": "an xz archive: unpack it",
    b"\x28\xb5\x2f\xfd": "a zstandard archive: unpack it",
    b"%PDF": "a PDF document",
    b"PAR1": "a Parquet file: export it as CSV",
    b"\x89PNG": "a picture",
}
"""First bytes of files that are mistaken for CSVs, and what these files are."""


@dataclass(frozen=True, slots=True)
class LocalCsv:
    """A source: the CSV at a path, or `-` for standard input."""

    path: str
    id_column: str | None

    @classmethod
    def of(cls, text: str, options: SourceOptions) -> LocalCsv:
        """The source for any `text`; `read` raises if there is no such file."""
        return cls(text, options.id_column)

    async def read(self, seen: set[TitleId]) -> InputIds:
        """The ids, as from `read_ids`; runs in a thread."""
        return await in_thread(partial(read_ids, self.path, column=self.id_column, seen=seen))


def normalize_header(name: str) -> str:
    """A header name without case, spaces, underscores and dashes: `IMDb ID`, `imdb_id` and `imdbId` are equal."""
    return re.sub("[ _-]", "", name).casefold()


def read_ids(
    source: str, *, column: str | None = None, seen: set[TitleId] | None = None, name: str | None = None
) -> InputIds:
    """The ids of the CSV at `source`: a path, `.gz` too, or `-` for standard input.

    `column` is the id column's header, if none of `ID_COLUMNS` is. `seen` are ids of an earlier CSV, which count as
    duplicates here; the new ids are added. `name` is the source's name in errors and totals, if not its path.

    Raises:
        InputError: there is no such file, or it is empty, not UTF-8, or without an id column or any usable id.
    """
    shown = path_name(source, advice="give that of a CSV file, an s3:// URL or -")
    ids = InputIds(readable(name) if name else shown)
    try:
        # not sys.stdin: at exit Python waits for a thread that reads it
        with open(0, "rb", closefd=False) if source == STDIN else Path(source).open("rb") as stream:
            _read(ids, stream, column, set() if seen is None else seen)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(ids.source, f"is not a whole gzip file ({error}): fetch it again") from error
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error}): give the path of a CSV file, an s3:// URL or -"
        raise InputError(ids.source, problem) from error
    return ids


def _read(ids: InputIds, stream: BinaryIO, column: str | None, seen: set[TitleId]) -> None:
    blocks = _utf8_blocks(ids.source, stream)
    first = next(blocks, b"")
    if not first.strip():
        raise InputError(ids.source, "is empty: was the download or the export finished?")
    header, _, rest = first.partition(b"\n")
    columns = _header(ids.source, header, column)
    lines = itertools.chain.from_iterable(whole_lines(ids.source, rest, blocks))
    take_rows(ids, lines, columns, seen)
    name = columns.names[columns.at]
    if ids.rows == ids.rejected:
        sample = f", as in line {ids.rejects[0].line}: {ids.rejects[0].text!r}" if ids.rejects else ""
        what = f"none of its {ids.rows} rows has an IMDb title id{sample}" if ids.rows else "has a header but no rows"
        raise InputError(ids.source, f"{what}. Ids were looked for in column {name!r} (--id-column changes it)")
    if column is None and not ids.prefixed and normalize_header(name) in AMBIGUOUS:
        other = _column_with_ids(rest, columns)
        better = f"Those in column {other!r} do: give {_flag(other)}" if other else "Give a file with IMDb ids"
        problem = (
            f"has numbers in column {name!r} that may be TMDB's, or row numbers: none begins with {PREFIX}. {better}. "
            f"If they are IMDb's all the same, give {_flag(name)}"
        )
        raise InputError(ids.source, problem)


def _column_with_ids(rest: bytes, columns: Columns) -> str | None:
    """The name of another column with a `tt…` id in one of the first rows."""
    for line in rest.decode(errors="replace").split("\n")[:SAMPLE]:
        cells = split_line(line.replace("\r", " "), columns.delimiter)
        for index, (name, cell) in enumerate(zip(columns.names, cells, strict=False)):
            if index != columns.at and is_title_id(cell.strip()):
                return name
    return None


def _flag(name: str) -> str:
    return f"--id-column {shlex.quote(name)}" if name.isprintable() else "its name with --id-column"


@dataclass(slots=True)
class _Rejoined:
    """A stream whose `head` has been read already; a pipe cannot seek back."""

    head: bytes
    rest: BinaryIO

    def read(self, size: int) -> bytes:
        head, self.head = self.head, b""
        return head + self.rest.read(size - len(head))


def _utf8_blocks(source: str, stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of `stream`, unzipped, without a byte order mark and checked to be UTF-8, block by block."""
    rejoined = _Rejoined(stream.read(len(GZIP_MAGIC)), stream)
    zipped = rejoined.head == GZIP_MAGIC
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
        byte = error.object[error.start : error.start + 1]
        problem = f"is not UTF-8 (byte {byte!r}): convert it, for example with `iconv -f latin1 -t utf-8`"
        raise InputError(source, problem, line=line) from error


def _header(source: str, header: bytes, column: str | None) -> Columns:
    if b"\r" in header.rstrip(b"\r"):
        problem = "has lines that end in a carriage return alone: save it with the line ends of Unix or Windows"
        raise InputError(source, problem, line=1)
    if len(header) > LONGEST_HEADER:
        raise InputError(source, f"has a first line of over {LONGEST_HEADER} bytes: is it a CSV file?", line=1)
    line = header.decode(errors="replace").rstrip("\r")  # _utf8_blocks raises if it is not UTF-8
    wanted = [name for name in map(normalize_header, [column] if column else ID_COLUMNS) if name]
    for delimiter in sorted("|\t;,", key=line.count, reverse=True):
        names = [name.strip().strip('"') for name in split_line(line, delimiter)]
        if any(map(is_title_id, names)):
            problem = "has no header, but a row in its first line: add one above, such as imdb_id and further names"
            raise InputError(source, problem, line=1)
        known = [normalize_header(name) for name in names]
        if column in names:  # another name may differ in spaces or case alone
            at: int | None = names.index(column)
        else:
            at = next((known.index(name) for name in wanted if name in known), None)
        if at is not None:
            return Columns(names, at, delimiter, _are_unquoted(known, delimiter))
    if line.lower().startswith("sep="):
        raise InputError(source, f"begins with {line[:20]!r}, a line that only Excel reads: delete it", line=1)
    expected = f"named {column!r}" if column else f"({', '.join(ID_COLUMNS)})"
    actual = f"its header is {redact_shapes(line)[:200]!r}"
    raise InputError(source, f"has no id column {expected}; {actual}. Name the column with --id-column", line=1)


def _are_unquoted(names: list[str], delimiter: str) -> bool:
    """Whether quotes have no meaning: with pipes, and in IMDb's own TSV files."""
    imdb = names[0] == "tconst" or set(names) <= set(IMDB_COLUMNS.split())
    return delimiter == "|" or (delimiter == "\t" and imdb)
