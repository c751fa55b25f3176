"""Responses: what one HTTP response of TMDB means for one title.

The HTTP status is decisive, then the body: TMDB's error bodies vary in key order and extra keys, old ones lack
`success`, and its CDN answers 502, 503 and 504 in HTML (recorded exchanges; developer.themoviedb.org/docs/errors).
Whatever is not clearly an answer is a `Retry`: a title is `Missing` only if TMDB itself says so, in JSON.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harvester.errors import TmdbRefusedError
from harvester.model.lossless_json import DuplicateKeyError, loads
from harvester.model.outcome import Found, Missing, is_tmdb_id
from harvester.runtime.net import GZIP_MAGIC, http_date

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from harvester.model.ids import Kind

BODY_LIMIT = 32_750_000
"""Bytes of one body, unzipped: 31 MB pass and 33 do not, whichever megabyte is meant. The largest of 196 recorded
bodies has 262,513, with credits and images."""

OTHER: dict[Kind, Kind] = {"movie": "tv", "tv": "movie"}
NAME_OF: dict[Kind, str] = {"movie": "title", "tv": "name"}  # in every record of its kind, in none of the other
CANDIDATES = 5  # rows of a kind in `/find` whose records are requested until TMDB has one; two are rare


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response, read to its end and unzipped; `date` and `retry_after` are the headers as they came."""

    status: int
    body: bytes
    date: str | None = None
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Not an outcome yet: `/find` has the id as this kind; the record is requested by TMDB's number."""

    kind: Kind
    tmdb_id: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Not an outcome yet: the titles that `/find` has for an id, to be requested in this order, or why it has none."""

    matches: tuple[Match, ...]
    missing: Missing


@dataclass(frozen=True, slots=True)
class NotFound:
    """Not an outcome yet: a 404 of TMDB's own. `/movie` answers it for series too, so `/find` is requested next."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not an outcome yet: the request is to be repeated; `reason` is what was wrong, as in `Failed`.

    `retry_after` is the seconds that a 429 asks for, if it does. `partial_record` is the title with parts missing, to
    be used if no retry brings a better one.
    """

    reason: str
    retry_after: float | None = None
    partial_record: Found | None = None

    @property
    def is_rate_limit(self) -> bool:
        """Whether TMDB refuses all requests for a while (429)."""
        return self.reason == "http_429"


def classify(response: Response) -> dict[str, Any] | NotFound | Retry:
    """The JSON object of a good answer, or why there is none.

    Raises:
        TmdbRefusedError: a 401, or a 403 with a `status_code` of TMDB's, which has one or two digits
            (developer.themoviedb.org/docs/errors). Any other 403 is of a gateway, a firewall or the CDN, and temporary.
    """
    parsed = _parse(response.body)
    body = parsed if isinstance(parsed, dict) else {}
    code = body.get("status_code") if type(body.get("status_code")) is int else None
    match response.status:
        case 200 if body.get("success") is False:
            return Retry("success_false")
        case 200:
            return parsed
        case 401 | 403 if response.status == 401 or (code is not None and 0 < code < 100):
            raise TmdbRefusedError(response.status, code, _text(body.get("status_message"))[:200])
        case 404 if code in (6, 34):  # "invalid id", "could not be found"
            return NotFound()
        case 429:
            return Retry("http_429", retry_after_seconds(response))
        case _:
            return Retry(f"http_{response.status}")


def unzip(body: bytes) -> bytes:
    """The unzipped `body`, up to a byte over the limit; `body` itself if it is not gzip, or damaged.

    Headers are not used: on 2026-05-20 the CDN served gzip without a header that says so (seerr).
    """
    rest, plain = body, b""
    try:
        while rest.startswith(GZIP_MAGIC) and len(plain) <= BODY_LIMIT:  # gzip may have several members
            member = zlib.decompressobj(wbits=31)
            plain += member.decompress(rest, BODY_LIMIT + 1 - len(plain))
            rest = member.unused_data
    except zlib.error:
        return body
    return body if rest is body else plain


def _parse(body: bytes) -> dict[str, Any] | Retry:
    if len(body) > BODY_LIMIT:
        return Retry("too_large")
    if not body.strip():
        return Retry("empty_body")
    try:
        parsed = loads(body)
    except DuplicateKeyError:
        return Retry("duplicate_key")
    except ValueError:
        return Retry("bad_body")
    return parsed if isinstance(parsed, dict) else Retry("bad_body")


def retry_after_seconds(response: Response) -> float | None:
    """`Retry-After` in seconds, sent as seconds or as an HTTP date; None if it is absent or not usable.

    `0` occurs. A date is compared with the server's own `Date`.
    """
    text = (response.retry_after or "").strip()
    seconds = -1.0
    if text.isascii() and text.isdigit():
        seconds = float(text)
    elif (until := http_date(text)) and (sent := http_date(response.date)):
        seconds = (until - sent).total_seconds()
    return seconds if seconds >= 0 else None


def read_record(
    body: dict[str, Any],
    kind: Kind,
    *,
    number: int | None = None,
    asked: Sequence[str] = (),
    known: Container[str] = (),
    added: str | None = None,
) -> Found | Retry:
    """The title in the answer of `/movie/{id}` or `/tv/{id}`; `number` is TMDB's, if it was requested by that.

    The parts `asked` for by `append_to_response` have keys of the same names, which can be absent from a good answer
    (11 of 30 popular movies on a bad day: seerr#3055). A retry is worth it for those `known` to exist for this kind.
    The part that was `added` to the request for its IMDb id alone is removed from the record.
    """
    tmdb_id = body.get("id")
    if not is_tmdb_id(tmdb_id):
        return Retry("bad_body")
    if number not in (None, tmdb_id) or (NAME_OF[kind] not in body and NAME_OF[OTHER[kind]] in body):
        return Retry("other_title")
    tmdb_imdb_id = own_imdb_id(body)
    if added:
        body.pop(added, None)
    missing_parts = tuple(part for part in asked if part not in body)
    found = Found(kind, tmdb_id, body, missing_parts, tmdb_imdb_id=tmdb_imdb_id)
    worth_asking = any(part in known for part in found.missing_parts)
    return Retry("missing_parts", partial_record=found) if worth_asking else found


def read_find(body: dict[str, Any], kind: Kind) -> Candidates | Retry:
    """The titles in the five arrays of `/find`, to be requested in this order, or why the id is missing.

    More than one array can be filled (tt0137523: the film *and* an unrelated series): the CSV's own `kind` comes first.
    A row can remain after its title was merged or removed; then the next row is used. Rows are shorter than the record;
    for an unknown id all arrays are empty.
    """
    episodes, seasons = body.get("tv_episode_results", ()), body.get("tv_season_results", ())
    matches: list[Match] = []
    try:
        for row_kind in (kind, OTHER[kind]):
            numbers = dict.fromkeys(_id(row["id"]) for row in body[f"{row_kind}_results"])
            matches += [Match(row_kind, number) for number in numbers][:CANDIDATES]
        missing = [Missing("episode", _id(row["show_id"])) for row in episodes]
        missing += [Missing("season", _id(row["show_id"])) for row in seasons]
    except (KeyError, TypeError, ValueError):
        return Retry("bad_body")
    return Candidates(tuple(matches), missing[0] if missing else Missing("unknown"))


def own_imdb_id(record: Mapping[str, Any]) -> str | None:
    """The IMDb id in TMDB's record of a title, if any; for a series only if `external_ids` are appended."""
    external = record.get("external_ids")
    own = record.get("imdb_id") or (external.get("imdb_id") if isinstance(external, dict) else None)
    return _text(own) if own else None


def _text(value: Any) -> str:
    return str("" if value is None else getattr(value, "contents", value))  # of a fragment: its JSON


def _id(value: Any) -> int:
    if not is_tmdb_id(value):
        raise ValueError
    return value
