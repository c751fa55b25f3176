"""Redaction: removes secrets from everything that is written.

A safety net: no code prints a secret on purpose. It finds the secrets that it is given, also URL-encoded and in JSON,
and by their shape TMDB's keys and AWS's access keys, which users paste into the wrong place.
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

MIN_LENGTH = 8
"""Characters of a secret at least. TMDB's keys have 32 and more, AWS's access keys 20; local S3 servers accept any."""

_SHAPES = re.compile(
    r"eyJ[\w-]{8,}(?:\.[\w-]*){0,2}|(?<![0-9a-zA-Z])[0-9a-fA-F]{32}(?![0-9a-zA-Z])|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
)
"""A v4 token (a JWT, whole or cut), a v3 key, and an access key of AWS's."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with every secret replaced by `REDACTED`, except short ones, which could be part of a word."""
    forms = {form for secret in secrets if len(secret) >= MIN_LENGTH for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):  # one may contain another
        text = text.replace(form, REDACTED)
    return text


@cache
def _forms(secret: str) -> set[str]:
    """A secret as it is, in a URL, in JSON, and in JSON within JSON."""
    body = secret.encode(errors="surrogatepass")  # the environment may have bytes that are not UTF-8
    once = json.dumps(secret)[1:-1]
    return {secret, quote(body, safe=""), quote(body), quote_plus(body), once, json.dumps(once)[1:-1]}


def redact_shapes(text: str) -> str:
    """`text` with everything that has the shape of a key replaced by `REDACTED`."""
    return _SHAPES.sub(REDACTED, text)


class RedactingStream:
    """A stream that redacts secrets, whatever writes to it: rich, logs, warnings, Python itself.

    It does not raise if it cannot be written to: a full disk or a closed pipe must not end a harvest.
    """

    def __init__(self, stream: TextIO, secrets: Iterable[str] = ()) -> None:
        self._stream = stream
        self.secrets = set(secrets)
        self.trouble: OSError | None = None  # of the last write that failed

    def redacted(self, text: str) -> str:
        """`text` as it would be written."""
        return redact(text, self.secrets)

    def write(self, text: str) -> int:
        """Write `text` redacted, if it can be written."""
        self._try(self._stream.write, self.redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines` as `write` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, if it can be."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):  # they would give access to the stream below, which does not redact
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._stream, name)

    def _try(self, action: Callable[..., object], *texts: str) -> None:
        try:
            action(*texts)
        except OSError as error:
            self.trouble = error
