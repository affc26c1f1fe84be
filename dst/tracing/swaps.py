"""Swaps between aligned runs: a grid of cells for `dst.tracing.replay`.

Aligned runs are recorded once; then the residual of some positions at some state
is replaced by another run's, and LD is read at i*. Cells whose donor equals the base there
are exact no-ops and are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from dst.analysis.readout import contrast
from dst.core.sites import site_of_state
from dst.models.backend import Backend
from dst.models.variants import Row
from dst.tracing.replay import Base, Cell, Change, record_base, run_cells


@dataclass(frozen=True)
class Contrast:
    """LD by the answers' token ids."""

    plus: tuple[int, ...]
    minus: tuple[int, ...]

    def __call__(self, logits: torch.Tensor) -> np.ndarray:
        """LD of each row of logits [row d_vocab]."""
        forms = [*self.plus, *self.minus]
        return self.of_forms(logits[:, forms])

    def of_forms(self, logits: torch.Tensor) -> np.ndarray:
        """LD of each row of logits [row form], of A+ and then A-."""
        n = len(self.plus)
        return contrast(logits.float().cpu().numpy(), range(n), range(n, logits.shape[1]))


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
        base: The runs as they were recorded, each once.
        recorded: [row], the run of ``base`` that each row is.
    """

    rows: tuple[tuple[int, ...], ...]
    raw: np.ndarray
    states: torch.Tensor
    places: torch.Tensor
    twins: bool
    base: Base | None = None
    recorded: tuple[int, ...] = ()

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
            self.base,
            tuple(self.recorded[i] for i in index) if self.base else (),
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
        bases = {id(run.base): run.base for run in runs if run.base is not None}
        before, start = dict[int, int](), 0
        for key, base in bases.items():
            before[key], start = start, start + len(base.rows)
        recorded = [before[id(run.base)] + i for run in runs if run.base for i in run.recorded]
        whole = len(recorded) == len(rows)
        return cls(
            tuple(rows[i] for i in order),
            np.concatenate([run.raw for run in runs])[order],
            torch.cat([run.states for run in runs], dim=1)[:, order],
            torch.cat([run.places for run in runs])[order],
            runs[0].twins,
            Base.joined(list(bases.values())) if whole else None,
            tuple(recorded[i] for i in order) if whole else (),
        )

    def cycle(self, n: int) -> Recorded:
        """``n`` draws, from the start again when they run out."""
        return self.take([i % len(self) for i in range(n)])


def record(
    model: Backend, rows: Sequence[Row], metric: Contrast, twins: Sequence[Row] = ()
) -> Recorded:
    """Run rows, each with its twin if there are twins, and keep every residual state."""
    every = [*rows, *twins]
    base = record_base(model, [row.ids for row in every])
    places = torch.tensor([row.places for row in every])
    states = base.states
    if not all(row.is_same_length for row in every):
        index = torch.arange(len(every)).unsqueeze(1)
        states = states[:, index, places.clamp_min(0)]
    raw = metric(base.logits[:, -1])
    order = tuple(range(len(every)))
    return Recorded(base.rows, raw, states, places, bool(twins), base, order)


def patch_states(
    model: Backend,
    base: Recorded,
    value: torch.Tensor,
    known: torch.Tensor,
    groups: Sequence[Sequence[int]],
    metric: Contrast,
    *,
    tick: Callable[[int], None] = lambda n: None,
    only: Mapping[int, Bool[np.ndarray, "state row"]] | None = None,
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
        only: For some groups, the cells that are wanted; the others are not run.

    Returns:
        LD in logits; a cell whose value equals what is there keeps the base's LD exactly.
    """
    n_states, n_rows = base.states.shape[:2]
    sites = [site_of_state(state, n_states - 1) for state in range(n_states)]
    out = np.broadcast_to(base.raw[:, None, None], (n_rows, n_states, len(groups))).copy()
    matched = ((known >= 0) & (base.places >= 0)).numpy()  # [row pos]
    changed = (value != base.states).any(dim=-1).cpu().numpy() & matched  # [state row pos]
    changed[-1, :, :-1] = False  # at the last state only i* is read
    own = base.base or record_base(model, base.rows)
    rows = base.recorded if base.base else range(n_rows)
    places = base.places.numpy()
    cells, at = [], []
    for group, inside in enumerate(groups):
        inner = changed[:, :, list(inside)]  # [state row k]
        if only and group in only:
            inner = inner & only[group][:, :, None]
        touched = np.argwhere(inner.any(axis=-1))
        which, k = np.nonzero(inner[tuple(touched.T)])
        state, row = touched[which].T
        position = np.array(inside, dtype=int)[k]
        put = value[state, row, position]  # all that this group's cells put in, one after another
        where = places[row, position].tolist()
        start = 0
        sizes = np.bincount(which, minlength=len(touched)).tolist()
        for (l, r), n, part in zip(touched.tolist(), sizes, put.split(sizes), strict=True):
            change = Change(sites[l], tuple(where[start : start + n]), part)
            cells.append(Cell(rows[r], (change,)))
            at.append((r, l, group))
            start += n
    tick(out.size - len(cells))
    if cells:
        forms = [*metric.plus, *metric.minus]
        runs = run_cells(model, own, cells, tokens=forms, tick=tick, sound=True)
        out[tuple(np.array(at).T)] = metric.of_forms(runs.logits[:, -1])
    return base.paired(out)
