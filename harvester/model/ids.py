"""Title ids: what an IMDb id is, and in which of two kinds a title comes."""

from __future__ import annotations

import re
from typing import Literal

Collection = Literal["Movies", "Series"]
Kind = Literal["movie", "tv"]
KINDS: dict[Collection, Kind] = {"Movies": "movie", "Series": "tv"}
"""A collection is a CSV and a folder of the bucket; a kind is TMDB's word for what stands in it."""

_WELL_FORMED = re.compile(r"tt[0-9]{7,10}")
_TITLE_ID = re.compile(r"tt(?:[0-9]{7}|[1-9][0-9]{7,9})")
_LOOSE_ID = re.compile(r"(?:tt)?([0-9]{1,10})(?:\.0)?")


def is_title_id(value: object) -> bool:
    """Whether `value` is a text of the form `^tt[0-9]{7,10}$`, as every id that `parse_id` returns is."""
    return isinstance(value, str) and _WELL_FORMED.fullmatch(value) is not None


def parse_id(text: str) -> str | None:
    """The IMDb title id meant by `text`, or None.

    IMDb pads to seven digits (`tt0304141`). Spreadsheets lose the padding, the `tt`, or both, and pandas turns the
    rest into floats: `tt304141`, `304141`, `304141.0` and `00304141` are all that title. Nothing but `^tt[0-9]{7,10}$`
    comes back, because it goes into a URL path, where TMDB's edge would resolve `..` and `%2F`.
    """
    if _TITLE_ID.fullmatch(text):
        return text if text.strip("t0") else None
    loose = _LOOSE_ID.fullmatch(text.strip().strip("\"'").strip().lower())
    digits = loose[1].lstrip("0") if loose else ""
    return "tt" + digits.zfill(7) if digits else None


def has_prefix(text: str) -> bool:
    """Whether an id was written with its `tt`."""
    return "tt" in text.lower()
