"""Ids files: what is written can be read again, and whatever else is read is refused, within bounded memory."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from conftest import gzip_of
from hypothesis import example, given
from hypothesis import strategies as st

from harvester.model.ids import is_title_id
from harvester.model.ids_file import (
    LINE_BYTES,
    UNPACKED_BYTES,
    FrozenIds,
    decode_ids,
    decode_outcomes,
    encode_ids,
    encode_outcomes,
)
from harvester.model.inputs import InputIds, Reject
from harvester.model.layout import RUN_NAME
from harvester.sources.csv import read_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harvester.model.ids import Collection

MB = 2**20
RUN = "2026-11-29-3f9a1c2e"
ID_LINE = b'{"id":"tt0000009","collection":"Movies","line":2}\n'
REJECTED_LINE = b'{"collection":"Movies","line":3,"rejected":"no_id"}\n'
FOUND_LINE = b'{"id":"tt0000009","outcome":"found","kind":"movie","tmdb_id":550}\n'


def ids_of(lines: dict[str, int], *, rejected: dict[int, str] | None = None) -> InputIds:
    """What a CSV gives that has these ids at these lines, and these rejected rows."""
    rejects = [Reject(line, text) for line, text in (rejected or {}).items()]
    return InputIds(
        "movies.csv",
        list(lines),
        rows=len(lines) + len(rejects),
        rejected_lines=array("L", [reject.line for reject in rejects]),
        rejects=rejects,
        lines=array("L", lines.values()),
    )


def rows_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(body).splitlines()]


MOVIES = ids_of({"tt0000009": 2, "tt0000147": 5, "tt10850402": 6}, rejected={3: "nm0000001|x", 7: ""})
SERIES = ids_of({"tt0025509": 3, "tt0046590": 4}, rejected={2: r"\N|y"})
FRESH = {"tt0000147": RUN, "tt0046590": "2026-11-29-91ab03cc"}
GOOD = encode_ids({"Movies": MOVIES, "Series": SERIES}, FRESH)
FROZEN = FrozenIds(
    {"Movies": ["tt0000009", "tt0000147", "tt10850402"], "Series": ["tt0025509", "tt0046590"]},
    FRESH,
    {"Movies": 2, "Series": 1},
)
OUTCOMES: list[dict[str, Any]] = [
    {"id": "tt0000009", "outcome": "found", "kind": "movie", "tmdb_id": 550},
    {"id": "tt0000147", "outcome": "fresh", "run": RUN},
    {"id": "tt10850402", "outcome": "missing", "reason": "unknown"},
    {"id": "tt0025509", "outcome": "missing", "reason": "episode", "show_id": 1396},
    {"id": "tt0046590", "outcome": "failed", "reason": "HTTP 503"},
    {"id": "tt0944947", "outcome": "failed", "reason": "HTTP 503", "kept": True, "kind": "tv", "tmdb_id": 1399},
]
GOOD_OUTCOMES = encode_outcomes(OUTCOMES)


# Ids


def test_a_file_has_a_line_for_each_id_and_each_rejected_row() -> None:
    """Collections in their order; within one, ids and rejected rows by line, fresh ids with the run that has them."""
    assert gzip.decompress(GOOD).decode().splitlines() == [
        '{"id":"tt0000009","collection":"Movies","line":2}',
        '{"collection":"Movies","line":3,"rejected":"no_id","text":"nm0000001|x"}',
        '{"id":"tt0000147","collection":"Movies","line":5,"fresh":"2026-11-29-3f9a1c2e"}',
        '{"id":"tt10850402","collection":"Movies","line":6}',
        '{"collection":"Movies","line":7,"rejected":"no_id","text":""}',
        r'{"collection":"Series","line":2,"rejected":"no_id","text":"\\N|y"}',
        '{"id":"tt0025509","collection":"Series","line":3}',
        '{"id":"tt0046590","collection":"Series","line":4,"fresh":"2026-11-29-91ab03cc"}',
    ]
    assert gzip.decompress(GOOD).endswith(b"}\n")


def test_frozen_ids_come_back_as_they_were() -> None:
    """Ids in order, marks, and how many rows were rejected."""
    assert decode_ids(GOOD) == FROZEN


def test_collections_keep_the_order_of_the_input() -> None:
    """Series first, if they were read first."""
    swapped = decode_ids(encode_ids({"Series": SERIES, "Movies": MOVIES}, FRESH))
    assert list(swapped.ids) == ["Series", "Movies"]
    assert swapped == FROZEN


def test_a_collection_without_ids_or_rejected_rows_is_no_key() -> None:
    """A CSV may have nothing but duplicates of the other one, and most have no rejected row."""
    one = encode_ids({"Movies": ids_of({"tt0000009": 2}), "Series": ids_of({})}, {})
    assert decode_ids(one) == FrozenIds({"Movies": ["tt0000009"]}, {}, {})
    rejected = ids_of({}, rejected={2: "x"})
    assert decode_ids(encode_ids({"Series": rejected}, {})) == FrozenIds({}, {}, {"Series": 1})
    assert decode_ids(encode_ids({}, {})) == FrozenIds({}, {}, {})


def test_marks_of_other_ids_are_left_out() -> None:
    """`fresh` may say more than the input asks for."""
    assert decode_ids(encode_ids({"Movies": ids_of({"tt0000009": 2})}, FRESH)).fresh == {}


@pytest.mark.parametrize("delimiter", ["|", ","])
def test_all_rejected_rows_are_there_beyond_the_first_thousand(tmp_path: Path, delimiter: str) -> None:
    """Each has its line; the text of the first 1,000 is kept, with 200 characters at most."""
    path = tmp_path / "movies.csv"
    rows = [f"x{number}{delimiter}{'é' * 300}" if number % 2 else str(number) for number in range(1, 2_401)]
    path.write_text("\n".join([f"imdb_id{delimiter}t", *rows]), encoding="utf-8")
    body = encode_ids({"Movies": read_ids(str(path))}, {})
    written = rows_of(body)
    assert [row["line"] for row in written] == list(range(2, 2_402))
    rejected = [row for row in written if "rejected" in row]
    assert [row["line"] for row in rejected] == list(range(2, 2_402, 2))
    assert {row["rejected"] for row in rejected} == {"no_id"}
    assert [len(row["text"]) for row in rejected[:1_000]] == [200] * 1_000
    assert ["text" in row for row in rejected[1_000:]] == [False] * 200
    frozen = decode_ids(body)
    assert frozen.ids["Movies"] == [f"tt{number:07d}" for number in range(2, 2_401, 2)]
    assert frozen.rejected == {"Movies": 1_200}


def test_the_text_of_a_rejected_row_is_kept_to_the_letter(tmp_path: Path) -> None:
    """Portuguese, characters of four bytes, control characters and line separators are the CSV's, and stay."""
    texts = ["Ação — é só isso|Coração", "映画 🎬|x", "a\x01\x1b[31m\x7f|\v\f", "\u2028\u0085\ufeff|\\\"'"]
    path = tmp_path / "movies.csv"
    path.write_bytes("\n".join(["id|t", "tt0000009|a", *texts]).encode())
    body = encode_ids({"Movies": read_ids(str(path))}, {})
    assert [row["text"] for row in rows_of(body)[1:]] == texts
    assert decode_ids(body).rejected == {"Movies": 4}


