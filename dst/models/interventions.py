"""Edits and cuts worked out: their places, what they do to a tensor, their receipts.

The rules are the same for every engine; an engine only brings the tensors by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dst.core.errors import InterventionError
from dst.core.sites import HEAD_KINDS, Site
from dst.models.backend import Cut, Edit, ModelSpec, Receipt
from dst.models.batch import Batch

# -- edits -------------------------------------------------------------------------------


@dataclass
class Resolved:
    """An edit with its places worked out; engines apply it where its site passes by."""

    edit: Edit
    row_index: torch.Tensor
    position_index: torch.Tensor
    fired: int = 0
    squared_delta: float = 0.0

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor [row pos ...] with this edit made; the tensor given is not changed."""
        edit = self.edit
        out, squared_delta = edited(
            tensor, self.row_index, self.position_index, edit.value, edit.op, edit.heads
        )
        self.fired += self.row_index.numel()
        self.squared_delta += float(squared_delta.detach())
        return out

    def receipt(self) -> Receipt:
        """What it did.

        Raises:
            InterventionError: It never fired.
        """
        if not self.fired:
            raise InterventionError(
                f"The edit at {self.edit.site} never fired",
                expected="a site that this model's forward pass goes through",
            )
        return Receipt(
            f"{self.edit.op} {self.edit.site}",
            self.fired,
            self.squared_delta**0.5,
            tuple(int(row) for row in self.edit.rows),
        )


def resolve_edits(edits: Sequence[Edit], batch: Batch, spec: ModelSpec) -> list[Resolved]:
    """Work out the places of every edit.

    Raises:
        InterventionError: A site, row, position or head does not exist, a place is named
            twice, or the value does not fit its places or is not finite.
    """
    resolved = []
    for edit in edits:
        what = f"The edit at {edit.site}"
        check_site(edit.site, spec)
        if edit.op not in ("set", "add"):
            raise InterventionError(f"{what} has the op {edit.op!r}", expected="'set' or 'add'")
        if edit.heads is not None:
            if edit.site.kind not in HEAD_KINDS:
                raise InterventionError(f"{what} names heads", expected="heads at q, k, v, z only")
            _check_heads(edit.heads, spec.heads_at(edit.site.kind), what)
        positions = batch.resolve(edit.rows, edit.positions, what)
        rows = torch.as_tensor(list(edit.rows)).unsqueeze(1).expand_as(positions)
        places = list(zip(rows.flatten().tolist(), positions.flatten().tolist(), strict=True))
        if len(set(places)) < len(places):
            raise InterventionError(
                f"{what} names a place twice", expected="each row and position once"
            )
        _check_value(edit, positions.shape, spec)
        resolved.append(Resolved(edit, rows, positions))
    return resolved


