"""Known titles: titles that TMDB must have, requested before others count as missing.

An outage can look like missing titles: a server without its data answers 404 to all of them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from harvester.errors import TmdbUnavailableError
from harvester.model.outcome import Found, Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harvester.model.ids import Kind
    from harvester.model.outcome import Outcome
    from harvester.tmdb.client import Tmdb

KNOWN_TITLES = {"movie": ("tt0111161", "tt0068646"), "tv": ("tt0944947", "tt0903747")}
"""Titles that every TMDB has, two of each kind: a server without them has lost its data, or is not TMDB."""

FEW_KNOWN = 0.05
"""Known titles per unknown one of a batch; with fewer, only a title that every TMDB has shows that it is up."""

MANY_UNKNOWN = 5
"""Titles in a row that TMDB does not have, from which on an outage is possible: they are requested once more."""


def are_unknown_in_a_row(outcomes: Sequence[Outcome]) -> bool:
    """Whether TMDB does not have `MANY_UNKNOWN` titles in a row."""
    runs = itertools.groupby(outcomes, key=lambda outcome: outcome == Missing("unknown"))
    return any(unknown and len([*run]) >= MANY_UNKNOWN for unknown, run in runs)


async def check_missing(tmdb: Tmdb, kind: Kind, outcomes: Sequence[Outcome]) -> None:
    """Raise `TmdbUnavailableError` if an outage explains the missing titles of a batch; `outcomes` in request order.

    An outage is possible if TMDB has almost nothing of the batch, if no title after an unknown one was found, or if
    `/find`, which decides that a movie is unknown, has found none. Then titles that TMDB must have are requested.
    """
    answered = [outcome for outcome in outcomes if isinstance(outcome, Found | Missing)]
    unknown = answered.count(Missing("unknown"))
    by_find = [outcome for outcome in answered if not (isinstance(outcome, Found) and outcome.kind == "movie" == kind)]
    if len(answered) - unknown < FEW_KNOWN * unknown or MANY_UNKNOWN <= unknown == len(by_find):
        await check_known(tmdb, kind, well_known=True)
    elif answered[-1:] == [Missing("unknown")] or are_unknown_in_a_row(outcomes):
        await check_known(tmdb, kind)


async def check_known(tmdb: Tmdb, kind: Kind, *, well_known: bool = False) -> None:
    """Request titles that TMDB must have, and raise `TmdbUnavailableError` if it lacks one.

    That is the title found last, looked up as `kind`. If there is none, or only `well_known` ones count, it is a movie
    and a series that every TMDB has: these use each route that a title of this kind may need.
    """
    found = tmdb.last_found(kind)
    if found and not well_known:
        await _check_one_of(tmdb, [found], kind, "it had before")
    else:
        for known in KNOWN_TITLES.values():
            await _check_one_of(tmdb, known, kind, "every TMDB has")


async def _check_one_of(tmdb: Tmdb, ids: Sequence[str], kind: Kind, which: str) -> None:
    reason = ""
    for id_ in ids:  # the next one only where this one has no usable answer
        outcome = await tmdb.lookup(id_, kind)
        if isinstance(outcome, Found):
            return
        reason = outcome.reason
        if isinstance(outcome, Missing):
            observed = f"{tmdb.base_url} does not have {id_}, which {which}, nor some asked for just now"
            raise TmdbUnavailableError(reason, observed)
    raise TmdbUnavailableError(reason, f"{tmdb.base_url} has no usable answer for {', '.join(ids)}, which {which}")
