"""The lens margin over depth: which answer the residual would give after each state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dst.core.results import LensReadout, Mark, Markers, Trace
from dst.plot.marks import add_marks, marks_height
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER, side_colour, side_symbol
from dst.plot.panels import shade_sides
from dst.plot.text import label, number, probability, short, state_name, word
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_HEIGHT = 300
_MOST_LABELS = 8


def lens(
    lens: LensReadout, trace: Trace | None = None, marks: Markers | Sequence[Mark] | None = None
) -> go.Figure:
    """The lens margin LD per state, in logits: above zero contextual, below associative.

    Args:
        lens: The readout to draw.
        trace: Names the two answers in the figure, if given.
        marks: Marks to draw below the margin, one row each.

    Points are circles where the margin is contextual and diamonds where it is associative.
    The likeliest word is written where it changes, eight times at most; hovering shows the
    numbers and the words of every state.
    """
    listed = _listed(marks)
    states = list(range(len(lens.margin)))
    low, high = value_range(lens.margin, pad=0.22)
    rows = marks_height(listed)
    fig = figure(_HEIGHT + rows + AXIS)
    shade_sides(fig, "y", (low, high))
    fig.add_trace(
        go.Scatter(
            x=states,
            y=lens.margin,
            mode="lines+markers+text",
            name=f"{lens.lens.replace('_', ' ')} margin",
            line={"color": OTHER, "width": 2},
            marker={
                "size": marker_size(len(states)),
                "color": [side_colour(margin) for margin in lens.margin],
                "symbol": [side_symbol(margin) for margin in lens.margin],
            },
            text=_words_where_they_change(lens),
            textposition=[_away_from_line(lens, state) for state in states],
            textfont={"size": 12},
            cliponaxis=False,
            hovertext=[_hover(lens, state) for state in states],
            hoverinfo="text",
            showlegend=False,
        )
    )
    _name_sides(fig, trace)
    top = rows / (_HEIGHT + rows)
    fig.update_layout(
        xaxis=state_axis(len(states)) | {"anchor": "y2" if listed else "y"},
        yaxis={
            "domain": [top, 1],
            "range": [low, high],
            "title": {"text": f"{lens.lens.replace('_', ' ')} LD (logits)"},
            "zeroline": True,
            "fixedrange": True,
        },
    )
    if listed:
        add_marks(fig, listed, x="x", y="y2", domain=(0, top))
    return fig


def _listed(marks: Markers | Sequence[Mark] | None) -> list[Mark]:
    return list(marks.marks if isinstance(marks, Markers) else marks or ())


def _words_where_they_change(lens: LensReadout) -> list[str]:
    """The likeliest word of states where it differs from the state before: at most 8."""
    first = [words[0] for words in lens.top_words]
    changes = [i for i in range(len(first)) if i == 0 or first[i] != first[i - 1]]
    every = -(-len(changes) // _MOST_LABELS)
    kept = set(changes[::every]) | set(changes[-1:])
    return [label(short(text)) if i in kept else "" for i, text in enumerate(first)]


def _away_from_line(lens: LensReadout, state: int) -> str:
    """Above a point that its neighbours lie below, and the other way round."""
    near = [lens.margin[i] for i in (state - 1, state + 1) if 0 <= i < len(lens.margin)]
    return "top center" if lens.margin[state] >= sum(near) / max(len(near), 1) else "bottom center"


def _name_sides(fig: go.Figure, trace: Trace | None) -> None:
    sides = (
        ("●", CONTEXTUAL, "contextual", trace.contextual_forms if trace else (), 1, "top"),
        ("◆", ASSOCIATIVE, "associative", trace.associative_forms if trace else (), 0, "bottom"),
    )
    for symbol, colour, name, forms, y, anchor in sides:
        fig.add_annotation(
            text=f'<span style="color:{colour}">{symbol}</span> {name}'
            + (f": {label(word(forms[0]))}" if forms else ""),
            xref="x domain", yref="y domain", x=0.01, y=y, xanchor="left", yanchor=anchor,
            showarrow=False, font={"size": 12},
        )  # fmt: skip


def _hover(lens: LensReadout, state: int) -> str:
    words = (
        f"{label(word(text))} {probability(float(np.exp(log_prob)))}"
        for text, log_prob in zip(lens.top_words[state], lens.top_log_prob[state], strict=True)
    )
    return "<br>".join(
        (
            f"<b>{state_name(state, len(lens.margin) - 1)}</b>",
            f"LD {number(float(lens.margin[state]))} logits",
            f"p(contextual) {number(float(lens.contextual_prob[state]), 3)}",
            f"p(associative) {number(float(lens.associative_prob[state]), 3)}",
            f"entropy {number(float(lens.entropy[state]))} nats",
            f"KL to output {number(float(lens.kl_to_output[state]))} nats",
            "says: " + ", ".join(words),
        )
    )
