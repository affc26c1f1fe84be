"""Which cells of a patch grid matter: tokens or roles by layer, beside what any change does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import plotly.graph_objects as go

from dst.core.patch_results import PatchGrid
from dst.plot.controls import patch_checks
from dst.plot.grids import BAR, add_cells, colours, layer_axis, row_axis, rows_height
from dst.plot.panels import LINE, add_heading, heading, stacked, wrapped
from dst.plot.text import label, number, short
from dst.plot.theme import AXIS, figure

Shown = Literal["effect", "recovery"]


def patch_grid(grid: PatchGrid, metric: str = "LD", show: Shown = "effect") -> go.Figure:
    """What each cell's change does: a row per token, role or span, a column per layer.

    The colour is the effect (patched - base, mean over draws, in the metric's unit), or the
    recovery, the share of donor - base in LD. Blue is up, for LD toward A+; vermillion is down.
    A cell that does not exceed the floor of the grid's random controls is left empty, with a
    stroke: any change does as much. A cross is an undefined cell. Hovering says each number,
    its floor and its receipt, or why it is undefined; over the heading, the controls.

    Args:
        grid: The grid; means over its draws are shown.
        metric: Whose effect; one of ``grid.metrics``.
        show: ``effect``, or ``recovery`` (always of LD).

    Raises:
        KeyError: The grid has no such metric.
    """
    view = PatchView.of(grid, metric, show)
    lines = view.heading()
    rows = int(rows_height(len(grid.columns)))
    fig = figure(LINE * len(lines) + rows + AXIS + BAR)
    (domain,) = stacked([rows], [LINE * len(lines)])
    add_heading(fig, lines, domain[1], hover=patch_checks(grid))
    view.add_rows(fig, list(range(len(grid.columns))))
    fig.update_layout(
        xaxis=layer_axis(grid.layers, view.layer_title()),
        yaxis=row_axis([_row_name(grid, j) for j in range(len(grid.columns))], domain),
        coloraxis=colours(view.values, view.colour_title()),
    )
    return fig


@dataclass(frozen=True)
class PatchView:
    """What a figure shows of a grid: means over draws, [layer column], of one metric.

    Attributes:
        grid: The grid.
        metric: The metric.
        show: Whether ``values`` are its effect or LD's recovery.
        effect: Patched - base.
        patched: The metric of the patched runs.
        recovery: Share of donor - base in LD.
        flip: Share of draws in which LD changes its sign.
        floor: What an effect must exceed; NaN where no control was run.
    """

    grid: PatchGrid
    metric: str
    show: Shown
    effect: np.ndarray
    patched: np.ndarray
    recovery: np.ndarray
    flip: np.ndarray
    floor: float

    @classmethod
    def of(cls, grid: PatchGrid, metric: str, show: Shown) -> Self:
        """The view of one metric; recovery is always LD's."""
        metric = "LD" if show == "recovery" else metric
        effect, patched, floor = grid.effect(metric), grid.value(metric), grid.floor(metric)
        return cls(grid, metric, show, effect, patched, grid.recovery, grid.flip, floor)

    @property
    def values(self) -> np.ndarray:
        """What the colour shows."""
        return self.recovery if self.show == "recovery" else self.effect

    @property
    def nothing(self) -> np.ndarray:
        """Cells within the floor; none where there is no floor."""
        return np.asarray(np.abs(self.effect) <= self.floor)

    def add_rows(
        self, fig: go.Figure, columns: list[int], axes: tuple[str, str] = ("x", "y")
    ) -> None:
        """Draw these columns of the grid as rows of a map."""
        shares = self.show == "recovery" or self.grid.unit(self.metric) == "probability"
        digits, n_layers = (2 if shares else 1), len(self.grid.layers)
        shown = self.values[:, columns].T
        add_cells(
            fig,
            shown,
            [[self.hover(layer, column) for layer in range(n_layers)] for column in columns],
            self.nothing[:, columns].T,
            [[number(float(value), digits) for value in row] for row in shown],
            axes,
        )

    def heading(self) -> list[str]:
        """What was done, the two runs, the floor, and what the marks mean."""
        grid, metric, unit = self.grid, self.metric, self.grid.unit(self.metric)
        i = grid.metrics.index(metric)
        base, donor = float(grid.base[i].mean()), float(grid.donor[i].mean())
        draws, window = grid.values.shape[1], grid.window
        what = f"{grid.site}{f', {window} layers at a time' if window > 1 else ''}: "
        what += f"recovery in {metric}" if self.show == "recovery" else f"effect on {metric}"
        given = f"no donor run ({grid.source})" if np.isnan(donor) else ""
        given = given or f"donor ({grid.source}) {number(donor)} {unit}"
        said = [
            what + (f", mean of {draws} draws" if draws > 1 else ""),
            f"{metric}: base {number(base)}, {given}",
        ]
        if np.isnan(self.floor):
            said.append("no floor: no random change was run")
        elif self.nothing.any():
            said.append(f"/ under the floor: {number(self.floor)} {unit}, as any change there does")
        else:
            said.append(f"floor {number(self.floor)} {unit}: every cell exceeds it")
        if self.show == "recovery" and grid.recovery_reason:
            said.append(f"× undefined: {grid.recovery_reason}")
        elif np.isnan(self.values).any():
            said.append("× undefined, the reason is in the cell")
        direction = f", {grid.direction}" if grid.direction else ""
        return heading(f"{grid.technique.capitalize()}{direction}", *said)

    def hover(self, layer: int, column: int) -> str:
        """What hovering over a cell says: place, numbers with units, floor, receipt or reason."""
        grid, unit = self.grid, self.grid.unit(self.metric)
        lines = [f"<b>{_place(grid, column)}</b>, layer {grid.layers[layer]}"]
        if np.isnan(self.effect[layer, column]):
            reason = grid.reasons[column] or "no draw has this cell"
            return "<br>".join([*lines, *wrapped(f"undefined: {reason}")])
        lines.append(
            f"effect on {self.metric} {number(float(self.effect[layer, column]), 3)} {unit}"
        )
        lines.append(f"patched {number(float(self.patched[layer, column]), 3)}")
        if not np.isnan(self.floor):
            lines.append(f"floor {number(self.floor, 3)}")
        if grid.recovery_reason:
            lines += wrapped(f"recovery undefined: {grid.recovery_reason}")
        else:
            lines.append(f"recovery {number(float(self.recovery[layer, column]))}")
        flips = number(100 * float(self.flip[layer, column]), 0)
        lines.append(f"LD changes its sign in {flips} % of draws")
        norm = float(grid.delta_norm[:, layer, column].mean())
        changed = "" if np.isnan(norm) else f", by a norm of {number(norm)}"
        lines.append(f"{int(grid.fired[:, layer, column].sum())} places changed{changed}")
        if grid.coverage[column] < 1:
            shared = number(100 * float(grid.coverage[column]), 0)
            lines.append(f"{shared} % of positions in both runs")
        return "<br>".join(lines)

    def colour_title(self) -> str:
        """What the colour bar measures, and which way it goes."""
        if self.show == "recovery":
            return "recovery in LD: 0 is the base, 1 the donor"
        sides = "toward A− | toward A+" if self.metric == "LD" else "less | more"
        return label(f"effect on {self.metric} in {self.grid.unit(self.metric)}: {sides}")

    def layer_title(self) -> str:
        """What the axis of layers counts."""
        put_in = self.grid.column_kind == "source layer"
        return "layer it is put in (from 0)" if put_in else "layer (from 0)"


def _row_name(grid: PatchGrid, column: int) -> str:
    """A row's name; a token has its role beside it, where it has one of its own."""
    name = label(short(grid.columns[column], 12 if grid.column_kind == "position" else 18))
    if grid.column_kind != "position":
        return name
    role = grid.roles[grid.column_positions[column][0]]
    return name if role in ("rest", "bos") else f"{name} · {label(short(role))}"


def _place(grid: PatchGrid, column: int) -> str:
    name, places = label(short(grid.columns[column], 24)), grid.column_positions[column]
    if grid.column_kind != "position":
        return name
    return f"{name} ({label(grid.roles[places[0]])}, position {places[0]})"
