"""Edge attribution patching: a gradient estimate of every edge and node, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.agreement import agreement
from dst.core.case import Case
from dst.core.errors import InputError
from dst.core.path_results import Agreement, EdgeScores
from dst.core.sites import Site
from dst.models.backend import Backend, Edit, Through, require
from dst.tracing.donors import Donor
from dst.tracing.edges import patch_edges, patch_nodes
from dst.tracing.gradients import differentiable
from dst.tracing.pairs import Both, make_pair, record_both
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
from dst.tracing.replay import Cell, Change

STEPS = 30
"""Gradients that ``eap_ig`` averages, as in the authors' code."""

SAMPLE = 256
"""Edges that are compared with exact path patching where there are more."""

MOST_NUMBERS = 2**27
"""Numbers that the gradients of receivers may take at a time."""

MOST_TOKENS = 1024
"""Tokens in one batch with a graph."""

METHODS = ("eap", "eap_ig")


def edge_attribution(
    model: Backend,
    case: Case,
    *,
    donor: Donor = "swap",
    method: str = "eap_ig",
    steps: int = STEPS,
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] | None = None,
    heads: bool = True,
    sample: int | None = SAMPLE,
    draw: int = 0,
    seed: int = 0,
    show_progress: bool = True,
) -> EdgeScores:
    """Estimates of LD(edge patched) - LD(base) for every edge, in logits, [sender receiver].

    score(u -> r) = sum over positions of (u's vector in the donor's run - in the base's) .
    d LD / d (the residual that r reads), the gradient that flows through r alone. Node score:
    the same with the gradient of all that comes after u; the edges of a node add up to it.
    ``eap`` takes the gradient at the base; ``eap_ig`` its mean over runs whose embeddings lie
    between base and donor, at shares (k - 1/2) / steps.

    Vectors are those that enter the residual (after a post-norm); a key or value receiver is a
    key/value head; in a block whose MLP stands beside attention, heads do not send to it.
    Controls: the edges of each node against the node; the embedding's score under ``eap_ig``
    against LD(donor) - LD(base), which it reaches with enough steps (completeness).

    Args:
        model: The model.
        case: The case; its own prompt is the base.
        donor: The other run, as in `dst.patch`: ``swap``, ``neutral``, ``substitute`` or
            ``clean``, a text as long as the prompt, an `AlignedPrompt`, or another case.
        method: ``eap`` or ``eap_ig``.
        steps: Runs of ``eap_ig``.
        senders: As in `dst.path_patch`; embedding, every head and every MLP by default.
        receivers: As in `dst.path_patch`; every q, k, v, MLP and the logits by default.
        heads: Whether kinds stand for heads, or for attention as a whole.
        sample: Largest number of edges (and of nodes) that are patched exactly for comparison,
            drawn at random; None for every one.
        draw: Which draw of the donor.
        seed: Seed of drawn variants and of the sample.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Raises:
        InputError: A sender, receiver, donor or method does not exist, or there is no step.
        CaseError: The case has no such donor, no associative answer, or has a twin.
        TokenError: The donor has another length and nothing says how positions correspond.
        CapabilityError: The engine has no gradients or heads.

    Source: METHOD 13; Syed et al. 2023 (EAP), Hanna et al. 2024 (EAP-IG). Theirs go from the
    corrupted to the clean prompt and weigh the gradients at k / steps; the midpoints used here
    need fewer steps for the same error. Theirs have no grouped keys and no post-norms.
    """
    require(model, "gradients")
    _check(method, steps, sample)
    pair = make_pair(model, case, donor, draw=draw, seed=seed)
    out = senders_of(model.spec, senders, heads=heads)
    into = receivers_of(model.spec, receivers, heads=heads)
    both = record_both(model, pair, sites_needed(model.spec.n_layers))
    graph = find_order(model, both)
    sent = differences(model, both, out)
    shares = [0.0] if method == "eap" else [(k + 0.5) / steps for k in range(steps)]
    with progress("gradients", len(shares), unit="step", show=show_progress) as tick:
        score, node = _scores(model, both, sent, out, into, shares, tick)
    is_edge = np.array([[comes_before(s, r, graph) for r in into] for s in out])
    score = np.where(is_edge, score, np.nan)
    rng = np.random.default_rng(seed)
    exact, edges_agree = _compare_edges(model, both, sent, out, into, score, sample, rng, method)
    node_exact, nodes_agree = _compare_nodes(model, both, sent, out, node, sample, rng, method)
    complete = set(into) >= set(receivers_of(model.spec, None, heads=heads))
    closure = np.abs(np.nansum(score, axis=1) - node).max()
    return EdgeScores(
        method=method,
        steps=len(shares),
        senders=tuple(map(str, out)),
        receivers=tuple(map(str, into)),
        score=score,
        node=node,
        exact=exact,
        node_exact=node_exact,
        agreement=edges_agree,
        node_agreement=nodes_agree,
        base=both.ld,
        donor=both.donor_ld,
        closure_error=float(closure) if complete else float("nan"),
        completeness_error=_completeness(model, both, out, node),
        notes=pair.notes,
        provenance=model.provenance(
            seed=seed,
            donor=pair.name,
            draw=draw,
            method=method,
            steps=len(shares),
            heads=heads,
            sample=sample,
        ),
    )


def _check(method: str, steps: int, sample: int | None) -> None:
    if method not in METHODS:
        raise InputError(f"The method {method!r} does not exist", expected=", ".join(METHODS))
    if steps < 1:
        raise InputError(f"steps is {steps}", expected="at least 1")
    if sample is not None and sample < 1:
        raise InputError(f"The sample has {sample} edges", expected="at least one, or None for all")


