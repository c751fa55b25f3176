"""Records: TMDB's own objects with two keys in front, in files of at most 100 records and 10 MB."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester.formats.format import FILE_BYTES, File
from harvester.formats.registry import FORMATS, decode, decode_readable
from harvester.model.outcome import Found
from harvester.model.record import record_line
from harvester.model.record_options import OUTPUT_FORMATS, RecordOptions
from harvester.runs.data_files import Warnings, read_records
from harvester.settings.settings import Settings
from harvester.store.store import Listed
from harvester.tmdb.responses import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harvester.model.ids import Kind

NOW = "2026-11-22T10:00:00Z"
FORMS = list(FORMATS)


def record_of(found: Found, *, id_: str = "tt0133093", language: str | None = None) -> dict[str, Any]:
    """The record as another reader than ours sees it."""
    line = record_line(id_, found, language=language, fetched_at=NOW)
    record = json.loads(line)
    assert isinstance(record, dict)
    return record


def recorded(payloads: Path) -> list[tuple[str, Kind, bytes]]:
    """Name, kind and body of every recorded good answer of /movie and /tv."""
    kinds: dict[str, Kind] = {"movie": "movie", "tv": "tv"}
    with (payloads / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["file"].split("/")[0] in kinds]
    assert {row["http_status"] for row in rows} == {"200"}
    return [(row["file"], kinds[row["file"].split("/")[0]], (payloads / row["file"]).read_bytes()) for row in rows]


def test_the_id_asked_for_and_the_harvest_stand_in_front() -> None:
    """`imdb_id` is first, `harvest` second with its four keys in order, and TMDB's object follows in its order."""
    found = Found("movie", 603, {"adult": False, "id": 603, "imdb_id": "tt0133093", "title": "The Matrix"})
    record = record_of(found, language="pt-BR")
    assert list(record) == ["imdb_id", "harvest", "adult", "id", "title"]
    assert record["imdb_id"] == "tt0133093"
    expected = {"kind": "movie", "tmdb_id": 603, "fetched_at": NOW, "language": "pt-BR"}
    assert list(record["harvest"].items()) == list(expected.items())


def test_no_language_asked_for_is_null() -> None:
    """Where TMDB chose the language, the record says null: the key is always there, for readers with a schema."""
    assert record_of(Found("tv", 1, {"id": 1}))["harvest"]["language"] is None


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"id": 1}, {}),
        ({"id": 1, "imdb_id": "tt0133093"}, {}),
        ({"id": 1, "imdb_id": "tt9999999"}, {"tmdb_imdb_id": "tt9999999"}),
        ({"id": 1, "imdb_id": None}, {"tmdb_imdb_id": None}),
        ({"id": 1, "imdb_id": ""}, {"tmdb_imdb_id": ""}),
    ],
)
@pytest.mark.parametrize("kind", ["movie", "tv"])
def test_tmdbs_own_imdb_id_is_kept_where_it_differs(kind: Kind, sent: dict[str, Any], kept: dict[str, Any]) -> None:
    """`imdb_id` is the one asked for in movies and series alike; another of TMDB's, null too, moves to `harvest`."""
    record = record_of(Found(kind, 1, sent))
    assert record["imdb_id"] == "tt0133093"
    values = {name: record["harvest"][name] for name in record["harvest"] if name == "tmdb_imdb_id"}
    assert values == kept


def test_missing_parts_are_named_where_there_are_some() -> None:
    """A record without an appended part says so; one with all of them says nothing of parts."""
    missing = record_of(Found("movie", 1, {"id": 1}, ("credits", "watch/providers")))
    assert missing["harvest"]["missing_parts"] == ["credits", "watch/providers"]
    assert "missing_parts" not in record_of(Found("movie", 1, {"id": 1}))["harvest"]


def test_what_was_found_is_not_changed_by_writing_it() -> None:
    """The record given is the caller's and stays as it was."""
    sent = {"id": 1, "imdb_id": None, "title": "x"}
    record_line("tt0133093", Found("movie", 1, sent), language=None, fetched_at=NOW)
    assert sent == {"id": 1, "imdb_id": None, "title": "x"}


def test_every_recorded_title_lands_as_tmdb_sent_it(payloads: Path) -> None:
    """Of 40 recorded bodies nothing is renamed, dropped, rounded or put in another order."""
    bodies = recorded(payloads)
    assert len(bodies) == 40
    for name, kind, body in bodies:
        sent = json.loads(body)
        found = read_record(json.loads(body), kind)
        assert isinstance(found, Found), name
        record = record_of(found, id_="tt7654321")
        assert list(record)[:2] == ["imdb_id", "harvest"], name
        assert record["imdb_id"] == "tt7654321", name
        assert record["harvest"]["tmdb_id"] == sent["id"], name
        rest = [(key, value) for key, value in record.items() if key not in {"imdb_id", "harvest"}]
        assert rest == [(key, value) for key, value in sent.items() if key != "imdb_id"], name
        if "imdb_id" in sent:
            assert record["harvest"]["tmdb_imdb_id"] == sent["imdb_id"], name


