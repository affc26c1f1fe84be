"""A map over layers: colours around zero, strokes where it is nothing, crosses where undefined.

The three kinds of cells differ without colour too: only what exceeds its control is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.plot.palette import OTHER

BAR = 48
"""Pixels of the colour bar below a map."""

_ROW, _TALLEST, _THINNEST, _LABEL = 18, 1080, 4, 14
"""Pixels: of a row, of all rows before they get thinner, of the thinnest, of a row's name."""

MOST_WRITTEN = 9
"""Layers up to which the numbers stand in the cells."""


def rows_height(n_rows: int) -> float:
    """Pixels of a map's rows: 18 each, and less from 61 rows on."""
    return max(n_rows, 1) * max(min(_ROW, _TALLEST / max(n_rows, 1)), _THINNEST)


def add_cells(
    fig: go.Figure,
    values: np.ndarray,
    hover: Sequence[Sequence[str]],
    nothing: np.ndarray,
    texts: Sequence[Sequence[str]],
    axes: tuple[str, str] = ("x", "y"),
) -> None:
    """Draw a map: ``values`` [row layer] filled where they are something.

    Args:
        fig: The figure to draw on.
        values: The numbers; the trace keeps all of them as its ``customdata``.
        hover: What hovering over each cell says.
        nothing: Cells that do not exceed their control: left empty, with a stroke.
        texts: The numbers in the cells, where there is room for them.
        axes: The names of the two axes.
    """
    undefined = np.isnan(values)
    filled = ~undefined & ~nothing
    place = {"xaxis": axes[0], "yaxis": axes[1], "showlegend": False}
    fig.add_trace(
        go.Heatmap(
            z=np.where(filled, values, np.nan),
            x=list(range(values.shape[1])),
            y=list(range(values.shape[0])),
            customdata=values,
            name="cells",
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
            text=[
                [text if filled[i, j] else "" for j, text in enumerate(row)]
                for i, row in enumerate(texts)
            ],
            texttemplate="%{text}" if values.shape[1] <= MOST_WRITTEN else "",
            textfont={"size": 11},
            hovertext=hover,
            hoverinfo="text",
            hoverongaps=True,
            **place,
        )
    )
    for name, symbol, cells in (
        ("nothing", "line-ne", nothing & ~undefined),
        ("undefined", "x-thin", undefined),
    ):
        rows, columns = np.nonzero(cells)
        if len(rows):
            fig.add_trace(
                go.Scatter(
                    x=columns,
                    y=rows,
                    mode="markers",
                    name=name,
                    marker={"symbol": symbol, "size": 7, "line": {"width": 1, "color": OTHER}},
                    hoverinfo="skip",
                    **place,
                )
            )


def layer_axis(layers: np.ndarray, title: str, anchor: str = "y") -> dict[str, Any]:
    """The x axis of a map: the layers that were changed, at most 13 of them named."""
    step = -(-len(layers) // 13)
    picked = list(range(0, len(layers), step or 1))
    return {
        "title": {"text": title},
        "tickmode": "array",
        "tickvals": picked,
        "ticktext": [str(int(layers[i])) for i in picked],
        "range": [-0.5, len(layers) - 0.5],
        "anchor": anchor,
        "fixedrange": True,
    }


def row_axis(names: Sequence[str], domain: tuple[float, float], anchor: str = "x") -> Any:
    """The y axis of a map: a name per row from top to bottom, fewer where rows are thin."""
    every = -(-_LABEL * len(names) // int(rows_height(len(names)))) or 1
    picked = list(range(0, len(names), every))
    return {
        "domain": domain,
        "anchor": anchor,
        "tickmode": "array",
        "tickvals": picked,
        "ticktext": [names[i] for i in picked],
        "range": [max(len(names), 1) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }


def colours(values: np.ndarray, title: str) -> dict[str, Any]:
    """The template's diverging scale with its middle at zero, and its bar below the map."""
    known = np.abs(values[np.isfinite(values)])
    largest = float(known.max(initial=0.0)) or 1.0
    return {
        "autocolorscale": True,
        "cmin": -largest,
        "cmax": largest,
        "colorbar": {
            "orientation": "h",
            "title": {"text": title, "side": "bottom"},
            "x": 0,
            "xanchor": "left",
            "xref": "paper",
            "len": 1,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "thickness": 8,
            "ypad": 4,
            "xpad": 0,
        },
    }
