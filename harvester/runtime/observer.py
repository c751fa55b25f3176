"""Observers: functions that are called with each event of a harvest, for progress, logs, metrics and tests.

Events carry plain values, so that an observer needs nothing of the modules that it observes. All of them come from the
event loop, in their order; an observer neither waits nor raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class RunBegun:
    """A run begins or goes on, with `titles` to look up, at `rate_per_second` requests at most."""

    run: str
    titles: int
    batches_done: int
    rate_per_second: float


@dataclass(frozen=True, slots=True)
class RequestDone:
    """TMDB was asked at `movie`, `tv`, `find` or `authentication`; `reason` is why the response is not usable."""

    route: str
    reason: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RetryBegun:
    """`path` is asked for again, because its last response was not usable."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackOffBegun:
    """After a 429 nothing is asked for so many seconds, and from then on at this rate."""

    seconds: float
    rate_per_second: float


@dataclass(frozen=True, slots=True)
class TitleDone:
    """A title has its outcome (`found`, `missing`, `failed`, `fresh`); it has not landed yet."""

    id: str
    outcome: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class BatchLanded:
    """A batch has landed, with so many titles of each outcome, in files of `bytes` together."""

    batch: str
    collection: str
    outcomes: Mapping[str, int]
    bytes: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The harvest has ended, with this status or, if that is None, by an error.

    Always the last event, and the only one where the run never began.
    """

    status: str | None


Event: TypeAlias = RunBegun | RequestDone | RetryBegun | BackOffBegun | TitleDone | BatchLanded | RunEnded
Observer: TypeAlias = Callable[[Event], object]


def all_of(*observers: Observer) -> Observer:
    """Several observers as one, called in their order."""

    def observe(event: Event) -> None:
        for each in observers:
            each(event)

    return observe


def ignore(_: Event) -> None:
    """The observer that does nothing."""
