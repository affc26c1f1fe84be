"""Small line charts and maps as SVG text: figures that a document can hold."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

INK, MUTED, GRID = "#24272D", "#5C6169", "#D9D9D4"
COLOURS = ("#0072B2", "#D55E00", "#00805E", "#A8588A", "#A67C00", "#56A4D0", "#7A7F87")
"""Colours that people with any common colour blindness can tell apart; dashes repeat them."""

DASHES = ("", "6 3", "2 3", "9 3 2 3", "1 4", "12 4", "4 1")
PALE, DEEP = (238, 242, 246), (0, 63, 105)
WIDTH, HEIGHT, LEFT, TOP = 200, 150, 44, 46


def lines(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    x: str,
    y: str,
    low: float,
    high: float,
) -> str:
    """Panels side by side, each with named curves of (x, y) points; NaN breaks a curve."""
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    step = WIDTH + LEFT + 12
    parts: list[str] = []
    for number, (title, curves) in enumerate(panels.items()):
        points = [point for curve in curves.values() for point in curve]
        first, last = min(p[0] for p in points), max(p[0] for p in points)
        span = (last - first) or 1.0
        at = LEFT + number * step
        place = lambda p, at=at, first=first, span=span: (  # noqa: E731
            at + (p[0] - first) / span * WIDTH,
            TOP + (high - p[1]) / (high - low) * HEIGHT,
        )
        parts.append(_text(at + WIDTH / 2, TOP - 10, title, anchor="middle", colour=INK))
        for value in (low, (low + high) / 2, high):
            height = place((first, value))[1]
            parts.append(
                f'<line x1="{at}" x2="{at + WIDTH}" y1="{height:.1f}" y2="{height:.1f}" '
                f'stroke="{GRID}"/>'
            )
            parts.append(_text(at - 6, height + 4, f"{value:g}", anchor="end"))
        for value in (first, last):
            parts.append(_text(place((value, low))[0], TOP + HEIGHT + 16, f"{value:g}"))
        for name, curve in curves.items():
            index = names.index(name)
            path = " ".join(
                "{:.1f},{:.1f}".format(*place(p)) for p in curve if not math.isnan(p[1])
            )
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{_colour(index)}" '
                f'stroke-width="2" stroke-dasharray="{DASHES[index % len(DASHES)]}"/>'
            )
    parts.append(_text(LEFT + len(panels) * step / 2, TOP + HEIGHT + 34, x, anchor="middle"))
    parts.append(_text(LEFT, 14, y, anchor="start", colour=INK))
    for index, name in enumerate(names):
        at, height = LEFT + index % 6 * 150, TOP + HEIGHT + 52 + index // 6 * 18
        parts.append(
            f'<line x1="{at}" x2="{at + 26}" y1="{height - 4}" y2="{height - 4}" stroke-width="2" '
            f'stroke="{_colour(index)}" stroke-dasharray="{DASHES[index % len(DASHES)]}"/>'
        )
        parts.append(_text(at + 32, height, name, anchor="start"))
    width = LEFT + max(len(panels) * step, min(len(names), 6) * 150)
    return _page(width, TOP + HEIGHT + 64 + (len(names) - 1) // 6 * 18, parts)


def squares(values: Mapping[str, Sequence[float]], columns: Sequence[str], *, title: str) -> str:
    """A map of shares, one row a name, dark for 1; NaN stays empty."""
    size, left, top = 22, 90, 60
    parts = [_text(left, 14, title, anchor="start", colour=INK)]
    for j, name in enumerate(columns):
        parts.append(_text(left + j * size + size / 2, top - 8, name, anchor="start", turn=-50))
    for i, (name, row) in enumerate(values.items()):
        height = top + i * size
        parts.append(_text(left - 6, height + size - 7, name, anchor="end"))
        for j, value in enumerate(row):
            if math.isnan(value):
                continue
            fill = "rgb({},{},{})".format(
                *(
                    round(light + value * (dark - light))
                    for light, dark in zip(PALE, DEEP, strict=True)
                )
            )
            parts.append(
                f'<rect x="{left + j * size}" y="{height}" width="{size - 1}" height="{size - 1}" '
                f'fill="{fill}"><title>{html.escape(name)}, {html.escape(columns[j])}: '
                f"{value:.2f}</title></rect>"
            )
    return _page(max(left + len(columns) * size + 60, 400), top + len(values) * size + 12, parts)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _text(
    x: float, y: float, text: str, *, anchor: str = "middle", colour: str = MUTED, turn: float = 0
) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{turned}>'
        f"{html.escape(text)}</text>"
    )


def _page(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="system-ui, sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#FFFFFF"/>'
        + "".join(parts)
        + "</svg>\n"
    )