def test_the_same_content_is_the_same_bytes() -> None:
    """No time stands in the file, and no order but the input's."""
    assert encode_ids({"Movies": MOVIES, "Series": SERIES}, dict(reversed(FRESH.items()))) == GOOD
    assert encode_outcomes(iter(OUTCOMES)) == GOOD_OUTCOMES
    assert (GOOD[4:8], GOOD_OUTCOMES[4:8]) == (b"\0" * 4, b"\0" * 4)


@given(
    numbers=st.lists(st.integers(min_value=1, max_value=10**10 - 1), unique=True),
    rejected=st.dictionaries(st.integers(min_value=2, max_value=99), st.text(max_size=200)),
    data=st.data(),
)
def test_any_input_comes_back(numbers: list[int], rejected: dict[int, str], data: st.DataObject) -> None:
    """Whatever the ids, lines, marks and rejected rows: nothing is lost, added or put in another order."""
    ids = [f"tt{number:07d}" for number in numbers]
    lines = dict(zip(ids, (line for line in itertools.count(2) if line not in rejected), strict=False))
    marks = dict.fromkeys(data.draw(st.sets(st.sampled_from(ids)) if ids else st.just(set())), RUN)
    body = encode_ids({"Series": ids_of(lines, rejected=dict(sorted(rejected.items())))}, marks)
    expected = FrozenIds({"Series": ids} if ids else {}, marks, {"Series": len(rejected)} if rejected else {})
    assert decode_ids(body) == expected
    written = [row["line"] for row in rows_of(body)]
    assert written == sorted([*lines.values(), *rejected])


