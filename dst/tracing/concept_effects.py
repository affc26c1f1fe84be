"""`concept_effects`: what a concept at the answer position does to the others, blocks later.

    Om*[l -> l'](v => w) = z_w(h[l'] + d) - z_w(h'[l'])

d moves h[l, i*] along unit(Uc_v) to the coordinate that the donor has there, h' is the run with
that move, h[l'] + d what it would be had no block answered, and z_w the tuned-lens logit of w less
the mean over the vocabulary, so that only what the blocks made of the move is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from dst.analysis.multiple import benjamini_hochberg
from dst.analysis.semantic_map import edge_p
from dst.core.errors import InputError
from dst.core.lens_results import TunedLens
from dst.core.map_results import ConceptNodes
from dst.core.sites import site_of_state
from dst.models.backend import Backend, require
from dst.tracing.concept_moves import Moves
from dst.tracing.prepare import Prepared
from dst.tracing.progress import progress
from dst.tracing.reference_states import mean_states
from dst.tracing.replay import record_base

HOPS = (1, 4)
"""Blocks after which an effect is read; the output is read besides."""

CONTROLS = 20
"""Control directions per concept, state and group of target words."""


@dataclass(frozen=True)
class Effects:
    """Concept-to-concept effects with their test; the fields of `SemanticMap` by the same names.

    Attributes:
        moves: How many moves were run, those of controls among them.
    """

    states: Int[np.ndarray, " source"]
    hops: tuple[str, ...]
    hop_states: Int[np.ndarray, "hop source"]
    effects: Float[np.ndarray, "hop source concept concept"]
    control: Float[np.ndarray, "hop source concept concept"]
    p: Float[np.ndarray, "hop source concept concept"]
    q: Float[np.ndarray, "hop source concept concept"]
    moved: Float[np.ndarray, "source concept"]
    donor: str
    moves: int


def concept_effects(
    model: Backend,
    ready: Prepared,
    nodes: ConceptNodes,
    *,
    lens: TunedLens | None = None,
    states: Sequence[int] | None = None,
    hops: Sequence[int] = HOPS,
    controls: int = CONTROLS,
    seed: int = 0,
    show: bool = True,
) -> Effects:
    """Effect of every node of a state on every node of later states at i*, in logits.

    Row v, column w: what v, as the prompt sets it, adds to w's lens logit through the blocks in
    between; above 0 it raises w. The donor's coordinate is the mean over the neutral draws; with
    no cue, over the tokens of the reference sentences. A move of 0 has effects of exactly 0 and
    no test (at state 0, where i* holds the same token in every draw, all are).

    Each control moves h by as much along a random direction with v's cosine to Uc_w. One
    direction has it to many words w at once (`matched_directions`), which is what makes a map
    cheap: per concept and state 1 + 20 suffixes for a group of words, not for each. p: `edge_p`;
    q: Benjamini-Hochberg over the whole map.

    Args:
        model: The model.
        ready: The case; see `prepare`.
        nodes: Its concepts.
        lens: The lens that the nodes were read with; None for the logit lens.
        states: States at which concepts are moved, 0 to L - 1; all by default.
        hops: Blocks after which effects are read, beside the output; clipped to L.
        controls: Control directions, at least 3.
        seed: Seed of the controls.
        show: Show the progress of long runs.

    Raises:
        InputError: A state, a hop or the number of controls is out of range.
        CapabilityError: The engine cannot edit.

    Source: METHOD 6. The published edge replaces a prompt token and reads the output's
    probability, so that it is not about v's state (`dst.tracing.published_map`).
    """
    require(model, "edits")
    n_layers, n = model.spec.n_layers, len(nodes.words)
    at = _sources(states, n_layers)
    if bad := [hop for hop in hops if hop < 1]:
        raise InputError(f"A hop is {bad[0]}", expected="1 block or more")
    if controls < 3:
        raise InputError(f"There are {controls} controls", expected="3 or more")
    steps = (*dict.fromkeys(hops), n_layers)
    hop_states = np.array([[min(state + step, n_layers) for state in at] for step in steps])
    base = record_base(model, [ready.x.ids])
    donor, donor_is = _donor(model, ready)
    work = Moves(model, base, nodes, lens, controls, np.random.default_rng(seed))
    shape = (len(steps), len(at), n, n)
    effects = np.full(shape, np.nan)
    drawn = np.full((controls, *shape), np.nan, dtype=np.float32)  # the largest by far
    moved = np.full((len(at), n), np.nan)
    plans = []
    for s, state in enumerate(at):
        moved[s] = np.where(nodes.node[state], work.coordinates(state, donor[state]), np.nan)
        plans.append(work.plan(state, moved[s], sorted(set(hop_states[:, s]))))
    total = sum(plan.n_cells(controls) for part in plans for plan in part)
    with progress("semantic map", total, show=show) as tick:
        for s, state in enumerate(at):
            reached = work.effects(state, plans[s], sorted(set(hop_states[:, s])), tick)
            for hop in range(len(steps)):
                effects[hop, s], drawn[:, hop, s] = reached[hop_states[hop, s]]
    p, q = _tested(effects, drawn, hop_states, work.rounding)
    return Effects(
        states=np.array(at, dtype=int),
        hops=(*(f"+{hop}" for hop in steps[:-1]), "output"),
        hop_states=hop_states,
        effects=effects,
        control=drawn.mean(axis=0, dtype=np.float64),
        p=p,
        q=q,
        moved=moved,
        donor=donor_is,
        moves=total,
    )


def _tested(
    effects: np.ndarray, drawn: np.ndarray, hop_states: np.ndarray, rounding: float
) -> tuple[np.ndarray, np.ndarray]:
    """The p and q; a hop that arrives where an earlier one does is the same test, counted once."""
    tested = ~np.isnan(drawn).any(axis=0)
    same = {}
    for hop, s in np.ndindex(hop_states.shape):
        first = next(h for h in range(hop + 1) if hop_states[h, s] == hop_states[hop, s])
        if first < hop:
            same[hop, s] = first
            tested[hop, s] = False
    p = np.full(effects.shape, np.nan)
    if tested.any():
        p[tested] = edge_p(effects[tested], drawn[:, tested].astype(np.float64), rounding)
    q = benjamini_hochberg(p)
    for (hop, s), first in same.items():
        p[hop, s], q[hop, s] = p[first, s], q[first, s]
    return p, q


def _sources(states: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    at = tuple(sorted(set(range(n_layers) if states is None else states)))
    if not at or at[0] < 0 or at[-1] >= n_layers:
        raise InputError(
            f"Concepts cannot be moved at the states {list(at)}",
            expected=f"some of 0 to {n_layers - 1}",
        )
    return at


def _donor(model: Backend, ready: Prepared) -> tuple[Float[np.ndarray, "state d_model"], str]:
    """Mean state at i* over the neutral draws; of ordinary text where there are none."""
    neutral = ready.variants.neutral
    if neutral:
        rows = record_base(model, [row.ids for row in neutral])
        last = torch.tensor([len(row.ids) - 1 for row in neutral])
        states = rows.states[:, torch.arange(len(neutral)), last]
        mean = states.double().mean(dim=1).cpu().numpy()
        return mean, f"mean of {len(neutral)} neutral prompts"
    sites = [site_of_state(state, model.spec.n_layers) for state in range(model.spec.n_layers + 1)]
    means = mean_states(model, sites)
    mean = torch.stack([means[site] for site in sites]).double().numpy()
    return mean, "mean of the reference sentences' tokens: the case has no neutral prompt"
