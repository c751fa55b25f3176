"""Observers: functions that are called with each event of a harvest, for progress, logs, metrics and tests.

Events have plain values, so that an observer does not import the modules that it observes. All events come from the
event loop, in order. An observer must not wait or raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias


class RunBegun(NamedTuple):
    """A run begins or resumes, with `titles` to look up, at `rate_per_second` requests at most."""

    run: str
    titles: int
    batches_done: int
    rate_per_second: float


class RequestDone(NamedTuple):
    """One request to the route `movie`, `tv`, `find` or `authentication`; `reason`: why its answer is not usable."""

    route: str
    reason: str | None
    seconds: float


class RetryBegun(NamedTuple):
    """`path` is requested again, because its last response was not usable."""

    path: str
    reason: str


class BackOffBegun(NamedTuple):
    """After a 429 no request is sent for `seconds`, then `rate_per_second` at most."""

    seconds: float
    rate_per_second: float


class TitleDone(NamedTuple):
    """A title has its outcome (`found`, `missing`, `failed`, `fresh`); it has not landed yet.

    A missing title may be looked up once more before its batch lands: `BatchLanded` has the final counts.
    """

    id: str
    outcome: str
    reason: str | None


class BatchLanded(NamedTuple):
    """A batch has landed, with the number of titles by outcome, in files of `bytes` in total."""

    batch: str
    collection: str
    outcomes: Mapping[str, int]
    bytes: int


class RunEnded(NamedTuple):
    """The harvest has ended, with this status or, if None, with an error.

    Always the last event, and the only one of a run that never began.
    """

    status: str | None


Event: TypeAlias = RunBegun | RequestDone | RetryBegun | BackOffBegun | TitleDone | BatchLanded | RunEnded
Observer: TypeAlias = Callable[[Event], object]


def all_of(*observers: Observer) -> Observer:
    """One observer that calls several, in this order."""
    if len(observers) == 1:
        return observers[0]

    def observe(event: Event) -> None:
        for each in observers:
            each(event)

    return observe


def ignore(_: Event) -> None:
    """The observer that does nothing."""
