"""What repairs a run, or breaks it: LD after a repair at each state, beside its control."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from dst.core.results import Mark, Repairs
from dst.plot.marks import SYMBOLS, mark_hover
from dst.plot.palette import OTHER, side_colour, side_symbol
from dst.plot.panels import (
    LINE,
    add_band,
    add_heading,
    axis_names,
    heading,
    shade_sides,
    stacked,
    value_axis,
    wrapped,
)
from dst.plot.text import label, number, state_name, state_number
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_PANEL, _LEGEND, _GAP = 150, 40, 14


def repairs(fixes: Repairs) -> go.Figure:
    """LD of the run repaired at each state and of its control, a panel per repair, in logits.

    The repaired run is solid, its points circles where the answer is contextual and diamonds
    where it is associative; the control, the same repair of a run that it must not change, is
    dashed with open symbols. A repair works where the run leaves the control on the right side of
    the shaded floor. The dotted line is the commitment, from which it works no more, with its
    interval over draws. Repairs that do not exist for this case are named below, with the
    reason.
    """
    marks = {mark.definition.removeprefix("causal, "): mark for mark in fixes.commitments}
    titles = [_heading(name, marks.get(name)) for name in fixes.names]
    missing = [mark for name, mark in marks.items() if name not in fixes.names]
    foot = [line for mark in missing for line in wrapped(_missing(mark))]
    gaps = [LINE * len(title) + (_GAP if i else 0) for i, title in enumerate(titles)]
    height = _PANEL * len(fixes.names) + sum(gaps)
    fig = figure(_LEGEND + height + AXIS + LINE * len(foot))
    span = value_range(fixes.patched, fixes.control)
    domains = stacked([_PANEL] * len(fixes.names), gaps)
    axes = axis_names(len(fixes.names))
    for i, (axis, domain, title) in enumerate(zip(axes, domains, titles, strict=True)):
        add_heading(fig, title, domain[1])
        _add_panel(fig, fixes, i, axis, span)
        if (mark := marks.get(fixes.names[i])) is not None:
            _add_mark(fig, mark, axis, span)
        fig.update_layout({f"yaxis{axis[1:]}": value_axis(domain, span, "LD (logits)")})
    n_states = fixes.patched.shape[1]
    fig.update_layout(xaxis=state_axis(n_states) | {"anchor": axes[-1] if axes else "y"})
    if foot:
        fig.add_annotation(
            text="<br>".join(foot), xref="paper", yref="paper", x=0, y=0, yshift=-AXIS,
            xanchor="left", yanchor="top", showarrow=False, align="left", borderpad=0,
            font={"size": 12},
        )  # fmt: skip
        fig.update_layout(margin={"b": AXIS + LINE * len(foot)})
    return fig


def _missing(mark: Mark) -> str:
    return f"no {mark.definition.removeprefix('causal, ')}: {mark.reason}"


def _heading(name: str, mark: Mark | None) -> list[str]:
    if mark is None:
        return heading(name)
    if mark.reason:
        return heading(name, f"no commitment: {mark.reason}")
    spread = ""
    if not math.isnan(mark.low):
        spread = f" ({state_number(mark.low)} to {state_number(mark.high)} over draws)"
    return heading(name, f"committed from state {state_number(mark.state)}{spread}")


def _add_panel(fig: go.Figure, fixes: Repairs, row: int, axis: str, span: list[float]) -> None:
    shade_sides(fig, axis, (span[0], span[1]))
    states = list(range(fixes.patched.shape[1]))
    size = marker_size(len(states))
    name = fixes.names[row]
    for what, values in (("control", fixes.control[row]), ("repaired", fixes.patched[row])):
        control = what == "control"
        suffix = "-open" if control else ""
        fig.add_trace(
            go.Scatter(
                x=states,
                y=values,
                yaxis=axis,
                mode="lines+markers",
                name=what,
                legendgroup=what,
                showlegend=row == 0,
                line={"color": OTHER, "width": 2, "dash": "dash" if control else "solid"},
                marker={
                    "symbol": [side_symbol(value) + suffix for value in values],
                    "color": [side_colour(value) for value in values],
                    "size": size - 3 if control else size,
                    "line": {"width": 2 if control else 0},
                },
                hovertext=[_hover(fixes, row, state, name) for state in states],
                hoverinfo="text",
            )
        )


def _add_mark(fig: go.Figure, mark: Mark, axis: str, span: list[float]) -> None:
    """The floor, and where there is a commitment its line, interval and symbol."""
    if (floor := mark.thresholds.get("floor")) is not None:
        add_band(fig, axis, -floor, floor, OTHER, opacity=0.15, name="floor")
    if mark.reason:
        return
    over = {"yref": f"{axis} domain", "y0": 0, "y1": 1, "layer": "below", "name": "commitment"}
    fig.add_shape(
        type="line", xref="x", x0=mark.state, x1=mark.state,
        line={"color": OTHER, "width": 1, "dash": "dot"}, **over,
    )  # fmt: skip
    if not math.isnan(mark.low):
        fig.add_shape(
            type="rect", xref="x", x0=mark.low, x1=mark.high, fillcolor=OTHER, opacity=0.12,
            line={"width": 0}, **over,
        )  # fmt: skip
    fig.add_trace(
        go.Scatter(
            x=[mark.state],
            y=[span[0] + 0.06 * (span[1] - span[0])],
            yaxis=axis,
            mode="markers",
            name=f"commitment, {label(mark.definition)}",
            marker={"symbol": SYMBOLS["commitment"], "size": 10, "color": OTHER},
            hovertext=[mark_hover(mark)],
            hoverinfo="text",
            showlegend=False,
        )
    )


def _hover(fixes: Repairs, row: int, state: int, name: str) -> str:
    patched, control = float(fixes.patched[row, state]), float(fixes.control[row, state])
    return (
        f"<b>{label(name)} {state_name(state)}</b><br>repaired LD {number(patched)} logits"
        f"<br>control LD {number(control)} logits<br>difference {number(patched - control)}"
    )
