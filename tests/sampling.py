"""Samples of large tables for the default run; all of their cells are run by `pytest -m kill`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def sampled(cells: Iterable[tuple[Any, ...]], *aspects: Callable[..., object]) -> list[Any]:
    """These cells as parameters; for the default run a few of them, by seed, that have every value of each aspect.

    All of them: `pytest -m kill`.
    """
    cells, chosen = list(cells), set[tuple[Any, ...]]()
    values = {cell: {(number, aspect(*cell)) for number, aspect in enumerate(aspects)} for cell in cells}
    left = set().union(*values.values())
    shuffled = random.Random(7).sample(cells, len(cells))
    while left:
        best = max(shuffled, key=lambda cell: len(values[cell] & left))
        chosen.add(best)
        left -= values[best]
    return [pytest.param(*cell, marks=() if cell in chosen else pytest.mark.kill) for cell in cells]
