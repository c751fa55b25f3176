"""Receipts: what became of each id comes back as it was, and what contradicts itself is never believed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.errors import CorruptLakeError, Exit
from harvester.model.batch import Batch
from harvester.model.documents import encode_document
from harvester.model.layout import Layout
from harvester.model.outcome import Failed, Found, Fresh, Missing, Outcome
from harvester.model.receipt import (
    LandedFile,
    Receipt,
    decode_receipt,
    has_record,
    is_settled,
    outcome_json,
)
from harvester.runs.run import land_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harvester.model.ids import Collection
    from harvester.runs.run import Run

RUN = "2026-11-22-3f9a1c2e"
OTHER_RUN = "2026-11-22-00000001"
LAYOUT = Layout("Raw/API", "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json", RUN)
GENERATION, ATTEMPT = "5d1c0b7a5d1c0b7a", "a77e3b7a"
NOW = "2026-11-22T10:00:00.000Z"
KEPT = {"outcome": "failed", "reason": "http_500", "kept": True, "kind": "movie", "tmdb_id": 607}

OUTCOMES: tuple[Outcome, ...] = (
    Found("movie", 603, {"id": 603}),
    Missing("unknown"),
    Found("tv", 1399, {"id": 1399}),
    Missing("episode", 1396),
    Found("movie", 605, {"id": 605}),
    Fresh(OTHER_RUN),
    Missing("season", 1397),
)
IDS = tuple(f"tt{number:07d}" for number in range(1, len(OUTCOMES) + 1))


def batch_of(count: int, collection: Collection = "Movies") -> Batch:
    return Batch(collection, tuple(f"tt{number:07d}" for number in range(1, count + 1)))


def a_file(batch: Batch, records: int, *, collection: Collection = "Movies", number: int = 1) -> LandedFile:
    return LandedFile(LAYOUT.data_key(collection, batch.name, number), records, 1_000 * records, "ab" * 32, "cd-1")


def a_receipt(
    outcomes: Sequence[Outcome | dict[str, Any]] = OUTCOMES,
    *,
    files: Sequence[LandedFile] | None = None,
    collection: Collection = "Movies",
    attempt: str | None = None,
) -> Receipt:
    """A receipt of as many ids; without `files`, one for each collection that has records."""
    batch = batch_of(len(outcomes), collection)
    documents = [
        outcome if isinstance(outcome, dict) else outcome_json(id_, outcome)
        for id_, outcome in zip(batch.ids, outcomes, strict=True)
    ]
    kinds = [outcome["kind"] for outcome in documents if has_record(outcome)]
    made = [a_file(batch, kinds.count(kind), collection=name) for name, kind in KINDS_IN_ORDER if kinds.count(kind) > 0]
    by_id: dict[str, Any] = dict(zip(batch.ids, documents, strict=True))
    landed = tuple(made if files is None else files)
    return Receipt(batch.name, collection, RUN, GENERATION, attempt, landed, by_id, NOW)


KINDS_IN_ORDER: tuple[tuple[Collection, str], ...] = (("Movies", "movie"), ("Series", "tv"))


def key_of(receipt: Receipt) -> str:
    return LAYOUT.receipt_key(receipt.collection, receipt.batch)


def read(receipt: Receipt, body: bytes) -> Receipt:
    return decode_receipt(LAYOUT, key_of(receipt), body)


def checksum_of(whole: dict[str, Any]) -> str:
    """SHA-256 over all the rest of a document, as it stands."""
    rest = {name: value for name, value in whole.items() if name != "checksum"}
    return hashlib.sha256(orjson.dumps(rest)).hexdigest()


def with_checksum(whole: dict[str, Any]) -> bytes:
    """A document that was altered, with the checksum that fits what it says now."""
    rest = {name: value for name, value in whole.items() if name != "checksum"}
    return orjson.dumps(rest | {"checksum": checksum_of(rest)})


def test_another_imdb_id_of_tmdbs_stands_in_the_receipt() -> None:
    """A merged title says which id TMDB has it under, cut where that is no id; every other title says nothing of it."""
    merged = Found("movie", 603, {}, tmdb_imdb_id="tt0133093")
    unexpected = Found("movie", 604, {}, tmdb_imdb_id="x" * 5_000)
    receipt = a_receipt([merged, unexpected, *OUTCOMES])
    assert read(receipt, encode_document(receipt)) == receipt
    other_ids = [outcome.get("other_id") for outcome in receipt.outcomes.values()]
    assert other_ids == ["tt0133093", "x" * 100, *[None] * len(OUTCOMES)]


def test_a_receipt_that_was_edited_is_not_believed() -> None:
    """Also an edit that contradicts nothing breaks the checksum, and so does its absence."""
    receipt = a_receipt()
    whole = json.loads(encode_document(receipt))
    assert read(receipt, with_checksum(whole)) == receipt
    edited = {**whole, "landed_at": "2027-01-01T00:00:00.000Z"}
    for body in (edited, {name: value for name, value in whole.items() if name != "checksum"}):
        with pytest.raises(CorruptLakeError, match=r"has been edited|it has no checksum"):
            read(receipt, orjson.dumps(body))


def test_a_receipt_is_written_as_the_design_has_it() -> None:
    """Format, batch, run, generation, files, the outcome of each id in the batch's order, time, checksum."""
    receipt = a_receipt((*OUTCOMES, Failed("http_500"), KEPT), attempt=ATTEMPT)
    whole = json.loads(encode_document(receipt))
    stem = f"2026/11/22/{receipt.batch}.json"
    assert whole == {
        "format": 1,
        "batch": receipt.batch,
        "collection": "Movies",
        "run": RUN,
        "generation": GENERATION,
        "attempt": ATTEMPT,
        "files": [
            {"key": f"Raw/API/Movies/{stem}", "records": 3, "bytes": 3_000, "sha256": "ab" * 32, "etag": "cd-1"},
            {"key": f"Raw/API/Series/{stem}", "records": 1, "bytes": 1_000, "sha256": "ab" * 32, "etag": "cd-1"},
        ],
        "outcomes": {
            "tt0000001": {"outcome": "found", "kind": "movie", "tmdb_id": 603},
            "tt0000002": {"outcome": "missing", "reason": "unknown"},
            "tt0000003": {"outcome": "found", "kind": "tv", "tmdb_id": 1399},
            "tt0000004": {"outcome": "missing", "reason": "episode", "show_id": 1396},
            "tt0000005": {"outcome": "found", "kind": "movie", "tmdb_id": 605},
            "tt0000006": {"outcome": "fresh", "run": OTHER_RUN},
            "tt0000007": {"outcome": "missing", "reason": "season", "show_id": 1397},
            "tt0000008": {"outcome": "failed", "reason": "http_500"},
            "tt0000009": {
                "outcome": "failed",
                "reason": "http_500",
                "kept": True,
                "kind": "movie",
                "tmdb_id": 607,
            },
        },
        "landed_at": NOW,
        "checksum": checksum_of(whole),
    }
    assert list(whole["outcomes"]) == [f"tt{number:07d}" for number in range(1, 10)]


