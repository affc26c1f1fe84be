"""The semantic map of a prompt: the words that the answer position holds, and their effects.

A *concept* is a word with all its forms (case, leading space). Axes: ``state`` = n_layers + 1
(0 = embedding, l = after block l); ``source``: the states at which something was moved;
``hop``: how far on the effect was read; ``concept``. In every matrix of effects the row is the
cause and the column the word that it acts on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from dst.core.position_results import PositionEffects
from dst.core.results import Provenance, Result, result

if TYPE_CHECKING:
    import networkx

CONTEXTUAL, ASSOCIATIVE, OTHER = "contextual", "associative", "other"
SIDES = (CONTEXTUAL, ASSOCIATIVE, OTHER)
"""What a concept speaks for: the user's context words and contextual answers, the competing
words and associative answers, and every other word."""

RATE = 0.05
"""False discovery rate at which an edge is kept."""


@result
class ConceptNodes(Result):
    """Which words the answer position holds after each block, and how strongly.

    Attributes:
        lens: ``logit_lens`` or ``tuned_lens``, which read them.
        words: The concepts, each once whatever its case, spelled as the user does or as the
            likeliest form is; the user's own come first.
        side: ``contextual``, ``associative`` or ``other``, per word.
        given: Whether the user named the word (concept words and answers): always a node.
        answer: Whether the word is an answer of the case.
        tokens: The pieces of the form that effects move along and read.
        token_ids: The piece among them by which the word is told from the others.
        score: Log-probability of the word in all its forms, in nats; a word of several pieces
            by its chain of pieces.
        node: Whether the word is a node at a state: one of the likeliest that together hold
            ``mass`` of the probability, at most ``most`` of them, or given.
        on_words: Lens probability of all words that could be nodes; the rest is on stop words,
            punctuation and pieces that open no word.
        covered: Share of ``on_words`` that the nodes of a state hold.
        mass: Share that they were to hold.
        most: Most nodes of a state, the given ones not counted.
        provenance: What it takes to compute this again.
        notes: What a reader must know.
    """

    lens: str
    words: tuple[str, ...]
    side: tuple[str, ...]
    given: Bool[np.ndarray, " concept"]
    answer: Bool[np.ndarray, " concept"]
    tokens: tuple[tuple[str, ...], ...]
    token_ids: Int[np.ndarray, " concept"]
    score: Float[np.ndarray, "state concept"]
    node: Bool[np.ndarray, "state concept"]
    on_words: Float[np.ndarray, " state"]
    covered: Float[np.ndarray, " state"]
    mass: float
    most: int
    provenance: Provenance
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_words(self.words, self.side, len(self.given))
        if len(self.tokens) != len(self.words):
            raise ValueError("the pieces of every word are needed")

    def to_records(self) -> list[dict[str, Any]]:
        """One row per state and node."""
        return [
            {
                "state": int(state),
                "word": self.words[i],
                "side": self.side[i],
                "given": bool(self.given[i]),
                "log_prob": float(self.score[state, i]),
            }
            for state, i in zip(*np.nonzero(self.node), strict=True)
        ]


@result
class SemanticMap(Result):
    """The concepts of every state at the answer position, and how they cause one another.

    An edge v -> w from state l to state l' says by how many logits v, as the prompt sets it,
    raises w through the blocks between the two states: h[l, i*] is moved along v's direction to
    where the donor has it, and what w's lens logit loses at l' beyond what the same move does
    with no block run is the effect. NaN where v is no node at l, w is none at l', or v is w.

    Attributes:
        lens: ``logit_lens`` or ``tuned_lens``.
        words: The concepts; see `ConceptNodes`.
        side: What each speaks for, one of `SIDES`.
        given: Whether the user named it.
        answer: Whether it is an answer of the case.
        score: Log-probability at each state, in nats.
        node: Whether the concept is a node at a state.
        states: State of each source, where v was moved.
        hops: Names of the hops, such as ``+1``, ``+4``, ``output``.
        hop_states: State at which each hop from each source was read: clipped to L.
        effects: Om*, in logits; row = cause.
        control: Mean effect of the control directions, in logits.
        p: Chance that a control direction has an effect as large; NaN where not tested.
        q: The same over the whole map (Benjamini-Hochberg); NaN where not tested.
        moved: By how much h moved along each concept's direction, coordinate in x minus
            coordinate in the donor; NaN where it is no node.
        donor: Where the donor's coordinate is from.
        controls: Control directions per concept and state.
        rate: False discovery rate at which an edge is kept.
        provenance: What it takes to compute this again.
        notes: What a reader must know.
        positions: Effects of the prompt's positions on the concepts, the second layer of the
            graph (joined on its ``words``); None where not measured.
    """

    lens: str
    words: tuple[str, ...]
    side: tuple[str, ...]
    given: Bool[np.ndarray, " concept"]
    answer: Bool[np.ndarray, " concept"]
    score: Float[np.ndarray, "state concept"]
    node: Bool[np.ndarray, "state concept"]
    states: Int[np.ndarray, " source"]
    hops: tuple[str, ...]
    hop_states: Int[np.ndarray, "hop source"]
    effects: Float[np.ndarray, "hop source concept concept"]
    control: Float[np.ndarray, "hop source concept concept"]
    p: Float[np.ndarray, "hop source concept concept"]
    q: Float[np.ndarray, "hop source concept concept"]
    moved: Float[np.ndarray, "source concept"]
    donor: str
    controls: int
    provenance: Provenance
    rate: float = RATE
    notes: tuple[str, ...] = ()
    positions: PositionEffects | None = None

    def __post_init__(self) -> None:
        _check_words(self.words, self.side, len(self.given))
        if len(self.hops) != len(self.hop_states):
            raise ValueError("one name per hop is needed")
        if (np.isnan(self.q) != np.isnan(self.p)).any():
            raise ValueError("every effect with a p has a q, and no other")

    @property
    def n_layers(self) -> int:
        """Number of blocks L."""
        return len(self.score) - 1

    @property
    def distinct(self) -> Bool[np.ndarray, "hop source"]:
        """False where a hop arrives at the state of an earlier hop: near the output they meet."""
        later = np.ones(self.hop_states.shape, dtype=bool)
        for hop in range(1, len(self.hops)):
            later[hop] = (self.hop_states[:hop] != self.hop_states[hop]).all(axis=0)
        return later

    @property
    def kept(self) -> Bool[np.ndarray, "hop source concept concept"]:
        """The edges: q < ``rate``, each once."""
        with np.errstate(invalid="ignore"):
            return (self.q < self.rate) & self.distinct[:, :, None, None]

    @property
    def tested(self) -> Bool[np.ndarray, "hop source concept concept"]:
        """Every effect that was put to the test, each once."""
        return ~np.isnan(self.q) & self.distinct[:, :, None, None]

    def edges(
        self, mask: Bool[np.ndarray, "hop source concept concept"] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Each kept edge with its numbers, or those of a mask such as `tested`.

        Keys: source, target (words), state, to_state, hop, effect, control, p, q.
        """
        for hop, s, v, w in zip(*np.nonzero(self.kept if mask is None else mask), strict=True):
            yield {
                "source": self.words[v],
                "target": self.words[w],
                "state": int(self.states[s]),
                "to_state": int(self.hop_states[hop, s]),
                "hop": self.hops[hop],
                "effect": float(self.effects[hop, s, v, w]),
                "control": float(self.control[hop, s, v, w]),
                "p": float(self.p[hop, s, v, w]),
                "q": float(self.q[hop, s, v, w]),
            }

    def to_records(self) -> list[dict[str, Any]]:
        """One row per kept edge."""
        return list(self.edges())

    def to_networkx(self) -> "networkx.DiGraph":
        """The kept edges as a layered graph; see `dst.core.map_graph`."""
        from dst.core.map_graph import to_networkx

        return to_networkx(self)

    def to_graphml(self, path: str | Path) -> Path:
        """Write the graph as GraphML, atomically (Gephi, Cytoscape, yEd read it).

        Raises:
            ResultError: The path cannot be written.
        """
        from dst.core.map_graph import to_graphml

        return to_graphml(self, path)

    def to_json(self, path: str | Path) -> Path:
        """Write the graph as node-link JSON, atomically; `dst.core.map_graph.from_json` reads it.

        Raises:
            ResultError: The path cannot be written.
        """
        from dst.core.map_graph import to_json

        return to_json(self, path)


def _check_words(words: tuple[str, ...], side: tuple[str, ...], n: int) -> None:
    if not len(words) == len(side) == n:
        raise ValueError("one side and one mark per word are needed")
    if len({word.casefold() for word in words}) != len(words):
        raise ValueError("every word stands once, whatever its case")
    if unknown := set(side) - set(SIDES):
        raise ValueError(f"a side is one of {', '.join(SIDES)}, not {', '.join(sorted(unknown))}")
