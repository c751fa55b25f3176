"""Receipts, plans and books: what they hold comes back as it was, and what contradicts itself is never believed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.answers import Failed, Found, Match, Missing, Outcome
from harvester.batches import Batch, Layout
from harvester.errors import BooksError, Exit
from harvester.receipts import (
    Books,
    LandedFile,
    Plan,
    Receipt,
    decode_plan,
    decode_receipt,
    encode_plan,
    encode_receipt,
    fingerprint,
    write_receipt,
)
from harvester.titles import Ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harvester.titles import Collection

RUN = "2026-11-22-3f9a1c2e"
LAYOUT = Layout("Raw/API", "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json", RUN)
NOW = "2026-11-22T10:00:00+00:00"

TOLD: tuple[Found | Missing | Failed | Match, ...] = (
    Found("movie", 603, {"id": 603}),
    Missing("unknown"),
    Match("tv", 1399),
    Missing("episode", 1396),
    Found("movie", 605, {"id": 605}),
    Match("tv", 1400),
    Missing("season", 1397),
)
IDS = tuple(f"tt{number:07d}" for number in range(1, len(TOLD) + 1))


def a_file(records: int, *, key: str = "Raw/API/Movies/2026/11/22/x.json") -> LandedFile:
    return LandedFile(key, records, 1_000 * records, "ab" * 32, '"cd-1"')


def a_receipt(
    told: Sequence[Outcome | Match] = TOLD,
    *,
    files: Sequence[LandedFile] | None = None,
    collection: Collection = "Movies",
) -> Receipt:
    batch = Batch(collection, tuple(f"tt{number:07d}" for number in range(1, len(told) + 1)))
    found = sum(isinstance(what, Found) for what in told)
    files = files if files is not None else [a_file(found)] if found else []
    return write_receipt(batch, told, files=files, run=RUN, landed_at=NOW)


def key_of(receipt: Receipt) -> str:
    return LAYOUT.receipt_key(receipt.collection, receipt.batch)


def seal_of(whole: dict[str, Any]) -> str:
    """SHA-256 over all the rest of a paper, as it stands."""
    rest = {name: value for name, value in whole.items() if name != "seal"}
    return hashlib.sha256(orjson.dumps(rest)).hexdigest()


def sealed(whole: dict[str, Any]) -> bytes:
    """A paper that was altered by somebody who knows how to seal it."""
    return orjson.dumps(whole | {"seal": seal_of(whole)})


def test_a_receipt_that_was_edited_is_not_believed() -> None:
    """Also an edit that contradicts nothing breaks the seal, and so does its absence."""
    receipt = a_receipt()
    whole = json.loads(encode_receipt(receipt))
    assert decode_receipt(key_of(receipt), sealed(whole)) == receipt
    edited = {**whole, "landed_at": "2027-01-01T00:00:00.000Z"}
    for body in (edited, {name: value for name, value in whole.items() if name != "seal"}):
        with pytest.raises(BooksError, match="has been edited"):
            decode_receipt(key_of(receipt), orjson.dumps(body))


def test_a_receipt_is_written_as_the_design_has_it() -> None:
    """Batch, collection, run, files, the outcome of each id in the batch's order, the time; `moved` only if any has."""
    receipt = a_receipt(TOLD[:2] + TOLD[3:5] + (Failed("http_500"),))
    whole = json.loads(encode_receipt(receipt))
    assert whole == {
        "batch": receipt.batch,
        "collection": "Movies",
        "run": RUN,
        "files": [
            {
                "key": "Raw/API/Movies/2026/11/22/x.json",
                "records": 2,
                "bytes": 2_000,
                "sha256": "ab" * 32,
                "etag": '"cd-1"',
            }
        ],
        "outcomes": {
            "tt0000001": {"outcome": "found", "kind": "movie", "tmdb_id": 603},
            "tt0000002": {"outcome": "missing", "reason": "unknown"},
            "tt0000003": {"outcome": "missing", "reason": "episode", "show_id": 1396},
            "tt0000004": {"outcome": "found", "kind": "movie", "tmdb_id": 605},
            "tt0000005": {"outcome": "failed", "reason": "http_500"},
        },
        "landed_at": NOW,
        "seal": seal_of(whole),
    }
    assert list(whole["outcomes"]) == list(IDS[:5])
    moved = json.loads(encode_receipt(a_receipt()))["moved"]
    assert moved == {
        "tt0000003": {"kind": "tv", "tmdb_id": 1399, "place": 2},
        "tt0000006": {"kind": "tv", "tmdb_id": 1400, "place": 5},
    }


