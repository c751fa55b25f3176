"""Samples of large tables for the default run; `pytest -m kill` runs the other cells."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def sampled(cells: Iterable[tuple[Any, ...]], *aspects: Callable[..., object]) -> list[Any]:
    """The cells as test parameters; all are marked `kill` except a few that cover every value of each aspect.

    The few are chosen by a fixed seed.
    """
    cells, chosen = list(cells), set[tuple[Any, ...]]()
    values = {cell: {(number, aspect(*cell)) for number, aspect in enumerate(aspects)} for cell in cells}
    uncovered = set().union(*values.values())
    shuffled = random.Random(7).sample(cells, len(cells))
    while uncovered:
        best = max(shuffled, key=lambda cell: len(values[cell] & uncovered))
        chosen.add(best)
        uncovered -= values[best]
    return [pytest.param(*cell, marks=() if cell in chosen else pytest.mark.kill) for cell in cells]
