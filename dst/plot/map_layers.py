"""The semantic map through the layers: a row per concept, a column per state, a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.core.map_results import SIDES, SemanticMap
from dst.plot.map_drawing import Arrow, Node, add_arrows, add_keys, add_nodes
from dst.plot.map_edges import (
    Chosen,
    MapEdge,
    brought,
    edge_hover,
    node_hover,
    place,
    said,
    shown_words,
    signed,
    small,
)
from dst.plot.map_layout import bend
from dst.plot.palette import OTHER
from dst.plot.panels import LINE, add_heading, heading, stacked
from dst.plot.text import label, number, short, word
from dst.plot.theme import AXIS, figure, state_axis

_ROW, _LEGEND, _SLIDER = 22, 52, 62
_PLACES = 12
"""Arrows from words of the prompt, of all states and of each."""

_GAP = 0.7
"""Rows between words of the prompt, and between the sides."""


def through_layers(map_: SemanticMap, chosen: Chosen, q: float, k: int) -> go.Figure:
    """Every state of a map in one figure; see `dst.plot.semantic_map`."""
    by = brought(map_, q)
    places = _places(map_, by)
    words = {row["index"] for row in places}
    shown = shown_words(map_, chosen.edges, np.asarray(map_.node.any(axis=0)), k - len(words))
    shown += sorted(words - set(shown))
    tokens = sorted({row["pos"] for row in places})
    at = float(len(tokens)) + _GAP * bool(tokens)
    concept_row: dict[int, float] = {}
    for side in SIDES[0], SIDES[2], SIDES[1]:
        some = [i for i in shown if map_.side[i] == side]
        concept_row |= {i: at + n for n, i in enumerate(some)}
        at += len(some) + _GAP * bool(some)
    token_row = {pos: float(n) for n, pos in enumerate(tokens)}
    nodes = [
        Node(
            name=map_.words[i],
            side=map_.side[i],
            share=float(np.exp(map_.score[state, i])),
            hover=node_hover(map_, i, state, by.get(i, ())),
            at=(float(state), concept_row[i]),
        )
        for i in shown
        for state in np.flatnonzero(map_.node[:, i]).tolist()
    ]
    arrows = [_arrow(map_, edge, concept_row) for edge in chosen.edges]
    from_prompt = [_place_arrow(map_, row, token_row, concept_row) for row in places]
    lines = heading("Semantic map through the layers", *_said(map_, chosen, q, places, len(shown)))
    height = int(_ROW * (at + 0.6))
    fig = figure(_LEGEND + LINE * len(lines) + height + AXIS + _SLIDER)
    (domain,) = stacked([height], [LINE * len(lines)])
    add_heading(fig, lines, domain[1])
    add_arrows(fig, from_prompt, bend, opacity=0.4)
    add_arrows(fig, arrows, bend)
    if places:
        _add_tokens(fig, map_, places, token_row)
    add_nodes(fig, nodes)
    add_keys(fig, [*arrows, *from_prompt])
    names = [_token_name(map_, pos) for pos in tokens]
    names += [label(short(map_.words[i], 14)) for i in concept_row]
    fig.update_layout(
        xaxis=state_axis(map_.n_layers + 1) | {"anchor": "y"},
        yaxis={
            "domain": domain,
            "tickvals": [*token_row.values(), *concept_row.values()],
            "ticktext": names,
            "range": [at, -0.8],
            "zeroline": False,
            "fixedrange": True,
        },
        sliders=[_slider(fig, map_.states.tolist())],
    )
    return fig


def _places(map_: SemanticMap, by: Mapping[int, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The largest effects of the prompt's places: 12 of all states, and 12 of each.

    One that shows at several reads is one row, with the first; ``overview`` marks the 12 of all,
    where each place and word stands once, with the state of its largest effect.
    """
    if map_.positions is None:
        return []
    first: dict[tuple[int, int, int], dict[str, Any]] = {}
    every = [row for rows in by.values() for row in rows]
    for row in sorted(every, key=lambda row: row["read"]):
        first.setdefault((row["pos"], row["state"], row["index"]), row)
    by_size = sorted(first.values(), key=lambda row: -abs(row["effect"]))
    once: dict[tuple[int, int], dict[str, Any]] = {}
    for row in by_size:
        once.setdefault((row["pos"], row["index"]), row)
    overview = list(once.values())[:_PLACES]
    out = [row | {"overview": True} for row in overview]
    for state in map_.positions.states.tolist():
        here = [row for row in by_size if row["state"] == state][:_PLACES]
        out += [row | {"overview": False} for row in here if row not in overview]
    return out


