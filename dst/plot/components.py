"""What each component writes at the answer position: the largest, and how it adds up."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.results import Attribution
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER
from dst.plot.panels import LINE, add_heading, heading, stacked, value_axis
from dst.plot.text import label, number, short, state_name
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_ROW, _LINES, _LEGEND = 30, 210, 40

_HATCH = {"fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.55, "size": 6}

_LEAST = 0.01
"""Share of the largest component under which one is not shown."""

PARTS = (
    ("contextual", CONTEXTUAL, "circle", "solid", ""),
    ("associative", ASSOCIATIVE, "diamond", "solid", "/"),
    ("base", OTHER, "square", "dash", ""),
)
"""Part, colour, symbol, dash, and the pattern of its bars."""


def attribution(parts: Attribution, k: int = 12) -> go.Figure:
    """What components add to LD at i*, split into context and association, in logits.

    Above: the ``k`` components with the largest contextual or associative part, the largest
    first, as paired bars: to the right is toward A+, to the left toward A-; what is less than a
    hundredth of the largest is left out. Below: the parts of all components added up to each
    state, which at the last state, with final norm, head and residue, sum to LD.

    Args:
        parts: The attribution.
        k: How many components to show.
    """
    size = np.maximum(np.abs(parts.contextual), np.abs(parts.associative))
    largest = np.argsort(-size, kind="stable")[:k]
    picked = [int(i) for i in largest if size[i] > _LEAST * size.max()]
    title = heading(
        f"{len(picked)} of {len(parts.components)} components, largest first",
        "toward A− | toward A+, in logits",
    )
    below = heading("Added up over depth")
    heights = [_ROW * max(len(picked), 1), _LINES]
    gaps = [LINE * len(title), AXIS + LINE * len(below)]
    fig = figure(_LEGEND + sum(heights) + sum(gaps) + AXIS)
    bars, lines = stacked(heights, gaps)
    add_heading(fig, title, bars[1])
    add_heading(fig, below, lines[1])
    for name, colour, _, _, pattern in PARTS[:2]:
        fig.add_trace(
            go.Bar(
                x=getattr(parts, name)[picked],
                y=list(range(len(picked))),
                orientation="h",
                name=f"{name} part",
                marker={"color": colour, "pattern": _HATCH | {"shape": pattern}},
                legendgroup=name,
                showlegend=False,
                hovertext=[_hover(parts, i) for i in picked],
                hoverinfo="text",
            )
        )
    curves = {name: parts.up_to(name) for name, *_ in PARTS}
    for name, colour, symbol, dash, _ in PARTS:
        values = curves[name]
        fig.add_trace(
            go.Scatter(
                x=list(range(len(values))),
                y=values,
                xaxis="x2",
                yaxis="y2",
                mode="lines+markers",
                name=f"{name} {number(float(values[-1]))}",
                legendgroup=name,
                line={"color": colour, "width": 2, "dash": dash},
                marker={"symbol": symbol, "size": marker_size(len(values)), "color": colour},
                hovertext=[
                    f"<b>{name}, {state_name(state)}</b><br>{number(float(value), 3)} logits so far"
                    for state, value in enumerate(values)
                ],
                hoverinfo="text",
            )
        )
    fig.update_layout(
        barmode="group",
        bargap=0.3,
        xaxis={"anchor": "y", "zeroline": True, "showgrid": True, "fixedrange": True},
        yaxis={
            "domain": bars,
            "anchor": "x",
            "tickvals": list(range(len(picked))),
            "ticktext": [label(short(parts.components[i], 14)) for i in picked],
            "range": [max(len(picked), 1) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        xaxis2=state_axis(len(curves["base"])) | {"anchor": "y2"},
        yaxis2=value_axis(lines, value_range(*curves.values()), "sum so far (logits)", "x2"),
    )
    return fig


def _hover(parts: Attribution, i: int) -> str:
    return "<br>".join(
        (
            f"<b>{label(parts.components[i])}</b>",
            f"contextual {number(float(parts.contextual[i]), 3)} logits",
            f"associative {number(float(parts.associative[i]), 3)}",
            f"base {number(float(parts.base[i]), 3)}",
            f"all three {number(float(parts.total[i]), 3)}",
        )
    )
