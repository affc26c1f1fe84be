"""Path patching: one receiver alone hears the donor's sender, and the rest follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.path_results import PathEffects
from dst.core.sites import Site
from dst.models.backend import Backend, require
from dst.tracing.donors import Donor
from dst.tracing.edges import patch_edges, patch_nodes
from dst.tracing.pairs import SELF_PATCHES, Both, make_pair, record_both
from dst.tracing.parts import (
    Part,
    comes_before,
    differences,
    find_order,
    receivers_of,
    senders_of,
    sites_needed,
)
from dst.tracing.progress import progress


def path_patch(
    model: Backend,
    case: Case,
    *,
    donor: Donor = "swap",
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] = ("logits",),
    at: Sequence[int] | str | None = None,
    heads: bool = True,
    draw: int = 0,
    seed: int = 0,
    show_progress: bool = True,
) -> PathEffects:
    """What each edge carries: LD with the edge patched - LD(base), in logits, [sender receiver].

    The edge u -> r: r reads its base residual plus (u's vector in the donor's run - u's in the
    base's), every other reader keeps the base, and the model is run on from what r then puts
    out. What a sender adds is what enters the residual, after a post-norm where there is one; a
    key or value receiver is a key/value head. Every effect is exact: two runs per edge, shared
    where edges share them.

    Controls in every call: an edge whose donor is the base itself; a random direction as large
    as the largest sender; base plus all senders against the donor's own input of each receiver;
    all senders into the logits against the donor's LD.

    Args:
        model: The model.
        case: The case; its own prompt is the base.
        donor: The other run, as in `dst.patch`: ``swap``, ``neutral``, ``substitute`` or
            ``clean``, a text as long as the prompt, an `AlignedPrompt`, or another case.
        senders: Names (``head 2.1``, ``attn 2``, ``mlp 0``, ``embedding``) or kinds (``head``);
            embedding, every head and every MLP by default.
        receivers: Names (``q 3.0``, ``k 3.1``, ``v 3.1``, ``q 3`` for the whole layer, ``mlp 2``,
            ``logits``) or kinds (``q``). ``logits`` alone gives direct effects.
        at: Role or positions whose difference is sent; all by default.
        heads: Whether kinds stand for heads, or for attention as a whole.
        draw: Which draw of the donor.
        seed: Seed of drawn variants and of the random direction.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: A sender, receiver, donor or role does not exist.
        CaseError: The case has no such donor, no associative answer, or has a twin.
        TokenError: The donor has another length and nothing says how positions correspond.
        CapabilityError: The engine cannot edit or give heads.

    Source: METHOD 13; Wang et al. 2023 (IOI), Goldowsky-Dill et al. 2023. As in the latter,
    and unlike the former, the path from sender to receiver goes through no MLP between them.
    """
    require(model, "edits")
    pair = make_pair(model, case, donor, draw=draw, seed=seed)
    out = senders_of(model.spec, senders, heads=heads)
    into = receivers_of(model.spec, receivers, heads=heads)
    both = record_both(model, pair, sites_needed(model.spec.n_layers))
    graph = find_order(model, both)
    sent = differences(model, both, out)
    sent = _only(sent, _places(both, at))
    edges = [
        (s, r) for s, a in enumerate(out) for r, b in enumerate(into) if comes_before(a, b, graph)
    ]
    with progress("path patching", len(edges), unit="edge", show=show_progress) as tick:
        found = patch_edges(model, both, sent, [(s, into[r]) for s, r in edges], tick)
        floor, self_error = _random_and_self(model, both, sent, out, into, graph, seed)
    shape = len(out), len(into)
    effect, fired, norm = np.full(shape, np.nan), np.zeros(shape, dtype=int), np.zeros(shape)
    for (s, r), value, places, size in zip(edges, *found, strict=True):
        effect[s, r], fired[s, r], norm[s, r] = value, places, size
    sum_error, donor_error = _everything(model, both, into, graph, heads=heads)
    return PathEffects(
        senders=tuple(map(str, out)),
        receivers=tuple(map(str, into)),
        effect=effect,
        node=patch_nodes(model, both, sent, out),
        fired=fired,
        delta_norm=norm,
        floor=floor,
        base=both.ld,
        donor=both.donor_ld,
        self_patch_error=self_error,
        sum_error=sum_error,
        donor_error=donor_error,
        notes=pair.notes,
        provenance=model.provenance(
            seed=seed, donor=pair.name, draw=draw, heads=heads, at="all" if at is None else at
        ),
    )


def _everything(
    model: Backend, both: Both, into: Sequence[Part], graph: Sequence[bool], *, heads: bool
) -> tuple[float, float]:
    """Controls: all senders before each receiver make its input the donor's; and so LD."""
    senders = senders_of(model.spec, None, heads=heads)
    sent = differences(model, both, senders)
    worst = 0.0
    inputs = {(part.layer, "mlp" if part.kind == "mlp" else "q"): part for part in into}
    for receiver in inputs.values():  # queries, keys and values of a block read the same
        before = [i for i, s in enumerate(senders) if comes_before(s, receiver, graph)]
        base, donor = (_input(run, receiver, graph) for run in (both.base, both.donor))
        made = base.double() + sent[before].double().sum(0)
        scale = donor.double().abs().max().clamp_min(1e-30)
        worst = max(worst, float((made - donor.double()).abs().max() / scale))
    if len(both.pair.ids) - 1 not in both.pair.matched:
        return worst, float("nan")
    logits = Part(model.spec.n_layers, "logits")
    all_sent = sent.double().sum(0, keepdim=True).to(sent.dtype)
    effect = float(patch_edges(model, both, all_sent, [(0, logits)]).effect[0])
    return worst, abs(both.ld + effect - both.donor_ld)


def _input(run: Mapping[Site, torch.Tensor], receiver: Part, graph: Sequence[bool]) -> torch.Tensor:
    """The residual that a receiver reads, [pos d_model]."""
    if receiver.kind == "logits":
        return run[Site(receiver.layer - 1, "resid_post")]
    pre = run[Site(receiver.layer, "resid_pre")]
    if receiver.kind == "mlp" and graph[receiver.layer]:
        return pre + run[Site(receiver.layer, "attn_out")]
    return pre


def _random_and_self(
    model: Backend,
    both: Both,
    sent: torch.Tensor,
    senders: Sequence[Part],
    into: Sequence[Part],
    graph: Sequence[bool],
    seed: int,
) -> tuple[Float[np.ndarray, " receiver"], float]:
    """Controls: a random direction of the largest sender's norm into each receiver; nothing."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(sent.shape[1:], generator=generator).to(sent)
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    sizes = sent.norm(dim=-1)  # [sender pos]
    rows = []
    for receiver in into:
        before = [i for i, s in enumerate(senders) if comes_before(s, receiver, graph)]
        if not before:
            rows.append(torch.zeros_like(drawn))
            continue
        largest = max(before, key=lambda i: float(sizes[i].norm()))
        rows.append(drawn * sizes[largest].unsqueeze(-1))
    random = patch_edges(model, both, torch.stack(rows), list(enumerate(into)))
    some = sorted(set(np.linspace(0, len(into) - 1, SELF_PATCHES).round().astype(int).tolist()))
    nothing = torch.zeros_like(sent[:1])
    own = patch_edges(model, both, nothing, [(0, into[i]) for i in some], keep_no_ops=True)
    return np.abs(random.effect), float(np.abs(own.effect).max())


def _places(both: Both, at: Sequence[int] | str | None) -> list[int]:
    """Positions whose difference is sent."""
    ids = both.pair.ids
    if at is None:
        return list(range(len(ids)))
    if isinstance(at, str):
        found = both.pair.ready.tokenized.positions_of(at)
        if not found:
            raise InputError(
                f"The prompt has no role {at!r}", expected=", ".join(both.pair.ready.roles)
            )
        return found
    if bad := [p for p in at if not -len(ids) <= p < len(ids)]:
        raise InputError(
            f"There is no position {bad[0]}", expected=f"positions of a prompt of {len(ids)} tokens"
        )
    return [p % len(ids) for p in at]


def _only(sent: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    out = torch.zeros_like(sent)
    out[:, list(places)] = sent[:, list(places)]
    return out
