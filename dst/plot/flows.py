"""The two pathways: what has reached the answer, and through which roles it came."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.results import Pathways
from dst.plot.grids import colours
from dst.plot.marks import add_marks, marks_height
from dst.plot.panels import LINE, add_band, add_heading, stacked, value_axis
from dst.plot.role_map import Flow, add_map, flow_value, flows_of, map_heading
from dst.plot.text import number, state_name
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_LINES, _LEGEND, _ROW, _BAR = 230, 40, 24, 44


def pathways(paths: Pathways) -> go.Figure:
    """When each flow is at the answer, and which roles carry it there, in logits.

    Above: insertion at the answer position per state, the mean over draws as a thick line and
    each draw as a thin one; the contextual flow pushes up (toward A+), the associative one down
    where it pushes toward A-. The shaded bands are the floors: within its own, a flow is no
    more than draws differ. Rows below are arrival and handover at the answer with intervals.

    Below: removal of each flow, a row per role in the order of the prompt and a column per
    state, so that a flow runs from its source down to the answer. Blue is toward A+,
    vermillion toward A-; a number is written where it is not within the floor. Hovering gives
    insertion, the draws and the control. Redundancy and cancellation are said above the map.
    """
    flows = flows_of(paths)
    n_states = len(paths.redundant)
    marks = [mark for mark in paths.marks if mark.definition.endswith("at answer")]
    titles = [map_heading(flow, paths) for flow in flows]
    rows = _ROW * len(paths.roles)
    domains = stacked(
        [_LINES, marks_height(marks), rows, rows],
        [0, 0, AXIS + LINE * len(titles[0]), LINE * (len(titles[1]) + 1)],
    )
    inner = (
        _LINES + marks_height(marks) + 2 * rows + AXIS + LINE * (len(titles[0]) + len(titles[1]))
    )
    fig = figure(_LEGEND + inner + LINE + AXIS + _BAR)
    span = value_range(*(flow.at_answer for flow in flows))
    _add_lines(fig, flows, span)
    fig.update_layout(
        xaxis=state_axis(n_states) | {"anchor": "y2" if marks else "y"},
        yaxis=value_axis(domains[0], span, "insertion at i* (logits)"),
        xaxis2=state_axis(n_states) | {"anchor": "y4"},
        coloraxis=colours(
            np.stack([flow.removal.mean(axis=0) for flow in flows]),
            "removal in logits: toward A− | toward A+",
        ),
    )
    if marks:
        add_marks(fig, marks, x="x", y="y2", domain=domains[1], bands=False)
    for flow, axis, domain, title in zip(flows, ("y3", "y4"), domains[2:], titles, strict=True):
        add_heading(fig, title, domain[1])
        add_map(fig, flow, paths, axis, domain)
    return fig


def _add_lines(fig: go.Figure, flows: tuple[Flow, Flow], span: list[float]) -> None:
    for flow in flows:
        add_band(
            fig, "y", -flow.floor, flow.floor, flow.colour, opacity=0.09, name=f"{flow.name} floor"
        )
    for flow in flows:
        draws = flow.at_answer
        states = list(range(draws.shape[1]))
        if len(draws) > 1:
            fig.add_trace(
                go.Scatter(
                    x=[*states, None] * len(draws),
                    # A gap after each draw, so that one trace holds them all.
                    y=np.concatenate([np.append(draw, np.nan) for draw in draws]),
                    mode="lines",
                    name=f"{flow.name}, each draw",
                    line={"color": flow.colour, "width": 1},
                    opacity=0.35,
                    connectgaps=False,
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
        mean = draws.mean(axis=0)
        fig.add_trace(
            go.Scatter(
                x=states,
                y=mean,
                mode="lines+markers",
                name=f"{flow.name} {number(float(mean[-1]))}",
                line={"color": flow.colour, "width": 3},
                marker={
                    "symbol": flow.symbol,
                    "size": marker_size(len(states)),
                    "color": flow.colour,
                },
                hovertext=[
                    f"<b>{flow.name} flow, {state_name(state)}</b>"
                    f"<br>at the answer {flow_value(draws[:, state])}"
                    f"<br>floor {number(flow.floor)}"
                    for state in states
                ],
                hoverinfo="text",
            )
        )
    for text, y, anchor in (("toward A+", span[1], "top"), ("toward A−", span[0], "bottom")):
        fig.add_annotation(
            text=text, xref="x domain", yref="y", x=0.01, y=y, xanchor="left", yanchor=anchor,
            showarrow=False, font={"size": 12},
        )  # fmt: skip
