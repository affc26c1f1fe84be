"""Concept rivers: how each word rises and falls over depth, at the answer position."""

from __future__ import annotations

from typing import Literal

import numpy as np
import plotly.graph_objects as go

from dst.core.errors import InputError
from dst.core.map_results import OTHER, SIDES, ConceptNodes, SemanticMap
from dst.plot.map_drawing import SIDE_COLOURS, SIDE_SYMBOLS
from dst.plot.map_edges import likelihood
from dst.plot.map_layout import spread
from dst.plot.panels import LINE, add_heading, heading, stacked
from dst.plot.text import label, short, state_name, word
from dst.plot.theme import AXIS, figure, state_axis

_ROW, _PANEL, _LEGEND, _LABEL = 20, 380, 30, 15
_LEADER = 0.09
"""Length of the line from the end of a river to its name, as a share of the depth."""

_DASHES = {"contextual": "solid", "associative": "solid", "other": "dot"}


def concept_rivers(
    map: SemanticMap | ConceptNodes, show: Literal["rank", "prob"] = "rank", *, k: int = 20
) -> go.Figure:
    """A line per concept over the states: its rank among those drawn, or its probability.

    The answers and the user's words are drawn, then the words that come highest at some state.
    Contextual words have circles, associative ones diamonds, others small squares on dotted
    lines; a symbol is filled where the word is a node of the state. Lines of answers are wide.
    The lens shows what a state would say, not what caused it.

    Args:
        map: A semantic map, or the concept nodes alone.
        show: ``rank``, 1 at the top, or ``prob``, probability on a logarithmic axis.
        k: How many concepts to draw at most.

    Raises:
        InputError: ``show`` is neither.
    """
    if show not in ("rank", "prob"):
        raise InputError(f"show is {show!r}", expected="rank or prob")
    prob = np.exp(map.score)
    shown = _shown(map, k)
    ranks = 1 + np.argsort(np.argsort(-map.score[:, shown], axis=1, kind="stable"), axis=1)
    every = 1 + np.argsort(np.argsort(-map.score, axis=1, kind="stable"), axis=1)
    n_states, n_words = prob.shape
    of_all = f"{len(shown)} of {n_words} words" if len(shown) < n_words else f"{n_words} words"
    lines = heading(
        "Concept rivers",
        f"rank among these {of_all}, 1 is likeliest"
        if show == "rank"
        else f"probability of {of_all}, logarithmic",
        "filled: among a state’s concepts; wide: an answer",
    )
    height = _ROW * (len(shown) + 1) if show == "rank" else max(_PANEL, _LABEL * len(shown))
    fig = figure(_LEGEND + LINE * len(lines) + height + AXIS)
    (domain,) = stacked([height], [LINE * len(lines)])
    add_heading(fig, lines, domain[1])
    values = ranks.astype(float) if show == "rank" else np.log10(prob[:, shown])
    seen: set[str] = set()
    drawn_first = sorted(range(len(shown)), key=lambda j: map.side[shown[j]] != OTHER)
    for j in drawn_first:  # the user's words on top
        i = shown[j]
        side = map.side[i]
        symbol = SIDE_SYMBOLS[side]
        fig.add_trace(
            go.Scatter(
                x=list(range(n_states)),
                y=values[:, j],
                mode="lines+markers",
                name=label(word(map.words[i])),
                customdata=prob[:, i],
                line={
                    "color": SIDE_COLOURS[side],
                    "width": 4 if map.answer[i] else 1.5,
                    "dash": _DASHES[side],
                    "shape": "spline",
                    "smoothing": 0.35,
                },
                marker={
                    "symbol": [symbol if node else f"{symbol}-open" for node in map.node[:, i]],
                    "size": 6 if side == OTHER else 10,
                    "color": SIDE_COLOURS[side],
                    "opacity": 1,
                },
                opacity=0.9,
                hovertext=[
                    f"<b>{label(word(map.words[i]))}</b> ({side}), {state_name(state)}<br>"
                    f"probability {likelihood(float(prob[state, i]))} ({label(map.lens)})<br>"
                    f"rank {every[state, i]} of the map’s {n_words} words"
                    + ("" if map.node[state, i] else "<br>not among the state’s concepts")
                    for state in range(n_states)
                ],
                hoverinfo="text",
                cliponaxis=False,
                showlegend=False,
            )
        )
        seen.add(side)
    _add_key(fig, seen)
    span = [len(shown) + 0.6, 0.4] if show == "rank" else _log_range(values)
    last = n_states - 1
    _name_ends(fig, map, shown, values, last, span, height)
    fig.update_layout(
        xaxis=state_axis(n_states)
        | {"anchor": "y", "domain": [0, 0.8], "range": [-0.05 * last, last * (1 + _LEADER)]},
        yaxis={"domain": domain, "range": span, "zeroline": False, "fixedrange": True}
        | ({"tickvals": list(range(1, len(shown) + 1)), "showgrid": False}
           if show == "rank" else _powers(span)),
    )  # fmt: skip
    return fig


def _shown(map_: SemanticMap | ConceptNodes, k: int) -> list[int]:
    """Answers, then the user's words, then those that are highest at some state."""
    highest = map_.score.max(axis=0)
    order = sorted(
        range(len(map_.words)), key=lambda i: (not map_.answer[i], not map_.given[i], -highest[i])
    )
    return order[: max(k, 1)]


def _name_ends(
    fig: go.Figure,
    map_: SemanticMap | ConceptNodes,
    shown: list[int],
    values: np.ndarray,
    last: int,
    span: list[float],
    height: int,
) -> None:
    """The words at the right end of their lines, moved apart where lines meet."""
    per_pixel = (span[1] - span[0]) / height
    places = spread(values[-1] / per_pixel, _LABEL) * per_pixel
    for i, y, value in zip(shown, places, values[-1], strict=True):
        colour = SIDE_COLOURS[map_.side[i]]
        fig.add_annotation(
            text=label(short(map_.words[i], 11)), x=1.0, xref="x domain", y=float(y), yref="y",
            xanchor="left", showarrow=False, xshift=2, borderpad=0,
            font={"size": 12, "color": colour},
        )  # fmt: skip
        fig.add_shape(
            type="line", x0=last, x1=last * (1 + _LEADER), y0=float(value), y1=float(y),
            line={"color": colour, "width": 0.8}, layer="below",
        )  # fmt: skip


def _add_key(fig: go.Figure, sides: set[str]) -> None:
    for side in SIDES:
        if side in sides:
            fig.add_trace(
                go.Scatter(
                    x=[None],
                    y=[None],
                    mode="lines+markers",
                    name=side,
                    line={"color": SIDE_COLOURS[side], "dash": _DASHES[side]},
                    marker={"symbol": SIDE_SYMBOLS[side], "size": 9},
                    hoverinfo="skip",
                )
            )


def _log_range(values: np.ndarray) -> list[float]:
    low, high = float(values.min()), float(values.max())
    room = 0.05 * ((high - low) or 1.0)
    return [low - room, high + room]


def _powers(span: list[float]) -> dict[str, object]:
    """Ticks at powers of ten."""
    powers = range(int(np.ceil(span[0])), int(np.floor(span[1])) + 1)
    step = -(-len(powers) // 8) or 1
    ticks = [power for power in powers if power % step == 0]
    names = [f"{10.0**power:g}" if power >= -3 else f"10<sup>−{-power}</sup>" for power in ticks]
    return {"tickvals": ticks, "ticktext": names, "title": {"text": "probability"}}
