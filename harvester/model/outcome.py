"""Outcomes: found, missing, failed or fresh. Every title has exactly one of them in a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

if TYPE_CHECKING:
    from harvester.model.ids import Kind

TMDB_ID_END = 2**63  # TMDB's ids are above 0 and below this: a receipt with another one would be refused when read


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
    """TMDB has no movie or series under this id. `show_id` is the series of an episode or season."""

    reason: Literal["unknown", "episode", "season"]
    show_id: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """TMDB gave no usable response in any try; `reason` is that of the last one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fresh:
    """Not asked for, because the run of this name has harvested the title on the same day."""

    run: str


Outcome = Found | Missing | Failed | Fresh
"""What became of a title in a run."""


def name_of(outcome: Outcome) -> str:
    """The outcome's name in receipts and totals: `found`, `missing`, `failed` or `fresh`."""
    return type(outcome).__name__.lower()


def is_tmdb_id(value: object) -> TypeGuard[int]:
    """Whether `value` is a valid TMDB id; `True`, an int to Python, is not."""
    return type(value) is int and 0 < value < TMDB_ID_END
