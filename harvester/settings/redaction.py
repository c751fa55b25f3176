"""Redaction: no secret in anything that is written, whatever it came in.

A second lock: nothing is meant to say a secret. It knows those it is given, in the forms that URLs and JSON give them,
and by their shape TMDB's keys and AWS's access keys, which people paste where they do not belong.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TextIO

REDACTED = "[secret]"

SHORTEST = 8
"""Characters of a secret. TMDB's keys have 32 and more, AWS's access keys 20; local S3 servers take anything."""

_SHAPES = re.compile(
    r"eyJ[\w-]{8,}(?:\.[\w-]*){0,2}|(?<![0-9a-zA-Z])[0-9a-fA-F]{32}(?![0-9a-zA-Z])|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
)
"""A v4 token (a JWT, whole or cut), a v3 key, and an access key of AWS's."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret struck out; those too short to be one would take words with them."""
    forms = {form for secret in secrets if len(secret) >= SHORTEST for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):  # one may be part of another
        text = text.replace(form, REDACTED)
    return text


@cache
def _forms(secret: str) -> set[str]:
    """A secret as it is, in a URL, in JSON, and in JSON within JSON."""
    body = secret.encode(errors="surrogatepass")  # what stands in the environment need not be text
    once = json.dumps(secret)[1:-1]
    return {secret, quote(body, safe=""), quote(body), quote_plus(body), once, json.dumps(once)[1:-1]}


def redact_shapes(text: str) -> str:
    """`text` with everything struck out that has the shape of a key."""
    return _SHAPES.sub(REDACTED, text)


class RedactingStream:
    """A stream that lets no secret through, whatever writes to it: rich, logs, warnings, Python itself.

    Nor does it raise where it cannot be written to: a full disk or a closed pipe ends no harvest.
    """

    def __init__(self, stream: TextIO, secrets: Iterable[str] = ()) -> None:
        self._stream = stream
        self.secrets = set(secrets)
        self.trouble: OSError | None = None  # what has kept something from being written

    def redacted(self, text: str) -> str:
        """`text` as it would be written."""
        return redact(text, self.secrets)

    def write(self, text: str) -> int:
        """Write `text` without the secrets in it, if it can be written."""
        self._try(self._stream.write, self.redacted(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it can be."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[..., object], *words: str) -> None:
        try:
            act(*words)
        except OSError as error:
            self.trouble = error
