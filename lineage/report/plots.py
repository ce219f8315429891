"""Plots as SVG text, without any library: intervals against epsilon, gain against cost, coverage by week, dependence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
_LEFT, _ROW, _TOP = 220, 22, 28
COLOURS = {"MATERIAL": "#2b6cb0", "NEGLIGIBLE": "#c05621", "HARMFUL": "#9b2c2c", "UNDETERMINED": "#718096"}
_LINES = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#744210")


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of a plot of intervals: a name, a mean, its two bounds, and the verdict that colours it."""

    name: str
    mean: float
    lower: float
    upper: float
    worth: str


def intervals(rows: Sequence[Interval], epsilon: float) -> str:
    """Draw each gain with its bounds, and the line of epsilon.

    Each row is scaled by the sign-keeping square root, so that small gains beside large ones are still seen.
    """
    known = [row for row in rows if math.isfinite(row.mean)]
    if not known:
        return ""
    ends = [_root(v) for row in known for v in (row.lower, row.upper)] + [0.0, _root(epsilon)]
    low, high = min(ends), max(ends)

    def x(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - 30) * (_root(value) - low) / ((high - low) or 1)

    height = _TOP + _ROW * len(known) + 10
    parts = [_line(x(0.0), _TOP - 6, x(0.0), height, "#a0aec0"), _text(x(0.0), _TOP - 12, "0", "middle")]
    parts += [_line(x(epsilon), _TOP - 6, x(epsilon), height, "#c53030", dashed=True)]
    parts += [_text(x(epsilon), _TOP - 12, f"epsilon {epsilon:.2g}", "middle")]
    for place, row in enumerate(sorted(known, key=lambda r: -r.mean)):
        y = _TOP + _ROW * place + 10
        colour = COLOURS.get(row.worth, "#718096")
        title = f"{row.name}: gain {row.mean:.3g}, between {row.lower:.3g} and {row.upper:.3g}: {row.worth}"
        parts.append(
            f"<g><title>{escape(title)}</title>{_text(_LEFT - 10, y + 4, _short(row.name), 'end')}"
            f"{_line(x(row.lower), y, x(row.upper), y, colour, width=3)}"
            f'<circle cx="{x(row.mean):.1f}" cy="{y}" r="4.5" fill="{colour}"/></g>'
        )
    return _svg(height, parts, "gain of each feature with its 95 % bounds, and epsilon")


def scatter(points: Sequence[tuple[str, float, float, str]], *, across: str, up: str) -> str:
    """Draw points ``(name, across, up, verdict)``; both axes by the sign-keeping square root."""
    known = [p for p in points if math.isfinite(p[1]) and math.isfinite(p[2])]
    if not known:
        return ""
    height, bottom, left = 300, 260, 70
    xs, ys = [_root(p[1]) for p in known] + [0.0], [_root(p[2]) for p in known] + [0.0]
    wide, tall = (max(xs) - min(xs)) or 1, (max(ys) - min(ys)) or 1
    parts = [_line(left, bottom, WIDTH - 20, bottom, "#4a5568"), _line(left, 20, left, bottom, "#4a5568")]
    parts += [_text((WIDTH + left) / 2, height - 8, across, "middle"), _text(left, 12, up, "start")]
    taken: list[tuple[float, float, float]] = []
    for name, cost, gain, worth in sorted(known, key=lambda p: (p[2], p[1])):
        x = left + (WIDTH - left - 40) * (_root(cost) - min(xs)) / wide
        y = bottom - (bottom - 30) * (_root(gain) - min(ys)) / tall
        title = f"{name}: {across} {cost:,.0f}, {up} {gain:.3g}"
        parts.append(
            f'<g><title>{escape(title)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{COLOURS.get(worth, "#718096")}"/>'
            f"{_label(x, y, _short(name), taken)}</g>"
        )
    return _svg(height, parts, f"{up} against {across}")


def _label(x: float, y: float, name: str, taken: list[tuple[float, float, float]]) -> str:
    """Write a name beside a point, on the side where there is room, and above the names that are there already."""
    wide = 7.0 * len(name)
    from_left = x + 8 + wide < WIDTH
    begins = x + 8 if from_left else x - 8 - wide
    line = y + 4
    while any(abs(line - other) < 12 and begins < end and start < begins + wide for start, end, other in taken):
        line -= 12
    taken.append((begins, begins + wide, line))
    return _text(x + 8 if from_left else x - 8, line, name, "start" if from_left else "end")


def curves(lines: Mapping[str, Mapping[str, float]]) -> str:
    """Draw shares between 0 and 1 by week, one line a name."""
    weeks = sorted({week for line in lines.values() for week in line})
    if len(weeks) < 2:
        return ""
    height, bottom, left = 240 + 16 * len(lines), 200, 50

    def x(week: str) -> float:
        return left + (WIDTH - left - 30) * weeks.index(week) / (len(weeks) - 1)

    parts = [_line(left, bottom, WIDTH - 20, bottom, "#4a5568"), _line(left, 20, left, bottom, "#4a5568")]
    parts += [_text(left - 6, bottom + 4, "0 %", "end"), _text(left - 6, 26, "100 %", "end")]
    parts += [_text(left, bottom + 18, weeks[0], "start"), _text(WIDTH - 20, bottom + 18, weeks[-1], "end")]
    for place, (name, line) in enumerate(lines.items()):
        colour = _LINES[place % len(_LINES)]
        points = " ".join(f"{x(week):.1f},{bottom - (bottom - 22) * line[week]:.1f}" for week in weeks if week in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(left, bottom + 40 + 16 * place, name, "start", colour))
    return _svg(height, parts, "share of rows that have the newer feature, by week")


def matrix(names: Sequence[str], strength: Mapping[tuple[str, str], float]) -> str:
    """Draw how strongly each pair depends, darker being stronger."""
    size = 26
    height = _TOP + size * len(names) + 10
    parts = []
    for row, one in enumerate(names):
        parts.append(_text(_LEFT - 8, _TOP + size * row + 17, _short(one), "end"))
        for column, other in enumerate(names):
            value = 1.0 if one == other else strength.get((one, other), strength.get((other, one), 0.0))
            shade = round(255 - 190 * value)
            x, y = _LEFT + size * column, _TOP + size * row
            title = escape(f"{one} and {other}: {value:.2f}")
            parts.append(
                f'<rect x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" fill="rgb({shade},{shade},255)">'
                f"<title>{title}</title></rect>"
            )
    return _svg(height, parts, "dependence of each pair")


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: int = 1, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dash}/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#2d3748") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    view = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {view} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
