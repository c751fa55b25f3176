"""The CSV source: what an IMDb id is, and how ids are read from every shape of CSV."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any, Literal

import pytest
from conftest import gzip_of
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.errors import Exit, HarvestError, InputError
from harvester.model.ids import is_title_id, parse_id
from harvester.model.inputs import InputIds, Reject
from harvester.sources.csv import BLOCK_BYTES, ID_COLUMNS, LONGEST_HEADER, read_ids
from harvester.sources.csv_rows import LONGEST_LINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Read = Callable[..., InputIds]

REAL_HEADER = (
    "id|tituloPincipal|tituloOriginal|anoLancamento|tempoMinutos|genero|notaMedia|numeroVotos|generoArtista|personagem"
    "|nomeArtista|anoNascimento|anoFalecimento|profissao|titulosMaisConhecidos"
)
REAL_ROWS = [
    r"tt0000009|Miss Jerry|Miss Jerry|1894|45|Romance|5.3|200|actress|\N|Blanche Bayliss|1878|1951|actress|\N",
    r"tt0000009|Miss Jerry|Miss Jerry|1894|45|\N|5.3|200|actor|\N|William Courtenay|1875|\N|actor|tt0021535,tt0000009",
    r'tt0000147|12" vinyl|12" vinyl|1897|100|\N|5.3|456|\N|"Himself|Enoch\|\N|\N|\N|tt7777777,tt8888888',
    r"tt10850402|Ação — é só isso|Ação|\N|\N|Drama|\N|\N|actor|Self\|Zoë|1970|\N|writer|tt0000009,tt9999999",
    r"tt0000009|Miss Jerry|Miss Jerry|1894|45|Romance|5.3|200|director|\N|Alexander Black|1859|1940|director|tt0000009",
]
TITLE_ID = re.compile(r"^tt[0-9]{7,10}$")
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
"""Any character of a UTF-8 text but NUL, which is taken for UTF-16."""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Writes these bytes, or this text in UTF-8, to a file and reads the ids out of it."""
    path = tmp_path_factory.mktemp("titles") / "titles.csv"

    def write_and_read(content: bytes | str, **how: Any) -> InputIds:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_ids(str(path), **how)

    return write_and_read


def account(ids: InputIds) -> tuple[int, int, int, int]:
    """Rows, ids, duplicates, rejected."""
    return ids.rows, len(ids.ids), ids.duplicates, ids.rejected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tt0304141", "tt0304141"),
        ("tt10850402", "tt10850402"),
        ("tt1234567890", "tt1234567890"),
        ("tt304141", "tt0304141"),
        ("304141", "tt0304141"),
        ("0304141", "tt0304141"),
        ("00304141", "tt0304141"),
        ("tt00304141", "tt0304141"),
        ("tt0010872600", "tt10872600"),
        ("1", "tt0000001"),
        ("304141.0", "tt0304141"),
        ("10850402.0", "tt10850402"),
        ("TT0304141", "tt0304141"),
        (" tt0304141\r", "tt0304141"),
        ("tt0304141\n", "tt0304141"),
        ("\u00a0tt0304141\u00a0", "tt0304141"),
        ('"tt0304141"', "tt0304141"),
        ("' 304141 '", "tt0304141"),
    ],
)
def test_whatever_spreadsheets_make_of_an_id_is_that_title(text: str, expected: str) -> None:
    """Lost zeros, a lost `tt`, floats of pandas, quotes, capitals and white space all mean the title they came from."""
    assert expected == parse_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        r"\N",
        "nan",
        "None",
        "0",
        "0.0",
        "tt",
        "tt0000000",
        "tt0000000000",
        "nm0000001",
        "tt12345678901",
        "12345678901",
        "-304141",
        "304141.5",
        "3.04141e5",
        "3 041 41",
        "ttt0304141",
        "tt0304141,tt0000009",
        "tt0304141/../tv/1",
        "tt0304141%2F..",
        "tt0304141?api_key=",
        "tt٠٣٠٤١٤١",
        "tt０３０４１４１",
        "https://www.imdb.com/title/tt0304141/",
        "Miss Jerry",
    ],
)
def test_what_is_no_title_id_is_none(text: str) -> None:
    """Nulls, zero, names' ids, numbers too long, paths, other alphabets' digits and prose are not ids."""
    assert parse_id(text) is None


LIKE_AN_ID = st.from_regex(r"\A\s*[\"']?\s*[tT]{0,3}\d{0,12}(\.0?)?\s*[\"']?\s*\Z")


@given(st.one_of(st.text(), LIKE_AN_ID, st.integers().map(str), st.floats().map(str)))
def test_nothing_but_a_title_id_comes_out(text: str) -> None:
    """Whatever goes in, what comes out is None or `^tt[0-9]{7,10}$`, fit for a URL path, and means itself."""
    id_ = parse_id(text)
    if id_ is not None:
        assert TITLE_ID.fullmatch(id_)
        assert id_.isascii()
        assert is_title_id(id_)
        assert id_ == parse_id(id_)


@given(st.one_of(st.text(), LIKE_AN_ID, st.from_regex(TITLE_ID, fullmatch=True)))
def test_a_title_id_is_recognised_by_its_form_alone(text: str) -> None:
    """`tt` and 7 to 10 ASCII digits, and nothing behind them, no line end either."""
    assert is_title_id(text) is (TITLE_ID.match(text) is not None and not text.endswith("\n"))


@pytest.mark.parametrize("value", [None, True, 9, 9.0, b"tt0000009", ["tt0000009"], {"tt0000009": 1}])
def test_nothing_but_a_text_is_a_title_id(value: object) -> None:
    """Ids in JSON from outside may be of any type."""
    assert not is_title_id(value)


