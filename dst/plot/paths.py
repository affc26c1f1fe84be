"""Which part hears which part: senders on the left, receivers on the right, effects between."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.path_results import EdgeScores, PathEffects
from dst.plot.controls import path_checks
from dst.plot.palette import OTHER, side_colour
from dst.plot.panels import LINE, add_heading, heading, stacked
from dst.plot.text import label, number
from dst.plot.theme import figure

_ROW, _TOP, _FOOT = 26, 10, 12
_THINNEST, _WIDEST = 1.0, 9.0
_BEND = np.linspace(0, 1, 13)


def path_diagram(paths: PathEffects | EdgeScores, k: int = 24) -> go.Figure:
    """Edges from senders to receivers, as wide as what they do to LD, in logits.

    Blue and solid is toward A+, vermillion and dashed toward A-. Only exact effects are drawn,
    and only those over their control: of path patching the floor of their receiver (a random
    direction as large), of edge attribution the size under which its sample has no sign. At
    most ``k`` are drawn, the largest. Parts stand in the order of the result, from top to
    bottom; those without such an edge are left out. Edges do not add up, neither to their sender
    nor along a path.

    Args:
        paths: Exact path patching, or edge attribution, whose compared edges are drawn.
        k: How many edges to draw at most.
    """
    exact, floor = _exact(paths)
    with np.errstate(invalid="ignore"):
        over = np.abs(exact) > floor
    edges = [(int(s), int(r)) for s, r in np.argwhere(over)]
    drawn = sorted(edges, key=lambda edge: -abs(exact[edge]))[:k]
    senders, receivers = (sorted({edge[side] for edge in drawn}) for side in (0, 1))
    lines = _heading(paths, exact, len(edges), len(drawn))
    rows = max(len(senders), len(receivers), 1)
    height = _TOP + _ROW * rows + _FOOT
    fig = figure(LINE * len(lines) + height)
    (domain,) = stacked([height], [LINE * len(lines)])
    add_heading(fig, lines, domain[1], hover=path_checks(paths))
    left = {part: rows * (i + 0.5) / len(senders) for i, part in enumerate(senders)}
    right = {part: rows * (i + 0.5) / len(receivers) for i, part in enumerate(receivers)}
    largest = max((abs(float(exact[edge])) for edge in drawn), default=1.0)
    for edge in reversed(drawn):  # the largest on top
        effect = float(exact[edge])
        start, end = left[edge[0]], right[edge[1]]
        width = _THINNEST + (_WIDEST - _THINNEST) * abs(effect) / largest
        fig.add_trace(
            go.Scatter(
                x=_BEND,
                y=start + (end - start) * _BEND**2 * (3 - 2 * _BEND),
                mode="lines",
                name=f"{label(paths.senders[edge[0]])} → {label(paths.receivers[edge[1]])}",
                customdata=[effect] * len(_BEND),
                line={
                    "color": side_colour(effect),
                    "width": width,
                    "dash": "solid" if effect > 0 else "10px,4px",
                },
                hovertext=[_edge_hover(paths, edge, effect)] * len(_BEND),
                hoverinfo="text",
                showlegend=False,
            )
        )
    _add_parts(fig, "senders", left, [_sender_hover(paths, s) for s in senders], paths.senders)
    hovers = [_receiver_hover(paths, r) for r in receivers]
    _add_parts(fig, "receivers", right, hovers, paths.receivers)
    plain = {"showgrid": False, "zeroline": False, "showticklabels": False, "fixedrange": True}
    fig.update_layout(
        xaxis=plain | {"range": [-0.42, 1.42]},
        yaxis=plain | {"range": [rows + 0.2, -0.2], "domain": domain},
    )
    return fig


def _exact(paths: PathEffects | EdgeScores) -> tuple[np.ndarray, np.ndarray]:
    """Exact effects of edges, and what each must exceed, [receiver] or one number."""
    if isinstance(paths, PathEffects):
        return paths.effect, paths.floor
    return paths.exact, np.asarray(paths.agreement.floor)


def _heading(
    paths: PathEffects | EdgeScores, exact: np.ndarray, n_over: int, n_drawn: int
) -> list[str]:
    n_run = int((~np.isnan(exact)).sum())
    if isinstance(paths, PathEffects):
        title = "Path patching: effect of single edges on LD"
        control = "their receiver’s floor, a random direction as large"
        runs = f"{n_run} edges run"
    else:
        title = f"{paths.method}: edges that were run too"
        control = f"{number(paths.agreement.floor, 3)} logits"
        n_edges = int((~np.isnan(paths.score)).sum())
        runs = f"{n_run} of {n_edges} edges run, the others are not shown"
    shown = f"the {n_drawn} largest of {n_over}" if n_drawn < n_over else f"all {n_over}"
    return heading(
        title,
        f"base LD {number(paths.base)}, donor {number(paths.donor)} logits",
        f"{runs}; drawn: {shown} over {control}" if n_over else f"{runs}; none is over {control}",
        "solid: toward A+; dashed: toward A−; width: size",
    )


def _add_parts(
    fig: go.Figure, name: str, places: dict[int, float], hovers: list[str], names: tuple[str, ...]
) -> None:
    side = name == "receivers"
    fig.add_trace(
        go.Scatter(
            x=[float(side)] * len(places),
            y=list(places.values()),
            mode="markers+text",
            name=name,
            text=[label(names[part]) for part in places],
            textposition="middle right" if side else "middle left",
            marker={"symbol": "square" if side else "circle", "size": 8, "color": OTHER},
            hovertext=hovers,
            hoverinfo="text",
            cliponaxis=False,
            showlegend=False,
        )
    )


def _edge_hover(paths: PathEffects | EdgeScores, edge: tuple[int, int], effect: float) -> str:
    s, r = edge
    lines = [
        f"<b>{label(paths.senders[s])} → {label(paths.receivers[r])}</b>",
        f"effect on LD {number(effect, 3)} logits",
    ]
    if isinstance(paths, PathEffects):
        lines.append(f"floor {number(float(paths.floor[r]), 3)}")
        lines.append(f"{int(paths.fired[s, r])} positions changed")
        lines.append(f"changes what the receiver puts out by {number(paths.delta_norm[s, r])}")
    else:
        lines.append(f"estimate ({label(paths.method)}) {number(float(paths.score[s, r]), 3)}")
    return "<br>".join(lines)


def _sender_hover(paths: PathEffects | EdgeScores, s: int) -> str:
    lines = [f"<b>{label(paths.senders[s])}</b>, for everything after it:"]
    if isinstance(paths, PathEffects):
        return "<br>".join([*lines, f"effect on LD {number(float(paths.node[s]), 3)} logits"])
    exact = float(paths.node_exact[s])
    lines.append(f"estimate {number(float(paths.node[s]), 3)} logits")
    lines.append("not run" if np.isnan(exact) else f"effect on LD {number(exact, 3)} logits")
    return "<br>".join(lines)


def _receiver_hover(paths: PathEffects | EdgeScores, r: int) -> str:
    name = f"<b>{label(paths.receivers[r])}</b>"
    if isinstance(paths, PathEffects):
        return f"{name}<br>floor {number(float(paths.floor[r]), 3)} logits"
    return name
