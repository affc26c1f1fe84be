"""`Backend`: the one narrow interface to a model, and the words it is asked in.

Edits and cuts are data, not closures, so that an engine in another process can take
them. Every engine follows the same two rules:

* **Positions count real tokens.** Whatever side a batch was padded on, its rows are
  moved to the left before the run: index p of every returned array is the p-th real
  token, and what lies beyond a row's length means nothing. Causality then makes a row
  in a batch equal the same row alone.
* **Every intervention leaves a receipt.** One that changed no place is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch

from dst.core.errors import CapabilityError, InputError, InterventionError, ModelError
from dst.core.sites import HEAD_KINDS, Site

if TYPE_CHECKING:
    from dst.core.results import Provenance

CAPABILITIES = (
    "logits",
    "lens",
    "components",
    "batch",
    "edits",
    "cuts",
    "heads",
    "patterns",
    "generate",
)
"""What an engine may be able to do with a model; `dst.models.check` proves most of them."""

Positions = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class ModelSpec:
    """What a model is: its name, its sizes, its weights.

    Attributes:
        name: Name, path, or class name of a model given in memory.
        revision: Commit of the weights, "" where there is none.
        family: transformers' ``model_type``.
        n_layers: Number of blocks L.
        d_model: Width of the residual stream.
        n_heads: Query heads per layer.
        n_kv_heads: Key/value heads per layer (fewer under grouped-query attention).
        d_head: Width of a head.
        d_vocab: Rows of the unembedding.
        window: Longest sequence that the model's positions cover.
        dtype: Number type of the run, such as ``float32``.
        weights_hash: Hash of every weight and its name.
    """

    name: str
    revision: str
    family: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    window: int
    dtype: str
    weights_hash: str

    def heads_at(self, kind: str) -> int:
        """Number of heads on the head axis of a site: kv heads for k and v."""
        return self.n_kv_heads if kind in ("k", "v") else self.n_heads


@dataclass(frozen=True)
class Edit:
    """Change what is at a site, at some rows and positions, while the model runs.

    Attributes:
        site: Where.
        rows: Rows of the batch.
        positions: One list for all rows, or one list per row (equal lengths); real
            tokens counted from 0, or from the end if negative.
        value: Broadcast to [row position d_model], or [row position head d_head] at head
            sites (the heads of ``heads``).
        op: ``"set"`` replaces, ``"add"`` adds.
        heads: Heads to change at a head site; all by default.
    """

    site: Site
    rows: Sequence[int]
    positions: Positions
    value: torch.Tensor
    op: Literal["set", "add"] = "set"
    heads: Sequence[int] | None = None


@dataclass(frozen=True)
class Cut:
    """Stop some queries from reading some keys at one layer (scores to -inf, renormalised).

    A knock-out, off the model's distribution (METHOD 2b'). A query may not lose all its keys.

    Attributes:
        layer: Block, counted from 0.
        rows: Rows of the batch.
        queries: Positions that stop reading (see `Edit.positions`).
        keys: Positions that are no longer read.
        heads: Query heads that stop; all by default.
    """

    layer: int
    rows: Sequence[int]
    queries: Positions
    keys: Positions
    heads: Sequence[int] | None = None


@dataclass(frozen=True)
class Receipt:
    """What an intervention did: where, how often, and how much it changed.

    Attributes:
        where: The site or cut, in words.
        fired: Number of places changed (row x position, or row x query x key).
        delta_norm: L2 norm of the change over all places; NaN for cuts.
        rows: Rows that were touched.
    """

    where: str
    fired: int
    delta_norm: float
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One forward pass of a batch; torch tensors on the model's device, never saved.

    Attributes:
        ids: [row pos], padded on the right.
        lengths: Real tokens per row.
        logits: [row k d_vocab] at ``logit_positions``.
        logit_positions: [row k], absolute.
        states: [row pos ...] per captured site, after any edit there. Head sites are
            [row pos head d_head], pattern is [row head query key].
        receipts: One per edit and cut, in the order given.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    logits: torch.Tensor
    logit_positions: torch.Tensor
    states: Mapping[Site, torch.Tensor]
    receipts: tuple[Receipt, ...] = ()

    @property
    def last_logits(self) -> torch.Tensor:
        """Logits at the last of the positions asked for, [row d_vocab]."""
        return self.logits[:, -1]


@runtime_checkable
class Backend(Protocol):
    """What an engine must do. `dst.models.hooks` is the reference.

    Attributes:
        spec: What the model is.
        tokenizer: A transformers tokenizer, never changed.
        can: What this engine can do with this model, of `CAPABILITIES`.
        cannot: Why it cannot do the rest, by capability.
        notes: What a reader of a result must know, such as a mutation done before us.
    """

    spec: ModelSpec
    tokenizer: Any
    can: frozenset[str]
    cannot: Mapping[str, str]
    notes: tuple[str, ...]

    def run(
        self,
        ids: torch.Tensor | Sequence[Sequence[int]],
        mask: torch.Tensor | None = None,
        *,
        capture: Iterable[Site] = (),
        edits: Sequence[Edit] = (),
        cuts: Sequence[Cut] = (),
        logits_at: Positions | None = None,
    ) -> Run:
        """One forward pass. ``logits_at=None`` gives the logits of every position."""
        ...

    def unembed(self, resid: torch.Tensor, scale_from: torch.Tensor | None = None) -> torch.Tensor:
        """Logits that a residual state would give: final norm, unembedding, soft cap.

        Args:
            resid: [... d_model].
            scale_from: Freeze the norm's scale to that of these states [... d_model].
        """
        ...

    def final_norm(
        self, resid: torch.Tensor, scale_from: torch.Tensor | None = None
    ) -> torch.Tensor:
        """N(h): the final norm with its gain, [... d_model]; affine with ``scale_from`` given."""
        ...

    def head_outputs(self, layer: int, z: torch.Tensor, attn_out: torch.Tensor) -> torch.Tensor:
        """What each head adds to the residual, [... head d_model], the projection's bias left out.

        Args:
            layer: Block, counted from 0.
            z: What enters the output projection, [... head d_head].
            attn_out: What attention added as a whole, [... d_model]; where a post-norm scales
                it, its scale is frozen to this.
        """
        ...

    def head_bias(self, ids: Sequence[int]) -> torch.Tensor:
        """The unembedding's bias of some tokens, [id]; 0 where it has none."""
        ...

    def directions(self, ids: torch.Tensor | Sequence[int] | None = None) -> torch.Tensor:
        """Rows of the unembedding U, [id d_model]; all of them by default."""
        ...

    def plain_logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Logits [pos d_vocab] of a plain forward pass, which `check_model` compares with."""
        ...

    def generate(self, ids: Sequence[int], n: int) -> list[int]:
        """The next ``n`` greedy tokens of one prompt, fewer if the model ends."""
        ...

    def provenance(self, *, seed: int | None = None, **settings: Any) -> Provenance:
        """What it takes to compute a number of this model again."""
        ...


def require(model: Backend, capability: str) -> None:
    """Stop where the engine cannot do what is asked.

    Raises:
        CapabilityError: Names the capability and why it is missing.
    """
    if capability not in model.can:
        why = model.cannot.get(capability, "this engine does not offer it")
        raise CapabilityError(
            f"{model.spec.name} cannot do {capability!r}: {why}",
            do="Use backend='hooks' on a local model, or leave this step out",
        )


# -- what every engine does the same way ----------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Rows moved to the left: ids [row pos], lengths [row]."""

    ids: torch.Tensor
    lengths: torch.Tensor

    def resolve(self, rows: Sequence[int], positions: Positions, what: str) -> torch.Tensor:
        """Absolute positions, [row k]; negative ones count from each row's end.

        Raises:
            InterventionError: A row or position does not exist, or none was given.
        """
        n_rows = len(self.lengths)
        if len(rows) == 0 or len(positions) == 0:
            raise InterventionError(f"{what} names no row or no position", expected="at least one")
        if bad := [row for row in rows if not 0 <= row < n_rows]:
            raise InterventionError(
                f"{what} names row {bad[0]}", expected=f"a row from 0 to {n_rows - 1}"
            )
        try:
            per_row = torch.as_tensor(positions, dtype=torch.long)
        except ValueError:
            raise InterventionError(
                f"{what} has lists of positions of unequal length",
                expected="as many positions in every row",
                do="Give one intervention for each number of positions",
            ) from None
        if per_row.ndim == 1:
            per_row = per_row.expand(len(rows), -1)
        if per_row.shape[0] != len(rows) or per_row.shape[1] == 0:
            raise InterventionError(
                f"{what} has {per_row.shape[0]} lists of positions for {len(rows)} rows",
                expected="one list for all rows, or one for each, none of them empty",
            )
        length = self.lengths[torch.as_tensor(rows, dtype=torch.long)].unsqueeze(1)
        absolute = torch.where(per_row < 0, per_row + length, per_row)
        outside = (absolute < 0) | (absolute >= length)
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise InterventionError(
                f"{what} names position {int(per_row[row, column])} of a prompt with "
                f"{int(length[row, 0])} tokens",
                expected="a position inside the prompt",
            )
        return absolute


