"""Which requests go wrong, and how: faults as values, and the rules that deal them out.

Pure: a rule looks at what is asked, and at which try this is, and names a fault or none. It knows no clock and no luck,
so a run that went wrong goes wrong again in the same places. The doing is left to `tmdb_stand_in`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import orjson

from harvester.fakes.records import share

Route: TypeAlias = Literal["movie", "find", "tv", "authentication", "other"]
Way: TypeAlias = Literal[
    "answer", "reset", "reset_within", "cut", "cut_chunked", "gzip", "mislabelled", "drip", "silence", "part", "big"
]

JSON: Final = "application/json;charset=utf-8"
HTML: Final = "text/html"
# TMDB's own number and words for an HTTP status (developer.themoviedb.org/docs/errors).
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
        route: Which of TMDB's doors was knocked at.
        id: The IMDb id meant, also where a TMDB number was asked for; empty for `authentication`.
        attempt: 1 for the first request for this route and id, 2 for the next: those given no answer at all by the
            rate limit, the key check or an outage are not counted.
    """

    route: Route
    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a request to go wrong.

    Attributes:
        way: `answer`: this `status` and `body` instead of TMDB's. Every other way spoils the true answer: `reset`
            the connection before it or within it (`reset_within`); `cut` it short of its Content-Length, or of its
            last chunk (`cut_chunked`); send it as `gzip` that does not say so, or `mislabelled` with another content
            type; let it `drip`, `size` bytes every `seconds`; keep `silence` for `seconds` before it; leave the first
            appended `part` out; make it `big`, of at least `size` bytes.
        retry_after: The header's text, to the letter; None leaves the header out.
        retry_date: Send the header as an HTTP date, so many seconds after the moment of sending.
        forever: At the end of a script: repeat (`always`).
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
    """TMDB's own error, in JSON; `code` where its usual one for this status is not wanted (503: 9, or 46)."""
    usual, words = _CODES.get(status, (11, "Internal error: Something went wrong, contact TMDB."))
    body = {"success": False, "status_code": usual if code is None else code, "status_message": words}
    return Fault("answer", status, orjson.dumps(body), retry_after=retry_after)


def html(status: int) -> Fault:
    """The CDN's page, which comes with any status, 200 among them."""
    page = f"<html>\r\n<head><title>{status}</title></head>\r\n<body><h1>{status} ERROR</h1></body>\r\n</html>\r\n"
    return Fault("answer", status, page.encode(), HTML)


def drip(*, seconds: float, size: int = 64) -> Fault:
    """An answer of which `size` bytes come every so many seconds."""
    return Fault("drip", seconds=seconds, size=size)


def silence(seconds: float) -> Fault:
    """No byte of an answer for so many seconds; then the true one."""
    return Fault("silence", seconds=seconds)


def big(megabytes: float) -> Fault:
    """The true answer, one of its texts grown until it has so many megabytes (10**6 bytes)."""
    return Fault("big", size=int(megabytes * 10**6))


def always(fault: Fault) -> Fault:
    """The fault as the last entry of a script that never ends."""
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

# The names a user may write in a list of shares. A number is TMDB's JSON error of that status.
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
"""Those that pass, and leave the record as it is: a refused key is the end, a 404 means that there is no such title."""


def healthy(_asked: Asked) -> Fault | None:
    """Never a fault."""
    return None


def scripted(script: Mapping[tuple[Route, str], Sequence[Fault | None]]) -> Faults:
    """The n-th request for a (route, IMDb id) meets the n-th entry of its script; None is a healthy answer.

    After the last entry all is well, unless that entry is an `always(…)`. Whatever has no script is healthy.
    """

    def fault(asked: Asked) -> Fault | None:
        entries = script.get((asked.route, asked.id), ())
        if asked.attempt <= len(entries):
            return entries[asked.attempt - 1]
        last = entries[-1] if entries else None
        return last if last is not None and last.forever else None

    return fault


def random_faults(shares: Mapping[str, float], *, seed: int = 0) -> Faults:
    """Each fault, by its name in `NAMED`, for its share of all requests; which ones follows from the seed alone.

    Raises:
        ValueError: A name nobody knows, a share that is none, or more than everything in all.
    """
    _check(shares, NAMED)

    def fault(asked: Asked) -> Fault | None:
        chance = share("fault", seed, asked.route, asked.id, asked.attempt)
        for name, part in shares.items():
            if chance < part:
                return NAMED[name]
            chance -= part
        return None

    return fault


def parse_shares(text: str, *, known: Mapping[str, object] = NAMED) -> Mapping[str, float]:
    """The shares in a text such as `429=5%,reset=2%,cut=0.01`, by name, of those `known`; no text, no shares.

    Raises:
        ValueError: What is wrong with which piece, in a sentence fit for whoever typed it.
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
    if math.fsum(shares.values()) > 1 + 1e-9:  # A hair for sums such as 0.1 + 0.2 + 0.7.
        raise ValueError(f"the shares make {math.fsum(shares.values()):.0%} together, and no more than 100% can fail")