@pytest.mark.parametrize(
    "text", ["7.346000194549561", "0.1", "8.5", "1e-07", "123456789.12345679", "0.30000000000000004"]
)
def test_floats_read_back_as_the_same_number(text: str) -> None:
    """Popularities of 16 digits keep all of them."""
    found = read_record(json.loads(f'{{"id": 1, "popularity": {text}}}'), "movie")
    assert isinstance(found, Found)
    line = record_line("tt0133093", found, language=None, fetched_at=NOW)
    assert json.loads(line)["popularity"] == float(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in {"imdb_id", "harvest"}), JSON, max_size=5))
def test_any_object_lands_whole_on_one_line(sent: dict[str, Any]) -> None:
    """Whatever keys and values TMDB thinks of, they come back as sent, and no line end stands in the line."""
    line = record_line("tt0133093", Found("tv", 1, sent), language=None, fetched_at=NOW)
    assert b"\n" not in line
    record = json.loads(line)
    assert {key: record[key] for key in record if key not in {"imdb_id", "harvest"}} == sent


def test_text_is_utf_8_and_not_escaped() -> None:
    """`Ação` is readable in the file; what would end a line for some readers stays inside its string."""
    title = 'Ação 映画 🎬 "q" \u2028 \u0085'
    line = record_line(
        "tt0133093", Found("tv", 1, {"id": 1, "name": title, "x": "a\nb"}), language=None, fetched_at=NOW
    )
    assert "Ação 映画 🎬".encode() in line
    for form in FORMS:
        [file] = FORMATS[form].encode([line, line])
        assert [record["name"] for record in decode(file.body)] == [title] * 2
        assert [record["x"] for record in decode(file.body)] == ["a\nb"] * 2


LINES = [b'{"n":%d,"t":"A\xc3\xa7\xc3\xa3o"}' % number for number in range(3)]


def test_json_lines_are_a_record_a_line() -> None:
    """As many line ends as records, the last one too: what Athena, DuckDB and Spark read."""
    assert list(FORMATS["jsonl"].encode(LINES)) == [File(LINES[0] + b"\n" + LINES[1] + b"\n" + LINES[2] + b"\n", 3)]
    assert list(FORMATS["jsonl"].encode(LINES[:1])) == [File(LINES[0] + b"\n", 1)]


def test_an_array_is_compact_and_on_one_line() -> None:
    """One JSON array, nothing between the records but a comma: Spark reads it with `multiline` and without."""
    assert list(FORMATS["array"].encode(LINES)) == [File(b"[" + b",".join(LINES) + b"]\n", 3)]
    assert list(FORMATS["array"].encode(LINES[:1])) == [File(b"[" + LINES[0] + b"]\n", 1)]


@pytest.mark.parametrize("form", FORMS)
def test_both_formats_are_decoded_alike(form: str) -> None:
    """What was encoded is read back, distinguished by the first byte."""
    [file] = FORMATS[form].encode(LINES)
    assert decode(file.body) == [{"n": number, "t": "Ação"} for number in range(3)]


@pytest.mark.parametrize(
    "body",
    [b"nonsense", b"[1,2]", b"[{}", b'{"a":1}\n{"a"', b"[[{}]]", b'{"a":1}\n5\n', b'{"a":"\xe7"}\n', b'"text"\n'],
)
def test_what_is_no_data_file_is_a_value_error(body: bytes) -> None:
    """A cut or foreign body is refused, not taken for fewer records."""
    with pytest.raises(ValueError):
        decode(body)


def test_what_can_still_be_read_in_a_damaged_file_are_its_whole_lines() -> None:
    """A line with an array counts too; one that holds no records, or is cut, does not."""
    assert decode_readable(b'{"a":1}\n{"a"\n\n[{"b":2},{"b":3}]\n5\n"text"') == [{"a": 1}, {"b": 2}, {"b": 3}]
    assert decode_readable(b'[{"a":1},\n{"b":2}\n[{"c":3}]') == [{"b": 2}, {"c": 3}]
    assert decode_readable(b"") == []


class Pack:
    """A binary format: a length before each record, and a magic at the start."""

    name, content_type, magic = "pack", "application/octet-stream", b"PACK"

    def encode(self, lines: Iterable[bytes]) -> Iterator[File]:
        packed = [len(line).to_bytes(4, "big") + line for line in lines]
        yield File(self.magic + b"".join(packed), len(packed))

    def empty_file(self) -> File:
        return File(self.magic, 0)

    def decode(self, body: bytes) -> list[dict[str, Any]]:
        if sum(4 + len(line) for line in self._lines(body)) != len(body) - 4:
            raise ValueError("cut off")
        return self.decode_readable(body)

    def decode_readable(self, body: bytes) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines(body)]

    def _lines(self, body: bytes) -> Iterator[bytes]:
        at = 4
        while (end := at + 4 + int.from_bytes(body[at : at + 4], "big")) <= len(body) and body[at:]:
            yield body[at + 4 : end]
            at = end


