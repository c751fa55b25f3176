"""Format: the short protocol of a file format, and what the formats that are text share.

A new format is a module with a class that fulfils it, and a line in `registry.FORMATS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harvester.model.batch import BATCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FILE_BYTES = 10_000_000
"""Bytes of one file at most (the data lake's rule is 10 MB). A single record that is larger has a file to itself."""


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of one data file, and how many records they are."""

    body: bytes
    records: int


class Format(Protocol):
    """How records become files and come back. `begins` is how a file begins, where no other format begins so."""

    name: str  # as in the setting OUTPUT_FORMAT
    content_type: str
    begins: bytes

    def encode(self, lines: Iterable[bytes]) -> Iterator[File]:
        """Files of `lines`, a record each, in their order; lines are drawn as files need them."""

    def empty_file(self) -> File:
        """A file without records, for a batch that no longer fills one; readers find nothing in it."""

    def decode(self, body: bytes) -> list[dict[str, Any]]:
        """The records of a file; a ValueError if it is of another format."""


def join_lines(lines: Iterable[bytes], *, head: bytes, between: bytes, tail: bytes) -> Iterator[File]:
    """Files of `lines` in their order, as few as the limits allow; lines are drawn as files need them."""
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


def only_records(values: Any) -> list[dict[str, Any]]:
    """The same values; a ValueError if they are no list of JSON objects."""
    if not (isinstance(values, list) and all(isinstance(value, dict) for value in values)):
        raise ValueError("not a list of JSON objects")
    return values
