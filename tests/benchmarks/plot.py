"""A chart for RESULTS.md: panels side by side, as SVG on white, readable in light and dark mode.

Both axes of a panel are logarithmic, so a value in proportion to the ids rises one decade per decade.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 310, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 56, 44
"""Pixels of one panel, and of its margins."""

SIDE = 20
"""Pixels from the edges of the scale to the first and the last point."""

MANY_TICKS = 5

COLOURS = ("#1b5e9e", "#c2570c")


@dataclass(frozen=True, slots=True)
class Panel:
    """One or two lines by name, with values above 0: one for each of the two or more positions `along` the bottom.

    Attributes:
        title: Title, with the unit of the values.
        along: Numbers of ids.
        lines: Values by name in the legend.
    """

    title: str
    along: Sequence[int]
    lines: Mapping[str, Sequence[float]]


def svg(panels: Sequence[Panel]) -> str:
    """The chart as SVG."""
    size = f'width="{len(panels) * WIDTH}" height="{HEIGHT}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12" fill="#222222">',
        f'<rect {size} fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        drawn += [f'<g transform="translate({number * WIDTH} 0)">', *_draw(panel), "</g>"]
    return "\n".join([*drawn, "</svg>", ""])


def _draw(panel: Panel) -> list[str]:
    low, high = _span([value for line in panel.lines.values() for value in line])
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    first, last = log10(panel.along[0]), log10(panel.along[-1])

    def x(ids: int) -> float:
        return LEFT + SIDE + (right - LEFT - 2 * SIDE) * (log10(ids) - first) / (last - first)

    def y(value: float) -> float:
        return bottom - (bottom - TOP) * (log10(value) - low) / (high - low)

    drawn = [_text(LEFT, 20, panel.title, 'font-weight="bold"')]
    for value in _ticks(low, high):
        drawn.append(f'<path d="M{LEFT} {y(value):.1f}H{right}" stroke="#dddddd"/>')
        drawn.append(_text(LEFT - 6, y(value) + 4, f"{value:g}", 'text-anchor="end"'))
    drawn += [_text(x(ids), bottom + 18, _short(ids), 'text-anchor="middle"') for ids in panel.along]
    drawn.append(_text((LEFT + right) / 2, bottom + 36, "ids", 'text-anchor="middle"'))
    labels = []
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = f'fill="{COLOURS[number]}"'
        points = [(x(ids), y(value)) for ids, value in zip(panel.along, line, strict=True)]
        path = "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
        drawn.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[number]}" stroke-width="2"/>')
        drawn += [_mark(number, across, down) for across, down in points]
        drawn += [_mark(number, LEFT + 5 + 110 * number, 34), _text(LEFT + 14 + 110 * number, 38, name, colour)]
        for index, (across, down) in enumerate(points):
            above = line[index] >= max(other[index] for other in panel.lines.values())
            halo = 'text-anchor="middle" stroke="#ffffff" stroke-width="4" paint-order="stroke"'
            labels.append(_text(across, down + (-8 if above else 17), f"{line[index]:.3g}", f"{colour} {halo}"))
    return drawn + labels


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis as powers of ten: at least one decade, with room for labels."""
    low, high = log10(min(values)) - 0.2, log10(max(values)) + 0.2
    more = max(1.0 - (high - low), 0.0) / 2
    return low - more, high + more


def _ticks(low: float, high: float) -> list[float]:
    """The grid lines of an axis: at 1, 2, 5, 10 and so on, or only at the decades if there are many."""
    decades = range(floor(low), ceil(high))
    ticks = [step * 10.0**power for power in decades for step in (1, 2, 5) if low <= log10(step) + power <= high]
    return ticks if len(ticks) <= MANY_TICKS else [10.0**power for power in decades if low <= power]


def _text(x: float, y: float, words: str, how: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {how}>{words}</text>'


def _mark(number: int, x: float, y: float) -> str:
    """A dot or a square, so that lines differ without their colours too."""
    if number == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[0]}"/>'
    return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{COLOURS[number]}"/>'


def _short(ids: int) -> str:
    return f"{ids // 1_000_000} M" if ids >= 1_000_000 else f"{ids // 1_000} k"
