"""Exact: whatever JSON TMDB sends is written again without a rounded number, a lost key or a lost character."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvester.model.lossless_json import DuplicateKeyError, loads

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = [
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "-9223372036854775808",
    "-9223372036854775809",
    "1" * 5_000,
    "0.1234567890123456789",
    "1e400",
    "-1e-400",
    "1e99999999999999999999",
    "1.10",
    "1E5",
    "-0.0",
]
TEXTS = [r'"\ud83d"', r'"a\udc00b"', r'"\ud83d\ude00"', r'"\u00e7\/"', '"ção"']


def number(text: str) -> Decimal | str:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond Decimal's own
        return text


def exactly(body: bytes | str) -> Any:
    """What JSON says, every digit and key of it."""
    return json.loads(body, object_pairs_hook=tuple, parse_int=number, parse_float=number)


@pytest.mark.parametrize("text", [*NUMBERS, *TEXTS], ids=lambda text: text[:30])
@pytest.mark.parametrize("around", ["{}", '{{"a":{}}}', '[1, {{"b": [{}]}}]'])
def test_nothing_is_rounded_or_dropped(text: str, around: str) -> None:
    """A value lands with the digits and characters it came with, wherever in the answer it stands."""
    body = around.format(text)
    assert exactly(orjson.dumps(loads(body.encode()))) == exactly(body)


@pytest.mark.parametrize("body", ['{"a":1,"a":1}', '[{"b":{"a":1,"c":2,"a":3}}]', '{"a":{}, "\\u0061":[]}'])
def test_a_key_that_stands_twice_is_refused(body: str) -> None:
    """Readers would take the first, the last, or refuse the file."""
    with pytest.raises(DuplicateKeyError):
        loads(body.encode())


@pytest.mark.parametrize(
    "body", [b"", b"nul", b"NaN", b'{"a":Infinity}', b'{"a":1', b"\xff", b'"\xc3"', b'{"\\ud800":1}', b"[" * 3_000]
)
def test_what_is_no_json_or_cannot_be_written_is_a_value_error(body: bytes) -> None:
    """Never another error, however odd the bytes are."""
    with pytest.raises(ValueError):  # of any wording
        loads(body)


json_text = st.recursive(
    st.one_of(
        st.sampled_from(NUMBERS + TEXTS),
        st.integers().map(str),
        st.decimals(-(10**30), 10**30, places=25).map(str),
        st.text(st.characters()).map(json.dumps),
        st.sampled_from(["null", "true", "false"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner).map(lambda each: f"[{', '.join(each)}]"),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner).map(
            lambda each: "{" + ",".join(f"{json.dumps(key)}: {value}" for key, value in each.items()) + "}"
        ),
    ),
    max_leaves=20,
)


@given(json_text)
def test_any_json_is_written_as_it_was_read(text: str) -> None:
    """Also with fragments of any depth, in any form that JSON allows."""
    assert exactly(orjson.dumps(loads(text.encode(errors="surrogatepass")))) == exactly(text)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_json_or_a_value_error(body: bytes) -> None:
    """A parser is no place for other surprises."""
    try:
        value = loads(body)
    except ValueError:
        return
    orjson.dumps(value)


def test_recorded_answers_take_the_fast_way(payloads: Path) -> None:
    """TMDB writes JSON as orjson does, so that the comparison is all that exactness costs."""
    for path in sorted(payloads.rglob("*.json")):
        body = path.read_bytes().strip()
        assert orjson.dumps(orjson.loads(body)) == body, path.name
