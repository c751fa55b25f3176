"""Faults of the stand-in TMDB as values, and rules that decide which request gets which fault.

Pure: a rule sees the request and its attempt number and returns a fault or None. It uses no clock and no random state,
so a failed run fails again in the same places. `fakes.tmdb` carries the faults out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import orjson

from harvester.fakes.records import pick, share

Route: TypeAlias = Literal["movie", "find", "tv", "authentication", "other"]
Way: TypeAlias = Literal[
    "answer", "reset", "reset_within", "cut", "cut_chunked", "gzip", "mislabelled", "drip", "silence", "part", "big"
]

JSON: Final = "application/json;charset=utf-8"
HTML: Final = "text/html"
# TMDB's own status code and message for an HTTP status (developer.themoviedb.org/docs/errors).
_CODES: Final = {
    400: (27, "Too many append to response objects: The maximum number of remote calls is 20."),
    401: (7, "Invalid API key: You must be granted a valid key."),
    403: (45, "This user has been suspended."),
    404: (34, "The resource you requested could not be found."),
    422: (5, "Invalid parameters: Your request parameters are incorrect."),
    429: (25, "Your request count is over the allowed limit."),
    500: (11, "Internal error: Something went wrong, contact TMDB."),
    502: (43, "Couldn't connect to the backend server."),
    503: (9, "Service offline: This service is temporarily offline, try again later."),
    504: (24, "Your request to the backend server timed out. Try again."),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as a rule sees it.

    Attributes:
        route: Which route of TMDB's API was requested.
        id: The IMDb id, also if the request named a TMDB number; empty for `authentication`.
        attempt: 1 for the first request for this route and id, 2 for the next. Requests refused by the rate limit, the
            key check or an outage are not counted.
    """

    route: Route
    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a request to go wrong.

    Attributes:
        way: `answer`: this `status` and `body` instead of TMDB's. Every other way changes the true response: `reset`
            the connection before it, or in the middle of it (`reset_within`); `cut` it before its Content-Length is
            reached, or before its last chunk (`cut_chunked`); send it as `gzip` without the header, or `mislabelled`
            with another content type; `drip`, `size` bytes every `seconds`; `silence` for `seconds` before it; leave
            out the first appended `part`; make it `big`, at least `size` bytes.
        retry_after: The literal text of the header; None leaves the header out.
        retry_date: Send the header as an HTTP date, this many seconds after the moment of sending.
        forever: Repeat without end; for the last entry of a script (`always`).
    """

    way: Way
    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    retry_after: str | None = None
    retry_date: float | None = None
    seconds: float = 0.0
    size: int = 0
    forever: bool = False


Faults: TypeAlias = Callable[[Asked], Fault | None]


def refusal(status: int, *, code: int | None = None, retry_after: str | None = None) -> Fault:
    """TMDB's own error in JSON; `code` replaces the usual status code of TMDB (503: 9, or 46)."""
    usual, message = _CODES.get(status, (11, "Internal error: Something went wrong, contact TMDB."))
    body = {"success": False, "status_code": usual if code is None else code, "status_message": message}
    return Fault("answer", status, orjson.dumps(body), retry_after=retry_after)


def html(status: int) -> Fault:
    """The HTML page of the CDN, which can come with any status, even 200."""
    page = f"<html>\r\n<head><title>{status}</title></head>\r\n<body><h1>{status} ERROR</h1></body>\r\n</html>\r\n"
    return Fault("answer", status, page.encode(), HTML)


def drip(*, seconds: float, size: int = 64) -> Fault:
    """A response sent slowly: `size` bytes every `seconds`."""
    return Fault("drip", seconds=seconds, size=size)


def silence(seconds: float) -> Fault:
    """No byte of a response for this many seconds; then the true response."""
    return Fault("silence", seconds=seconds)


def big(megabytes: float) -> Fault:
    """The true response, its overview lengthened until it has this many megabytes (10**6 bytes)."""
    return Fault("big", size=int(megabytes * 10**6))


def always(fault: Fault) -> Fault:
    """The fault, repeated without end; for the last entry of a script."""
    return replace(fault, forever=True)


RESET: Final = Fault("reset")
RESET_WITHIN: Final = Fault("reset_within")
CUT: Final = Fault("cut")
CUT_CHUNKED: Final = Fault("cut_chunked")
HIDDEN_GZIP: Final = Fault("gzip")
MISLABELLED: Final = Fault("mislabelled", content_type="text/plain")
PART_MISSING: Final = Fault("part")
EMPTY: Final = Fault("answer")
UNSUCCESSFUL: Final = replace(refusal(500), status=200)

