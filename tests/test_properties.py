"""Properties across modules: any bytes, any answer, any record, any document, and what holds of all of them.

Two of them are also fuzz targets, in `fuzz/`, where a fuzzer that sees which branches it reaches looks further.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from conftest import gzip_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harvester.errors import CorruptLakeError, NewerFormatError
from harvester.formats.format import FILE_BYTES
from harvester.formats.registry import FORMATS, decode
from harvester.model.batch import Batch, cut
from harvester.model.documents import encode_document
from harvester.model.layout import Layout
from harvester.model.manifest import Digests, InputCounts, Manifest, Summary, Totals, decode_manifest, decode_summary
from harvester.model.outcome import Failed, Found, Fresh, Missing
from harvester.model.receipt import LandedFile, Receipt, decode_receipt, outcome_json
from harvester.model.record_options import RecordOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

FUZZ = Path(__file__).with_name("fuzz")

QUICK = settings(deadline=None, database=None, derandomize=True, max_examples=200)
"""The same examples everywhere, so that a change shows at once what it breaks."""


def load(name: str) -> ModuleType:
    """A fuzz target, which is no module of a package."""
    spec = importlib.util.spec_from_file_location(name, FUZZ / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RESPONSES, TITLES = load("fuzz_responses"), load("fuzz_titles")


@pytest.mark.parametrize("target", [RESPONSES, TITLES], ids=lambda target: target.__name__)
def test_the_fuzz_targets_still_hold_for_their_seeds(target: ModuleType) -> None:
    """Fuzzing begins with targets that work: each seed, whole and cut and with a byte changed."""
    assert len(target.SEEDS) >= 10
    for seed in target.SEEDS:
        target.check(seed)
        target.check(seed[: len(seed) // 2])
        target.check(seed[:-1] + b"\xff")


@pytest.mark.parametrize("name", ["fuzz_responses", "fuzz_titles"])
def test_a_fuzz_target_runs_or_says_what_it_lacks(name: str, tmp_path: Path) -> None:
    """`python tests/fuzz/….py -runs=1` fuzzes where atheris is installed, and is one clear sentence elsewhere."""
    command = [sys.executable, str(FUZZ / f"{name}.py"), "-runs=1"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, env=environment)
    assert list(tmp_path.glob("fuzz-*")) == []
    if importlib.util.find_spec("atheris"):
        assert run.returncode == 0
    else:
        assert (run.returncode, run.stderr.count("\n")) == (1, 1)
        assert run.stderr.startswith("atheris is not installed: pip install atheris")


# Reading

HEADERS = st.sampled_from(
    [b"id|t\n", b"id,t\n", b"t;id\n", b"tconst\tt\n", b"x\tid\r\n", b"\xef\xbb\xbfid\n", b'"id","t"\n', b""]
)
CSV_PIECES = st.one_of(
    st.sampled_from([b"tt0000001", b"tt0000002", b"304141.0", b"|", b",", b";", b"\t", b'"', b'""', b"\\", b" "]),
    st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\v", b"\x1c", b"\xc2\x85", b"\xe2\x80\xa8", b"\xc2\xa0"]),
    st.sampled_from([b"\xef\xbb\xbf", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf0\x9f\x8e\xac", b"\0", b"\xff"]),
    st.binary(max_size=3),
)
CSVS = st.tuples(HEADERS, st.lists(CSV_PIECES, max_size=40)).map(lambda parts: parts[0] + b"".join(parts[1]))
TEXTS = st.tuples(HEADERS, st.lists(CSV_PIECES, max_size=40)).map(
    lambda parts: parts[0] + b"tt0000009|,;\ttt0000009\n" + b"".join(parts[1]).decode(errors="ignore").encode()
)
ZIPPED = st.tuples(CSVS.map(gzip_of), st.integers(0, 20), st.binary(max_size=3)).map(
    lambda parts: parts[0][: len(parts[0]) - parts[1]] + parts[2]
)


@QUICK
@given(CSVS | TEXTS | ZIPPED | st.binary(max_size=60))
def test_any_bytes_are_accounted_for_or_refused(content: bytes) -> None:
    """Rows = ids + duplicates + rejected, or an InputError that is one sentence; zipped or not, it is the same."""
    TITLES.check(content)


# Answers

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from([-(2**63), 2**63 - 1, 2**63, 2**64 - 1, -1, 0, "7", "-7", "", "tt0133093", 0.1, -0.0]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["id", "imdb_id", "harvest", "success", "status_code", "status_message", "credits", "images", "title"]
ARRAYS = ["movie_results", "tv_results", "tv_episode_results", "tv_season_results"]
ROWS = st.lists(st.dictionaries(st.sampled_from(["id", "show_id", "name"]), JSON, max_size=3), max_size=2)
BODIES = st.builds(
    lambda plain, arrays: plain | arrays,
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), JSON, max_size=6),
    st.dictionaries(st.sampled_from(ARRAYS), ROWS | JSON, max_size=4),
)
RECORDS_OF_TMDB = BODIES.map(lambda body: body | {"id": 603})
STATUSES = st.sampled_from([200, 200, 200, 401, 403, 404, 429, 503]) | st.integers(0, 999)
RETRY_AFTER = st.none() | st.text(max_size=12) | st.integers(-5, 10**12).map(str) | st.datetimes().map(str)


@QUICK
@given(
    STATUSES,
    (BODIES | RECORDS_OF_TMDB).map(orjson.dumps) | JSON.map(orjson.dumps) | st.binary(max_size=40),
    RETRY_AFTER,
)
@example(503, b'{"status_code":34}', None)
def test_any_answer_ends_in_something_that_can_be_written(status: int, body: bytes, retry_after: str | None) -> None:
    """An object, `NotFound` or `Retry`, or a refused key; what is taken from an object comes back from its files."""
    RESPONSES.has_an_outcome(status, body, retry_after)


@pytest.mark.parametrize("levels", [250, 254, 300, 1_022])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"0}")], ids=["lists", "objects"])
def test_a_record_however_deep_ends_in_something_that_can_be_written(
    levels: int, brackets: tuple[bytes, bytes]
) -> None:
    """What is read of an answer is no deeper than what can be written of it, or one title would end every run."""
    opened, closed = brackets
    inside = opened * levels + (closed * levels if opened == b"[" else b"0" + b"}" * levels)
    RESPONSES.has_an_outcome(200, b'{"id":603,"x":' + inside + b"}", None)


@pytest.mark.parametrize("number", [b"1e19", b"1e300", b'"99999999999999999999"'])
@pytest.mark.parametrize(
    "body",
    [
        b'{"movie_results":[{"id":%b}],"tv_results":[]}',
        b'{"movie_results":[],"tv_results":[{"id":%b}]}',
        b'{"movie_results":[],"tv_results":[],"tv_episode_results":[{"show_id":%b}]}',
        b'{"movie_results":[],"tv_results":[],"tv_season_results":[{"show_id":%b}]}',
    ],
    ids=["movie", "tv", "episode", "season"],
)
def test_a_number_however_large_ends_in_something_that_can_be_written(body: bytes, number: bytes) -> None:
    """A number that fits into no receipt is no TMDB id, or one title would end every run."""
    RESPONSES.has_an_outcome(200, body % number, None)


# Batches

ID = st.integers(1, 9_999_999).map(lambda number: f"tt{number:07d}")
IDS = st.lists(ID, max_size=420, unique=True)


@QUICK
@given(IDS, st.data())
def test_each_id_is_in_one_batch_and_other_ids_make_other_names(ids: list[str], data: st.DataObject) -> None:
    """Every id in just one batch, no name twice; one id more, less or elsewhere renames its batch and none before."""
    batches = list(cut("Movies", ids))
    names = [batch.name for batch in batches]
    assert [id_ for batch in batches for id_ in batch.ids] == ids
    assert len(set(names)) == len(names) == -(-len(ids) // 100)
    if not ids:
        return
    index = data.draw(st.integers(0, len(ids) - 1))
    changed = data.draw(
        st.sampled_from(
            [
                ids[:index] + ids[index + 1 :],
                [*ids[:index], "tt10000000", *ids[index:]],
                [*ids[:index], "tt10000000", *ids[index + 1 :]],
                [*ids[:index], *reversed(ids[index : index + 2]), *ids[index + 2 :]],
            ]
        )
    )
    for old, new in zip(batches, cut("Movies", changed), strict=False):
        assert (old.name == new.name) == (old.ids == new.ids)
    assert [batch.name for batch in cut("Movies", changed)][: index // 100] == names[: index // 100]


# Records

RECORDS = st.lists(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), JSON, max_size=5), max_size=12)


@settings(QUICK, max_examples=60)
@given(RECORDS, st.sampled_from([0, 1, 88, 99, 100, 215]), st.sampled_from(list(FORMATS)))
def test_any_records_come_back_from_their_files(records: list[dict[str, Any]], few: int, form: str) -> None:
    """Nothing is renamed, dropped, rounded or moved, nor by another reader of JSON; 100 records and 10 MB at most."""
    lines = [orjson.dumps(record) for record in [*records, *({"id": number} for number in range(few))]]
    files = list(FORMATS[form].encode(lines))
    assert [orjson.dumps(record) for file in files for record in decode(file.body)] == lines
    assert [file.records for file in files] == [len(decode(file.body)) for file in files]
    assert max((file.records for file in files), default=0) <= 100
    assert max((len(file.body) for file in files), default=0) <= FILE_BYTES
    for file in files:
        whole = file.body if form == "array" else b"[" + b",".join(file.body.splitlines()) + b"]"
        assert json.loads(whole) == [json.loads(orjson.dumps(record)) for record in decode(file.body)]


# Documents

RUN = "2026-11-22-3f9a1c2e"
LAYOUT = Layout("Raw/API", "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json", RUN)
KEPT = {"outcome": "failed", "reason": "http_500", "kept": True, "kind": "movie", "tmdb_id": 607}
OUTCOMES = [
    outcome_json("tt0137523", Found("movie", 603, {})),
    outcome_json("tt0137523", Missing("unknown")),
    outcome_json("tt0137523", Found("tv", 1399, {})),
    outcome_json("tt0137523", Missing("episode", 1396)),
    outcome_json("tt0137523", Fresh("2026-11-22-00000001")),
    outcome_json("tt0137523", Failed("timeout")),
    KEPT,
]
BATCH = Batch("Movies", tuple(f"tt{number:07d}" for number in range(1, len(OUTCOMES) + 1)))
RECEIPT = Receipt(
    batch=BATCH.name,
    collection=BATCH.collection,
    run=RUN,
    generation="5d1c0b7a5d1c0b7a",
    attempt="a77e3b7a",
    files=(
        LandedFile(LAYOUT.data_key("Movies", BATCH.name), 2, 2_000, "ab" * 32, "cd-1"),
        LandedFile(LAYOUT.data_key("Movies", BATCH.name, 2), 0, 0, "ab" * 32, "cd-2"),
        LandedFile(LAYOUT.data_key("Series", BATCH.name), 1, 1_000, "ab" * 32, "cd-3"),
    ),
    outcomes=dict(zip(BATCH.ids, OUTCOMES, strict=True)),
    landed_at="2026-11-22T10:00:00.000Z",
)
RECEIPT_KEY = LAYOUT.receipt_key("Movies", BATCH.name)
MANIFEST = Manifest(
    run=RUN,
    generation="5d1c0b7a5d1c0b7a",
    created_at="2026-11-22T09:00:00.000Z",
    input={"Movies": InputCounts("m.csv", 10, 8, 1, 1), "Series": InputCounts("s.csv", 0, 0, 0, 0)},
    options=RecordOptions("pt-BR", ("credits",), "jsonl", LAYOUT.template),
    batches={"Movies": [BATCH.name], "Series": []},
    fresh=1,
    ids_sha256="12" * 32,
    unknown={"colour": ["red", {"a": 1}]},
)
TOTALS = MANIFEST.totals()
TOTALS.add_receipt(RECEIPT)
SUMMARY = Summary(
    run=RUN,
    generation="5d1c0b7a5d1c0b7a",
    closed_at="2026-11-22T11:00:00.000Z",
    totals=TOTALS.as_json(),
    digests=Digests("ab" * 32, "cd" * 32, "ef" * 32),
    unknown={"colour": ["red", {"a": 1}]},
)

GONE = object()
"""Instead of a value: it is taken away, key and all."""


def places_in(value: Any) -> list[tuple[str | int, ...]]:
    """The way to every value within a JSON value, the whole of it first."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    if isinstance(value, list):
        inner = list(enumerate(value))
    return [(), *((step, *rest) for step, below in inner for rest in places_in(below))]