@given(st.integers(min_value=1, max_value=10**10 - 1))
def test_every_number_is_found_again_in_each_of_its_spellings(number: int) -> None:
    """The padded id, the bare number, the `tt` without padding and pandas' float are one title."""
    expected = f"tt{number:07d}"
    assert {expected} == {parse_id(text) for text in (expected, str(number), f"tt{number}", f"{number}.0")}


def test_the_real_files_are_read_without_quoting(read: Read) -> None:
    r"""Pipes cut, whatever quotes or backslashes stand beside them, and `\N` and the last column's ids are no ids."""
    ids = read("\n".join([REAL_HEADER, *REAL_ROWS, ""]))
    assert ids.ids == ["tt0000009", "tt0000147", "tt10850402"]
    assert account(ids) == (5, 3, 2, 0)


def test_an_open_quote_before_a_pipe_hides_no_row(read: Read) -> None:
    """In a pipe file a field that begins with a quote and never closes it ends at the pipe."""
    ids = read('id|t\ntt0000001|"open\ntt0000002|b"\n"tt0000003"|"a|b"\ntt0000004|c\\\ntt0000005|d\n')
    assert ids.ids == ["tt0000001", "tt0000002", "tt0000003", "tt0000004", "tt0000005"]


def test_the_id_column_may_stand_anywhere_between_pipes(read: Read) -> None:
    """The header's position counts: first, middle, and last, where a carriage return may cling to the id."""
    for at in range(3):
        rows = [["a", "tt0000009", "b"], ["tt0000009", "c", "d"], ["e", "tt0000009", "f"]]
        for row, id_ in zip(rows, ["tt0000001", "tt0000002", "tt0000001"], strict=True):
            row.remove("tt0000009")
            row.insert(at, id_)
        names = ["titulo", "titulosMaisConhecidos"]
        names.insert(at, "id")
        for end in ("\n", "\r\n"):
            ids = read("".join("|".join(row) + end for row in [names, *rows]))
            assert (ids.ids, account(ids)) == (["tt0000001", "tt0000002"], (3, 2, 1, 0))


def test_adjacent_rows_that_begin_alike_may_be_other_titles(read: Read) -> None:
    """Where the id does not come first, equal beginnings (a remake) say nothing of the id."""
    ids = read("titulo|id|ano\nNosferatu|tt0013442|1922\nNosferatu|tt0079641|1979\nNosferatu|tt0079641|1979\n")
    assert (ids.ids, account(ids)) == (["tt0013442", "tt0079641"], (3, 2, 1, 0))


def test_duplicates_are_folded_in_order_of_first_sight(read: Read) -> None:
    """An id counts once, where it was seen first, whether its other rows are adjacent or far away."""
    order = ["tt0000005", "tt0000005", "tt0000002", "tt0000005", "tt0000009", "tt0000002", "tt0000002", "tt0000001"]
    ids = read("id|t\n" + "".join(f"{id_}|x\n" for id_ in order))
    assert ids.ids == ["tt0000005", "tt0000002", "tt0000009", "tt0000001"]
    assert account(ids) == (8, 4, 4, 0)


def test_one_title_in_two_spellings_is_one_id(read: Read) -> None:
    """A bare number is a duplicate of the same title's padded id."""
    ids = read("id|t\ntt0304141|a\n304141|a\n304141.0|a\ntt304141|a\n")
    assert (ids.ids, account(ids)) == (["tt0304141"], (4, 1, 3, 0))


def test_an_id_that_begins_like_the_last_one_is_its_own(read: Read) -> None:
    """`tt10000002` is not another row of `tt1000000`, nor is a row that ends after the id."""
    ids = read("id|t\ntt1000000|a\ntt10000002|b\ntt1000000\ntt1000000x|c\ntt1000000|d\n")
    assert ids.ids == ["tt1000000", "tt10000002"]
    assert ids.rejects == [Reject(5, "tt1000000x|c")]
    assert account(ids) == (5, 2, 2, 1)