class OneObject:
    """A store with one object, as far as it is read."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self, _key: str) -> bytes:
        return self._body


async def test_a_line_in_the_registry_makes_a_binary_format_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its magic tells it, and it decides itself what can be read in a damaged file: one has no lines."""
    monkeypatch.setitem(FORMATS, "pack", Pack())
    records = [{"imdb_id": f"tt{number:07}"} for number in (1, 2)]
    [file] = FORMATS["pack"].encode(map(orjson.dumps, records))
    for body, readable in ((file.body, records), (file.body[:-1], records[:1])):
        listed = Listed(len(body), "etag")
        assert await read_records(OneObject(body), "key", listed, warnings=Warnings()) == readable


def test_the_setting_and_the_options_of_a_run_have_the_names_of_all_formats() -> None:
    """A format that is registered can be chosen, and a name that can be chosen has its format."""
    assert {name: each.name for name, each in FORMATS.items()} == {name: name for name in OUTPUT_FORMATS}
    assert get_args(Settings.model_fields["output_format"].annotation) == tuple(OUTPUT_FORMATS)
    assert get_args(get_type_hints(RecordOptions)["output_format"]) == tuple(OUTPUT_FORMATS)
    template = (Path(__file__).parents[1] / "config/aws/template.yaml").read_text(encoding="utf-8")
    assert f"AllowedValues: [{', '.join(OUTPUT_FORMATS)}]" in template


@pytest.mark.parametrize("form", FORMS)
def test_no_records_are_no_file(form: str) -> None:
    """A batch that found nothing writes nothing."""
    assert list(FORMATS[form].encode([])) == []


@pytest.mark.parametrize(("form", "body"), [("jsonl", b""), ("array", b"[]")])
def test_an_emptied_file_has_no_record_in_either_format(form: str, body: bytes) -> None:
    """A file that its batch no longer fills is 0 bytes as JSON Lines and `[]` as an array: readers find nothing."""
    assert FORMATS[form].empty_file() == File(body, 0)
    assert decode(body) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("count", "counts"), [(99, [99]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])])
def test_a_file_has_at_most_100_records(form: str, count: int, counts: list[int]) -> None:
    """The data lake's rule holds by count."""
    files = list(FORMATS[form].encode([b"{}"] * count))
    assert [file.records for file in files] == counts
    assert [len(decode(file.body)) for file in files] == counts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("above", "sizes"), [(0, [FILE_BYTES]), (1, None)])
def test_a_file_has_at_most_10_megabytes_to_the_byte(form: str, above: int, sizes: list[int] | None) -> None:
    """Three records that make exactly 10,000,000 bytes are one file; with one byte more they are two."""
    assert FILE_BYTES == 10 * 10**6
    around = len(b"\n" * 3) if form == "jsonl" else len(b"[,,]\n")
    first, second = b"a" * 4_000_000, b"b" * 4_000_000
    third = b"c" * (FILE_BYTES - len(first) - len(second) - around + above)
    files = list(FORMATS[form].encode([first, second, third]))
    assert [file.records for file in files] == ([3] if sizes else [2, 1])
    if sizes:
        assert [len(file.body) for file in files] == sizes


@pytest.mark.parametrize("form", FORMS)
def test_a_record_above_the_limit_has_a_file_to_itself(form: str) -> None:
    """It cannot be cut and is not dropped; its neighbours land beside it."""
    small, large = b'{"a":1}', b'{"a":"' + b"x" * FILE_BYTES + b'"}'
    for lines, counts in [
        ([large], [1]),
        ([small, large, small, small], [1, 1, 2]),
        ([large, small], [1, 1]),
        ([large, large], [1, 1]),
    ]:
        files = list(FORMATS[form].encode(lines))
        assert [file.records for file in files] == counts
        assert [record for file in files for record in decode(file.body)] == [json.loads(line) for line in lines]


SIZES = st.sampled_from([2, 3, 1_000, 900_000, 3_333_331, 4_999_997, 4_999_998, 9_999_996, 9_999_999, 10_000_001])


@given(lengths=st.lists(SIZES, max_size=8), few=st.integers(0, 230), form=st.sampled_from(FORMS))
@settings(max_examples=40, deadline=None)
def test_any_records_land_in_order_within_both_limits(lengths: list[int], few: int, form: str) -> None:
    """No file breaks a limit but that of one record, none is lost or moved, and no two files could have been one."""
    lines = [bytes([65 + index % 26]) * length for index, length in enumerate([*lengths, *[2] * few])]
    files = list(FORMATS[form].encode(lines))
    for file in files:
        assert file.records <= 100
        assert len(file.body) <= FILE_BYTES or file.records == 1
    head, between, tail = (b"", b"\n", b"\n") if form == "jsonl" else (b"[", b",", b"]\n")
    landed = [line for file in files for line in file.body.removeprefix(head).removesuffix(tail).split(between)]
    assert landed == lines
    starts = [sum(file.records for file in files[:end]) for end in range(1, len(files))]
    for file, start in zip(files, starts, strict=False):
        assert file.records == 100 or len(file.body) + len(between) + len(lines[start]) > FILE_BYTES