def changed(whole: Any, changes: list[tuple[tuple[str | int, ...], Any]]) -> Any:
    """A JSON value with other values at these places; a index that is there no more is left alone."""
    whole = {"root": orjson.loads(orjson.dumps(whole))}
    for path, value in changes:
        *way, last = ("root", *path)
        inside = whole
        try:
            for step in way:
                inside = inside[step]
            if value is GONE:
                del inside[last]
            elif isinstance(inside, dict) == isinstance(last, str):  # a list may have become an object
                inside[last] = copy.deepcopy(value)  # or the next change would go into the one that all examples share
        except (KeyError, IndexError, TypeError):
            continue
    return whole.get("root")


def changes_of(whole: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The value with one to three places changed, into any of these values."""
    one = st.tuples(st.sampled_from(places_in(whole)), st.just(GONE) | values)
    return st.lists(one, min_size=1, max_size=3).map(lambda changes: changed(whole, changes))


def cuts_of(body: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a piece of them replaced by others."""
    return st.tuples(st.integers(0, len(body)), st.integers(0, 30), st.binary(max_size=6)).map(
        lambda parts: body[: parts[0]] + parts[2] + body[parts[0] + parts[1] :]
    )


def with_checksum(whole: Any) -> bytes:
    """A document with the checksum that fits what it says: no key is needed to make one."""
    if not isinstance(whole, dict):
        return orjson.dumps(whole)
    rest = {name: value for name, value in whole.items() if name != "checksum"}
    return orjson.dumps(rest | {"checksum": hashlib.sha256(orjson.dumps(rest)).hexdigest()})


WHOLE_RECEIPT, WHOLE_MANIFEST, WHOLE_SUMMARY = (
    orjson.loads(encode_document(document)) for document in (RECEIPT, MANIFEST, SUMMARY)
)
VALUES = JSON | st.sampled_from(
    [
        {},
        [],
        [[]],
        "x" * 5_000,
        "../../x",
        "{prefix:>999999999}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json",
        "{prefix!r:{prefix}}",
        "Finance/ledger.parquet",
        RUN,
        f"{RUN}\n",
        BATCH.name,
        LAYOUT.manifest_key,
        WHOLE_RECEIPT["files"],
        WHOLE_RECEIPT["outcomes"],
        {"Movies": [BATCH.name] * 3},
        {"Movies": {}},
        {BATCH.ids[0]: KEPT},
        *OUTCOMES,
        2**63,
        10**18,
    ]
)
"""Any JSON, and what is as large, as deep or as misleading as the values that it stands for."""


def forged(whole: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A document of the right keys: arbitrary JSON under some or all of them, with a valid checksum or not."""
    whole = {name: value for name, value in whole.items() if name != "checksum"}
    some_of_them = st.dictionaries(st.sampled_from(sorted(whole)), VALUES, max_size=3).map(
        lambda values: whole | values
    )
    formats = st.just(1) | st.sampled_from([2, 0, -1, None, True, 1.0, "1", [1], 2**63])
    all_of_them = st.fixed_dictionaries(dict.fromkeys(whole, VALUES) | {"format": formats})
    documents = some_of_them | all_of_them | changes_of(whole, VALUES)
    return documents.map(with_checksum) | documents.map(orjson.dumps)


def read(decode_document: Callable[[bytes], Any], key: str, body: bytes) -> Any:
    """The document in `body`; None if it is none, or a newer one, and was refused in a sentence that names the key."""
    try:
        return decode_document(body)
    except (CorruptLakeError, NewerFormatError) as error:
        sentence = str(error)
    assert sentence.startswith(key)
    assert len(sentence) < 1_000
    assert "\n" not in sentence
    return None


@settings(QUICK, max_examples=400)
@given(forged(WHOLE_RECEIPT) | cuts_of(encode_document(RECEIPT)) | st.binary(max_size=40))
@example(with_checksum(WHOLE_RECEIPT))
def test_any_document_is_a_receipt_or_refused(body: bytes) -> None:
    """Cut, edited or forged: refused by its key, or a receipt of the ids of its key that names no file but its own."""
    receipt = read(lambda some: decode_receipt(LAYOUT, RECEIPT_KEY, some), RECEIPT_KEY, body)
    if receipt is None:
        return
    assert (receipt.ids, receipt.batch, receipt.collection, receipt.run) == (BATCH.ids, BATCH.name, "Movies", RUN)
    assert len(receipt.recorded) == sum(file.records for file in receipt.files)
    assert set(receipt.recorded.values()) <= {"movie", "tv"}
    keys = [LAYOUT.data_key(name, BATCH.name, number) for name in ("Movies", "Series") for number in range(1, 101)]
    assert {file.key for file in receipt.files} <= set(keys)
    totals = Totals()
    totals.add_receipt(receipt)
    assert (totals.with_outcome, totals.batches) == (len(BATCH.ids), 1)
    assert json.loads(json.dumps(totals.as_json())) == totals.as_json()
    assert decode_receipt(LAYOUT, RECEIPT_KEY, encode_document(receipt)) == receipt


@settings(QUICK, max_examples=400)
@given(forged(WHOLE_MANIFEST) | cuts_of(encode_document(MANIFEST)) | st.binary(max_size=40))
@example(with_checksum(WHOLE_MANIFEST))
def test_any_document_is_a_manifest_or_refused(body: bytes) -> None:
    """Cut, edited or forged: refused by its key, or a manifest of its run whose keys lie below the prefix."""
    manifest = read(lambda some: decode_manifest(LAYOUT, some), LAYOUT.manifest_key, body)
    if manifest is None:
        return
    assert manifest.run == RUN
    for batch in manifest.names:
        theirs = Layout(LAYOUT.prefix, manifest.options.key_template, manifest.run)
        file = theirs.parse(theirs.data_key("Movies", batch))
        assert file
        assert (file.collection, file.batch) == ("Movies", batch)
        assert theirs.data_folder("Movies").startswith("Raw/API/")
        assert not theirs.data_folder("Movies").startswith("Raw/API/_")
        assert LAYOUT.receipt_key("Movies", batch).startswith(LAYOUT.receipts)
    assert LAYOUT.generation_of(LAYOUT.ids_key(manifest.generation)) == manifest.generation
    totals = manifest.totals()
    assert totals.rows == totals.ids + totals.duplicates + totals.rejected
    assert len(manifest.options.fingerprint({"Movies": BATCH.ids})) == 8
    assert decode_manifest(LAYOUT, encode_document(manifest)) == manifest


@settings(QUICK, max_examples=400)
@given(forged(WHOLE_SUMMARY) | cuts_of(encode_document(SUMMARY)) | st.binary(max_size=40))
@example(with_checksum(WHOLE_SUMMARY))
def test_any_document_is_a_summary_or_refused(body: bytes) -> None:
    """Cut, edited or forged: refused by its key, or a summary of its run whose totals can be read."""
    summary = read(lambda some: decode_summary(LAYOUT, some), LAYOUT.summary_key, body)
    if summary is None:
        return
    assert summary.run == RUN
    totals = Totals.of_json(summary.totals)
    assert (totals.missing.total(), totals.failed.total()) == (summary.totals["missing"], summary.totals["failed"])
    assert totals.as_json().items() <= summary.totals.items()
    assert decode_summary(LAYOUT, encode_document(summary)) == summary


def many(text: str, count: int) -> str:
    return ",".join([text] * count)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batches", f'{{"Movies":[{many("1", 10**6)}],"Series":[]}}'),
        ("batches", f'{{"Movies":[{many("[]", 10**6)}],"Series":[]}}'),
        ("batches", f'{{"Movies":[{many(chr(34) * 2, 10**6)}],"Series":[]}}'),
        ("files", f"[{many('{}', 10**6)}]"),
        ("outcomes", "{" + ",".join(f'"{n}":0' for n in range(10**6)) + "}"),
        ("totals", "{" + ",".join(f'"{n}":-1' for n in range(10**6)) + "}"),
        ("generation", f'"{"f" * 10**7}"'),
        ("run", f'"{"2026-11-22-" * 10**6}"'),
        ("run", "9" * 10**6),
        ("colour", f"[{many('[]', 10**6)}]"),
        ("colour", "[" * 10**6),
    ],
    ids=lambda value: value[:12],
)
@pytest.mark.parametrize("which", ["receipt", "manifest", "summary"])
def test_a_large_document_is_refused_within_seconds_and_in_a_sentence(which: str, name: str, value: str) -> None:
    """A million values that are none: seconds of CPU time at most, and neither the memory nor the message to match."""
    key, document, decode_it = {
        "receipt": (RECEIPT_KEY, RECEIPT, lambda some: decode_receipt(LAYOUT, RECEIPT_KEY, some)),
        "manifest": (LAYOUT.manifest_key, MANIFEST, lambda some: decode_manifest(LAYOUT, some)),
        "summary": (LAYOUT.summary_key, SUMMARY, lambda some: decode_summary(LAYOUT, some)),
    }[which]
    whole = orjson.loads(encode_document(document))
    whole.pop(name, None)
    body = orjson.dumps(whole).removesuffix(b"}") + f',"{name}":{value}}}'.encode()
    gc.disable()  # it would look through whatever earlier tests have left, again and again
    started, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert read(decode_it, key, body) is None
        assert time.process_time() - started < 10
    finally:
        gc.enable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # kilobytes
