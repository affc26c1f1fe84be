"""The semantic map as it was published, drawn as ours is, dashed and open: `published_map`."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.core.errors import InputError
from dst.core.map_results import OTHER, SemanticMap
from dst.core.published_map_results import PublishedMap
from dst.plot.map_drawing import Arrow, Node, add_arrows, add_keys, add_nodes, text_place
from dst.plot.map_edges import place, signed
from dst.plot.map_layout import arc, columns, rows
from dst.plot.panels import LINE, add_heading, heading, stacked
from dst.plot.text import label, number, short, state_name, word
from dst.plot.theme import figure

_ROW, _LEGEND, _FOOT = 34, 44, 8


def published_map(
    map: PublishedMap, state: int | None = None, *, beside: SemanticMap | None = None
) -> go.Figure:
    """Nodes and Omega edges of one state by the published rules; Omega is in probability.

    Size is the node's summed logit, between the smallest and the largest of the state. An arrow is
    the effect of the token at p(v) on the *output*, not of the concept v: all concepts of one
    position have the same arrows, and none has a control. Dashed and open, as all that is
    published.

    Args:
        map: The result.
        state: One of its states; the last by default.
        beside: A map of the same case, whose sides the words take; without it all are ``other``.

    Raises:
        InputError: The state was not mapped.
    """
    last = int(map.states[-1])
    state = last if state is None else state
    if state not in map.states:
        raise InputError(f"State {state} was not mapped", expected=f"one of {map.states.tolist()}")
    shown = np.flatnonzero(map.node_states == state)
    sides = {} if beside is None else dict(zip(beside.words, beside.side, strict=True))
    index = {int(i): n for n, i in enumerate(shown)}
    edges = [
        (int(v), int(w), float(omega))
        for v, w, omega in zip(map.sources, map.targets, map.omega, strict=True)
        if int(v) in index
    ]
    column = columns([sides.get(map.words[i], OTHER) for i in shown])
    row = rows(column, [(index[v], index[w], omega) for v, w, omega in edges])
    scores = map.scores[shown]
    spread = float(scores.max() - scores.min()) or 1.0
    nodes = [
        Node(
            name=map.words[i],
            side=sides.get(map.words[i], OTHER),
            share=float((map.scores[i] - scores.min()) / spread),
            hover=_node_hover(map, int(i)),
            at=(float(column[n]), float(row[n])),
            text=text_place(float(column[n])),
            open=True,
        )
        for n, i in enumerate(shown)
    ]
    arrows = [
        Arrow(
            name=f"{word(map.words[v])} → {word(map.words[w])}",
            value=omega,
            start=nodes[index[v]].at,
            end=nodes[index[w]].at,
            hover=_edge_hover(map, v, w, omega),
            group=state,
            standoff=nodes[index[w]].pixels / 2 + 1,
        )
        for v, w, omega in edges
    ]
    n_tokens = len({int(map.positions[v]) for v, _, _ in edges})
    lines = heading(
        f"Published map, {state_name(state)}",
        f"{len(edges)} Ω edges by {n_tokens} tokens: concepts of one token have the same",
        "no control, no test; Ω is read at the output",
        "size: summed logit",
    )
    low, high = float(row.min()), float(row.max())
    height = int(_ROW * (high - low + 1.6))
    fig = figure(_LEGEND + LINE * len(lines) + height + _FOOT)
    (domain,) = stacked([height], [LINE * len(lines)])
    add_heading(fig, lines, domain[1])
    add_arrows(fig, arrows, arc, dash="5px,3px")
    add_nodes(fig, nodes)
    add_keys(fig, arrows, dash="5px,3px")
    plain: dict[str, Any] = {
        "showgrid": False, "zeroline": False, "showticklabels": False, "fixedrange": True,
    }  # fmt: skip
    fig.update_layout(
        xaxis=plain | {"range": [-0.85, 2.85]},
        yaxis=plain | {"range": [high + 0.6, low - 1.0], "domain": domain},
    )
    return fig


def _node_hover(map_: PublishedMap, i: int) -> str:
    token = label(short(map_.tokens[map_.positions[i]], 16))
    return (
        f"<b>{label(word(map_.words[i]))}</b>, {state_name(int(map_.node_states[i]))}<br>"
        f"summed logit {number(float(map_.scores[i]))}<br>"
        f"p(v): “{token}”, position {int(map_.positions[i])}"
    )


def _edge_hover(map_: PublishedMap, v: int, w: int, omega: float) -> str:
    token = label(short(map_.tokens[map_.positions[v]], 16))
    return (
        f"<b>{label(word(map_.words[v]))} → {label(word(map_.words[w]))}</b><br>"
        f"Ω {signed(omega)}: P of the target with “{token}” less that with a full stop<br>"
        f"v chose the token {place(int(map_.node_states[v]))}"
    )
