"""The semantic map in numbers: nodes, the test of an edge, shares, path weights, stability.

Source: METHOD 6. The runs are `dst.tracing.concept_nodes` and `dst.tracing.concept_effects`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from dst.core.errors import InputError
from dst.core.map_results import ASSOCIATIVE, CONTEXTUAL, SemanticMap

# -- nodes ------------------------------------------------------------------------------------


def choose_nodes(
    score: Float[np.ndarray, "state concept"],
    given: Bool[np.ndarray, " concept"],
    on_words: Float[np.ndarray, " state"],
    *,
    mass: float,
    most: int,
) -> tuple[Bool[np.ndarray, "state concept"], Float[np.ndarray, " state"]]:
    """Which concepts are nodes of which state, and the share of the probability they hold.

    The likeliest concepts are taken until together they hold ``mass`` of the probability of all
    words, at most ``most`` of them; the given ones are nodes in any case and are not counted.

    Args:
        score: Log-probability, in nats.
        given: Concepts that are always nodes.
        on_words: Probability of all words that could be nodes, per state.
        mass: Share, above 0 and up to 1.
        most: At least 1.

    Raises:
        InputError: ``mass`` or ``most`` is out of range.
    """
    if not 0 < mass <= 1:
        raise InputError(f"mass is {mass}", expected="a share above 0 and up to 1")
    if most < 1:
        raise InputError(f"most is {most}", expected="at least 1")
    node = np.tile(given, (len(score), 1))
    prob = np.exp(score)
    for state in range(len(score)):
        wanted, held, taken = mass * on_words[state], float(prob[state, given].sum()), 0
        for i in np.argsort(-score[state], kind="stable"):
            if held >= wanted or taken == most:
                break
            if not given[i]:
                node[state, i] = True
                held += prob[state, i]
                taken += 1
    covered = np.where(node, prob, 0.0).sum(axis=1) / on_words
    return node, np.minimum(covered, 1.0)


# -- the test of an edge ------------------------------------------------------------------------


def edge_p(
    effect: Float[np.ndarray, " edge"],
    control: Float[np.ndarray, "draw edge"],
    floor: float = 0.0,
) -> Float[np.ndarray, " edge"]:
    """Chance that a control direction stands out among its fellows as an edge does among controls.

        t(edge)    = (effect - mean of its n controls) / (sd * sqrt(1 + 1/n))
        t(control) = the same of each control against the other n - 1 of its edge
        p(edge)    = (1 + controls of all edges with |t| >= |t(edge)|) / (1 + all controls)

    With 20 controls an edge alone could not have a p under 1/21, and a map of a thousand edges
    could then keep none at q < .05; in units of their own spread the controls of all edges can
    be compared with. Under the null an edge is one more control of its own, and p is uniform
    but for a hair on the safe side (a control is judged by one fellow fewer).

    Args:
        effect: Of each edge.
        control: Of its control directions.
        floor: Spread that rounding alone makes; a smaller one is taken for it.

    Raises:
        InputError: There are fewer than 3 controls.

    Source: METHOD 6; pooled nulls as in Storey and Tibshirani (2003).
    """
    n = len(control)
    if n < 3:
        raise InputError(f"There are {n} controls per edge", expected="3 or more")
    total, squares = control.sum(axis=0), (control**2).sum(axis=0)
    own = np.abs(_standardised(effect, total, squares, n, floor))
    others = _standardised(control, total - control, squares - control**2, n - 1, floor)
    pool = np.sort(np.abs(others), axis=None)
    above = len(pool) - np.searchsorted(pool, own, side="left")
    return (1.0 + above) / (1.0 + len(pool))


def _standardised(
    value: np.ndarray, total: np.ndarray, squares: np.ndarray, n: int, floor: float
) -> np.ndarray:
    """(value - mean) / (sd * sqrt(1 + 1/n)) by the sums of n others; 0 where all are equal."""
    mean = total / n
    variance = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
    spread = np.maximum(np.sqrt(variance), floor) * np.sqrt(1 + 1 / n)
    away = value - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(away == 0, 0.0, away / spread)


# -- what the edges connect ---------------------------------------------------------------------


def edge_shares(map_: SemanticMap, hop: str | None = None) -> dict[str, float]:
    """Share of the kept edges' |effect| by what they connect; the shares sum to 1.

    Keys: ``contextual`` and ``associative`` (both ends of that side), ``across`` (one end of each),
    ``other`` (an end that is neither); all NaN where no edge is kept.

    Args:
        map_: The map.
        hop: One hop by name; all by default.

    Raises:
        InputError: There is no such hop.
    """
    size = np.where(map_.kept, np.abs(map_.effects), 0.0)
    if hop is not None:
        if hop not in map_.hops:
            raise InputError(f"There is no hop {hop!r}", expected=", ".join(map_.hops))
        size = size[[map_.hops.index(hop)]]
    by_pair = size.sum(axis=(0, 1))
    side = np.array(map_.side)
    plus, minus = side == CONTEXTUAL, side == ASSOCIATIVE
    total = by_pair.sum()
    shares = {
        CONTEXTUAL: by_pair[np.ix_(plus, plus)].sum(),
        ASSOCIATIVE: by_pair[np.ix_(minus, minus)].sum(),
        "across": by_pair[np.ix_(plus, minus)].sum() + by_pair[np.ix_(minus, plus)].sum(),
    }
    shares["other"] = total - sum(shares.values())
    return {name: float(part / total) if total else float("nan") for name, part in shares.items()}


# -- paths to the answer --------------------------------------------------------------------------


@dataclass(frozen=True)
class PathWeights:
    """What leads to the answers, as shares of all that arrives there.

    Attributes:
        node: Weight of each concept at each state; an answer's at state L is 1 / answers.
        edge: Weight of each edge; 0 where none is kept.
    """

    node: Float[np.ndarray, "state concept"]
    edge: Float[np.ndarray, "hop source concept concept"]


def path_weights(map_: SemanticMap) -> PathWeights:
    """How much of what arrives at the answers leads back to each node and edge.

        share(e)  = |effect(e)| / sum of |effect| of the kept edges into the same node
        weight(n) = 1 / answers at (answer, L); else sum over edges e from n of share(e) weight(end)
        weight(e) = share(e) weight(end)

    So the weight of a node is the sum, over all paths of kept edges from it to an answer, of the
    product of their shares. It counts what was traced: an effect that is no edge has no weight.
    """
    size = np.where(map_.kept, np.abs(map_.effects), 0.0)
    into = np.zeros(map_.score.shape)
    for hop, s in np.ndindex(map_.hop_states.shape):
        into[map_.hop_states[hop, s]] += size[hop, s].sum(axis=0)
    node = np.zeros(map_.score.shape)
    node[-1, map_.answer] = 1 / max(int(map_.answer.sum()), 1)
    edge = np.zeros(size.shape)
    for s in np.argsort(-map_.states, kind="stable"):  # later states first
        for hop in range(len(map_.hops)):
            end = map_.hop_states[hop, s]
            share = np.divide(size[hop, s], into[end], where=into[end] > 0, out=edge[hop, s])
            share *= node[end]
            node[map_.states[s]] += share.sum(axis=1)
    return PathWeights(node, edge)


def pruned(
    map_: SemanticMap, least: float = 0.01
) -> Bool[np.ndarray, "hop source concept concept"]:
    """The kept edges whose path weight is at least ``least``: what leads to the answers.

    Raises:
        InputError: ``least`` is no share.
    """
    if not 0 <= least <= 1:
        raise InputError(f"The least path weight is {least}", expected="a share from 0 to 1")
    return map_.kept & (path_weights(map_).edge >= least)


# -- stability --------------------------------------------------------------------------------


def top_edges(
    map_: SemanticMap, n: int = 20, *, states: bool = True, kept: bool = True
) -> frozenset[tuple[Hashable, ...]]:
    """The ``n`` edges with the largest |effect|.

    Args:
        map_: The map.
        n: How many; fewer where there are fewer.
        states: Tell edges by their states and hop too; else by their two words alone.
        kept: Only kept edges (q < rate); else all that were tested, ranked by |effect - control|.
    """
    if kept:
        rows = sorted(map_.edges(), key=lambda edge: -abs(edge["effect"]))
    else:
        tested = map_.edges(map_.tested)
        rows = sorted(tested, key=lambda edge: -abs(edge["effect"] - edge["control"]))
    names = ("source", "target", "state", "hop") if states else ("source", "target")
    return frozenset(list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))[:n])


def jaccard(sets: Sequence[Collection[Hashable]]) -> Float[np.ndarray, "map map"]:
    """|A and B| / |A or B| of every two sets; NaN where both are empty."""
    out = np.full((len(sets), len(sets)), np.nan)
    for i, one in enumerate(sets):
        for j, two in enumerate(sets):
            if either := len(set(one) | set(two)):
                out[i, j] = len(set(one) & set(two)) / either
    return out


def stability(
    maps: Sequence[SemanticMap], n: int = 20, *, states: bool = True, kept: bool = True
) -> float:
    """Mean Jaccard index of the top edges over all pairs of maps, such as of paraphrases.

    NaN where no two maps have an edge between them.

    Args:
        maps: At least two.
        n: Top edges of each; see `top_edges`.
        states: See `top_edges`.
        kept: See `top_edges`.

    Raises:
        InputError: There are fewer than two maps.
    """
    if len(maps) < 2:
        raise InputError(f"{len(maps)} maps were given", expected="two or more")
    overlap = jaccard([top_edges(one, n, states=states, kept=kept) for one in maps])
    pairs = [overlap[i, j] for i, j in combinations(range(len(maps)), 2)]
    known = [value for value in pairs if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
