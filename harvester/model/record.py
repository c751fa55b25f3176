"""Records: a found title becomes a line of JSON, which `formats` puts into files.

A record is TMDB's own object with two keys in front, `imdb_id` and `harvest`. Floats are written as the shortest text
that reads back as the same 64-bit number, so nothing is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from harvester.model.outcome import Found


def record_line(id_: str, found: Found, *, language: str | None, fetched_at: str) -> bytes | None:
    """The record of `id_` as one line of JSON, without a line end; None if it cannot be written.

    JSON nested over 254 levels deep cannot, though it can be read to 1,024 (orjson). `imdb_id` is the id that was asked
    for. TMDB's own, if it has one and it is another (it can be null), is kept in `harvest.tmdb_imdb_id`, and a key
    `harvest` of TMDB's own, which it has never had, in `harvest.tmdb_harvest`.
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
