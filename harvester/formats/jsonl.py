"""JSON Lines: one record per line, with a line end after each; Athena, Glue, DuckDB and Spark read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.formats.format import File, join_lines, only_records, readable_lines
from harvester.model.lossless_json import CONTENT_TYPE, loads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class JsonLines:
    """The format `jsonl`."""

    name = "jsonl"
    content_type = CONTENT_TYPE
    magic = b""  # the first bytes are of the first record

    def encode(self, lines: Iterable[bytes]) -> Iterator[File]:
        """Files with one record per line."""
        return join_lines(lines, head=b"", between=b"\n", tail=b"\n")

    def empty_file(self) -> File:
        """A file of 0 bytes."""
        return File(b"", 0)

    def decode(self, body: bytes) -> list[dict[str, Any]]:
        """The records of the lines; empty lines are skipped."""
        return only_records([loads(line) for line in body.split(b"\n") if line])

    def decode_readable(self, body: bytes) -> list[dict[str, Any]]:
        """The records of the lines that can be read."""
        return readable_lines(body)
