"""Formats by the names that OUTPUT_FORMAT has for them: a new one is a module and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvester.formats.json_array import JsonArray
from harvester.formats.jsonl import JsonLines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harvester.formats.format import Format

_JSON_LINES = JsonLines()
_FORMATS: tuple[Format, ...] = (_JSON_LINES, JsonArray())

FORMATS: Mapping[str, Format] = {form.name: form for form in _FORMATS}


def decode(body: bytes) -> list[dict[str, Any]]:
    """The records of a data file, whose format is seen by how it begins; a ValueError if it is of none."""
    form = next((form for form in _FORMATS if form.begins and body.startswith(form.begins)), _JSON_LINES)
    return form.decode(body)
