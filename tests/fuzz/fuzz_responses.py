"""A fuzz target: every response of TMDB gives an outcome, which is the same after it was written and read back.

    python tests/fuzz/fuzz_responses.py -max_total_time=300

An input is a status, `Retry-After` and a line end, followed by the body. Needs atheris, coverage-guided (PyPI, Linux);
without it the property is still tested, by tests/test_properties.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, get_args

try:
    import atheris
except ImportError:  # only `check` works without it
    atheris = None

with atheris.instrument_imports() if atheris else nullcontext():
    import orjson

    from harvester.errors import TmdbRefusedError
    from harvester.formats.registry import FORMATS, decode
    from harvester.model.batch import Batch
    from harvester.model.documents import encode_document
    from harvester.model.ids import KINDS, Kind
    from harvester.model.layout import Layout
    from harvester.model.outcome import Found, Missing
    from harvester.model.receipt import LandedFile, Receipt, decode_receipt, outcome_json
    from harvester.model.record import record_line
    from harvester.tmdb.responses import (
        CANDIDATES,
        Candidates,
        Match,
        NotFound,
        Response,
        Retry,
        classify,
        read_find,
        read_record,
    )

SEEDS = (
    b'200 \n{"id":603,"imdb_id":"tt0133093","title":"Matrix","vote_average":8.2}',
    b'200 \n{"id":1399,"harvest":{"kind":"movie"},"imdb_id":null,"credits":{"cast":[]}}',
    b'200 \n{"movie_results":[],"tv_results":[{"id":1399,"popularity":1e3}]}',
    b'200 \n{"movie_results":[],"tv_results":[],"tv_episode_results":[{"show_id":1396}]}',
    b'200 \n{"movie_results":[],"tv_results":[],"tv_season_results":[{"show_id":-1}]}',
    b'200 \n{"success":false,"status_code":34}',
    b"200 \n\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00",
    b'404 \n{"status_code":34,"status_message":"The resource you requested could not be found."}',
    b'401 \n{"status_code":7,"status_message":"Invalid API key: You must be granted a valid key."}',
    b"429 Sun, 22 Nov 2026 10:00:30 GMT\n",
    b"429 7\n{}",
    b'403 \n{"message":"Forbidden"}',
    b"503 \n<html>",
    b'200 \n{"id":603,"imdb_id":"tt0133093","revenue":123456789012345678901234567890,"popularity":1e400}',
    b'200 \n{"id":603,"imdb_id":"\\ud83d","title":"\\ud83d","harvest":{"x":1.10}}',
    b'200 \n{"id":1399,"external_ids":{"imdb_id":"tt0944947"},"adult":true,"adult":false}',
    b'200 \n{"movie_results":[{"id":603},{"id":604}],"tv_results":[{"id":true}]}',
)

DATE = "Sun, 22 Nov 2026 10:00:00 GMT"
LAYOUT = Layout("Raw/API", "{prefix}/{collection}/{yyyy}/{mm}/{dd}/{batch}.json", "2026-11-22-3f9a1c2e")
IDS = ("tt0133093", "tt0944947")
COLLECTIONS = {kind: collection for collection, kind in KINDS.items()}


def check(data: bytes) -> None:
    """Check the property for one input of the fuzzer."""
    head, _, body = data.partition(b"\n")
    status, _, retry_after = head.decode("latin-1").partition(" ")
    has_an_outcome(int(status) if status.isascii() and status.isdigit() else 200, body, retry_after or None)


def has_an_outcome(status: int, body: bytes, retry_after: str | None) -> None:
    """Check that a response is classified; and, if it is an object, that it can be written as either kind."""
    match verdict(Response(status, body, DATE, retry_after)):
        case TmdbRefusedError() as error:
            assert error.status == status
            assert status == 401 or (status == 403 and error.code is not None)
        case NotFound():
            assert status == 404
        case Retry(retry_after=seconds) as retry:
            assert retry.is_rate_limit == (status == 429)
            assert seconds is None or (status == 429 and seconds >= 0)
        case dict(whole):
            assert status == 200
            for kind in get_args(Kind):
                is_written(whole, kind)
        case unexpected:
            raise AssertionError(unexpected)


def verdict(response: Response) -> object:
    """What `classify` returns, or the one exception that it may raise."""
    try:
        return classify(response)
    except TmdbRefusedError as error:
        return error


def is_written(body: dict[str, Any], kind: Kind) -> None:
    """Check that the record and the receipt made from `body` are the same after writing and reading."""
    record, candidates = read_record(body, kind, asked=("credits", "images"), known=("credits",)), read_find(body, kind)
    match candidates:
        case Candidates(matches, Missing()):
            assert all(isinstance(each, Match) for each in matches)
            assert len(set(matches)) == len(matches) <= 2 * CANDIDATES
        case _:
            assert candidates == Retry("bad_body")
    found = record.partial_record if isinstance(record, Retry) else record
    missing = candidates.missing if isinstance(candidates, Candidates) else None
    outcomes = [outcome for outcome in (found, missing) if isinstance(outcome, Found | Missing)]
    lines = []
    line = record_line(IDS[0], found, language=None, fetched_at="2026-11-22T10:00:00.000Z") if found else None
    if found and not line:
        outcomes.remove(found)  # nested too deeply to be written: a failed title, which is allowed
    if line:
        lines.append(line)
        for format_ in FORMATS.values():
            [file] = format_.encode(lines)
            [landed] = decode(file.body)
            assert landed["imdb_id"] == IDS[0]
            assert orjson.dumps(without_ours(landed)) == orjson.dumps(without_ours(body))
    for collection in COLLECTIONS.values() if outcomes else ():  # of its own kind, and of a reclassified title
        batch = Batch(collection, IDS[: len(outcomes)])
        key = LAYOUT.data_key(COLLECTIONS[kind], batch.name)
        receipt = Receipt(
            batch=batch.name,
            collection=batch.collection,
            run=LAYOUT.run,
            generation="5d" * 8,
            attempt=None,
            files=(LandedFile(key, len(lines), len(lines[0]), "ab" * 32, '"cd"'),) if lines else (),
            outcomes=dict(zip(batch.ids, map(outcome_json, batch.ids, outcomes), strict=True)),
            landed_at="2026-11-22T10:00:00.000Z",
        )
        key = LAYOUT.receipt_key(batch.collection, batch.name)
        assert decode_receipt(LAYOUT, key, encode_document(receipt)) == receipt


def without_ours(record: dict[str, Any]) -> dict[str, Any]:
    """TMDB's part of a record: all but the two keys that the harvester adds."""
    return {key: value for key, value in record.items() if key not in {"imdb_id", "harvest"}}


if __name__ == "__main__":
    from fuzzing import fuzz

    fuzz(atheris, check, SEEDS)