# Names for `parse_shares`. A number stands for TMDB's JSON error of that status.
NAMED: Final[Mapping[str, Fault]] = {
    **{str(status): refusal(status) for status in (401, 403, 404, 500, 502, 503, 504)},
    **{f"html-{status}": html(status) for status in (200, 502, 503, 504)},
    "429": refusal(429, retry_after="1"),
    "429-bare": refusal(429),
    "429-zero": refusal(429, retry_after="0"),
    "429-date": replace(refusal(429), retry_date=2.0),
    "429-absurd": refusal(429, retry_after="999999"),
    "429-negative": refusal(429, retry_after="-5"),
    "429-garbage": refusal(429, retry_after="soon"),
    "503-maintenance": refusal(503, code=46),
    "reset": RESET,
    "reset-within": RESET_WITHIN,
    "cut": CUT,
    "cut-chunked": CUT_CHUNKED,
    "empty": EMPTY,
    "unsuccessful": UNSUCCESSFUL,
    "gzip": HIDDEN_GZIP,
    "mislabelled": MISLABELLED,
    "part": PART_MISSING,
    "slow": drip(seconds=0.05),
    "silent": silence(60.0),
    "big": big(12.0),
}

TRANSIENT: Final = {name: fault for name, fault in NAMED.items() if name not in {"401", "403", "404", "big"}}
"""Faults that pass and do not change the record. A refused key ends the run; a 404 means that the title is missing."""


def healthy(_asked: Asked) -> Fault | None:
    """No fault for any request."""
    return None


def scripted(script: Mapping[tuple[Route, str], Sequence[Fault | None]]) -> Faults:
    """A rule: the n-th request for a (route, IMDb id) gets the n-th entry of its script; None is no fault.

    There is no fault after the last entry, unless that entry is an `always(…)`, nor for requests without a script.
    """

    def fault(asked: Asked) -> Fault | None:
        entries = script.get((asked.route, asked.id), ())
        if asked.attempt <= len(entries):
            return entries[asked.attempt - 1]
        last = entries[-1] if entries else None
        return last if last is not None and last.forever else None

    return fault


def random_faults(shares: Mapping[str, float], *, seed: int = 0) -> Faults:
    """A rule that gives each fault, by its name in `NAMED`, to its share of all requests, chosen by the seed alone.

    Raises:
        ValueError: An unknown name, a share that is not between 0 and 1, or shares of more than 1 in all.
    """
    _check(shares, NAMED)

    def fault(asked: Asked) -> Fault | None:
        name = pick(shares, share("fault", seed, asked.route, asked.id, asked.attempt))
        return NAMED[name] if name else None

    return fault


def parse_shares(text: str, *, known: Mapping[str, object] = NAMED) -> Mapping[str, float]:
    """Shares by name, from text such as `429=5%,reset=2%,cut=0.01`; the names must be `known`. No text, no shares.

    Raises:
        ValueError: The text is wrong; the message names the piece, for the user who typed it.
    """
    shares: dict[str, float] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, amount = (part.strip() for part in piece.partition("="))
        if not equals or not amount:
            raise ValueError(f"a fault is written name=share, such as 429=5%, not {piece!r}")
        if name in shares:
            raise ValueError(f"the fault {name!r} is given twice")
        try:
            shares[name] = float(amount.removesuffix("%")) / (100 if amount.endswith("%") else 1)
        except ValueError as error:
            raise ValueError(f"the share of {name!r} must be a number such as 5% or 0.05, not {amount!r}") from error
    _check(shares, known)
    return shares


def _check(shares: Mapping[str, float], known: Mapping[str, object]) -> None:
    for name, part in shares.items():
        if name not in known:
            raise ValueError(f"no fault is called {name!r}; there are {', '.join(known)}")
        if not 0 <= part <= 1:
            raise ValueError(f"the share of {name!r} must lie between 0% and 100%, not {part!r}")
    if math.fsum(shares.values()) > 1 + 1e-9:  # Tolerance for sums such as 0.1 + 0.2 + 0.7.
        raise ValueError(f"the shares make {math.fsum(shares.values()):.0%} together, more than 100%")
