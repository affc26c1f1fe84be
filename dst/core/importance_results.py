"""Concept importance: what a prompt's answer owes to a set of concepts, role by state."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dst.core.results import Provenance, Result, result


@result
class ConceptImportance(Result):
    """How much of LD rests on some concepts' subspace in each role, beyond random subspaces.

    importance[l, r] = LD(x) - LD(x with the part of h[l, r] in the concepts' subspace replaced by
    that of x_0), excess = importance - the same with random subspaces and the same norm removed.
    In logits; above 0 the concepts support the contextual answer there. State 0 is the embedding,
    l the output of block l.

    Attributes:
        words: The concepts whose subspace it is.
        roles: The roles, ``answer`` last.
        positions: Positions of each role.
        contrast: LD(x).
        components: Directions asked for.
        rank: Directions there are, per state.
        variance: Share of the words' squared displacement along each direction.
        sentences: Sentences of each word.
        importance: Of each neutral draw.
        control: Of each random subspace, with the draws in turn.
        low: Lower end of the 95 % interval of the excess over a random subspace drawn anew; NaN
            where nothing is removed.
        high: Upper end.
        p: Two-sided p of the importance being one more random subspace's; NaN where nothing is
            removed.
        q: The same after Benjamini-Hochberg over states and roles.
        removed: Norm of what is removed as a share of the whole difference between x and x_0,
            root mean square over draws; NaN where there is no difference.
        differing: Whether some draw differs from x there.
        published: The published importance per block, KL in nats (`importance_published`).
        reason: Why all is NaN; "" where it is not.
        notes: What was drawn or left out.
        provenance: What it takes to compute this again.
    """

    words: tuple[str, ...]
    roles: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    contrast: float
    components: int
    rank: Int[np.ndarray, " state"]
    variance: Float[np.ndarray, "state component"]
    sentences: Int[np.ndarray, " word"]
    importance: Float[np.ndarray, "draw state role"]
    control: Float[np.ndarray, "random state role"]
    low: Float[np.ndarray, "state role"]
    high: Float[np.ndarray, "state role"]
    p: Float[np.ndarray, "state role"]
    q: Float[np.ndarray, "state role"]
    removed: Float[np.ndarray, "state role"]
    differing: Bool[np.ndarray, "state role"]
    published: Float[np.ndarray, " layer"]
    reason: str
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if not len(self.roles) == len(self.positions) == self.p.shape[1]:
            raise ValueError("one list of positions per role is needed")
        if len(self.sentences) != len(self.words):
            raise ValueError("one number of sentences per word is needed")
        if np.isnan(self.importance).all() != bool(self.reason):
            raise ValueError("all is NaN if and only if there is a reason")

    @property
    def mean(self) -> Float[np.ndarray, "state role"]:
        """Importance, mean over draws, in logits."""
        return self.importance.mean(axis=0)

    @property
    def control_mean(self) -> Float[np.ndarray, "state role"]:
        """Importance of a random subspace, mean over them, in logits."""
        return self.control.mean(axis=0)

    @property
    def excess(self) -> Float[np.ndarray, "state role"]:
        """Importance beyond that of random subspaces, in logits."""
        return self.mean - self.control_mean

    def why(self, state: int, role: str) -> str:
        """Why an excess or its p is NaN; "" where both are defined."""
        if self.reason:
            return self.reason
        if not self.differing[state, self.roles.index(role)]:
            return "every draw is the same as the prompt there: nothing can be removed"
        if not self.rank[state]:
            return "the words' states do not differ from the neutral nouns'"
        return ""

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state and role."""
        mean, control, excess = self.mean, self.control_mean, self.excess
        return [
            {
                "state": state,
                "role": role,
                "importance": float(mean[state, i]),
                "control": float(control[state, i]),
                "excess": float(excess[state, i]),
                "low": float(self.low[state, i]),
                "high": float(self.high[state, i]),
                "p": float(self.p[state, i]),
                "q": float(self.q[state, i]),
                "removed": float(self.removed[state, i]),
                "reason": self.why(state, role),
            }
            for state in range(len(self.p))
            for i, role in enumerate(self.roles)
        ]
