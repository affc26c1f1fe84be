"""Concept importance: what LD owes to some concepts' subspace, role by state."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.importance_results import ConceptImportance
from dst.plot.grids import BAR, add_cells, colours, row_axis, rows_height
from dst.plot.map_edges import small
from dst.plot.palette import CONTEXTUAL, OTHER, SCORE_COLOURS
from dst.plot.panels import LINE, add_heading, heading, stacked, value_axis, wrapped
from dst.plot.text import label, number, short, state_name, visible
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_CURVES, _PUBLISHED = 130, 90
_CURVE = (("circle", CONTEXTUAL), ("square", SCORE_COLOURS[3]))


def concept_importance(owed: ConceptImportance, q: float = 0.05) -> go.Figure:
    """Excess importance in logits: a row per role, a column per state; below, with its interval.

    A cell is filled where its q is under ``q``: blue, the concepts support the contextual answer
    there more than random directions would; vermillion, the associative one. A stroke is a cell
    that does not stand out, or where nothing can be removed; a cross is undefined. The curves
    are the role with the largest excess and the answer, with 95 % intervals over random subspaces.
    At the foot the published importance, KL in nats, which has no control.

    Args:
        owed: The result.
        q: False discovery rate.
    """
    excess = owed.excess.T
    same = ~owed.differing.T
    with np.errstate(invalid="ignore"):
        significant = np.asarray(owed.q < q).T
    roles = _curves_of(owed)
    n_significant, n_tested = int(significant.sum()), int((~np.isnan(owed.q)).sum())
    tops = [
        heading("Importance beyond random subspaces", *_said(owed, q, n_significant, n_tested)),
        heading(
            "Excess with its 95 % interval",
            ", ".join(f"{mark} {role}" for mark, role in zip("●■", roles, strict=False)),
        ),
        heading("importance_published, no control", "○ KL of the output, per block"),
    ]
    heights = [int(rows_height(len(owed.roles))), _CURVES, _PUBLISHED]
    gaps = [LINE * len(top) + 8 * (i > 0) for i, top in enumerate(tops)]
    fig = figure(sum(heights) + sum(gaps) + AXIS + BAR)
    domains = stacked(heights, gaps)
    for top, domain in zip(tops, domains, strict=True):
        add_heading(fig, top, domain[1])
    n_states = excess.shape[1]
    add_cells(
        fig,
        excess,
        [[_hover(owed, state, role) for state in range(n_states)] for role in owed.roles],
        ~significant & (same | ~np.isnan(owed.q.T)),
        [[number(float(value), 1) for value in row] for row in excess],
    )
    for role, (symbol, colour) in zip(roles, _CURVE, strict=False):
        _add_curve(fig, owed, role, symbol, colour)
    layers = list(range(1, len(owed.published) + 1))
    fig.add_trace(
        go.Scatter(
            x=layers,
            y=owed.published,
            yaxis="y3",
            name="importance_published",
            mode="lines+markers",
            line={"color": OTHER, "width": 2, "dash": "dash"},
            marker={"symbol": "circle-open", "color": OTHER, "size": marker_size(n_states)},
            hovertext=[
                f"<b>importance_published</b><br>{state_name(layer)}<br>{number(value, 3)} nats"
                for layer, value in zip(layers, owed.published.tolist(), strict=True)
            ],
            hoverinfo="text",
        )
    )
    columns = [owed.roles.index(role) for role in roles]
    fig.update_layout(
        xaxis=state_axis(n_states)
        | {"anchor": "y3", "range": [-0.5, n_states - 0.5], "showgrid": False},
        yaxis=row_axis([label(short(role)) for role in owed.roles], domains[0]),
        yaxis2=value_axis(
            domains[1], value_range(owed.low[:, columns], owed.high[:, columns]), "logits"
        ),
        yaxis3=value_axis(domains[2], [0, value_range(owed.published)[1]], "nats"),
        coloraxis=colours(
            np.where(significant, excess, np.nan), "excess, logits: associative | contextual"
        ),
        showlegend=False,
    )
    return fig


def _curves_of(owed: ConceptImportance) -> list[str]:
    """The role with the largest excess, and the answer."""
    if owed.reason:
        return []
    largest = owed.roles[int(np.abs(np.nan_to_num(owed.excess)).max(axis=0).argmax())]
    return list(dict.fromkeys([largest, "answer"]))


def _said(owed: ConceptImportance, q: float, n_significant: int, n_tested: int) -> list[str]:
    words = ", ".join(visible(one) for one in owed.words[:6])
    more = f" and {len(owed.words) - 6} more" if len(owed.words) > 6 else ""
    if owed.reason:
        return [f"of {words}{more}", f"undefined: {owed.reason}"]
    return [
        f"of {words}{more}; LD {number(owed.contrast)} logits",
        f"filled: {n_significant} of {n_tested} cells with q under {number(q, 3).rstrip('0')}",
        "/ no more than random directions of that size",
    ]


def _add_curve(
    fig: go.Figure, owed: ConceptImportance, role: str, symbol: str, colour: str
) -> None:
    j = owed.roles.index(role)
    value = owed.excess[:, j]
    states = list(range(len(value)))
    fig.add_trace(
        go.Scatter(
            x=states,
            y=value,
            yaxis="y2",
            name=f"excess, {role}",
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": symbol, "color": colour, "size": marker_size(len(states))},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": owed.high[:, j] - value,
                "arrayminus": value - owed.low[:, j],
                "thickness": 1.2,
                "width": 3,
                "color": colour,
            },
            hovertext=[_hover(owed, state, role) for state in states],
            hoverinfo="text",
        )
    )


def _hover(owed: ConceptImportance, state: int, role: str) -> str:
    j = owed.roles.index(role)
    lines = [f"<b>{label(role)}</b>, {state_name(state)}"]
    if why := owed.why(state, role):
        lines += wrapped(why)
    if owed.reason:
        return "<br>".join(lines)
    mean, control = float(owed.mean[state, j]), float(owed.control_mean[state, j])
    lines.append(f"importance {number(mean, 3)}, random subspaces {number(control, 3)} logits")
    if not np.isnan(owed.p[state, j]):
        ends = number(float(owed.low[state, j]), 3), number(float(owed.high[state, j]), 3)
        lines.append(
            f"excess {number(float(owed.excess[state, j]), 3)} (95 %: {ends[0]} to {ends[1]})"
        )
        lines.append(f"q {small(owed.q[state, j])} (p {small(owed.p[state, j])})")
        lines.append(
            f"removed: {number(100 * float(owed.removed[state, j]), 0)} % of the difference"
        )
    return "<br>".join(lines)