def test_a_row_that_is_rejected_twice_is_counted_twice(read: Read) -> None:
    """Rejected rows are not folded as duplicates are, even when adjacent and alike."""
    ids = read("id|t\nbad|a\nbad|a\nbad|b\ntt0000001|a\n")
    assert account(ids) == (4, 1, 0, 3)
    assert ids.rejects == [Reject(2, "bad|a"), Reject(3, "bad|a"), Reject(4, "bad|b")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_copies_are_read_with_quotes(read: Read, delimiter: str, end: str) -> None:
    """Quotes hide delimiters, doubled quotes and line ends, and the id column is where the header has it."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(["titulo", "tconst", "elenco"])
    writer.writerow(["Plain", "tt0000001", "a"])
    writer.writerow([f"Comma{delimiter} and more", "tt0000002", f"b{delimiter}c"])
    writer.writerow(["Two\nlines", "tt0000003", 'say "hi"'])
    writer.writerow(["Three\r\nmore\r\nlines", "tt0000001", "tt0000099|x"])
    ids = read(out.getvalue())
    assert ids.ids == ["tt0000001", "tt0000002", "tt0000003"]
    assert account(ids) == (4, 3, 1, 0)


def test_a_pipe_in_a_comma_file_is_text(read: Read) -> None:
    """The delimiter is the header's; the others are characters like any other."""
    assert read("imdb_id,title\ntt0000001,a|b;c\td\n").ids == ["tt0000001"]
    assert read("id|a,b,c,d\ntt0000001|a,b,c,d\n").ids == ["tt0000001"]


def test_a_file_of_ids_alone_needs_no_delimiter(read: Read) -> None:
    """One column is a CSV too, quoted or not."""
    assert read('imdb_id\ntt0000001\n"tt0000002"\n3\n').ids == ["tt0000001", "tt0000002", "tt0000003"]


def test_a_quoted_header_name_may_hold_the_delimiter(read: Read) -> None:
    """The header is split as its rows are: a quoted `"title, original"` is one column, not two."""
    ids = read('"title, original",imdb_id,year\n"A, b",tt0000005,1994\n"C",tt0000006,1995\n')
    assert ids.ids == ["tt0000005", "tt0000006"]


@pytest.mark.parametrize("shape", ["id|t\ntt0000001|é\nx|y\ntt0000002|z\n", "id,t\ntt0000001,é\nx,y\ntt0000002,z\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_marks_line_ends_and_gzip_change_nothing(  # noqa: PLR0917  # every combination
    read: Read,
    shape: str,
    bom: bytes,
    end: bytes,
    whole: bool,  # noqa: FBT001
    zipped: bool,  # noqa: FBT001
) -> None:
    """A byte order mark, CRLF, a missing last newline and gzip, recognised by content, give the same ids and lines."""
    body = bom + shape.encode().replace(b"\n", end)
    body = body if whole else body.removesuffix(end)
    ids = read(gzip_of(body) if zipped else body)
    assert ids.ids == ["tt0000001", "tt0000002"]
    assert [(reject.line, reject.text) for reject in ids.rejects] == [(3, "x|y" if "|" in shape else "x,y")]


def test_gzip_is_recognised_by_content_and_not_by_name(tmp_path: Path) -> None:
    """A `.gz` that a browser or a proxy has unzipped reads as what it is."""
    path = tmp_path / "movies.csv.gz"
    for body in (b"id|t\ntt0000001|a\n", gzip_of(b"id|t\ntt0000001|a\n")):
        path.write_bytes(body)
        assert read_ids(str(path)).ids == ["tt0000001"]


def test_gzip_of_several_members_is_one_file(read: Read) -> None:
    """Appended gzip files (as `cat` and log shippers make them) read as one."""
    assert read(gzip_of(b"id|t\ntt0000001|a\n") + gzip_of(b"tt0000002|b\n")).ids == [
        "tt0000001",
        "tt0000002",
    ]


@pytest.mark.parametrize("mark", ["\u0085", "\u2028", "\u2029", "\v", "\f", "\x1c", "\x1e"])
@pytest.mark.parametrize("delimiter", ["|", ","])
def test_what_only_splitlines_takes_for_a_line_end_cuts_no_row(read: Read, mark: str, delimiter: str) -> None:
    """U+0085, U+2028, VT, FF and their like stand inside titles: a row goes on after them."""
    ids = read(f"id{delimiter}t\ntt0000001{delimiter}a{mark}tt0000005{delimiter}b\nbad{mark}{delimiter}x\n")
    assert ids.ids == ["tt0000001"]
    assert ids.rejects == [Reject(3, f"bad{mark}{delimiter}x")]


@pytest.mark.parametrize("delimiter", ["|", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_are_no_rows(read: Read, delimiter: str, end: str) -> None:
    """Blank lines count as lines, so that the numbers fit an editor's, and not as rows."""
    lines = ["id{}t", "", "tt0000001{}a", "", "", "bad{}b", "tt0000001{}c", "", ""]
    ids = read(end.join(line.format(delimiter) for line in lines))
    assert account(ids) == (3, 1, 1, 1)
    assert ids.rejects == [Reject(6, f"bad{delimiter}b")]


@pytest.mark.parametrize("delimiter", ["|", ",", ";", "\t"])
@pytest.mark.parametrize(
    "name", ["imdb_id", "tconst", "imdbId", "Const", "imdb_title_id", "id", "ID", " Id ", '"imdb_id"', "IMDB_ID"]
)
def test_the_id_column_is_found_by_the_names_of_the_wild(read: Read, name: str, delimiter: str) -> None:
    """IMDb's, Kaggle's, MovieLens', Letterboxd's and our own header names are known, in any capitals."""
    assert read(f"year{delimiter}{name}{delimiter}x\n1994{delimiter}tt0111161{delimiter}tt0000009\n").ids == [
        "tt0111161"
    ]


def test_an_imdb_id_wins_over_an_id_beside_it(read: Read) -> None:
    """Where a file has both, `id` is TMDB's or a row's number, on either side."""
    assert read("id,imdb_id\n278,tt0111161\n").ids == ["tt0111161"]
    assert read("imdb_id|id\ntt0111161|278\n").ids == ["tt0111161"]
    assert ID_COLUMNS[-1] == "id"


def test_a_named_column_wins_over_the_known_ones(read: Read) -> None:
    """`--id-column` names the column, without regard to case and white space."""
    body = "id,imdb_id,Codigo do Filme\n1,tt0000002,tt0000003\n"
    assert read(body, column="id").ids == ["tt0000001"]
    assert read(body, column=" codigo DO filme ").ids == ["tt0000003"]
    assert read(body.replace(",", "|"), column="Codigo do Filme").ids == ["tt0000003"]


@pytest.mark.parametrize("delimiter", ["|", ","])
def test_rejects_have_line_and_row(read: Read, delimiter: str) -> None:
    r"""Each reject has the line an editor shows, and the row as it stands there; `\N` and short rows are rejects."""
    d = delimiter
    ids = read(f"t{d}id\na{d}tt0000001\nb{d}\\N\nshort\nc{d}\nd{d}nm0000001{d}\r\ne{d}tt0000001\n")
    assert ids.rejects == [
        Reject(3, f"b{d}\\N"),
        Reject(4, "short"),
        Reject(5, f"c{d}"),
        Reject(6, f"d{d}nm0000001{d}"),
    ]
    assert account(ids) == (6, 1, 1, 4)


def test_the_line_of_a_reject_is_where_its_row_begins(read: Read) -> None:
    """Line ends inside quotes are lines too: the numbers go on fitting the editor's."""
    ids = read('id,t\ntt0000001,"two\nlines"\nbad,"one\ntwo\nthree"\nworse,x\n')
    assert [reject.line for reject in ids.rejects] == [4, 7]


@pytest.mark.parametrize("delimiter", ["|", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_id_has_the_line_where_it_was_seen_first(read: Read, delimiter: str, end: str) -> None:
    """The line an editor shows, whatever blank lines, rejected rows, artists and other spellings stand between."""
    cells = ["tt0000005", "5", "", "nm1", "tt0000002", "tt0000002", "tt0000005", "0", "", "9.0", "9", "tt0000001"]
    lines = [f"id{delimiter}t", *(cell and f"{cell}{delimiter}x" for cell in cells)]
    ids = read(end.join(lines))
    assert dict(zip(ids.ids, ids.lines, strict=True)) == {
        "tt0000005": 2,
        "tt0000002": 6,
        "tt0000009": 11,
        "tt0000001": 13,
    }
    assert list(ids.rejected_lines) == [5, 9]


def test_the_line_of_an_id_in_quotes_is_where_its_row_begins(read: Read) -> None:
    """Line ends inside quotes are lines too, before the id in its row as well as in the rows before."""
    ids = read('t,id\n"one\ntwo",tt0000001\n"a\n\nb",tt0000002\nc,"bad\n"\nd,tt0000003\n')
    assert (ids.ids, list(ids.lines)) == (["tt0000001", "tt0000002", "tt0000003"], [2, 4, 9])
    assert list(ids.rejected_lines) == [7]


def test_an_id_of_an_earlier_csv_leaves_no_line(read: Read) -> None:
    """Lines belong to the ids that stand beside them, in the same order."""
    ids = read("id|t\ntt0000001|a\ntt0000002|b\ntt0000003|c\n", seen={"tt0000002"})
    assert (ids.ids, list(ids.lines)) == (["tt0000001", "tt0000003"], [2, 4])


def test_lines_take_eight_bytes_each(read: Read) -> None:
    """Whatever the size of the file, an id and a rejected row cost that and no more."""
    ids = read("id|t\n" + "".join(f"tt{number:07d}|a\nbad|b\n" for number in range(1, 5_001)))
    for lines in (ids.lines, ids.rejected_lines):
        assert len(lines) == 5_000
        assert lines.itemsize <= 8
        assert sys.getsizeof(lines) < 8 * 5_000 * 1.2


def test_all_rejects_are_counted_and_the_first_thousand_kept(read: Read) -> None:
    """A file of junk does not fill the plan: 1,000 rejects are kept, with 200 characters of their rows."""
    ids = read("id|t\ntt0000001|a\n" + "".join(f"x{number}|{'é' * 300}\n" for number in range(1_200)))
    assert (ids.rejected, len(ids.rejects)) == (1_200, 1_000)
    assert list(ids.rejected_lines) == list(range(3, 1_203))
    assert ids.rejects[-1] == Reject(1_002, ("x999|" + "é" * 300)[:200])


def test_every_row_is_accounted_for_under_the_name_of_the_source(read: Read) -> None:
    """Source, rows, ids, duplicates, rejected and the rejects."""
    ids = read("id|t\ntt0000001|a\ntt0000001|b\nbad|c\n", name="s3://lake/Filmes+e+series/movies.csv")
    assert ids.source == "s3://lake/Filmes+e+series/movies.csv"
    assert (ids.rows, len(ids.ids), ids.duplicates, ids.rejected) == (3, 1, 1, 1)
    assert ids.rejects == [Reject(4, "bad|c")]


def test_ids_of_an_earlier_csv_are_duplicates_here(read: Read) -> None:
    """A title in both CSVs is asked for once, as what the first one has it; adjacent rows of it count each."""
    seen: set[str] = set()
    read("id|t\ntt0000001|a\ntt0000002|a\n", seen=seen)
    ids = read("id|t\ntt0000002|a\ntt0000002|b\ntt0000003|a\n", seen=seen)
    assert (ids.ids, account(ids)) == (["tt0000003"], (3, 1, 2, 0))
    assert seen == {"tt0000001", "tt0000002", "tt0000003"}


def test_a_csv_of_ids_all_known_is_no_error(read: Read) -> None:
    """Only a file without any usable id is refused, not one that has nothing new."""
    ids = read("id|t\ntt0000001|a\n", seen={"tt0000001"})
    assert (ids.ids, account(ids)) == ([], (1, 0, 1, 0))


def test_standard_input_is_read_as_a_file_is() -> None:
    """`-` reads what is piped in, gzip too, though it cannot be sought in."""
    program = "from harvester.sources.csv import read_ids; print(*read_ids('-').ids)"
    for body in (b"id|t\ntt0000001|a\n2|b\n", gzip_of(b"id|t\ntt0000001|a\n2|b\n")):
        run = subprocess.run([sys.executable, "-c", program], input=body, capture_output=True, check=True, timeout=30)
        assert run.stdout.split() == [b"tt0000001", b"tt0000002"]


PIECES = {
    "|": 'tt0000001|Ação é 映画 🎬|x\r\nbad 🎬|\u2028\r\n\r\n2.0|tt0000003\\"\r\ntt0000001|é\r\ntt0000004|z',
    ",": 'tt0000001,"Ação, ""é"" 映\r\n🎬",x\r\n"bad 🎬",\u2028\r\n\r\n"2.0",tt0000003\r\ntt0000001,é\r\n"tt0000004",z',
}
FILLERS = 300


def in_a_long_file(piece: bytes, delimiter: str, offset: int) -> bytes:
    """A file in which `piece` comes so late that the first block ends `offset` bytes into it."""
    header = f"id{delimiter}t\n".encode()
    start = f"tt9999999{delimiter}".encode()
    room = BLOCK_BYTES - offset - len(header) - FILLERS * (len(start) + 1)
    each, more = divmod(room, FILLERS)
    fillers = [start + b"x" * (each + (more if number == 0 else 0)) + b"\n" for number in range(FILLERS)]
    body = header + b"".join(fillers)
    assert len(body) == BLOCK_BYTES - offset
    return body + piece


@pytest.mark.parametrize("delimiter", ["|", ","])
def test_where_a_block_ends_changes_nothing(read: Read, delimiter: str) -> None:
    """A block may end inside a character of four bytes, a CRLF, an id, a quote or a blank line."""
    piece = PIECES[delimiter].encode()
    expected = read(f"id{delimiter}t\n".encode() + piece)
    assert expected.ids == ["tt0000001", "tt0000002", "tt0000004"]
    assert account(expected) == (5, 3, 1, 1)
    for offset in range(len(piece) + 2):
        ids = read(in_a_long_file(piece, delimiter, offset))
        assert ids.ids == ["tt9999999", *expected.ids], offset
        assert account(ids) == (FILLERS + 5, 4, FILLERS, 1), offset
        assert ids.rejects == [Reject(line.line + FILLERS, line.text) for line in expected.rejects], offset
        assert list(ids.lines) == [2, *(line + FILLERS for line in expected.lines)], offset
        assert list(ids.rejected_lines) == [line + FILLERS for line in expected.rejected_lines], offset


CELLS = st.one_of(
    st.sampled_from(["tt0000001", "tt0000002", "tt304141", "304141", "304141.0", r"\N", "", "0", "tt10850402", '"']),
    st.text(ANY, max_size=8),
)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=30)


def meant(cells: list[str]) -> str | None:
    """The id of a row below `id` and `t` and an id with `tt`: a bare number counts in rows of two columns alone."""
    bare = "tt" not in cells[0].lower()
    return None if bare and (len(cells) < 2 or any(cells[2:])) else parse_id(cells[0])


@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]))
@settings(deadline=None)
def test_any_rows_between_pipes_are_all_accounted_for(read: Read, rows: list[list[str]], end: str) -> None:
    """Rows = ids + duplicates + rejected, the ids distinct and just those of the first column in order of sight."""
    body = "id|t\ntt7777777|x" + end + end.join("|".join(row) for row in rows)
    ids = read(body)
    numbers = {number: line for number, line in enumerate(body.encode().split(b"\n"), 1) if line.strip()}
    del numbers[1]
    lines = list(numbers.values())
    means = [meant(line.decode().rstrip("\r").split("|")) for line in lines]
    first = {id_: number for number, id_ in reversed([*zip(numbers, means, strict=True)]) if id_}
    assert ids.ids == list(dict.fromkeys(id_ for id_ in means if id_))
    assert account(ids) == (len(lines), len(ids.ids), ids.duplicates, means.count(None))
    assert ids.rows == len(ids.ids) + ids.duplicates + ids.rejected
    assert len(ids.rejects) == ids.rejected
    assert list(ids.lines) == [first[id_] for id_ in ids.ids]
    assert list(ids.rejected_lines) == [number for number, id_ in zip(numbers, means, strict=True) if id_ is None]


@given(
    rows=ROWS,
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(deadline=None)
def test_any_rows_with_quotes_are_all_accounted_for(
    read: Read, rows: list[list[str]], end: str, delimiter: str, quoting: Literal[0, 1]
) -> None:
    """Whatever `csv` writes comes back, row for row, and every row is an id, a duplicate or a reject."""
    if quoting == csv.QUOTE_MINIMAL:  # csv leaves a lone CR unquoted before Python 3.13, and then cannot read it
        rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    rows = [["tt7777777", "x"], *(row for row in rows if any(row) and (len(row) > 1 or row[0].strip()))]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([["id", "t"], *rows])
    ids = read(out.getvalue())
    means = [meant(row) for row in rows]
    assert ids.ids == list(dict.fromkeys(id_ for id_ in means if id_))
    assert account(ids) == (len(rows), len(ids.ids), ids.duplicates, means.count(None))
    assert ids.rows == len(ids.ids) + ids.duplicates + ids.rejected
    assert len(ids.lines) == len(ids.ids)
    assert list(ids.lines) == sorted(ids.lines)
    assert sorted({*ids.lines, *ids.rejected_lines}) == sorted([*ids.lines, *ids.rejected_lines])
    assert [reject.line for reject in ids.rejects] == list(ids.rejected_lines)


def refused(read: Read, content: bytes | str, **how: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read(content, name="the.csv", **how)
    return caught.value


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", None, ["is empty"]),
        (b"\n\n", None, ["is empty"]),
        (b"\xef\xbb\xbf", None, ["is empty"]),
        (gzip_of(b""), None, ["is empty"]),
        (b"id|titulo", None, ["a header but no rows", "'id'"]),
        (b"id|titulo\r\n\r\n\n", None, ["a header but no rows"]),
        (b"imdb_id,title\n", None, ["a header but no rows", "'imdb_id'"]),
        (b"titulo|ano\nMiss Jerry|1894\n", 1, ["no id column", "'titulo|ano'", "--id-column", "tconst"]),
        (b"tt0000001|Miss Jerry\ntt0000002|x\n", 1, ["has no header, but a row", "imdb_id"]),
        (b"x" * (LONGEST_HEADER + 1), 1, [f"over {LONGEST_HEADER} bytes"]),
        ("id|t\ntt0000001|a\n".encode("utf-16"), None, ["not UTF-8"]),
        ("id|t\ntt0000001|a\n".encode("utf-16-le"), None, ["not UTF-8"]),
        ("id|t\ntt0000001|a\n".encode("utf-16-be"), None, ["not UTF-8"]),
        ("id|título\ntt0000001|a\n".encode("latin-1"), 1, ["not UTF-8", r"b'\xed'", "iconv"]),
        ("id|t\ntt0000001|a\ntt0000002|Ação\n".encode("latin-1"), 3, ["not UTF-8", r"b'\xe7'", "iconv"]),
        ("id,t\n\n\ntt0000002,Ação\n".encode("latin-1"), 4, ["not UTF-8", r"b'\xe7'"]),
        ("id|t\ntt0000001|a\ntt0000002|café".encode("latin-1"), 3, ["not UTF-8", r"b'\xe9'"]),
        (gzip_of("id|t\ntt0000001|a\ntt0000002|Ação\n".encode("latin-1")), 3, ["not UTF-8", r"b'\xe7'"]),
        (gzip_of(b"id|t\ntt0000001|a\n" * 2_000)[:-20], None, ["not a whole gzip file", "fetch it again"]),
        (gzip_of(b"id|t\ntt0000001|a\n")[:-6], None, ["not a whole gzip file"]),
        (gzip_of(b"id|t\ntt0000001|a\n")[:5], None, ["not a whole gzip file"]),
        (gzip_of(b"id|t\ntt0000001|a\n")[:-8] + b"\0" * 8, None, ["not a whole gzip file"]),
        (gzip_of(b"id|t\ntt0000001|a\n") + b"junk", None, ["not a whole gzip file"]),
        (b"id|t\nMiss Jerry|1894\nx|y\n", None, ["none of its 2 rows", "line 2", "'Miss Jerry|1894'", "column 'id'"]),
        (b"id,t\n\nMiss Jerry,1894\n", None, ["none of its 1 rows", "line 3", "'Miss Jerry,1894'", "--id-column"]),
        (b'id,t\ntt0000001,a\ntt0000002,"open\n' + b"tt0000003,b\n" * 20_000, 3, ["quote left open", "','"]),
    ],
)
def test_what_is_no_list_of_ids_is_refused_in_a_sentence(
    read: Read, content: bytes, line: int | None, words: list[str]
) -> None:
    """Each kind of bad file is an InputError with its source, its line and what to do, and ends in exit code 2."""
    error = refused(read, content)
    assert (error.source, error.exit_code, int(error.exit_code)) == ("the.csv", Exit.USAGE, 2)
    assert isinstance(error, HarvestError)
    assert isinstance(error, ValueError)
    assert error.line == line
    assert [word for word in words if word not in error.problem] == []
    where = "the.csv" if error.line is None else f"the.csv, line {error.line}"
    assert str(error) == f"{where}: {error.problem}"


def test_a_column_that_is_not_there_is_named(read: Read) -> None:
    """A wrong `--id-column` is reported with the header, even where a known name stands in it."""
    error = refused(read, "id|titulo\ntt0000001|a\n", column="imdb")
    assert error.line == 1
    assert "'imdb'" in error.problem
    assert "'id|titulo'" in error.problem


@pytest.mark.parametrize(("name", "words"), [("nothing.csv", "No such file"), ("", "directory")])
def test_what_cannot_be_opened_is_refused(tmp_path: Path, name: str, words: str) -> None:
    """A missing file and a folder are the user's to fix: an InputError that says what to give."""
    source = str(tmp_path / name)
    with pytest.raises(InputError, match=words) as caught:
        read_ids(source)
    assert (caught.value.source, caught.value.line, caught.value.exit_code) == (source, None, Exit.USAGE)
    assert "s3://" in caught.value.problem


def test_latin_1_far_into_a_file_has_its_line(read: Read) -> None:
    """The line number is right beyond the first block, also where the block ends within the line."""
    for offset in (0, 1, 9, 10, 11, 12, 13, 14):
        body = in_a_long_file(b"tt0000002|A\xe7\xe3o\n", "|", offset)
        assert refused(read, body).line == FILLERS + 2


def test_latin_1_in_the_last_character_of_a_header_alone_is_refused(read: Read) -> None:
    """A header cut off within a character is an InputError of line 1, not a traceback."""
    error = refused(read, b"id|caf\xe9")
    assert error.line == 1
    assert "not UTF-8" in error.problem


@pytest.mark.parametrize("delimiter", ["|", ","])
def test_a_line_of_over_a_megabyte_is_refused(read: Read, delimiter: str) -> None:
    """What has no line ends is no CSV, and is not held in memory to find that out."""
    body = f"id{delimiter}t\ntt0000001{delimiter}a\n".encode() + b"x" * (64 * LONGEST_LINE)
    tracemalloc.start()
    try:
        error = refused(read, gzip_of(body, 1))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"over {LONGEST_LINE} bytes" in error.problem
    assert peak < 8 * LONGEST_LINE


@pytest.mark.parametrize("delimiter", ["|", ","])
def test_a_line_too_long_is_named_by_its_number(read: Read, delimiter: str) -> None:
    """A line of over a megabyte has a line to blame: `line` says which."""
    body = f"id{delimiter}t\ntt0000001{delimiter}a\n".encode() + b"x" * (2 * LONGEST_LINE)
    assert refused(read, body).line == 3


@pytest.mark.parametrize("offset", [0, BLOCK_BYTES // 2, BLOCK_BYTES - 20])
def test_a_line_too_long_is_refused_wherever_it_begins(read: Read, offset: int) -> None:
    """One byte over the limit is over the limit, however the blocks fall."""
    body = b"id|t\n" + b"tt0000001|a\n" * (offset // 12) + b"x" * (LONGEST_LINE + 1) + b"\ntt0000002|b\n"
    assert "over" in refused(read, body).problem


def test_a_quote_left_open_near_the_end_hides_no_rows(read: Read) -> None:
    """Rows behind an open quote are not swallowed in silence: the file is refused, with the line of the quote."""
    error = refused(read, 'imdb_id,title\ntt0000001,a\ntt0000002,"open\ntt0000003,b\ntt0000004,c\n')
    assert error.line == 3
    assert "quote" in error.problem


@pytest.mark.parametrize("delimiter", ["|", ","])
def test_memory_is_that_of_the_ids_whatever_the_size_of_the_file(read: Read, tmp_path: Path, delimiter: str) -> None:
    """A file of 20 MB takes less than 8 MB above the ids it has."""
    path = tmp_path / "large.csv"
    rest = (delimiter + "x" * 55) * 12 + "\n"
    with path.open("w", encoding="utf-8") as file:
        file.write("id" + f"{delimiter}t" * 12 + "\n")
        file.writelines(f"tt{number // 4 + 1:07d}" + rest for number in range(30_000))
    assert path.stat().st_size > 20_000_000
    seen: set[str] = set()
    tracemalloc.start()
    try:
        ids = read_ids(str(path), seen=seen)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (ids.rows, len(ids.ids)) == (30_000, 7_500)
    assert peak - now < 8 * 2**20


# Ids of another kind


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget,id,title\n237000000,19995,Avatar\n", "column 'id' .* none begins with tt. .*--id-column id"),
        ("ID|t\n1|a\n2|b\n", "column 'ID' .*--id-column ID"),
        ("titleId,title\n60000123,a\n", "column 'titleId' .*--id-column titleId"),
        ("Const;t\n19995.0;a\n", "column 'Const'"),
        ("Id,Link,Film Id\n1,x,tt0111161\n", "'Id' .*Those in column 'Film Id' do: give --id-column 'Film Id'"),
        ('id\tname\twhich\n7\t"a"\t"tt0111161"\n', "Those in column 'which' do: give --id-column which"),
    ],
)
def test_numbers_of_a_column_that_may_mean_anything_are_refused(read: Read, text: str, says: str) -> None:
    """TMDB's numbers, or those of rows, are no IMDb ids: the sentence names a better column, and how to mean them."""
    with pytest.raises(InputError, match=says):
        read(text)


@pytest.mark.parametrize("name", ["id", "Id", "titleId", "const"])
def test_numbers_that_are_meant_are_read(read: Read, name: str) -> None:
    """Who names the column says that they are IMDb's; and so does one id among them that begins with `tt`."""
    assert read(f"{name},t\n304141,a\n", column=name).ids == ["tt0304141"]
    assert read(f"{name},t\n304141,a\ntt0000009,b\n").ids == ["tt0304141", "tt0000009"]


@pytest.mark.parametrize("name", ["imdb_id", "tconst", "imdb_title_id"])
def test_numbers_of_a_column_of_imdbs_are_read(read: Read, name: str) -> None:
    """Its name says whose they are."""
    assert read(f"id,{name}\n7,304141\n").ids == ["tt0304141"]


@pytest.mark.parametrize(
    "name", ["IMDb ID", "imdb-id", "IMDB_Id", " ImdbId ", "IMDb Title ID", "T Const", "title_id", "TITLEID", '"imdbId"']
)
def test_headers_are_compared_without_case_spaces_and_dashes(read: Read, name: str) -> None:
    """However a spreadsheet spells it; the nearest name to IMDb's wins over `id`."""
    assert read(f"Id,{name},t\n7,tt0111161,a\n").ids == ["tt0111161"]


@pytest.mark.parametrize(
    ("text", "ids", "rejected"),
    [
        ("title,year,imdb_id\nUp,2009,tt1049413\nParis, Texas,1984,tt0087884\n", ["tt1049413"], 1),
        ('n, title, year, imdb_id\n1, Up, 2009, tt1049413\n2, "Paris, Texas", 1984, tt0087884\n', ["tt1049413"], 1),
        ("imdb_id,title,year\n0,tt0111160,T0,1994\n1,tt0111162,T1,1995\ntt0111161,T2,1996\n", ["tt0111161"], 2),
        ("title|year|imdb_id\nUp|2009|tt1049413\nPar|is|1984|tt0087884\n", ["tt1049413"], 1),
        ("tconst\tnote\tyear\ntt0111161\ta\t1994\ntt0111162\tb\n1984\n", ["tt0111161", "tt0111162"], 1),
        ("imdb_id,title\n304141,Potter,,\ntt0111161,b\n304142,c\n", ["tt0304141", "tt0111161", "tt0304142"], 0),
        ('imdb_id,note\ntt0111161,a\n1984,"b\nc",d\ntt0111162,e\n', ["tt0111161", "tt0111162"], 1),
    ],
    ids=[
        "a comma",
        "a blank before the quote",
        "an index",
        "a pipe",
        "a note of two lines",
        "delimiters at the end",
        "of several lines",
    ],
)
def test_a_number_that_may_stand_in_another_column_is_no_id(
    read: Read, text: str, ids: list[str], rejected: int
) -> None:
    """A year, or the number of a row, in a row of more cells than the header has: rejected, and in the account."""
    input_ids = read(text)
    assert (input_ids.ids, input_ids.rejected) == (ids, rejected)


@pytest.mark.parametrize("size", [131_073, 1_000_000])
def test_a_field_may_be_as_long_as_a_row(read: Read, size: int) -> None:
    """`csv` alone stops at 131,072 characters."""
    text = f'imdb_id,plot\ntt0000001,"{"x" * size}"\ntt0000002,b\n'
    assert read(text).ids == ["tt0000001", "tt0000002"]


@pytest.mark.parametrize("column", ["_", "-", " "])
def test_a_name_of_nothing_is_no_column(read: Read, column: str) -> None:
    """A column without a name is not taken for one that is called a dash."""
    assert "has no id column" in refused(read, ",imdb_id\n1,tt0000001\n", column=column).problem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('id,title\n1,"a\nb\rc"\n', "none begins with tt"),
        ("i\x1ed|t\n1|a\n", "has no id column"),
        ("id,te\x1eme\n1,tt0000001\n", "Those in column 'te.x1eme' do: give its name with --id-column"),
        ("tt0000001,imdb_id\n1,tt0000002\n", "has no header, but a row in its first line"),
    ],
    ids=["a carriage return", "a control character", "one in the better column", "an id among the names"],
)
def test_odd_headers_and_cells_end_in_a_sentence(read: Read, text: str, says: str) -> None:
    """Whatever the names of the columns are, what can be shown is said."""
    error = refused(read, text)
    assert re.search(says, error.problem)
    assert error.problem.isprintable()


def test_a_column_is_named_as_it_is_spelled_before_all_others(read: Read) -> None:
    """Two headers may differ in case alone."""
    assert read("ID,id\ntt0000001,tt0000002\n", column="id").ids == ["tt0000002"]
    assert read("ID,t\ntt0000001,a\n", column="id").ids == ["tt0000001"]


# Quotes that were not meant

AKAS = ["titleId\tordering\ttitle\tregion", '{0}\t1\t"Two\tUS', "{1}\t1\tThree\tUS", '{2}\t1\tFour"\tUS']


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0], [2, 0]])
def test_a_tsv_of_imdbs_quotes_nothing_wherever_its_ids_stand(read: Read, order: list[int]) -> None:
    """A lone quote in title.akas hides no row, whichever columns were cut out of it, in whichever order."""
    lines = "\n".join("\t".join(line.split("\t")[at] for at in order) for line in AKAS)
    ids = read(lines.format("tt6000002", "tt6000003", "tt6000004"))
    assert (ids.ids, account(ids)) == (["tt6000002", "tt6000003", "tt6000004"], (3, 3, 0, 0))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (["imdb_id|my title|year", "tt1|a|1", 'tt2|"b|2', "tt3|c|3", 'tt4|d"|4', "tt5|e|5"], 4),
        (["my title|imdb_id", "a|tt1", '"b|tt2', 'c"|tt3'], 3),
        (["year|my title|imdb_id", '1|"a|tt1', '2|b"|tt2'], 2),
        (["imdb_id|my title", 'tt1|"a', 'tt1|b"', "tt2|c"], 3),
        (["imdb_id|my title", "304141|a", '304142|"b', '304143|c"'], 4),
        (["imdb_id|my title|year", "tt1|a|1", '"tt2|b|2', 'tt3"|c|3'], 3),
        (["imdb_id|my title", 'tt1|"a', 'tt304141|b"'], 3),
        (["imdb_id|my title", 'tt1|"a', 'TT0304141|b"'], 3),
        (["imdb_id|my title", 'tt1|"a', 'tt2|b| c"'], 3),
        (["imdb_id|my title", 'tt1|"a', "1|a", "2|b", "3|c", 'tt2|b"'], 6),
        (["my title|imdb_id|plot", '"a', '"|tt1|"b', 'c|tt2|d"'], 4),
    ],
    ids=[
        "id first",
        "id last",
        "id last of three",
        "one title twice",
        "numbers",
        "the id itself",
        "an id cut short",
        "an id in capitals",
        "a delimiter too many",
        "numbers before it",
        "id between two texts",
    ],
)
def test_quotes_that_hide_a_row_of_the_file_are_refused(
    read: Read, delimiter: str, end: str, rows: list[str], line: int
) -> None:
    """Where a field swallows a line end and what looks like a row, the file is refused with its line; none is lost."""
    text = re.sub(r"tt(\d)\b", r"tt000000\1", end.join(rows).replace("|", delimiter) + end)
    with pytest.raises(InputError, match=rf"line {line}: has a row within the quotes that begin in line \d"):
        read(text)


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        (["imdb_id,plot", 'tt1,"He was,', '1984, a novel"', "tt2,b"], ["tt0000001", "tt0000002"]),
        (["plot,imdb_id", '"one', 'two",tt1', "b,tt2"], ["tt0000001", "tt0000002"]),
        (["imdb_id,plot", 'tt1,"see tt0000009', 'and tt0000008"', "tt2,b"], ["tt0000001", "tt0000002"]),
        (["imdb_id,plot,year", 'tt1,"see', 'tt0000009 yes",2', "tt2,b,3"], ["tt0000001", "tt0000002"]),
        (["plot,imdb_id,note", '"a', 'b",tt1,"c', 'd"', "x,tt2,y"], ["tt0000001", "tt0000002"]),
        (["imdb_id,plot,rank", 'tt1,"Ranks:', "1,2,3", 'end",1', "tt2,b,2"], ["tt0000001", "tt0000002"]),
    ],
    ids=[
        "a number in a text",
        "the row's own id",
        "ids in a text",
        "fewer delimiters",
        "the own id between two texts",
        "numbers in a file of ids",
    ],
)
def test_texts_of_several_lines_are_texts(read: Read, rows: list[str], ids: list[str]) -> None:
    """Line ends that were meant stay: a plot is no row."""
    assert read(re.sub(r"tt(\d)\b", r"tt000000\1", "\n".join(rows))).ids == ids
