"""What a counterfactual run is: a row of a base batch, with some changes and cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from dst.core.errors import InterventionError
from dst.core.sites import Site
from dst.models.backend import Backend, Cut, Edit
from dst.models.request import work_out
from dst.models.suffix import Prefix, padded


@dataclass(frozen=True)
class Change:
    """What a cell puts at a site.

    Attributes:
        site: Where.
        positions: Positions of the row, counted from its first real token, or from the end
            if negative.
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
        prefix: Keys and values of the rows, if they were kept; else they are made again.
    """

    rows: tuple[tuple[int, ...], ...]
    logits: torch.Tensor
    states: torch.Tensor
    logits_at: tuple[int, ...] = (-1,)
    prefix: Prefix | None = None

    @classmethod
    def joined(cls, bases: Sequence[Base]) -> Base:
        """The rows of several, one after the other."""
        if len(bases) == 1:
            return bases[0]
        width = max(base.states.shape[2] for base in bases)
        prefixes = [base.prefix for base in bases if base.prefix is not None]
        return cls(
            tuple(row for base in bases for row in base.rows),
            torch.cat([base.logits for base in bases]),
            torch.cat([padded(base.states, width) for base in bases], dim=1),
            bases[0].logits_at,
            Prefix.joined(prefixes) if len(prefixes) == len(bases) else None,
        )


@dataclass(frozen=True)
class CellRuns:
    """What the cells gave.

    Attributes:
        logits: [cell k token], of the tokens asked for, at the base's ``logits_at``.
        states: [cell pos ...] per captured site, padded on the right.
        fired: [cell], places changed or cut.
        delta_norm: [cell], L2 norm of the cell's change over all its places; NaN with cuts only.
        notes: What went otherwise than planned, such as batches made smaller for lack of memory.
    """

    logits: torch.Tensor
    states: Mapping[Site, torch.Tensor]
    fired: np.ndarray
    delta_norm: np.ndarray
    notes: tuple[str, ...] = ()


def edits_of(cell: Cell, row: int) -> list[Edit]:
    """A cell's changes as edits of one row of a batch."""
    return [
        Edit(c.site, [row], [list(c.positions)], c.value[None], c.op, c.heads) for c in cell.changes
    ]


def cuts_of(cell: Cell, row: int) -> list[Cut]:
    """A cell's cuts, in one row of a batch."""
    return [Cut(c.layer, [row], list(c.queries), list(c.keys), c.heads) for c in cell.cuts]


def check_cells(
    model: Backend,
    missing: Mapping[str, str],
    base: Base,
    cells: Sequence[Cell],
    capture: Sequence[Site],
) -> None:
    """Refuse cells that cannot be carried out, before any is.

    Cells that differ in nothing but their row and values are looked at once.

    Raises:
        InterventionError: A row, site, position or head does not exist, a value does not fit,
            or a cell has nothing to do.
        CapabilityError: A site was not found in this model, or cannot be edited.
    """
    seen: set[Any] = set()
    if capture and cells:
        work_out(model.spec, missing, base.rows[:1], None, capture, (), (), [-1])
    for number, cell in enumerate(cells):
        check_cell(base, number, cell)
        length = len(base.rows[cell.row])
        for c in cell.changes:
            key = (length, c.site, c.positions, c.op, c.heads, c.value.shape)
            if key not in seen:
                seen.add(key)
                if _is_plain(model, missing, c, length):
                    continue
                ids, alone = [base.rows[cell.row]], Cell(cell.row, (c,))
                work_out(model.spec, missing, ids, None, capture, edits_of(alone, 0), (), [-1])
        if cell.cuts and (length, cell.cuts) not in seen:
            seen.add((length, cell.cuts))
            ids = [base.rows[cell.row]]
            work_out(model.spec, missing, ids, None, capture, (), cuts_of(cell, 0), [-1])


def _is_plain(model: Backend, missing: Mapping[str, str], change: Change, length: int) -> bool:
    """Whether a change of residual states is right at a glance: most are, and need no more."""
    site, spec = change.site, model.spec
    return (
        site.kind in ("resid_pre", "resid_post")
        and site.layer < spec.n_layers
        and site.kind not in missing
        and change.op in ("set", "add")
        and change.heads is None
        and change.value.shape == (len(change.positions), spec.d_model)
        and all(0 <= place < length for place in change.positions)
        and len(set(change.positions)) == len(change.positions)
    )


def check_cell(base: Base, number: int, cell: Cell) -> None:
    """Refuse a cell of no row, with nothing to do, or a change at no position.

    Raises:
        InterventionError: Says which.
    """
    if not 0 <= cell.row < len(base.rows):
        raise InterventionError(
            f"Cell {number} names row {cell.row}",
            expected=f"a row of the base, from 0 to {len(base.rows) - 1}",
        )
    if not cell.changes and not cell.cuts:
        raise InterventionError(
            f"Cell {number} changes and cuts nothing", expected="at least one change or cut"
        )
    for change in cell.changes:
        if not change.positions:
            raise InterventionError(
                f"Cell {number} names no position at {change.site}", expected="at least one"
            )
