"""Records: found titles become encoded files of at most 100 records and 10 MB.

A record is TMDB's own object with two keys in front, `imdb_id` and `harvest`. Floats are written as the shortest text
that reads back as the same 64-bit number, so nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

from harvester.model.batch import BATCH_SIZE
from harvester.model.exact_json import loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harvester.model.outcome import Found

Format = Literal["jsonl", "array"]

FILE_BYTES = 10_000_000
"""Bytes of one file at most (the data lake's rule is 10 MB). A single record that is larger has a file to itself."""


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of one data file, and how many records they are."""

    body: bytes
    records: int


def record_line(id_: str, found: Found, *, language: str | None, fetched_at: str) -> bytes | None:
    """The record of `id_` as one line of JSON, without a line end; None if it cannot be written.

    JSON nested over 254 levels deep cannot, though it can be read to 1,024 (orjson). `imdb_id` is the id that was asked
    for. TMDB's own, if it has one and it is another (it can be null), is kept in `harvest.tmdb_imdb_id`, and a key
    `harvest` of TMDB's own, which it has never had, in `harvest.tmdb_harvest`.
    """
    harvest: dict[str, Any] = {"kind": found.kind, "tmdb_id": found.tmdb_id}
    harvest |= {"fetched_at": fetched_at, "language": language}
    if found.missing_parts:
        harvest["missing_parts"] = found.missing_parts
    if found.other_id:
        harvest["tmdb_imdb_id"] = found.other_id
    elif found.record.get("imdb_id", id_) != id_:
        harvest["tmdb_imdb_id"] = found.record["imdb_id"]
    if "harvest" in found.record:
        harvest["tmdb_harvest"] = found.record["harvest"]
    ours = {"imdb_id": id_, "harvest": harvest}
    try:
        return orjson.dumps(ours | found.record | ours)
    except orjson.JSONEncodeError:
        return None


def encode(lines: Iterable[bytes], form: Format) -> Iterator[File]:
    """Files of `lines` in their order, as few as the limits allow; lines are drawn as files need them.

    `jsonl` has a record a line, `array` is one compact JSON array on one line, which Spark reads both ways.
    """
    head, between, tail = (b"", b"\n", b"\n") if form == "jsonl" else (b"[", b",", b"]\n")
    some: list[bytes] = []
    size = 0

    def file() -> File:
        records, body = len(some), head + between.join(some) + tail
        some.clear()  # memory: they are not needed while the file lands
        return File(body, records)

    for line in lines:
        if some and (len(some) == BATCH_SIZE or size + len(line) + len(head + tail) > FILE_BYTES):
            yield file()
            size = 0
        some.append(line)
        size += len(line) + len(between)
    if some:
        yield file()


def empty_file(form: Format) -> File:
    """A file without records, for a batch that no longer fills one; readers find nothing in it."""
    return File(b"" if form == "jsonl" else b"[]", 0)


def decode(body: bytes) -> list[dict[str, Any]]:
    """The records of a data file; a ValueError if it is neither JSON Lines nor a JSON array."""
    is_array = body.startswith(b"[")
    records: list[Any] = loads(body) if is_array else [loads(line) for line in body.split(b"\n") if line]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("not a list of JSON objects")
    return records
