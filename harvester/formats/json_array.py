"""JSON array: all records of a file as one compact array on one line; Spark reads it with or without `multiline`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.formats.format import File, join_lines, only_records, readable_lines
from harvester.model.lossless_json import CONTENT_TYPE, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class JsonArray:
    """The format `array`."""

    name = "array"
    content_type = CONTENT_TYPE
    magic = b"["

    def encode(self, lines: Iterable[bytes]) -> Iterator[File]:
        """Files with one array on one line."""
        return join_lines(lines, head=b"[", between=b",", tail=b"]\n")

    def empty_file(self) -> File:
        """A file with an empty array."""
        return File(b"[]", 0)

    def decode(self, body: bytes) -> list[dict[str, Any]]:
        """The records of the array."""
        return only_records(loads(body))

    def decode_readable(self, body: bytes) -> list[dict[str, Any]]:
        """The records of the lines that can be read."""
        return readable_lines(body)