def test_unknown_keys_are_ignored() -> None:
    """A later version may say more of a row."""
    more = ID_LINE.replace(b"}", b',"title":"Miss Jerry","x":{"y":[1]}}') + REJECTED_LINE.replace(b"}", b',"x":1}')
    assert decode_ids(gzip_of(more)) == FrozenIds({"Movies": ["tt0000009"]}, {}, {"Movies": 1})


def row_with(**changes: Any) -> bytes:
    """The line of a good id, changed; None takes a key away."""
    row = json.loads(ID_LINE) | changes
    return json.dumps({key: value for key, value in row.items() if value is not ...}).encode() + b"\n"


BAD_ROWS = {
    "no JSON": b"tt0000009\n",
    "a blank line": b"\n",
    "half an object": b'{"id":"tt0000009"\n',
    "not UTF-8": ID_LINE.replace(b"}", b',"x":"\xe7"}'),
    "half a surrogate pair": ID_LINE.replace(b"}", rb',"x":"\ud800"}'),
    "a list": b'["tt0000009"]\n',
    "null": b"null\n",
    "a number": b"7\n",
    "nested too deep": b"[" * 20_000 + b"]" * 20_000 + b"\n",
    "nested deep": b'{"id":' + b"[" * 1_000 + b"]" * 1_000 + b',"collection":"Movies","line":2}\n',
    "two objects in a line": ID_LINE.rstrip() + b" " + ID_LINE,
    "no line end": ID_LINE.rstrip(),
    "no id": row_with(id=...),
    "id null": row_with(id=None),
    "id a number": row_with(id=9),
    "id a list": row_with(id=["tt0000009"]),
    "id too short": row_with(id="tt000009"),
    "id too long": row_with(id="tt00000000009"),
    "id with a line end": row_with(id="tt0000009\n"),
    "id with a path": row_with(id="tt0000009/../x"),
    "id of other digits": row_with(id="tt００００００９"),
    "id in capitals": row_with(id="TT0000009"),
    "a name's id": row_with(id="nm0000009"),
    "no collection": row_with(collection=...),
    "collection unknown": row_with(collection="movies"),
    "collection a list": row_with(collection=["Movies"]),
    "collection an object": row_with(collection={}),
    "collection null": row_with(collection=None),
    "no line": row_with(line=...),
    "line zero": row_with(line=0),
    "line negative": row_with(line=-2),
    "line a truth value": row_with(line=True),
    "line a float": row_with(line=2.0),
    "line not finite": ID_LINE.replace(b":2}", b":NaN}"),
    "line beyond 64 bits": row_with(line=2**70),
    "line a text": row_with(line="2"),
    "fresh null": row_with(fresh=None),
    "fresh a truth value": row_with(fresh=True),
    "fresh no run": row_with(fresh="2026-11-29"),
    "fresh with a path": row_with(fresh=f"../{RUN}"),
    "fresh with a line end": row_with(fresh=f"{RUN}\n"),
    "fresh of other digits": row_with(fresh="２０２６-11-29-3f9a1c2e"),
    "fresh in capitals": row_with(fresh=RUN.upper()),
    "an id and rejected": row_with(rejected="no_id"),
    "rejected null": row_with(id=..., rejected=None),
    "rejected a number": row_with(id=..., rejected=1),
    "rejected of no collection": row_with(id=..., rejected="no_id", collection=...),
    "rejected without a line": row_with(id=..., rejected="no_id", line=...),
    "an id twice": ID_LINE + row_with(line=3),
    "an id in both collections": ID_LINE + row_with(collection="Series"),
    "a line twice": ID_LINE + row_with(id="tt0000010"),
    "lines out of order": REJECTED_LINE + ID_LINE,
    "a rejected row twice": REJECTED_LINE * 2,
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_is_not_ours_is_refused(name: str) -> None:
    """First or behind a good one, it is a ValueError that fits on a screen."""
    valid = b'{"id":"tt0000001","collection":"Movies","line":1}\n'
    for body in (BAD_ROWS[name], valid + BAD_ROWS[name]):
        with pytest.raises(ValueError, match=r"^line \d+ ") as caught:
            decode_ids(gzip_of(body))
        assert len(str(caught.value)) < 300


BAD_FILES = {
    "nothing": b"",
    "one byte": b"\x1f",
    "plain text": ID_LINE,
    "another archive": b"PK\x03\x04" + ID_LINE,
    "junk behind": GOOD + b"junk",
    "half a member behind": GOOD + GOOD[:15],
    "checksum of another": GOOD[:-8] + b"\0" * 8,
    "no zlib data": GOOD[:10] + b"\xff" * 20,
    "another method": GOOD[:2] + b"\x07" + GOOD[3:],
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_not_whole_and_sound_is_refused(name: str) -> None:
    """Empty, not gzip, damaged, or with something behind it."""
    with pytest.raises(ValueError, match=r"^it has 0 bytes|cannot be read"):
        decode_ids(BAD_FILES[name])
    with pytest.raises(ValueError, match=r"^it has 0 bytes|cannot be read|not a line of such a file"):
        deque(decode_outcomes(BAD_FILES[name]), 0)


def test_a_file_cut_short_is_refused_wherever_it_is_cut() -> None:
    """An upload that ended early gives none of its ids as if they were all."""
    for size in range(len(GOOD)):
        with pytest.raises(ValueError, match=r"^it has 0 bytes|cannot be read"):
            decode_ids(GOOD[:size])
    for size in range(len(GOOD_OUTCOMES)):
        with pytest.raises(ValueError, match=r"^it has 0 bytes|cannot be read"):
            deque(decode_outcomes(GOOD_OUTCOMES[:size]), 0)


def test_a_flipped_bit_changes_nothing_or_is_refused() -> None:
    """The checksum covers what the file says; bits of the header that say nothing may be anything."""
    for index, bit in itertools.product(range(len(GOOD)), range(8)):
        flipped = bytearray(GOOD)
        flipped[index] ^= 1 << bit
        assert decoded(bytes(flipped)) in (FROZEN, None), (index, bit)


def decoded(body: bytes) -> FrozenIds | None:
    """The ids in `body`, which keep their promises; None if it is refused."""
    try:
        frozen = decode_ids(body)
    except ValueError:
        return None
    ids = [id_ for of_collection in frozen.ids.values() for id_ in of_collection]
    assert all(is_title_id(id_) for id_ in ids)
    assert len(set(ids)) == len(ids)
    assert frozen.fresh.keys() <= set(ids)
    assert all(RUN_NAME.fullmatch(run) for run in frozen.fresh.values())
    assert frozen.ids.keys() | frozen.rejected.keys() <= {"Movies", "Series"}
    assert all(count > 0 for count in frozen.rejected.values())
    return frozen


def outcomes_decoded(body: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """The outcomes in `body`, which keep their promises; None if it is refused."""
    try:
        outcomes = list(decode_outcomes(body))
    except ValueError:
        return None
    assert all(is_title_id(id_) for id_, _ in outcomes)
    assert {outcome["outcome"] for _, outcome in outcomes} <= {"found", "missing", "failed", "fresh"}
    assert all(RUN_NAME.fullmatch(outcome["run"]) for _, outcome in outcomes if outcome["outcome"] == "fresh")
    return outcomes


@given(st.binary())
def test_any_bytes_are_ids_or_a_value_error(body: bytes) -> None:
    """As they are and packed: no other exception comes of them."""
    for each in (body, gzip_of(body), GOOD[:10] + body):
        decoded(each)
        outcomes_decoded(each)


@given(st.data())
def test_a_damaged_file_is_ids_or_a_value_error(data: st.DataObject) -> None:
    """Bytes replaced, taken out and put in, in the file and in what it packs."""
    for intact, plain in ((GOOD, False), (gzip.decompress(GOOD), True), (gzip.decompress(GOOD_OUTCOMES), True)):
        start = data.draw(st.integers(0, len(intact)))
        end = data.draw(st.integers(start, min(len(intact), start + 9)))
        damaged = intact[:start] + data.draw(st.binary(max_size=9)) + intact[end:]
        decoded(gzip_of(damaged) if plain else damaged)
        outcomes_decoded(gzip_of(damaged) if plain else damaged)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),  # surrogates too
    st.sampled_from(["tt0000009", "tt0000010", "Movies", "Series", "no_id", RUN, "movie", "tv", "unknown"]),
    st.sampled_from(["found", "missing", "failed", "fresh", 1, 2, 3, -1, 0]),
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=2)
ROWS = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["tt0000009", "tt0000010", "tt0000011"]) | VALUES,
        "collection": st.sampled_from(["Movies", "Series"]) | VALUES,
        "line": st.integers(min_value=1, max_value=9) | VALUES,
        "outcome": st.sampled_from(["found", "missing", "failed", "fresh"]) | VALUES,
    },
    optional=dict.fromkeys(["fresh", "rejected", "text", "kind", "tmdb_id", "reason", "run", "kept"], VALUES),
)


