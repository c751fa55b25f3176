"""Format: the protocol of a file format, and functions that text formats share.

A new format is a module with a class of this protocol, a line in `registry.FORMATS`, and its name in
`model.record_options.OUTPUT_FORMATS`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harvester.model.batch import BATCH_SIZE
from harvester.model.lossless_json import loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FILE_BYTES = 10_000_000
"""Bytes of one file, at most (the data lake's rule is 10 MB). A larger record has its own file."""


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of one data file, and its number of records."""

    body: bytes
    records: int


class Format(Protocol):
    """Encodes records into files and decodes them."""

    name: str  # as in the setting OUTPUT_FORMAT
    content_type: str
    magic: bytes  # the first bytes of every file, unique to the format; empty only for JSON Lines

    def encode(self, lines: Iterable[bytes]) -> Iterator[File]:
        """Files of `lines`, a record each, in their order; lines are consumed only as files need them."""

    def empty_file(self) -> File:
        """A file without records, for a batch that no longer fills it."""

    def decode(self, body: bytes) -> list[dict[str, Any]]:
        """The records of a file; a ValueError if it is of another format."""

    def decode_readable(self, body: bytes) -> list[dict[str, Any]]:
        """The records that can still be read in a damaged file, perhaps none; no ValueError."""


def join_lines(lines: Iterable[bytes], *, head: bytes, between: bytes, tail: bytes) -> Iterator[File]:
    """Files of `lines` in their order, as few as the limits allow; lines are consumed only as files need them."""
    pending: list[bytes] = []
    size = 0

    def file() -> File:
        records, body = len(pending), head + between.join(pending) + tail
        pending.clear()  # to save memory while the file lands
        return File(body, records)

    for line in lines:
        if pending and (len(pending) == BATCH_SIZE or size + len(line) + len(head + tail) > FILE_BYTES):
            yield file()
            size = 0
        pending.append(line)
        size += len(line) + len(between)
    if pending:
        yield file()


def readable_lines(body: bytes) -> list[dict[str, Any]]:
    """The records of those lines that are a JSON object, or an array of objects."""
    records = []
    for line in body.split(b"\n"):
        with suppress(ValueError):
            records += only_records(loads(line) if line.startswith(b"[") else [loads(line)])
    return records


def only_records(values: Any) -> list[dict[str, Any]]:
    """The same `values`; a ValueError if they are not a list of JSON objects."""
    if not (isinstance(values, list) and all(isinstance(value, dict) for value in values)):
        raise ValueError("not a list of JSON objects")
    return values
