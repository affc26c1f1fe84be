"""Cells worked out: which change nothing, where each leaves its base run, which run together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from dst.core.sites import Site, state_of
from dst.models.hooks import HooksBackend
from dst.tracing.cells import Base, Cell, Change

PLACES = 1 << 14
"""Places whose values are compared with the base's at a time."""

RATE = {"cpu": (1e11, 1e10), "cuda": (2e13, 1e12)}
"""Multiplications and additions, and bytes of weights read, that a device does in a second.
They weigh batches against each other; an error of a factor of 3 costs a few per cent of time."""

CALL = 3e-4
"""Seconds that calling a block takes apart from its arithmetic."""


@dataclass(frozen=True)
class Planned:
    """A cell that has to be run.

    Attributes:
        index: Its place among the cells.
        row: Its row of the base.
        length: Tokens of that row.
        start: State at which it leaves the base.
        first: First position at which it does.
        whole: It changes, cuts or reads something in the last block or after it.
        changes: What it changes, positions counted from 0.
    """

    index: int
    row: int
    length: int
    start: int
    first: int
    whole: bool
    changes: tuple[Change, ...]


def plan(
    base: Base, cells: Sequence[Cell], n_layers: int, whole: bool, compared: bool = False
) -> list[Planned | None]:
    """Where each cell leaves its base run; None for one that changes nothing at all.

    A single change of a residual state is compared with the base: positions where it puts what
    is there are left out, and a cell of nothing else is an exact no-op.

    Args:
        base: The runs that are changed.
        cells: What is changed.
        n_layers: Blocks of the model.
        whole: Everything is read in the last block of every cell.
        compared: No cell puts anywhere what is there already, so that none is looked at.
    """
    out = [_planned(base, i, cell, n_layers, whole) for i, cell in enumerate(cells)]
    if compared:
        return list(out)
    comparable = [i for i, cell in enumerate(cells) if _is_comparable(cell)]
    part: list[int] = []
    n_places = 0
    found: list[Planned | None] = list(out)
    for i in comparable:
        part.append(i)
        n_places += len(out[i].changes[0].positions)
        if n_places >= PLACES:
            _leave_out(base, [out[i] for i in part], found)
            part, n_places = [], 0
    if part:
        _leave_out(base, [out[i] for i in part], found)
    return found


def batches(
    engine: HooksBackend, cells: Sequence[Planned], most: Callable[[int, int], int]
) -> Iterator[list[Planned]]:
    """Cells in batches: of one length, and such that little is computed for nothing.

    Cells that start at other positions share a batch where the positions computed for nothing
    cost less than calling every block once more (tokens times blocks, and what a call is worth).

    Args:
        engine: The model.
        cells: What is to be run.
        most: How many runs fit, by length and first position.
    """
    kinds: dict[tuple[int, bool], dict[int, list[Planned]]] = {}
    for cell in cells:
        kinds.setdefault((cell.length, cell.whole), {}).setdefault(cell.first, []).append(cell)
    n_layers, worth = engine.spec.n_layers, call_worth(engine)
    for (length, _), by_first in kinds.items():
        together: list[Planned] = []
        blocks = longest = 0  # of the cells together: all, and the most of one
        paid = 0.0
        for first in sorted(by_first, reverse=True):
            here = by_first[first]
            more = [n_layers - cell.start for cell in here]
            n, most_here = sum(more), max(more)
            alone = n * (length - first) + worth * most_here
            joint = (blocks + n) * (length - first) + worth * max(longest, most_here)
            if together and joint <= paid + alone:
                together += here
                blocks, longest, paid = blocks + n, max(longest, most_here), joint
                continue
            yield from _cut_up(together, most)
            together, blocks, longest, paid = [*here], n, most_here, alone
        yield from _cut_up(together, most)


def call_worth(engine: HooksBackend) -> float:
    """Tokens that a block could work on in the time that calling it takes."""
    block = engine.anatomy.blocks[0].block
    weights = [*block.parameters()]
    kind = weights[0].device.type
    rate, read = RATE.get(kind, RATE["cuda"])
    n_weights = sum(weight.numel() for weight in weights)
    n_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    return (CALL + n_bytes / read) * rate / (2 * n_weights)


def _cut_up(cells: Sequence[Planned], most: Callable[[int, int], int]) -> Iterator[list[Planned]]:
    """Cells of one length as batches that fit."""
    if not cells:
        return
    ordered = sorted(cells, key=lambda cell: (cell.start, cell.row))
    first = min(cell.first for cell in cells)
    size = most(cells[0].length, first)
    for i in range(0, len(ordered), size):
        yield ordered[i : i + size]


def _planned(base: Base, index: int, cell: Cell, n_layers: int, whole: bool) -> Planned:
    length = len(base.rows[cell.row])
    if len(cell.changes) == 1 and not cell.cuts:
        change = cell.changes[0]
        first, site = min(change.positions), change.site
        inside = site.layer == n_layers - 1 and site.kind != "resid_pre"
        if first >= 0:
            start, whole = _start(site), whole or inside
            return Planned(index, cell.row, length, start, first, whole, cell.changes)
    changes = tuple(
        c if min(c.positions) >= 0 else replace(c, positions=tuple(p % length for p in c.positions))
        for c in cell.changes
    )
    starts = [_start(c.site) for c in changes] + [cut.layer for cut in cell.cuts]
    firsts = [min(c.positions) for c in changes]
    firsts += [min(q % length for q in cut.queries) for cut in cell.cuts]
    last = n_layers - 1
    inside = any(c.site.layer == last and c.site.kind != "resid_pre" for c in changes)
    inside |= any(cut.layer == last for cut in cell.cuts)
    return Planned(index, cell.row, length, min(starts), min(firsts), whole or inside, changes)


def _start(site: Site) -> int:
    """The last state that a change at a site leaves as it was, or changes itself."""
    return site.layer + 1 if site.kind == "resid_post" else site.layer


def _is_comparable(cell: Cell) -> bool:
    """Whether the base knows what is at the cell's only place."""
    if len(cell.changes) != 1 or cell.cuts:
        return False
    change = cell.changes[0]
    return change.op == "set" and change.site.kind in ("resid_pre", "resid_post")


def _leave_out(base: Base, cells: Sequence[Planned], found: list[Planned | None]) -> None:
    """Leave out, of each cell's only change, the positions where it puts what is there."""
    d_model, states = base.states.shape[-1], base.states
    values: list[torch.Tensor] = []
    state: list[int] = []
    row: list[int] = []
    position: list[int] = []
    for cell in cells:
        change = cell.changes[0]
        n = len(change.positions)
        value = change.value
        values.append(value if value.shape == (n, d_model) else value.expand(n, d_model))
        state += [state_of(change.site)] * n
        row += [cell.row] * n
        position += change.positions
    put = torch.cat([value.to(states.device, states.dtype) for value in values])
    differs = (put != states[state, row, position]).any(-1).tolist()
    start = 0
    for cell, value in zip(cells, values, strict=True):
        change = cell.changes[0]
        n = len(change.positions)
        keep = [i for i in range(n) if differs[start + i]]
        start += n
        if not keep:
            found[cell.index] = None
        elif len(keep) < n:
            positions = tuple(change.positions[i] for i in keep)
            left = replace(change, positions=positions, value=value[keep])
            found[cell.index] = replace(cell, first=min(positions), changes=(left,))
