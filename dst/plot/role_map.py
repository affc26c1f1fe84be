"""A flow as a map: which roles carry it after each state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dst.core.results import Pathways
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL
from dst.plot.panels import heading, state_ranges
from dst.plot.text import label, number, short, state_name

_MOST_WRITTEN = 9
"""States up to which the numbers stand in the cells."""


@dataclass(frozen=True)
class Flow:
    """One of the two flows, with what its figures need, in logits.

    Attributes:
        name: ``contextual`` or ``associative``.
        symbol: Of its points.
        colour: Of its line.
        removal: N, [draw state role].
        insertion: D, [draw state role].
        at_answer: D at the answer position, [draw state].
        floor: tau; less is no more than draws differ.
        control: Effect of putting one draw in for another, [state role]; None where unknown.
    """

    name: str
    symbol: str
    colour: str
    removal: np.ndarray
    insertion: np.ndarray
    at_answer: np.ndarray
    floor: float
    control: np.ndarray | None


def flows_of(paths: Pathways) -> tuple[Flow, Flow]:
    """The contextual and the associative flow."""
    answer = paths.roles.index("answer")
    known = not np.isnan(paths.draw_against_draw).all()
    return (
        Flow(
            *("contextual", "circle", CONTEXTUAL),
            paths.contextual_removal,
            paths.contextual_insertion,
            paths.contextual_insertion[:, :, answer],
            paths.contextual_floor,
            paths.draw_against_draw if known else None,
        ),
        Flow(
            *("associative", "diamond", ASSOCIATIVE),
            paths.associative_removal,
            paths.associative_insertion,
            paths.associative_insertion[:, :, answer],
            paths.associative_floor,
            None,
        ),
    )


def add_map(
    fig: go.Figure, flow: Flow, paths: Pathways, axis: str, domain: tuple[float, float]
) -> None:
    """Draw removal per role and state on the axes ``x2`` and ``axis``, within ``domain``."""
    removal = flow.removal.mean(axis=0).T
    n_states = removal.shape[1]
    written = n_states <= _MOST_WRITTEN
    fig.add_trace(
        go.Heatmap(
            z=removal,
            x=list(range(n_states)),
            y=list(range(len(paths.roles))),
            xaxis="x2",
            yaxis=axis,
            xgap=1,
            ygap=1,
            name=f"{flow.name} removal",
            coloraxis="coloraxis",
            text=[
                [number(float(value), 1) if abs(value) >= flow.floor else "" for value in row]
                for row in removal
            ],
            texttemplate="%{text}" if written else "",
            textfont={"size": 11},
            hovertext=[
                [_hover(flow, paths, role, state) for state in range(n_states)]
                for role in range(len(paths.roles))
            ],
            hoverinfo="text",
            showlegend=False,
        )
    )
    fig.update_layout(
        {
            f"yaxis{axis[1:]}": {
                "domain": domain,
                "anchor": "x2",
                "tickvals": list(range(len(paths.roles))),
                "ticktext": [label(short(role)) for role in paths.roles],
                "range": [len(paths.roles) - 0.5, -0.5],
                "showgrid": False,
                "zeroline": False,
                "fixedrange": True,
            }
        }
    )


def map_heading(flow: Flow, paths: Pathways) -> list[str]:
    """What the map shows, and what must be known to read it."""
    kept = {"contextual": "made neutral", "associative": "made that of an unrelated subject"}
    more = [f"lost where a role’s state is {kept[flow.name]}"]
    if flow.name == "contextual":
        if paths.redundant.any():
            states = state_ranges(int(state) for state in np.flatnonzero(paths.redundant))
            more.append(
                f"Redundant at state {states}: no single role is needed, the rows add up to less "
                "than the effect."
            )
        if paths.cancelled:
            more.append("Cancelled: parts of it are above its floor, their sum is not.")
    return heading(f"{flow.name.capitalize()} flow by role: removal", *more)


def _hover(flow: Flow, paths: Pathways, role: int, state: int) -> str:
    lines = [
        f"<b>{label(paths.roles[role])}</b> ({_places(paths.positions[role])}), "
        f"{state_name(state)}",
        f"removal {flow_value(flow.removal[:, state, role])}",
        f"insertion {flow_value(flow.insertion[:, state, role])}",
        f"floor {number(flow.floor)}",
    ]
    if flow.control is not None:
        control = float(flow.control[state, role])
        lines.append(f"control, one neutral draw for another: {number(control)}")
    return "<br>".join(lines)


def _places(positions: tuple[int, ...]) -> str:
    places = state_ranges(positions)
    return f"position {places}" if len(positions) == 1 else f"positions {places}"


def flow_value(draws: np.ndarray) -> str:
    """The mean over draws, and where 95 % of them lie."""
    text = f"{number(float(draws.mean()))} logits"
    if len(draws) < 2:
        return f"{text} (one draw)"
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{text} (95 % of draws {number(float(low))} to {number(float(high))})"
