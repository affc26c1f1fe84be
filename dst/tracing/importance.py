"""`concept_importance`: what the answer owes to some concepts, beyond random subspaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from dst.analysis.importance import control_interval
from dst.analysis.multiple import benjamini_hochberg
from dst.analysis.readout import kl_divergence, log_softmax
from dst.analysis.semantic_map import edge_p
from dst.core.case import Case
from dst.core.errors import CaseError, InputError
from dst.core.importance_results import ConceptImportance
from dst.core.sites import Site
from dst.models.backend import Backend
from dst.models.check import TOLERANCE
from dst.models.tokens import tokenize_case
from dst.tracing.concept_subspace import ConceptSubspace, concept_subspace
from dst.tracing.concept_vectors import isolated
from dst.tracing.prepare import DRAWS, Prepared, prepare
from dst.tracing.progress import progress
from dst.tracing.replay import Cell, Change, record_base, run_cells
from dst.tracing.swaps import Recorded, patch_states

CONTROLS = 20
"""Random subspaces that an importance is held against."""

COMPONENTS = 10
"""Principal directions of the concepts."""


def concept_importance(
    model: Backend,
    case: Case,
    words: Sequence[str] | None = None,
    n: int = COMPONENTS,
    *,
    sentences: Sequence[str] | None = None,
    controls: int = CONTROLS,
    draws: int = DRAWS,
    seed: int = 0,
    show_progress: bool = True,
) -> ConceptImportance:
    """How much of LD rests on the concepts' subspace, by state and role, beyond random subspaces.

        I[l, r] = LD(x) - LD(x with P P^T h[l, r] replaced by its value on x_0)
        excess  = I - mean over random subspaces R of the same rank, with the same norm removed

    in logits, means over neutral draws. P[l] spans the top ``n`` principal directions that the
    words' states have in 50 sentences or more each and neutral nouns have not
    (`dst.tracing.concept_subspace`). R is drawn evenly; R R^T (h(x_0) - h(x)) is scaled at every
    position to the norm of what P removes there. Interval and p ask whether a further random
    subspace would have been as far out (`dst.analysis.semantic_map.edge_p`, over all cells).

    Args:
        model: The model.
        case: The case; neutral variants that it lacks are drawn.
        words: The concepts; by default the case's context and competing words.
        n: Directions of P.
        sentences: Texts that mention the words, at least 50 of each; by default made from the
            reference sentences.
        controls: Random subspaces, at least 20 for a p that can be trusted.
        draws: How many neutral draws to make where the case gives none.
        seed: Seed of the draws, the sentences and the random subspaces.
        show_progress: Draw a line with the time left on the error stream after two seconds.

    Returns:
        `ConceptImportance`; all NaN with the reason where there is no neutral variant, or no word
        has enough sentences.

    Raises:
        CaseError: There are no words, or no associative answer.
        InputError: ``n`` or ``controls`` is too small.
        TokenError: The tokenizer does not know a word; the nearest known are named.

    Source: METHOD 1a. `importance_published` is the published form, and comes along as
    ``published``.
    """
    if controls < 3:
        raise InputError(f"There are {controls} controls", expected="3 or more random subspaces")
    words = concept_words(case, words)
    ready = prepare(model, case, draws=draws, seed=seed)
    space = concept_subspace(model, words, n, sentences=sentences, seed=seed)
    run = ready.record(model, [ready.x])
    n_states, n_roles = model.spec.n_layers + 1, len(ready.roles)
    reason = _reason(ready, space)
    importance = np.full((1, n_states, n_roles), np.nan)
    control, low, high, p, removed = (
        np.full(shape, np.nan)
        for shape in ((controls, n_states, n_roles), *[(n_states, n_roles)] * 4)
    )
    differing = np.zeros((n_states, n_roles), dtype=bool)
    if not reason:
        zero = ready.record(model, ready.variants.neutral)
        swaps = n_states * n_roles * (len(zero) + controls) * (2 if zero.twins else 1)
        with progress("concept importance", swaps, show=show_progress) as tick:
            swap = partial(_importance, model, ready, run, tick=tick)
            importance = swap(zero, _toward(space.basis))
            control = _controls(swap, zero, space, controls, seed)
        differing, removed = _removed(ready, run.cycle(len(zero)), zero, space.basis)
        # At the last state only the answer position is read.
        differing[-1, :-1] = False
        tested = differing & (space.rank > 0)[:, None]
        # What arithmetic alone makes of LD is no spread.
        tolerance = TOLERANCE.get(model.spec.dtype, 4e-2)
        rounding = tolerance * max(1.0, float(np.abs(run.raw).max()))
        mean = importance.mean(axis=0)
        p[tested] = edge_p(mean[tested], control[:, tested], rounding)
        low, high = np.where(tested, control_interval(mean, control, rounding), np.nan)
    return ConceptImportance(
        words=space.words,
        roles=ready.roles,
        positions=ready.positions,
        contrast=float(run.contrast[0]),
        components=n,
        rank=space.rank,
        variance=space.share,
        sentences=space.sentences,
        importance=importance,
        control=control,
        low=low,
        high=high,
        p=p,
        q=benjamini_hochberg(p),
        removed=removed,
        differing=differing,
        published=importance_published(model, case, words, n),
        reason=reason,
        notes=(*ready.notes, *space.left_out),
        provenance=model.provenance(
            seed=seed, draws=draws, n=n, controls=controls, words=list(words),
            sentences="given" if sentences is not None else "made",
        ),
    )  # fmt: skip


def importance_published(
    model: Backend, case: Case, words: Sequence[str], n: int = COMPONENTS
) -> Float[np.ndarray, " layer"]:
    """The published concept importance, as intended: KL in nats per block.

        h' = mu + (I - P P^T)(h - mu) at all positions after block l,  I[l] = KL(p || p') at i*

    p is the output, p' the output with the edit. mu and P (the top ``n`` eigenvectors) are of the
    words' vectors, each word alone and its residual averaged over its positions; with k words
    there are k - 1 directions at most.

    **As coded it is 0 for every block**: the line that passes the edit to the run is commented out,
    so that p' = p. This is the formula with the edit made.

    Raises:
        InputError: n is no positive number.

    Source: METHOD 1a (code of August 2025).
    """
    if n < 1:
        raise InputError(f"n is {n}", expected="a number of directions, 1 or more")
    ids = tokenize_case(model.tokenizer, case).ids
    base = record_base(model, [ids])
    vectors = np.stack([isolated(model, word) for word in words], axis=1).astype(np.float64)
    everywhere = tuple(range(len(ids)))
    cells = []
    for layer in range(model.spec.n_layers):
        mean = vectors[layer + 1].mean(axis=0)
        _, s, right = np.linalg.svd(vectors[layer + 1] - mean, full_matrices=False)
        directions = right[: min(n, int((s > 1e-6 * max(s[0], 1e-30)).sum()))]
        h = base.states[layer + 1, 0].double().cpu().numpy()
        value = h - (h - mean) @ directions.T @ directions
        put = torch.from_numpy(value).to(base.states)
        cells.append(Cell(0, (Change(Site(layer, "resid_post"), everywhere, put),)))
    edited = run_cells(model, base, cells).logits[:, -1]
    before = log_softmax(base.logits[0, -1].float().cpu().numpy())
    return kl_divergence(before, log_softmax(edited.float().cpu().numpy()))


def concept_words(case: Case, words: Sequence[str] | None) -> tuple[str, ...]:
    """The concept words that are asked for, each once; by default the case's.

    Raises:
        CaseError: There are none.
    """
    found = (*case.context_words, *case.competing_words) if words is None else tuple(words)
    if not found:
        raise CaseError(
            "There are no concept words",
            do="Give words=..., or context_words and competing_words in the case",
            field="context_words",
        )
    return tuple(dict.fromkeys(found))


# -- inside ----------------------------------------------------------------------------------

_Move = Callable[[torch.Tensor], torch.Tensor]
"""From the difference to the donor, [state row pos d_model], to what of it is put in."""


def _importance(
    model: Backend,
    ready: Prepared,
    run: Recorded,
    donor: Recorded,
    move: _Move,
    tick: Callable[[int], None],
) -> Float[np.ndarray, "draw state role"]:
    """LD(x) - LD(x moved toward each draw of the donor), role by state."""
    x = run.cycle(len(donor))
    moved = move((donor.states - x.states).float())
    # Where nothing is moved the state stays what it is, to the last digit.
    value = torch.where(moved == 0, x.states, x.states + moved.to(x.states))
    ld = patch_states(model, x, value, donor.places, ready.positions, ready.metric, tick=tick)
    return x.contrast[:, None, None] - ld


def _toward(basis: np.ndarray) -> _Move:
    """The part of the difference in span(P), P [state d_model component]."""
    span = torch.from_numpy(basis)

    def move(difference: torch.Tensor) -> torch.Tensor:
        p = span.to(difference)
        return torch.einsum("lrpd,ldn,len->lrpe", difference, p, p)

    return move


def _toward_random(basis: np.ndarray, random: np.ndarray) -> _Move:
    """The part in each row's random subspace, at every position as long as the part in P.

    Args:
        basis: P, [state d_model component].
        random: Per row orthonormal columns, [row d_model component]; as many are used at a state
            as P has there.
    """
    rank = torch.from_numpy(basis.any(axis=1))  # [state component]

    def move(difference: torch.Tensor) -> torch.Tensor:
        wanted = _toward(basis)(difference).norm(dim=-1, keepdim=True)
        r = torch.from_numpy(random).to(difference)
        along = torch.einsum("lrpd,rdn->lrpn", difference, r) * rank.to(difference)[:, None, None]
        part = torch.einsum("lrpn,rdn->lrpd", along, r)
        length = part.norm(dim=-1, keepdim=True)
        return part * torch.where(length > 0, wanted / length.clamp_min(1e-30), 0)

    return move


def _controls(
    swap: Callable[[Recorded, _Move], np.ndarray],
    zero: Recorded,
    space: ConceptSubspace,
    controls: int,
    seed: int,
) -> Float[np.ndarray, "random state role"]:
    """Importance of random subspaces, each with one neutral draw, in turn."""
    rng = np.random.default_rng(seed)
    _, d, n = space.basis.shape
    n = int(space.rank.max())
    drawn = rng.normal(size=(controls, d, n))
    random = np.linalg.qr(drawn)[0].astype(np.float32)
    parts = []
    for start in range(0, controls, len(zero)):
        stop = min(start + len(zero), controls)
        twice = 2 if zero.twins else 1
        columns = np.concatenate([random[start:stop]] * twice)
        donor = zero.take(range(stop - start))
        parts.append(swap(donor, _toward_random(space.basis[:, :, :n], columns)))
    return np.concatenate(parts)


def _removed(
    ready: Prepared, x: Recorded, zero: Recorded, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether some draw differs from x, and the share of the difference that is removed."""
    difference = (zero.states - x.states).float()
    known = ((zero.places >= 0) & (x.places >= 0)).to(difference.device)
    difference = difference * known[None, :, :, None]
    whole = difference.pow(2).sum(dim=-1).cpu().numpy()  # [state row pos]
    part = _toward(basis)(difference).pow(2).sum(dim=-1).cpu().numpy()
    roles = [list(inside) for inside in ready.positions]
    all_of = np.stack([whole[:, :, inside].sum(axis=(1, 2)) for inside in roles], axis=-1)
    in_p = np.stack([part[:, :, inside].sum(axis=(1, 2)) for inside in roles], axis=-1)
    differing = all_of > 0
    share = np.sqrt(in_p / np.where(differing, all_of, 1))
    return differing, np.where(differing, share, np.nan)


def _reason(ready: Prepared, space: ConceptSubspace) -> str:
    """Why there is no importance; "" if there is."""
    if not ready.variants.neutral:
        why = "; ".join(ready.notes)
        return why or "no cue, so that there is no neutral run"
    if not space.words:
        return "; ".join(space.left_out)
    return ""
