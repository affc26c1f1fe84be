"""Which effects of a semantic map are drawn, and what hovering over edges and nodes says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dst.core.map_results import SemanticMap
from dst.plot.text import label, number, probability, short, state_name, word


@dataclass(frozen=True)
class MapEdge:
    """One effect to draw: concept ``source`` moved at ``state``, ``target`` read at ``to_state``.

    Attributes:
        source: Index of the cause.
        target: Index of the word that it acts on.
        state: Where the cause was moved.
        to_state: Where the effect was read.
        effect: In logits.
        significant: Whether its q is under the rate.
    """

    source: int
    target: int
    state: int
    to_state: int
    effect: float
    significant: bool


@dataclass(frozen=True)
class Chosen:
    """The effects to draw, and how many there are.

    Attributes:
        edges: The largest first.
        n_kept: Pairs of concepts and states with an effect at q under the rate.
        n_tested: Those that were tested.
    """

    edges: tuple[MapEdge, ...]
    n_kept: int
    n_tested: int


def choose(map_: SemanticMap, q: float, most: int, strongest: int, state: int | None) -> Chosen:
    """The effects at q under ``q``, each at the first state where it shows.

    An effect that lasts is read after one block, after some and at the output; it is one edge here,
    drawn to the first of these states at which it is kept.

    Args:
        map_: The map.
        q: The rate.
        most: How many to draw at most.
        strongest: How many of those that do not stand out to draw besides: the largest.
        state: Of one state only; of all by default.
    """
    kept = map_.tested & (np.nan_to_num(map_.q, nan=1.0) < q)
    some = [s for s, at in enumerate(map_.states) if state is None or at == state]
    found, others = [], []
    for s in some:
        in_order = np.argsort(map_.hop_states[:, s], kind="stable")
        for v, w in np.argwhere(map_.tested[:, s].any(axis=0)):
            hops = [hop for hop in in_order if kept[hop, s, v, w]]
            if hops:
                found.append(_edge(map_, int(hops[0]), s, v, w, significant=True))
            elif strongest:
                tested = np.flatnonzero(map_.tested[:, s, v, w])
                hop = tested[np.argmax(np.abs(map_.effects[tested, s, v, w]))]
                others.append(_edge(map_, int(hop), s, v, w, significant=False))
    n_tested = int(map_.tested[:, some].any(axis=0).sum())
    by_size = [sorted(edges, key=lambda edge: -abs(edge.effect)) for edges in (found, others)]
    return Chosen((*by_size[0][:most], *by_size[1][:strongest]), len(found), n_tested)


def shown_words(map_: SemanticMap, edges: Sequence[MapEdge], held: np.ndarray, k: int) -> list[int]:
    """At most ``k`` concepts among those ``held``, and every end of an edge, likeliest first.

    Ends of edges come first, then answers and the user's words, then the likeliest.
    """
    ends = {i for edge in edges for i in (edge.source, edge.target)}
    likeliest = np.exp(map_.score).max(axis=0)
    wanted = sorted(
        np.flatnonzero(held),
        key=lambda i: (i not in ends, not map_.answer[i], not map_.given[i], -likeliest[i]),
    )
    picked = ends | {int(i) for i in wanted[: max(k, 0)]}
    return sorted(picked, key=lambda i: -float(likeliest[i]))


def said(chosen: Chosen, q: float) -> list[str]:
    """How many effects there are, and how many of them are drawn."""
    if not chosen.n_tested:
        return ["no concept was moved here: there is no arrow"]
    drawn = sum(edge.significant for edge in chosen.edges)
    dotted = len(chosen.edges) - drawn
    rate = number(q, 3).rstrip("0")
    lines = [
        f"{chosen.n_kept} of {chosen.n_tested} effects have q under {rate}"
        if chosen.n_kept
        else f"no arrow: none of {chosen.n_tested} effects has q under {rate}"
    ]
    if drawn < chosen.n_kept:
        lines.append(f"drawn: the {drawn} largest")
    if dotted:
        lines.append(f"dotted: the {dotted} largest others, not significant")
    return lines


def edge_hover(map_: SemanticMap, edge: MapEdge) -> str:
    """The numbers of an effect at every state where it was read."""
    s = map_.states.tolist().index(edge.state)
    v, w = edge.source, edge.target
    lines = [f"<b>{_name(map_, v)} → {_name(map_, w)}</b>, moved {place(edge.state)}"]
    for hop in np.argsort(map_.hop_states[:, s], kind="stable"):
        if map_.tested[hop, s, v, w]:
            lines.append(
                f"{place(int(map_.hop_states[hop, s]))}: {signed(map_.effects[hop, s, v, w])} "
                f"logits, control {signed(map_.control[hop, s, v, w])}, "
                f"q {small(map_.q[hop, s, v, w])}"
            )
    if not edge.significant:
        lines.append("not significant: control directions do as much")
    return "<br>".join(lines)


def brought(map_: SemanticMap, q: float) -> dict[int, list[dict[str, Any]]]:
    """By concept, the effects on it of places of the prompt at q under ``q``, the largest first.

    Only those read where the concept is a node; each with its concept as ``index``.
    """
    index = {text: i for i, text in enumerate(map_.words)}
    found: dict[int, list[dict[str, Any]]] = {}
    for row in [] if map_.positions is None else map_.positions.edges(q):
        i = index.get(row["word"].casefold())
        if i is not None and map_.node[row["read"], i]:
            found.setdefault(i, []).append(row | {"index": i})
    return found


def node_hover(map_: SemanticMap, i: int, state: int, by: Sequence[dict[str, Any]] = ()) -> str:
    """A concept at a state: its side, its probability, how far it was moved, what brings it.

    Args:
        map_: The map.
        i: The concept.
        state: The state.
        by: Its rows of `brought`.
    """
    what = "answer" if map_.answer[i] else "given" if map_.given[i] else ""
    kind = ", ".join(filter(None, (map_.side[i], what)))
    lines = [
        f"<b>{_name(map_, i)}</b> ({kind}), {state_name(state)}",
        f"probability {likelihood(float(np.exp(map_.score[state, i])))} ({label(map_.lens)})",
    ]
    if not map_.node[state, i]:
        lines.append("no node here: it is read later")
    if state in map_.states:
        moved = float(map_.moved[map_.states.tolist().index(state), i])
        if not np.isnan(moved):
            lines.append(f"moved by {number(moved, 3)} along its direction")
    for row in [row for row in by if row["state"] <= state][:3]:
        lines.append(
            f"brought by {label(short(row['token'], 16))} ({label(row['role'])}), "
            f"{place(row['state'])}: {signed(row['effect'])}, q {small(row['q'])}"
        )
    return "<br>".join(lines)


def place(state: int) -> str:
    """A state, where something was moved or read."""
    return "at the embedding" if state == 0 else f"after block {state}"


def signed(value: float) -> str:
    """A number of three digits with its sign."""
    return ("+" if value > 0 else "") + number(float(value), 3)


def small(value: float) -> str:
    """A p or a q: three digits, or that it is less."""
    return "under 0.001" if value < 0.0005 else number(float(value), 3)


def likelihood(value: float) -> str:
    """A probability, of whatever size."""
    return probability(value) if value >= 0.005 else f"{value:.1e}".replace("-", "−")


def _edge(map_: SemanticMap, hop: int, s: int, v: int, w: int, *, significant: bool) -> MapEdge:
    return MapEdge(
        int(v), int(w), int(map_.states[s]), int(map_.hop_states[hop, s]),
        float(map_.effects[hop, s, v, w]), significant,
    )  # fmt: skip


def _name(map_: SemanticMap, i: int) -> str:
    return label(word(map_.words[i]))
