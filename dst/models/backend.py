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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch

from dst.core.errors import CapabilityError
from dst.core.sites import Site

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
    "gradients",
    "replay",
)
"""What an engine may be able to do with a model; `dst.models.check` proves most of them."""

Positions = Sequence[int] | Sequence[Sequence[int]]

Differentiable = Callable[[torch.Tensor], torch.Tensor]
"""A metric that can be differentiated: logits [row k d_vocab] to one number per row."""


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


@dataclass(frozen=True)
class Through:
    """The gradient that one receiver passes on to the residual stream it reads.

    Attributes:
        receiver: q, k, v or mlp_out of a block. The block's norm lies between the residual
            and the receiver; what the rest of the block reads is left out.
        heads: Heads of q, k, v that receive; all by default.
    """

    receiver: Site
    heads: Sequence[int] | None = None


@dataclass(frozen=True)
class Gradients:
    """A metric of a batch and its gradients; torch tensors on the model's device, never saved.

    Attributes:
        value: The metric of each row, [row].
        logits: [row k d_vocab], of which it is a function.
        states: [row pos ...] per site, after any edit there.
        gradients: d value / d state per site, of the state's shape. A row's value depends on
            its own states only, so that one backward pass serves all rows.
        through: [row pos d_model] per `Through`, in the order given.
    """

    value: torch.Tensor
    logits: torch.Tensor
    states: Mapping[Site, torch.Tensor]
    gradients: Mapping[Site, torch.Tensor]
    through: tuple[torch.Tensor, ...] = ()


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

        Differentiable in ``resid`` where that requires gradients and the weights are here.

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

    def gradients(
        self,
        ids: torch.Tensor | Sequence[Sequence[int]],
        mask: torch.Tensor | None = None,
        *,
        sites: Iterable[Site],
        metric: Differentiable,
        edits: Sequence[Edit] = (),
        logits_at: Positions = (-1,),
        drop: Iterable[int] = (),
        through: Sequence[Through] = (),
    ) -> Gradients:
        """The derivative of a metric by the states at some sites: one pass forward, one back.

        Args:
            ids: As in `run`.
            mask: As in `run`.
            sites: Where; ``pattern`` too.
            metric: A differentiable function of the logits at ``logits_at``.
            edits: As in `run`; a gradient is taken after the edits at its site.
            logits_at: As in `run`, the last position by default.
            drop: Blocks whose attn_out and mlp_out pass no gradient back.
            through: Receivers whose share of the gradient is wanted by itself.
        """
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
