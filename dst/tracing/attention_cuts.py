"""Attention cuts as a grid: queries that stop reading some keys, layer by layer or head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dst.core.case import Case
from dst.core.patch_results import Controls, PatchGrid
from dst.models.backend import Backend, require
from dst.tracing.columns import By, Column, Heads, columns_of, layers_of, positions_of, window_of
from dst.tracing.grid import Design, run_grid
from dst.tracing.measuring import Planned, measure
from dst.tracing.metrics import metrics_of
from dst.tracing.patch_controls import CONTROLS, Whole
from dst.tracing.prepare import prepare
from dst.tracing.replay import Cell, Closed
from dst.tracing.runs import Runs, record_runs


def cut_attention(
    model: Backend,
    case: Case,
    *,
    keys: By = "role",
    queries: str | Sequence[int] | None = None,
    window: int = 1,
    heads: Heads = None,
    layers: Sequence[int] | None = None,
    metric: str | Sequence[str] = "LD",
    controls: int = CONTROLS,
    seed: int = 0,
    show_progress: bool = True,
) -> PatchGrid:
    """What the answer becomes when some positions stop reading others, at one layer or head.

    value = metric(x with the scores from ``queries`` to a column's keys at -inf and the rest
    renormalised, at layer l); effect = value - metric(x). [1 layer column], LD in logits. A
    cut is a knock-out, off the model's distribution: for a scored number patch v instead.

    `dst.cut_effects` is the other view: every layer at once, and layers up to l.

    Args:
        model: The model.
        case: The case.
        keys: What is no longer read, a column each: ``role``, ``position``, or spans.
        queries: Which positions stop reading: a role, a text of the prompt, or positions;
            by default all after the first key that are not keys themselves.
        window: Layers cut at once.
        heads: ``each`` or numbers: one column per head and key group.
        layers: Rows of the grid, all by default.
        metric: One or several; LD is always there.
        controls: Random cells: as many random keys, in the cells of the grid.
        seed: Seed of the controls.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Returns:
        `PatchGrid` without donor; its random control cuts off as many random keys. Columns
        that nothing reads later (the answer position) are NaN.

    Raises:
        CapabilityError: The engine cannot cut attention.
        InterventionError: A position, layer or head does not exist, or nothing can be cut.
        CaseError: The case has no associative answer.

    Source: Geva et al. 2023 (attention knock-out), METHOD 2b'.
    """
    require(model, "cuts")
    ready = prepare(model, case, draws=0, seed=seed)
    metrics = metrics_of(metric, ready.tokenized)
    n_layers = model.spec.n_layers
    rows = layers_of(layers, window, n_layers)
    kind, columns = columns_of(ready, keys, heads, "attention", model.spec)
    asked = None if queries is None else positions_of(ready.tokenized, queries)
    own = record_runs(model, ready, [ready.x], ())
    cuts = _Cuts(own, asked, window, n_layers)
    design = Design(
        technique="attention cut",
        direction="noising",
        source="cut",
        site="attention",
        window=window,
        layers=rows,
        column_kind=kind,
        columns=columns,
        base=own,
        donor=None,
        n_draws=1,
        plan=cuts.plan,
        coverage=[1.0] * len(columns),
        own=(),
        whole=Whole(),
        empty="no query comes after these keys",
    )

    def checked(own_values: np.ndarray) -> Controls:
        drawn = cuts.random(design, len(ready.tokenized.ids), controls, seed)
        done = measure(model, ready, own, [plan for _, _, plan in drawn], metrics)
        return Controls(
            self_patch_error=float("nan"),
            donor_error=float("nan"),
            donor_reason="a cut has no donor run",
            random_donor=done.values - own_values[:, :1],
            random_donor_is="as many random keys, cut off from the same queries",
            random_direction=np.full((len(metrics.names), len(drawn)), np.nan),
            random_layers=np.array([layer for layer, _, _ in drawn], dtype=int),
            random_columns=np.array([column for _, column, _ in drawn], dtype=int),
        )

    return run_grid(
        model,
        ready,
        design,
        metrics,
        controls=checked,
        seed=seed,
        show_progress=show_progress,
        queries=None if asked is None else list(asked),
    )


@dataclass(frozen=True)
class _Cuts:
    """Cuts of one prompt: which queries stop reading, around which layers."""

    own: Runs
    queries: tuple[int, ...] | None
    window: int
    n_layers: int

    def plan(self, draw: int, layer: int, column: Column) -> Planned:
        """The cut in the prompt's row and its twin's; () where no query comes after a key."""
        cells = []
        for row in self.own.rows_of(draw):
            keys = tuple(p for p in self.own.places(row, column.positions) if p >= 0)
            n_pos = len(self.own.rows[row].ids)
            asking = range(n_pos) if self.queries is None else self.own.places(row, self.queries)
            # A query that is a key itself goes on reading itself: none is left without keys.
            later = tuple(q for q in asking if keys and q > min(keys) and q not in keys)
            if not later:
                return ()
            layers = window_of(layer, self.window, self.n_layers)
            cuts = tuple(Closed(l, later, keys, column.heads) for l in layers)
            cells.append(Cell(row, cuts=cuts))
        return tuple(cells)

    def random(
        self, design: Design, n_pos: int, n: int, seed: int
    ) -> list[tuple[int, int, Planned]]:
        """As many random other keys in random cells of the grid, the first position left out."""
        rng = np.random.default_rng(seed)
        drawn = []
        for layer, j in zip(
            rng.choice(design.layers, size=n),
            rng.integers(len(design.columns), size=n),
            strict=True,
        ):
            column = design.columns[j]
            free = [p for p in range(1, n_pos - 1) if p not in column.positions]
            size = min(len(column.positions), len(free))
            if not size or not self.plan(0, layer, column):
                continue
            keys = tuple(sorted(rng.choice(free, size=size, replace=False).tolist()))
            plan = self.plan(0, layer, replace(column, positions=keys))
            if plan:
                drawn.append((layer, j, plan))
        return drawn
