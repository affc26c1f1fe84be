"""Template, sizes and axes of every figure. Plotly's own default template is left as it is."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif'

AXIS = 52
"""Pixels that the axis of states takes below a figure."""

Scheme = Literal["any", "light", "dark"]
# ink, muted, grid, page, sequential colour scale from nothing to much
_SCHEMES: dict[str, tuple[str, str, str, str, list[str]]] = {
    "any": ("#6B7078", "#7A7F87", "rgba(122,127,135,.25)", "", ["#EEF3F8", "#0072B2", "#00304C"]),
    "light": ("#24272D", "#5C6169", "#E4E4DF", "#FFFFFF", ["#F4F6F8", "#56A4D0", "#004B75"]),
    "dark": ("#E4E4E0", "#A3A7AE", "#33373E", "#1E2126", ["#1E2126", "#1D6FA5", "#A9D8F5"]),
}

# from the associative side over nothing to the contextual side
_DIVERGING: dict[str, list[str]] = {
    "any": ["#D55E00", "#F3F3F0", "#0072B2"],
    "light": ["#D55E00", "#F6F6F3", "#0072B2"],
    "dark": ["#E9863F", "#262A30", "#4BA6DE"],
}


def template(scheme: Scheme = "any") -> go.layout.Template:
    """The figures' template: for any background (the default), or for a light or dark page."""
    ink, muted, grid, page, scale = _SCHEMES[scheme]
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zerolinecolor": muted,
        "zerolinewidth": 1,
        "ticks": "",
        "tickfont": {"color": muted, "size": 12},
        "title": {"font": {"color": muted, "size": 12}, "standoff": 8},
        "automargin": True,
    }
    hover = {"bgcolor": page, "bordercolor": grid, "font": {"color": ink}} if page else {}
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "color": ink, "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "xaxis": axis | {"showgrid": False, "zeroline": False},
            "yaxis": axis,
            "hoverlabel": hover | {"align": "left"},
            "colorscale": {"diverging": _steps(_DIVERGING[scheme])},
            "coloraxis": {
                "autocolorscale": False,
                "colorscale": _steps(scale),
                "colorbar": {
                    "thickness": 10,
                    "outlinewidth": 0,
                    "tickfont": {"color": muted, "size": 12},
                    "title": {"font": {"color": muted, "size": 12}},
                },
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
                "font": {"size": 12},
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)"},
        }
    )


def _steps(colours: list[str]) -> list[list[object]]:
    """A colour scale with these colours at equal distances."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def figure(height: int) -> go.Figure:
    """An empty figure in this theme, as wide as its place."""
    return go.Figure(layout={"template": template(), "height": height, "dragmode": False})


def marker_size(n_states: int) -> int:
    """Pixels of a marker: smaller where states stand close."""
    return 10 if n_states <= 16 else 7


def state_axis(n_states: int) -> dict[str, Any]:
    """The x axis of states 0..L: ``emb`` for the embedding, at most 13 numbers after it."""
    last = n_states - 1
    step = next(step for step in (1, 2, 4, 5, 8, 10, 20, 50, last) if last / step <= 13)
    ticks = list(range(0, n_states, step))
    return {
        "title": {"text": "state: embedding, then after each block"},
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": ["emb" if tick == 0 else str(tick) for tick in ticks],
        "range": [-0.4 - 0.02 * last, last + 0.4 + 0.02 * last],
        "fixedrange": True,
    }


def value_range(*values: np.ndarray, pad: float = 0.16) -> list[float]:
    """A range that holds every defined value and zero, with room at both ends."""
    every = np.concatenate([np.ravel(value) for value in values] + [np.zeros(1)])
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    room = pad * ((high - low) or 1.0)
    return [low - room, high + room]