def test_an_outcome_is_written_with_what_was_kept_of_a_failed_title_and_of_no_other() -> None:
    """Kind and number of the record that stayed are a failed title's alone; without one nothing says `kept`."""
    origin = {"kind": "movie", "tmdb_id": 607}
    assert outcome_json("tt0137523", Failed("http_500"), origin) == KEPT
    assert outcome_json("tt0137523", Failed("http_500")) == {"outcome": "failed", "reason": "http_500"}
    for outcome in OUTCOMES:
        assert outcome_json("tt0137523", outcome, origin) == outcome_json("tt0137523", outcome)


async def test_a_receipt_needs_an_outcome_for_every_id() -> None:
    """Fewer or more outcomes than the batch has ids is a bug, and nothing is written down."""
    batch, nowhere = batch_of(len(OUTCOMES)), cast("Run", None)
    for some in (OUTCOMES[:-1], [*OUTCOMES, OUTCOMES[0]]):
        with pytest.raises(ValueError, match="zip"):
            await land_batch(nowhere, batch, some, {}, form="jsonl")


ANY_OUTCOME = st.sampled_from([*OUTCOMES, Failed("timeout"), Failed("http_500"), KEPT])


@given(
    outcomes=st.lists(ANY_OUTCOME, min_size=1, max_size=100),
    split=st.integers(0, 3),
    collection=st.sampled_from(["Movies", "Series"]),
    attempt=st.none() | st.just(ATTEMPT),
)
def test_a_receipt_comes_back_as_it_was_written(
    outcomes: list[Outcome], split: int, collection: Collection, attempt: str | None
) -> None:
    """Encoded and decoded it is equal, and its ids are the batch's, in their order, reclassified ones too."""
    batch = batch_of(len(outcomes), collection)
    files = []
    for name, kind in KINDS_IN_ORDER:
        count = sum(outcome == KEPT or isinstance(outcome, Found) for outcome in outcomes if kind_of(outcome) == kind)
        first = min(split, count)
        files += [a_file(batch, some, collection=name, number=n) for n, some in enumerate((first, count - first), 1)]
    receipt = a_receipt(outcomes, files=files, collection=collection, attempt=attempt)
    decoded = read(receipt, encode_document(receipt))
    assert decoded == receipt
    assert decoded.ids == batch.ids
    assert Batch(collection, decoded.ids).name == receipt.batch


