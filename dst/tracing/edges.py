"""Edges and nodes patched exactly: what a sender says, heard by one receiver or by all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from dst.core.sites import Site
from dst.models.backend import Backend
from dst.tracing.pairs import Both
from dst.tracing.parts import Part
from dst.tracing.replay import Cell, Change, run_cells

MOST_NUMBERS = 2**26
"""Numbers that receivers' outputs may take at a time."""


class Found(NamedTuple):
    """Effects of edges in logits, with their receipts: places changed, norm of the change."""

    effect: Float[np.ndarray, " edge"]
    fired: Int[np.ndarray, " edge"]
    delta_norm: Float[np.ndarray, " edge"]


def patch_edges(
    model: Backend,
    both: Both,
    sent: torch.Tensor,
    edges: Sequence[tuple[int, Part]],
    tick: Callable[[int], None] = lambda n: None,
    *,
    keep_no_ops: bool = False,
) -> Found:
    """The effect of each edge, in logits.

    Args:
        model: The model.
        both: Base and donor run.
        sent: What each sender's difference is, [sender pos d_model].
        edges: Index of the sender, and the receiver; the sender must come before it.
        tick: Told how many edges were just done.
        keep_no_ops: Run edges that change nothing, too.
    """
    found = Found(np.zeros(len(edges)), np.zeros(len(edges), dtype=int), np.zeros(len(edges)))
    changed = (sent != 0).any(-1).cpu().numpy()  # [sender pos]
    places = [tuple(np.flatnonzero(row).tolist()) for row in changed]
    if keep_no_ops:
        places = [tuple(range(sent.shape[1]))] * len(sent)
    groups: dict[tuple[int, bool], list[int]] = {}
    for i, (_, receiver) in enumerate(edges):
        groups.setdefault((receiver.layer, receiver.kind == "mlp"), []).append(i)
    for members in groups.values():
        active = [i for i in members if places[edges[i][0]]]
        tick(len(members) - len(active))
        for part in _parts(active, model, sent.shape[1]):
            cells = _second_runs(model, both, sent, [edges[i] for i in part], places)
            run = [(i, cell) for i, cell in zip(part, cells, strict=True) if cell is not None]
            effect, runs = both.effects(model, [cell for _, cell in run])
            at = [i for i, _ in run]
            if runs is not None:
                found.effect[at], found.fired[at] = effect, runs.fired
                found.delta_norm[at] = runs.delta_norm
            tick(len(part))
    return found


def patch_nodes(
    model: Backend, both: Both, sent: torch.Tensor, senders: Sequence[Part]
) -> Float[np.ndarray, " sender"]:
    """LD with a sender's difference added for everything after it - LD(base), in logits."""
    effects = np.zeros(len(senders))
    changed = [torch.nonzero((row != 0).any(-1)).flatten().tolist() for row in sent]
    active = [i for i, places in enumerate(changed) if places]
    cells = [
        Cell(0, (Change(senders[i].adds_to, tuple(changed[i]), sent[i, changed[i]], "add"),))
        for i in active
    ]
    effects[active], _ = both.effects(model, cells)
    return effects


def _second_runs(
    model: Backend,
    both: Both,
    sent: torch.Tensor,
    edges: Sequence[tuple[int, Part]],
    places: Sequence[tuple[int, ...]],
) -> list[Cell | None]:
    """For edges into one block's attention, MLP, or the logits: the run from the receiver on.

    A first run per sender gives what the receivers put out when their residual is changed; the
    second starts from that alone.
    """
    layer, kind = edges[0][1].layer, edges[0][1].kind
    if kind == "logits":
        last = Site(model.spec.n_layers - 1, "resid_post")
        end = len(both.pair.ids) - 1
        return [
            Cell(0, (Change(last, (end,), sent[s, end:], "add"),)) if end in places[s] else None
            for s, _ in edges
        ]
    out = sorted({receiver.puts_out for _, receiver in edges})
    from_senders = sorted({s for s, _ in edges})
    first = [
        Cell(0, _into(both, layer, sent[s, list(places[s])], places[s], is_mlp=kind == "mlp"))
        for s in from_senders
    ]
    seen = run_cells(model, both.cells_from, first, tokens=both.pair.tokens, capture=out).states
    cells: list[Cell | None] = []
    for s, receiver in edges:
        value = seen[receiver.puts_out][from_senders.index(s), list(places[s])]
        if receiver.head >= 0:
            value = value[:, [receiver.head]]
        cells.append(Cell(0, (Change(receiver.puts_out, places[s], value, heads=receiver.heads),)))
    return cells


def _into(
    both: Both, layer: int, change: torch.Tensor, places: tuple[int, ...], *, is_mlp: bool
) -> tuple[Change, ...]:
    """Add to the residual that a block's queries, keys and values read, or its MLP.

    For the MLP the block's attention is held at the base's. So the residual is changed for the
    MLP alone, whether it comes after attention or beside it; and a head of the same block can
    send to an MLP that comes after it.
    """
    changes = [Change(Site(layer, "resid_pre"), places, change, "add")]
    if is_mlp:
        attn = Site(layer, "attn_out")
        changes.append(Change(attn, places, both.base[attn][list(places)]))
    return tuple(changes)


def _parts(active: Sequence[int], model: Backend, n_pos: int) -> list[Sequence[int]]:
    """Edges in parts whose first runs fit in memory."""
    size = max(1, MOST_NUMBERS // (3 * n_pos * model.spec.d_model))
    return [active[i : i + size] for i in range(0, len(active), size)]