def test_a_receipt_needs_word_of_every_id() -> None:
    """Less or more told than the batch has ids is a bug, and is not written down."""
    batch = Batch("Movies", IDS)
    for told in (TOLD[:-1], (*TOLD, TOLD[0])):
        with pytest.raises(ValueError):
            write_receipt(batch, told, files=[], run=RUN, landed_at=NOW)


WORDS = st.sampled_from([*TOLD, Failed("timeout"), Failed("http_500")])


@given(told=st.lists(WORDS, min_size=1, max_size=100), split=st.integers(0, 3))
def test_a_receipt_comes_back_as_it_was_written(told: list[Outcome | Match], split: int) -> None:
    """Encoded and decoded it is equal, and its ids are the batch's in their order, moved ones at their places."""
    found = sum(isinstance(what, Found) for what in told)
    first = min(split, found)
    receipt = a_receipt(told, files=[a_file(count) for count in (first, found - first) if count])
    key = LAYOUT.failed_key("Movies", receipt.batch) if receipt.failed else key_of(receipt)
    again = decode_receipt(key, encode_receipt(receipt))
    assert again == receipt
    assert again.ids == tuple(f"tt{number:07d}" for number in range(1, len(told) + 1))
    assert list(again.outcomes) == [id_ for id_ in again.ids if id_ not in again.moved]
    assert Batch("Movies", again.ids).name == receipt.batch


@pytest.mark.parametrize(
    "told",
    [
        [Match("tv", 1)],
        [Match("tv", 1), Match("tv", 2), Match("tv", 3)],
        [Match("tv", 1), Found("movie", 2, {}), Match("tv", 3)],
        [Found("movie", 1, {}), Match("tv", 2), Match("tv", 3), Found("movie", 4, {}), Match("tv", 5)],
    ],
)
def test_moved_ids_keep_their_places(told: list[Outcome | Match]) -> None:
    """First, last, adjacent or all of them: the batch's name can still be proved from its receipt."""
    receipt = a_receipt(told)
    assert receipt.ids == IDS[: len(told)]
    assert decode_receipt(key_of(receipt), encode_receipt(receipt)).ids == IDS[: len(told)]


def test_a_receipt_counts_what_was_found_and_whether_any_failed() -> None:
    """`found` is the records that must have landed; one failed title is enough to have the batch done again."""
    assert (a_receipt().found, a_receipt().failed) == (2, False)
    failed = a_receipt([*TOLD, Failed("timeout")])
    assert (failed.found, failed.failed) == (2, True)
    assert (a_receipt([Missing("unknown")]).found, a_receipt([Missing("unknown")]).failed) == (0, False)


def test_a_paper_of_failed_titles_is_read_under_its_own_key() -> None:
    """The same paper stands in `failed/` while titles have failed, and is believed there too."""
    receipt = a_receipt([*TOLD, Failed("timeout")])
    assert decode_receipt(LAYOUT.failed_key("Movies", receipt.batch), encode_receipt(receipt)) == receipt