def kind_of(outcome: Outcome | dict[str, Any]) -> str | None:
    return "movie" if outcome == KEPT else getattr(outcome, "kind", None)


@pytest.mark.parametrize(
    "outcomes",
    [
        [Found("tv", 1, {})],
        [Found("tv", 1, {}), Found("tv", 2, {}), Found("tv", 3, {})],
        [Found("tv", 1, {}), Found("movie", 2, {}), Found("tv", 3, {})],
        [Found("movie", 1, {}), Found("tv", 2, {}), Found("tv", 3, {}), Found("movie", 4, {}), Found("tv", 5, {})],
    ],
)
def test_reclassified_titles_keep_their_places(outcomes: list[Outcome]) -> None:
    """First, last, adjacent or all of them: they stand in the receipt of their batch, which confirms its own name."""
    receipt = a_receipt(outcomes)
    decoded = read(receipt, encode_document(receipt))
    assert decoded.ids == IDS[: len(outcomes)]
    assert list(decoded.recorded.values()) == [outcome.kind for outcome in outcomes if isinstance(outcome, Found)]
    assert {file.key.split("/")[2] for file in decoded.files} == {
        "Movies" if kind == "movie" else "Series" for kind in decoded.recorded.values()
    }


def test_a_receipt_knows_its_records_and_whether_any_failed() -> None:
    """`recorded` are the found and the kept; one failed title is enough to have the batch done again."""
    receipt = a_receipt()
    assert (receipt.recorded, receipt.failed) == (
        {"tt0000001": "movie", "tt0000003": "tv", "tt0000005": "movie"},
        False,
    )
    failed = a_receipt([*OUTCOMES, Failed("timeout")])
    assert (failed.recorded, failed.failed) == (receipt.recorded, True)
    with_record = a_receipt([*OUTCOMES, KEPT])
    assert (with_record.recorded, with_record.failed) == (receipt.recorded | {"tt0000008": "movie"}, True)
    missing = a_receipt([Missing("unknown")])
    assert (missing.recorded, missing.failed) == ({}, False)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (outcome_json("tt0137523", Found("movie", 603, {})), (True, True)),
        (outcome_json("tt0137523", Missing("unknown")), (False, True)),
        (outcome_json("tt0137523", Fresh(OTHER_RUN)), (False, False)),
        (outcome_json("tt0137523", Failed("timeout")), (False, False)),
        (KEPT, (True, True)),
        (KEPT | {"kept": False}, (False, False)),
        (KEPT | {"kept": 1}, (False, False)),
    ],
)
def test_found_missing_and_kept_ids_stand_for_the_whole_day(
    outcome: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    """No other run of the day asks for them; fresh and failed ones it does, unless their record was kept."""
    assert (has_record(outcome), is_settled(outcome)) == expected


@pytest.mark.parametrize("outcome", [Failed("timeout"), KEPT])
def test_a_receipt_with_failed_titles_is_read_in_the_same_place(outcome: Outcome | dict[str, Any]) -> None:
    """There is one place for receipts: one of a batch with failed titles is believed there too, reasons and all."""
    receipt = a_receipt([*OUTCOMES, outcome])
    assert key_of(receipt).startswith(LAYOUT.receipts)
    assert read(receipt, encode_document(receipt)) == receipt


def rename(whole: dict[str, Any], old: str, new: str) -> None:
    whole["outcomes"] = {new if id_ == old else id_: outcome for id_, outcome in whole["outcomes"].items()}


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another id": lambda whole: rename(whole, "tt0000002", "tt0000008"),
    "another first id": lambda whole: rename(whole, "tt0000001", "tt0000008"),
    "an id of a name": lambda whole: rename(whole, "tt0000002", "nm0000002"),
    "an id less": lambda whole: whole["outcomes"].pop("tt0000002"),
    "an id more": lambda whole: whole["outcomes"].update(tt0000009={"outcome": "missing", "reason": "unknown"}),
    "another order": lambda whole: whole.update(outcomes=dict(reversed(whole["outcomes"].items()))),
    "a reclassified id less": lambda whole: whole["outcomes"].pop("tt0000003"),
    "no ids": lambda whole: whole.update(outcomes={}),
    "101 ids": lambda whole: whole["outcomes"].update(
        {f"tt{n:07d}": {"outcome": "missing", "reason": "unknown"} for n in range(8, 102)}
    ),
    "another batch": lambda whole: whole.update(batch="tt0000001-tt0000007-00000000"),
    "no batch's name": lambda whole: whole.update(batch="tt0000001"),
    "another collection": lambda whole: whole.update(collection="Series"),
    "an unknown collection": lambda whole: whole.update(collection="Books"),
    "another run": lambda whole: whole.update(run=OTHER_RUN),
    "no run's name": lambda whole: whole.update(run="today"),
    "no generation": lambda whole: whole.pop("generation"),
    "a malformed generation": lambda whole: whole.update(generation="../../x"),
    "a generation of null": lambda whole: whole.update(generation=None),
    "no attempt": lambda whole: whole.pop("attempt"),
    "an unknown attempt": lambda whole: whole.update(attempt=5),
    "more records": lambda whole: whole["files"][0].update(records=3),
    "less records": lambda whole: whole["files"][0].update(records=1),
    "no files": lambda whole: whole.update(files=[]),
    "a file less": lambda whole: whole["files"].pop(),
    "a file twice": lambda whole: whole["files"].append({**whole["files"][0], "records": 0}),
    "201 files": lambda whole: whole["files"].extend({**whole["files"][0], "records": 0} for _ in range(199)),
    "a file of another batch": lambda whole: whole["files"][0].update(key=LAYOUT.data_key("Movies", batch_of(3).name)),
    "a file of another day": lambda whole: whole["files"][0].update(
        key=whole["files"][0]["key"].replace("/22/", "/23/")
    ),
    "a file of somebody else": lambda whole: whole["files"][0].update(key="Finance/ledger.parquet"),
    "a receipt for a file": lambda whole: whole["files"][0].update(key=LAYOUT.receipt_key("Movies", whole["batch"])),
    "a file's key of a list": lambda whole: whole["files"][0].update(key=[]),
    "found made missing": lambda whole: whole["outcomes"].update(tt0000001={"outcome": "missing", "reason": "unknown"}),
    "an unknown outcome": lambda whole: whole["outcomes"]["tt0000002"].update(outcome="lost"),
    "an outcome of null": lambda whole: whole["outcomes"]["tt0000002"].update(outcome=None),
    "an outcome of a list": lambda whole: whole["outcomes"]["tt0000002"].update(outcome=["found"]),
    "no outcome": lambda whole: whole["outcomes"]["tt0000002"].pop("outcome"),
    "outcomes of words": lambda whole: whole.update(outcomes=dict.fromkeys(IDS, "found")),
    "outcomes of null": lambda whole: whole.update(outcomes=None),
    "no outcomes": lambda whole: whole.pop("outcomes"),
    "fresh by no run": lambda whole: whole["outcomes"]["tt0000006"].pop("run"),
    "fresh by a malformed run": lambda whole: whole["outcomes"]["tt0000006"].update(run="../x"),
    "no time": lambda whole: whole.pop("landed_at"),
    "a time of a number": lambda whole: whole.update(landed_at=5),
    "a time of null": lambda whole: whole.update(landed_at=None),
    "no files' list": lambda whole: whole.pop("files"),
    "a file without digest": lambda whole: whole["files"][0].pop("sha256"),
    "a malformed digest": lambda whole: whole["files"][0].update(sha256="AB" * 32),
    "records of words": lambda whole: whole["files"][0].update(records="2"),
    "records of a fraction": lambda whole: whole["files"][0].update(records=2.0),
    "records below nothing": lambda whole: [
        file.update(records=records) for file, records in zip(whole["files"], (-1, 4), strict=True)
    ],
    "bytes below nothing": lambda whole: whole["files"][0].update(bytes=-1),
}


