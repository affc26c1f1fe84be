"""Coherence scores over depth: published and ours side by side, with the marks below.

A panel holds the scores of one family (the name before its first ``_``) and unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.core.results import Coherence, Mark, Markers, Score
from dst.plot.marks import add_marks, is_published, marks_height
from dst.plot.palette import OTHER, SCORE_COLOURS
from dst.plot.panels import axis_names, stacked
from dst.plot.text import label, number, state_name
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_PANEL = 190
_GAP = 26
_LEGEND = 70
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "pentagon")
_UNITS = {"share": "share", "logits": "logits", "1": "no unit"}


def coherence(score: Coherence | Score, marks: Markers | Sequence[Mark] | None = None) -> go.Figure:
    """Every score per state, one panel per family and unit, with the marks in rows below.

    A published score is dashed with open symbols, one of ours solid with filled symbols. A
    state where a score is NaN leaves a gap, and a cross at the panel's foot says why when
    hovered; a score that is nowhere defined is not in the legend.
    """
    scores = score.scores if isinstance(score, Coherence) else (score,)
    listed = list(marks.marks if isinstance(marks, Markers) else marks or ())
    styles = {one.name: _style(one, place) for place, one in enumerate(scores)}
    panels: dict[tuple[str, str], list[Score]] = {}
    for one in scores:
        panels.setdefault((one.name.split("_")[0], one.unit), []).append(one)
    heights = [_PANEL] * len(panels) + [marks_height(listed)] * bool(listed)
    fig = figure(_LEGEND + sum(heights) + _GAP * (len(heights) - 1) + AXIS)
    axes = axis_names(len(heights))
    n_states = max((len(one.value) for one in scores), default=1)
    domains = stacked(heights, [0, *[_GAP] * (len(heights) - 1)][: len(heights)])
    for axis, domain in zip(axes, domains, strict=True):
        fig.update_layout({f"yaxis{axis[1:]}": {"domain": domain, "anchor": "x"}})
    fig.update_layout(xaxis=state_axis(n_states) | {"anchor": axes[-1] if axes else "y"})
    for (key, panel), axis in zip(panels.items(), axes, strict=False):
        _add_panel(fig, panel, key, axis, styles)
    if listed:
        add_marks(fig, listed, x="x", y=axes[-1], domain=domains[-1])
    return fig


def _add_panel(
    fig: go.Figure,
    scores: list[Score],
    key: tuple[str, str],
    axis: str,
    styles: dict[str, dict[str, Any]],
) -> None:
    family, unit = key
    low, high = value_range(*(one.value for one in scores))
    if unit == "share":
        low, high = -0.12, 1.08
    for one in scores:
        states = list(range(len(one.value)))
        fig.add_trace(
            go.Scatter(
                x=states,
                y=one.value,
                yaxis=axis,
                mode="lines+markers",
                connectgaps=False,
                name=f"{label(one.name)} {number(one.total)}",
                hovertext=[_hover(one, state) for state in states],
                hoverinfo="text",
                showlegend=not bool(np.isnan(one.value).all()),
                **styles[one.name],
            )
        )
    _add_undefined(fig, scores, axis, low + 0.04 * (high - low))
    fig.update_layout(
        {
            f"yaxis{axis[1:]}": {
                "range": [low, high],
                "title": {"text": label(f"{family} ({_UNITS.get(unit, unit)})")},
                "zeroline": unit != "share",
                "fixedrange": True,
            }
        }
    )


def _add_undefined(fig: go.Figure, scores: list[Score], axis: str, y: float) -> None:
    """One cross per state where some score of the panel is NaN, with every reason."""
    states = sorted({int(i) for one in scores for i in np.flatnonzero(np.isnan(one.value))})
    if not states:
        return
    reasons = [
        "<br>".join(
            [f"<b>{state_name(state)}</b>"]
            + [
                f"{label(one.name)}: {label(one.reasons[state])}"
                for one in scores
                if state < len(one.reasons) and one.reasons[state]
            ]
        )
        for state in states
    ]
    fig.add_trace(
        go.Scatter(
            x=states,
            y=[y] * len(states),
            yaxis=axis,
            mode="markers",
            name="undefined",
            marker={"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": OTHER}},
            hovertext=reasons,
            hoverinfo="text",
            showlegend=False,
        )
    )


def _style(score: Score, place: int) -> dict[str, Any]:
    """Line and marker: colour and symbol by the place among the scores, dash by the source."""
    published = is_published(score.name)
    colour = SCORE_COLOURS[place % len(SCORE_COLOURS)]
    return {
        "line": {"color": colour, "width": 2, "dash": "dash" if published else "solid"},
        "marker": {
            "symbol": _SYMBOLS[place % len(_SYMBOLS)] + ("-open" if published else ""),
            "size": marker_size(len(score.value)),
            "color": colour,
            "line": {"width": 2 if published else 0},
        },
    }


def _hover(score: Score, state: int) -> str:
    value = float(score.value[state])
    shown = label(score.reasons[state]) if np.isnan(value) else number(value, 3)
    return f"<b>{label(score.name)}</b><br>{state_name(state)}: {shown}"
