"""Formats by their names in OUTPUT_FORMAT: a new format is a module and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.formats.json_array import JsonArray
from harvester.formats.jsonl import JsonLines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.formats.format import Format

_JSON_LINES = JsonLines()
_FORMATS: tuple[Format, ...] = (_JSON_LINES, JsonArray())

FORMATS: Mapping[str, Format] = {each.name: each for each in _FORMATS}


def decode(body: bytes) -> list[dict[str, Any]]:
    """The records of a data file, whose format its first bytes show; a ValueError if it has none of the formats."""
    file_format = next((each for each in _FORMATS if each.begins and body.startswith(each.begins)), _JSON_LINES)
    return file_format.decode(body)