@pytest.mark.parametrize("contradiction", CONTRADICTIONS)
def test_a_receipt_that_contradicts_itself_is_not_believed(contradiction: str) -> None:
    """Tampered ids, wrong counts, unexpected or absent values: a CorruptLakeError that names the key."""
    receipt = a_receipt()
    whole = json.loads(encode_document(receipt))
    CONTRADICTIONS[contradiction](whole)
    with pytest.raises(CorruptLakeError) as caught:
        read(receipt, with_checksum(whole))
    assert str(caught.value).startswith(key_of(receipt))
    assert caught.value.exit_code == Exit.WRONG


@pytest.mark.parametrize(
    "outcome",
    [
        {"outcome": "missing"},
        {"outcome": "failed"},
        {"outcome": "missing", "reason": ["unknown"]},
        {"outcome": "failed", "reason": ""},
        {"outcome": "failed", "reason": "x" * 201},
    ],
)
def test_a_receipt_without_a_reason_is_not_believed(outcome: dict[str, Any]) -> None:
    """What is missing or failed has a reason; without one the totals could not be made, and the error names the key."""
    receipt = a_receipt()
    whole = json.loads(encode_document(receipt))
    whole["outcomes"]["tt0000002"] = outcome
    with pytest.raises(CorruptLakeError, match=receipt.batch):
        read(receipt, with_checksum(whole))


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"kind": "movie"},
        {"tmdb_id": 603},
        {"kind": "person", "tmdb_id": 603},
        {"kind": [], "tmdb_id": 603},
        {"kind": "movie", "tmdb_id": -1},
        {"kind": "movie", "tmdb_id": 2**63},
        {"kind": "movie", "tmdb_id": "603"},
        {"kind": "movie", "tmdb_id": True},
    ],
)
def test_a_title_found_nowhere_is_not_believed(where: dict[str, Any]) -> None:
    """A found title has a kind and TMDB's number, or nobody could say in which folder its record is."""
    receipt = a_receipt()
    whole = json.loads(encode_document(receipt))
    whole["outcomes"]["tt0000001"] = {"outcome": "found"} | where
    with pytest.raises(CorruptLakeError, match=receipt.batch):
        read(receipt, with_checksum(whole))


