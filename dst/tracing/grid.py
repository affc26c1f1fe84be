"""From a plan to a `PatchGrid`: cells measured, controls, what could not be measured and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dst.analysis.readout import kl_divergence, log_softmax
from dst.core.errors import InterventionError
from dst.core.patch_results import Controls, PatchGrid
from dst.models.backend import Backend
from dst.tracing.columns import Column
from dst.tracing.measuring import Planned, base_values, is_no_op, measure
from dst.tracing.metrics import Metrics
from dst.tracing.patch_controls import Placed, Whole, controls_of
from dst.tracing.prepare import Prepared
from dst.tracing.progress import progress
from dst.tracing.runs import Runs

NO_PLACE = "the other run has no such position"
"""Why a column of a patch is NaN."""


@dataclass(frozen=True)
class Design:
    """A grid before it is run.

    Attributes:
        technique: As `PatchGrid.technique`.
        direction: As `PatchGrid.direction`.
        source: As `PatchGrid.source`.
        site: As `PatchGrid.site`.
        window: Layers that a cell changes.
        layers: The layer of each row.
        column_kind: As `PatchGrid.column_kind`.
        columns: The columns.
        base: The runs that are changed.
        donor: The runs that states come from; None where there is no such run.
        n_draws: Draws of the grid.
        plan: The cells of (draw, layer, column); () where there is nothing to do.
        coverage: Per column.
        own: The control that puts a run's own states back.
        whole: The control that patches everything.
        notes: What a reader must know.
        empty: Why a column is NaN where it has no cell in any draw.
    """

    technique: str
    direction: str
    source: str
    site: str
    window: int
    layers: tuple[int, ...]
    column_kind: str
    columns: tuple[Column, ...]
    base: Runs
    donor: Runs | None
    n_draws: int
    plan: Callable[[int, int, Column], Planned]
    coverage: Sequence[float]
    own: Planned
    whole: Whole
    notes: tuple[str, ...] = ()
    empty: str = NO_PLACE


def run_grid(
    model: Backend,
    ready: Prepared,
    design: Design,
    metrics: Metrics,
    *,
    controls: int | Callable[[np.ndarray], Controls],
    seed: int,
    show_progress: bool,
    **settings: Any,
) -> PatchGrid:
    """Measure every cell of a design, and its controls.

    Args:
        model: The model.
        ready: The case.
        design: The grid.
        metrics: What is read.
        controls: How many random cells of each kind; or, for what replaces no states, a
            function of the base runs' metrics that gives the controls.
        seed: Seed of the controls.
        show_progress: Draw a line with the time left.
        settings: What else goes into the provenance.

    Raises:
        InterventionError: No cell changes anything.
        NumericalError: A control fails.
    """
    grid = [
        Placed(draw, layer, j, design.plan(draw, layer, column))
        for draw in range(design.n_draws)
        for layer in design.layers
        for j, column in enumerate(design.columns)
    ]
    base = design.base
    cells = [cell for placed in grid for cell in placed.plan]
    if not cells:
        raise InterventionError(
            f"The {design.technique} fires nowhere: {design.empty}",
            expected="at least one place that can be changed",
        )
    if all(is_no_op(cell, base) for cell in cells):
        raise InterventionError(
            f"The {design.technique} changes nothing: every cell puts in what is already there",
            expected="a donor whose tokens differ from the prompt's",
        )
    with progress(design.technique, len(cells), show=show_progress) as tick:
        done = measure(model, ready, base, [p.plan for p in grid], metrics, tick)
    draws = np.arange(design.n_draws)
    own = base_values(model, ready, base, metrics)[:, draws % len(base)]
    given = np.full_like(own, np.nan)
    if design.donor is not None:
        given = base_values(model, ready, design.donor, metrics)[:, draws % len(design.donor)]
        given = _divergence(base, design.donor, metrics, given)
    if callable(controls):
        checked = controls(own)
    else:
        checked = controls_of(
            model,
            ready,
            base,
            metrics,
            grid,
            own=design.own,
            whole=design.whole,
            own_values=own,
            donor_values=given,
            n=controls,
            seed=seed,
        )
    shape = (design.n_draws, len(design.layers), len(design.columns))
    values = done.values.reshape(len(metrics.names), *shape)
    empty = np.isnan(values).all(axis=(0, 1, 2))
    return PatchGrid(
        technique=design.technique,
        direction=design.direction,
        source=design.source,
        site=design.site,
        window=design.window,
        metrics=metrics.names,
        layers=np.array(design.layers),
        column_kind=design.column_kind,
        columns=tuple(column.name for column in design.columns),
        column_positions=tuple(column.positions for column in design.columns),
        column_heads=tuple(-1 if c.head is None else c.head for c in design.columns),
        values=values,
        base=own,
        donor=given,
        flips=~np.isnan(values[0]) & ((values[0] > 0) != (own[0] > 0)[:, None, None]),
        fired=done.fired.reshape(shape),
        delta_norm=done.delta_norm.reshape(shape),
        coverage=np.array(design.coverage, dtype=float),
        reasons=tuple(design.empty if nothing else "" for nothing in empty),
        tokens=ready.tokenized.tokens,
        roles=ready.tokenized.roles,
        case=ready.tokenized.case,
        controls=checked,
        notes=design.notes,
        provenance=model.provenance(
            seed=seed,
            technique=design.technique,
            direction=design.direction,
            source=design.source,
            site=design.site,
            window=design.window,
            layers=list(design.layers),
            columns=[column.name for column in design.columns],
            metrics=list(metrics.names),
            **settings,
        ),
    )


def _divergence(base: Runs, donor: Runs, metrics: Metrics, given: np.ndarray) -> np.ndarray:
    """The donor's ``kl`` is from the run that is changed, not from itself."""
    if "kl" not in metrics.names:
        return given
    i = metrics.names.index("kl")
    p, q = (log_softmax(runs.logits.float().cpu().numpy()) for runs in (base, donor))
    n = given.shape[1]
    given[i] = [float(kl_divergence(p[d % len(base)], q[d % len(donor)])) for d in range(n)]
    return given
