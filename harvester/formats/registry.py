"""Formats by their names in OUTPUT_FORMAT: a new format is a module and a line here.

Its name is also in `model.record_options.OUTPUT_FORMATS`, for settings and manifests, which import no format.
"""

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
    return _format_of(body).decode(body)


def decode_readable(body: bytes) -> list[dict[str, Any]]:
    """The records that can still be read in a damaged data file, perhaps none."""
    return _format_of(body).decode_readable(body)


def _format_of(body: bytes) -> Format:
    """The format whose first bytes these are, or else JSON Lines, which has no first bytes of its own."""
    return next((each for each in FORMATS.values() if each.magic and body.startswith(each.magic)), _JSON_LINES)
