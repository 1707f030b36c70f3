"""Charts as inline SVG.

They need no script, follow the page's light or dark colours and are read out by name.

Colours are the style sheet's (`.s0`, `.s1`, `.s2`: safe for the colour-blind); a series has a shape
of its own as well.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 38


def line_chart(
    name: str,
    points: Sequence[tuple[float, float]],
    *,
    best: float | None = None,
    reference: tuple[str, float] | None = None,
    over: str = "epoch",
) -> Markup:
    """A curve over epochs, or over something else.

    Args:
        name: what it shows, for people who cannot see it.
        points: (epoch, value), ascending by epoch; values are finite.
        best: the epoch to mark.
        reference: name and value of a level to compare with.
        over: what stands in the place of the epoch.
    """
    values = [value for _, value in points] + ([reference[1]] if reference else [])
    bottom, top, ticks = _scale(min(values), max(values))
    first, last = points[0][0], points[-1][0]
    x = (
        _Axis(first, last, _LEFT + 8, WIDTH - _RIGHT - 8)
        if last > first
        else _Axis(first - 1, first + 1, _LEFT, WIDTH - _RIGHT)
    )
    y = _Axis(bottom, top, HEIGHT - _BOTTOM, _TOP)
    parts = [
        _grid(y, ticks),
        *(_x_label(x(tick), _number(tick)) for tick in _epochs(first, last)),
        _x_title(over),
    ]
    if reference:
        level = y(reference[1])
        parts.append(_line(_LEFT, level, WIDTH - _RIGHT, level, "reference"))
        above = level - 5 if level - 5 > _TOP + 8 else level + 14
        parts.append(_text(WIDTH - _RIGHT, above, f"{reference[0]} {_value(reference[1])}", "end"))
    path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in points)
    parts.append(Markup('<polyline class="s0 curve" points="{}"/>').format(path))
    if len(points) <= 60:
        parts += [
            _marker(x(epoch), y(value), 0, f"{over} {_number(epoch)}: {_value(value)}", 2.5)
            for epoch, value in points
        ]
    found = dict(points)
    if best in found:
        across, up = x(best), y(found[best])
        parts.append(_line(across, _TOP, across, HEIGHT - _BOTTOM, "best"))
        parts.append(
            _marker(across, up, 0, f"best: {over} {_number(best)}, {_value(found[best])}", 5)
        )
    told = (
        f"{_value(points[0][1])} at {over} {_number(first)}, {_value(points[-1][1])} at {over} "
        f"{_number(last)}"
    )
    return _svg(
        name,
        told + (f"; best: {over} {_number(best)}, {_value(found[best])}" if best in found else ""),
        parts,
    )


def bar_chart(
    name: str,
    bars: Sequence[tuple[str, float]],
    x_title: str = "",
    *,
    ends: tuple[str, str] | None = None,
) -> Markup:
    """Counts by class, as upright bars.

    Args:
        name: what it shows.
        bars: (label, count).
        x_title: what the labels are.
        ends: labels of the left and the right end, for bars that have no place for a label each.
    """
    _, top, ticks = _scale(0, max((count for _, count in bars), default=0) or 1)
    y = _Axis(0, top, HEIGHT - _BOTTOM, _TOP)
    step = (WIDTH - _LEFT - _RIGHT) / max(len(bars), 1)
    parts = [_grid(y, ticks)]
    every = max(1, math.ceil(max((len(label) for label, _ in bars), default=0) * 6.4 / step))
    for number, (label, count) in enumerate(bars):
        left, height = _LEFT + number * step, HEIGHT - _BOTTOM - y(count)
        width = max(step - max(1.0, step * 0.16), 1.0)
        parts.append(
            Markup(
                '<rect class="s0 fill" x="{}" y="{}" width="{}" height="{}"><title>{}: '
                "{}</title></rect>"
            ).format(
                f"{left + (step - width) / 2:.1f}",
                f"{y(count):.1f}",
                f"{width:.1f}",
                f"{height:.1f}",
                label,
                f"{count:,.0f}",
            )
        )
        if ends is None and number % every == 0:
            parts.append(_x_label(left + step / 2, label))
    if ends:
        parts += [
            _text(_LEFT, HEIGHT - _BOTTOM + 15, ends[0], "start"),
            _text(WIDTH - _RIGHT, HEIGHT - _BOTTOM + 15, ends[1], "end"),
        ]
    told = ", ".join(f"{label}: {count:,.0f}" for label, count in bars[:12])
    return _svg(name, told + ("" if len(bars) <= 12 else ", ..."), [*parts, _x_title(x_title)])


def rank_curve(
    name: str, counts: Sequence[int], x_title: str, marks: Mapping[str, int] | None = None
) -> Markup:
    """The long tail: the count of the first, second, ... of them, both axes logarithmic.

    Args:
        name: what it shows.
        counts: [N] descending, at least 1 each.
        x_title: what is counted off.
        marks: name -> rank where a part of them ends.
    """
    x = _Axis(0, math.log10(max(len(counts), 2)), _LEFT, WIDTH - _RIGHT)
    y = _Axis(0, math.log10(max(counts[0], 2) * 1.1), HEIGHT - _BOTTOM, _TOP)
    steps = (1,) if counts[0] >= 1000 else (1, 2, 5)
    ticks = [
        step * 10**power
        for power in range(12)
        for step in steps
        if step * 10**power <= max(counts[0], 2)
    ]
    parts = []
    for tick in ticks:
        up = y(math.log10(tick))
        parts += [
            _line(_LEFT, up, WIDTH - _RIGHT, up, "grid"),
            _text(_LEFT - 6, up + 4, _short(tick), "end"),
        ]
    parts += [
        _x_label(x(power), _short(10**power))
        for power in range(int(math.log10(max(len(counts), 2))) + 1)
    ]
    # A hundred points along the logarithm are as many as can be told apart.
    ranks = sorted(
        {max(1, round(len(counts) ** (step / 100))) for step in range(101)} | {len(counts)}
    )
    path = [f"{x(math.log10(rank)):.1f},{y(math.log10(counts[rank - 1])):.1f}" for rank in ranks]
    base = f"{HEIGHT - _BOTTOM}"
    corners = f"{_LEFT},{base} {' '.join(path)} {x(math.log10(len(counts))):.1f},{base}"
    parts.append(Markup('<polygon class="s0 area" points="{}"/>').format(corners))
    parts.append(Markup('<polyline class="s0 curve" points="{}"/>').format(" ".join(path)))
    for number, (label, rank) in enumerate((marks or {}).items()):
        across = x(math.log10(max(rank, 1)))
        parts.append(_line(across, _TOP, across, HEIGHT - _BOTTOM, "best"))
        parts.append(_text(across - 4, _TOP + 11 + 13 * number, label, "end"))
    told = f"from {counts[0]:,} down to {counts[-1]:,} over {len(counts):,}"
    return _svg(name, told, [*parts, _x_title(x_title)])


def dot_plot(
    name: str, rows: Sequence[tuple[str, Mapping[str, float]]], series: Sequence[str]
) -> Markup:
    """Values of several series in rows, on one scale that starts at 0 where none is negative.

    Args:
        name: what it shows.
        rows: (label, series -> value); a series may be missing.
        series: their names, in the order of colours and shapes.
    """
    values = [value for _, row in rows for value in row.values()]
    lowest, highest, ticks = _scale(
        min(values) if min(values) < 0 or min(values) > 0.7 * max(values) else 0, max(values)
    )
    left, step = 126, 24
    height = _TOP + 6 + step * len(rows) + 26
    x = _Axis(lowest, highest, left, WIDTH - _RIGHT)
    bottom = height - 24
    parts = []
    for tick in ticks:
        parts += [
            _line(x(tick), _TOP, x(tick), bottom, "grid"),
            _text(x(tick), bottom + 16, _value(tick, ticks), "middle"),
        ]
    for number, (label, row) in enumerate(rows):
        up = _TOP + 6 + step * (number + 0.5)
        parts.append(_text(left - 10, up + 4, label, "end", "strong" if number == 0 else ""))
        here = [x(value) for value in row.values()]
        if here:
            parts.append(_line(min(here), up, max(here), up, "span"))
        # The model last: it lies on top where values coincide.
        for place in reversed(range(len(series))):
            if series[place] in row:
                value = row[series[place]]
                parts.append(
                    _marker(x(value), up, place, f"{label}, {series[place]}: {_value(value)}", 4.5)
                )
    told = "; ".join(
        f"{label}: " + ", ".join(f"{one} {_value(value)}" for one, value in row.items())
        for label, row in rows
    )
    return _svg(name, told, parts, height)


def legend(series: Sequence[str]) -> Markup:
    """The shapes of a dot plot with their names."""
    entries = (
        Markup(
            '<li><svg class="key" viewBox="0 0 14 14" aria-hidden="true">{}</svg>{}</li>'
        ).format(_marker(7, 7, place, one, 4.5), one)
        for place, one in enumerate(series)
    )
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


class _Axis:
    def __init__(self, low: float, high: float, start: float, end: float):
        self._low, self._start = low, start
        self._factor = (end - start) / ((high - low) or 1)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._factor


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round bounds around a range and about four steps of 1, 2 or 5 between them."""
    if high <= low:
        margin = abs(high) * 0.1 or 1.0
        low, high = (low, high + margin) if low == 0 else (low - margin, high + margin)
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _epochs(first: float, last: float) -> list[float]:
    # Epochs are whole; what lies within 0 and 1 is no epoch.
    step = max(1, math.ceil((last - first) / 8)) if last > 1 else _scale(first, last)[2][1]
    return [first + step * number for number in range(int((last - first) / step + 1e-9) + 1)]


