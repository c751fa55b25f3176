"""Inputs: the ids that were read, with counts of all rows."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harvester.model.ids import TitleId

REJECTS_KEPT, REJECT_LENGTH = 1_000, 200
"""Every rejected row is counted with its line; for so many of them, so many characters of the text are kept."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row without a valid IMDb title id. `line` counts from 1, and the header is line 1."""

    line: int
    text: str


@dataclass(slots=True)
class InputIds:
    """The content of a CSV: distinct ids in the order of their first rows, and counts of all rows.

    `lines` has the first line of each of `ids`, counted as in `Reject` (of a quoted row, its start). `rejects` are the
    first `REJECTS_KEPT` rejected rows, with their text. `prefixed`: at least one id began with `tt`.
    """

    source: str
    ids: list[TitleId] = field(default_factory=list)
    rows: int = 0
    rejected_lines: array[int] = field(default_factory=partial(array, "L"))
    rejects: list[Reject] = field(default_factory=list)
    lines: array[int] = field(default_factory=partial(array, "L"))
    prefixed: bool = False

    @property
    def rejected(self) -> int:
        """Rows without an IMDb title id."""
        return len(self.rejected_lines)

    @property
    def duplicates(self) -> int:
        """Rows whose id is also in an earlier row."""
        return self.rows - self.rejected - len(self.ids)