def edited(
    tensor: torch.Tensor,
    rows: torch.Tensor,
    positions: torch.Tensor,
    value: torch.Tensor,
    op: str,
    heads: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor [row pos ...] with an edit made, and the squared L2 norm of the change.

    Nothing but torch is used here: a remote engine is sent this function's source.
    """
    rows, positions = rows.to(tensor.device), positions.to(tensor.device)
    value = value.to(tensor.device, tensor.dtype)
    old = tensor[rows, positions]
    part = old if heads is None else old[:, :, list(heads)]
    new = (part + value if op == "add" else value).expand_as(part)
    out = tensor.clone()
    if heads is None:
        out[rows, positions] = new
    else:
        kept = old.clone()
        kept[:, :, list(heads)] = new
        out[rows, positions] = kept
    return out, (new.float() - part.float()).pow(2).sum()


def _check_value(edit: Edit, places: torch.Size, spec: ModelSpec) -> None:
    """Refuse a value that is not finite, or does not broadcast to the places it is put at."""
    if not bool(torch.isfinite(edit.value).all()):
        raise InterventionError(f"The value of the edit at {edit.site} has NaN or infinity")
    kind = edit.site.kind
    if kind == "pattern":
        return
    if kind in HEAD_KINDS:
        n_heads = spec.heads_at(kind) if edit.heads is None else len(edit.heads)
        wanted = (*places, n_heads, spec.d_head)
    else:
        wanted = (*places, spec.d_model)
    try:
        fits = torch.broadcast_shapes(edit.value.shape, wanted) == wanted
    except RuntimeError:
        fits = False
    if not fits:
        raise InterventionError(
            f"The value of the edit at {edit.site} has shape {tuple(edit.value.shape)}",
            expected=f"one that broadcasts to {wanted}",
        )


def check_site(site: Site, spec: ModelSpec) -> None:
    """Refuse a site of a layer that the model does not have."""
    if site.layer >= spec.n_layers:
        raise InterventionError(
            f"The site {site} does not exist",
            expected=f"a layer from 0 to {spec.n_layers - 1} of {spec.name}",
        )


def _check_heads(heads: Sequence[int], n_heads: int, what: str) -> None:
    if bad := [head for head in heads if not 0 <= head < n_heads]:
        raise InterventionError(
            f"{what} names head {bad[0]}", expected=f"a head from 0 to {n_heads - 1}"
        )
    if not heads or len(set(heads)) < len(heads):
        raise InterventionError(
            f"{what} names no head, or one twice", expected="each head once, or None for all"
        )


# -- cuts --------------------------------------------------------------------------------


def resolve_cuts(cuts: Sequence[Cut], batch: Batch, spec: ModelSpec) -> dict[int, torch.Tensor]:
    """Per layer, [row head query key], True where reading is cut (head axis 1: every head).

    Raises:
        InterventionError: A layer, row, position or head does not exist; nothing would
            be cut (no key at or before a query); or a query would lose all its keys.
    """
    n_rows, n_pos = batch.ids.shape
    causal = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
    blocked: dict[int, torch.Tensor] = {}
    for cut in cuts:
        what = f"The cut at layer {cut.layer}"
        if not 0 <= cut.layer < spec.n_layers:
            raise InterventionError(
                f"{what} does not exist", expected=f"a layer from 0 to {spec.n_layers - 1}"
            )
        if cut.heads is not None:
            _check_heads(cut.heads, spec.n_heads, what)
        pairs = _cut_pairs(cut, batch) & causal
        if not bool(pairs.flatten(1).any(1).all()):
            raise InterventionError(
                f"{what} cuts nothing in some row: no key lies at or before a query",
                expected="keys that the queries can see",
            )
        layer = blocked.get(cut.layer, torch.zeros(n_rows, 1, n_pos, n_pos, dtype=torch.bool))
        if cut.heads is not None and layer.shape[1] == 1:
            layer = layer.repeat(1, spec.n_heads, 1, 1)
        heads = slice(None) if cut.heads is None else list(cut.heads)
        for row, pair in zip(cut.rows, pairs, strict=True):
            layer[row, heads] |= pair
        blocked[cut.layer] = layer
    for number, layer in blocked.items():
        keep_a_key(causal, layer, number)
    return blocked


def keep_a_key(readable: torch.Tensor, blocked: torch.Tensor, layer: int) -> None:
    """Refuse cuts that leave a query nothing of what it reads (a window may be short).

    Raises:
        InterventionError: Names the layer.
    """
    if bool((readable.any(-1) & ~(readable & ~blocked).any(-1)).any()):
        raise InterventionError(
            f"The cuts at layer {layer} leave a query without keys",
            expected="at least one key for every query",
            do="Leave the query itself or the first token readable",
        )


def cut_mask(mask: torch.Tensor | None, blocked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An attention mask with the cut places closed, and what was readable before.

    Under sdpa without padding transformers passes no mask at all (a causal kernel), so the
    causal mask is built here. A sliding window makes the mask given narrower than that.
    Nothing but torch is used: a remote engine is sent this function's source.

    Args:
        mask: [row head query key], Boolean or added to the scores, or None.
        blocked: [row head query key], True where reading is cut, on the mask's device.
    """
    if mask is None:
        n_pos = blocked.shape[-1]
        mask = torch.ones(n_pos, n_pos, dtype=torch.bool, device=blocked.device).tril()[None, None]
    if mask.dtype == torch.bool:
        return mask & ~blocked, mask
    lowest = torch.finfo(mask.dtype).min
    return mask.masked_fill(blocked, lowest), mask > lowest


def cut_receipts(
    cuts: Sequence[Cut], batch: Batch, closed: Mapping[int, torch.Tensor]
) -> list[Receipt]:
    """One receipt per cut, counting its row x query x key places.

    Args:
        cuts: The cuts.
        batch: The batch they were made in.
        closed: Per layer, [row head query key], True where a query could read a key and
            no longer does.

    Raises:
        InterventionError: A cut never fired: its keys were not readable in the first place.
    """
    receipts = []
    for cut in cuts:
        rows = [int(row) for row in cut.rows]
        places = closed[cut.layer].cpu()[rows].any(1) if cut.layer in closed else None
        fired = 0 if places is None else int((places & _cut_pairs(cut, batch)).sum())
        if not fired:
            raise InterventionError(
                f"The cut at layer {cut.layer} never fired",
                expected="keys that the queries read at that layer",
            )
        receipts.append(Receipt(f"cut layer {cut.layer}", fired, float("nan"), tuple(rows)))
    return receipts


def _cut_pairs(cut: Cut, batch: Batch) -> torch.Tensor:
    """[row query key] over the cut's own rows, True where it wants reading to stop."""
    what, n_pos = f"The cut at layer {cut.layer}", batch.ids.shape[1]
    queries = batch.resolve(cut.rows, cut.queries, what)
    keys = batch.resolve(cut.rows, cut.keys, what)
    pairs = torch.zeros(len(cut.rows), n_pos, n_pos, dtype=torch.bool)
    row = torch.arange(len(cut.rows))[:, None, None]
    pairs[row, queries[:, :, None], keys[:, None, :]] = True
    return pairs
