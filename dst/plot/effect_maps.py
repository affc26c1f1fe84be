"""Effects over many cases: the mean per cell, and which cells are no accident."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.errors import InputError
from dst.core.patch_results import PatchEffects
from dst.core.statistics_results import EffectMap
from dst.plot.controls import effects_checks
from dst.plot.grids import BAR, MOST_WRITTEN, add_cells, colours, layer_axis, row_axis, rows_height
from dst.plot.panels import LINE, add_heading, heading, stacked, wrapped
from dst.plot.text import label, number, short
from dst.plot.theme import AXIS, figure


def effect_map(effects: PatchEffects | EffectMap, q: float = 0.05) -> go.Figure:
    """Mean effect over cases: a row per role, a column per layer, in the effect's unit.

    A ring is a q of at most ``q``: the effect differs from the control's, the random donor's, false
    discoveries counted over the whole map. A square is the same where the cell differs by doing
    less: its mean is no larger in size, nor does it go the other way by its interval. A cross
    is an undefined cell; one that has a mean and no q has no mark. Hovering says mean, interval,
    control, p, q, the number of cases, and the reason where a number is missing.

    Args:
        effects: Patching over many cases, or a map [layer column] of `effect_map`, whose rows
            and columns are then numbered.
        q: Largest q that is marked.

    Raises:
        InputError: The map has not two axes.
    """
    many = effects if isinstance(effects, PatchEffects) else None
    found = effects.statistics if isinstance(effects, PatchEffects) else effects
    if found.mean.ndim != 2:
        raise InputError(
            f"The map has {found.mean.ndim} axes: {', '.join(found.axes)}",
            expected="two: layers and columns",
        )
    columns = many.columns if many else tuple(str(j) for j in range(found.mean.shape[1]))
    layers = many.layers if many else np.arange(found.mean.shape[0])
    lines = _heading(many, found, q)
    rows = int(rows_height(len(columns)))
    fig = figure(LINE * len(lines) + rows + AXIS + BAR)
    (domain,) = stacked([rows], [LINE * len(lines)])
    hover = effects_checks(many) if many else "<br>".join(wrapped(found.method))
    add_heading(fig, lines, domain[1], hover=hover)
    add_cells(
        fig,
        found.mean.T,
        [
            [
                _hover(found, i, j, f"<b>{label(columns[j])}</b>, {found.axes[0]} {layers[i]}")
                for i in range(len(layers))
            ]
            for j in range(len(columns))
        ],
        np.zeros(found.mean.T.shape, dtype=bool),
        [[number(float(value), 1) for value in row] for row in found.mean.T],
    )
    marked, more = found.discoveries(q), _exceeds_control(found)
    _add_marks(fig, (marked & more).T, "discoveries", "circle")
    _add_marks(fig, (marked & ~more).T, "less than control", "square")
    fig.update_layout(
        xaxis=layer_axis(layers, f"{found.axes[0]} (from 0)"),
        yaxis=row_axis([label(short(name, 18)) for name in columns], domain),
        coloraxis=colours(found.mean, label(_colour_title(many, found))),
    )
    return fig


def _exceeds_control(found: EffectMap) -> np.ndarray:
    """Where the mean is larger in size than the control's, or its interval on the other side."""
    less = np.abs(found.mean) <= np.abs(found.control)  # nowhere without a control
    other_side = np.where(found.control > 0, found.high < 0, found.low > 0)
    return np.asarray(~less | other_side)


def _add_marks(fig: go.Figure, marked: np.ndarray, name: str, symbol: str) -> None:
    """A mark in each of these cells, left of its number where there is one."""
    rows, columns = np.nonzero(marked)
    if not len(rows):
        return
    fig.add_trace(
        go.Scatter(
            x=columns - (0.38 if marked.shape[1] <= MOST_WRITTEN else 0),
            y=rows,
            mode="markers",
            name=name,
            # White within dark, so that it stands out on every colour of the map.
            marker={
                "symbol": symbol,
                "size": 7,
                "color": "#FFFFFF",
                "line": {"width": 1.5, "color": "#24272D"},
            },
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _heading(many: PatchEffects | None, found: EffectMap, q: float) -> list[str]:
    marked, n_q = found.discoveries(q), int((~np.isnan(found.q)).sum())
    n_more = int((marked & _exceeds_control(found)).sum())
    lines = [f"○ q ≤ {q:g}: {n_more} of {found.q.size} cells"]
    if n_more < marked.sum():
        lines.append(f"□ the same, but less than the control: {int(marked.sum()) - n_more}")
    if not n_q:
        lines.append(f"no cell has a q: {_reasons(found.reasons)}")
    elif n_q < found.q.size:
        lines.append(f"{found.q.size - n_q} cells without a q: {_reasons(found.reasons)}")
    if many is None:
        return heading(f"Mean effect in {found.unit}", *lines)
    direction = f", {many.direction}" if many.direction else ""
    window = f", {many.window} layers at a time" if many.window > 1 else ""
    left_out = f", {len(many.failures)} left out" if many.failures else ""
    groups = len(set(many.groups))
    within = f"in {groups} groups" if groups > 1 else "in one group"
    return heading(
        f"{many.technique.capitalize()}{direction}, many cases",
        f"{many.site}{window}: effect on {many.metric}, donor: {many.source}",
        f"mean of {len(many.case_ids)} cases {within}{left_out}",
        *lines,
    )


def _reasons(reasons: np.ndarray) -> str:
    """Every reason once, in the order of the map."""
    return "; ".join(dict.fromkeys(str(reason) for reason in reasons.ravel() if reason))


def _colour_title(many: PatchEffects | None, found: EffectMap) -> str:
    if many is None:
        return f"mean effect in {found.unit}: less | more"
    sides = "toward A− | toward A+" if many.metric == "LD" else "less | more"
    return f"mean effect on {many.metric} in {found.unit}: {sides}"


def _hover(found: EffectMap, i: int, j: int, name: str) -> str:
    cell = (i, j)
    reason = str(found.reasons[cell])
    lines = [name]
    if not np.isnan(found.mean[cell]):
        lines.append(f"mean effect {number(float(found.mean[cell]), 3)} {label(found.unit)}")
    low, high = float(found.low[cell]), float(found.high[cell])
    if not np.isnan(low):
        lines.append(f"{found.level:.0%} interval {number(low)} to {number(high)}")
    if not np.isnan(found.control[cell]):
        lines.append(f"control {number(float(found.control[cell]), 3)}")
    for letter, value in (("p", float(found.p[cell])), ("q", float(found.q[cell]))):
        if not np.isnan(value):
            lines.append(f"{letter} {number(value, 3)}")
    lines.append(f"{int(found.n[cell])} cases in {int(found.n_clusters[cell])} groups")
    return "<br>".join(lines + (wrapped(f"undefined: {reason}") if reason else []))
