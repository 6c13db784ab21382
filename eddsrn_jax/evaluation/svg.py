"""Draws plots of lines and of points as SVG, which browsers show."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

from eddsrn_jax.paths import printable

Points = Sequence[tuple[float, float]]

# Sizes in pixels: a panel's plot, and the space at its left, top, right and bottom.
_WIDTH, _HEIGHT = 420, 240
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 40, 240, 55
# Distance of the names at a plot's right, in pixels.
_LINE_HEIGHT = 16
_LARGEST_NUMBER_OF_POINTS = 400
# Colours that people with colour blindness can tell apart (Okabe and Ito, 2008).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclasses.dataclass(frozen=True)
class Panel:
    """A plot of lines, at least one of which has points.

    Attributes:
        title: text above the plot.
        x_label, y_label: quantities and units of the axes.
        lines: finite points (x, y) of each line, by the line's name.
        log_x: whether the x axis is logarithmic; every x must then be above 0.
        marked: whether each point shows the first word of its line's name. Colours alone
            tell only a few lines apart.
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Points]
    log_x: bool = False
    marked: bool = False


def draw_panels(panels: Sequence[Panel]) -> str:
    """Returns an SVG of panels, one below the other."""
    body, height = [], 0
    for panel in panels:
        place = f"translate({_LEFT} {height + _TOP})"
        body.append(f'<g transform="{place}">{_panel(panel)}</g>')
        names = _LINE_HEIGHT * len(panel.lines)
        height += _TOP + max(_HEIGHT + _BOTTOM, names)
    size = f'width="{_LEFT + _WIDTH + _RIGHT}" height="{height}"'
    font = 'font-family="sans-serif" font-size="12"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>'
    return "\n".join([head, background, *body, "</svg>"]) + "\n"


def _panel(panel: Panel) -> str:
    lines = {name: _thinned(points) for name, points in panel.lines.items()}
    xs, ys = zip(*[point for points in lines.values() for point in points], strict=True)
    x_ticks, y_ticks = _log_ticks(xs) if panel.log_x else _ticks(xs), _ticks(ys)
    scale = math.log10 if panel.log_x else float

    def place(x: float, y: float) -> tuple[float, float]:
        across = (scale(x) - scale(x_ticks[0])) / (scale(x_ticks[-1]) - scale(x_ticks[0]))
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(_WIDTH * across, 1), round(_HEIGHT * (1 - up), 1)

    parts = [_text(0, -14, panel.title, size=14)]
    for x in x_ticks:
        left, _ = place(x, y_ticks[0])
        parts.append(f'<path d="M{left} 0V{_HEIGHT}" stroke="#ddd"/>')
        parts.append(_text(left, _HEIGHT + 18, f"{x:.10g}", anchor="middle"))
    for y in y_ticks:
        _, top = place(x_ticks[0], y)
        parts.append(f'<path d="M0 {top}H{_WIDTH}" stroke="#ddd"/>')
        parts.append(_text(-8, top + 4, f"{y:.10g}", anchor="end"))
    parts.append(_text(_WIDTH / 2, _HEIGHT + 38, panel.x_label, anchor="middle"))
    label = _text(-_HEIGHT / 2, -54, panel.y_label, anchor="middle")
    parts.append(f'<g transform="rotate(-90)">{label}</g>')
    for i, (name, points) in enumerate(lines.items()):
        color = _COLORS[i % len(_COLORS)]
        places = [place(x, y) for x, y in points]
        joined = " ".join(f"{left},{top}" for left, top in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{color}"/>')
        if len(places) <= 20:
            parts += [
                f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in places
            ]
        if panel.marked:
            mark = name.partition(" ")[0]
            parts += [_text(x + 5, y - 4, mark, color=color) for x, y in places]
        parts.append(_text(_WIDTH + 14, _LINE_HEIGHT * i + 10, name, color=color))
    return "".join(parts)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    color: str = "#333",
) -> str:
    style = f'text-anchor="{anchor}" font-size="{size}" fill="{color}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(printable(text))}</text>'


def _ticks(values: Iterable[float]) -> list[float]:
    """Returns round numbers at equal distances, from below the values to above them."""
    low, high = min(values), max(values)
    # All values may be equal, and rounding must not make two ticks one.
    span = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(values: Iterable[float]) -> list[float]:
    """Returns 1, 2 and 5 times powers of ten, from below the values to above them."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    ticks = [m * 10.0**i for i in powers for m in (1, 2, 5)]
    first = max(i for i, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    last = min(i for i, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[first : max(last, first + 1) + 1]


def _thinned(points: Points) -> Points:
    """Returns at most 400 points: the means of consecutive ones, if there are more."""
    if len(points) <= _LARGEST_NUMBER_OF_POINTS:
        return points
    parts = np.array_split(np.array(points), _LARGEST_NUMBER_OF_POINTS)
    return [tuple(part.mean(axis=0).tolist()) for part in parts]
