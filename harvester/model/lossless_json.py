"""Lossless JSON: read so that nothing is rounded or dropped when it is written again.

orjson is fast, but rounds numbers beyond 64 bits, keeps one of two equal keys, and refuses half of a surrogate pair,
which JSON can carry (RFC 8259, sections 4, 6 and 8.2). So its value is written again and compared: if the bytes are
equal, nothing was lost. All recorded responses of TMDB are equal. Any other is read by Python's own parser, which takes
twenty times as long and passes the text of each number to us.
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
    """An object has a key twice; some readers take the first, some the last, and some refuse the file."""


def loads(body: bytes) -> Any:
    """The JSON value in `body`. What Python cannot represent exactly is an `orjson.Fragment` with the original text.

    Raises:
        DuplicateKeyError: An object in it has a key twice.
        ValueError: It is not JSON, or nested too deep.
    """
    try:
        value = orjson.loads(body)
        if orjson.dumps(value) == body.strip():
            return value
    except orjson.JSONEncodeError:
        return value  # nested too deep to be written: its title fails when that is tried
    except orjson.JSONDecodeError:
        pass  # not JSON, a number beyond all floats, or half of a pair
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
    object_ = dict(pairs)
    if len(object_) < len(pairs):
        raise DuplicateKeyError
    return object_


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
    raise ValueError(f"{text} is not JSON")


def _writable(value: Any) -> Any:
    """`value`, with strings that UTF-8 cannot encode as fragments; such keys are a ValueError."""
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
