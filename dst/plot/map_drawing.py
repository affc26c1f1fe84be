"""Nodes and arrows of a map: a node says its side by colour and symbol, an arrow its sign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dst.core.map_results import ASSOCIATIVE, CONTEXTUAL, OTHER, SIDES
from dst.plot import palette
from dst.plot.text import label, short

SIDE_COLOURS = {
    CONTEXTUAL: palette.CONTEXTUAL,
    ASSOCIATIVE: palette.ASSOCIATIVE,
    OTHER: palette.OTHER,
}
SIDE_SYMBOLS = {CONTEXTUAL: "circle", ASSOCIATIVE: "diamond", OTHER: "square"}

RAISES, LOWERS = palette.SCORE_COLOURS[2], palette.SCORE_COLOURS[1]
"""Colours of arrows; blue and vermillion say the side of a node."""

_THINNEST, _WIDEST = 1.0, 7.0
_SMALLEST, _LARGEST = 9.0, 26.0

Point = tuple[float, float]
Curve = Callable[[Point, Point], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Node:
    """A node: its name, its side, how large it is (0 to 1), what hovering says, where it stands.

    Attributes:
        text: Where its name stands beside it, in Plotly's words; "" for nowhere.
        open: Drawn without filling.
    """

    name: str
    side: str
    share: float
    hover: str
    at: Point
    text: str = ""
    open: bool = False

    @property
    def pixels(self) -> float:
        """Diameter: its square grows with the share."""
        return _SMALLEST + (_LARGEST - _SMALLEST) * float(np.sqrt(self.share))


@dataclass(frozen=True)
class Arrow:
    """An arrow from one point to another.

    Attributes:
        name: From what to what.
        value: What it is as wide as, and whose sign it shows.
        start: Where it begins.
        end: Where it ends.
        hover: What hovering says.
        group: By what a slider shows it: the state at which something was moved.
        significant: Whether it stands out among its controls; dotted if not.
        standoff: Pixels between its head and the point.
        overview: Whether it is shown where no state is picked.
    """

    name: str
    value: float
    start: Point
    end: Point
    hover: str
    group: int = 0
    significant: bool = True
    standoff: float = 6.0
    overview: bool = True


def add_arrows(
    fig: go.Figure,
    arrows: Sequence[Arrow],
    curve: Curve,
    *,
    dash: str = "solid",
    opacity: float = 0.85,
) -> None:
    """Draw arrows, the largest on top: solid and green raises, dashed and purple lowers.

    Args:
        fig: The figure.
        arrows: What to draw; all widths are on one scale.
        curve: From two points to the line between them.
        dash: Of those that raise.
        opacity: Of all of them.
    """
    largest = max((abs(arrow.value) for arrow in arrows), default=1.0) or 1.0
    for arrow in sorted(arrows, key=lambda one: (one.significant, abs(one.value))):
        width = _THINNEST + (_WIDEST - _THINNEST) * abs(arrow.value) / largest
        x, y = curve(arrow.start, arrow.end)
        colour = RAISES if arrow.value > 0 else LOWERS
        style = "2px,5px" if not arrow.significant else dash if arrow.value > 0 else "9px,4px"
        fig.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+markers",
                name=label(arrow.name),
                meta=arrow.group,
                customdata=[arrow.value],
                line={"color": colour, "width": width, "dash": style},
                marker={
                    "symbol": "arrow",
                    "angleref": "previous",
                    "color": colour,
                    "size": [0.0] * (len(x) - 1) + [7 + 1.3 * width],
                    "standoff": [0.0] * (len(x) - 1) + [arrow.standoff],
                    "line": {"width": 0},
                    "opacity": 1,
                },
                opacity=opacity,
                hovertext=arrow.hover,
                hoverinfo="text",
                visible=arrow.overview,
                cliponaxis=False,
                showlegend=False,
            )
        )


def add_nodes(fig: go.Figure, nodes: Sequence[Node], *, widest: int = 12) -> None:
    """Draw nodes, a trace per side, each with its name in the legend."""
    for side in SIDES:
        some = [node for node in nodes if node.side == side]
        if not some:
            continue
        symbol = SIDE_SYMBOLS[side]
        fig.add_trace(
            go.Scatter(
                x=[node.at[0] for node in some],
                y=[node.at[1] for node in some],
                mode="markers+text" if any(node.text for node in some) else "markers",
                name=side,
                text=[label(short(node.name, widest)) if node.text else "" for node in some],
                textposition=[node.text or "middle right" for node in some],
                textfont={"size": 12},
                marker={
                    "symbol": [f"{symbol}-open" if node.open else symbol for node in some],
                    "size": [node.pixels for node in some],
                    "color": SIDE_COLOURS[side],
                    "opacity": 1,
                    "line": {"width": [1.5 if node.open else 0 for node in some]},
                },
                hovertext=[node.hover for node in some],
                hoverinfo="text",
                cliponaxis=False,
                legendgroup=side,
                legend="legend",
            )
        )


def text_place(x: float) -> str:
    """Where a name stands beside a node of this column, in Plotly's words: to the outside."""
    return {0.0: "middle left", 2.0: "middle right"}.get(x, "top center")


def add_keys(fig: go.Figure, arrows: Sequence[Arrow], *, dash: str = "solid") -> None:
    """Legend entries for the kinds of arrows that are drawn."""
    kinds = (
        ("raises", RAISES, dash, [a for a in arrows if a.significant and a.value > 0]),
        ("lowers", LOWERS, "9px,4px", [a for a in arrows if a.significant and a.value <= 0]),
        ("not significant", palette.OTHER, "2px,5px", [a for a in arrows if not a.significant]),
    )
    for name, colour, style, there in kinds:
        if there:
            fig.add_trace(
                go.Scatter(
                    x=[None],
                    y=[None],
                    mode="lines",
                    name=name,
                    line={"color": colour, "width": 3, "dash": style},
                    hoverinfo="skip",
                )
            )
