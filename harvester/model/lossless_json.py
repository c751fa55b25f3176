"""JSON read so that nothing is rounded or dropped when it is written again.

orjson is fast, but rounds numbers beyond 64 bits, keeps one of two equal keys, and refuses half of a surrogate pair,
which JSON can carry (RFC 8259, sections 4, 6 and 8.2). So what it has read is written again and compared: equal bytes
have lost nothing. The recorded answers of TMDB are all equal; only what differs is read by Python's own parser, which
takes twenty times as long and says what it sees.
"""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, NoReturn

import orjson

CONTENT_TYPE = "application/json; charset=utf-8"


class DuplicateKeyError(ValueError):
    """An object has a key twice: readers take the first, the last, or refuse the file."""


def loads(body: bytes) -> Any:
    """The JSON value in `body`; where Python would lose something, an `orjson.Fragment` that writes what was read.

    Raises:
        DuplicateKeyError: An object in it has a key twice.
        ValueError: It is no JSON, or nested too deep.
    """
    try:
        value = orjson.loads(body)
        if orjson.dumps(value) == body.strip():
            return value
    except orjson.JSONEncodeError:
        return value  # nested deeper than can be written, which ends its title when that is tried
    except orjson.JSONDecodeError:
        pass  # no JSON, a number beyond all floats, or half of a pair
    try:
        return _writable(
            json.loads(
                body.decode(),
                object_pairs_hook=_object,
                parse_int=_integer,
                parse_float=_float,
                parse_constant=_no_constant,
            )
        )
    except RecursionError:
        raise ValueError("nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise DuplicateKeyError
    return read


def _integer(text: str) -> Any:
    fits = len(text) <= 20 and -(2**63) <= int(text) < 2**64
    return int(text) if fits and text != "-0" else orjson.Fragment(text)


def _float(text: str) -> Any:
    number = float(text)
    with suppress(InvalidOperation):  # an exponent beyond even Decimal's
        if isfinite(number) and Decimal(repr(number)) == Decimal(text):
            return number
    return orjson.Fragment(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _writable(value: Any) -> Any:
    """`value`, with texts that are no UTF-8 as fragments; keys cannot be such."""
    match value:
        case dict():
            for key in value:
                key.encode()
            return {key: _writable(each) for key, each in value.items()}
        case list():
            return [_writable(each) for each in value]
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return orjson.Fragment(json.dumps(value))
    return value
