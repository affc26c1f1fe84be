"""Counterfactual runs as cells: one row of a base batch, with some changes and cuts.

Every technique of patching is a plan of cells; `run_cells` carries a plan out. What a cell
leaves as it was (every block below its first change, every position before it) need not be
computed again: an engine that can `replay` recomputes the suffix alone, any other engine runs
the whole row, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dst.core.sites import Site, site_of_state
from dst.models.backend import Backend, Cut, Edit

MOST_TOKENS = 4096
"""Tokens in one batch of full runs."""


@dataclass(frozen=True)
class Change:
    """What a cell puts at a site.

    Attributes:
        site: Where.
        positions: Positions of the row, counted from its first real token.
        value: Broadcast to [position d_model], or [position head d_head] at head sites.
        op: ``"set"`` replaces, ``"add"`` adds.
        heads: Heads to change at a head site; all by default.
    """

    site: Site
    positions: tuple[int, ...]
    value: torch.Tensor
    op: Literal["set", "add"] = "set"
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Closed:
    """Reading that a cell stops: these queries no longer see these keys at one layer."""

    layer: int
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Cell:
    """One counterfactual run: a row of the base, what is changed, what is cut."""

    row: int
    changes: tuple[Change, ...] = ()
    cuts: tuple[Closed, ...] = ()


@dataclass(frozen=True)
class Base:
    """Runs that cells change.

    Attributes:
        rows: Token ids per row.
        logits: [row k d_vocab] at the positions that will be read.
        states: [state row pos d_model], padded on the right.
        logits_at: Positions at which logits are read, of every row.
    """

    rows: tuple[tuple[int, ...], ...]
    logits: torch.Tensor
    states: torch.Tensor
    logits_at: tuple[int, ...] = (-1,)


@dataclass(frozen=True)
class CellRuns:
    """What the cells gave.

    Attributes:
        logits: [cell k token], of the tokens asked for, at the base's ``logits_at``.
        states: [cell pos ...] per captured site, padded on the right.
        fired: [cell], places changed or cut.
        delta_norm: [cell], L2 norm of the cell's change over all its places; NaN with cuts only.
    """

    logits: torch.Tensor
    states: Mapping[Site, torch.Tensor]
    fired: np.ndarray
    delta_norm: np.ndarray


def record_base(
    model: Backend, rows: Sequence[Sequence[int]], logits_at: Sequence[int] = (-1,)
) -> Base:
    """Run rows once and keep what cells start from."""
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    run = model.run(rows, capture=sites, logits_at=list(logits_at))
    states = torch.stack([run.states[site] for site in sites])
    return Base(tuple(tuple(row) for row in rows), run.logits, states, tuple(logits_at))


def run_cells(
    model: Backend,
    base: Base,
    cells: Sequence[Cell],
    *,
    tokens: Sequence[int] | None = None,
    capture: Sequence[Site] = (),
    tick: Callable[[int], None] = lambda n: None,
) -> CellRuns:
    """Carry out every cell.

    Args:
        model: The model.
        base: The runs that are changed.
        cells: What is changed in which row.
        tokens: Ids whose logits are wanted; the whole vocabulary by default.
        capture: Sites whose states are kept, after any change there.
        tick: Told how many cells were just done.

    Raises:
        InterventionError: A site, position or head does not exist, a value does not fit, or
            a cell has nothing to do.
    """
    n = max(1, MOST_TOKENS // max(map(len, base.rows)))
    parts = [
        _full(model, base, cells[i : i + n], tokens, capture, tick) for i in range(0, len(cells), n)
    ]
    return CellRuns(
        torch.cat([part.logits for part in parts]),
        {site: torch.cat([part.states[site] for part in parts]) for site in capture},
        np.concatenate([part.fired for part in parts]),
        np.concatenate([part.delta_norm for part in parts]),
    )


def _full(
    model: Backend,
    base: Base,
    cells: Sequence[Cell],
    tokens: Sequence[int] | None,
    capture: Sequence[Site],
    tick: Callable[[int], None],
) -> CellRuns:
    """Cells as full runs: the reference."""
    edits = [
        (i, Edit(c.site, [i], list(c.positions), c.value, c.op, c.heads))
        for i, cell in enumerate(cells)
        for c in cell.changes
    ]
    cuts = [
        (i, Cut(c.layer, [i], list(c.queries), list(c.keys), c.heads))
        for i, cell in enumerate(cells)
        for c in cell.cuts
    ]
    run = model.run(
        [base.rows[cell.row] for cell in cells],
        capture=capture,
        edits=[edit for _, edit in edits],
        cuts=[cut for _, cut in cuts],
        logits_at=list(base.logits_at),
    )
    fired = np.zeros(len(cells), dtype=int)
    squared = np.full(len(cells), np.nan)
    for (i, _), receipt in zip([*edits, *cuts], run.receipts, strict=True):
        fired[i] += receipt.fired
        if not np.isnan(receipt.delta_norm):
            squared[i] = np.nan_to_num(squared[i]) + receipt.delta_norm**2
    tick(len(cells))
    logits = run.logits if tokens is None else run.logits[..., list(tokens)]
    return CellRuns(logits, run.states, fired, np.sqrt(squared))
