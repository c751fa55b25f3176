"""Redaction: no secret in anything that is written, whatever it came in.

A second lock: nothing is meant to say a secret. It knows those it is told, in the forms that URLs and JSON give them,
and by their shape TMDB's keys and AWS's access keys, which people paste where they do not belong.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

STRUCK = "[secret]"

SHORTEST = 8
"""Characters of a secret. TMDB's keys have 32 and more, AWS's access keys 20; local S3 servers take anything."""

_SHAPES = re.compile(
    r"eyJ[\w-]{8,}(?:\.[\w-]*){0,2}|(?<![0-9a-zA-Z])[0-9a-fA-F]{32}(?![0-9a-zA-Z])|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
)
"""A v4 token (a JWT, whole or cut), a v3 key, and an access key of AWS's."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret struck out, but for those too short to be one: they would take words with them."""
    forms = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):  # one may be part of another
        text = text.replace(form, STRUCK)
    return text


def redact_shapes(text: str) -> str:
    """`text` with everything struck out that has the shape of a key."""
    return _SHAPES.sub(STRUCK, text)


def is_key(text: str) -> bool:
    """Whether all of `text` has the shape of a key."""
    return _SHAPES.fullmatch(text) is not None


def _forms(secret: str) -> set[str]:
    """A secret as it is, in a URL, in JSON, and in JSON within JSON."""
    once = json.dumps(secret)[1:-1]
    return {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), once, json.dumps(once)[1:-1]}
