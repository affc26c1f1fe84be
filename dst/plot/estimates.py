"""How far a gradient estimate can be trusted: each estimate against the exact effect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dst.core.path_results import Agreement, AttributionPatch, EdgeScores
from dst.plot.controls import estimate_checks
from dst.plot.palette import OTHER, SCORE_COLOURS
from dst.plot.panels import LINE, add_heading, axis_names, heading, stacked, value_axis
from dst.plot.text import label, number, short
from dst.plot.theme import AXIS, figure, value_range

_PANEL, _GAP, _NAMED = 240, 20, 2
_SYMBOLS = ("circle", "square", "triangle-up", "diamond")

SIZES = ("graddrop", "atp_star")
"""Estimates of a size, without a sign: they are compared with the size of the exact effect."""


@dataclass(frozen=True)
class Panel:
    """One estimate and the exact effect of every cell, flat, in logits.

    Attributes:
        quality: Their agreement, as measured.
        names: Of the cells.
        estimate: The estimate; NaN where there is no cell.
        exact: The exact effect; NaN where it was not run.
        why: Why it was not run, per cell.
    """

    quality: Agreement
    names: list[str]
    estimate: np.ndarray
    exact: np.ndarray
    why: list[str]


def estimate_check(estimate: AttributionPatch | EdgeScores) -> go.Figure:
    """Each estimate against exact patching, cell by cell, in logits, a panel per estimate.

    On the dashed line an estimate is exact. In the shaded band an exact effect is too small to
    have a sign. Estimates without a sign stand against the size of the effect. The headings give
    the agreement that the result holds; the names are of the cells with the largest errors.
    Crosses on the left are cells that have an estimate and were not run: hovering says why.

    Args:
        estimate: Attribution patching, or edge attribution (a panel for edges, one for nodes).
    """
    panels = _panels(estimate)
    titles = [_heading(panel) for panel in panels]
    gaps = [LINE * len(title) + (AXIS + _GAP if i else 0) for i, title in enumerate(titles)]
    fig = figure(_PANEL * len(panels) + sum(gaps) + AXIS)
    domains = stacked([_PANEL] * len(panels), gaps)
    xs, ys = axis_names(len(panels), "x"), axis_names(len(panels))
    for i, (panel, title, domain) in enumerate(zip(panels, titles, domains, strict=True)):
        add_heading(fig, title, domain[1], hover=estimate_checks(estimate))
        _add_panel(fig, panel, i, (xs[i], ys[i]), domain)
    return fig


def _panels(estimate: AttributionPatch | EdgeScores) -> list[Panel]:
    if isinstance(estimate, AttributionPatch):
        n_layers, columns = estimate.exact.shape[0], estimate.columns
        names = [f"layer {layer}, {column}" for layer in range(n_layers) for column in columns]
        same = (estimate.delta_norm == 0).ravel()
        return [
            Panel(quality, names, estimate.value[i].ravel(), estimate.exact.ravel(), why)
            for i, quality in enumerate(estimate.agreement)
            for why in [["donor and base agree here" if s else quality.chosen for s in same]]
        ]
    edges = [f"{s} -> {r}" for s in estimate.senders for r in estimate.receivers]
    return [
        Panel(
            estimate.agreement,
            edges,
            estimate.score.ravel(),
            estimate.exact.ravel(),
            [estimate.agreement.chosen] * len(edges),
        ),
        Panel(
            estimate.node_agreement,
            list(estimate.senders),
            estimate.node,
            estimate.node_exact,
            [estimate.node_agreement.chosen] * len(estimate.senders),
        ),
    ]


def _add_panel(
    fig: go.Figure, panel: Panel, i: int, axes: tuple[str, str], domain: tuple[float, float]
) -> None:
    x, y = axes
    exact = np.abs(panel.exact) if panel.quality.estimate in SIZES else panel.exact
    low, high = value_range(exact, panel.estimate, pad=0.14)
    run = ~np.isnan(exact) & ~np.isnan(panel.estimate)
    floor = panel.quality.floor
    fig.add_shape(
        type="rect", xref=x, yref=f"{y} domain", x0=-floor, x1=floor, y0=0, y1=1, name="floor",
        fillcolor=OTHER, opacity=0.18, line={"width": 0}, layer="below",
    )  # fmt: skip
    fig.add_shape(
        type="line", xref=x, yref=y, x0=low, x1=high, y0=low, y1=high, name="identity",
        line={"color": OTHER, "width": 1, "dash": "dash"}, layer="below",
    )  # fmt: skip
    place = {"xaxis": x, "yaxis": y, "mode": "markers", "showlegend": False, "hoverinfo": "text"}
    cells = [int(cell) for cell in np.flatnonzero(run)]
    fig.add_trace(
        go.Scatter(
            x=exact[run],
            y=panel.estimate[run],
            name=label(panel.quality.estimate),
            marker={
                "symbol": _SYMBOLS[i % len(_SYMBOLS)],
                "size": 7,
                "color": SCORE_COLOURS[i % 4],
            },
            hovertext=[_hover(panel, cell) for cell in cells],
            **place,
        )
    )
    missing = np.isnan(exact) & ~np.isnan(panel.estimate)
    if missing.any():
        fig.add_trace(
            go.Scatter(
                x=np.full(int(missing.sum()), low),
                y=panel.estimate[missing],
                name="not run",
                marker={"symbol": "x-thin", "size": 6, "line": {"width": 1, "color": OTHER}},
                hovertext=[_hover(panel, int(cell)) for cell in np.flatnonzero(missing)],
                **place,
            )
        )
    _add_worst(fig, panel, axes, middle=(low + high) / 2)
    kind = "size of the exact effect" if panel.quality.estimate in SIZES else "exact effect"
    fig.update_layout(
        {
            f"yaxis{y[1:]}": value_axis(domain, [low, high], "estimate (logits)", x),
            f"xaxis{x[1:]}": {
                "anchor": y,
                "range": [low - 0.02 * (high - low), high],
                "title": {"text": f"{kind} (logits)"},
                "zeroline": True,
                "fixedrange": True,
            },
        }
    )


def _add_worst(fig: go.Figure, panel: Panel, axes: tuple[str, str], middle: float) -> None:
    """Name the cells with the largest errors, as the agreement lists them."""
    quality = panel.quality
    for name, estimate, exact in list(
        zip(quality.worst, quality.worst_estimate, quality.worst_exact, strict=True)
    )[:_NAMED]:
        at = abs(float(exact)) if quality.estimate in SIZES else float(exact)
        fig.add_annotation(
            text=label(short(name, 22)), x=at, y=float(estimate), xref=axes[0], yref=axes[1],
            showarrow=False, yshift=11, font={"size": 11}, name="worst",
            xanchor="right" if at > middle else "left",
        )  # fmt: skip


def _heading(panel: Panel) -> list[str]:
    q = panel.quality
    undefined = f"NaN: {q.reason}" if q.reason else ""
    return heading(
        f"{q.estimate} against exact patching",
        f"{q.n} of {q.n_all} cells run: {q.chosen}",
        f"Spearman {number(q.spearman)}, top-{q.top_k} overlap {number(q.top_overlap)}, same sign "
        f"{number(q.sign_agreement)}, mean error {number(q.mean_error, 3)} logits",
        *([undefined] if undefined else []),
    )


def _hover(panel: Panel, cell: int) -> str:
    estimate, exact = float(panel.estimate[cell]), float(panel.exact[cell])
    shown = (
        f"exact effect not run: {label(panel.why[cell])}"
        if np.isnan(exact)
        else f"exact effect {number(exact, 3)} logits"
    )
    return (
        f"<b>{label(panel.names[cell])}</b><br>{label(panel.quality.estimate)} "
        f"{number(estimate, 3)} logits<br>{shown}"
    )