@pytest.mark.parametrize(
    "outcome",
    [
        {"outcome": "failed", "reason": "http_500", "kept": True},
        {"outcome": "failed", "reason": "http_500", "kept": True, "kind": "person"},
        {"outcome": "failed", "reason": "http_500", "kept": True, "kind": []},
        {"outcome": "failed", "reason": "http_500", "kept": True, "kind": None},
        {"outcome": "missing", "reason": "unknown", "kept": True, "kind": "movie"},
        {"outcome": "fresh", "run": OTHER_RUN, "kept": True, "kind": "movie"},
        {"outcome": "failed", "reason": "http_500"},
        {"outcome": "failed", "reason": "http_500", "kept": False, "kind": "movie"},
    ],
)
def test_a_record_kept_of_no_kind_or_no_failed_title_is_not_believed(outcome: dict[str, Any]) -> None:
    """Only a failed title's record is kept, and its kind is known; without it the files have a record too many."""
    receipt = a_receipt([*OUTCOMES, KEPT])
    whole = json.loads(encode_document(receipt))
    whole["outcomes"]["tt0000008"] = outcome
    with pytest.raises(CorruptLakeError, match=receipt.batch):
        read(receipt, with_checksum(whole))


def test_an_emptied_file_is_one_of_the_receipts_files() -> None:
    """A file that its batch no longer fills is named with 0 records, in either collection."""
    batch = batch_of(len(OUTCOMES))
    files = [
        a_file(batch, 2),
        a_file(batch, 0, number=2),
        a_file(batch, 1, collection="Series"),
        a_file(batch, 0, collection="Series", number=2),
    ]
    receipt = a_receipt(files=files)
    assert read(receipt, encode_document(receipt)).files == tuple(files)


