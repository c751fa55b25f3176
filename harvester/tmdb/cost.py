"""Cost of a title: how many requests TMDB is sent for it.

A movie costs one request, because `/movie/{tt…}` takes an IMDb id (undocumented; TMDbLib#230). A series costs two:
`/find/{tt…}` and `/tv/{number}`. A reclassified title, which TMDB has as the other kind only, costs three where the CSV
has it among the movies (`/movie`, `/find`, `/tv`) and two where it has it among the series (`/find`, `/movie`). An id
that TMDB does not have costs two among the movies and one among the series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harvester.model.ids import Collection

REQUESTS: dict[Collection, int] = {"Movies": 1, "Series": 2}
"""Requests for a title that TMDB has as the kind of its CSV."""
