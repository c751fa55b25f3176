"""What the stand-in TMDB knows: for any IMDb id, its kind and the record that TMDB would return.

Pure and stateless: the same id gives the same record in every process, on every day and in any order, because all
random choices come from a BLAKE2 hash of the id. Shapes, types and sizes follow 196 recorded bodies (a movie 0.5-2.3
KB, median 1.4; a series 1.3-25 KB, median 3.9). The texts are our own, and difficult on purpose: quotes, backslashes,
U+2028, Portuguese, Japanese, emoji.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import orjson

from harvester.fakes.records import (
    FOUND,
    MOVIE,
    MOVIE_PARTS,
    NULL,
    TV,
    TV_PARTS,
    Record,
    Subject,
    dice_for,
    fill,
    name_of,
    share,
)
from harvester.model.ids import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Kind: TypeAlias = Literal["movie", "tv", "episode", "season", "unknown", "both"]

_MIXED: Final[tuple[Kind, ...]] = ("movie",) * 12 + ("tv",) * 4 + ("episode", "season", "both", "unknown")
_KNOWN: Final[Mapping[str, Kind]] = {"tt0111161": "movie", "tt0068646": "movie", "tt0944947": "tv", "tt0903747": "tv"}
"""Titles that every catalog has."""
_BARE: Final = 0.1  # Share of records with most fields empty.


@dataclass(frozen=True, slots=True)
class Catalog:
    """Which titles this TMDB has.

    Attributes:
        kinds: Kind by IMDb id. `both` means that /find returns a movie and a series for the id.
        otherwise: The kind of every other id; None: chosen among all kinds by the id's hash.
        missing: Share of those other ids, between 0 and 1, that are unknown whatever `otherwise` says.
        titles: Title and year, by IMDb id; a year that is not four digits gives the date `""`.
        record_bytes: Pad the overview of detail records until their JSON has about this many bytes; 0: no padding.
    """

    kinds: Mapping[str, Kind] = field(default_factory=dict)
    otherwise: Kind | None = "movie"
    missing: float = 0.0
    titles: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    record_bytes: int = 0


def catalog_of(
    movies: Mapping[str, tuple[str, str]],
    series: Mapping[str, tuple[str, str]],
    *,
    missing: float = 0.02,
    kinds: Mapping[str, Kind] | None = None,
    record_bytes: int = 0,
) -> Catalog:
    """A catalog of these movies and series only, given as id -> (title, year), without a `missing` share of them.

    An id in both has the kind `both`. `kinds` overrides the kind of single ids.
    """
    chosen: dict[str, Kind] = {tt: "both" if tt in series else "movie" for tt in movies}
    chosen |= {tt: "tv" for tt in series if tt not in movies}
    chosen |= {tt: "unknown" for tt in chosen if share("missing", tt) < missing}
    return Catalog(chosen | dict(kinds or {}), "unknown", titles={**series, **movies}, record_bytes=record_bytes)


def kind_of(catalog: Catalog, tt: str) -> Kind:
    """The kind of an IMDb id at this TMDB; anything but `tt` and at least seven digits is unknown."""
    if (kind := catalog.kinds.get(tt) or _KNOWN.get(tt)) is not None:
        return kind
    if re.fullmatch(rf"{PREFIX}[0-9]{{7,}}", tt) is None or share("missing", tt) < catalog.missing:
        return "unknown"
    return catalog.otherwise or _MIXED[int(share("kind", tt) * len(_MIXED))]


def movie_record(
    catalog: Catalog, tt: str, *, language: str | None = None, append: Iterable[str] = ()
) -> Record | None:
    """The body of `/movie/{id}`, with those of the appended parts that TMDB has for movies; None if not a movie."""
    if kind_of(catalog, tt) not in {"movie", "both"}:
        return None
    of = _subject(catalog, "movie", tt, language)
    record: Record = fill(MOVIE, of)
    if share("bare", tt) < _BARE:
        record |= {"backdrop_path": None, "budget": 0, "genres": [], "homepage": "", "overview": "", "tagline": ""}
        record |= {"poster_path": None, "production_companies": [], "revenue": 0, "runtime": 0, "vote_count": 0}
    return _finished(catalog, of, record, MOVIE_PARTS, append)


def tv_record(catalog: Catalog, tt: str, *, language: str | None = None, append: Iterable[str] = ()) -> Record | None:
    """The body of `/tv/{id}`, with those of the appended parts that TMDB has for series; None if not a series.

    As at TMDB, `imdb_id` is not at the top level but in the appended `external_ids`.
    """
    if kind_of(catalog, tt) not in {"tv", "both"}:
        return None
    of = _subject(catalog, "tv", tt, language)
    record: Record = fill(TV, of)
    if share("bare", tt) < _BARE:
        record |= {"backdrop_path": None, "created_by": [], "last_episode_to_air": None, "overview": "", "tagline": ""}
        record |= {"next_episode_to_air": None, "production_companies": [], "seasons": record["seasons"][:1]}
    for number, season in enumerate(record["seasons"], start=1):
        season |= {"name": f"Season {number}", "season_number": number}
    record["number_of_seasons"] = len(record["seasons"])
    record["number_of_episodes"] = sum(season["episode_count"] for season in record["seasons"])
    return _finished(catalog, of, record, TV_PARTS, append)


def find_record(catalog: Catalog, tt: str, *, language: str | None = None) -> Record:
    """The body of `/find/{id}?external_source=imdb_id`: five arrays of short records, all empty if unknown."""
    found: Record = {f"{name}_results": [] for name in ("movie", "person", "tv", "tv_episode", "tv_season")}
    kind = kind_of(catalog, tt)
    for each in ("movie", "tv") if kind == "both" else (kind,):
        if each != "unknown":
            row = fill(FOUND[each], _subject(catalog, each, tt, language))
            found[f"{row['media_type']}_results"] = [row]
    return found


def padded(record: Record, size: int) -> Record:
    """The record, its overview lengthened until its JSON has at least `size` bytes."""
    more = " On and on it went."
    lacking = max(0, size - len(orjson.dumps(record)))
    return record | {"overview": record["overview"] + more * -(-lacking // len(more))}


def _subject(catalog: Catalog, kind: str, tt: str, language: str | None) -> Subject:
    of = Subject(kind, tt, language, dice_for(kind, tt))
    year = "" if share("dateless", tt) < NULL else str(1920 + int(of.dice.random() * 106))
    title, year = catalog.titles.get(tt) or (name_of(of), year)
    return replace(of, title=title, year=year)


def _finished(catalog: Catalog, of: Subject, record: Record, parts: Mapping[str, Any], append: Iterable[str]) -> Record:
    for part in append:
        if part in parts:
            record[part] = fill(parts[part], replace(of, dice=dice_for(part, of.kind, of.tt)))
    return padded(record, catalog.record_bytes) if catalog.record_bytes else record