def test_keys_that_are_not_known_are_ignored() -> None:
    """A later version of the same format may say more, of the batch, a file or a title: it is read all the same."""
    receipt = a_receipt([*OUTCOMES, KEPT])
    whole = json.loads(encode_document(receipt))
    whole |= {"colour": "red", "moved": {"tt0000003": {}}, "ids": 5}
    whole["files"][0] |= {"colour": ["red"]}
    for outcome in whole["outcomes"].values():
        outcome |= {"colour": None, "alias": "tt0000001"}
    decoded = read(receipt, with_checksum(whole))
    assert (decoded.batch, decoded.ids, decoded.files) == (receipt.batch, receipt.ids, receipt.files)
    assert decoded.recorded == receipt.recorded


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"5", b"null", b'"text"', b"{}", b'{"files":5}', b"\xff"])
def test_what_is_no_receipt_is_named_by_its_key(body: bytes) -> None:
    """A cut, foreign or empty object under a receipt's key is a CorruptLakeError, never a traceback."""
    key = LAYOUT.receipt_key("Movies", "tt0000001-tt0000007-00000000")
    with pytest.raises(CorruptLakeError, match=r"tt0000001-tt0000007-00000000\.json is not a receipt"):
        decode_receipt(LAYOUT, key, body)


@pytest.mark.parametrize(
    "key",
    [
        LAYOUT.receipt_key("Movies", "tt0000001-tt0000007-00000000"),
        LAYOUT.receipt_key("Series", a_receipt().batch),
        LAYOUT.receipt_key("Movies", "x" + a_receipt().batch),
        LAYOUT.receipt_key("Movies", f"x/{a_receipt().batch}"),
        LAYOUT.receipt_key("Movies", a_receipt().batch).replace(RUN, OTHER_RUN),
        a_receipt().batch + ".json",
    ],
)
def test_a_receipt_under_another_key_is_not_believed(key: str) -> None:
    """A good receipt that was copied to another batch's, collection's or run's key does not make that batch done."""
    with pytest.raises(CorruptLakeError) as caught:
        decode_receipt(LAYOUT, key, encode_document(a_receipt()))
    assert str(caught.value).startswith(key)