def _value(value: float, ticks: Sequence[float] = ()) -> str:
    """Four significant digits; on an axis as many decimals as its steps need."""
    if len(ticks) > 1:
        decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
        return f"{value:,.{decimals}f}" if max(map(abs, ticks)) < 10_000 else _short(value)
    return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.5g}"


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _number(value: float) -> str:
    return f"{value:g}"


def _grid(y: _Axis, ticks: Sequence[float]) -> Markup:
    lines = (
        _line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid")
        + _text(_LEFT - 6, y(tick) + 4, _value(tick, ticks), "end")
        for tick in ticks
    )
    return Markup("").join(lines)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, *(f"{one:.1f}" for one in (x1, y1, x2, y2))
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>').format(
        f"{x:.1f}", f"{y:.1f}", anchor, Markup(' class="{}"').format(kind) if kind else "", text
    )


def _x_label(x: float, text: str) -> Markup:
    return _text(x, HEIGHT - _BOTTOM + 15, text, "middle")


def _x_title(text: str) -> Markup:
    return _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, text, "middle", "axis")


def _marker(x: float, y: float, place: int, title: str, size: float) -> Markup:
    """A circle, a diamond or a square: shape tells the series apart where colour does not."""
    shapes = (
        f'<circle class="s0 fill" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}">',
        f'<path class="s1 fill" d="M{x:.1f} {y - size - 1:.1f}l{size + 1} {size + 1}l{-size - 1} '
        f'{size + 1}l{-size - 1} {-size - 1}z">',
        f'<rect class="s2 open" x="{x - size + 0.5:.1f}" y="{y - size + 0.5:.1f}" '
        f'width="{2 * size - 1}" height="{2 * size - 1}">',
    )
    tag = ("circle", "path", "rect")[place % 3]
    return Markup(shapes[place % 3]) + Markup("<title>{}</title></{}>").format(title, tag)


def _svg(name: str, told: str, parts: Sequence[Markup], height: float = HEIGHT) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, f"{height:g}", escape(f"{name}: {told}"), Markup("").join(parts))
