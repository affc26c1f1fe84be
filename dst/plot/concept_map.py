"""The semantic map of one state: its concepts, and what each does to the others later on."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.errors import InputError
from dst.core.map_results import SemanticMap
from dst.plot.map_drawing import Arrow, Node, add_arrows, add_keys, add_nodes, text_place
from dst.plot.map_edges import Chosen, brought, choose, edge_hover, node_hover, said, shown_words
from dst.plot.map_layers import through_layers
from dst.plot.map_layout import arc, columns, rows
from dst.plot.panels import LINE, add_heading, heading, stacked
from dst.plot.text import state_name, word
from dst.plot.theme import figure

_ROW, _LEGEND, _FOOT = 34, 44, 8


def semantic_map(
    map: SemanticMap,
    state: int | None = None,
    *,
    q: float | None = None,
    k: int = 24,
    most: int = 40,
    strongest: int = 0,
) -> go.Figure:
    """The concepts of the answer position and their effects on one another, in logits.

    Without ``state``, the map through the layers: a row per concept, a column per state, and a
    slider that picks the state at which concepts are moved; above, the words of the prompt that
    set concepts off, where the map has `dst.position_effects`. With ``state``, the concepts of that
    state, contextual on the left, associative on the right, others between.

    Size is the probability of a word by the lens. An arrow is as wide as the effect: solid and
    green raises, dashed and purple lowers. Only effects with q under ``q`` are arrows; one that
    lasts is drawn to the first state at which it shows, and hovering gives all. Where none is
    kept the heading says so.

    Args:
        map: The map.
        state: A state, 0 to L.
        q: False discovery rate; that of the map by default.
        k: How many concepts to draw at most, beside those with an arrow.
        most: How many arrows to draw at most, the largest.
        strongest: How many effects that do not stand out to draw besides, dotted.

    Raises:
        InputError: There is no such state, or the rate is no share.
    """
    rate = map.rate if q is None else q
    if not 0 < rate <= 1:
        raise InputError(f"The rate is {rate}", expected="a share above 0 and up to 1")
    if state is not None and not 0 <= state <= map.n_layers:
        raise InputError(f"There is no state {state}", expected=f"0 to {map.n_layers}")
    chosen = choose(map, rate, most, strongest, state)
    if state is None:
        return through_layers(map, chosen, rate, k)
    return _one_state(map, chosen, rate, k, state)


def _one_state(map_: SemanticMap, chosen: Chosen, q: float, k: int, state: int) -> go.Figure:
    shown = shown_words(map_, chosen.edges, map_.node[state], k)
    index = {concept: i for i, concept in enumerate(shown)}
    column = columns([map_.side[i] for i in shown])
    links = [(index[edge.source], index[edge.target], edge.effect) for edge in chosen.edges]
    row = rows(column, links)
    by = brought(map_, q)
    nodes = [
        Node(
            name=map_.words[concept],
            side=map_.side[concept],
            share=float(np.exp(map_.score[state, concept])),
            hover=node_hover(map_, concept, state, by.get(concept, ())),
            at=(float(column[i]), float(row[i])),
            text=text_place(float(column[i])),
            open=not map_.node[state, concept],
        )
        for concept, i in index.items()
    ]
    arrows = [
        Arrow(
            name=f"{word(map_.words[edge.source])} → {word(map_.words[edge.target])}",
            value=edge.effect,
            start=nodes[index[edge.source]].at,
            end=nodes[index[edge.target]].at,
            hover=edge_hover(map_, edge),
            group=state,
            significant=edge.significant,
            standoff=nodes[index[edge.target]].pixels / 2 + 1,
        )
        for edge in chosen.edges
    ]
    held = int(map_.node[state].sum())
    lines = heading(
        f"Semantic map, {state_name(state, map_.n_layers)}",
        *said(chosen, q),
        "size: probability of the word"
        + (f"; the {len(shown)} likeliest of {held}" if len(shown) < held else ""),
    )
    low, high = (float(row.min()), float(row.max())) if len(row) else (0.0, 0.0)
    height = int(_ROW * (high - low + 1.6))
    fig = figure(_LEGEND + LINE * len(lines) + height + _FOOT)
    (domain,) = stacked([height], [LINE * len(lines)])
    add_heading(fig, lines, domain[1])
    add_arrows(fig, arrows, arc)
    add_nodes(fig, nodes)
    add_keys(fig, arrows)
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "fixedrange": True}
    fig.update_layout(
        xaxis=plain | {"range": [-0.85, 2.85]},
        yaxis=plain | {"range": [high + 0.6, low - 1.0], "domain": domain},
    )
    return fig
