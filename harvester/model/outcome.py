"""Outcomes: what became of one title, exactly one of four in every run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

if TYPE_CHECKING:
    from harvester.model.ids import Kind

TMDB_ID_END = 2**63  # TMDB's ids are above 0 and below it: a receipt with another one would not be read back


@dataclass(frozen=True, slots=True)
class Found:
    """TMDB has this title: `record` is the body of `/movie/{id}` or `/tv/{id}`; `tmdb_id` is unique within the kind.

    `kind` is TMDB's; for a reclassified title it is not that of its CSV. `missing_parts` were asked for by
    `append_to_response` and are absent. `tmdb_imdb_id` is the IMDb id that TMDB has for the title, if any. Where it
    differs from the id asked for, TMDB has merged the two, and `/find` has confirmed it.
    """

    kind: Kind
    tmdb_id: int
    record: dict[str, Any]
    missing_parts: tuple[str, ...] = ()
    tmdb_imdb_id: str | None = field(default=None, compare=False)

    def other_id(self, id_: str) -> str | None:
        """The IMDb id that TMDB has for this title, if it has one and it is not `id_`."""
        return None if self.tmdb_imdb_id == id_ else self.tmdb_imdb_id


@dataclass(frozen=True, slots=True)
class Missing:
    """TMDB answered, and has no movie or series under this id. `show_id` is the series of an episode or season."""

    reason: Literal["unknown", "episode", "season"]
    show_id: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer after all tries; `reason` is that of the last one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """Not asked for: the run of this name, of the same day, knows whether TMDB has the title."""

    run: str


Outcome = Found | Missing | Failed | Fresh
"""What every title ends in, exactly once in a run."""


def name_of(outcome: Outcome) -> str:
    """`found`, `missing`, `failed` or `fresh`, as receipts and totals have it."""
    return type(outcome).__name__.lower()


def is_tmdb_id(value: object) -> TypeGuard[int]:
    """Whether `value` is a whole number as TMDB numbers titles; JSON's `true` is an int of Python's too."""
    return type(value) is int and 0 < value < TMDB_ID_END
