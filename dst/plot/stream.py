"""Size of the residual stream and of what each block adds to it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.results import Trace
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER
from dst.plot.text import label, number, state_name, word
from dst.plot.theme import AXIS, figure, marker_size, state_axis

_LINES, _MAP, _ROW, _GAP = 230, 60, 14, 70


def residual(trace: Trace) -> go.Figure:
    """Norms at i* over depth, and the residual's norm at every state and token.

    Above: the L2 norm at i* of the residual per state, and of what attention and MLP of
    block l add, drawn at state l. Below: the residual's norm, one row per state and one
    column per token; the colour is its logarithm, because some tokens (often the first)
    are larger than all others by orders of magnitude.
    """
    norms = np.linalg.norm(trace.resid, axis=-1)
    n_states = len(norms)
    depth = _MAP + _ROW * n_states
    whole = _LINES + _GAP + depth
    fig = figure(whole + AXIS)
    at = trace.answer_position
    for name, values, first, colour, dash, symbol in (
        ("residual", norms[:, at], 0, OTHER, "solid", "circle"),
        ("attention adds", _norm_at(trace.attn_out, at), 1, CONTEXTUAL, "dash", "square"),
        ("MLP adds", _norm_at(trace.mlp_out, at), 1, ASSOCIATIVE, "dot", "diamond"),
    ):
        states = list(range(first, first + len(values)))
        fig.add_trace(
            go.Scatter(
                x=states,
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": colour, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": marker_size(n_states)},
                hovertext=[
                    f"{name}, {state_name(state)}: {number(float(value))}"
                    for state, value in zip(states, values, strict=True)
                ],
                hoverinfo="text",
            )
        )
    fig.add_trace(_map(trace, norms))
    top = (_GAP + depth) / whole
    fig.update_layout(
        xaxis=state_axis(n_states) | {"anchor": "y"},
        yaxis={"domain": [top, 1], "title": {"text": "norm at i*"}, "rangemode": "tozero"},
        coloraxis_colorbar={
            "title": {"text": "log₁₀ norm", "side": "right"},
            "y": 0,
            "yanchor": "bottom",
            "len": depth / whole,
        },
        xaxis2={"anchor": "y2", "title": {"text": "token"}, "tickangle": -60} | _tokens(trace),
        yaxis2={
            "domain": [0, depth / whole],
            "anchor": "x2",
            "title": {"text": "state"},
            "autorange": "reversed",
            "showgrid": False,
            "zeroline": False,
        },
    )
    return fig


def _norm_at(added: np.ndarray, position: int) -> np.ndarray:
    """L2 norm per layer at one position, of ``[layer pos d_model]``."""
    return np.asarray(np.linalg.norm(added[:, position], axis=-1))


def _map(trace: Trace, norms: np.ndarray) -> go.Heatmap:
    with np.errstate(divide="ignore"):
        logarithm = np.where(norms > 0, np.log10(norms), np.nan)
    return go.Heatmap(
        z=logarithm,
        xaxis="x2",
        yaxis="y2",
        hovertext=[
            [
                f"<b>{label(word(token))}</b> ({label(role)}, position {i})"
                f"<br>{state_name(state)}<br>norm {number(float(norms[state, i]))}"
                for i, (token, role) in enumerate(zip(trace.tokens, trace.roles, strict=True))
            ]
            for state in range(len(norms))
        ],
        hoverinfo="text",
        showlegend=False,
        coloraxis="coloraxis",
    )


def _tokens(trace: Trace) -> dict[str, list[object]]:
    """Ticks that name tokens: all of them while there are at most 40, else evenly picked."""
    every = -(-len(trace.tokens) // 40)
    picked = range(0, len(trace.tokens), every)
    return {
        "tickvals": list(picked),
        "ticktext": [label(word(trace.tokens[i])) for i in picked],
    }