def rename(whole: dict[str, Any], old: str, new: str) -> None:
    whole["outcomes"] = {new if id_ == old else id_: told for id_, told in whole["outcomes"].items()}


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another id": lambda whole: rename(whole, "tt0000002", "tt0000008"),
    "another first id": lambda whole: rename(whole, "tt0000001", "tt0000008"),
    "an id less": lambda whole: whole["outcomes"].pop("tt0000002"),
    "an id more": lambda whole: whole["outcomes"].update(tt0000009={"outcome": "missing", "reason": "unknown"}),
    "another order": lambda whole: whole.update(outcomes=dict(reversed(whole["outcomes"].items()))),
    "a moved id less": lambda whole: whole["moved"].pop("tt0000003"),
    "a moved id elsewhere": lambda whole: whole["moved"]["tt0000003"].update(place=1),
    "nothing moved": lambda whole: whole.pop("moved"),
    "no ids": lambda whole: whole.update(outcomes={}, moved={}),
    "another batch": lambda whole: whole.update(batch="tt0000001-tt0000007-00000000"),
    "another collection": lambda whole: whole.update(collection="Series"),
    "more records": lambda whole: whole["files"][0].update(records=3),
    "less records": lambda whole: whole["files"][0].update(records=1),
    "no files": lambda whole: whole.update(files=[]),
    "a file twice": lambda whole: whole["files"].append(whole["files"][0]),
    "found made missing": lambda whole: whole["outcomes"].update(tt0000001={"outcome": "missing", "reason": "unknown"}),
    "a strange outcome": lambda whole: whole["outcomes"]["tt0000002"].update(outcome="lost"),
    "an outcome of null": lambda whole: whole["outcomes"]["tt0000002"].update(outcome=None),
    "an outcome of a list": lambda whole: whole["outcomes"]["tt0000002"].update(outcome=["found"]),
    "no outcome": lambda whole: whole["outcomes"]["tt0000002"].pop("outcome"),
    "outcomes of words": lambda whole: whole.update(outcomes=dict.fromkeys(IDS, "found")),
    "outcomes of null": lambda whole: whole.update(outcomes=None),
    "no outcomes": lambda whole: whole.pop("outcomes"),
    "no time": lambda whole: whole.pop("landed_at"),
    "no files' list": lambda whole: whole.pop("files"),
    "a strange key": lambda whole: whole.update(colour="red"),
    "a file's strange key": lambda whole: whole["files"][0].update(colour="red"),
    "a file without digest": lambda whole: whole["files"][0].pop("sha256"),
    "records of words": lambda whole: whole["files"][0].update(records="2"),
    "a moved id without place": lambda whole: whole["moved"]["tt0000003"].pop("place"),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_receipt_that_contradicts_itself_is_not_believed(contradiction: str) -> None:
    """Tampered ids, wrong counts, strange or absent outcomes: a BooksError that names the key."""
    receipt = a_receipt()
    whole = json.loads(encode_receipt(receipt))
    CONTRADICTIONS[contradiction](whole)
    with pytest.raises(BooksError) as caught:
        decode_receipt(key_of(receipt), sealed(whole))
    assert str(caught.value).startswith(key_of(receipt))
    assert caught.value.exit_code == Exit.WRONG


@pytest.mark.parametrize(
    ("id_", "told"),
    [
        ("tt0000002", {"outcome": "missing"}),
        ("tt0000002", {"outcome": "failed"}),
        ("tt0000002", {"outcome": "missing", "reason": ["unknown"]}),
    ],
)
def test_a_receipt_without_a_reason_is_not_believed(id_: str, told: dict[str, Any]) -> None:
    """What is missing or failed has a reason; without one the books could not be made, and it is told by the key."""
    receipt = a_receipt()
    whole = json.loads(encode_receipt(receipt))
    whole["outcomes"][id_] = told
    with pytest.raises(BooksError, match=receipt.batch):
        Books().take(decode_receipt(key_of(receipt), sealed(whole)))


@pytest.mark.parametrize(
    "where", [{"kind": "tv"}, {"tmdb_id": 1399}, {"kind": "person", "tmdb_id": 1399}, {"kind": []}]
)
def test_a_receipt_with_ids_moved_nowhere_is_not_believed(where: dict[str, Any]) -> None:
    """A moved id is told with its kind and its TMDB id, or it would be harvested nowhere."""
    receipt = a_receipt()
    whole = json.loads(encode_receipt(receipt))
    whole["moved"]["tt0000003"] = where | {"place": whole["moved"]["tt0000003"]["place"]}
    with pytest.raises(BooksError, match=receipt.batch):
        decode_receipt(key_of(receipt), sealed(whole))


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"5", b"null", b'"text"', b"{}", b'{"files":5}', b"\xff"])
def test_what_is_no_receipt_is_told_by_its_key(body: bytes) -> None:
    """A cut, foreign or empty object under a receipt's key is a BooksError, never a traceback."""
    key = LAYOUT.receipt_key("Movies", "tt0000001-tt0000007-00000000")
    with pytest.raises(BooksError, match=r"tt0000001-tt0000007-00000000\.json is not a receipt"):
        decode_receipt(key, body)


