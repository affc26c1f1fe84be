"""Coherence scores over depth: published and ours side by side, with the marks below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.core.results import Coherence, Mark, Markers, Score
from dst.plot.marks import add_marks, is_published, marks_height
from dst.plot.palette import FAMILY_COLOURS, MORE_COLOURS, OTHER
from dst.plot.text import label, number, state_name
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_PANEL = 210
_GAP = 26
_LEGEND = 45
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross")
_UNITS = {"share": "share", "logits": "logits", "1": "no unit"}


def coherence(score: Coherence | Score, marks: Markers | Sequence[Mark] | None = None) -> go.Figure:
    """Every score per state, in one panel per unit, with the marks in rows below.

    A published score is dashed with open symbols, one of ours solid with filled symbols;
    scores of one family (the name before the first ``_``) share a colour. A state where a
    score is NaN leaves a gap, and a cross at the panel's foot says why when hovered.
    """
    scores = score.scores if isinstance(score, Coherence) else (score,)
    listed = list(marks.marks if isinstance(marks, Markers) else marks or ())
    units = list(dict.fromkeys(one.unit for one in scores))
    heights = [_PANEL] * len(units) + [marks_height(listed)] * bool(listed)
    fig = figure(_LEGEND + sum(heights) + _GAP * (len(heights) - 1) + AXIS)
    axes = ["y" if i == 0 else f"y{i + 1}" for i in range(len(heights))]
    n_states = max((len(one.value) for one in scores), default=1)
    domains = _domains(heights)
    for axis, domain in zip(axes, domains, strict=True):
        fig.update_layout({f"yaxis{axis[1:]}": {"domain": domain, "anchor": "x"}})
    fig.update_layout(xaxis=state_axis(n_states) | {"anchor": axes[-1] if axes else "y"})
    styles = _styles(scores)
    for unit, axis in zip(units, axes, strict=False):
        _add_panel(fig, [one for one in scores if one.unit == unit], unit, axis, styles)
    if listed:
        add_marks(fig, listed, x="x", y=axes[-1], domain=domains[-1])
    return fig


def _add_panel(
    fig: go.Figure, scores: list[Score], unit: str, axis: str, styles: dict[str, dict[str, Any]]
) -> None:
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
                **styles[one.name],
            )
        )
    _add_undefined(fig, scores, axis, low + 0.04 * (high - low))
    fig.update_layout(
        {
            f"yaxis{axis[1:]}": {
                "range": [low, high],
                "title": {"text": label(_UNITS.get(unit, unit))},
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


def _styles(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """Line and marker of each score: colour by family, symbol by place in it, dash by source."""
    colours = dict(FAMILY_COLOURS)
    spare = iter(MORE_COLOURS)
    seen: dict[str, int] = {}
    styles = {}
    for one in scores:
        family = one.name.split("_")[0]
        colour = colours.setdefault(family, next(spare, OTHER))
        symbol = _SYMBOLS[seen.get(family, 0) % len(_SYMBOLS)]
        seen[family] = seen.get(family, 0) + 1
        published = is_published(one.name)
        styles[one.name] = {
            "line": {"color": colour, "width": 2, "dash": "dash" if published else "solid"},
            "marker": {
                "symbol": symbol + ("-open" if published else ""),
                "size": marker_size(len(one.value)),
                "color": colour,
                "line": {"width": 2 if published else 0},
            },
        }
    return styles


def _domains(heights: list[int]) -> list[tuple[float, float]]:
    """Shares of the figure's height for panels from top to bottom, with gaps between."""
    whole = sum(heights) + _GAP * (len(heights) - 1)
    domains, top = [], float(whole)
    for height in heights:
        domains.append((max((top - height) / whole, 0.0), min(top / whole, 1.0)))
        top -= height + _GAP
    return domains


def _hover(score: Score, state: int) -> str:
    value = float(score.value[state])
    shown = label(score.reasons[state]) if np.isnan(value) else number(value, 3)
    return f"<b>{label(score.name)}</b><br>{state_name(state)}: {shown}"
