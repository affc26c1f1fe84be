"""What is lost when later positions stop reading a source, block by block."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.results import CutEffects
from dst.plot.palette import OTHER, SCORE_COLOURS
from dst.plot.panels import LINE, add_band, add_heading, axis_names, heading, stacked, value_axis
from dst.plot.text import label, number
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_PANEL, _LEGEND, _GAP = 150, 40, 14


def cuts(effects: CutEffects) -> go.Figure:
    """LD lost to cutting attention to a source, a panel per source, in logits.

    Bars: all later positions cut off in one block only, which shows where the first hop is.
    The line: cut in all blocks up to this one, which shows when it is over. The shaded band is
    the control: what as many random keys, cut off in every block, cost at least and at most.
    A cut is a knock-out, off the model's own distribution.
    """
    titles = [_heading(effects, i) for i in range(len(effects.sources))]
    gaps = [LINE * len(title) + (_GAP if i else 0) for i, title in enumerate(titles)]
    fig = figure(_LEGEND + _PANEL * len(titles) + sum(gaps) + AXIS)
    domains = stacked([_PANEL] * len(titles), gaps)
    axes = axis_names(len(titles))
    span = value_range(effects.one_layer, effects.up_to_layer, effects.control)
    blocks = list(range(1, effects.one_layer.shape[1] + 1))
    for i, (axis, domain, title) in enumerate(zip(axes, domains, titles, strict=True)):
        add_heading(fig, title, domain[1])
        if (control := _control(effects, i)) is not None:
            add_band(fig, axis, *control, OTHER, opacity=0.25, name="control")
        source = label(effects.sources[i])
        one, upto = effects.one_layer[i], effects.up_to_layer[i]
        fig.add_trace(
            go.Bar(
                x=blocks,
                y=one,
                yaxis=axis,
                name="in this block only",
                legendgroup="one",
                showlegend=i == 0,
                marker={"color": SCORE_COLOURS[2]},
                hovertext=[
                    f"<b>{source}, cut in block {block}</b><br>LD lost {number(float(value))}"
                    for block, value in zip(blocks, one, strict=True)
                ],
                hoverinfo="text",
            )
        )
        fig.add_trace(
            go.Scatter(
                x=blocks,
                y=upto,
                yaxis=axis,
                mode="lines+markers",
                name="in all blocks up to it",
                legendgroup="upto",
                showlegend=i == 0,
                line={"color": SCORE_COLOURS[1], "width": 2},
                marker={"symbol": "diamond", "size": marker_size(len(blocks))},
                hovertext=[
                    f"<b>{source}, cut in blocks 1 to {block}</b><br>LD lost {number(float(value))}"
                    for block, value in zip(blocks, upto, strict=True)
                ],
                hoverinfo="text",
            )
        )
        fig.update_layout({f"yaxis{axis[1:]}": value_axis(domain, span, "LD lost (logits)")})
    over = {"title": {"text": "block"}, "range": [0.4, len(blocks) + 0.6]}
    place = {"anchor": axes[-1] if axes else "y"}
    fig.update_layout(xaxis=state_axis(len(blocks) + 1) | over | place, bargap=0.5)
    return fig


def _heading(effects: CutEffects, source: int) -> list[str]:
    control = _control(effects, source)
    beside = (
        "no other keys to compare with"
        if control is None
        else f"as many random keys: {number(control[0])} to {number(control[1])}"
    )
    everywhere = number(float(effects.all_layers[source]))
    return heading(
        f"Cut off from the {effects.sources[source]}",
        f"in every block: {everywhere}",
        beside,
    )


def _control(effects: CutEffects, source: int) -> tuple[float, float] | None:
    """The smallest and the largest effect of random keys; None where there were none."""
    draws = effects.control[source]
    draws = draws[np.isfinite(draws)]
    return (float(draws.min()), float(draws.max())) if len(draws) else None