def make_batch(
    ids: torch.Tensor | Sequence[Sequence[int]], mask: torch.Tensor | None, spec: ModelSpec
) -> Batch:
    """Move every row's real tokens to the left, whatever side they were padded on.

    Raises:
        InputError: No rows, an empty row, ids outside the vocabulary, a mask with holes,
            or a row longer than the model's window.
    """
    if isinstance(ids, torch.Tensor) or mask is not None:
        table = torch.as_tensor(ids).detach().to("cpu", torch.long)
        table = table.unsqueeze(0) if table.ndim == 1 else table
        rows = list(table) if mask is None else _real_tokens(table, mask)
    else:
        rows = [torch.as_tensor(row, dtype=torch.long) for row in ids]
        if any(row.ndim != 1 for row in rows):
            raise InputError(
                "The token ids are not a list of prompts", expected="one list of ids per prompt"
            )
    if not rows or any(len(row) == 0 for row in rows):
        raise InputError("A prompt has no tokens", expected="at least one token in every row")
    lengths = torch.tensor([len(row) for row in rows])
    if int(lengths.max()) > spec.window:
        raise InputError(
            f"A prompt has {int(lengths.max())} tokens",
            expected=f"at most {spec.window}, the window of {spec.name}",
            do="Shorten the prompt",
        )
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    low, high = int(padded.min()), int(padded.max())
    if low < 0 or high >= spec.d_vocab:
        raise InputError(
            f"A prompt has the token id {low if low < 0 else high}",
            expected=f"ids from 0 to {spec.d_vocab - 1}",
            do="Use the tokenizer that belongs to this model",
        )
    return Batch(padded, lengths)


