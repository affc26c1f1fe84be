"""Naive patching between aligned runs: one forward pass per cell, the reference for speed.

Runs of equal length are recorded once; then the residual of some positions at some state
is replaced by another run's, and LD is read at i*. Cells whose donor equals the base there
are exact no-ops and are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.readout import contrast
from dst.core.sites import site_of_state
from dst.models.backend import Backend, Edit

MOST_TOKENS = 8192
"""Tokens in one batch of patched runs."""


@dataclass(frozen=True)
class Recorded:
    """Runs of equal length with their residual states.

    Attributes:
        ids: [row pos].
        contrast: LD at the last position, [row].
        states: [state row pos d_model], on the model's device.
    """

    ids: torch.Tensor
    contrast: np.ndarray
    states: torch.Tensor

    def __len__(self) -> int:
        return len(self.contrast)

    def take(self, rows: Sequence[int]) -> Recorded:
        """Some of the rows, repeated as asked."""
        index = list(rows)
        return Recorded(self.ids[index], self.contrast[index], self.states[:, index])


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


def record(model: Backend, rows: Sequence[Sequence[int]], metric: Contrast) -> Recorded:
    """Run prompts of equal length and keep every residual state."""
    n_layers = model.spec.n_layers
    sites = [site_of_state(state, n_layers) for state in range(n_layers + 1)]
    run = model.run(rows, capture=sites, logits_at=[-1])
    return Recorded(
        torch.tensor([list(row) for row in rows]),
        metric(run.last_logits),
        torch.stack([run.states[site] for site in sites]),
    )


def patch_states(
    model: Backend,
    base: Recorded,
    value: torch.Tensor,
    groups: Sequence[Sequence[int]],
    metric: Contrast,
    *,
    tick: Callable[[int], None] = lambda n: None,
) -> Float[np.ndarray, "row state group"]:
    """LD of each base run with the residual of a group of positions replaced, state by state.

    Args:
        model: The model.
        base: The runs that are changed.
        value: What is put in, [state row pos d_model], aligned with ``base``.
        groups: Positions that are replaced together.
        metric: How LD is read.
        tick: Told how many cells were just done.

    Returns:
        LD in logits; a cell whose value equals what is there keeps the base's LD exactly.
    """
    n_states, n_rows = base.states.shape[:2]
    out = np.repeat(base.contrast[:, None], n_states * len(groups), axis=1)
    out = out.reshape(n_rows, n_states, len(groups)).copy()
    changed = (value != base.states).any(dim=-1).cpu().numpy()  # [state row pos]
    for state in range(n_states):
        site = site_of_state(state, model.spec.n_layers)
        cells = [
            (row, group)
            for group, positions in enumerate(groups)
            for row in range(n_rows)
            if changed[state, row][list(positions)].any()
        ]
        for part in _batches(cells, base.ids.shape[1]):
            edits = []
            for group in dict.fromkeys(group for _, group in part):
                at = [i for i, cell in enumerate(part) if cell[1] == group]
                rows = [part[i][0] for i in at]
                positions = list(groups[group])
                edits.append(Edit(site, at, positions, value[state][rows][:, positions]))
            ids = base.ids[[row for row, _ in part]]
            run = model.run(ids, edits=edits, logits_at=[-1])
            for (row, group), ld in zip(part, metric(run.last_logits), strict=True):
                out[row, state, group] = ld
        tick(n_rows * len(groups))
    return out


def _batches(cells: Sequence[tuple[int, int]], n_pos: int) -> Iterator[list[tuple[int, int]]]:
    size = max(1, MOST_TOKENS // n_pos)
    for start in range(0, len(cells), size):
        yield list(cells[start : start + size])