def _scores(
    model: Backend,
    both: Both,
    sent: torch.Tensor,
    senders: Sequence[Part],
    receivers: Sequence[Part],
    shares: Sequence[float],
    tick: Callable[[int], None],
) -> tuple[Float[np.ndarray, "sender receiver"], Float[np.ndarray, " sender"]]:
    """Edge and node scores, means over runs with interpolated embeddings."""
    score, node = np.zeros((len(senders), len(receivers))), np.zeros(len(senders))
    n_pos = len(both.pair.ids)
    metric = differentiable(both.pair.ready.metric)
    last = Site(model.spec.n_layers - 1, "resid_post")
    sites = sorted({last, *(sender.adds_to for sender in senders)})
    wide = sent.double()
    for at, parts in _batches(receivers, len(shares), n_pos * model.spec.d_model, n_pos):
        rows = [both.pair.ids] * len(at)
        heard = [receivers[i] for i in parts if receivers[i].kind != "logits"]
        found = model.gradients(
            rows,
            sites=sites,
            metric=metric,
            edits=_between(both, [shares[i] for i in at]),
            through=[Through(part.puts_out, part.heads) for part in heard],
        )
        mean = {
            site: slope.double().sum(0) / len(shares) for site, slope in found.gradients.items()
        }
        into = dict(zip(heard, found.through, strict=True))
        for i in parts:
            if receivers[i].kind == "logits":
                slope = mean[last]
            else:
                slope = into[receivers[i]].double().sum(0) / len(shares)
            score[:, i] += torch.einsum("spd,pd->s", wide, slope).cpu().numpy()
        if parts[0] == 0:  # every run once
            for i, sender in enumerate(senders):
                node[i] += float((wide[i] * mean[sender.adds_to]).sum())
            tick(len(at))
    return score, node


def _batches(
    receivers: Sequence[Part], n_runs: int, per_row: int, n_pos: int
) -> Iterator[tuple[range, range]]:
    """Runs and receivers in parts, so that their gradients fit in memory."""
    n_parts = max(1, min(len(receivers), MOST_NUMBERS // per_row))
    n_rows = max(1, min(MOST_TOKENS // n_pos, MOST_NUMBERS // (per_row * n_parts)))
    for first in range(0, len(receivers), n_parts):
        parts = range(first, min(first + n_parts, len(receivers)))
        for start in range(0, n_runs, n_rows):
            yield range(start, min(start + n_rows, n_runs)), parts


def _between(both: Both, shares: Sequence[float]) -> list[Edit]:
    """Embeddings a share of the way from the base to the donor, one row each."""
    site = Site(0, "resid_pre")
    base, donor = both.base[site], both.donor[site]
    moved = torch.nonzero((base != donor).any(-1)).flatten().tolist()
    if not moved or list(shares) == [0.0]:
        return []
    return [
        Edit(site, [row], moved, base[moved] + share * (donor - base)[moved])
        for row, share in enumerate(shares)
    ]


def _completeness(
    model: Backend, both: Both, senders: Sequence[Part], node: Float[np.ndarray, " sender"]
) -> float:
    """Embedding's score - (LD with the donor's embeddings - LD(base)); NaN if it was left out."""
    names = [part.kind for part in senders]
    if "embedding" not in names:
        return float("nan")
    site = Site(0, "resid_pre")
    every = tuple(range(len(both.pair.ids)))
    end, _ = both.effects(model, [Cell(0, (Change(site, every, both.donor[site]),))])
    return float(node[names.index("embedding")] - end[0])


def _compare_edges(
    model: Backend,
    both: Both,
    sent: torch.Tensor,
    senders: Sequence[Part],
    receivers: Sequence[Part],
    score: Float[np.ndarray, "sender receiver"],
    sample: int | None,
    rng: np.random.Generator,
    method: str,
) -> tuple[Float[np.ndarray, "sender receiver"], Agreement]:
    """Exact path patching of some edges, and how far the scores agree."""
    edges = np.argwhere(~np.isnan(score))
    drawn, how = _draw(len(edges), sample, rng, "edge")
    chosen = edges[drawn].tolist()
    effect = patch_edges(model, both, sent, [(s, receivers[r]) for s, r in chosen]).effect
    exact = np.full(score.shape, np.nan)
    exact[tuple(edges[drawn].T)] = effect
    return exact, agreement(
        method,
        score[tuple(edges[drawn].T)],
        effect,
        [f"{senders[s]} -> {receivers[r]}" for s, r in chosen],
        n_all=len(edges),
        chosen=how,
    )


def _compare_nodes(
    model: Backend,
    both: Both,
    sent: torch.Tensor,
    senders: Sequence[Part],
    node: Float[np.ndarray, " sender"],
    sample: int | None,
    rng: np.random.Generator,
    method: str,
) -> tuple[Float[np.ndarray, " sender"], Agreement]:
    """Exact patching of some nodes, and how far the scores agree."""
    drawn, how = _draw(len(senders), sample, rng, "node")
    effect = patch_nodes(model, both, sent[drawn], [senders[i] for i in drawn])
    exact = np.full(len(senders), np.nan)
    exact[drawn] = effect
    return exact, agreement(
        method,
        node[drawn],
        effect,
        [str(senders[i]) for i in drawn],
        n_all=len(senders),
        chosen=how,
    )


def _draw(
    n: int, sample: int | None, rng: np.random.Generator, what: str
) -> tuple[np.ndarray, str]:
    """Which of n are compared, and in words."""
    if sample is None or sample >= n:
        return np.arange(n), f"every {what}"
    drawn = np.sort(rng.choice(n, size=sample, replace=False))
    return drawn, f"a random sample of {sample} of {n} {what}s"