@pytest.mark.parametrize(
    "key",
    [
        LAYOUT.receipt_key("Movies", "tt0000001-tt0000007-00000000"),
        LAYOUT.receipt_key("Series", a_receipt().batch),
        LAYOUT.receipt_key("Movies", "x" + a_receipt().batch),
        a_receipt().batch + ".json",
    ],
)
def test_a_receipt_under_another_key_is_not_believed(key: str) -> None:
    """A good receipt that was copied to another batch's or collection's key does not make that batch done."""
    with pytest.raises(BooksError) as caught:
        decode_receipt(key, encode_receipt(a_receipt()))
    assert str(caught.value).startswith(key)


def test_a_plan_comes_back_as_it_was_written() -> None:
    """Input, settings and batches of a run survive the bucket."""
    plan = Plan(
        run=RUN,
        fingerprint="3f9a1c2e",
        created_at=NOW,
        input={
            "Movies": {
                "source": "Ação.csv",
                "rows": 4,
                "ids": 2,
                "duplicates": 1,
                "rejected": 1,
                "rejects": [{"line": 2, "text": "\u2028"}],
            }
        },
        settings={
            "tmdb_language": None,
            "tmdb_append": ["credits"],
            "output_format": "jsonl",
            "s3_key_template": "{prefix}/{collection}/{batch}.json",
        },
        batches={"Movies": [a_receipt().batch], "Series": []},
    )
    assert decode_plan(LAYOUT.plan_key, encode_plan(plan)) == plan


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"5", b"null", b"{}", b'{"run":"x","colour":"red"}', b"\xff"]
)
def test_what_is_no_plan_is_told_by_its_key(body: bytes) -> None:
    """A cut or foreign object under the plan's key is a BooksError that names it."""
    with pytest.raises(BooksError, match=r"plan\.json is not a plan"):
        decode_plan(LAYOUT.plan_key, body)


INPUT: dict[Collection, Sequence[str]] = {"Movies": ["tt0000001", "tt0000002"], "Series": ["tt0000003"]}


def a_fingerprint(ids: dict[Collection, Sequence[str]] | None = None, **changes: Any) -> str:
    settings = {"language": None, "append": ("credits", "keywords"), "form": "jsonl"}
    return fingerprint(INPUT if ids is None else ids, **(settings | changes))


def test_a_fingerprint_is_eight_hexadecimal_digits_and_stays() -> None:
    """The same input and settings are the same run, today and in a year: 4 bytes of SHA-256, pinned."""
    # printf 'Movies\ntt0000001\ntt0000002\nSeries\ntt0000003\nNone\ncredits,keywords\njsonl' | sha256sum
    assert a_fingerprint() == "6f23723b"


def test_a_fingerprint_is_the_same_for_what_makes_the_same_records() -> None:
    """The order of the appended parts, and of the collections, changes no record."""
    same = [
        a_fingerprint(append=("keywords", "credits")),
        a_fingerprint({"Series": INPUT["Series"], "Movies": INPUT["Movies"]}),
        a_fingerprint({"Movies": tuple(INPUT["Movies"]), "Series": tuple(INPUT["Series"])}),
    ]
    assert same == [a_fingerprint()] * 3


