"""Panels below each other: their places, their headings, and the two sides of zero."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL
from dst.plot.text import label

LINE = 16
"""Pixels of a line of a heading."""

_WIDEST = 44
"""Characters of a heading that a phone's width holds."""


def stacked(heights: Sequence[int], gaps: Sequence[int]) -> list[tuple[float, float]]:
    """Shares of the figure's height for panels from top to bottom.

    Args:
        heights: Pixels of each panel.
        gaps: Pixels above each panel: for its heading, or the axis of the panel before.
    """
    whole = sum(heights) + sum(gaps)
    domains, top = [], float(whole)
    for height, gap in zip(heights, gaps, strict=True):
        top -= gap
        domains.append((max((top - height) / whole, 0.0), min(top / whole, 1.0)))
        top -= height
    return domains


def heading(title: str, *more: str) -> list[str]:
    """Lines of a panel's heading that a phone can hold: a bold title, then sentences."""
    return [f"<b>{label(title)}</b>"] + [line for text in more for line in wrapped(text)]


def wrapped(text: str) -> list[str]:
    """A text in lines that a phone can hold, fit for a figure."""
    return [label(line) for line in textwrap.wrap(text, _WIDEST)]


def add_heading(fig: go.Figure, lines: Sequence[str], y: float, hover: str = "") -> None:
    """Write lines above a panel whose upper end is ``y``, a share of the figure's height."""
    fig.add_annotation(
        text="<br>".join(lines), xref="paper", yref="paper", x=0, y=y, xanchor="left",
        yanchor="bottom", showarrow=False, align="left", borderpad=0, font={"size": 12},
        **({"hovertext": hover} if hover else {}),
    )  # fmt: skip


def shade_sides(fig: go.Figure, y: str, span: tuple[float, float]) -> None:
    """Shade what is above zero as contextual and what is below as associative."""
    low, high = span
    for y0, y1, colour in ((0, high, CONTEXTUAL), (low, 0, ASSOCIATIVE)):
        add_band(fig, y, y0, y1, colour, opacity=0.07)


def add_band(
    fig: go.Figure, y: str, y0: float, y1: float, colour: str, *, opacity: float = 0.1,
    name: str = "",
) -> None:  # fmt: skip
    """Shade the values from ``y0`` to ``y1`` of the axis ``y`` over the panel's whole width."""
    fig.add_shape(
        type="rect", xref="x domain", yref=y, x0=0, x1=1, y0=y0, y1=y1, name=name,
        fillcolor=colour, opacity=opacity, line={"width": 0}, layer="below",
    )  # fmt: skip


def value_axis(
    domain: tuple[float, float], span: Sequence[float], title: str, x: str = "x"
) -> dict[str, Any]:
    """A panel's y axis: its place, its range, and what it measures."""
    return {
        "domain": domain,
        "anchor": x,
        "range": list(span),
        "title": {"text": title},
        "zeroline": True,
        "fixedrange": True,
    }


def axis_names(count: int, letter: str = "y") -> list[str]:
    """``y``, ``y2``, ``y3`` ...: the names of as many axes."""
    return [letter if i == 0 else f"{letter}{i + 1}" for i in range(count)]


def state_ranges(states: Iterable[int]) -> str:
    """States in few words: ``1, 3 to 7, 9``."""
    runs: list[list[int]] = []
    for state in sorted(states):
        if runs and state == runs[-1][-1] + 1:
            runs[-1].append(state)
        else:
            runs.append([state])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