def _real_tokens(table: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    keep = torch.as_tensor(mask).detach().to("cpu").bool()
    keep = keep.unsqueeze(0) if keep.ndim == 1 else keep
    if keep.shape != table.shape:
        raise InputError(
            f"The mask has shape {tuple(keep.shape)}", expected=f"{tuple(table.shape)}, as the ids"
        )
    changes = (keep[:, 1:] != keep[:, :-1]).sum(1)
    if bool((changes > 1).any()):
        raise InputError("The mask has holes", expected="padding on one side only")
    return [row[kept] for row, kept in zip(table, keep, strict=True)]


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
        self.squared_delta += float(squared_delta)
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


def logit_places(logits_at: Positions | None, batch: Batch) -> torch.Tensor:
    """Absolute positions [row k] at which logits are wanted; all by default."""
    n_rows, n_pos = batch.ids.shape
    if logits_at is None:
        return torch.arange(n_pos).expand(n_rows, -1)
    return batch.resolve(range(n_rows), logits_at, "logits_at")


def check_finite(run: Run, name: str) -> None:
    """Refuse a run with NaN or infinity at a real token, naming where it first is.

    Raises:
        ModelError: Names the site or the logits.
    """
    real = torch.arange(run.ids.shape[1]).unsqueeze(0) < run.lengths.unsqueeze(1)
    for site in sorted(run.states, key=lambda site: site.layer):
        state = run.states[site]
        # One sum tells that all is finite; only if it is not is there something to look for.
        if site.kind == "pattern" or bool(torch.isfinite(state.sum(dtype=torch.float32))):
            continue
        finite = torch.isfinite(state).flatten(2).all(-1).cpu()
        if not bool((finite | ~real).all()):
            raise _not_finite(f"{name} has NaN or infinity in {site}", "finite activations")
    if not bool(torch.isfinite(run.logits).all()):
        raise _not_finite(f"{name} puts out NaN or infinite logits", "finite logits")


def _not_finite(found: str, expected: str) -> ModelError:
    return ModelError(found, expected=expected, do="Load it in float32, or check its weights")
