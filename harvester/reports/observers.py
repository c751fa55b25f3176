"""The observers of a harvest: a new one is a module in this package, and a line in `OBSERVERS`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from harvester.reports.progress_log import ProgressLog
from harvester.runtime.observer import Observer, all_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Factory: TypeAlias = Callable[[bool], Observer | None]
"""Makes an observer, or None where it has nothing to do; the argument is whether standard error is a terminal."""


def _progress_log(is_terminal: bool) -> Observer | None:  # noqa: FBT001  # of one argument alone
    return None if is_terminal else ProgressLog()


def _progress_bar(is_terminal: bool) -> Observer | None:  # noqa: FBT001  # of one argument alone
    if not is_terminal:
        return None
    from rich.console import Console

    from harvester.reports.progress_bar import ProgressBar  # rich is slow to import, and Lambda has none

    return ProgressBar(Console(stderr=True))


OBSERVERS: tuple[Factory, ...] = (_progress_log, _progress_bar)


def harvest_observer(
    *more: Observer, is_terminal: bool | None = None, factories: Sequence[Factory] = OBSERVERS
) -> Observer:
    """All observers of one harvest as one, and `more` of the caller's; made anew for each harvest."""
    if is_terminal is None:
        is_terminal = _is_terminal()
    made = (factory(is_terminal) for factory in factories)
    return all_of(*(observer for observer in made if observer), *more)


def _is_terminal() -> bool:
    """Whether rich takes standard error for a terminal, which FORCE_COLOR and TERM can change too."""
    from rich.console import Console

    return Console(file=sys.stderr).is_terminal
