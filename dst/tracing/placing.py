"""Putting a donor's states into a run: the cells that most techniques are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dst.core.sites import Site
from dst.tracing.measuring import Planned
from dst.tracing.replay import Cell, Change
from dst.tracing.runs import Runs


@dataclass(frozen=True)
class Placing:
    """States of a donor's runs put at the same sites and matched positions of base runs."""

    base: Runs
    donor: Runs

    @property
    def n_draws(self) -> int:
        """Draws of the grid: the shorter list of runs starts again when it runs out."""
        return max(len(self.base), len(self.donor))

    def plan(
        self,
        draw: int,
        sites: Sequence[Site],
        positions: Sequence[int],
        heads: tuple[int, ...] | None = None,
    ) -> Planned:
        """The cells of a draw; () where the two runs have none of the positions in common."""
        cells = []
        for row, other in zip(self.base.rows_of(draw), self.donor.rows_of(draw), strict=True):
            here, there = self._matched(row, other, positions)
            if not here:
                return ()
            changes = tuple(
                Change(site, here, _at(self.donor.states[site][other], there, heads), heads=heads)
                for site in sites
            )
            cells.append(Cell(row, changes))
        return tuple(cells)

    def coverage(self, positions: Sequence[int]) -> float:
        """Share of the positions that both runs have, least over draws."""
        shares = [
            len(self._matched(row, other, positions)[0]) / len(positions)
            for draw in range(self.n_draws)
            for row, other in zip(self.base.rows_of(draw), self.donor.rows_of(draw), strict=True)
        ]
        return min(shares)

    def _matched(
        self, row: int, other: int, positions: Sequence[int]
    ) -> tuple[tuple[int, ...], list[int]]:
        pairs = [
            (p, q)
            for p, q in zip(
                self.base.places(row, positions), self.donor.places(other, positions), strict=True
            )
            if p >= 0 and q >= 0
        ]
        return tuple(p for p, _ in pairs), [q for _, q in pairs]


def own_states(base: Runs, draw: int, sites: Sequence[Site]) -> Planned:
    """A run's own states put back everywhere, a hair off so that the cells are really run."""
    cells = []
    for row in base.rows_of(draw):
        positions = tuple(range(len(base.rows[row].ids)))
        changes = []
        for site in sites:
            value = base.states[site][row, : len(positions)].clone()
            value[..., 0] *= 1 + 2e-7
            changes.append(Change(site, positions, value))
        cells.append(Cell(row, tuple(changes)))
    return tuple(cells)


def everything(kind: str, n_layers: int) -> tuple[Site, ...]:
    """Sites of one kind at every layer, and the others that must come along to be the donor.

    The residual stream after the embedding is the embedding, attention and MLPs added up.
    """
    attention = {"attn_out": ("attn_out",), "mlp_out": ("attn_out",), "z": ("z",)}
    kinds = (*attention.get(kind, ("q", "k", "v")), "mlp_out")
    return (Site(0, "resid_pre"), *(Site(l, k) for l in range(n_layers) for k in kinds))


def pattern_as_z(pattern: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What heads read with a pattern: z[q] = sum over keys of pattern[q, k] v[k].

    Args:
        pattern: [head query key].
        v: [key kv_head d_head]; under grouped-query attention neighbouring heads share one.

    Returns:
        [query head d_head].
    """
    v = v.repeat_interleave(pattern.shape[0] // v.shape[1], dim=1)
    return torch.einsum("hqk,khe->qhe", pattern.to(v.dtype), v)


def _at(
    states: torch.Tensor, positions: Sequence[int], heads: tuple[int, ...] | None
) -> torch.Tensor:
    value = states[list(positions)]
    return value if heads is None else value[:, list(heads)]
