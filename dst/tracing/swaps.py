"""Naive patching between aligned runs: one forward pass per cell, the reference for speed.

Aligned runs are recorded once; then the residual of some positions at some state
is replaced by another run's, and LD is read at i*. Cells whose donor equals the base there
are exact no-ops and are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import contrast
from dst.core.sites import site_of_state
from dst.models.backend import Backend, Edit
from dst.models.variants import Row

MOST_TOKENS = 4096
"""Tokens in one batch of patched runs."""


@dataclass(frozen=True)
class Contrast:
    """LD by the answers' token ids."""

    plus: tuple[int, ...]
    minus: tuple[int, ...]

    def __call__(self, logits: torch.Tensor) -> np.ndarray:
        """LD of each row of logits [row d_vocab]."""
        forms = [*self.plus, *self.minus]
        read = logits[:, forms].float().cpu().numpy()
        n = len(self.plus)
        return contrast(read, range(n), range(n, len(forms)))


@dataclass(frozen=True)
class Recorded:
    """Runs with their residual states, position by position of the prompt.

    A yes/no prompt is run with its twin: the second half of the rows are the twins of the
    first half, and LD is half the difference of the two (METHOD 0).

    Attributes:
        rows: Token ids per row.
        raw: Contrast at the last position of each row, [row].
        states: [state row pos d_model], where pos counts the *prompt's* positions.
        places: [row pos], the row's own position for each of the prompt's, -1 for none.
        twins: Whether the second half of the rows are twins of the first.
    """

    rows: tuple[tuple[int, ...], ...]
    raw: np.ndarray
    states: torch.Tensor
    places: torch.Tensor
    twins: bool

    def __len__(self) -> int:
        return len(self.rows) // (2 if self.twins else 1)

    @property
    def contrast(self) -> Float[np.ndarray, " draw"]:
        """LD of each draw, in logits."""
        return self.paired(self.raw)

    def paired(self, values: np.ndarray) -> np.ndarray:
        """[row ...] to [draw ...]: half the difference of a prompt and its twin, or as it is."""
        if not self.twins:
            return values
        half = len(values) // 2
        return (values[:half] - values[half:]) / 2

    def take(self, draws: Sequence[int]) -> Recorded:
        """Some of the draws, repeated as asked."""
        index = list(draws)
        if self.twins:
            index = [*index, *(i + len(self) for i in draws)]
        return Recorded(
            tuple(self.rows[i] for i in index),
            self.raw[index],
            self.states[:, index],
            self.places[index],
            self.twins,
        )

    @classmethod
    def joined(cls, runs: Sequence[Recorded]) -> Recorded:
        """The draws of several, one after the other; all with twins, or none."""
        order: list[int] = []
        for half in range(2 if runs[0].twins else 1):
            start = 0
            for run in runs:
                order += range(start + half * len(run), start + (half + 1) * len(run))
                start += len(run.rows)
        rows = [row for run in runs for row in run.rows]
        return cls(
            tuple(rows[i] for i in order),
            np.concatenate([run.raw for run in runs])[order],
            torch.cat([run.states for run in runs], dim=1)[:, order],
            torch.cat([run.places for run in runs])[order],
            runs[0].twins,
        )

    def cycle(self, n: int) -> Recorded:
        """``n`` draws, from the start again when they run out."""
        return self.take([i % len(self) for i in range(n)])


def record(
    model: Backend, rows: Sequence[Row], metric: Contrast, twins: Sequence[Row] = ()
) -> Recorded:
    """Run rows, each with its twin if there are twins, and keep every residual state."""
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    every = [*rows, *twins]
    run = model.run([row.ids for row in every], capture=sites, logits_at=[-1])
    places = torch.tensor([row.places for row in every])
    states = torch.stack([run.states[site] for site in sites])
    if not all(row.is_same_length for row in every):
        index = torch.arange(len(every)).unsqueeze(1)
        states = states[:, index, places.clamp_min(0)]
    return Recorded(
        tuple(row.ids for row in every), metric(run.last_logits), states, places, bool(twins)
    )


def patch_states(
    model: Backend,
    base: Recorded,
    value: torch.Tensor,
    known: torch.Tensor,
    groups: Sequence[Sequence[int]],
    metric: Contrast,
    *,
    tick: Callable[[int], None] = lambda n: None,
) -> Float[np.ndarray, "draw state group"]:
    """LD of each base run with the residual of a group of positions replaced, state by state.

    Args:
        model: The model.
        base: The runs that are changed.
        value: What is put in, [state row pos d_model], aligned with ``base``.
        known: [row pos], where ``value`` is defined; other positions keep the base's.
        groups: Positions of the prompt that are replaced together.
        metric: How LD is read.
        tick: Told how many cells were just done.

    Returns:
        LD in logits; a cell whose value equals what is there keeps the base's LD exactly.
    """
    n_states, n_rows = base.states.shape[:2]
    out = np.broadcast_to(base.raw[:, None, None], (n_rows, n_states, len(groups))).copy()
    matched = ((known >= 0) & (base.places >= 0)).numpy()  # [row pos]
    changed = (value != base.states).any(dim=-1).cpu().numpy() & matched  # [state row pos]
    changed[-1, :, :-1] = False  # at the last state only i* is read
    inside = [[tuple(p for p in group if row[p]) for group in groups] for row in matched]
    cells = [
        _Cell(state, row, group, inside[row][group])
        for group, positions in enumerate(groups)
        for state, row in np.argwhere(changed[:, :, list(positions)].any(axis=-1)).tolist()
    ]
    cells.sort()  # by state: few sites a batch
    tick(out.size - len(cells))
    for part in _batches(cells, max(map(len, base.rows))):
        edits = []
        for (state, _), at in _alike(part).items():
            rows = [part[i].row for i in at]
            positions = torch.tensor([part[i].positions for i in at])
            index = torch.tensor(rows).unsqueeze(1)
            put = value[state][index.to(value.device), positions.to(value.device)]
            site = site_of_state(state, model.spec.n_layers)
            edits.append(Edit(site, at, base.places[index, positions].tolist(), put))
        run = model.run([base.rows[cell.row] for cell in part], edits=edits, logits_at=[-1])
        for cell, ld in zip(part, metric(run.last_logits), strict=True):
            out[cell.row, cell.state, cell.group] = ld
        tick(len(part))
    return base.paired(out)


class _Cell(NamedTuple):
    """One patched run: a row of the base, and where its residual is replaced."""

    state: int
    row: int
    group: int
    positions: tuple[int, ...]


def _alike(part: Sequence[_Cell]) -> dict[tuple[int, int], list[int]]:
    """Cells of one batch by state and number of positions: each kind is one edit."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for i, cell in enumerate(part):
        kinds.setdefault((cell.state, len(cell.positions)), []).append(i)
    return kinds


def _batches(cells: Sequence[_Cell], n_pos: int) -> Iterator[Sequence[_Cell]]:
    size = max(1, MOST_TOKENS // n_pos)
    for start in range(0, len(cells), size):
        yield cells[start : start + size]
