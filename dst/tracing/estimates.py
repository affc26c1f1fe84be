"""The estimates of attribution patching: AtP, and AtP* with its two corrections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from dst.core.sites import Site
from dst.models.backend import Backend, Edit
from dst.tracing.gradients import differentiable
from dst.tracing.pairs import Both
from dst.tracing.replay import Cell, Change

MOST_NUMBERS = 2**26
"""Numbers that recomputed attention patterns may take at a time."""


class Grid:
    """The cells of a grid: what each column patches at each layer, and with what."""

    def __init__(self, model: Backend, both: Both, site: str, by: str) -> None:
        ready, pair = both.pair.ready, both.pair
        n_pos = len(pair.ids)
        self.both, self.site, self.by, self.n_layers = both, site, by, model.spec.n_layers
        if by == "head":
            n_heads = model.spec.heads_at(site)
            self.columns = tuple(f"head {head}" for head in range(n_heads))
            self.positions = (tuple(range(n_pos)),) * n_heads
        elif by == "role":
            self.columns, self.positions = ready.roles, ready.positions
        else:
            self.columns = tuple(
                f"{p} {token.strip()}" for p, token in enumerate(ready.tokenized.tokens)
            )
            self.positions = tuple((p,) for p in range(n_pos))
        self.base = torch.stack([both.base[Site(layer, site)] for layer in range(self.n_layers)])
        self.donor = torch.stack([both.donor[Site(layer, site)] for layer in range(self.n_layers)])
        delta = self.donor - self.base  # [layer pos ...]
        moved = (delta != 0).flatten(3) if by == "head" else (delta != 0).flatten(2)
        self.moved = moved.any(-1).cpu().numpy()  # [layer pos] or [layer pos head]
        self.fired = self.summed(torch.from_numpy(self.moved).double(), per_place=True).astype(int)
        squared = delta.double().pow(2).cpu()
        self.delta_norm = np.sqrt(self.summed(squared))

    def summed(self, values: torch.Tensor, *, per_place: bool = False) -> np.ndarray:
        """[layer pos ...] added up within each column, [layer column]."""
        wide = values.double().cpu()
        if self.by == "head":
            wide = wide if per_place else wide.sum(-1)  # [layer pos head]
            return wide.sum(1).numpy()
        wide = wide.flatten(2).sum(-1) if wide.ndim > 2 else wide
        return np.stack([wide[:, list(at)].sum(1).numpy() for at in self.positions], axis=1)

    def places(self, layer: int, column: int) -> list[int]:
        """Positions of a column whose donor differs."""
        moved = self.moved[layer, :, column] if self.by == "head" else self.moved[layer]
        return [p for p in self.positions[column] if moved[p]]

    def cell(self, layer: int, column: int, share: float = 1.0, places: Sequence[int] = ()) -> Cell:
        """The patch itself: ``share`` of the way from the base to the donor."""
        at = list(places) or self.places(layer, column)
        value = self.donor[layer, at]
        if share != 1.0:
            value = self.base[layer, at] + share * (value - self.base[layer, at])
        heads = (column,) if self.by == "head" else None
        value = value[:, [column]] if heads else value
        return Cell(0, (Change(Site(layer, self.site), tuple(at), value, heads=heads),))


def estimate(model: Backend, grid: Grid) -> dict[str, Float[np.ndarray, "layer column"]]:
    """Every estimate by name."""
    is_score = grid.site in ("q", "k")
    # A block's own nodes have no gradient when it is dropped; a residual state keeps one.
    others = grid.n_layers - (grid.site not in ("resid_pre", "resid_post"))
    drops = [(), *((layer,) for layer in range(grid.n_layers) if others)]
    kinds = (grid.site, "pattern") if is_score else (grid.site,)
    sites = [Site(layer, kind) for layer in range(grid.n_layers) for kind in kinds]
    metric = differentiable(grid.both.pair.ready.metric)
    delta, plain, patterns = (grid.donor - grid.base).double(), [], []
    for drop in drops:
        found = model.gradients([grid.both.pair.ids], sites=sites, metric=metric, drop=drop)
        slopes = [found.gradients[Site(layer, grid.site)][0] for layer in range(grid.n_layers)]
        plain.append(grid.summed(delta * torch.stack(slopes).double()))
        if is_score:
            patterns.append([found.gradients[Site(i, "pattern")][0] for i in range(grid.n_layers)])
    by_name = {"atp": plain[0]}
    recomputed = _recomputed(model, grid, patterns) if is_score else []
    if is_score:
        by_name["softmax"] = recomputed[0]
    if others:
        by_name["graddrop"] = np.abs(plain[1:]).sum(axis=0) / others
        if is_score:
            by_name["atp_star"] = np.abs(recomputed[1:]).sum(axis=0) / others
    return by_name


def _recomputed(
    model: Backend, grid: Grid, slopes: Sequence[Sequence[torch.Tensor]]
) -> list[Float[np.ndarray, "layer column"]]:
    """(pattern with the donor's q or k - base pattern) . slope, for each set of slopes.

    Args:
        model: The model.
        grid: The cells.
        slopes: Per backward pass and layer, d LD / d pattern, [head query key].
    """
    out = np.zeros((len(slopes), grid.n_layers, len(grid.columns)))
    alone = grid.site == "k" and grid.by != "head"  # a key reaches the softmax of other columns
    for layer in range(grid.n_layers):
        slope = torch.stack([one[layer] for one in slopes]).double()
        if alone:
            active = [c for c in range(len(grid.columns)) if grid.places(layer, c)]
            size = max(1, MOST_NUMBERS // slope[0].numel())
            for start in range(0, len(active), size):
                part = active[start : start + size]
                change = _pattern_changes(
                    model, grid, layer, [grid.places(layer, column) for column in part]
                )
                out[:, layer, part] = torch.einsum("chqk,dhqk->dc", change, slope).cpu().numpy()
            continue
        moved = sorted({p for c in range(len(grid.columns)) for p in grid.places(layer, c)})
        if not moved:
            continue
        change = _pattern_changes(model, grid, layer, [moved])[0]
        effect = (change * slope).sum(-1).cpu()  # [pass head query]
        if grid.by == "head":
            shared = effect.sum(-1).unflatten(1, (len(grid.columns), -1))
            out[:, layer] = shared.sum(-1).numpy()
        else:
            at_query = effect.sum(1).numpy()
            for column, positions in enumerate(grid.positions):
                out[:, layer, column] = at_query[:, list(positions)].sum(axis=1)
    return list(out)


def _pattern_changes(
    model: Backend, grid: Grid, layer: int, places: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Pattern with the donor's q or k at some places minus the base's, [run head query key]."""
    site, pattern = Site(layer, grid.site), Site(layer, "pattern")
    edits = [
        Edit(site, [row], list(at), grid.donor[layer, list(at)])
        for row, at in enumerate(places, start=1)
    ]
    rows = [grid.both.pair.ids] * (1 + len(places))
    seen = model.run(rows, capture=[pattern], edits=edits, logits_at=[-1]).states[pattern]
    return (seen[1:] - seen[:1]).double()