def _said(
    map_: SemanticMap, chosen: Chosen, q: float, places: list[dict[str, Any]], n_words: int
) -> list[str]:
    lines = [line.replace("effects", "effects of concepts") for line in said(chosen, q)]
    if map_.positions is not None:
        n = sum(row["overview"] for row in places)
        rate = number(q, 3).rstrip("0")
        lines.append(
            f"▸ words of the prompt: their {n} largest effects with q under {rate}, faint, on a "
            "scale of their own"
            if n
            else f"no word of the prompt has an effect with q under {rate}"
        )
    every = int(map_.node.any(axis=0).sum())
    more = f"; {n_words} of {every} words" if n_words < every else ""
    return [*lines, f"size: probability of the word{more}"]


def _arrow(map_: SemanticMap, edge: MapEdge, row: dict[int, float]) -> Arrow:
    return Arrow(
        name=f"{word(map_.words[edge.source])} → {word(map_.words[edge.target])}",
        value=edge.effect,
        start=(float(edge.state), row[edge.source]),
        end=(float(edge.to_state), row[edge.target]),
        hover=edge_hover(map_, edge),
        group=edge.state,
        significant=edge.significant,
    )


def _place_arrow(
    map_: SemanticMap,
    found: dict[str, Any],
    token_row: dict[int, float],
    concept_row: dict[int, float],
) -> Arrow:
    name = word(found["token"])
    return Arrow(
        name=f"{name} → {word(found['word'])}",
        value=found["effect"],
        start=(float(found["state"]), token_row[found["pos"]]),
        end=(float(found["read"]), concept_row[found["index"]]),
        hover="<br>".join(
            [
                f"<b>{label(name)} → {label(word(found['word']))}</b>, made neutral "
                f"{place(found['state'])}",
                f"{label(found['role'])}, position {found['pos']}",
                f"{place(found['read'])}: {signed(found['effect'])} logits, one draw for another "
                f"{number(found['control'], 3)}, q {small(found['q'])}",
            ]
        ),
        group=found["state"],
        overview=found["overview"],
    )


def _add_tokens(
    fig: go.Figure, map_: SemanticMap, places: list[dict[str, Any]], row: dict[int, float]
) -> None:
    points = sorted({(found["state"], found["pos"]) for found in places})
    fig.add_trace(
        go.Scatter(
            x=[state for state, _ in points],
            y=[row[pos] for _, pos in points],
            mode="markers",
            name="prompt",
            marker={"symbol": "triangle-right", "size": 9, "color": OTHER, "opacity": 1},
            hovertext=[f"<b>{_token_name(map_, pos)}</b>, {place(state)}" for state, pos in points],
            hoverinfo="text",
            showlegend=False,
        )
    )


def _token_name(map_: SemanticMap, pos: int) -> str:
    assert map_.positions is not None
    token, role = map_.positions.tokens[pos], map_.positions.roles[pos]
    name = label(short(token, 10))
    return name if role in ("rest", "bos") else f"{name} · {label(short(role, 9))}"


def _slider(fig: go.Figure, states: list[int]) -> dict[str, Any]:
    """A step for all states, and one for what was moved at each."""

    def step(name: str, shown: list[bool]) -> dict[str, Any]:
        return {"label": name, "method": "restyle", "args": [{"visible": shown}]}

    every = [trace.visible is not False for trace in fig.data]
    steps = [step("all", every)]
    for state in states:
        shown = [trace.meta is None or trace.meta == state for trace in fig.data]
        steps.append(step("emb" if state == 0 else str(state), shown))
    return {
        "active": 0,
        "steps": steps,
        "x": 0,
        "len": 1,
        "y": 0,
        "yanchor": "top",
        "pad": {"t": AXIS, "b": 0, "l": 4, "r": 4},
        "currentvalue": {"prefix": "effects of what was moved at state: ", "font": {"size": 12}},
        "font": {"size": 11},
        "bgcolor": "rgba(122,127,135,.35)",
        "activebgcolor": OTHER,
        "borderwidth": 0,
        "tickcolor": OTHER,
        "ticklen": 4,
        "minorticklen": 0,
    }
