"""Title ids: what an id is, in which texts it is written, and in which of two kinds a title comes.

No other module knows what an id looks like: a further form of id is added here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Collection = Literal["Movies", "Series"]
Kind = Literal["movie", "tv"]
KINDS: dict[Collection, Kind] = {"Movies": "movie", "Series": "tv"}
"""A collection is a CSV and a folder of the bucket; a kind is TMDB's word for what stands in it."""

PREFIX = "tt"
TITLE_ID = rf"{PREFIX}[0-9]{{7,10}}"
"""The form of a title id, as a regular expression without groups; others are built from it."""

_WELL_FORMED = re.compile(TITLE_ID)
_CANONICAL = re.compile(rf"{PREFIX}(?:[0-9]{{7}}|[1-9][0-9]{{7,9}})")  # padded to seven digits, and no further
_LOOSE_ID = re.compile(rf"(?:{PREFIX})?([0-9]{{1,10}})(?:\.0)?")


class _TitleIdSchema:
    """Makes pydantic check the form of a `TitleId` in a document, without pydantic being imported here."""

    def __get_pydantic_core_schema__(self, source: type, handler: Callable[[type], dict[str, Any]]) -> dict[str, Any]:
        return handler(source) | {"pattern": f"^{TITLE_ID}$"}


TitleId = Annotated[str, _TitleIdSchema()]
"""What a title is asked by, such as `tt0137523`."""


def is_title_id(value: object) -> bool:
    """Whether `value` is a text of the form `TITLE_ID`, as every id that `parse_id` returns is."""
    return isinstance(value, str) and _WELL_FORMED.fullmatch(value) is not None


def parse_id(text: str) -> TitleId | None:
    """The IMDb title id meant by `text`, or None.

    IMDb pads to seven digits (`tt0304141`). Spreadsheets lose the padding, the `tt`, or both, and pandas turns the
    rest into floats: `tt304141`, `304141`, `304141.0` and `00304141` are all that title. Nothing but `^tt[0-9]{7,10}$`
    comes back, because it goes into a URL path, where TMDB's edge would resolve `..` and `%2F`.
    """
    if _CANONICAL.fullmatch(text):
        return text if text[len(PREFIX) :].strip("0") else None  # the usual case, in half the time of `number_of`
    loose = _LOOSE_ID.fullmatch(text.strip().strip("\"'").strip().lower())
    number = int(loose[1]) if loose else 0
    return title_id(number) if number else None


def title_id(number: int) -> TitleId:
    """The id with this number of IMDb's, padded to seven digits."""
    return f"{PREFIX}{number:07}"


def number_of(id_: TitleId) -> int:
    """IMDb's number in a title id."""
    return int(id_.removeprefix(PREFIX))


def has_prefix(text: str) -> bool:
    """Whether an id was written with its `tt`."""
    return PREFIX in text.lower()
