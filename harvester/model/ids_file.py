"""Ids files: the frozen ids of a generation and the outcomes of a run, as JSON Lines in gzip.

Both are in the order of the input, and equal content gives equal bytes. They are read as data from outside, in bounded
memory; a file that is incomplete, damaged or of another form is a ValueError.
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from heapq import merge
from itertools import chain, count, repeat
from typing import TYPE_CHECKING, Any

import orjson

from harvester.model.ids import KINDS, is_title_id
from harvester.model.layout import RUN_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from harvester.model.ids import Collection, TitleId
    from harvester.model.inputs import InputIds

GZIP_BYTES, UNPACKED_BYTES, LINE_BYTES = 2**28, 2**30, 2**16
"""Bytes read at most: of a stored file, unpacked, and of one line. 19 million ids of 56 bytes are 2**30 unpacked."""


@dataclass(frozen=True, slots=True)
class FrozenIds:
    """Ids in order, fresh ids with the run that has them, and counts of rejects. Empty collections have no key."""

    ids: dict[Collection, list[TitleId]]
    fresh: dict[TitleId, str]
    rejected: dict[Collection, int]


def encode_ids(inputs: Mapping[Collection, InputIds], fresh: Mapping[TitleId, str]) -> bytes:
    """The file of all ids and rejected rows, by collection and line; `fresh` maps an id to the run that has it."""
    return _pack(chain.from_iterable(_merged(collection, ids, fresh) for collection, ids in inputs.items()))


def decode_ids(body: bytes) -> FrozenIds:
    """The ids in `body`, as `encode_ids` writes them. Unknown keys are ignored."""
    frozen = FrozenIds({}, {}, {})
    for row in decode_rows(body):
        collection, id_ = row["collection"], row.get("id")
        if id_ is None:
            frozen.rejected[collection] = frozen.rejected.get(collection, 0) + 1
            continue
        frozen.ids.setdefault(collection, []).append(id_)
        if "fresh" in row:
            frozen.fresh[id_] = row["fresh"]
    return frozen


def decode_rows(body: bytes) -> Iterator[dict[str, Any]]:
    """The rows of an ids file: `collection`, `line`, and `id`, or why it was `rejected`, with its first characters.

    The checksum comes last: do not rely on any row before all are read.
    """
    seen, latest = set[str](), dict[str, int]()
    for row in _unpack(body, _is_row):
        collection, line, id_ = row["collection"], row["line"], row.get("id")
        if id_ in seen or line <= latest.get(collection, 0):  # the latter also stops a bomb of one repeated row
            raise ValueError(f"line {line} of {collection} is out of order, or its id {id_!r} is there twice")
        latest[collection] = line
        if id_:
            seen.add(id_)
        yield row


def encode_outcomes(outcomes: Iterable[Mapping[str, Any]]) -> bytes:
    """The file of all outcomes: in each line an `id`, and its outcome as in a receipt."""
    return _pack(outcomes)


def decode_outcomes(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each id and its outcome, in order, as `encode_outcomes` writes them. Duplicate ids are not removed.

    The checksum comes last: do not rely on any outcome before all are read.
    """
    return ((row.pop("id"), row) for row in _unpack(body, _is_outcome))


def _merged(collection: Collection, ids: InputIds, fresh: Mapping[TitleId, str]) -> Iterator[dict[str, Any]]:
    texts = {reject.line: {"text": reject.text} for reject in ids.rejects}
    for line, id_ in merge(zip(ids.lines, ids.ids, strict=True), zip(ids.rejected_lines, repeat(""))):
        row = {"collection": collection, "line": line}
        owner = {"fresh": fresh[id_]} if id_ in fresh else {}
        yield {"id": id_} | row | owner if id_ else row | {"rejected": "no_id"} | texts.get(line, {})


def _pack(rows: Iterable[Mapping[str, Any]]) -> bytes:
    packed, compressor = io.BytesIO(), zlib.compressobj(wbits=31)  # gzip without a time; GzipFile takes twice as long
    for row in rows:
        packed.write(compressor.compress(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)))
    packed.write(compressor.flush())
    return packed.getvalue()


def _unpack(body: bytes, is_valid: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    if not 0 < len(body) <= GZIP_BYTES:
        raise ValueError(f"it has {len(body)} bytes, not 1 to {GZIP_BYTES}")
    left, stream = UNPACKED_BYTES, io.BufferedReader(gzip.GzipFile(fileobj=io.BytesIO(body)), LINE_BYTES)
    for number in count(1):
        try:
            line = stream.readline(LINE_BYTES)
            left -= len(line)
            row = orjson.loads(line) if left >= 0 and line.endswith(b"\n") else None
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"line {number} cannot be read: {error}") from error
        if not line:
            return
        if not isinstance(row, dict) or not is_valid(row):
            raise ValueError(f"line {number} is too long, or not a line of such a file")
        yield row


def _is_row(row: dict[str, Any]) -> bool:
    collection, line = row.get("collection"), row.get("line")
    if not isinstance(collection, str) or collection not in KINDS or type(line) is not int or line < 1:
        return False
    if "rejected" in row:
        return isinstance(row["rejected"], str) and isinstance(row.get("text", ""), str) and "id" not in row
    return is_title_id(row.get("id")) and ("fresh" not in row or _is_run(row["fresh"]))


def _is_outcome(row: dict[str, Any]) -> bool:
    match row:
        case {"id": id_, "outcome": "found", "kind": "movie" | "tv", "tmdb_id": int()}:
            return is_title_id(id_)
        case {"id": id_, "outcome": "missing" | "failed", "reason": str()}:
            return is_title_id(id_)
        case {"id": id_, "outcome": "fresh", "run": run}:
            return is_title_id(id_) and _is_run(run)
    return False


def _is_run(value: object) -> bool:
    return isinstance(value, str) and RUN_NAME.fullmatch(value) is not None
