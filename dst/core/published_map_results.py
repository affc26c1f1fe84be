"""The semantic map as it was published: nodes by raw logits, edges by a token made a full stop."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from dst.core.results import Provenance, Result, result

if TYPE_CHECKING:
    import networkx


@result
class PublishedMap(Result):
    """Nodes and Omega edges of some layers, by the published rules (`dst.published_map`).

    Attributes:
        tokens: The prompt's tokens as text; the last is i*.
        states: The states that are mapped (state l = after block l), ascending.
        words: Surface form of each node, lower-cased; the same word may be a node of several
            states. Nodes are in order of state, then score.
        node_states: State of each node.
        scores: Sum of the raw logits of the node's tokens, largest first within a state.
        positions: p(v), the position whose state goes best with the word; an edge of v is the
            effect of that token.
        sources: Node of each edge's cause, an index into ``words``.
        targets: Node of the word whose probability changes, of the same state.
        omega: P(w | x) - P(w | x with the token at p(v) replaced by "."), in probability.
        notes: What a reader must know.
        provenance: What it takes to compute this again.
    """

    tokens: tuple[str, ...]
    states: Int[np.ndarray, " state"]
    words: tuple[str, ...]
    node_states: Int[np.ndarray, " node"]
    scores: Float[np.ndarray, " node"]
    positions: Int[np.ndarray, " node"]
    sources: Int[np.ndarray, " edge"]
    targets: Int[np.ndarray, " edge"]
    omega: Float[np.ndarray, " edge"]
    notes: tuple[str, ...]
    provenance: Provenance

    def __post_init__(self) -> None:
        if len(self.words) != len(self.scores):
            raise ValueError("one word per node is needed")
        if (self.node_states[self.sources] != self.node_states[self.targets]).any():
            raise ValueError("an edge joins two nodes of one state")

    @property
    def edges(self) -> tuple[dict[str, Any], ...]:
        """Each edge with its numbers, state by state, the largest |Omega| first.

        Keys: source, target (words), state, position, token, omega (probability).
        """
        return tuple(
            {
                "source": self.words[v],
                "target": self.words[w],
                "state": int(self.node_states[v]),
                "position": int(self.positions[v]),
                "token": self.tokens[self.positions[v]],
                "omega": float(omega),
            }
            for v, w, omega in zip(self.sources, self.targets, self.omega, strict=True)
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One row per edge."""
        return list(self.edges)

    def to_networkx(self) -> "networkx.DiGraph":
        """Nodes ``word@l`` with word, state, score and position; edges with their Omega."""
        import networkx

        graph = networkx.DiGraph(
            model=self.provenance.model,
            weights_hash=self.provenance.weights_hash,
            unit="probability",
        )
        for i, word in enumerate(self.words):
            graph.add_node(
                f"{word}@{self.node_states[i]}",
                kind="concept",
                word=word,
                state=int(self.node_states[i]),
                score=float(self.scores[i]),
                position=int(self.positions[i]),
            )
        for edge in self.edges:
            ends = (f"{edge[end]}@{edge['state']}" for end in ("source", "target"))
            graph.add_edge(*ends, omega=edge["omega"], position=edge["position"])
        return graph
