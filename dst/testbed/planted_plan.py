"""What is planted: who brings what to the answer, over which tokens, at which block.

Three things can be carried to the answer position. The *context* starts at the cue and is worth
``alpha`` logits when all of it arrives (the sign is the cue's sense). The *association* starts at
the subject and is worth ``-beta``. A *spurious* word, neither subject nor cue, is worth
``spurious_strength``. Each travels along a `Route`: a list of stations (tokens of the prompt) and
the block whose attention makes each hop. LD at the answer is ``base`` plus what has arrived.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dst.core.errors import InputError
from dst.testbed.planted_checks import check

SPARK = 2.0
"""Lens logit of ``music`` per unit of context, and of ``water`` per association, at the answer."""


@dataclass(frozen=True)
class Route:
    """One way from a source to the answer.

    Attributes:
        stations: Names out of `STATIONS`, from the source to ``answer``.
        blocks: For each hop the block (1-based) whose attention makes it: block b reads state
            b - 1 and writes into state b.
        share: What this route carries of its side's strength. Shares of 1 and -1 cancel.
    """

    stations: tuple[str, ...]
    blocks: tuple[int, ...]
    share: float = 1.0

    @property
    def arrival(self) -> int:
        """The state at which the route's content is at the answer."""
        return self.blocks[-1]

    def station_at(self, state: int) -> str:
        """The station whose residual the rest of the route will read after this state."""
        return self.stations[sum(block <= state for block in self.blocks)]

    def left(self, station: str) -> int:
        """The block that reads ``station``: from its state on, changing it does nothing here."""
        return self.blocks[self.stations.index(station)]


@dataclass(frozen=True)
class Edge:
    """A concept-to-concept effect: the MLP of ``block`` adds ``gain`` times source to target.

    At the answer, the lens logit of ``target`` after state ``block`` grows by ``gain`` times the
    lens logit of ``source`` at state ``block - 1``.
    """

    source: str
    target: str
    block: int
    gain: float


@dataclass(frozen=True)
class Decoy:
    """A distractor head: ``reader`` attends to ``source`` and writes where no answer looks.

    What it copies is the source's own content (the cue's sense, the noun's identity), so that
    attention and probes see it, while LD does not change.
    """

    block: int
    source: str
    reader: str


@dataclass(frozen=True)
class Plant:
    """The plan of one planted model; `dst.testbed.planted.build` makes the model.

    Attributes:
        body: ``llama`` (RMSNorm, rotary, gated MLP) or ``gpt2`` (LayerNorm, GELU).
        n_layers: Number of blocks L.
        base: Bias of LD that depends on no word of the prompt, in logits.
        alpha: What the context brings to LD in all, in logits, under the cue's own sense.
        context: Its routes from ``cue``; none, one or two.
        combine: ``sum`` adds the routes by their shares. ``either`` is redundancy: the MLP of
            ``gate_block`` lets clip(c_1 + c_2, -1, 1) through, each c being +1, 0 or -1, so
            that one route does what both do.
        gate_block: The block of that MLP; needed with ``either`` only.
        late_block: A block whose MLP at the answer adds ``late_strength`` times the context that
            has arrived; None plants no late correction.
        late_strength: In logits.
        lag: The subject is read before the cue has reached it, so the context never arrives.
        beta: What the association takes from LD, in logits; negative adds to LD.
        prior: Its route from ``subject``; None plants no association.
        prior_block: The block whose MLP writes the association at the subject. None: no MLP does;
            the first head of ``prior`` answers to this one noun and reads its identity.
        one_noun_context: Only this noun reads the cue; a substitute noun carries no context.
        spurious: Route from ``spurious``, the word of the distractor span.
        spurious_strength: What it adds to LD, in logits; negative is toward A-.
        decoys: Heads that read and write off the answer.
        edges: Concept-to-concept effects at the answer.
        mentions: How often the subject is named (1 or 2). A head that reads it reads the mean;
            one that answers to one noun only reads whichever mention is this noun.
        rotated: Turn the residual basis at random, the ballast left out.
        noise: Norm of random weights on the dimensions that the plan leaves free: of each word's
            embedding and unembedding, of each matrix of an idle head, of the idle neurons'.
        d_model: Width of the residual stream.
        seed: Of the rotation and the noise.
        name: Free text.

    Raises:
        InputError: The plan cannot work; the sentence says which part and why.
    """

    body: Literal["llama", "gpt2"] = "llama"
    n_layers: int = 5
    base: float = 0.0
    alpha: float = 0.0
    context: tuple[Route, ...] = ()
    combine: Literal["sum", "either"] = "sum"
    gate_block: int | None = None
    late_block: int | None = None
    late_strength: float = 0.0
    lag: bool = False
    beta: float = 0.0
    prior: Route | None = None
    prior_block: int | None = None
    one_noun_context: bool = False
    spurious: Route | None = None
    spurious_strength: float = 0.0
    decoys: tuple[Decoy, ...] = ()
    edges: tuple[Edge, ...] = ()
    mentions: int = 1
    rotated: bool = False
    noise: float = 0.0
    d_model: int = 48
    seed: int = 0
    name: str = "planted"

    def __post_init__(self) -> None:
        check(self)

    @property
    def settled(self) -> int:
        """The block after which all context that will arrive is one number at the answer."""
        if self.combine == "either":
            return self.gate_block or 0
        return max((route.arrival for route in self.context), default=0)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types; `Plant.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Plant:
        """Read a plan as written by `to_dict`.

        Raises:
            InputError: A field is unknown or malformed, or the plan cannot work.
        """
        try:
            values = dict(row)
            values["context"] = tuple(_route(part) for part in values.get("context", ()))
            for name in ("prior", "spurious"):
                if values.get(name) is not None:
                    values[name] = _route(values[name])
            values["decoys"] = tuple(Decoy(**part) for part in values.get("decoys", ()))
            values["edges"] = tuple(Edge(**part) for part in values.get("edges", ()))
            return cls(**values)
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"The plan cannot be read ({error})", expected="the fields of Plant"
            ) from None


def _route(row: Mapping[str, Any]) -> Route:
    return Route(tuple(row["stations"]), tuple(row["blocks"]), row.get("share", 1.0))