@given(st.lists(ROWS | VALUES, max_size=4))
@example([{"id": "tt0000009", "collection": ["Movies"], "line": 1}])
@example([{"id": {"tt0000009": 1}, "collection": "Movies", "line": 1}])
@example([{"id": "tt0000009", "outcome": ["found"]}])
@example([{"id": "tt0000009", "outcome": "fresh", "run": [RUN]}])
def test_any_json_of_the_right_keys_is_ids_or_a_value_error(rows: list[Any]) -> None:
    """Values of any type under the known keys give what keeps the promises, or are refused."""
    body = gzip_of("".join(json.dumps(row) + "\n" for row in rows).encode())
    decoded(body)
    outcomes_decoded(body)


# Limits


def peak_of(what: Callable[[], object]) -> int:
    """Bytes of memory that it takes at most."""
    tracemalloc.start()
    try:
        what()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def repeated(part: bytes, size: int) -> bytes:
    """Gzip that unpacks to at least `size` bytes of `part`: many small members, made in no time."""
    part *= MB // len(part) + 1
    return gzip_of(part, 1) * (size // len(part) + 1)


BOMBS = {
    "nul": b"\0",
    "space": b" ",
    "line end": b"\n",
    "list": b"[",
    "object": b'{"a":',
    "id": ID_LINE,
    "rejected": REJECTED_LINE,
    "long": REJECTED_LINE.replace(b"}", b',"x":"' + b"x" * 60_000 + b'"}'),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_gzip_bomb_is_refused_in_little_memory(name: str) -> None:
    """A gigabyte in a few megabytes ends at its first or second line, and takes less than 1 MB of memory."""
    body = repeated(BOMBS[name], UNPACKED_BYTES + MB)
    assert len(body) < 16 * MB

    def refuse() -> None:
        with pytest.raises(ValueError, match=r"^line [123] "):
            decode_ids(body)

    assert peak_of(refuse) < MB


@pytest.mark.timeout(180)  # three seconds of a processor, which others may want too
def test_no_more_than_a_gigabyte_is_unpacked() -> None:
    """A bomb of good lines ends at the limit."""
    long = FOUND_LINE.replace(b"}", b',"x":"' + b"x" * (LINE_BYTES - 100) + b'"}')
    assert LINE_BYTES - 100 < len(long) <= LINE_BYTES
    with pytest.raises(ValueError, match=r"is too long") as caught:
        deque(decode_outcomes(repeated(long, UNPACKED_BYTES + MB)), 0)
    assert f"line {UNPACKED_BYTES // len(long) + 1} " in str(caught.value)


@pytest.mark.parametrize("line", [ID_LINE, FOUND_LINE])
def test_a_line_has_a_limit(line: bytes) -> None:
    """65,536 bytes with its end are read, one more is refused."""
    for size, valid in ((LINE_BYTES, True), (LINE_BYTES + 1, False), (2 * LINE_BYTES, False)):
        body = gzip_of(line.replace(b"}", b',"x":"' + b"x" * (size - len(line) - 7) + b'"}'))
        assert len(gzip.decompress(body)) == size
        rows = decoded(body) if line == ID_LINE else outcomes_decoded(body)
        assert (rows is not None) is valid


def test_encoding_takes_the_memory_of_the_packed_bytes() -> None:
    """20,000 ids and outcomes have a megabyte unpacked, and take two times what is packed, beside zlib's 270 KB."""
    lines = {f"tt{number * 7919 % 10**7:07d}": number for number in range(2, 20_002)}
    inputs: dict[Collection, InputIds] = {"Movies": ids_of(lines)}

    def outcomes() -> Iterator[dict[str, Any]]:
        for id_, line in lines.items():
            yield {"id": id_, "outcome": "found", "kind": "tv", "tmdb_id": line * 7907}

    encoders: list[Callable[[], bytes]] = [lambda: encode_ids(inputs, {}), lambda: encode_outcomes(outcomes())]
    for encode in encoders:
        body = encode()
        assert len(gzip.decompress(body)) > 900_000
        assert peak_of(encode) < 2 * len(body) + 350_000


def test_outcomes_are_read_one_by_one() -> None:
    """Those of 10,000 ids take less than 500 KB at any time, which is what reading takes."""
    body = encode_outcomes({"id": f"tt{n:07d}", "outcome": "missing", "reason": "unknown"} for n in range(1, 10_001))
    assert len(list(decode_outcomes(body))) == 10_000
    assert peak_of(lambda: deque(decode_outcomes(body), 0)) < 500_000


# Outcomes


def test_outcomes_come_back_as_they_were() -> None:
    """In order, each as a receipt has it, beside its id; a line for each in the file."""
    expected = [(row["id"], {key: value for key, value in row.items() if key != "id"}) for row in OUTCOMES]
    assert list(decode_outcomes(GOOD_OUTCOMES)) == expected
    assert rows_of(GOOD_OUTCOMES) == OUTCOMES
    assert gzip.decompress(GOOD_OUTCOMES).splitlines(keepends=True)[0] == FOUND_LINE
    assert list(decode_outcomes(encode_outcomes([]))) == []


@pytest.mark.parametrize(
    "row",
    [
        {"outcome": "missing", "reason": "unknown"},
        {"id": None, "outcome": "missing", "reason": "unknown"},
        {"id": ["tt0000009"], "outcome": "missing", "reason": "unknown"},
        {"id": "tt9", "outcome": "missing", "reason": "unknown"},
        {"id": "tt0000009\n", "outcome": "missing", "reason": "unknown"},
        {"id": "tt0000009"},
        {"id": "tt0000009", "outcome": None},
        {"id": "tt0000009", "outcome": ["found"]},
        {"id": "tt0000009", "outcome": "kept"},
        {"id": "tt0000009", "outcome": "found"},
        {"id": "tt0000009", "outcome": "found", "kind": "movie"},
        {"id": "tt0000009", "outcome": "found", "kind": "movie", "tmdb_id": "550"},
        {"id": "tt0000009", "outcome": "found", "kind": "film", "tmdb_id": 550},
        {"id": "tt0000009", "outcome": "found", "kind": ["movie"], "tmdb_id": 550},
        {"id": "tt0000009", "outcome": "missing"},
        {"id": "tt0000009", "outcome": "failed", "reason": None},
        {"id": "tt0000009", "outcome": "fresh"},
        {"id": "tt0000009", "outcome": "fresh", "run": None},
        {"id": "tt0000009", "outcome": "fresh", "run": [RUN]},
        {"id": "tt0000009", "outcome": "fresh", "run": f"{RUN}\n"},
        {"id": "tt0000009", "outcome": "fresh", "run": f"{RUN}/../x"},
    ],
)
def test_what_is_no_outcome_is_refused(row: dict[str, Any]) -> None:
    """An id of another form, an outcome that is none of the four, or one that lacks what it must say."""
    with pytest.raises(ValueError, match="line 1 "):
        deque(decode_outcomes(encode_outcomes([row])), 0)
    with pytest.raises(ValueError, match="line 7 "):
        deque(decode_outcomes(encode_outcomes([*OUTCOMES, row])), 0)


@pytest.mark.parametrize("name", ["no JSON", "a blank line", "not UTF-8", "a list", "nested too deep", "no line end"])
def test_a_line_of_outcomes_that_is_no_object_is_refused(name: str) -> None:
    """The same limits hold for both files."""
    with pytest.raises(ValueError, match="line 2 "):
        deque(decode_outcomes(gzip_of(FOUND_LINE + BAD_ROWS[name])), 0)
