"""Inputs: the ids that were read, with an account of every row."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harvester.model.ids import TitleId

REJECTS_KEPT, REJECT_LENGTH = 1_000, 200
"""All rejected rows are counted, each with its line; the text is kept of this many, this many characters of each."""


@dataclass(frozen=True, slots=True)
class Reject:
    """A row whose id cannot be an IMDb title id. `line` counts from 1, the header being line 1."""

    line: int
    text: str


@dataclass(slots=True)
class InputIds:
    """What a CSV holds: distinct ids in order of first sight, and an account of every row.

    `lines` are those where each of `ids` was seen first, counted as in `Reject` (of a quoted row its first line).
    `rejects` are the first `REJECTS_KEPT` rejected rows, with their text. `prefixed`: some id began with `tt`.
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
        """Rows whose id had been seen before."""
        return self.rows - self.rejected - len(self.ids)
