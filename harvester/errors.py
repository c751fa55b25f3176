"""Every exception that this package raises on purpose, except the demo's own.

```
Exception
└── HarvestError               1   the root of all that we raise on purpose
    ├── CorruptLakeError       1   the bucket's content contradicts itself
    ├── SettingsError          2   a setting is missing or wrong (also a ValueError)
    ├── InputError             2   a CSV or a Lambda event cannot be used (also a ValueError)
    ├── NewerFormatError       2   a newer harvester has written an object in the bucket
    ├── TmdbRefusedError       3   TMDB refuses the key: it is invalid, suspended or revoked
    ├── StoreError             4   S3 refuses, or cannot be reached
    ├── TmdbUnavailableError   6   TMDB has no usable answer for any title
    └── StoppedError          75   stopped before the end
        ├── BusyError         75   another harvest is at work in this prefix, and a Lambda does not wait
        └── LeaseLostError    75   another harvest has taken over this prefix
```

The number is the exit code; a state machine on AWS can match the class names. A failed title is not an exception but an
outcome, `model.outcome.Failed`; a run with failed titles ends with `Exit.FAILED`.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum, auto
from typing import Final

SAFE = "What has landed is safe; run again to go on."
"""The advice of an error that the next run may not meet again."""


def readable(text: str) -> str:
    """`text` with what no encoding has, such as the bytes of a path that is not UTF-8, as escapes."""
    return text.encode(errors="backslashreplace").decode()


class Exit(IntEnum):
    """How a command ends; scripts and schedulers decide by these numbers (75 is sysexits' EX_TEMPFAIL)."""

    CLOSED = 0
    WRONG = 1
    USAGE = 2
    REFUSED = 3
    STORE = 4
    FAILED = 5
    UNAVAILABLE = 6
    STOPPED = 75


class StoreErrorKind(StrEnum):
    """What a `StoreError` means to the code that handles it, independent of the store's own codes."""

    NO_BUCKET = auto()
    NO_OBJECT = auto()
    NO_UPLOAD = auto()
    DENIED = auto()
    CONFLICT = auto()  # another call is under way at this key: try again
    PRECONDITION = auto()  # the condition of a conditional put does not hold
    OTHER = auto()


class HarvestError(Exception):
    """An expected problem; the message says what was seen and what to do next."""

    exit_code: Exit = Exit.WRONG

    def __init_subclass__(cls, *, exit_code: Exit | None = None) -> None:
        cls.exit_code = exit_code or cls.exit_code


class CorruptLakeError(HarvestError):
    """The bucket's content contradicts itself, or the input; the message names the object."""


class SettingsError(HarvestError, ValueError, exit_code=Exit.USAGE):
    """A setting is missing or wrong, with a sentence for each problem; nothing has been requested yet."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class InputError(HarvestError, ValueError, exit_code=Exit.USAGE):
    """The input cannot be used: a CSV that is no list of IMDb ids, or an event of the Lambda.

    `line` counts from 1, None if no one line is at fault.
    """

    def __init__(self, source: str, problem: str, *, line: int | None = None) -> None:
        self.source, self.line, self.problem = source, line, problem
        location = source if line is None else f"{source}, line {line}"
        super().__init__(f"{location}: {problem}")


class NewerFormatError(HarvestError, exit_code=Exit.USAGE):
    """An object of ours has a higher format than this harvester reads; nothing has been requested yet."""

    def __init__(self, key: str, seen: int) -> None:
        super().__init__(f"{key} has format {seen}, and this harvester reads format 1: install a newer one")


class TmdbRefusedError(HarvestError, exit_code=Exit.REFUSED):
    """TMDB refuses the key; `code` is its own `status_code` (developer.themoviedb.org/docs/errors), or None."""

    def __init__(self, status: int, code: int | None, message: str) -> None:
        self.status, self.code = status, code
        advice = "Check TMDB_API_KEY against https://www.themoviedb.org/settings/api; what has landed is safe."
        super().__init__(f"TMDB refuses the key (HTTP {status}, code {code}: {message!r}). {advice}")


class StoreError(HarvestError, exit_code=Exit.STORE):
    """The store refused or was not reached, after its own retries.

    `code` is the store's or the network's, for messages; `kind` is for code to compare.
    """

    def __init__(
        self, action: str, code: str, advice: str = SAFE, *, kind: StoreErrorKind = StoreErrorKind.OTHER
    ) -> None:
        self.action, self.code, self.advice, self.kind = action, code, advice, kind
        super().__init__(f"Cannot {action}: {code}. {advice}")


class TmdbUnavailableError(HarvestError, exit_code=Exit.UNAVAILABLE):
    """TMDB has no usable answer for any title; everything landed is safe, and no title is the cause."""

    WORDS: Final = {
        "dns": "its name cannot be resolved (dns): check the network and TMDB_BASE_URL",
        "tls": "it does not speak TLS, or its certificate is not trusted (tls): check TMDB_BASE_URL",
        "connection_refused": "it refuses the connection (connection_refused): check the network and TMDB_BASE_URL",
        "no_network": "there is no route to it (no_network): check the network",
        "timeout": "no answer in time (timeout)",
    }  # texts for `tmdb.responses.Retry.reason`

    def __init__(self, reason: str, seen: str) -> None:
        self.reason = reason
        last = self.WORDS.get(reason, reason)
        super().__init__(f"TMDB is unavailable: {seen}; last: {last}. What has landed is safe; run again later.")


class StoppedError(HarvestError, exit_code=Exit.STOPPED):
    """Stopped before the end; everything landed is safe."""


class BusyError(StoppedError):
    """Another harvest is at work in this prefix, and this one does not wait for it."""


class LeaseLostError(StoppedError):
    """Another harvest has taken over this prefix; this one writes nothing more."""
