"""Marks over depth: a line at each state, and below it one row per mark with its definition.

A row per mark keeps marks of one state apart. Marks that are absent are named last, each with
its reason when hovered.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from dst.core.results import Mark, Markers
from dst.plot.palette import OTHER
from dst.plot.text import label, state_name, state_number

_LINE, _TRACK, _WIDEST = 15, 24, 44
"""Pixels of a line of text and of the track below it; characters that a phone's width holds."""

SYMBOLS = {
    "onset": "triangle-down",
    "inversion": "diamond",
    "commitment": "square",
    "arrival": "triangle-right",
    "handover": "hexagon",
    "departure": "triangle-left",
}


def marks_on(markers: Markers, names: Iterable[str]) -> tuple[list[Mark], list[Mark]]:
    """The marks whose definition mentions one of these scores, and all the others."""
    pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or r"(?!)")
    on = [mark for mark in markers.marks if pattern.search(mark.definition)]
    return on, [mark for mark in markers.marks if not pattern.search(mark.definition)]


def is_published(name: str) -> bool:
    """Whether a score or a definition is someone's published one, by its name."""
    return "published" in name


def marks_height(marks: Iterable[Mark]) -> int:
    """Pixels that the rows of these marks need."""
    return sum(_row_height(mark) for mark in marks)


def add_marks(
    fig: go.Figure,
    marks: Sequence[Mark],
    *,
    x: str,
    y: str,
    domain: tuple[float, float],
    bands: bool = True,
) -> None:
    """Draw ``marks`` on the axes ``x``, ``y``: rows within ``domain``, lines and bands above it.

    The y axis is in pixels below the domain's upper end. Published definitions have open
    symbols, ours filled ones.

    Args:
        fig: The figure to draw on.
        marks: The marks, from top to bottom.
        x: The axis of states, such as ``x``.
        y: The axis to use for the rows, such as ``y2``.
        domain: Lower and upper end of the rows, as shares of the figure's height.
        bands: Shade the intervals above the rows too, where nothing else is shaded.
    """
    for state in sorted({mark.state for mark in marks if not math.isnan(mark.state)}):
        fig.add_shape(
            type="line", xref=x, yref="paper", x0=state, x1=state, y0=domain[1], y1=1,
            line={"color": OTHER, "width": 1, "dash": "dot"}, layer="below",
            name=f"state {state:g}",
        )  # fmt: skip
    tracks, used = [], 0
    absent = [mark for mark in marks if mark.reason]
    for mark in [mark for mark in marks if not mark.reason] + absent:
        used += _row_height(mark)
        if mark.reason:
            _add_title(fig, mark, f"{x} domain", y, -used)
            continue
        tracks.append(-used + _TRACK / 2)
        if bands and _has_interval(mark):
            fig.add_shape(
                type="rect", xref=x, yref="paper", x0=mark.low, x1=mark.high, y0=domain[1], y1=1,
                fillcolor=OTHER, opacity=0.1, line={"width": 0}, layer="below", name=mark.name,
            )  # fmt: skip
        fig.add_trace(_row(mark, tracks[-1], x, y))
        _add_title(fig, mark, f"{x} domain", y, tracks[-1] + 4)
    fig.update_layout(
        {
            f"yaxis{y[1:]}": {
                "domain": domain,
                "anchor": x,
                "range": [-used, 0],
                "tickvals": tracks,
                "showticklabels": False,
                "zeroline": False,
                "fixedrange": True,
            }
        }
    )


def _row(mark: Mark, track: float, x: str, y: str) -> go.Scatter:
    symbol = SYMBOLS.get(mark.name, "circle") + ("-open" if is_published(mark.definition) else "")
    spread = _has_interval(mark)
    return go.Scatter(
        x=[mark.state],
        y=[track],
        xaxis=x,
        yaxis=y,
        mode="markers",
        name=f"{label(mark.name)}, {label(mark.definition)}",
        marker={"symbol": symbol, "size": 10, "color": OTHER, "line": {"width": 2, "color": OTHER}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [mark.high - mark.state if spread else 0],
            "arrayminus": [mark.state - mark.low if spread else 0],
            "color": OTHER,
            "visible": spread,
        },
        hovertext=[mark_hover(mark)],
        hoverinfo="text",
        showlegend=False,
    )


def _add_title(fig: go.Figure, mark: Mark, x: str, y: str, bottom: float) -> None:
    fig.add_annotation(
        text="<br>".join(_title(mark)), hovertext=mark_hover(mark), xref=x, yref=y, x=0, y=bottom,
        xanchor="left", yanchor="bottom", showarrow=False, align="left", borderpad=0,
        font={"size": 11},
    )  # fmt: skip


def _title(mark: Mark) -> list[str]:
    """A row's text: the name, then the definition, in lines that a phone can hold."""
    none = "no " if mark.reason else ""
    lines = textwrap.wrap(f"{none}{label(mark.name)}, {label(mark.definition)}", _WIDEST) or [""]
    head, comma, rest = lines[0].partition(",")
    return [f"<b>{head}</b>{comma}{rest}", *lines[1:]]


def _row_height(mark: Mark) -> int:
    return _LINE * len(_title(mark)) + (0 if mark.reason else _TRACK)


def mark_hover(mark: Mark) -> str:
    """What hovering over a mark says: definition, place or reason, interval, thresholds."""
    lines = [f"<b>{label(mark.name)}</b>", label(mark.definition)]
    lines.append(state_name(mark.state, mark.n_layers) if not mark.reason else label(mark.reason))
    if _has_interval(mark):
        lines.append(f"interval {state_number(mark.low)} to {state_number(mark.high)}")
    lines += [f"{label(name)} = {value:g}" for name, value in mark.thresholds.items()]
    return "<br>".join(lines + ([label(mark.note)] if mark.note else []))


def _has_interval(mark: Mark) -> bool:
    return not any(math.isnan(value) for value in (mark.state, mark.low, mark.high))
