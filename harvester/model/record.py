"""Records: a found title as a line of JSON, which `formats` puts into files.

A record is TMDB's own object with two keys in front, `imdb_id` and `harvest`. Floats are written as the shortest text
that reads back as the same 64-bit number, so nothing is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from harvester.model.outcome import Found


def record_line(id_: str, found: Found, *, language: str | None, fetched_at: str) -> bytes | None:
    """The record of `id_` as one line of JSON, without a line end; None if it is nested too deep to be written.

    orjson writes 254 levels and reads 1,024. `imdb_id` is the id asked for. The `imdb_id` of TMDB's object, if it has
    one and it differs (it can be null), becomes `harvest.tmdb_imdb_id`. A key `harvest` in TMDB's object, of which none
    has been seen yet, becomes `harvest.tmdb_harvest`.
    """
    harvest: dict[str, Any] = {"kind": found.kind, "tmdb_id": found.tmdb_id}
    harvest |= {"fetched_at": fetched_at, "language": language}
    if found.missing_parts:
        harvest["missing_parts"] = found.missing_parts
    if other_id := found.other_id(id_):
        harvest["tmdb_imdb_id"] = other_id
    elif found.record.get("imdb_id", id_) != id_:
        harvest["tmdb_imdb_id"] = found.record["imdb_id"]
    if "harvest" in found.record:
        harvest["tmdb_harvest"] = found.record["harvest"]
    ours = {"imdb_id": id_, "harvest": harvest}
    try:
        return orjson.dumps(ours | found.record | ours)
    except orjson.JSONEncodeError:
        return None
