"""Title ids: their form, how to parse them, and the two kinds of titles.

No other module knows what an id looks like. A further form of id is added here, and beside it: how such an id is looked
up and what that costs (`tmdb.client`, which asks `/find` for IMDb ids; `tmdb.cost`), the key of a record that holds it
(`imdb_id`: `model.record`, and where `runs` and `commands.verify` read records), and the columns it is taken from
(`sources.csv`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Collection = Literal["Movies", "Series"]
Kind = Literal["movie", "tv"]
KINDS: dict[Collection, Kind] = {"Movies": "movie", "Series": "tv"}
"""A collection is a CSV and a folder of the bucket; a kind is TMDB's name for the titles in it."""

PREFIX = "tt"
TITLE_ID = rf"{PREFIX}[0-9]{{7,10}}"
"""A title id as a regular expression without groups; others are built from it."""

_WELL_FORMED = re.compile(TITLE_ID)
_CANONICAL = re.compile(rf"{PREFIX}(?:[0-9]{{7}}|[1-9][0-9]{{7,9}})")  # padded to seven digits and no more
_LOOSE_ID = re.compile(rf"(?:{PREFIX})?([0-9]{{1,10}})(?:\.0)?")


class _TitleIdSchema:
    """Makes pydantic validate a `TitleId` in a document, without importing pydantic here."""

    def __get_pydantic_core_schema__(self, source: type, handler: Callable[[type], dict[str, Any]]) -> dict[str, Any]:
        return handler(source) | {"pattern": f"^{TITLE_ID}$"}


TitleId = Annotated[str, _TitleIdSchema()]
"""The id that a title is looked up by, such as `tt0137523`."""


def is_title_id(value: object) -> bool:
    """Whether `value` is a string that matches `TITLE_ID`, as every id from `parse_id` does."""
    return isinstance(value, str) and _WELL_FORMED.fullmatch(value) is not None


def parse_id(text: str) -> TitleId | None:
    """The IMDb title id meant by `text`, or None.

    IMDb pads to seven digits (`tt0304141`). Spreadsheets lose the padding, the `tt`, or both, and pandas turns the
    rest into floats: `tt304141`, `304141`, `304141.0` and `00304141` all mean that title. The result always matches
    `^tt[0-9]{7,10}$`, because it goes into a URL path, where TMDB's edge would resolve `..` and `%2F`.
    """
    if _CANONICAL.fullmatch(text):
        return text if text[len(PREFIX) :].strip("0") else None  # the usual case, in half the time of `number_of`
    loose = _LOOSE_ID.fullmatch(text.strip().strip("\"'").strip().lower())
    number = int(loose[1]) if loose else 0
    return title_id(number) if number else None


def title_id(number: int) -> TitleId:
    """The id with this IMDb number, padded to seven digits."""
    return f"{PREFIX}{number:07}"


def number_of(id_: TitleId) -> int:
    """The IMDb number of a title id."""
    return int(id_.removeprefix(PREFIX))


def has_prefix(text: str) -> bool:
    """Whether an id was written with its `tt`."""
    return PREFIX in text.lower()
