"""Which heads matter: heads by layer, a panel per group of positions."""

from __future__ import annotations

import plotly.graph_objects as go

from dst.core.errors import InputError
from dst.core.patch_results import PatchGrid
from dst.plot.controls import patch_checks
from dst.plot.grids import BAR, colours, layer_axis, row_axis, rows_height
from dst.plot.panels import LINE, add_heading, axis_names, stacked
from dst.plot.patches import PatchView, Shown
from dst.plot.text import label, short
from dst.plot.theme import AXIS, figure

_GAP = 8


def head_grid(grid: PatchGrid, metric: str = "LD", show: Shown = "effect") -> go.Figure:
    """What changing each head does: a row per head, a column per layer.

    Colours, strokes and crosses are those of `patch_grid`; a grid of heads by position, role or
    span has a panel for each of those, on one scale.

    Args:
        grid: A grid whose columns are heads (``heads="each"``).
        metric: Whose effect; one of ``grid.metrics``.
        show: ``effect``, or ``recovery`` (always of LD).

    Raises:
        InputError: The columns of the grid are not heads.
        KeyError: The grid has no such metric.
    """
    if not grid.column_kind.startswith("head"):
        raise InputError(
            f"A column of this grid is a {grid.column_kind}",
            expected="a head",
            do="Measure with heads='each', or draw it with dst.plot.patch_grid",
        )
    view = PatchView.of(grid, metric, show)
    groups: dict[tuple[int, ...], list[int]] = {}
    for column, positions in enumerate(grid.column_positions):
        groups.setdefault(positions, []).append(column)
    parts = list(groups.values())
    names = [label(short(grid.columns[part[0]].partition(": ")[2], 24)) for part in parts]
    titles = [[f"<b>{name}</b>"] if grid.column_kind != "head" else [] for name in names]
    titles[0] = view.heading() + titles[0]
    heights = [int(rows_height(len(part))) for part in parts]
    gaps = [LINE * len(title) + (_GAP if i else 0) for i, title in enumerate(titles)]
    fig = figure(sum(heights) + sum(gaps) + AXIS + BAR)
    axes, domains = axis_names(len(parts)), stacked(heights, gaps)
    for part, title, axis, domain in zip(parts, titles, axes, domains, strict=True):
        add_heading(fig, title, domain[1], hover=patch_checks(grid))
        view.add_rows(fig, part, ("x", axis))
        rows = [f"head {grid.column_heads[column]}" for column in part]
        fig.update_layout({f"yaxis{axis[1:]}": row_axis(rows, domain)})
    fig.update_layout(
        xaxis=layer_axis(grid.layers, view.layer_title(), anchor=axes[-1]),
        coloraxis=colours(view.values, view.colour_title()),
    )
    return fig
