"""A graph of concepts that is planted at the answer, and the effects that follow from it.

What a block does to the concepts' coordinates c at the answer position:

    block 1: c[word] += amount, for every word that the cue lights
    later:   c[target] += gain * clip(c[source], 0, 1), the switches of that block
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from dst.core.errors import InputError
from dst.testbed.planted_plan import Edge

CONTEXT_WORDS = ("music", "sound", "stage", "song", "choir")
COMPETING_WORDS = ("water", "scales", "net", "boat", "river")
ANSWERS = ("instrument", "fish")
CONCEPTS = (*CONTEXT_WORDS, *COMPETING_WORDS, *ANSWERS)

Twin = Literal["planted", "removed", "random"]


@dataclass(frozen=True)
class ConceptPlan:
    """A graph of concepts.

    Attributes:
        n_layers: Blocks L.
        lit: Concepts that the cue lights at the answer in block 1, each with its coordinate.
        edges: Switches; block 2 or later.
        overlaps: Pairs of words and the cosine of their unembedding rows: the second word's row
            leans on the first's, so that moving one moves the other with no block at all.
        noise: Norm of what each noise neuron writes.
        twin: ``planted``, ``removed`` (no switch) or ``random`` (switches at random).
        seed: Of the noise.

    Raises:
        InputError: The plan cannot work.
    """

    n_layers: int
    lit: tuple[tuple[str, float], ...]
    edges: tuple[Edge, ...]
    overlaps: tuple[tuple[str, str, float], ...] = ()
    noise: float = 0.2
    twin: Twin = "planted"
    seed: int = 0

    def __post_init__(self) -> None:
        named = [name for name, _ in self.lit]
        named += [name for edge in self.edges for name in (edge.source, edge.target)]
        named += [name for one, two, _ in self.overlaps for name in (one, two)]
        if unknown := [name for name in named if name not in CONCEPTS]:
            raise InputError(f"{unknown[0]!r} is no concept", expected=", ".join(CONCEPTS))
        for edge in self.edges:
            if not 2 <= edge.block <= self.n_layers:
                raise InputError(
                    f"The edge {edge.source} to {edge.target} is in block {edge.block}",
                    expected=f"a block from 2 to {self.n_layers}",
                )


# -- what must be found -----------------------------------------------------------------------


def coordinates(plan: ConceptPlan, cue: float = 1.0) -> Float[np.ndarray, "state concept"]:
    """Each concept's coordinate at the answer, state by state, the noise left out.

    Args:
        plan: The plan.
        cue: The cue's sense: 1, or 0 for a neutral one.
    """
    states = [np.zeros(len(CONCEPTS))]
    for block in range(1, plan.n_layers + 1):
        states.append(_block(plan, block, states[-1], cue))
    return np.stack(states)


@dataclass(frozen=True)
class Truth:
    """What is planted between two concepts, at the states of a map; row = cause.

    Attributes:
        effect: Om* of METHOD 6 in closed form, in logits, the noise left out.
        wired: Whether switches lead from the cause to the word in the blocks between. There the
            effect may be 0 and is a little else in the model: noise lights every concept a little.
        stirs: Whether switches lead from the cause to any word at least one block before the
            effect is read. Then noise neurons answer that too, and the cause reaches every word:
            a find that is not ``wired`` is a side effect, neither right nor wrong.
    """

    effect: Float[np.ndarray, "hop source concept concept"]
    wired: Bool[np.ndarray, "hop source concept concept"]
    stirs: Bool[np.ndarray, "hop source concept"]


def truth_of(
    plan: ConceptPlan, hop_states: Sequence[Sequence[int]], states: Sequence[int]
) -> Truth:
    """The effects of a plan by its own arithmetic: no model, no measure.

    A concept at state l goes back to its neutral coordinate along its unembedding row; the blocks
    answer by the plan's switches; what the answer is worth to each word's logit is the effect.

    Args:
        plan: The plan.
        hop_states: State at which each hop from each source state is read, [hop source].
        states: Source states.
    """
    rows = rows_of(plan)
    own, neutral = coordinates(plan), coordinates(plan, 0.0)
    n = len(CONCEPTS)
    effect = np.zeros((len(hop_states), len(states), n, n))
    wired, stirs = np.zeros(effect.shape, dtype=bool), np.zeros(effect.shape[:3], dtype=bool)
    for s, state in enumerate(states):
        for hop, ends in enumerate(hop_states):
            end = int(ends[s])
            wired[hop, s] = _wired(plan, state, end)
            stirs[hop, s] = _wired(plan, state, end - 1).any(axis=1)
        for v in range(n):
            move = -rows[v] * float(rows[v] @ (own[state] - neutral[state]))
            moved = {state: own[state] + move}
            for block in range(state + 1, plan.n_layers + 1):
                moved[block] = _block(plan, block, moved[block - 1], 1.0)
            for hop, ends in enumerate(hop_states):
                end = int(ends[s])
                effect[hop, s, v] = rows @ (own[end] + move - moved[end])
            effect[:, s, v, v] = np.nan
    return Truth(effect, wired, stirs)


def _wired(plan: ConceptPlan, first: int, last: int) -> Bool[np.ndarray, "concept concept"]:
    """Whether switches of blocks first + 1 to last lead from one word to another."""
    n = len(CONCEPTS)
    paths = np.eye(n)
    for block in range(first + 1, last + 1):
        step = np.eye(n)
        for edge in plan.edges if plan.twin == "planted" else ():
            if edge.block == block:
                step[CONCEPTS.index(edge.source), CONCEPTS.index(edge.target)] += 1
        paths = paths @ step
    leans = (rows_of(plan) != 0).astype(float)
    found: np.ndarray = leans @ (paths - np.eye(n)) @ leans.T > 0
    return found


def _block(plan: ConceptPlan, block: int, before: np.ndarray, cue: float) -> np.ndarray:
    """Coordinates after a block: in the first one the cue arrives, then the switches write."""
    after = before.copy()
    if block == 1:
        for word, amount in plan.lit:
            after[CONCEPTS.index(word)] += cue * amount
    read = after.copy()
    for edge in plan.edges if plan.twin == "planted" else ():
        if edge.block == block:
            on = float(np.clip(read[CONCEPTS.index(edge.source)], 0, 1))
            after[CONCEPTS.index(edge.target)] += edge.gain * on
    return after


def rows_of(plan: ConceptPlan) -> Float[np.ndarray, "concept concept"]:
    """Unembedding rows, of norm 1, in the concepts' own coordinates."""
    rows = np.eye(len(CONCEPTS))
    for one, two, cosine in plan.overlaps:
        a, b = CONCEPTS.index(one), CONCEPTS.index(two)
        rows[b] = cosine * rows[a] + np.sqrt(1 - cosine**2) * rows[b]
    return rows