def test_a_fingerprint_changes_with_whatever_changes_records() -> None:
    """Another id, order, collection, language, part or format is another run."""
    one, two, three = "tt0000001", "tt0000002", "tt0000003"
    prints = [
        a_fingerprint(),
        a_fingerprint({"Movies": [one, two], "Series": ["tt0000004"]}),
        a_fingerprint({"Movies": [two, one], "Series": [three]}),
        a_fingerprint({"Movies": [one], "Series": [three]}),
        a_fingerprint({"Movies": [one], "Series": [two, three]}),
        a_fingerprint({"Movies": [three], "Series": [one, two]}),
        a_fingerprint({"Movies": [one, two, three]}),
        a_fingerprint({"Series": [one, two, three]}),
        a_fingerprint({"Movies": [one, two]}),
        a_fingerprint(language="pt-BR"),
        a_fingerprint(language="pt"),
        a_fingerprint(append=()),
        a_fingerprint(append=("credits",)),
        a_fingerprint(append=("credits", "keywords", "images")),
        a_fingerprint(form="array"),
    ]
    assert [count for count in Counter(prints).values() if count > 1] == []


def ids_read(*, rows: int, ids: int, rejected: int) -> Ids:
    return Ids("a.csv", [f"tt{number:07d}" for number in range(1, ids + 1)], rows, rejected)


def test_the_books_balance_when_every_row_and_id_is_accounted_for() -> None:
    """Rows = ids + duplicates + rejected, and ids = found + missing + failed, over both CSVs and all batches."""
    books = Books()
    assert books.balance
    books.take_input(ids_read(rows=10, ids=6, rejected=1))
    books.take_input(ids_read(rows=3, ids=2, rejected=0))
    assert (books.rows, books.ids, books.duplicates, books.rejected) == (13, 8, 4, 1)
    assert (books.accounted, books.balance) == (0, False)
    books.take(a_receipt())
    assert (books.accounted, books.balance) == (5, False)
    books.take(a_receipt([Found("tv", 1, {}), Failed("timeout")], collection="Series"))
    assert (books.accounted, books.balance) == (7, False)
    books.take(a_receipt([Failed("timeout")], collection="Series"))
    assert (books.accounted, books.balance) == (8, True)
    books.take(a_receipt([Missing("unknown")], collection="Series"))
    assert (books.accounted, books.balance) == (9, False)


@pytest.mark.parametrize("name", ["rows", "ids", "duplicates", "rejected", "found"])
@pytest.mark.parametrize("by", [-1, 1])
def test_books_that_are_one_off_do_not_balance(name: str, by: int) -> None:
    """One row or title too many or too few anywhere is seen."""
    books = Books()
    books.take_input(ids_read(rows=9, ids=5, rejected=1))
    books.take(a_receipt())
    assert books.balance
    setattr(books, name, getattr(books, name) + by)
    assert not books.balance


def test_moved_ids_are_accounted_for_where_they_land() -> None:
    """A receipt's moved ids are no outcome of its own: the other collection's receipt has it, once."""
    books = Books()
    books.take(a_receipt([Match("tv", 1), Match("tv", 2)]))
    assert books.accounted == 0
    books.take(a_receipt([Found("tv", 1, {}), Missing("unknown")], collection="Series"))
    assert books.accounted == 2


def test_the_books_are_shown_as_the_summary_has_them() -> None:
    """These keys stand in `summary.json` and in `--json`; reasons are counted, in alphabetical order."""
    books = Books()
    books.take_input(ids_read(rows=14, ids=9, rejected=2))
    books.take(a_receipt([*TOLD, Failed("timeout"), Failed("http_500"), Failed("timeout")]))
    books.take(a_receipt([Found("tv", 1, {})], files=[a_file(1)], collection="Series"))
    told = books.as_json()
    assert list(told.items()) == [
        ("rows", 14),
        ("duplicates", 3),
        ("rejected", 2),
        ("ids", 9),
        ("found", 3),
        ("missing", 3),
        ("failed", 3),
        ("missing_by_reason", {"episode": 1, "season": 1, "unknown": 1}),
        ("failed_by_reason", {"http_500": 1, "timeout": 2}),
        ("batches", 2),
        ("files", 2),
        ("bytes", 3_000),
    ]
    assert list(told["missing_by_reason"]) == ["episode", "season", "unknown"]
    assert list(told["failed_by_reason"]) == ["http_500", "timeout"]
    assert json.loads(json.dumps(told)) == told
