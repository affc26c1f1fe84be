"""Where meaning drifts: each word's state beside the same word's in a matched run."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.drift_results import Drift
from dst.plot.grids import BAR, add_cells, colours, row_axis, rows_height
from dst.plot.palette import CONTEXTUAL, OTHER, SCORE_COLOURS
from dst.plot.panels import LINE, add_heading, heading, stacked, value_axis, wrapped
from dst.plot.text import label, number, short, state_name
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_CURVES = 130
"""Pixels of the lower panel."""

_SATURATED = 3.0
"""The colour is full at this many times the critical z: exact models reach a million."""

_LONGEST = 1e4
"""From here on a z is written in its cell as ``≫``."""


def drift(drift: Drift, measure: str = "whitened") -> go.Figure:
    """The z of each word's drift: a row per token, a column per state; below, how far it went.

    Blue is more drift than between runs that mean the same, vermillion less. A cell that does
    not exceed the critical z (as large by chance in 5 % of runs) is left empty, with a stroke;
    a cross is undefined. A dotted line stands before the onset. The lower panel has 1 - cos at
    the answer by each measure, and the published form: raw states, mean over unmatched positions.

    Args:
        drift: The result.
        measure: ``whitened`` or ``centred``.

    Raises:
        KeyError: The result has no such measure.
    """
    z, critical = drift.z_of(measure).T, float(drift.critical[drift.measures.index(measure)])
    lines = heading(*_said(drift, measure, critical))
    below = heading(
        "How far: 1 − cos",
        "at the answer: ● centred, ■ whitened",
        "○ drift_published: raw, mean over all positions",
    )
    rows = int(rows_height(len(drift.tokens)))
    heights, gaps = [rows, _CURVES], [LINE * len(lines), LINE * len(below) + 10]
    fig = figure(sum(heights) + sum(gaps) + AXIS + BAR)
    top, bottom = stacked(heights, gaps)
    add_heading(fig, lines, top[1])
    add_heading(fig, below, bottom[1])
    m = drift.measures.index(measure)
    add_cells(
        fig,
        z,
        [[_hover(drift, m, state, pos) for state in range(z.shape[1])] for pos in range(len(z))],
        np.asarray(~(z > critical)) if not np.isnan(critical) else np.zeros(z.shape, dtype=bool),
        [[_written(float(value)) for value in row] for row in z],
    )
    onset = drift.onset(measure).state
    if not np.isnan(onset):
        fig.add_shape(
            type="line", xref="x", yref="y domain", x0=onset - 0.5, x1=onset - 0.5, y0=0, y1=1,
            name="onset", line={"color": CONTEXTUAL, "width": 2, "dash": "dot"},
        )  # fmt: skip
    _add_curves(fig, drift)
    cap = _SATURATED * critical if critical > 0 else np.inf
    low, high = value_range(drift.published, *_at_answer(drift).values())
    fig.update_layout(
        xaxis=state_axis(z.shape[1])
        | {"anchor": "y2", "range": [-0.5, z.shape[1] - 0.5], "showgrid": False},
        yaxis=row_axis([_row_name(drift, pos) for pos in range(len(z))], top),
        yaxis2=value_axis(bottom, [min(low, 0), high], "1 − cos"),
        coloraxis=colours(np.clip(z, -cap, cap), f"z of {label(measure)} drift: less | more"),
        showlegend=False,
    )
    return fig


def _said(drift: Drift, measure: str, critical: float) -> list[str]:
    """The heading: the two runs, what z counts in, what the marks mean, the onset."""
    null = {"neutral": "neutral draws", "": "none"}.get(drift.null, drift.null)
    twins = f", mean of {drift.n_twins} twins" if drift.n_twins > 1 else ""
    mark = drift.onset(measure)
    said = [
        f"Drift from the {drift.against} run",
        f"{measure} 1 − cos{twins}; null: {null}"
        + (f", {drift.n_null} runs against one another" if drift.n_null else ""),
    ]
    if drift.coverage < 1:
        said.append(f"{number(100 * drift.coverage, 0)} % of the positions are in both runs")
    if np.isnan(critical):
        said.append(f"no critical z: {mark.reason}")
    else:
        said.append(f"/ z under {number(critical, 1)}: as large by chance in 5 % of runs")
    if any(drift.reasons):
        said.append("× undefined, the reason is in the cell")
    if not np.isnan(mark.state):
        said.append(f"onset: {state_name(mark.state, mark.n_layers)}")
    elif not np.isnan(critical):
        said.append(f"no onset: {mark.reason}")
    return said


def _at_answer(drift: Drift) -> dict[str, np.ndarray]:
    """1 - cos at the answer by each measure."""
    answer = drift.roles.index("answer")
    return {name: drift.role_drift[m, :, answer] for m, name in enumerate(drift.measures)}


def _add_curves(fig: go.Figure, drift: Drift) -> None:
    """The lower panel: ours solid with filled symbols, the published form dashed and open."""
    states = list(range(len(drift.published)))
    curves = [
        (name, value, colour, "solid", symbol)
        for (name, value), colour, symbol in zip(
            _at_answer(drift).items(), SCORE_COLOURS, ("circle", "square"), strict=False
        )
    ]
    curves.append(("drift_published", drift.published, OTHER, "dash", "circle-open"))
    for name, value, colour, dash, symbol in curves:
        fig.add_trace(
            go.Scatter(
                x=states,
                y=value,
                xaxis="x",
                yaxis="y2",
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"color": colour, "symbol": symbol, "size": marker_size(len(states))},
                hovertext=[
                    f"<b>{label(name)}</b><br>{state_name(state)}<br>1 − cos "
                    f"{number(float(value[state]), 4)}"
                    for state in states
                ],
                hoverinfo="text",
            )
        )


def _hover(drift: Drift, m: int, state: int, pos: int) -> str:
    token, role = label(short(drift.tokens[pos], 24)), label(drift.token_roles[pos])
    lines = [f"<b>{token}</b> ({role}, position {pos}), {state_name(state)}"]
    away = float(drift.drift[m, state, pos])
    if not np.isnan(away):
        ends = float(drift.low[m, state, pos]), float(drift.high[m, state, pos])
        interval = "one twin" if np.isnan(ends[0]) else f"95 %: {number(ends[0], 4)} to "
        interval += "" if np.isnan(ends[0]) else number(ends[1], 4)
        lines.append(f"1 − cos {number(away, 4)} ({interval})")
    if drift.reasons[pos]:
        lines += wrapped(f"no z: {drift.reasons[pos]}")
    else:
        lines.append(f"z {number(float(drift.z[m, state, pos]))}")
        lines.append(f"critical z {number(float(drift.critical[m]))}")
    if not drift.same_word[pos] and drift.twin_tokens[pos]:
        lines.append(f"in the twin: {label(short(drift.twin_tokens[pos], 24))}")
    return "<br>".join(lines)


def _written(z: float) -> str:
    return "≫" if z >= _LONGEST else number(z, 1 if abs(z) < 100 else 0)


def _row_name(drift: Drift, pos: int) -> str:
    """A token, with its role beside it where it has one of its own."""
    name, role = label(short(drift.tokens[pos])), drift.token_roles[pos]
    return name if role in ("rest", "bos") else f"{name} · {label(short(role))}"
