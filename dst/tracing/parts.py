"""Senders and receivers: who writes into the residual stream, and who reads it.

A sender adds a vector to the residual: the embedding, a head (z through its rows of the output
projection, after a post-norm where the block has one), attention as a whole, an MLP. A receiver
reads the residual through its block's norm: the query of a head, the key or value of a
key/value head, an MLP, or the final norm (``logits``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dst.core.errors import InputError
from dst.core.sites import Site
from dst.models.backend import Backend, ModelSpec, require
from dst.tracing.pairs import Both
from dst.tracing.replay import Cell, Change, run_cells

SENDERS = ("embedding", "head", "attn", "mlp")
RECEIVERS = ("q", "k", "v", "mlp", "logits")
_NAME = re.compile(r"(?P<kind>[a-z]+)(?: (?P<layer>\d+)(?:\.(?P<head>\d+))?)?")


@dataclass(frozen=True, order=True)
class Part:
    """A sender or a receiver.

    Attributes:
        layer: Block; -1 for the embedding, L for the logits.
        kind: One of `SENDERS` or `RECEIVERS`.
        head: Head, of k and v the key/value head; -1 for all of the layer's.
    """

    layer: int
    kind: str
    head: int = -1

    def __str__(self) -> str:
        if self.kind in ("embedding", "logits"):
            return self.kind
        return f"{self.kind} {self.layer}" + (f".{self.head}" if self.head >= 0 else "")

    @property
    def adds_to(self) -> Site:
        """Sender: the site whose vector it is part of."""
        if self.kind == "embedding":
            return Site(0, "resid_pre")
        return Site(self.layer, "mlp_out" if self.kind == "mlp" else "attn_out")

    @property
    def puts_out(self) -> Site:
        """Receiver other than the logits: the site of what it makes of the residual."""
        return Site(self.layer, "mlp_out" if self.kind == "mlp" else self.kind)

    @property
    def heads(self) -> tuple[int, ...] | None:
        """The head as an edit names it; None for all."""
        return (self.head,) if self.head >= 0 else None


def senders_of(spec: ModelSpec, wanted: Sequence[str] | None, *, heads: bool) -> tuple[Part, ...]:
    """Senders by name (``head 2.1``) or kind (``head``); every one by default.

    Raises:
        InputError: A name is no sender of this model.
    """
    default = ("embedding", "head" if heads else "attn", "mlp")
    return _named(spec, default if wanted is None else wanted, SENDERS, "sender", heads=heads)


def receivers_of(spec: ModelSpec, wanted: Sequence[str] | None, *, heads: bool) -> tuple[Part, ...]:
    """Receivers by name (``q 2.1``) or kind (``q``); every one by default.

    Raises:
        InputError: A name is no receiver of this model.
    """
    return _named(spec, RECEIVERS if wanted is None else wanted, RECEIVERS, "receiver", heads=heads)


def _named(
    spec: ModelSpec, wanted: Sequence[str], kinds: Sequence[str], what: str, *, heads: bool
) -> tuple[Part, ...]:
    found: list[Part] = []
    for name in (wanted,) if isinstance(wanted, str) else wanted:
        match = _NAME.fullmatch(name)
        if match is None or match["kind"] not in kinds:
            raise InputError(
                f"The {what} {name!r} cannot be read",
                expected=f"one of {', '.join(kinds)}, with layer and head as in 'head 2.1'",
            )
        found += _expanded(spec, match["kind"], match["layer"], match["head"], name, heads=heads)
    return tuple(sorted(dict.fromkeys(found), key=_by_order))


def _expanded(
    spec: ModelSpec, kind: str, layer: str | None, head: str | None, name: str, *, heads: bool
) -> list[Part]:
    """The parts that a name stands for."""
    if kind in ("embedding", "logits"):
        if layer is not None:
            raise InputError(f"The name {name!r} has a layer", expected=repr(kind))
        return [Part(-1 if kind == "embedding" else spec.n_layers, kind)]
    n_heads = {"head": spec.n_heads, "q": spec.n_heads, "k": spec.n_kv_heads, "v": spec.n_kv_heads}
    layers = range(spec.n_layers) if layer is None else [int(layer)]
    per_layer = [-1]
    if kind in n_heads and (kind == "head" or (layer is None and heads)):
        per_layer = list(range(n_heads[kind]))
    if head is not None:
        per_layer = [int(head)]
    within = per_layer == [-1] or (kind in n_heads and max(per_layer) < n_heads[kind])
    if max(layers) >= spec.n_layers or not within:
        raise InputError(
            f"The name {name!r} stands for no part of {spec.name}",
            expected=f"layers 0 to {spec.n_layers - 1}, heads 0 to {spec.n_heads - 1} "
            f"(of k and v 0 to {spec.n_kv_heads - 1}); mlp and attn have no heads",
        )
    return [Part(at, kind, h) for at in layers for h in per_layer]


def _by_order(part: Part) -> tuple[int, int, int]:
    kinds = ("embedding", "head", "attn", "q", "k", "v", "mlp", "logits")
    return part.layer, kinds.index(part.kind), part.head


def comes_before(sender: Part, receiver: Part, mlp_after_attention: Sequence[bool]) -> bool:
    """Whether what the sender adds is in what the receiver reads.

    Args:
        sender: The sender.
        receiver: The receiver.
        mlp_after_attention: Per block, whether its MLP reads what its attention added (not so
            in blocks that run both side by side).
    """
    if receiver.kind == "mlp" and sender.kind in ("head", "attn"):
        return sender.layer < receiver.layer + mlp_after_attention[receiver.layer]
    return sender.layer < receiver.layer


def find_order(model: Backend, both: Both) -> tuple[bool, ...]:
    """Per block, whether its MLP reads what its attention added: told by changing that.

    The comparison is with a run that changes nothing, in the same batch.
    """
    n_layers, n_pos = model.spec.n_layers, len(both.pair.ids)
    answer = []
    for layer in range(n_layers):
        attn, mlp = Site(layer, "attn_out"), Site(layer, "mlp_out")
        own = both.base[attn][-1:]
        turned = both.base[Site(0, "resid_pre")][-1:].roll(1, -1) + own
        cells = [Cell(0, (Change(attn, (n_pos - 1,), value),)) for value in (own, turned)]
        seen = run_cells(model, both.cells_from, cells, tokens=both.pair.tokens, capture=[mlp])
        out = seen.states[mlp][:, n_pos - 1].double()
        answer.append(bool((out[0] - out[1]).abs().max() > 1e-4 * out.abs().max()))
    return tuple(answer)


def sites_needed(n_layers: int) -> list[Site]:
    """What has to be kept of both runs to tell senders and receivers apart."""
    kinds = ("resid_pre", "attn_out", "mlp_out", "z")
    sites = [Site(layer, kind) for layer in range(n_layers) for kind in kinds]
    return [*sites, Site(n_layers - 1, "resid_post")]


def differences(model: Backend, both: Both, senders: Sequence[Part]) -> torch.Tensor:
    """What each sender adds in the donor's run minus in the base's, [sender pos d_model].

    A head's vector is z through its rows of the output projection; a post-norm scales it as it
    did in its own run, so that the heads of a layer add up to the difference of attn_out.
    """
    require(model, "components")
    per_layer: dict[int, torch.Tensor] = {}
    found = []
    for sender in senders:
        site = sender.adds_to
        if sender.kind != "head":
            found.append(both.donor[site] - both.base[site])
            continue
        if sender.layer not in per_layer:
            require(model, "heads")
            z = Site(sender.layer, "z")
            own, theirs = (
                model.head_outputs(sender.layer, run[z], run[site])
                for run in (both.base, both.donor)
            )
            per_layer = {sender.layer: (theirs - own).to(both.base[site])}
        found.append(per_layer[sender.layer][:, sender.head])
    return torch.stack(found)
