"""What each state would say: the likeliest words by rank, as a table one can see."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.results import LensReadout, Trace
from dst.plot.text import label, number, probability, short, state_name, word
from dst.plot.theme import figure

_ROW = 26
_SIDES = {"contextual": "● ", "associative": "◆ ", "": ""}


def top_words(lens: LensReadout, trace: Trace | None = None) -> go.Figure:
    """The k likeliest tokens of every state with their probabilities, one row per state.

    Rows run from the embedding down to the output, columns from the likeliest word on; the
    colour is the probability. With ``trace``, words that begin an answer are marked:
    ``●`` contextual, ``◆`` associative.
    """
    prob = np.exp(lens.top_log_prob)
    states, ranks = range(len(prob)), range(1, prob.shape[1] + 1)
    sides = [[_side(int(token), trace) for token in row] for row in lens.top_ids]
    words = [[label(word(text)) for text in row] for row in lens.top_words]
    fig = figure(70 + _ROW * len(prob))
    fig.add_trace(
        go.Heatmap(
            z=prob,
            x=list(ranks),
            y=list(states),
            text=[
                [
                    _SIDES[sides[i][k]] + label(short(text))
                    for k, text in enumerate(lens.top_words[i])
                ]
                for i in states
            ],
            texttemplate="%{text}",
            textfont={"size": 12},
            xgap=2,
            ygap=2,
            hovertext=[
                [
                    f"<b>{words[i][k]}</b>{' (' + sides[i][k] + ')' if sides[i][k] else ''}"
                    f"<br>{state_name(i, len(prob) - 1)}, rank {k + 1}"
                    f"<br>probability {probability(float(prob[i, k]))}"
                    f"<br>log-probability {number(float(lens.top_log_prob[i, k]))} nats"
                    for k in range(len(words[i]))
                ]
                for i in states
            ],
            hoverinfo="text",
            coloraxis="coloraxis",
        )
    )
    fig.update_layout(
        coloraxis={
            "cmin": 0,
            "cmax": 1,
            "colorbar": {"title": {"text": "p", "side": "top"}, "tickvals": [0, 0.5, 1]},
        },
        xaxis={"title": {"text": "rank"}, "tickvals": list(ranks), "side": "top"},
        yaxis={
            "autorange": "reversed",
            "tickvals": list(states),
            "ticktext": ["emb" if state == 0 else str(state) for state in states],
            "title": {"text": "state"},
            "showgrid": False,
            "zeroline": False,
        },
    )
    return fig


def _side(token: int, trace: Trace | None) -> str:
    if trace is not None and token in trace.contextual_ids:
        return "contextual"
    if trace is not None and token in trace.associative_ids:
        return "associative"
    return ""
